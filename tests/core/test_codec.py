"""Bodies survive their codec, and what cannot be encoded or decoded is an error with a reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any
from uuid import UUID

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reliq.core.codec import CODECS, BytesCodec, Codec, decode, encode, encode_all, find
from reliq.errors import BodyError, BodyTooLarge, ConfigError, DecodeError

VECTORS = json.loads((Path(__file__).parent / "vectors.json").read_text("utf-8"))
BODIES = VECTORS["bodies"]
MSGPACK, JSON, BYTES = CODECS["msgpack"], CODECS["json"], CODECS["bytes"]

plain: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


def hashable(said: Any) -> Any:
    return tuple(map(hashable, said)) if isinstance(said, list) else said


VECTOR_KINDS: dict[str, Callable[[Any], Any]] = {
    "value": lambda said: said,
    "bytes": bytes.fromhex,
    "time": datetime.fromisoformat,
    "date": date.fromisoformat,
    "naive": datetime.fromisoformat,
    "clock": time.fromisoformat,
    "duration": lambda said: timedelta(seconds=said),
    "uuid": UUID,
    "decimal": Decimal,
    "set": lambda said: set(map(hashable, said)),
    "frozenset": lambda said: frozenset(map(hashable, said)),
}
#: Every type that a body may have in the default codec; those that a set may hold first.
firm: st.SearchStrategy[Any] = st.one_of(
    *(st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(allow_nan=False), st.text()),
    *(st.binary(), st.dates(), st.times(), st.timedeltas(), st.uuids(), st.decimals(allow_nan=False)),
    *(st.datetimes(), st.datetimes(timezones=st.just(timezone.utc)), st.times(timezones=st.just(timezone.utc))),
)
rich: st.SearchStrategy[Any] = st.recursive(
    firm
    | st.frozensets(firm | st.tuples(firm, firm) | st.frozensets(firm), max_size=4)
    | st.sets(firm, max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(firm, inner, max_size=4),
    max_leaves=10,
)


class Upper:
    name = "upper"

    def encode(self, body: Any) -> bytes:
        return str(body).upper().encode()

    def decode(self, data: bytes) -> Any:
        return data.decode().lower()


upper = Upper()


@pytest.mark.parametrize("vector", BODIES, ids=lambda vector: f"{vector['codec']}, {vector['name']}")
def test_vector_body(vector: dict[str, Any]) -> None:
    """The published bytes of bodies are what each codec makes, and what it reads."""
    data, codec = bytes.fromhex(vector["data"]), CODECS[vector["codec"]]
    [body] = [read(vector[kind]) for kind, read in VECTOR_KINDS.items() if kind in vector]
    assert codec.encode(body) == data
    assert codec.decode(data) == body
    assert type(codec.decode(data)) is type(body)


def test_vector_of_a_compressed_body() -> None:
    """The published bytes are read."""
    for vector in VECTORS["compressed"]:
        data = bytes.fromhex(vector["data"])
        assert decode({"z": vector["z"]}, data, MSGPACK, JSON) == vector["value"]


def test_what_is_no_type_of_ours_is_kept() -> None:
    """Other extension types of msgpack are handed on as they are."""
    assert MSGPACK.decode(bytes.fromhex("c70205beef")) == msgpack.ExtType(5, b"\xbe\xef")


@given(plain)
@pytest.mark.parametrize("codec", [MSGPACK, JSON], ids=["msgpack", "json"])
def test_plain_data_round_trips(codec: Codec, body: Any) -> None:
    """Plain data comes back equal."""
    assert codec.decode(codec.encode(body)) == body


@given(rich)
def test_all_types_round_trip(body: Any) -> None:
    """Whatever is nested in what comes back equal, with its types, and the same body is the same bytes."""
    data = MSGPACK.encode(body)
    back = MSGPACK.decode(data)
    assert back == body
    assert type(back) is type(body)
    assert MSGPACK.encode(back) == data


class Zoned(datetime):
    """As other packages have them."""


class Colour(Enum):
    RED = "red"


@dataclass
class Line:
    sku: str
    price: Decimal
    seen: date = field(default=date.min, init=False)


@dataclass
class Order:
    id: UUID
    lines: list[Line]
    colour: Colour = Colour.RED


def test_objects_are_maps_of_their_fields() -> None:
    """Dataclasses, in either codec; and enums are their values."""
    order = Order(UUID(int=7), [Line("tea", Decimal("1.10"))])
    lines = [{"sku": "tea", "price": Decimal("1.10")}]
    assert MSGPACK.decode(MSGPACK.encode(order)) == {"id": UUID(int=7), "lines": lines, "colour": "red"}
    assert JSON.decode(JSON.encode(order)) == {
        "id": "00000000-0000-0000-0000-000000000007",
        "lines": [{"sku": "tea", "price": "1.10"}],
        "colour": "red",
    }


def test_json_writes_times_as_text() -> None:
    """As ISO 8601 has them, and a duration in seconds."""
    body = [date(2030, 1, 2), datetime(2030, 1, 2), time(3, 4), timedelta(seconds=1.5)]
    assert JSON.decode(JSON.encode(body)) == ["2030-01-02", "2030-01-02T00:00:00", "03:04:00", 1.5]


def test_a_class_that_is_derived_from_datetime() -> None:
    """It is written like any other, in UTC if it has a zone."""
    plus_one = timezone(timedelta(hours=1))
    for at in (Zoned(2030, 1, 2), Zoned(2030, 1, 2, 3, 4, 5, 678901, tzinfo=plus_one)):
        assert MSGPACK.decode(MSGPACK.encode(at)) == at


@pytest.mark.parametrize(
    "body",
    [
        pytest.param({1, frozenset({frozenset({frozenset({frozenset({1})})})})}, id="too deep"),
        pytest.param({Order}, id="a class"),
        pytest.param(frozenset({Colour.RED, "red"}), id="equal when read"),
        pytest.param(Order, id="a dataclass itself"),
    ],
)
def test_what_could_not_be_read_again_is_refused(body: Any) -> None:
    """At the put, where its author is."""
    with pytest.raises(BodyError, match=type(body).__name__):
        encode(MSGPACK, body, 1000)


@dataclass(frozen=True)
class Spot:
    x: int
    y: tuple[int, ...]


_UTC = timezone.utc
_EAST, _WEST = timezone(timedelta(hours=12)), timezone(-timedelta(hours=12))


@pytest.mark.parametrize(
    ("body", "read"),
    [
        pytest.param({(1, 2): [3, (4,)]}, {(1, 2): [3, [4]]}, id="a tuple"),
        pytest.param([{((1,), 2): {(): 3}}], [{((1,), 2): {(): 3}}], id="tuples in tuples"),
        pytest.param({(1, Spot(1, (2,))): 3}, {(1, (("x", 1), ("y", (2,)))): 3}, id="a dataclass"),
        pytest.param(
            {(1, 2): datetime(2030, 1, 2, 3, 4, 5, 678901, _UTC)},
            {(1, 2): datetime(2030, 1, 2, 3, 4, 5, 678901, _UTC)},
            id="beside a time",
        ),
        pytest.param(
            {(1, datetime(2030, 1, 2, tzinfo=_UTC)): {Decimal(1)}},
            {(1, datetime(2030, 1, 2, tzinfo=_UTC)): {Decimal(1)}},
            id="with a time in it, beside a set",
        ),
        pytest.param(
            [datetime.max.replace(tzinfo=_WEST), datetime.max.replace(tzinfo=_UTC)],
            [msgpack.Timestamp(253402343999, 999999000), datetime.max.replace(tzinfo=_UTC)],
            id="a time after the year 9999",
        ),
        pytest.param(
            datetime.min.replace(tzinfo=_EAST), msgpack.Timestamp(-62135640000), id="a time before the year 1"
        ),
    ],
)
def test_what_python_cannot_have_as_it_stands_is_read_all_the_same(body: Any, read: Any) -> None:
    """msgpack has keys that are arrays, and times of any year: whoever puts them gets no dead letter for it."""
    assert decode({}, encode(MSGPACK, body, 1000), MSGPACK, JSON) == read


@pytest.mark.parametrize(
    ("code", "data", "says"),
    [
        (100, b"2030-13-01", "100 is a date"),
        (100, b"\xff", "100 is a date"),
        (101, b"2030-01-01T00:00:00+00:00", "it has a zone"),
        (102, b"25:00", "102 is a time of day"),
        (103, b"1E+999999999", "out of range"),
        (103, b"NaN", "out of range"),
        (103, b"", "its 0 bytes"),
        (104, b"short", "104 is a UUID"),
        (105, b"1.1.1", "105 is a decimal number"),
        (106, b"\xc0", "no array"),
        (106, b"\x91\x80", "unhashable"),
        (107, b"\x91", "107 is a set"),
        (111, b"", "not known to this release"),
    ],
)
def test_nonsense_in_an_extension_type_is_undecodable(code: int, data: bytes, says: str) -> None:
    """With the type, what it should be, and what is wrong."""
    with pytest.raises(DecodeError, match=says) as caught:
        decode({}, msgpack.packb(["x", msgpack.ExtType(code, data)]), MSGPACK, JSON)
    assert caught.value.code == "UNDECODABLE"


@given(st.integers(100, 111), st.binary(max_size=40))
def test_any_data_of_an_extension_type_decodes_or_is_undecodable(code: int, data: bytes) -> None:
    """Nothing but a value or a DecodeError comes of it; what is a value can be written again."""
    with suppress(DecodeError):
        body = decode({}, msgpack.packb(msgpack.ExtType(code, data)), MSGPACK, JSON)
        MSGPACK.encode(body)


def test_sets_in_sets_take_no_stack() -> None:
    """However deep somebody has nested them."""
    data = b"\x90"
    for _ in range(3000):
        data = b"\x91" + msgpack.packb(msgpack.ExtType(107, data))
    with pytest.raises(DecodeError, match="deeper than 4"):
        decode({}, data, MSGPACK, JSON)


def test_msgpack_knows_bytes_times_and_integer_keys() -> None:
    """The default codec carries what JSON cannot."""
    body = {"at": datetime(2030, 1, 2, tzinfo=timezone.utc), "raw": b"\xff", 7: "seven"}
    assert MSGPACK.decode(MSGPACK.encode(body)) == body


def test_json_is_utf8_and_compact() -> None:
    """JSON bodies are what other languages write."""
    assert JSON.encode({"to": "Ada é"}) == '{"to":"Ada é"}'.encode()


@pytest.mark.parametrize("body", [b"\xff", bytearray(b"\xff"), memoryview(b"\xff")])
def test_bytes_are_themselves(body: Any) -> None:
    """The bytes codec adds and takes nothing."""
    assert BytesCodec().decode(BytesCodec().encode(body)) == b"\xff"


@pytest.mark.parametrize(
    ("codec", "body"), [(MSGPACK, object()), (JSON, {1, 2}), (BYTES, "text"), (JSON, "\ud800"), (MSGPACK, 2**64)]
)
def test_bodies_that_cannot_be_sent(codec: Codec, body: Any) -> None:
    """The error names the type, the codec and what to do; nothing else gets out."""
    with pytest.raises(BodyError, match=f"{type(body).__name__} cannot be encoded as {codec.name}"):
        encode(codec, body, 100)


def test_body_too_large() -> None:
    """The limit is on the encoded bytes, and exact."""
    assert encode(BYTES, b"x" * 100, 100) == b"x" * 100
    with pytest.raises(BodyTooLarge, match=r"101 bytes, the limit is 100"):
        encode(BYTES, b"x" * 101, 100)


def test_meta_names_the_reader() -> None:
    """The envelope's codec decides; raw elements are read by the queue's raw codec."""
    assert decode({}, MSGPACK.encode([1]), JSON, JSON) == [1]
    assert decode({"c": "json"}, b"[1]", MSGPACK, MSGPACK) == [1]
    assert decode({"r": True}, b"[1]", MSGPACK, JSON) == [1]
    assert decode({"r": True}, b"[1]", BYTES, BYTES) == b"[1]"
    assert decode({"c": "upper"}, b"HI", Upper(), JSON) == "hi"


@pytest.mark.parametrize("name", ["pickle", "", 7, None, [1], {"a": 1}, b"json"])
def test_unknown_codec_is_undecodable(name: Any) -> None:
    """Whatever meta names as the codec, a message nobody can read is UNDECODABLE and nothing worse."""
    with pytest.raises(DecodeError, match="is not known here") as caught:
        decode({"c": name}, b"x", MSGPACK, JSON)
    assert caught.value.code == "UNDECODABLE"


@given(st.binary(max_size=50))
def test_any_bytes_decode_or_are_undecodable(data: bytes) -> None:
    """No body makes a codec raise anything but DecodeError."""
    for meta in ({}, {"c": "json"}, {"r": True}):
        with suppress(DecodeError):
            decode(meta, data, MSGPACK, JSON)


def test_find() -> None:
    """Codecs are found by name, taken as objects, and refused with the choices."""
    assert find(None) is MSGPACK
    assert find("json") is JSON
    assert isinstance(find(Upper()), Upper)
    with pytest.raises(ConfigError, match="msgpack, json, bytes"):
        find("pickle")
    assert find(f"{__name__}:upper") is upper
    with pytest.raises(ConfigError, match="name, encode and decode"):
        find(object())  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="pass an object"):
        find(f"{__name__}:Upper")
    for missing in ("nowhere:codec", "json:nothing"):
        with pytest.raises(ConfigError, match="cannot be imported"):
            find(missing)
    nameless = Upper()
    nameless.name = ""
    with pytest.raises(ConfigError, match="1 to 64 characters"):
        find(nameless)


class Nested(dict[str, Any]):
    """A body that encodes another one while it is being encoded."""

    def items(self) -> Any:
        return [("inner", MSGPACK.encode({"n": 1}))]


def test_packers_are_kept_and_never_shared() -> None:
    """A body that is encoded inside of another one, behind one that failed or was large, is itself alone."""
    inner = msgpack.packb({"n": 1})
    for _ in range(3):
        assert MSGPACK.decode(MSGPACK.encode(Nested(x=1))) == {"inner": inner}
        with pytest.raises(TypeError):
            MSGPACK.encode({"before": "x" * 100, "bad": object()})
        assert MSGPACK.encode({"n": 1}) == inner
        assert MSGPACK.decode(MSGPACK.encode("x" * 200_000)) == "x" * 200_000


@pytest.mark.parametrize("codec", [MSGPACK, JSON, BYTES], ids=["msgpack", "json", "bytes"])
def test_many_are_encoded_as_one_by_one(codec: Codec) -> None:
    """With the same limit for each, and the same error for the first that is wrong."""
    bodies: list[Any] = [b"a" * n for n in range(5)] if codec is BYTES else [{"n": n} for n in range(5)]
    one_by_one = [encode(codec, body, 100) for body in bodies]
    assert encode_all(codec, bodies, 100) == (one_by_one, sum(map(len, one_by_one)))
    largest = max(len(encode(codec, body, 100)) for body in bodies)
    assert encode_all(codec, bodies, largest) == encode_all(codec, bodies, 100)
    assert encode_all(codec, [], 0) == ([], 0)
    with pytest.raises(BodyTooLarge):
        encode_all(codec, bodies, largest - 1)
    with pytest.raises(BodyError, match="object"):
        encode_all(codec, [*bodies, object()], 100)
