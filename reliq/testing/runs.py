"""What ``run_until_empty`` decides and tells; the same in both shells."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import Any, Final

from reliq.ack import Handler
from reliq.core.command import Command, Flow
from reliq.core.dead import Letter, LetterWalk
from reliq.core.failure import Failure
from reliq.core.flows import Sizes, sizes_g
from reliq.core.keys import Keys
from reliq.core.retry import Hook
from reliq.errors import ConfigError

LEAVE: Final = "leave"
TRAVEL: Final = "travel"
_MODES: Final = (LEAVE, TRAVEL)
_NONE: Final = Sizes(0, 0, 0, 0)
#: Seconds that a handler has left when the time of a run is over.
GRACE: Final = 0.2


class DeadLettered(AssertionError):
    """Messages became dead letters, and the test did not say that they may. ``.run``: all that happened."""

    def __init__(self, text: str, run: Run) -> None:
        super().__init__(text)
        self.run = run


class NotEmpty(AssertionError):
    """There was still something to do when the time was over."""


@dataclass
class Run:
    """What a run did. ``handled``: messages that were acked. ``failures``: every attempt that a handler failed, as
    a ``reliq.Failure``, in order. ``dead``: the messages that died, with .id .cause .error. ``left``: what is
    still in the queues, by state."""

    handled: int = 0
    failures: list[Failure] = field(default_factory=list)
    dead: list[Letter] = field(default_factory=list)
    left: Sizes = _NONE

    @property
    def retried(self) -> int:
        """Failed attempts after which the message came back."""
        return sum(failure.delay is not None for failure in self.failures)


class Watch:
    """One run: its handlers, with hooks that note what fails, and the figures of their queues from before."""

    def __init__(self, said: Sequence[Handler[..., Any] | ModuleType], later: str, timeout: float) -> None:
        if later not in _MODES:
            raise ConfigError(f"run_until_empty(later={later!r}): one of {', '.join(map(repr, _MODES))}")
        if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not timeout > 0:
            raise ConfigError(f"run_until_empty(timeout={timeout!r}): seconds above 0")
        self.later, self.timeout = later, timeout
        self.run = Run()
        self.handlers = [self._noting(handler) for handler in _handlers(said)]
        #: Of all of them, each once: several may share one.
        self.queues = list({handler.queue.options.keys: handler.queue for handler in self.handlers}.values())
        self._before: dict[Keys, tuple[int, set[bytes]]] = {}

    def _noting(self, handler: Handler[..., Any]) -> Handler[..., Any]:
        made, policy = copy(handler), handler.retry
        note = self.run.failures.append
        made.retry = replace(policy, on_retry=_both(note, policy.on_retry), on_dead=_both(note, policy.on_dead))
        return made

    def begin_g(self, keys: Keys) -> Flow[None]:
        """Note how a queue is before."""
        self._before[keys] = yield from _figures_g(keys)

    def end_g(self, keys: Keys) -> Flow[None]:
        """Note what has become of it."""
        (acks, known), run = self._before[keys], self.run
        run.handled += (yield from _acks_g(keys)) - acks
        run.dead += [letter for letter in (yield from _letters_g(keys)) if letter.member not in known]
        sizes = yield from sizes_g(keys)
        run.left = Sizes(*(a + b for a, b in zip(run.left, sizes, strict=True)))

    def result(self, *, in_time: bool, raise_on_dead: bool) -> Run:
        """What the caller gets; raises NotEmpty, or DeadLettered from what a handler raised."""
        run = self.run
        if not in_time:
            raise NotEmpty(
                f"after {self.timeout:g} s there is still something to do: {_words(run.left)} "
                f"({run.handled} handled, {len(run.failures)} failures). A handler hangs, or what it does brings "
                "more; or give it more time: timeout="
            ) from (run.failures[-1].error if run.failures else None)
        if run.dead and raise_on_dead:
            errors = {failure.id: failure.error for failure in run.failures}
            raise DeadLettered(_told(run.dead, errors), run) from errors.get(run.dead[-1].id)
        return run


def _handlers(said: Sequence[Handler[..., Any] | ModuleType]) -> list[Handler[..., Any]]:
    found: list[Handler[..., Any]] = []
    for each in said:
        inside = vars(each).values() if isinstance(each, ModuleType) else [each]
        some = [one for one in inside if isinstance(one, Handler)]
        if not some:
            raise ConfigError(
                f"run_until_empty({each!r:.80}): a handler made with @q.ack, or a module that has some"
            )
        found += some
    if not found:
        raise ConfigError("run_until_empty(): give it at least one handler made with @q.ack, or a module")
    return list(dict.fromkeys(found))


def _both(note: Hook, hook: Hook | None) -> Hook:
    def both(failure: Failure) -> None:
        note(failure)
        if hook is not None:
            hook(failure)

    return both


def _figures_g(keys: Keys) -> Flow[tuple[int, set[bytes]]]:
    acks = yield from _acks_g(keys)
    return acks, {letter.member for letter in (yield from _letters_g(keys))}


def _acks_g(keys: Keys) -> Flow[int]:
    acks = yield Command("HGET", (keys.stats,), ("ack",), idempotent=True, queue=keys.queue)
    return int(acks or 0)


def _letters_g(keys: Keys) -> Flow[list[Letter]]:
    walk, found = LetterWalk(keys), list[Letter]()
    while not walk.done:
        found += yield from walk.step_g()
    return found


def _words(sizes: Sizes) -> str:
    return ", ".join(f"{number} {state}" for state, number in zip(sizes._fields, sizes, strict=True) if number)


def _told(dead: list[Letter], errors: dict[str, BaseException]) -> str:
    """What died, of what, and where in the user's code."""
    lines = [f"{len(dead)} message(s) became dead letters:"]
    for letter in dead[:10]:
        lines.append(f"- {letter.id}: {letter.cause}, {letter.error}")
        if error := errors.get(letter.id):
            frame = traceback.extract_tb(error.__traceback__)[-1:]
            lines += [f"    {f.filename}:{f.lineno} in {f.name}: {f.line}" for f in frame]
    lines += [f"and {len(dead) - 10} more"] if len(dead) > 10 else []
    return "\n".join([*lines, "If that is what the test is about: raise_on_dead=False, and look at .dead"])
