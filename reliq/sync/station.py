"""One queue of a worker process: its engine, its bell, and what its handlers say about messages."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from reliq.ack import Handler
from reliq.core.consumer import Answer, Settle
from reliq.errors import ReliqError
from reliq.sync.bell import Bell
from reliq.sync.engine import Engine
from reliq.sync.queue import Queue
from reliq.working import Stationed


class Station(Stationed):
    """Lives in the worker's loop; handler threads only call ``finish`` and ``settle``."""

    def __init__(
        self, index: int, handler: Handler[..., Any], queue: Queue, who: str, wake: Callable[[], None]
    ) -> None:
        self.engine = Engine(queue, who)
        super().__init__(index, handler, queue.options, self.engine.state, wake)
        self.queue = queue
        self.bell = Bell(self.engine, self._ring)

    # -- the loop's side --------------------------------------------------------------------------------

    def trip(self, want: int) -> Answer | None:
        """One trip; None if Redis does not answer, and then the next is due after a pause."""
        if not self.state.unanswered:  # else it was sent before, and does not know why the bell rang
            self._rang = False
        try:
            answer = self.engine.trip(want)
        except ReliqError:  # reported by the engine, once
            self.failed()
            return None
        seconds = self.noted(answer)
        if seconds is not None:
            self.bell.arm(seconds)
        return answer

    def begin(self, want: int) -> None:
        """Have the next trip under way while handlers work; ``trip`` takes its answer."""
        self.engine.begin(want)

    def _ring(self) -> None:
        self._rang = True
        self.wake()

    # -- the handlers' side -----------------------------------------------------------------------------

    def settle(self, settle: Settle) -> bool:
        """Have it done by the next trip and wait: False if it was refused as too late."""
        done = threading.Event()
        settle.on_settled = lambda _: done.set()
        self.finish(settle)
        if not done.wait(self.queue.options.timeout) or settle.accepted is None:
            raise self._unconfirmed(settle)
        return settle.accepted

    def close(self) -> bool:
        """End the bell and say goodbye; True if nothing of us is left in Redis."""
        return self.engine.leave(bell_ended=self.bell.stop())
