"""What becomes of a message after its handler: from the outcome and the policy to a settle."""

from __future__ import annotations

from reliq import defaults
from reliq.core import envelope as env
from reliq.core.consumer import ConsumerState
from reliq.core.message import RETRY, Message, Settle
from reliq.core.retry import POLICY_KEY, Retry
from reliq.errors import Bury, DecodeError, Release, RetryAfter


def judge(
    state: ConsumerState, message: Message, error: BaseException | None, retry: Retry, age: float, trace: str
) -> Settle:
    """The settle for a handler that returned (``error`` is None) or raised.

    ``age``: seconds since the put; ``trace``: the formatted traceback.
    """
    if error is None:
        return state.ack(message)
    text = describe(error)
    if isinstance(error, Release):
        delay = defaults.RELEASE_DELAY if error.seconds is None else max(0.0, error.seconds)
        return state.release_later(message, delay)
    if isinstance(error, Bury):
        return state.bury(message, "BURIED", _text(error) or "buried by its handler", trace, failed=1)
    if isinstance(error, DecodeError):
        return state.bury(message, error.code, text, trace, failed=1)
    after = max(0.0, error.seconds) if isinstance(error, RetryAfter) else None
    policy = retry.of_message(message.envelope.meta.get(POLICY_KEY))
    try:
        decided = policy.decide(message.envelope.attempt, error, age, after)
    except Exception as broken:  # noqa: BLE001 - the wait and the stop are the user's code, like the handler
        decided = Retry().decide(message.envelope.attempt, error, age)
        text = f"{text} (and its retry policy raised {describe(broken)})"
    if isinstance(decided, str):
        return state.bury(message, decided, text, trace, failed=1)
    return state.retry(message, decided, text)


def judge_anyway(state: ConsumerState, message: Message, text: str) -> Settle:
    """The settle if ``judge`` itself fails, on RetryAfter(math.inf) for example: by the default policy. A message
    without a settle would stay in the hands of a worker that renews its lease for ever."""
    delay = Retry().next_delay(message.envelope.attempt, RuntimeError(text), 0.0)
    if delay is None:
        return state.bury(message, "ATTEMPTS", text, failed=1)
    return Settle(RETRY, message, env.bump(message.envelope, failed=1), round(delay * 1000))


def describe(error: BaseException) -> str:
    """``ValueError: no such address``, in one line."""
    return " ".join(f"{type(error).__name__}: {_text(error)}".split())[:500]


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as failure:  # noqa: BLE001 - its class is the user's own
        return f"({type(failure).__name__} from its __str__)"
