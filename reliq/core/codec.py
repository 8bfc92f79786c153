"""How bodies become bytes. The name of the codec travels in the envelope, so a reader need not guess."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from operator import attrgetter
from typing import Any, Final, Protocol

import msgpack

from reliq.errors import BodyError, BodyTooLarge, ConfigError, DecodeError

_SMALL: Final = 64 * 1024


class Codec(Protocol):
    """Your own object with these can be a queue's codec; ``name`` (short, stable) goes into envelopes."""

    name: str

    def encode(self, body: Any) -> bytes:
        """The bytes of a body; raises TypeError or ValueError for one it cannot encode."""

    def decode(self, data: bytes) -> Any:
        """The body of these bytes; raises anything for ones it cannot decode."""


def _pack_other(value: Any) -> Any:
    from reliq.core import kinds  # for values that msgpack does not know, which most bodies have none of

    return kinds.pack(value)


def _unpack_other(code: int, data: bytes) -> Any:
    from reliq.core import kinds

    return kinds.unpack(code, data)


def _in_json(value: Any) -> Any:
    from reliq.core import kinds

    return kinds.in_json(value)


def _packer() -> Any:
    return msgpack.Packer(datetime=True, default=_pack_other)


class MsgpackCodec:
    """The default: compact, fast, and with times, dates, UUIDs, decimal numbers and sets. Dataclasses and pydantic
    models are maps of their fields."""

    name = "msgpack"

    def __init__(self) -> None:
        self._packers: deque[Any] = deque()  # idle ones: to make one takes longer than to use it

    def encode(self, body: Any) -> bytes:
        try:
            packer = self._packers.pop()
        except IndexError:
            packer = _packer()
        data: bytes = packer.pack(body)
        if len(data) < _SMALL:  # a packer never lets go of memory
            self._packers.append(packer)
        return data

    def decode(self, data: bytes) -> Any:
        try:
            return msgpack.unpackb(data, timestamp=3, strict_map_key=False, ext_hook=_unpack_other)
        except (TypeError, OverflowError):  # msgpack has keys, and times, that Python cannot have as they stand
            from reliq.core import kinds

            return kinds.unpack_odd(data)


class JsonCodec:
    """UTF-8 JSON; also how the raw elements of a foreign producer are read if the queue names no codec. Times,
    dates, UUIDs and decimal numbers are written as text, dataclasses and pydantic models as objects."""

    name = "json"

    def encode(self, body: Any) -> bytes:
        return json.dumps(body, separators=(",", ":"), ensure_ascii=False, default=_in_json).encode()

    def decode(self, data: bytes) -> Any:
        return json.loads(data)


class BytesCodec:
    """The body is the bytes themselves."""

    name = "bytes"

    def encode(self, body: Any) -> bytes:
        if not isinstance(body, bytes | bytearray | memoryview):
            raise TypeError(f"codec 'bytes' takes bytes, not {type(body).__name__}")
        return bytes(body)

    def decode(self, data: bytes) -> Any:
        return data


CODECS: Final[dict[str, Codec]] = {c.name: c for c in (MsgpackCodec(), JsonCodec(), BytesCodec())}


def find(codec: str | Codec | None) -> Codec:
    """The codec that a queue was given by name or as an object; None means msgpack."""
    if codec is None:
        return CODECS["msgpack"]
    if isinstance(codec, str) and codec in CODECS:
        return CODECS[codec]
    found = _load(codec) if isinstance(codec, str) else codec
    if isinstance(found, type) or not all(hasattr(found, part) for part in ("name", "encode", "decode")):
        raise ConfigError(f"codec {codec!r} needs name, encode and decode, and is {found!r}: pass an object")
    if not isinstance(found.name, str) or not 0 < len(found.name) <= 64:
        raise ConfigError(
            f"codec {codec!r} has the name {found.name!r}; messages say it: 1 to 64 characters of text"
        )
    return found


def _load(named: str) -> Any:
    """The object that ``module:attr`` names."""
    module, colon, path = named.partition(":")
    if not (module and colon and path):
        raise ConfigError(
            f"codec {named!r} is unknown; use one of {', '.join(CODECS)}, "
            "or pass an object with name, encode and decode, or where that is: 'module:attr'"
        )
    try:
        return attrgetter(path)(import_module(module))
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
        raise ConfigError(f"codec {named!r} cannot be imported ({said}); write 'module:attr'") from error


def encode(codec: Codec, body: Any, limit: int) -> bytes:
    """The bytes of a body, or BodyError / BodyTooLarge that say what is wrong with it."""
    try:
        data = codec.encode(body)
    except Exception as error:
        raise BodyError(
            f"a body of type {type(body).__name__} cannot be encoded as {codec.name}: {error}; "
            "send plain data, or give the queue a codec of your own"
        ) from error
    if len(data) > limit:
        raise BodyTooLarge(
            f"the body is {len(data)} bytes, the limit is {limit} (max_body); "
            "put the data into a store and send its address"
        )
    return data


def encode_all(codec: Codec, bodies: Sequence[Any], limit: int) -> tuple[list[bytes], int]:
    """The same for many, and how many bytes they are together. For them one msgpack packer does, which is several
    times as fast as one for each."""
    pack = _packer().pack if codec is CODECS["msgpack"] else codec.encode
    with suppress(Exception):
        data = list(map(pack, bodies))
        size = sum(map(len, data))
        if size <= limit or max(map(len, data)) <= limit:
            return data, size
    data = [encode(codec, body, limit) for body in bodies]  # this says which it is, and what is wrong with it
    return data, sum(map(len, data))


def decode(meta: dict[str, Any], data: bytes, codec: Codec, raw_codec: Codec) -> Any:
    """The body of an envelope, by the codec that its meta names; DecodeError UNDECODABLE if it cannot be read."""
    if meta.get("r"):
        reader = raw_codec
    else:
        name = meta.get("c", "msgpack")
        found = codec if codec.name == name else CODECS.get(name) if isinstance(name, str) else None
        if found is None:
            raise DecodeError("UNDECODABLE", f"its codec {name!r} is not known here: give it to Queue(codec=)")
        reader = found
    if "z" in meta:
        from reliq.core import compression  # for those that are

        data = compression.expanded(meta["z"], data)
    try:
        return reader.decode(data)
    except (Exception, SystemExit) as error:
        raise DecodeError(
            "UNDECODABLE", f"the body is no {reader.name}: {type(error).__name__}: {error}"[:500]
        ) from error
