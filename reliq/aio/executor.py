"""Where handlers run: coroutine functions as tasks of the event loop, plain functions in threads."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context

from reliq.ack import lease_class
from reliq.aio.station import Station
from reliq.core.consumer import Settle
from reliq.core.pace import Pace
from reliq.lease import Leased
from reliq.running import CoroutineExecutor, Executor, Running
from reliq.working import Job as AnyJob

Job = AnyJob[Station]


class TaskExecutor(CoroutineExecutor[Station]):
    """Up to ``concurrency`` coroutine handlers at once."""

    def __init__(self, pace: Pace, defer: Callable[[Job], None]) -> None:
        super().__init__(pace, defer, lambda station: station)

    def submit(self, jobs: list[Job]) -> None:
        """Run these, in order, as soon as slots are free."""
        self.waiting.extend(jobs)
        self.start()

    def close(self) -> None:
        """Cancel what still runs."""
        self.cancel()


class ThreadedExecutor(Executor[Station]):
    """Up to ``concurrency`` plain functions at once, so that none of them blocks the event loop."""

    def __init__(self, pace: Pace, defer: Callable[[Job], None]) -> None:
        super().__init__(pace, defer)
        self._loop = asyncio.get_running_loop()
        self._threads = ThreadPoolExecutor(pace.concurrency, thread_name_prefix="reliq-handler")

    def submit(self, jobs: list[Job]) -> None:
        """Run these, in order, as soon as slots are free."""
        self.waiting.extend(jobs)
        self._start()

    def _start(self) -> None:
        while self._slots and self.waiting:
            job = self.waiting.popleft()
            if self._may_start(job):
                slot = self._slots.popleft()
                running = self._begin(slot, job)
                settler = _ThreadSettler(job.station, self._loop)
                lease = lease_class(is_async=False)(job.message, settler, job.station.handler.retry)
                self._threads.submit(copy_context().run, self._run, slot, running, lease)

    def _run(self, slot: int, running: Running[Station], lease: Leased) -> None:
        """In the handler's thread."""
        running.thread = threading.get_ident()
        error: BaseException | None = None
        lease.enter()
        try:
            running.job.station.handler.call(lease)
        except BaseException as raised:  # noqa: BLE001 - nothing that a handler raises may end the worker
            error = raised
        finally:
            lease.leave()
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._back, slot, running, lease, error)

    def _back(self, slot: int, running: Running[Station], lease: Leased, error: BaseException | None) -> None:
        self._end(slot, running, lease, error)
        self._start()

    def close(self) -> None:
        """Let the threads end when they are done; a stuck one is left behind."""
        self._threads.shutdown(wait=False, cancel_futures=True)


class _ThreadSettler:
    """Lets a plain handler wait for its explicit settle, which a trip of the worker's loop makes."""

    def __init__(self, station: Station, loop: asyncio.AbstractEventLoop) -> None:
        self._station = station
        self._loop = loop
        self.state = station.state

    def settle(self, settle: Settle) -> bool:
        return asyncio.run_coroutine_threadsafe(self._station.settle(settle), self._loop).result()
