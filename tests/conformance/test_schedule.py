"""Schedules in both shells: added, changed, listed, fired by workers, consumers and schedulers, each tick once."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
import redis as redis_py

import reliq
from reliq.core import ticks as core
from reliq.core.envelope import named_id
from reliq.core.schedule import Definition
from reliq.core.timing import Timing
from reliq.errors import BodyError, BodyTooLarge, ConfigError, DecodeError
from tests.conformance.shell import Shell, now_ms, until
from tests.conformance.test_worker import at_work
from tests.faults.proxy import FaultProxy, drop_reply
from tests.servers import ExternalServer, RedisServer

HOUR = 3_600_000
SCRIPTS = {"schedule": core._schedule, "unschedule": core._unschedule, "due": core._due, "fire": core._fire}


@pytest.fixture
def proxy(server: RedisServer | ExternalServer) -> Iterator[FaultProxy]:
    """A proxy to the shared server that knows the scripts of schedules by name."""
    port = int(server.url.rsplit(":", 1)[1].split("/")[0])
    with FaultProxy("127.0.0.1", port) as running:
        running.scripts.update({name: script.sha for name, script in SCRIPTS.items()})
        yield running


def put_back(redis: redis_py.Redis, queue: Any, name: str, ms: int) -> int:
    """Let the next tick of a schedule be the one so many ms ago, at a multiple of a second."""
    keys = queue.options.keys
    tick = (int(now_ms(redis)) - ms) // 1000 * 1000
    redis.zadd(keys.ticks, {name: tick})
    redis.hset(keys.stats, "tick_at", tick)
    return tick


def next_tick(redis: redis_py.Redis, queue: Any, name: str) -> int:
    score = redis.zscore(queue.options.keys.ticks, name)
    assert score is not None
    return int(score)


async def taken(sh: Shell, queue: Any) -> list[tuple[str | None, datetime | None]]:
    """Ack what is ready: (schedule, tick) of each, in order."""
    found = []
    async with sh.open(queue.consumer(until_empty=True)) as consumer:
        async for lease in sh.each(consumer):
            async with sh.open(lease):
                found.append((lease.schedule, lease.tick))
    return found


def utc(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, timezone.utc)


# -- definitions --------------------------------------------------------------------------------------------


async def test_added_listed_and_removed(sh: Shell) -> None:
    """What was said is what is listed, by name, with the next tick in its zone; removed it is gone."""
    q = sh.queue()
    made = await sh(q.schedule("b", {"n": 1}, cron="0 7  * * mon-fri", tz="Europe/Vienna", jitter=2.5))
    every = await sh(q.schedule("a", [1, "x"], every=90, catch_up="all"))
    assert await sh(q.schedules()) == [every, made]
    assert (made.cron, made.every, made.tz, made.catch_up) == ("0 7 * * mon-fri", None, "Europe/Vienna", "last")
    assert (made.jitter, made.body, made.name) == (2.5, {"n": 1}, "b")
    assert (every.cron, every.every, every.body, every.catch_up) == (None, 90.0, [1, "x"], "all")
    assert (made.next_at.hour, made.next_at.minute, str(made.next_at.tzinfo)) == (7, 0, "Europe/Vienna")
    assert [time.weekday() < 5 for time in made.next_times(7)] == [True] * 7
    assert made.next_times(7)[0] == made.next_at
    assert every.next_at.timestamp() % 90 == 0
    assert [await sh(q.unschedule("a")) for _ in range(2)] == [True, False]
    assert [s.name for s in await sh(q.schedules())] == ["b"]
    assert await sh(q.size()) == (0, 0, 0, 0)


async def test_many_are_listed(sh: Shell) -> None:
    """More than a page of them."""
    q = sh.queue()
    for n in range(250):
        await sh(q.schedule(f"s{n:03}", n, every=60))
    found = await sh(q.schedules())
    assert [(s.name, s.body) for s in found] == [(f"s{n:03}", n) for n in range(250)]


async def test_the_same_again_shifts_nothing(sh: Shell, redis: redis_py.Redis) -> None:
    """As each process says it at its start: also while a tick is due, which stays due."""
    q = sh.queue()
    for _ in range(2):
        await sh(q.schedule("s", 1, every=3600))
    late = put_back(redis, q, "s", 5000)
    await asyncio.gather(*(sh.start(sh.queue().schedule, "s", 1, every=3600) for _ in range(5)))
    assert next_tick(redis, q, "s") == late


async def test_another_body_keeps_the_ticks_and_another_timing_does_not(sh: Shell, redis: redis_py.Redis) -> None:
    """A due tick has the new body; with a new timing the next tick is reckoned anew, from now."""
    q = sh.queue()
    await sh(q.schedule("s", "old", every=3600))
    late = put_back(redis, q, "s", 5000)
    await sh(q.schedule("s", "new", every=3600, jitter=0.0, catch_up="all"))
    assert next_tick(redis, q, "s") == late
    before = now_ms(redis)
    changed = await sh(q.schedule("s", "new", every=1800))
    assert before < changed.next_at.timestamp() * 1000 <= before + 1_800_000 + 1000
    assert next_tick(redis, q, "s") % 1_800_000 == 0
    assert await sh(sh.Scheduler(q).run_once()) == 0


async def test_what_is_wrong_is_said_at_once(sh: Shell, redis: redis_py.Redis) -> None:
    """Each with an error of its own, and nothing is there."""
    q = sh.queue()
    for given, error in [
        ({}, ConfigError),
        ({"cron": "nonsense"}, ConfigError),
        ({"every": 0.1}, ConfigError),
        ({"every": 5, "tz": "Nowhere"}, ConfigError),
        ({"every": 5, "catch_up": "?"}, ConfigError),
        ({"every": 5, "jitter": -1}, ConfigError),
        ({"every": 5, "retry": 5}, ConfigError),
        ({"every": 5, "body": object()}, BodyError),
        ({"every": 5, "body": b"x" * 70_000}, BodyTooLarge),
        ({"every": 5, "name": ""}, ConfigError),
    ]:
        with pytest.raises(error):
            await sh(q.schedule(**{"name": "s", "body": 1, **given}))
    assert await sh(q.schedules()) == []
    assert not redis.exists(q.options.keys.schedules)


async def test_codec_and_policy_travel(sh: Shell, redis: redis_py.Redis) -> None:
    """The body is encoded once, by the codec of the queue that schedules; its own policy goes with each
    message."""
    q = sh.queue(codec="json")
    await sh(q.schedule("s", {"n": "é"}, every=1, retry=reliq.Retry(attempts=1, wait=0)))
    put_back(redis, q, "s", 10)
    assert await sh(sh.Scheduler(q).run_once()) >= 1
    async with sh.open(sh.queue().consumer()) as c:
        [lease] = await sh(c.claim(1))
        assert (lease.body, lease.schedule) == ({"n": "é"}, "s")
        async with sh.open(lease):
            raise ValueError("once")
    assert (await sh(q.size())).dead == 1


async def test_a_put_is_of_no_schedule(sh: Shell) -> None:
    """lease.schedule and lease.tick are None for what a program has put."""
    q = sh.queue()
    await sh(q.put(1))
    await sh(q.put(1, id="mine"))
    assert await taken(sh, q) == [(None, None)] * 2


async def test_a_message_keeps_its_tick(sh: Shell, redis: redis_py.Redis) -> None:
    """Failed, released and come back it is for the same tick; its id tells explain where it is."""
    q = sh.queue(retry=reliq.Retry(wait=0))
    await sh(q.schedule("s", 1, every=3600))
    tick = put_back(redis, q, "s", 10)
    assert await sh(sh.Scheduler(q).run_once()) == 1
    id = named_id(f"schedule q s {tick}").hex()
    assert (await sh(q.explain(id))).state == "ready"
    async with sh.open(q.consumer()) as c:
        for attempt in (1, 2):
            [lease] = await sh(c.claim(1))
            assert (lease.id, lease.tick, lease.attempt) == (id, utc(tick), attempt)
            await sh(lease.retry(0) if attempt == 1 else lease.ack())


# -- firing -------------------------------------------------------------------------------------------------


async def test_missed_ticks(sh: Shell, redis: redis_py.Redis) -> None:
    """After ten minutes without anybody: one message for the last, one for each, none; and all go on from now."""
    q = sh.queue()
    for policy in ("last", "all", "none"):
        await sh(q.schedule(policy, policy, every=180, catch_up=policy))
    now = int(now_ms(redis))
    first = now // 180_000 * 180_000 - 3 * 180_000
    redis.zadd(q.options.keys.ticks, dict.fromkeys(("last", "all", "none"), first))
    fired = await sh(sh.Scheduler(q).run_once())
    late = now - (first + 3 * 180_000) > 60_000
    found = Counter(await taken(sh, q))
    expected = Counter({("last", utc(first + 540_000)): 1, ("all", utc(first)): 1})
    expected.update({("all", utc(first + n * 180_000)): 1 for n in (1, 2, 3)})
    if not late:
        expected["none", utc(first + 540_000)] = 1
    if now_ms(redis) < first + 4 * 180_000 - 2000:
        assert found == expected
        assert fired == expected.total()
    assert {next_tick(redis, q, name) for name in ("last", "all", "none")} == {first + 4 * 180_000}


async def test_a_long_gap_is_caught_up_bit_by_bit(sh: Shell, redis: redis_py.Redis) -> None:
    """An hour of seconds, "all": each once, though one call fires only a hundred of a schedule."""
    q = sh.queue()
    await sh(q.schedule("s", 1, every=1, catch_up="all"))
    await sh(q.schedule("other", 1, every=3600))
    tick = put_back(redis, q, "s", 3600_000)
    fired = await sh(sh.Scheduler(q).run_once())
    assert 3600 <= fired <= 3700
    found = [at for name, at in await taken(sh, q) if name == "s"]  # who takes them fires what comes meanwhile
    assert found == [utc(tick) + timedelta(seconds=n) for n in range(len(found))]
    assert len(found) >= fired


async def test_an_idle_worker_fires_at_the_tick(sh: Shell) -> None:
    """A schedule added while it sleeps: the first ticks come in time, by a worker that nobody told."""
    q, seen = sh.queue(block=5), []

    def handle(body: Any, lease: Any) -> None:
        seen.append((lease.tick, datetime.now(timezone.utc)))

    async with at_work(sh, sh.Worker(q.ack(handle), signals=False)):
        await asyncio.sleep(0.3)
        await sh(q.schedule("s", 1, every=1))
        assert await until(lambda: len(seen) >= 4)
    got = [tick for tick, _ in seen]
    assert got == [got[0] + timedelta(seconds=n) for n in range(len(got))]
    assert sorted(at - tick for tick, at in seen)[len(seen) // 2] < timedelta(seconds=0.7)


async def test_a_consumer_fires(sh: Shell) -> None:
    """Code that pulls needs no scheduler, either."""
    q = sh.queue()
    await sh(q.schedule("s", 1, cron="* * * * * *"))
    got = []
    async with sh.open(q.consumer()) as consumer:
        for _ in range(3):
            [lease] = await sh(consumer.claim(1, timeout=10))
            got.append(lease.tick)
            await sh(lease.ack())
    assert got == [got[0] + timedelta(seconds=n) for n in range(3)]


async def test_a_scheduler_fires_where_nobody_works(sh: Shell, redis: redis_py.Redis) -> None:
    """Two of them run, and notice what is added; each tick is there once. stop() ends them at once."""
    q = sh.queue()
    schedulers = [sh.Scheduler(sh.queue()) for _ in range(2)]
    tasks = [sh.start(scheduler.run) for scheduler in schedulers]
    try:
        await sh(q.schedule("s", 1, every=1))
        assert await until(lambda: redis.llen(q.options.keys.ready) >= 3)
    finally:
        for scheduler in schedulers:
            scheduler.stop()
        await asyncio.wait_for(asyncio.gather(*tasks), 2)
    got = await taken(sh, q)
    assert got == [("s", got[0][1] + timedelta(seconds=n)) for n in range(len(got))]


async def test_an_idle_scheduler_is_quiet(sh: Shell, redis: redis_py.Redis) -> None:
    """One command a second, whether there is a schedule that waits or none."""
    q = sh.queue()
    await sh(q.schedule("s", 1, cron="0 0 1 1 *"))
    scheduler = sh.Scheduler(q)
    task = sh.start(scheduler.run)
    try:
        await asyncio.sleep(0.5)
        before = redis.info("commandstats").get("cmdstat_evalsha", {}).get("calls", 0)
        await asyncio.sleep(3)
        after = redis.info("commandstats")["cmdstat_evalsha"]["calls"]
    finally:
        scheduler.stop()
        await task
    assert 2 <= after - before <= 4


async def test_jitter(sh: Shell, redis: redis_py.Redis) -> None:
    """Fired at the tick, the message waits for its share: whoever fires says the same, and it is due then."""
    q = sh.queue()
    for n in range(20):
        await sh(q.schedule(f"s{n}", n, every=3600, jitter=3600.0))
    tick = (int(now_ms(redis)) // HOUR) * HOUR
    redis.zadd(q.options.keys.ticks, {f"s{n}": tick for n in range(20)})
    assert await sh(sh.Scheduler(q).run_once()) == 20
    later = redis.zrange(q.options.keys.later, 0, -1, withscores=True)
    ready = redis.llen(q.options.keys.ready)
    assert len(later) + ready == 20
    assert len({score for _, score in later}) == len(later)
    assert all(tick < score < tick + HOUR for _, score in later)


@pytest.mark.parametrize("trace", [True, False])
async def test_traced(sh: Shell, redis: redis_py.Redis, trace: bool) -> None:
    """A queue that traces what is put traces what its schedules put."""
    q = sh.queue(trace=trace)
    await sh(q.schedule("s", 1, every=3600))
    put_back(redis, q, "s", 10)
    assert await sh(sh.Scheduler(q).run_once()) == 1
    await taken(sh, q)
    steps = [fields[b"event"] for _, fields in redis.xrange(q.options.keys.traces)]
    assert steps == ([b"put", b"deliver", b"ack"] if trace else [])


async def test_what_cannot_be_read_stops_no_other(
    sh: Shell, redis: redis_py.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """One line about it, and the others are fired, pass after pass; it can be removed."""
    q = sh.queue()
    await sh(q.schedule("good", 1, every=1))
    redis.hset(q.options.keys.schedules, "bad", b"\xc1")
    redis.zadd(q.options.keys.ticks, {"bad": 5})
    scheduler = sh.Scheduler(q)
    with caplog.at_level(logging.ERROR):
        task = sh.start(scheduler.run)
        assert await until(lambda: redis.llen(q.options.keys.ready) >= 3)
        scheduler.stop()
        await task
    assert len([r for r in caplog.records if "'bad'" in r.getMessage()]) == 1
    with pytest.raises(DecodeError, match="'bad'"):
        await sh(q.schedules())
    assert await sh(q.unschedule("bad")) is True
    unreadable = Definition(Timing(None, 60_000, "UTC"), "last", 0, {"c": "unknown"}, b"?")
    redis.hset(q.options.keys.schedules, "foreign", unreadable.pack())
    with pytest.raises(DecodeError, match="'foreign'"):
        await sh(q.schedules())
    assert await sh(q.unschedule("foreign")) is True
    assert [s.name for s in await sh(q.schedules())] == ["good"]


async def test_many_that_cannot_be_read_stop_no_other(sh: Shell, redis: redis_py.Redis) -> None:
    """As where cron expressions cannot be computed: what is due behind hundreds of them is fired in the same
    pass."""
    q = sh.queue()
    await sh(q.schedule("good", 1, every=3600))
    names = [f"bad{n}" for n in range(1100)]
    redis.hset(q.options.keys.schedules, mapping=dict.fromkeys(names, b"\xc1"))
    redis.zadd(q.options.keys.ticks, dict.fromkeys(names, 5))
    put_back(redis, q, "good", 1000)
    assert await sh(sh.Scheduler(q).run_once()) == 1
    assert [name for name, _ in await taken(sh, q)] == ["good"]


# -- lost replies -------------------------------------------------------------------------------------------


async def test_lost_reply_of_schedule(sh: Shell, proxy: FaultProxy, redis: redis_py.Redis) -> None:
    """Redis has it and the answer vanished: it is said again, and nothing shifts."""
    q = sh.queue(url=proxy.url)
    rule = proxy.on(script="schedule", action=drop_reply())
    made = await sh(q.schedule("s", 1, every=1))
    assert rule.hits == 1
    assert next_tick(redis, q, "s") == made.next_at.timestamp() * 1000


async def test_lost_reply_of_unschedule(sh: Shell, proxy: FaultProxy) -> None:
    """It was there, and is gone: True."""
    q = sh.queue(url=proxy.url)
    await sh(q.schedule("s", 1, every=60))
    rule = proxy.on(script="unschedule", action=drop_reply())
    assert await sh(q.unschedule("s")) is True
    assert rule.hits == 1
    assert await sh(q.schedules()) == []


@pytest.mark.parametrize("script", ["due", "fire"])
async def test_lost_reply_of_a_pass(sh: Shell, proxy: FaultProxy, redis: redis_py.Redis, script: str) -> None:
    """The step is repeated; each tick is one message."""
    q = sh.queue(url=proxy.url)
    for n in range(5):
        await sh(q.schedule(f"s{n}", n, every=3600))
        put_back(redis, q, f"s{n}", 2000)
    rule = proxy.on(script=script, action=drop_reply())
    await sh(sh.Scheduler(q).run_once())
    assert rule.hits == 1
    assert sorted(name for name, _ in await taken(sh, q)) == [f"s{n}" for n in range(5)]


async def test_out_of_memory_and_restart(own_sh: Shell, own_server: RedisServer) -> None:
    """While Redis takes nothing ticks stay due, and no worker fails; a restart loses and doubles none."""
    sh, seen = own_sh, []
    q = sh.queue(timeout=1)

    def handle(body: Any, lease: Any) -> None:
        seen.append(lease.tick)

    await sh(q.schedule("s", 1, every=1))
    async with at_work(sh, sh.Worker(q.ack(handle), signals=False)):
        assert await until(lambda: len(seen) >= 2)
        with own_server.client() as client:
            client.config_set("maxmemory", 1)
            await asyncio.sleep(2.5)
            full = len(seen)
            client.config_set("maxmemory", 0)
        assert await until(lambda: len(seen) >= full + 3)
        own_server.kill()
        await asyncio.sleep(2.5)
        down = len(seen)
        own_server.start()
        assert await until(lambda: len(seen) >= down + 4, seconds=20)
    assert sorted(seen) == [min(seen) + timedelta(seconds=n) for n in range(len(seen))]


async def test_a_scheduler_goes_on_through_trouble(
    own_sh: Shell, own_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """A full Redis, then one that is away: a line when it begins and one when it is over, and no tick is
    missing."""
    sh = own_sh
    q = sh.queue(timeout=0.5)
    await sh(q.schedule("s", 1, every=1))
    scheduler, keys = sh.Scheduler(q), q.options.keys
    task = sh.start(scheduler.run)
    with own_server.client() as client:
        assert await until(lambda: client.llen(keys.ready) >= 1)
        client.config_set("maxmemory", 1)
        assert await until(lambda: "its schedules wait" in caplog.text)
        await asyncio.sleep(2.2)
        client.config_set("maxmemory", 0)
        assert await until(lambda: "are fired again" in caplog.text)
    assert (caplog.text.count("its schedules wait"), caplog.text.count("are fired again")) == (1, 1)
    own_server.kill()
    assert await until(lambda: caplog.text.count("its schedules wait") == 2)
    await asyncio.sleep(2.2)
    own_server.start()
    assert await until(lambda: caplog.text.count("are fired again") == 2)
    scheduler.stop()
    await asyncio.wait_for(task, 5)
    got = await taken(sh, q)
    assert len(got) >= 5
    assert got == [("s", got[0][1] + timedelta(seconds=n)) for n in range(len(got))]


async def test_what_a_definition_says_is_what_is_kept(sh: Shell, redis: redis_py.Redis) -> None:
    """Byte by byte, so that other programs, and both shells, say the same."""
    q = sh.queue()
    await sh(q.schedule("s", {"n": 1}, cron="* * * * *", tz="Europe/Vienna", catch_up="none", jitter=1.5))
    packed = redis.hget(q.options.keys.schedules, "s")
    timing = Timing("* * * * *", None, "Europe/Vienna")
    assert packed == Definition(timing, "none", 1500, {}, b"\x81\xa1n\x01").pack()


async def test_a_paused_queue_fills(sh: Shell, redis: redis_py.Redis) -> None:
    """Pausing holds back what is claimed, not what is put; each tick waits for the end of it."""
    q, seen = sh.queue(), []

    def handle(body: Any, lease: Any) -> None:
        seen.append(lease.tick)

    await sh(q.schedule("s", 1, every=1))
    async with at_work(sh, sh.Worker(q.ack(handle), signals=False)):
        assert await until(lambda: len(seen) >= 1)
        await sh(q.pause())
        await asyncio.sleep(0.2)
        paused = len(seen)
        assert await until(lambda: redis.llen(q.options.keys.ready) >= 3)
        assert len(seen) <= paused + 1
        await sh(q.resume())
        assert await until(lambda: len(seen) >= paused + 4)
    assert sorted(seen) == [min(seen) + timedelta(seconds=n) for n in range(len(seen))]


async def test_a_drained_queue_gets_none(sh: Shell, redis: redis_py.Redis) -> None:
    """Its ticks stay due until it takes puts again, however many; a pass ends all the same."""
    q = sh.queue()
    for n in range(3):
        await sh(q.schedule(f"s{n}", n, every=1, catch_up="all"))
        put_back(redis, q, f"s{n}", 600_000)
    await sh(q.drain())
    assert await sh(sh.Scheduler(q).run_once()) == 0
    await sh(q.resume())
    assert await sh(sh.Scheduler(q).run_once()) >= 1800


async def test_of_a_level(sh: Shell) -> None:
    """A level is a queue of its own: a worker of its queue fires and handles what is scheduled there."""
    q, seen = sh.queue(levels=True), []

    def handle(body: Any, lease: Any) -> None:
        seen.append((body, lease.schedule))

    await sh(q.level("high").schedule("s", "urgent", every=1))
    assert await sh(q.schedules()) == []
    async with at_work(sh, sh.Worker(q.ack(handle), signals=False)):
        assert await until(lambda: len(seen) >= 2)
    assert set(seen) == {("urgent", "s")}
