"""Handlers at work: slots, the last check before a hand-over, and what is done with the outcome.

Shared by the executors of both shells; how handlers are run (threads, tasks) is theirs. What a message costs is
spent here: a handler that takes the body alone and returns meets no object made for it.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from typing import Any, Final, Generic, Protocol, TypeVar

from reliq import context
from reliq.ack import lease_class
from reliq.batching import Bunch, Several, each_of, settle_bunch
from reliq.core.message import Message
from reliq.core.pace import QUICK, Pace
from reliq.core.verdict import describe
from reliq.identity import clock
from reliq.lease import Leased, report, settle_for
from reliq.logging import log
from reliq.ranking import Lines
from reliq.working import Stationed

#: So long coroutines that never wait may run one after the other before the event loop has its turn, seconds.
_TURN: Final = 0.002
#: So long a handler that is cancelled may take to end, seconds.
AT_ONCE: Final = 0.25
S = TypeVar("S", bound=Stationed)
T = TypeVar("T")


class Board(Protocol):
    """What a supervisor reads: which messages handlers have in hand (``reliq.sync.board``)."""

    def start(self, slot: int, station: int, ids: bytes, now: float, timeout: float | None) -> None:
        """A handler gets this message in hand, or those of a bunch: 16 bytes for each."""

    def finish(self, slot: int) -> None:
        """The handler is done with it."""


class Slot:
    """A place for one handler at work, and the message that it has in hand, if any."""

    __slots__ = ("busy", "failed", "index", "message", "reported", "slow", "started_at", "task", "thread")

    def __init__(self, index: int) -> None:
        self.index = index
        self.message: Message | None = None
        self.started_at = 0.0
        self.busy = False  # its thread works, and is not at rest
        self.task: asyncio.Task[None] | None = None
        self.thread = 0
        # By message: the handler may have come back meanwhile, and have the next one in hand.
        self.reported: Message | None = None  # as stuck
        self.slow: Message | None = None  # told of, as past its expected time
        self.failed: Message | None = None  # settled as a failed attempt while its handler still runs

    @property
    def stuck(self) -> bool:
        """Whether its handler was reported, and is still at it."""
        return self.message is not None and self.message is self.reported

    def overdue(self, now: float) -> bool:
        """Whether its handler is past its timeout, and was not reported yet."""
        message = self.message
        if message is None or message is self.reported:
            return False
        timeout = message.state.owner.handler_of(message).timeout
        return timeout is not None and now - self.started_at > timeout

    def passes_expected(self, now: float) -> bool:
        """Whether its handler has just passed the time that it is expected to take; True once for each message."""
        message = self.message
        if message is None or message is self.slow or message is self.reported:
            return False
        if now - self.started_at <= message.state.owner.handler_of(message).expected:
            return False
        self.slow = message
        return True

    def stack(self) -> str:
        """Where the handler's thread is at this moment."""
        frame = sys._current_frames().get(self.thread)
        return "".join(traceback.format_stack(frame)) if frame is not None else "(no stack)\n"


class Executor(Generic[S]):
    """The messages that wait, the slots, and what is done before and after a handler.

    ``settler`` makes of a station what a lease settles with; ``defer`` gets back what may not start yet;
    ``waiting``: empty, it says in which order messages are handed over.
    """

    def __init__(
        self,
        pace: Pace,
        defer: Callable[[Message], None],
        settler: Callable[[S], Any],
        *,
        is_async: bool,
        waiting: Lines | deque[Message],
        board: Board | None = None,
        first_slot: int = 0,
    ) -> None:
        self.pace = pace
        self.waiting = waiting
        self.slots = [Slot(first_slot + n) for n in range(pace.concurrency)]
        self._defer = defer
        self._settler = settler
        self._lease_class = lease_class(is_async=is_async)
        self._board = board

    def take_waiting(self) -> list[Message]:
        """The messages that no handler has seen; they are not run any more."""
        if isinstance(self.waiting, Lines):
            return self.waiting.take()
        messages = []
        while True:
            try:
                messages.append(self.waiting.popleft())
            except IndexError:
                return messages

    def call_off(self, message: Message) -> None:
        """This message was cancelled. If no handler has seen it, it is given back, which ends it; else its lease
        says so. A thread cannot be interrupted."""
        with suppress(ValueError):  # a handler has it, or another executor
            self.waiting.remove(message)
            message.state.owner.give_back([message])
            message.state.owner.wake()

    def in_hand(self) -> list[Message]:
        """What handlers have in hand, without what was settled as failed over their heads."""
        found = (m for slot in self.slots if (m := slot.message) is not None and m is not slot.failed)
        return [m for each in found for m in each_of(each)]

    def overdue(self, now: float) -> list[Slot]:
        """Where a handler is past its timeout and was not reported yet."""
        return [slot for slot in self.slots if slot.overdue(now)]

    def _may_start(self, message: Message, now: float) -> bool:
        """Last check before a hand-over: the message is still ours and the lease has margin (DESIGN 9.1)."""
        # First the lease, then whether it is lost: an answer marks what is lost before it confirms the lease.
        fresh = now < message.state.fresh_until
        if message.lost:
            return False
        if not fresh:
            self._defer(message)
        elif message.known is not None and message.over(now):
            message.state.owner.wake()
            return False
        return fresh

    def _show(self, slot: Slot, message: Message, now: float) -> None:
        """Tell the supervisor, before the handler is called."""
        if self._board is not None:
            station = message.state.owner
            timeout = station.handler_of(message).timeout
            self._board.start(slot.index, station.index, message.raw_ids, now, timeout)

    def _lease(self, message: Message) -> Any:
        """What a handler gets that wants more than the body."""
        station = message.state.owner
        settler, retry = self._settler(station), station.handler_of(message).retry
        if isinstance(message, Bunch):
            return Several(message, lambda each: self._lease_class(each, settler, retry))
        return self._lease_class(message, settler, retry)

    def _end_bunch(self, slot: Slot, bunch: Bunch, error: BaseException | None, result: Any) -> None:
        """The same for those of a bunch, each for itself."""
        if self._board is not None:
            self._board.finish(slot.index)
        if slot.failed is bunch:  # and all that was to be said of it is
            bunch.end()
        else:
            settle_bunch(bunch, error, result)
        slot.message = None
        bunch.state.owner.wake()  # others may have waited for its slot

    def _end(
        self, slot: Slot, message: Message, lease: Leased | None, error: BaseException | None, result: Any
    ) -> None:
        """Settle by the outcome, unless the handler (or the watch over timeouts) has settled it."""
        if isinstance(message, Bunch):
            self._end_bunch(slot, message, error, result)
            return
        if self._board is not None:
            self._board.finish(slot.index)
        state = message.state
        settled = slot.failed is message or (lease is not None and lease.settled)
        if lease is not None:
            lease.mark_settled()
        if settled:
            if isinstance(error, Exception):
                log.error("failed after it was settled: %s", describe(error), exc_info=error)
        elif error is None:
            state.finished.append(message if lease is None else lease.returned(result))
        else:
            settle = settle_for(state, message, state.owner.handler_of(message).retry, error)
            report(error, settle)
            state.finished.append(settle)
        slot.message = None  # last: a worker that ends meanwhile would give the message back


class ThreadExecutor(Executor[S]):
    """Up to ``concurrency`` threads, started when they are needed.

    Waking a thread costs more than a short handler runs. So while handlers are quick, one thread works
    through the messages and the others are woken only when it falls behind (``nudge``). And a thread that has
    run out of messages makes the trip that is due then itself (``refill``), instead of waking the loop for it.
    """

    def __init__(
        self,
        pace: Pace,
        defer: Callable[[Message], None],
        settler: Callable[[S], Any],
        *,
        refill: Callable[[], bool],
        rested: Callable[[], None],
        waiting: Lines | deque[Message],
        board: Board | None = None,
    ) -> None:
        super().__init__(pace, defer, settler, is_async=False, waiting=waiting, board=board)
        self._refill = refill
        self._rested = rested
        self._tokens: SimpleQueue[bool] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._resting = 0
        self._batch = max(1, pace.concurrency // 4)  # acks that are worth a trip while messages wait here
        self._listening = 0  # wait for the bell, and will have what it brings
        self._lock = threading.Lock()

    @property
    def at_work(self) -> bool:
        """Whether a handler runs, or is about to, that may still come back."""
        return self._working > sum(slot.stuck for slot in self.slots)

    @property
    def _working(self) -> int:
        return len(self._threads) - self._resting - self._listening

    def submit(self, messages: list[Message], *, ours: int = 0) -> None:
        """Run these, in order, as soon as slots are free; ``ours``: 1 if the caller is a handler's thread that is
        about to look for work."""
        self.waiting.extend(messages)
        if not self.pace.quick:
            self._wake(len(messages) - ours)
        elif self._working == 0:
            self._wake(1)

    def listen(self, wait: Callable[[], T]) -> T:
        """Let a handler's thread wait for the bell: it is not at work meanwhile."""
        with self._lock:
            self._listening += 1
        try:
            return wait()
        finally:
            with self._lock:
                self._listening -= 1

    def nudge(self, now: float) -> bool:
        """Wake one more thread if messages wait and those at work are held up; True if it may be worth asking
        again soon."""
        if not self.waiting:
            return False
        if not any(slot.busy and now - slot.started_at < QUICK for slot in self.slots):
            self._wake(1)
        return self._resting > 0 or len(self._threads) < self.pace.concurrency

    def _wake(self, n: int) -> None:
        for _ in range(n):
            with self._lock:
                if self._resting > 0:
                    self._resting -= 1
                elif (number := len(self._threads)) < self.pace.concurrency:
                    thread = threading.Thread(
                        target=self._work, args=(self.slots[number],), name=f"reliq-handler-{number}", daemon=True
                    )
                    self._threads.append(thread)
                    thread.start()
                else:
                    return
            self._tokens.put(True)

    def _work(self, slot: Slot) -> None:
        slot.thread = threading.get_ident()
        while self._tokens.get():
            slot.busy = True  # before it looks for a message: it is at work until it rests
            while slot.busy:
                self._serve(slot)
                context.enter(None)
                if not self._refill():
                    self._rest(slot)
            self._rested()

    def _rest(self, slot: Slot) -> None:
        with self._lock:
            if not self.waiting:
                self._resting += 1
                slot.busy = False

    @property
    def serves_itself(self) -> bool:
        """Whether quick handlers run that fetch their own work, so that the loop need not look for them."""
        return self.pace.quick and self._working > 0

    def is_quick(self, now: float) -> bool:
        """Whether some handler is about to start, or has only just started: it may be back very soon."""
        if self.waiting:
            return True
        return any(slot.message is not None and now - slot.started_at < QUICK for slot in self.slots)

    def _lease_for(self, station: S, message: Message) -> Any:
        """None for one of several handlers that takes the body alone."""
        if station.routes is not None and not (message.known is not None and message.heeded):
            return None if station.handler_of(message).plain is not None else self._lease(message)
        return self._lease(message)

    def _serve(self, slot: Slot) -> None:
        """Work through what waits. One look at the clock is the end of a handler and the start of the next."""
        waiting, board, ran = self.waiting, self._board, self.pace.ran
        now = clock()
        while True:
            try:
                message = waiting.popleft()
            except IndexError:
                return
            if not self._may_start(message, now):
                continue
            station = message.state.owner
            plain, lease, error, result = station.plain, None, None, None
            slot.started_at, slot.message = now, message
            if board is not None:
                self._show(slot, message, now)
            context.enter(message)
            try:
                if plain is not None and (message.known is None or not message.heeded):
                    if (result := plain(message.body)) is not None:
                        station.handler.check(result)
                else:
                    lease, handler = self._lease_for(station, message), station.handler_of(message)
                    result = handler.bare(message.body) if lease is None else handler.call(lease)
            except BaseException as raised:  # noqa: BLE001 - nothing that a handler raises may end the worker
                error = raised
            now = clock()
            ran(took := now - slot.started_at)
            if board is None and error is None and lease is None:
                message.state.finished.append(message)
                slot.message = None
            else:
                self._end(slot, message, lease, error, result)
            # Else this thread makes the next trip, and very soon.
            if took > QUICK and waiting and len(message.state.finished) >= self._batch:
                station.wake()

    def cut_off(self) -> None:
        """A thread cannot be."""

    def close(self) -> None:
        """Let the threads end when they are done; a stuck one is left behind (it is a daemon)."""
        for _ in self._threads:
            self._tokens.put(False)


class CoroutineExecutor(Executor[S]):
    """Runs coroutine handlers as tasks of the event loop that calls ``start``."""

    def __init__(
        self,
        pace: Pace,
        defer: Callable[[Message], None],
        settler: Callable[[S], Any],
        *,
        waiting: Lines | deque[Message],
        board: Board | None = None,
        first_slot: int = 0,
    ) -> None:
        super().__init__(pace, defer, settler, is_async=True, waiting=waiting, board=board, first_slot=first_slot)
        self._free = deque(self.slots)
        self._starting = self._cut_off = False
        self._now = 0.0

    def start(self) -> None:
        """Start what waits, in order, as far as there are slots; after a moment others have their turn."""
        free, waiting, loop = self._free, self.waiting, asyncio.get_running_loop()
        make = _task_maker(loop)
        now = self._now = clock()
        turn_ends = now + _TURN
        self._starting = True  # who is taken from `waiting` is at work from here on
        message = None
        while free and waiting and now < turn_ends:
            message = waiting.popleft()
            if self._may_start(message, now):
                slot = free.popleft()
                task = make(self._run(slot, message, now))
                if not task.done():
                    slot.task = task
                now = self._now
        self._starting = False
        if free and waiting:
            loop.call_soon(self.start)
        elif message is not None:  # some may be done, however long others wait
            message.state.owner.wake()

    @property
    def at_work(self) -> bool:
        """Whether a handler runs, or is about to; one past its timeout is cancelled, so all come back."""
        return self._starting or len(self._free) < len(self.slots)

    async def _run(self, slot: Slot, message: Message, now: float) -> None:
        station = message.state.owner
        handler = station.handler_of(message)
        slot.started_at, slot.message = now, message
        if self._board is not None:
            self._show(slot, message, now)
        context.enter(message)  # of this task alone: there is nothing to restore
        plain = None if message.known is not None and message.heeded else handler.plain
        lease, error, result = None if plain else self._lease(message), None, None
        try:
            called = plain(message.body) if plain else handler.call(lease)
            if handler.timeout is None:
                result = await called
            else:
                result, error = await _within(handler.timeout, called)
        except BaseException as raised:  # noqa: BLE001 - asyncio ends the whole loop on a SystemExit from a task
            error = raised  # a cancellation too: by the handler itself, or because the loop ends
        ended = self._now = clock()
        self.pace.ran(took := ended - now)
        overdue = handler.timeout is not None and took > handler.timeout
        if overdue and isinstance(error, asyncio.CancelledError | asyncio.TimeoutError):
            error = TimeoutError(f"took longer than its timeout of {handler.timeout} s")
        elif self._cut_off and isinstance(error, asyncio.CancelledError):
            slot.failed = message  # not by itself: it has been given back
        self._end(slot, message, lease, error, result)
        slot.task = None
        self._free.append(slot)
        if self._starting:  # it has never waited: start() goes on, and wakes the loop in the end
            return
        if self.waiting:
            self.start()
        if took > QUICK or len(self._free) == len(self.slots):
            station.wake()

    def call_off(self, message: Message) -> None:
        """This message was cancelled: its handler is, too, where it waits next."""
        super().call_off(message)
        # A task that was only just made has not begun, and no slot shows its message before the next turn.
        asyncio.get_running_loop().call_soon(self._interrupt, message)

    def _interrupt(self, message: Message) -> None:
        for slot in self.slots:
            held = slot.message
            if held is None or slot.task is None:
                continue
            if held is message or (isinstance(held, Bunch) and message.state.called_off.issuperset(held.messages)):
                slot.task.cancel()  # of a bunch only if that is all of it

    def cancel(self) -> None:
        """Cancel what still runs, and has been given back."""
        self._cut_off = True
        for slot in self.slots:
            if slot.task is not None:
                slot.task.cancel()

    async def ended(self) -> None:
        """Wait for what was cancelled, if it comes to its end at once."""
        if tasks := [slot.task for slot in self.slots if slot.task is not None]:
            await asyncio.wait(tasks, timeout=AT_ONCE)


def _task_maker(loop: asyncio.AbstractEventLoop) -> Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]:
    """What makes a task of a coroutine and, where Python can (3.12), runs it at once to where it first waits: many
    handlers never do, and the event loop hears nothing of them. A factory of the application is respected."""
    if sys.version_info < (3, 12) or loop.get_task_factory() is not None:
        return loop.create_task
    return partial(asyncio.Task, loop=loop, eager_start=True)


async def _within(timeout: float, called: Coroutine[Any, Any, Any]) -> tuple[Any, BaseException | None]:
    """What a coroutine returned, and what it raised, or None; past its timeout it is cancelled. Nothing but
    cancellation comes out."""

    async def guarded() -> tuple[Any, BaseException | None]:
        try:
            return await called, None
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001 - see above
            return None, error

    # Before 3.12 a cancellation comes out of wait_for also if what it waits for has not heeded it, and returned.
    task = guarded() if sys.version_info >= (3, 12) else asyncio.ensure_future(guarded())
    try:
        return await asyncio.wait_for(task, timeout)
    except asyncio.CancelledError:
        if isinstance(task, asyncio.Future) and task.done() and not task.cancelled():
            return task.result()
        raise
    except asyncio.TimeoutError as error:
        return None, error
