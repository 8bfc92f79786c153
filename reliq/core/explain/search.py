"""Where a message is. A message is in one place at any moment, but a search takes several, and it may move on.

What makes a search certain that found nothing:

1. Small queues are looked at whole, at one moment.
2. Otherwise the places are read in the order in which messages move without a trace in the ledger: lists that
   nobody registered, later, ready, hands. Each is read so that nothing is passed over that stays there. A message
   that was not yet in one of them when it was read is met in one that is read after.
3. Every other way (retry, release, reap, bury, revive, reschedule) writes the id into the ledger. If the ledger
   tells something new of the message at the end, or has let go entries that were not read, the search starts
   again, first where the message has gone.
4. What an inbox holds may go back to the head of ready without a trace: the same look sees inboxes and head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from reliq import defaults
from reliq.core import envelope as env
from reliq.core import ops
from reliq.core.command import Flow
from reliq.core.explain import looks
from reliq.core.explain.looks import NOTHING_SEEN, Event, Found, Sight
from reliq.core.explain.seek import seek_g
from reliq.core.keys import Keys

#: Consumers that one look names at most.
_NAMES: Final = 100
#: After so many parts of a long search the ledger is read: it keeps 10,000 entries, whoever writes how many.
_LEDGER_EVERY: Final = 50
#: How often a message that moved on is looked for again.
_AGAIN: Final = 20
#: A retry and a death write the ledger and their score by the same clock, within one script.
_SAME_MS: Final = 100


class Progress(NamedTuple):
    """How far a long search is: ``looked`` of about ``of`` elements of a place."""

    queue: str
    place: str
    looked: int
    of: int


@dataclass
class Search:
    """The search for one message in one queue, and what was learned on the way.

    ``sight``: the last look at the queue as a whole; ``live``, ``held``: its live consumers and what is in hand;
    ``leases``: consumer → end of its lease, server ms; ``events``: what the ledger tells of the message;
    ``rollbacks``: when the server was found to have forgotten things, whatever they are;
    ``steps``: what was written down besides if it is traced;
    ``certain``: that it was not found means that it is not there; ``most``: bytes that are read of what is found.
    """

    keys: Keys
    id: bytes
    report: Callable[[Progress], None] | None = None
    most: int = looks.HEAD
    sight: Sight = NOTHING_SEEN
    live: int = 0
    held: int = 0
    leases: dict[str, int] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    rollbacks: list[Event] = field(default_factory=list)
    steps: list[Event] = field(default_factory=list)
    certain: bool = False
    _last: tuple[int, int] = (0, 0)
    _missed: bool = False
    _parts: int = 0

    # -- the quick way ------------------------------------------------------------------------------------

    def quick_g(self) -> Flow[Found | None]:
        """Look where the message should be: in hands, at the head, where its id or the ledger says."""
        found = yield from self._hands_g()
        yield from self.recall_g()
        if found is not None or self.sight.whole:
            return found
        for hint in self._hints():
            found = yield from hint
            if found is not None:
                return found
        return (yield from self._hands_g())  # it may have been claimed meanwhile

    def _hints(self) -> Iterator[Flow[Found | None]]:
        """Where it may be, the likeliest first."""
        waits = [due for due in map(looks.due_of, self.events) if due is not None]
        last = self.events[-1] if self.events else None
        if last is not None and last.event == "bury":
            yield self._scored_g("dead", last.ms)
        if last is not None and last.event in ("revive", "restore"):
            yield self._seek_g(last.ms)
        if waits:
            yield self._scored_g("later", waits[-1])
            yield self._seek_g(waits[-1])
        made = env.id_ms(self.id)
        if made is not None:
            yield self._seek_g(made)
        if self.sight.later <= defaults.SCRIPT_ELEMENTS:
            yield self._set_g("later")
        if self.sight.dead <= defaults.SCRIPT_ELEMENTS:
            yield self._set_g("dead")

    def _seek_g(self, ms: int) -> Flow[Found | None]:
        """In ready, where what came there at this time stands."""
        return (yield from seek_g(self.keys, self.id, ms, most=self.most))

    def _scored_g(self, place: str, ms: int) -> Flow[Found | None]:
        """In later or dead, at the time that the ledger says."""
        scores = (ms - _SAME_MS, ms + _SAME_MS)
        part = yield looks.sift_set(self.keys, self.id, place, 0, scores=scores, most=self.most)
        found: Found | None = part.found
        return found

    # -- the thorough way ---------------------------------------------------------------------------------

    def thorough_g(self) -> Flow[Found | None]:
        """Read everything. Without a find it is nowhere, unless ``certain`` is still False: then it moves too
        fast."""
        for _ in range(_AGAIN):
            found = yield from self._everywhere_g()
            if found is not None or self.certain:
                return found
            found = yield from self.quick_g()
            if found is not None:
                return found
        return None

    def _everywhere_g(self) -> Flow[Found | None]:
        """Once through all places, in the order that makes it certain."""
        known, self._missed = len(self.events), False
        ways = [self._strays_g()]
        if self.sight.whole:
            ways += [self._hands_g()]
        else:
            ways += [self._set_g("later"), self._ready_g(), self._hands_g(twice=True), self._set_g("dead")]
        small = self.sight.whole
        for way in ways:
            found = yield from way
            if found is not None:
                return found
        yield from self.recall_g()
        self.certain = self.sight.whole or not (small or self._missed or len(self.events) > known)
        return None

    def _strays_g(self) -> Flow[Found | None]:
        """In lists that nobody registered."""
        cursor, looked = 0, 0
        while True:
            cursor, lists = yield looks.strays(self.keys, cursor)
            for name, key in lists:
                if name in self.leases:
                    continue
                found = yield from self._list_g("doing", key)
                if found is not None:
                    place = "inbox" if key == self.keys.inbox(name) else "doing"
                    return Found(place, found.size, found.head, consumer=name)
            looked += defaults.SCRIPT_ELEMENTS
            yield from self._part_g("keys", looked, 0)
            if cursor == 0:
                return None

    def _set_g(self, place: str) -> Flow[Found | None]:
        """All of later or dead, by cursor."""
        cursor, looked, largest = 0, 0, 0
        while True:
            part = yield looks.sift_set(self.keys, self.id, place, cursor, largest=largest, most=self.most)
            cursor, looked, largest = part.cursor, looked + part.looked, max(part.largest, largest // 2)
            yield from self._part_g(place, looked, part.length)
            if part.found is not None or cursor == 0:
                found: Found | None = part.found
                return found

    def _ready_g(self) -> Flow[Found | None]:
        return (yield from self._list_g("ready", self.keys.ready))

    def _list_g(self, place: str, key: str) -> Flow[Found | None]:
        """All of a list, from the left."""
        looked, largest = 0, 0
        while True:
            part = yield looks.sift(
                self.keys, self.id, looked, largest=largest, left=True, key=key, most=self.most
            )
            looked, largest = looked + part.looked, max(part.largest, largest // 2)
            yield from self._part_g(place, looked, part.length)
            if part.found is not None or looked >= part.length:
                found: Found | None = part.found
                return found

    # -- both ---------------------------------------------------------------------------------------------

    @property
    def last(self) -> Event | None:
        """What happened to it last, as far as the ledger tells; a settle that was refused changed nothing."""
        return next((event for event in reversed(self.events) if event.event != "late"), None)

    def _hands_g(self, *, twice: bool = False) -> Flow[Found | None]:
        """What consumers hold, and the head of ready; and with it how the queue is. Again for consumers that came
        meanwhile: one of them may have it. ``twice``: what goes from an inbox back to ready, and from there to a
        consumer that was looked at before, is met the second time."""
        self.leases, self.live, self.held = {}, 0, 0
        while True:
            registered = dict((yield ops.consumers(self.keys)))
            new = [name for name in registered if name not in self.leases]
            if self.leases and not new:
                return None
            found = yield from self._look_g(new, registered)
            if found is None and twice and len(new) > _NAMES:
                live, held = self.live, self.held
                found = yield from self._look_g(new, registered)
                self.live, self.held = live, held
            if found is not None or self.sight.whole or not registered:
                return found

    def _look_g(self, names: list[str], registered: dict[str, int]) -> Flow[Found | None]:
        """Look at these consumers, some in each call, and at all else that a call has room for."""
        start, found = 0, None
        while True:
            batch = names[start : start + _NAMES]
            self.sight = sight = yield looks.sight(self.keys, self.id, batch, most=self.most)
            self.live, self.held = self.live + sight.live, self.held + sight.held
            self.leases |= {name: registered[name] for name in batch[: sight.looked]}
            start += sight.looked
            found = found or next(iter(sight.found), None)
            if start >= len(names):
                return found

    def recall_g(self) -> Flow[None]:
        """What the ledger has told since the last time. Entries may have been let go before they were read."""
        while True:
            page = yield looks.recall(self.keys, self.id, self._last)
            self._missed |= page.oldest > self._last > (0, 0)
            for event in page.events:
                (self.rollbacks if event.event == "rollback" else self.events).append(event)
            self._last = max(self._last, page.last)
            if page.looked < defaults.SCRIPT_ELEMENTS:
                return

    def steps_g(self) -> Flow[None]:
        """What was written down of a message that is traced, or may be."""
        last = (0, 0)
        while True:
            page = yield looks.recall(self.keys, self.id, last, key=self.keys.traces)
            self.steps += page.events
            last = page.last
            if page.looked < defaults.SCRIPT_ELEMENTS:
                return

    def _part_g(self, place: str, looked: int, of: int) -> Flow[None]:
        """A part of a long search was read: tell, and look into the ledger before it lets go what is new."""
        self._parts += 1
        if self.report is not None:
            self.report(Progress(self.keys.queue, place, looked, of))
        if self._parts % _LEDGER_EVERY == 0:
            yield from self.recall_g()
