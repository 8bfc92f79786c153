"""Bodies of all types, from a put to a handler, in both shells."""

from __future__ import annotations

import json
import random
import sys
from dataclasses import dataclass, replace
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgpack
import pydantic
import pytest
import redis as redis_py
import zstandard

from reliq.core import compression
from reliq.core import envelope as env
from reliq.errors import ConfigError
from tests.conformance.shell import Shell, dead_letters

BODY: dict[str, Any] = {
    "at": datetime(2030, 1, 2, 3, 4, 5, 678901, tzinfo=timezone.utc),
    "naive": datetime(2030, 1, 2, 3, 4, 5),
    "day": date(2030, 1, 2),
    "opens": time(9, 30),
    "takes": timedelta(hours=1, microseconds=1),
    "id": UUID(int=17),
    "price": Decimal("1.10"),
    "raw": b"\xff",
    "tags": {"a", (1, 2), frozenset({3})},
}


async def test_all_types_arrive_as_they_were_sent(sh: Shell) -> None:
    """One by one, many at once, later, and in a schedule."""
    queue = sh.queue()
    await sh(queue.put(BODY))
    await sh(queue.put_many([BODY, [BODY]]))
    await sh(queue.put(BODY, delay=0.01, id="later"))
    await sh(queue.schedule("daily", BODY, every=3600))
    [daily] = await sh(queue.schedules())
    assert daily.body == BODY
    got: list[Any] = []
    while len(got) < 4:
        got += await sh.drain(queue)
    assert got == [BODY, BODY, [BODY], BODY]


@pytest.mark.parametrize("code", [100, 103, 104, 106, 111])
async def test_nonsense_in_an_extension_type_is_dead_lettered(sh: Shell, redis: redis_py.Redis, code: int) -> None:
    """With its reason; what comes after it is handled."""
    queue = sh.queue()
    bad = env.pack(bytes(15) + bytes([code]), msgpack.packb({"x": msgpack.ExtType(code, b"nonsense")}))
    redis.lpush(queue.options.keys.ready, bad)
    await sh(queue.put("next"))
    assert await sh.drain(queue) == ["next"]
    [(note, element)] = dead_letters(redis, queue)
    assert (note["cause"], element) == ("UNDECODABLE", bad)
    assert f"extension type {code}" in note["error"]


@dataclass
class Line:
    sku: str
    price: Decimal


@dataclass
class Order:
    id: UUID
    lines: list[Line]


class Person(pydantic.BaseModel):
    name: str
    born: date


ORDER = Order(UUID(int=17), [Line("tea", Decimal("1.10"))])
ADA = Person(name="Ada", born=date(1815, 12, 10))
KINDS = pytest.mark.parametrize("kind", ["plain", "coroutine", "with lease"])


def handler_of(queue: Any, kind: str, wanted: Any, got: list[Any]) -> Any:
    """One that is annotated with this class, and keeps what it gets."""

    def plain(order: Any) -> None:
        got.append(order)

    async def coroutine(order: Any) -> None:
        got.append(order)

    def with_lease(lease: Any, order: Any) -> None:
        got.append(order)
        assert isinstance(lease.body, dict)

    function: Any = {"plain": plain, "coroutine": coroutine, "with lease": with_lease}[kind]
    function.__annotations__["order"] = wanted
    return queue.ack(function)


@KINDS
@pytest.mark.parametrize("body", [ORDER, ADA], ids=["dataclass", "model"])
@pytest.mark.parametrize(
    "options", [{}, {"codec": "json"}, {"claim_check": 1024}], ids=["msgpack", "json", "large"]
)
async def test_a_handler_gets_what_it_is_annotated_with(
    sh: Shell, kind: str, body: Any, options: dict[str, Any]
) -> None:
    """Of a put, and of a foreign producer's raw JSON."""
    got: list[Any] = []
    queue = sh.queue(**options)
    if "claim_check" in options:
        body = (
            replace(body, lines=body.lines * 500)
            if body is ORDER
            else body.model_copy(update={"name": "x" * 2000})
        )
    await sh(queue.put(body))
    worker = sh.Worker(handler_of(queue, kind, type(body), got), until_empty=True)
    await sh.start(worker.run)
    assert got == [body]
    assert await sh(queue.size()) == (0, 0, 0, 0)


async def test_raw_json_becomes_an_object(sh: Shell, redis: redis_py.Redis) -> None:
    """A foreign producer need not know the class."""
    got: list[Any] = []
    queue = sh.queue(key="orders")
    redis.lpush("orders", json.dumps({"id": str(ORDER.id), "lines": [{"sku": "tea", "price": "1.10"}]}))
    await sh.start(sh.Worker(handler_of(queue, "plain", Order, got), until_empty=True).run)
    assert got == [ORDER]


@KINDS
async def test_what_does_not_fit_is_dead_lettered(sh: Shell, redis: redis_py.Redis, kind: str) -> None:
    """At once, with the field; the next one is handled, and a revived one too once the handler knows it."""
    got: list[Any] = []
    queue = sh.queue()
    id = await sh(queue.put({"id": UUID(int=1), "lines": [{"sku": "tea"}]}))
    await sh(queue.put(ORDER))
    await sh.start(sh.Worker(handler_of(queue, kind, Order, got), until_empty=True).run)
    assert got == [ORDER]
    [(note, element)] = dead_letters(redis, queue)
    assert note["cause"] == "UNDECODABLE"
    assert "lines[0].price is missing" in note["error"]
    assert env.unpack(element).failed == 1
    assert (await sh(queue.explain(id))).reason == "DEAD_UNDECODABLE"
    assert await sh(queue.revive(id))
    await sh.start(sh.Worker(handler_of(queue, "plain", dict, got), until_empty=True).run)
    assert got[1:] == [{"id": UUID(int=1), "lines": [{"sku": "tea"}]}]


async def test_a_codec_that_the_consumer_lacks(sh: Shell, redis: redis_py.Redis) -> None:
    """Its name is in the message, and in the reason."""
    await sh(sh.queue(codec=f"{__name__}:shout").put("hello"))
    queue = sh.queue()
    assert await sh.drain(queue) == []
    [(note, _)] = dead_letters(redis, queue)
    assert "'shout' is not known here: give it to Queue(codec=)" in note["error"]
    knowing = sh.queue(codec=shout)
    assert await sh(knowing.revive(note["id"]))
    assert await sh.drain(knowing) == ["hello"]


class Exits:
    """A codec that ends the program, as it should not."""

    name = "exits"

    def encode(self, body: int) -> bytes:
        return bytes([body])

    def decode(self, data: bytes) -> int:
        if data == b"\x02":
            raise SystemExit("no")
        return data[0]


async def test_a_codec_that_exits(sh: Shell, redis: redis_py.Redis) -> None:
    """It cannot read this one, which is dead-lettered; the worker lives on."""
    q, got = sh.queue(codec=Exits()), list[int]()
    await sh(q.put_many([1, 2, 3]))
    await sh.start(sh.Worker(q.ack(got.append), signals=False, until_empty=True).run)
    assert sorted(got) == [1, 3]
    ((note, _),) = dead_letters(redis, q)
    assert (note["cause"], note["error"]) == ("UNDECODABLE", "the body is no exits: SystemExit: no")


class Shout:
    name = "shout"

    def encode(self, body: str) -> bytes:
        return body.upper().encode()

    def decode(self, data: bytes) -> str:
        return data.decode().lower()


shout = Shout()


@pytest.mark.parametrize("wrong", [0, -1, True, "64 MiB"])
def test_max_body_has_to_be_a_size(sh: Shell, wrong: Any) -> None:
    """Checked when the queue is made."""
    with pytest.raises(ConfigError, match="max_body"):
        sh.queue(max_body=wrong)


# -- compressed ---------------------------------------------------------------------------------------------

LONG = {"text": "all work and no play " * 200}
NOISE = {"noise": random.Random(7).randbytes(4000)}
BOMB = zstandard.ZstdCompressor(level=19).compress(bytes(compression.MOST + 1))


async def test_compressed_bodies(sh: Shell, redis: redis_py.Redis) -> None:
    """Those that get smaller, one by one and among others; a consumer needs no option."""
    queue = sh.queue(compress="zstd", trace=True)
    await sh(queue.put(LONG))
    await sh(queue.put(LONG, unique="x", id="y"))
    await sh(queue.put_many(["short", LONG, NOISE]))
    elements = redis.lrange(queue.options.keys.ready, 0, -1)[::-1]
    assert [env.unpack(each).meta.get("z") for each in elements] == ["zstd", "zstd", None, "zstd", None]
    assert max(len(each) for each in elements[:2]) < 300
    assert await sh.drain(sh.queue()) == [LONG, LONG, "short", LONG, NOISE]
    assert await sh(queue.size()) == (0, 0, 0, 0)


async def test_compressed_and_beside_the_list(sh: Shell, redis: redis_py.Redis) -> None:
    """What is large still lies there compressed; what is not any more travels with its message."""
    queue = sh.queue(compress="zstd", claim_check=2048)
    both = {"text": LONG["text"] * 50, **NOISE}
    await sh(queue.put_many([both, LONG]))
    [key] = redis.keys(f"{sh.prefix}:*:body:*")
    assert 4000 < redis.strlen(key) < 5000
    assert await sh.drain(sh.queue()) == [both, LONG]
    assert not redis.keys(f"{sh.prefix}:*:body:*")


@pytest.mark.parametrize(
    ("data", "method", "says"),
    [
        pytest.param(BOMB, "zstd", "it would be 67,108,865 bytes", id="a bomb"),
        pytest.param(
            zstandard.ZstdCompressor(write_content_size=False).compress(bytes(compression.MOST + 1)),
            *("zstd", "did not decompress full frame"),
            id="a bomb that says no size",
        ),
        pytest.param(b"nonsense", "zstd", "the body is no zstd", id="nonsense"),
        pytest.param(zstandard.compress(b"\xa1a")[:-2], "zstd", "the body is no zstd", id="cut"),
        pytest.param(zstandard.compress(b"\xa1a") + b"x", "zstd", "unused data", id="more behind it"),
        pytest.param(zstandard.compress(b"\xa5a"), "zstd", "the body is no msgpack", id="of nonsense"),
        pytest.param(b"\xa1a", "lzma", "'lzma', which is not known here", id="another method"),
        pytest.param(b"\xa1a", ["zstd"], "which is not known here", id="no method"),
    ],
)
async def test_what_cannot_be_expanded(
    sh: Shell, redis: redis_py.Redis, data: bytes, method: Any, says: str
) -> None:
    """Is dead-lettered as it is, with the reason, and the next one is handled."""
    queue = sh.queue()
    redis.lpush(queue.options.keys.ready, bad := env.pack(bytes(16), data, {"z": method}))
    await sh(queue.put("next"))
    assert await sh.drain(queue) == ["next"]
    [(note, element)] = dead_letters(redis, queue)
    assert (note["cause"], element) == ("UNDECODABLE", bad)
    assert says in note["error"]


async def test_no_package_here(sh: Shell, redis: redis_py.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """A consumer without it dead-letters, and says what to install; then the message can be revived. A producer
    is told when its queue is made."""
    await sh(sh.queue(compress="zstd").put(LONG))
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "zstandard", None)
        queue = sh.queue()
        assert await sh.drain(queue) == []
        with pytest.raises(ConfigError, match=r"pip install 'reliq\[zstd\]'"):
            sh.queue(compress="zstd")
    [(note, _)] = dead_letters(redis, queue)
    assert "pip install 'reliq[zstd]', then: reliq dead revive ID" in note["error"]
    assert await sh(queue.revive(note["id"]))
    assert await sh.drain(queue) == [LONG]


def test_only_one_method(sh: Shell) -> None:
    """Anything else is refused with it."""
    for wrong in ("gzip", True, ""):
        with pytest.raises(ConfigError, match="'zstd', or None"):
            sh.queue(compress=wrong)


async def test_compressed_in_the_exclusive_mode(sh: Shell) -> None:
    """Batches have the same bodies, compressed or not, beside the list or in it."""
    queue = sh.queue(compress="zstd", claim_check=2048)
    both = {"text": LONG["text"] * 50, **NOISE}
    await sh(queue.put_many([BODY, LONG, both]))
    async with sh.open(queue.exclusive(until_empty=True)) as holder:
        bodies = []
        async for batch in sh.each(holder):
            async with sh.open(batch):
                bodies += batch.bodies
    assert bodies == [BODY, LONG, both]
    assert await sh(queue.size()) == (0, 0, 0, 0)
