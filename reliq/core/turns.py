"""Whose turn it is, of the queues that share a worker: in the order given, or in proportion to weights.

By weights it is start-time fair queueing (Goyal, Vin, Cheng: SIGCOMM 1996). Every queue has a tag, a virtual time;
the lowest is next, and what it gets moves its tag on by one message over its weight. ``now`` is the lowest tag of
those that have work, and who comes back from having none begins there: nobody saves up turns, and nobody waits for
longer than the others take for one round.

A queue in levels has one weight among the queues, which those of its levels that have work share by their parts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import ceil
from typing import Final, NamedTuple

from reliq.errors import ConfigError

#: The greatest weight: one message in so many is little enough.
MOST: Final = 1000


def check_weight(where: str, weight: object) -> None:
    """ConfigError unless it can be a weight."""
    if isinstance(weight, bool) or not isinstance(weight, int) or not 1 <= weight <= MOST:
        raise ConfigError(f"{where}: a weight is a whole number, 1 to {MOST:,}, not {weight!r}")


class Seat(NamedTuple):
    """One list to claim from: ``group``: of which queue, counted in the order given; ``weight``: of that one among
    the others; ``part``: of this level within it."""

    group: int
    weight: int = 1
    part: int = 1


class Turns:
    """Among these seats, which are called by their places in ``seats``. ``strict``: a later group only while no
    earlier one has work; the levels of one group by their parts all the same."""

    def __init__(self, seats: Sequence[Seat], *, strict: bool = False) -> None:
        self._seats = tuple(seats)
        self._ranks = [seat.group if strict else 0 for seat in seats]
        self._tags = [0.0] * len(seats)
        self._now = [0.0] * (max(self._ranks) + 1)

    def order(self, seats: Iterable[int]) -> list[int]:
        """These, by whose turn it is first."""
        return sorted(seats, key=self._key)

    def next(self, active: Sequence[int]) -> int:
        """Who gets the next message, of those that have work."""
        seat = min(active, key=self._key) if len(active) > 1 else active[0]
        self.took(seat, active)
        return seat

    def took(self, seat: int, active: Iterable[int], messages: int = 1) -> None:
        """It got so many, while all of ``active`` (itself too) had work."""
        rank, ranks, tags = self._ranks[seat], self._ranks, self._tags
        peers = [each for each in active if ranks[each] == rank]
        now = self._now[rank] = max(self._now[rank], min([tags[each] for each in peers]))
        tags[seat] = max(now, tags[seat]) + messages / self._weight(seat, peers)

    def rooms(self, slots: int, waiting: Sequence[int], asking: Sequence[bool]) -> list[int]:
        """For how many messages each seat may claim. ``slots``: how many may wait here beside those that are in
        handlers; ``waiting``: how many of each do; ``asking``: for whom there may be more.

        What an earlier group finds waiting of a later one does not count, nor, for whose turn it is, what others
        have beyond their share: it would be handed over after what is claimed now.
        """
        rooms = [0] * len(self._seats)
        for rank in range(len(self._now)):
            members = [seat for seat, of in enumerate(self._ranks) if of == rank]
            spare = max(0, slots - sum([waiting[seat] for seat in members]))
            hungry = [seat for seat in members if asking[seat]]
            served = [seat for seat in members if asking[seat] or waiting[seat]]
            left = spare
            for seat in (order := self.order(hungry)):
                rooms[seat] = min(left, ceil(spare * self._share(seat, hungry)))
                if self._key(seat) == self._key(order[0]):
                    rooms[seat] = max(rooms[seat], int(slots * self._share(seat, served)) - waiting[seat])
                left = max(0, left - rooms[seat])
            for seat in members:
                if not asking[seat]:
                    rooms[seat] = left
            if hungry:
                break
            slots = spare
        return rooms

    def _key(self, seat: int) -> tuple[int, float]:
        rank = self._ranks[seat]
        return rank, max(self._now[rank], self._tags[seat])

    def _share(self, seat: int, active: Sequence[int]) -> float:
        """The part of this seat in all that those of its rank get which have work."""
        groups = {self._seats[each].group: self._seats[each].weight for each in active}
        return self._weight(seat, active) / sum(groups.values())

    def _weight(self, seat: int, active: Iterable[int]) -> float:
        """What it weighs while these have work."""
        group, weight, part = self._seats[seat]
        seats = self._seats
        return weight * part / sum([seats[each].part for each in active if seats[each].group == group])
