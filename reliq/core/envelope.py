"""A message as one binary string. The full specification is in ``wire.md`` beside this file.

::

    offset size
      0     4   magic  C1 72 6C 71             frozen across versions
      4     1   version (1)                    frozen
      5     4   total length, u32 big endian   frozen
      9     4   checksum: first 4 bytes of SHA-1 over [23, end)   frozen
     13     4   returns    how often it went back (u32)     ┐
     17     2   failed     attempts that failed (u16)       │ counters: outside the checksum, so that
     19     2   released   put back by a handler (u16)      │ a script can bump them in place
     21     1   lost       consumers that died with it (u8) │
     22     1   reserved, 0                                 ┘
     23    16   id (time-ordered: UUID version 7)
     39     -   meta, one msgpack map; unknown keys are preserved
      -     -   body, encoded by the codec that meta names

The first byte, 0xC1, is the one that msgpack never emits and that starts no UTF-8 text, so a payload of
a foreign producer is recognised by not having it.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable
from contextlib import suppress
from hashlib import sha1
from itertools import repeat
from typing import Any, Final, NamedTuple

import msgpack

from reliq.errors import DecodeError

MAGIC: Final = b"\xc1rlq"
#: What idle consumers are woken with (put.lua); it is no message, and they drop it.
BELL: Final = MAGIC + b"\0"
VERSION: Final = 1
CHECKED_FROM: Final = 23
META_FROM: Final = 39
LOST_AT: Final = 21
MAX_U8, MAX_U16, MAX_U32 = 0xFF, 0xFFFF, 0xFFFFFFFF

_HEADER: Final = struct.Struct(">4sBI4sIHHBB16s")
_NEW_HEADER: Final = struct.Struct(">5sI4s10x")
_COUNTERS: Final = struct.Struct(">IHHB")
_UUID: Final = re.compile("[0-9a-fA-F]{32}")
_NO_META: Final = b"\x80"
_SHA1: Final = sha1(usedforsecurity=False)  # copied: to make one takes as long as to run it
_PLAIN: Final = struct.Struct(">5sI30xB")
_VERSIONED: Final = MAGIC + bytes([VERSION])

Meta = dict[str, Any]


class Envelope(NamedTuple):
    """A decoded envelope. ``element`` is the very bytes that stand in Redis; ``body`` is still encoded."""

    element: bytes
    id: bytes
    returns: int
    failed: int
    released: int
    lost: int
    meta: Meta
    body: bytes

    @property
    def fence(self) -> int:
        """A number that only grows per message: a later delivery has a larger one."""
        return self.returns + 1

    @property
    def attempt(self) -> int:
        """Which attempt this delivery is, counted from 1; lost and released deliveries do not count."""
        return self.failed + 1

    @property
    def deliveries(self) -> int:
        """How many times the message was handed to a handler, this time included."""
        return self.failed + self.released + self.lost + 1


def checksum(immutable: bytes) -> bytes:
    """The 4 bytes that tell an envelope from a foreign payload. SHA-1 because Redis' Lua has it built in."""
    hash = _SHA1.copy()
    hash.update(immutable)
    return hash.digest()[:4]


def pack(
    id: bytes,
    body: bytes,
    meta: Meta | None = None,
    *,
    returns: int = 0,
    failed: int = 0,
    released: int = 0,
    lost: int = 0,
) -> bytes:
    """Encode one message. Counters saturate at their width; only ``returns`` is a promise (the fence)."""
    immutable = id + pack_meta(meta or {}) + body
    return (
        _HEADER.pack(
            MAGIC,
            VERSION,
            CHECKED_FROM + len(immutable),
            checksum(immutable),
            returns,
            min(failed, MAX_U16),
            min(released, MAX_U16),
            min(lost, MAX_U8),
            0,
            id,
        )
        + immutable[16:]
    )


def pack_meta(meta: Meta) -> bytes:
    """The meta of a message as it stands in its envelope."""
    return bytes(msgpack.packb(meta)) if meta else _NO_META


def seal(immutable: bytes) -> bytes:
    """What ``pack`` makes of a new message, of which this is id, packed meta and body."""
    hash = _SHA1.copy()
    hash.update(immutable)
    return _NEW_HEADER.pack(_VERSIONED, CHECKED_FROM + len(immutable), hash.digest()) + immutable


def seal_all(ids: Iterable[bytes], meta: bytes, bodies: Iterable[bytes]) -> list[bytes]:
    """The same for many with one meta: a call for each would take as long as half of the checksum."""
    copy, pack, elements = _SHA1.copy, _NEW_HEADER.pack, []
    for immutable in map(b"".join, zip(ids, repeat(meta), bodies)):
        hash = copy()
        hash.update(immutable)
        elements.append(pack(_VERSIONED, CHECKED_FROM + len(immutable), hash.digest()) + immutable)
    return elements


def bump(
    envelope: Envelope, *, failed: int = 0, released: int = 0, lost: int = 0, meta: Meta | None = None
) -> bytes:
    """The element that goes back: one more return, the given causes counted, ``meta`` replaced if given."""
    counters = {
        "returns": min(envelope.returns + 1, MAX_U32),  # only a forged envelope gets there
        "failed": envelope.failed + failed,
        "released": envelope.released + released,
        "lost": envelope.lost + lost,
    }
    if meta is not None:
        return pack(envelope.id, envelope.body, meta, **counters)
    old = envelope.element
    return (
        old[:13]
        + _COUNTERS.pack(
            counters["returns"],
            min(counters["failed"], MAX_U16),
            min(counters["released"], MAX_U16),
            min(counters["lost"], MAX_U8),
        )
        + old[22:]
    )


def is_envelope(element: bytes) -> bool:
    """Whether these bytes are an envelope of any version (magic and checksum), rather than a raw body."""
    return element[:4] == MAGIC and len(element) > META_FROM and checksum(element[CHECKED_FROM:]) == element[9:13]


def plain_body(element: bytes) -> bytes | None:
    """The encoded body of the commonest kind of envelope: this version, whole, without meta. None: ``unpack`` it.
    The checksum is not looked at."""
    try:
        versioned, length, meta = _PLAIN.unpack_from(element)
    except struct.error:
        return None
    if versioned != _VERSIONED or length != len(element) or meta != 0x80:
        return None
    return element[META_FROM + 1 :]


def unpack(element: bytes, *, verified: bool = False) -> Envelope:
    """Decode an element of a processing list; ``verified``: its checksum was seen to be right before.

    Raises DecodeError with the code NOT_AN_ENVELOPE (a raw body), UNSUPPORTED_VERSION, BAD_LENGTH
    or BAD_META.
    """
    if not (verified and element[:4] == MAGIC and len(element) > META_FROM) and not is_envelope(element):
        raise DecodeError("NOT_AN_ENVELOPE", f"no valid envelope: {preview(element)}")
    _, version, length, _, returns, failed, released, lost, _, id = _HEADER.unpack_from(element)
    if version != VERSION:
        raise DecodeError(
            "UNSUPPORTED_VERSION",
            f"envelope version {version}, this release reads version {VERSION}: "
            "upgrade this worker, then revive the message",
        )
    if length != len(element):
        raise DecodeError("BAD_LENGTH", f"the envelope says {length} bytes and has {len(element)}")
    meta, end = ({}, META_FROM + 1) if element[META_FROM] == 0x80 else _unpack_meta(element)
    return Envelope(element, id, returns, failed, released, lost, meta, element[end:])


def _unpack_meta(element: bytes) -> tuple[Meta, int]:
    reader = _reader(memoryview(element)[META_FROM:])
    try:
        meta = reader.unpack()
    except Exception as error:  # msgpack raises a dozen unrelated types on bad input
        raise DecodeError("BAD_META", f"the meta of the envelope cannot be read: {error}") from error
    if not isinstance(meta, dict):
        raise DecodeError("BAD_META", f"the meta of the envelope is no map but {type(meta).__name__}")
    return meta, META_FROM + reader.tell()


def _reader(data: bytes | memoryview) -> Any:
    """For the first value in there. No list can have more items than there are bytes: msgpack would make room for
    as many as the data says, which may be four thousand million."""
    reader = msgpack.Unpacker(raw=False, max_buffer_size=len(data))
    reader.feed(data)
    return reader


def split_note(member: bytes) -> tuple[Meta, bytes]:
    """A member of ``dead`` is the death note (a msgpack map) followed by the element as it was."""
    reader = _reader(member)
    try:
        note = reader.unpack()
    except Exception as error:
        raise DecodeError("BAD_NOTE", f"the death note cannot be read: {error}") from error
    if not isinstance(note, dict):
        raise DecodeError("BAD_NOTE", f"the death note is no map but {type(note).__name__}")
    return note, member[reader.tell() :]


def join_note(note: Meta, element: bytes) -> bytes:
    """The member of ``dead`` for this element; ``note`` holds id, cause, at (ms) and what is known."""
    return bytes(msgpack.packb(note)) + element


def uuid7(ms: int, random: bytes) -> bytes:
    """A time-ordered id (RFC 9562, version 7) from a Unix time in ms and 10 random bytes."""
    tail = bytearray(random)
    tail[0] = 0x70 | tail[0] & 0x0F
    tail[2] = 0x80 | tail[2] & 0x3F
    return ms.to_bytes(6, "big") + bytes(tail)


def named_id(name: str) -> bytes:
    """The id that stands for an id of the user's own, such as ``order-17``: the same text, the same id.

    A text of 32 hexadecimal digits (with or without the dashes of a UUID) is taken as it is.
    """
    digits = name.replace("-", "")
    if _UUID.fullmatch(digits):
        return bytes.fromhex(digits)
    text = name.encode("utf-8", "surrogatepass")  # an argument of a command line need not be UTF-8
    hashed = bytearray(sha1(b"reliq-id:" + text, usedforsecurity=False).digest()[:16])
    hashed[6] = 0x80 | hashed[6] & 0x0F  # version 8: custom
    hashed[8] = 0x80 | hashed[8] & 0x3F
    return bytes(hashed)


def id_ms(id: bytes) -> int | None:
    """When this id was made (Unix ms), if it is a time-ordered one."""
    return int.from_bytes(id[:6], "big") if id[6] >> 4 == 7 else None


def made_ms(element: bytes) -> int | None:
    """When the message of an element was put (Unix ms), if its id tells, or else its meta."""
    if element[:4] != MAGIC or len(element) <= META_FROM:
        return None
    made = id_ms(element[CHECKED_FROM:META_FROM])
    if made is None and element[META_FROM] != _NO_META[0]:
        with suppress(DecodeError):
            made = put_ms(unpack(element, verified=True))
    return made


def put_ms(envelope: Envelope) -> int | None:
    """When the message was put, by its producer's clock (Unix ms), if it tells."""
    made = envelope.meta.get("p")
    return made if isinstance(made, int) else id_ms(envelope.id)


def storable(text: str) -> str:
    """The text as UTF-8 can carry it: names of files and the like may hold half a surrogate pair."""
    return text.encode("utf-8", "backslashreplace").decode()


def preview(data: bytes, limit: int = 40) -> str:
    """A short printable form of arbitrary bytes, for messages."""
    shown = repr(bytes(data[:limit]))[1:]
    return f"{shown}… ({len(data)} bytes)" if len(data) > limit else f"{shown} ({len(data)} bytes)"
