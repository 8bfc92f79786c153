"""The worker: runs handlers in the application's own event loop."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager, suppress
from types import TracebackType
from typing import Any

from reliq import defaults
from reliq.ack import Handler
from reliq.aio.health import Health
from reliq.aio.loop import Handlers, Loop
from reliq.aio.queue import Queue
from reliq.errors import ConfigError
from reliq.health import check_around, observed, pages, tally, vitals
from reliq.identity import clock
from reliq.lifespan import Lifespan, lifespan_of
from reliq.middleware import Middleware, checked
from reliq.ranking import Ranks
from reliq.routing import by_queue
from reliq.serving import address
from reliq.telemetry.tally import Tally
from reliq.working import check_worker


class Worker:
    """Runs handlers made by ``@q.ack``, coroutine and plain functions alike.
    Several of one queue are told apart by ``ack(type=)``.

    ``await Worker(send).run()``, or in the background of an application ``async with Worker(send):``.
    ``concurrency``: handlers at once. ``processes`` must be 1 here: an event loop cannot be forked; use
    ``reliq.Worker`` or ``reliq worker`` for more. ``grace``: seconds to finish on SIGTERM. ``prefetch``:
    most messages claimed ahead (default: as many as handlers finish in 20 ms; 0: none). ``signals``: take
    SIGTERM and SIGINT while ``run`` is awaited in the main thread. ``until_empty``: stop at empty. ``health``:
    where to listen for probes and scrapers, "127.0.0.1:8080" (/healthz, /readyz, /metrics; the latter needs
    the extra ``prometheus``).
    ``weights``: of queues by name, 1 to 1,000 (1 if it is not named): while several have work, each gets its share
    of the hand-overs. ``strict``: the queues in the order given, a later one only while no earlier one has work.
    ``lifespan``: a function that makes a context manager (or an asynchronous one), which is entered in each
    process before its first claim and left after its last settle. What it yields, a mapping or an object, is
    handed to parameters of handlers that are annotated ``reliq.Dependency``. StartFailed if that does not work.
    ``middleware``: objects around every handler, outside of those of its queue: see ``reliq.middleware``.
    """

    def __init__(
        self,
        *handlers: Handler[..., Any],
        concurrency: int = defaults.CONCURRENCY,
        processes: int = 1,
        grace: float = defaults.GRACE,
        prefetch: int = defaults.PREFETCH_MOST,
        signals: bool = True,
        name: str = "",
        until_empty: bool = False,
        health: str | None = None,
        weights: Mapping[str, int] | None = None,
        strict: bool = False,
        lifespan: Lifespan | None = None,
        middleware: Sequence[Middleware] = (),
    ) -> None:
        check_worker(handlers, concurrency=concurrency, processes=processes, grace=grace, prefetch=prefetch)
        if processes != 1:
            raise ConfigError(
                f"aio.Worker(processes={processes}): an event loop cannot be forked; use reliq.Worker, which runs "
                "coroutine handlers too, or `reliq worker module:handler --processes N`"
            )
        if health is not None:
            address("health", health)
        self._middleware = checked(middleware, "Worker", may_await=True) if middleware else ()
        self._health = health
        self._telling = AsyncExitStack()
        queues = by_queue(handlers)
        ranks = Ranks.of([handling.queue for handling in queues], weights, strict=strict)
        check_around(handlers, self._middleware)
        self._handlers: Handlers = [
            (handling, queue) for handling in queues for queue in own_queues(handling.queue)
        ]
        self._signals = signals
        self._options: dict[str, Any] = {
            "concurrency": concurrency,
            "prefetch": prefetch,
            "grace": grace,
            "name": name,
            "until_empty": until_empty,
            "ranks": ranks,
            "lifespan": lifespan_of(lifespan, handlers),
        }
        self._counts: Tally | None = None
        self._loop: Loop | None = None
        self._task: asyncio.Task[None] | None = None
        self._stops = 0

    async def run(self) -> None:
        """Work until ``stop()``, SIGTERM or SIGINT. Raises at once if a queue cannot be reached."""
        with self._made() as loop, taken_signals(self, self._signals):
            async with self._telling:
                await self._tell(loop)
                await loop.run()

    def _make(self) -> Loop:
        self._counts = None if self._health is None else tally([queue.name for _, queue in self._handlers])
        handlers = [
            (observed(handler, queue.options, self._counts, self._middleware), queue)
            for handler, queue in self._handlers
        ]
        return Loop(handlers, **self._options)

    async def _tell(self, loop: Loop) -> None:
        """Answer probes from here on, if that is wanted."""
        if self._health is not None:
            look = pages(lambda: vitals(loop, loop.slots, clock()), [self._counts])
            health = Health("health", self._health, look)
            self._telling.push_async_callback(health.aclose)
            await health.start()

    @contextmanager
    def _made(self) -> Iterator[Loop]:
        self._loop = self._make()
        self._loop.stops = self._stops
        try:
            yield self._loop
        finally:
            self._loop = None

    def stop(self) -> None:
        """Stop claiming and finish within the grace; a second call gives everything back at once."""
        self._stops += 1
        if self._loop is not None:
            self._loop.stop()

    async def __aenter__(self) -> Worker:
        """Start in the background; comes back when every queue was reached, or raises why not."""
        self._loop = self._make()
        await self._tell(self._loop)
        self._task = asyncio.get_running_loop().create_task(self._loop.run())
        started = asyncio.get_running_loop().create_task(self._loop.started.wait())
        try:
            await asyncio.wait([self._task, started], return_when=asyncio.FIRST_COMPLETED)
        except BaseException:  # cancelled: nobody would stop what was begun
            self._task.cancel()
            await asyncio.wait([self._task])
            await self._telling.aclose()
            raise
        finally:
            started.cancel()
        if self._task.done():
            await self._telling.aclose()
            self._task.result()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._task is not None
        self.stop()
        try:
            await self._task
        finally:
            await self._telling.aclose()
        self._loop = None


def own_queues(queue: Any) -> list[Queue]:
    """The queue in this shell, or those of all of its levels."""
    own = own_queue(queue)
    return [own.level(level) for level in own.options.levels] or [own]


def own_queue(queue: Any) -> Queue:
    """The queue in this shell: a blocking one is opened again with the same settings."""
    if isinstance(queue, Queue):
        return queue
    return Queue.of(queue.options, queue.settings)


@contextmanager
def taken_signals(worker: Worker, wanted: bool) -> Iterator[None]:
    """Let SIGTERM and SIGINT stop the worker, in the main thread only, and restore them afterwards."""
    if not wanted or threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    previous = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    for number in previous:
        try:
            loop.add_signal_handler(number, worker.stop)
        except NotImplementedError:  # on Windows
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(worker.stop))
    try:
        yield
    finally:
        for number, handler in previous.items():
            with suppress(NotImplementedError):
                loop.remove_signal_handler(number)
            signal.signal(number, handler)
