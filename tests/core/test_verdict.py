"""From what a handler did to what becomes of its message."""

from __future__ import annotations

from typing import Any

import pytest
import tenacity

from reliq import defaults
from reliq.core import envelope as env
from reliq.core.codec import CODECS
from reliq.core.consumer import ConsumerState
from reliq.core.keys import Keys
from reliq.core.message import Message, Settle
from reliq.core.retry import Retry
from reliq.core.verdict import describe, judge
from reliq.errors import Bury, DecodeError, Release, RetryAfter

STATE = ConsumerState(Keys("q"), "a", lease=15, codec=CODECS["msgpack"], raw_codec=CODECS["json"])
POLICY = Retry(attempts=3, wait=tenacity.wait_fixed(7))


def settle(error: BaseException | None, *, failed: int = 0, age: float = 0, policy: Retry = POLICY) -> Settle:
    message = Message(env.pack(bytes(16), b"\xc0", {"x": 1}, failed=failed), None, STATE)
    return judge(STATE, message, error, policy, age, "Traceback…")


def after(settle: Settle) -> env.Envelope:
    """The envelope that goes back or is buried."""
    element = env.split_note(settle.back)[1] if settle.verb == "bury" else settle.back
    return env.unpack(element)


def note(settle: Settle) -> dict[str, Any]:
    return env.split_note(settle.back)[0]


def test_return_is_an_ack() -> None:
    """A handler that returned is done with its message."""
    assert settle(None).verb == "ack"


def test_failure_is_a_retry_by_policy() -> None:
    """An exception counts a failed attempt, is written into the message, and waits as the policy says."""
    found = settle(ValueError("no such\n address"))
    assert (found.verb, found.detail) == ("retry", 7000)
    assert (after(found).failed, after(found).released) == (1, 0)
    assert after(found).meta == {"x": 1, "e": "ValueError: no such address"}


def test_last_attempt_is_buried() -> None:
    """With no attempt left the message is dead-lettered with the error and the traceback."""
    found = settle(ValueError("no"), failed=2)
    assert (found.verb, found.detail) == ("bury", "ATTEMPTS")
    assert after(found).failed == 3
    assert note(found) == {
        "id": "00" * 16, "cause": "ATTEMPTS", "worker": "a", "error": "ValueError: no", "traceback": "Traceback…",
        "n": 1,
    }  # fmt: skip


def test_stop_of_the_policy_buries() -> None:
    """A message that is older than the policy allows is not tried again."""
    policy = Retry(attempts=10, stop=tenacity.stop_after_delay(60))
    assert settle(ValueError(), age=59, policy=policy).verb == "retry"
    assert settle(ValueError(), age=61, policy=policy).verb == "bury"


@pytest.mark.parametrize(("seconds", "ms"), [(90, 90_000), (0, 0), (-1, 0), (0.0015, 2)])
def test_retry_after(seconds: float, ms: int) -> None:
    """RetryAfter replaces the wait, and counts as an attempt."""
    found = settle(RetryAfter(seconds))
    assert (found.verb, found.detail, after(found).failed) == ("retry", ms, 1)
    assert settle(RetryAfter(seconds), failed=2).verb == "bury"


def test_policy_that_fails_itself_keeps_nothing_in_hand() -> None:
    """A wait that raises is the user's code, as the handler is: the default policy decides, and both are told."""

    def broken(state: tenacity.RetryCallState) -> float:
        raise KeyError("wait")

    settled = settle(ValueError("no"), policy=Retry(wait=broken))
    assert settled.verb == "retry"
    assert after(settled).meta["e"] == "ValueError: no (and its retry policy raised KeyError: 'wait')"
    assert settle(ValueError("no"), failed=4, policy=Retry(attempts=9, wait=broken)).verb == "bury"


def test_release_counts_no_failure() -> None:
    """Release comes back after a moment, uncounted by the attempts, however often."""
    found = settle(Release("not yet"), failed=2)
    assert (found.verb, found.detail) == ("retry", round(defaults.RELEASE_DELAY * 1000))
    assert (after(found).failed, after(found).released) == (2, 1)
    assert settle(Release("not yet", 30)).detail == 30_000


def test_bury_is_at_once() -> None:
    """Bury dead-letters with the handler's reason, whatever attempts are left."""
    found = settle(Bury("no such account"))
    assert (found.verb, found.detail, note(found)["error"]) == ("bury", "BURIED", "no such account")


def test_decode_error_is_buried_with_its_code() -> None:
    """A handler that cannot read the body dead-letters it, too."""
    assert settle(DecodeError("UNDECODABLE", "no")).detail == "UNDECODABLE"


def test_exits_are_failures_like_any_other() -> None:
    """sys.exit in a handler is a failed attempt."""
    assert settle(SystemExit(3)).verb == "retry"


def test_description_is_one_short_line() -> None:
    """Whatever an error says, the message keeps one line of it."""
    text = describe(ValueError("a\n b\t" + "x" * 10_000))
    assert text.startswith("ValueError: a b xxx")
    assert len(text) == 500
