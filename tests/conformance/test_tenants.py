"""Tenants: each gets its share of the hand-overs, within its own limits, in both shells."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from typing import Any

import pytest
import redis as redis_py

import reliq
from reliq.core.reasons import Reason
from reliq.errors import ConfigError
from tests.conformance.shell import Shell, until


async def test_a_million_of_one_does_not_starve_the_others(sh: Shell, redis: redis_py.Redis) -> None:
    """(Three thousand here.) What another one puts behind them is handled among the first."""
    q = sh.queue()
    await sh(q.put_many([["big", n] for n in range(3000)], tenant="big"))
    await sh(q.put_many([["small", n] for n in range(50)], tenant="small"))
    await sh(q.put_many([["nobody", n] for n in range(50)]))
    done: list[list[Any]] = []

    @q.ack
    async def handle(body: list[Any]) -> None:
        done.append(body)

    size = await sh(q.size())
    assert (size.ready, size.later) == (3100, 0)
    await sh(sh.Worker(handle, concurrency=4, until_empty=True, signals=False).run())
    assert len(done) == 3100
    first = Counter(tenant for tenant, _ in done[:700])
    assert (first["small"], first["nobody"]) == (50, 50)
    for tenant in ("big", "small"):
        mine = [n for name, n in done if name == tenant]
        assert sorted(mine) == [*range(len(mine))]
    keys = q.options.keys
    assert redis.exists(keys.later, keys.lanes, keys.ready, keys.turns) == 0
    assert redis.hkeys(keys.uniques) == [b"#"]


async def test_no_tenant_has_more_in_hand_than_the_limit(sh: Shell, redis: redis_py.Redis) -> None:
    """Over several workers; and as many as it may have, while it has work."""
    q = sh.queue()
    assert await sh(q.limit(tenant_concurrency=2))
    assert str(await sh(q.gate())) == "of each tenant at most 2 in hand"
    for tenant in ("a", "b"):
        await sh(q.put_many([tenant] * 20, tenant=tenant))
    at_work, most, lock = Counter[str](), Counter[str](), threading.Lock()

    def change(tenant: str, by: int) -> None:
        with lock:
            at_work[tenant] += by
            most[tenant] = max(most[tenant], at_work[tenant])

    @q.ack
    def handle(tenant: str) -> None:
        change(tenant, 1)
        time.sleep(0.02)
        change(tenant, -1)

    workers = [sh.Worker(handle, concurrency=4, signals=False) for _ in range(2)]
    tasks = [sh.start(worker.run) for worker in workers]

    await until(lambda: not redis.exists(q.options.keys.lanes))
    await until(lambda: redis.hkeys(q.options.keys.uniques) == [b"#"])  # nothing waits, nothing is in hand
    for worker in workers:
        await sh(worker.stop())
    await asyncio.gather(*tasks)
    assert most == {"a": 2, "b": 2}


async def test_a_tenant_keeps_to_its_rate(sh: Shell) -> None:
    """Some at once, and then so many a second, while others go on; nobody asks in between."""
    q = sh.queue()
    await sh(q.limit(tenant_rate=20, tenant_burst=5))
    await sh(q.put_many(["a"] * 15, tenant="a"))
    times: dict[str, list[float]] = {"a": [], "b": []}

    @q.ack
    async def handle(tenant: str) -> None:
        times[tenant].append(time.monotonic())

    worker = sh.Worker(handle, signals=False)
    task = sh.start(worker.run)
    await until(lambda: len(times["a"]) >= 6)
    await sh(q.put("b", tenant="b"))
    await until(lambda: len(times["b"]) == 1)
    assert len(times["a"]) < 15
    await until(lambda: len(times["a"]) == 15)
    await sh(worker.stop())
    await task
    assert times["a"][14] - times["a"][0] >= 0.45


async def test_explain_says_why_a_message_of_a_tenant_waits(sh: Shell) -> None:
    """Whose turn it is, what its tenant has in hand, or how long it rests."""
    q = sh.queue()
    ids = await sh(q.put_many([1, 2, 3], tenant="acme"))
    async with sh.open(q.consumer(prefetch=1)) as c:
        found = await sh(q.explain(ids[2]))
        assert (found.state, found.reason) == ("ready", Reason.WAITING_TURN)
        assert "2 messages before it of its tenant 'acme'" in found.why
        await sh(q.limit(tenant_concurrency=1))
        [lease] = await sh(c.claim(1, timeout=5))
        found = await sh(q.explain(ids[1]))
        assert found.reason is Reason.LIMITED
        assert found.why == "1 message of its tenant 'acme' in hand, and the limit is 1 at once"
        await sh(q.limit(tenant_rate=0.001, tenant_burst=1))
        await sh(lease.ack())
        [lease] = await sh(c.claim(1, timeout=5))
        await sh(lease.ack())
        assert await sh(c.claim(1, timeout=0.2)) == []
        found = await sh(q.explain(ids[2]))
        assert (found.state, found.reason) == ("ready", Reason.LIMITED)
        assert found.why == "its tenant 'acme' has used up its rate, 0.001 a second"
        assert found.next_at is not None


async def test_wrong_words(sh: Shell) -> None:
    """Before anything is put, or limited."""
    q = sh.queue()
    for wrong in ("", "x" * 501, 7):
        with pytest.raises(ConfigError, match="tenant"):
            await sh(q.put(1, tenant=wrong))
    for name, value in {"tenant_rate": 0, "tenant_burst": 2, "tenant_concurrency": 0}.items():
        with pytest.raises(ConfigError, match=name):
            await sh(q.limit(**{name: value}))
    assert str(await sh(q.gate())) == "open"


async def test_with_all_that_a_put_can_say(sh: Shell, redis: redis_py.Redis) -> None:
    """Delayed, unique, large, by an id of one's own, tried again: the tenant's limit holds, and none is lost."""
    q = sh.queue(claim_check=2000, retry=reliq.Retry(attempts=3, wait=0.01))
    await sh(q.limit(tenant_concurrency=1))
    await sh(q.put("a", tenant="t", id="ORDER-1"))
    await sh(q.put("b" * 5000, tenant="t", unique="u"))
    await sh(q.put("c", tenant="t", delay=0.01, expires=60))
    await sh(q.put("fails", tenant="t", ordering_key="k"))
    await sh(q.put("d", tenant="t", ordering_key="k"))
    await sh(q.put("a", tenant="t", id="ORDER-1"))
    seen: list[str] = []

    @q.ack
    async def handle(body: str) -> None:
        seen.append(body[:5])
        if body == "fails" and seen.count(body) < 2:
            raise ValueError(body)

    worker = sh.Worker(handle, signals=False)
    task = sh.start(worker.run)
    await until(lambda: len(seen) == 6)

    await until(lambda: redis.hkeys(q.options.keys.uniques) == [b"#"])
    await sh(worker.stop())
    await task
    assert Counter(seen) == {"a": 1, "bbbbb": 1, "c": 1, "d": 1, "fails": 2}
    assert seen.index("d") > max(n for n, body in enumerate(seen) if body == "fails")


async def test_until_empty_waits_for_who_rests(sh: Shell) -> None:
    """As it does for the rate of the queue: what waits for the turn of its tenant is ready."""
    q = sh.queue()
    await sh(q.limit(tenant_rate=20, tenant_burst=1))
    await sh(q.put_many([1, 2, 3], tenant="a"))
    done: list[int] = []

    @q.ack
    def handle(body: int) -> None:
        done.append(body)

    await sh(sh.Worker(handle, until_empty=True, signals=False).run())
    assert done == [1, 2, 3]
    await sh(q.put_many([4, 5, 6], tenant="a"))
    async with sh.open(q.consumer(until_empty=True)) as c:
        async for lease in sh.each(c):
            done.append(lease.body)
            await sh(lease.ack())
    assert done == [1, 2, 3, 4, 5, 6]
