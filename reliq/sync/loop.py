"""The loop of a worker process: trips for its queues, jobs for its handlers, and an orderly end.

One turn: every station that is due makes a trip (settles what finished, claims for free slots); what it
brought is handed to the executors; then sleep until something finishes, a bell rings, or a trip is due.
Nothing waits for a batch to fill: a batch is what gathered while the last trip was under way.
"""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack, closing
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Final

from reliq.batching import Bunch, settle_bunch
from reliq.core.consumer import FIRE, Answer
from reliq.core.message import Message
from reliq.core.pace import QUICK
from reliq.errors import ReliqError
from reliq.identity import clock
from reliq.inspecting import SlowWatch
from reliq.lease import fate, settle_for
from reliq.lifespan import Lifespan, Task, enters_async, given, made_by, starting
from reliq.logging import about, log
from reliq.routing import Handling
from reliq.running import Slot, ThreadExecutor
from reliq.sync.board import Board
from reliq.sync.executor import AsyncExecutor
from reliq.sync.queue import Queue
from reliq.sync.scheduler import Ticker
from reliq.sync.station import Station
from reliq.sync.steward import Steward
from reliq.sync.sweeper import Sweeper
from reliq.working import Working, give_back, tell_unfinished

#: Seconds after which the loop looks on while handlers serve themselves, in case one of them does block.
_LOOK_ON: Final = 0.005
#: The same while single messages come, for handlers that are quick on the whole: to be woken for each would take
#: longer than they do.
_GLANCE: Final = 0.1
#: So long after the last message, seconds.
_TRICKLE: Final = 1.0

Handlers = list[tuple[Handling, Queue]]


class Loop(Working[Station]):
    """Runs in the thread that calls ``run``. ``stop`` and ``wake`` may be called from anywhere, signal
    handlers included."""

    def __init__(
        self, handlers: Handlers, *, board: Board | None = None, lifespan: Lifespan | None = None, **options: Any
    ) -> None:
        super().__init__(**options)
        self._handlers = handlers
        self._lifespan = lifespan
        self._life = ExitStack()  # what it has begun
        self._board = board
        self._bell: SimpleQueue[None] = SimpleQueue()
        self._awake = False
        self._looks_at = 0.0  # when it looks around without being woken
        self._fed_at = 0.0  # when the last messages came
        self._turning = threading.Lock()  # by a handler's thread, or by the loop, which may just look around
        self._refilling = False  # by a handler's thread
        self._executors: dict[bool, ThreadExecutor[Station] | AsyncExecutor] = {}
        self._sweeper: Sweeper | None = None
        self._ticker = Ticker()
        self._slow = SlowWatch()
        self._steward = Steward(self)
        #: It was told from afar to stop, and is not to be replaced.
        self.dismissed = False

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

    def dismiss(self) -> None:
        """Stop, and let nobody start another process in this place."""
        self.dismissed = True
        self.stop()

    @property
    def slots(self) -> list[Slot]:
        """The places for handlers at work."""
        return [slot for executor in list(self._executors.values()) for slot in executor.slots]

    # -- the boot path ----------------------------------------------------------------------------------

    def run(self) -> bool:
        """Work until stopped. True if every handler came back; False if one is stuck in its thread."""
        with closing(self):
            self._open()
            try:
                while not self.is_over(at_work=any(e.at_work for e in self._executors.values())):
                    self._turn()
            finally:
                clean = self._close()
        return clean

    def close(self) -> None:
        """End the lifespan, as far as it has begun, and what runs handlers."""
        try:
            self._life.close()
        finally:
            for executor in self._executors.values():
                executor.close()

    def _open(self) -> None:
        """Connect every queue first, so that what is wrong is said at once and nothing is half open."""
        for _, queue in self._handlers:
            queue.enroll()
        if self._lifespan is not None:
            self._handlers = given(self._handlers, self._begin_life(self._lifespan))
        for index, (handler, queue) in enumerate(self._handlers):
            for each in handler.handlers:
                if each.is_async not in self._executors:
                    self._executors[each.is_async] = self._executor(each.is_async)
            station = Station(index, handler, queue, self.who, self.wake)
            station.engine.on_bell = partial(self._show, station)
            self._show(station)  # before its first trip, which may claim already
            self.stations.append(station)
        self.know_handlers()
        self._sweeper = Sweeper(self.stations)
        names = ", ".join(dict.fromkeys(handler.name for handler, _ in self._handlers))
        log.info("worker started: %s, concurrency %d", names, self.pace.concurrency)

    def _begin_life(self, lifespan: Lifespan) -> object:
        """What the lifespan yields. An asynchronous one lives where coroutine handlers do."""
        with starting():
            manager = made_by(lifespan)
            if not enters_async(manager):
                return self._life.enter_context(manager)
            self._executors[True] = executor = self._executor(True)
            assert isinstance(executor, AsyncExecutor)
            task, value = executor.run(Task.begin(manager))
            self._life.callback(self._end_life, executor, task)
            return value

    @staticmethod
    def _end_life(executor: AsyncExecutor, task: Task) -> None:
        if executor.answers():
            executor.run(task.end())
        else:
            log.error("the lifespan of the worker cannot be left: a coroutine handler blocks its event loop")

    def _executor(self, is_async: bool) -> ThreadExecutor[Station] | AsyncExecutor:
        if is_async:
            return AsyncExecutor(self.pace, self._defer, self.lines(), self._board)
        return ThreadExecutor(
            self.pace, self._defer, lambda station: station, refill=self._refill, rested=self._rested,
            waiting=self.lines(), board=self._board,
        )  # fmt: skip

    # -- one turn ---------------------------------------------------------------------------------------

    def _turn(self) -> None:
        self._awake = False
        with self._turning:
            if self.stop_requested():
                self._give_back_waiting()
                for station in self.stations:
                    station.interrupt()
            now = clock()
            self.return_overtaken(now)
            if not self._is_served(now):
                self._make_due_trips(now)
        self._watch(now)
        self._sleep(now)

    def _is_served(self, now: float) -> bool:
        """Whether a handler's thread is seeing to the trips, and quickly."""
        answered_at = min(station.engine.answered_at for station in self.stations)
        return now - answered_at < _LOOK_ON and any(e.serves_itself for e in self._executors.values())

    def _make_due_trips(self, now: float, *, ours: int = 0) -> bool:
        """True if one of them brought messages. ``ours``: see ``ThreadExecutor.submit``."""
        brought = 0
        for _ in self.rounds:
            room, left = self.rooms(), 0
            for station in self.in_turn():
                want = room(station)
                if station.due_in(now, station.engine.answered_at, free=want > 0) == 0.0:
                    got = self._trip(station, want, ours)
                    brought += got
                    left += max(0, want - got)
            if gathered := self.gathered():
                self._submit(gathered, ours)
            if not left:
                break
        return brought > 0

    def _refill(self) -> bool:
        """Called by a handler's thread that has run out of messages: make the trip that is due, right there, and
        if there is nothing to do, wait for a message there too. True if there is more to do. If another handler's
        thread is at it, one is enough while handlers are quick, and the loop sees to what that trip has missed."""
        while not (self._refilling and self.pace.quick) and self._turning.acquire(timeout=_LOOK_ON):
            try:
                if self.leave_by is not None:
                    break
                self._refilling = True
                if self._make_due_trips(clock(), ours=1):
                    self._leave_bells()
                    return True
                station = self._take_bell()
                want = 0 if station is None else self.rooms()(station)
            finally:
                self._refilling = False
                self._turning.release()
            if station is None:
                return False
            if self._rest(station, want):
                return True
        self.wake()
        return False

    def _take_bell(self) -> Station | None:
        """The queue for whose messages the calling thread may wait; for others their bells do."""
        if self.may_rest and self.stations[0].take_bell():
            return self.stations[0]
        for station in self.stations:
            station.arm()
        return None

    def _rest(self, station: Station, want: int) -> bool:
        """Wait in a handler's thread for a message, with the trip that claims it right behind the bell: nobody has
        to be woken for it. True if there is something to do."""
        threads = self._executors[False]
        assert isinstance(threads, ThreadExecutor)
        rest = threads.listen(lambda: station.rest(want))
        before = station.engine.answered_at
        with self._turning:
            answer = station.rested(rest)
            if answer is not None and self._took(station, answer, before, ours=1):
                self._leave_bells()
        return bool(threads.waiting)

    def _leave_bells(self) -> None:
        """Called by a handler's thread that goes on with messages: should one take long, the loop has to let the
        bell ring for the next."""
        soon = _GLANCE if self.pace.quick else _LOOK_ON
        if clock() + soon < self._looks_at and any(station.bell_for is not None for station in self.stations):
            self.wake()

    def _arm_bells(self, now: float) -> bool:
        """Let the bells ring that are wanted; True: one is left to a handler's thread that may be back at once."""
        threads = self._executors.get(False)
        for station in self.stations:
            if station.bell_for is None or station.resting or station.bell.armed:
                continue
            if self.may_rest and isinstance(threads, ThreadExecutor) and threads.is_quick(now):
                return True
            with self._turning:  # or a handler's thread might take it at the same moment
                station.arm()
        return False

    def _rested(self) -> None:
        """Called by a handler's thread that is at rest now, for which the end of the loop may have waited."""
        if self.leave_by is not None:
            self.wake()

    def _trip(self, station: Station, want: int, ours: int) -> int:
        """How many messages it brought."""
        before = station.engine.answered_at
        answer = station.trip(want, lambda: self.ahead(station))
        if answer is None or not self._took(station, answer, before, ours=ours):
            return 0
        station.interrupt()
        return len(answer.messages)

    def _took(self, station: Station, answer: Answer, before: float, *, ours: int) -> bool:
        """Hand on what a trip brought; True if that is something. ``before``: when the one before was answered."""
        if self._sweeper is not None:
            if self.was_cut_off(station, before, answer.server_ms):
                self._sweeper.hold(station.options.lease)
            if answer.sweep:
                self._see_to(station.queue, answer.sweep)
        if answer.order:
            self._steward.take(station, answer)
        if answer.called_off:
            self.end(answer.called_off, self._executors.values())
        self._show(station)
        if answer.messages:
            self._fed_at = station.engine.answered_at
            self.got_messages(station, len(answer.messages))
        if self.leave_by is None:
            self._submit(self.gather(answer.messages), ours)
        else:  # asked for before that
            station.give_back(answer.messages)
        if not answer.messages and self.is_empty() and self.begin_to_leave(float("inf")):
            self.wake()
        return bool(answer.messages)

    def _see_to(self, queue: Queue, duty: int) -> None:
        """Have done what the server has asked this worker to do for all."""
        assert self._sweeper is not None
        if duty == FIRE:
            self._ticker.fire(queue)
        else:
            self._sweeper.sweep(queue, duty)

    def _show(self, station: Station) -> None:
        """Tell the supervisor under which name and with which connections this queue is claimed from."""
        if self._board is not None:
            name, bell_id = station.state.name, station.engine.bell_id
            self._board.show_station(station.index, name, bell_id, station.engine.answered_at)

    def _submit(self, fresh: list[Message], ours: int = 0) -> None:
        messages = self.ready(fresh)
        for is_async, executor in self._executors.items():
            mine = messages
            if len(self._executors) > 1:
                mine = [m for m in messages if m.state.owner.handler_of(m).is_async is is_async]
            if mine:
                executor.submit(mine, ours=ours)

    def _defer(self, message: Message) -> None:
        self.defer(message)
        self.wake()

    def _sleep(self, now: float) -> None:
        pause = self._pause(now)
        if self._arm_bells(now):
            pause = min(pause, 2 * QUICK)
        if (look_in := self.look_in(now)) is not None:
            pause = min(pause, look_in)
            with self._turning:
                self._submit([])
        if pause > 0 and not self._awake:
            self._looks_at = now + pause
            try:
                self._bell.get(timeout=pause)
            except Empty:
                return
        while not self._bell.empty():
            self._bell.get()

    def _pause(self, now: float) -> float:
        """Seconds after which to look around, if nobody wakes us before."""
        room = self.rooms()
        pause = min([1.0, *(s.due_in(now, s.engine.answered_at, free=room(s) > 0) for s in self.stations)])
        if self.pace.quick and now - self._fed_at < _TRICKLE:
            pause = min(pause, _GLANCE)
        for executor in self._executors.values():
            if executor.serves_itself:
                pause = min(pause, _LOOK_ON) if pause else _LOOK_ON
            if executor.waiting:  # then no handler's thread may see that there is something to settle
                pause = min(pause, _LOOK_ON)
            if executor.nudge(now):
                pause = min(pause, 0.002)
        return pause

    # -- handlers past their time -----------------------------------------------------------------------

    def _watch(self, now: float) -> None:
        threads = self._executors.get(False)
        for slot in threads.overdue(now) if threads else ():
            self._overdue(slot)
        self._slow.look((slot for e in self._executors.values() for slot in e.slots), now)

    def _overdue(self, slot: Slot) -> None:
        """A thread cannot be killed. Supervised: fail its message and let the process be replaced. Else:
        say so once, with its stack."""
        message = slot.message
        if message is None:  # it has just come back
            return
        slot.reported = message
        station, stack = message.state.owner, slot.stack()
        handler = station.handler_of(message)
        name, timeout = handler.name, handler.timeout
        if self._board is None:
            log.error(
                "handler %s is stuck: message %s is past its timeout of %s s. A thread cannot be killed; with "
                "processes=2 (or reliq worker) its process would be replaced. It is here:\n%s",
                name, message.id, timeout, stack, extra=about(message),
            )  # fmt: skip
            return
        slot.failed = message
        error = TimeoutError(f"took longer than its timeout of {timeout} s")
        if isinstance(message, Bunch):
            settle_bunch(message, error, trace=stack)
            becomes = "each is another attempt"
        else:
            settle = settle_for(station.state, message, handler.retry, error, stack)
            station.state.finished.append(settle)
            becomes = fate(settle)
        log.error(
            "handler %s: message %s is past its timeout of %s s: %s; this process is replaced. It is here:\n%s",
            name, message.id, timeout, becomes, stack, extra=about(message),
        )  # fmt: skip
        station.wake()
        if self.retire():
            self._give_back_waiting()

    # -- the end ----------------------------------------------------------------------------------------

    def _give_back_waiting(self) -> None:
        """What no handler has seen goes back now, not after the grace."""
        waiting = [message for e in self._executors.values() for message in e.take_waiting()]
        give_back([*waiting, *self.take_held_back()])
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
            executor.cut_off()
        if self._sweeper is not None:
            self._sweeper.stop()
        self._ticker.stop()
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
