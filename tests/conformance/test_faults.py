"""Lost replies, restarts, a full Redis: nothing is lost, nothing is stranded, nothing is done twice."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import redis as redis_py

import reliq
from reliq.core import scripts
from tests.conformance.shell import Shell, events
from tests.faults.proxy import Action, FaultProxy, drop_reply, moved, reply_error, reset
from tests.servers import ExternalServer, RedisServer


@pytest.fixture
def proxy(server: RedisServer | ExternalServer) -> Iterator[FaultProxy]:
    """A proxy to the shared server that knows the scripts by name."""
    port = int(server.url.rsplit(":", 1)[1].split("/")[0])
    with FaultProxy("127.0.0.1", port) as running:
        running.scripts.update({s.name: s.sha for s in vars(scripts).values() if isinstance(s, scripts.Script)})
        yield running


async def test_lost_reply_of_a_put(sh: Shell, proxy: FaultProxy) -> None:
    """Redis ran the put and the reply vanished: put succeeds, and there is one copy."""
    q = sh.queue(url=proxy.url)
    await sh(q.put(0))
    for n, options in enumerate(({}, {"id": "mine"}, {"delay": 60})):
        rule = proxy.on(script="put", action=drop_reply())
        await sh(q.put(n + 1, **options))
        assert rule.hits == 1
    assert tuple(await sh(q.size())) == (3, 0, 1, 0)


async def test_unknown_put_can_be_repeated(sh: Shell, proxy: FaultProxy) -> None:
    """No answer within the timeout: OutcomeUnknown with the ids; repeat() leaves one copy."""
    q = sh.queue(url=proxy.url, timeout=0.4)
    await sh(q.put(0))
    rule = proxy.on(script="put", action=drop_reply(), count=None)
    with pytest.raises(reliq.OutcomeUnknown) as caught:
        await sh(q.put(1))
    with pytest.raises(reliq.OutcomeUnknown):
        await sh(q.repeat(caught.value))
    rule.remove()
    await sh(q.put(2))  # a later put does not swallow the repeat of the earlier one
    assert await sh(q.repeat(caught.value)) == caught.value.ids
    assert await sh(q.repeat(caught.value)) == caught.value.ids
    assert sorted(await sh.drain(sh.queue())) == [0, 1, 2]


async def test_unknown_put_that_never_ran(sh: Shell, proxy: FaultProxy) -> None:
    """The request was lost on the way: repeat() puts it."""
    q = sh.queue(url=proxy.url, timeout=0.4)
    await sh(q.put(0))
    rule = proxy.on(script="put", action=reset(), count=None)
    with pytest.raises((reliq.OutcomeUnknown, reliq.Unavailable)) as caught:
        await sh(q.put(1))
    rule.remove()
    assert isinstance(caught.value, reliq.OutcomeUnknown)
    await sh(q.repeat(caught.value))
    assert await sh.drain(sh.queue()) == [0, 1]


async def test_put_many_in_part(sh: Shell, proxy: FaultProxy) -> None:
    """The second of three chunks gets no answer: the error tells accepted, unknown and refused ids apart."""
    q = sh.queue(url=proxy.url, timeout=0.4)
    await sh(q.put(0))
    rule = proxy.on(script="put", action=drop_reply(), first=1, count=None)
    with pytest.raises(reliq.errors.PutManyError) as caught:
        await sh(q.put_many(range(2500)))
    rule.remove()
    error = caught.value
    assert [len(part) for part in (error.accepted, error.unknown, error.refused)] == [1000, 1000, 500]
    assert await sh(q.repeat(error)) == error.unknown
    assert (await sh(q.size())).ready == 2001


async def test_full_is_told_apart(sh: Shell, proxy: FaultProxy) -> None:
    """An OOM answer is QueueFull, certainly not executed; LOADING is waited for."""
    q = sh.queue(url=proxy.url)
    await sh(q.put(0))
    proxy.on(script="put", action=reply_error(b"-OOM command not allowed when used memory > 'maxmemory'."))
    with pytest.raises(reliq.QueueFull):
        await sh(q.put(1))
    rule = proxy.on(script="put", action=reply_error(b"-LOADING Redis is loading the dataset in memory"))
    await sh(q.put(2))
    assert rule.hits == 1
    assert await sh.drain(sh.queue()) == [0, 2]


async def test_lost_reply_of_a_claim(sh: Shell, proxy: FaultProxy) -> None:
    """The claim ran and its reply vanished: the same consumer gets the message within a second, once."""
    q, direct = sh.queue(url=proxy.url), sh.queue()
    async with sh.open(q.consumer()) as c:
        assert await sh(c.claim(timeout=0)) == []
        await sh(direct.put_many([1, 2]))
        rule = proxy.on(script="trip", action=drop_reply())
        started = time.monotonic()
        (lease,) = await sh(c.claim(timeout=5))
        assert rule.hits == 1
        assert time.monotonic() - started < 1
        assert (lease.body, lease.deliveries, lease.fence) == (1, 1, 1)
        await sh(lease.ack())
        (lease,) = await sh(c.claim(timeout=5))
        assert (lease.body, lease.deliveries) == (2, 1)
        await sh(lease.ack())
        assert await sh(c.claim(timeout=0.1)) == []
    assert tuple(await sh(direct.size())) == (0, 0, 0, 0)


@pytest.mark.parametrize("verb", ["ack", "retry", "release", "bury"])
async def test_lost_reply_of_a_settle(sh: Shell, proxy: FaultProxy, redis: redis_py.Redis, verb: str) -> None:
    """The settle ran and its reply vanished: it is confirmed, done once, and never taken for a late one."""
    q = sh.queue(url=proxy.url)
    await sh(q.put(1))
    async with sh.open(q.consumer()) as c:
        (lease,) = await sh(c.claim())
        rule = proxy.on(script="trip", action=drop_reply())
        verbs = {
            "ack": lease.ack,
            "retry": lambda: lease.retry(delay=60),
            "release": lease.release,
            "bury": lambda: lease.bury("x"),
        }
        await sh(verbs[verb]())
        assert rule.hits == 1
    sizes = {"ack": (0, 0, 0, 0), "retry": (0, 0, 1, 0), "release": (1, 0, 0, 0), "bury": (0, 0, 0, 1)}
    assert tuple(await sh(q.size())) == sizes[verb]
    assert not [event for event in events(redis, q) if event[0] == "late"]


async def test_lost_reply_of_blmove(sh: Shell, proxy: FaultProxy) -> None:
    """BLMOVE moved the message and its reply vanished: the waiting consumer gets it within a second, once."""
    q, direct = sh.queue(url=proxy.url, block=5), sh.queue()
    async with sh.open(q.consumer()) as c:
        rule = proxy.on("BLMOVE", reply=moved, action=drop_reply())
        task = sh.start(c.claim, timeout=10)
        await asyncio.sleep(0.2)
        started = time.monotonic()
        await sh(direct.put(1))
        (lease,) = await task
        assert rule.hits == 1
        assert time.monotonic() - started < 1
        assert (lease.body, lease.deliveries, lease.fence) == (1, 1, 1)
        await sh(lease.ack())
        assert await sh(c.claim(timeout=0.1)) == []
    assert tuple(await sh(direct.size())) == (0, 0, 0, 0)


async def test_lost_reply_of_a_reap(sh: Shell, proxy: FaultProxy, redis: redis_py.Redis) -> None:
    """The reap ran and its reply vanished: each message is back once."""
    q, direct = sh.queue(url=proxy.url), sh.queue()
    await sh(direct.put_many([1, 2]))
    async with sh.open(direct.consumer()) as c:
        leases = await sh(c.claim(2))
        redis.hset(q.options.keys.stats, "server_since", 0)
        redis.zadd(q.options.keys.consumers, {c.name: 1})
        rule = proxy.on(script="reap", action=drop_reply())
        try:
            await sh(sh.Reaper(q).run_once())
        except reliq.ReliqError:
            await sh(sh.Reaper(q).run_once())
        assert rule.hits == 1
        assert redis.llen(q.options.keys.ready) == 2
        for lease in leases:
            with pytest.raises(reliq.LeaseLost):
                await sh(lease.ack())
    assert await sh.drain(direct) == [1, 2]


async def test_a_connection_that_the_other_end_has_closed(sh: Shell, proxy: FaultProxy) -> None:
    """It is seen before anything is written to it: nothing was executed, and a new connection does it."""
    q = sh.queue(url=proxy.url)
    await sh(q.put(1))
    proxy.reset_all()
    for _ in range(50):
        await asyncio.sleep(0)  # an event loop reads the end of it
    await sh(q.put(2))
    assert sorted(await sh.drain(q)) == [1, 2]


async def test_connections_reset_at_any_time(sh: Shell, proxy: FaultProxy) -> None:
    """Every connection is reset again and again while messages flow: all are handled, none is left."""
    q, direct = sh.queue(url=proxy.url), sh.queue()
    await sh(direct.put_many(range(60)))
    seen = set()
    async with sh.open(q.consumer(prefetch=3)) as c:
        while len(seen) < 60:
            leases = await sh(c.claim(3, timeout=10))
            assert leases
            for lease in leases:
                if lease.body % 7 == 0:
                    proxy.reset_all()
                seen.add(lease.body)
                await sh(lease.ack())
    assert seen == set(range(60))
    assert tuple(await sh(direct.size())) == (0, 0, 0, 0)


async def test_unanswered_settle_is_told_and_done_later(sh: Shell, proxy: FaultProxy) -> None:
    """Redis is cut off: ack raises OutcomeUnknown after the timeout; when it heals, the ack is done."""
    q, direct = sh.queue(url=proxy.url, timeout=0.3), sh.queue()
    await sh(direct.put(1))
    async with sh.open(q.consumer()) as c:
        (lease,) = await sh(c.claim())
        proxy.partition()
        started = time.monotonic()
        with pytest.raises(reliq.OutcomeUnknown):
            await sh(lease.ack())
        assert time.monotonic() - started < 3
        proxy.heal(deliver=False)
        assert await sh(c.claim(timeout=0.5)) == []
        assert tuple(await sh(direct.size())) == (0, 0, 0, 0)


# -- servers that stop --------------------------------------------------------------------------------------


async def test_restart_is_survived(own_sh: Shell, own_server: RedisServer) -> None:
    """Redis is killed and started again: the queue, an open consumer and its lease go on."""
    sh = own_sh
    q = sh.queue()
    await sh(q.put_many([1, 2, 3]))
    async with sh.open(q.consumer()) as c:
        (lease,) = await sh(c.claim())
        own_server.kill()
        own_server.start()
        await sh(lease.ack())
        (lease,) = await sh(c.claim(timeout=10))
        assert (lease.body, lease.deliveries) == (2, 1)
        await sh(lease.ack())
        await sh(q.put(4))
        task = sh.start(c.claim, 2, timeout=10)
        leases = await task
        for lease in leases:
            await sh(lease.ack())
    assert await sh.drain(q) + [lease.body for lease in leases] in ([4, 3], [3, 4])


async def test_waiting_consumer_survives_an_outage(own_sh: Shell, own_server: RedisServer) -> None:
    """Redis goes away under a waiting claim and comes back: the claim gets the next message."""
    sh = own_sh
    q = sh.queue(block=1)
    await sh(q.put(0))
    assert await sh.drain(q) == [0]
    async with sh.open(q.consumer()) as c:
        task = sh.start(c.claim, timeout=20)
        await asyncio.sleep(0.2)
        own_server.kill()
        await asyncio.sleep(0.3)
        own_server.start()
        await sh(q.put(1))
        (lease,) = await task
        assert lease.body == 1
        await sh(lease.ack())


async def test_until_empty_does_not_take_an_outage_for_empty(own_sh: Shell, own_server: RedisServer) -> None:
    """A Redis that does not answer is not empty: until_empty goes on when it is back."""
    sh = own_sh
    q = sh.queue(timeout=0.3)
    await sh(q.put_many([1, 2]))

    def back() -> None:
        time.sleep(0.6)
        own_server.start()

    thread = threading.Thread(target=back)  # a task would not run while the blocking shell waits
    seen = []
    async with sh.open(q.consumer(until_empty=True)) as c:
        async for lease in sh.each(c):
            seen.append(lease.body)
            await sh(lease.release() if lease.fence == 1 else lease.ack())
            if len(seen) == 1:
                own_server.kill()
                thread.start()
    thread.join()
    assert seen == [1, 1, 2, 2]


async def test_full_redis_drains(own_sh: Shell, own_server: RedisServer) -> None:
    """At maxmemory puts are refused with QueueFull; claims, acks, retries, reaps go on, and then puts pass."""
    sh = own_sh
    q = sh.queue(block=1)
    await sh(q.put_many(range(20)))
    with own_server.client() as redis:
        await sh(q.ping())
        redis.config_set("maxmemory-policy", "noeviction")
        redis.config_set("maxmemory", 1)
        with pytest.raises(reliq.QueueFull):
            await sh(q.put(99))
        with pytest.raises(reliq.QueueFull):
            await sh(q.put(99, delay=1))
        async with sh.open(q.consumer(prefetch=5)) as c:
            one, two, three, four = await sh(c.claim(4, timeout=5))
            await sh(one.ack())
            await sh(two.retry(delay=0))
            await sh(three.bury("x"))
            await sh(four.release())
            assert (await sh(sh.Reaper(q).run_once())).errors == []
        bodies = await sh.drain(q)
        assert sorted(bodies) == [1, *range(3, 20)]
        async with sh.open(q.consumer()) as c:  # waiting while full: BLMOVE is refused, trips are not
            assert await sh(c.claim(timeout=0.5)) == []
        redis.config_set("maxmemory", 0)
        await sh(q.put(99))
    assert await sh.drain(q) == [99]
    assert tuple(await sh(q.size())) == (0, 0, 0, 1)


@pytest.mark.parametrize("fault", [drop_reply, reset])
async def test_quick_handlers_on_a_bad_line(
    sh: Shell, proxy: FaultProxy, redis: redis_py.Redis, fault: Callable[[], Action]
) -> None:
    """The next trip is under way while handlers work on the last one's messages; whatever becomes of its answer,
    every message is handled, and acked once."""
    total = 20_000
    q, direct = sh.queue(url=proxy.url, timeout=0.3), sh.queue()
    await sh(direct.put_many(range(total)))
    seen: set[int] = set()

    async def coroutine(body: int) -> None:
        seen.add(body)

    rule = proxy.on(script="trip", action=fault(), count=None, probability=0.1)
    worker = sh.Worker(q.ack(seen.add if sh.name == "sync" else coroutine), until_empty=True)
    await sh.start(worker.run)
    rule.remove()
    assert rule.hits > 0
    assert seen == set(range(total))
    assert tuple(await sh(direct.size())) == (0, 0, 0, 0)
    assert int(redis.hget(direct.options.keys.stats, "ack")) == total
