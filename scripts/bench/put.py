"""Producing.

put       One process, one thread: ``Queue.put`` of small bodies one by one, against ``redis.Redis().lpush`` of the
          same body by msgpack. Rates over the same number of calls, in turn.
put-many  ``put_many`` in calls of 500, against one variadic LPUSH per 500 bodies by msgpack.
put-aio   50 tasks of one event loop, each putting one by one, against ``redis.asyncio`` lpush from 50 tasks.
Every contender makes its connections (and loads its script) before the clock runs.
"""

from __future__ import annotations

import asyncio
import time

import redis
import redis.asyncio

import reliq
from reliq import aio
from scripts.bench import textbook
from scripts.bench.bars import Bar, Figure, ratios
from scripts.bench.lab import Lab, body, timed

BARS = (
    Bar("put", "put one by one against redis-py lpush", 1.2),
    Bar("put-many", "put_many in calls of 500 against a variadic LPUSH", 0.8),
    Bar("put-aio", "aio put with 50 tasks against redis.asyncio lpush", 1.5),
)
CALL, TASKS = 500, 50


def measure(lab: Lab) -> dict[str, Figure]:
    """All three, contender by contender."""
    found: dict[str, tuple[list[float], list[float]]] = {bar.name: ([], []) for bar in BARS}
    with lab.server() as server:
        client = redis.Redis(port=server.port)
        queue = reliq.Queue("bench", server.url)
        queue.put(body(0))
        for _ in range(lab.rounds):
            for pair, contenders in zip(found.values(), (_put, _put_many, _put_aio), strict=True):
                for rates, rate in zip(pair, contenders(lab, queue, client), strict=True):
                    rates.append(rate)
                client.flushdb()
        if lab.plots:
            _curve(lab, queue, client)
        queue.close()
        client.close()
    names = {"put": "lpush", "put-many": "LPUSH of 500", "put-aio": "redis.asyncio lpush"}
    return {
        name: Figure(ratios(*pair), {"reliq /s": pair[0], f"{names[name]} /s": pair[1]})
        for name, pair in found.items()
    }


def _put(lab: Lab, queue: reliq.Queue, client: redis.Redis) -> tuple[float, float]:
    n = lab.size(5000, 500)
    return n / timed(lambda: one_by_one(queue, n)), n / timed(lambda: textbook.push(client, n))


def _put_many(lab: Lab, queue: reliq.Queue, client: redis.Redis) -> tuple[float, float]:
    calls = lab.size(40, 4)
    n = calls * CALL
    ours, theirs = timed(lambda: many(queue, CALL, calls)), timed(lambda: textbook.push_many(client, CALL, calls))
    return n / ours, n / theirs


def _put_aio(lab: Lab, queue: reliq.Queue, client: redis.Redis) -> tuple[float, float]:
    each = lab.size(100, 10)
    port = client.connection_pool.connection_kwargs["port"]
    return asyncio.run(ours_aio(str(queue.url), each)), asyncio.run(theirs_aio(port, each))


def one_by_one(queue: reliq.Queue, n: int) -> None:
    """put, put, put."""
    for i in range(n):
        queue.put(body(i))


def many(queue: reliq.Queue, size: int, calls: int) -> None:
    """put_many, so many to a call."""
    for _ in range(calls):
        queue.put_many([body(i) for i in range(size)])


async def ours_aio(url: str, each: int) -> float:
    """Puts per second of 50 tasks."""
    async with aio.Queue("bench", url) as queue:

        async def some(count: int) -> None:
            for i in range(count):
                await queue.put(body(i))

        await asyncio.gather(*(some(2) for _ in range(TASKS)))
        started = time.perf_counter()
        await asyncio.gather(*(some(each) for _ in range(TASKS)))
        return TASKS * each / (time.perf_counter() - started)


async def theirs_aio(port: int, each: int) -> float:
    """LPUSHes per second of 50 tasks."""
    async with redis.asyncio.Redis(port=port) as client:
        await textbook.push_tasks(client, TASKS, 2)
        started = time.perf_counter()
        await textbook.push_tasks(client, TASKS, each)
        return TASKS * each / (time.perf_counter() - started)


def _curve(lab: Lab, queue: reliq.Queue, client: redis.Redis) -> None:
    ours, theirs = [], []
    for size in (1, 5, 20, 100, 500, 1000):
        calls = max(1, lab.size(20_000, 2000) // max(size, 10))
        ours.append((size, size * calls / timed(lambda: many(queue, size, calls))))  # noqa: B023 - called at once
        theirs.append((size, size * calls / timed(lambda: textbook.push_many(client, size, calls))))  # noqa: B023
        client.flushdb()
    lab.curve("put_many over batch size", "messages per call", "messages/s", "reliq", ours)
    lab.curve("put_many over batch size", "messages per call", "messages/s", "LPUSH", theirs)
