"""The exclusive mode: one holder reads batches in order, and removes each after it was handled."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any

from reliq import defaults
from reliq.aio.link import Link
from reliq.aio.reaper import Reaper
from reliq.core.command import Command
from reliq.core.exclusive import Taken
from reliq.core.retry import backoff
from reliq.errors import OutcomeUnknown, QueueFull, ReliqError, Unavailable, WrongKeyType
from reliq.holding import CALL, OVER, RENEW, Begin, Fetch, Held, Holding, Pause, Ring, Step, Verdict
from reliq.identity import clock
from reliq.logging import log

if TYPE_CHECKING:
    from reliq.aio.queue import Queue


class Batch(Held):
    """Messages in your hands, in order, until they are settled together: ``async with batch:``, or a verb.

    Leaving the ``async with`` block removes them; an exception inside is logged, removes nothing, and lets them
    come again by the queue's policy, then in halves, until the one that fails is alone and is dead-lettered. It
    does not leave the block, so a loop goes on. Cancellation, KeyboardInterrupt and SystemExit leave all as it is,
    and go on.
    """

    def __init__(self, taken: Taken, holder: Exclusive) -> None:
        super().__init__(taken, holder)
        self._holder = holder

    async def ack(self) -> bool:
        """Done: remove them. False: somebody has pushed to the right end of the queue, or taken from it; then
        nothing is removed, and what is still there comes again. Raises LeaseLost, or OutcomeUnknown if
        unanswered."""
        return await self._settle(self._verdict(None))

    async def retry(self, delay: float | None = None, *, reason: str = "retry") -> bool:
        """Failed: they come again in ``delay`` seconds (None: as the policy says); counts as an attempt."""
        return await self._settle(self._again(delay, reason))

    async def release(self) -> bool:
        """Leave them in their place; counts no attempt. They come again at once."""
        return await self._settle(self._returned())

    async def _settle(self, verdict: Verdict) -> bool:
        if self._settled:
            return False
        self._settled = True
        return await self._holder.settle(self._taken, verdict)

    async def __aenter__(self) -> Batch:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if self._settled:
            if isinstance(error, Exception):
                self._report_late(error)
        elif error is not None and not isinstance(error, Exception):
            self._settled = True
            self._holder.drop(self._taken)  # interrupted: to wait here would be to wait once too often
        else:
            await self._settle(self._verdict(error))
        return isinstance(error, Exception)


class Exclusive(Holding):
    """Holds a queue for itself alone: ``async with q.exclusive() as holder: async for batch in holder: …``

    A task renews the lock, so a batch may take as long as it likes if it lets the event loop run. One task may use
    it, and no forked child. ``aclose`` (or leaving ``async with``) leaves in their place, in order, the messages
    that were not settled. It connects when it is entered or first used.
    """

    def __init__(
        self, queue: Queue, *, batch: int = 500, until_empty: bool = False, wait: float | None = 0.0
    ) -> None:
        self._pid = os.getpid()
        super().__init__(queue.options, f"pid={self._pid}", batch=batch, until_empty=until_empty, wait=wait)
        self._queue = queue
        self._bells: Link | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._opening = asyncio.Lock()
        self._calling = asyncio.Lock()
        self._keeper: asyncio.Task[None] | None = None
        self._closer: asyncio.Task[None] | None = None
        self._reaper = Reaper(queue, scan_steps=0)
        self._closed = False

    def __aiter__(self) -> AsyncIterator[Batch]:
        return self

    async def __anext__(self) -> Batch:
        while not self._closed:
            await self._open()
            step = self._step()
            if isinstance(step, Taken):
                return Batch(self._hand_over(step), self)
            if step is OVER:
                break
            await self._do(step)
        raise StopAsyncIteration

    async def settle(self, taken: Taken, verdict: Verdict) -> bool:
        """Have it done and wait for the answer, for a lease at most: False if the right end was another."""
        self._check()
        self._owe(taken, verdict)
        deadline = clock() + max(self._options.timeout, self._options.lease)
        while (done := self._outcome(taken)) is None:
            if clock() > deadline:
                raise self._unconfirmed(taken)
            await self._do(CALL)
        return done

    async def _do(self, step: Step) -> None:
        """One step. If Redis does not answer, a pause."""
        try:
            if isinstance(step, Pause):
                await asyncio.sleep(step.seconds)
            elif isinstance(step, Ring):
                await self._ring(step.seconds)
            elif isinstance(step, Fetch):
                self.state.furnish(step.taken, step.item, await self._prepared(self.state.fetch(step.item)))
            elif isinstance(step, Begin):
                self.state.begun(step.taken, step.items, await self._prepared(self.state.begin(step.items)))
            elif step is RENEW:
                await self._renew()
            else:
                await self._call()
        except (Unavailable, OutcomeUnknown) as error:
            self._failures += 1
            self._note_down(error)
            await asyncio.sleep(backoff(self._failures, most=self._options.lease / defaults.BACKOFF_SHARE))

    async def _call(self) -> None:
        async with self._calling:
            if self._closed and self._all_settled():
                return  # somebody has closed us while this task waited
            sent_at, command = clock(), self._next_call()
            self._take(await self._queue.links.run(command), sent_at)

    async def _prepared(self, command: Command) -> Any:
        try:
            return await self._queue.links.run(command)
        except WrongKeyType:  # somebody has put something else there
            return None

    async def _ring(self, seconds: float) -> None:
        """Wait until something is ready. What the server moves, it moves to where it was."""
        if self._bells is None:
            timeout = self._queue.settings.patience
            self._bells = await self._queue.links.new(name="reliq-bell", read_timeout=timeout)
        try:
            await self._bells.run(self.state.ring(seconds))
        except QueueFull:  # BLMOVE is refused while Redis is out of memory; the rest is not
            await asyncio.sleep(min(seconds, 0.25))
        except ReliqError:  # the call that follows meets the same trouble, and reports it
            await asyncio.sleep(min(seconds, 0.05))

    # -- the lock ---------------------------------------------------------------------------------------

    async def _open(self) -> None:
        """Get the lock, once; says now what is wrong."""
        self._check()
        if self._keeper is not None:
            return
        self._loop = asyncio.get_running_loop()
        async with self._opening:
            if self._keeper is None:
                until = None if self._patient_for is None else clock() + self._patient_for
                with suppress(QueueFull):  # a full Redis takes no new entry, but it can be drained
                    await self._queue.links.insist(self._options.registration())
                while not await self._seize(until):
                    pass
                self._keeper = asyncio.create_task(self._keep(), name="reliq-keeper")

    async def _seize(self, until: float | None) -> bool:
        """One try; False: it is worth another one."""
        links, server = self._queue.links, (await self._queue.links.server()).identity
        self._patience.ask()
        sent_at = clock()
        seized = await links.flow(self.state.seize_g(server, believed=False))
        if seized.status == "busy" and (await self._reaper.reap(self._queue)).consumers:  # the dead held something
            seized = await links.flow(self.state.seize_g(server, believed=False))
        doubted = self._patience.holds(seized.now)  # each time, so that a jump of its clock is seen
        if seized.status == "over" and not doubted:
            sent_at = clock()
            seized = await links.flow(self.state.seize_g(server, believed=True))
        if seized.status == "granted":
            self.state.granted(seized, sent_at)
            return True
        await asyncio.sleep(self._refused(seized, until))
        return False

    async def _keep(self) -> None:
        """Renew the lease, and do what is to be done once in a while; also while the user is busy."""
        try:
            while not self.state.lost:
                await self._sleep(self._pause())
                try:
                    if await self._renew() == 2:
                        await self._reaper.on_duty(self._queue, 2)
                except ReliqError as error:
                    self._not_renewed(error)
        except asyncio.CancelledError:
            if not self._closed:  # the event loop ends, and nobody has closed us
                await self._goodbye()
            raise

    async def _sleep(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        expected = loop.time() + seconds
        await asyncio.sleep(seconds)
        late = loop.time() - expected
        if late > self._options.lease / 3:
            log.warning(
                "queue %r: the event loop was blocked for %.1f s, so the lease of %s s could not be renewed; "
                "run such code with asyncio.to_thread()",
                self._options.name, late, self._options.lease,
            )  # fmt: skip

    async def _renew(self) -> int:
        sent_at = clock()
        answer: int = await self._queue.links.run(self.state.prolong())
        self._renewed(answer, sent_at)
        return answer

    def _check(self) -> None:
        if self._pid != os.getpid():
            raise self._foreign_error(f"process {self._pid}, the parent of this fork")
        if self._closed:
            raise self._closed_error()
        if self._loop is not None and self._loop is not asyncio.get_running_loop():
            raise self._foreign_error("another event loop")

    async def aclose(self) -> None:
        """Leave what was not settled in its place, and let the queue go. Safe to repeat.

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
        keeper = self._keeper
        if keeper is None:
            return
        if keeper is not asyncio.current_task():
            keeper.cancel()
            await asyncio.wait({keeper})
        deadline = clock() + self._options.timeout
        while not self._all_settled() and clock() < deadline:
            await self._do(CALL)
        try:
            await self._queue.links.insist(self.state.free())
        except ReliqError as error:
            log.warning("queue %r: could not let it go; its lease ends by itself: %s", self._options.name, error)
        finally:
            if self._bells is not None:
                await self._bells.aclose()

    async def __aenter__(self) -> Exclusive:
        await self._open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, GeneratorExit):  # a coroutine that is being closed may not wait
            self._start_closing()
        else:
            await self.aclose()
