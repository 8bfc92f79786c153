"""A claimer for code that wants to pull: ``async for lease in consumer``."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from types import TracebackType
from typing import TYPE_CHECKING

from reliq import defaults
from reliq.aio.engine import Engine
from reliq.aio.lease import Lease
from reliq.aio.reaper import Reaper
from reliq.aio.scheduler import Ticker
from reliq.aio.steward import timed
from reliq.claiming import Claiming, until
from reliq.core import orders
from reliq.core.message import Message, Settle
from reliq.core.orders import Order
from reliq.core.retry import backoff
from reliq.errors import OutcomeUnknown, QueueHeld, ReliqError, Unavailable
from reliq.identity import clock
from reliq.logging import log

if TYPE_CHECKING:
    from reliq.aio.queue import Queue


class Consumer(Claiming):
    """Claims messages one by one (or ``prefetch`` at a time) and keeps their lease while it is open.

    A task renews the lease, so a handler may take as long as it likes if it lets the event loop run.
    Settling waits for Redis, and the same round trip brings the next messages. ``aclose`` (or leaving
    ``async with``) gives back, in order, what was not settled. Tasks of one event loop may share a
    consumer; a forked child and another loop may not. It connects when it is entered or first used.
    """

    def __init__(self, queue: Queue, *, prefetch: int = 1, until_empty: bool = False) -> None:
        self._queue = queue
        self._pid = os.getpid()
        self._engine = Engine(queue, who=f"pid={self._pid}")
        super().__init__(queue.options, self._engine.state, prefetch=prefetch, until_empty=until_empty)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._opening = asyncio.Lock()
        self._settling = asyncio.Lock()
        self._keeper: asyncio.Task[None] | None = None
        self._closer: asyncio.Task[None] | None = None
        self._bell: asyncio.Task[None] | None = None
        self._waiting = 0
        self._wake = asyncio.Event()
        self._poked = False
        self._reaper = Reaper(queue, scan_steps=0)
        self._ticker = Ticker()
        self._closed = False

    async def claim(self, n: int = 1, *, timeout: float | None = None) -> list[Lease]:
        """Up to ``n`` messages, waiting at most ``timeout`` seconds (None: for ever) for the first."""
        try:
            messages = await self._claim(n, until(timeout))
        except asyncio.CancelledError:
            self._asked_at = 0.0  # nobody wants any more what this claim may still bring
            raise
        return [Lease(message, self, self._queue.options.retry) for message in messages]

    async def _claim(self, n: int, deadline: float | None) -> list[Message]:
        while True:
            await self._open()
            want = self._want(n)
            if want is not None:
                await self._trip(want)
            messages = self._pop(n)
            left = None if deadline is None else deadline - clock()
            if messages or (left is not None and left <= 0):
                return messages
            if not self._buffer:
                await self._wait(left)

    def __aiter__(self) -> AsyncIterator[Lease]:
        return self

    async def __anext__(self) -> Lease:
        while not self._closed:
            leases = await self.claim(1, timeout=0 if self._until_empty else None)
            if leases:
                return leases[0]
            if self._is_over():
                break
            await asyncio.sleep(self._again_in)
        raise StopAsyncIteration

    async def _trip(self, want: int) -> None:
        """A trip whose messages go into the buffer. If Redis does not answer, a pause."""
        try:
            self._noted(await self._engine.trip(want))
        except (Unavailable, OutcomeUnknown):
            self._failures += 1
            await asyncio.sleep(backoff(self._failures, most=self._options.lease / defaults.BACKOFF_SHARE))
        except asyncio.CancelledError:
            self._poke()  # it may have claimed: the keeper repeats it and learns what
            raise

    async def _wait(self, left: float | None) -> None:
        """Sleep until the bell rings or something is due by itself. One bell rings for all tasks, and goes
        on when the task that wanted it is cancelled: to cut a BLMOVE costs its connection."""
        seconds = self._wait_for(left)
        if self._leaves_some:
            await asyncio.sleep(seconds)
            return
        if self._bell is None or self._bell.done():
            self._bell = asyncio.create_task(self._ring(), name="reliq-bell")
        self._waiting += 1
        try:
            await asyncio.wait({self._bell}, timeout=seconds)
        except asyncio.CancelledError:
            if self._bell.done():
                self._poke()  # what it brought lies in the inbox
            raise
        finally:
            self._waiting -= 1

    async def _ring(self) -> None:
        try:
            await self._engine.ring(self._options.block)
        except ReliqError:  # the trip that follows meets the same trouble, and reports it
            await asyncio.sleep(0.1)
        if not self._waiting:
            self._poke()  # nobody wants what it brought: back to the head of the queue

    def _ticks_due(self) -> None:
        self._ticker.fire(self._queue)

    async def settle(self, settle: Settle) -> bool:
        """Have it done by a trip and wait for the answer; settles of several tasks share trips."""
        self._check()
        self.state.finished.append(settle)
        deadline = clock() + self._queue.options.timeout
        while settle.accepted is None:
            async with self._settling:
                if settle.accepted is None and clock() <= deadline:
                    await self._trip(self._ahead(settle))
            if settle.accepted is None and clock() > deadline:
                raise self._unconfirmed(settle)
        return settle.accepted

    def post(self, settle: Settle) -> None:
        """Have it done soon, without waiting: for a task that is being cancelled."""
        self.state.finished.append(settle)
        self._poke()

    # -- keeping the lease ------------------------------------------------------------------------------

    def _poke(self) -> None:
        """Let the keeper make a trip now."""
        self._poked = True
        self._wake.set()

    async def _keep(self) -> None:
        """Renew the lease, make and repeat settles that nobody waits for, reap when it is our turn."""
        try:
            while not self._closed:
                await self._pause_until_poked()
                await self._keep_once()
        except asyncio.CancelledError:
            if not self._closed:  # the event loop ends, and nobody has closed us
                await self._goodbye()
            raise

    async def _pause_until_poked(self) -> None:
        loop, pause = asyncio.get_running_loop(), self._pause()
        expected = loop.time() + pause
        timer = loop.call_later(pause, self._wake.set)
        try:
            await self._wake.wait()
        finally:
            timer.cancel()
        self._wake.clear()
        late = loop.time() - expected
        if late > self._options.lease / 3:
            log.warning(
                "queue %r: the event loop was blocked for %.1f s, so the lease of %s s could not be renewed; "
                "run such code with asyncio.to_thread()",
                self._options.name, late, self._options.lease,
            )  # fmt: skip

    async def _keep_once(self) -> None:
        poked, self._poked = self._poked, False
        try:
            if poked or self._trip_due(self._engine.answered_at):
                await self._trip(0)
                if self._return_unasked():
                    await self._trip(0)
            if (order := self._taken_order()) is not None:
                await self._answer(order)
            duty = self._takes_duty()
            if duty:
                report = await self._reaper.on_duty(self._queue, duty)
                self._reaped(report)
        except QueueHeld:  # the engine has told of it, once
            pass
        except ReliqError as error:
            log.error("queue %r: %s", self._queue.name, error)

    async def _answer(self, order: Order) -> None:
        """Say from afar how this consumer is."""
        links, keys, name = self._queue.links, self._options.keys, self.state.name
        report = self._report(order, *await timed(links))
        await links.run(orders.answer(keys, name, order.number, report))

    # -- opening and closing ----------------------------------------------------------------------------

    async def _open(self) -> None:
        """Connect and register, once; says now what is wrong."""
        self._check()
        if self._keeper is not None:
            return
        self._loop = asyncio.get_running_loop()
        async with self._opening:
            if self._keeper is None:
                try:
                    self._noted(await self._engine.trip(0))
                except BaseException:
                    await self._engine.aclose()
                    raise
                self._keeper = asyncio.create_task(self._keep(), name="reliq-keeper")

    def _check(self) -> None:
        if self._pid != os.getpid():
            raise self._inherited_error(self._pid)
        if self._closed:
            raise self._closed_error()
        if self._loop is not None and self._loop is not asyncio.get_running_loop():
            raise self._other_loop_error()

    async def aclose(self) -> None:
        """Give back what was not settled, in order and uncounted, and say goodbye. Safe to repeat.

        It goes on even if the task that waits for it is cancelled.
        """
        closer = self._start_closing()
        if closer is not None:
            await asyncio.shield(closer)

    def _start_closing(self) -> asyncio.Task[None] | None:
        if self._pid != os.getpid() or self._loop is not asyncio.get_running_loop():
            self._closed = self._closed or self._loop is None
            return None
        if self._closer is None and not self._closed:
            self._closer = asyncio.create_task(self._goodbye(), name="reliq-close")
        return self._closer

    async def _goodbye(self) -> None:
        self._closed = True
        for task in (self._keeper, self._bell):
            if task is not None and task is not asyncio.current_task():
                task.cancel()
                await asyncio.wait({task})
        self._give_back()
        deadline = clock() + self._queue.options.timeout
        while (self.state.finished or self.state.unanswered) and clock() < deadline:
            try:
                await self._engine.trip(0)
                self._give_back()  # the answer of an earlier trip may have brought more
            except QueueHeld:  # then there is nothing of ours
                break
            except ReliqError as error:
                log.warning("queue %r: closing: %s", self._queue.name, error)
                await asyncio.sleep(0.05)
        await self._engine.leave(bell_ended=await self._engine.end_bell())
        await self._ticker.stop()

    async def __aenter__(self) -> Consumer:
        await self._open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, GeneratorExit):  # a coroutine that is being closed may not wait
            self._start_closing()
        else:
            await self.aclose()
