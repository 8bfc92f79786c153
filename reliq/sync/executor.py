"""Where coroutine handlers run under a blocking worker: an event loop in a thread of its own."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Final, TypeVar

from reliq.core.command import Command
from reliq.core.message import Message, Settle
from reliq.core.pace import Pace
from reliq.core.verdict import describe
from reliq.logging import log
from reliq.ranking import Lines
from reliq.running import AT_ONCE, Board, CoroutineExecutor
from reliq.sync.station import Station

T = TypeVar("T")
#: What was called into the event loop before its end gets its turn for so many seconds.
_LAST: Final = 0.05
#: An event loop that has not got to its next task after so many seconds is blocked.
_BLOCKED: Final = 2.0


class AsyncExecutor(CoroutineExecutor[Station]):
    """An event loop in one thread, on which up to ``concurrency`` coroutine handlers run at once."""

    def __init__(
        self,
        pace: Pace,
        defer: Callable[[Message], None],
        waiting: Lines | deque[Message],
        board: Board | None,
    ) -> None:
        # On the board its slots stand behind those of the threads, which may run handlers beside it.
        super().__init__(pace, defer, _AsyncSettler, waiting=waiting, board=board, first_slot=pace.concurrency)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._go_on, name="reliq-asyncio", daemon=True)
        self._thread.start()

    def _go_on(self) -> None:
        """Until ``close``: a SystemExit in a task that a handler has left behind comes out of the event loop, and
        without that nothing would be handled any more."""
        while True:
            try:
                return self._loop.run_forever()
            except BaseException as error:  # noqa: BLE001 - see above
                log.error("a task beside the handlers raised %s; they go on", describe(error), exc_info=error)

    def call_off(self, message: Message) -> None:
        """This message was cancelled."""
        self._loop.call_soon_threadsafe(super().call_off, message)

    def submit(self, messages: list[Message], *, ours: int = 0) -> None:
        """Run these, in order, as soon as slots are free."""
        self.waiting.extend(messages)
        self._loop.call_soon_threadsafe(self.start)

    serves_itself = False

    def nudge(self, now: float) -> bool:
        """Coroutines need no waking."""
        return False

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run it in the event loop of the handlers and wait for it."""
        result: T
        result, error = asyncio.run_coroutine_threadsafe(_guarded(coroutine), self._loop).result()
        if error is not None:
            raise error
        return result

    def answers(self) -> bool:
        """Whether the event loop gets to what is next; False: a handler blocks it, perhaps for ever."""
        begun = threading.Event()
        self._loop.call_soon_threadsafe(begun.set)
        return begun.wait(_BLOCKED)

    def cut_off(self) -> None:
        """Cancel what still runs, and let it come to its end, if it does so at once."""
        cut = asyncio.run_coroutine_threadsafe(self._cut(), self._loop)
        with suppress(concurrent.futures.TimeoutError):  # a handler blocks the event loop
            cut.result(2 * AT_ONCE)

    async def _cut(self) -> None:
        self.cancel()
        await self.ended()

    def close(self) -> None:
        """End the event loop."""
        self._loop.call_soon_threadsafe(self._loop.call_later, _LAST, self._loop.stop)
        self._thread.join(1.0)
        if not self._thread.is_alive():
            self._loop.close()


async def _guarded(coroutine: Coroutine[Any, Any, Any]) -> tuple[Any, BaseException | None]:
    """What it returned, and what it raised: a SystemExit that came out of a task would end the event loop."""
    try:
        return await coroutine, None
    except BaseException as error:  # noqa: BLE001 - raised in the thread that waits for it
        return None, error


class _AsyncSettler:
    """Lets a coroutine handler await its explicit settle, which a trip of the worker's loop makes."""

    def __init__(self, station: Station) -> None:
        self._station = station
        self.state = station.state

    async def settle(self, settle: Settle) -> bool:
        return await asyncio.to_thread(self._station.settle, settle)

    async def insist(self, command: Command) -> Any:
        return await asyncio.to_thread(self._station.insist, command)

    def post(self, settle: Settle) -> None:
        self._station.finish(settle)
