"""The exclusive mode as a pure state machine: one holder, who reads batches in order and removes what is done.

Rules, before any code:

1. Nobody else claims while the lock is held, and it is granted only while nobody else holds anything. Whether it
   is still ours, only the server knows, and it says so in every answer.
2. A batch stays where it is, at the right end of ready, while it is in hand. It is removed only if that end is
   exactly what was read, told by a digest; else nothing changes, and what stands there now is read again.
3. Calls are numbered, and at most one is unanswered. Until its answer is known it is sent again, unchanged: the
   server recognises the number. So nothing is ever removed twice, and nothing unread.
4. The lease counts from *sending* the last confirmed call, by a clock that goes on through suspend. A batch is
   handed over only while ``fresh`` holds.
5. What fails comes again as it was, as often as the policy says; then it comes in halves, until the message that
   fails is alone, and that one is dead-lettered. So it is with batches that a holder died with: see Doubt.
6. What cannot be read is never handed over: it is dead-lettered by the settle that removes its batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import sha1
from typing import Any, Final, NamedTuple

import msgpack

from reliq import defaults
from reliq.core import beside, expiry, results, routing, scripts, unique
from reliq.core import envelope as env
from reliq.core.codec import Codec, decode
from reliq.core.command import Arg, Command, Flow
from reliq.core.envelope import Envelope
from reliq.core.headers import headers_of
from reliq.core.keys import Keys
from reliq.core.ops import consumers
from reliq.core.shape import FLAG
from reliq.errors import DecodeError

_STATUS: Final = frozenset({b"ok", b"again", b"stale", b"lost"})
_SEIZED: Final = frozenset({b"granted", b"held", b"over", b"waiting", b"busy", b"changed", b"free", b"gone"})
_LOCKED: Final = ("envelope", "lock")

_SEIZE: Final = scripts.load(
    "seize", after=(*_LOCKED, "lanes", "unique", "tell"), shape=(_SEIZED, int, int, int, (bytes, ...))
)
_READ: Final = scripts.load(
    "read", after=_LOCKED, shape=(_STATUS, int, int, int, int, int, int, int, (bytes, ...))
)
_SETTLE: Final = scripts.load("settle", after=(*_LOCKED, "lanes", "unique", "tell"), shape=(_STATUS, int, FLAG))
_PROLONG: Final = scripts.load("prolong", shape=frozenset({0, 1, 2}))
_FREE: Final = scripts.load("free", shape=FLAG)

ACK, RETRY, RELEASE, RETURN = "ack", "retry", "release", "return"


class Doubt(NamedTuple):
    """How much of the head of the queue is in doubt since a batch failed or its holder died: in the next ``span``
    messages there is most likely one that cannot be handled, and the next batch has at most ``size`` (0: no
    bound). The lock stores both, so they outlive the holder."""

    span: int = 0
    size: int = 0

    @staticmethod
    def of(span: int) -> Doubt:
        """So many are in doubt: half of them come next."""
        return Doubt(span, (span + 1) // 2) if span > 0 else Doubt()

    def cleared(self, count: int) -> Doubt:
        """So many were handled."""
        return Doubt.of(self.span - count)

    def again(self, count: int) -> Doubt:
        """The same so many come again."""
        return Doubt(self.span, count)


class Seized(NamedTuple):
    """The answer to an attempt to take a queue for oneself. ``left_ms``: of the lease of who has it; ``names``:
    him, or who else is there."""

    status: str
    now: int
    fence: int
    left_ms: int
    names: list[str]


class Item:
    """A message of a batch."""

    __slots__ = (
        "_failed", "_hold", "_traceback", "body", "cause", "claim", "envelope", "error", "replaced", "result",
        "ticket",
    )  # fmt: skip

    def __init__(self, envelope: Envelope, hold: Hold) -> None:
        self._hold = hold
        self.envelope = envelope
        self.body: Any = None
        self.cause = self.error = self._traceback = ""
        self._failed = 0
        #: What who waits for it is given, once the batch is acked (``put(result=)``).
        self.result: Any = None
        self.replaced = False
        self.ticket = beside.ticket_of(envelope.meta)
        self.claim = unique.claim_of(envelope.meta)

    @property
    def id(self) -> str:
        """Its id, 32 hex digits; what put returned."""
        return self.envelope.id.hex()

    @property
    def attempt(self) -> int:
        """Which attempt this is, from 1, as far as they are counted (at most as many as the policy allows)."""
        return self.envelope.attempt

    @property
    def deliveries(self) -> int:
        """How often it was handed over, this time included, as far as that is counted."""
        return self.envelope.deliveries

    @property
    def losses(self) -> int:
        """How many consumers died with it in hand, as far as they are counted."""
        return self.envelope.lost

    @property
    def fence(self) -> int:
        """A number that only grows per message. That of the batch grows with every batch of the queue."""
        return self.envelope.fence

    @property
    def headers(self) -> dict[str, str]:
        """The texts that ``put(headers=)`` wrote beside the body, by name."""
        return headers_of(self.envelope.meta)

    @property
    def type(self) -> str | None:
        """Its type, as ``put(type=)`` or the queue's ``route`` says; None: it has none."""
        said = routing.type_of(self.envelope.meta)
        return routing.type_by(self._hold.route, self.body) if said is None else said

    @property
    def trace_id(self) -> str:
        """32 hex digits: the trace id at the put, or the message's own id if there was none."""
        carried = self.envelope.meta.get("t")
        return carried if isinstance(carried, str) else self.id

    def bury(self, reason: str) -> None:
        """Dead-letter this one, with the reason, when the batch is acked; the others are not concerned."""
        self.fail("BURIED", reason)

    def fail(self, cause: str, error: str, traceback: str = "") -> None:
        """The same for another cause, after an attempt that is counted."""
        self.doom(cause, error)
        self._failed, self._traceback = 1, traceback

    def doom(self, cause: str, error: str) -> None:
        """Have it dead-lettered as it is, by the settle that removes the batch: it cannot be handed over."""
        self.cause, self.error = cause, error

    def __repr__(self) -> str:
        return f"<message {self.id} of a batch>"

    def answer(self, number: int) -> bytes:
        """What who waits for its result is given."""
        if self.cause:
            return bytes(msgpack.packb(self._note(number)))
        return results.replaced() if self.replaced else results.answer(self.result)

    def letter(self, number: int) -> bytes:
        """The member for dead."""
        bumped = env.bump(self.envelope, failed=1) if self._failed else self.envelope.element
        return env.join_note(self._note(number), bumped)

    def _note(self, number: int) -> env.Meta:
        note: env.Meta = {"id": self.id, "cause": env.storable(self.cause), "worker": self._hold.name}
        note |= {"error": env.storable(self.error[:500]), "n": number}
        if self._traceback:
            note["traceback"] = env.storable(self._traceback[-defaults.TRACEBACK :])
        return note


class Taken(NamedTuple):
    """A batch as it was read: all of its elements; ``items`` are handed over, ``doomed`` ones cannot be read, or
    were replaced (those have no cause)."""

    number: int
    fence: int
    elements: list[bytes]
    items: list[Item]
    doomed: list[Item]

    @property
    def digest(self) -> str:
        """What lock.lua makes of it."""
        heads = b"".join(element[: env.META_FROM] for element in self.elements)
        return sha1(heads, usedforsecurity=False).hexdigest()

    @property
    def unbegun(self) -> list[Item]:
        """Those that are unique, and have to be begun before they are handed over."""
        return [item for item in self.items if item.claim is not None]

    @property
    def unfetched(self) -> Iterator[Item]:
        """Those whose body lies beside the list, and is not here."""
        return (item for item in self.items if item.ticket is not None and item.body is None)


class Found(NamedTuple):
    """The answer to a read. ``ready``: how many messages are (-1: some are, but the queue is paused, and none
    are read); ``due_in``: seconds until another one is due."""

    taken: Taken
    ready: int
    due_in: float | None


class Settled(NamedTuple):
    """The answer to a settle; ``done`` is False if the right end was another, and then nothing has changed."""

    taken: Taken
    verb: str
    done: bool


class Hold:
    """What a holder knows of his lock. All times are seconds of the caller's clock; ``lease`` is seconds."""

    def __init__(
        self, keys: Keys, name: str, *, lease: float, codec: Codec, raw_codec: Codec, max_losses: int, who: str
    ) -> None:
        self.keys, self.name, self.lease, self.who = keys, name, lease, who
        self.max_losses = max_losses
        #: What tells the type of a body whose message does not carry one.
        self.route: routing.Rule | None = None
        self.fence = 0
        self.doubt = Doubt()
        #: Whether the server has said that it is not ours (any more).
        self.lost = False
        #: What is in hand, and not settled.
        self.in_hand: Taken | None = None
        self._codec, self._raw_codec = codec, raw_codec
        self._sleepers: tuple[str, ...] = ()
        self._number = 0
        self._outstanding: Command | None = None
        self._settling: tuple[Taken, str, Doubt] | None = None
        self._confirmed_at: float | None = None
        self._notes = 0
        self._server_ms = 0

    # -- the lock ---------------------------------------------------------------------------------------

    def seize_g(self, server: str, *, believed: bool) -> Flow[Seized]:
        """Try to take the queue; ``server``: its run id, ``believed``: whether a lease that is over may be taken
        for that. Goes on until the registrations did not change in between."""
        while True:
            names = [name for name, _ in (yield consumers(self.keys))]
            self._sleepers = tuple(self.keys.inbox(name) for name in names)
            seized: Seized = yield self._seize(names, server, believed)
            if seized.status != "changed":
                return seized

    def _seize(self, names: Sequence[str], server: str, believed: bool) -> Command:
        return _seize(
            self.keys, self.name, self.who, names, lease=self.lease, max_losses=self.max_losses, server=server,
            believed=believed,
        )  # fmt: skip

    def granted(self, seized: Seized, sent_at: float) -> None:
        """It is ours, by an answer to what was sent then."""
        self.fence = seized.fence
        self.confirmed(sent_at)

    def prolong(self) -> Command:
        """Renew the lease. Parses to 0: it is not ours any more; 1; 2: and it is our duty to sweep."""
        k = self.keys
        args = (self.name, round(self.lease * 1000))
        return Command(_PROLONG, (k.consumers, k.stats), args, idempotent=True, queue=k.queue)

    def ring(self, seconds: float) -> Command:
        """Block until there is a message. It is moved to where it was, so nothing depends on the reply."""
        return Command("BLMOVE", (self.keys.ready,) * 2, ("RIGHT", "RIGHT", seconds), queue=self.keys.queue)

    def free(self) -> Command:
        """Let it go. Parses to True if it was ours until now."""
        k = self.keys
        names = (k.lock, k.consumers, k.stats, k.session(self.name), k.events)
        return Command(_FREE, names, (self.name,), lambda r: r == 1, idempotent=True, queue=k.queue)

    def confirmed(self, sent_at: float) -> None:
        """The server has lengthened the lease, by a call that was sent then."""
        self._confirmed_at = max(sent_at, self._confirmed_at or sent_at)

    def fresh(self, now: float) -> bool:
        """Whether a hand-over may start: at least a third of the lease is certainly left."""
        return self._confirmed_at is not None and now < self._confirmed_at + self.lease * 2 / 3

    def lease_is_certain(self, now: float) -> bool:
        """Whether the lease cannot be over yet, whatever Redis does not tell us."""
        return not self.lost and self._confirmed_at is not None and now < self._confirmed_at + self.lease

    # -- batches ----------------------------------------------------------------------------------------

    @property
    def unanswered(self) -> Command | None:
        """The numbered call that was sent and whose answer is not known; it comes before all others."""
        return self._outstanding

    def read(self, most: int) -> Command:
        """The next batch, of at most so many."""
        k = self.keys
        names = (k.ready, k.lock, k.consumers, k.stats, k.later, k.dead, k.events, *self._sleepers)
        return self._numbered(_READ, names, (most, defaults.SCRIPT_BYTES, 100))

    def settle(self, taken: Taken, verb: str, doubt: Doubt, *, most_failed: int = 0, detail: Arg = "") -> Command:
        """What becomes of a batch, and what is in doubt after it. ``most_failed``: failures that are counted of
        one message; ``detail``: for the ledger."""
        k = self.keys
        letters: list[Arg] = []
        answers: list[Arg] = []
        told: list[str] = []
        bodies: list[str] = []
        if verb == ACK:
            for item in [*taken.items, *taken.doomed]:
                ms = results.asked(item.envelope.meta)
                if item.cause:
                    self._notes += 1
                    letters += (item.letter(self._notes), item.id, item.cause)
                if ms is not None:
                    told.append(k.result(item.envelope.id))
                    answers += (ms, item.answer(self._notes))
                if item.cause:
                    continue
                if item.ticket is not None:
                    bodies.append(beside.key_of(k, item.ticket))
        size = sum(map(len, taken.elements))
        args = (verb, len(taken.elements), size, taken.digest, min(most_failed, env.MAX_U16), *doubt, detail)
        names = (
            k.ready,
            k.lock,
            k.consumers,
            k.stats,
            k.dead,
            k.events,
            k.uniques,
            k.lanes,
            k.later,
            *self._sleepers,
            *told,
            *bodies,
        )
        counts = (len(self._sleepers), len(told))
        command = self._numbered(_SETTLE, names, (*args, *counts, *answers, *letters))
        self._settling = taken, verb, doubt
        return command

    def _numbered(self, script: scripts.Script, names: tuple[str, ...], args: tuple[Arg, ...]) -> Command:
        assert self._outstanding is None
        words = (self.name, self._number + 1, round(self.lease * 1000), *args)
        self._outstanding = Command(script, names, words, idempotent=True, queue=self.keys.queue)
        return self._outstanding

    def answered(self, reply: list[Any], sent_at: float) -> Found | Settled | None:
        """Digest the answer to the unanswered call, sent then; None: the lock is not ours any more."""
        settling, self._settling, self._outstanding = self._settling, None, None
        self._number += 1
        if reply[0] in (b"lost", b"stale"):
            self.lost, self.in_hand = True, None
            return None
        self.confirmed(sent_at)
        if settling is not None:
            taken, verb, doubt = settling
            self.in_hand = None
            if reply[2]:
                self.doubt = doubt
            return Settled(taken, verb, reply[2] == 1)
        _, _, fence, number, span, size, ready, due, elements = reply
        self.fence, self.doubt, self._server_ms = fence, Doubt(span, size), int(reply[1])
        taken = self._taken(number, fence, elements)
        self.in_hand = taken if elements else None
        return Found(taken, ready, None if due < 0 else due / 1000)

    def _taken(self, number: int, fence: int, elements: list[bytes]) -> Taken:
        taken = Taken(number, fence, elements, [], [])
        for element in elements:
            item, readable = self._item(element)
            (taken.items if readable else taken.doomed).append(item)
        return taken

    def _item(self, element: bytes) -> tuple[Item, bool]:
        """The message of an element, and whether it can be read."""
        envelope = Envelope(element, element[env.CHECKED_FROM : env.META_FROM], 0, 0, 0, 0, {}, b"")
        try:
            envelope = env.unpack(element, verified=True)
            expiry.check(envelope.meta, self._server_ms)
        except DecodeError as error:
            item = Item(envelope, self)
            item.doom(error.code, str(error))
            return item, False
        item = Item(envelope, self)
        return item, item.ticket is not None or self._decoded(item, envelope.body)

    def _decoded(self, item: Item, data: bytes) -> bool:
        try:
            item.body = decode(item.envelope.meta, data, self._codec, self._raw_codec)
        except DecodeError as error:
            item.doom(error.code, str(error))
        return not item.cause

    def begin(self, items: Sequence[Item]) -> Command:
        """See unique.begin."""
        claims = [(item.envelope.id, item.claim) for item in items if item.claim is not None]
        return unique.begin(self.keys, self.name, claims)

    def begun(self, taken: Taken, items: Sequence[Item], may: Sequence[bool] | None) -> None:
        """They are; those that were replaced go with the batch, unseen. None: nobody knows of any."""
        for item, allowed in zip(items, may or [True] * len(items), strict=True):
            item.claim = None
            if not allowed:
                item.replaced = True
                taken.items.remove(item)
                taken.doomed.append(item)

    def fetch(self, item: Item) -> Command:
        """The body of one that has it beside the list."""
        assert item.ticket is not None
        return beside.fetch(self.keys, item.ticket)

    def furnish(self, taken: Taken, item: Item, data: bytes | None) -> None:
        """It has come; None: there is none, and the message can never be handled."""
        if data is None:
            assert item.ticket is not None
            item.doom(beside.MISSING, f"there is no body at {beside.key_of(self.keys, item.ticket)}")
        if data is None or not self._decoded(item, data):
            taken.items.remove(item)
            taken.doomed.append(item)


def end(keys: Keys, *, lease: float, max_losses: int, server: str) -> Command:
    """End the hold of somebody whose lease is over, so that others can register. Parses to Seized."""
    return _seize(keys, "", "", (), lease=lease, max_losses=max_losses, server=server, believed=True)


def _seize(
    keys: Keys, name: str, who: str, names: Sequence[str], *, lease: float, max_losses: int, server: str,
    believed: bool,
) -> Command:  # fmt: skip
    k = keys
    lists = (part(each) for each in names for part in (k.inbox, k.doing))
    own = (k.session(name), k.uniques, k.lanes, k.later)
    return Command(
        _SEIZE, (k.ready, k.lock, k.consumers, k.stats, k.dead, k.events, *own, k.results, *lists),
        (name, who, round(lease * 1000), max_losses, server, int(believed), *names),
        lambda r: Seized(r[0].decode(), r[1], r[2], r[3], [n.decode("utf-8", "replace") for n in r[4]]),
        idempotent=True, queue=k.queue,
    )  # fmt: skip


class Lock(NamedTuple):
    """The lock of a queue, seen from outside: who holds it, and how many messages of which batch are in hand."""

    holder: str
    batch: int
    in_hand: int
    fence: int


def lock(keys: Keys) -> Command:
    """Parses to Lock, or None if nobody holds the queue for himself."""

    def parse(reply: Any) -> Lock | None:
        holder, batch, count, fence = reply
        if holder is None:
            return None
        return Lock(holder.decode("utf-8", "replace"), *(int(n or 0) for n in (batch, count, fence)))

    fields = ("holder", "batch", "count", "fence")
    return Command("HMGET", (keys.lock,), fields, parse, idempotent=True, queue=keys.queue)
