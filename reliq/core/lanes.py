"""Messages that wait behind certain others: those of their ordering key, those of their tenant.

Messages with the same ordering key are handed out one at a time, in the order in which they were put. One of them
has the turn of its key until it ends: while it is ready, while a handler has it, while it waits to be tried again,
while its worker is dead and nobody has reaped it. The others wait in ``later``, where no clock reaches them
(``PARKED`` and above), and the script that ends the one before puts the next at the head of ready (lua/lanes.lua).
So nothing that is ready can overtake another one of its key on the way to some consumer.

Messages of a tenant wait there from their put on (``SHARED`` and above), and trips take them from one tenant after
the other, within the limits of each (lua/shares.lua). Those of a group wait there until it is time, and then come
together (lua/groups.lua).
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha1
from typing import Any, Final, NamedTuple

from reliq.core import envelope as env
from reliq.core import ops, scripts
from reliq.core.command import Command, Flow
from reliq.core.flows import all_of
from reliq.core.keys import Keys
from reliq.core.shape import FLAG
from reliq.errors import ConfigError, given

_TURN: Final = scripts.load("turn", after=("envelope", "lanes"), shape=frozenset({0, 1, 2}))
_VACATE: Final = scripts.load("vacate", after=("envelope", "shares"), shape=FLAG)

#: The ordering key in the meta.
KEY: Final = "o"
#: The tenant in the meta.
TENANT: Final = "m"
#: The group in the meta.
GROUP: Final = "g"
#: Scores of ``later`` from here on are no times; what has one waits for its turn.
PARKED: Final = 4_000_000_000_000_000
#: From here on it waits for the turn of its tenant (lua/shares.lua).
SHARED: Final = 6_000_000_000_000_000
#: From here on it waits for its group to gather (lua/groups.lua).
GROUPED: Final = 8_000_000_000_000_000
#: Before the server ms when it is the time of a group, in ``turns``.
_GROUPS: Final = 20_000_000_000_000
_LONGEST: Final = 500
#: Scores of ``tenants`` below are turns, others server ms.
_RESTS: Final = 1_000_000_000_000


def key_of(meta: env.Meta) -> str | None:
    """The ordering key of a message with this meta, if it has one."""
    return _text(meta.get(KEY))


def tenant_of(meta: env.Meta) -> str | None:
    """The tenant of a message with this meta, if it has one."""
    return _text(meta.get(TENANT))


def group_of(meta: env.Meta) -> str | None:
    """The group of a message with this meta, if it has one."""
    return _text(meta.get(GROUP))


def _text(found: object) -> str | None:
    return found if isinstance(found, str) else None


@dataclass(frozen=True)
class Group:
    """Messages of one ``key`` (a text of 1 to 500 characters) that gather, to be handled together: until none has
    come for ``grace`` seconds, or the first one has waited for ``max_delay`` seconds, or ``max_size`` (at most
    300) are there. The last put of a group says which."""

    key: str
    grace: float = 10.0
    max_delay: float = 60.0
    max_size: int = 100

    def __post_init__(self) -> None:
        _checked("group", self.key)
        for name, value in (("grace", self.grace), ("max_delay", self.max_delay)):
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e9:
                raise ConfigError(f"Group({self.key!r}): {name}={given(value)}: seconds, not negative")
        if type(self.max_size) is not int or not 1 <= self.max_size <= 300:
            raise ConfigError(f"Group({self.key!r}): max_size={self.max_size!r}: a whole number from 1 to 300")

    @property
    def words(self) -> str:
        """For the script."""
        return f"{round(self.grace * 1000)} {round(self.max_delay * 1000)} {self.max_size} {self.key}"


class Lane(NamedTuple):
    """Behind which others a message waits: those with its ``ordering_key``, those of its ``tenant``; or with which
    ones: those of its ``group``."""

    ordering_key: str | None = None
    tenant: str | None = None
    group: Group | None = None

    @classmethod
    def checked(cls, ordering_key: object, tenant: object, group: object = None) -> Lane:
        """As a put says it; ConfigError if one of them cannot be."""
        if isinstance(group, str):
            group = Group(group)
        if group is not None and not isinstance(group, Group):
            raise ConfigError(f"put(group={group!r:.120}): a text, or a reliq.Group(key, …)")
        if group is not None and (tenant is not None or ordering_key is not None):
            raise ConfigError("put(group=): what gathers has no tenant= and no ordering_key=; give one of them")
        return cls(_checked("ordering_key", ordering_key), _checked("tenant", tenant), group)

    @property
    def meta(self) -> env.Meta:
        """What its message carries."""
        said = {KEY: self.ordering_key, TENANT: self.tenant, GROUP: self.group and self.group.key}
        return {key: word for key, word in said.items() if word is not None}


def _checked(what: str, said: object) -> str | None:
    if said is None:
        return None
    if not isinstance(said, str) or not 0 < len(said) <= _LONGEST:
        raise ConfigError(f"put({what}={said!r:.120}): a text of 1 to {_LONGEST} characters")
    if said != env.storable(said):
        raise ConfigError(f"put({what}={said!r}): it is no text that UTF-8 can carry; spell it otherwise")
    return said


def waits(score: float) -> bool:
    """Whether what has this score in ``later`` waits for its turn."""
    return score >= PARKED


class Place(NamedTuple):
    """Where a message waits for its turn. ``holder``: the id (hex) of the one that has it; "" if nobody has, which
    is wrong. ``before``: how many wait in front of it."""

    key: str
    holder: str
    before: int


def place_g(keys: Keys, key: str, score: int | None = None) -> Flow[Place]:
    """Where the message with this ordering key waits that has this score in ``later``; None: at the end of all."""
    digest = sha1(key.encode(), usedforsecurity=False).hexdigest()
    end = ":" if score is None else f"{score:016d}"  # a colon stands behind all digits
    span = (f"[{digest}", f"({digest}{end}")
    replies = yield [
        Command("HGET", (keys.uniques,), (turn_field(key),), idempotent=True, queue=keys.queue),
        Command("ZLEXCOUNT", (keys.lanes,), span, int, idempotent=True, queue=keys.queue),
    ]
    holder, before = all_of(replies)
    return Place(key, (holder or b"").decode("ascii", "replace"), before)


class Gathered(NamedTuple):
    """How it stands with a group: ``waiting`` messages, and ``due`` is the server ms when it is their time; None:
    nobody knows, which is wrong."""

    group: str
    waiting: int
    due: int | None


def gathered_g(keys: Keys, group: str) -> Flow[Gathered]:
    """How it stands with a group."""
    digest = "g" + sha1(group.encode(), usedforsecurity=False).hexdigest()

    def parse(score: Any) -> int | None:
        return None if score is None else round(float(score)) - _GROUPS

    replies = yield [
        Command("ZLEXCOUNT", (keys.lanes,), (f"[{digest}", f"({digest}:"), int, True, keys.queue),
        Command("ZSCORE", (keys.turns,), ("g" + group,), parse, True, keys.queue),
    ]
    return Gathered(group, *all_of(replies))


class Share(NamedTuple):
    """How it stands with a tenant: ``before``: how many of its own messages wait before this one; ``held``: how
    many are in hand; ``rests_until``: server ms until which its rate is used up, or None; ``others``: how many
    other tenants are in turn; ``is_in_turn``: whether it is, or rests. If it is not, the end of what is in hand
    calls it."""

    tenant: str
    before: int
    held: int
    rests_until: int | None
    others: int
    is_in_turn: bool = True


def share_g(keys: Keys, tenant: str, score: int) -> Flow[Share]:
    """How it stands with the tenant of the message that has this score in ``later``."""
    digest = "t" + sha1(tenant.encode(), usedforsecurity=False).hexdigest()
    replies = yield [
        Command("ZLEXCOUNT", (keys.lanes,), (f"[{digest}", f"({digest}{score:016d}"), int, True, keys.queue),
        Command("HGET", (keys.uniques,), (holds_field(tenant),), lambda r: int(r or 0), True, keys.queue),
        Command("ZSCORE", (keys.turns,), ("w" + tenant,), _rests_until, True, keys.queue),
        Command("ZCOUNT", (keys.turns,), ("-inf", f"({_RESTS}"), int, True, keys.queue),
    ]
    before, held, (counts, until), in_turn = all_of(replies)
    return Share(tenant, before, held, until, max(0, in_turn - counts), counts or until is not None)


def _rests_until(score: Any) -> tuple[bool, int | None]:
    """Whether it is in turn, or until when it rests."""
    if score is None:
        return False, None
    return (True, None) if float(score) < _RESTS else (False, round(float(score)))


class Line(NamedTuple):
    """The messages of a tenant, or of a group, that wait in ``later``. ``member``: how ``turns`` names it."""

    member: str

    @property
    def is_group(self) -> bool:
        return self.member[0] == "g"

    @property
    def awaits(self) -> str:
        return "time" if self.is_group else "turn"

    def __str__(self) -> str:
        return f"{'group' if self.is_group else 'tenant'} {self.member[1:]!r}"


def lines_of(meta: env.Meta) -> list[Line]:
    """In which a message with this meta can stand."""
    found = (("w", tenant_of(meta)), ("g", group_of(meta)))
    return [Line(letter + name) for letter, name in found if name is not None]


def lost_g(keys: Keys, line: Line) -> Flow[tuple[int, bool]]:
    """How many wait in it, and whether they do so for ever: it is not in turn, and nothing is in hand that would
    call it when it ends."""
    name = line.member[1:]
    lane = ("g" if line.is_group else "t") + sha1(name.encode(), usedforsecurity=False).hexdigest()
    replies = yield [
        Command("ZLEXCOUNT", (keys.lanes,), (f"[{lane}", f"({lane}:"), int, True, keys.queue),
        Command("ZSCORE", (keys.turns,), (line.member,), idempotent=True, queue=keys.queue),
        Command("HGET", (keys.uniques,), (holds_field(name),), lambda r: int(r or 0), True, keys.queue),
    ]
    waiting, score, held = all_of(replies)
    return waiting, waiting > 0 and score is None and (line.is_group or held == 0)


def line_up_g(keys: Keys, line: Line) -> Flow[bool]:
    """Let a line be in turn that is not; False if it is by now. A trip ends the turn of one that may not be."""
    score: Any = 0
    if line.is_group:
        score = _GROUPS + (yield ops.server_time())
    else:
        args = ("-inf", f"({_RESTS}", "WITHSCORES", "LIMIT", 0, 1)
        least = yield Command("ZRANGEBYSCORE", (keys.turns,), args, idempotent=True, queue=keys.queue)
        score = least[1] if least else 0  # who comes anew begins where the least is, as after a put
    added: int = yield Command("ZADD", (keys.turns,), ("NX", score, line.member), int, True, keys.queue)
    return added == 1


def holds_field(tenant: str) -> str:
    """Where ``uniques`` says how many messages of a tenant are in hand."""
    return "~" + tenant


def turn_field(key: str) -> str:
    """Where ``uniques`` says which message has the turn of this key."""
    return "=" + key


def go_on(keys: Keys, key: str, holder: str) -> Command:
    """Let the turn of a key go on, as ``holder`` (an id in hex, or "": nobody) is nowhere. Parses to 1: the next
    one is ready; 2: nobody waited; 0: somebody else has it by now."""
    names = (keys.uniques, keys.lanes, keys.ready, keys.later)

    def parse(reply: Any) -> int:
        return int(reply)

    return Command(_TURN, names, (key, holder), parse, idempotent=True, queue=keys.queue)


def vacate(keys: Keys, holder: str) -> Command:
    """Let the place of a tenant go that ``holder`` (an id in hex) has, who is in nobody's hands. Parses to whether
    it had one."""
    names = (keys.uniques, keys.lanes, keys.later, keys.turns)

    def parse(reply: Any) -> bool:
        return bool(reply)

    return Command(_VACATE, names, (holder,), parse, idempotent=True, queue=keys.queue)
