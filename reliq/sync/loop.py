"""The loop of a worker process: trips for its queues, jobs for its handlers, and an orderly end.

One turn: every station that is due makes a trip (settles what finished, claims for free slots); what it
brought is handed to the executors; then sleep until something finishes, a bell rings, or a trip is due.
Nothing waits for a batch to fill: a batch is what gathered while the last trip was under way.
"""

from __future__ import annotations

import threading
import time
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Final

from reliq.ack import Handler
from reliq.core.consumer import Message
from reliq.errors import ReliqError
from reliq.lease import fate, settle_for
from reliq.logging import log
from reliq.model import clock
from reliq.running import Slot, ThreadExecutor
from reliq.sync.board import Board
from reliq.sync.executor import AsyncExecutor
from reliq.sync.queue import Queue
from reliq.sync.station import Station
from reliq.sync.sweeper import Sweeper
from reliq.working import Working, tell_unfinished

#: Seconds after which the loop looks on while handlers serve themselves, in case one of them does block.
_LOOK_ON: Final = 0.005

Handlers = list[tuple[Handler[..., Any], Queue]]


class Loop(Working[Station]):
    """Runs in the thread that calls ``run``. ``stop`` and ``wake`` may be called from anywhere, signal
    handlers included."""

    def __init__(self, handlers: Handlers, *, board: Board | None = None, **options: Any) -> None:
        super().__init__(**options)
        self._handlers = handlers
        self._board = board
        self._bell: SimpleQueue[None] = SimpleQueue()
        self._awake = False
        self._turning = threading.Lock()
        self._executors: dict[bool, ThreadExecutor[Station] | AsyncExecutor] = {}
        self._sweeper: Sweeper | None = None

    # -- from anywhere ----------------------------------------------------------------------------------

    def wake(self) -> None:
        """Let the loop look around; cheap, and safe in signal handlers."""
        if not self._awake:
            self._awake = True
            self._bell.put(None)

    def stop(self) -> None:
        """First call: claim no more, finish within the grace. Second call: give everything back at once."""
        self.stops += 1
        self._awake = True
        self._bell.put(None)

    # -- the boot path ----------------------------------------------------------------------------------

    def run(self) -> bool:
        """Work until stopped. True if every handler came back; False if one is stuck in its thread."""
        self._open()
        try:
            while not self.is_over(at_work=any(e.at_work for e in self._executors.values())):
                self._turn()
        finally:
            clean = self._close()
        return clean

    def _open(self) -> None:
        """Connect every queue first, so that what is wrong is said at once and nothing is half open."""
        for _, queue in self._handlers:
            queue.ping()
        for index, (handler, queue) in enumerate(self._handlers):
            if handler.is_async not in self._executors:
                self._executors[handler.is_async] = self._executor(handler.is_async)
            station = Station(index, handler, queue, self.who, self.wake)
            station.engine.on_bell = partial(self._show, station)
            self._show(station)  # before its first trip, which may claim already
            self.stations.append(station)
        self._sweeper = Sweeper(self.stations)
        names = ", ".join(handler.name for handler, _ in self._handlers)
        log.info("worker started: %s, concurrency %d", names, self.pace.concurrency)

    def _executor(self, is_async: bool) -> ThreadExecutor[Station] | AsyncExecutor:
        if is_async:
            return AsyncExecutor(self.pace, self._defer, self._board)
        return ThreadExecutor(
            self.pace, self._defer, lambda station: station, refill=self._refill, rested=self._rested,
            board=self._board,
        )  # fmt: skip

    # -- one turn ---------------------------------------------------------------------------------------

    def _turn(self) -> None:
        self._awake = False
        with self._turning:
            if self.stop_requested():
                self._give_back_waiting()
            now = clock()
            if not self._is_served(now):
                self._make_due_trips(now)
        self._watch(now)
        self._sleep(now)

    def _is_served(self, now: float) -> bool:
        """Whether a handler's thread is seeing to the trips, and quickly."""
        answered_at = min(station.engine.answered_at for station in self.stations)
        return now - answered_at < _LOOK_ON and any(e.serves_itself for e in self._executors.values())

    def _make_due_trips(self, now: float) -> bool:
        """True if one of them brought messages."""
        brought = False
        for station in self.in_turn():
            if station.due_in(now, station.engine.answered_at, free=self.free > 0) == 0.0:
                brought = self._trip(station) or brought
        return brought

    def _refill(self) -> bool:
        """Called by a handler's thread that has run out of messages: make the trip that is due, right there. True
        if there is more to do. If another thread is at it, the loop sees to what that trip has missed."""
        if self._turning.acquire(blocking=False):
            try:
                if self.leave_by is None:
                    return self._make_due_trips(clock())
            finally:
                self._turning.release()
        self.wake()
        return False

    def _rested(self) -> None:
        """Called by a handler's thread that is at rest now, for which the end of the loop may have waited."""
        if self.leave_by is not None:
            self.wake()

    def _trip(self, station: Station) -> bool:
        before = station.engine.answered_at
        answer = station.trip(self.share)
        if answer is None:
            return False
        if self._sweeper is not None:
            if self.was_cut_off(station, before, answer.server_ms):
                self._sweeper.hold(station.options.lease)
            if answer.sweep:
                self._sweeper.sweep(station.queue, answer.sweep)
        self._show(station)
        if answer.messages:
            self.got_messages(station)
        if self.leave_by is None:
            self._submit(answer.messages)
        else:  # asked for before that
            station.give_back(answer.messages)
        if self.may_begin(station):
            station.begin(self.share)
        if not answer.messages and self.is_empty() and self.begin_to_leave(float("inf")):
            self.wake()
        return bool(answer.messages)

    def _show(self, station: Station) -> None:
        """Tell the supervisor under which name and with which connections this queue is claimed from."""
        if self._board is not None:
            name, bell_id = station.state.name, station.engine.bell_id
            self._board.show_station(station.index, name, bell_id, station.engine.answered_at)

    def _submit(self, fresh: list[Message]) -> None:
        messages = self.ready(fresh)
        for is_async, executor in self._executors.items():
            mine = messages
            if len(self._executors) > 1:
                mine = [m for m in messages if m.state.owner.handler.is_async is is_async]
            if mine:
                executor.submit(mine)

    def _defer(self, message: Message) -> None:
        self.defer(message)
        self.wake()

    def _sleep(self, now: float) -> None:
        free = self.free > 0
        pause = min([1.0, *(s.due_in(now, s.engine.answered_at, free=free) for s in self.stations)])
        for executor in self._executors.values():
            if executor.serves_itself:
                pause = min(pause, _LOOK_ON) if pause else _LOOK_ON
            if executor.nudge(now):
                pause = min(pause, 0.002)
        if self.holds_back:
            pause = min(pause, 0.05)
            with self._turning:
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
        threads = self._executors.get(False)
        for slot in threads.overdue(now) if threads else ():
            self._overdue(slot)

    def _overdue(self, slot: Slot) -> None:
        """A thread cannot be killed. Supervised: fail its message and let the process be replaced. Else:
        say so once, with its stack."""
        message = slot.message
        if message is None:  # it has just come back
            return
        slot.reported = message
        station, stack = message.state.owner, slot.stack()
        name, timeout = station.handler.name, station.handler.timeout
        if self._board is None:
            log.error(
                "handler %s is stuck: message %s is past its timeout of %s s. A thread cannot be killed; with "
                "processes=2 (or reliq worker) its process would be replaced. It is here:\n%s",
                name, message.id, timeout, stack,
            )  # fmt: skip
            return
        slot.failed = message
        error = TimeoutError(f"took longer than its timeout of {timeout} s")
        settle = settle_for(station.state, message, station.handler.retry, error, stack)
        log.error(
            "handler %s: message %s is past its timeout of %s s: %s; this process is replaced. It is here:\n%s",
            name, message.id, timeout, fate(settle), stack,
        )  # fmt: skip
        station.finish(settle)
        if self.retire():
            self._give_back_waiting()

    # -- the end ----------------------------------------------------------------------------------------

    def _give_back_waiting(self) -> None:
        """What no handler has seen goes back now, not after the grace."""
        waiting = [message for e in self._executors.values() for message in e.take_waiting()]
        for message in [*waiting, *self.take_held_back()]:
            message.state.owner.give_back([message])
        self.wake()

    def _close(self) -> bool:
        """Give back what is still held, in order, and say goodbye. True if no handler is stuck."""
        with self._turning:  # whatever ends the loop: no handler's thread makes a trip of its own any more
            self.begin_to_leave(clock())
            self._give_back_waiting()
            in_hand = [message for e in self._executors.values() for message in e.in_hand()]
            tell_unfinished(in_hand)
            clean = not any(slot.message for e in self._executors.values() for slot in e.slots)
            for station in self.stations:
                station.give_back_all(m for m in in_hand if m.state is station.state)
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
                answer = station.engine.trip(0)
                station.give_back(answer.messages)  # what a repeated trip brought, nobody handles any more
            except ReliqError as error:
                if clock() > deadline:
                    log.error("queue %r: not everything could be given back: %s", station.queue.name, error)
                    return
                time.sleep(0.05)
