"""What the holder of a queue decides (the exclusive mode): what to do next, and what becomes of a batch.

The same in both shells; no I/O and no waiting in here.
"""

from __future__ import annotations

import math
import time
import traceback
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple

from reliq import defaults
from reliq.core import envelope as env
from reliq.core.command import Command
from reliq.core.exclusive import (
    ACK,
    RELEASE,
    RETRY,
    RETURN,
    Doubt,
    Found,
    Hold,
    Item,
    Seized,
    Settled,
    Taken,
)
from reliq.core.failure import Failure
from reliq.core.reaping import Patience
from reliq.core.retry import POLICY_KEY, Retry
from reliq.core.verdict import describe
from reliq.errors import (
    Bury,
    ConfigError,
    ConsumerClosed,
    DecodeError,
    LeaseLost,
    OutcomeUnknown,
    QueueHeld,
    Release,
    ReliqError,
    RetryAfter,
    given,
)
from reliq.identity import clock, consumer_name
from reliq.logging import log
from reliq.model import QueueOptions

#: The longest pause between two tries to get the lock, seconds.
_ASK_AGAIN: Final = 1.0


class Pause(NamedTuple):
    """Do nothing for so many seconds."""

    seconds: float


class Ring(NamedTuple):
    """Wait until there is a message, for so many seconds at most."""

    seconds: float


class Fetch(NamedTuple):
    """Get the body of a message, which lies beside the list."""

    taken: Taken
    item: Item


class Begin(NamedTuple):
    """Have unique messages begun, as comes before they are handed over."""

    taken: Taken
    items: list[Item]


class Simple(NamedTuple):
    """A step that needs no word more."""

    name: str


CALL: Final = Simple("make the next numbered call")
RENEW: Final = Simple("renew the lease before anything is handed over")
OVER: Final = Simple("there is nothing more to do")

Step = Pause | Ring | Fetch | Begin | Simple | Taken


class Verdict(NamedTuple):
    """What becomes of a batch: how it is settled, what is in doubt from then on, after which pause the next one
    comes, and how many failures of a message are counted."""

    verb: str
    doubt: Doubt
    delay: float = 0.0
    most_failed: int = 0


def judge(taken: Taken, error: BaseException | None, retry: Retry, doubt: Doubt) -> Verdict:
    """The verdict on a batch whose handler returned (``error`` is None) or raised.

    It comes again as it was while the policy gives attempts to the message that had the fewest; then in halves.
    One that fails alone, and has no attempts left, is doomed.
    """
    count = len(taken.elements)
    if error is None:
        return Verdict(ACK, doubt.cleared(count))
    if not isinstance(error, Exception):
        return Verdict(RETURN, doubt)
    if isinstance(error, Release):
        return Verdict(RELEASE, doubt.again(count), defaults.RELEASE_DELAY)
    alone = taken.items[0] if len(taken.items) == 1 else None
    policy = retry if alone is None else retry.of_message(alone.envelope.meta.get(POLICY_KEY))
    decided = _decide(policy, min(item.attempt for item in taken.items), error, _age(taken))
    if not isinstance(decided, str):
        return Verdict(RETRY, doubt.again(count), decided, policy.attempts - 1)
    if alone is None:
        first = replace(policy, attempts=max(2, policy.attempts), stop=None, max_age=None)
        pause = _decide(replace(first, retry_on=None, give_up_on=None), 1, RuntimeError(), 0.0)
        return Verdict(RETRY, Doubt.of(count), pause if isinstance(pause, float) else 0.0, policy.attempts - 1)
    text = describe(error)
    if isinstance(error, Bury | DecodeError):
        text = str(error) or "buried by its handler"
    alone.fail(decided, text, "".join(traceback.format_exception(error)))
    return Verdict(ACK, doubt.cleared(count))


def _decide(policy: Retry, attempt: int, error: Exception, age: float) -> float | str:
    """Seconds until the next attempt, or the cause to give up for. The policy is the user's code, like the
    handler; if it fails, the default one has its say."""
    if isinstance(error, Bury | DecodeError):
        return error.code
    try:
        after = max(0.0, float(error.seconds)) if isinstance(error, RetryAfter) else None
        decided = policy.decide(attempt, error, age, after)
        if decided == math.inf:
            raise OverflowError("a wait without end")
        return decided
    except Exception as broken:  # noqa: BLE001 - nothing may keep a batch from being settled
        log.error("the retry policy raised %s; the default one decides", describe(broken))
        return Retry().decide(attempt, error, age)


def _tell(retry: Retry, queue: str, taken: Taken, error: Exception, verdict: Verdict) -> None:
    """Call the hook of the policy for each message that failed; what it raises changes nothing."""
    dead = verdict.verb == ACK
    hook = retry.on_dead if dead else retry.on_retry
    for item in taken.items if hook is not None else ():
        counts = (item.attempt, item.deliveries, item.losses)
        delay, cause = (None, item.cause) if dead else (verdict.delay, "")
        failure = Failure(queue, item.id, item.body, error, *counts, delay, cause)
        try:
            assert hook is not None
            hook(failure)
        except Exception as raised:  # noqa: BLE001 - nothing may keep a batch from being settled
            log.exception("message %s: the hook of its policy raised %s", item.id, describe(raised))


def _age(taken: Taken) -> float:
    """Seconds since the put of its oldest message, as far as they tell; 0 if none does."""
    made = [ms for item in taken.items if (ms := env.put_ms(item.envelope)) is not None]
    return max(0.0, time.time() - min(made) / 1000) if made else 0.0


class Held:
    """What a batch says about itself; the same in both shells."""

    _settled = True  # until it is made

    def __init__(self, taken: Taken, holding: Holding) -> None:
        self._taken = taken
        self._holding = holding
        self._settled = False

    @property
    def messages(self) -> list[Item]:
        """Its messages, in order: .body .id .type .attempt .deliveries .losses .fence .trace_id, .bury(reason)."""
        return self._taken.items

    @property
    def bodies(self) -> list[Any]:
        """The decoded bodies, in order."""
        return [item.body for item in self._taken.items]

    @property
    def number(self) -> int:
        """Which batch of this holder this is, from 1."""
        return self._taken.number

    @property
    def fence(self) -> int:
        """A number that grows with every batch of the queue, whoever holds it. Let a store of yours refuse writes
        with a smaller one: they come from a holder that was replaced."""
        return self._taken.fence

    @property
    def attempt(self) -> int:
        """Which attempt this is, from 1: that of the message which had the fewest."""
        return min(item.attempt for item in self._taken.items)

    @property
    def queue(self) -> str:
        """The name of the queue."""
        return self._holding.state.keys.queue

    @property
    def lost(self) -> bool:
        """True once the lock is gone, or may be because Redis has not confirmed it for so long: somebody else has
        the queue, or may get it at any moment. Stop working on it."""
        return self._holding.lost

    @property
    def settled(self) -> bool:
        """Whether it was acked, or was left in its place, here."""
        return self._settled

    def __len__(self) -> int:
        return len(self._taken.items)

    def __repr__(self) -> str:
        return f"<Batch {self.number} of queue {self.queue!r}, {len(self)} messages, fence {self.fence}>"

    def _verdict(self, error: BaseException | None, *, is_asked: bool = False) -> Verdict:
        """``is_asked``: its handler asks for another attempt, whatever the policy says of such an error."""
        policy = self._holding.retry.for_any_error() if is_asked else self._holding.retry
        verdict = judge(self._taken, error, policy, self._holding.state.doubt)
        if isinstance(error, Exception):
            self._report(error, verdict)
            if not isinstance(error, Release):
                _tell(self._holding.retry, self.queue, self._taken, error, verdict)
        return verdict

    def _again(self, delay: float | None, reason: str) -> Verdict:
        error = RuntimeError(reason) if delay is None else RetryAfter(delay, reason)
        return self._verdict(error, is_asked=True)

    def _returned(self) -> Verdict:
        return Verdict(RETURN, self._holding.state.doubt)

    def _report_late(self, error: Exception) -> None:
        log.error("%r: failed after it was settled: %s", self, describe(error), exc_info=error)

    def _report(self, error: Exception, verdict: Verdict) -> None:
        """One record for a batch that failed, at the level of what becomes of it."""
        if verdict.verb == ACK:
            log.error("message %s failed alone: dead-lettered: %s", self.messages[0].id, describe(error))
            return
        size = verdict.doubt.size
        comes = f"{size} of them" if size < len(self._taken.elements) else "the same"
        log.warning("%r failed; %s again in %.1f s: %s", self, comes, verdict.delay, describe(error))

    def __del__(self) -> None:
        if not self._settled and self._holding.drop(self._taken):
            warnings.warn(
                f"{self!r} was dropped without being settled; it comes again. Use `with batch:` or batch.ack()",
                ResourceWarning,
                stacklevel=2,
            )


class Holding:
    """What a holder knows, and the decision about the next step."""

    def __init__(
        self, options: QueueOptions, who: str, *, batch: int, until_empty: bool, wait: float | None
    ) -> None:
        most = defaults.SCRIPT_ELEMENTS
        if isinstance(batch, bool) or not isinstance(batch, int) or not 1 <= batch <= most:
            raise ConfigError(
                f"exclusive(batch={batch!r}): 1 to {most:,} messages, which one script call may take"
            )
        if wait is not None and (isinstance(wait, bool) or not isinstance(wait, int | float) or wait < 0):
            raise ConfigError(f"exclusive(wait={given(wait)}): seconds to wait for the queue, or None: for ever")
        self.state = Hold(
            options.keys,
            consumer_name(),
            lease=options.lease,
            codec=options.codec,
            raw_codec=options.raw_codec,
            max_losses=options.max_losses,
            who=f"{who} exclusive",
        )
        self.state.route = options.route
        self.retry = options.retry
        self._options = options
        self._most, self._until_empty, self._patient_for = batch, until_empty, wait
        self._patience = Patience(options.lease, clock)
        self._ready, self._due_in, self._is_empty = 0, None, False  # type: tuple[int, float | None, bool]
        self._handed: Taken | None = None
        self._owed: tuple[Taken, Verdict] | None = None
        self._last: tuple[Taken, bool] | None = None
        self._moved = False
        self._not_before = 0.0
        self._failures = 0
        self._down = False
        self._renewal_failures = 0

    @property
    def name(self) -> str:
        """This holder's name, as ``reliq status`` shows it."""
        return self.state.name

    @property
    def lost(self) -> bool:
        """True once the lock is gone, or may be because Redis has not confirmed it for so long."""
        return not self.state.lease_is_certain(clock())

    # -- getting the lock -------------------------------------------------------------------------------

    def _refused(self, seized: Seized, until: float | None) -> float:
        """It is not ours yet: seconds to wait before the next try, or QueueHeld if there is no time left."""
        left = None if until is None else until - clock()
        if left is not None and left <= 0:
            raise self._held_error(seized)
        again = min(_ASK_AGAIN, max(0.05, seized.left_ms / 1000 or _ASK_AGAIN / 5))
        return again if left is None else min(again, left)

    def _held_error(self, seized: Seized) -> QueueHeld:
        who, left = ", ".join(seized.names), seized.left_ms / 1000
        if seized.status == "busy":
            what = f"{who} live at it or hold messages of it. End those consumers"
        elif seized.status == "held":
            what = f"{who} holds it, and has {left:.1f} s left of its lease. End that holder"
        else:
            what = f"{who} held it; its lease is over, and is given up in about {left:.0f} s. Wait so long"
        return QueueHeld(
            f"queue {self._options.name!r} cannot be held exclusively: {what}, or pass wait= (None: for ever)",
            names=seized.names,
            left=left,
        )

    # -- the next step ----------------------------------------------------------------------------------

    def _step(self) -> Step:
        """What to do until the next batch can be handed over, which is the last step. Raises LeaseLost."""
        state = self.state
        if state.lost:
            raise self._lost_error()
        if state.unanswered is not None or self._owed is not None:
            return CALL
        if state.in_hand is not None:
            return self._step_to(state.in_hand)
        if (left := self._not_before - clock()) > 0:
            return Pause(left)
        if not self._is_empty:
            return CALL
        self._is_empty = False
        if self._until_empty:
            return OVER
        block, due = self._options.block, self._due_in
        return Ring(max(0.005, block if due is None else min(block, due)))

    def _step_to(self, taken: Taken) -> Step:
        """The same with a batch in hand."""
        if taken is self._handed:
            raise ConfigError(
                f"batch {taken.number} of queue {self._options.name!r} is not settled, and the next one is behind "
                "it: use `with batch:`, or call batch.ack(), before you ask for another"
            )
        if self._moved:  # it may hold messages that were handed over before: their fences have to grow
            self._moved = False
            self._owe(taken, Verdict(RETURN, self.state.doubt))
            return CALL
        if unbegun := taken.unbegun:
            return Begin(taken, unbegun)
        item = next(taken.unfetched, None)
        if item is not None:
            return Fetch(taken, item)
        if not taken.items:
            self._owe(taken, judge(taken, None, self.retry, self.state.doubt))
            return CALL
        return taken if self.state.fresh(clock()) else RENEW

    def _hand_over(self, taken: Taken) -> Taken:
        self._handed = taken
        return taken

    def _owe(self, taken: Taken, verdict: Verdict) -> None:
        """Have a batch settled by the next call."""
        self._owed = taken, verdict

    def _next_call(self) -> Command:
        """The call that is unanswered, or a new one: what is owed comes before what is wanted."""
        if self.state.unanswered is not None:
            return self.state.unanswered
        if self._owed is None:
            return self.state.read(self._most)
        taken, verdict = self._owed
        ms = round(verdict.delay * 1000)
        command = self.state.settle(taken, verdict.verb, verdict.doubt, most_failed=verdict.most_failed, detail=ms)
        self._not_before = clock() + verdict.delay
        self._owed = None
        return command

    def _take(self, reply: list[Any], sent_at: float) -> None:
        """Digest the answer to a call that was sent then."""
        answer = self.state.answered(reply, sent_at)
        self._failures = 0
        self._note_up()
        if answer is None:
            log.error("%s", self._lost_error())
        elif isinstance(answer, Found):
            self._ready, self._due_in = answer.ready, answer.due_in
            self._is_empty = not answer.taken.elements and answer.ready == 0
            if answer.ready < 0:
                self._not_before = clock() + defaults.PAUSE_LOOK
        else:
            self._noted(answer)

    def _noted(self, settled: Settled) -> None:
        taken = settled.taken
        self._last = taken, settled.done
        if not settled.done:
            self._moved = True
            log.warning(
                "queue %r: the right end is not what batch %d was (%d messages): somebody has pushed or taken "
                "there. Nothing was removed; what is still there comes again",
                self._options.name, taken.number, len(taken.elements),
            )  # fmt: skip
        elif settled.verb == ACK:
            self._report_doomed([item for item in taken.doomed if item.cause])

    def _report_doomed(self, doomed: Sequence[Item]) -> None:
        """What cannot be read never reaches a handler, so nobody else tells of it. One line per batch."""
        if doomed:
            log.error(
                "queue %r: %d message(s) dead-lettered unread, the first: %s (%s); see reliq dead ls",
                self._options.name, len(doomed), doomed[0].error, doomed[0].cause,
            )  # fmt: skip

    # -- settling ---------------------------------------------------------------------------------------

    def _outcome(self, taken: Taken) -> bool | None:
        """What became of a batch: settled, or left as it is; None: not known yet."""
        if self._last is not None and self._last[0] is taken:
            return self._last[1]
        if self.state.lost:
            raise self._lost_error()
        return None

    def drop(self, taken: Taken) -> bool:
        """Leave a batch in its place that nobody has settled; True if it was in hand."""
        if self.state.in_hand is not taken or self._owed is not None or self.state.unanswered is not None:
            return False
        self._owe(taken, Verdict(RETURN, self.state.doubt))
        return True

    def _all_settled(self) -> bool:
        """Whether nothing is in hand any more; what still is will be left in its place by the next calls."""
        state = self.state
        if state.lost:
            return True
        if state.unanswered is None and self._owed is None and state.in_hand is not None:
            self._owe(state.in_hand, Verdict(RETURN, state.doubt))
        return state.unanswered is None and self._owed is None

    # -- the lease --------------------------------------------------------------------------------------

    def _pause(self) -> float:
        """Seconds until the keeper has to renew."""
        if self._renewal_failures:
            most = self.state.lease / defaults.BACKOFF_SHARE
            return min(most, 0.05 * 2.0 ** min(self._renewal_failures, 10))
        return self.state.lease / defaults.RENEW_SHARE

    def _renewed(self, answer: int, sent_at: float) -> None:
        self._renewal_failures = 0
        self._note_up()
        if answer:
            self.state.confirmed(sent_at)
        elif not self.state.lost:
            self.state.lost = True
            log.error("%s", self._lost_error())

    def _not_renewed(self, error: ReliqError) -> None:
        self._renewal_failures += 1
        self._note_down(error)

    def _note_down(self, error: ReliqError) -> None:
        """One line when the connection goes, one when it is back; not one per try."""
        if not self._down:
            self._down = True
            text = str(error).removeprefix(f"queue {self._options.name!r}: ")
            log.error("queue %r: %s Trying again until it answers.", self._options.name, text)

    def _note_up(self) -> None:
        if self._down:
            self._down = False
            log.warning("queue %r: Redis answers again", self._options.name)

    # -- errors -----------------------------------------------------------------------------------------

    def _lost_error(self) -> LeaseLost:
        return LeaseLost(
            f"queue {self._options.name!r} is no longer held by {self.name}: its lease of {self.state.lease} s "
            "ended and somebody else took it. What was done for the batch in hand may be done twice; let your "
            "store refuse a smaller batch.fence"
        )

    def _unconfirmed(self, taken: Taken) -> OutcomeUnknown:
        return OutcomeUnknown(
            f"queue {self._options.name!r}: what was said of batch {taken.number} is not confirmed yet: Redis does"
            " not answer. It is repeated with the next call, until it does or the lease ends.",
            ids=[item.id for item in taken.items],
        )

    def _closed_error(self) -> ConsumerClosed:
        return ConsumerClosed(
            f"this exclusive holder of queue {self._options.name!r} is closed; open one with queue.exclusive()"
        )

    def _foreign_error(self, whose: str) -> ConsumerClosed:
        return ConsumerClosed(
            f"this exclusive holder of queue {self._options.name!r} belongs to {whose}; open one here with "
            "queue.exclusive()"
        )
