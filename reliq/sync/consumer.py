"""A claimer for code that wants to pull: ``for lease in consumer``."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING

from reliq import defaults
from reliq.claiming import Claiming, until
from reliq.core import orders
from reliq.core.message import Settle
from reliq.core.orders import Order
from reliq.core.retry import backoff
from reliq.errors import OutcomeUnknown, QueueFull, QueueHeld, ReliqError, Unavailable
from reliq.identity import clock
from reliq.logging import log
from reliq.sync.engine import Engine
from reliq.sync.lease import Lease
from reliq.sync.reaper import Reaper
from reliq.sync.scheduler import Ticker
from reliq.sync.steward import timed

if TYPE_CHECKING:
    from reliq.sync.queue import Queue


class Consumer(Claiming):
    """Claims messages one by one (or ``prefetch`` at a time) and keeps their lease while it is open.

    A thread renews the lease, so a handler may take as long as it likes. Settling waits for Redis, and
    the same round trip brings the next messages. ``close`` (or leaving ``with``) gives back, in order,
    what was not settled. Threads may share a consumer; a forked child may not.
    """

    def __init__(self, queue: Queue, *, prefetch: int = 1, until_empty: bool = False) -> None:
        self._queue = queue
        self._pid = os.getpid()
        self._engine = Engine(queue, who=f"pid={self._pid}")
        super().__init__(queue.options, self._engine.state, prefetch=prefetch, until_empty=until_empty)
        self._ringing = threading.Lock()
        self._closing = threading.Event()
        self._reaper = Reaper(queue, scan_steps=0)
        self._ticker = Ticker()
        self._closed = False
        try:
            self._noted(self._engine.trip(0))  # connects and registers; says now what is wrong
        except BaseException:
            self._engine.close()
            raise
        self._keeper = threading.Thread(target=self._keep, name="reliq-keeper", daemon=True)
        self._keeper.start()

    def claim(self, n: int = 1, *, timeout: float | None = None) -> list[Lease]:
        """Up to ``n`` messages, waiting at most ``timeout`` seconds (None: for ever) for the first."""
        deadline = until(timeout)
        while True:
            self._check()
            want = self._want(n)
            if want is not None:
                self._trip(want)
            messages = self._pop(n)
            left = None if deadline is None else deadline - clock()
            if messages or (left is not None and left <= 0):
                return [Lease(message, self, self._queue.options.retry) for message in messages]
            if not self._buffer:
                self._wait(left)

    def __iter__(self) -> Iterator[Lease]:
        return self

    def __next__(self) -> Lease:
        while not self._closing.is_set():
            leases = self.claim(1, timeout=0 if self._until_empty else None)
            if leases:
                return leases[0]
            if self._is_over():
                break
            self._closing.wait(self._again_in)
        raise StopIteration

    def _trip(self, want: int) -> None:
        """A trip whose messages go into the buffer. If Redis does not answer, a pause."""
        try:
            self._noted(self._engine.trip(want))
        except (Unavailable, OutcomeUnknown):
            self._failures += 1
            self._closing.wait(backoff(self._failures, most=self._options.lease / defaults.BACKOFF_SHARE))

    def _wait(self, left: float | None) -> None:
        """Sleep in BLMOVE until there may be something. One thread rings, the others wait for their turn."""
        seconds = self._wait_for(left)
        if self._leaves_some or seconds < 0.005:  # BLMOVE would take 0 for ever
            self._closing.wait(seconds)
        elif self._ringing.acquire(timeout=seconds):
            try:
                self._engine.ring(seconds)
            except (Unavailable, OutcomeUnknown):
                self._closing.wait(min(seconds, 0.05))
            except QueueFull:  # BLMOVE is refused while Redis is out of memory; trips are not
                self._closing.wait(min(seconds, 0.25))
            finally:
                self._ringing.release()

    def _ticks_due(self) -> None:
        self._ticker.fire(self._queue)

    def settle(self, settle: Settle) -> bool:
        """Have it done by a trip and wait for the answer; settles of several threads share trips."""
        self._check()
        self.state.finished.append(settle)
        deadline = time.monotonic() + self._queue.options.timeout
        while settle.accepted is None:
            self._trip(self._ahead(settle))
            if settle.accepted is None and time.monotonic() > deadline:
                raise self._unconfirmed(settle)
        return settle.accepted

    def _keep(self) -> None:
        """Renew the lease, repeat unanswered settles, reap when it is our turn; also while the user is busy."""
        while not self._closing.wait(self._pause()):
            try:
                if self._trip_due(self._engine.answered_at):
                    self._trip(0)
                if (order := self._taken_order()) is not None:
                    self._answer(order)
                duty = self._takes_duty()
                if duty:
                    report = self._reaper.on_duty(self._queue, duty)
                    self._reaped(report)
            except QueueHeld:  # the engine has told of it, once
                pass
            except ReliqError as error:
                log.error("queue %r: %s", self._queue.name, error)

    def _answer(self, order: Order) -> None:
        """Say from afar how this consumer is."""
        links, keys, name = self._queue.links, self._options.keys, self.state.name
        report = self._report(order, *timed(links))
        links.run(orders.answer(keys, name, order.number, report))

    def _check(self) -> None:
        if self._pid != os.getpid():
            raise self._inherited_error(self._pid)
        if self._closed:
            raise self._closed_error()

    def close(self) -> None:
        """Give back what was not settled, in order and uncounted, and say goodbye. Safe to repeat."""
        if self._closed or self._pid != os.getpid():
            return
        self._closing.set()
        if threading.current_thread() is not self._keeper:
            self._keeper.join()
        self._give_back()
        self._closed = True
        deadline = time.monotonic() + self._queue.options.timeout
        while (self.state.finished or self.state.unanswered) and time.monotonic() < deadline:
            try:
                self._engine.trip(0)
                self._give_back()  # the answer of an earlier trip may have brought more
            except QueueHeld:  # then there is nothing of ours
                break
            except ReliqError as error:
                log.warning("queue %r: closing: %s", self._queue.name, error)
                time.sleep(0.05)
        self._engine.leave(bell_ended=self._engine.end_bell())
        self._ticker.stop()

    def __enter__(self) -> Consumer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
