"""What the doctor knows: of each server, of each queue, of the settings in somebody's code. No judgement in here.

Whatever can be hidden from us (managed servers forbid CONFIG, ACL or SLOWLOG; users may lack rights) is either the
fact, or a CannotSee with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from reliq.core import envelope as env
from reliq.core.doctor.finding import CannotSee, seen
from reliq.core.flows import ConsumerInfo
from reliq.core.keys import SCHEMA, Keys
from reliq.core.ops import Known
from reliq.core.topology import slot_of
from reliq.errors import DecodeError


class Table:
    """The fields of a reply, by name. Asking for one that is not there raises CannotSee."""

    def __init__(self, source: str, fields: Mapping[str, str] | CannotSee) -> None:
        self._source = source
        self._fields = fields

    def text(self, name: str) -> str:
        """The field as it stands there."""
        found = seen(self._fields).get(name)
        if found is None:
            raise CannotSee(f"{self._source} does not tell {name}")
        return found

    def number(self, name: str) -> int:
        """The field as a whole number."""
        try:
            return int(float(self.text(name)))
        except ValueError:
            raise CannotSee(f"{self._source} says {name} {self.text(name)!r}, which is no number") from None

    def starting(self, prefix: str) -> dict[str, str]:
        """All fields whose names begin so."""
        return {name: value for name, value in seen(self._fields).items() if name.startswith(prefix)}


class SlowCall(NamedTuple):
    """A script of ours in the slow log: its name, when it ran (Unix s), and for how long (ms)."""

    script: str
    at: int
    ms: float


class Clock(NamedTuple):
    """One look at the server's clock: ``rtt_ms`` the round trip, ``ahead_ms`` how far it is ahead of ours, give or
    take half a round trip."""

    rtt_ms: float
    ahead_ms: float


def best(clocks: Sequence[Clock]) -> Clock:
    """The look that says most: the shortest."""
    return min(clocks)


class Keyspace(NamedTuple):
    """What a bounded walk through the keys under the prefix found. ``queues``: names with keys that hold
    messages, and one such key; ``lists``: inboxes and processing lists, by (queue, consumer); ``bodies``: how many
    large bodies lie beside the lists, by queue, and some of their keys; ``whole``: it came to its end."""

    queues: Mapping[str, str]
    lists: Mapping[tuple[str, str], str]
    bodies: Mapping[str, tuple[int, Sequence[str]]]
    whole: bool


@dataclass(frozen=True)
class ServerFacts:
    """One server process. ``now``: its clock, Unix ms. ``local``: reached by a Unix socket. ``clocks``: some looks
    at its clock. ``denied``: commands that reliq sends and this user may not, or that the server does not have."""

    label: str
    local: bool
    now: int
    clocks: Sequence[Clock] | CannotSee
    info: Table
    config: Table
    cluster: Table | None
    user: str | CannotSee
    slow: Sequence[SlowCall] | CannotSee
    denied: Mapping[str, str] | CannotSee
    keyspace: Keyspace | CannotSee

    @property
    def rtt_ms(self) -> float:
        """The round trip: the median, as one of them may have met a hiccup."""
        clocks = seen(self.clocks)
        return sorted(clocks)[len(clocks) // 2].rtt_ms


class KeyType(NamedTuple):
    """A key of a queue, the type that it should have, and the one that it has (``none``: it is not there)."""

    key: str
    wanted: str
    found: str


class Incidents(NamedTuple):
    """What a queue's ledger tells of the last hour, as far as it was read, the newest first. ``causes``: of dead
    letters; ``deaths``: when processes died with something in hand, server ms; ``lost``: how often each message
    was in hand then, by id; ``rollbacks``: when the server was found to have forgotten things, and which;
    ``unrouted``: when a message went back because nobody handles its type, and which (one a minute)."""

    causes: Mapping[str, int]
    deaths: Sequence[int]
    lost: Mapping[str, int]
    rollbacks: Sequence[tuple[int, str]]
    unrouted: Sequence[tuple[int, str]] = ()


@dataclass(frozen=True)
class QueueFacts:
    """One queue. ``now``: the server's clock, Unix ms. ``head``: the element that is claimed next, ``newest``:
    put last. ``shared``: messages of tenants that wait for their turn in later, ``turn``: when the first of them
    was put, Unix ms. ``soonest``: when the first one in later is due, Unix ms. ``tick``: that of the
    first schedule, the same. ``died``: dead letters of the last hour.
    ``sizes``: bytes that ready, later, dead and bodies take. ``strays``: messages in lists that nobody registered,
    by consumer. ``beside``: messages in the list that a queue of this name would have without ``key=``.
    ``forbidden``: keys that this user may not use. ``schema``: of the keys, as the index has it. ``max_age``: how
    old the oldest message may be, seconds; None if nobody has said so."""

    keys: Keys
    lease: float
    server: ServerFacts
    now: int
    types: Sequence[KeyType] | CannotSee
    ready: int | CannotSee
    later: int | CannotSee
    due: int | CannotSee
    shared: int | CannotSee
    turn: int | CannotSee | None
    soonest: int | CannotSee | None
    tick: int | CannotSee | None
    dead: int | CannotSee
    died: int | CannotSee
    ledger: Incidents | CannotSee
    sizes: Mapping[str, int] | CannotSee
    head: bytes | CannotSee | None
    newest: bytes | CannotSee | None
    consumers: Sequence[ConsumerInfo] | CannotSee
    strays: Mapping[str, int] | CannotSee
    beside: int | CannotSee
    forbidden: Sequence[str] | CannotSee
    schema: tuple[int, int] = SCHEMA
    max_age: float | None = None

    @property
    def name(self) -> str:
        return self.keys.queue

    @property
    def slot(self) -> int:
        """In a Cluster."""
        return slot_of(self.keys.ready)

    @property
    def live(self) -> list[ConsumerInfo]:
        """Consumers that will take what is there."""
        return [c for c in seen(self.consumers) if c.lease_ms > 0 and not c.dead and not c.leaving]

    @property
    def waiting(self) -> int:
        """Messages that could be handled now."""
        return seen(self.ready) + seen(self.due) + seen(self.shared)

    @property
    def oldest_ms(self) -> int | None:
        """How long ago the message that is claimed next was put, or the first one of tenants, if they tell."""
        times = [made for made in (self._head_ms, seen(self.turn)) if made is not None]
        return max(0, self.now - min(times)) if times else None

    @property
    def _head_ms(self) -> int | None:
        head = seen(self.head)
        if head is None or not env.is_envelope(head) or head[4] != env.VERSION:
            return None
        try:
            return env.made_ms(head)
        except DecodeError:
            return None


def again(queue: QueueFacts, words: str) -> str:
    """A command to type next, for this queue."""
    prefix = "" if queue.keys.prefix == "reliq" else f" --prefix {queue.keys.prefix}"
    return f"reliq {words} --queue {queue.name}{prefix}"


class Settings(NamedTuple):
    """What somebody's code says about a queue: seconds, bytes. ``redis``: the address, as people are shown it."""

    queue: str
    redis: str
    prefix: str
    key: str | None
    codec: str | None
    lease: float
    timeout: float
    max_body: int


class Unreached(NamedTuple):
    """A queue that could not be looked at, and why; ``split``: because its keys are in several slots."""

    queue: str
    reason: str
    split: bool


class Index(NamedTuple):
    """The queues that a prefix knows; ``unreadable``: names of entries that cannot be read; ``kind``: its key."""

    known: Sequence[Known] | CannotSee
    unreadable: Sequence[str] = ()
    kind: KeyType | None = None


@dataclass(frozen=True)
class Facts:
    """All of it. ``redis``: the address, as people are shown it. ``connect_timeout``: seconds; None if nobody
    has said any."""

    redis: str
    prefix: str
    servers: Sequence[ServerFacts]
    queues: Sequence[QueueFacts]
    unreached: Sequence[Unreached]
    index: Index
    settings: Sequence[Settings]
    connect_timeout: float | None = None
