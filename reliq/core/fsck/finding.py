"""What can be wrong, how each is looked at again, and how it is mended: each by a script of its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, NamedTuple

from reliq import defaults
from reliq.core import dead, ops, scripts
from reliq.core import envelope as env
from reliq.core.command import Command, Flow
from reliq.core.keys import Keys
from reliq.core.reasons import Reason
from reliq.core.words import duration, number
from reliq.errors import ReliqError

_DEDUPE: Final = scripts.load("dedupe", after="places")
_ENTOMB: Final = scripts.load("entomb", after=("envelope", "lanes", "unique", "tell", "places"))
_SET_ASIDE: Final = scripts.load("set_aside")
_HANDS: Final = scripts.load("hands")

#: Workers reap within a second of the end of a lease, as long as the end is young.
_REAPED_MS: Final = 2000
_YOUNG_MS: Final = 60_000
#: Every half minute one of them visits all names that are long dead.
_VISITED_S: Final = 35.0
#: What moves at all has moved on within this time.
_SETTLED_S: Final = 2.0


class Context(NamedTuple):
    """Of the queue, and of us: ``who`` is a name that nobody else has; ``server`` the identity of its Redis."""

    keys: Keys
    who: str
    server: str = ""
    lease: float = defaults.LEASE
    max_losses: int = defaults.MAX_LOSSES


class Spot(NamedTuple):
    """Where an entry stands: the key, the state that this means, and the place from the left if it is a list."""

    key: str
    state: str
    place: int | None = None

    @property
    def hint(self) -> int | str:
        return "" if self.place is None else self.place


@dataclass
class Finding:
    """One thing that is wrong. ``evidence``: what was seen. ``action``: what a repair does, or a person can do.
    ``patience``: seconds before a second look, if it may just be on its way."""

    context: Context
    key: str
    id: str = field(init=False, default="")
    patience: float = field(init=False, default=0.0)
    code: ClassVar[Reason]

    @property
    def repairable(self) -> bool:
        """Whether a repair can do anything about it."""
        return True

    @property
    def evidence(self) -> str:
        raise NotImplementedError

    @property
    def action(self) -> str:
        raise NotImplementedError

    def look_g(self) -> Flow[bool]:
        """Whether it is so, at this moment. It only reads."""
        raise NotImplementedError

    def repair_g(self) -> Flow[bool]:
        """Mend it, if it still is so; False if there was nothing to mend any more."""
        raise NotImplementedError

    def _script(self, script: scripts.Script, names: tuple[str, ...], do: bool, *args: Any) -> Command:
        words = ("1" if do else "", self.context.who, *args)
        return Command(script, names, words, lambda r: r == 1, idempotent=True, queue=self.context.keys.queue)


# -- entries ------------------------------------------------------------------------------------------------


@dataclass
class Duplicate(Finding):
    """Two copies of one message: ``stays`` is further, or has gone back more often."""

    stays: Spot
    kept: bytes
    goes: Spot
    copy: bytes
    code = Reason.DUPLICATE

    def __post_init__(self) -> None:
        letter = dead.Letter.read(self.copy, "0")
        element = letter.element if self.goes.state == "dead" else self.copy
        self.id = element[env.CHECKED_FROM : env.META_FROM].hex()

    @property
    def repairable(self) -> bool:
        return self.goes.state in ("ready", "later", "dead")

    @property
    def evidence(self) -> str:
        if self.stays.key == self.goes.key:
            return f"message {self.id} is in {self.goes.state} twice"
        return f"message {self.id} is in {self.stays.state} and once more in {self.goes.state}"

    @property
    def action(self) -> str:
        if not self.repairable:
            return "it is in the hands of a consumer, who acks or gives back each copy: say the same again later"
        if self.stays.key == self.goes.key:
            return "remove one of the two"
        return f"remove the one in {self.goes.state}, keep the one in {self.stays.state}"

    def _command(self, do: bool) -> Command:
        k = self.context.keys
        names = (self.stays.key, self.goes.key, k.events, k.stats)
        detail = f"second copy in {self.goes.state}, kept in {self.stays.state}"
        words = (self.id, self.kept, self.stays.hint, self.copy, self.goes.hint, detail)
        return self._script(_DEDUPE, names, do, *words)

    def look_g(self) -> Flow[bool]:
        return bool((yield self._command(False)))

    def repair_g(self) -> Flow[bool]:
        return bool((yield self._command(True)))


@dataclass
class Unreadable(Finding):
    """An entry in ready or later that no handler can get."""

    spot: Spot
    element: bytes
    cause: str
    reason: str
    number: int
    code = Reason.UNREADABLE

    def __post_init__(self) -> None:
        if env.is_envelope(self.element):
            self.id = self.element[env.CHECKED_FROM : env.META_FROM].hex()
        else:
            self.id = env.named_id(f"{self.context.who}:{self.number}").hex()

    @property
    def repairable(self) -> bool:
        """A format that is newer than this release may be good for others."""
        return self.cause != "UNSUPPORTED_VERSION"

    @property
    def evidence(self) -> str:
        what = f"an entry of {self.spot.state}, {env.preview(self.element)}"
        return f"{what}, cannot be read: {self.cause}: {self.reason}"

    @property
    def action(self) -> str:
        if not self.repairable:
            return "upgrade the workers: those that cannot read it make a dead letter of it"
        return f"make it a dead letter (cause {self.cause}), as a consumer does that claims it"

    def _command(self, do: bool) -> Command:
        k = self.context.keys
        whole = env.is_envelope(self.element)
        element = self.element if whole else env.pack(bytes.fromhex(self.id), self.element, {"r": True})
        note = {"id": self.id, "cause": self.cause, "worker": self.context.who, "error": env.storable(self.reason)}
        words = (self.id, self.cause, self.element, self.spot.hint, env.join_note(note, element))
        names = (self.spot.key, k.dead, k.events, k.stats, k.uniques, k.lanes, k.ready, k.later, k.results)
        return self._script(_ENTOMB, names, do, *words)

    def look_g(self) -> Flow[bool]:
        return bool((yield self._command(False)))

    def repair_g(self) -> Flow[bool]:
        return bool((yield self._command(True)))


@dataclass
class BadNote(Unreadable):
    """A member of dead that is no dead letter."""

    code = Reason.DEAD_BAD_NOTE

    @property
    def evidence(self) -> str:
        return f"a member of dead is no dead letter: {env.preview(self.element)}"

    @property
    def action(self) -> str:
        return "give it a death note, so that it can be shown and revived"


# -- keys ---------------------------------------------------------------------------------------------------


@dataclass
class WrongType(Finding):
    """A key of the queue that holds something else."""

    wanted: str
    found: str
    code = Reason.WRONG_KEY_TYPE

    @property
    def repairable(self) -> bool:
        """An adopted list is its owner's."""
        return self.key != self.context.keys.key

    @property
    def evidence(self) -> str:
        return f"{self.key} is a {self.found} and has to be a {self.wanted}"

    @property
    def action(self) -> str:
        if not self.repairable:
            return "it is the list that the queue has adopted: see which program writes it, or adopt another one"
        return f"rename it to {self._aside}"

    @property
    def _aside(self) -> str:
        return self.context.keys.aside(self.key, self.context.who)

    def _command(self, do: bool) -> Command:
        names = (self.key, self._aside, self.context.keys.events)
        return self._script(_SET_ASIDE, names, do, self.wanted)

    def look_g(self) -> Flow[bool]:
        return bool((yield self._command(False)))

    def repair_g(self) -> Flow[bool]:
        return bool((yield self._command(True)))


@dataclass
class ForeignKey(Finding):
    """A key among those of the queue that is none of them; ``raw``: its name as Redis has it."""

    raw: bytes
    code = Reason.FOREIGN_KEY

    @property
    def repairable(self) -> bool:
        """Nobody but its owner can know."""
        return False

    @property
    def evidence(self) -> str:
        return f"{self.key} is under the queue's tag, and no key of any queue that is known here"

    @property
    def action(self) -> str:
        return "see whose it is: redis-cli TYPE; if nobody needs it, DEL"

    def look_g(self) -> Flow[bool]:
        command = Command("EXISTS", (), (self.raw,), idempotent=True, queue=self.context.keys.queue)
        return bool((yield command))

    def repair_g(self) -> Flow[bool]:
        return False
        yield


# -- consumers ----------------------------------------------------------------------------------------------


class Hands(NamedTuple):
    """What a consumer holds and how it is registered. Times are server ms; ``end`` of its lease is None if it is
    not registered. ``up``: whether leases count as over, since the server has been up for one."""

    now: int
    end: int | None
    inbox: int
    doing: int
    up: bool
    live: int

    @property
    def held(self) -> int:
        return self.inbox + self.doing


@dataclass
class OfConsumer(Finding):
    """Something about a consumer; a reaper mends all of that, and a repair is its step."""

    consumer: str
    seen: Hands | None = field(init=False, default=None)

    def _is_so(self, hands: Hands) -> bool:
        raise NotImplementedError

    def look_g(self) -> Flow[bool]:
        hands: Hands = yield hands_of(self.context, self.consumer)
        before, self.seen = self.seen, hands
        moved = before is not None and (before.inbox, before.doing) != (hands.inbox, hands.doing)
        if moved:
            self.seen = before
        return self._is_so(hands) and not moved

    def repair_g(self) -> Flow[bool]:
        c = self.context
        command = ops.reap(c.keys, self.consumer, lease=c.lease, server=c.server, max_losses=c.max_losses)
        reaped: ops.Reaped = yield command
        moved = reaped.returned + reaped.buried
        while reaped.more:
            reaped = yield command
            moved += reaped.returned + reaped.buried
        if reaped.status == "waiting":
            wait = duration(c.lease * 1000)
            raise ReliqError(f"the server has not been up for one lease; say the same again in {wait}")
        return moved > 0 or reaped.status in ("adopted", "forgotten")


@dataclass
class Stray(OfConsumer):
    """A consumer's lists without a registration."""

    code = Reason.STRAY_LISTS

    def __post_init__(self) -> None:
        self.patience = _SETTLED_S

    def _is_so(self, hands: Hands) -> bool:
        return hands.end is None and hands.held > 0

    @property
    def evidence(self) -> str:
        held = number(self.seen.held, "message") if self.seen else "something"
        return f"{held} in lists of {self.consumer}, which nobody registered"

    @property
    def action(self) -> str:
        return f"register it with a lease of {duration(self.context.lease * 1000)}; when that ends, workers or " \
               "reliq reap bring back what it holds"  # fmt: skip


@dataclass
class HeldByDead(OfConsumer):
    """Messages in the hands of a consumer whose lease is over, although there was time to bring them back."""

    code = Reason.HELD_BY_DEAD

    def __post_init__(self) -> None:
        self.patience = _SETTLED_S

    def judge(self, hands: Hands) -> bool:
        """Whether it looks so at first; sets how long to wait before the second look."""
        self.seen = hands
        if not self._is_so(hands):
            return False
        if hands.live and hands.end is not None and hands.now - hands.end > _YOUNG_MS:
            self.patience = _VISITED_S
        return True

    def _is_so(self, hands: Hands) -> bool:
        return hands.held > 0 and hands.end is not None and hands.up and hands.now - hands.end > _REAPED_MS

    @property
    def evidence(self) -> str:
        if self.seen is None or self.seen.end is None:
            return f"{self.consumer} holds messages and its lease is over"
        over = duration(self.seen.now - self.seen.end)
        return f"{number(self.seen.held, 'message')} held by {self.consumer}, whose lease is over for {over}"

    @property
    def action(self) -> str:
        return "bring them back to the head of ready, as reliq reap does"


@dataclass
class InboxLeftovers(HeldByDead):
    """The same, and no handler has seen them."""

    code = Reason.INBOX_LEFTOVERS

    def _is_so(self, hands: Hands) -> bool:
        return super()._is_so(hands) and not hands.doing

    @property
    def evidence(self) -> str:
        held = number(self.seen.inbox, "message") if self.seen else "something"
        return f"{held} in the inbox of {self.consumer}, which is gone, seen by no handler"


@dataclass
class StaleRegistration(OfConsumer):
    """A registration without lists, long after it should have been forgotten."""

    code = Reason.STALE_REGISTRATION

    def _is_so(self, hands: Hands) -> bool:
        if hands.end is None or hands.held or not hands.up:
            return False
        return hands.now - hands.end > defaults.FORGET_AFTER * 1000 + _YOUNG_MS

    @property
    def evidence(self) -> str:
        over = duration(self.seen.now - (self.seen.end or 0)) if self.seen else "long"
        return f"{self.consumer} is registered, holds nothing, and its lease is over for {over}"

    @property
    def action(self) -> str:
        return "forget it"


def hands_of(context: Context, consumer: str) -> Command:
    """Parses to Hands."""
    k = context.keys

    def parse(reply: Any) -> Hands:
        now, end, inbox, doing, server, since, live = reply
        known = context.server in ("", server.decode())
        up = known and now - int(float(since)) >= context.lease * 1000 + _REAPED_MS
        return Hands(now, int(float(end)) if end else None, inbox, doing, up, live)

    names = (k.inbox(consumer), k.doing(consumer), k.consumers, k.stats)
    return Command(_HANDS, names, (consumer,), parse, idempotent=True, queue=k.queue)


def about(context: Context, consumer: str, hands: Hands) -> Iterator[OfConsumer]:
    """What is to be said about a consumer whose hands look like this."""
    keys = context.keys
    if hands.end is None:
        if hands.held:
            stray = Stray(context, keys.doing(consumer), consumer)
            stray.seen = hands
            yield stray
        return
    kind = HeldByDead if hands.doing else InboxLeftovers
    held = kind(context, keys.doing(consumer) if hands.doing else keys.inbox(consumer), consumer)
    if held.judge(hands):
        yield held
    stale = StaleRegistration(context, keys.consumers, consumer)
    if stale._is_so(hands):
        stale.seen = hands
        yield stale
