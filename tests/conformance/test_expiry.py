"""What is worth nothing later: put(expires=), and how much time a handler has."""

from __future__ import annotations

import asyncio
import logging
import time
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
import redis as redis_py

import reliq
from reliq.errors import ConfigError
from tests.conformance.shell import Shell, dead_letters, until


async def pass_over(seconds: float) -> None:
    """Until the server's clock is so far on."""
    await asyncio.sleep(seconds + 0.02)


async def test_not_begun_in_time(sh: Shell, redis: redis_py.Redis, caplog: pytest.LogCaptureFixture) -> None:
    """It is dead-lettered with the reason, whatever else it is; others are handled; and what it held is free."""
    q = sh.queue()
    ids = [
        await sh(q.put(1, expires=0.05)),
        await sh(q.put("x" * 100_000, expires=datetime.now(timezone.utc) + timedelta(seconds=0.05), unique="k")),
        await sh(q.put(3, expires=0.05, delay=0.02, retry=reliq.Retry(attempts=9))),
        *(await sh(q.put_many([4, 5], expires=0.05))),
    ]
    await sh(q.put(6, expires=60))
    await pass_over(0.05)
    with caplog.at_level(logging.ERROR):
        assert await sh.drain(q) == [6]
    letters = [note for note, _ in dead_letters(redis, q)]
    assert sorted(note["id"] for note in letters) == sorted(ids)
    assert {note["cause"] for note in letters} == {"EXPIRED"}
    assert all("before a consumer claimed it" in note["error"] for note in letters)
    assert not redis.exists(q.options.keys.uniques)
    explained = await sh(q.explain(ids[0]))
    assert explained.reason == "DEAD_EXPIRED"
    assert "EXPIRED" in caplog.text


async def test_another_attempt_in_time(sh: Shell, redis: redis_py.Redis) -> None:
    """None begins after that, however many are left."""
    q, attempts = sh.queue(retry=reliq.Retry(attempts=99, wait=0.02)), []
    await sh(q.put(1, expires=0.3))
    async with sh.open(q.consumer()) as c:
        started = time.monotonic()
        while not redis.zcard(q.options.keys.dead):
            assert time.monotonic() - started < 10
            for lease in await sh(c.claim(timeout=0.1)):
                async with sh.open(lease):
                    attempts.append(lease.attempt)
                    raise ValueError("no")
    assert attempts[0] == 1
    assert 3 <= len(attempts) < 99
    assert dead_letters(redis, q)[0][0]["cause"] == "EXPIRED"


async def test_the_exclusive_mode(sh: Shell, redis: redis_py.Redis) -> None:
    """It hands over none that has expired either."""
    q, bodies = sh.queue(), []
    await sh(q.put_many([1, 2], expires=0.02))
    await sh(q.put(3))
    await pass_over(0.05)
    async with sh.open(q.exclusive(until_empty=True)) as holder:
        async for batch in sh.each(holder):
            async with sh.open(batch):
                bodies += batch.bodies
    assert bodies == [3]
    assert [note["cause"] for note, _ in dead_letters(redis, q)] == ["EXPIRED"] * 2


async def test_how_much_time_is_left(sh: Shell) -> None:
    """That of the handler, or of the message, whichever is over first; without either there is no end."""
    q, seen = sh.queue(), []

    async def coroutine(body: Any, lease: Any) -> None:
        seen.append((body, lease.remaining))

    def function(body: Any, lease: reliq.Lease) -> None:
        seen.append((body, lease.remaining))

    handler = q.ack(coroutine if sh.name == "aio" else function, timeout=30)
    await sh(q.put("timeout"))
    await sh(q.put("expires", expires=10))
    await sh(q.put("later", expires=100))
    worker = sh.Worker(handler, signals=False)
    task = sh.start(worker.run)
    assert await until(lambda: len(seen) == 3)
    worker.stop()
    await task
    left = dict(seen)
    assert 25 < left["timeout"] <= 30
    assert 5 < left["expires"] <= 10
    assert 25 < left["later"] <= 30
    await sh(q.put(1))
    async with sh.open(q.consumer()) as c:
        (lease,) = await sh(c.claim(timeout=5))
        assert lease.remaining is None
        await sh(lease.ack())


@pytest.mark.parametrize("said", [0, -1, "5", True, float("nan"), datetime(2030, 1, 1), timedelta(1)])
async def test_wrong_words(sh: Shell, said: Any) -> None:
    """Nothing is put, and the error says what would be right."""
    q = sh.queue()
    with pytest.raises(ConfigError, match="seconds from now, above 0, or a datetime with a zone"):
        await sh(q.put(1, expires=said))
    with pytest.raises(ConfigError, match="expires"):
        await sh(q.put_many([1], expires=said))
    assert (await sh(q.size())).ready == 0


async def test_claimed_in_time_and_begun_too_late(
    sh: Shell, redis: redis_py.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """What was claimed ahead waits here while its time runs out: no handler gets it, and people are told."""
    q, bodies = sh.queue(), []
    await sh(q.put(1, expires=30))
    await sh(q.put(2, expires=0.4, unique="k"))
    await sh(q.put(3))
    async with sh.open(q.consumer(prefetch=3)) as c:
        (lease,) = await sh(c.claim(timeout=5))
        await pass_over(0.5)
        bodies.append(lease.body)
        await sh(lease.ack())
        (lease,) = await sh(c.claim(timeout=5))
        bodies.append(lease.body)
        await sh(lease.ack())
    assert bodies == [1, 3]
    [(note, _)] = dead_letters(redis, q)
    assert (note["cause"], "before a handler could begin" in note["error"]) == ("EXPIRED", True)
    assert "dead-lettered unread" in caplog.text
    assert not redis.exists(q.options.keys.uniques)


@pytest.mark.parametrize("kind", ["function", "coroutine"])
async def test_a_worker_that_is_late(sh: Shell, redis: redis_py.Redis, kind: str) -> None:
    """What a worker with quick handlers has claimed ahead is dead-lettered there when one of them takes long."""
    q, bodies = sh.queue(), []

    def function(body: Any) -> None:
        time.sleep(1.7 if body == "slow" else 0)
        bodies.append(body)

    async def coroutine(body: Any) -> None:
        await asyncio.sleep(1.7 if body == "slow" else 0)
        bodies.append(body)

    handler = q.ack(coroutine if kind == "coroutine" else function)
    worker = sh.Worker(handler, signals=False, concurrency=1, prefetch=50)
    task = sh.start(worker.run)
    await sh(q.put_many(range(300)))
    assert await until(lambda: len(bodies) == 300)
    await sh(q.pause())
    await sh(q.put("slow"))
    await sh(q.put_many([1, 2], expires=1.5))
    await sh(q.put("last"))
    await sh(q.resume())
    handled = await until(lambda: "last" in bodies and redis.zcard(q.options.keys.dead) == 2)
    worker.stop()
    await task
    assert (handled, bodies[300:]) == (True, ["slow", "last"])
    assert [note["cause"] for note, _ in dead_letters(redis, q)] == ["EXPIRED"] * 2
