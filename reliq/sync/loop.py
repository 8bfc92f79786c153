"""The loop of a worker process: trips for its queues, jobs for its handlers, and an orderly end.

One turn: every station that is due makes a trip (settles what finished, claims for free slots); what it
brought is handed to the executors; then sleep until something finishes, a bell rings, or a trip is due.
Nothing waits for a batch to fill: a batch is what gathered while the last trip was under way.
"""

from __future__ import annotations

import os
from collections import deque
from queue import Empty, SimpleQueue
from typing import Any

from reliq.ack import Handler
from reliq.core.pace import Pace
from reliq.errors import ReliqError
from reliq.lease import settle_for
from reliq.logging import log
from reliq.model import clock
from reliq.sync.board import Board
from reliq.sync.executor import AsyncExecutor, Job, Running, ThreadExecutor
from reliq.sync.queue import Queue
from reliq.sync.station import Station
from reliq.sync.sweeper import Sweeper

Handlers = list[tuple[Handler[..., Any], Queue]]


class Loop:
    """Runs in the thread that calls ``run``. ``stop`` and ``wake`` may be called from anywhere, signal
    handlers included."""

    def __init__(
        self,
        handlers: Handlers,
        *,
        concurrency: int,
        prefetch: int,
        grace: float,
        name: str = "",
        board: Board | None = None,
        until_empty: bool = False,
    ) -> None:
        self._handlers = handlers
        self._grace = grace
        self._board = board
        self._who = f"pid={os.getpid()} {name}".strip()
        self._until_empty = until_empty
        self._pace = Pace(concurrency, prefetch)
        self._bell: SimpleQueue[None] = SimpleQueue()
        self._awake = False
        self._stops = 0
        self._deferred: deque[Job] = deque()
        self._suspects: deque[Job] = deque()
        self._stations: list[Station] = []
        self._executors: dict[bool, ThreadExecutor | AsyncExecutor] = {}
        self._leave_by: float | None = None
        self._sweeper: Sweeper | None = None
        self._server_clock: float | None = None

    # -- from anywhere ----------------------------------------------------------------------------------

    def wake(self) -> None:
        """Let the loop look around; cheap, and safe in signal handlers."""
        if not self._awake:
            self._awake = True
            self._bell.put(None)

    def stop(self) -> None:
        """First call: claim no more, finish within the grace. Second call: give everything back at once."""
        self._stops += 1
        self._awake = True
        self._bell.put(None)

    # -- the boot path ----------------------------------------------------------------------------------

    def run(self) -> bool:
        """Work until stopped. True if every handler came back; False if one is stuck in its thread."""
        self._open()
        try:
            while not self._finished():
                self._turn()
        finally:
            clean = self._close()
        return clean

    def _open(self) -> None:
        """Connect every queue first, so that what is wrong is said at once and nothing is half open."""
        for index, (handler, queue) in enumerate(self._handlers):
            queue.ping()
            if handler.is_async not in self._executors:
                kind = AsyncExecutor if handler.is_async else ThreadExecutor
                self._executors[handler.is_async] = kind(self._pace, self._defer, self._board)
            self._stations.append(Station(index, handler, queue, self._who, self.wake))
        self._sweeper = Sweeper([queue for _, queue in self._handlers])
        log.info("worker started: %s, concurrency %d",
                 ", ".join(h.name for h, _ in self._handlers), self._pace.concurrency)  # fmt: skip

    def _finished(self) -> bool:
        """Whether to end now: all came back and all is settled, or the grace is over, or asked twice."""
        if self._leave_by is None:
            return False
        at_work = any(not r.reported for e in self._executors.values() for r in list(e.running.values()))
        owing = any(s.state.finished or s.state.unanswered for s in self._stations)
        return self._stops >= 2 or clock() > self._leave_by or not (at_work or owing)

    # -- one turn ---------------------------------------------------------------------------------------

    def _turn(self) -> None:
        self._awake = False
        now = clock()
        if self._stops and self._leave_by is None:
            self._begin_to_leave(now + self._grace)
        free = self._free()
        for station in self._stations:
            if station.due_in(now, free=free > 0) == 0.0:
                free -= self._trip(station, max(0, free))
        self._watch(now)
        self._sleep(now)

    def _free(self) -> int:
        if self._leave_by is not None or self._suspects:
            return 0
        return self._pace.capacity - sum(s.in_hand for s in self._stations)

    def _trip(self, station: Station, free: int) -> int:
        before = station.engine.answered_at
        answer = station.trip(free)
        if answer is None:
            return 0
        self._mind_the_gap(station, before, answer.server_ms / 1000)
        if self._board is not None:
            name, bell_id = station.state.name, station.engine.bell_id
            self._board.show_station(station.index, name, bell_id, station.engine.answered_at)
        if answer.sweep and self._sweeper is not None:
            self._sweeper.sweep(station.queue, answer.sweep)
        jobs = [Job(station, message) for message in answer.messages]
        while self._deferred and station.state.fresh(clock()):
            jobs.insert(0, self._deferred.pop())
        self._submit(jobs)
        if self._until_empty and not answer.messages and not self._busy():
            self._begin_to_leave(float("inf"))
        return len(answer.messages)

    def _submit(self, jobs: list[Job]) -> None:
        """Hand jobs to their executors; a suspect waits until nothing else is in hand in this process."""
        if len(self._stations) > 1:
            self._suspects.extend(job for job in jobs if job.message.suspect)
            jobs = [job for job in jobs if not job.message.suspect]
            if self._suspects and sum(s.in_hand for s in self._stations) == len(self._suspects):
                jobs.append(self._suspects.popleft())
        for is_async, executor in self._executors.items():
            mine = [job for job in jobs if job.station.handler.is_async is is_async]
            if mine:
                executor.submit(mine)

    def _busy(self) -> bool:
        return any(s.state.held or s.state.suspects_wait for s in self._stations)

    def _defer(self, job: Job) -> None:
        """The lease of this one is not certain enough to start on it: after the next trip."""
        self._deferred.append(job)
        self.wake()

    def _mind_the_gap(self, station: Station, before: float, server: float) -> None:
        """After an outage of ours, or a jump of the server's clock, others could not renew either."""
        lease, now = station.queue.options.lease, clock()
        offset = server - now
        jumped = self._server_clock is not None and abs(offset - self._server_clock) > lease / 2
        if self._sweeper is not None and (now - before > lease * 2 / 3 or jumped):
            self._sweeper.hold(lease)
        self._server_clock = offset

    def _sleep(self, now: float) -> None:
        free = self._free() > 0
        pause = min([1.0, *(s.due_in(now, free=free) for s in self._stations)])
        for executor in self._executors.values():
            if executor.nudge():
                pause = min(pause, 0.002)
        if self._deferred or self._suspects:
            pause = min(pause, 0.05)
            self._submit([])
        if pause > 0 and not self._awake:
            try:
                self._bell.get(timeout=pause)
            except Empty:
                return
        while not self._bell.empty():
            self._bell.get()

    # -- handlers past their time -----------------------------------------------------------------------

    def _watch(self, now: float) -> None:
        for executor in self._executors.values():
            for running in list(executor.running.values()):
                if not running.reported and running.overdue(now) and not running.job.station.handler.is_async:
                    self._overdue(running)

    def _overdue(self, running: Running) -> None:
        """A thread cannot be killed. Supervised: fail its message and let the process be replaced. Else:
        say so once, with its stack."""
        running.reported = True
        job, stack = running.job, running.stack()
        timeout, id = job.station.handler.timeout, job.message.envelope.id.hex()
        if self._board is None:
            log.error(
                "handler %s is stuck: message %s is past its timeout of %s s. A thread cannot be killed; with "
                "processes=2 (or reliq worker) its process would be replaced. It is here:\n%s",
                job.station.handler.name, id, timeout, stack,
            )  # fmt: skip
            return
        log.error("handler %s: message %s is past its timeout of %s s; this process is replaced. It is here:\n%s",
                  job.station.handler.name, id, timeout, stack)  # fmt: skip
        running.failed = True
        error = TimeoutError(f"took longer than its timeout of {timeout} s")
        job.station.finish(settle_for(job.station.state, job.message, job.station.handler.retry, error, stack))
        self._begin_to_leave(clock() + self._grace)

    # -- the end ----------------------------------------------------------------------------------------

    def _begin_to_leave(self, by: float) -> None:
        """Claim no more, give back what no handler has seen, and let the others finish until then."""
        if self._leave_by is None:
            self._leave_by = by
            log.info("worker stops: claims no more, lets its handlers finish")
            self._give_back_waiting()
            self.wake()

    def _give_back_waiting(self) -> None:
        waiting = [job for e in self._executors.values() for job in e.take_waiting()]
        for job in [*waiting, *self._deferred, *self._suspects]:
            job.station.release(job.message)
        self._deferred.clear()
        self._suspects.clear()

    def _close(self) -> bool:
        """Give back what is still held, in order, and say goodbye. True if no handler is stuck."""
        self._give_back_waiting()
        clean = not any(e.running for e in self._executors.values())
        for station in self._stations:
            held = {s.message.envelope.element for s in station.state.finished}
            for message in list(station.state.held.values()):
                if message.envelope.element not in held:
                    station.release(message)
            self._flush(station)
            if station.close() and self._board is not None:
                self._board.hide_station(station.index)
        for executor in self._executors.values():
            executor.close()
        if self._sweeper is not None:
            self._sweeper.stop()
        log.info("worker stopped")
        return clean

    def _flush(self, station: Station) -> None:
        """Make trips until everything is settled, or Redis has not answered for the timeout."""
        deadline = clock() + station.queue.options.timeout
        while station.state.finished or station.state.unanswered:
            try:
                station.engine.trip(0)
            except ReliqError as error:
                if clock() > deadline:
                    log.error("queue %r: not everything could be given back: %s", station.queue.name, error)
                    return
