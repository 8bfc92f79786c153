"""Handlers that wait.

slow  10,000 messages whose plain handler sleeps 10 ms, Worker(concurrency=50): messages per second over the whole
      life of the worker, against the ideal of 5,000. Coroutine handlers that await 10 ms, on aio.Worker, are shown
      beside it.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import redis

import reliq
from reliq import aio
from scripts.bench.bars import Bar, Figure
from scripts.bench.lab import Lab, elements, fill, timed

BARS = (Bar("slow", "10 ms handlers, concurrency 50, against the ideal 5,000/s", 0.95),)
CONCURRENCY, HANDLER = 50, 0.01
IDEAL = CONCURRENCY / HANDLER


def measure(lab: Lab) -> dict[str, Figure]:
    """Threads and tasks in turn."""
    threads: list[float] = []
    tasks: list[float] = []
    with lab.server() as server:
        client = redis.Redis(port=server.port)
        queue = reliq.Queue("slow", server.url)
        messages = elements(queue, lab.size(10_000, 1000))
        for _ in range(lab.rounds):
            for rates, run in ((threads, _threads), (tasks, _tasks)):
                client.flushdb()
                fill(client, queue.options.keys.ready, messages)
                rates.append(len(messages) / timed(lambda: run(queue, server.url)))  # noqa: B023 - called at once
        queue.close()
        client.close()
    return {"slow": Figure([rate / IDEAL for rate in threads], {"threads /s": threads, "asyncio /s": tasks})}


def _threads(queue: reliq.Queue, url: str) -> None:
    def wait(_: Any) -> None:
        time.sleep(HANDLER)

    reliq.Worker(queue.ack(wait), concurrency=CONCURRENCY, until_empty=True).run()


def _tasks(queue: reliq.Queue, url: str) -> None:
    async def wait(_: Any) -> None:
        await asyncio.sleep(HANDLER)

    async def run() -> None:
        async with aio.Queue(queue.name, url) as own:
            await aio.Worker(own.ack(wait), concurrency=CONCURRENCY, until_empty=True).run()

    asyncio.run(run())
