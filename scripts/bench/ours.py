"""reliq in this process: drains with no-op handlers. Everything is on that a user has on by default."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import redis

import reliq
from reliq import aio
from scripts.bench.lab import fill, timed


def noop(body: Any) -> None:
    """What is measured is everything around this."""


async def async_noop(body: Any) -> None:
    """The same as a coroutine function."""


class Drain:
    """One queue that is filled and drained again and again; each drain is checked for completeness."""

    def __init__(self, client: redis.Redis, url: str, elements: Sequence[bytes], name: str = "drain") -> None:
        self.client, self.url, self.elements = client, url, elements
        self.queue = reliq.Queue(name, url)

    def threads(self, concurrency: int) -> float:
        """Messages per second of a Worker with plain handlers; from its start to its end."""
        worker = reliq.Worker(self.queue.ack(noop), concurrency=concurrency, until_empty=True)
        return self._rate(worker.run)

    def tasks(self, concurrency: int) -> float:
        """Messages per second of an aio.Worker with coroutine handlers; from its start to its end."""

        async def run() -> None:
            async with aio.Queue(self.queue.name, self.url) as queue:
                await aio.Worker(queue.ack(async_noop), concurrency=concurrency, until_empty=True).run()

        return self._rate(lambda: asyncio.run(run()))

    def _rate(self, work: Any) -> float:
        keys = self.queue.options.keys
        self.client.flushdb()
        fill(self.client, keys.ready, self.elements)
        seconds = timed(work)
        acked = int(self.client.hget(keys.stats, "ack") or 0)
        if acked != len(self.elements) or self.client.llen(keys.ready):
            raise AssertionError(f"{acked} of {len(self.elements)} messages were acked")
        return len(self.elements) / seconds
