"""Fires the ticks of schedules: inside of every worker and consumer, and as a process of its own where none
runs."""

from __future__ import annotations

import threading
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from reliq.errors import ReliqError
from reliq.sync.queue import Queue
from reliq.ticking import PASSING, Ticking

if TYPE_CHECKING:
    from reliq.core.ticks import Fired


class Scheduler:
    """Puts the messages of schedules when their ticks are due, by the server's clock: each tick once, with any
    number of schedulers.

    Workers and consumers of a queue do this by themselves; a Scheduler is for where none of them runs. While it
    waits it asks Redis once a second for each queue. ``run()`` goes on until ``stop()``; ``run_once()`` is one
    pass.
    """

    def __init__(self, *queues: Queue) -> None:
        self._queues = queues
        self._ticking = Ticking()
        self._stopping = False
        self._bell: SimpleQueue[None] = SimpleQueue()

    def run_once(self) -> int:
        """Fire what is due now in all queues; returns how many messages were put."""
        return sum(self._fire(queue, politely=False).messages for queue in self._queues)

    def run(self) -> None:
        """Fire what comes due, until ``stop()``; goes on through outages of Redis."""
        while not self._stopping:
            pauses = [self._pass(queue) for queue in self._queues]
            with suppress(Empty):
                self._bell.get(timeout=min(pauses, default=1.0))

    def _pass(self, queue: Queue) -> float:
        """One pass, unless somebody else is at it; returns seconds until the next one."""
        try:
            return self._ticking.done(queue.name, self._fire(queue, politely=True))
        except PASSING as error:
            return self._ticking.failed(queue.name, error)

    def _fire(self, queue: Queue, *, politely: bool) -> Fired:
        return queue.links.flow(self._ticking.flow(queue.options, politely=politely))

    def stop(self) -> None:
        """Let ``run`` end after the pass under way. Safe in signal handlers."""
        self._stopping = True
        self._bell.put(None)


class Ticker:
    """The scheduler inside of a worker or consumer: a thread, started when a trip says that ticks are due."""

    def __init__(self) -> None:
        self._ticking = Ticking()
        self._orders: SimpleQueue[Queue | None] = SimpleQueue()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None

    def fire(self, queue: Queue) -> None:
        """Fire soon what is due there. Should it fail, a trip says so again a second later."""
        self._orders.put(queue)
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="reliq-ticker", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while (queue := self._orders.get()) is not None:
            try:
                fired = queue.links.flow(self._ticking.flow(queue.options, politely=False))
                self._ticking.done(queue.name, fired)
            except ReliqError as error:
                self._ticking.failed(queue.name, error)

    def stop(self) -> None:
        """End after the pass under way."""
        if self._thread is not None:
            self._orders.put(None)
            self._thread.join(5.0)
