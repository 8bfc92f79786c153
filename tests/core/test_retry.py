"""Retry policies are pure functions of the attempt, the error and the age of the message."""

from __future__ import annotations

import pytest
import tenacity
from hypothesis import given
from hypothesis import strategies as st

from reliq.core.retry import Retry, backoff
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


@pytest.mark.parametrize("setting", [{"attempts": 0}, {"attempts": 1.5}, {"wait": 3}, {"stop": 3}])
def test_settings_that_are_refused(setting: dict[str, object]) -> None:
    """A policy that makes no sense is an error in the line that makes it."""
    with pytest.raises(ConfigError, match=f"Retry\\({next(iter(setting))}="):
        Retry(**setting)  # type: ignore[arg-type]
    assert issubclass(ConfigError, ReliqError)


@given(st.integers(0, 10_000))
def test_backoff_is_bounded(failures: int) -> None:
    """Asking Redis again waits a little at first, and never longer than the limit (and its jitter)."""
    assert 0.05 <= backoff(failures) <= 5.05
