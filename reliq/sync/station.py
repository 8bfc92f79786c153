"""One queue of a worker process: its engine, its handler, its bell, and when it is due for a trip."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from reliq.ack import Handler
from reliq.core.consumer import Answer, ConsumerState, Message, Settle
from reliq.core.retry import backoff
from reliq.errors import OutcomeUnknown, ReliqError
from reliq.model import clock
from reliq.sync.bell import Bell
from reliq.sync.engine import Engine
from reliq.sync.queue import Queue


class Station:
    """Lives in the worker's loop; handler threads only call ``finish`` and ``settle``."""

    def __init__(
        self, index: int, handler: Handler[..., Any], queue: Queue, who: str, wake: Callable[[], None]
    ) -> None:
        self.index = index
        self.handler = handler
        self.queue = queue
        self.engine = Engine(queue, who)
        self.state: ConsumerState = self.engine.state
        self.bell = Bell(self.engine, self._ring)
        self.wake = wake
        self._rang = False
        self._more = True
        self._due_at: float | None = None
        self._failures = 0
        self._again_at = 0.0

    # -- the loop's side --------------------------------------------------------------------------------

    @property
    def in_hand(self) -> int:
        """Messages claimed and not yet finished by a handler."""
        return max(0, len(self.state.held) - len(self.state.finished))

    def due_in(self, now: float, *, free: bool) -> float:
        """Seconds until this station needs a trip (0: now); ``free``: there are slots to claim for."""
        state = self.state
        waits = [state.renew_in(now)]
        if self._rang or state.finished or state.unanswered or (free and self._more):
            waits.append(0.0)
        if state.held:
            waits.append(self.engine.answered_at + 1.0 - now)
        if self._due_at is not None and free:
            waits.append(self._due_at - now)
        return max(0.0, min(waits), self._again_at - now)

    def trip(self, want: int) -> Answer | None:
        """One trip; None if Redis does not answer, and then the next is due after a pause."""
        self._rang = False
        try:
            answer = self.engine.trip(want)
        except ReliqError:
            self._failures += 1
            self._again_at = clock() + backoff(self._failures)
            return None
        self._failures, self._again_at = 0, 0.0
        self._due_at = None if answer.due_in is None else clock() + answer.due_in
        waiting = self.state.suspects_wait
        self._more = 0 < want <= len(answer.messages) or (waiting and not self.state.held)
        if waiting and self.state.held:
            self._due_at = clock() + 0.25
        if want > 0 and not self._more and not waiting:
            self.bell.arm(self._until_due())
        return answer

    def _until_due(self) -> float:
        """How long to wait for the bell: BLMOVE takes 0 as for ever, so never less than 10 ms."""
        block = self.queue.options.block
        return block if self._due_at is None else min(block, max(0.01, self._due_at - clock()))

    def _ring(self) -> None:
        self._rang = True
        self.wake()

    # -- the handlers' side -----------------------------------------------------------------------------

    def finish(self, settle: Settle) -> None:
        """Have it done by the next trip; nobody waits."""
        self.state.finished.append(settle)
        self.wake()

    def settle(self, settle: Settle) -> bool:
        """Have it done by the next trip and wait: False if it was refused as too late."""
        done = threading.Event()
        settle.on_settled = lambda _: done.set()
        self.finish(settle)
        if not done.wait(self.queue.options.timeout) or settle.accepted is None:
            raise OutcomeUnknown(
                f"queue {self.queue.name!r}: {settle.verb} of message {settle.message.envelope.id.hex()} is not "
                "confirmed yet: Redis does not answer. It is repeated until it does, or the lease ends."
            )
        return settle.accepted

    def release(self, message: Message) -> None:
        """Put back what no handler has seen."""
        self.state.finished.append(self.state.release(message))

    def close(self) -> bool:
        """End the bell and say goodbye; True if nothing of us is left in Redis."""
        return self.engine.leave(bell_ended=self.bell.stop())
