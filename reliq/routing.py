"""The handlers of one queue in a worker: which of them a message is for, by its type, and what becomes of others.

The same in both shells; no I/O and no waiting in here. A worker of one handler for all messages has none of this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from reliq import context
from reliq.ack import Handler
from reliq.core import routing
from reliq.core.message import Message
from reliq.core.settling import Settling
from reliq.core.words import duration
from reliq.errors import ConfigError
from reliq.lease import report, settle_for
from reliq.logging import about, log

AnyHandler = Handler[..., Any]
#: So many unknown types are told of one by one: they may be anything.
_TOLD: Final = 100


class Routes:
    """Chooses by type: the handler of that type, else the one without a type, else none."""

    #: A message has to be looked into first.
    plain = None

    def __init__(self, handlers: Sequence[AnyHandler]) -> None:
        self.handlers = tuple(handlers)
        self.queue = handlers[0].queue
        self.watch = handlers[0].watch
        self._by_type = {handler.type: handler for handler in handlers}
        self._default = self._by_type.get(None)
        self._told: set[str | None] = set()

    @property
    def name(self) -> str:
        """Of all of them, for people."""
        return ", ".join(handler.name for handler in self.handlers)

    def each(self, change: Callable[[AnyHandler], AnyHandler]) -> Routes:
        """The same, with what ``change`` makes of each handler."""
        return Routes([change(handler) for handler in self.handlers])

    def take(self, message: Message) -> bool:
        """Note whose a message is; False: it is nobody's here, and its settle is made."""
        state, options = message.state, self.queue.options
        try:
            kind = message.type
        except (Exception, SystemExit) as error:  # noqa: BLE001 - the rule is the user's code, like the handler
            settle = settle_for(state, message, options.retry, error)
            token = context.enter(message)
            report(error, settle)
            context.leave(token)
            state.finished.append(settle)
            return False
        handler = self._by_type.get(kind, self._default)
        if handler is None:
            self._turn_away(state, message, kind, buries=options.unrouted == routing.BURY)
            return False
        message.route = handler
        return True

    def _turn_away(self, state: Settling, message: Message, kind: str | None, *, buries: bool) -> None:
        words = routing.words(kind)
        if buries:
            fate = f"dead-lettered as {routing.NO_HANDLER}"
            error = f"no handler of its worker takes messages of {words}"
            state.finished.append(state.bury(message, routing.NO_HANDLER, error))
        else:
            delay = routing.pause(routing.times_of(message.envelope.meta))
            fate = f"back in {duration(delay * 1000)}, and each time later, for a worker that has a handler for it"
            state.finished.append(state.unrouted(message, kind, delay))
        if kind in self._told or len(self._told) >= _TOLD:
            return
        self._told.add(kind)
        log.error(
            "queue %r: no handler here takes messages of %s, such as %s: %s. There are handlers for %s. "
            "(This is told once.)",
            message.queue, words, message.id, fate, self._known(), extra=about(message),
        )  # fmt: skip

    def _known(self) -> str:
        return ", ".join(routing.words(handler.type) for handler in self.handlers)


Handling = AnyHandler | Routes


def by_queue(handlers: Iterable[AnyHandler]) -> list[Handling]:
    """What handles each queue, in the order in which they are named; ConfigError for two that cannot be told
    apart."""
    groups: dict[str, list[AnyHandler]] = {}
    for handler in handlers:
        groups.setdefault(handler.queue.name, []).append(handler)
    return [_of_one(queue, group) for queue, group in groups.items()]


def _of_one(queue: str, handlers: list[AnyHandler]) -> Handling:
    first, seen = handlers[0], dict[str | None, AnyHandler]()
    for handler in handlers:
        if (other := seen.get(handler.type)) is not None:
            raise ConfigError(
                f"Worker(): two handlers for messages of {routing.words(handler.type)} in queue {queue!r}: "
                f"{other.name} and {handler.name}; name another type in one of them: @q.ack(type=)"
            )
        if not _same(first.queue, handler.queue):
            raise ConfigError(
                f"Worker(): {first.name} and {handler.name} are of two Queue objects named {queue!r} with other "
                "settings; make all handlers of a queue with one"
            )
        seen[handler.type] = handler
    return first if len(handlers) == 1 and first.type is None else Routes(handlers)


def _same(one: Any, other: Any) -> bool:
    if one is other:
        return True
    return (one.options.keys, one.settings) == (other.options.keys, other.settings)
