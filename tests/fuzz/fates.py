"""What has to become of an element, by wire.md alone: the other opinion that reliq is compared with."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Final, NamedTuple
from uuid import UUID

import msgpack
import zstandard

from tests.fuzz.mutants import COUNTERS, IMMUTABLE, MAGIC, META

MESSAGE: Final = "message"
RAW: Final = "raw body"
#: Losses with which a message is POISON, and attempts after which one is given up.
LOSSES, ATTEMPTS = 3, 5


class Fate(NamedTuple):
    """Where an element ends: with a handler as MESSAGE or RAW, else the cause under which it is a dead letter.

    ``what`` tells it from all others: (id, fence, deliveries, body) for a handler, and for a dead letter its bytes
    without the counters.
    """

    end: str
    what: Any


class Counters(NamedTuple):
    """The part of an envelope that changes. Each stays at its largest value."""

    returns: int
    failed: int
    released: int
    lost: int

    @classmethod
    def of(cls, element: bytes) -> Counters:
        return cls(*struct.unpack(">IHHB", element[13:22]))

    def back(self, *, failed: int = 0, lost: int = 0) -> Counters:
        """After going back once more."""
        return Counters(
            min(self.returns + 1, 2**32 - 1),
            min(self.failed + failed, 2**16 - 1),
            self.released,
            min(self.lost + lost, 255),
        )

    def bytes(self) -> bytes:
        return struct.pack(">IHHB", *self)


def is_envelope(element: bytes) -> bool:
    """Longer than 39 bytes, begins with the magic, and its checksum is right."""
    checksum = hashlib.sha1(element[IMMUTABLE:], usedforsecurity=False).digest()[:4]
    return len(element) > META and element.startswith(MAGIC) and element[9:13] == checksum


def without_counters(element: bytes) -> bytes:
    """What never changes while a message goes to and fro."""
    return element[: COUNTERS.start] + element[COUNTERS.stop :]


def verdict(element: bytes, codec: str | None) -> tuple[str, Any]:
    """What an element is for a queue with this codec: (MESSAGE or RAW, its body), or (cause of death, None)."""
    raw_codec = codec or "json"
    if not is_envelope(element):
        return _decoded(RAW, element, raw_codec)
    if element[4] != 1:
        return "UNSUPPORTED_VERSION", None
    if int.from_bytes(element[5:9], "big") != len(element):
        return "BAD_LENGTH", None
    reader = msgpack.Unpacker(raw=False, max_buffer_size=len(element))
    reader.feed(element[META:])
    try:
        meta = reader.unpack()
    except Exception:
        return "BAD_META", None
    if not isinstance(meta, dict):
        return "BAD_META", None
    until = meta.get("d")  # Unix ms; none of these tests lasts until another year
    if isinstance(until, int) and not isinstance(until, bool) and until < 1_000_000_000_000:
        return "EXPIRED", None
    name = raw_codec if meta.get("r") else meta.get("c", "msgpack")
    data = element[META + reader.tell() :]
    if "z" in meta:
        try:
            data = zstandard.ZstdDecompressor().decompress(data, max_output_size=2**26, allow_extra_data=False)
        except Exception:
            return "UNDECODABLE", None
        if meta["z"] != "zstd" or len(data) > 2**26:
            return "UNDECODABLE", None
    return _decoded(MESSAGE, data, name)


_READERS: Final[dict[int, Callable[[str], Any]]] = {
    100: date.fromisoformat,
    101: datetime.fromisoformat,
    102: time.fromisoformat,
    103: lambda text: timedelta(microseconds=int(Decimal(text) * 1_000_000)),
    105: Decimal,
}


def _extension(code: int, data: bytes) -> Any:
    """As the table in wire.md has them."""
    if not 100 <= code <= 111:
        return msgpack.ExtType(code, data)
    if code in (106, 107):
        members = msgpack.unpackb(data, use_list=False, timestamp=3, strict_map_key=False, ext_hook=_extension)
        assert isinstance(members, tuple)
        return {106: set, 107: frozenset}[code](members)
    if code == 104:
        return UUID(bytes=data)
    found = _READERS[code](data.decode("ascii"))
    assert code != 101 or found.tzinfo is None
    return found


def _firm(key: Any) -> Any:
    if isinstance(key, dict):
        key = [[*pair] for pair in key.items()]
    return tuple(map(_firm, key)) if isinstance(key, list) else frozenset(key) if isinstance(key, set) else key


def _in_python(value: Any) -> Any:
    """As wire.md says of keys and times that Python has none of."""
    if isinstance(value, list):
        return [*map(_in_python, value)]
    if isinstance(value, msgpack.Timestamp):
        return value.to_datetime() if -62135596800 <= value.seconds < 253402300800 else value
    return value


def _unpacked(data: bytes) -> Any:
    try:
        return msgpack.unpackb(data, timestamp=3, strict_map_key=False, ext_hook=_extension)
    except (TypeError, OverflowError):
        read = msgpack.unpackb(
            data,
            strict_map_key=False,
            ext_hook=_extension,
            object_pairs_hook=lambda pairs: {_firm(_in_python(key)): _in_python(value) for key, value in pairs},
        )
        return _in_python(read)


def _decoded(end: str, data: bytes, codec: Any) -> tuple[str, Any]:
    try:
        if codec == "json":
            return end, json.loads(data)
        if codec == "msgpack":
            return end, _unpacked(data)
    except Exception:
        return "UNDECODABLE", None
    return (end, data) if codec == "bytes" else ("UNDECODABLE", None)


def is_failed_once(id: bytes, attempt: int) -> bool:
    """Whether the handler of these tests raises: at some messages, at every other attempt."""
    return id[0] % 8 == 7 and attempt % 2 == 1


def after_reap(held: bytes, *, started: bool) -> bytes | None:
    """What goes back to ready when the consumer that held this dies; None: it is POISON."""
    if not is_envelope(held) or held[4] != 1:
        return held
    counters = Counters.of(held).back(lost=int(started))
    if started and counters.lost >= LOSSES:
        return None
    return held[: COUNTERS.start] + counters.bytes() + held[22:]


def fate(element: bytes, held: bytes, codec: str | None, *, started: bool) -> Fate:
    """Where an element ends that stood as ``held`` in the list of a consumer which died, once a handler which
    fails as ``is_failed_once`` says has had what can be handled."""
    end, body = verdict(element, codec)
    back = after_reap(held, started=started)
    if back is None:
        return Fate("POISON", without_counters(held))
    if end not in (MESSAGE, RAW):
        return Fate(end, without_counters(held))
    id, counters = held[23:39], Counters.of(back)
    if is_failed_once(id, counters.failed + 1):
        if counters.failed + 1 >= ATTEMPTS:
            return Fate("ATTEMPTS", without_counters(held))
        counters = counters.back(failed=1)
    deliveries = counters.failed + counters.released + counters.lost + 1
    return Fate(end, (id, counters.returns + 1, deliveries, repr(body)))
