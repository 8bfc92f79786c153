"""Large bodies beside the list: handlers see no difference, and no fault loses one or leaves one behind."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import redis as redis_py
import tenacity

import reliq
from reliq.core import beside, scripts
from reliq.core import envelope as env
from reliq.errors import BodyError, ConfigError
from tests.conformance.shell import Shell, dead_letters, events, expire, until
from tests.faults.proxy import FaultProxy, black_hole, delay_reply, delay_request, drop_reply, reply_error
from tests.servers import ExternalServer, RedisServer

ROOT = Path(__file__).resolve().parents[2]
LARGE = 100_000


def large(number: int, size: int = LARGE) -> bytes:
    """A body that is told from others."""
    return bytes([number]) * size


def left(redis: redis_py.Redis, queue: Any) -> dict[str, int]:
    """The bodies that lie beside the list, and their sizes."""
    found = sorted(redis.scan_iter(match=queue.options.keys.body(b"") + "*", count=1000))
    return {key.decode(): int(redis.strlen(key)) for key in found}


@asynccontextmanager
async def on_the_side(work: Callable[[], None]) -> AsyncIterator[None]:
    """Meanwhile, in a thread: the blocking shell holds the event loop."""
    thread = threading.Thread(target=work)
    thread.start()
    yield
    await asyncio.to_thread(thread.join)


@pytest.fixture
def proxy(server: RedisServer | ExternalServer) -> Iterator[FaultProxy]:
    """A proxy to the shared server that knows the scripts by name."""
    port = int(server.url.rsplit(":", 1)[1].split("/")[0])
    with FaultProxy("127.0.0.1", port) as running:
        running.scripts.update({s.name: s.sha for s in vars(scripts).values() if isinstance(s, scripts.Script)})
        yield running


# -- as if they were small ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [{}, {"id": "mine"}, {"delay": 0.05}, {"id": "mine", "delay": 0.05}, {"at": timedelta(seconds=0.05)}],
)
@pytest.mark.parametrize("trace", [None, True])
async def test_a_large_body_comes_as_it_was_put(
    sh: Shell, redis: redis_py.Redis, options: dict[str, Any], trace: bool | None
) -> None:
    """However it was put; the list has little of it, and after the ack Redis has none."""
    q = sh.queue(trace=trace)
    if isinstance(after := options.get("at"), timedelta):
        options = {"at": datetime.now(timezone.utc) + after}
    body = {"text": "ä" * LARGE, "n": 1}
    mid = await sh(q.put(body, **options))
    assert list(left(redis, q).values()) == [2 * LARGE + 14]
    assert (
        redis.memory_usage(q.options.keys.later if len(options.keys() - {"id"}) else q.options.keys.ready) < 5000
    )
    async with sh.open(q.consumer()) as c:
        (lease,) = await sh(c.claim(timeout=5))
        assert (lease.id, lease.body, lease.attempt, lease.fence) == (mid, body, 1, 1)
        async with sh.open(lease):
            assert left(redis, q) != {}
    assert left(redis, q) == {}
    assert tuple(await sh(q.size())) == (0, 0, 0, 0)


async def test_an_id_puts_one_message_and_one_body(sh: Shell, redis: redis_py.Redis) -> None:
    """From any process, and whatever the second body is."""
    q, other = sh.queue(), sh.queue()
    assert await sh(q.put(large(1), id="mine")) == await sh(other.put(large(2), id="mine"))
    assert len(left(redis, q)) == 1
    assert await sh.drain(q) == [large(1)]
    assert await sh(other.put(large(3), id="mine"))
    assert left(redis, q) == {}


async def test_large_and_small_keep_their_order(sh: Shell, redis: redis_py.Redis) -> None:
    """One put_many of both, with a prefetch over them all."""
    q = sh.queue()
    bodies = [large(n, LARGE if n % 3 else 10) for n in range(12)]
    ids = await sh(q.put_many(bodies))
    assert len(left(redis, q)) == 8
    async with sh.open(q.consumer(prefetch=50, until_empty=True)) as c:
        found = []
        async for lease in sh.each(c):
            async with sh.open(lease):
                found.append((lease.id, lease.body))
    assert found == list(zip(ids, bodies, strict=True))
    assert left(redis, q) == {}


@pytest.mark.parametrize("codec", ["msgpack", "json", "bytes"])
@pytest.mark.parametrize(("over", "count"), [(0, 0), (1, 1)])
async def test_the_limit_is_of_encoded_bodies(
    sh: Shell, redis: redis_py.Redis, codec: str, over: int, count: int
) -> None:
    """Up to claim_check bytes they travel with their message; a body of any codec comes back as it was."""
    q = sh.queue(codec=codec, claim_check=2000)
    around = {"msgpack": 3, "json": 2, "bytes": 0}[codec]
    text = "x" * (2000 - around + over)
    body: Any = text.encode() if codec == "bytes" else text
    await sh(q.put(body))
    await sh(q.put_many([body, body]))
    assert left(redis, q) == dict.fromkeys(left(redis, q), 2001)
    assert len(left(redis, q)) == 3 * count
    assert await sh.drain(q) == [body] * 3
    assert left(redis, q) == {}


@pytest.mark.parametrize("value", [0, 1023, -1, True, 1e6, "64k", None])
def test_a_limit_that_is_none(sh: Shell, value: Any) -> None:
    """Small bodies are better off in the list."""
    with pytest.raises(ConfigError, match="claim_check="):
        sh.queue(claim_check=value)


async def test_consumers_need_not_know_the_limit(sh: Shell, redis: redis_py.Redis) -> None:
    """What was put by one setting is handled under another."""
    await sh(sh.queue(claim_check=1024).put("x" * 2000))
    assert await sh.drain(sh.queue(claim_check=10**9)) == ["x" * 2000]
    assert left(redis, sh.queue()) == {}


async def test_max_body_holds_for_large_ones(sh: Shell, redis: redis_py.Redis) -> None:
    """Refused before anything is sent."""
    q = sh.queue(max_body=LARGE)
    with pytest.raises(BodyError):
        await sh(q.put(large(1)))
    assert left(redis, q) == {}


async def test_no_settle_sends_a_body(sh: Shell, redis: redis_py.Redis) -> None:
    """What Redis has to read for an ack, a retry, a release, a bury does not grow with the body."""
    q = sh.queue()
    await sh(q.put_many([large(n, 1_000_000) for n in range(4)]))
    async with sh.open(q.consumer(prefetch=4)) as c:
        leases = [(await sh(c.claim(timeout=5)))[0] for _ in range(4)]
        before = redis.info("stats")["total_net_input_bytes"]
        await sh(leases[0].ack())
        await sh(leases[1].retry(delay=60))
        await sh(leases[2].release())
        await sh(leases[3].bury("x"))
        assert redis.info("stats")["total_net_input_bytes"] - before < 20_000
    assert len(left(redis, q)) == 3


async def test_a_retried_message_keeps_its_body(sh: Shell, redis: redis_py.Redis) -> None:
    """Through retry, release, bury and revive, to the ack."""
    q = sh.queue(retry=reliq.Retry(attempts=2, wait=tenacity.wait_none()))
    mid = await sh(q.put(large(1)))
    key = left(redis, q)
    async with sh.open(q.consumer()) as c:
        for _ in range(2):
            (lease,) = await sh(c.claim(timeout=5))
            async with sh.open(lease):
                raise ValueError(lease.body[:1])
    assert tuple(await sh(q.size())) == (0, 0, 0, 1)
    assert await sh(q.revive(mid))
    async with sh.open(q.consumer()) as c:
        (lease,) = await sh(c.claim(timeout=5))
        await sh(lease.release())
    assert left(redis, q) == key
    assert await sh.drain(q) == [large(1)]
    assert left(redis, q) == {}


async def test_a_reaped_message_keeps_its_body(sh: Shell, redis: redis_py.Redis) -> None:
    """The late ack of the consumer that lost it takes nothing away."""
    q = sh.queue()
    await sh(q.put(large(1)))
    async with sh.open(q.consumer()) as c:
        (lease,) = await sh(c.claim(timeout=5))
        expire(redis, q, c)
        await sh(sh.Reaper(q).run_once())
        with pytest.raises(reliq.LeaseLost):
            await sh(lease.ack())
    assert len(left(redis, q)) == 1
    assert await sh.drain(q) == [large(1)]
    assert left(redis, q) == {}


async def test_close_gives_back_in_order(sh: Shell, redis: redis_py.Redis) -> None:
    """With their bodies, whatever was prefetched."""
    q = sh.queue()
    bodies = [large(n, LARGE if n % 2 else 10) for n in range(5)]
    await sh(q.put_many(bodies))
    async with sh.open(q.consumer(prefetch=5)) as c:
        (lease,) = await sh(c.claim(timeout=5))
        assert lease.body == bodies[0]
    assert len(left(redis, q)) == 2
    assert await sh.drain(q) == bodies


# -- workers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("concurrency", [1, 4])
async def test_a_worker_handles_large_ones(sh: Shell, redis: redis_py.Redis, concurrency: int) -> None:
    """Large ones among small ones, each once; nothing is left."""
    q, seen = sh.queue(), Counter[Any]()

    @q.ack
    def handle(body: Any) -> None:
        seen.update([(body[0], len(body))])

    bodies = [large(n, LARGE if n % 5 == 0 else 100) for n in range(60)]
    await sh(q.put_many(bodies))
    await sh.start(sh.Worker(handle, until_empty=True, concurrency=concurrency).run)
    assert seen == Counter((body[0], len(body)) for body in bodies)
    assert (left(redis, q), tuple(await sh(q.size()))) == ({}, (0, 0, 0, 0))


@asynccontextmanager
async def at_work(sh: Shell, worker: Any) -> AsyncIterator[None]:
    task = sh.start(worker.run)
    try:
        yield
    finally:
        worker.stop()
        await task


async def test_an_idle_worker_is_woken_by_a_large_one(sh: Shell, redis: redis_py.Redis) -> None:
    """It comes by the bell and the trip behind it, and its body is fetched at once: not with the next trip
    that renews the lease, most of a second later."""
    q, seen = sh.queue(), list[Any]()

    @q.ack
    def handle(body: Any) -> None:
        seen.append(body[0])

    async with at_work(sh, sh.Worker(handle)):
        started = time.monotonic()
        for n in range(5):
            await sh(q.put(large(n)))
            assert await until(lambda n=n: len(seen) == n + 1)  # type: ignore[misc]
        assert time.monotonic() - started < 3
        assert await until(lambda: left(redis, q) == {})
    assert seen == [0, 1, 2, 3, 4]


# -- bodies that are not there ------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["deleted", "a set"])
async def test_a_body_that_is_gone_makes_a_dead_letter(sh: Shell, redis: redis_py.Redis, what: str) -> None:
    """Somebody has deleted the key, or put something else there: the message is kept, and the next ones come."""
    q = sh.queue()
    mid = await sh(q.put(large(1)))
    await sh(q.put(large(2)))
    [key] = [key for key in left(redis, q) if redis.get(key)[9:10] == b"\x01"]
    redis.delete(key)
    if what == "a set":
        redis.sadd(key, "x")
    assert await sh.drain(q) == [large(2)]
    [(note, element)] = dead_letters(redis, q)
    assert (note["id"], note["cause"]) == (mid, "BODY_MISSING")
    assert key in note["error"]
    assert env.unpack(element).id.hex() == mid
    assert ("bury", "BODY_MISSING") in events(redis, q)
    found = await sh(q.explain(mid))
    assert found.reason == "DEAD_BODY_MISSING"


async def test_a_worker_goes_on_without_a_missing_body(sh: Shell, redis: redis_py.Redis) -> None:
    """Its slot is free again."""
    q, seen = sh.queue(), list[Any]()

    @q.ack
    def handle(body: Any) -> None:
        seen.append(body[0])

    await sh(q.put_many([large(1), large(2)]))
    [key] = [key for key in left(redis, q) if redis.get(key)[9:10] == b"\x01"]
    redis.delete(key)
    await sh.start(sh.Worker(handle, until_empty=True, concurrency=1).run)
    assert seen == [2]
    assert [note["cause"] for note, _ in dead_letters(redis, q)] == ["BODY_MISSING"]


async def test_a_body_that_somebody_has_acked_is_a_lost_lease(
    sh: Shell, proxy: FaultProxy, redis: redis_py.Redis
) -> None:
    """The message was reaped and handled by another while its body was fetched: no dead letter, no handler."""
    slow, q = sh.queue(url=proxy.url), sh.queue()
    await sh(q.put(large(1)))
    async with sh.open(slow.consumer()) as c:
        rule = proxy.on("GET", action=delay_request(1.5))
        claiming = sh.start(c.claim, timeout=3)
        assert await until(lambda: rule.hits == 1)
        expire(redis, q, c)
        await sh(sh.Reaper(q).run_once())
        assert await sh.drain(q) == [large(1)]
        assert await claiming == []
        await sh(q.put(large(2)))
        (lease,) = await sh(c.claim(timeout=5))
        assert lease.body == large(2)
        await sh(lease.ack())
    assert (dead_letters(redis, q), left(redis, q)) == ([], {})


async def test_without_the_right_to_fetch_nothing_piles_up(
    own_sh: Shell, own_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """An ACL of an older release has no GET: it is said once, no more is claimed, and all goes back in order."""
    sh = own_sh
    q = sh.queue()
    await sh(q.put_many([large(n) for n in range(5)]))
    with own_server.client() as redis:
        redis.execute_command("ACL", "SETUSER", "old", "on", "nopass", "~*", "+@all", "-get")
        url = own_server.url.replace("redis://", "redis://old:x@")
        with caplog.at_level(logging.ERROR, "reliq"):
            async with sh.open(sh.queue(url=url).consumer(prefetch=1)) as c:
                before = redis.info("stats")["total_commands_processed"]
                for _ in range(3):
                    assert await sh(c.claim(timeout=0.3)) == []
                assert redis.info("stats")["total_commands_processed"] - before < 1000
                assert (await sh(q.size())).doing == 1
        said = [record for record in caplog.records if "cannot be handed over yet" in record.getMessage()]
        assert len(said) == 1
        assert "get" in said[0].getMessage().lower()
    assert await sh.drain(q) == [large(n) for n in range(5)]


# -- faults -------------------------------------------------------------------------------------------------


async def test_a_slow_body_is_waited_for(sh: Shell, proxy: FaultProxy, redis: redis_py.Redis) -> None:
    """Longer than messages wait that nobody minds: the keeper does not give it back, and it comes once."""
    q = sh.queue(url=proxy.url)
    await sh(q.put(large(1)))
    async with sh.open(q.consumer()) as c:
        rule = proxy.on("GET", action=delay_reply(2.5))
        (lease,) = await sh(c.claim(timeout=5))
        assert rule.hits == 1
        assert (lease.body, lease.deliveries, lease.fence) == (large(1), 1, 1)
        await sh(lease.ack())
    assert not [event for event, _ in events(redis, q) if event in ("release", "late")]
    assert (left(redis, q), tuple(await sh(q.size()))) == ({}, (0, 0, 0, 0))


async def test_until_empty_does_not_take_a_failed_fetch_for_empty(sh: Shell, proxy: FaultProxy) -> None:
    """The body is there, and comes with one of the next trips."""
    q = sh.queue(url=proxy.url)
    await sh(q.put(large(1)))
    rule = proxy.on("GET", action=reply_error(b"-CLUSTERDOWN The cluster is down"), count=5)
    assert await sh.drain(q) == [large(1)]
    assert rule.hits == 5


async def test_bodies_are_fetched_once(sh: Shell, proxy: FaultProxy) -> None:
    """The keeper makes trips meanwhile, and leaves it to whoever is at it."""
    q = sh.queue(url=proxy.url)
    await sh(q.put_many([large(n, 70_000) for n in range(3)]))
    async with sh.open(q.consumer(prefetch=3)) as c:
        slow = proxy.on("GET", action=delay_reply(1.5))
        fetches = proxy.on("GET", action=delay_request(0), count=None)
        for n in range(3):
            (lease,) = await sh(c.claim(timeout=5))
            assert (lease.body, lease.fence) == (large(n, 70_000), 1)
            await sh(lease.ack())
    assert (slow.hits, fetches.hits) == (1, 3)


async def test_lost_replies_of_puts(sh: Shell, proxy: FaultProxy, redis: redis_py.Redis) -> None:
    """Redis ran the put and the reply vanished: one message, one body."""
    q = sh.queue(url=proxy.url)
    await sh(q.put(0))
    for n, options in enumerate(({}, {"id": "mine"}, {"delay": 60})):
        rule = proxy.on(script="put", action=drop_reply())
        await sh(q.put(large(n), **options))
        assert rule.hits == 1
        assert len(left(redis, q)) == n + 1
    assert tuple(await sh(q.size())) == (3, 0, 1, 0)
    assert await sh.drain(q) == [0, large(0), large(1)]
    assert len(left(redis, q)) == 1


async def test_lost_replies_of_what_is_brought(sh: Shell, proxy: FaultProxy, redis: redis_py.Redis) -> None:
    """The body came and the reply vanished: it is brought again, which changes nothing. It is there to stay."""
    q = sh.queue(url=proxy.url)
    await sh(q.put(0))
    rule = proxy.on("SET", action=drop_reply())
    await sh(q.put(large(1)))
    assert rule.hits == 1
    [(key, size)] = left(redis, q).items()
    assert (size > LARGE, redis.ttl(key)) == (True, -1)
    assert await sh.drain(q) == [0, large(1)]


async def test_a_body_that_cannot_be_brought_is_a_refusal(
    sh: Shell, proxy: FaultProxy, redis: redis_py.Redis
) -> None:
    """Nobody answers to that: nothing was put, however it ends; what came all the same ends by itself."""
    q = sh.queue(url=proxy.url, timeout=0.4)
    await sh(q.put(0))
    rule = proxy.on("SET", action=drop_reply(), count=None)
    with pytest.raises(reliq.errors.Unavailable, match="Nothing was put"):
        await sh(q.put(large(1)))
    with pytest.raises(reliq.errors.PutManyError) as many:
        await sh(q.put_many(["small", large(2), "small"]))
    rule.remove()
    assert [len(part) for part in (many.value.accepted, many.value.unknown, many.value.refused)] == [1, 0, 2]
    assert all(0 < redis.ttl(key) <= 3600 for key in left(redis, q))
    assert await sh.drain(q) == [0, "small"]


async def test_a_late_copy_ends_no_body(sh: Shell, redis: redis_py.Redis) -> None:
    """What brings a body runs once more when the put is through, from a connection that was given up: it stays.
    And after the ack: what that leaves ends by itself."""
    q = sh.queue()
    await sh(q.put(large(1)))
    [key] = left(redis, q)
    late = beside.bring(beside.checked(b"", key, b"x"), q.name)
    redis.execute_command(*late.words())
    assert (redis.ttl(key), redis.strlen(key) > LARGE) == (-1, True)
    assert await sh.drain(q) == [large(1)]
    redis.execute_command(*late.words())
    assert 0 < redis.ttl(key) <= 3600


async def test_a_brought_body_that_is_gone_refuses_the_put(
    sh: Shell, proxy: FaultProxy, redis: redis_py.Redis
) -> None:
    """A failover, or an eviction, between the two steps: told as what it is, and the next try goes through."""
    q = sh.queue(url=proxy.url)
    await sh(q.put(0))
    rule = proxy.on(script="put", action=delay_request(0.5))

    def delete() -> None:
        while not rule.hits:
            time.sleep(0.01)
        redis.delete(*left(redis, q))

    async with on_the_side(delete):
        with pytest.raises(reliq.errors.Unavailable, match="put it again"):
            await sh(q.put(large(1)))
    await sh(q.put(large(1)))
    assert await sh.drain(q) == [0, large(1)]


async def test_an_unknown_put_is_repeated(sh: Shell, proxy: FaultProxy, redis: redis_py.Redis) -> None:
    """Also after its message was handled: then no body is left behind by the repeat."""
    q = sh.queue(url=proxy.url, timeout=0.4)
    await sh(q.put(0))
    rule = proxy.on(script="put", action=drop_reply(), count=None)
    with pytest.raises(reliq.OutcomeUnknown) as caught:
        await sh(q.put(large(1)))
    with pytest.raises(reliq.errors.PutManyError) as many:
        await sh(q.put_many([large(2), large(3)]))
    rule.remove()
    assert [len(part) for part in (many.value.accepted, many.value.unknown, many.value.refused)] == [0, 1, 1]
    assert await sh.drain(sh.queue()) == [0, large(1), large(2)]
    assert await sh(q.repeat(caught.value)) == caught.value.ids
    assert await sh(q.repeat(many.value)) == many.value.unknown
    assert (left(redis, q), tuple(await sh(q.size()))) == ({}, (0, 0, 0, 0))


async def test_lost_replies_of_claims_and_acks(sh: Shell, proxy: FaultProxy, redis: redis_py.Redis) -> None:
    """Of the trip that claims, of the fetch, of the trip that acks: it is handled once, and then gone."""
    q, seen = sh.queue(url=proxy.url), []
    for n in range(3):
        await sh(q.put(large(n)))
    async with sh.open(q.consumer()) as c:
        rules = [proxy.on(script="trip", action=drop_reply()), proxy.on("GET", action=drop_reply(), count=2)]
        for _ in range(3):
            (lease,) = await sh(c.claim(timeout=5))
            seen.append((lease.body, lease.deliveries))
            rules.append(proxy.on(script="trip", action=drop_reply()))
            await sh(lease.ack())  # which claims the next one
        assert [rule.hits for rule in rules] == [1, 2, 1, 1, 1]
    assert seen == [(large(n), 1) for n in range(3)]
    assert (left(redis, q), tuple(await sh(q.size()))) == ({}, (0, 0, 0, 0))


async def test_who_is_interrupted_while_a_body_comes_loses_nothing(
    sh: Shell, proxy: FaultProxy, redis: redis_py.Redis
) -> None:
    """KeyboardInterrupt, or the end of the task: the next claim brings what that one would have, in order."""
    q = sh.queue(url=proxy.url)
    await sh(q.put_many([large(1, 10), large(2, 70_000), large(3, 70_000), large(4, 10)]))
    async with sh.open(q.consumer(prefetch=4)) as c:
        rule = proxy.on("GET", action=delay_reply(1.0), first=1)
        if sh.name == "aio":
            claiming = sh.start(c.claim)
            assert await until(lambda: rule.hits == 1)
            claiming.cancel()
            with pytest.raises(asyncio.CancelledError):
                await claiming
        else:
            before = signal.signal(signal.SIGALRM, signal.default_int_handler)
            signal.setitimer(signal.ITIMER_REAL, 0.4)
            try:
                with pytest.raises(KeyboardInterrupt):
                    c.claim()
            finally:
                signal.signal(signal.SIGALRM, before)
        assert rule.hits == 1
        found = []
        while len(found) < 4:
            (lease,) = await sh(c.claim(timeout=5))
            found.append((lease.body[0], lease.fence))
            await sh(lease.ack())
    assert found == [(n, 1) for n in range(1, 5)]
    assert (left(redis, q), tuple(await sh(q.size()))) == ({}, (0, 0, 0, 0))


CLAIMS = {
    "sync": """
        import reliq, sys
        with reliq.Queue("q", sys.argv[1], prefix=sys.argv[2]).consumer() as consumer:
            consumer.claim()
    """,
    "aio": """
        import asyncio, sys
        from reliq.aio import Queue
        async def main():
            async with Queue("q", sys.argv[1], prefix=sys.argv[2]).consumer() as consumer:
                await consumer.claim()
        asyncio.run(main())
    """,
}


async def test_kill_9_between_claim_and_fetch(
    sh: Shell, proxy: FaultProxy, redis: redis_py.Redis, prefix: str
) -> None:
    """Message and body are where they were; a reaper brings both to whoever comes next."""
    q = sh.queue()
    await sh(q.put(large(1)))
    rule = proxy.on("GET", action=black_hole())
    code = textwrap.dedent(CLAIMS[sh.name])
    process = subprocess.Popen([sys.executable, "-c", code, proxy.url, prefix], cwd=ROOT)  # noqa: ASYNC220
    try:
        assert await until(lambda: rule.hits == 1, seconds=20)
        os.kill(process.pid, signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    assert (await sh(q.size())).doing == 1
    [(name, _)] = redis.zscan_iter(q.options.keys.consumers)
    redis.hset(q.options.keys.stats, "server_since", 0)
    redis.zadd(q.options.keys.consumers, {name: 1})
    await sh(sh.Reaper(q).run_once())
    assert await sh.drain(q) == [large(1)]
    assert left(redis, q) == {}


async def test_a_full_redis_takes_no_large_ones_and_lets_them_out(own_sh: Shell, own_server: RedisServer) -> None:
    """Refused whole, at once or for later; what is in is retried, buried, reaped and acked."""
    sh = own_sh
    q = sh.queue(block=1)
    await sh(q.put_many([large(n) for n in range(4)]))
    with own_server.client() as redis:
        redis.config_set("maxmemory-policy", "noeviction")
        redis.config_set("maxmemory", 1)
        for options in ({}, {"delay": 60}, {"id": "mine"}):
            with pytest.raises(reliq.QueueFull):
                await sh(q.put(large(9), **options))
        with pytest.raises(reliq.errors.PutManyError) as caught:
            await sh(q.put_many([large(8), large(9)]))
        assert len(caught.value.refused) == 2
        assert len(left(redis, q)) == 4
        async with sh.open(q.consumer()) as c:
            for settle in ("ack", "retry", "bury", "release"):
                (lease,) = await sh(c.claim(timeout=5))
                await sh({
                    "ack": lease.ack, "retry": lambda x=lease: x.retry(delay=0),
                    "bury": lambda x=lease: x.bury("x"), "release": lease.release,
                }[settle]())  # fmt: skip
        assert sorted(await sh.drain(q)) == [large(1), large(3)]
        assert len(left(redis, q)) == 1
        redis.config_set("maxmemory", 0)
