"""Where handlers run: threads for plain functions, an event loop in a thread for coroutine functions."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from queue import SimpleQueue

from reliq.core.consumer import Settle
from reliq.core.pace import Pace
from reliq.running import Board, CoroutineExecutor, Executor
from reliq.sync.lease import Lease
from reliq.sync.station import Station
from reliq.working import Job as AnyJob

Job = AnyJob[Station]


class ThreadExecutor(Executor[Station]):
    """Up to ``concurrency`` threads, started when they are needed.

    Waking a thread costs more than a short handler runs. So while handlers are quick, one thread works
    through the jobs and the others are woken only when it falls behind (``nudge``).
    """

    def __init__(self, pace: Pace, defer: Callable[[Job], None], board: Board | None) -> None:
        super().__init__(pace, defer, board)
        self._tokens: SimpleQueue[bool] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._resting = 0
        self._lock = threading.Lock()

    def submit(self, jobs: list[Job]) -> None:
        """Run these, in order, as soon as slots are free."""
        self.waiting.extend(jobs)
        at_work = len(self._threads) - self._resting
        if self.pace.quick:
            self._wake(1 if at_work == 0 else 0)
        else:
            self._wake(len(jobs))

    def nudge(self) -> bool:
        """Wake one more thread if jobs wait; True if it may be worth asking again soon."""
        if self.waiting:
            self._wake(1)
        return bool(self.waiting) and (self._resting > 0 or len(self._threads) < self.pace.concurrency)

    def _wake(self, n: int) -> None:
        for _ in range(n):
            with self._lock:
                if self._resting > 0:
                    self._resting -= 1
                elif len(self._threads) < self.pace.concurrency:
                    name = f"reliq-handler-{len(self._threads)}"
                    thread = threading.Thread(target=self._work, name=name, daemon=True)
                    self._threads.append(thread)
                    thread.start()
                else:
                    return
            self._tokens.put(True)

    def _work(self) -> None:
        while self._tokens.get():
            while True:
                try:
                    job = self.waiting.popleft()
                except IndexError:
                    with self._lock:
                        if not self.waiting:
                            self._resting += 1
                            break
                    continue
                self._run(job)

    def _run(self, job: Job) -> None:
        if not self._may_start(job):
            return
        slot = self._slots.pop()
        running = self._begin(slot, job)
        lease = Lease(job.message, job.station, job.station.handler.retry)
        error: BaseException | None = None
        try:
            lease.enter()
            job.station.handler.call(lease)
        except BaseException as raised:  # noqa: BLE001 - nothing that a handler raises may end the worker
            error = raised
        finally:
            lease.leave()
        self._end(slot, running, lease, error)

    def close(self) -> None:
        """Let the threads end when they are done; a stuck one is left behind (it is a daemon)."""
        for _ in self._threads:
            self._tokens.put(False)


class AsyncExecutor(CoroutineExecutor[Station]):
    """An event loop in one thread, on which up to ``concurrency`` coroutine handlers run at once."""

    def __init__(self, pace: Pace, defer: Callable[[Job], None], board: Board | None) -> None:
        super().__init__(pace, defer, _AsyncSettler, board)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="reliq-asyncio", daemon=True)
        self._thread.start()

    def submit(self, jobs: list[Job]) -> None:
        """Run these, in order, as soon as slots are free."""
        self.waiting.extend(jobs)
        self._loop.call_soon_threadsafe(self.start)

    def nudge(self) -> bool:
        """Coroutines need no waking."""
        return False

    def close(self) -> None:
        """Cancel what still runs and end the event loop."""
        self._loop.call_soon_threadsafe(self.cancel)
        self._loop.call_soon_threadsafe(self._loop.call_later, 0.05, self._loop.stop)
        self._thread.join(1.0)
        if not self._thread.is_alive():
            self._loop.close()


class _AsyncSettler:
    """Lets a coroutine handler await its explicit settle, which a trip of the worker's loop makes."""

    def __init__(self, station: Station) -> None:
        self._station = station
        self.state = station.state

    async def settle(self, settle: Settle) -> bool:
        return await asyncio.to_thread(self._station.settle, settle)

    def post(self, settle: Settle) -> None:
        self._station.finish(settle)
