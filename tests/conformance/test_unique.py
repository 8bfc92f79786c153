"""Unique messages: what a put is told, what is free when; no fault leaves a key held, or loses a message."""

from __future__ import annotations

import asyncio
import copy
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
import redis as redis_py

import reliq
from reliq import Unique
from reliq.core import scripts
from reliq.errors import ConfigError
from tests.conformance.shell import Shell, dead_letters, events, expire, until
from tests.faults.proxy import FaultProxy, drop_reply, reply_error
from tests.servers import ExternalServer, RedisServer

REPLACE = Unique("k", on_conflict="replace")


@pytest.fixture
def proxy(server: RedisServer | ExternalServer) -> Iterator[FaultProxy]:
    """A proxy to the shared server that knows the scripts by name."""
    port = int(server.url.rsplit(":", 1)[1].split("/")[0])
    with FaultProxy("127.0.0.1", port) as running:
        running.scripts.update({s.name: s.sha for s in vars(scripts).values() if isinstance(s, scripts.Script)})
        yield running


def held(redis: redis_py.Redis, queue: Any) -> dict[str, str]:
    """What the queue knows of unique messages."""
    return {k.decode(): v.decode() for k, v in redis.hgetall(queue.options.keys.uniques).items()}


async def test_the_second_is_told_of_the_first(sh: Shell, redis: redis_py.Redis) -> None:
    """By the receipt, which is the id of the one that is there; when that is done, the next one is the first."""
    q = sh.queue()
    first = await sh(q.put("a", unique="k"))
    again = await sh(q.put("b", unique="k"))
    other = await sh(q.put("c", unique="other"))
    assert (first.added, again.added, other.added) == (True, False, True)
    assert again == first
    assert (first.replaced, again.replaced) == (None, None)
    assert (await sh(q.put("d"))).added
    assert await sh.drain(q) == ["a", "c", "d"]
    assert held(redis, q) == {}
    assert (await sh(q.put("e", unique="k"))).added


async def test_a_receipt_is_a_text_wherever_it_goes(sh: Shell) -> None:
    """Copied and pickled, it says the same."""
    q = sh.queue()
    await sh(q.put(1, unique="k"))
    receipt = await sh(q.put(2, unique=REPLACE))
    for same in (copy.copy(receipt), pickle.loads(pickle.dumps(receipt))):
        assert (same, same.added, same.replaced) == (receipt, True, receipt.replaced)


async def test_until_done(sh: Shell, redis: redis_py.Redis) -> None:
    """While its handler is at work, and while it waits for another attempt; a dead letter is in nobody's way."""
    q = sh.queue(retry=reliq.Retry(attempts=2, wait=0))
    first = await sh(q.put(1, unique="k"))
    async with sh.open(q.consumer()) as c:
        for _ in range(2):
            (lease,) = await sh(c.claim(timeout=5))
            assert not (await sh(q.put(2, unique="k"))).added
            async with sh.open(lease):
                raise ValueError("no")
    assert [note["id"] for note, _ in dead_letters(redis, q)] == [first]
    assert held(redis, q) == {}
    assert (await sh(q.put(3, unique="k"))).added


async def test_until_started(sh: Shell, redis: redis_py.Redis) -> None:
    """Whoever puts when its handler has begun is heard again, and then that one waits."""
    q, only = sh.queue(), Unique("k", until="started")
    await sh(q.put(1, unique=only))
    assert not (await sh(q.put(2, unique=only))).added
    async with sh.open(q.consumer()) as c:
        (lease,) = await sh(c.claim(timeout=5))
        second = await sh(q.put(3, unique=only))
        assert second.added
        assert await sh(q.put(4, unique=only)) == second
        await sh(lease.retry(0))
        bodies = []
        for _ in range(2):
            (lease,) = await sh(c.claim(timeout=5))
            bodies.append(lease.body)
            await sh(lease.ack())
    assert sorted(bodies) == [1, 3]
    assert held(redis, q) == {}


async def test_replaced_while_it_waits(sh: Shell, redis: redis_py.Redis) -> None:
    """The newest runs, at its own time; the ledger says what became of the others, and so does explain."""
    q = sh.queue()
    ids = [await sh(q.put(0, unique=REPLACE, delay=60))]
    ids += [await sh(q.put(n, unique=REPLACE)) for n in (1, 2)]
    assert [receipt.replaced for receipt in ids] == [None, *ids[:2]]
    redis.zadd(q.options.keys.later, dict.fromkeys(redis.zrange(q.options.keys.later, 0, -1), 1))
    assert await sh.drain(q) == [2]
    assert await until(lambda: not held(redis, q))
    assert sorted(events(redis, q)).count(("replace", ids[1])) == 1
    assert tuple(await sh(q.size())) == (0, 0, 0, 0)
    explained = await sh(q.explain(ids[0]))
    assert explained.state == "done"
    assert explained.why == f"{ids[1]} took its place, as its put asked (unique); no handler got it"
    assert explained.timeline[-1].told == f"not handled: {ids[1]} took its place"


async def test_replaced_while_it_runs(sh: Shell, redis: redis_py.Redis) -> None:
    """What has begun is not stopped, and the newer one waits for nobody; the end of the older frees nothing."""
    q = sh.queue()
    await sh(q.put(1, unique="k"))
    async with sh.open(q.consumer(prefetch=1)) as c:
        (older,) = await sh(c.claim(timeout=5))
        newer = await sh(q.put(2, unique=REPLACE))
        (lease,) = await sh(c.claim(timeout=5))
        assert lease.body == 2
        await sh(older.ack())
        assert held(redis, q) == {"+k": newer}
        await sh(lease.ack())
    assert held(redis, q) == {}


async def test_for_a_time(sh: Shell, redis: redis_py.Redis) -> None:
    """A throttle: whatever becomes of the message."""
    q, only = sh.queue(), Unique("k", seconds=60)
    first = await sh(q.put(1, unique=only))
    assert await sh.drain(q) == [1]
    assert await sh(q.put(2, unique=only)) == first
    [key] = redis.scan_iter(match=q.options.keys._of("unique:") + "*", count=1000)
    redis.pexpire(key, 500)
    assert await sh(q.put(3, unique=Unique("k", seconds=60, on_conflict="extend"))) == first
    assert redis.pttl(key) > 50_000
    redis.delete(key)
    assert (await sh(q.put(4, unique=only))).added


async def test_beside_everything_else(sh: Shell, redis: redis_py.Redis) -> None:
    """An id of one's own, a delay, a policy, a large body, a trace, a codec."""
    q = sh.queue(trace=True, codec="json")
    words: dict[str, Any] = {"id": "mine", "delay": 0.01, "retry": reliq.Retry(attempts=1), "unique": "k"}
    first = await sh(q.put("x" * 100_000, **words))
    assert first.added
    assert await sh(q.put("y" * 100_000, **words)) == first
    assert not (await sh(q.put("z" * 100_000, unique="k"))).added
    await asyncio.sleep(0.02)
    async with sh.open(q.consumer()) as c:
        (lease,) = await sh(c.claim(timeout=5))
        assert lease.body == "x" * 100_000
        async with sh.open(lease):
            raise ValueError
    assert len(dead_letters(redis, q)) == 1
    assert held(redis, q) == {}
    assert not [key for key in redis.scan_iter(match=q.options.keys.body(b"") + "*") if redis.ttl(key) == -1][1:]


async def test_confirmed_too(sh: Shell) -> None:
    """What was confirmed, and what became of it, in one receipt."""
    q = sh.queue()
    await sh(q.put(1, unique="k"))
    with pytest.raises(reliq.OutcomeUnknown) as caught:
        await sh(q.put(2, unique=REPLACE, replicas=1))
    assert caught.value.ids[0].replicas == 0  # type: ignore[attr-defined]
    assert caught.value.ids[0].replaced is not None  # type: ignore[attr-defined]


async def test_a_worker(sh: Shell, redis: redis_py.Redis) -> None:
    """Many keys, many puts of each, while a worker is at it: one at a time of each, and nothing is left."""
    q, running, seen = sh.queue(), set(), []

    async def handle(body: int) -> None:
        assert body not in running
        running.add(body)
        await asyncio.sleep(0.001)
        running.discard(body)
        seen.append(body)

    @q.ack
    def in_a_thread(body: int) -> None:
        seen.append(body)

    handler = in_a_thread if sh.name == "sync" else q.ack(handle)
    worker = sh.Worker(handler, concurrency=4, signals=False)
    task = sh.start(worker.run)
    added = 0
    for n in range(300):
        added += (await sh(q.put(n % 7, unique=f"k{n % 7}"))).added
        if n % 10 == 0:
            await asyncio.sleep(0.001)
    assert await until(lambda: len(seen) == added)
    worker.stop()
    await task
    assert held(redis, q) == {}
    assert dead_letters(redis, q) == []
    assert 7 <= added <= 300


@pytest.mark.parametrize("exclusive", [False, True])
async def test_the_exclusive_mode(sh: Shell, redis: redis_py.Redis, exclusive: bool) -> None:
    """It hands over no replaced one either, and frees what an acked batch held."""
    q = sh.queue()
    await sh(q.put(1, unique="k"))
    await sh(q.put(2, unique=REPLACE))
    if not exclusive:
        assert await sh.drain(q) == [2]
    else:
        async with sh.open(q.exclusive(until_empty=True)) as holder:
            async for batch in sh.each(holder):
                assert batch.bodies == [2]
                async with sh.open(batch):
                    pass
    assert held(redis, q) == {}
    assert tuple(await sh(q.size())) == (0, 0, 0, 0)


async def test_reaped_from_a_consumer_that_waits(sh: Shell, redis: redis_py.Redis) -> None:
    """The next one has it begun again; as poison it holds its key no more."""
    q = sh.queue(max_losses=1)
    await sh(q.put(1, unique=Unique("k", until="started")))
    c = q.consumer()
    async with sh.open(c):
        (lease,) = await sh(c.claim(timeout=5))
        expire(redis, q, c)
        await sh(sh.Reaper(q).run_once())
        assert len(dead_letters(redis, q)) == 1
        with pytest.raises(reliq.LeaseLost):
            await sh(lease.ack())
    assert held(redis, q) == {}
    await sh(q.put(2, unique="k"))


@pytest.mark.parametrize("script", ["put", "begin", "trip"])
async def test_lost_replies(sh: Shell, redis: redis_py.Redis, proxy: FaultProxy, script: str) -> None:
    """Of each script that has to do with it: told the same, handled once, and nothing is held in the end."""
    q = sh.queue(url=proxy.url)
    await sh(q.put(0))
    await sh.drain(q)
    rule = proxy.on(script=script, action=drop_reply(), count=3)
    for n in range(1, 4):
        assert (await sh(q.put(n, unique=f"k{n}"))).added
        assert not (await sh(q.put(-n, unique=f"k{n}"))).added
        assert (await sh(q.put(n + 10, unique=Unique(f"k{n}", on_conflict="replace")))).replaced
    seen: list[int] = []
    worker = sh.Worker(q.ack(seen.append), signals=False)
    task = sh.start(worker.run)
    assert await until(lambda: sorted(seen) == [11, 12, 13])
    worker.stop()
    await task
    assert rule.hits == 3
    assert held(redis, q) == {}


async def test_nothing_is_handed_over_before(
    sh: Shell, redis: redis_py.Redis, proxy: FaultProxy, caplog: pytest.LogCaptureFixture
) -> None:
    """As long as it cannot be begun: one line says so, not one per try; others go on."""
    q = sh.queue(url=proxy.url, timeout=0.3)
    await sh(q.put(1, unique="k"))
    await sh(q.put(2))
    rule = proxy.on(script="begin", action=reply_error(b"-LOADING Redis is loading"), count=None)
    async with sh.open(q.consumer(prefetch=2)) as c:
        (other,) = await sh(c.claim(timeout=5))
        assert other.body == 2
        await sh(other.ack())
        assert await sh(c.claim(timeout=0.5)) == []
        rule.remove()
        (lease,) = await sh(c.claim(timeout=5))
        assert lease.body == 1
        await sh(lease.ack())
    said = [record for record in caplog.records if "cannot be handed over yet" in record.getMessage()]
    assert len(said) == 1
    assert held(redis, q) == {}


async def test_something_else_at_its_key(sh: Shell, redis: redis_py.Redis) -> None:
    """A put is refused by name; what was put before is handled all the same."""
    q = sh.queue()
    await sh(q.put(1, unique="k"))
    redis.set(q.options.keys.uniques, "foreign")
    with pytest.raises(reliq.ReliqError, match="uniques"):
        await sh(q.put(2, unique="k"))
    assert await sh.drain(q) == [1]
    assert redis.get(q.options.keys.uniques) == b"foreign"


@pytest.mark.parametrize("said", [5, ["k"], b"k", ""])
async def test_wrong_words(sh: Shell, said: Any) -> None:
    """Nothing is put, and the error says what would be right."""
    q = sh.queue()
    with pytest.raises(ConfigError, match=r"reliq\.Unique|1 to 500"):
        await sh(q.put(1, unique=said))
    assert (await sh(q.size())).ready == 0
