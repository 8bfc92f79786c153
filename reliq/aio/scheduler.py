"""Fires the ticks of schedules: inside of every worker and consumer, and as a process of its own where none
runs."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from reliq.aio.queue import Queue
from reliq.errors import ReliqError
from reliq.ticking import PASSING, Ticking

if TYPE_CHECKING:
    from reliq.core.ticks import Fired


class Scheduler:
    """Puts the messages of schedules when their ticks are due, by the server's clock: each tick once, with any
    number of schedulers.

    Workers and consumers of a queue do this by themselves; a Scheduler is for where none of them runs. While it
    waits it asks Redis once a second for each queue. ``run()`` goes on until ``stop()``; ``run_once()`` is one
    pass.
    """

    def __init__(self, *queues: Queue) -> None:
        self._queues = queues
        self._ticking = Ticking()
        self._stopping = False
        self._bell = asyncio.Event()

    async def run_once(self) -> int:
        """Fire what is due now in all queues; returns how many messages were put."""
        return sum([(await self._fire(queue, politely=False)).messages for queue in self._queues])

    async def run(self) -> None:
        """Fire what comes due, until ``stop()``; goes on through outages of Redis."""
        while not self._stopping:
            pauses = [await self._pass(queue) for queue in self._queues]
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._bell.wait(), min(pauses, default=1.0))

    async def _pass(self, queue: Queue) -> float:
        """One pass, unless somebody else is at it; returns seconds until the next one."""
        try:
            return self._ticking.done(queue.name, await self._fire(queue, politely=True))
        except PASSING as error:
            return self._ticking.failed(queue.name, error)

    async def _fire(self, queue: Queue, *, politely: bool) -> Fired:
        return await queue.links.flow(self._ticking.flow(queue.options, politely=politely))

    def stop(self) -> None:
        """Let ``run`` end after the pass under way. Safe in signal handlers."""
        self._stopping = True
        self._bell.set()


class Ticker:
    """The scheduler inside of a worker or consumer: a task, started when a trip says that ticks are due."""

    def __init__(self) -> None:
        self._ticking = Ticking()
        self._orders: list[Queue] = []
        self._task: asyncio.Task[None] | None = None

    def fire(self, queue: Queue) -> None:
        """Fire soon what is due there. Should it fail, a trip says so again a second later."""
        self._orders.append(queue)
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run(), name="reliq-ticker")

    async def _run(self) -> None:
        while self._orders:
            queue = self._orders.pop(0)
            try:
                fired = await queue.links.flow(self._ticking.flow(queue.options, politely=False))
                self._ticking.done(queue.name, fired)
            except ReliqError as error:
                self._ticking.failed(queue.name, error)

    async def stop(self) -> None:
        """End after the pass under way."""
        self._orders.clear()
        if self._task is not None:
            await asyncio.wait([self._task], timeout=5.0)
