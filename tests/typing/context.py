"""Types of dependencies, lifespans and middleware; checked by mypy, never run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from typing_extensions import assert_type

import reliq
from reliq import aio
from reliq.middleware import Delivery, Put


class Pool:
    def add(self, number: int) -> int:
        return number


q = reliq.Queue("q")


@q.ack
def save(body: dict[str, int], *, pool: reliq.Dependency[Pool]) -> int:
    assert_type(pool, Pool)
    return pool.add(1)


assert_type(save({"a": 1}, pool=Pool()), int)
save({"a": 1}, pool=3)  # type: ignore[call-overload]
reliq.Worker(save.bind(pool=Pool()))


@contextmanager
def plain() -> Iterator[dict[str, Pool]]:
    yield {"pool": Pool()}


@asynccontextmanager
async def coroutine() -> AsyncIterator[dict[str, Pool]]:
    yield {"pool": Pool()}


reliq.Worker(save, lifespan=plain)
aio.Worker(save, lifespan=coroutine)
reliq.Worker(save, lifespan=3)  # type: ignore[arg-type]


class Before:
    def before_put(self, put: Put) -> Put | None:
        assert_type(put.queue, str)
        return None


class Around:
    def handle(self, delivery: Delivery, call_next: Callable[[], Any]) -> Any:
        return call_next()

    async def ahandle(self, delivery: Delivery, call_next: Callable[[], Awaitable[Any]]) -> Any:
        return await call_next()


class After:
    async def after_put(self, put: Put, receipts: Sequence[str]) -> None: ...


class Neither:
    def hundle(self) -> None: ...


reliq.Queue("q", middleware=[Before(), Around()])
aio.Queue("q", middleware=[Before(), After()])
reliq.Worker(save, middleware=[Around()])
reliq.Queue("q", middleware=[Neither()])  # type: ignore[list-item]
