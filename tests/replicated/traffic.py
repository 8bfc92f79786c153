"""Puts, a supervised worker process and an asyncio worker on one queue, and what became of every message."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import reliq
from reliq import aio
from tests.conformance.shell import until
from tests.faults.lab import Lab
from tests.topologies import Cluster, Replicated

OPTIONS: dict[str, Any] = {"lease": 3.0, "block": 1.0, "timeout": 2.0}


class Traffic:
    """``puts``: number -> monotonic time of the confirmation; ``safe``: those that a replica has confirmed."""

    def __init__(self, lab: Lab, queue: aio.Queue) -> None:
        self.lab, self.queue = lab, queue
        self.puts: dict[int, float] = {}
        self.safe: set[int] = set()
        self.shortfalls = 0
        self.mine: Counter[int] = Counter()
        self._number = 0
        self._stopping = False

    def handled(self) -> Counter[int]:
        """How often each number was handled, by both workers."""
        return self.lab.count() + self.mine

    @property
    def lost(self) -> dict[int, float]:
        """What was confirmed and never handled, with the time of its put."""
        handled = self.handled()
        return {n: at for n, at in self.puts.items() if n not in handled}

    async def produce(self, replicas: int) -> None:
        """Puts, one after the other, until told to stop; what is unknown is repeated once."""
        while not self._stopping:
            self._number += 1
            await self._put({"n": self._number, "ms": 2}, replicas)
            await asyncio.sleep(0.004)

    async def _put(self, body: dict[str, int], replicas: int) -> None:
        try:
            await self.queue.put(body, replicas=replicas)
        except reliq.OutcomeUnknown as error:
            self.shortfalls += "replicas confirmed it" in str(error)
            try:
                await self.queue.repeat(error)
            except reliq.ReliqError:
                return
        except reliq.Unavailable:
            await asyncio.sleep(0.05)
            return
        self.puts[body["n"]] = time.monotonic()
        if replicas:
            self.safe.add(body["n"])

    async def grows(self, more: int = 30, seconds: float = 15.0) -> None:
        """Wait until so many more are handled: the workers work."""
        target, deadline = len(self.handled()) + more, time.monotonic() + seconds
        while len(self.handled()) < target:
            assert time.monotonic() < deadline, f"{len(self.handled())} handled, want {target}"
            await asyncio.sleep(0.05)

    async def drained(self, seconds: float = 12.0) -> None:
        """Stop putting, and wait until all is settled."""
        self._stopping = True
        deadline = time.monotonic() + seconds
        while True:
            try:
                size = await self.queue.size()
                if size.ready + size.doing + size.later == 0:
                    return
            except reliq.ReliqError as error:
                size = error  # type: ignore[assignment]
            assert time.monotonic() < deadline, f"not drained: {size}"
            await asyncio.sleep(0.05)


@asynccontextmanager
async def traffic(
    topology: Replicated | Cluster, folder: Path, prefix: str, **options: Any
) -> AsyncIterator[Traffic]:
    """Both workers at work, and two producers: one waits for a replica, one does not."""
    lab = Lab(topology.url, prefix, folder, **(OPTIONS | options))
    async with AsyncExitStack() as stack:
        stack.push_async_callback(asyncio.to_thread, lab.close)
        queue = await stack.enter_async_context(
            aio.Queue("work", topology.url, prefix=prefix, **(OPTIONS | options))
        )
        made = Traffic(lab, queue)

        async def handle(body: dict[str, int]) -> None:
            await asyncio.sleep(body["ms"] / 1000)
            made.mine[body["n"]] += 1

        lab.start(supervise=True, processes=2, concurrency=2, grace=5.0)
        await stack.enter_async_context(aio.Worker(queue.ack(handle), concurrency=2))
        producers = [asyncio.create_task(made.produce(replicas)) for replicas in (0, 1)]
        try:
            await made.grows()
            assert await until(lab.count, seconds=20.0), "the processes take longer to start"
            yield made
        except BaseException:
            print(*(worker.log()[-3000:] for worker in lab.workers), sep="\n---\n")
            raise
        finally:
            made._stopping = True
            await asyncio.gather(*producers)
