"""The reaper: what it gives back, in which order, and that any number of them may run."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import redis as redis_py

from reliq.core import envelope as env
from tests.conformance.shell import Shell, dead_letters, expire, until


async def die(sh: Shell, redis: redis_py.Redis, queue: Any, n: int) -> str:
    """A consumer that claims n messages and is never heard of again; returns its name."""
    consumer = queue.consumer(prefetch=n)
    (_,) = leases = await sh(consumer.claim(1, timeout=5))
    name = consumer.name
    keys = queue.options.keys
    held = redis.lrange(keys.doing(name), 0, -1)
    session = redis.hgetall(keys.session(name))
    del leases
    await sh.close(consumer)
    # As if it had not said goodbye: what it had is where it was.
    pipe = redis.pipeline(transaction=True)
    pipe.ltrim(keys.ready, 0, -len(held) - 1)
    pipe.rpush(keys.doing(name), *held)
    pipe.hset(keys.session(name), mapping=session)
    pipe.zadd(keys.consumers, {name: 1})
    pipe.hset(keys.stats, "server_since", 0)
    pipe.execute()
    return name


async def test_reaper_returns_what_the_dead_held_in_order(sh: Shell, redis: redis_py.Redis) -> None:
    """All messages of a dead consumer are at the head again in the order of their claim, each lost once."""
    q = sh.queue()
    await sh(q.put_many([1, 2, 3, 4]))
    name = await die(sh, redis, q, 3)
    assert tuple(await sh(q.size())) == (1, 3, 0, 0)
    report = await sh(sh.Reaper(q).run_once())
    assert (report.returned, report.buried, report.consumers, report.errors) == (3, 0, [name], [])
    elements = [env.unpack(e) for e in redis.lrange(q.options.keys.ready, 0, -1)]
    assert [e.lost for e in reversed(elements)] == [1, 1, 1, 0]
    again = await sh(sh.Reaper(q).run_once())
    assert (again.returned, again.consumers) == (0, [])
    assert await sh.drain(q) == [1, 2, 3, 4]


async def test_reapers_at_once_change_nothing_twice(sh: Shell, redis: redis_py.Redis) -> None:
    """Ten reapers at the same time return each message once."""
    q = sh.queue()
    await sh(q.put_many(range(20)))
    for _ in range(2):
        await die(sh, redis, q, 10)
    reapers = [sh.Reaper(sh.queue()) for _ in range(10)]
    reports = await asyncio.gather(*(sh.start(reaper.run_once) for reaper in reapers))
    assert sum(report.returned for report in reports) == 20
    assert sorted(await sh.drain(q)) == list(range(20))
    assert await sh.drain(q) == []


async def test_the_living_are_left_alone(sh: Shell, redis: redis_py.Redis) -> None:
    """A consumer whose lease is not over keeps everything."""
    q = sh.queue()
    await sh(q.put(1))
    async with sh.open(q.consumer()) as c:
        (lease,) = await sh(c.claim())
        redis.hset(q.options.keys.stats, "server_since", 0)
        report = await sh(sh.Reaper(q).run_once())
        assert (report.returned, report.consumers) == (0, [])
        await sh(lease.ack())


async def test_no_reap_before_the_server_was_up_for_a_lease(sh: Shell, redis: redis_py.Redis) -> None:
    """Right after a start of the server every lease may look over: the reaper waits, and says so."""
    q = sh.queue()
    await sh(q.put(1))
    name = await die(sh, redis, q, 1)
    redis.hset(q.options.keys.stats, "server", "another run")
    report = await sh(sh.Reaper(q).run_once())
    assert (report.returned, report.waiting) == (0, [name])
    redis.hset(q.options.keys.stats, "server_since", 0)
    assert (await sh(sh.Reaper(q).run_once())).returned == 1


async def test_lists_without_a_registration_are_adopted(sh: Shell, redis: redis_py.Redis) -> None:
    """A processing list that nobody registered gets a lease first and is reaped when that is over."""
    q = sh.queue()
    await sh(q.put_many([1, 2]))
    name = await die(sh, redis, q, 2)
    redis.zrem(q.options.keys.consumers, name)
    reaper = sh.Reaper(q)
    report = await sh(reaper.run_once())
    for _ in range(1000):  # the search is bounded per pass
        if report.adopted:
            break
        report = await sh(reaper.run_once())
    assert (report.returned, report.adopted) == (0, [name])
    redis.zadd(q.options.keys.consumers, {name: 1})
    assert (await sh(reaper.run_once())).returned == 2
    assert await sh.drain(q) == [1, 2]


async def test_poison_is_dead_lettered_after_so_many_losses(sh: Shell, redis: redis_py.Redis) -> None:
    """max_losses consumers died with it: it is in dead as POISON, and the next message is not."""
    q = sh.queue(max_losses=2)
    mid = await sh(q.put("poison"))
    await sh(q.put("good"))
    for buried in (0, 1):
        await die(sh, redis, q, 1)
        assert (await sh(sh.Reaper(q).run_once())).buried == buried
    ((note, _),) = dead_letters(redis, q)
    assert (note["id"], note["cause"]) == (mid, "POISON")
    assert await sh.drain(q) == ["good"]


async def test_suspect_is_handed_out_alone(sh: Shell, redis: redis_py.Redis) -> None:
    """A message that a consumer died with comes without company, and its neighbours after it."""
    q = sh.queue()
    await sh(q.put_many([1, 2, 3]))
    await die(sh, redis, q, 1)
    await sh(sh.Reaper(q).run_once())
    async with sh.open(q.consumer(prefetch=3)) as c:
        (lease,) = await sh(c.claim(3))
        assert (lease.body, lease.deliveries, lease.attempt) == (1, 2, 1)
        assert await sh(c.claim(3, timeout=0)) == []
        await sh(lease.ack())
        rest = await sh(c.claim(3, timeout=5))
        assert [lease.body for lease in rest] == [2, 3]
        for lease in rest:
            await sh(lease.ack())


async def test_undecodable_elements_do_not_stop_recovery(sh: Shell, redis: redis_py.Redis) -> None:
    """Whatever lies in a dead consumer's list goes back, as it is."""
    q = sh.queue()
    await sh(q.put_many([1, 2]))
    name = await die(sh, redis, q, 2)
    redis.linsert(q.options.keys.doing(name), "BEFORE", redis.lindex(q.options.keys.doing(name), 1), b"junk")
    assert (await sh(sh.Reaper(q).run_once())).returned == 3
    assert await sh.drain(q) == [1, 2]
    ((note, _),) = dead_letters(redis, q)
    assert note["cause"] == "UNDECODABLE"


async def test_reaper_of_several_queues_adds_up(sh: Shell, redis: redis_py.Redis) -> None:
    """Reaper(a, b).run_once() is one report over both, and wrong keys of one consumer stop nothing."""
    a, b = sh.queue("a"), sh.queue("b")
    for q in (a, b):
        await sh(q.put(1))
        await die(sh, redis, q, 1)
    redis.set(a.options.keys.doing("broken"), "x")
    redis.zadd(a.options.keys.consumers, {"broken": 0})
    report = await sh(sh.Reaper(a, b).run_once())
    assert report.returned == 2
    assert len(report.errors) == 1
    assert "broken" in report.errors[0]
    redis.delete(a.options.keys.doing("broken"))


async def test_running_reaper_stops(sh: Shell, redis: redis_py.Redis) -> None:
    """run() reaps pass after pass until stop()."""
    q = sh.queue()
    reaper = sh.Reaper(q, interval=0.05)
    task = sh.start(reaper.run)
    await sh(q.put(1))
    await die(sh, redis, q, 1)
    assert await until(lambda: redis.llen(q.options.keys.ready) == 1)
    reaper.stop()
    await asyncio.wait_for(task, 5)


async def test_pulling_consumers_reap_without_a_reaper(sh: Shell, redis: redis_py.Redis) -> None:
    """With nobody but consumers, what a dead one held is delivered by another within seconds."""
    q = sh.queue(lease=1.5)
    await sh(q.put("orphan"))
    async with sh.open(q.consumer()) as c:
        await die(sh, redis, q, 1)
        (lease,) = await sh(c.claim(timeout=8))
        assert (lease.body, lease.deliveries) == ("orphan", 2)
        await sh(lease.ack())


@pytest.mark.parametrize("kind", ["consumer", "worker"])
async def test_who_died_long_before_the_server_started_waits_no_longer_than_a_lease(
    sh: Shell, redis: redis_py.Redis, kind: str
) -> None:
    """The pass that the server asks for when a consumer or a worker begins comes too soon after the server's own
    start; it is made again a lease later, not only half a minute later."""
    q = sh.queue(lease=1.0)
    await sh(q.put("orphan"))
    await die(sh, redis, q, 1)
    redis.hdel(q.options.keys.stats, "server", "server_since", "sweep_at", "full_sweep_at")
    seen: list[Any] = []
    if kind == "consumer":
        async with sh.open(q.consumer()) as c:
            for lease in await sh(c.claim(timeout=5)):
                seen.append(lease.body)
                await sh(lease.ack())
    else:
        worker = sh.Worker(q.ack(seen.append), signals=False)
        task = sh.start(worker.run)
        await until(lambda: seen, seconds=5)
        worker.stop()
        await task
    assert seen == ["orphan"]


async def test_expired_but_living_consumer_goes_on(sh: Shell, redis: redis_py.Redis) -> None:
    """A consumer that was silent for too long and reaped carries on: it claims and acks again."""
    q = sh.queue()
    await sh(q.put(1))
    async with sh.open(q.consumer()) as c:
        (lease,) = await sh(c.claim())
        expire(redis, q, c)
        assert (await sh(sh.Reaper(q).run_once())).returned == 1
        (again,) = await sh(c.claim(timeout=5))
        assert lease.lost
        assert (again.id, again.fence) == (lease.id, 2)
        await sh(again.ack())
        assert tuple(await sh(q.size())) == (0, 0, 0, 0)


async def test_declared_dead_consumer_goes_on_under_another_name(sh: Shell, redis: redis_py.Redis) -> None:
    """A name marked dead changes nothing any more; its consumer takes a new one and works on."""
    q = sh.queue()
    await sh(q.put_many([1, 2]))
    async with sh.open(q.consumer()) as c:
        (lease,) = await sh(c.claim())
        old = c.name
        redis.hset(q.options.keys.session(old), "dead", 1)
        redis.zadd(q.options.keys.consumers, {old: 1})
        redis.hset(q.options.keys.stats, "server_since", 0)
        assert (await sh(sh.Reaper(q).run_once())).returned == 1
        for body in (1, 2):
            (again,) = await sh(c.claim(timeout=5))
            assert again.body == body
            await sh(again.ack())
        assert c.name != old
        assert lease.lost
