"""What a consumer that pulls decides: how much to claim, how long to wait, what to give back.

The same in both shells; no I/O and no waiting in here.
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from typing import Final

from reliq import defaults
from reliq.core.consumer import FIRE, Answer, ConsumerState
from reliq.core.message import RELEASE, Message, Settle
from reliq.core.orders import Order, Report
from reliq.core.reaping import ReapReport
from reliq.errors import ConfigError, ConsumerClosed, OutcomeUnknown, given
from reliq.identity import clock
from reliq.logging import log
from reliq.model import QueueOptions
from reliq.reporting import Orders, of_consumer

#: Seconds of silence after which a keeper makes a trip while anything is in hand.
_SILENCE: Final = 0.9
#: Seconds that claimed messages wait for somebody to ask for them while nobody handles anything.
_UNASKED: Final = 1.0


def until(timeout: float | None) -> float | None:
    """When a claim that waits for at most so many seconds ends, by our clock; None: never."""
    if timeout is None:
        return None
    if not isinstance(timeout, int | float):
        raise ConfigError(f"claim(timeout={given(timeout)}): seconds, or None: as long as it takes")
    return clock() + timeout


class Claiming:
    """The buffer of claimed messages between Redis and the user, and the decisions about it."""

    def __init__(self, options: QueueOptions, state: ConsumerState, *, prefetch: int, until_empty: bool) -> None:
        if not isinstance(prefetch, int) or prefetch < 1:
            raise ConfigError(f"consumer(prefetch={prefetch!r}): at least 1")
        self.state = state
        self._options = options
        self._prefetch = prefetch
        self._until_empty = until_empty
        self._buffer: deque[Message] = deque()
        self._unminded: dict[Message, float] = {}
        self._failures = 0
        self._orders = Orders()
        self._may_be_more = self._rests = False
        self._due_in: float | None = None
        self._duty = 0
        self._order = (b"", 0)
        self._noted_at = self._asked_at = clock()
        self._hold_until = 0.0

    @property
    def name(self) -> str:
        """This consumer's name, as ``reliq status`` shows it."""
        return self.state.name

    # -- claiming ---------------------------------------------------------------------------------------

    def _want(self, n: int) -> int | None:
        """How many to ask for before ``n`` can be handed over; None: no trip is needed first."""
        self._asked_at = clock()
        if not self._buffer:
            return 0 if self.state.preparing else max(n, self._prefetch)
        return None if self.state.fresh(self._asked_at) else 0

    def _noted(self, answer: Answer) -> None:
        self._failures = 0
        if answer.lost:  # what is left of the buffer must not look like messages to hand over
            for message in [message for message in self._buffer if message.lost]:
                with suppress(ValueError):  # another thread has it
                    self._buffer.remove(message)
        self._buffer.extend(answer.messages)
        for message in answer.called_off:
            with suppress(ValueError):  # it is in somebody's hands, whose lease says so
                self._buffer.remove(message)
                self.state.finished.append(self.state.release(message))
        self._due_in = answer.due_in
        # The answer to an older trip: that may have asked for nothing.
        self._may_be_more = answer.more or answer.rests or answer.status == "again"
        self._rests = answer.rests
        if answer.sweep == FIRE:
            self._ticks_due()
        else:
            self._duty = max(self._duty, answer.sweep)
        if answer.order:
            self._order = answer.order, answer.server_ms
        now = clock()
        if answer.messages:  # a large body may have taken its time
            self._asked_at = now
        if now - self._noted_at > self.state.lease / defaults.CUT_OFF_SHARE:
            self._hold_until = now + self.state.lease
        self._noted_at = now

    def _ticks_due(self) -> None:
        """Have them fired; not here: nobody's messages wait for that."""
        raise NotImplementedError

    def _pop(self, n: int) -> list[Message]:
        """Up to ``n`` messages to hand over now: none unless the lease is certain enough to start on them."""
        messages: list[Message] = []
        if not self.state.fresh(clock()):
            return messages
        while len(messages) < n:
            try:
                message = self._buffer.popleft()
            except IndexError:
                break
            if not (message.lost or self._has_expired(message)):
                messages.append(message)
        return messages

    def _has_expired(self, message: Message) -> bool:
        return message.known is not None and self.state.expired(message, clock())

    def _is_over(self) -> bool:
        """Whether ``until_empty`` may stop: Redis has just said that nothing is ready, no suspect waits, and the
        last trip brought nothing that is to be dead-lettered."""
        state = self.state
        if self._failures or self._buffer or self._may_be_more or state.suspects_wait:
            return False
        return self._until_empty and not (state.unanswered or state.finished or state.preparing)

    @property
    def _again_in(self) -> float:
        """Seconds after which ``until_empty`` asks again, if it may not stop."""
        if self._rests and self._due_in is not None:
            return min(max(self._due_in, 0.05), 1.0)
        return self.state.shut or 0.05

    def _wait_for(self, left: float | None) -> float:
        """Seconds to wait for a message, but not beyond what comes due by itself."""
        limits = [self._options.block, *(s for s in (left, self._due_in) if s is not None)]
        if self._leaves_some:
            limits.append(self.state.shut or 0.05)
        elif self.state.held:
            limits.append(0.5)
        return max(min(limits), 0.001)

    @property
    def _leaves_some(self) -> bool:
        """Whether messages may be ready that are not claimed here for now: a bell would ring on and on."""
        return self.state.suspects_wait or self.state.preparing or self.state.shut > 0

    # -- settling ---------------------------------------------------------------------------------------

    def _ahead(self, settle: Settle) -> int:
        """How many to claim along with a settle: what the settled ones leave free. None with a release:
        who gives a message back does not want it at once."""
        if self._buffer or settle.verb == RELEASE or self.state.preparing:
            return 0
        return max(0, self._prefetch - len(self.state.unsettled()))

    def _unconfirmed(self, settle: Settle) -> OutcomeUnknown:
        id = settle.message.id
        return OutcomeUnknown(
            f"queue {self._options.name!r}: {settle.verb} of message {id} is not confirmed yet: Redis does not "
            "answer. It is repeated until it does, or the lease ends.",
            ids=[id],
        )

    # -- keeping the lease ------------------------------------------------------------------------------

    def _pause(self) -> float:
        """Seconds until the keeper has to look again."""
        return 1.0 if self._busy else min(max(self.state.renew_in(clock()), 0.1), 1.0)

    @property
    def _busy(self) -> bool:
        return bool(self.state.held or self.state.finished or self.state.unanswered)

    def _trip_due(self, answered_at: float) -> bool:
        """Whether the keeper has to make a trip: to renew, or to repeat or make settles that nobody waits for."""
        self._return_unasked()
        self._return_unminded()
        now = clock()
        return (self._busy and now - answered_at > _SILENCE) or self.state.renew_in(now) <= 0

    def _takes_duty(self) -> int:
        """What the server has asked this consumer to reap, see Reaper.on_duty; it stands until it is done. Not
        yet after we were cut off: then others may not have been able to renew either, for one lease."""
        now = clock()
        silent = now - self._noted_at > self.state.lease / defaults.CUT_OFF_SHARE
        return self._duty if now > self._hold_until and not silent else 0

    def _taken_order(self) -> Order | None:
        """What somebody has asked this consumer from afar since, once."""
        (text, server_ms), self._order = self._order, (b"", 0)
        return self._orders.take(self.state.name, text, server_ms) if text else None

    def _report(self, order: Order, asked_at: float, at: int) -> Report:
        buffered = set(self._buffer)
        held = [message for message in self.state.unsettled() if message not in buffered]
        return of_consumer(held, len(buffered), order, asked_at=asked_at, at=at)

    def _reaped(self, report: ReapReport) -> None:
        self._duty = 0
        if report.waiting:  # the server would ask for them only half a minute later
            self._duty, self._hold_until = 2, clock() + self.state.lease
        if report.returned or report.buried or report.errors:
            log.warning("reaped: %s", report)

    def _return_unasked(self) -> bool:
        """Give back what was claimed ahead if nobody handles anything here and nobody asks for it; True if
        there was something."""
        idle = len(self.state.held) <= len(self._buffer) + len(self.state.finished)
        if not (self._buffer and idle and clock() - self._asked_at > _UNASKED):
            return False
        with suppress(IndexError):  # a thread that asks now may take the last one
            while True:
                self.state.finished.append(self.state.release(self._buffer.popleft()))
        return True

    def _return_unminded(self) -> None:
        """Give back what somebody was interrupted with (KeyboardInterrupt) between the claim and its lease: it is
        in nobody's hands, and we would renew for it until we are closed."""
        now, buffered = clock(), set(self._buffer)
        found = [m for m in list(self.state.held.values()) if not m.minded and m not in buffered]
        if self.state.preparing:  # who is yet to be prepared is in nobody's hands
            found = [m for m in found if not self.state.is_preparing(m)]
        self._unminded = {message: self._unminded.get(message, now) for message in found}
        for message, since in self._unminded.items():
            if now - since > _UNASKED / 2:
                self.state.finished.append(self.state.release(message))

    # -- closing ----------------------------------------------------------------------------------------

    def _give_back(self) -> None:
        """Have everything that is not settled released, uncounted, by the next trips."""
        self._buffer.clear()
        self.state.finished.extend([self.state.release(message) for message in self.state.unsettled()])

    def _closed_error(self) -> ConsumerClosed:
        return ConsumerClosed(f"this consumer of queue {self._options.name!r} is closed; open a new one")

    def _other_loop_error(self) -> ConsumerClosed:
        return ConsumerClosed(
            f"this consumer of queue {self._options.name!r} belongs to another event loop; open one here with "
            "queue.consumer()"
        )

    def _inherited_error(self, pid: int) -> ConsumerClosed:
        return ConsumerClosed(
            f"this consumer of queue {self._options.name!r} belongs to process {pid}, the parent of this fork; "
            "open one here with queue.consumer()"
        )
