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
_CONFIRMED: Final = struct.Struct("=d")
#: First id, station, started, timeout (0: none), how many messages; then the other ids. Written in this order.
_SLOT: Final = struct.Struct("=16sHddH")
_COUNT_AT: Final = _SLOT.size - 2
_ID: Final = 16


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
    """Anonymous shared memory; made before the fork. Times are those of ``identity.clock``. ``batch``: so many
    messages a handler may have in hand at once."""

    def __init__(self, slots: int, stations: int, batch: int = 1) -> None:
        self._stations = stations
        self._base = stations * _STATION.size
        self._width = _SLOT.size + (batch - 1) * _ID
        self._places = range(self._base, self._base + slots * self._width, self._width)
        self._memory = mmap.mmap(-1, self._base + slots * self._width)
        self._shown: dict[int, tuple[str, int]] = {}  # by this process

    def clear(self) -> None:
        """Start anew for the next process."""
        self._shown.clear()
        self._memory[:] = bytes(len(self._memory))

    def show_station(self, station: int, consumer: str, bell_id: int, confirmed_at: float) -> None:
        """Say under which name this process claims from its n-th queue. The name is written when it is another
        one: whoever kills us meanwhile has to know it."""
        start = station * _STATION.size
        if self._shown.get(station) != (consumer, bell_id):
            _STATION.pack_into(self._memory, start, consumer.encode()[:128], bell_id, confirmed_at)
            self._shown[station] = consumer, bell_id
        else:
            end = start + _STATION.size
            self._memory[end - _CONFIRMED.size : end] = _CONFIRMED.pack(confirmed_at)

    def hide_station(self, station: int) -> None:
        """It said goodbye: there is nothing to bring back."""
        self._shown.pop(station, None)
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

    def start(self, slot: int, station: int, ids: bytes, now: float, timeout: float | None) -> None:
        """A handler gets this message in hand, or these. Written before the handler is called, and how many last:
        whoever reads it meanwhile sees all of them or none."""
        at = self._places[slot]
        if others := ids[_ID:]:
            self._memory[at + _SLOT.size : at + _SLOT.size + len(others)] = others
        _SLOT.pack_into(self._memory, at, ids, station, now, timeout or 0.0, len(ids) // _ID)

    def finish(self, slot: int) -> None:
        """The handler is done with it."""
        at = self._places[slot] + _COUNT_AT
        self._memory[at : at + 2] = b"\0\0"

    def slots(self) -> list[SlotView]:
        """What handlers have in hand."""
        found = []
        for at in self._places:
            slot = self._at_rest(at)
            first, station, started_at, timeout, used = _SLOT.unpack_from(slot)
            others = range(_SLOT.size, _SLOT.size + (used - 1) * _ID, _ID)
            ids = [first, *(slot[other : other + _ID] for other in others)][:used]
            found += [SlotView(station, id, started_at, timeout or None) for id in ids]
        return found

    def _at_rest(self, at: int) -> bytes:
        """A slot as it is while nobody writes there: a start of which half is read would be one of long ago."""
        while (slot := self._memory[at : at + self._width]) != self._memory[at : at + self._width]:
            pass
        return slot
