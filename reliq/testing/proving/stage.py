"""The handler of a proof and its world, and a place on a real Redis for its messages."""

from __future__ import annotations

import ast
import asyncio
import copy
import inspect
import logging
import os
import textwrap
import time
import warnings
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from threading import Thread
from typing import Any, Final, NamedTuple

from reliq.ack import Handler
from reliq.core.retry import Retry
from reliq.errors import ConfigError
from reliq.settings import Settings
from reliq.sync.queue import Queue
from reliq.testing.places import fresh_prefix, purge, url_in
from reliq.testing.proving import schedules
from reliq.testing.proving.effects import differences, same
from reliq.testing.proving.forked import ForkedPlay
from reliq.testing.proving.play import Play
from reliq.testing.proving.report import Finding, Unprovable
from reliq.testing.proving.schedules import Schedule, Stop
from reliq.testing.proving.stops import codes_of

_MOST_BODIES: Final = 20
#: Another consumer may stand still while one is stopped for so many times what a delivery took alone, and so many
#: seconds at least and at most: where it waits for a lock of the other, each schedule takes that long. Of another
#: process nobody sees whether it stands still.
_TIMES: Final = 10
_PATIENCE: Final = 0.1
_MOST_PATIENCE: Final = 1.0


class Outcome(NamedTuple):
    """Of a play: the effects, what happened step by step, whether what was to happen did, errors by body, and
    which bodies were acked."""

    effects: Any
    story: list[str]
    happened: bool
    raised: list[tuple[int, BaseException]]
    acked: set[int]


class Stage:
    """The handler, its world, and a place for its messages: each play has keys of its own."""

    def __init__(
        self,
        queue: Queue,
        handler: Handler[..., Any],
        bodies: Sequence[Any],
        effects: Callable[[], Any],
        reset: Callable[[], Any],
        inside: Sequence[Any],
        processes: bool,
    ) -> None:
        self._queue, self._handler = queue, handler
        self._effects, self._reset = effects, reset
        self._codes = codes_of([handler.function, *inside])
        self._elements = {n: queue.options.element(body, f"body {n}")[1] for n, body in enumerate(bodies, 1)}
        self._prefixes = (f"{queue.options.keys.prefix}-{n}" for n in count())
        self._references: dict[tuple[int, ...], Any] = {}
        self._patience, self._one_thread = _PATIENCE, False
        self.name = handler.name
        self.notes = [] if processes else _notes(handler.function)
        self.processes = processes
        self.kind: type[Play] = ForkedPlay if processes else Play
        self.played = 0
        self.paths: dict[int, list[Stop]] = {}
        #: Kinds of schedules that cannot be played with it.
        self.leaves_out: set[str] = set()
        _called(reset)
        self.before = self._snapshot()

    def look(self) -> None:
        """The reference: once in another thread, as a worker would do (or in processes), and once here."""
        plain = schedules.reference(sorted(self._elements))
        began = time.monotonic()
        elsewhere = self.play(plain, elsewhere=True)
        usual = (time.monotonic() - began) / len(self._elements)
        self._patience = min(max(_PATIENCE, _TIMES * usual), _MOST_PATIENCE)
        here = self.play(plain, here=True)
        for number, error in here.raised[:1]:
            raise Unprovable(f"{self.name} fails by itself, at body {number}: {error!r}") from error
        if len(here.acked) < len(self._elements):
            raise Unprovable(f"{self.name} does not get done by itself:\n" + "\n".join(here.story))
        if self.kind is ForkedPlay:
            self._check_processes(elsewhere, here)
        elif elsewhere.raised:
            raised, elsewhere, self._one_thread = elsewhere.raised[0][1], here, True
            self.notes.append(f"it cannot run in another thread ({raised!r:.100}), as workers do")
            if self._handler.is_async:
                self.leaves_out = {schedules.LOSE, schedules.OVERLAP}
                self.notes.append("so no other consumer can come in while it is stopped, and none was tried")
        if not same(here.effects, elsewhere.effects, ordered=True):
            raise Unprovable(
                f"{self.name}: the effects of two runs without any fault are not the same; leave out what "
                f"differs, such as times:\n{elsewhere.effects!r:.500}\n{here.effects!r:.500}"
            )
        if same(here.effects, self.before, ordered=True):
            raise Unprovable(
                f"{self.name}: effects() is after all bodies what it was before, and nothing would be proved: "
                f"let it look at what the handler changes; it is {self.before!r:.200}"
            )
        self._references[plain.numbers] = here.effects

    def _check_processes(self, elsewhere: Outcome, here: Outcome) -> None:
        for number, error in elsewhere.raised[:1]:
            raise Unprovable(
                f"{self.name} fails in a process of its own, at body {number}: {error}; let it open its "
                "connections by itself, or leave processes=True away"
            )
        nothing, something = (same(each.effects, self.before, ordered=True) for each in (elsewhere, here))
        if nothing and not something:
            raise Unprovable(
                f"{self.name}: what it does in a process of its own is not seen in this one: its effects are in "
                "memory, so leave processes=True away; or effects() does not look at the database"
            )

    def play(self, schedule: Schedule, *, elsewhere: bool = False, here: bool = False) -> Outcome:
        """In a world as new. ``elsewhere``: in another thread; ``here``: in this process, whatever is asked
        for."""
        _called(self._reset)
        if not same(self.before, now := self._snapshot(), ordered=False):
            raise Unprovable(
                f"reset() does not make the world as new: it is {now!r:.200}, was {self.before!r:.200}"
            )
        play = (Play if here else self.kind)(
            self._fresh_queue(),
            self._handler,
            self._codes,
            schedule,
            self._elements,
            patience=self._patience,
            one_thread=self._one_thread,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # of what a handler that was killed had open
            _in_thread(play.run) if elsewhere and self.kind is Play else play.run()
        self.played += 1
        if not self.paths:
            self.paths = play.paths
        return Outcome(self._snapshot(), play.story, play.happened, play.raised, play.acked)

    def _fresh_queue(self) -> Queue:
        options = self._queue.options
        made = Queue.of(
            replace(options, keys=replace(options.keys, prefix=next(self._prefixes))), self._queue.settings
        )
        made.links = self._queue.links.of(made.options.keys)
        return made

    def compared(self, schedule: Schedule, outcome: Outcome) -> Finding | None:
        """What is wrong with it."""
        numbers, ordered = schedule.numbers, schedule.keeps_order
        if numbers not in self._references:
            self._references[numbers] = self.play(schedules.reference(numbers)).effects
        found = differences(self.before, self._references[numbers], outcome.effects, ordered=ordered)
        return Finding(schedule, outcome.story, found) if found else None

    def _snapshot(self) -> Any:
        return copy.deepcopy(_called(self._effects))


@contextmanager
def stage_for(
    handler: Any,
    bodies: Sequence[Any],
    effects: Callable[[], Any],
    reset: Callable[[], Any],
    inside: Sequence[Any],
    processes: bool,
    url: str | None,
) -> Iterator[Stage]:
    """Set it up, and leave nothing behind in Redis."""
    if not 1 <= len(bodies) <= _MOST_BODIES:
        raise ConfigError(f"prove(bodies=…): 1 to {_MOST_BODIES}, and not {len(bodies)}; take those that tell")
    if processes and not hasattr(os, "fork"):
        raise ConfigError("prove(processes=True): this system cannot fork; leave it away")
    url = url or url_in(lambda: None)
    queue = _queue_like(handler.queue if isinstance(handler, Handler) else None, url)
    made = handler if isinstance(handler, Handler) else Handler(queue, handler)
    _check_loop(made.is_async, effects, reset)
    made_stage = Stage(queue, made, bodies, effects, reset, inside, processes)
    log = logging.getLogger("reliq")
    was, log.disabled = log.disabled, True  # hundreds of failures that are meant
    try:
        made_stage.look()
        yield made_stage
    finally:
        log.disabled = was
        with queue:
            purge(queue, f"{queue.options.keys.prefix}*", [])


def _queue_like(queue: Any, url: str) -> Queue:
    """With the options of the handler's own queue, as far as they matter here."""
    if queue is None:
        return Queue("proof", url, prefix=fresh_prefix(), max_losses=255)
    options = queue.options
    options = replace(
        options,
        keys=replace(options.keys, prefix=fresh_prefix(), key=None),
        claim_check=max(options.claim_check, options.max_body),
        max_losses=255,
        retry=Retry(),
        levels={},
    )
    return Queue.of(options, Settings.chosen(url, None).with_times(options.block, options.timeout))


def _check_loop(is_async: bool, *functions: Callable[[], Any]) -> None:
    if not (is_async or any(map(inspect.iscoroutinefunction, functions))):
        return
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise ConfigError(
        "prove() runs an event loop for each delivery, and one runs here already: call it from a plain test "
        "function, or as await asyncio.to_thread(prove, …)"
    )


def _called(function: Callable[[], Any]) -> Any:
    result = function()
    return asyncio.run(_awaited(result)) if inspect.isawaitable(result) else result


async def _awaited(result: Awaitable[Any]) -> Any:
    return await result


def _in_thread(work: Callable[[], None]) -> None:
    broken: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - it is raised below
            broken.append(error)

    thread = Thread(target=run, name="reliq-prover", daemon=True)
    thread.start()
    thread.join()
    if broken:
        raise broken[0]


def _notes(function: Any) -> list[str]:
    """What a kill that is an exception does not show."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(function))))
    except (OSError, TypeError, SyntaxError):
        return []
    for node in ast.walk(tree):
        if isinstance(node, ast.Try) and (node.finalbody or any(_catches_all(each) for each in node.handlers)):
            return [
                "its `finally` or `except BaseException` runs after a kill here, which a dead process would not do"
            ]
    return []


def _catches_all(handler: ast.ExceptHandler) -> bool:
    return handler.type is None or (isinstance(handler.type, ast.Name) and handler.type.id == "BaseException")
