"""Envelopes without end, each hurt in one way that a network, a disk, a bug or a forger may hurt it."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable
from random import Random
from typing import Any, Final, NamedTuple

import msgpack
import zstandard

#: Written down here once more, from wire.md: what the code under test believes must not decide what it is given.
MAGIC: Final = b"\xc1rlq"
BELL: Final = b"\xc1rlq\x00"
COUNTERS: Final = slice(13, 23)
IMMUTABLE: Final = 23
META: Final = 39


class Mutant(NamedTuple):
    """An element of a ready list, and what was done to it."""

    kind: str
    element: bytes


def seal(immutable: bytes, *, version: int = 1, length: int | None = None, counters: bytes = bytes(10)) -> bytes:
    """An envelope whose checksum is right, whatever else may be wrong with it."""
    size = IMMUTABLE + len(immutable) if length is None else length
    checksum = hashlib.sha1(immutable, usedforsecurity=False).digest()[:4]
    return MAGIC + struct.pack(">BI", version, size) + checksum + counters + immutable


# -- valid ones ---------------------------------------------------------------------------------------------

_BODIES: Final[tuple[Any, ...]] = (
    {"to": "ada@example.org", "n": 7},
    [1, [2, [3, None]], -1.5, True],
    "grüße " * 9,
    2**63,
    None,
    [msgpack.ExtType(100, b"2030-01-02"), msgpack.ExtType(104, bytes(16)), msgpack.ExtType(105, b"1.10")],
    {"set": msgpack.ExtType(106, b"\x92\x01\xa1a"), "later": msgpack.ExtType(111, b"")},
)


def _json(body: Any) -> bytes:
    return json.dumps(body, default=repr).encode()


_METAS: Final[tuple[tuple[dict[str, Any], Callable[[Any], bytes]], ...]] = (
    ({}, msgpack.packb),
    ({"t": "4bf92f3577b34da6a3ce929d0e0e4736", "zz": [1, {"a": None}]}, msgpack.packb),
    ({"c": "json", "p": 1_700_000_000_000}, _json),
    ({"c": "bytes", "t": 7}, msgpack.packb),
    ({"c": "msgpack", "p": -(2**63)}, msgpack.packb),
    ({"c": "foreign"}, msgpack.packb),
    ({"z": "zstd"}, lambda body: zstandard.compress(msgpack.packb(body))),
    ({"z": "zstd", "c": "json"}, msgpack.packb),
    ({"c": ["json"], "e": {"not": "a text"}}, msgpack.packb),
    ({"r": True, "e": "ValueError: no"}, _json),
)


def valid(rng: Random) -> bytes:
    """An envelope as a producer of any language may write it."""
    meta, encode = rng.choice(_METAS)
    return seal(rng.randbytes(16) + msgpack.packb(meta) + encode(rng.choice(_BODIES)))


# -- what is done to them -----------------------------------------------------------------------------------


def _flip(rng: Random, element: bytes) -> bytes:
    bits = bytearray(element)
    for _ in range(rng.choice((1, 1, 2, 8))):
        bits[rng.randrange(len(bits))] ^= 1 << rng.randrange(8)
    return bytes(bits)


def _overwrite(rng: Random, element: bytes) -> bytes:
    start, noise = rng.randrange(len(element)), rng.randbytes(rng.randrange(1, 16))
    return element[:start] + noise + element[start + len(noise) :]


def _cut(rng: Random, element: bytes) -> bytes:
    at = rng.randrange(len(element))
    return element[:at] if rng.random() < 0.8 else element[at:]


def _extend(rng: Random, element: bytes) -> bytes:
    more = rng.choice((b"\0", b"\n", element, rng.randbytes(rng.randrange(1, 40))))
    return element + more if rng.random() < 0.8 else more + element


def _splice(rng: Random, element: bytes) -> bytes:
    other = valid(rng)
    return element[: rng.randrange(len(element))] + other[rng.randrange(len(other)) :]


def _version(rng: Random, element: bytes) -> bytes:
    return seal(element[IMMUTABLE:], version=rng.choice((0, 2, 3, 255)), counters=rng.randbytes(10))


def _length(rng: Random, element: bytes) -> bytes:
    right = len(element)
    wrong = rng.choice((0, 39, right - 1, right + 1, 2**31, 2**32 - 1, rng.getrandbits(32)))
    return seal(element[IMMUTABLE:], length=wrong)


def _checksum(rng: Random, element: bytes) -> bytes:
    return element[:9] + rng.choice((bytes(4), b"\xff" * 4, rng.randbytes(4))) + element[13:]


def _counters(rng: Random, element: bytes) -> bytes:
    """Returns, failed and released of any size; a message that a worker died with (lost) goes alone and costs a
    round trip of its own, so they are few."""
    lost = rng.choice((1, 2, 3, 254, 255)) if rng.random() < 0.02 else 0
    returns = rng.choice((0, 1, 2**31, 2**32 - 2, 2**32 - 1, rng.getrandbits(32)))
    failed, released = (rng.choice((0, 1, 4, 2**16 - 2, 2**16 - 1)) for _ in range(2))
    reserved = rng.choice((0, 255))
    return seal(element[IMMUTABLE:], counters=struct.pack(">IHHBB", returns, failed, released, lost, reserved))


_NO_META: Final = (
    b"", b"\xc0", b"\xc1", b"\x90", b"\x05", b"\x81", b"\x81\xa1", b"\x81\x01\xc0", b"\x81\x90\xc0",
    b"\x81\xa1\xff\xc0", b"\xdd\x7f\xff\xff\xff", b"\xdf\x7f\xff\xff\xff", b"\xdb\xff\xff\xff\xff",
    b"\xc6\xff\xff\xff\xff", b"\x91" * 2000, b"\x81\xa1a" + b"\x91" * 900 + b"\xc0",
    b"\x81\xa1a\xd6\xff\xff\xff\xff\xff", b"\x81\xa1a\xc7\x0c\xff" + b"\xff" * 12,
)  # fmt: skip


def _meta(rng: Random, element: bytes) -> bytes:
    """Another meta under a right checksum: noise, or what msgpack has traps for."""
    forged = rng.choice(_NO_META) if rng.random() < 0.5 else rng.randbytes(rng.randrange(1, 30))
    return seal(element[IMMUTABLE:META] + forged + element[META:])


_TRAPS: Final = (
    *(b"", b"\xc1", b"[" * 2000, b"NaN", b'"\\ud800"', b"1" * 5000, b"\xd6\xff\0\0\0\1"),
    *(b"\xd7\xff" + b"\xff" * 8, b"\x81\x90\xc0", b"\xdd\x7f\xff\xff\xff"),
)  # fmt: skip


def _body(rng: Random, element: bytes) -> bytes:
    """Another body under a right checksum, behind the meta of no codec, or of one."""
    meta = msgpack.packb(rng.choice(_METAS)[0])
    body = rng.choice((*_TRAPS, rng.randbytes(rng.randrange(1, 60))))
    return seal(element[IMMUTABLE:META] + meta + body)


def _resealed(rng: Random, element: bytes) -> bytes:
    """Noise in what the checksum covers, and the checksum of that."""
    return seal(_flip(rng, element[IMMUTABLE:]))


def _foreign(rng: Random, element: bytes) -> bytes:
    """Nothing of an envelope, or nothing but its magic."""
    start = rng.choice((b"", MAGIC, MAGIC + b"\1", b"\xc1", b"{", b'{"n": 1}', b"\0"))
    return start + rng.randbytes(rng.choice((0, 1, 8, 60)))


def _nested(rng: Random, element: bytes) -> bytes:
    """An envelope as the body of another."""
    return seal(rng.randbytes(16) + msgpack.packb({"c": "bytes"}) + element)


def _large(rng: Random, element: bytes) -> bytes:
    """More than one call of a script may move, and deeper than a parser may go."""
    meta, body = rng.choice(((b"\x81\xa1c\xa5bytes", bytes(300_000)), (b"\x81\xa1c\xa4json", b"[" * 100_000)))
    large = seal(element[IMMUTABLE:META] + meta + body)
    return large if rng.random() < 0.5 else large[:-1]


KINDS: Final[dict[str, Callable[[Random, bytes], bytes]]] = {
    "untouched": lambda rng, element: element,
    "bits flipped": _flip,
    "overwritten": _overwrite,
    "cut": _cut,
    "extended": _extend,
    "spliced": _splice,
    "other version": _version,
    "forged length": _length,
    "forged checksum": _checksum,
    "forged counters": _counters,
    "forged meta": _meta,
    "forged body": _body,
    "noise, resealed": _resealed,
    "foreign": _foreign,
    "nested": _nested,
    "large": _large,
}
_NAMES: Final = [name for name in KINDS if name != "large"]


def batch(seed: int, number: int, count: int) -> list[Mutant]:
    """The mutants of one batch: always the same for the same three numbers. They are made of few valid ones, so
    that some are equal byte for byte. One is large."""
    rng = Random(f"{seed}:{number}:{count}")
    stock = [valid(rng) for _ in range(max(1, count // 20))]
    large = rng.randrange(count)
    return [_mutant(rng, stock, "large" if i == large else rng.choice(_NAMES)) for i in range(count)]


def _mutant(rng: Random, stock: list[bytes], kind: str) -> Mutant:
    while (element := KINDS[kind](rng, rng.choice(stock))) == BELL:  # the five bytes that are a signal, no element
        pass
    return Mutant(kind, element)
