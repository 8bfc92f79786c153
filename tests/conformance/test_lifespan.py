"""What a worker sets up before its first claim and ends after its last settle, and hands to its handlers."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import redis as redis_py

import reliq
from reliq.errors import ConfigError, StartFailed
from tests.conformance.shell import Shell, until


class Pool:
    """Something that handlers need."""


class Life:
    """A lifespan in each of its forms, and what it saw: how many messages were ready and in hand."""

    def __init__(self, redis: redis_py.Redis, queue: Any, said: Any = None) -> None:
        self.redis, self.keys, self.said = redis, queue.options.keys, said
        self.saw: list[tuple[str, int, int]] = []
        self.fails = ""

    def see(self, when: str) -> None:
        hands = sum(self.redis.llen(key) for key in self.redis.scan_iter(f"{self.keys.doing('')}*"))
        self.saw.append((when, self.redis.llen(self.keys.ready), hands))
        if when == self.fails:
            raise OSError(f"no database at the {when}")

    def generator(self) -> Iterator[Any]:
        self.see("begin")
        yield self.said
        self.see("end")

    async def async_generator(self) -> AsyncIterator[Any]:
        task = asyncio.current_task()
        await asyncio.sleep(0.01)
        self.see("begin")
        yield self.said
        await asyncio.sleep(0.01)
        assert asyncio.current_task() is task, "a task group could not be left"
        self.see("end")

    def form(self, kind: str) -> Any:
        return {
            "generator": self.generator,
            "async generator": self.async_generator,
            "manager": contextmanager(self.generator),
            "async manager": asynccontextmanager(self.async_generator),
        }[kind]


KINDS = pytest.mark.parametrize("kind", ["generator", "async generator", "manager", "async manager"])


def handlers(q: Any, did: list[Any]) -> list[Any]:
    """A function and a coroutine with dependencies."""

    @q.ack(type="plain")
    def plain(body: Any, pool: reliq.Dependency[Pool]) -> None:
        did.append((body, pool))

    @q.ack(type="coroutine")
    async def coroutine(
        body: Any, lease: reliq.Lease, *, pool: reliq.Dependency[Pool], more: reliq.Dependency[int] = 7
    ) -> None:
        await asyncio.sleep(0)
        did.append((body, pool, more, lease.type))

    return [plain, coroutine]


@KINDS
async def test_from_before_the_first_claim_until_after_the_last_settle(
    sh: Shell, redis: redis_py.Redis, kind: str
) -> None:
    """What it yields, as a mapping or an object, is handed to functions and coroutines."""
    q, pool = sh.queue(), Pool()
    for said, more in (({"pool": pool, "more": 1, "other": 2}, 1), (SimpleNamespace(pool=pool), 7)):
        life, did = Life(redis, q, said), list[Any]()
        await sh(q.put(1, type="plain"))
        await sh(q.put(2, type="coroutine"))
        worker = sh.Worker(*handlers(q, did), signals=False, until_empty=True, lifespan=life.form(kind))
        await sh.start(worker.run)
        assert life.saw == [("begin", 2, 0), ("end", 0, 0)]
        assert sorted(did, key=str) == [(1, pool), (2, pool, more, "coroutine")]


@KINDS
async def test_told_to_stop(sh: Shell, redis: redis_py.Redis, kind: str) -> None:
    """It ends when what was in hand is settled, or has gone back: what is cut off, too."""
    q = sh.queue()
    life, begun = Life(redis, q), list[Any]()

    @q.ack
    async def hang(body: Any) -> None:
        begun.append(body)
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.02)  # it tidies up
            begun.append((body, "cut", len(life.saw)))

    await sh(q.put_many(range(3)))
    worker = sh.Worker(hang, signals=False, concurrency=2, grace=0.1, lifespan=life.form(kind))
    task = sh.start(worker.run)
    assert await until(lambda: len(begun) == 2, seconds=20)
    worker.stop()
    await task
    assert life.saw == [("begin", 3, 0), ("end", 3, 0)]
    assert sorted(begun[2:]) == [(0, "cut", 1), (1, "cut", 1)]  # while it was there


@KINDS
async def test_one_that_fails_to_begin(sh: Shell, redis: redis_py.Redis, kind: str) -> None:
    """Ends the worker with an error that says so; nothing was claimed, and nobody was registered."""
    q, did = sh.queue(), list[Any]()
    life = Life(redis, q)
    life.fails = "begin"
    await sh(q.put(1))
    with pytest.raises(StartFailed, match="raised OSError: no database at the begin before it yielded") as caught:
        await sh.start(sh.Worker(q.ack(did.append), signals=False, lifespan=life.form(kind)).run)
    assert isinstance(caught.value.__cause__, OSError)
    assert (caught.value.code, did) == ("START_FAILED", [])
    assert (await sh(q.size())).ready == 1
    assert not redis.exists(q.options.keys.consumers)


@KINDS
async def test_one_that_fails_to_end(sh: Shell, redis: redis_py.Redis, kind: str) -> None:
    """What it raises comes out of the worker, when all is settled and it has said goodbye."""
    q, did = sh.queue(), list[Any]()
    life = Life(redis, q)
    life.fails = "end"
    await sh(q.put(1))
    with pytest.raises(OSError, match="no database at the end"):
        await sh.start(sh.Worker(q.ack(did.append), signals=False, until_empty=True, lifespan=life.form(kind)).run)
    assert (did, sum(await sh(q.size()))) == ([1], 0)
    assert not redis.exists(q.options.keys.consumers)


class Manager:
    """An asynchronous one that does at its begin and its end what it is told."""

    def __init__(self, **does: Any) -> None:
        self.does, self.saw = does, list[str]()

    async def see(self, when: str) -> None:
        self.saw.append(when)
        if when in self.does:
            await self.does[when]()

    async def __aenter__(self) -> None:
        await self.see("begin")

    async def __aexit__(self, *_: Any) -> None:
        await self.see("end")


@pytest.mark.parametrize("when", ["begin", "end"])
async def test_one_that_exits(sh: Shell, when: str) -> None:
    """Ends a blocking worker, which does not wait for an event loop that has ended by that."""

    async def exits() -> None:
        raise SystemExit("no")

    def run() -> object:
        try:
            worker.run()
        except SystemExit as error:  # a thread of the executor would be at its end
            return error.code

    if sh.name == "sync":
        worker = sh.Worker(
            sh.queue().ack(print), signals=False, until_empty=True, lifespan=lambda: Manager(**{when: exits})
        )
        assert await asyncio.wait_for(asyncio.to_thread(run), 20) == "no"


async def test_cancelled_while_it_begins(sh: Shell) -> None:
    """Who cancels a worker then leaves no task behind that goes on with it."""

    async def waits() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            life.saw.append("cut")

    life = Manager(begin=waits)
    if sh.name == "aio":
        task = sh.start(sh.Worker(sh.queue().ack(print), signals=False, lifespan=lambda: life).run)
        assert await until(lambda: life.saw, seconds=20)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert life.saw == ["begin", "cut"]
        with pytest.raises(asyncio.TimeoutError):  # as in `async with`
            await asyncio.wait_for(
                sh.Worker(sh.queue().ack(print), signals=False, lifespan=lambda: life).__aenter__(), 0.5
            )
        assert life.saw == ["begin", "cut"] * 2
        assert not [task for task in asyncio.all_tasks() if task.get_name() == "reliq-lifespan"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the loop that could not be closed
async def test_whose_event_loop_is_blocked(sh: Shell, caplog: pytest.LogCaptureFixture) -> None:
    """A blocking worker does not wait for its handler beyond the grace: it says that the lifespan is not left."""
    q, begun, free = sh.queue(), threading.Event(), threading.Event()

    @q.ack
    async def blocks(body: Any) -> None:
        begun.set()
        free.wait(60)

    if sh.name == "sync":
        await sh(q.put(1))
        worker = sh.Worker(blocks, signals=False, grace=0.1, lifespan=Manager)
        task = sh.start(worker.run)
        assert await until(begun.is_set, seconds=20)
        worker.stop()
        try:
            await asyncio.wait_for(asyncio.shield(task), 20)
        finally:
            free.set()
            for thread in threading.enumerate():
                if thread.name == "reliq-asyncio":
                    thread.join(20)
            del worker, task
            gc.collect()
        assert "the lifespan of the worker cannot be left: a coroutine handler blocks" in caplog.text
        assert (await sh(q.size())).ready == 1


@pytest.mark.parametrize("said", [None, {}, {"pools": 1}, SimpleNamespace(pools=1)])
async def test_one_that_lacks_something(sh: Shell, redis: redis_py.Redis, said: Any) -> None:
    """Is left again, and the error says who needs what; nothing was claimed."""
    q, did = sh.queue(), list[Any]()
    life = Life(redis, q, said)
    await sh(q.put(1, type="plain"))
    with pytest.raises(StartFailed, match=r"handlers.<locals>.plain needs 'pool', and the lifespan of .* yields"):
        await sh.start(sh.Worker(*handlers(q, did), signals=False, lifespan=life.generator).run)
    assert life.saw == [("begin", 1, 0), ("end", 1, 0)]
    assert (await sh(q.size())).ready == 1


async def test_without_one(sh: Shell) -> None:
    """A worker is refused at once, a handler that was given all it needs works; and is a plain function still."""
    q, did, pool = sh.queue(), list[Any](), Pool()
    plain, coroutine = handlers(q, did)
    with pytest.raises(ConfigError, match=r"plain needs 'pool': give Worker\(lifespan=\) a function that"):
        sh.Worker(plain)
    with pytest.raises(ConfigError, match="'pols' is no dependency of it; its dependencies are 'pool', 'more'"):
        coroutine.bind(pols=pool)
    plain(0, pool)
    plain(pool=pool, body=0)
    await sh(q.put(1, type="plain"))
    await sh(q.put(2, type="coroutine"))
    bound = [plain.bind(pool=pool), coroutine.bind(pool=pool)]
    await sh.start(sh.Worker(*bound, signals=False, until_empty=True).run)
    await sh(q.put(3, type="plain"))
    async with sh.open(q.consumer()) as c:
        (lease,) = await sh(c.claim(timeout=5))
        if sh.name == "sync":
            bound[0](lease)
        else:
            await bound[1](lease)
    assert did[:2] == [(0, pool), (0, pool)]
    assert sorted(did[2:], key=str)[:2] == [(1, pool), (2, pool, 7, "coroutine")]
    assert did[4][:2] == (3, pool)
    with pytest.raises(ConfigError, match=r"Worker\(lifespan=3\): a function that makes a context manager"):
        sh.Worker(bound[0], lifespan=3)
    with pytest.raises(ConfigError, match=r"@asynccontextmanager; not what it has made: no \(\)$"):
        sh.Worker(bound[0], lifespan=nullcontext(0))
    with pytest.raises(StartFailed, match="made a int, which is no context manager"):
        await sh.start(sh.Worker(bound[0], signals=False, lifespan=int).run)


async def test_in_the_background(sh: Shell, redis: redis_py.Redis) -> None:
    """`async with aio.Worker(…)` begins it, or raises why not."""
    if sh.name == "sync":
        return
    q, did = sh.queue(), list[Any]()
    life = Life(redis, q, {"pool": Pool()})
    await q.put(1, type="plain")
    async with sh.Worker(*handlers(q, did), signals=False, lifespan=life.async_generator):
        assert await until(lambda: did, seconds=20)
    assert [when for when, _, _ in life.saw] == ["begin", "end"]
    life.fails = "begin"
    with pytest.raises(StartFailed):
        await sh.Worker(*handlers(q, did), signals=False, lifespan=life.async_generator).__aenter__()


async def test_in_each_process_of_a_supervisor(
    sh: Shell, redis: redis_py.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """See tests/cli/test_lifespan.py for processes; here, that logs and metrics know a handler by its own name."""
    q, did = sh.queue(), list[Any]()
    await sh(q.put(1, type="plain"))
    life = Life(redis, q, {"pool": Pool()})
    with caplog.at_level(logging.INFO):
        await sh.start(
            sh.Worker(
                *handlers(q, did), signals=False, until_empty=True, health="127.0.0.1:0", lifespan=life.generator
            ).run
        )
    assert "worker started: tests.conformance.test_lifespan.handlers.<locals>.plain, tests.conf" in caplog.text
    assert len(did) == 1
