"""A plain Python model of one queue as its users see it: where each message is, and what each call makes of that.

tests/core/model.py models the scripts, byte by byte; this one models the promises, and knows no trips' arguments.
Where the promises leave a choice (how many messages a consumer claims along with a settle), the model is told what
was seen, and checks that it was allowed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple


class Item(NamedTuple):
    """A message as it stands somewhere. A raw one has no id until it is claimed."""

    id: str
    body: bytes
    returns: int = 0
    failed: int = 0
    released: int = 0
    lost: int = 0

    @property
    def fence(self) -> int:
        return self.returns + 1

    @property
    def suspect(self) -> bool:
        return self.lost > 0

    def back(self, *, failed: int = 0, released: int = 0, lost: int = 0) -> Item:
        """As it goes back: one more return, and the cause that it has."""
        return Item(
            self.id, self.body, self.returns + 1, self.failed + failed, self.released + released, self.lost + lost
        )


@dataclass
class Places:
    """Where all messages are. Ready: the next one first; doing: the oldest one first; dead: with the cause.

    ``doing`` has an entry for each consumer that is registered, and for each that has something.
    """

    ready: list[Item] = field(default_factory=list)
    doing: dict[str, list[Item]] = field(default_factory=dict)
    later: set[Item] = field(default_factory=set)
    dead: set[tuple[str, Item]] = field(default_factory=set)

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        return len(self.ready), sum(map(len, self.doing.values())), len(self.later), len(self.dead)

    def all(self) -> list[Item]:
        return [*self.ready, *(i for held in self.doing.values() for i in held), *self.later, *self.deceased()]

    def deceased(self) -> list[Item]:
        return [item for _, item in self.dead]


@dataclass
class Hand:
    """What a consumer believes: ``held`` is claimed and not settled, ``ahead`` is that part of it which nobody has
    asked for yet, ``told`` is what it knows to be lost. It may not know yet what a reaper took."""

    prefetch: int
    held: list[Item] = field(default_factory=list)
    ahead: list[Item] = field(default_factory=list)
    told: set[Item] = field(default_factory=set)


class Model:
    """One queue. ``unreadable`` are the bodies that no codec decodes."""

    def __init__(self, *, attempts: int, max_losses: int, unreadable: Iterable[bytes] = ()) -> None:
        self.places = Places()
        self.hands: dict[str, Hand] = {}
        self.due: list[Item] = []  # the part of later that may be promoted, soonest first
        self.accepted = 0
        self.acked: set[str] = set()
        self.fences: dict[str, int] = {}  # of the last claim
        self.names: set[str] = set()
        self._attempts, self._max_losses, self._unreadable = attempts, max_losses, set(unreadable)

    # -- producers --------------------------------------------------------------------------------------

    def put(self, *items: Item) -> None:
        """Accepted, the first one first."""
        self.accepted += len(items)
        self.places.ready += items

    def put_later(self, *items: Item) -> None:
        self.accepted += len(items)
        self.places.later |= set(items)

    def put_named(self, item: Item) -> None:
        """With an id of the user's own, which is good for one message."""
        if item.id not in self.names:
            self.names.add(item.id)
            self.put(item)

    def come_due(self, item: Item) -> None:
        """Its time has come; it goes to ready with somebody's next trip."""
        self.due.append(item)

    # -- consumers --------------------------------------------------------------------------------------

    def open(self, name: str, prefetch: int, seen: Places) -> None:
        self.hands[name] = Hand(prefetch)
        self.places.doing[name] = []
        self._trip(name, seen, 0)

    def claim(self, name: str, n: int, seen: Places) -> None:
        """Somebody asks for ``n``. What was claimed ahead comes first; only without it Redis is asked for more. It
        need not be if all of that is known to be lost."""
        hand = self.hands[name]
        if set(hand.ahead) - hand.told:
            self._trip(name, seen, 0, certain=False)
            return
        alone = any(item.suspect for item in hand.held)  # and may be believed to be in hand still
        certain = not hand.ahead
        self._trip(name, seen, max(n, hand.prefetch), asked=certain and not alone, certain=certain)

    def settle(self, name: str, settles: list[tuple[Item, str]], seen: Places) -> list[bool]:
        """Which of these (message, verb) are accepted: those that are in this consumer's hands, as handed over."""
        hand, doing = self.hands[name], self.places.doing[name]
        accepted = []
        for item, verb in settles:
            hand.held = [other for other in hand.held if other != item]
            accepted.append(item in doing)
            if accepted[-1]:
                doing.remove(item)
                self._settled(item, verb)
        # A late settle may free a slot that it did not have.
        self._trip(name, seen, hand.prefetch + accepted.count(False))
        return accepted

    def _settled(self, item: Item, verb: str) -> None:
        if verb in ("ack", "block"):
            assert item.id not in self.acked, "two acks are accepted"
            self.acked.add(item.id)
        elif verb == "release":
            self.places.ready.insert(0, item.back(released=1))
        elif verb == "bury":
            self.places.dead.add(("BURIED", item.back(failed=1)))
        elif verb in ("retry", "fail") and item.failed + 1 >= self._attempts:
            self.places.dead.add(("ATTEMPTS", item.back(failed=1)))
        else:
            self.places.later.add(item.back(failed=1))
            if verb == "retry at once":
                self.due.append(item.back(failed=1))

    def _trip(self, name: str, seen: Places, most: int, *, asked: bool = False, certain: bool = True) -> None:
        """What any trip does besides: bury what cannot be read, promote, learn what is lost, and claim from the
        head of ready: ``most`` at most, and something if that was ``asked`` for and can be. Where it is not
        ``certain`` that there was a trip, what is seen tells."""
        hand, doing, there = self.hands[name], self.places.doing[name], seen.doing.get(name, [])
        for item in self._unread(doing):
            if certain or item not in there:
                self._bury_unread(doing, item)
        if certain or not seen.later & set(self.due):
            self.places.later -= set(self.due)
            self.places.ready += self.due
            self.due = []
        if certain:
            hand.told |= set(hand.held) - set(doing)
            hand.held = [item for item in hand.held if item in doing]
        new = there[len(doing) :]
        assert len(new) <= most, f"claimed {len(new)}, and {most} at most were wanted"
        assert new or not (asked and self._can_claim(doing)), "nothing was claimed, and something is ready"
        for item in new:
            self._claimed(hand, doing, item)

    def _can_claim(self, doing: list[Item]) -> bool:
        ready = self.places.ready
        return bool(ready) and not (ready[0].suspect and doing)

    def _claimed(self, hand: Hand, doing: list[Item], item: Item) -> None:
        assert self.places.ready, "something was claimed, and nothing is ready"
        expected = self.places.ready.pop(0)
        if not expected.id:
            assert item.id not in self.fences, "a raw element was given an id that another message has"
            expected = expected._replace(id=item.id)
        assert item == expected, "not the next one was claimed"
        assert item.id not in self.acked, "claimed after an accepted ack"
        assert item.fence > self.fences.get(item.id, 0), "an older or equal fence was claimed later"
        assert not (item.suspect and doing), "a suspect was claimed beside others"
        assert not any(other.suspect for other in doing), "something was claimed beside a suspect"
        self.fences[item.id] = item.fence
        doing.append(item)
        if item.body not in self._unreadable:
            hand.held.append(item)
            hand.ahead.append(item)

    def handed_over(self, name: str, n: int, got: list[Item]) -> None:
        """A claim of ``n`` returned these: in the order of their claim, none that is known to be lost, and fewer
        only if there are no more."""
        hand, doing = self.hands[name], self.places.doing[name]
        assert len(got) <= n, "more than was asked for"
        for item in got:
            self._skip(hand, doing, item)
            assert hand.ahead, "handed over what was not claimed, or twice"
            hand.ahead.pop(0)
            assert item not in hand.told, "handed over what is known to be lost"
        if len(got) < n:
            self._skip(hand, doing, None)

    def _skip(self, hand: Hand, doing: list[Item], until: Item | None) -> None:
        while hand.ahead and hand.ahead[0] != until:
            assert hand.ahead.pop(0) not in doing, "a claimed message was not handed over in its turn"

    def close(self, name: str, seen: Places) -> None:
        """All that is in hand goes back to the head, in order and uncounted."""
        self._trip(name, seen, 0, certain=False)
        doing = self.places.doing.pop(name)
        for item in self._unread(doing):
            self._bury_unread(doing, item)
        self.places.ready[:0] = [item.back() for item in doing]
        del self.hands[name]

    def reap(self, name: str) -> tuple[int, int]:
        """Its lease is over: all goes back, each lost once more; (how many went back, how many died of it)."""
        doing = self.places.doing[name]
        lost = [item.back(lost=1) for item in doing]
        doing.clear()
        back = [item for item in lost if item.lost < self._max_losses]
        self.places.ready[:0] = back
        self.places.dead |= {("POISON", item) for item in lost if item not in back}
        return len(back), len(lost) - len(back)

    def _unread(self, doing: list[Item]) -> list[Item]:
        return [item for item in doing if item.body in self._unreadable]

    def _bury_unread(self, doing: list[Item], item: Item) -> None:
        doing.remove(item)
        self.places.dead.add(("UNDECODABLE", item))
