"""Handlers at work: slots, the last check before a hand-over, and what is done with the outcome.

Shared by the executors of both shells; how handlers are run (threads, tasks) is theirs.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Generic, Protocol, TypeVar

from reliq.ack import Handler, lease_class
from reliq.core.consumer import Message
from reliq.core.pace import Pace
from reliq.core.verdict import describe
from reliq.lease import Leased
from reliq.logging import log
from reliq.model import clock
from reliq.working import Job, Stationed

S = TypeVar("S", bound=Stationed)


class Board(Protocol):
    """What a supervisor reads: which messages handlers have in hand (``reliq.sync.board``)."""

    def start(self, slot: int, station: int, id: bytes, now: float, timeout: float | None) -> None:
        """A handler gets this message in hand."""

    def finish(self, slot: int) -> None:
        """The handler is done with it."""


class Running(Generic[S]):
    """A handler at work."""

    __slots__ = ("ended", "failed", "job", "reported", "started_at", "thread")

    def __init__(self, job: Job[S], started_at: float) -> None:
        self.job = job
        self.started_at = started_at
        self.thread = threading.get_ident()
        self.ended = False  # the handler came back; what becomes of its message is being decided
        self.reported = False  # as stuck
        self.failed = False  # its message was settled as a failed attempt while the handler still runs

    def overdue(self, now: float) -> bool:
        """Whether it is past its handler's timeout."""
        timeout = self.job.station.handler.timeout
        return timeout is not None and not self.ended and now - self.started_at > timeout

    def stack(self) -> str:
        """Where the handler's thread is at this moment."""
        frame = sys._current_frames().get(self.thread)
        return "".join(traceback.format_stack(frame)) if frame is not None else "(no stack)\n"


class Executor(Generic[S]):
    """The jobs that wait, the slots, and what is done before and after a handler."""

    def __init__(
        self, pace: Pace, defer: Callable[[Job[S]], None], board: Board | None = None, first_slot: int = 0
    ) -> None:
        self.pace = pace
        self.waiting: deque[Job[S]] = deque()
        self.running: dict[int, Running[S]] = {}
        self._defer = defer
        self._board = board
        self._slots = deque(range(first_slot, first_slot + pace.concurrency))
        self._picking: set[int] = set()

    def take_waiting(self) -> list[Job[S]]:
        """The jobs that no handler has seen; they are not run any more."""
        jobs = []
        while True:
            try:
                jobs.append(self.waiting.popleft())
            except IndexError:
                return jobs

    def in_hand(self, station: S) -> list[Message]:
        """The messages of this queue that handlers have in hand."""
        running = list(self.running.values())
        return [r.job.message for r in running if r.job.station is station]

    def overdue(self, now: float) -> list[Running[S]]:
        """Handlers that are past their timeout and were not reported yet."""
        return [r for r in list(self.running.values()) if not r.reported and r.overdue(now)]

    @property
    def at_work(self) -> bool:
        """Whether a handler runs, or is about to, that may still come back."""
        # In this order: who picks a job is in the first set until it is in the second.
        return bool(self._picking) or any(not running.reported for running in list(self.running.values()))

    def _may_start(self, job: Job[S]) -> bool:
        """Last check before a hand-over: the message is still ours and the lease has margin (DESIGN 9.1)."""
        # First the lease, then whether it is lost: an answer marks what is lost before it confirms the lease.
        fresh = job.station.state.fresh(clock())
        if job.message.lost:
            return False
        if not fresh:
            self._defer(job)
        return fresh

    def _begin(self, slot: int, job: Job[S]) -> Running[S]:
        running = Running(job, clock())
        self.running[slot] = running
        if self._board is not None:
            station, id = job.station, job.message.envelope.id
            self._board.start(slot, station.index, id, running.started_at, station.handler.timeout)
        return running

    def _end(self, slot: int, running: Running[S], lease: Leased, error: BaseException | None) -> None:
        """Settle by the outcome, unless the handler (or the watch over timeouts) has settled it."""
        station = running.job.station
        running.ended = True
        self.pace.ran(clock() - running.started_at)
        if self._board is not None:
            self._board.finish(slot)
        if running.failed or lease.settled:
            lease.mark_settled()
            if isinstance(error, Exception):
                log.error("failed after it was settled: %s", describe(error), exc_info=error)
        else:
            lease.mark_settled()
            settle = lease.judge(error)
            if error is not None:
                lease.report(error, settle)
            station.state.finished.append(settle)
        self.running.pop(slot, None)  # not before: a worker that ends meanwhile would give the message back
        lease.leave()
        self._slots.append(slot)
        self._ended(station)

    def _ended(self, station: S) -> None:
        """A handler came back: let the loop know."""
        station.wake()


class ThreadExecutor(Executor[S]):
    """Up to ``concurrency`` threads, started when they are needed.

    Waking a thread costs more than a short handler runs. So while handlers are quick, one thread works
    through the jobs and the others are woken only when it falls behind (``nudge``). And a thread that has
    run out of jobs makes the trip that is due then itself (``refill``), instead of waking the loop for it.
    """

    def __init__(
        self,
        pace: Pace,
        defer: Callable[[Job[S]], None],
        settler: Callable[[S], Any],
        board: Board | None = None,
        refill: Callable[[], bool] = lambda: False,
    ) -> None:
        super().__init__(pace, defer, board)
        self._settler = settler
        self._refill = refill
        self._lease_class = lease_class(is_async=False)
        self._tokens: SimpleQueue[bool] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._resting = 0
        self._lock = threading.Lock()

    def submit(self, jobs: list[Job[S]]) -> None:
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
        me = threading.get_ident()
        while self._tokens.get():
            while True:
                self._picking.add(me)
                try:
                    job = self.waiting.popleft()
                except IndexError:
                    self._picking.discard(me)
                    if self._refill():
                        continue
                    with self._lock:
                        if not self.waiting:
                            self._resting += 1
                            break
                    continue
                self._run(job)

    @property
    def serves_itself(self) -> bool:
        """Whether quick handlers run that fetch their own work, so that the loop need not look for them."""
        return self.pace.quick and len(self._threads) > self._resting

    def _ended(self, station: S) -> None:
        """Without more jobs this thread makes a trip next; with quick ones it will very soon."""
        if self.waiting and not self.pace.quick:
            station.wake()

    def _run(self, job: Job[S]) -> None:
        try:
            if not self._may_start(job):
                return
            slot = self._slots.popleft()
            running = self._begin(slot, job)
        finally:
            self._picking.discard(threading.get_ident())
        lease = self._lease_class(job.message, self._settler(job.station), job.station.handler.retry)
        error: BaseException | None = None
        lease.enter()
        try:
            job.station.handler.call(lease)
        except BaseException as raised:  # noqa: BLE001 - nothing that a handler raises may end the worker
            error = raised
        self._end(slot, running, lease, error)

    def close(self) -> None:
        """Let the threads end when they are done; a stuck one is left behind (it is a daemon)."""
        for _ in self._threads:
            self._tokens.put(False)


class CoroutineExecutor(Executor[S]):
    """Runs coroutine handlers as tasks of the event loop that calls ``start``."""

    def __init__(
        self,
        pace: Pace,
        defer: Callable[[Job[S]], None],
        settler: Callable[[S], Any],
        board: Board | None = None,
        first_slot: int = 0,
    ) -> None:
        super().__init__(pace, defer, board, first_slot)
        self._settler = settler
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Start what waits, in order, as far as there are slots."""
        me = threading.get_ident()
        self._picking.add(me)
        while self._slots and self.waiting:
            job = self.waiting.popleft()
            if self._may_start(job):
                task = asyncio.get_running_loop().create_task(self._run(self._slots.popleft(), job))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        self._picking.discard(me)

    @property
    def at_work(self) -> bool:
        """Whether a handler runs, or is about to; one past its timeout is cancelled, so all come back."""
        return bool(self._picking or self._tasks)

    async def _run(self, slot: int, job: Job[S]) -> None:
        running = self._begin(slot, job)
        handler = job.station.handler
        lease = lease_class(is_async=True)(job.message, self._settler(job.station), handler.retry)
        lease.enter()
        try:
            error = await outcome(handler, lease)
        except asyncio.CancelledError as cancelled:
            # By wait_for below, by the handler itself, or because the loop ends: a failed attempt at most.
            error = cancelled
        if running.overdue(clock()) and isinstance(error, asyncio.CancelledError | asyncio.TimeoutError):
            error = TimeoutError(f"took longer than its timeout of {handler.timeout} s")
        self._end(slot, running, lease, error)
        self.start()

    def cancel(self) -> None:
        """Cancel what still runs."""
        for task in list(self._tasks):
            task.cancel()


async def outcome(handler: Handler[..., Any], lease: Leased) -> BaseException | None:
    """What a coroutine handler raised, or None. A handler past its timeout is cancelled.

    Nothing but cancellation comes out: asyncio ends the whole loop on a SystemExit that leaves a task.
    """

    async def guarded() -> BaseException | None:
        try:
            await handler.call(lease)
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001 - nothing that a handler raises may end the worker
            return error
        return None

    if handler.timeout is None:
        return await guarded()
    try:
        return await asyncio.wait_for(guarded(), handler.timeout)
    except asyncio.TimeoutError as error:
        return error
