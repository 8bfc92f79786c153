"""Groups: messages that gather come to one handler together, in both shells."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import redis as redis_py

import reliq
from reliq.core.reasons import Reason
from reliq.errors import ConfigError
from tests.conformance.shell import Shell, until


async def work(sh: Shell, handler: Any, done: Any, **options: Any) -> None:
    """Run a worker until it is so."""
    worker = sh.Worker(handler, signals=False, **options)
    task = sh.start(worker.run)
    await until(done)
    await sh(worker.stop())
    await task


async def test_a_group_is_one_batch(sh: Shell, redis: redis_py.Redis) -> None:
    """However they came: each group by itself, whole, in order; what has none comes in batches of its own."""
    q = sh.queue()
    for n in range(60):
        await sh(q.put([f"g{n % 3}", n], group=reliq.Group(f"g{n % 3}", grace=0.5)))
    await sh(q.put_many([["none", n] for n in range(5)]))
    batches: list[list[Any]] = []

    @q.ack(batch=50, wait=0.05)
    async def handle(bodies: list[Any]) -> None:
        batches.append(bodies)

    await work(sh, handle, lambda: sum(map(len, batches)) == 65, concurrency=2)
    grouped = sorted(each for each in batches if each[0][0] != "none")
    assert grouped == [[[f"g{i}", n] for n in range(i, 60, 3)] for i in range(3)]
    assert {name for each in batches for name, _ in each if each[0][0] == "none"} == {"none"}
    assert redis.exists(q.options.keys.later, q.options.keys.lanes, q.options.keys.turns) == 0


async def test_a_full_group_does_not_wait(sh: Shell) -> None:
    """And a worker that sleeps is woken for it."""
    q = sh.queue()
    batches: list[list[int]] = []

    @q.ack(batch=10)
    async def handle(bodies: list[int]) -> None:
        batches.append(bodies)

    async def puts() -> None:
        await asyncio.sleep(0.3)
        for n in range(5):
            await sh(q.put(n, group=reliq.Group("g", grace=600, max_delay=3600, max_size=5)))

    putting = asyncio.create_task(puts())
    await work(sh, handle, lambda: batches)
    await putting
    assert batches == [[0, 1, 2, 3, 4]]


async def test_one_that_fails_comes_again_by_itself(sh: Shell) -> None:
    """The others of its group are done."""
    q = sh.queue(retry=reliq.Retry(attempts=3, wait=0.01))
    await sh(q.put_many([1, 2, 3], group=reliq.Group("g", grace=0)))
    batches: list[list[int]] = []

    @q.ack(batch=10)
    async def handle(bodies: list[int]) -> None:
        batches.append(bodies)
        if bodies == [1, 2, 3]:
            raise reliq.BatchFailed({1: ValueError("no")})

    await work(sh, handle, lambda: len(batches) == 2)
    assert batches == [[1, 2, 3], [2]]


async def test_a_handler_of_single_messages_gets_them_one_by_one(sh: Shell) -> None:
    """Groups are no business of those who take no lists."""
    q = sh.queue()
    await sh(q.put_many([1, 2, 3], group=reliq.Group("g", grace=0)))
    assert await sh.drain(q) == [1, 2, 3]


async def test_explain_says_when_they_come(sh: Shell) -> None:
    """And how many have gathered."""
    q = sh.queue()
    [first, _] = await sh(q.put_many([1, 2], group=reliq.Group("cart 7", grace=30)))
    async with sh.open(q.consumer()) as c:
        assert await sh(c.claim(1, timeout=0.05)) == []
        found = await sh(q.explain(first))
    assert (found.state, found.reason, found.usual) == ("later", Reason.GATHERING, True)
    assert found.why == "2 messages of group 'cart 7' gather"
    assert found.next.startswith("they come together in ")
    assert found.next_at is not None
    assert found.due_at is None


async def test_wrong_words(sh: Shell) -> None:
    """A group says itself when it is time, and goes with no other lane."""
    q = sh.queue()
    for wrong in ({"group": 5}, {"group": ""}, {"group": "g", "delay": 5}, {"group": "g", "tenant": "t"}):
        with pytest.raises(ConfigError, match="group"):
            await sh(q.put(1, **wrong))
    assert (await sh(q.size())).later == 0
