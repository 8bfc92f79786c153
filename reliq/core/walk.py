"""Walks through lists and sorted sets that others change meanwhile, in steps bounded in count and bytes."""

from __future__ import annotations

from hashlib import sha1
from typing import Any, Final, NamedTuple

from reliq import defaults
from reliq.core import scripts
from reliq.core.command import Command, Flow

_MARKED: Final = 4096
#: Most elements of a step: deep in a list each costs some microseconds, and Redis is held for 5 ms at most.
TOGETHER: Final = 250


class Member(NamedTuple):
    """One of a sorted set; ``score`` as Redis writes it."""

    value: bytes
    score: str


class SortedWalk:
    """Through a sorted set, lowest score first, in steps until ``done``.

    What is in it from beginning to end is met exactly once, while members come and go: a walk by rank would pass
    over some. Our place is a score, and how many members of that score we have met. The last of those has to be
    where it was, or that score is read again and what was met before is passed over.
    """

    def __init__(self, key: str, *, low: str = "-inf", high: str = "+inf", queue: str = "") -> None:
        self._key, self._queue = key, queue
        self._low, self._high = low, high
        self._met: set[bytes] = set()
        self._offset, self._mark = 0, ""
        self.done = False

    def step_g(self) -> Flow[list[Member]]:
        """The next members: at most 250, or 256 kB, or one that is larger."""
        reply = yield _page(self._key, self._queue, self._offset, self._low, self._high, self._mark)
        if not reply[0]:
            self._offset, self._mark = 0, ""
            return []
        found = [Member(m, s.decode()) for m, s in zip(reply[1::2], reply[2::2], strict=True)]
        new = [m for m in found if m.score != self._low or _digest(m.value) not in self._met]
        for member in found:
            if member.score != self._low:
                self._low, self._offset, self._met = member.score, 0, set()
            self._offset += 1
            self._met.add(_digest(member.value))
        self.done = not found
        self._mark = _mark(found[-1].value) if found else ""
        return new


class ListWalk:
    """Through a list from its left end, in steps until ``done``. Puts push there, which moves what is to come away
    from us, so that nothing is passed over, and claims at the other end move nothing."""

    def __init__(self, key: str, *, queue: str = "") -> None:
        self._key, self._queue = key, queue
        self.met = 0
        self.done = False

    def step_g(self) -> Flow[list[tuple[int, bytes]]]:
        """The next elements, each with its place from the left as it was at that moment."""
        _, *found = yield _page(self._key, self._queue, self.met)
        start, self.met = self.met, self.met + len(found)
        self.done = not found
        return list(enumerate(found, start))


def _page(key: str, queue: str, start: int, low: str = "", high: str = "", mark: str = "") -> Command:
    args: tuple[Any, ...] = (start, TOGETHER, defaults.SCRIPT_BYTES, low, high, mark)
    return Command(scripts.page, (key,), args, idempotent=True, queue=queue)


def _digest(data: bytes) -> bytes:
    return sha1(data, usedforsecurity=False).digest()[:12]


def _mark(data: bytes) -> str:
    return sha1(b"%d:%b" % (len(data), data[:_MARKED]), usedforsecurity=False).hexdigest()
