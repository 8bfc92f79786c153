"""Retry policies are pure functions of the attempt, the error and the age of the message."""

from __future__ import annotations

import random
from typing import Any

import msgpack
import pytest
import tenacity
from hypothesis import given
from hypothesis import strategies as st

from reliq.core.retry import ATTEMPTS, GIVEN_UP, TOO_OLD, Retry, backoff
from reliq.core.waits import wait_fibonacci, wait_table
from reliq.errors import ConfigError, ReliqError

ERROR = ValueError("no")


def test_attempts_count_from_one() -> None:
    """Retry(attempts=3) gives three attempts: two waits, then none."""
    policy = Retry(attempts=3, wait=tenacity.wait_fixed(7))
    assert [policy.next_delay(n, ERROR, 0) for n in (1, 2, 3, 4)] == [7, 7, None, None]
    assert Retry(attempts=1).next_delay(1, ERROR, 0) is None


@pytest.mark.parametrize(
    ("wait", "delays"),
    [
        (tenacity.wait_none(), [0, 0, 0]),
        (tenacity.wait_exponential(multiplier=2, max=5), [2, 4, 5]),
        (tenacity.wait_incrementing(start=10, increment=5), [10, 15, 20]),
        (tenacity.wait_chain(tenacity.wait_fixed(1), tenacity.wait_fixed(9)), [1, 9, 9]),
        (tenacity.wait_fixed(1) + tenacity.wait_fixed(2), [3, 3, 3]),
        (lambda state: state.attempt_number * 100.0, [100, 200, 300]),
    ],
)
def test_any_wait_of_tenacity(wait: tenacity.wait.wait_base, delays: list[float]) -> None:
    """tenacity's wait_* see the attempt number that the message carries."""
    policy = Retry(attempts=10, wait=wait)
    assert [policy.next_delay(n, ERROR, 0) for n in (1, 2, 3)] == delays


def test_wait_sees_the_error() -> None:
    """A wait function can look at what the handler raised."""
    policy = Retry(wait=lambda state: 60.0 if isinstance(state.outcome.exception(), ValueError) else 1.0)
    assert policy.next_delay(1, ERROR, 0) == 60
    assert policy.next_delay(1, KeyError(), 0) == 1


def test_stop_after_delay_counts_from_the_put() -> None:
    """The age of the message is what tenacity's stop_after_delay compares."""
    policy = Retry(attempts=100, wait=tenacity.wait_none(), stop=tenacity.stop_after_delay(3600))
    assert policy.next_delay(5, ERROR, 3599) == 0
    assert policy.next_delay(5, ERROR, 3601) is None
    either = Retry(attempts=100, stop=tenacity.stop_after_delay(60) | tenacity.stop_after_attempt(2))
    assert either.next_delay(2, ERROR, 0) is None


@given(st.integers(1, 100), st.floats(0, 1e9))
def test_default_wait_is_bounded(attempt: int, age: float) -> None:
    """The default waits from about a second up to ten minutes, whatever the attempt."""
    delay = Retry(attempts=1000).next_delay(attempt, ERROR, age)
    assert delay is not None
    assert min(2 ** (attempt - 1), 600) <= delay <= 601


def test_negative_wait_is_now() -> None:
    """A wait below zero means at once."""
    assert Retry(wait=lambda state: -5.0).next_delay(1, ERROR, 0) == 0


@pytest.mark.parametrize(
    "setting",
    [
        {"attempts": 0},
        {"attempts": 1.5},
        {"attempts": True},
        {"wait": -3},
        {"wait": []},
        {"wait": "soon"},
        {"stop": 3},
        {"max_age": 0},
        {"retry_on": 3},
        {"retry_on": ()},
        {"give_up_on": (ValueError, 3)},
        {"on_retry": 3},
        {"on_dead": "f"},
    ],
)
def test_settings_that_are_refused(setting: dict[str, object]) -> None:
    """A policy that makes no sense is an error in the line that makes it."""
    with pytest.raises(ConfigError, match=f"Retry\\({next(iter(setting))}=|a wait of|wait_table"):
        Retry(**setting)  # type: ignore[arg-type]
    assert issubclass(ConfigError, ReliqError)


def test_seconds_and_tables() -> None:
    """A number is a fixed wait, a list one for each failure; Fibonacci as it should be, up to its limit."""
    assert [Retry(wait=3).next_delay(n, ERROR, 0) for n in (1, 2)] == [3, 3]
    assert [Retry(attempts=9, wait=[1, 5, 60]).next_delay(n, ERROR, 0) for n in (1, 2, 3, 4)] == [1, 5, 60, 60]
    fibonacci = Retry(attempts=99, wait=wait_fibonacci(2, 20))
    assert [fibonacci.next_delay(n, ERROR, 0) for n in range(1, 8)] == [2, 2, 4, 6, 10, 16, 20]
    assert fibonacci.next_delay(98, ERROR, 0) == 20


class Transient(ValueError):
    pass


@pytest.mark.parametrize(
    ("policy", "error", "decided"),
    [
        (Retry(retry_on=ValueError, wait=1), Transient(), 1),
        (Retry(retry_on=(KeyError, OSError), wait=1), ValueError(), GIVEN_UP),
        (Retry(retry_on=lambda e: "again" in str(e), wait=1), ValueError("again"), 1),
        (Retry(retry_on=lambda e: "again" in str(e), wait=1), ValueError("no"), GIVEN_UP),
        (Retry(give_up_on=Transient, wait=1), ValueError(), 1),
        (Retry(give_up_on=Transient, wait=1), Transient(), GIVEN_UP),
        (Retry(retry_on=ValueError, give_up_on=Transient, wait=1), Transient(), GIVEN_UP),
        (Retry(attempts=1, give_up_on=Transient), ValueError(), ATTEMPTS),
    ],
)
def test_what_is_worth_another_attempt(policy: Retry, error: Exception, decided: object) -> None:
    """By class, by several, by a function of the error; what is given up on wins."""
    assert policy.decide(1, error, 0.0) == decided


def test_who_asks_for_a_delay_is_not_given_up() -> None:
    """RetryAfter says that it is worth it; the attempts and the age still count."""
    policy = Retry(attempts=2, retry_on=KeyError, max_age=100)
    assert policy.decide(1, ERROR, 0, 30) == 30
    assert policy.decide(2, ERROR, 0, 30) == ATTEMPTS
    assert policy.decide(1, ERROR, 71, 30) == TOO_OLD


def test_no_attempt_begins_after_the_age() -> None:
    """Counted from the put, with the wait that would come first."""
    policy = Retry(attempts=99, wait=10, max_age=60)
    assert policy.decide(3, ERROR, 50) == 10
    assert policy.decide(3, ERROR, 50.1) == TOO_OLD


SECONDS = st.floats(0, 1e6) | st.integers(0, 10**6)
WAITS = st.recursive(
    st.one_of(
        st.builds(tenacity.wait_fixed, SECONDS),
        st.builds(tenacity.wait_random, SECONDS, SECONDS),
        st.builds(tenacity.wait_incrementing, SECONDS, SECONDS, SECONDS),
        st.builds(lambda a, b, c, d: tenacity.wait_exponential(a, max=b, exp_base=c, min=d), *[SECONDS] * 4),
        st.builds(lambda a, b: tenacity.wait_exponential_jitter(max=a, jitter=b), SECONDS, SECONDS),
        st.builds(wait_fibonacci, SECONDS, SECONDS),
        st.lists(SECONDS, min_size=1, max_size=4).map(lambda seconds: wait_table(*seconds)),
        st.just(tenacity.wait_none()),
    ),
    lambda parts: st.lists(parts, min_size=1, max_size=3).flatmap(
        lambda found: st.sampled_from([tenacity.wait_combine(*found), tenacity.wait_chain(*found)])
    ),
    max_leaves=5,
)


@given(WAITS, st.integers(1, 100), st.none() | st.floats(0.1, 1e6), st.integers(1, 99))
def test_a_policy_travels_with_its_message(wait: Any, attempts: int, age: float | None, failures: int) -> None:
    """Through msgpack; what chance has no part in comes out the same."""
    sent = Retry(attempts=attempts, wait=wait, max_age=age)
    data = msgpack.unpackb(msgpack.packb(sent.packed()))
    assert Retry().of_message(data).packed() == sent.packed()
    found = Retry(attempts=7, retry_on=ValueError, wait=1).of_message(data)
    assert (found.attempts, found.max_age, found.retry_on) == (attempts, age, ValueError)
    random.seed(failures)
    delay = sent.decide(failures, ERROR, 0.0)
    random.seed(failures)
    assert found.decide(failures, ERROR, 0.0) == delay


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from("awmx"), inner, max_size=4),
        max_leaves=20,
    )
)
def test_nonsense_in_a_message_leaves_the_policy_as_it_is(data: Any) -> None:
    """Whatever a producer writes there: never an error, and never a policy that cannot decide."""
    found = Retry(wait=3).of_message(data)
    decided = found.decide(1, ERROR, 0.0)
    assert isinstance(decided, str) or decided >= 0


@pytest.mark.parametrize(
    "policy",
    [
        Retry(wait=lambda state: 3),
        Retry(wait=tenacity.wait_fixed(1) + tenacity.wait_random_exponential()),
        Retry(stop=tenacity.stop_after_delay(5)),
        Retry(retry_on=ValueError),
        Retry(on_dead=print),
        Retry(wait=tenacity.wait_incrementing(10, -1)),
        Retry(wait=tenacity.wait_fixed(float("inf"))),
        Retry(wait=sum((tenacity.wait_fixed(1) for _ in range(12)), tenacity.wait_none())),
    ],
)
def test_code_does_not_travel(policy: Retry) -> None:
    """Nor does a wait that whoever takes the message could not read; and the error says what does."""
    with pytest.raises(ConfigError, match=r"put\(retry=\): .*cannot travel with a message"):
        policy.packed()


def test_the_least_of_a_jitter_is_not_lost_on_the_way() -> None:
    """Later releases of tenacity have min=, which a message has no place for: refused, not forgotten."""
    wait = tenacity.wait_exponential_jitter(max=60)
    vars(wait)["min"] = 5  # as wait_exponential_jitter(min=5) has it, in whichever release
    with pytest.raises(ConfigError, match=r"min=.* cannot travel with a message"):
        Retry(wait=wait).packed()


@pytest.mark.parametrize("words", [{"wait": tenacity.wait_random}, {"stop": tenacity.stop_after_delay}])
def test_a_class_is_no_wait_and_no_stop(words: dict[str, Any]) -> None:
    """Its parentheses were forgotten: said when the policy is made, not when the first message fails."""
    with pytest.raises(ConfigError, match=r"as in (wait_fixed\(5\)|stop_after_delay\(3600\))"):
        Retry(**words)


@given(st.integers(0, 10_000))
def test_backoff_is_bounded(failures: int) -> None:
    """Asking Redis again waits a little at first, and never longer than the limit (and its jitter)."""
    assert 0.05 <= backoff(failures) <= 5.05
