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
from queue import SimpleQueue
from typing import Any, Generic, Protocol, TypeVar

from reliq import context
from reliq.ack import lease_class
from reliq.core.consumer import Message
from reliq.core.pace import QUICK, Pace
from reliq.core.verdict import describe
from reliq.lease import Leased, report, settle_for
from reliq.logging import log
from reliq.model import clock
from reliq.working import Stationed

S = TypeVar("S", bound=Stationed)


class Board(Protocol):
    """What a supervisor reads: which messages handlers have in hand (``reliq.sync.board``)."""

    def start(self, slot: int, station: int, id: bytes, now: float, timeout: float | None) -> None:
        """A handler gets this message in hand."""

    def finish(self, slot: int) -> None:
        """The handler is done with it."""


class Slot:
    """A place for one handler at work, and the message that it has in hand, if any."""

    __slots__ = ("busy", "failed", "index", "message", "reported", "started_at", "task", "thread")

    def __init__(self, index: int) -> None:
        self.index = index
        self.message: Message | None = None
        self.started_at = 0.0
        self.busy = False  # its thread works, and is not at rest
        self.task: asyncio.Task[None] | None = None
        self.thread = 0
        # By message: the handler may have come back meanwhile, and have the next one in hand.
        self.reported: Message | None = None  # as stuck
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
        timeout = message.state.owner.handler.timeout
        return timeout is not None and now - self.started_at > timeout

    def stack(self) -> str:
        """Where the handler's thread is at this moment."""
        frame = sys._current_frames().get(self.thread)
        return "".join(traceback.format_stack(frame)) if frame is not None else "(no stack)\n"


class Executor(Generic[S]):
    """The messages that wait, the slots, and what is done before and after a handler.

    ``settler`` makes of a station what a lease settles with; ``defer`` gets back what may not start yet.
    """

    def __init__(
        self,
        pace: Pace,
        defer: Callable[[Message], None],
        settler: Callable[[S], Any],
        *,
        is_async: bool,
        board: Board | None = None,
        first_slot: int = 0,
    ) -> None:
        self.pace = pace
        self.waiting: deque[Message] = deque()
        self.slots = [Slot(first_slot + n) for n in range(pace.concurrency)]
        self._defer = defer
        self._settler = settler
        self._lease_class = lease_class(is_async=is_async)
        self._board = board

    def take_waiting(self) -> list[Message]:
        """The messages that no handler has seen; they are not run any more."""
        messages = []
        while True:
            try:
                messages.append(self.waiting.popleft())
            except IndexError:
                return messages

    def in_hand(self) -> list[Message]:
        """What handlers have in hand, without what was settled as failed over their heads."""
        return [m for slot in self.slots if (m := slot.message) is not None and m is not slot.failed]

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
        return fresh

    def _show(self, slot: Slot, message: Message, now: float) -> None:
        """Tell the supervisor, before the handler is called."""
        if self._board is not None:
            station = message.state.owner
            self._board.start(slot.index, station.index, message.envelope.id, now, station.handler.timeout)

    def _lease(self, message: Message) -> Any:
        """What a handler gets that wants more than the body."""
        station = message.state.owner
        return self._lease_class(message, self._settler(station), station.handler.retry)

    def _end(self, slot: Slot, message: Message, lease: Leased | None, error: BaseException | None) -> None:
        """Settle by the outcome, unless the handler (or the watch over timeouts) has settled it."""
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
            state.finished.append(message)
        else:
            settle = settle_for(state, message, state.owner.handler.retry, error)
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
        board: Board | None = None,
    ) -> None:
        super().__init__(pace, defer, settler, is_async=False, board=board)
        self._refill = refill
        self._rested = rested
        self._tokens: SimpleQueue[bool] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._resting = 0
        self._lock = threading.Lock()

    @property
    def at_work(self) -> bool:
        """Whether a handler runs, or is about to, that may still come back."""
        return len(self._threads) - self._resting > sum(slot.stuck for slot in self.slots)

    def submit(self, messages: list[Message]) -> None:
        """Run these, in order, as soon as slots are free."""
        self.waiting.extend(messages)
        if not self.pace.quick:
            self._wake(len(messages))
        elif len(self._threads) == self._resting:
            self._wake(1)

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
        return self.pace.quick and len(self._threads) > self._resting

    def _serve(self, slot: Slot) -> None:
        """Work through what waits. One look at the clock is the end of a handler and the start of the next."""
        waiting, bare, ran = self.waiting, self._board is None, self.pace.ran
        now = clock()
        while True:
            try:
                message = waiting.popleft()
            except IndexError:
                return
            if not self._may_start(message, now):
                continue
            station = message.state.owner
            plain, lease, error = station.handler.plain, None, None
            slot.started_at, slot.message = now, message
            if not bare:
                self._show(slot, message, now)
            context.enter(message)
            try:
                if plain is not None:
                    if (result := plain(message.body)) is not None:
                        station.handler.check(result)
                else:
                    lease = self._lease(message)
                    station.handler.call(lease)
            except BaseException as raised:  # noqa: BLE001 - nothing that a handler raises may end the worker
                error = raised
            now = clock()
            ran(took := now - slot.started_at)
            if bare and error is None and lease is None:
                message.state.finished.append(message)
                slot.message = None
            else:
                self._end(slot, message, lease, error)
            if took > QUICK and waiting:  # else this thread makes the next trip, and very soon
                station.wake()

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
        board: Board | None = None,
        first_slot: int = 0,
    ) -> None:
        super().__init__(pace, defer, settler, is_async=True, board=board, first_slot=first_slot)
        self._free = deque(self.slots)
        self._starting = self._cut_off = False

    def start(self) -> None:
        """Start what waits, in order, as far as there are slots."""
        free, waiting, now = self._free, self.waiting, clock()
        create_task = asyncio.get_running_loop().create_task
        self._starting = True  # who is taken from `waiting` is at work from here on
        while free and waiting:
            message = waiting.popleft()
            if self._may_start(message, now):
                slot = free.popleft()
                slot.task = create_task(self._run(slot, message))
        self._starting = False

    @property
    def at_work(self) -> bool:
        """Whether a handler runs, or is about to; one past its timeout is cancelled, so all come back."""
        return self._starting or len(self._free) < len(self.slots)

    async def _run(self, slot: Slot, message: Message) -> None:
        station, now = message.state.owner, clock()
        handler = station.handler
        slot.started_at, slot.message = now, message
        if self._board is not None:
            self._show(slot, message, now)
        context.enter(message)  # of this task alone: there is nothing to restore
        lease, error = None if handler.plain else self._lease(message), None
        try:
            called = handler.plain(message.body) if handler.plain else handler.call(lease)
            if handler.timeout is None:
                await called
            else:
                error = await _within(handler.timeout, called)
        except BaseException as raised:  # noqa: BLE001 - asyncio ends the whole loop on a SystemExit from a task
            error = raised  # a cancellation too: by the handler itself, or because the loop ends
        took = clock() - now
        self.pace.ran(took)
        overdue = handler.timeout is not None and took > handler.timeout
        if overdue and isinstance(error, asyncio.CancelledError | asyncio.TimeoutError):
            error = TimeoutError(f"took longer than its timeout of {handler.timeout} s")
        elif self._cut_off and isinstance(error, asyncio.CancelledError):
            slot.failed = message  # not by itself: it has been given back
        self._end(slot, message, lease, error)
        slot.task = None
        self._free.append(slot)
        if self.waiting:
            self.start()
        if took > QUICK or len(self._free) == len(self.slots):
            station.wake()

    def cancel(self) -> None:
        """Cancel what still runs, and has been given back."""
        self._cut_off = True
        for slot in self.slots:
            if slot.task is not None:
                slot.task.cancel()


async def _within(timeout: float, called: Coroutine[Any, Any, Any]) -> BaseException | None:
    """What a coroutine raised, or None; past its timeout it is cancelled. Nothing but cancellation comes out."""

    async def guarded() -> BaseException | None:
        try:
            await called
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001 - see above
            return error
        return None

    try:
        return await asyncio.wait_for(guarded(), timeout)
    except asyncio.TimeoutError as error:
        return error
