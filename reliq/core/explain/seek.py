"""The place of a message in a deep queue, by probing: ids tell when they were made, and the list is in that order.

Both only nearly: clocks of producers differ, messages that go back or were put for later stand among younger ones.
So a probe takes the middle one of some neighbours, and what is around the right time is read, not believed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

from reliq import defaults
from reliq.core.command import Flow
from reliq.core.explain import looks
from reliq.core.explain.looks import Found
from reliq.core.keys import Keys

#: Elements between two probes that are read rather than probed again; fewer, if they are large.
_NEAR: Final = 500
_LEAST_NEAR: Final = 8
_MOST_PROBES: Final = 64
_TRIES: Final = 3
#: Parts that are read on each side of the right time, and the milliseconds that ids may be out of order.
_PARTS: Final = 8
_SLACK: Final = 2_000


@dataclass
class Bracket:
    """Between which positions, counted from the oldest, a time lies, and what stands at both: ``low`` is older and
    ``high`` is younger than what is looked for."""

    low: int
    low_ms: int
    high: int
    high_ms: int
    push: int = 1
    side: int = -1
    before: tuple[int, ...] = ()

    @property
    def width(self) -> int:
        return self.high - self.low

    def aim(self, ms: int, near: int) -> int:
        """Where to probe next: where the time should be if puts are even; further into the bracket every time that
        this did not bring us to the other side; and in the middle if three probes have not halved it, so that it
        closes soon whatever the puts were like."""
        share = (ms - self.low_ms) / max(1, self.high_ms - self.low_ms)
        if len(self.before) == _TRIES and self.width * 2 > self.before[0]:
            guess, self.before = (self.low + self.high) // 2, ()
        elif self.side < 0:
            guess = self.low + self.push * max(int(share * self.width), near // 2)
        else:
            guess = self.high - self.push * max(int((1 - share) * self.width), near // 2)
        return min(max(guess, self.low + 1), self.high - 1)

    def saw(self, position: int, ms: int, wanted: int) -> None:
        """Take in what a probe found."""
        side = -1 if ms < wanted else 1
        self.before = (*self.before, self.width)[-_TRIES:]
        self.push = self.push * 2 if side == self.side else 2
        self.side = side
        if side < 0:
            self.low, self.low_ms = position, ms
        else:
            self.high, self.high_ms = position, ms


class Place(NamedTuple):
    """About where messages of a time stand, and how many elements beside it are soon read."""

    position: int
    near: int


def seek_g(keys: Keys, id: bytes, ms: int, *, most: int = looks.HEAD) -> Flow[Found | None]:
    """Look for a message where those stand that came into ready at about this time (Unix ms); None: not there.
    ``most``: bytes that are read of it."""
    place = yield from around_g(keys, ms)
    if place is None:
        return None
    start = max(0, place.position - place.near)
    found = yield from _up_g(keys, id, start, ms, most=most)
    for _ in range(_PARTS):
        if found is not None or start == 0:
            break
        start, stop = max(0, start - 2 * place.near), start
        found = yield from _up_g(keys, id, start, ms, stop, most=most)
    return found


def around_g(keys: Keys, ms: int) -> Flow[Place | None]:
    """Where messages of this time stand."""
    oldest = yield looks.probe(keys, 0)
    if oldest.length == 0:
        return None
    youngest = yield looks.probe(keys, max(0, oldest.length - looks.BESIDE))
    near = max(_LEAST_NEAR, min(_NEAR, defaults.SCRIPT_BYTES // 2 // max(1, oldest.size, youngest.size)))
    if oldest.ms is not None and ms <= oldest.ms:
        return Place(0, near)
    if youngest.ms is not None and ms >= youngest.ms:
        return Place(oldest.length, near)
    bracket = Bracket(0, oldest.ms or 0, oldest.length - 1, youngest.ms or ms + 1)
    for _ in range(_MOST_PROBES):
        if bracket.width <= near:
            break
        position = bracket.aim(ms, near)
        seen = yield looks.probe(keys, position)
        if seen.ms is None:  # raw bodies, which tell nothing: see what is in the middle
            position = (bracket.low + bracket.high) // 2
            seen = yield looks.probe(keys, position)
        if seen.ms is None or seen.ms == ms:
            return Place(position, near)
        bracket.saw(position, seen.ms, ms)
    return Place((bracket.low + bracket.high) // 2, near)


def _up_g(keys: Keys, id: bytes, start: int, ms: int, stop: int | None = None, *, most: int) -> Flow[Found | None]:
    """Read part by part, from a position on to younger ones, until all are younger than the time."""
    largest = 0
    for _ in range(_PARTS):
        part = yield looks.sift(keys, id, start, largest=largest, most=most)
        if part.found is not None:
            found: Found = part.found
            return found
        start, largest = start + part.looked, max(largest, part.largest)
        if start >= (part.length if stop is None else stop) or (part.first_ms or 0) > ms + _SLACK:
            break
    return None
