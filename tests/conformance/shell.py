"""One suite for both shells: tests are async functions; what the blocking shell does, it does at the call.

await sh(q.put(1))                          a call, awaited if it is awaitable
async with sh.open(q.consumer()) as c:      whatever has __enter__ or __aenter__, a lease too
async for lease in sh.each(c):
task = sh.start(c.claim, timeout=5)         in a thread, or as a task
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Any

import redis as redis_py

import reliq
import reliq.aio
from reliq.core import envelope as env
from reliq.core import ledger


class Both:
    """An async context manager that enters and leaves whichever kind it was given."""

    def __init__(self, manager: Any) -> None:
        self.manager = manager
        self.is_async = hasattr(manager, "__aenter__")

    async def __aenter__(self) -> Any:
        if self.is_async:
            return await self.manager.__aenter__()
        return self.manager.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Any:
        if self.is_async:
            return await self.manager.__aexit__(kind, error, trace)
        return self.manager.__exit__(kind, error, trace)


class Shell:
    """The public names of one shell, and how to call them."""

    def __init__(self, name: str, url: str, prefix: str) -> None:
        self.name = name
        self.url = url
        self.prefix = prefix
        module: Any = reliq if name == "sync" else reliq.aio
        self.Queue, self.Reaper, self.Worker = module.Queue, module.Reaper, module.Worker
        self.Scheduler = module.Scheduler
        self._queues: list[Any] = []

    def queue(self, name: str = "q", **options: Any) -> Any:
        """A queue on the server of the test, closed at its end."""
        queue = self.Queue(name, **{"url": self.url, "prefix": self.prefix, **options})
        self._queues.append(queue)
        return queue

    async def __call__(self, result: Any) -> Any:
        return await result if inspect.isawaitable(result) else result

    def open(self, manager: Any) -> Both:
        return Both(manager)

    async def close(self, thing: Any) -> None:
        await self(thing.close() if self.name == "sync" else thing.aclose())

    async def each(self, consumer: Any) -> AsyncIterator[Any]:
        if self.name == "aio":
            async for lease in consumer:
                yield lease
        else:
            for lease in consumer:
                yield lease

    async def next(self, consumer: Any) -> Any:
        """The next of what it iterates over."""
        return await anext(consumer) if self.name == "aio" else next(consumer)

    def start(self, function: Callable[..., Any], *args: Any, **options: Any) -> asyncio.Task[Any]:
        """Run it beside the test."""
        if self.name == "aio":
            return asyncio.create_task(function(*args, **options))
        return asyncio.create_task(asyncio.to_thread(function, *args, **options))

    async def drain(self, queue: Any, **options: Any) -> list[Any]:
        """Ack everything that is ready; returns the bodies in order."""
        bodies = []
        async with self.open(queue.consumer(until_empty=True, **options)) as consumer:
            async for lease in self.each(consumer):
                async with self.open(lease):
                    bodies.append(lease.body)
        return bodies

    async def finish(self) -> None:
        for queue in self._queues:
            await self.close(queue)


def expire(redis: redis_py.Redis, queue: Any, consumer: Any) -> None:
    """Let the lease of a consumer be over now, on a server that has been up for long."""
    keys = queue.options.keys
    redis.hset(keys.stats, "server_since", 0)
    redis.zadd(keys.consumers, {consumer.name: 1})


def dead_letters(redis: redis_py.Redis, queue: Any) -> list[tuple[dict[str, Any], bytes]]:
    """What is in dead: (note, element), oldest first."""
    return [env.split_note(member) for member in redis.zrange(queue.options.keys.dead, 0, -1)]


def events(redis: redis_py.Redis, queue: Any) -> list[tuple[str, str]]:
    """The ledger: (event, detail)."""
    entries = redis.xrange(queue.options.keys.events)
    flat = [(id, [word for field in fields.items() for word in field]) for id, fields in entries]
    return [(e["event"], e["detail"]) for e in ledger.read(flat)]


def now_ms(redis: redis_py.Redis) -> float:
    """The server's clock, Unix ms."""
    seconds, micros = redis.time()
    return seconds * 1000 + micros / 1000


async def until(holds: Callable[[], object], *, seconds: float = 8.0) -> bool:
    """Wait until something holds; False if it does not in that time."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.02)
    return True
