"""``@reliq.idempotent``: a handler that does the work of a key once, however many messages ask for it."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

from reliq import defaults
from reliq.core import idempotency
from reliq.core.idempotency import Entered
from reliq.errors import ConfigError, LeaseLost, OutcomeUnknown, Release, Unavailable, given
from reliq.logging import log

if TYPE_CHECKING:
    from reliq.ack import Handler
    from reliq.core.command import Command
    from reliq.lease import Leased

F = TypeVar("F", bound=Callable[..., Any])
#: Where a function that is yet to become a handler says it.
MARK: Final = "__reliq_idempotent__"
_LONGEST: Final = 500
#: Most seconds for which a message waits whose key is in hand.
_LONGEST_PAUSE: Final = 30.0


def idempotent(*, key: str | Callable[[Any], Any], ttl: float = defaults.IDEMPOTENT) -> Callable[[F], F]:
    """Let a handler do the work of a key once: below ``@q.ack`` or above it.

    ``key``: the name of a field of the body, or a function of the body (as the handler gets it); a text of at most
    500 characters or a whole number; of one queue, one level and one type of messages. ``ttl``: so many seconds a
    key that is done is known.

    A message whose key is done is acked, and no handler gets it: whoever waits for its result gets what the first
    one returned (up to 4 kB). While another message with the key is in hand, it is released, and comes back after
    a second. The key is done in the very step in which the ack is accepted; an attempt that failed, or a worker
    that died, leaves it free for the next. So it does not replace what makes one message safe to repeat
    (``lease.fence``, an inbox): a worker can die between its effect and its ack, and then the message is handled
    again.
    """
    if not callable(key) and not (isinstance(key, str) and key):
        raise ConfigError(f"idempotent(key={key!r}): the name of a field of the body, or a function of the body")
    if isinstance(ttl, bool) or not isinstance(ttl, int | float) or not 0.001 <= ttl < 1e9:
        raise ConfigError(f"idempotent(ttl={given(ttl)}): for how many seconds a key that is done is known")
    once = Idempotent(key, float(ttl))

    def decorate(function: F) -> F:
        from reliq.ack import Handler

        if isinstance(function, Handler):
            made: Any = copy(function)
            once.on(made)
            return made  # type: ignore[no-any-return]  # of the same class
        try:
            setattr(function, MARK, once)
        except AttributeError:
            raise ConfigError(
                f"idempotent({function!r}): it takes no attributes; put the decorator above @q.ack, or wrap it in "
                "a function"
            ) from None
        return function

    return decorate


@dataclass(frozen=True)
class Idempotent:
    """What the decorator says, and how a handler is called by it."""

    key: str | Callable[[Any], Any]
    ttl: float

    def on(self, handler: Handler[..., Any]) -> None:
        """Have it called by this."""
        if handler.batch is not None:
            raise ConfigError(
                f"{handler.name}: idempotent handlers get one message at a time: leave out batch=, or keep the "
                "keys that are done where the effects are"
            )
        handler.once, handler.plain = self, None

    def call(self, handler: Handler[..., Any], lease: Leased, run: Callable[[], Any]) -> Any:
        """What the handler returns now, or has returned for this key before."""
        marker = self._marker(handler, lease)
        try:
            entered = _insisting(handler, lease)(entering(lease, marker, self.ttl))
        except (Unavailable, OutcomeUnknown) as error:
            raise _later(error) from error
        return run() if self._may_begin(entered, lease, marker) else entered.value

    async def acall(self, handler: Handler[..., Any], lease: Leased, run: Callable[[], Any]) -> Any:
        """The same, of a coroutine function."""
        marker = self._marker(handler, lease)
        try:
            entered = await _insist(_insisting(handler, lease), entering(lease, marker, self.ttl))
        except (Unavailable, OutcomeUnknown) as error:
            raise _later(error) from error
        return await run() if self._may_begin(entered, lease, marker) else entered.value

    def text(self, body: Any) -> str:
        """The key of a body; ConfigError if it has none."""
        try:
            if callable(self.key):
                found = self.key(body)
            else:
                found = body[self.key] if isinstance(body, Mapping) else getattr(body, self.key)
        except (KeyError, AttributeError) as error:
            raise ConfigError(f"idempotent(key={self.key!r}): the body has no such field: {error}") from error
        if isinstance(found, int) and not isinstance(found, bool):
            found = str(found)
        if not isinstance(found, str) or not 0 < len(found) <= _LONGEST:
            raise ConfigError(
                f"idempotent(key={self.key!r}): it is {found!r:.100} for this body; a text of 1 to {_LONGEST} "
                "characters, or a whole number"
            )
        return found

    def _marker(self, handler: Handler[..., Any], lease: Leased) -> str:
        body = lease.body if handler.fit is None else handler.fit(lease.body)
        return idempotency.marker(lease._state.keys, handler.type or "", self.text(body))

    def _may_begin(self, entered: Entered, lease: Leased, marker: str) -> bool:
        """Whether there is work to do; raises what becomes of the message if that cannot be told now."""
        if entered.how == "lost":
            raise LeaseLost(
                f"message {lease.id} of queue {lease.queue!r} is no longer ours; its handler did not begin"
            )
        if entered.how == "busy":
            seconds = min(_LONGEST_PAUSE, 2.0 ** min(lease._message.envelope.released, 10))
            raise Release(f"message {entered.id} has the same idempotency key, and is in hand", seconds)
        if entered.how == "done":
            log.info("message %s is not handled: its idempotency key was done by %s", lease.id, entered.id)
            return False
        will_be_done(lease, marker, self.ttl)
        return True


def entering(lease: Leased, marker: str, ttl: float) -> Command:
    """What asks whether a handler may begin with the message of this lease."""
    state = lease._state
    return idempotency.enter(state.keys, state.name, lease._message.element, marker, ttl)


def will_be_done(lease: Leased, marker: str, ttl: float) -> None:
    """Let its ack say that the key of this marker is done."""
    lease._mark = f"{round(ttl * 1000)} {marker}"


def _insisting(handler: Handler[..., Any], lease: Any) -> Callable[[Command], Any]:
    """What runs a command: the handler may be of a queue of the other shell, and then its worker knows how to
    wait."""
    return getattr(lease._settler, "insist", None) or handler.queue.links.insist  # type: ignore[no-any-return]


async def _insist(insist: Callable[[Command], Any], command: Command) -> Any:
    """Of either shell: reliq.Worker runs coroutines, too."""
    if inspect.iscoroutinefunction(insist):
        return await insist(command)
    return await asyncio.to_thread(insist, command)


def _later(error: Exception) -> Release:
    """Nobody could say whether it was done: not the message's fault."""
    return Release(f"its idempotency key could not be looked at: {error}")
