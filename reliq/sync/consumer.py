"""A claimer for code that wants to pull: ``for lease in consumer``."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING

from reliq.core.consumer import Answer, ConsumerState, Message, Settle
from reliq.core.retry import backoff
from reliq.errors import ConfigError, ConsumerClosed, OutcomeUnknown, Unavailable
from reliq.logging import log
from reliq.model import clock
from reliq.sync.engine import Engine
from reliq.sync.lease import Lease

if TYPE_CHECKING:
    from reliq.sync.queue import Queue


class Consumer:
    """Claims messages one by one (or ``prefetch`` at a time) and keeps their lease while it is open.

    A thread renews the lease, so a handler may take as long as it likes. Settling waits for Redis, and
    the same round trip brings the next messages. ``close`` (or leaving ``with``) gives back, in order,
    what was not settled. Threads may share a consumer; a forked child may not.
    """

    def __init__(self, queue: Queue, *, prefetch: int = 1, until_empty: bool = False) -> None:
        if not isinstance(prefetch, int) or prefetch < 1:
            raise ConfigError(f"consumer(prefetch={prefetch!r}): at least 1")
        self._queue = queue
        self._prefetch = prefetch
        self._until_empty = until_empty
        self._pid = os.getpid()
        self._engine = Engine(queue, who=f"pid={self._pid}")
        self.state: ConsumerState = self._engine.state
        self._buffer: deque[Message] = deque()
        self._closing = threading.Event()
        self._closed = False
        self._failures = 0
        self._due_in: float | None = None
        self._engine.trip(0)  # connects and registers; says now what is wrong
        self._keeper = threading.Thread(target=self._keep, name="reliq-keeper", daemon=True)
        self._keeper.start()

    @property
    def name(self) -> str:
        """This consumer's name, as ``reliq status`` shows it."""
        return self.state.name

    def claim(self, n: int = 1, *, timeout: float | None = None) -> list[Lease]:
        """Up to ``n`` messages, waiting at most ``timeout`` seconds (None: for ever) for the first."""
        deadline = None if timeout is None else clock() + timeout
        leases: list[Lease] = []
        while not leases:
            self._check()
            self._refill(n)
            while self._buffer and len(leases) < n:
                message = self._next_fresh()
                if message is not None:
                    leases.append(Lease(message, self, self._queue.options.retry))
            if not leases:
                left = None if deadline is None else deadline - clock()
                if left is not None and left <= 0:
                    break
                self._wait(left)
        return leases

    def __iter__(self) -> Iterator[Lease]:
        return self

    def __next__(self) -> Lease:
        while not self._closing.is_set():
            leases = self.claim(1, timeout=0 if self._until_empty else None)
            if leases:
                return leases[0]
            if self._until_empty and not self.state.suspects_wait:
                raise StopIteration
        raise StopIteration

    def _next_fresh(self) -> Message | None:
        """The next message, if the lease is certain enough to start on it; else a trip comes first."""
        if not self.state.fresh(clock()):
            self._trip(0)
        try:
            message = self._buffer.popleft()
        except IndexError:
            return None
        return None if message.lost else message

    def _refill(self, n: int) -> None:
        if not self._buffer:
            self._trip(max(n, self._prefetch))

    def _trip(self, want: int) -> Answer | None:
        """A trip whose messages go into the buffer. None if Redis does not answer (after a pause)."""
        try:
            answer = self._engine.trip(want)
        except (Unavailable, OutcomeUnknown):
            self._failures += 1
            self._closing.wait(backoff(self._failures))
            return None
        self._failures = 0
        self._buffer.extend(answer.messages)
        self._due_in = answer.due_in
        return answer

    def _wait(self, timeout: float | None) -> None:
        """Sleep in BLMOVE until there may be something, but not beyond what is due by itself."""
        limits = [self._queue.options.block]
        limits += [limit for limit in (timeout, self._due_in) if limit is not None]
        seconds = min(limits)
        if self.state.suspects_wait or self.state.held:
            seconds = min(seconds, 0.5)
        if seconds < 0.005:  # BLMOVE would take 0 for ever
            self._closing.wait(max(seconds, 0.001))
            return
        try:
            if self.state.suspects_wait:
                self._closing.wait(0.05)
            else:
                self._engine.ring(seconds)
        except (Unavailable, OutcomeUnknown):
            self._closing.wait(0.05)

    def settle(self, settle: Settle) -> bool:
        """Have it done by a trip and wait for the answer; settles of several threads share trips."""
        self._check()
        self.state.finished.append(settle)
        deadline = time.monotonic() + self._queue.options.timeout
        while settle.accepted is None:
            self._trip(0 if self._buffer or self._until_empty else self._ahead())
            if settle.accepted is None and time.monotonic() > deadline:
                raise OutcomeUnknown(
                    f"queue {self._queue.name!r}: {settle.verb} of message {settle.message.envelope.id.hex()} is "
                    "not confirmed yet: Redis does not answer. It is repeated until it does, or the lease ends.",
                    ids=[settle.message.envelope.id.hex()],
                )
        return settle.accepted

    def _ahead(self) -> int:
        """How many to claim along with a settle: what the settled ones leave free."""
        return max(0, self._prefetch - (len(self.state.held) - len(self.state.finished)))

    def _keep(self) -> None:
        """Renew the lease and repeat unanswered settles, also while the user's code is busy."""
        while not self._closing.wait(self._pause()):
            silent = clock() - self._engine.answered_at > 0.9
            busy = self.state.held or self.state.finished
            if (silent and busy) or self.state.renew_in(clock()) <= 0:
                self._trip(0)

    def _pause(self) -> float:
        busy = self.state.held or self.state.finished
        return 1.0 if busy else min(max(self.state.renew_in(clock()), 0.1), 1.0)

    def _check(self) -> None:
        if self._pid != os.getpid():
            raise ConsumerClosed(
                f"this consumer of queue {self._queue.name!r} belongs to process {self._pid}, the parent of this "
                "fork; open one here with queue.consumer()"
            )
        if self._closed:
            raise ConsumerClosed(f"this consumer of queue {self._queue.name!r} is closed; open a new one")

    def close(self) -> None:
        """Give back what was not settled, in order and uncounted, and say goodbye. Safe to repeat."""
        if self._closed or self._pid != os.getpid():
            return
        self._closing.set()
        if threading.current_thread() is not self._keeper:
            self._keeper.join()
        settling = {s.message.envelope.element for s in self.state.finished}
        for element, message in self.state.held.items():
            if element not in settling:
                self.state.finished.append(self.state.release(message))
        self._closed = True
        deadline = time.monotonic() + self._queue.options.timeout
        while (self.state.finished or self.state.unanswered) and time.monotonic() < deadline:
            try:
                self._engine.trip(0)
            except (Unavailable, OutcomeUnknown) as error:
                log.warning("queue %r: closing: %s", self._queue.name, error)
                time.sleep(0.05)
        self._engine.leave(bell_ended=self._engine.end_bell())

    def __enter__(self) -> Consumer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
