"""When a failed message comes back: tenacity's ``wait_*`` and ``stop_*`` used as pure functions.

Nothing here sleeps. The wait becomes a due time in ``later``, by the server's clock.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

import tenacity

from reliq import defaults
from reliq.core import waits
from reliq.core.waits import Wait, WaitFunction
from reliq.errors import ConfigError, given

if TYPE_CHECKING:
    from reliq.core.failure import Failure

#: Where a message says by which policy it is retried.
POLICY_KEY: Final = "y"
StopFunction = Callable[[tenacity.RetryCallState], bool]
#: Errors: a class, several of them, or a function that says of each whether it is one.
Errors = type[BaseException] | tuple[type[BaseException], ...] | Callable[[BaseException], bool]
#: Why a policy gives up, as a dead letter stores it.
ATTEMPTS: Final = "ATTEMPTS"
TOO_OLD: Final = "TOO_OLD"
GIVEN_UP: Final = "GIVEN_UP"


def _default_wait() -> WaitFunction:
    return tenacity.wait_exponential_jitter(defaults.WAIT_FIRST, defaults.WAIT_MOST)


Hook = Callable[["Failure"], object]


@dataclass(frozen=True)
class Retry:
    """A retry policy.

    ``attempts``: how often the handler may fail before the message is dead-lettered (at least 1).
    ``wait``: until the next attempt: seconds, a list of seconds (after the first failure, the second, …; the last
    one for all that follow), or any ``tenacity.wait_*``; ``wait_fibonacci`` and ``wait_table`` are like those.
    ``stop``: any ``tenacity.stop_*`` besides. ``max_age``: seconds since the put, after which no attempt begins.
    ``retry_on``: of these errors alone an attempt is worth another one; ``give_up_on``: of these never. An
    exception class, a tuple of them, or a function of the error. What is given up is dead-lettered at once.
    ``on_retry``, ``on_dead``: are called with a Failure, in the thread of the handler, before the message goes
    back or is dead-lettered; so a crash in between may have them called again. They have to be quick.
    """

    attempts: int = defaults.ATTEMPTS
    wait: Wait = field(default_factory=_default_wait)
    stop: StopFunction | None = None
    max_age: float | None = None
    retry_on: Errors | None = None
    give_up_on: Errors | None = None
    on_retry: Hook | None = None
    on_dead: Hook | None = None

    def __post_init__(self) -> None:
        if isinstance(self.attempts, bool) or not isinstance(self.attempts, int) or self.attempts < 1:
            raise ConfigError(f"Retry(attempts={self.attempts!r}): at least 1; 1 means no retry")
        object.__setattr__(self, "wait", waits.function_of(self.wait))
        if self.stop is not None and (not callable(self.stop) or isinstance(self.stop, type)):
            raise ConfigError(
                f"Retry(stop={self.stop!r}): pass one of tenacity's stop_* functions, as in stop_after_delay(3600)"
            )
        age = self.max_age
        if age is not None and (isinstance(age, bool) or not isinstance(age, int | float) or not age > 0):
            raise ConfigError(f"Retry(max_age={given(age)}): seconds above 0, or None")
        for name in ("retry_on", "give_up_on"):
            if (errors := getattr(self, name)) is not None and not _are_errors(errors):
                raise ConfigError(
                    f"Retry({name}={errors!r}): an exception class, a tuple of them, or a function of the error"
                )
        for name in ("on_retry", "on_dead"):
            if (hook := getattr(self, name)) is not None and not callable(hook):
                raise ConfigError(f"Retry({name}={hook!r}): a function that takes a reliq.Failure")

    def next_delay(self, attempt: int, error: BaseException, age: float) -> float | None:
        """Seconds until the next attempt after this one failed, or None: give up.

        ``attempt`` counts from 1; ``age`` is seconds since the message was put.
        """
        delay = self.decide(attempt, error, age)
        return None if isinstance(delay, str) else delay

    def decide(self, attempt: int, error: BaseException, age: float, delay: float | None = None) -> float | str:
        """The same, or the cause to give up for. ``delay``: seconds that the handler itself asks for."""
        if delay is None and not self._worth_another(error):
            return GIVEN_UP
        if attempt >= self.attempts:
            return ATTEMPTS
        state = _state(attempt, error, age)
        if self.stop is not None and self.stop(state):
            return ATTEMPTS
        if delay is None:
            assert callable(self.wait)
            delay = max(0.0, float(self.wait(state)))
        return TOO_OLD if self.max_age is not None and age + delay > self.max_age else delay

    def _worth_another(self, error: BaseException) -> bool:
        if self.give_up_on is not None and _is_one(error, self.give_up_on):
            return False
        return self.retry_on is None or _is_one(error, self.retry_on)

    def for_any_error(self) -> Retry:
        """The same for whoever asks for another attempt himself: that it is worth one needs no asking."""
        return replace(self, retry_on=None, give_up_on=None)

    # -- that of one message ----------------------------------------------------------------------------

    def packed(self) -> dict[str, Any]:
        """As it travels with a message: how often, when, and until when. ConfigError for what cannot travel."""
        for name in ("stop", "retry_on", "give_up_on", "on_retry", "on_dead"):
            if getattr(self, name) is not None:
                raise ConfigError(
                    f"put(retry=): {name} is code, and cannot travel with a message; give that to the handler's "
                    "policy, and attempts, wait and max_age to the put"
                )
        assert callable(self.wait)
        found: dict[str, Any] = {"a": self.attempts, "w": waits.packed(self.wait)}
        try:
            waits.unpacked(found["w"])
        except (ValueError, TypeError, ConfigError) as error:  # whoever takes the message would pass over it
            raise ConfigError(
                f"put(retry=): a wait like {self.wait!r} cannot travel with a message: {error}. Write it as a "
                "list of seconds, or give it to the handler's policy"
            ) from error
        return found if self.max_age is None else {**found, "m": self.max_age}

    def of_message(self, packed: object) -> Retry:
        """This policy with what a message says instead (``packed``), if that can be read."""
        if not isinstance(packed, Mapping):
            return self
        try:
            wait = waits.unpacked(packed["w"])
            return replace(self, attempts=packed["a"], wait=wait, max_age=packed.get("m"), stop=None)
        except (LookupError, ValueError, TypeError, ConfigError):
            return self


def _are_errors(errors: object) -> bool:
    if isinstance(errors, tuple):
        return bool(errors) and all(isinstance(one, type) and issubclass(one, BaseException) for one in errors)
    return issubclass(errors, BaseException) if isinstance(errors, type) else callable(errors)


def _is_one(error: BaseException, errors: Errors) -> bool:
    if isinstance(errors, type | tuple):
        return isinstance(error, errors)
    return bool(errors(error))


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
