"""The reaper inside every worker: a task, so that reaping much never holds up the worker's own trips."""

from __future__ import annotations

import asyncio

from reliq.aio.queue import Queue
from reliq.aio.reaper import Reaper
from reliq.errors import ReliqError
from reliq.logging import log
from reliq.model import clock


class Sweeper:
    """Reaps a queue when a trip says that leases have ended, and now and then looks for stray lists.

    After an outage of ours nobody could renew, so nothing is reaped by lease for one lease (DESIGN 9.10).
    """

    def __init__(self, queues: list[Queue]) -> None:
        self._orders: asyncio.Queue[tuple[Queue, int] | None] = asyncio.Queue()
        self._reaper = Reaper(*queues, scan_steps=0)
        self._hold_until = 0.0
        self._task = asyncio.get_running_loop().create_task(self._run())

    def sweep(self, queue: Queue, duty: int) -> None:
        """Do soon what a trip asked for (see ``Reaper.on_duty``)."""
        self._orders.put_nowait((queue, duty))

    def hold(self, seconds: float) -> None:
        """Do not reap by lease for so long: we were cut off, so others were too."""
        self._hold_until = clock() + seconds

    async def _run(self) -> None:
        while (order := await self._orders.get()) is not None:
            if clock() < self._hold_until:
                continue
            queue, duty = order
            try:
                report = await self._reaper.on_duty(queue, duty)
            except ReliqError as error:  # whoever has the duty next second tries again
                log.debug("queue %r: sweep: %s", queue.name, error)
            else:
                if report.returned or report.buried or report.errors:
                    log.warning("reaped: %s", report)

    async def stop(self) -> None:
        """End after the pass under way."""
        self._orders.put_nowait(None)
        await asyncio.wait([self._task], timeout=5.0)
