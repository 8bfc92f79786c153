"""Priorities in a worker: which queue claims for how many slots, and which message is handed over next.

The same in both shells; no I/O and no waiting in here. A worker that was not asked for it has none of this.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from reliq.core.message import Message
from reliq.core.turns import Seat, Turns, check_weight
from reliq.errors import ConfigError

#: How often to look whether what waits is overtaken all the time, seconds.
_LOOK = 1.0


class Ranks(NamedTuple):
    """What a worker was asked for: a seat for each list that it claims from, in the order of its stations."""

    seats: tuple[Seat, ...]
    strict: bool = False

    @classmethod
    def of(cls, queues: Sequence[Any], weights: Mapping[str, int] | None, *, strict: bool) -> Ranks | None:
        """For a worker of these queues; None if there is nothing to rank. ConfigError says what is wrong with
        ``weights`` and ``strict``."""
        check(weights, strict, [queue.name for queue in queues])
        levels = [queue.options.levels.values() or (1,) for queue in queues]
        if not any(len(parts) > 1 for parts in levels) and (len(queues) == 1 or not (weights or strict)):
            return None
        given = weights or {}
        seats = [
            Seat(group, given.get(queue.name, 1), part)
            for group, (queue, parts) in enumerate(zip(queues, levels, strict=True))
            for part in parts
        ]
        return cls(tuple(seats), strict)

    def turns(self) -> Turns:
        """Turns that nobody has had yet."""
        return Turns(self.seats, strict=self.strict)


def check(weights: Any, strict: Any, names: Sequence[str]) -> None:
    """Check what a worker for these queues was given; ConfigError says what is wrong."""
    if not isinstance(strict, bool):
        raise ConfigError(f"Worker(strict={strict!r}): True or False")
    if weights is None:
        return
    if not isinstance(weights, Mapping):
        raise ConfigError(f"Worker(weights={weights!r}): by the names of queues, as in {{{names[0]!r}: 6}}")
    if strict:
        raise ConfigError(
            "Worker(strict=True, weights=): give one of them; by weights every queue gets its share, strictly a "
            "later one waits until no earlier one has work"
        )
    for name, weight in weights.items():
        if name not in names:
            raise ConfigError(
                f"Worker(weights={{{name!r}: …}}): there is no handler for this queue; there are some for "
                f"{', '.join(names)}"
            )
        check_weight(f"Worker(weights=): queue {name!r}", weight)


class Station(Protocol):
    """What is asked of a station."""

    index: int

    @property
    def load(self) -> int: ...

    def asks(self) -> bool: ...


S = TypeVar("S", bound=Station)


class Lines:
    """What waits for a handler: a line for each station, from which one message after the other is taken in turn.
    Threads may share it; of a deque it has what executors use."""

    def __init__(self, ranks: Ranks) -> None:
        self._lock = threading.Lock()
        self._turns = ranks.turns()
        self._lines: list[deque[Message]] = [deque() for _ in ranks.seats]
        #: How many messages of each station were taken so far.
        self.taken = [0] * len(ranks.seats)

    def extend(self, messages: Iterable[Message]) -> None:
        """Each to the end of its line."""
        with self._lock:
            for message in messages:
                self._lines[message.state.owner.index].append(message)

    def popleft(self) -> Message:
        """The first one of the line whose turn it is; IndexError if nothing waits."""
        with self._lock:
            active = [place for place, line in enumerate(self._lines) if line]
            if not active:
                raise IndexError
            place = self._turns.next(active)
            self.taken[place] += 1
            return self._lines[place].popleft()

    def remove(self, message: Message) -> None:
        """Take one out; ValueError if it does not wait here (any more)."""
        with self._lock:
            self._lines[message.state.owner.index].remove(message)

    def take(self, places: Iterable[int] | None = None) -> list[Message]:
        """All of these lines (of all), each in order; they have no turn any more. Nobody takes one meanwhile."""
        with self._lock:
            lines = self._lines if places is None else [self._lines[place] for place in places]
            messages = [message for line in lines for message in line]
            for line in lines:
                line.clear()
            return messages

    def lengths(self) -> list[int]:
        """How many wait of each station."""
        return list(map(len, self._lines))

    def __len__(self) -> int:
        return sum(map(len, self._lines))


class Ranking(Generic[S]):
    """Over all stations of a process; ``stations`` is still to be filled when this is made."""

    def __init__(self, ranks: Ranks, stations: list[S]) -> None:
        self._ranks = ranks
        self._stations = stations
        self._turns = ranks.turns()
        self._lines: list[Lines] = []
        #: What trips have brought of which no handler's line knows yet.
        self.gathered: list[Message] = []
        self._looked_at = 0.0
        self._looks: list[tuple[int, int]] = []  # of each station then: how many were taken so far, how many wait

    def lines(self) -> Lines:
        """For one more executor."""
        self._lines.append(Lines(self._ranks))
        return self._lines[-1]

    def in_turn(self) -> list[S]:
        """The stations in the order in which they may claim."""
        return [self._stations[place] for place in self._turns.order(range(len(self._stations)))]

    def rooms(self, capacity: int) -> list[int]:
        """For how many messages each station may claim, of so many that this process may hold."""
        waiting = self._waiting()
        at_work = sum([station.load for station in self._stations]) - sum(waiting)
        return self._turns.rooms(max(0, capacity - at_work), waiting, [s.asks() for s in self._stations])

    def took(self, station: S, messages: int) -> None:
        """It got so many."""
        active = [s.index for s in self._stations if s is station or s.asks()]
        self._turns.took(station.index, active, messages)

    def overtaken(self, now: float) -> list[Message]:
        """What was claimed and then overtaken by others for a second or two: it could be running elsewhere, and
        waits here no more."""
        if now - self._looked_at < _LOOK:
            return []
        self._looked_at = now
        taken = [sum(counts) for counts in zip(*[lines.taken for lines in self._lines], strict=True)]
        before, self._looks = self._looks, list(zip(taken, self._waiting(), strict=True))
        if sum(taken) == sum([number for number, _ in before]):  # all wait for those in handlers
            return []
        both = enumerate(zip(before, self._looks, strict=False))
        stood = [place for place, (was, now) in both if was == now and now[1]]
        return [message for lines in self._lines for message in lines.take(stood)]

    def _waiting(self) -> list[int]:
        counts = [sum(lengths) for lengths in zip(*[lines.lengths() for lines in self._lines], strict=True)]
        for message in self.gathered:
            counts[message.state.owner.index] += 1
        return counts
