"""Full tracing: of some messages every step is written down, not only what is not normal.

Whether a message is traced is decided once, at its put, from its id, so that a repeat decides the same. It stands
in the meta of the message, so that whoever has it in hand later knows; a message that is not traced carries
nothing and costs nothing. What is written goes into a stream of its own beside the ledger, so that many traced
messages do not push out what was not normal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple
from zlib import crc32

from reliq import defaults

PUT, DELIVER, FAIL, ACK = "put", "deliver", "fail", "ack"
#: The key in the meta of a traced message.
KEY: Final = "x"
#: Messages whose puts one call writes down at most: an entry takes about 5 µs of Redis.
MOST_PUTS: Final = 500
#: A traced message that is held counts as so many more in what one trip may settle, so that it writes some hundred
#: entries at most: for each of MOST settles one, and two for steps.
WEIGHT: Final = 4
MOST: Final = defaults.SCRIPT_ELEMENTS // (WEIGHT + 1)
_ALL: Final = 1 << 32


def sampled(id: bytes, rate: float) -> bool:
    """Whether the message of this id is one of those that are traced; ``rate``: which share of all, 0 to 1."""
    return crc32(id) < rate * _ALL


def is_traced(meta: Mapping[str, Any]) -> bool:
    """Whether every step of the message with this meta is written down."""
    return bool(meta.get(KEY))


class Told(NamedTuple):
    """What a put writes down of its traced messages: who puts (host:pid), by which program, and their ids."""

    by: str
    program: str
    ids: Sequence[bytes]


class Step(NamedTuple):
    """Something that happened to a traced message ``at`` a time of ``clock`` (seconds), and is yet to be written
    down: by the next round trip of its consumer, so that it costs none of its own."""

    event: str
    id: str
    detail: str
    at: float
    clock: Callable[[], float]

    @property
    def words(self) -> str:
        """How many ms ago it was, and the detail."""
        return f"{(self.clock() - self.at) * 1000:.1f} {self.detail}"


def read(event: str, ms: int, words: str) -> tuple[int, str]:
    """When a step of the stream happened, server ms, and its detail; ``ms``: when it was written down."""
    if event not in (DELIVER, FAIL):
        return ms, words
    ago, _, detail = words.partition(" ")
    with suppress(ValueError, OverflowError):
        return ms - int(float(ago)), detail
    return ms, words
