"""Handlers that take a list: messages that gather for one, the bunch that it gets, and what becomes of each.

The same in both shells; no I/O and no waiting in here. A worker without such a handler has none of this.

To slots and lines a bunch is one message, the first of it; but each keeps its own lease, attempts and fate. One
that a worker has died with (a suspect) is a bunch of its own, and so are messages of one group (``put(group=)``).
"""

from __future__ import annotations

import logging
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, ClassVar

from reliq.ack import Handler
from reliq.core.lanes import group_of
from reliq.core.message import BURY, Message, Settle
from reliq.core.verdict import describe
from reliq.errors import BatchFailed
from reliq.identity import clock
from reliq.lease import Leased, done, report, settle_for
from reliq.logging import log


class Bunch(Message):
    """Messages that one handler gets at once, in order."""

    __slots__ = ("gathering", "leases", "messages")
    many: ClassVar[bool] = True

    def __init__(self, messages: list[Message], gathering: Gathering) -> None:
        first = messages[0]
        super().__init__(first.element, None, first.state, first.envelope)
        self.route = gathering.handler
        self.messages = messages
        self.gathering = gathering
        #: One for each of them, once it is handed over to a handler that wants them.
        self.leases: list[Any] = []

    def over(self, now: float) -> bool:
        """Leave out what may not be handed over (any more); whether nothing is left then."""
        self.messages = [message for message in self.messages if self._stays(message, now)]
        if not self.messages:
            self.gathering.live.discard(self)
        return not self.messages

    def _stays(self, message: Message, now: float) -> bool:
        state = message.state
        if message.lost or message.minded:
            return False
        if message in state.called_off:
            state.owner.give_back([message])
            return False
        return message.known is None or not state.expired(message, now)

    @property
    def raw_ids(self) -> bytes:
        return b"".join([message.raw_ids for message in self.messages])

    @property
    def unsettled(self) -> list[Message]:
        """Those of which its handler has not said by hand what becomes of them."""
        settled = {id(lease._message) for lease in self.leases if lease.settled}
        return [message for message in self.messages if id(message) not in settled]

    def end(self) -> None:
        """Its handler is through, and nothing more is heard of leases that it has kept."""
        for lease in self.leases:
            lease.mark_settled()
        self.gathering.live.discard(self)

    def apart(self) -> list[Message]:
        """Its messages, which are not to be handed over together any more."""
        self.gathering.live.discard(self)
        return self.messages


def each_of(message: Message) -> Sequence[Message]:
    """Those that it stands for."""
    return message.messages if isinstance(message, Bunch) else (message,)


def apart(messages: Iterable[Message]) -> Iterator[Message]:
    """All of these one by one."""
    for message in messages:
        if isinstance(message, Bunch):
            yield from message.apart()
        else:
            yield message


class Gathering:
    """What has come for one handler of batches from one queue, and was not handed over."""

    def __init__(self, handler: Handler[..., Any]) -> None:
        assert handler.batch is not None
        self.handler = handler
        self.most, self._wait = handler.batch, handler.wait
        self.held: deque[tuple[Message, float]] = deque()  # with the time when it came
        self._suspects: list[Message] = []
        #: Messages of groups, which have gathered before and wait for nothing here.
        self._grouped: dict[str, list[Message]] = {}
        #: Bunches that wait for a slot, or are in a handler's hands.
        self.live: set[Bunch] = set()

    @property
    def slots(self) -> int:
        """So many its messages take, or will."""
        waiting = len(self._suspects) + len(self._grouped) + -(-len(self.held) // self.most)
        return len(self.live) + waiting

    @property
    def messages(self) -> int:
        """How many these are."""
        waiting = len(self.held) + len(self._suspects) + sum(map(len, self._grouped.values()))
        return waiting + sum([len(bunch.messages) for bunch in tuple(self.live)])

    @property
    def lacking(self) -> int:
        """How many are missing for the next full bunch, if there is a beginning of one."""
        return -len(self.held) % self.most

    def add(self, message: Message, now: float) -> None:
        """One more has come."""
        if message.suspect:
            self._suspects.append(message)
        elif message.known is not None and (group := group_of(message.envelope.meta)) is not None:
            self._grouped.setdefault(group, []).append(message)
        else:
            self.held.append((message, now))

    def bunches(self, now: float, slots: int, *, hurry: bool) -> Iterator[Bunch]:
        """What may go, in order. One that is not full waits for its time (not if others wait for it, ``hurry``),
        and while all ``slots`` are taken: it may fill up until one is free."""
        while len(self.held) >= self.most:
            yield self._bunch([self.held.popleft()[0] for _ in range(self.most)])
        if self.held and len(self.live) < slots and (hurry or now - self.held[0][1] >= self._wait):
            yield self._bunch([message for message, _ in self.take()])
        while self._grouped:
            _, together = self._grouped.popitem()
            for start in range(0, len(together), self.most):
                yield self._bunch(together[start : start + self.most])
        while self._suspects:
            yield self._bunch([self._suspects.pop(0)])

    def _bunch(self, messages: list[Message]) -> Bunch:
        made = Bunch(messages, self)
        self.live.add(made)
        return made

    def due_in(self, now: float, slots: int) -> float | None:
        """Seconds until one that is not full goes all the same; None: that is not to be waited for."""
        if not self.held or len(self.live) >= slots:
            return None
        return max(0.0, self.held[0][1] + self._wait - now)

    def take(self) -> list[tuple[Message, float]]:
        """Those that wait to be more; they do not any longer."""
        taken = list(self.held)
        self.held.clear()
        return taken

    def remove(self, message: Message) -> bool:
        """Take out one that waits; whether it did."""
        for waiting in self.held:
            if waiting[0] is message:
                self.held.remove(waiting)
                return True
        return False


def gatherings(handlers: Iterable[Handler[..., Any]]) -> dict[Handler[..., Any], Gathering]:
    """One for each handler of a queue that takes a list."""
    return {handler: Gathering(handler) for handler in handlers if handler.batch is not None}


class Several:
    """What such a handler is called with: ``bodies``, and ``leases``, made if it wants them. What does not fit its
    annotation is settled, and not among them."""

    def __init__(self, bunch: Bunch, make: Callable[[Message], Leased]) -> None:
        handler, fit = bunch.gathering.handler, bunch.gathering.handler.fit
        self.bodies: list[Any] = []
        self.leases: list[Leased] = []
        stay = []
        for message in bunch.messages:
            try:
                self.bodies.append(message.body if fit is None else fit(message.body))
            except BaseException as error:  # noqa: BLE001 - the class is the user's code, like the handler
                settle = settle_for(message.state, message, handler.retry, error)
                report(error, settle)
                message.state.finished.append(settle)
            else:
                stay.append(message)
        bunch.messages, bunch.body = stay, self.bodies
        if handler.wants_leases:
            self.leases = bunch.leases = [make(message) for message in stay]
        else:
            for message in stay:
                if message.traced:
                    message.handed_over(clock)


def settle_bunch(
    bunch: Bunch, error: BaseException | None, result: Any = None, trace: str | None = None
) -> list[Settle]:
    """Have settled what its handler has not settled itself: by the outcome, each by its own if it is BatchFailed.
    A result that is a list of as many has one for each. Returns those that failed."""
    state, retry = bunch.state, bunch.gathering.handler.retry
    left, errors = bunch.unsettled, _errors(bunch.messages, error)
    bunch.end()
    results = dict(zip(map(id, bunch.messages), _results(bunch, result), strict=True))
    failed, traces = [], {}  # type: list[Settle], dict[int, str]
    for message in left:
        reason = errors.get(id(message))
        if reason is None:
            is_plain = message.known is None or not message.heeded
            state.finished.append(message if is_plain else done(state, message, results[id(message)]))
            continue
        told = trace or traces.get(id(reason))
        if told is None:
            told = traces[id(reason)] = _formatted(reason)
        failed.append(settle_for(state, message, retry, reason, told))
    state.finished.extend(failed)
    if isinstance(error, Exception) and not left:
        log.error("failed after all of the batch was settled: %s", describe(error), exc_info=error)
    if failed:
        _tell(bunch, failed, errors)
    return failed


def _formatted(error: BaseException) -> str:
    with suppress(Exception):  # its class is the user's code
        return "".join(traceback.format_exception(error))
    return ""


def _results(bunch: Bunch, result: Any) -> list[Any]:
    """For each what its lease was told, or its part of what the handler returned."""
    count = len(bunch.messages)
    each = list(result) if isinstance(result, list | tuple) and len(result) == count else [None] * count
    told = [lease._result for lease in bunch.leases] or [None] * count
    return [own if said is None else said for own, said in zip(each, told, strict=True)]


def _errors(messages: Sequence[Message], error: BaseException | None) -> Mapping[int, BaseException]:
    """What each has failed with; those that have not are missing. If it names what is not there, all have."""
    if error is None:
        return {}
    if not isinstance(error, BatchFailed):
        return {id(message): error for message in messages}
    places: dict[Any, Message] = {message.id: message for message in messages}
    places |= dict(enumerate(messages))
    if unknown := [key for key in error.failures if key not in places]:
        wrong = TypeError(f"BatchFailed names {unknown[0]!r}, which is neither an index nor an id of its batch")
        return {id(message): wrong for message in messages}
    return {id(places[key]): reason for key, reason in error.failures.items()}


def _tell(bunch: Bunch, failed: list[Settle], errors: Mapping[int, BaseException]) -> None:
    """One record for all."""
    dead = sum(settle.verb == BURY for settle in failed)
    counted = [settle for settle in failed if settle.verb in (BURY, "retry")]
    if not counted:
        return
    first = counted[0].message
    log.log(
        logging.ERROR if dead else logging.WARNING,
        "%d of %d messages of a batch failed, %d of them dead-lettered; the first is %s: %s",
        len(counted), len(bunch.messages), dead, first.id, describe(errors[id(first)]),
    )  # fmt: skip
