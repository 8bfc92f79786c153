"""What a worker process shows its supervisor without a word: memory that both of them map.

When the process is gone, the board still says under which names it claimed and exactly which messages
its handlers had in hand; only those count as lost. While it lives, the board says how its handlers do
even if one of them holds the interpreter lock.
"""

from __future__ import annotations

import mmap
import struct
from typing import Final, NamedTuple

_STATION: Final = struct.Struct("=128sQd")  # consumer name, client id of its bell, last confirmed trip
_SLOT: Final = struct.Struct("=BH16sdd")  # used, station, message id, started, timeout (0: none)


class StationView(NamedTuple):
    """One queue of the process: its consumer's name, and when Redis last confirmed its lease."""

    consumer: str
    bell_id: int
    confirmed_at: float


class SlotView(NamedTuple):
    """One handler at work: on which message of which station, since when, with which timeout (or None)."""

    station: int
    id: bytes
    started_at: float
    timeout: float | None


class Board:
    """Anonymous shared memory; made before the fork. Times are those of ``model.clock``."""

    def __init__(self, slots: int, stations: int) -> None:
        self._slots = slots
        self._stations = stations
        self._base = stations * _STATION.size
        self._memory = mmap.mmap(-1, self._base + slots * _SLOT.size)

    def clear(self) -> None:
        """Start anew for the next process."""
        self._memory[:] = bytes(len(self._memory))

    def show_station(self, station: int, consumer: str, bell_id: int, confirmed_at: float) -> None:
        """Say under which name this process claims from its n-th queue."""
        packed = (consumer.encode()[:128], bell_id, confirmed_at)
        _STATION.pack_into(self._memory, station * _STATION.size, *packed)

    def hide_station(self, station: int) -> None:
        """It said goodbye: there is nothing to bring back."""
        start = station * _STATION.size
        self._memory[start : start + _STATION.size] = bytes(_STATION.size)

    def stations(self) -> dict[int, StationView]:
        """The names under which the process claims, by the number of the queue."""
        found = {}
        for i in range(self._stations):
            name, bell_id, confirmed_at = _STATION.unpack_from(self._memory, i * _STATION.size)
            if name := name.rstrip(b"\0"):
                found[i] = StationView(name.decode(), bell_id, confirmed_at)
        return found

    def start(self, slot: int, station: int, id: bytes, now: float, timeout: float | None) -> None:
        """A handler gets this message in hand. Written before the handler is called."""
        _SLOT.pack_into(self._memory, self._base + slot * _SLOT.size, 1, station, id, now, timeout or 0.0)

    def finish(self, slot: int) -> None:
        """The handler is done with it."""
        self._memory[self._base + slot * _SLOT.size] = 0

    def slots(self) -> list[SlotView]:
        """What handlers have in hand."""
        found = []
        for i in range(self._slots):
            used, station, id, started_at, timeout = _SLOT.unpack_from(self._memory, self._base + i * _SLOT.size)
            if used:
                found.append(SlotView(station, id, started_at, timeout or None))
        return found
