"""The reaper inside every worker: a task, so that reaping much never holds up the worker's own trips."""

from __future__ import annotations

import asyncio

from reliq import defaults
from reliq.aio.queue import Queue
from reliq.aio.reaper import Reaper
from reliq.aio.station import Station
from reliq.errors import ReliqError
from reliq.identity import clock
from reliq.logging import log


class Sweeper:
    """Reaps a queue when a trip says that leases have ended, and now and then looks for stray lists.

    After an outage of ours nobody could renew, so nothing is reaped by lease for one lease (DESIGN 9.10). A
    pass that could not be made then, or left somebody waiting, is made later by itself: the server would ask
    for it only half a minute later.
    """

    def __init__(self, stations: list[Station]) -> None:
        self._stations = {station.queue: station for station in stations}
        self._orders: asyncio.Queue[tuple[Queue, int] | None] = asyncio.Queue()
        self._reaper = Reaper(*self._stations, scan_steps=0)
        self._hold_until = 0.0
        self._task = asyncio.get_running_loop().create_task(self._run())

    def sweep(self, queue: Queue, duty: int) -> None:
        """Do soon what a trip asked for (see ``Reaper.on_duty``)."""
        self._orders.put_nowait((queue, duty))

    def hold(self, seconds: float) -> None:
        """Do not reap by lease for so long: we were cut off, so others were too."""
        self._hold_until = clock() + seconds

    def _is_cut_off(self, queue: Queue) -> bool:
        """Whether it is not for us to say that a lease is over: nobody answers us now, or did a moment ago."""
        silence = clock() - self._stations[queue].engine.answered_at
        return clock() < self._hold_until or silence > queue.options.lease / defaults.CUT_OFF_SHARE

    async def _run(self) -> None:
        owed: dict[Queue, float] = {}  # a full pass, and when
        while (order := await self._next(owed)) is not None:
            queue, duty = order
            if self._is_cut_off(queue):
                owed[queue] = max(self._hold_until, clock() + 1.0)
                continue
            owed.pop(queue, None)
            try:
                report = await self._reaper.on_duty(queue, duty)
            except ReliqError as error:
                owed[queue] = clock() + 1.0
                log.debug("queue %r: sweep: %s", queue.name, error)
            else:
                if report.waiting:
                    owed[queue] = clock() + queue.options.lease
                watch = self._stations[queue].handler.watch
                if watch is not None:
                    watch.reaped(report.returned, report.buried)
                if report.returned or report.buried or report.errors:
                    log.warning("reaped: %s", report)

    async def _next(self, owed: dict[Queue, float]) -> tuple[Queue, int] | None:
        if not owed:
            return await self._orders.get()
        first = min(owed, key=lambda queue: owed[queue])
        try:
            return await asyncio.wait_for(self._orders.get(), max(0.0, owed[first] - clock()))
        except asyncio.TimeoutError:
            return first, 2

    async def stop(self) -> None:
        """End after the pass under way."""
        self._orders.put_nowait(None)
        await asyncio.wait([self._task], timeout=5.0)
