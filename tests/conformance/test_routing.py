"""Several handlers of one queue, by the type of a message; and what becomes of one that nobody handles."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import Counter
from typing import Any

import pytest
import redis as redis_py

import reliq
from reliq.core import envelope as env
from reliq.core import routing
from reliq.errors import ConfigError
from tests.conformance.shell import Shell, dead_letters, events, until


async def run(sh: Shell, *handlers: Any, **options: Any) -> None:
    """A worker until nothing is ready."""
    await sh(sh.Worker(*handlers, signals=False, until_empty=True, **options).run())


def in_later(redis: redis_py.Redis, queue: Any) -> list[tuple[dict[str, Any], float]]:
    """The meta of what waits, and in how many seconds it is due."""
    now, _ = redis.time()
    found = redis.zrange(queue.options.keys.later, 0, -1, withscores=True)
    return [(env.unpack(element).meta, due / 1000 - now) for element, due in found]


def make_due(redis: redis_py.Redis, queue: Any) -> None:
    """Let what waits be due now."""
    for element in redis.zrange(queue.options.keys.later, 0, -1):
        redis.zadd(queue.options.keys.later, {element: 1})


async def test_each_type_has_its_handler(sh: Shell) -> None:
    """A function and a coroutine, one for all others; whatever the batch, priority and size they come with."""
    q, seen = sh.queue(levels=True), []

    @q.ack(type="welcome")
    def welcome(body: Any) -> None:
        seen.append(("welcome", body))

    @q.ack(type="bill", timeout=30)
    async def bill(body: Any, lease: reliq.Lease) -> None:
        await asyncio.sleep(0)
        seen.append(("bill", body))
        assert (lease.type, 20 < lease.remaining <= 30) == ("bill", True)

    @q.ack
    def other(body: Any, lease: reliq.Lease) -> None:
        seen.append((lease.type, body))
        assert lease.remaining is None

    await sh(q.put(1, type="welcome"))
    await sh(q.put(2, type="bill", priority="high", delay=0.01))
    await sh(q.put(3))
    await sh(q.put_many([4, "x" * 100_000], type="bill"))
    await sh(q.put(6, type="unknown", priority="low"))
    await asyncio.sleep(0.05)
    worker = sh.Worker(welcome, bill, other, signals=False)
    task = sh.start(worker.run)
    assert await until(lambda: len(seen) == 6, seconds=20)
    worker.stop()
    await task
    assert Counter(kind for kind, _ in seen) == {"welcome": 1, "bill": 3, None: 1, "unknown": 1}
    assert ("unknown", 6) in seen
    assert (await sh(q.size())).dead == 0


async def test_each_has_its_own_policy(sh: Shell, redis: redis_py.Redis, caplog: pytest.LogCaptureFixture) -> None:
    """Retry, timeout and expected are those of the handler that gets the message."""
    q = sh.queue(retry=reliq.Retry(attempts=9))

    @q.ack(type="once", retry=reliq.Retry(attempts=1))
    def once(body: Any) -> None:
        raise ValueError("no")

    @q.ack(type="again", retry=reliq.Retry(attempts=2, wait=60))
    async def again(body: Any) -> None:
        raise ValueError("no")

    @q.ack(type="slow", timeout=0.05, retry=reliq.Retry(attempts=1))
    async def slow(body: Any) -> None:
        await asyncio.sleep(60)

    @q.ack(type="long", expected=0.05)
    def long(body: Any) -> None:
        until = time.monotonic() + 20
        while "is expected to take" not in caplog.text and time.monotonic() < until:
            time.sleep(0.05)

    for kind in ("once", "again", "slow", "long"):
        await sh(q.put(kind, type=kind))
    with caplog.at_level(logging.WARNING):
        await run(sh, once, again, slow, long)
    assert sorted(note["error"] for note, _ in dead_letters(redis, q)) == [
        "TimeoutError: took longer than its timeout of 0.05 s",
        "ValueError: no",
    ]
    [(meta, due)] = in_later(redis, q)
    assert (meta["h"], 50 < due <= 61) == ("again", True)
    slow_ones = [record.getMessage() for record in caplog.records if "is expected to take" in record.getMessage()]
    assert len(slow_ones) == 1
    assert "long" in slow_ones[0]


async def test_a_type_that_nobody_handles_waits(
    sh: Shell, redis: redis_py.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """It is kept, is no failure and no delivery, is told of once, and comes back later and later; others go on."""
    q, seen = sh.queue(), []
    known = q.ack(seen.append, type="known")
    ids = await sh(q.put_many(range(50), type="new"))
    await sh(q.put("plain"))
    await sh(q.put("ok", type="known"))
    with caplog.at_level(logging.WARNING):
        await run(sh, known)
    assert seen == ["ok"]
    told = [record.getMessage() for record in caplog.records if "no handler here takes" in record.getMessage()]
    assert len(told) == 2
    assert any("type 'new'" in line for line in told)
    assert any("no type" in line for line in told)
    waiting = in_later(redis, q)
    assert len(waiting) == 51
    assert {meta["n"] for meta, _ in waiting} == {1}
    assert all(-1 <= due <= 2 for _, due in waiting)
    explained = await sh(q.explain(ids[0]))
    assert (explained.state, explained.reason, explained.type) == ("later", "NO_HANDLER", "new")
    assert (explained.deliveries, explained.failed, explained.released, explained.fence) == (0, 0, 0, 2)
    assert not explained.usual
    assert "1 time a worker had no handler for messages of type 'new'" in explained.why
    assert [event for event, _ in events(redis, q) if event in ("unrouted", "retry", "release")] == ["unrouted"]
    assert redis.hget(q.options.keys.stats, "unrouted") == b"51"

    for times in (2, 3, 4):
        make_due(redis, q)
        await run(sh, known)
        waiting = in_later(redis, q)
        assert {meta["n"] for meta, _ in waiting} == {times}
        assert all(2 ** (times - 1) - 2 <= due <= 2 ** (times - 1) + 1 for _, due in waiting)
    make_due(redis, q)
    await run(sh, known, q.ack(seen.append, type="new"), q.ack(seen.append))
    assert sorted(map(str, seen)) == sorted(["ok", "plain", *map(str, range(50))])
    assert sum(await sh(q.size())) == 0


async def test_no_hot_loop(sh: Shell, redis: redis_py.Redis) -> None:
    """A worker that goes on asks Redis hardly more for messages that it does not know than if there were none."""
    q, seen = sh.queue(), []
    await sh(q.put_many(range(300), type="new"))
    worker = sh.Worker(q.ack(seen.append, type="known"), signals=False)
    task = sh.start(worker.run)
    assert await until(lambda: redis.zcard(q.options.keys.later) == 300, seconds=20)
    before = int(redis.info("commandstats")["cmdstat_evalsha"]["calls"])
    await asyncio.sleep(0.7)
    assert int(redis.info("commandstats")["cmdstat_evalsha"]["calls"]) - before < 40
    worker.stop()
    await task
    assert int(redis.hget(q.options.keys.stats, "unrouted") or 0) < 900
    assert seen == []


async def test_a_handler_that_gets_it_at_last(sh: Shell, redis: redis_py.Redis) -> None:
    """From then on it is as if it had never waited: a failure, and a wish to come later, are what they are."""
    q = sh.queue(retry=reliq.Retry(wait=60))

    def fail(body: Any) -> None:
        raise reliq.Release if body == "release" else ValueError("no")

    ids = [await sh(q.put(body, type="new")) for body in ("fail", "release")]
    await run(sh, q.ack(fail, type="known"))
    make_due(redis, q)
    await run(sh, q.ack(fail, type="new"))
    assert [("n" in meta, meta["h"]) for meta, _ in in_later(redis, q)] == [(False, "new")] * 2
    assert [(await sh(q.explain(id))).reason for id in ids] == ["RETRY_BACKOFF", "RELEASE_BACKOFF"]
    assert (await sh(q.explain(ids[0]))).attempt == 2


async def test_or_is_dead_lettered(sh: Shell, redis: redis_py.Redis) -> None:
    """At once, with the cause, if the queue says so; and can be revived for a worker that handles it."""
    q, seen = sh.queue(unrouted="bury"), []
    id = await sh(q.put(1, type="new"))
    await run(sh, q.ack(seen.append, type="known"))
    [(note, _)] = dead_letters(redis, q)
    assert note["cause"] == "NO_HANDLER"
    assert "type 'new'" in note["error"]
    assert (await sh(q.explain(id))).reason == "DEAD_NO_HANDLER"
    assert await sh(q.revive(id))
    await run(sh, q.ack(seen.append, type="new"))
    assert seen == [1]


def by_kind(body: Any) -> Any:
    """The type of a body in some program's format."""
    return body["head"]["kind"]


@pytest.mark.parametrize("route", ["kind", lambda body: body.get("kind")])
async def test_raw_messages_are_routed_by_their_bodies(sh: Shell, redis: redis_py.Redis, route: Any) -> None:
    """By a field or a function of the user's; a put that names a type has the last word."""
    q, seen = sh.queue(route=route), []

    def keep(body: Any, lease: Any) -> None:
        seen.append((lease.type, body))

    for body in ({"kind": "a"}, {"kind": "b"}, {"other": 1}):
        redis.lpush(q.options.keys.ready, json.dumps(body))
    await sh(q.put({"kind": "a"}, type="b"))
    await run(sh, q.ack(keep, type="a"), q.ack(keep, type="b"), q.ack(keep), concurrency=1)
    assert seen == [("a", {"kind": "a"}), ("b", {"kind": "b"}), (None, {"other": 1}), ("b", {"kind": "a"})]
    await sh(q.put({"kind": "a"}))
    async with sh.open(q.consumer()) as c:
        (lease,) = await sh(c.claim(timeout=5))
        assert lease.type == "a"
        await sh(lease.ack())


async def test_an_exclusive_holder_sees_the_type(sh: Shell, redis: redis_py.Redis) -> None:
    """Of each message of a batch; what is to be done with it is up to the holder."""
    q, seen = sh.queue(route="kind"), []
    await sh(q.put({"kind": "a"}, type="b"))
    redis.lpush(q.options.keys.ready, json.dumps({"kind": "a"}), json.dumps({}))
    async with sh.open(q.exclusive(until_empty=True)) as holder:
        async for batch in sh.each(holder):
            async with sh.open(batch):
                seen += [message.type for message in batch.messages]
    assert seen == ["b", "a", None]


async def test_a_rule_that_fails(sh: Shell, redis: redis_py.Redis, caplog: pytest.LogCaptureFixture) -> None:
    """Is treated as the handler's failure, by the policy of the queue."""
    q, seen = sh.queue(route=by_kind, retry=reliq.Retry(attempts=1)), []
    await sh(q.put({"head": {"kind": "a"}}))
    await sh(q.put({"head": None}))
    await run(sh, q.ack(seen.append, type="a"))
    assert seen == [{"head": {"kind": "a"}}]
    [(note, _)] = dead_letters(redis, q)
    assert (note["cause"], "TypeError" in note["error"]) == ("ATTEMPTS", True)
    assert "by_kind" in note["traceback"]


@pytest.mark.parametrize("kind", ["plain", "coroutine"])
async def test_a_rule_that_exits(sh: Shell, redis: redis_py.Redis, kind: str) -> None:
    """Is a rule that fails: the worker lives on, and has the others handled."""

    def rule(body: int) -> str:
        if body == 2:
            raise SystemExit("no")
        return "a"

    q, did = sh.queue(route=rule, retry=reliq.Retry(attempts=1)), list[int]()

    async def coroutine(body: int) -> None:
        did.append(body)

    await sh(q.put_many([1, 2, 3]))
    await sh.start(
        sh.Worker(
            q.ack(coroutine if kind == "coroutine" else did.append, type="a"), signals=False, until_empty=True
        ).run
    )
    assert sorted(did) == [1, 3]
    ((note, _),) = dead_letters(redis, q)
    assert note["error"] == "SystemExit: no"


async def test_a_schedule_of_a_type(sh: Shell) -> None:
    """Each tick's message has it."""
    q, seen = sh.queue(), []
    await sh(q.schedule("report", 1, every=1, type="report"))
    worker = sh.Worker(q.ack(seen.append, type="report"), signals=False)
    task = sh.start(worker.run)
    assert await until(lambda: seen, seconds=20)
    worker.stop()
    await task


async def test_counted_in_the_metrics(sh: Shell) -> None:
    """By a worker with probes: what it has sent back because nobody handles it; and it counts all its handlers."""
    q, seen = sh.queue(), []
    await sh(q.put(1, type="a"))
    await sh(q.put(2, type="new"))
    worker = sh.Worker(
        *(q.ack(seen.append, type=kind) for kind in "ab"), signals=False, until_empty=True, health="127.0.0.1:0"
    )
    await sh(worker.run())
    counts = worker._counts if sh.name == "aio" else None
    assert seen == [1]
    if counts is not None:
        row = counts.rows["q"]
        assert (row.count("acked"), row.count("unrouted"), sum(row.runs[0])) == (1, 1, 1)


@pytest.mark.parametrize("type", ["", "x" * 101, 3, b"a", "a\n", True])
async def test_wrong_types(sh: Shell, type: Any) -> None:
    """Are refused where they are named."""
    q = sh.queue()
    with pytest.raises(ConfigError, match="a word of 1 to 100 characters"):
        await sh(q.put(1, type=type))
    with pytest.raises(ConfigError, match="a word of 1 to 100 characters"):
        q.ack(print, type=type)
    with pytest.raises(ConfigError, match="a word of 1 to 100 characters"):
        await sh(q.schedule("s", 1, every=1, type=type))
    assert (await sh(q.size())).ready == 0


async def test_wrong_settings(sh: Shell) -> None:
    """Two handlers that cannot be told apart, two Queue objects that differ, and words that mean nothing."""
    q = sh.queue()
    for kind in ("a", None):
        with pytest.raises(ConfigError, match=r"two handlers for messages of .* in queue 'q': builtins.print and"):
            sh.Worker(q.ack(print, type=kind), q.ack(print, type=kind))
    other = sh.queue(key="other")
    with pytest.raises(ConfigError, match="two Queue objects named 'q'"):
        sh.Worker(q.ack(print, type="a"), other.ack(print, type="b"))
    with pytest.raises(ConfigError, match="unrouted='drop'"):
        sh.queue(unrouted="drop")
    with pytest.raises(ConfigError, match="the name of the field"):
        sh.queue(route=3)
    twin = sh.queue()
    sh.Worker(q.ack(print, type="a"), twin.ack(print, type="b"))


def test_pauses() -> None:
    """1 s at first, twice as long each time, 10 min at most, however often."""
    assert [routing.pause(times) for times in (0, 1, 2, 9, 10, 10**9)] == [1, 2, 4, 512, 600, 600]
