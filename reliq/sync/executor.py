"""Where handlers run: threads for plain functions, an event loop in a thread for coroutine functions."""

from __future__ import annotations

import asyncio
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

from reliq.ack import lease_class
from reliq.core.consumer import Settle
from reliq.core.pace import Pace
from reliq.core.verdict import describe
from reliq.logging import log
from reliq.model import clock
from reliq.sync.board import Board
from reliq.sync.lease import Lease
from reliq.sync.station import Station
from reliq.working import Job as AnyJob

Job = AnyJob[Station]


class Running:
    """A handler at work."""

    __slots__ = ("failed", "job", "reported", "started_at", "thread")

    def __init__(self, job: Job, started_at: float, thread: int) -> None:
        self.job = job
        self.started_at = started_at
        self.thread = thread
        self.reported = False  # as stuck
        self.failed = False  # its message was settled as a failed attempt while the handler still runs

    def overdue(self, now: float) -> bool:
        """Whether it is past its handler's timeout."""
        timeout = self.job.station.handler.timeout
        return timeout is not None and now - self.started_at > timeout

    def stack(self) -> str:
        """Where the handler is at this moment."""
        frame = sys._current_frames().get(self.thread)
        return "".join(traceback.format_stack(frame)) if frame is not None else "(no stack)\n"


class Executor:
    """What both kinds share: the jobs that wait, the slots, and what is done before and after a handler."""

    def __init__(self, pace: Pace, defer: Callable[[Job], None], board: Board | None) -> None:
        self.pace = pace
        self.waiting: deque[Job] = deque()
        self.running: dict[int, Running] = {}
        self._defer = defer
        self._board = board
        self._slots = deque(range(pace.concurrency))

    def take_waiting(self) -> list[Job]:
        """The jobs that no handler has seen; they are not run any more."""
        jobs = []
        while True:
            try:
                jobs.append(self.waiting.popleft())
            except IndexError:
                return jobs

    def _may_start(self, job: Job) -> bool:
        """Last check before a hand-over: the message is still ours and the lease has margin (DESIGN 9.1)."""
        if job.message.lost:
            return False
        if job.station.state.fresh(clock()):
            return True
        self._defer(job)
        return False

    def _begin(self, slot: int, job: Job) -> Running:
        running = Running(job, clock(), threading.get_ident())
        self.running[slot] = running
        if self._board is not None:
            station, id = job.station, job.message.envelope.id
            self._board.start(slot, station.index, id, running.started_at, station.handler.timeout)
        return running

    def _end(self, slot: int, running: Running, lease: Any, error: BaseException | None) -> None:
        """Settle by the outcome, unless the handler (or the watch over timeouts) has settled it."""
        job = running.job
        self.pace.ran(clock() - running.started_at)
        self.running.pop(slot, None)
        if self._board is not None:
            self._board.finish(slot)
        if running.failed or lease.settled:
            lease.mark_settled()
            if isinstance(error, Exception):
                log.error("failed after it was settled: %s", describe(error), exc_info=error)
            job.station.wake()
            return
        lease.mark_settled()
        settle = lease.judge(error)
        if error is not None:
            lease.report(error, settle)
        job.station.finish(settle)


class ThreadExecutor(Executor):
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
        self._slots.append(slot)

    def close(self) -> None:
        """Let the threads end when they are done; a stuck one is left behind (it is a daemon)."""
        for _ in self._threads:
            self._tokens.put(False)


class AsyncExecutor(Executor):
    """An event loop in one thread, on which up to ``concurrency`` coroutine handlers run at once."""

    def __init__(self, pace: Pace, defer: Callable[[Job], None], board: Board | None) -> None:
        super().__init__(pace, defer, board)
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, name="reliq-asyncio", daemon=True)
        self._thread.start()

    def submit(self, jobs: list[Job]) -> None:
        """Run these, in order, as soon as slots are free."""
        self.waiting.extend(jobs)
        self._loop.call_soon_threadsafe(self._start)

    def nudge(self) -> bool:
        """Coroutines need no waking."""
        return False

    def _start(self) -> None:
        while self._slots and self.waiting:
            job = self.waiting.popleft()
            if self._may_start(job):
                slot = self._slots.pop()
                task = self._loop.create_task(self._run(slot, job))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _run(self, slot: int, job: Job) -> None:
        running = self._begin(slot, job)
        lease = lease_class(is_async=True)(job.message, _AsyncSettler(job.station), job.station.handler.retry)
        error: BaseException | None = None
        try:
            lease.enter()
            await asyncio.wait_for(job.station.handler.call(lease), job.station.handler.timeout)
        except asyncio.TimeoutError as raised:
            late = f"took longer than its timeout of {job.station.handler.timeout} s"
            error = TimeoutError(late) if running.overdue(clock()) else raised
        except BaseException as raised:  # noqa: BLE001 - nothing that a handler raises may end the worker
            error = raised
        finally:
            lease.leave()
        self._end(slot, running, lease, error)
        self._slots.append(slot)
        self._start()

    def close(self) -> None:
        """End the event loop; what still runs on it is cancelled by that."""
        self._loop.call_soon_threadsafe(self._loop.stop)


class _AsyncSettler:
    """Lets a coroutine handler await its explicit settle, which a trip of the worker's loop makes."""

    def __init__(self, station: Station) -> None:
        self._station = station
        self.state = station.state

    async def settle(self, settle: Settle) -> bool:
        return await asyncio.to_thread(self._station.settle, settle)
