"""The looks that explain takes: commands that only read, each bounded, and what they bring."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple

import msgpack

from reliq import defaults
from reliq.core import envelope as env
from reliq.core import lanes, scripts
from reliq.core.command import Command
from reliq.core.envelope import Envelope
from reliq.core.gate import Gate
from reliq.core.keys import Keys
from reliq.core.sample import Sample
from reliq.errors import DecodeError

_SIGHT: Final = scripts.load("sight", after="envelope")
_PROBE: Final = scripts.load("probe")
_SIFT: Final = scripts.load("sift", after="envelope")
_SIFT_SET: Final = scripts.load("sift_set", after="envelope")
_RECALL: Final = scripts.load("recall")
_STRAYS: Final = scripts.load("strays")

#: Bytes of a found element that are read: its header, its meta, its death note; never a large body.
HEAD: Final = 32 * 1024
#: All of it.
WHOLE: Final = 1 << 30
_COUNTERS_AND_ID: Final = struct.Struct(">13xIHHBx16s")
#: Elements that one probe reads, and bytes; the middle one of them counts.
BESIDE: Final = 5
_PROBE_BYTES: Final = 32 * 1024


class Found(NamedTuple):
    """Where a message was found. ``place``: ready, inbox, doing, later or dead. ``position``: how many are claimed
    before it, of ``length``; ``score``: due or died, server ms; ``size``: bytes, of which ``head`` are the
    first."""

    place: str
    size: int
    head: bytes
    position: int = -1
    length: int = -1
    score: int = 0
    consumer: str = ""

    @property
    def note(self) -> env.Meta:
        """The death note of a dead letter; empty if it cannot be read."""
        return self._parts()[0]

    @property
    def message(self) -> Envelope:
        """What the first bytes of the envelope say; its body is left out."""
        return glance(self._parts()[1])

    def _parts(self) -> tuple[env.Meta, bytes]:
        if self.place != "dead":
            return {}, self.head
        with suppress(DecodeError):
            note, element = env.split_note(self.head)
            return note, element
        return {}, self.head

    def is_of(self, id: bytes) -> bool:
        """Whether it is this message, and not one that only speaks of it."""
        note, element = self._parts()
        return element[env.CHECKED_FROM : env.META_FROM] == id or note.get("id") == id.hex()


def glance(head: bytes) -> Envelope:
    """Read the header and the meta of an envelope of which only the first bytes are here; of anything else,
    nothing."""
    if head[:5] != env.MAGIC + bytes([env.VERSION]) or len(head) < env.META_FROM:
        return Envelope(head, bytes(16), 0, 0, 0, 0, {}, b"")
    returns, failed, released, lost, id = _COUNTERS_AND_ID.unpack_from(head)
    meta: Any = {}
    with suppress(Exception):  # msgpack raises a dozen unrelated types on bad input
        reader = msgpack.Unpacker(raw=False, max_buffer_size=len(head))
        reader.feed(memoryview(head)[env.META_FROM :])
        meta = reader.unpack()
    return Envelope(head, id, returns, failed, released, lost, meta if isinstance(meta, dict) else {}, b"")


class Sight(NamedTuple):
    """A queue at one moment. ``looked``: how many of the consumers named were looked at; ``live``: of these;
    ``held``: messages in their hands; ``whole``: nothing was left out; ``samples``: the last two, oldest first."""

    sample: Sample
    ready: int
    later: int
    dead: int
    registered: int
    looked: int
    live: int
    held: int
    whole: bool
    server_since: int
    samples: tuple[Sample | None, Sample | None]
    found: list[Found]
    gate: Gate = Gate()

    @property
    def now(self) -> int:
        """Server ms."""
        return self.sample.ms


#: Before the first look.
NOTHING_SEEN: Final = Sight(Sample(0, 0, 0, 0, 0, ""), 0, 0, 0, 0, 0, 0, 0, False, 0, (None, None), [])


def sight(
    keys: Keys,
    id: bytes,
    names: Sequence[str],
    *,
    elements: int = defaults.SCRIPT_ELEMENTS,
    most: int = HEAD,
) -> Command:
    """Look at all places at one moment, as far as the bounds allow; ``most``: bytes that are read of a find.
    Parses to Sight."""
    k = keys
    lists = (part(name) for name in names for part in (k.inbox, k.doing, k.session))

    def parse(reply: Any) -> Sight:
        now, ready, later, dead, registered, looked, live, held, whole, head, stats, matches = reply
        since, before, last, *counted = stats[:7]
        found = [_found(match, ready) for match in matches]
        return Sight(
            Sample(now, *map(_number, counted), head.decode()),  # type: ignore[call-arg, arg-type]
            *(ready, later, dead, registered, looked, live, held, whole == 1),
            server_since=_number(since),
            samples=(Sample.parse(before), Sample.parse(last)),
            found=[each for each in found if each.is_of(id)],
            gate=Gate.parse(stats[7:]),
        )

    return Command(
        _SIGHT, (k.ready, k.later, k.dead, k.consumers, k.stats, *lists),
        (id, elements, defaults.SCRIPT_BYTES, most, *names), parse, idempotent=True, queue=k.queue,
    )  # fmt: skip


def _found(match: Sequence[Any], ready: int) -> Found:
    place, consumer, where, size, head = match
    found = Found(place.decode(), size, head, consumer=consumer.decode())
    if found.place in ("later", "dead"):
        return found._replace(score=_number(where))
    return found._replace(position=where, length=ready) if found.place == "ready" else found


def _number(text: bytes | None) -> int:
    """A score or a counter; 0 for what is none. A time is kept within the calendar."""
    try:
        found = float(text or 0)
    except ValueError:
        return 0
    return int(min(max(found, 0.0), 9e15 if lanes.waits(found) else 1e14))


class Probe(NamedTuple):
    """The length of a list; when what stands at one place was made (Unix ms; None: none there tells), its
    bytes."""

    length: int
    ms: int | None
    size: int


def probe(keys: Keys, position: int) -> Command:
    """When what stands at this place of ready, counted from its head, was put. Parses to Probe."""

    def parse(reply: Any) -> Probe:
        length, size, *heads = reply
        made = sorted(ms for ms in map(made_ms, heads) if ms is not None)
        return Probe(length, made[len(made) // 2] if made else None, size)

    args = (position, BESIDE, _PROBE_BYTES)
    return Command(_PROBE, (keys.ready,), args, parse, idempotent=True, queue=keys.queue)


def made_ms(head: bytes) -> int | None:
    """When an element was put, by the clock of its producer, if its id tells; it is not looked at closely."""
    if head[:4] != env.MAGIC or len(head) < env.META_FROM:
        return None
    return env.id_ms(head[env.CHECKED_FROM : env.META_FROM])


class Part(NamedTuple):
    """A part of a list that was looked through: ``looked`` elements, the largest of ``largest`` bytes."""

    now: int
    length: int
    looked: int
    largest: int
    first_ms: int | None
    last_ms: int | None
    found: Found | None


def sift(
    keys: Keys, id: bytes, start: int, *, largest: int, left: bool = False, key: str = "", most: int = HEAD
) -> Command:
    """Look for a message in ready, or in another list of the queue, from a position on that is counted from the
    right end or from the left; ``largest``: bytes, of those seen before; ``most``: as of ``sight``. Parses to
    Part."""
    step = max(1, min(defaults.SCRIPT_ELEMENTS // 4, defaults.SCRIPT_BYTES // 4 // largest)) if largest else 1

    def parse(reply: Any) -> Part:
        now, length, looked, most_bytes, first, last, match = reply
        found = Found("ready", match[1], match[2], match[0], length) if match else None
        return Part(now, length, looked, most_bytes, made_ms(first), made_ms(last), found)

    return Command(
        _SIFT, (key or keys.ready,),
        (id, "left" if left else "right", start, step, defaults.SCRIPT_ELEMENTS, defaults.SCRIPT_BYTES, most),
        parse, idempotent=True, queue=keys.queue,
    )  # fmt: skip


class Members(NamedTuple):
    """Some members of a sorted set that were looked through."""

    cursor: int
    length: int
    looked: int
    largest: int
    found: Found | None


def sift_set(
    keys: Keys,
    id: bytes,
    place: str,
    cursor: int,
    *,
    largest: int = 0,
    scores: tuple[int, int] | None = None,
    most: int = HEAD,
) -> Command:
    """Look for a message in later or dead, from a cursor on (0: from the start), or between two scores;
    ``most``: as of ``sight``. Parses to Members."""
    count = max(1, min(defaults.SCRIPT_ELEMENTS, defaults.SCRIPT_BYTES // largest)) if largest else 16
    how: tuple[str, int, int] = ("cursor", cursor, 0) if scores is None else ("score", *scores)

    def parse(reply: Any) -> Members:
        cursor, length, looked, most_bytes, matches = reply
        found = [Found(place, size, head, score=_number(score)) for score, size, head in matches]
        return Members(int(cursor), length, looked, most_bytes, next((f for f in found if f.is_of(id)), None))

    return Command(
        _SIFT_SET, (keys.later if place == "later" else keys.dead,), (id, *how, count, most),
        parse, idempotent=True, queue=keys.queue,
    )  # fmt: skip


class Event(NamedTuple):
    """An entry of the ledger about a message; ``ms`` by the server's clock."""

    ms: int
    event: str
    consumer: str
    detail: str


def due_of(event: Event) -> int | None:
    """When what waits since this event is, or was, due: server ms."""
    if not event.detail.isdigit() or event.event not in ("retry", "reschedule"):
        return None
    return int(event.detail) + (event.ms if event.event == "retry" else 0)


class Page(NamedTuple):
    """A page of the ledger: its oldest entry, the last one of this page, how many were read, and those about the
    message, with all rollbacks among them. An entry is (server ms, number); (0, 0) if there is none."""

    oldest: tuple[int, int]
    last: tuple[int, int]
    looked: int
    events: list[Event]


def recall(keys: Keys, id: bytes, after: tuple[int, int], *, key: str = "") -> Command:
    """What the ledger, or another stream like it, tells of a message, behind an entry ((0, 0): from the first on).
    Parses to Page."""

    def entry(text: bytes) -> tuple[int, int]:
        ms, _, number = (text or b"0-0").decode().partition("-")
        return int(ms), int(number)

    def parse(reply: Any) -> Page:
        oldest, last, looked, *entries = reply
        told = ([each.decode("utf-8", "replace") for each in texts] for _, *texts in entries)
        events = [Event(entry(at)[0], *texts) for (at, *_), texts in zip(entries, told, strict=True)]
        return Page(entry(oldest), entry(last), looked, events)

    args = (id.hex(), "{}-{}".format(*after), defaults.SCRIPT_ELEMENTS)
    return Command(_RECALL, (key or keys.events,), args, parse, idempotent=True, queue=keys.queue)


def strays(keys: Keys, cursor: int) -> Command:
    """One step of the search for lists of consumers, on the node where the queue is. Parses to (next cursor,
    [(consumer, key), ...])."""

    def parse(reply: Any) -> tuple[int, list[tuple[str, str]]]:
        found = ((key, keys.consumer_of(key)) for key in (each.decode("utf-8", "replace") for each in reply[1]))
        return int(reply[0]), [(name, key) for key, name in found if name]

    args = (cursor, keys.lists_pattern, defaults.SCRIPT_ELEMENTS)
    return Command(_STRAYS, (keys.ready,), args, parse, idempotent=True, queue=keys.queue)


def traces(keys: Keys, id: bytes) -> Command:
    """Parses to whether an id of the user's own was put within the hour: its marker stands."""
    return Command("EXISTS", (keys.marker(id),), (), lambda n: n > 0, idempotent=True, queue=keys.queue)


def exists(keys: Keys) -> Command:
    """Parses to whether anything of the queue is there."""
    names = (keys.ready, keys.later, keys.dead, keys.consumers, keys.stats, keys.producers, keys.events)
    return Command("EXISTS", names, (), lambda n: n > 0, idempotent=True, queue=keys.queue)
