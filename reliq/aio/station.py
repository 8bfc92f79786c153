"""One queue of a worker: its engine, its bell, and what its handlers say about messages."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from reliq.aio.bell import Bell
from reliq.aio.engine import Engine
from reliq.aio.queue import Queue
from reliq.core.consumer import Answer
from reliq.core.message import Settle
from reliq.errors import ReliqError
from reliq.routing import Handling
from reliq.working import Stationed


class Station(Stationed):
    """Lives in the worker's event loop, as its coroutine handlers do."""

    def __init__(self, index: int, handler: Handling, queue: Queue, who: str, wake: Callable[[], None]) -> None:
        self.engine = Engine(queue, who)
        self.engine.watch = handler.watch
        super().__init__(index, handler, queue.options, self.engine.state, wake)
        self.queue = queue
        self.bell = Bell(self.engine, self._ring)

    # -- the loop's side --------------------------------------------------------------------------------

    async def trip(self, want: int, ahead: Callable[[], int]) -> Answer | None:
        """One trip; None if Redis does not answer, and then the next is due after a pause. ``ahead``: for how many
        the next one asks that is under way when this one's messages are looked into and handled; 0: there is none.
        """
        if not self.state.unanswered:  # else it was sent before, and does not know why the bell rang
            self._rang = False
        try:
            answer = await self.engine.trip(want, look=False)
        except ReliqError:  # reported by the engine, once
            self.failed()
            return None
        self.noted(answer)
        if (seconds := self.bell_for) is not None:
            self.bell.arm(seconds)
        if (want := ahead()) > 0:
            await self.engine.begin(want)
        answer = answer._replace(messages=answer.messages + self.state.take_in())
        return await self.engine.prepared(answer) if self.state.can_prepare else answer

    def _ring(self) -> None:
        self._rang = True
        self.wake()

    # -- the handlers' side -----------------------------------------------------------------------------

    async def settle(self, settle: Settle) -> bool:
        """Have it done by the next trip and wait: False if it was refused as too late."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        settle.on_settled = lambda _: None if done.done() else done.set_result(None)
        self.finish(settle)
        await asyncio.wait([done], timeout=self.options.timeout)
        if settle.accepted is None:
            raise self._unconfirmed(settle)
        return settle.accepted

    def post(self, settle: Settle) -> None:
        """Have it done soon, without waiting: for a task that is being cancelled."""
        self.finish(settle)

    async def aclose(self) -> bool:
        """End the bell and say goodbye; True if nothing of us is left in Redis."""
        return await self.engine.leave(bell_ended=await self.bell.stop())
