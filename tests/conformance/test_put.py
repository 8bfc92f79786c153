"""Producing: ids, order, delays, explicit ids, refusals."""

from __future__ import annotations

import asyncio
import json
import time
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
import redis as redis_py

import reliq
from reliq import context
from reliq.core import envelope as env
from reliq.errors import BodyError, BodyTooLarge, ConfigError, WrongKeyType
from tests.conformance.shell import Shell, now_ms


async def test_put_returns_the_id_of_the_message(sh: Shell, redis: redis_py.Redis) -> None:
    """put returns 32 hex digits, and the element in Redis carries them."""
    q = sh.queue()
    mid = await sh(q.put({"to": "ada"}))
    assert len(mid) == 32
    (element,) = redis.lrange(q.options.keys.ready, 0, -1)
    assert env.unpack(element).id.hex() == mid


async def test_first_in_first_out(sh: Shell) -> None:
    """put and put_many share one order, and a consumer gets it."""
    q = sh.queue()
    await sh(q.put(0))
    ids = await sh(q.put_many([1, 2, 3]))
    await sh(q.put(4))
    assert len(set(ids)) == 3
    assert await sh.drain(q) == [0, 1, 2, 3, 4]


async def test_put_many_of_nothing_and_of_many_chunks(sh: Shell) -> None:
    """An empty put_many is no error; more than one script call takes stays in order."""
    q = sh.queue()
    assert await sh(q.put_many([])) == []
    assert len(await sh(q.put_many(range(2500)))) == 2500
    assert (await sh(q.size())).ready == 2500
    assert await sh.drain(q, prefetch=500) == list(range(2500))


async def test_a_body_larger_than_a_script_call_passes(sh: Shell) -> None:
    """One element over the limit of a call goes alone."""
    q = sh.queue()
    bodies = ["x" * 600_000, "y", "z" * 300_000]
    await sh(q.put_many(bodies))
    assert await sh.drain(q, prefetch=10) == bodies


async def test_delay_counts_by_the_servers_clock(sh: Shell, redis: redis_py.Redis) -> None:
    """A delayed message is in later, due in so many seconds of Redis TIME, and comes when it is due."""
    q = sh.queue()
    await sh(q.put("late", delay=0.3))
    await sh(q.put("early"))
    ((_, due),) = redis.zrange(q.options.keys.later, 0, -1, withscores=True)
    assert 0 < due - now_ms(redis) <= 300
    assert tuple(await sh(q.size())) == (1, 0, 1, 0)
    async with sh.open(q.consumer()) as c:
        bodies = []
        for _ in range(2):
            (lease,) = await sh(c.claim(timeout=5))
            bodies.append(lease.body)
            await sh(lease.ack())
    assert bodies == ["early", "late"]
    assert now_ms(redis) >= due


async def test_at_takes_an_aware_time_and_refuses_a_naive_one(sh: Shell, redis: redis_py.Redis) -> None:
    """at= becomes the due time in ms; without a zone it is an error, and so are two wishes at once."""
    q = sh.queue()
    moment = datetime.now(timezone.utc) + timedelta(hours=1)
    await sh(q.put(1, at=moment))
    ((_, due),) = redis.zrange(q.options.keys.later, 0, -1, withscores=True)
    assert due == round(moment.timestamp() * 1000)
    neither: tuple[dict[str, Any], ...] = ({"at": moment.timestamp()}, {"delay": timedelta(1)}, {"delay": "5"})
    for wrong in ({"at": datetime.now()}, {"delay": -1}, {"delay": 1, "at": moment}, *neither):
        with pytest.raises(ConfigError):
            await sh(q.put(1, **wrong))
    assert tuple(await sh(q.size())) == (0, 0, 1, 0)


async def test_put_with_a_delay_wakes_an_idle_consumer_in_time(sh: Shell) -> None:
    """A consumer that sleeps in BLMOVE learns of what becomes due before its block ends."""
    q = sh.queue(block=5)
    async with sh.open(q.consumer()) as c:
        task = sh.start(c.claim, timeout=10)
        await asyncio.sleep(0.2)
        started = time.monotonic()
        await sh(q.put("soon", delay=0.2))
        (lease,) = await task
        assert 0.19 <= time.monotonic() - started < 2
        await sh(lease.ack())


async def test_explicit_id_adds_no_second_copy(sh: Shell) -> None:
    """The same id=, from any queue object, is one message; another id is another."""
    one, two = sh.queue(), sh.queue()
    first = await sh(one.put("a", id="order-17"))
    assert await sh(two.put("a", id="order-17")) == first
    await sh(two.put("b", id="order-18", delay=60))
    await sh(one.put("b", id="order-18", delay=60))
    assert tuple(await sh(one.size())) == (1, 0, 1, 0)
    with pytest.raises(ConfigError):
        await sh(one.put("c", id=""))


@pytest.mark.parametrize("codec", [None, "msgpack", "json"])
async def test_bodies_survive(sh: Shell, codec: str | None) -> None:
    """Plain data comes out as it went in."""
    q = sh.queue(codec=codec)
    bodies = [None, True, -1, 1.5, "ä", [1, [2]], {"a": {"b": []}}]
    await sh(q.put_many(bodies))
    assert await sh.drain(q) == bodies


async def test_bytes_codec_takes_any_bytes(sh: Shell) -> None:
    """codec="bytes": the body is the bytes, whatever they look like, and nothing else."""
    q = sh.queue(codec="bytes")
    bodies = [b"", b"\xc1rlq", b"\x00" * 10, b"plain"]
    await sh(q.put_many(bodies))
    with pytest.raises(BodyError):
        await sh(q.put("text"))
    assert await sh.drain(q) == bodies


async def test_codec_of_ones_own(sh: Shell) -> None:
    """An object with name, encode and decode is a codec, and its name goes with the message."""

    class Upper:
        name = "upper"

        def encode(self, body: Any) -> bytes:
            return str(body).upper().encode()

        def decode(self, data: bytes) -> Any:
            return data.decode()

    q = sh.queue(codec=Upper())
    await sh(q.put("hello"))
    assert await sh.drain(q) == ["HELLO"]


async def test_reader_needs_no_codec_of_a_known_name(sh: Shell) -> None:
    """The codec's name travels, so a queue with another one reads the message."""
    await sh(sh.queue(codec="json").put({"a": 1}))
    assert await sh.drain(sh.queue()) == [{"a": 1}]


async def test_refused_bodies_are_not_sent(sh: Shell) -> None:
    """What cannot be encoded or is too large is an error of the caller, and nothing is put."""
    q = sh.queue(max_body=100)
    with pytest.raises(BodyError):
        await sh(q.put(object()))
    with pytest.raises(BodyTooLarge):
        await sh(q.put("x" * 200))
    with pytest.raises(BodyError):
        await sh(q.put_many([1, object()]))
    for one in ("text", b"bytes", {"to": "ada"}):  # and not as many messages as it has letters or fields
        with pytest.raises(ConfigError, match=r"put_many\(.*\): a list of bodies, or another iter"):
            await sh(q.put_many(one))
    assert tuple(await sh(q.size())) == (0, 0, 0, 0)


async def test_trace_id_goes_with_the_message(sh: Shell) -> None:
    """A put inside tracing() carries its trace id; without one the message's own id stands in."""
    q = sh.queue()
    trace = "ab" * 16
    with context.tracing(trace):
        await sh(q.put(1))
    mid = await sh(q.put(2))
    async with sh.open(q.consumer(prefetch=2)) as c:
        leases = await sh(c.claim(2, timeout=5))
        assert [lease.trace_id for lease in leases] == [trace, mid]
        for lease in leases:
            await sh(lease.ack())


async def test_key_of_another_type_is_refused(sh: Shell, redis: redis_py.Redis) -> None:
    """A ready key or a later key that holds something else: WrongKeyType, and the key is as it was."""
    q = sh.queue()
    await sh(q.put(0))
    keys = q.options.keys
    redis.delete(keys.ready)
    redis.set(keys.ready, "mine")
    redis.set(keys.later, "mine too")
    for options in ({}, {"id": "x"}, {"delay": 5}, {"delay": 5, "id": "y"}):
        with pytest.raises(WrongKeyType):
            await sh(q.put(1, **options))
    assert (redis.get(keys.ready), redis.get(keys.later)) == (b"mine", b"mine too")
    redis.delete(keys.ready, keys.later)
    await sh(q.put(1, id="x"))  # the refused one has left no marker
    assert (await sh(q.size())).ready == 1


async def test_unreachable_is_unavailable_at_once(sh: Shell) -> None:
    """Nobody listens: Unavailable that names the address, without waiting for the timeout, and no password."""
    q = sh.queue(url="redis://:secret@127.0.0.1:1/0")
    started = time.monotonic()
    for call in (q.ping, q.size, lambda: q.put(1), lambda: q.put_many([1, 2])):
        with pytest.raises((reliq.Unavailable, reliq.errors.PutManyError)) as caught:
            await sh(call())
        assert "127.0.0.1:1" in str(caught.value)
        assert "secret" not in str(caught.value)
    with pytest.raises(reliq.Unavailable):
        async with sh.open(q.consumer()):
            pass
    assert time.monotonic() - started < 2


async def test_ping_tells_the_version(sh: Shell, redis: redis_py.Redis) -> None:
    """ping connects and returns the server's version."""
    info: Any = redis.info("server")
    assert await sh(sh.queue().ping()) == info["redis_version"]


async def test_making_a_queue_does_no_io(sh: Shell) -> None:
    """Queue(...) with an address where nobody is raises nothing; a wrong setting does, at once."""
    sh.queue(url="redis://127.0.0.1:1/0")
    for wrong in ({"lease": 0}, {"block": -1}, {"codec": "nope"}, {"max_losses": 0}, {"prefix": "a b"}):
        with pytest.raises(ConfigError):
            sh.queue(**wrong)
    with pytest.raises(ConfigError):
        sh.queue("a b")


async def test_queue_works_after_close(sh: Shell, redis: redis_py.Redis) -> None:
    """Closing closes the idle connections; the next use opens new ones."""
    q = sh.queue()
    await sh(q.put(1))
    await sh.close(q)
    await sh(q.put(2))
    async with sh.open(q) as same:
        assert same is q
        assert (await sh(q.size())).ready == 2


async def test_queue_is_in_the_index(sh: Shell, redis: redis_py.Redis) -> None:
    """The first put writes the queue's name and settings into the index of its prefix."""
    q = sh.queue("orders", key=f"{sh.prefix}-old", codec="json")
    await sh(q.put(1))
    record = redis.hget(f"{sh.prefix}:queues", "orders")
    settings = {"key": f"{sh.prefix}-old", "codec": "json", "lease": 15.0, "max_losses": 3}
    assert json.loads(record) == settings | {"schema": "1.0"}
