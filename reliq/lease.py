"""What a lease says about its message, and what becomes of it; the same in both shells."""

from __future__ import annotations

import time
import traceback
import warnings
from typing import Any

from reliq import context
from reliq.core import envelope as env
from reliq.core.consumer import ConsumerState, Message, Settle
from reliq.core.retry import Retry
from reliq.core.verdict import describe, judge, judge_anyway
from reliq.errors import LeaseLost
from reliq.logging import log
from reliq.model import clock


def settle_for(
    state: ConsumerState, message: Message, retry: Retry, error: BaseException | None, trace: str | None = None
) -> Settle:
    """The settle for a handler's outcome, by the policy: whatever it raised is a failed attempt."""
    try:
        if trace is None:
            trace = "" if error is None else "".join(traceback.format_exception(error))
        return judge(state, message, error, retry, age_of(message), trace)
    except Exception as failure:  # noqa: BLE001 - nothing may keep a message from being settled
        text = describe(failure)
        if error is not None:
            text = f"{describe(error)} (and to settle that raised {text})"
        log.exception("message %s is settled by the default policy: %s", message.id, text)
        return judge_anyway(state, message, text)


def report(error: BaseException, settle: Settle) -> None:
    """One record for a handler that failed, at the level of what becomes of the message."""
    if settle.verb == "bury":
        log.error("%s: %s (reliq dead ls finds it, with its traceback)", fate(settle), describe(error))
    elif settle.verb == "retry":
        log.warning("%s: %s", fate(settle), describe(error))


def fate(settle: Settle) -> str:
    """What becomes of a message whose handler failed, in words."""
    return "dead-lettered" if settle.verb == "bury" else f"back in {float(settle.detail) / 1000:.1f} s"


def age_of(message: Message) -> float:
    """Seconds since the put, as its id or its meta tells; 0 if neither does."""
    made = env.put_ms(message.envelope)
    return max(0.0, time.time() - made / 1000) if made is not None else 0.0


class Leased:
    """What a lease says about its message; the same in both shells."""

    _settled = True  # until it is made

    def __init__(self, message: Message, state: ConsumerState, retry: Retry) -> None:
        self._message = message
        self._state = state
        self._retry = retry
        self._token: Any = None
        self._settled = False
        message.minded = True  # last: an interrupted one minds nothing

    @property
    def body(self) -> Any:
        """The decoded body."""
        return self._message.body

    @property
    def id(self) -> str:
        """The message's id, 32 hex digits; what put returned."""
        return self._message.id

    @property
    def attempt(self) -> int:
        """Which attempt this is, from 1; deliveries that were lost or released do not count."""
        return self._message.envelope.attempt

    @property
    def deliveries(self) -> int:
        """How often the message was handed to a handler, this time included."""
        return self._message.envelope.deliveries

    @property
    def fence(self) -> int:
        """A number that only grows per message. Let a store of yours refuse writes with a smaller one."""
        return self._message.envelope.fence

    @property
    def trace_id(self) -> str:
        """32 hex digits: the trace id at the put, or the message's own id if there was none."""
        return self._message.trace_id

    @property
    def queue(self) -> str:
        """The name of the queue."""
        return self._state.keys.queue

    @property
    def lost(self) -> bool:
        """True once the lease is gone, or may be because Redis has not confirmed it for so long: another consumer
        has the message, or may get it at any moment. Stop working on it."""
        return self._message.lost or not self._state.lease_is_certain(clock())

    @property
    def settled(self) -> bool:
        """Whether it was acked, retried, released or buried here."""
        return self._settled

    def __repr__(self) -> str:
        return f"<Lease {self.id} queue={self.queue} attempt={self.attempt} fence={self.fence}>"

    def follow(self, retry: Retry) -> None:
        """Let another policy than the queue's decide when it fails: that of the handler that it is given to."""
        self._retry = retry

    def enter(self) -> None:
        """Let logs and puts from here on know which message they belong to."""
        self._token = context.enter(self._message)

    def leave(self) -> None:
        """End what enter() began."""
        if self._token is not None:
            context.leave(self._token)
            self._token = None

    def judge(self, error: BaseException | None) -> Settle:
        """The settle for a handler's outcome; see settle_for()."""
        return settle_for(self._state, self._message, self._retry, error)

    def verdict(self, error: BaseException | None) -> Settle:
        """The same for code that was interrupted from outside (KeyboardInterrupt, cancellation): a release."""
        if error is not None and not isinstance(error, Exception):
            return self._state.release(self._message)
        return self.judge(error)

    def again(self, delay: float | None, reason: str) -> Settle:
        """The settle for a retry that its handler asks for; without a delay the policy has its say."""
        if delay is not None:
            return self._state.retry(self._message, delay, reason)
        wait = self._retry.next_delay(self.attempt, RuntimeError(reason), age_of(self._message))
        if wait is None:
            return self._state.bury(self._message, "ATTEMPTS", reason, failed=1)
        return self._state.retry(self._message, wait, reason)

    def mark_settled(self) -> None:
        """Its settle is made by the worker's loop."""
        self._settled = True

    def _lost_error(self) -> LeaseLost:
        return LeaseLost(
            f"message {self.id} of queue {self.queue!r} is no longer ours (fence {self.fence}): the lease of "
            f"{self._state.lease} s ended and it was given to another consumer. What was done for it may be "
            "done twice; use lease.fence to guard your store."
        )

    def __del__(self) -> None:
        if not self._settled and not self._message.lost and self._drop():
            warnings.warn(
                f"{self!r} was dropped without being settled; it goes back. Use `with lease:` or lease.ack()",
                ResourceWarning,
                stacklevel=2,
            )

    def _drop(self) -> bool:
        """Give the message back if we still hold it; True if so."""
        if self._state.held.get(self._message.element) is not self._message:
            return False
        self._state.finished.append(self._state.release(self._message, handled=True))
        return True
