"""Time travel: delays, retries, expiry, schedules, what ends by itself; on a real server, in both shells."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
import redis as redis_py
import tenacity

import reliq
from reliq.errors import ConfigError
from reliq.testing import Run, run_until_empty, travel
from reliq.testing import aio as testing_aio
from tests.conformance.shell import Shell

HOUR = 3600


async def go(sh: Shell, queue: Any, seconds: float) -> int:
    due: int = await sh((travel if sh.name == "sync" else testing_aio.travel)(queue, seconds))
    return due


async def empty(sh: Shell, *handlers: Any, **options: Any) -> Run:
    run = run_until_empty if sh.name == "sync" else testing_aio.run_until_empty
    result: Run = await sh(run(*handlers, **options))
    return result


async def test_delays(sh: Shell) -> None:
    """What is due by then is due now, in due order, also on levels; the rest is so much nearer."""
    queue = sh.queue(levels=True)
    for body, delay in (("second", 2000), ("first", 1000), ("third", 4000)):
        await sh(queue.put(body, delay=delay))
    await sh(queue.put("high", delay=1500, priority="high"))
    assert await go(sh, queue, HOUR) == 3
    assert await sh.drain(queue) == ["first", "second"]
    assert await sh.drain(queue.level("high")) == ["high"]
    assert await go(sh, queue, 300) == 0
    assert await go(sh, queue, 101) == 1
    assert await sh.drain(queue) == ["third"]


async def test_retries(sh: Shell) -> None:
    """With later="travel" a run goes through every wait, to the end of all attempts or of what is delayed."""
    queue, seen = sh.queue(retry=reliq.Retry(attempts=4, wait=[60, 3600])), list[Any]()

    @queue.ack
    def handle(body: Any, lease: Any) -> None:
        seen.append((body, lease.attempt))
        if lease.attempt < 3:
            raise ValueError

    await sh(queue.put("a"))
    await sh(queue.put("b", delay=100))
    run = await empty(sh, handle, later="travel")
    assert (run.handled, run.retried, tuple(run.left)) == (2, 4, (0, 0, 0, 0))
    assert seen == [("a", 1), ("a", 2), ("b", 1), ("b", 2), ("a", 3), ("b", 3)]


async def test_age(sh: Shell) -> None:
    """Messages grow older: they expire, and a policy gives them up, as if the time had passed."""
    policy = reliq.Retry(attempts=9, wait=HOUR, stop=tenacity.stop_after_delay(2.5 * HOUR))
    queue = sh.queue(retry=policy)

    @queue.ack
    def handle(body: Any) -> None:
        raise ValueError

    await sh(queue.put("old"))
    run = await empty(sh, handle, later="travel", raise_on_dead=False)
    assert [failure.attempt for failure in run.failures] == [1, 2, 3, 4]

    await sh(queue.put("brief", expires=10))
    await sh(queue.put("also", expires=10, delay=5))
    await sh(queue.put("lasts", expires=30))
    await go(sh, queue, 20)
    dead = (await empty(sh, queue.ack(lambda body: None), raise_on_dead=False)).dead
    assert [letter.cause for letter in dead] == ["EXPIRED", "EXPIRED"]


async def test_raw(sh: Shell, redis: redis_py.Redis) -> None:
    """What nobody knows the age of stays as it is, in its place."""
    queue = sh.queue(codec="json")
    redis.lpush(queue.options.keys.ready, "1", "1", "2")
    await go(sh, queue, HOUR)
    assert await sh.drain(queue) == [1, 1, 2]


async def test_ordering_keys(sh: Shell) -> None:
    """What waits for another message of its key, and for no time, goes on doing so."""
    queue = sh.queue()
    await sh(queue.put_many([1, 2, 3], ordering_key="k"))
    await sh(queue.put(4, ordering_key="k", delay=HOUR))
    async with sh.open(queue.consumer()) as consumer:
        [first] = await sh(consumer.claim(3, timeout=0))
        assert await go(sh, queue, 2 * HOUR) == 1
        assert await sh(consumer.claim(3, timeout=0)) == []
        await sh(first.ack())
    assert await sh.drain(queue) == [2, 3, 4]


async def test_tenants(sh: Shell) -> None:
    """What waits for the turn of its tenant keeps its place; what is delayed for one comes due."""
    queue, seen = sh.queue(), list[Any]()

    @queue.ack
    def handle(body: Any) -> None:
        seen.append(body)

    await sh(queue.put_many(["a1", "a2"], tenant="a"))
    await sh(queue.put("b1", tenant="b"))
    await sh(queue.put("b2", tenant="b", delay=HOUR))
    await go(sh, queue, HOUR / 2)
    assert (await empty(sh, handle)).handled == 3
    assert sorted(seen) == ["a1", "a2", "b1"]
    assert seen.index("a1") < seen.index("a2")
    run = await empty(sh, handle, later="travel")
    assert (run.handled, tuple(run.left)) == (1, (0, 0, 0, 0))
    assert seen[-1] == "b2"


async def test_what_ends_by_itself(sh: Shell) -> None:
    """The hour of an id, and a key that is unique for a time, end sooner; other queues are not concerned."""
    queue, other = sh.queue(), sh.queue("other")
    for each in (queue, other):
        await sh(each.put(1, id="mine"))
        await sh(each.put(2, unique=reliq.Unique("key", seconds=100)))
    await go(sh, queue, 99)
    assert not (await sh(queue.put(2, unique=reliq.Unique("key", seconds=100)))).added
    await go(sh, queue, HOUR)
    assert (await sh(queue.put(2, unique=reliq.Unique("key", seconds=100)))).added
    await sh(queue.put(1, id="mine"))
    await sh(other.put(1, id="mine"))
    assert (await sh(queue.size())).ready == 4
    assert (await sh(other.size())).ready == 2


async def test_ticks(sh: Shell) -> None:
    """Each tick on the way is fired once and says its time, over several journeys, between delayed messages."""
    queue, seen = sh.queue(), list[Any]()

    @queue.ack
    def handle(body: Any, lease: Any) -> None:
        seen.append((body, lease.tick, lease.id))

    schedule = await sh(queue.schedule("hourly", "tick", every=HOUR, catch_up="none"))
    first: datetime = schedule.next_at
    now = datetime.now(timezone.utc)
    between = first + timedelta(minutes=90)
    await sh(queue.put("between", at=between))
    await go(sh, queue, (first - now).total_seconds() + 2 * HOUR + 60)
    assert (await empty(sh, handle)).handled == 4
    hours = [first + timedelta(hours=n) for n in range(9)]
    assert [(body, tick) for body, tick, _ in seen] == [
        ("tick", hours[0]), ("tick", hours[1]), ("between", None), ("tick", hours[2]),
    ]  # fmt: skip
    assert len({id for _, _, id in seen}) == 4
    assert (await sh(queue.schedules()))[0].next_at == hours[3]

    await go(sh, queue, HOUR / 2)
    assert (await empty(sh, handle)).handled == 0
    await go(sh, queue, HOUR)
    await go(sh, queue, 2 * HOUR)
    assert (await empty(sh, handle)).handled == 3
    assert [tick for _, tick, _ in seen[4:]] == hours[3:6]
    with pytest.raises(ConfigError, match="more than 10,000 ticks"):
        await go(sh, queue, 20_000 * HOUR)


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), "1", True])
async def test_no_time(seconds: Any) -> None:
    """Nobody goes back, and what is no number is refused before anything is sent."""
    with pytest.raises(ConfigError, match="travel"):
        travel(reliq.Queue("q", "redis://127.0.0.1:1/0"), seconds)
