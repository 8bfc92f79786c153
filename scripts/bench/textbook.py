"""The textbook: redis-py alone, one command per step. What a careful person writes without a library."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import msgpack
import redis
import redis.asyncio

from scripts.bench.lab import body

READY, DOING = "textbook:ready", "textbook:doing"


def encode(n: int) -> bytes:
    """A body as reliq encodes it."""
    return bytes(msgpack.packb(body(n)))


def push(client: redis.Redis, n: int) -> None:
    """LPUSH, one by one."""
    for i in range(n):
        client.lpush(READY, encode(i))


def push_many(client: redis.Redis, n: int, calls: int) -> None:
    """One variadic LPUSH per call."""
    for _ in range(calls):
        client.lpush(READY, *[encode(i) for i in range(n)])


async def push_tasks(client: redis.asyncio.Redis, tasks: int, each: int) -> None:
    """LPUSH by so many tasks at once."""

    async def some() -> None:
        for i in range(each):
            await client.lpush(READY, encode(i))

    await asyncio.gather(*(some() for _ in range(tasks)))


def drain(client: redis.Redis, n: int, handler: Any) -> None:
    """BLMOVE, handle, LREM, one by one."""
    for _ in range(n):
        data: Any = client.blmove(READY, DOING, 1, "RIGHT", "LEFT")
        handler(msgpack.unpackb(data))
        client.lrem(DOING, 1, data)


def set_get(client: redis.Redis, data: Sequence[bytes]) -> None:
    """SET and GET of each."""
    for i, item in enumerate(data):
        client.set(f"textbook:{i}", item)
    for i in range(len(data)):
        client.get(f"textbook:{i}")
