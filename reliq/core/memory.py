"""The latest settles of a consumer, to know again what a rollback of the server brings back (DESIGN 9.2)."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

from reliq.core import envelope as env
from reliq.core.command import Arg

#: At least so many of the last settles are remembered, unless they are more bytes than that.
_LEAST: Final = 5_000
_MOST_BYTES: Final = 8 * 1024 * 1024

#: What a settle said: verb, element that went back, detail.
Remembered = tuple[str, bytes, Arg]
_ACKED: Final[Remembered] = ("ack", b"", "")


class Memory:
    """The latest settles, by trip. Noting them is all that happens while nothing goes wrong."""

    def __init__(self) -> None:
        self._trips: deque[tuple[Sequence[bytes], int, Remembered]] = deque()
        self._count = self._bytes = 0

    def acked(self, elements: Sequence[bytes]) -> None:
        """These were acked by one trip."""
        if elements:
            self._note(elements, sum(map(len, elements)), _ACKED)

    def settled(self, element: bytes, said: Remembered) -> None:
        """This one was settled otherwise, or by somebody who waited for it."""
        self._note((element,), len(element) + len(said[1]), said)

    def _note(self, elements: Sequence[bytes], size: int, said: Remembered) -> None:
        trips = self._trips
        trips.append((elements, size, said))
        self._count += len(elements)
        self._bytes += size
        while len(trips) > 1 and (self._bytes > _MOST_BYTES or self._count - len(trips[0][0]) >= _LEAST):
            oldest, size, _ = trips.popleft()
            self._count -= len(oldest)
            self._bytes -= size

    def recall(self) -> dict[bytes, Remembered]:
        """By what is the same however often a message is delivered: its header, counters and id. Only what tells
        when it was put is unique; an id of the user's own may be put again, byte for byte, and be delivered."""
        return {
            element[: env.META_FROM]: said
            for elements, _, said in self._trips
            for element in elements
            if env.made_ms(element) is not None
        }
