"""A message in somebody's hands, and what is to become of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Final

from reliq.core import envelope as env
from reliq.core import routing, trace
from reliq.core.command import Arg
from reliq.core.envelope import Envelope
from reliq.core.headers import headers_of

if TYPE_CHECKING:
    from reliq.core.consumer import ConsumerState

ACK, RETRY, RELEASE, BURY, UNROUTED = "ack", "retry", "release", "bury", "unrouted"
#: The key in the meta of a message whose result is asked for (see results).
ASKS: Final = "w"


class Message:
    """A claimed message: the bytes that stand in Redis and the decoded body; the rest is read when asked for.
    ``traced``: every step of it is written down.

    ``state``: the consumer that claimed it. ``lost`` turns True when the lease is gone, ``minded`` when somebody
    has it in hand, who will settle it, or when it is being settled. ``known``: the envelope, once it was decoded;
    without it, it is a plain one (which has no meta). ``route``: its handler, where several share a queue.
    """

    __slots__ = ("body", "element", "known", "lost", "minded", "route", "state")
    route: Any
    traced: ClassVar[bool] = False
    #: Whether it stands for several (see ``reliq.batching``).
    many: ClassVar[bool] = False

    def __init__(self, element: bytes, body: Any, state: ConsumerState, envelope: Envelope | None = None) -> None:
        self.element = element
        self.body = body
        self.state = state
        self.lost = False
        self.minded = False
        self.known = envelope

    def handed_over(self, clock: Callable[[], float]) -> None:
        """It gets into the hands of a handler, and nothing is written down of that."""

    def done(self) -> None:
        """Its handler is through, and nothing is written down of that."""

    def over(self, now: float) -> bool:
        """Whether its time was over while it waited to be handed over; then it is settled."""
        return self.state.expired(self, now)

    @property
    def envelope(self) -> Envelope:
        """The element, decoded."""
        if self.known is None:
            self.known = env.unpack(self.element, verified=True)
        return self.known

    @property
    def heeded(self) -> bool:
        """Whether more is made of its handling than that it is done: it is traced, or its result is asked for."""
        return self.traced or ASKS in self.envelope.meta

    @property
    def suspect(self) -> bool:
        """Whether a consumer has died with this message."""
        return self.element[env.LOST_AT] > 0

    @property
    def raw_ids(self) -> bytes:
        """Its id, or those of all that it stands for: 16 bytes for each."""
        return self.element[env.CHECKED_FROM : env.META_FROM]

    @property
    def id(self) -> str:
        """Its id, 32 hex digits."""
        return self.envelope.id.hex()

    @property
    def queue(self) -> str:
        """The name of its queue."""
        return self.state.keys.queue

    @property
    def consumer(self) -> str:
        """The name under which it was claimed, or under which that consumer goes on."""
        return self.state.name

    @property
    def attempt(self) -> int:
        """Which attempt this is, from 1."""
        return self.envelope.attempt

    @property
    def type(self) -> str | None:
        """Of which type it is: as its put says, or else by the rule of its queue, which may raise anything."""
        said = None if self.known is None else routing.type_of(self.known.meta)
        return routing.type_by(self.state.route, self.body) if said is None else said

    @property
    def headers(self) -> dict[str, str]:
        """What its put wrote beside the body."""
        return {} if self.known is None else headers_of(self.known.meta)

    @property
    def trace_id(self) -> str:
        """32 hex digits: the trace id at the put, or the message's own id if there was none."""
        carried = self.envelope.meta.get("t")
        return carried if isinstance(carried, str) else self.id


class Traced(Message):
    """A message of which every step is written down (see ``reliq.core.trace``)."""

    __slots__ = ("_clock", "_since", "_took")
    traced: ClassVar[bool] = True

    def __init__(self, element: bytes, body: Any, state: ConsumerState, envelope: Envelope | None = None) -> None:
        super().__init__(element, body, state, envelope)
        self._clock: Callable[[], float] | None = None
        self._since = 0.0
        self._took: float | None = None
        state.traced[element] = self

    def handed_over(self, clock: Callable[[], float]) -> None:
        """It gets into the hands of a handler; ``clock`` gives seconds."""
        self._clock, self._since = clock, clock()
        self.step(trace.DELIVER, str(self.attempt))

    def done(self) -> None:
        """Its handler is through: so long it had it in hand."""
        if self._clock is not None:
            self._took = self._clock() - self._since

    def step(self, event: str, detail: str) -> None:
        """Have a step written down by the next trip."""
        if self._clock is not None:
            self.state.steps.append(trace.Step(event, self.id, detail, self._clock(), self._clock))

    @property
    def took_ms(self) -> str:
        """So long it was in the hands of its handler, if that is through."""
        return "" if self._took is None else f"{self._took * 1000:.1f}"


class Settle:
    """One thing to tell Redis about a message, and, after the trip, whether it was accepted."""

    __slots__ = ("accepted", "back", "detail", "message", "on_settled", "verb")

    def __init__(
        self,
        verb: str,
        message: Message,
        back: bytes = b"",
        detail: Arg = "",
        on_settled: Callable[[Settle], None] | None = None,
    ) -> None:
        self.verb = verb
        self.message = message
        message.minded = True
        self.back = back
        self.detail = detail
        self.accepted: bool | None = None
        self.on_settled = on_settled
