"""One consumer of a proof, on a real queue, whose every step is ours: it claims, renews and settles when it is
told to, and is dead when we say so. What it holds then comes back as it would from a dead process or after an
ended lease.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

from reliq.ack import Handler, lease_class
from reliq.core import ops
from reliq.core.command import Command
from reliq.core.lanes import PARKED
from reliq.core.message import ACK, Settle
from reliq.core.retry import Retry
from reliq.errors import LeaseLost
from reliq.sync.engine import Engine
from reliq.sync.queue import Queue

#: What fails comes back at once, and as often as a proof likes.
_POLICY: Final = Retry(attempts=1000, wait=0.0)


class Killed(BaseException):
    """This process was killed: nothing of it goes on."""


class Actor:
    """``on_settle`` is called before each settle, and may raise Killed."""

    def __init__(self, queue: Queue, handler: Handler[..., Any], name: str) -> None:
        self.queue, self.name = queue, name
        self.engine = Engine(queue, who=f"prover {name}")
        self.state = self.engine.state
        self.killed = False
        self.raised: BaseException | None = None
        self.settled: Settle | None = None
        self.on_settle: Callable[[], None] = lambda: None
        self._handler = handler
        self._noting = handler.around(self._note_raised)
        self._noting.retry, self._noting.queue = _POLICY, queue

    def _note_raised(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Remember what the handler raises."""

        async def coroutine(*args: Any, **kwargs: Any) -> Any:
            try:
                return await function(*args, **kwargs)
            except BaseException as error:
                self.raised = error
                raise

        def plain(*args: Any, **kwargs: Any) -> Any:
            try:
                return function(*args, **kwargs)
            except BaseException as error:
                self.raised = error
                raise

        return coroutine if self._handler.is_async else plain

    def claim(self) -> Any:
        """The next message as a lease, or None; what is delayed comes at once."""
        for _ in range(3):
            if messages := self.engine.trip(1).messages:
                is_async = self._handler.is_async
                return lease_class(is_async=is_async)(messages[0], Awaiting(self) if is_async else self, _POLICY)
            self._hurry()
        return None

    def _hurry(self) -> None:
        links, keys = self.queue.links, self.queue.options.keys
        later = links.run(ops.page(keys.later, 0, -1, "ZRANGE"))
        members = [each for each, score in zip(later[::2], later[1::2], strict=True) if float(score) < PARKED]
        if members:
            links.run(Command("ZADD", (keys.later,), ("XX", *(word for each in members for word in (0, each)))))

    def handle(self, lease: Any) -> None:
        """Hand it to the handler, and settle it as that ends. Raises Killed, or LeaseLost if that came too
        late."""
        result = self._noting(lease)
        if self._handler.is_async:
            asyncio.run(result)

    def settle(self, settle: Settle) -> bool:
        """By a trip of its own; False if it was refused as too late."""
        if not self.killed:
            self.on_settle()
        if self.killed:
            raise Killed
        self.settled = settle
        self.state.finished.append(settle)
        while settle.accepted is None:
            self.engine.trip(0)
        return settle.accepted

    @property
    def acked(self) -> bool:
        """Whether the last settle was an ack that was accepted."""
        return self.settled is not None and self.settled.verb == ACK and self.settled.accepted is True

    def leave(self) -> None:
        """Say goodbye, with nothing in hand."""
        if not self.killed:
            self.engine.leave(bell_ended=True)


class Awaiting:
    """The same for the lease of a coroutine handler."""

    def __init__(self, actor: Actor) -> None:
        self._actor, self.state = actor, actor.state

    def settle(self, settle: Settle) -> Awaitable[bool]:
        """See Actor."""

        async def settled() -> bool:
            return self._actor.settle(settle)

        return settled()

    def post(self, settle: Settle) -> None:
        """A handler that was interrupted puts its message back; one that was killed does nothing any more."""
        if not self._actor.killed:
            self.state.finished.append(settle)


def die(queue: Queue, consumer: str, id: str) -> None:
    """The process of a consumer is gone, as its supervisor sees; this message was in its handler's hands."""
    options, started = queue.options, [bytes.fromhex(id)]
    queue.links.run(ops.reap(options.keys, consumer, dead=True, max_losses=options.max_losses, started=started))


def expire(queue: Queue, consumer: str) -> None:
    """The lease of a consumer is over, and a reaper passes; itself it does not know."""
    options, run = queue.options, queue.links.run
    run(Command("HSET", (options.keys.stats,), ("server_since", 0)))
    run(Command("ZADD", (options.keys.consumers,), (1, consumer)))
    run(ops.reap(options.keys, consumer, lease=options.lease, max_losses=options.max_losses))


def refused(actor: Actor, lease: Any) -> bool:
    """Let an actor handle a message; True if its settle was refused."""
    try:
        actor.handle(lease)
    except LeaseLost:
        return True
    return False
