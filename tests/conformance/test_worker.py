"""Workers: both shells, plain and coroutine handlers, through one set of tests."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgpack
import pytest
import redis as redis_py

import reliq
import reliq.aio
from reliq.core import envelope as env
from reliq.core.consumer import ConsumerState
from reliq.errors import ConfigError
from tests.conformance.shell import Shell, until
from tests.servers import RedisServer

QUICK = reliq.Retry(attempts=3, wait=lambda state: 0.02)
KINDS = pytest.mark.parametrize("kind", ["plain", "coroutine"])


def make(queue: Any, kind: str, function: Callable[[Any, Any], Any], **options: Any) -> Any:
    """A handler of the given kind around a plain function of (body, lease)."""
    if kind == "plain":

        def plain(body: Any, lease: Any) -> None:
            function(body, lease)

        return queue.ack(plain, **options)

    async def coroutine(body: Any, lease: Any) -> None:
        await asyncio.sleep(0)
        function(body, lease)

    return queue.ack(coroutine, **options)


@asynccontextmanager
async def at_work(sh: Shell, worker: Any) -> AsyncIterator[None]:
    """The worker runs beside the block, and is stopped at its end, whatever happens in it."""
    task = sh.start(worker.run)
    try:
        yield
    finally:
        worker.stop()
        await task


async def run(sh: Shell, *handlers: Any, **options: Any) -> None:
    """Run a worker until its queues are empty."""
    await sh.start(sh.Worker(*handlers, until_empty=True, **options).run)


@KINDS
async def test_every_message_is_handled_once_and_gone(sh: Shell, kind: str) -> None:
    """1,000 messages through a few slots."""
    queue, seen = sh.queue(), Counter[int]()
    await sh(queue.put_many(range(1000)))
    await run(sh, make(queue, kind, lambda body, lease: seen.update([body])), concurrency=4)
    assert seen == dict.fromkeys(range(1000), 1)
    assert await sh(queue.size()) == (0, 0, 0, 0)


async def test_the_list_of_a_worker_is_changed_under_its_hands(
    sh: Shell, redis: redis_py.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Again and again the oldest in hand becomes the newest, while the next trip may be under way: each message is
    handled once and acked, or dead-lettered, and what was acked by number is spelled out."""
    queue, seen, spelled = sh.queue(retry=reliq.Retry(attempts=1)), Counter[int](), list[Any]()
    spell = ConsumerState.spell
    monkeypatch.setattr(ConsumerState, "spell", lambda state, reply: spelled.append(spell(state, reply)))

    def handle(body: int) -> None:
        seen[body] += 1
        if body % 250 == 0:
            [name] = redis.zrange(queue.options.keys.consumers, 0, -1)
            doing = queue.options.keys.doing(name.decode())
            redis.lmove(doing, doing, "LEFT", "RIGHT")
        if body % 500 == 99:
            raise ValueError("no")

    await sh(queue.put_many(range(3000)))
    await run(sh, queue.ack(handle), concurrency=1)
    assert seen == dict.fromkeys(range(3000), 1)
    assert await sh(queue.size()) == (0, 0, 0, 6)
    assert redis.hmget(queue.options.keys.stats, "ack", "bury") == [b"2994", b"6"]
    assert spelled


@KINDS
@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(3), KeyboardInterrupt()])
async def test_whatever_a_handler_raises_is_a_failed_attempt(sh: Shell, kind: str, error: BaseException) -> None:
    """Retried by the policy, dead-lettered after the last attempt; the worker goes on."""
    queue, attempts = sh.queue(), list[Any]()

    def fail(body: Any, lease: Any) -> None:
        attempts.append((body, lease.attempt))
        if body == "bad":
            raise error

    await sh(queue.put_many(["bad", "good"]))
    handler = make(queue, kind, fail, retry=QUICK)
    worker = sh.Worker(handler, concurrency=1)
    async with at_work(sh, worker):
        assert await until(lambda: len(attempts) == 4, seconds=10)
    assert sorted(attempts) == [("bad", 1), ("bad", 2), ("bad", 3), ("good", 1)]
    assert (await sh(queue.size())).dead == 1


class _NoText(Exception):
    def __str__(self) -> str:
        raise RuntimeError("it has none")


def _no_policy(state: Any) -> float:
    raise ValueError("a policy with a mistake")


@KINDS
@pytest.mark.parametrize(
    ("error", "policy"),
    [
        (_NoText(), QUICK),
        (ValueError("caf\udce9.txt"), reliq.Retry(attempts=1)),
        (ValueError("caf\udce9.txt"), QUICK),
        (reliq.Bury("\udce9"), QUICK),
        (reliq.RetryAfter(float("nan")), QUICK),
        (reliq.RetryAfter(float("inf")), QUICK),
        (ValueError("no"), reliq.Retry(wait=_no_policy)),
    ],
)
async def test_a_failure_that_cannot_be_judged_is_settled_all_the_same(
    sh: Shell, kind: str, error: Exception, policy: reliq.Retry
) -> None:
    """No text and no policy may end a handler's thread: its message would stay in hand for ever."""
    q = sh.queue()

    def fail(body: Any, lease: Any) -> None:
        if body == 1 and lease.attempt == 1:
            raise error

    await sh(q.put_many([1, 2]))
    async with at_work(sh, sh.Worker(make(q, kind, fail, retry=policy), concurrency=1, signals=False)):
        sizes = []
        for _ in range(200):
            sizes = await sh(q.size())
            if sizes.ready + sizes.doing == 0:
                break
            await asyncio.sleep(0.02)
        assert sizes.ready + sizes.doing == 0


@KINDS
async def test_a_suspect_at_work_makes_no_hot_loop(sh: Shell, redis: redis_py.Redis, kind: str) -> None:
    """Nothing runs beside a message that a worker has died with; what waits must not ring the bell."""
    q, release = sh.queue(), threading.Event()

    def handle(body: Any, lease: Any) -> None:
        if body == 0 and kind == "plain":
            release.wait(10)

    async def coroutine(body: Any, lease: Any) -> None:
        if body == 0:
            await asyncio.to_thread(release.wait, 10)

    handler = make(q, kind, handle) if kind == "plain" else q.ack(coroutine)
    id = env.uuid7(1_700_000_000_000, bytes(10))
    redis.lpush(q.options.keys.ready, env.pack(id, msgpack.packb(0), returns=1, lost=1))
    await sh(q.put_many([1, 2]))
    async with at_work(sh, sh.Worker(handler, concurrency=4, signals=False)):
        try:
            await asyncio.sleep(0.5)
            before = redis.info("commandstats")["cmdstat_evalsha"]["calls"]
            await asyncio.sleep(1)
            assert redis.info("commandstats")["cmdstat_evalsha"]["calls"] - before < 20
        finally:
            release.set()
        for _ in range(200):
            if (await sh(q.size())) == (0, 0, 0, 0):
                break
            await asyncio.sleep(0.02)
        assert (await sh(q.size())) == (0, 0, 0, 0)


@KINDS
async def test_verdicts_say_otherwise(sh: Shell, kind: str) -> None:
    """Bury is final, Release counts no attempt, RetryAfter names its own wait."""
    queue, seen = sh.queue(), list[Any]()

    def judge(body: str, lease: Any) -> None:
        seen.append((body, lease.attempt, lease.deliveries))
        if lease.deliveries == 1 or body == "bury":
            raise {"bury": reliq.Bury("no"), "release": reliq.Release(), "after": reliq.RetryAfter(0.05)}[body]

    await sh(queue.put_many(["bury", "release", "after"]))
    worker = sh.Worker(make(queue, kind, judge))
    async with at_work(sh, worker):
        assert await until(lambda: len(seen) == 5, seconds=10)
    assert set(seen) == {("bury", 1, 1), ("release", 1, 1), ("release", 1, 2), ("after", 1, 1), ("after", 2, 2)}
    assert await sh(queue.size()) == (0, 0, 0, 1)


async def test_a_coroutine_past_its_timeout_is_cancelled_and_retried(sh: Shell) -> None:
    """It sees CancelledError, its message counts a failed attempt that names the timeout."""
    queue, seen = sh.queue(), list[str]()

    @queue.ack(timeout=0.2, retry=reliq.Retry(attempts=1))
    async def slow(body: Any) -> None:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    await sh(queue.put(1))
    await run(sh, slow)
    assert seen == ["cancelled"]
    assert (await sh(queue.size())).dead == 1


async def test_a_stuck_plain_handler_is_reported_once_and_costs_one_slot(
    sh: Shell, caplog: pytest.LogCaptureFixture
) -> None:
    """Its stack is in the log, once; the other slot goes on with the rest."""
    queue, seen, let_go = sh.queue(), list[int](), threading.Event()

    @queue.ack(timeout=0.1)
    def handler(body: int) -> None:
        if body == 0:
            let_go.wait(20)
        seen.append(body)

    await sh(queue.put_many(range(20)))
    worker = sh.Worker(handler, concurrency=2)
    with caplog.at_level(logging.ERROR, "reliq"):
        async with at_work(sh, worker):
            try:
                assert await until(lambda: len(seen) == 19, seconds=10)
                assert await until(lambda: _stuck(caplog), seconds=3)
                await asyncio.sleep(1.1)  # time to report it again, if it did
                [report] = _stuck(caplog)
                assert "let_go.wait(20)" in report
            finally:
                let_go.set()
            assert await until(lambda: 0 in seen, seconds=5)
    assert await sh(queue.size()) == (0, 0, 0, 0)


def _stuck(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if "is stuck" in r.getMessage()]


async def test_an_explicit_settle_inside_a_handler_counts(sh: Shell) -> None:
    """ack, retry and bury by hand, in plain and coroutine handlers; what follows changes nothing."""
    queue, other = sh.queue("plain"), sh.queue("coroutine")

    @queue.ack
    def plain(body: str, lease: reliq.Lease) -> None:
        if lease.attempt == 1:
            {"ack": lease.ack, "retry": lambda: lease.retry(0.0), "bury": lambda: lease.bury("by hand")}[body]()
            raise ValueError("after it was settled")

    @other.ack
    async def coroutine(body: str, lease: reliq.aio.Lease) -> None:
        if lease.attempt == 1:
            await {"ack": lease.ack, "retry": lambda: lease.retry(0.0), "bury": lambda: lease.bury("hand")}[body]()
            raise ValueError("after it was settled")

    for q in (queue, other):
        await sh(q.put_many(["ack", "retry", "bury"]))
    await run(sh, plain, coroutine)
    for q in (queue, other):
        size = await sh(q.size())
        assert (size.ready, size.doing, size.dead) == (0, 0, 1)


@KINDS
async def test_never_more_handlers_at_once_than_the_concurrency(sh: Shell, kind: str) -> None:
    """Five slots, sixty messages: at most five at once, and five are used."""
    queue, now, most = sh.queue(), [0], [0]

    @queue.ack
    def plain(body: Any) -> None:
        now[0] += 1
        most[0] = max(most[0], now[0])
        time.sleep(0.01)
        now[0] -= 1

    @queue.ack
    async def coroutine(body: Any) -> None:
        now[0] += 1
        most[0] = max(most[0], now[0])
        await asyncio.sleep(0.01)
        now[0] -= 1

    await sh(queue.put_many(range(60)))
    await run(sh, plain if kind == "plain" else coroutine, concurrency=5)
    assert most[0] == 5


async def test_prefetch_0_holds_one_message_per_slot(sh: Shell) -> None:
    """However quick the handlers are."""
    queue, held = sh.queue(), list[int]()
    peer = reliq.Queue("q", sh.url, prefix=sh.prefix)

    @queue.ack
    def handler(body: int) -> None:
        if body % 50 == 0:
            held.append(peer.size().doing)

    await sh(queue.put_many(range(500)))
    await run(sh, handler, concurrency=2, prefetch=0)
    peer.close()
    assert max(held) <= 2


async def test_stop_finishes_what_runs_and_gives_back_the_rest_in_order(sh: Shell) -> None:
    """What no handler has seen is at the head again, uncounted."""
    queue, seen, let_go = sh.queue(), list[int](), threading.Event()

    @queue.ack
    def handler(body: int) -> None:
        if body >= 300:
            let_go.wait(10)
        seen.append(body)

    await sh(queue.put_many(range(600)))  # quick ones first, so that some are claimed ahead
    worker = sh.Worker(handler, concurrency=2)
    async with at_work(sh, worker):
        assert await until(lambda: len(seen) == 300, seconds=10)
        await asyncio.sleep(0.05)
        worker.stop()
        let_go.set()
    rest = []
    async with sh.open(queue.consumer(until_empty=True)) as consumer:
        async for lease in sh.each(consumer):
            assert lease.deliveries == 1
            rest.append(lease.body)
            await sh(lease.ack())
    assert sorted(seen) + rest == list(range(600))


@KINDS
async def test_stop_waits_for_the_outcome_of_a_handler_that_came_back(sh: Shell, kind: str) -> None:
    """Between the end of a handler and its settle: the failure counts, and the message is not given back too."""
    queue, deciding = sh.queue(), threading.Event()

    def slow_wait(state: Any) -> float:
        deciding.set()
        time.sleep(0.3)
        return 60.0

    def fail(body: Any, lease: Any) -> None:
        raise ValueError("no")

    await sh(queue.put(1))
    worker = sh.Worker(make(queue, kind, fail, retry=reliq.Retry(wait=slow_wait)))
    async with at_work(sh, worker):
        assert await until(deciding.is_set, seconds=10)
    assert await sh(queue.size()) == (0, 0, 1, 0)


async def test_several_queues_share_the_slots(sh: Shell) -> None:
    """One worker, three queues, one slot: all are drained."""
    queues = [sh.queue(name) for name in ("a", "b", "c")]
    seen = Counter[str]()

    def counting(name: str) -> Callable[[Any], None]:
        def handler(body: Any) -> None:
            seen[name] += 1

        return handler

    for q in queues:
        await sh(q.put_many(range(50)))
    await run(sh, *(q.ack(counting(q.name)) for q in queues), concurrency=1)
    assert seen == {"a": 50, "b": 50, "c": 50}


@KINDS
async def test_full_queue_does_not_starve_the_others(sh: Shell, kind: str) -> None:
    """Queues take turns: a message of the second one does not wait until the first one is empty."""
    full, other, order = sh.queue("full"), sh.queue("other"), list[str]()

    def note(body: Any, lease: Any) -> None:
        time.sleep(0.005)
        order.append(lease.queue)

    await sh(full.put_many(range(50)))
    await sh(other.put_many(range(5)))
    await run(sh, make(full, kind, note), make(other, kind, note), concurrency=1, prefetch=0)
    assert len(order) == 55
    assert max(n for n, queue in enumerate(order) if queue == "other") < 20, order


async def test_a_delayed_message_wakes_an_idle_worker_when_it_is_due(sh: Shell) -> None:
    """Also when the delay is shorter than what the worker was told to wait for."""
    queue, at = sh.queue(), dict[str, float]()

    @queue.ack
    def handler(body: str) -> None:
        at[body] = time.monotonic()

    worker = sh.Worker(handler)
    async with at_work(sh, worker):
        await sh(queue.put("first"))
        assert await until(lambda: "first" in at, seconds=5)
        started = time.monotonic()
        await sh(queue.put("later", delay=2.0))
        await sh(queue.put("soon", delay=0.3))
        assert await until(lambda: len(at) == 3, seconds=8)
    assert 0.29 < at["soon"] - started < 1.3
    assert 1.99 < at["later"] - started < 3.0


@KINDS
async def test_the_trace_id_goes_from_the_put_to_the_handler_and_on(sh: Shell, kind: str) -> None:
    """An existing trace id is taken over, and puts inside the handler carry it on."""
    first, second = sh.queue("first"), sh.queue("second")
    seen = list[str]()
    peer = reliq.Queue("second", sh.url, prefix=sh.prefix)

    def relay(body: Any, lease: Any) -> None:
        seen.append(reliq.context.trace_id() or "")
        peer.put("on")

    with reliq.context.tracing("ab" * 16):
        await sh(first.put("in"))
    await run(sh, make(first, kind, relay))
    await run(sh, make(second, kind, lambda body, lease: seen.append(lease.trace_id)))
    peer.close()
    assert seen == ["ab" * 16] * 2


async def test_a_handler_of_the_other_shells_queue_runs_here(sh: Shell) -> None:
    """The worker opens the queue in its own way."""
    other = (reliq.aio if sh.name == "sync" else reliq).Queue("q", sh.url, prefix=sh.prefix)
    queue, seen = sh.queue(), list[int]()
    await sh(queue.put_many(range(5)))
    await run(sh, other.ack(lambda body: seen.append(body)))
    assert sorted(seen) == list(range(5))


async def test_a_worker_says_at_once_that_redis_is_not_there(sh: Shell) -> None:
    """No thread, task or loop is left behind; the message names the address."""
    queue = sh.queue(url="redis://127.0.0.1:1/0")
    with pytest.raises(reliq.Unavailable, match=r"127\.0\.0\.1:1/0"):
        await sh.start(sh.Worker(queue.ack(lambda body: None)).run)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"concurrency": 0}, "concurrency"),
        ({"processes": 0}, "processes"),
        ({"prefetch": -1}, "prefetch"),
        ({"grace": -1}, "grace"),
    ],
)
async def test_wrong_arguments_are_clear_errors(sh: Shell, options: dict[str, Any], text: str) -> None:
    """Each names the argument."""
    queue = sh.queue()
    with pytest.raises(ConfigError, match=text):
        sh.Worker(queue.ack(lambda body: None), **options)
    with pytest.raises(ConfigError, match="ack"):
        sh.Worker(lambda body: None)
    with pytest.raises(ConfigError, match="two handlers for messages of no type"):
        sh.Worker(queue.ack(lambda body: None), queue.ack(lambda body: None))


async def test_queue_refuses_a_retry_that_is_no_policy(sh: Shell) -> None:
    """Said when the queue is made, not when the first handler fails."""
    with pytest.raises(ConfigError, match="pass a reliq"):
        sh.queue(retry=3)


async def test_a_worker_goes_on_after_redis_was_away(own_sh: Shell, own_server: RedisServer) -> None:
    """Killed and started again in the middle: nothing lost, nothing handled twice that was settled."""
    queue, seen = own_sh.queue(lease=5.0), Counter[int]()

    @queue.ack
    def handler(body: int) -> None:
        time.sleep(0.002)
        seen[body] += 1

    await own_sh(queue.put_many(range(500)))
    worker = own_sh.Worker(handler, concurrency=2)
    async with at_work(own_sh, worker):
        assert await until(lambda: len(seen) > 50, seconds=10)
        own_server.kill()
        await asyncio.sleep(0.2)
        own_server.start()
        assert await until(lambda: len(seen) == 500, seconds=20)
    assert await own_sh(queue.size()) == (0, 0, 0, 0)


async def test_a_worker_in_the_background_of_an_application(server: Any, prefix: str) -> None:
    """`async with aio.Worker(handler)`: works while the block runs, stops when it is left."""
    seen = list[int]()
    async with reliq.aio.Queue("q", server.url, prefix=prefix) as queue:
        async with reliq.aio.Worker(queue.ack(lambda body: seen.append(body))):
            await queue.put(1)
            for _ in range(100):
                await asyncio.sleep(0.02)
                if seen:
                    break
        await queue.put(2)
        assert seen == [1]
        assert (await queue.size()).ready == 1
        with pytest.raises(reliq.Unavailable):
            async with reliq.aio.Worker(reliq.aio.Queue("q", "redis://127.0.0.1:1").ack(lambda body: None)):
                pytest.fail("started")


async def test_a_handler_that_blocks_the_event_loop_is_reported(
    server: Any, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A coroutine that calls time.sleep keeps the loop from renewing: say so, with the remedy."""
    async with reliq.aio.Queue("q", server.url, prefix=prefix, lease=0.9) as queue:

        @queue.ack
        async def blocks(body: Any) -> None:
            await asyncio.sleep(0.05)
            time.sleep(0.6)  # noqa: ASYNC251 - this is what must be reported

        await queue.put(1)
        with caplog.at_level(logging.WARNING, "reliq"):
            await reliq.aio.Worker(blocks, until_empty=True).run()
        assert any("event loop was blocked" in r.getMessage() for r in caplog.records)


async def test_a_task_beside_the_handlers_that_exits(sh: Shell, caplog: pytest.LogCaptureFixture) -> None:
    """Does not end the event loop of a blocking worker, without which no coroutine would be handled any more."""
    if sh.name == "aio":  # there it ends the application, as it says
        return
    q, did = sh.queue(), list[Any]()

    async def exits() -> None:
        raise SystemExit("no")

    @q.ack
    async def handle(body: Any) -> None:
        did.append(asyncio.create_task(exits()))
        await asyncio.sleep(0)

    await sh(q.put_many(range(3)))
    await asyncio.wait_for(sh.start(sh.Worker(handle, until_empty=True, signals=False, concurrency=1).run), 20)
    assert len(did) == 3
    assert "a task beside the handlers raised SystemExit: no; they go on" in caplog.text
    assert all(isinstance(task.exception(), SystemExit) for task in did)
