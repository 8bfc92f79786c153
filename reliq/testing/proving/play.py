"""One schedule, played on a real queue: who gets what, what happens to it, and what becomes of the effects."""

from __future__ import annotations

import inspect
import linecache
import sys
import threading
import time
from collections.abc import Callable
from contextvars import copy_context
from itertools import count
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Final

import redis

import reliq
from reliq.ack import Handler
from reliq.core.command import Command
from reliq.core.dead import LetterWalk
from reliq.core.verdict import describe
from reliq.sync.queue import Queue
from reliq.testing.proving.actor import Actor, Killed, die, expire, refused
from reliq.testing.proving.schedules import DELIVER, FAIL, KILL, LOSE, OVERLAP, Schedule, Stop
from reliq.testing.proving.stops import Tracer

#: A message that was handed out so often and is still there is left where it is.
_MOST: Final = 10
#: Seconds that a handler has in all.
DEADLINE: Final = 30.0
_POLL: Final = 0.01
#: Where a thread waits for Redis.
_OURS: Final = tuple(str(Path(inspect.getfile(each)).parent) for each in (reliq, redis))


class Fault(Exception):
    """What a handler meets where a schedule lets it fail."""


class Stuck(AssertionError):
    """A handler did not come to an end."""


class Play:
    """``elements`` of the bodies, by number, and their ids. ``patience``: seconds that another consumer may
    stand still while one is stopped; then that one goes on, as the other may wait for a lock of it.
    ``one_thread``: the handler can run in this one alone, so the other runs inside of the stop."""

    def __init__(
        self,
        queue: Queue,
        handler: Handler[..., Any],
        codes: frozenset[CodeType],
        schedule: Schedule,
        elements: dict[int, bytes],
        *,
        patience: float,
        one_thread: bool,
    ) -> None:
        self._queue, self._handler, self._codes, self._schedule = queue, handler, codes, schedule
        self._elements, self._patience, self._one_thread = elements, patience, one_thread
        self._numbers = {element[23:39].hex(): number for number, element in elements.items()}
        self._names = (f"{chr(65 + n % 26)}{n // 26 or ''}" for n in count())
        self._lock = threading.Lock()
        self._others: list[threading.Thread] = []
        self._broken: list[BaseException] = []
        self.story: list[str] = []
        #: Whether what is to happen has happened.
        self.happened = False
        #: Through which lines each body went, first to last.
        self.paths: dict[int, list[Stop]] = {}
        #: What the handler raised, by number of body, where nothing else was to happen.
        self.raised: list[tuple[int, BaseException]] = []
        #: Whose acks were accepted.
        self.acked: set[int] = set()

    def run(self) -> None:
        """All of it. Raises Stuck, or what is wrong with Redis."""
        for number in self._schedule.order:
            if not (number == self._schedule.other and self._schedule.kind == OVERLAP):
                self._push(number)
                self._drain(at_most=_MOST)
        if (
            self._schedule.kind == OVERLAP and not self.happened
        ):  # without the other one before it went another way
            self._push(self._schedule.other)
            self._drain(at_most=_MOST)
        self._tell_what_is_left()

    def _push(self, number: int) -> None:
        keys = self._queue.options.keys
        self._queue.links.run(Command("LPUSH", (keys.ready,), (self._elements[number],)))

    # -- who gets what ----------------------------------------------------------------------------------

    def _drain(self, *, at_most: int, beside: bool = False) -> None:
        """One consumer after the other, until nothing is there for them. ``beside``: one that is stopped."""
        actor = self._actor()
        for _ in range(at_most):
            lease = actor.claim()
            if lease is None:
                break
            if self._deliver(actor, lease):
                actor = self._actor()
            if not beside:
                self._join()
        actor.leave()

    def _actor(self) -> Actor:
        return Actor(self._queue, self._handler, self._name())

    def _name(self) -> str:
        with self._lock:
            return next(self._names)

    def _deliver(self, actor: Actor, lease: Any) -> bool:
        """One delivery; True if its consumer is no more."""
        number = self._numbers[lease.id]
        self._say(f"{actor.name} gets {number} (delivery {lease.deliveries}, fence {lease.fence})")
        meets = number == self._schedule.target and not self.happened
        if meets and self._schedule.kind == KILL and self._schedule.stop is None:
            actor.on_settle = lambda: self._kill(actor, "after its handler, before its ack")
        actor.raised = actor.settled = None
        late = False
        try:
            with Tracer(self._codes, self._visitor(number, actor, meets)):
                late = refused(actor, lease)
        except Killed:
            actor.raised = None  # with its frames goes what they have open: now, and not in the next play
            actor.engine.close()
            die(self._queue, actor.state.name, lease.id)
            return True
        self._tell_of(number, actor, late)
        return False

    def _visitor(self, number: int, actor: Actor, meets: bool) -> Callable[[Stop, FrameType], None]:
        path = self.paths.setdefault(number, [])
        fresh = not path

        def visit(stop: Stop, frame: FrameType) -> None:
            if fresh:
                path.append(stop)
            if meets and not self.happened and stop == self._schedule.stop:
                line = linecache.getline(frame.f_code.co_filename, stop.line).strip()
                self._meet(actor, f"before {stop}: {line}")

        return visit

    # -- what happens -----------------------------------------------------------------------------------

    def _meet(self, actor: Actor, where: str) -> None:
        if self._schedule.kind == KILL:
            self._kill(actor, where)
            raise Killed
        self.happened = True
        if self._schedule.kind == FAIL:
            self._say(f"{actor.name} fails {where}")
            raise Fault("an error of the schedule's")
        self._say(f"{actor.name} is stopped {where}")
        self._stop(actor, actor.state.name)

    def _stop(self, actor: Actor, consumer: str) -> None:
        """Where another consumer comes in."""
        self._before_another(consumer)
        self._beside(lambda: self._drain(at_most=3, beside=True))
        self._say(f"{actor.name} goes on")

    def _before_another(self, consumer: str) -> None:
        if self._schedule.kind == LOSE:
            expire(self._queue, consumer)
            self._say("its lease ends, the message goes back")
        else:
            self._push(self._schedule.other)

    def _kill(self, actor: Actor, where: str) -> None:
        self.happened = actor.killed = True
        self._say(f"{actor.name} is killed {where}")

    def _beside(self, work: Callable[[], None]) -> None:
        """While the one that is stopped stands where it is."""
        if self._one_thread:
            work()
            return

        def run() -> None:
            try:
                work()
            except BaseException as error:  # noqa: BLE001 - it is raised where the play ends
                self._broken.append(error)

        thread = threading.Thread(target=copy_context().run, args=(run,), name="reliq-prover", daemon=True)
        thread.start()
        _watch(thread, self._patience)
        if thread.is_alive():
            self._say("the other one waits, it may be for a lock")
        self._others.append(thread)

    def _join(self) -> None:
        while self._others:
            thread = self._others.pop()
            thread.join(DEADLINE)
            if thread.is_alive():
                raise Stuck(f"a handler did not end within {DEADLINE:.0f} s:\n" + "\n".join(self.story))
        if self._broken:
            raise self._broken[0]

    # -- what is told -----------------------------------------------------------------------------------

    def _say(self, line: str) -> None:
        with self._lock:
            self.story.append(line)

    def _tell_of(self, number: int, actor: Actor, late: bool) -> None:
        raised, settle = actor.raised, actor.settled
        if actor.acked:
            self.acked.add(number)
        if raised is not None and self._schedule.kind == DELIVER:
            self.raised.append((number, raised))
        what = "nothing" if settle is None else settle.verb
        told = f"{actor.name} raises {describe(raised)}: {what}" if raised else f"{actor.name} ends: {what}"
        self._say(f"{told}, refused: it comes too late" if late else told)
        actor.raised = None

    def _tell_what_is_left(self) -> None:
        size = self._queue.size()
        if size.ready or size.later:
            self._say(f"after {_MOST} deliveries a message is still there; it is left alone")
        walk = LetterWalk(self._queue.options.keys)
        while size.dead and not walk.done:
            for letter in self._queue.links.flow(walk.step_g()):
                self._say(f"{self._numbers.get(letter.id, '?')} is a dead letter: {letter.cause}, {letter.error}")


def _watch(thread: threading.Thread, patience: float) -> None:
    """Until it ends, or stays where it is for so many seconds. To wait for Redis, on a busy machine, is no
    standstill."""
    since, before = time.monotonic(), None
    begun = since
    while thread.is_alive() and time.monotonic() - begun < DEADLINE / 2:
        thread.join(_POLL)
        frame = sys._current_frames().get(thread.ident or 0)
        place = frame and (frame.f_code, frame.f_lasti)
        if place != before or (frame and frame.f_code.co_filename.startswith(_OURS)):
            since, before = time.monotonic(), place
        elif time.monotonic() - since > patience:
            return
