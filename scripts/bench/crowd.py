"""Many at once in one process.

crowd-threads  50 threads that put one by one and 50 threads that each pull with a Consumer of their own, all at
               once, against one thread that puts and one that pulls. The figure is messages put and acked per
               second, from the first put until the last ack; every side handles the same number of messages.
crowd-tasks    the same with tasks of one event loop, against one task of each kind.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import redis

import reliq
from reliq import aio
from scripts.bench.bars import Bar, Figure, ratios
from scripts.bench.lab import Lab, body

BARS = (
    Bar("crowd-threads", "50 producers and 50 consumers in threads against one of each", 0.7),
    Bar("crowd-tasks", "50 producers and 50 consumers in tasks against one of each", 0.7),
)
MANY = 50


def measure(lab: Lab) -> dict[str, Figure]:
    """One of each and fifty of each, in turn."""
    rates: dict[tuple[str, int], list[float]] = {(how, n): [] for how in ("threads", "tasks") for n in (1, MANY)}
    total = lab.size(10_000, 1000)
    with lab.server() as server:
        client = redis.Redis(port=server.port)
        for _ in range(lab.rounds):
            for crowd in (1, MANY):
                client.flushdb()
                rates["threads", crowd].append(in_threads(server.url, crowd, total))
                client.flushdb()
                rates["tasks", crowd].append(asyncio.run(in_tasks(server.url, crowd, total)))
        client.close()
    return {
        f"crowd-{how}": Figure(
            ratios(rates[how, MANY], rates[how, 1]),
            {"50 and 50 /s": rates[how, MANY], "1 and 1 /s": rates[how, 1]},
        )
        for how in ("threads", "tasks")
    }


def in_threads(url: str, crowd: int, total: int) -> float:
    """Messages per second through so many producers and consumers."""
    queue = reliq.Queue("crowd", url)
    consumers = [queue.consumer() for _ in range(crowd)]
    tally = Tally(total)

    def produce() -> None:
        for i in range(total // crowd):
            queue.put(body(i))

    def consume(consumer: Any) -> None:
        while not tally.over:
            for lease in consumer.claim(1, timeout=0.2):
                lease.ack()
                tally.count()

    threads = [threading.Thread(target=produce) for _ in range(crowd)]
    threads += [threading.Thread(target=consume, args=(consumer,)) for consumer in consumers]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for consumer in consumers:
        consumer.close()
    queue.close()
    return total / (tally.ended_at - started)


async def in_tasks(url: str, crowd: int, total: int) -> float:
    """The same on one event loop."""
    async with aio.Queue("crowd", url) as queue:
        consumers = [queue.consumer() for _ in range(crowd)]
        tally = Tally(total)

        async def produce() -> None:
            for i in range(total // crowd):
                await queue.put(body(i))

        async def consume(consumer: Any) -> None:
            while not tally.over:
                for lease in await consumer.claim(1, timeout=0.2):
                    await lease.ack()
                    tally.count()

        await _each(consumers, lambda consumer: consumer.__aenter__())
        started = time.perf_counter()
        await asyncio.gather(*(produce() for _ in range(crowd)), *map(consume, consumers))
        await _each(consumers, lambda consumer: consumer.__aexit__(None, None, None))
        return total / (tally.ended_at - started)


async def _each(consumers: list[Any], work: Callable[[Any], Awaitable[Any]]) -> None:
    for consumer in consumers:
        await work(consumer)


class Tally:
    """Counts what was acked, and notes when that was all."""

    def __init__(self, total: int) -> None:
        self._left = total
        self._lock = threading.Lock()
        self.ended_at = 0.0
        self.over = False

    def count(self) -> None:
        """One more."""
        with self._lock:
            self._left -= 1
            if self._left <= 0:
                self.ended_at, self.over = time.perf_counter(), True
