"""The worker: runs handlers, in this process or in supervised children."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from reliq import defaults, hooks
from reliq.ack import Handler
from reliq.errors import ConfigError
from reliq.health import check_around, observed, pages, tally, vitals
from reliq.identity import clock
from reliq.lifespan import Lifespan, lifespan_of
from reliq.logging import log
from reliq.middleware import Middleware, checked
from reliq.ranking import Ranks
from reliq.routing import by_queue
from reliq.serving import address
from reliq.sync.board import Board
from reliq.sync.health import Health
from reliq.sync.loop import Handlers, Loop
from reliq.sync.queue import Queue
from reliq.telemetry.tally import Tally
from reliq.working import check_worker


class Worker:
    """Runs handlers made by ``@q.ack``, sync and async alike: ``Worker(send, resize, concurrency=8).run()``.
    Several of one queue are told apart by ``ack(type=)``.

    ``concurrency``: handlers at once per process. ``processes``: 1 runs in the calling process; more are
    children of a small supervisor, which replaces one that dies or hangs. ``grace``: seconds to finish on
    SIGTERM. ``prefetch``: most messages claimed ahead (default: as many as handlers finish in 20 ms; 0:
    none). ``signals``: take SIGTERM and SIGINT while running in the main thread.
    ``until_empty``: stop when the queues are empty. ``health``: where to listen for probes and scrapers,
    "127.0.0.1:8080" (/healthz, /readyz, /metrics; the latter needs the extra ``prometheus``).
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
        if health is not None:
            address("health", health)
        self._middleware = checked(middleware, "Worker", may_await=True) if middleware else ()
        self._health = health
        queues = by_queue(handlers)
        ranks = Ranks.of([handling.queue for handling in queues], weights, strict=strict)
        check_around(handlers, self._middleware)
        self._handlers: Handlers = [
            (handling, queue) for handling in queues for queue in own_queues(handling.queue)
        ]
        self._processes = processes
        self._grace = grace
        self._signals = signals
        self._stopped = threading.Event()
        self._loop_options: dict[str, Any] = {
            "concurrency": concurrency,
            "prefetch": prefetch,
            "grace": grace,
            "name": name,
            "until_empty": until_empty,
            "ranks": ranks,
            "lifespan": lifespan_of(lifespan, handlers),
        }
        self._concurrency = concurrency
        self._stop: Callable[[], None] = self._stopped.set

    def _make(self, board: Board | None, counts: Tally | None = None) -> Loop:
        handlers = [
            (observed(handler, queue.options, counts, self._middleware), queue)
            for handler, queue in self._handlers
        ]
        return Loop(handlers, board=board, **self._loop_options)

    def run(self) -> None:
        """Work until ``stop()``, SIGTERM or SIGINT. Raises at once if a queue cannot be reached."""
        if self._processes > 1:
            self.supervise()
            return
        counts = None if self._health is None else tally([queue.name for _, queue in self._handlers])
        loop = self._make(None, counts)
        self._stop = loop.stop
        if self._stopped.is_set():
            return
        with taken_signals(loop.stop, self._signals), self._telling(loop, counts):
            loop.run()

    @contextmanager
    def _telling(self, loop: Loop, counts: Tally | None) -> Iterator[None]:
        """Answer probes meanwhile, if that is wanted."""
        if self._health is None:
            yield
            return
        health = Health("health", self._health, pages(lambda: vitals(loop, loop.slots, clock()), [counts]))
        health.start()
        try:
            yield
        finally:
            health.close()

    def supervise(self) -> None:
        """Work in child processes, also if it is only one, until told to stop (or empty). ConfigError where the
        system cannot fork."""
        if not can_fork():
            raise ConfigError(
                f"worker processes (processes={self._processes}) are forked, and {sys.platform} cannot do "
                "that; run reliq.Worker(handler).run() in as many programs as you want processes"
            )
        from reliq.sync.supervisor import Supervisor

        supervisor = Supervisor(
            self._make,
            self._handlers,
            processes=self._processes,
            slots=self._concurrency,
            grace=self._grace,
            until_empty=bool(self._loop_options["until_empty"]),
            health=self._health,
        )
        self._stop = supervisor.stop
        if self._stopped.is_set():
            return
        with taken_signals(supervisor.stop, self._signals):
            supervisor.run()

    def stop(self) -> None:
        """Stop claiming and finish within the grace; a second call gives everything back at once."""
        self._stopped.set()
        self._stop()


def can_fork() -> bool:
    """Not on Windows."""
    return hasattr(os, "fork")


def own_queues(queue: Any) -> list[Queue]:
    """The queue in this shell, or those of all of its levels."""
    own = own_queue(queue)
    return [own.level(level) for level in own.options.levels] or [own]


def own_queue(queue: Any) -> Queue:
    """The queue in this shell: an asyncio one is opened again with the same settings."""
    if isinstance(queue, Queue):
        return queue
    return Queue.of(queue.options, queue.settings)


@contextmanager
def taken_signals(stop: Callable[[], None], wanted: bool) -> Any:
    """Let SIGTERM and SIGINT call ``stop``, in the main thread only, and restore them afterwards."""
    if not wanted or threading.current_thread() is not threading.main_thread():
        yield
        return

    def on_signal(number: int, frame: FrameType | None) -> None:
        stop()

    previous = {number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def exit_child(status: int) -> None:
    """End a forked child without running what its parent registered for its own end."""
    try:
        log.debug("process %d ends with %d", os.getpid(), status)
        with suppress(Exception):  # what others want to do is no reason to end with another status
            hooks.finish()
        logging.shutdown()
        flush_output()
    finally:
        os._exit(status)


def flush_output() -> None:
    """As far as it goes: nobody may be there to read it, or there may be none."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
