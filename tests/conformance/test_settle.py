"""What becomes of a claimed message: ack, retry, release, bury, and how a handler's block ends."""

from __future__ import annotations

import asyncio
import gc
import logging
from typing import Any

import pytest
import redis as redis_py
import tenacity

import reliq
from reliq import context
from reliq.core import envelope as env
from reliq.logging import ContextFilter
from tests.conformance.shell import Shell, dead_letters, events, expire, now_ms, until

SOON = reliq.Retry(attempts=3, wait=tenacity.wait_fixed(0.05))


async def test_ack_on_leaving_the_block(sh: Shell) -> None:
    """Leaving `with lease` acks."""
    q = sh.queue()
    await sh(q.put(1))
    async with sh.open(q.consumer()) as c:
        (lease,) = await sh(c.claim())
        async with sh.open(lease) as same:
            assert same is lease
        assert lease.settled
        assert tuple(await sh(q.size())) == (0, 0, 0, 0)


async def test_exception_is_retried_by_the_policy(sh: Shell, redis: redis_py.Redis) -> None:
    """A handler that fails: logged, not raised, back after the policy's wait, attempt and fence counted."""
    q = sh.queue(retry=reliq.Retry(attempts=3, wait=tenacity.wait_fixed(30)))
    await sh(q.put(1))
    async with sh.open(q.consumer()) as c:
        (lease,) = await sh(c.claim())
        async with sh.open(lease):
            raise ValueError("no such address")
        ((element, due),) = redis.zrange(q.options.keys.later, 0, -1, withscores=True)
        assert 25_000 < due - now_ms(redis) <= 30_000
        envelope = env.unpack(element)
        assert (envelope.failed, envelope.fence, envelope.meta["e"]) == (1, 2, "ValueError: no such address")
        redis.zadd(q.options.keys.later, {element: 1})
        (again,) = await sh(c.claim(timeout=5))
        assert (again.attempt, again.deliveries, again.fence, again.id) == (2, 2, 2, lease.id)
        await sh(again.ack())
    assert ("retry", "30000") in events(redis, q)


async def test_attempts_run_out(sh: Shell, redis: redis_py.Redis) -> None:
    """After the policy's attempts the message is in dead with cause ATTEMPTS, the error and the traceback."""
    q = sh.queue(retry=SOON)
    mid = await sh(q.put("bad"))
    attempts = []
    async with sh.open(q.consumer()) as c:
        for _ in range(3):
            (lease,) = await sh(c.claim(timeout=5))
            attempts.append(lease.attempt)
            async with sh.open(lease):
                raise RuntimeError("always")
        assert await sh(c.claim(timeout=0.2)) == []
    assert attempts == [1, 2, 3]
    ((note, element),) = dead_letters(redis, q)
    assert (note["id"], note["cause"], note["error"]) == (mid, "ATTEMPTS", "RuntimeError: always")
    assert 'raise RuntimeError("always")' in note["traceback"]
    assert note["worker"] == c.name
    assert env.unpack(element).failed == 3


async def test_stop_of_tenacity_counts_from_the_put(sh: Shell, redis: redis_py.Redis) -> None:
    """stop= ends the attempts besides attempts=."""
    q = sh.queue(retry=reliq.Retry(attempts=99, stop=tenacity.stop_after_delay(0.2)))
    await sh(q.put(1))
    await asyncio.sleep(0.3)
    async with sh.open(q.consumer()) as c:
        (lease,) = await sh(c.claim())
        async with sh.open(lease):
            raise ValueError
    ((note, _),) = dead_letters(redis, q)
    assert note["cause"] == "ATTEMPTS"


async def test_a_handlers_verdicts(sh: Shell, redis: redis_py.Redis) -> None:
    """Bury dead-letters now, RetryAfter sets the delay, Release counts no failure and waits a second."""
    q = sh.queue()
    await sh(q.put_many(["bury", "after", "release"]))
    async with sh.open(q.consumer()) as c:
        for lease in await sh(c.claim(3)):
            async with sh.open(lease):
                if lease.body == "bury":
                    raise reliq.Bury("no such account")
                if lease.body == "after":
                    raise reliq.RetryAfter(60, "busy")
                raise reliq.Release
    ((note, _),) = dead_letters(redis, q)
    assert (note["cause"], note["error"]) == ("BURIED", "no such account")
    (released, soon), (after, late) = redis.zrange(q.options.keys.later, 0, -1, withscores=True)
    assert (env.unpack(released).failed, env.unpack(released).released) == (0, 1)
    assert (env.unpack(after).failed, env.unpack(after).released) == (1, 0)
    assert soon - now_ms(redis) <= 1000
    assert 55_000 < late - now_ms(redis) <= 60_000


async def test_explicit_verbs(sh: Shell, redis: redis_py.Redis) -> None:
    """retry, release and bury by hand; the end of the block settles nothing twice."""
    q = sh.queue()
    await sh(q.put_many([1, 2, 3]))
    async with sh.open(q.consumer()) as c:
        one, two, three = await sh(c.claim(3))
        async with sh.open(one):
            await sh(one.retry(delay=60, reason="not yet"))
        async with sh.open(two):
            await sh(two.release())
        async with sh.open(three):
            await sh(three.bury("broken"))
            raise ValueError("too late to matter")
        await sh(three.ack())  # settled already: nothing happens
        ready, doing, later, dead = await sh(q.size())
        assert (ready + doing, later, dead) == (1, 1, 1)  # the last settle may have claimed along
        (two,) = await sh(c.claim())
        assert (two.body, two.attempt, two.deliveries, two.fence) == (2, 1, 2, 2)
        await sh(two.ack())
    (element,) = redis.zrange(q.options.keys.later, 0, -1)
    assert (env.unpack(element).failed, env.unpack(element).meta["e"]) == (1, "not yet")
    ((note, _),) = dead_letters(redis, q)
    assert (note["cause"], note["error"]) == ("BURIED", "broken")


async def test_retry_without_a_delay_follows_the_policy(sh: Shell, redis: redis_py.Redis) -> None:
    """lease.retry() waits as the policy says for this attempt, and dies with the last one."""
    q = sh.queue(retry=reliq.Retry(attempts=3, wait=tenacity.wait_incrementing(20, 20)))
    await sh(q.put(1))
    keys = q.options.keys
    async with sh.open(q.consumer()) as c:
        for wait in (20_000, 40_000):
            (lease,) = await sh(c.claim(timeout=5))
            await sh(lease.retry())
            ((element, due),) = redis.zrange(keys.later, 0, -1, withscores=True)
            assert wait - 5000 < due - now_ms(redis) <= wait
            redis.zadd(keys.later, {element: 1})
        (lease,) = await sh(c.claim(timeout=5))
        await sh(lease.retry(reason="still broken"))
    ((note, _),) = dead_letters(redis, q)
    assert (note["cause"], note["error"]) == ("ATTEMPTS", "still broken")


async def test_release_goes_to_the_head(sh: Shell) -> None:
    """A released message is the next one."""
    q = sh.queue()
    await sh(q.put_many([1, 2, 3]))
    async with sh.open(q.consumer()) as c:
        one, two = await sh(c.claim(2))
        await sh(two.release())
        await sh(one.release())
    assert await sh.drain(q) == [1, 2, 3]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, asyncio.CancelledError])
async def test_interruption_releases_and_goes_on(sh: Shell, error: type[BaseException]) -> None:
    """What is no Exception leaves the block; the message is at the head again, uncounted."""
    q = sh.queue()
    await sh(q.put_many([1, 2]))

    async def interrupted() -> None:
        async with sh.open(q.consumer()) as c:
            (lease,) = await sh(c.claim())
            async with sh.open(lease):
                raise error

    with pytest.raises(error):
        await interrupted()
    assert tuple(await sh(q.size())) == (2, 0, 0, 0)
    async with sh.open(q.consumer()) as c:
        (lease,) = await sh(c.claim())
        assert (lease.body, lease.attempt, lease.deliveries, lease.fence) == (1, 1, 1, 2)
        await sh(lease.ack())


def test_interrupted_before_its_settle_is_made_goes_back(
    server: Any, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in ack(), before the consumer knows of it: it is not settled, and goes back when dropped."""
    queue = reliq.Queue("q", server.url, prefix=prefix)
    queue.put(1)
    with queue.consumer() as consumer:
        check = consumer._check

        def interrupted() -> None:
            monkeypatch.setattr(consumer, "_check", check)
            raise KeyboardInterrupt

        [lease] = consumer.claim()
        monkeypatch.setattr(consumer, "_check", interrupted)
        with pytest.raises(KeyboardInterrupt):
            lease.ack()
        assert not lease.settled
        with pytest.warns(ResourceWarning):
            del lease
        [again] = consumer.claim(timeout=5)
        again.ack()
        assert again.settled


async def test_dropped_lease_warns_and_goes_back(sh: Shell, redis: redis_py.Redis) -> None:
    """A lease that nobody settles and nobody holds: ResourceWarning, and the message is ready within seconds."""
    q = sh.queue()
    await sh(q.put(1))
    async with sh.open(q.consumer()) as c:
        leases = await sh(c.claim())
        with pytest.warns(ResourceWarning, match="dropped"):
            leases.clear()
        gc.collect()
        assert await until(lambda: redis.llen(q.options.keys.ready) == 1)
        assert tuple(await sh(q.size())) == (1, 0, 0, 0)
        (lease,) = await sh(c.claim(timeout=5))
        assert (lease.attempt, lease.deliveries) == (1, 2)
        await sh(lease.ack())


async def test_lost_lease_refuses_the_late_ack(sh: Shell, redis: redis_py.Redis) -> None:
    """Reaped and done elsewhere: the first consumer's ack raises LeaseLost, does no harm, and is recorded."""
    q = sh.queue()
    await sh(q.put(1))
    async with sh.open(q.consumer()) as slow, sh.open(q.consumer()) as other:
        (late,) = await sh(slow.claim())
        expire(redis, q, slow)
        report = await sh(sh.Reaper(q).run_once())
        assert (report.returned, report.consumers) == (1, [slow.name])
        (again,) = await sh(other.claim(timeout=5))
        assert (again.id, again.deliveries, again.attempt) == (late.id, 2, 1)
        assert again.fence > late.fence
        with pytest.raises(reliq.LeaseLost, match=late.id):
            await sh(late.ack())
        assert late.lost
        assert tuple(await sh(q.size())) == (0, 1, 0, 0)
        await sh(again.ack())
    assert {("reap", "lost"), ("late", "ack")} <= set(events(redis, q))
    assert tuple(await sh(q.size())) == (0, 0, 0, 0)


@pytest.mark.parametrize("verb", ["retry", "release", "bury", "block"])
async def test_every_late_settle_is_refused(sh: Shell, redis: redis_py.Redis, verb: str) -> None:
    """No settle of a lost lease adds or removes anything."""
    q = sh.queue()
    await sh(q.put(1))
    async with sh.open(q.consumer()) as c:
        (lease,) = await sh(c.claim())
        expire(redis, q, c)
        assert (await sh(sh.Reaper(q).run_once())).returned == 1

        async def block() -> None:
            async with sh.open(lease):
                pass

        verbs = {
            "retry": lambda: lease.retry(delay=1),
            "release": lease.release,
            "bury": lambda: lease.bury("x"),
            "block": block,
        }
        with pytest.raises(reliq.LeaseLost):
            await sh(verbs[verb]())
        assert sum(await sh(q.size())) == 1
    assert await sh.drain(q) == [1]


async def test_handler_learns_that_its_lease_is_lost(sh: Shell, redis: redis_py.Redis) -> None:
    """lease.lost turns True by itself, soon after the reap, without a settle."""
    q = sh.queue()
    await sh(q.put(1))
    async with sh.open(q.consumer()) as c, sh.open(q.consumer()) as other:
        (lease,) = await sh(c.claim())
        expire(redis, q, c)
        await sh(sh.Reaper(q).run_once())
        (again,) = await sh(other.claim(timeout=5))
        assert await until(lambda: lease.lost)
        await sh(again.ack())


async def test_slow_handler_keeps_its_lease(sh: Shell, redis: redis_py.Redis) -> None:
    """A handler may take several leases' time while its consumer is open: it renews."""
    q = sh.queue(lease=1.5)
    await sh(q.put(1))
    redis.hset(q.options.keys.stats, "server_since", 0)
    async with sh.open(q.consumer()) as c:
        (lease,) = await sh(c.claim())
        for _ in range(10):
            await asyncio.sleep(0.2)
            assert (await sh(sh.Reaper(q).run_once())).returned == 0
        await sh(lease.ack())
    assert tuple(await sh(q.size())) == (0, 0, 0, 0)


async def test_context_and_log_records_name_the_message(sh: Shell) -> None:
    """Inside the block context.current() and log records name the message; outside they do not."""
    q = sh.queue()
    trace = "cd" * 16
    with context.tracing(trace):
        await sh(q.put("outer"))
    records: list[Any] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    handler = Keep()
    handler.addFilter(ContextFilter())
    logger = logging.getLogger("conformance")
    logger.addHandler(handler)
    try:
        async with sh.open(q.consumer()) as c:
            (lease,) = await sh(c.claim())
            async with sh.open(lease):
                current = context.current()
                logger.warning("inside")
                inner = await sh(q.put("inner"))
            logger.warning("outside")
            assert current == ("q", lease.id, 1, c.name, trace)
            (lease,) = await sh(c.claim())
            assert (lease.id, lease.trace_id) == (inner, trace)
            await sh(lease.ack())
    finally:
        logger.removeHandler(handler)
    inside, outside = records
    assert (inside.trace_id, inside.queue, inside.attempt, inside.consumer) == (trace, "q", 1, c.name)
    assert (outside.trace_id, outside.queue, outside.id) == ("-", "-", "-")
    assert context.current() is None


async def test_settles_of_several_share_trips(sh: Shell, redis: redis_py.Redis) -> None:
    """Fifty acks at once take far fewer than fifty trips, and each is confirmed."""
    q = sh.queue()
    await sh(q.put_many(range(50)))
    async with sh.open(q.consumer(prefetch=50)) as c:
        leases = await sh(c.claim(50))
        before = int(redis.hget(q.options.keys.session(c.name), "trip"))
        await asyncio.gather(*(sh.start(lease.ack) for lease in leases))
        trips = int(redis.hget(q.options.keys.session(c.name), "trip")) - before
        assert tuple(await sh(q.size())) == (0, 0, 0, 0)
    if sh.name == "aio":
        assert trips <= 5


async def test_acks_of_a_list_that_somebody_has_changed_by_hand(sh: Shell, redis: redis_py.Redis) -> None:
    """What is acked is looked for by name then, in the same call: what is gone is refused, what is new is
    delivered, the others are done."""
    q, other = sh.queue(), sh.queue("other")
    await sh(q.put_many(range(4)))
    await sh(other.put("new"))
    (element,) = redis.lrange(other.options.keys.ready, 0, -1)
    async with sh.open(q.consumer(prefetch=4)) as c:
        leases = await sh(c.claim(4))
        redis.lset(q.options.keys.doing(c.name), 0, element)
        c.state.finished.extend(lease._message for lease in leases[:3])
        assert int(c.state.trip(0, 0.0).args[11]) == -3
        c.state.refused()
        await sh(leases[3].ack())
        assert [lease._message.lost for lease in leases] == [True, False, False, False]
        (lease,) = await sh(c.claim(timeout=5))
        assert lease.body == "new"
        await sh(lease.ack())
    assert tuple(await sh(q.size())) == (0, 0, 0, 0)
    assert redis.hget(q.options.keys.stats, "ack") == b"4"
