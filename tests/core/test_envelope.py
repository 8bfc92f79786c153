"""The wire format: what goes in comes out, and damage is either seen or makes a raw body."""

from __future__ import annotations

import hashlib
import json
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reliq.core import beside
from reliq.core import envelope as env
from reliq.core.keys import Keys
from reliq.errors import DecodeError

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "vectors.json").read_text("utf-8"))
ID = bytes.fromhex(VECTORS["id"])
SAMPLE = env.pack(ID, b"\x81\xa2to\xa3ada", {"t": "trace"}, returns=2, failed=1, lost=1)

ids = st.binary(min_size=16, max_size=16)
values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
metas = st.dictionaries(st.text(max_size=10), values, max_size=5)
counters = st.fixed_dictionaries(
    {
        "returns": st.integers(0, env.MAX_U32),
        "failed": st.integers(0, env.MAX_U16),
        "released": st.integers(0, env.MAX_U16),
        "lost": st.integers(0, env.MAX_U8),
    }
)


def named(entries: list[dict[str, Any]]) -> list[Any]:
    return [pytest.param(entry, id=entry["name"]) for entry in entries]


def counts_of(envelope: env.Envelope) -> dict[str, int]:
    return {name: getattr(envelope, name) for name in ("returns", "failed", "released", "lost")}


@given(ids, st.binary(max_size=200), metas, counters)
def test_round_trip(id: bytes, body: bytes, meta: env.Meta, counts: dict[str, int]) -> None:
    """Every part of a message comes back as it was packed."""
    found = env.unpack(env.pack(id, body, meta, **counts))
    assert (found.id, found.body, found.meta) == (id, body, meta)
    assert counts_of(found) == counts


@given(ids, st.binary(max_size=200), metas, counters, counters, st.booleans())
def test_bump(
    id: bytes, body: bytes, meta: env.Meta, counts: dict[str, int], more: dict[str, int], rewrite: bool
) -> None:
    """Going back keeps id, body and unknown meta, adds to the counters up to their ends, and raises the fence."""
    before = env.unpack(env.pack(id, body, meta, **counts))
    causes = {name: more[name] for name in ("failed", "released", "lost")}
    after = env.unpack(env.bump(before, **causes, meta={**meta, "e": "x"} if rewrite else None))
    assert (after.id, after.body) == (id, body)
    assert after.meta == ({**meta, "e": "x"} if rewrite else meta)
    ends = {"failed": env.MAX_U16, "released": env.MAX_U16, "lost": env.MAX_U8}
    assert counts_of(after) == {
        "returns": min(counts["returns"] + 1, env.MAX_U32),
        **{name: min(counts[name] + causes[name], end) for name, end in ends.items()},
    }
    assert after.fence > before.fence or counts["returns"] == env.MAX_U32


def test_deliveries_count_what_reached_a_handler() -> None:
    """Attempts count failures alone; deliveries count every handing-over; the fence every way back."""
    found = env.unpack(env.pack(ID, b"", returns=7, failed=2, released=1, lost=1))
    assert (found.attempt, found.deliveries, found.fence) == (3, 5, 8)


def test_every_truncation_is_a_raw_body() -> None:
    """A prefix of an envelope is never taken for one."""
    for length in range(len(SAMPLE)):
        assert not env.is_envelope(SAMPLE[:length])
        with pytest.raises(DecodeError) as caught:
            env.unpack(SAMPLE[:length])
        assert caught.value.code == "NOT_AN_ENVELOPE"


@pytest.mark.parametrize("offset", range(len(SAMPLE)))
def test_every_bit_flip_is_seen(offset: int) -> None:
    """Damage makes a raw body, or dies with its own code; only counters can change unseen, and nothing else."""
    whole = env.unpack(SAMPLE)
    for bit in range(8):
        damaged = bytearray(SAMPLE)
        damaged[offset] ^= 1 << bit
        element = bytes(damaged)
        if 13 <= offset < 23:
            found = env.unpack(element)
            assert (found.id, found.meta, found.body) == (whole.id, whole.meta, whole.body)
            continue
        with pytest.raises(DecodeError) as caught:
            env.unpack(element)
        in_header = {4: "UNSUPPORTED_VERSION", **dict.fromkeys(range(5, 9), "BAD_LENGTH")}
        assert caught.value.code == in_header.get(offset, "NOT_AN_ENVELOPE")
        assert env.is_envelope(element) == (offset in in_header)


@given(st.binary(max_size=100) | st.binary(max_size=100).map(lambda b: env.MAGIC + b))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    """Whatever stands in a list, reading it gives a DecodeError at the worst."""
    with pytest.raises(DecodeError):
        env.unpack(data)


@given(ids, st.binary(max_size=60))
def test_any_meta_is_read_or_refused(id: bytes, tail: bytes) -> None:
    """With a right checksum, too: meta that is no map, or no msgpack, is a DecodeError."""
    immutable = id + tail
    header = env.MAGIC + b"\x01" + struct.pack(">I", 23 + len(immutable)) + env.checksum(immutable)
    element = header + bytes(10) + immutable
    if not env.is_envelope(element):
        assert not tail
        return
    with suppress(DecodeError):
        assert element.endswith(env.unpack(element).body)


def test_header_is_frozen() -> None:
    """Magic, version, length and checksum stand where every later version will look for them."""
    assert SAMPLE[:4] == bytes.fromhex("c1726c71")
    assert SAMPLE[4] == 1
    assert int.from_bytes(SAMPLE[5:9], "big") == len(SAMPLE)
    assert SAMPLE[9:13] == hashlib.sha1(SAMPLE[23:], usedforsecurity=False).digest()[:4]


@pytest.mark.parametrize("vector", named(VECTORS["elements"]))
def test_vector_element(vector: dict[str, Any]) -> None:
    """The published bytes are what pack makes, what unpack reads, and what ten lines of any language build."""
    names = ("returns", "failed", "released", "lost")
    counts = {name: vector[name] for name in names}
    element, body = bytes.fromhex(vector["element"]), bytes.fromhex(vector["body"])
    assert env.pack(ID, body, vector["meta"], **counts) == element
    found = env.unpack(element)
    assert (found.id, found.meta, found.body, counts_of(found)) == (ID, vector["meta"], body, counts)

    immutable = ID + bytes.fromhex(vector["meta_bytes"]) + body
    by_hand = b"\xc1rlq\x01" + struct.pack(">I", 23 + len(immutable))
    by_hand += hashlib.sha1(immutable, usedforsecurity=False).digest()[:4]
    by_hand += struct.pack(">IHHBB", *(counts[name] for name in names), 0) + immutable
    assert by_hand == element


@pytest.mark.parametrize("vector", named(VECTORS["bumps"]))
def test_vector_bump(vector: dict[str, Any]) -> None:
    """The published bytes of messages that went back."""
    before = env.unpack(bytes.fromhex(vector["from"]))
    causes = {name: vector[name] for name in ("failed", "released", "lost")}
    assert env.bump(before, **causes, meta=vector["meta"]).hex() == vector["to"]


@pytest.mark.parametrize("vector", named(VECTORS["raw"]))
def test_vector_raw(vector: dict[str, Any]) -> None:
    """The published bytes that are raw bodies."""
    assert not env.is_envelope(bytes.fromhex(vector["element"]))


@pytest.mark.parametrize("vector", named(VECTORS["undecodable"]))
def test_vector_undecodable(vector: dict[str, Any]) -> None:
    """The published bytes that are dead-lettered, each with its code."""
    with pytest.raises(DecodeError) as caught:
        env.unpack(bytes.fromhex(vector["element"]))
    assert caught.value.code == vector["code"]


@pytest.mark.parametrize("vector", named(VECTORS["dead"]))
def test_vector_dead(vector: dict[str, Any]) -> None:
    """A member of dead is its note and then the element as it was."""
    assert env.split_note(bytes.fromhex(vector["member"])) == (vector["note"], bytes.fromhex(vector["element"]))


@pytest.mark.parametrize("vector", named(VECTORS["beside"]))
def test_vector_beside(vector: dict[str, Any]) -> None:
    """The published bytes of a message whose body lies beside the list, and the key of that."""
    found = env.unpack(bytes.fromhex(vector["element"]))
    ticket = beside.ticket_of(found.meta)
    assert ticket is not None
    assert (ticket[:16].hex(), beside.size_of(ticket)) == (vector["ticket_name"], vector["size"])
    assert vector["name"].endswith(" in the key " + beside.key_of(Keys("emails"), ticket))
    assert env.pack(ID, b"", {"b": ticket}).hex() == vector["element"]


@pytest.mark.parametrize("vector", named(VECTORS["names"]))
def test_vector_name(vector: dict[str, Any]) -> None:
    """The published ids of texts of the user's own."""
    assert env.named_id(vector["name"]).hex() == vector["id"]


@pytest.mark.parametrize("vector", named(VECTORS["times"]))
def test_vector_time(vector: dict[str, Any]) -> None:
    """The published ids that are made of a time and random bytes."""
    id = env.uuid7(vector["ms"], bytes.fromhex(vector["random"]))
    assert (id.hex(), env.id_ms(id)) == (vector["id"], vector["ms"])


@given(metas, st.binary(max_size=100))
def test_death_note_round_trip(note: env.Meta, element: bytes) -> None:
    """Any element, undecodable ones too, comes back out of a member of dead."""
    assert env.split_note(env.join_note(note, element)) == (note, element)


@pytest.mark.parametrize("member", [b"", b"\xc1", b"hello", msgpack.packb([1]) + b"x"])
def test_what_is_no_death_note_says_so(member: bytes) -> None:
    """A foreign member of dead is an error with a code, not a crash."""
    with pytest.raises(DecodeError) as caught:
        env.split_note(member)
    assert caught.value.code == "BAD_NOTE"


@pytest.mark.parametrize("meta", [b"\xdd\x7f\xff\xff\xff", b"\x81\xa1a\xdd\x10\x00\x00\x00"])
def test_a_list_that_says_it_is_endless_is_given_no_room(meta: bytes) -> None:
    """In the meta of a forged envelope, or in a death note: refused for its length, not for what is missing."""
    immutable = ID + meta + b"x" * 20
    header = struct.pack(">4sBI4s10x", env.MAGIC, 1, 23 + len(immutable), env.checksum(immutable))
    for read in (lambda: env.unpack(header + immutable), lambda: env.split_note(meta + b"x" * 20)):
        with pytest.raises(DecodeError, match="exceeds"):
            read()


def test_ids() -> None:
    """Ids are time-ordered UUIDs; a name always gives the same id, which is not taken for a time."""
    early, late = (env.uuid7(ms, bytes(10)) for ms in (1_700_000_000_000, 1_700_000_000_001))
    assert early < late
    assert (env.id_ms(early), early[6] >> 4, early[8] >> 6) == (1_700_000_000_000, 7, 2)
    assert env.named_id("order-17") == env.named_id("order-17") != env.named_id("order-18")
    assert env.id_ms(env.named_id("order-17")) is None
    assert env.named_id(early.hex()) == early
    assert env.named_id("0190a1b2-c3d4-7000-8000-00000000002a").hex() == "0190a1b2c3d47000800000000000002a"
    for odd in ("z" * 32, "aa bb cc dd ee ff 00 11 22 33 44", "٣" * 32, "\udcff", "", "-" * 40):
        assert len(env.named_id(odd)) == 16


def test_preview_is_short() -> None:
    """Messages to people show the start of any bytes, and how many there are."""
    assert env.preview(b"\x00a") == "'\\x00a' (2 bytes)"
    assert env.preview(b"a" * 10**6).endswith("… (1000000 bytes)")
    assert len(env.preview(b"\xff" * 10**6)) < 200
