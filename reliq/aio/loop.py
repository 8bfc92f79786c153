"""The loop of a worker: trips for its queues, jobs for its handlers, and an orderly end.

The same turns as ``reliq.sync.loop``, in one task of the application's event loop.
"""

from __future__ import annotations

import asyncio
import threading
from contextlib import AsyncExitStack, suppress
from typing import Any, Final

from reliq import defaults
from reliq.aio.executor import TaskExecutor, ThreadSettler
from reliq.aio.queue import Queue
from reliq.aio.scheduler import Ticker
from reliq.aio.station import Station
from reliq.aio.steward import Steward
from reliq.aio.sweeper import Sweeper
from reliq.core.consumer import FIRE, Answer
from reliq.core.message import Message
from reliq.errors import ReliqError
from reliq.identity import clock
from reliq.inspecting import SlowWatch
from reliq.lifespan import Lifespan, Task, enters_async, given, made_by, starting
from reliq.logging import about, log
from reliq.routing import Handling
from reliq.running import Slot, ThreadExecutor
from reliq.working import Working, give_back, tell_unfinished

#: Seconds after which the loop looks on while handlers' threads serve themselves, in case one of them does block.
_LOOK_ON: Final = 0.005

Handlers = list[tuple[Handling, Queue]]


class Loop(Working[Station]):
    """Runs in the task that awaits ``run``. ``stop`` is called from the same event loop, ``wake`` also from
    the threads of plain handlers."""

    def __init__(self, handlers: Handlers, *, lifespan: Lifespan | None = None, **options: Any) -> None:
        super().__init__(**options)
        self._handlers = handlers
        self._lifespan = lifespan
        self._life = AsyncExitStack()  # what it has begun
        self._event_loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._awake = asyncio.Event()
        self._executors: dict[bool, TaskExecutor | ThreadExecutor[Station]] = {}
        self._sweeper: Sweeper | None = None
        self._ticker = Ticker()
        self._slow = SlowWatch()
        self._steward = Steward(self)
        self._watching: asyncio.Task[None] | None = None
        self.started = asyncio.Event()

    def wake(self) -> None:
        """Let the loop look around."""
        if threading.get_ident() == self._thread:
            self._awake.set()
        elif not self._awake.is_set():
            with suppress(RuntimeError):  # a stuck handler came back after the event loop was closed
                self._event_loop.call_soon_threadsafe(self._awake.set)

    def stop(self) -> None:
        """First call: claim no more, finish within the grace. Second call: give everything back at once."""
        self.stops += 1
        self._awake.set()

    def dismiss(self) -> None:
        """Stop, because that was asked for from afar."""
        self.stop()

    @property
    def slots(self) -> list[Slot]:
        """The places for handlers at work."""
        return [slot for executor in self._executors.values() for slot in executor.slots]

    # -- the boot path ----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Work until stopped."""
        try:
            await self._open()
            self.started.set()
            while not self.is_over(at_work=any(e.at_work for e in self._executors.values())):
                await self._turn()
        finally:
            # Also when this task is cancelled: nothing may stay behind, so closing has a task of its own.
            await asyncio.shield(asyncio.ensure_future(self._close()))

    async def _open(self) -> None:
        """Connect every queue first, so that what is wrong is said at once and nothing is half open."""
        for _, queue in self._handlers:
            await queue.enroll()
        if self._lifespan is not None:
            self._handlers = given(self._handlers, await self._begin_life(self._lifespan))
        for index, (handler, queue) in enumerate(self._handlers):
            for each in handler.handlers:
                if each.is_async not in self._executors:
                    self._executors[each.is_async] = self._executor(each.is_async)
            self.stations.append(Station(index, handler, queue, self.who, self.wake))
        self.know_handlers()
        self._sweeper = Sweeper(self.stations)
        self._watching = asyncio.create_task(self._watch_event_loop())
        names = ", ".join(dict.fromkeys(handler.name for handler, _ in self._handlers))
        log.info("worker started: %s, concurrency %d", names, self.pace.concurrency)

    async def _begin_life(self, lifespan: Lifespan) -> object:
        """What the lifespan yields."""
        with starting():
            manager = made_by(lifespan)
            if not enters_async(manager):
                return self._life.enter_context(manager)
            task, value = await Task.begin(manager)
            self._life.push_async_callback(task.end)
            return value

    def _executor(self, is_async: bool) -> TaskExecutor | ThreadExecutor[Station]:
        if is_async:
            return TaskExecutor(self.pace, self._defer, self.lines())
        loop = asyncio.get_running_loop()
        return ThreadExecutor(
            self.pace, self._defer, lambda station: ThreadSettler(station, loop), refill=self._refill,
            rested=self.wake, waiting=self.lines(),
        )  # fmt: skip

    def _refill(self) -> bool:
        """Called by a handler's thread that has run out of messages; the trip is made by the event loop."""
        self.wake()
        return False

    # -- one turn ---------------------------------------------------------------------------------------

    async def _turn(self) -> None:
        self._awake.clear()
        if self.stop_requested():
            self._give_back_waiting()
        now = clock()
        self.return_overtaken(now)
        await self._make_due_trips(now)
        self._watch(now)
        await self._sleep(now)

    async def _make_due_trips(self, now: float) -> None:
        for _ in self.rounds:
            room, left = self.rooms(), 0
            for station in self.in_turn():
                want = room(station)
                if station.due_in(now, station.engine.answered_at, free=want > 0) == 0.0:
                    left += max(0, want - await self._trip(station, want))
            if gathered := self.gathered():
                self._submit(gathered)
            if not left:
                break

    async def _trip(self, station: Station, want: int) -> int:
        """How many messages it brought."""
        before = station.engine.answered_at
        answer = await station.trip(want, lambda: self.ahead(station))
        if answer is None:
            return 0
        self._heed(station, answer, before)
        if answer.messages:
            self.got_messages(station, len(answer.messages))
        if self.leave_by is None:
            self._submit(self.gather(answer.messages))
        else:  # asked for before that
            station.give_back(answer.messages)
        if not answer.messages and self.is_empty() and self.begin_to_leave(float("inf")):
            self.wake()
        return len(answer.messages)

    def _heed(self, station: Station, answer: Answer, before: float) -> None:
        """Do what a trip says is to be done besides. ``before``: when the one before was answered."""
        if self._sweeper is not None:
            if self.was_cut_off(station, before, answer.server_ms):
                self._sweeper.hold(station.options.lease)
            if answer.sweep:
                self._see_to(station.queue, answer.sweep)
        if answer.order:
            self._steward.take(station, answer)
        if answer.called_off:
            self.end(answer.called_off, self._executors.values())

    def _see_to(self, queue: Queue, duty: int) -> None:
        """Have done what the server has asked this worker to do for all."""
        assert self._sweeper is not None
        if duty == FIRE:
            self._ticker.fire(queue)
        else:
            self._sweeper.sweep(queue, duty)

    def _submit(self, fresh: list[Message]) -> None:
        messages = self.ready(fresh)
        for is_async, executor in self._executors.items():
            mine = messages
            if len(self._executors) > 1:
                mine = [m for m in messages if m.state.owner.handler_of(m).is_async is is_async]
            if mine:
                executor.submit(mine)

    def _defer(self, message: Message) -> None:
        self.defer(message)
        self.wake()

    async def _sleep(self, now: float) -> None:
        room = self.rooms()
        pause = min([1.0, *(s.due_in(now, s.engine.answered_at, free=room(s) > 0) for s in self.stations)])
        for executor in self._executors.values():
            if executor.serves_itself:
                pause = min(pause, _LOOK_ON)
            if executor.nudge(now):
                pause = min(pause, 0.002)
        if (look_in := self.look_in(clock())) is not None:
            pause = min(pause, look_in)
            self._submit([])
        if pause <= 0:
            await asyncio.sleep(0)
            return
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._awake.wait(), pause)

    async def _watch_event_loop(self) -> None:
        """A handler that blocks the event loop keeps us from renewing: say so, with the time it took."""
        lease = min(station.options.lease for station in self.stations)
        while True:
            asleep_at = clock()
            await asyncio.sleep(lease / 10)
            blocked = clock() - asleep_at - lease / 10
            if blocked > lease / defaults.RENEW_SHARE:
                log.warning(
                    "the event loop was blocked for %.1f s (the lease is %s s): a coroutine handler must not "
                    "block; make it a plain function, which runs in a thread, or use asyncio.to_thread",
                    blocked, lease,
                )  # fmt: skip

    # -- handlers past their time -----------------------------------------------------------------------

    def _watch(self, now: float) -> None:
        """Coroutines past their timeout are cancelled by themselves; a thread can only be reported, once."""
        threads = self._executors.get(False)
        for slot in threads.overdue(now) if threads else ():
            self._overdue(slot)
        self._slow.look((slot for e in self._executors.values() for slot in e.slots), now)

    def _overdue(self, slot: Slot) -> None:
        message = slot.message
        if message is None:  # it has just come back
            return
        slot.reported = message
        handler = message.state.owner.handler_of(message)
        log.error(
            "handler %s is stuck: message %s is past its timeout of %s s. A thread cannot be killed; under "
            "`reliq worker` its process would be replaced. It is here:\n%s",
            handler.name, message.id, handler.timeout, slot.stack(), extra=about(message),
        )  # fmt: skip

    # -- the end ----------------------------------------------------------------------------------------

    def _give_back_waiting(self) -> None:
        """What no handler has seen goes back now, not after the grace."""
        waiting = [message for e in self._executors.values() for message in e.take_waiting()]
        give_back([*waiting, *self.take_held_back()])
        self.wake()

    async def _close(self) -> None:
        """Give back what is still held, in order, and say goodbye."""
        self._give_back_waiting()
        in_hand = [message for e in self._executors.values() for message in e.in_hand()]
        tell_unfinished(in_hand)
        for station in self.stations:
            station.give_back_all(m for m in in_hand if m.state is station.state)
        for executor in self._executors.values():
            executor.close()
        await self._steward.aclose()
        for station in self.stations:
            await self._flush(station)
            await station.aclose()
        if self._watching is not None:
            self._watching.cancel()
        if self._sweeper is not None:
            await self._sweeper.stop()
        await self._ticker.stop()
        if (tasks := self._executors.get(True)) is not None:
            assert isinstance(tasks, TaskExecutor)
            await tasks.ended()  # they may want what the lifespan has given them
        await self._life.aclose()
        log.info("worker stopped")

    async def _flush(self, station: Station) -> None:
        """Make trips until everything is settled, or Redis has not answered for the timeout."""
        deadline = clock() + station.options.timeout
        while station.state.finished or station.state.unanswered:
            try:
                answer = await station.engine.trip(0)
                station.give_back(answer.messages)  # what a repeated trip brought, nobody handles any more
            except ReliqError as error:
                if clock() > deadline:
                    log.error("queue %r: not everything could be given back: %s", station.queue.name, error)
                    return
                await asyncio.sleep(0.05)
