"""Ordering keys: one message of a key at a time, in order, whatever becomes of it and whoever handles it."""

from __future__ import annotations

import asyncio
import threading
from collections import defaultdict
from typing import Any

import pytest
import redis as redis_py

import reliq
from reliq.core.reasons import Reason
from reliq.errors import ConfigError
from tests.conformance.shell import Shell, until


async def test_in_order_and_one_at_a_time(sh: Shell, redis: redis_py.Redis) -> None:
    """Over many handlers at once; messages without a key, and of other keys, are not held up."""
    q = sh.queue()
    for n in range(30):
        await sh(q.put([f"k{n % 3}", n], ordering_key=f"k{n % 3}"))
    await sh(q.put_many([["free", n] for n in range(20)]))
    seen: dict[str, list[int]] = defaultdict(list)
    at_work, most, lock = defaultdict[str, int](int), defaultdict[str, int](int), threading.Lock()

    def begin(key: str) -> None:
        with lock:
            at_work[key] += 1
            most[key] = max(most[key], at_work[key])

    def end(key: str, n: int) -> None:
        with lock:
            at_work[key] -= 1
            seen[key].append(n)

    @q.ack
    async def handle(body: list[Any]) -> None:
        begin(body[0])
        await asyncio.sleep(0.01)
        end(*body)

    @q.ack
    def handle_in_a_thread(body: list[Any]) -> None:
        begin(body[0])
        threading.Event().wait(0.01)
        end(*body)

    for handler in (handle, handle_in_a_thread):
        worker = sh.Worker(handler, concurrency=8, until_empty=True, signals=False)
        await sh(worker.run())
        if handler is handle:
            assert {key: seen[key] for key in ("k0", "k1", "k2")} == {
                f"k{i}": [*range(i, 30, 3)] for i in range(3)
            }
            assert sorted(seen["free"]) == [*range(20)]
            assert [most[f"k{i}"] for i in range(3)] == [1, 1, 1]
            assert most["free"] > 1
            for n in range(30, 36):
                await sh(q.put([f"k{n % 3}", n], ordering_key=f"k{n % 3}"))
    assert {key: seen[key][10:] for key in ("k0", "k1", "k2")} == {"k0": [30, 33], "k1": [31, 34], "k2": [32, 35]}
    keys = q.options.keys
    assert redis.exists(keys.later, keys.lanes, keys.ready) == 0
    assert redis.hkeys(keys.uniques) == [b"#"]


async def test_one_that_fails_is_tried_again_before_the_next(sh: Shell) -> None:
    """And when it is given up, that is a dead letter, and the next one goes on."""
    q = sh.queue(retry=reliq.Retry(attempts=3, wait=0.01))
    await sh(q.put_many(["bad", "good"], ordering_key="k"))
    seen: list[str] = []

    @q.ack
    async def handle(body: str) -> None:
        seen.append(body)
        if body == "bad":
            raise ValueError(body)

    worker = sh.Worker(handler := handle, concurrency=4, signals=False)
    running = sh.start(worker.run)
    await until(lambda: seen == ["bad", "bad", "bad", "good"])
    await sh(worker.stop())
    await running
    assert handler.name
    size = await sh(q.size())
    assert (size.ready, size.doing, size.later, size.dead) == (0, 0, 0, 1)


async def test_explain_names_the_one_that_has_the_turn(sh: Shell) -> None:
    """And how many are before it; what waits is in later, due at no time."""
    q = sh.queue()
    ids = await sh(q.put_many([1, 2, 3], ordering_key="order 7"))
    async with sh.open(q.consumer(prefetch=2)) as c:
        [lease] = await sh(c.claim(5, timeout=5))
        found = [await sh(q.explain(id)) for id in ids]
        assert [each.state for each in found] == ["doing", "later", "later"]
        assert [each.reason for each in found[1:]] == [Reason.AWAITS_TURN] * 2
        assert found[1].why == f"it waits for message {ids[0]}, which has the turn of its ordering key 'order 7'"
        assert found[2].why.endswith("'order 7', and behind 1 more")
        assert found[1].usual
        assert f"explain {ids[0]}" in found[1].command
        assert (found[1].due_at, found[1].next_at) == (None, None)
        assert await sh(q.cancel(ids[1]))
        await sh(lease.ack())
        [lease] = await sh(c.claim(5, timeout=5))
        assert lease.body == 3
        await sh(lease.ack())


async def test_a_wrong_key_is_told(sh: Shell) -> None:
    """Before anything is put."""
    q = sh.queue()
    for wrong in ("", "x" * 501, 7, "\udcff"):
        with pytest.raises(ConfigError, match="ordering_key"):
            await sh(q.put(1, ordering_key=wrong))
    assert (await sh(q.size())).ready == 0


async def test_with_all_that_a_put_can_say(sh: Shell) -> None:
    """Delayed, unique, large, by an id of one's own, of a level: each takes its turn."""
    q = sh.queue(levels=True, claim_check=2000)
    await sh(q.put("a", ordering_key="k", priority="low", id="ORDER-1"))
    await sh(q.put("b" * 5000, ordering_key="k", priority="low", unique="u"))
    await sh(q.put("c", ordering_key="k", priority="low", delay=0.01, expires=60))
    await sh(q.put("d", ordering_key="k", priority="high"))
    low = q.level("low")
    await sh(q.put("a", ordering_key="k", priority="low", id="ORDER-1"))
    async with sh.open(low.consumer(prefetch=10)) as c:
        for body in ("a", "b" * 5000, "c"):
            [lease] = await sh(c.claim(10, timeout=5))
            assert lease.body == body
            await sh(lease.ack())
    assert await sh.drain(q.level("high")) == ["d"]


async def test_exclusive(sh: Shell) -> None:
    """Who holds the queue for himself alone gets what waited, in order."""
    q = sh.queue()
    await sh(q.put_many([1, 2, 3], ordering_key="k"))
    async with sh.open(q.consumer(prefetch=5)) as c:
        [lease] = await sh(c.claim(5, timeout=5))
        await sh(lease.release())
    assert (await sh(q.size())).later == 2
    seen = []
    async with sh.open(q.exclusive(until_empty=True)) as holder:
        async for batch in sh.each(holder):
            async with sh.open(batch):
                seen += batch.bodies
    assert seen == [1, 2, 3]


async def test_idle_workers_do_not_overtake_each_other(sh: Shell) -> None:
    """Each is brought a message at once; those of one key begin in the order of their puts all the same."""
    q = sh.queue()
    seen: list[int] = []

    @q.ack
    async def handle(body: int) -> None:
        seen.append(body)

    workers = [sh.Worker(handle, concurrency=2, signals=False) for _ in range(3)]
    tasks = [sh.start(worker.run) for worker in workers]
    for n in range(0, 60, 3):
        for k in range(3):
            await sh(q.put(n + k, ordering_key="k"))
        await until(lambda: len(seen) == n + 3)  # noqa: B023 - it is called here and now
    for worker in workers:
        await sh(worker.stop())
    await asyncio.gather(*tasks)
    assert seen == [*range(60)]
