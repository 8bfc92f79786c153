"""The scan: all that a queue has in Redis, read in bounded steps while others work.

Copies of a message are found in two passes: the first keeps 8 bytes of every message, sorted into boxes; the
second looks where those stand that were met more than once. Hands are read before ready, against the usual
direction of a message's life, so that few are met twice on their way; those that are, the second look lets go.
"""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from reliq.core import beside, dead, ops
from reliq.core import envelope as env
from reliq.core.codec import CODECS, Codec, decode
from reliq.core.command import Command, Flow
from reliq.core.flows import all_of
from reliq.core.fsck.bodies import Bodies, Bodiless, ticket_of
from reliq.core.fsck.finding import (
    BadNote,
    Context,
    Duplicate,
    Finding,
    ForeignKey,
    Spot,
    Unreadable,
    WrongType,
    about,
    hands_of,
)
from reliq.core.fsck.turns import Turns
from reliq.core.fsck.uniques import Held
from reliq.core.keys import Keys
from reliq.core.walk import ListWalk, SortedWalk
from reliq.errors import DecodeError

#: Findings of one kind that one scan keeps, with their bytes; the next scan finds the others.
MOST: Final = 1000
_BOXES: Final = 256
#: What the keys hold whose part begins like this.
_KINDS: Final = {"inbox:": "list", "doing:": "list", "session:": "hash", "seen:": "string", "unique:": "string",
                 "result:": "list", "progress:": "string", "once:": "string"}  # fmt: skip
#: Where a copy is kept rather than in the next ones: the further it is in its life.
_FURTHER: Final = ("doing", "inbox", "ready", "later", "dead")


@dataclass
class Looked:
    """How much was read. ``whole``: no kind of finding was left out for want of room."""

    entries: Counter[str] = field(default_factory=Counter)
    keys: int = 0
    consumers: int = 0
    whole: bool = True


@dataclass
class Entry:
    """Something that stands somewhere."""

    spot: Spot
    value: bytes

    @property
    def element(self) -> bytes:
        """What is claimed, or was: of a dead letter what stands behind its note."""
        return dead.Letter.read(self.value, "0").element if self.spot.state == "dead" else self.value

    @property
    def returns(self) -> int:
        """How often the message went back, as this copy has it."""
        element = self.element
        return int.from_bytes(element[13:17], "big") if element[4] == env.VERSION else 0


class Scan:
    """One scan of one queue.

    ``neighbours``: names of other queues that are known under the prefix. ``codec``, ``raw_codec``: None if bodies
    are written by a codec that is not known here, and are not judged.
    """

    def __init__(
        self, context: Context, *, neighbours: frozenset[str], codec: Codec | None, raw_codec: Codec | None
    ) -> None:
        self._context = context
        self._keys = context.keys
        self._neighbours = neighbours
        self._codec, self._raw_codec = codec, raw_codec
        self._boxes = [array("Q") for _ in range(_BOXES)]
        self._wrong: set[str] = set()
        self._unreadable = 0
        self._bodies = Bodies(context)
        self._held = Held(context)
        self._turns = Turns(context)
        self.looked = Looked()

    def suspicions_g(self) -> Flow[list[Finding]]:
        """All that looks wrong. Each has to be looked at again before it is called a finding."""
        found: list[Finding] = list((yield from self._types_g()))
        with_lists, of_keys = yield from self._keyspace_g()
        found += of_keys
        names, of_consumers = yield from self._consumers_g(with_lists)
        found += of_consumers
        if self._keys.uniques not in self._wrong:
            yield from self._held.read_g()
        if not {self._keys.uniques, self._keys.lanes, self._keys.turns} & self._wrong:
            yield from self._turns.read_g()
        for spot in self._spots(names):
            found += yield from self._entries_g(spot)
        found += self._bodies.orphans(MOST)
        found += self._held.left(MOST)
        found += self._turns.left(MOST)
        self.looked.whole = self.looked.whole and self._bodies.alone <= MOST
        return found + (yield from self._duplicates_g(names))

    # -- keys ---------------------------------------------------------------------------------------------

    def _types_g(self) -> Flow[list[Finding]]:
        k = self._keys
        wanted = {k.ready: "list", k.later: "zset", k.dead: "zset", k.consumers: "zset", k.events: "stream",
                  k.traces: "stream", k.stats: "hash", k.lock: "hash", k.producers: "hash",
                  k.uniques: "hash", k.lanes: "zset", k.turns: "zset",
                  k.schedules: "hash", k.ticks: "zset"}  # fmt: skip
        return (yield from self._wrong_types_g(wanted))

    def _wrong_types_g(self, wanted: dict[str, str]) -> Flow[list[Finding]]:
        found: list[Finding] = []
        replies = yield [_type(key, self._keys) for key in wanted]
        for (key, kind), reply in zip(wanted.items(), all_of(replies), strict=True):
            if reply not in (kind, "none"):
                self._wrong.add(key)
                found.append(WrongType(self._context, key, kind, reply))
        return found

    def _keyspace_g(self) -> Flow[tuple[set[str], list[Finding]]]:
        """The consumers that have lists, and what is wrong with names and types of keys."""
        names: set[str] = set()
        found: list[Finding] = []
        cursor = 0
        while True:
            reply = yield _scan(self._keys, cursor)
            cursor, wanted = int(reply[0]), dict[str, str]()
            for raw in set(reply[1]):
                key = raw.decode("utf-8", "backslashreplace")
                part = self._keys.part_of(key) if key.encode() == raw else None
                self.looked.keys += part is not None
                kind = next((k for start, k in _KINDS.items() if part and part.startswith(start)), None)
                if (name := self._keys.body_of(key)) is not None and part is not None:
                    self._bodies.met(name)
                    wanted[key] = "string"
                elif kind is not None:
                    wanted[key] = kind
                    names.update(filter(None, [self._keys.consumer_of(key)]))
                elif not self._known(key, part) and len(found) < MOST:
                    found.append(ForeignKey(self._context, key, raw))
            if wanted:
                found += yield from self._wrong_types_g(wanted)
            if cursor == 0:
                return names, found

    def _known(self, key: str, part: str | None) -> bool:
        """Whether a key under our tag is ours, or that of a queue which shares the tag."""
        k = self._keys
        ours = (k.ready, k.later, k.dead, k.consumers, k.events, k.traces, k.stats, k.lock, k.producers, k.uniques,
                k.lanes, k.turns, k.schedules, k.ticks, k.purging("ready"), k.purging("later"))  # fmt: skip
        if key in ours or (part is not None and part.startswith("aside:")) or part == "ready":
            return True
        behind = key.removeprefix(k.tagged)
        return any(behind.startswith(f"{name}:") for name in self._neighbours)

    # -- consumers ----------------------------------------------------------------------------------------

    def _consumers_g(self, names: set[str]) -> Flow[tuple[list[str], list[Finding]]]:
        """All consumers, registered ones and those that only have lists; and what is wrong with them."""
        if self._keys.consumers in self._wrong or self._keys.stats in self._wrong:
            return sorted(names), []
        registered = {name for name, _ in (yield ops.consumers(self._keys))}
        everybody, found = sorted(names | registered), list[Finding]()
        self.looked.consumers = len(registered)
        judged = [n for n in everybody if not {self._keys.doing(n), self._keys.inbox(n)} & self._wrong]
        for start in range(0, len(judged), 100):
            some = judged[start : start + 100]
            replies = yield [hands_of(self._context, name) for name in some]
            for name, hands in zip(some, all_of(replies), strict=True):
                found += about(self._context, name, hands)
        return everybody, found

    # -- entries ------------------------------------------------------------------------------------------

    def _spots(self, names: list[str]) -> Iterator[Spot]:
        """Every place that holds messages, in the order of reading."""
        k = self._keys
        places = [Spot(k.doing(name), "doing") for name in names]
        places += [Spot(k.inbox(name), "inbox") for name in names]
        places += [Spot(k.ready, "ready"), Spot(k.later, "later"), Spot(k.dead, "dead")]
        return (spot for spot in places if spot.key not in self._wrong)

    def _entries_g(self, spot: Spot) -> Flow[list[Finding]]:
        """Read one place: count, keep what tells copies, and see what cannot be read."""
        found: list[Finding] = []
        walk = _Walk(spot, self._keys)
        while not walk.done:
            for entry in (yield from walk.step_g()):
                self.looked.entries[spot.state] += 1
                element = entry.element
                if env.is_envelope(element):
                    mark = _mark(element)
                    self._boxes[mark % _BOXES].append(mark)
                    self._held.met(element)
                    self._turns.met(spot.state, element)
                missed = self._bodies.are_missed_by(element)
                if (finding := self._judge(entry, bodiless=missed)) is not None:
                    self.looked.whole = self.looked.whole and len(found) < MOST
                    if len(found) < MOST:
                        found.append(finding)
        return found

    def _judge(self, entry: Entry, *, bodiless: bool) -> Finding | None:
        """What cannot be read in ready and later; what is in hands its consumer judges."""
        spot, number = entry.spot, self._unreadable
        if bodiless and spot.state in ("ready", "later"):
            return self._without_body(entry)
        if spot.state == "dead":
            letter = dead.Letter.read(entry.value, "0")
            if letter.cause != dead.BAD_NOTE or letter.start:
                return None
            problem = (letter.cause, letter.error)
        elif spot.state in ("ready", "later"):
            found = self._problem(entry.value)
            if found is None:
                return None
            problem = found
        else:
            return None
        self._unreadable += 1
        kind = BadNote if spot.state == "dead" else Unreadable
        return kind(self._context, spot.key, spot, entry.value, *problem, number)

    def _without_body(self, entry: Entry) -> Finding:
        body = beside.key_of(self._keys, ticket_of(entry.value) or b"")
        problem = (beside.MISSING, f"there is no body at {body}")
        self._unreadable += 1
        return Bodiless(self._context, entry.spot.key, entry.spot, entry.value, *problem, self._unreadable, body)

    def _problem(self, element: bytes) -> tuple[str, str] | None:
        try:
            if not env.is_envelope(element):
                meta, body = {"r": True}, element
            else:
                found = env.unpack(element)
                meta, body = found.meta, found.body
            if beside.ticket_of(meta) is not None:
                return None
            if self._codec is not None and self._raw_codec is not None and self._speaks(meta):
                decode(meta, body, self._codec, self._raw_codec)
        except DecodeError as error:
            return error.code, str(error)
        return None

    def _speaks(self, meta: env.Meta) -> bool:
        """Whether this body is of a codec that is known here."""
        name = meta.get("c", "msgpack")
        return bool(meta.get("r")) or name in CODECS or (self._codec is not None and name == self._codec.name)

    # -- copies -------------------------------------------------------------------------------------------

    def _duplicates_g(self, names: list[str]) -> Flow[list[Finding]]:
        marks = self._met_twice()
        if not marks:
            return []
        copies: defaultdict[bytes, list[Entry]] = defaultdict(list)
        for spot in self._spots(names):
            walk = _Walk(spot, self._keys)
            while not walk.done:
                for entry in (yield from walk.step_g()):
                    element = entry.element
                    if env.is_envelope(element) and _mark(element) in marks:
                        copies[dead.identity(element)].append(entry)
        found: list[Finding] = []
        for entries in copies.values():
            found += self._pairs(entries)
        return found

    def _met_twice(self) -> set[int]:
        """Marks that were met more than once, at most so many."""
        found: set[int] = set()
        for box in self._boxes:
            last = None
            for mark in sorted(box):
                if mark == last:
                    found.add(mark)
                last = mark
        self._boxes.clear()
        if len(found) > MOST:
            self.looked.whole = False
            return set(sorted(found)[:MOST])
        return found

    def _pairs(self, entries: list[Entry]) -> Iterator[Finding]:
        """The copy that stays, with each of the others: it went back most often, or else is the furthest. In a
        list those on the right come first, so that a removal moves none that is still to come."""
        best = max(entries, key=lambda e: (e.returns, -_FURTHER.index(e.spot.state)))
        others = sorted((e for e in entries if e is not best), key=lambda e: -(e.spot.place or 0))
        for other in others:
            yield Duplicate(self._context, other.spot.key, best.spot, best.value, other.spot, other.value)


class _Walk:
    """Through one place, whatever it is."""

    def __init__(self, spot: Spot, keys: Keys) -> None:
        self._spot = spot
        lists = spot.state in ("doing", "inbox", "ready")
        self._list = ListWalk(spot.key, queue=keys.queue) if lists else None
        self._sorted = None if lists else SortedWalk(spot.key, queue=keys.queue)

    @property
    def done(self) -> bool:
        walk = self._list or self._sorted
        return walk is None or walk.done

    def step_g(self) -> Flow[list[Entry]]:
        """The next entries; bells are none."""
        if self._list is not None:
            found = yield from self._list.step_g()
            return [Entry(self._spot._replace(place=place), e) for place, e in found if e != env.BELL]
        assert self._sorted is not None
        members = yield from self._sorted.step_g()
        return [Entry(self._spot, member.value) for member in members]


def _mark(element: bytes) -> int:
    return int.from_bytes(dead.identity(element)[:8], "big")


def _type(key: str, keys: Keys) -> Command:
    return Command("TYPE", (key,), (), lambda r: r.decode() if isinstance(r, bytes) else r, True, keys.queue)


def _scan(keys: Keys, cursor: int) -> Command:
    args: tuple[Any, ...] = (cursor, "MATCH", keys.tagged_pattern, "COUNT", 1000)
    return Command("SCAN", (), args, idempotent=True, queue=keys.queue)
