"""When a failed message comes back: tenacity's ``wait_*`` and ``stop_*`` used as pure functions.

Nothing here sleeps. The wait becomes a due time in ``later``, by the server's clock.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import tenacity

from reliq import defaults

WaitFunction = Callable[[tenacity.RetryCallState], float]
StopFunction = Callable[[tenacity.RetryCallState], bool]


def _default_wait() -> WaitFunction:
    return tenacity.wait_exponential_jitter(defaults.WAIT_FIRST, defaults.WAIT_MOST)


@dataclass(frozen=True)
class Retry:
    """A retry policy.

    ``attempts``: how often the handler may fail before the message is dead-lettered (at least 1).
    ``wait``: any ``tenacity.wait_*``; seconds until the next attempt.
    ``stop``: any ``tenacity.stop_*`` besides, e.g. ``stop_after_delay(3600)``, counted from the put.
    """

    attempts: int = defaults.ATTEMPTS
    wait: WaitFunction = field(default_factory=_default_wait)
    stop: StopFunction | None = None

    def __post_init__(self) -> None:
        from reliq.errors import ConfigError

        if not isinstance(self.attempts, int) or self.attempts < 1:
            raise ConfigError(f"Retry(attempts={self.attempts!r}): at least 1; 1 means no retry")
        for name, function in (("wait", self.wait), ("stop", self.stop)):
            if function is not None and not callable(function):
                raise ConfigError(f"Retry({name}={function!r}): pass one of tenacity's {name}_* functions")

    def next_delay(self, attempt: int, error: BaseException, age: float) -> float | None:
        """Seconds until the next attempt after this one failed, or None: give up.

        ``attempt`` counts from 1; ``age`` is seconds since the message was put.
        """
        if attempt >= self.attempts:
            return None
        state = _state(attempt, error, age)
        if self.stop is not None and self.stop(state):
            return None
        return max(0.0, float(self.wait(state)))


def _state(attempt: int, error: BaseException, age: float) -> tenacity.RetryCallState:
    """What tenacity's functions look at, made up from what the message tells."""
    state = tenacity.RetryCallState(retry_object=_NOBODY, fn=None, args=(), kwargs={})
    state.attempt_number = attempt
    outcome: Any = tenacity.Future(attempt)
    outcome.set_exception(error)
    state.outcome = outcome
    state.start_time = 0.0
    state.outcome_timestamp = age
    return state


def backoff(failures: int, *, first: float = 0.05, most: float = 5.0) -> float:
    """Seconds to wait before asking Redis again after so many failures in a row: exponential, with jitter."""
    wait = tenacity.wait_exponential(multiplier=first, max=most) + tenacity.wait_random(0, first)
    return float(wait(_state(max(1, failures), ConnectionError(), 0.0)))


_NOBODY = tenacity.Retrying(reraise=True)
