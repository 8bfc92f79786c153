"""What only the asyncio shell has to promise: cancellation, event loops, a loop that is blocked."""

from __future__ import annotations

import asyncio
import gc
import logging
import random
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis as redis_py

from reliq.aio import Queue
from reliq.errors import ConsumerClosed
from tests.conformance.shell import until
from tests.servers import ExternalServer, RedisServer


@pytest.fixture
async def q(server: RedisServer | ExternalServer, prefix: str) -> AsyncIterator[Queue]:
    """A queue on the shared server."""
    async with Queue("q", server.url, prefix=prefix) as queue:
        yield queue


async def test_cancelled_claim_strands_nothing(q: Queue) -> None:
    """A claim that is cancelled while it waits: what BLMOVE brings afterwards reaches others at once."""
    async with q.consumer() as lazy, q.consumer() as other:
        task = asyncio.create_task(lazy.claim())
        await asyncio.sleep(0.2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        for body in range(3):
            await q.put(body)
            started = time.monotonic()
            (lease,) = await other.claim(timeout=5)
            assert time.monotonic() - started < 1
            assert (lease.body, lease.deliveries, lease.fence) == (body, 1, 1)
            await lease.ack()
        await q.put("again")
        (lease,) = await lazy.claim(timeout=5)
        await lease.ack()


async def test_claim_cancelled_after_redis_replied(q: Queue) -> None:
    """The message is in the inbox when the waiting task is cancelled: the next claim of anybody has it."""
    async with q.consumer() as c, q.consumer() as other:
        for round in range(20):
            task = asyncio.create_task(c.claim())
            await asyncio.sleep(0.02)
            await q.put(round)
            for _ in range(round % 7):
                await asyncio.sleep(0)
            task.cancel()
            done = await asyncio.gather(task, return_exceptions=True)
            leases = done[0] if isinstance(done[0], list) else await (c, other)[round % 2].claim(timeout=5)
            assert [lease.body for lease in leases] == [round]
            await leases[0].ack()
    assert tuple(await q.size()) == (0, 0, 0, 0)


async def test_cancellation_at_any_point(q: Queue) -> None:
    """Puts, claims and acks are cancelled at random: connections stay in step, nothing is lost."""
    rng = random.Random(7)
    accepted: set[int] = set()
    handled: list[int] = []

    async def put(body: int) -> None:
        await q.put(body)
        accepted.add(body)

    async def handle(c: Any) -> None:
        for lease in await c.claim(timeout=0.1):
            async with lease:
                await asyncio.sleep(rng.random() * 0.002)
                handled.append(lease.body)

    async def cut(work: Any) -> None:
        task = asyncio.create_task(work)
        await asyncio.sleep(rng.random() * 0.004)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async with q.consumer(prefetch=3) as c:
        for body in range(150):
            await asyncio.gather(cut(put(body)), cut(handle(c)), cut(q.size()), put(1000 + body))
            assert await q.ping()
        while leases := await c.claim(10, timeout=0.5):
            for lease in leases:
                async with lease:
                    handled.append(lease.body)
    assert accepted <= set(handled)
    assert set(handled) <= set(range(150)) | set(range(1000, 1150))
    assert tuple(await q.size()) == (0, 0, 0, 0)


async def test_cancelled_handler_releases(q: Queue) -> None:
    """A task that is cancelled inside `async with lease`: it ends at once, and the message is back, uncounted."""
    await q.put(1)
    started = asyncio.Event()

    async def handler(c: Any) -> None:
        async for lease in c:
            async with lease:
                started.set()
                await asyncio.sleep(60)

    async with q.consumer() as c, q.consumer() as other:
        task = asyncio.create_task(handler(c))
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        (lease,) = await other.claim(timeout=5)
        assert (lease.attempt, lease.deliveries, lease.fence) == (1, 1, 2)
        await lease.ack()


async def test_cancelled_ack_is_done(q: Queue) -> None:
    """A task that is cancelled while it acks: the ack is made all the same."""
    await q.put_many(range(20))
    async with q.consumer() as c:
        for turns in range(20):
            (lease,) = await c.claim(timeout=5)
            task = asyncio.create_task(lease.ack())
            for _ in range(turns % 8):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            if not lease.settled:  # cancelled before it began
                await lease.ack()
    assert tuple(await q.size()) == (0, 0, 0, 0)


async def test_closed_generator_releases(q: Queue) -> None:
    """GeneratorExit inside the blocks of lease and consumer: nothing may be awaited there, and nothing is lost."""
    await q.put(1)

    async def bodies() -> AsyncIterator[Any]:
        async with q.consumer() as c:
            async for lease in c:
                async with lease:
                    yield lease.body

    generator: Any = bodies()
    assert await generator.__anext__() == 1
    await generator.aclose()
    async with q.consumer() as c:
        (lease,) = await c.claim(timeout=5)
        assert (lease.attempt, lease.deliveries) == (1, 1)
        await lease.ack()


async def test_timeout_around_a_claim_and_a_handler(q: Queue) -> None:
    """asyncio.wait_for around them works as around anything else."""
    async with q.consumer() as c:
        for _ in range(3):
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(c.claim(), 0.05)
        await q.put(1)
        (lease,) = await asyncio.wait_for(c.claim(), 5)
        await lease.ack()


async def test_blocked_event_loop_is_reported(
    server: RedisServer | ExternalServer, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Code that blocks the event loop for long is named in a warning: the lease could not be renewed."""
    async with Queue("q", server.url, prefix=prefix, lease=1.5) as q:
        await q.put(1)
        async with q.consumer() as c:
            (lease,) = await c.claim()
            await asyncio.sleep(0.1)
            with caplog.at_level(logging.WARNING, "reliq"):
                time.sleep(1.8)  # noqa: ASYNC251 - that is the point
                assert await until(lambda: "event loop was blocked" in caplog.text, seconds=2)
            await lease.ack()


async def test_many_at_once_share_few_connections(q: Queue, redis: redis_py.Redis) -> None:
    """A thousand puts at once go through at most 16 connections."""
    before: Any = redis.info("stats")
    await asyncio.gather(*(q.put(n) for n in range(1000)))
    after: Any = redis.info("stats")
    assert after["total_connections_received"] - before["total_connections_received"] <= 16
    assert (await q.size()).ready == 1000


async def test_consumer_connects_when_it_is_used(q: Queue, redis: redis_py.Redis) -> None:
    """queue.consumer() is a plain call without I/O; claiming without `async with` opens it."""
    unused = q.consumer()
    await unused.aclose()
    with pytest.raises(ConsumerClosed):
        await unused.claim(timeout=0)
    c = q.consumer()
    assert redis.zcard(q.options.keys.consumers) == 0
    assert await c.claim(timeout=0) == []
    assert redis.zcard(q.options.keys.consumers) == 1
    await c.aclose()
    assert redis.zcard(q.options.keys.consumers) == 0


async def test_close_goes_on_when_its_waiter_is_cancelled(q: Queue) -> None:
    """aclose() cancelled at once: what was held goes back all the same."""
    await q.put_many([1, 2])
    c = q.consumer(prefetch=2)
    (lease,) = await c.claim()
    task = asyncio.create_task(c.aclose())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await c.aclose()
    assert tuple(await q.size()) == (2, 0, 0, 0)
    assert not lease.settled


def test_second_event_loop(server: RedisServer | ExternalServer, prefix: str) -> None:
    """A queue may be used on one event loop after another; a consumer belongs to its own."""
    q = Queue("q", server.url, prefix=prefix)

    async def first() -> Any:
        c = q.consumer()
        assert await c.claim(timeout=0) == []
        await asyncio.gather(*(q.put(n) for n in range(5)))
        return c

    async def second(c: Any) -> list[int]:
        with pytest.raises(ConsumerClosed):
            await c.claim(timeout=0)
        await c.aclose()
        async with q.consumer(until_empty=True) as mine:
            bodies = []
            async for lease in mine:
                async with lease:
                    bodies.append(lease.body)
        return bodies

    assert sorted(asyncio.run(second(asyncio.run(first())))) == [0, 1, 2, 3, 4]


def test_two_event_loops_at_once(server: RedisServer | ExternalServer, prefix: str) -> None:
    """Two threads with an event loop each may use one queue at the same time."""
    q = Queue("q", server.url, prefix=prefix)

    async def puts() -> None:
        await asyncio.gather(*(q.put(n) for n in range(200)))

    async def both() -> int:
        await asyncio.gather(*(asyncio.to_thread(asyncio.run, puts()) for _ in range(2)))
        ready = (await q.size()).ready
        await q.aclose()
        return ready

    assert asyncio.run(both()) == 400


def run_script(server: RedisServer | ExternalServer, prefix: str, text: str) -> str:
    """Run it in a fresh interpreter where every warning is an error; returns what it printed."""
    head = (
        "import asyncio, os, sys\nfrom reliq.aio import Queue\nq = Queue('q', sys.argv[1], prefix=sys.argv[2])\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", head + textwrap.dedent(text), server.url, prefix],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


def test_nothing_need_be_closed_by_hand(server: RedisServer | ExternalServer, prefix: str) -> None:
    """asyncio.run ends: the connections close without a warning, and an open consumer gives back in order."""
    script = """
        async def main():
            await q.put_many([1, 2, 3])
            c = q.consumer(prefetch=2)
            (lease,) = await c.claim()
            print(lease.body)
            return lease
        lease = asyncio.run(main())
        async def sizes():
            print(tuple(await q.size()))
        asyncio.run(sizes())
    """
    assert run_script(server, prefix, script) == "1\n(3, 0, 0, 0)"


def test_fork_under_a_running_loop(server: RedisServer | ExternalServer, prefix: str) -> None:
    """A child opens connections of its own, its consumer raises, and the parent goes on as if nothing was."""
    script = """
        from reliq.errors import ConsumerClosed
        async def child(c):
            try:
                await c.claim(timeout=0)
            except ConsumerClosed as error:
                assert "fork" in str(error)
                await q.put("child")
                await q.aclose()
                os._exit(0)
            os._exit(3)
        async def main():
            await q.put("before")
            async with q.consumer() as c:
                (lease,) = await c.claim()
                pid = os.fork()
                if pid == 0:
                    try:
                        asyncio.events._set_running_loop(None)
                        asyncio.new_event_loop().run_until_complete(child(c))
                    finally:
                        os._exit(4)
                _, status = await asyncio.to_thread(os.waitpid, pid, 0)
                await lease.ack()
                (lease,) = await c.claim(timeout=5)
                print(os.waitstatus_to_exitcode(status), lease.body)
                await lease.ack()
                await q.put("after")
                (lease,) = await c.claim(timeout=5)
                await lease.ack()
                print(lease.body, await q.ping() != "")
        asyncio.run(main())
    """
    assert run_script(server, prefix, script) == "0 child\nafter True"


async def test_dropped_queue_closes_its_connections(
    server: RedisServer | ExternalServer, prefix: str, redis: redis_py.Redis
) -> None:
    """A queue that nobody holds any more closes what it had open, without a warning."""
    q: Any = Queue("q", server.url, prefix=prefix)
    await q.put(1)

    def ours() -> int:
        return sum(c["name"] == "reliq" for c in redis.client_list())

    before = ours()
    del q
    gc.collect()
    assert before >= 1
    assert await until(lambda: ours() < before)
