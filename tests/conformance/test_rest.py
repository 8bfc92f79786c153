"""An idle worker rests in a handler's thread: the trip that claims the next message waits behind its BLMOVE."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import redis as redis_py

import reliq
from reliq.core.consumer import FIRE
from reliq.sync.engine import Engine
from tests.conformance.test_faults import proxy  # noqa: F401 - a fixture
from tests.faults.proxy import FaultProxy, drop_reply, moved, reset
from tests.servers import RedisServer
from tests.test_loop import until


class Rests:
    """How often a worker has begun to rest, and how often a rest has brought an answer."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.begun = self.answered = 0
        rest, rested = Engine.rest, Engine.rested

        def counted(engine: Engine, seconds: float, want: int) -> object:
            self.begun += 1
            return rest(engine, seconds, want)

        def taken(engine: Engine, rest: object) -> object:
            answer = rested(engine, rest)  # type: ignore[arg-type]
            self.answered += answer is not None
            return answer

        patch.setattr(Engine, "rest", counted)
        patch.setattr(Engine, "rested", taken)


@pytest.fixture
def rests(monkeypatch: pytest.MonkeyPatch) -> Rests:
    return Rests(monkeypatch)


@contextmanager
def working(worker: reliq.Worker) -> Iterator[threading.Thread]:
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        yield thread
    finally:
        worker.stop()
        thread.join(10)
        assert not thread.is_alive()


@contextmanager
def resting(queue: reliq.Queue, rests: Rests, handled: list[object], **options: int) -> Iterator[threading.Thread]:
    """A worker that has handled some messages and waits for the next in its handler's thread. Where the machine is
    slow, the loop lets the bell ring meanwhile: then it rests after the next one."""
    with working(reliq.Worker(queue.ack(handled.append), **options)) as thread:
        for n in range(100):
            queue.put("first")
            until(lambda n=n: len(handled) > n)  # type: ignore[misc]
            if rests.begun:
                break
            time.sleep(0.02)
        assert rests.begun
        handled.clear()
        yield thread


@pytest.mark.parametrize("concurrency", [1, 8])
def test_one_message_after_the_other(
    server: RedisServer, prefix: str, redis: redis_py.Redis, rests: Rests, concurrency: int
) -> None:
    """Most come while it rests, each once and in order; in the end nothing is left."""
    handled: list[object] = []
    with reliq.Queue("q", server.url, prefix=prefix) as queue:
        with resting(queue, rests, handled, concurrency=concurrency):
            for n in range(20):
                queue.put(n)
                until(lambda n=n: handled[-1:] == [n])  # type: ignore[misc]
        assert handled == [*range(20)]
        assert rests.answered > 0
        assert tuple(queue.size()) == (0, 0, 0, 0)
        assert redis.zcard(queue.options.keys.consumers) == 0


def test_a_worker_that_rests_stops_at_once(
    server: RedisServer, prefix: str, redis: redis_py.Redis, rests: Rests
) -> None:
    """Its BLMOVE is ended on the server; what the trip behind it claims goes back."""
    handled: list[object] = []
    with reliq.Queue("q", server.url, prefix=prefix) as queue:
        with resting(queue, rests, handled):
            started = time.monotonic()
        assert time.monotonic() - started < 2
        queue.put("later")
        assert tuple(queue.size()) == (1, 0, 0, 0)
        assert redis.zcard(queue.options.keys.consumers) == 0


def test_a_handler_that_takes_long_keeps_no_message_waiting(
    server: RedisServer, prefix: str, rests: Rests
) -> None:
    """The thread that waited for messages has one in hand that takes for ever: others are handled all the same."""
    handled: list[object] = []
    free = threading.Event()

    def handle(body: object) -> None:
        handled.append(body)
        if body == "long":
            free.wait(20)

    with reliq.Queue("q", server.url, prefix=prefix) as queue, working(reliq.Worker(queue.ack(handle))):
        while not rests.begun:
            seen = len(handled)
            queue.put(seen)
            until(lambda seen=seen: len(handled) > seen)  # type: ignore[misc]
            time.sleep(0.02)
        queue.put("long")
        until(lambda: "long" in handled)
        started = time.monotonic()
        queue.put("next")
        until(lambda: "next" in handled)
        assert time.monotonic() - started < 0.5
        free.set()


def test_the_answer_to_the_trip_behind_the_bell_is_lost(
    prefix: str,
    redis: redis_py.Redis,
    rests: Rests,
    proxy: FaultProxy,  # noqa: F811
) -> None:
    """It has run, and claimed: its repetition on the other connection tells what; once, and at once."""
    handled: list[object] = []
    with (
        reliq.Queue("q", proxy.url, prefix=prefix, timeout=1.0) as queue,
        resting(queue, rests, handled),
    ):
        rule = proxy.on(command=b"BLMOVE", reply=moved, action=drop_reply())
        for n in range(3):
            queue.put(n)
        assert rule.wait(10)
        until(lambda: handled == [0, 1, 2], 10)
        until(lambda: sum(queue.size()) == 0)


def test_the_connection_breaks_while_a_worker_rests(
    prefix: str,
    redis: redis_py.Redis,
    rests: Rests,
    proxy: FaultProxy,  # noqa: F811
) -> None:
    """Cut off: it goes on, on a new one, without a message lost or handled twice."""
    handled: list[object] = []
    with (
        reliq.Queue("q", proxy.url, prefix=prefix, timeout=1.0) as queue,
        resting(queue, rests, handled),
    ):
        rule = proxy.on(command=b"BLMOVE", reply=moved, action=reset("reply"))
        for n in range(5):
            queue.put(n)
        assert rule.wait(10)
        until(lambda: sorted(map(str, handled)) == ["0", "1", "2", "3", "4"], 10)
        until(lambda: sum(queue.size()) == 0)


def test_a_trip_is_due_while_a_worker_rests(server: RedisServer, prefix: str, rests: Rests) -> None:
    """Somebody else makes it, and what it brings is handled at once, also if the only thread is at rest."""
    handled: list[object] = []
    with reliq.Queue("q", server.url, prefix=prefix) as queue, resting(queue, rests, handled, concurrency=1):
        queue.put("due", delay=0.3)
        until(lambda: "due" in handled, 3)


def test_no_rest_where_an_empty_queue_is_the_end(server: RedisServer, prefix: str, rests: Rests) -> None:
    """``until_empty`` waits for no message."""
    handled: list[object] = []
    with reliq.Queue("q", server.url, prefix=prefix) as queue:
        queue.put_many(range(5))
        reliq.Worker(queue.ack(handled.append), until_empty=True).run()
    assert handled == list(range(5))
    assert rests.begun == 0


def test_a_duty_in_an_answer_that_comes_too_late_is_done(
    server: RedisServer, prefix: str, redis: redis_py.Redis
) -> None:
    """The trip behind the bell was told to fire ticks, and its copy was answered first, which was told nothing:
    the next answer tells it."""
    with reliq.Queue("q", server.url, prefix=prefix) as queue:
        engine = Engine(queue, "test")
        engine.trip(0)
        first = engine.rest(0.02, 1)  # connects, and announces itself
        assert first is not None
        assert engine.rested(first) is not None
        redis.hset(queue.options.keys.stats, "tick_at", 1)
        rest = engine.rest(0.05, 1)
        assert rest is not None
        assert engine.trip(0).sweep == 0
        assert engine.rested(rest) is None
        assert [engine.trip(0).sweep for _ in range(2)] == [FIRE, 0]
        engine.leave(bell_ended=engine.end_bell())
