"""How long until the next attempt: tenacity's ``wait_*``, two more like them, and how they travel in a message."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import tenacity
from tenacity.wait import wait_base

from reliq.errors import ConfigError, given

WaitFunction = Callable[[tenacity.RetryCallState], float]
#: What a policy takes: one of these functions, seconds, or seconds for the first failure, the second, …
Wait = WaitFunction | float | Sequence[float]
#: Deeper ones are not read from a message.
_DEEPEST: Final = 8


class wait_fibonacci(wait_base):
    """``first`` seconds, again as many, twice, three times, five times as many, …, at most ``max``."""

    def __init__(self, first: float = 1, max: float = 600) -> None:
        self.first, self.max = _seconds(first), _seconds(max)

    def __call__(self, retry_state: tenacity.RetryCallState) -> float:
        before, wait = 0.0, self.first
        for _ in range(retry_state.attempt_number - 1):
            if wait >= self.max:
                break
            before, wait = wait, before + wait
        return min(wait, self.max)


class wait_table(wait_base):
    """These seconds after the first failure, the second, …; the last one for all that follow."""

    def __init__(self, *seconds: float) -> None:
        if not seconds:
            raise ConfigError("wait_table(): seconds for the first failure at least, as in wait_table(1, 10, 60)")
        self.seconds = tuple(map(_seconds, seconds))

    def __call__(self, retry_state: tenacity.RetryCallState) -> float:
        return self.seconds[min(retry_state.attempt_number, len(self.seconds)) - 1]


def _seconds(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e10:
        raise ConfigError(f"a wait of {given(value)}: seconds, not negative")
    return value


def function_of(wait: Wait) -> WaitFunction:
    """The function that a policy's ``wait`` stands for."""
    if isinstance(wait, Sequence) and not isinstance(wait, str):
        return wait_table(*wait)
    if isinstance(wait, int | float):
        return tenacity.wait_fixed(_seconds(wait))
    if not callable(wait) or isinstance(wait, type):  # wait_random is none yet, wait_random(0, 5) is
        raise ConfigError(
            f"Retry(wait={given(wait)}): pass seconds, a list of them, or one of tenacity's wait_* functions, "
            "called with its seconds as in wait_fixed(5)"
        )
    return wait


# -- in a message -------------------------------------------------------------------------------------------


def _jitter(first: float, most: float, base: float, jitter: float) -> WaitFunction:
    made = tenacity.wait_exponential_jitter(max=most, exp_base=base, jitter=jitter)
    made.initial = made.multiplier = first  # type: ignore[attr-defined]  # as releases of tenacity call it
    return made


#: By name in the message: the class, how it is made, and the attributes that it is made of.
_KINDS: Final[Mapping[str, tuple[type[Any], Callable[..., WaitFunction], tuple[str, ...]]]] = {
    "none": (tenacity.wait_none, tenacity.wait_none, ()),
    "fixed": (tenacity.wait_fixed, tenacity.wait_fixed, ("wait_fixed",)),
    "random": (tenacity.wait_random, tenacity.wait_random, ("wait_random_min", "wait_random_max")),
    "incrementing": (tenacity.wait_incrementing, tenacity.wait_incrementing, ("start", "increment", "max")),
    "exponential": (
        tenacity.wait_exponential,
        tenacity.wait_exponential,
        ("multiplier", "max", "exp_base", "min"),
    ),
    "jitter": (tenacity.wait_exponential_jitter, _jitter, ("multiplier", "max", "exp_base", "jitter")),
    "fibonacci": (wait_fibonacci, wait_fibonacci, ("first", "max")),
}
_NAMES: Final = {kind: name for name, (kind, _, _) in _KINDS.items()}


def packed(wait: WaitFunction) -> list[Any]:
    """The same as data; ConfigError if only this process can know what it does."""
    if type(wait) is wait_table:
        return ["table", *wait.seconds]
    if type(wait) is tenacity.wait_combine:
        return ["sum", *map(packed, wait.wait_funcs)]
    if type(wait) is tenacity.wait_chain:
        return ["chain", *map(packed, wait.strategies)]
    name = _NAMES.get(type(wait))
    if name is None:
        raise ConfigError(
            f"put(retry=): a wait like {wait!r} cannot travel with a message; pass seconds, a list of them, or "
            f"one of these: {', '.join(sorted(kind.__name__ for kind in _NAMES))}, also added up or chained"
        )
    if name == "jitter" and vars(wait).get("min"):  # of later releases of tenacity: the data has no place for it
        raise ConfigError(
            "put(retry=): wait_exponential_jitter(min=) cannot travel with a message; leave min out, or pass "
            "wait_exponential(min=) + wait_random()"
        )
    return [name, *(getattr(wait, "initial" if _is_old(wait, key) else key) for key in _KINDS[name][2])]


def _is_old(wait: WaitFunction, key: str) -> bool:
    """Whether this release of tenacity calls the multiplier of a jitter otherwise."""
    return key == "multiplier" and not hasattr(wait, key)


def unpacked(data: Any, depth: int = 0) -> WaitFunction:
    """The function that ``packed`` made this of; ValueError if it can be none."""
    if not isinstance(data, list | tuple) or not data or not isinstance(data[0], str) or depth > _DEEPEST:
        raise ValueError(f"no wait, or one of more than {_DEEPEST} levels")
    name, *rest = data
    if name in ("sum", "chain") and rest:
        parts: list[Any] = [unpacked(part, depth + 1) for part in rest]
        return tenacity.wait_combine(*parts) if name == "sum" else tenacity.wait_chain(*parts)
    if not all(type(value) in (int, float) and 0 <= value < 1e19 for value in rest):
        raise ValueError("its numbers are not from 0 to 1e19")
    if name == "table" and rest:
        return wait_table(*rest)
    if name not in _KINDS or len(rest) != len(_KINDS[name][2]):
        raise ValueError("no wait that is known here")
    return _KINDS[name][1](*rest)
