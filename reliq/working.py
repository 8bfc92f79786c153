"""What the loop of a worker decides: which queue is due for a trip, how much to claim, when to end.

The same in both shells; no I/O and no waiting in here.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Final, Generic, Protocol, TypeVar

from reliq import defaults
from reliq.ack import Handler
from reliq.batching import apart, gatherings
from reliq.core.consumer import Answer, ConsumerState
from reliq.core.levels import names as level_names
from reliq.core.message import Message, Settle
from reliq.core.pace import Pace
from reliq.core.retry import backoff
from reliq.errors import ConfigError, OutcomeUnknown, given
from reliq.identity import clock
from reliq.logging import log
from reliq.model import QueueOptions
from reliq.ranking import Lines, Ranking, Ranks
from reliq.routing import Handling, Routes, by_queue

#: While anything is in hand, a trip at least so often, seconds.
_SILENCE: Final = 1.0
#: A trip that waits behind the bell runs by itself when it is due; so much later nobody relies on that, seconds.
_SLACK: Final = 0.05
#: So many messages in one trip are a stream: the next trip will bring some, too.
_STREAM: Final = 64
#: How often to look whether suspects can be taken, seconds.
_SUSPECTS: Final = 0.25


class Stationed:
    """One queue of a worker process: what handles it, its consumer's state, and when it is due for a trip."""

    def __init__(
        self,
        index: int,
        handler: Handling,
        options: QueueOptions,
        state: ConsumerState,
        wake: Callable[[], None],
    ) -> None:
        self.index = index
        self.handler = handler
        self.plain = handler.plain
        #: What chooses among several handlers; else all messages are for one.
        self.routes = handler if isinstance(handler, Routes) else None
        #: Where messages gather for those of its handlers that take a list.
        self.gatherings = gatherings(handler.handlers)
        self._most = min(handler.batch or 1 for handler in handler.handlers)
        self.options = options
        self.state = state
        self.wake = wake
        state.owner = self
        state.whole_groups = bool(self.gatherings)
        #: A thread of ours waits for a message, and the next trip waits behind that.
        self.resting = False
        self._rang = False
        self._more = True
        self._streams = False
        self._may_wait = False
        self._shut_out = False
        self._due_at: float | None = None
        self._failures = 0
        self._again_at = 0.0
        #: It claims no more, and looks for orders every second.
        self.quiet = False

    def handler_of(self, message: Message) -> Handler[..., Any]:
        """The one that a message is for, which was handed on already."""
        handler: Any = self.handler if self.routes is None else message.route
        return handler  # type: ignore[no-any-return]

    @property
    def in_hand(self) -> int:
        """Messages claimed and not yet finished by a handler."""
        state = self.state
        return max(0, state.in_hand - len(state.finished) - state.under_way)

    @property
    def load(self) -> int:
        """So many slots that takes."""
        if not self.gatherings:
            return self.in_hand
        gathered = self.gatherings.values()
        return max(0, self.in_hand - sum([g.messages for g in gathered])) + sum([g.slots for g in gathered])

    def room(self, slots: int) -> int:
        """For how many messages to claim if so many slots are free: also for what fills up a bunch."""
        if not self.gatherings:
            return slots
        return slots * self._most + sum([g.lacking for g in self.gatherings.values()])

    @property
    def may_begin(self) -> bool:
        """Whether the next trip may be under way while handlers work on what the last one brought: then there is
        more where that came from, or will be by then."""
        return (self._more or self._streams) and not (
            self.state.suspects_wait or self.state.shut or self.state.unanswered
        )

    @property
    def is_idle(self) -> bool:
        """Whether nothing is in hand and nothing is owed to Redis."""
        state = self.state
        return not (state.held or state.finished or state.unanswered or self._rang)

    @property
    def may_have_more(self) -> bool:
        """Whether messages may be ready in Redis, as far as the last trip knows."""
        return self._more

    @property
    def has_work(self) -> bool:
        """Whether messages are in hand here, or may be ready in Redis as far as the last trip knows."""
        return bool(self.state.held or self.state.suspects_wait or self._shut_out or self._more)

    def asks(self) -> bool:
        """Whether the next trip may bring messages, or is wanted for others that it settles; not while it does not
        get through."""
        if self._failures:
            return False
        is_due = self._due_at is not None and clock() >= self._due_at
        return self._more or self._rang or is_due or bool(self.state.finished)

    def due_in(self, now: float, answered_at: float, *, free: bool) -> float:
        """Seconds until this queue needs a trip (0: now); ``free``: there are slots to claim for."""
        state = self.state
        slack = _SLACK if self.resting else 0.0
        waits = [state.renew_in(now) + slack]
        owed = state.unanswered and not self.resting
        if self._rang or state.finished or owed or (free and self._more):
            waits.append(0.0)
        if state.held or self.quiet:
            waits.append(answered_at + _SILENCE - now)
        if self._due_at is not None and free:
            waits.append(self._due_at - now + slack)
        return max(0.0, min(waits), self._again_at - now)

    def failed(self) -> None:
        """Redis does not answer: the next trip after a pause; never so long that it costs the lease when Redis
        is back (nobody is reaped before it has been up for one lease)."""
        self._failures += 1
        self._again_at = clock() + backoff(self._failures, most=self.options.lease / defaults.BACKOFF_SHARE)

    def noted(self, answer: Answer) -> None:
        """Remember what a trip says about the next one."""
        self._failures, self._again_at = 0, 0.0
        self._due_at = None if answer.due_in is None else clock() + answer.due_in
        suspects, held = self.state.suspects_wait, bool(self.state.held)
        # A trip that asked for nothing was not meant to know: ask when there are slots.
        self._more = not held if suspects else answer.asked == 0 or answer.more
        if suspects and held:
            self._due_at = clock() + _SUSPECTS
        self._streams = answer.brought >= _STREAM
        shut, self._shut_out = self.state.shut, answer.rests
        if shut:  # the bell would ring for what may not be claimed
            self._more, self._due_at, self._shut_out = False, clock() + shut, answer.more
        self._may_wait = not (answer.asked == 0 or self._more or suspects or shut)

    @property
    def bell_for(self) -> float | None:
        """For how many seconds to wait for the bell from now on; None if that makes no sense."""
        if not self._may_wait:
            return None
        block = self.options.block
        # BLMOVE takes 0 as for ever, so never less than 10 ms.
        return block if self._due_at is None else min(block, max(0.01, self._due_at - clock()))

    def finish(self, settle: Settle) -> None:
        """Have it done by the next trip; nobody waits. Called by handlers."""
        self.state.finished.append(settle)
        self.wake()

    def _unconfirmed(self, settle: Settle) -> OutcomeUnknown:
        id = settle.message.id
        return OutcomeUnknown(
            f"queue {self.options.name!r}: {settle.verb} of message {id} is not confirmed yet: Redis does not "
            "answer. It is repeated until it does, or the lease ends.",
            ids=[id],
        )

    def give_back(self, messages: Sequence[Message]) -> None:
        """Put back what no handler has seen. Each goes to the head, and perhaps not all by one trip: so the last
        first, and they keep their order."""
        self.state.finished.extend([self.state.release(message) for message in reversed(messages)])

    def give_back_all(self, in_handlers: Iterable[Message]) -> None:
        """Put back whatever is held and not settled, in order; what handlers have in hand was delivered."""
        seen, state = {id(message) for message in in_handlers}, self.state
        unsettled = reversed(state.unsettled())
        state.finished.extend([state.release(message, handled=id(message) in seen) for message in unsettled])


class Executor(Protocol):
    """What runs handlers (``running``)."""

    def call_off(self, message: Message) -> None:
        """This message was cancelled."""


S = TypeVar("S", bound=Stationed)


class Working(Generic[S]):
    """Counts slots over all queues of the process, holds back what must wait, and knows when to end."""

    def __init__(
        self,
        *,
        concurrency: int,
        prefetch: int,
        grace: float,
        name: str = "",
        until_empty: bool = False,
        ranks: Ranks | None = None,
    ) -> None:
        self.pace = Pace(concurrency, prefetch)
        self.stations: list[S] = []
        self._ranking = None if ranks is None else Ranking(ranks, self.stations)
        self.who = f"pid={os.getpid()} {name}".strip()
        self.leave_by: float | None = None
        self.stops = 0
        self.is_quiet = False
        #: Whether some queue has several handlers, or one that takes only a part of its messages.
        self.has_routes = False
        #: Whether some handler takes a list.
        self.gathers = False
        self._grace = grace
        self._until_empty = until_empty
        self._deferred: deque[Message] = deque()
        self._suspects: deque[Message] = deque()
        self._server_clock: float | None = None
        self._first = 0

    @property
    def free(self) -> int:
        """Slots to claim for."""
        return max(0, self.pace.capacity - self.load) if self._claims else 0

    @property
    def _claims(self) -> bool:
        return not (self.leave_by is not None or self._suspects or self.is_quiet)

    @property
    def in_hand(self) -> int:
        """Messages of all queues that are claimed and not finished."""
        return sum(station.in_hand for station in self.stations)

    @property
    def load(self) -> int:
        """The slots that these take."""
        return sum(station.load for station in self.stations) if self.gathers else self.in_hand

    @property
    def share(self) -> int:
        """Slots to claim for if a trip is under way while handlers work: half of what they may hold, so that the
        other half is in their hands."""
        return min(self.free, (self.pace.capacity + 1) // 2) if self._overlaps else self.free

    def rooms(self) -> Callable[[S], int]:
        """For how many messages to claim, by queue: one for each slot, or several for handlers that take a list.
        If queues are ranked, as they are now: else who comes later would get what handlers have made free since,
        and not its share."""
        if self._ranking is None:
            if self.gathers:
                return lambda station: station.room(self.free) if self._claims else 0
            return lambda station: self.share
        rooms = self._ranking.rooms(self.pace.capacity) if self._claims else [0] * len(self.stations)
        if self.gathers and self._claims:
            return lambda station: station.room(rooms[station.index])
        return lambda station: rooms[station.index]

    @property
    def rounds(self) -> range:
        """How often to go over the queues: if they are ranked, slots that one of them leaves go to another."""
        return range(1 if self._ranking is None else len(self.stations))

    def ahead(self, station: S) -> int:
        """For how many messages to have the next trip of this queue under way already (``share``); 0: not now."""
        share = self.share if self._overlaps and self.leave_by is None and station.may_begin else 0
        return share if share > 1 else 0

    @property
    def _overlaps(self) -> bool:
        # Not with several queues: each would claim ahead at the cost of the others.
        return self.pace.quick and len(self.stations) == 1 and not self.gathers

    def know_handlers(self) -> None:
        """All stations are there: note what is not asked for each message."""
        self.has_routes = any(station.routes is not None for station in self.stations)
        batches = [gathering.most for station in self.stations for gathering in station.gatherings.values()]
        if batches:
            self.gathers, self.pace.most = True, self.pace.most // max(batches)

    def defer(self, message: Message) -> None:
        """The lease of this one is not certain enough to start on it: after the next trip."""
        self._deferred.append(message)

    def end(self, called_off: Iterable[Message], executors: Collection[Executor]) -> None:
        """These were cancelled: what no handler has seen is given back, which ends it; the handlers of others are
        told."""
        for message in called_off:
            gathered = [] if self._ranking is None else self._ranking.gathered
            for waiting in (self._deferred, self._suspects, gathered):
                if message in waiting:
                    waiting.remove(message)
                    message.state.owner.give_back([message])
            if any(gathering.remove(message) for gathering in message.state.owner.gatherings.values()):
                message.state.owner.give_back([message])
            for executor in executors:
                executor.call_off(message)

    def ready(self, fresh: list[Message]) -> list[Message]:
        """What may start now, in order: deferred ones whose lease is certain again, then fresh ones. With
        several queues, a suspect waits here until nothing else is in hand in this process, or a lease."""
        if self.has_routes:
            fresh = [m for m in fresh if (routes := m.state.owner.routes) is None or routes.take(m)]
        messages = self._take_deferred() + fresh if self._deferred else fresh
        if len(self.stations) > 1:
            self._suspects.extend(m for m in messages if m.suspect)
            messages = [m for m in messages if not m.suspect]
            if self._suspects and self.in_hand == len(self._suspects):
                messages.append(self._suspects.popleft())
        return self._bunched(messages) if self.gathers else messages

    def _bunched(self, messages: list[Message]) -> list[Message]:
        """Let those gather that are for handlers of batches: they start together."""
        now, slots = clock(), self.pace.concurrency
        ready = []
        for message in messages:
            station = message.state.owner
            gathering = None if message.many else station.gatherings.get(station.handler_of(message))
            if gathering is None:
                ready.append(message)
            else:
                gathering.add(message, now)
        for station in self.stations:
            hurry = self._hurries(station)
            for gathering in station.gatherings.values():
                ready += gathering.bunches(now, slots, hurry=hurry)
        return ready

    def _hurries(self, station: S) -> bool:
        """Whether nothing is to be waited for: no more will come, or a suspect wants to be alone."""
        ends = self.is_quiet or self.leave_by is not None or (self._until_empty and not station.may_have_more)
        return bool(ends or station.state.shut or self._suspects or station.state.suspects_wait)

    def look_in(self, now: float) -> float | None:
        """Seconds after which to look whether what waits for something else than a slot may start; None: there is
        no such thing."""
        waits = [0.05] if self._deferred or self._suspects else []
        if self.gathers:
            slots = self.pace.concurrency
            for station in self.stations:
                dues = [gathering.due_in(now, slots) for gathering in station.gatherings.values()]
                known = [due for due in dues if due is not None]
                waits += [0.0] * len(known) if known and self._hurries(station) else known
        return min(waits, default=None)

    def _take_deferred(self) -> list[Message]:
        now = clock()
        deferred = [self._deferred.popleft() for _ in range(len(self._deferred))]
        self._deferred.extend(m for m in deferred if not m.lost and not m.state.fresh(now))
        return [m for m in deferred if m.state.fresh(now)]

    def lines(self) -> Lines | deque[Message]:
        """Where messages wait for the handlers of one executor."""
        return deque() if self._ranking is None else self._ranking.lines()

    def in_turn(self) -> list[S]:
        """The queues in the order in which they may claim: as they are ranked; else whoever got messages last
        comes last, so that a queue that is never empty leaves slots to the others."""
        if self._ranking is not None:
            return self._ranking.in_turn()
        return self.stations[self._first :] + self.stations[: self._first]

    def got_messages(self, station: S, messages: int) -> None:
        """The others have their turn first now, as far as they are due that for so many."""
        if self._ranking is not None:
            self._ranking.took(station, messages)
        self._first = (station.index + 1) % len(self.stations)

    def take_held_back(self) -> list[Message]:
        """These are not run any more."""
        messages = [*self._deferred, *self._suspects]
        self._deferred.clear()
        self._suspects.clear()
        for station in self.stations if self.gathers else ():
            for gathering in station.gatherings.values():
                messages += [message for message, _ in gathering.take()]
        return messages

    def gather(self, messages: list[Message]) -> list[Message]:
        """What a trip brought, to be handed on at once; if queues are ranked, only when all that are due have made
        theirs (``gathered``): else whatever came first would be handed over before."""
        if self._ranking is None:
            return messages
        self._ranking.gathered += messages
        return []

    def gathered(self) -> list[Message]:
        """What is still to be handed on."""
        if self._ranking is None or not self._ranking.gathered:
            return []
        messages, self._ranking.gathered = self._ranking.gathered, []
        return messages

    def return_overtaken(self, now: float) -> None:
        """Put back what waits here for nothing while others' messages are handed over."""
        if self._ranking is not None:
            give_back(self._ranking.overtaken(now))

    def was_cut_off(self, station: S, before: float, server_ms: int) -> bool:
        """Whether after this trip others may not have been able to renew either: we were out of touch since
        ``before``, or the server's clock has jumped. Then nothing is reaped by lease for one lease."""
        lease, now = station.options.lease, clock()
        offset = server_ms / 1000 - now
        jumped = self._server_clock is not None and abs(offset - self._server_clock) > lease / 2
        self._server_clock = offset
        return jumped or now - before > lease / defaults.CUT_OFF_SHARE

    @property
    def may_rest(self) -> bool:
        """Whether the next trip may wait behind the bell. Not with several queues: it claims for all free slots.
        Nor if the answer that nothing is ready is what is waited for."""
        return self.leave_by is None and len(self.stations) == 1 and not self._until_empty

    def is_empty(self) -> bool:
        """Whether ``until_empty`` may end: nothing in hand, and every queue has said that nothing is ready."""
        return self._until_empty and not any(s.has_work for s in self.stations)

    def be_quiet(self) -> None:
        """Claim no more, and live on; what is in hand is handled."""
        self.is_quiet = True
        for station in self.stations:
            station.quiet = True

    def stop_requested(self) -> bool:
        """Begin to leave if that was asked for since; True at that moment."""
        return bool(self.stops) and self.begin_to_leave(clock() + self._grace)

    def retire(self) -> bool:
        """Leave because a handler here is stuck; the supervisor starts another process."""
        return self.begin_to_leave(clock() + self._grace)

    def begin_to_leave(self, by: float) -> bool:
        """Claim no more and let handlers finish until then; True the first time."""
        if self.leave_by is not None:
            return False
        self.leave_by = by
        log.info("worker stops: claims no more, lets its handlers finish")
        return True

    def is_over(self, *, at_work: bool) -> bool:
        """Whether to end now: all came back and all is settled, or the grace is over, or asked twice."""
        if self.leave_by is None:
            return False
        owing = any(s.state.finished or s.state.unanswered for s in self.stations)
        return self.stops >= 2 or clock() > self.leave_by or not (at_work or owing)


def give_back(messages: Sequence[Message]) -> None:
    """Put back what no handler has seen, whichever queues it is of."""
    for message in reversed(list(apart(messages))):
        message.state.owner.give_back([message])


def tell_unfinished(messages: Iterable[Message]) -> None:
    """One line about the handlers that a worker leaves behind at its end."""
    ids = [message.id for message in messages]
    if ids:
        log.warning(
            "%d handler(s) did not end in time; their messages go back to be handled again, the first: %s",
            len(ids),
            ids[0],
        )


def check_worker(
    handlers: tuple[Any, ...], *, concurrency: int, processes: int, grace: float, prefetch: int
) -> None:
    """Check a worker's arguments; ConfigError says what is wrong."""
    if not handlers:
        raise ConfigError("Worker(): give it at least one handler, made with @q.ack")
    for handler in handlers:
        if not isinstance(handler, Handler):
            raise ConfigError(f"Worker({handler!r}): not a handler; decorate the function with @q.ack")
    queues = [handling.queue for handling in by_queue(handlers)]
    names = [name for queue in queues for name in level_names(queue.name, queue.options.levels)]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise ConfigError(
            f"Worker(): several handlers for queue {', '.join(sorted(twice))}: one of them is a level of another "
            "one of these queues; leave its handler out"
        )
    limits = (("concurrency", concurrency, 1), ("processes", processes, 1), ("prefetch", prefetch, 0))
    for label, value, least in limits:
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ConfigError(f"Worker({label}={value!r}): a whole number, at least {least}")
    if isinstance(grace, bool) or not isinstance(grace, int | float) or grace < 0:
        raise ConfigError(f"Worker(grace={given(grace)}): seconds, not negative")
