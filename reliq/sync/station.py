"""One queue of a worker process: its engine, its bell, and what its handlers say about messages."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from reliq.core.command import Command
from reliq.core.consumer import Answer
from reliq.core.message import Settle
from reliq.errors import ReliqError
from reliq.identity import clock
from reliq.routing import Handling
from reliq.sync.bell import Bell
from reliq.sync.engine import Engine, Rest
from reliq.sync.queue import Queue
from reliq.working import Stationed


class Station(Stationed):
    """Lives in the worker's loop; handler threads only call ``finish`` and ``settle``."""

    def __init__(self, index: int, handler: Handling, queue: Queue, who: str, wake: Callable[[], None]) -> None:
        self.engine = Engine(queue, who)
        self.engine.watch = handler.watch
        super().__init__(index, handler, queue.options, self.engine.state, wake)
        self.queue = queue
        self.bell = Bell(self.engine, self._ring)

    # -- the loop's side --------------------------------------------------------------------------------

    def trip(self, want: int, ahead: Callable[[], int]) -> Answer | None:
        """One trip; None if Redis does not answer, and then the next is due after a pause. ``ahead``: for how many
        the next one asks that is under way when this one's messages are looked into and handled; 0: there is none.
        """
        if not self.state.unanswered:  # else it was sent before, and does not know why the bell rang
            self._rang = False
        try:
            answer = self.engine.trip(want, look=False)
        except ReliqError:  # reported by the engine, once
            self.failed()
            return None
        self.noted(answer)
        if (want := ahead()) > 0:
            self.engine.begin(want)
        answer = answer._replace(messages=answer.messages + self.state.take_in())
        return self.engine.prepared(answer) if self.state.can_prepare else answer

    def arm(self) -> None:
        """Let the bell ring when there is something to claim, unless somebody waits for that already."""
        if (seconds := self.bell_for) is not None:
            self.bell.arm(seconds)

    def take_bell(self) -> bool:
        """Whether this thread may ``rest`` now: with nothing in hand, and nobody else at it."""
        self.resting = self.bell_for is not None and self.is_idle and self.bell.take()
        return self.resting

    def rest(self, want: int) -> Rest | None:
        """Wait for a message, with the next trip behind it."""
        renew_in = max(0.01, self.state.renew_in(clock()))
        return self.bell.rest(min(self.bell_for or renew_in, renew_in), want)

    def rested(self, rest: Rest | None) -> Answer | None:
        """The answer to that trip, or None; then the next one is due."""
        self.resting = False
        answer = None if rest is None else self.engine.rested(rest)
        if answer is None:
            self._rang = True
        else:
            self.noted(answer)
        if rest is None or rest.refused:  # then let the bell's own thread try, which knows how to wait
            self.arm()
        return answer

    def interrupt(self) -> None:
        """Let whoever rests come back, and do not rely on it."""
        if self.resting:
            self.resting = False
            self.engine.interrupt()

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

    def insist(self, command: Command) -> Any:
        """Run a command that its handler has to wait for."""
        return self.queue.links.insist(command)

    def close(self) -> bool:
        """End the bell and say goodbye; True if nothing of us is left in Redis."""
        return self.engine.leave(bell_ended=self.bell.stop())
