"""Pause, resume and limits: seen by all within a second, in every way to consume; nothing spins or is lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest
import redis as redis_py

from reliq.core import gate, scripts
from reliq.core.gate import Gate
from reliq.errors import PutManyError, QueueDraining
from tests.conformance.shell import Shell, until
from tests.faults.proxy import FaultProxy, drop_reply
from tests.servers import ExternalServer, RedisServer


@pytest.fixture
def proxy(server: RedisServer | ExternalServer) -> Iterator[FaultProxy]:
    """A proxy to the shared server that knows the scripts by name."""
    port = int(server.url.rsplit(":", 1)[1].split("/")[0])
    with FaultProxy("127.0.0.1", port) as running:
        running.scripts.update({s.name: s.sha for s in vars(scripts).values() if isinstance(s, scripts.Script)})
        running.scripts["gate"] = gate._GATE.sha
        yield running


def calls(redis: redis_py.Redis) -> int:
    """How many scripts and blocking reads the server has run."""
    stats = redis.info("commandstats")
    return sum(int(stats.get(f"cmdstat_{name}", {}).get("calls", 0)) for name in ("evalsha", "eval", "blmove"))


async def test_pause_and_resume(sh: Shell) -> None:
    """A worker that sleeps and wakes for a message claims nothing, until it goes on; then in order."""
    q, seen = sh.queue(), []
    worker = sh.Worker(q.ack(seen.append), signals=False)
    task = sh.start(worker.run)
    await sh(q.put(0))
    assert await until(lambda: seen == [0])
    assert await sh(q.pause(by="ada"))
    assert not await sh(q.pause())
    await sh(q.put_many([1, 2, 3]))
    await asyncio.sleep(0.5)
    assert seen == [0]
    found = await sh(q.gate())
    assert found.paused.startswith("ada (")
    resumed = time.monotonic()
    assert await sh(q.resume())
    assert await until(lambda: len(seen) == 4)
    assert time.monotonic() - resumed < 2.5
    worker.stop()
    await task
    assert seen == [0, 1, 2, 3]
    assert await sh(q.gate()) == Gate()


async def test_who_waits_makes_no_noise(sh: Shell, redis: redis_py.Redis) -> None:
    """Messages are ready, and may not be claimed: a worker looks about once a second, and rings no bell."""
    q = sh.queue()
    await sh(q.pause())
    await sh(q.put_many(range(10)))
    worker = sh.Worker(q.ack(lambda body: None), signals=False)
    task = sh.start(worker.run)
    assert await until(lambda: redis.zcard(q.options.keys.consumers))
    await asyncio.sleep(0.5)
    before = calls(redis)
    await asyncio.sleep(3)
    assert calls(redis) - before <= 9
    worker.stop()
    await task
    assert (await sh(q.size())).ready == 10


async def test_it_is_said_once(sh: Shell, caplog: pytest.LogCaptureFixture) -> None:
    """A line when it stops, one when it goes on."""
    q, seen = sh.queue(), []
    worker = sh.Worker(q.ack(seen.append), signals=False)
    await sh(q.pause())
    task = sh.start(worker.run)
    await sh(q.put(1))
    assert await until(lambda: "is paused" in caplog.text)
    await asyncio.sleep(1.5)
    await sh(q.resume())
    assert await until(lambda: seen)
    worker.stop()
    await task
    assert caplog.text.count("is paused: nothing is claimed until somebody says `reliq resume`") == 1
    assert caplog.text.count("it is not paused any more") == 1


async def test_a_consumer_waits(sh: Shell, redis: redis_py.Redis) -> None:
    """One that pulls: it gets nothing, without asking on and on, and then what is there."""
    q = sh.queue()
    await sh(q.put_many([1, 2]))
    await sh(q.pause())
    async with sh.open(q.consumer()) as c:
        before = calls(redis)
        assert await sh(c.claim(timeout=2.2)) == []
        assert calls(redis) - before <= 12  # a loop would make forty
        assert await sh(q.resume())
        (lease,) = await sh(c.claim(timeout=5))
        await sh(lease.ack())
    assert lease.body == 1


async def test_a_paused_queue_that_is_empty_ends_a_burst(sh: Shell) -> None:
    """There is nothing to wait for."""
    q = sh.queue()
    await sh(q.pause())
    assert await sh.drain(q) == []
    worker = sh.Worker(q.ack(lambda body: None), signals=False, until_empty=True)
    await asyncio.wait_for(sh.start(worker.run), 5)


async def test_the_exclusive_mode(sh: Shell) -> None:
    """Its holder gets no batch while the queue is paused."""
    q, bodies = sh.queue(), []
    await sh(q.put_many([1, 2]))
    await sh(q.pause())

    async def resume_soon() -> None:
        await asyncio.sleep(0.4)
        assert bodies == []
        await sh(q.resume())

    resuming = asyncio.create_task(resume_soon()) if sh.name == "aio" else asyncio.create_task(asyncio.sleep(0))
    if sh.name == "sync":
        await sh(q.resume())
    async with sh.open(q.exclusive(until_empty=True)) as holder:
        async for batch in sh.each(holder):
            async with sh.open(batch):
                bodies += batch.bodies
    await resuming
    assert bodies == [1, 2]


async def test_a_rate(sh: Shell, redis: redis_py.Redis) -> None:
    """Two workers together: a burst, then no more than the rate, and not much less."""
    q, seen = sh.queue(), []
    await sh(q.limit(rate=20, burst=5))
    await sh(q.put_many(range(40)))
    workers = [sh.Worker(q.ack(lambda body: seen.append(time.monotonic())), signals=False) for _ in range(2)]
    tasks = [sh.start(worker.run) for worker in workers]
    assert await until(lambda: len(seen) == 40, seconds=15)
    for worker in workers:
        worker.stop()
    await asyncio.gather(*tasks)
    times = sorted(seen)
    took = times[-1] - times[0]
    assert took >= 1.6  # 35 of them at 20 a second
    for i in range(40 - 12):
        assert times[i + 12] - times[i] > (12 - 5) / 20 - 0.15  # whatever the window


async def test_at_once(sh: Shell) -> None:
    """Three workers with eight slots each: never more than four at once, and four as long as work waits."""
    q, running, most, done = sh.queue(), 0, [], []

    async def handle(body: int) -> None:
        nonlocal running
        running += 1
        most.append(running)
        await asyncio.sleep(0.05)
        running -= 1
        done.append(body)

    await sh(q.limit(concurrency=4))
    await sh(q.put_many(range(60)))
    workers = [sh.Worker(q.ack(handle), signals=False) for _ in range(3)]
    tasks = [sh.start(worker.run) for worker in workers]
    assert await until(lambda: len(done) == 60, seconds=20)
    for worker in workers:
        worker.stop()
    await asyncio.gather(*tasks)
    assert max(most) == 4
    assert sorted(done) == list(range(60))


async def test_drained(sh: Shell) -> None:
    """Puts are refused, by one or many, and the error says whom to ask; another attempt is no put."""
    q = sh.queue()
    await sh(q.put(1))
    assert await sh(q.drain(by="ada"))
    with pytest.raises(QueueDraining, match="reliq status says who"):
        await sh(q.put(2))
    with pytest.raises(PutManyError) as caught:
        await sh(q.put_many([3, 4]))
    assert len(caught.value.refused) == 2
    async with sh.open(q.consumer()) as c:
        (lease,) = await sh(c.claim(timeout=5))
        await sh(lease.retry(0))
        (lease,) = await sh(c.claim(timeout=5))
        await sh(lease.ack())
    assert (await sh(q.gate())).draining.startswith("ada (")
    await sh(q.resume())
    await sh(q.put(5))
    assert tuple(await sh(q.size())) == (1, 0, 0, 0)


async def test_explained(sh: Shell) -> None:
    """Why it is not further, by whom, and what to say."""
    q = sh.queue()
    ids = await sh(q.put_many([1, 2]))
    await sh(q.pause(by="ada"))
    explained = await sh(q.explain(ids[0]))
    assert (explained.state, explained.reason) == ("ready", "PAUSED")
    assert "paused by ada (" in str(explained)
    assert "reliq resume" in str(explained)
    await sh(q.resume())
    await sh(q.limit(concurrency=1))
    async with sh.open(q.consumer()) as c:
        (lease,) = await sh(c.claim(timeout=5))
        explained = await sh(q.explain(ids[1]))
        assert explained.reason == "LIMITED"
        assert "1 message in hand, and the limit is 1 at once" in str(explained)
        await sh(lease.ack())


async def test_lost_replies(sh: Shell, proxy: FaultProxy) -> None:
    """To pause or limit once more changes nothing."""
    q = sh.queue(url=proxy.url)
    await sh(q.put(1))
    rule = proxy.on(script="gate", action=drop_reply(), count=2)
    await sh(q.pause())
    await sh(q.limit(rate=5))
    assert rule.hits == 2
    found = await sh(q.gate())
    assert (found.rate, found.burst, found.paused is not None) == (5.0, 5, True)
