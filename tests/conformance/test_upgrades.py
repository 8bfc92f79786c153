"""Two releases on one queue: what one of them does not know survives it, and what it must not touch it leaves."""

from __future__ import annotations

import json
from typing import Any

import pytest
import redis as redis_py

import reliq
from reliq.core import envelope as env
from reliq.errors import NewerSchema
from tests.conformance.shell import Shell, dead_letters, expire, until

#: As a later release may write it: keys of meta that nobody here knows, of every kind of value.
META: dict[str, Any] = {"c": "json", "zz": [1, {"deep": b"\x00\xff"}], "Priority": 7, "x-tenant": "é"}
ID = bytes.fromhex("0190a1b2c3d47000800000000000002a")


def without_error(meta: env.Meta) -> env.Meta:
    """What this release adds is the last failure."""
    return {key: value for key, value in meta.items() if key != "e"}


def only(elements: list[bytes]) -> env.Envelope:
    [element] = elements
    return env.unpack(element)


@pytest.mark.parametrize("way", ["retry", "release", "bury", "fail", "reap", "give up"])
async def test_unknown_meta_survives_every_way_back(sh: Shell, redis: redis_py.Redis, way: str) -> None:
    """Through Redis and back into hands, with the same id and body, under the counters of that way."""
    q = sh.queue(retry=reliq.Retry(attempts=1 if way == "give up" else 5, wait=lambda state: 0.01))
    keys = q.options.keys
    redis.lpush(keys.ready, env.pack(ID, b'{"n":1}', META))
    consumer = q.consumer()
    async with sh.open(consumer) as c:
        [lease] = await sh(c.claim(timeout=10))
        if way == "retry":
            await sh(lease.retry(delay=0))
        elif way == "release":
            await sh(lease.release())
        elif way == "bury":
            await sh(lease.bury("no such customer"))
        elif way == "reap":
            expire(redis, q, c)
            reaper = (reliq.Reaper if sh.name == "sync" else reliq.aio.Reaper)(q)
            assert (await sh(reaper.run_once())).returned == 1
        else:
            async with sh.open(lease):
                raise TimeoutError("no answer")
        if way in ("bury", "give up"):
            [(note, element)] = dead_letters(redis, q)
            assert without_error(env.unpack(element).meta) == META
            assert await sh(q.revive(note["id"]))
        if way == "reap":
            assert only(redis.lrange(keys.ready, 0, -1)).meta == META
    async with sh.open(q.consumer()) as c:
        [lease] = await sh(c.claim(timeout=10))
        found = only(redis.lrange(keys.doing(c.name), 0, -1))
        assert (found.id, found.body, without_error(found.meta)) == (ID, b'{"n":1}', META)
        assert (lease.body, lease.fence >= 2) == ({"n": 1}, True)
        await sh(lease.ack())


async def test_a_message_of_a_later_format_comes_back_whole(sh: Shell, redis: redis_py.Redis) -> None:
    """It dies as UNSUPPORTED_VERSION, byte by byte as it was; revived, it is what the later release wrote; and if
    that was too early, it dies again."""
    q = sh.queue()
    later = bytearray(env.pack(ID, b"what nobody here can read", {"zz": 1}))
    later[4] = 2
    redis.lpush(q.options.keys.ready, bytes(later))
    for _ in range(2):
        await sh(q.put("beside"))
        assert await sh.drain(q) == ["beside"]
        [(note, element)] = dead_letters(redis, q)
        assert (note["cause"], element) == ("UNSUPPORTED_VERSION", bytes(later))
        assert "upgrade this worker" in note["error"]
        assert await sh(q.revive(note["id"]))
        assert redis.lrange(q.options.keys.ready, 0, -1) == [bytes(later)]


async def test_words_of_a_later_release_in_the_records_disturb_nobody(sh: Shell, redis: redis_py.Redis) -> None:
    """Fields that this one does not know, in the records of consumers, counters and settings, are left there."""
    q = sh.queue()
    keys = q.options.keys
    await sh(q.put(1))
    async with sh.open(q.consumer()) as c:
        for key in (keys.session(c.name), keys.stats):
            redis.hset(key, "zz", "of a later release")
        redis.xadd(keys.events, {"event": "teleport", "id": "", "consumer": "x", "detail": "y", "zz": "1"})
        [lease] = await sh(c.claim(timeout=10))
        await sh(lease.retry(delay=0))
        [lease] = await sh(c.claim(timeout=10))
        await sh(lease.ack())
        assert [redis.hget(key, "zz") for key in (keys.session(c.name), keys.stats)] == [b"of a later release"] * 2
    assert tuple(await sh(q.size())) == (0, 0, 0, 0)


def set_schema(redis: redis_py.Redis, q: Any, schema: str) -> None:
    """A later release has registered."""
    entry = {"key": q.options.keys.key, "schema": schema, "zz": 1}
    redis.hset(q.options.keys.queues, q.name, json.dumps(entry))


async def test_beside_a_newer_minor_schema_all_goes_on(sh: Shell, redis: redis_py.Redis) -> None:
    """Who knows less puts and consumes, and the newer number stays for the doctor to see."""
    q = sh.queue()
    set_schema(redis, q, "1.9")
    await sh(q.put(1))
    assert await sh.drain(q) == [1]
    assert json.loads(redis.hget(q.options.keys.queues, q.name) or b"")["schema"] == "1.9"


async def test_a_worker_at_work_stops_when_a_later_release_has_changed_the_keys(
    sh: Shell, redis: redis_py.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """It learns of it when it connects anew, and makes no trip from then on, but says so; with the old schema it
    goes on."""
    q, done = sh.queue(block=0.2), []
    kind = reliq.Worker if sh.name == "sync" else reliq.aio.Worker
    worker = kind(q.ack(done.append), signals=False)
    running = sh.start(worker.run)
    try:
        await sh(q.put(1))
        assert await until(lambda: done == [1])
        set_schema(redis, q, "2.0")
        for client in redis.client_list():
            if client["name"].startswith("reliq"):
                redis.client_kill_filter(_id=client["id"])
        assert await until(lambda: "schema 2.0" in caplog.text)
        redis.lpush(q.options.keys.ready, b"2")
        assert not await until(lambda: len(done) > 1, seconds=1)
        set_schema(redis, q, "1.0")
        assert await until(lambda: done == [1, 2], seconds=15)
    finally:
        worker.stop()
        await running


async def test_an_unknown_major_schema_is_left_alone(sh: Shell, redis: redis_py.Redis) -> None:
    """Puts, consumers and workers are refused before they touch anything, with what to do."""
    q = sh.queue()
    set_schema(redis, q, "2.0")
    before = sorted(redis.keys(f"{sh.prefix}:*"))
    handler = q.ack(print)
    worker = (reliq.Worker if sh.name == "sync" else reliq.aio.Worker)(handler, signals=False)

    async def consume() -> None:
        async with sh.open(q.consumer()):
            pass

    async def put() -> None:
        await sh(q.put(1))

    async def work() -> None:
        await sh(worker.run())

    for use in (put, consume, work):
        with pytest.raises(NewerSchema, match=r"schema 2\.0.*Upgrade it"):
            await use()
    assert sorted(redis.keys(f"{sh.prefix}:*")) == before
    assert json.loads(redis.hget(q.options.keys.queues, q.name) or b"")["schema"] == "2.0"
