"""Values that msgpack has no type for: extension types of ours (``wire.md``), and what is written as a map.

Imported when the first such value is met: plain bodies never come here.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields, is_dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any, Final
from uuid import UUID

import msgpack

DATE, NAIVE, TIME, DURATION, UNIQUE, DECIMAL, SET, FROZENSET = range(100, 108)
#: All codes that are ours; those without a meaning yet may be a later release's.
OURS: Final = range(100, 112)
#: Each set within a set takes some 40 kB of a thread's stack to read.
_DEEPEST: Final = 4


class _Nested(ValueError):
    """It says already what is wrong with what; whatever that lies in adds nothing."""


def pack(value: Any) -> Any:
    """What msgpack can write instead of this value; TypeError if nothing can."""
    if isinstance(value, datetime):
        if value.utcoffset() is not None:  # of a class derived from datetime
            return msgpack.Timestamp.from_datetime(value)
        return _text(NAIVE, value.isoformat())
    if isinstance(value, set | frozenset):
        return _set(value)
    for kind, code, write in _WRITTEN:
        if isinstance(value, kind):
            return msgpack.ExtType(code, write(value))
    return as_plain(value, json=False)


def as_plain(value: Any, *, json: bool) -> Any:
    """A dataclass or a pydantic model as a map of its fields, an enum as its value; TypeError for all else."""
    if is_model(type(value)):
        return value.model_dump(mode="json" if json else "python", by_alias=True)
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in fields(value) if field.init}
    if isinstance(value, Enum):
        return value.value
    raise TypeError(f"there is no way to write {type(value).__qualname__}")


def in_json(value: Any) -> Any:
    """What JSON can write instead of this value: text, as ISO 8601 has it of times; seconds of a duration."""
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, UUID | Decimal):
        return str(value)
    if isinstance(value, timedelta):
        return value.total_seconds()
    return as_plain(value, json=True)


def is_model(kind: type) -> bool:
    """Whether this is a class of pydantic's (2 or later), which is not imported for that."""
    return hasattr(kind, "__pydantic_validator__") and hasattr(kind, "model_validate")


def unpack(code: int, data: bytes) -> Any:
    """The value of an extension type; ValueError if its data is no such value. What is not ours stays as it is."""
    return _unpack(code, data, 0)


def _unpack(code: int, data: bytes, depth: int) -> Any:
    if code not in OURS:
        return msgpack.ExtType(code, data)
    name, read = _READ.get(code, (None, None))
    if code in (SET, FROZENSET):
        name, read = "set", lambda data: _members(data, depth)
    if read is None:
        raise ValueError(f"extension type {code} is not known to this release; a later one may have written it")
    try:
        found = read(data)
    except _Nested:
        raise
    except Exception as error:
        raise _Nested(f"extension type {code} is a {name}, and its {len(data)} bytes are none: {error}") from error
    return frozenset(found) if code == FROZENSET else found


def unpack_odd(data: bytes) -> Any:
    """A body with keys that are lists, maps or sets, which no dict has: they become tuples, tuples of pairs, and
    frozensets. Or with times that are not in the years 1 to 9999 (UTC): they stay ``msgpack.Timestamp``."""

    def as_map(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
        return {_firm(_time(key)): _time(value) for key, value in pairs}

    def as_list(values: list[Any]) -> list[Any]:
        return list(map(_time, values))

    hooks: Any = {"ext_hook": unpack, "object_pairs_hook": as_map, "list_hook": as_list}
    return _time(msgpack.unpackb(data, strict_map_key=False, **hooks))


def _firm(key: Any) -> Any:
    """What is equal to no other key, and can be one."""
    if isinstance(key, list):
        return tuple(map(_firm, key))
    if isinstance(key, dict):
        return tuple((name, _firm(value)) for name, value in key.items())
    return frozenset(key) if isinstance(key, set) else key


def _time(value: Any) -> Any:
    if isinstance(value, msgpack.Timestamp):
        with suppress(OverflowError):
            return value.to_datetime()
    return value


def _text(code: int, text: str) -> Any:
    return msgpack.ExtType(code, text.encode())


def _set(values: set[Any] | frozenset[Any]) -> Any:
    """The same set is the same bytes. What could not be read again is refused now."""
    pack_one = msgpack.Packer(datetime=True, default=pack).pack
    members = sorted(map(pack_one, values))
    data = msgpack.Packer().pack_array_header(len(members)) + b"".join(members)
    try:
        if len(_members(data, 0)) != len(values):
            raise ValueError("some of its members are equal when they are read")
    except Exception as error:
        raise TypeError(f"a set of these members cannot be read again: {error}") from error
    return msgpack.ExtType(FROZENSET if isinstance(values, frozenset) else SET, data)


def _members(data: bytes, depth: int) -> set[Any]:
    if depth == _DEEPEST:
        raise _Nested(f"sets in sets, deeper than {_DEEPEST}")

    def inner(code: int, data: bytes) -> Any:
        return _unpack(code, data, depth + 1)

    # A list is no member of a set, a tuple is.
    found = msgpack.unpackb(data, timestamp=3, strict_map_key=False, use_list=False, ext_hook=inner)
    if not isinstance(found, tuple):
        raise ValueError("no array of members")
    return set(found)


def _duration(value: timedelta) -> bytes:
    """Seconds as a decimal number, exact."""
    micros = value // timedelta(microseconds=1)
    whole, part = divmod(abs(micros), 1_000_000)
    return ("-" * (micros < 0) + f"{whole}" + f".{part:06}" * (part > 0)).encode()


def _read_duration(data: bytes) -> timedelta:
    seconds = Decimal(data.decode())
    if not seconds.is_finite() or seconds.adjusted() > _LONGEST:
        raise ValueError("out of range")
    return timedelta(microseconds=int(seconds.scaleb(6)))


_LONGEST: Final = 13  # digits before the point, less one, of what timedelta takes
_WRITTEN: Final[tuple[tuple[type, int, Callable[[Any], bytes]], ...]] = (
    (date, DATE, lambda value: value.isoformat().encode()),
    (time, TIME, lambda value: value.isoformat().encode()),
    (timedelta, DURATION, _duration),
    (UUID, UNIQUE, lambda value: value.bytes),
    (Decimal, DECIMAL, lambda value: str(value).encode()),
)
_READ: Final[dict[int, tuple[str, Callable[[bytes], Any]]]] = {
    DATE: ("date", lambda data: date.fromisoformat(data.decode())),
    NAIVE: ("time without a zone", lambda data: _naive(datetime.fromisoformat(data.decode()))),
    TIME: ("time of day", lambda data: time.fromisoformat(data.decode())),
    DURATION: ("duration", _read_duration),
    UNIQUE: ("UUID", lambda data: UUID(bytes=data)),
    DECIMAL: ("decimal number", lambda data: Decimal(data.decode("ascii"))),
}


def _naive(value: datetime) -> datetime:
    if value.tzinfo is not None:
        raise ValueError("it has a zone: it is a timestamp (type -1)")
    return value
