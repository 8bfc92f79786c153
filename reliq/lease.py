"""What a lease says about its message, and what becomes of it; the same in both shells."""

from __future__ import annotations

import logging
import time
import traceback
import warnings
from datetime import datetime, timezone
from typing import Any

from reliq import context
from reliq.core import envelope as env
from reliq.core import results
from reliq.core.consumer import ConsumerState
from reliq.core.expiry import deadline_of
from reliq.core.failure import Failure
from reliq.core.message import BURY, Message, Settle
from reliq.core.retry import POLICY_KEY, Retry
from reliq.core.verdict import describe, judge, judge_anyway
from reliq.core.words import duration
from reliq.errors import ConfigError, LeaseLost, Release, given
from reliq.hooks import open_to
from reliq.identity import clock
from reliq.logging import bodies, log


def settle_for(
    state: ConsumerState, message: Message, retry: Retry, error: BaseException | None, trace: str | None = None
) -> Settle:
    """The settle for a handler's outcome, by the policy: whatever it raised is a failed attempt. What was
    cancelled meanwhile ends, whatever it raised, and no hook hears of it."""
    if error is not None and message in state.called_off:
        log.info("message %s was cancelled, and its handler has ended: %s", message.id, describe(error))
        return state.release(message, handled=True)
    try:
        if trace is None:
            trace = "" if error is None else "".join(traceback.format_exception(error))
        settle = judge(state, message, error, retry, age_of(message), trace)
    except Exception as failure:  # noqa: BLE001 - nothing may keep a message from being settled
        text = describe(failure)
        if error is not None:
            text = f"{describe(error)} (and to settle that raised {text})"
        log.exception("message %s is settled by the default policy: %s", message.id, text)
        return judge_anyway(state, message, text)
    if error is not None and (retry.on_retry or retry.on_dead) and not isinstance(error, Release):
        _tell(retry, message, settle, error)
    return settle


def done(state: ConsumerState, message: Message, value: Any, mark: str = "") -> Settle:
    """The settle of a message whose handler is through, and has returned this. ``mark``: see ``Settling.ack``."""
    if not (mark or state.results.are_asked(message)):
        return state.ack(message)
    answer = results.answer(value)
    if (why := results.why_lost(answer)) is not None and state.results.are_asked(message):
        log.warning("message %s is done, but its result cannot be kept: %s", message.id, why)
    return state.ack(message, answer, mark)


def _tell(retry: Retry, message: Message, settle: Settle, error: BaseException) -> None:
    """Call the hook of the policy for what becomes of a failed message; what it raises changes nothing."""
    dead, e = settle.verb == BURY, message.envelope
    hook = retry.on_dead if dead else retry.on_retry
    if hook is None:
        return
    delay, cause = (None, str(settle.detail)) if dead else (float(settle.detail) / 1000, "")
    failure = Failure(
        message.queue, message.id, message.body, error, e.attempt, e.deliveries, e.lost, delay, cause
    )
    try:
        hook(failure)
    except Exception as raised:  # noqa: BLE001 - nothing may keep a message from being settled
        which = "on_dead" if dead else "on_retry"
        log.exception("message %s: %s raised %s; it is settled all the same", message.id, which, describe(raised))


def report(error: BaseException, settle: Settle) -> None:
    """One record for a handler that failed, at the level of what becomes of the message."""
    if settle.verb == "bury":
        log.error("%s: %s (reliq dead ls finds it, with its traceback)", fate(settle), describe(error))
    elif settle.verb == "retry":
        log.warning("%s: %s", fate(settle), describe(error))
    if bodies.isEnabledFor(logging.DEBUG):
        bodies.debug("its body: %.2000r", settle.message.body)


def fate(settle: Settle) -> str:
    """What becomes of a message whose handler failed, in words."""
    return "dead-lettered" if settle.verb == "bury" else f"back in {duration(float(settle.detail))}"


def age_of(message: Message) -> float:
    """Seconds since the put, as its id or its meta tells; 0 if neither does."""
    made = env.put_ms(message.envelope)
    return max(0.0, time.time() - made / 1000) if made is not None else 0.0


def _tick_of(message: Message) -> tuple[str, int] | None:
    from reliq.core.schedule import tick_of  # most messages are of none, and nobody asks

    return tick_of(message.envelope.meta)


@open_to(enter="enter", leave="leave")
class Leased:
    """What a lease says about its message; the same in both shells."""

    _settled = True  # until it is made

    def __init__(self, message: Message, state: ConsumerState, retry: Retry) -> None:
        self._message = message
        self._state = state
        self._retry = retry
        self._token: Any = None
        self._result: Any = None
        #: Ms and key of what says that its idempotency key is done, once it is acked.
        self._mark = ""
        self._settled = False
        self._since = clock()
        if message.traced:
            message.handed_over(clock)
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
    def headers(self) -> dict[str, str]:
        """The texts that ``put(headers=)`` wrote beside the body, by name."""
        return self._message.headers

    @property
    def type(self) -> str | None:
        """Its type, as ``put(type=)`` or the queue's ``route`` says; None: it has none."""
        return self._message.type

    @property
    def queue(self) -> str:
        """The name of the queue."""
        return self._state.keys.queue

    @property
    def schedule(self) -> str | None:
        """The name of the schedule that put it; None if it was put by a program."""
        found = _tick_of(self._message)
        return found and found[0]

    @property
    def tick(self) -> datetime | None:
        """The time of the schedule (UTC) that this message is for; None if it was put by a program. A handler that
        reckons with this, and not with the clock, does the same whenever it runs."""
        found = _tick_of(self._message)
        return found and datetime.fromtimestamp(found[1] / 1000, timezone.utc)

    @property
    def remaining(self) -> float | None:
        """Seconds until its time is over: that of its handler (``timeout=``), or of the message (``expires=``),
        whichever comes first; not below 0; None: it has as long as it takes. A thread cannot be interrupted, so a
        handler of long work looks here, and at ``cancelled`` and ``lost``."""
        owner, left = self._state.owner, []
        timeout = None if owner is None else owner.handler_of(self._message).timeout
        if timeout is not None:
            left.append(self._since + timeout - clock())
        if (deadline := deadline_of(self._message.envelope.meta)) is not None:
            left.append(deadline / 1000 - time.time())
        return max(0.0, min(left)) if left else None

    @property
    def lost(self) -> bool:
        """True once the lease is gone, or may be because Redis has not confirmed it for so long: another consumer
        has the message, or may get it at any moment. Stop working on it."""
        return self._message.lost or not self._state.lease_is_certain(clock())

    @property
    def cancelled(self) -> bool:
        """True once somebody has cancelled the message (``Queue.cancel``), within a second. Stop working on it:
        whatever is raised, or said of it, from here on ends it; only an ack (to return) says that it is done."""
        return self._message in self._state.called_off

    @property
    def settled(self) -> bool:
        """Whether it was acked, retried, released or buried here."""
        return self._settled

    def __repr__(self) -> str:
        return f"<Lease {self.id} queue={self.queue} attempt={self.attempt} fence={self.fence}>"

    def follow(self, retry: Retry) -> None:
        """Let another policy than the queue's decide when it fails: that of the handler that it is given to."""
        self._retry = retry

    def _done(self, value: Any) -> Settle:
        """The settle of an ack, with what its handler returned."""
        return done(self._state, self._message, value, self._mark)

    def returned(self, value: Any) -> Settle | Message:
        """The same, as a worker's loop takes it, which need not hear of a plain one."""
        if self._mark or self._state.results.are_asked(self._message):
            return self._done(value)
        if self._message.traced:
            self._message.done()
        return self._message

    def answer(self, value: Any) -> None:
        """What becomes the result when it is acked, if its put asked for one."""
        self._result = value

    def progress(self, value: Any) -> None:
        """Say how far it is: a number, a text, a small map. The last one goes with the next round trip, at most
        a second later while a worker handles it, costs none of its own, and stands for an hour, or as long as its
        result is kept: ``queue.progress(id)`` and ``explain`` show it. BodyError, BodyTooLarge (4 kB)."""
        if not self._settled:
            self._state.results.report(self._message, results.report(value))

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
        if error is None:
            return self._done(self._result)
        return settle_for(self._state, self._message, self._retry, error)

    def verdict(self, error: BaseException | None) -> Settle:
        """The same for code that was interrupted from outside (KeyboardInterrupt, cancellation): a release."""
        if error is not None and not isinstance(error, Exception):
            return self._state.release(self._message)
        return self.judge(error)

    def again(self, delay: float | None, reason: str) -> Settle:
        """The settle for a retry that its handler asks for; without a delay the policy has its say."""
        if delay is not None:
            if not isinstance(delay, int | float):
                raise ConfigError(f"retry(delay={given(delay)}): seconds, or None: as the policy says")
            return self._state.retry(self._message, delay, reason)
        policy = self._retry.of_message(self._message.envelope.meta.get(POLICY_KEY))
        decided = policy.for_any_error().decide(self.attempt, RuntimeError(reason), age_of(self._message))
        if isinstance(decided, str):
            return self._state.bury(self._message, decided, reason, failed=1)
        return self._state.retry(self._message, decided, reason)

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
