"""What may happen to messages on their way through a handler: schedules, their text, and which of them are tried.

A schedule is one line that says all of it, to be replayed::

    deliver 1 1 2                            body 1 is delivered twice, then body 2
    deliver 2 1                              out of order
    deliver 1 2, kill 1 at charge:31         the process dies before line 31 of the function charge
    deliver 1 2, kill 1 at its ack           … after the effect and before the ack
    deliver 1 2, fail 2 at charge:31#2       an exception there, the second time that it comes to this line
    deliver 1 2, lose 1 at charge:31         its lease is lost there; another consumer handles the message, and
                                             then this one goes on
    deliver 1 2, overlap 1 at charge:31 with 2   body 2 is handled by another consumer, and then this one goes on

Each fault meets the first delivery of its message. No I/O in here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import permutations
from typing import Final

from reliq.errors import ConfigError

DELIVER, KILL, FAIL, LOSE, OVERLAP = "deliver", "kill", "fail", "lose", "overlap"
TWICE, ORDER = "delivered twice", "out of order"
#: What people call them.
_NAMES: Final = {KILL: "killed", FAIL: "failed half-way", LOSE: "lease lost half-way", OVERLAP: "two at once"}
#: So many lines of one delivery are tried, and so many orders.
_MOST_STOPS: Final = 60
_MOST_ORDERS: Final = 6

_STOP: Final = r"(?P<where>[^\s:]+):(?P<line>\d+)(#(?P<time>\d+))?"
_TEXT: Final = re.compile(
    rf"deliver (?P<order>\d+( \d+)*)(, (?P<kind>kill|fail|lose|overlap) (?P<target>\d+) at (its ack|{_STOP})"
    r"( with (?P<other>\d+))?)?"
)


@dataclass(frozen=True)
class Stop:
    """Before a line of a function is run for so many times, in one delivery. ``leaves``: it is that of a ``with``
    block, at its end: what raises there skips its exit, as nothing in the world does."""

    where: str
    line: int
    time: int = 1
    leaves: bool = field(default=False, compare=False)

    def __str__(self) -> str:
        return f"{self.where}:{self.line}" + (f"#{self.time}" if self.time > 1 else "")


@dataclass(frozen=True)
class Schedule:
    """See above. ``order``: numbers of bodies, from 1. ``stop``: None with a kill: at the ack."""

    order: tuple[int, ...]
    kind: str = DELIVER
    target: int = 0
    stop: Stop | None = None
    other: int = 0

    def __str__(self) -> str:
        text = "deliver " + " ".join(map(str, self.order))
        if self.kind == DELIVER:
            return text
        with_other = f" with {self.other}" if self.other else ""
        return f"{text}, {self.kind} {self.target} at {self.stop or 'its ack'}{with_other}"

    @property
    def name(self) -> str:
        """Its kind, as people call it."""
        if self.kind != DELIVER:
            return _NAMES[self.kind]
        return TWICE if len(set(self.order)) < len(self.order) else ORDER

    @property
    def numbers(self) -> tuple[int, ...]:
        """The bodies of it, each once, in order."""
        return tuple(sorted({*self.order, self.target, self.other} - {0}))

    @property
    def keeps_order(self) -> bool:
        """Whether effects have to come in the order of the bodies, too."""
        return self.kind not in (OVERLAP,) and self.name != ORDER

    @classmethod
    def parse(cls, text: str, bodies: int) -> Schedule:
        """Read one; ConfigError if it is none, or of bodies that there are not."""
        found = _TEXT.fullmatch(text.strip())
        if found is None:
            raise ConfigError(
                f"schedule={text!r}: none such as 'deliver 1 2, kill 1 at its ack'; copy one of a report"
            )
        order = tuple(map(int, found["order"].split()))
        stop = Stop(found["where"], int(found["line"]), int(found["time"] or 1)) if found["where"] else None
        schedule = cls(order, found["kind"] or DELIVER, int(found["target"] or 0), stop, int(found["other"] or 0))
        if not set(schedule.numbers) <= set(range(1, bodies + 1)) or 0 in order:
            raise ConfigError(f"schedule={text!r}: there are {bodies} bodies, counted from 1")
        if (schedule.kind == OVERLAP) != bool(schedule.other) or (
            stop is None and schedule.kind not in (DELIVER, KILL)
        ):
            raise ConfigError(f"schedule={text!r}: 'overlap 1 at NAME:LINE with 2'; only a kill is 'at its ack'")
        return schedule


def reference(numbers: Sequence[int]) -> Schedule:
    """Each once, in order, and nothing happens."""
    return Schedule(tuple(numbers))


def all_of(paths: Sequence[Sequence[Stop]], *, ordered: bool, processes: bool = False) -> list[list[Schedule]]:
    """What is tried, kind by kind, the simplest first. ``paths``: the lines through which each body went.
    ``processes``: a kill is a real one, and needs no line that can raise."""
    numbers = tuple(range(1, len(paths) + 1))
    targets = [(number, stops_of(paths[number - 1])) for number in _telling(paths)]
    twice = tuple(number for number in numbers for _ in range(2))
    found = [[Schedule(order) for order in dict.fromkeys([twice, numbers + numbers])]]
    later = [(number, stop) for number, stops in targets for stop in stops[1:]]
    breaks = [(number, stop) for number, stop in later if not stop.leaves]
    kills = [Schedule(numbers, KILL, number) for number, _ in targets]
    found.append(kills + [Schedule(numbers, KILL, *each) for each in (later if processes else breaks)])
    found.append([Schedule(numbers, LOSE, number, stop) for number, stops in targets for stop in stops])
    found.append([Schedule(numbers, FAIL, number, stop) for number, stop in breaks])
    if not ordered and len(numbers) > 1:
        found.append([Schedule(order) for order in _orders(numbers)])
        found.append(
            [Schedule(numbers, OVERLAP, number, stop, number % len(numbers) + 1) for number, stop in later]
        )
    return found


def stops_of(path: Sequence[Stop]) -> list[Stop]:
    """Of a loop, the first two times and the last."""
    last = {(stop.where, stop.line): stop for stop in path}
    chosen = [stop for stop in path if stop.time <= 2 or last[stop.where, stop.line] == stop]
    return chosen[:_MOST_STOPS]


def _telling(paths: Sequence[Sequence[Stop]]) -> list[int]:
    """Of the bodies that go the same way through the handler, the first and the last."""
    by_path: dict[tuple[Stop, ...], list[int]] = {}
    for number, path in enumerate(paths, 1):
        by_path.setdefault(tuple(path), []).append(number)
    return sorted({number for same in by_path.values() for number in (same[0], same[-1])})


def _orders(numbers: tuple[int, ...]) -> list[tuple[int, ...]]:
    """The reverse, and some others: all there are of three, else rotations and exchanged neighbours."""
    if len(numbers) <= 3:
        others = list(permutations(numbers))
    else:
        pairs = [(*numbers[:i], numbers[i + 1], numbers[i], *numbers[i + 2 :]) for i in range(len(numbers) - 1)]
        others = [numbers[1:] + numbers[:1], numbers[-1:] + numbers[:-1], *pairs]
    found = dict.fromkeys([numbers[::-1], *others])
    return [order for order in found if order != numbers][:_MOST_ORDERS]


def smaller(schedule: Schedule) -> Iterator[Schedule]:
    """Schedules with less in them that may fail in the same way."""
    order = schedule.order
    for number in sorted(set(order) - {schedule.target, schedule.other}, reverse=True):
        if rest := tuple(each for each in order if each != number):
            yield replace(schedule, order=rest)
    for i, number in enumerate(order):
        if order.count(number) > 1:
            yield replace(schedule, order=order[:i] + order[i + 1 :])
