"""The scripts of the exclusive mode, by hand: who gets the lock, what a batch is, and when it may be removed."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import Any

import pytest
import redis as redis_py

from reliq.core import beside, exclusive, ops
from reliq.core import envelope as env
from reliq.core.codec import CODECS
from reliq.core.command import Command
from reliq.core.exclusive import ACK, RELEASE, RETRY, RETURN, Doubt, Found, Hold, Seized, Settled, Taken
from tests.lua.lab import BELL, Lab, element, number_of
from tests.lua.test_every_script import error_of
from tests.servers import ExternalServer, RedisServer

E = [element(n) for n in range(40)]
NONE = Doubt()


class Holder:
    """A Hold on a real server; replies may get lost and old calls may haunt."""

    def __init__(self, lab: Lab, name: str = "h1", *, max_losses: int = 3) -> None:
        self.lab, self.now = lab, 0.0
        self.state = Hold(
            lab.keys, name, lease=15.0, codec=CODECS["msgpack"], raw_codec=CODECS["json"], max_losses=max_losses,
            who="test",
        )  # fmt: skip
        self.sent: list[Command] = []

    def seize(self, *, server: str = "", believed: bool = True) -> Seized:
        flow = self.state.seize_g(server, believed=believed)
        command = next(flow)
        while True:
            self.sent.append(command)
            try:
                command = flow.send(self.lab.run(command))
            except StopIteration as stop:
                seized: Seized = stop.value
                if seized.status == "granted":
                    self.state.granted(seized, self.now)
                return seized

    def call(self, command: Command, *, lose: bool = False) -> Any:
        self.sent.append(command)
        reply = self.lab.reply(command)
        assert command.verb.fits(reply), reply  # type: ignore[union-attr]
        return None if lose else self.state.answered(reply, self.now)

    def read(self, most: int = 10, *, lose: bool = False) -> Any:
        return self.call(self.state.unanswered or self.state.read(most), lose=lose)

    def take(self, most: int = 10) -> Taken:
        found = self.read(most)
        assert isinstance(found, Found)
        return found.taken

    def settle(
        self, taken: Taken, verb: str = ACK, doubt: Doubt = NONE, *, lose: bool = False, **more: Any
    ) -> Any:
        return self.call(self.state.unanswered or self.state.settle(taken, verb, doubt, **more), lose=lose)


def holder(lab: Lab, name: str = "h1", **options: Any) -> Holder:
    """One who has the queue."""
    made = Holder(lab, name, **options)
    assert made.seize().status == "granted"
    return made


def end_lease(lab: Lab, name: str = "h1") -> None:
    """Of a holder, on a server that has been up for long."""
    lab.client.hset(lab.keys.stats, mapping={"server": "run1", "server_since": 0})
    lab.expire(name)


def numbers(elements: list[bytes]) -> list[int]:
    return [number_of(e) for e in elements]


# -- who gets the lock --------------------------------------------------------------------------------------


def test_one_holder_alone(lab: Lab) -> None:
    """A second one is told who the first is, and how long his lease is; when he has let go, it is the other's."""
    first, second = holder(lab), Holder(lab, "h2")
    seized = second.seize()
    assert (seized.status, seized.names) == ("held", ["h1"])
    assert 14_000 < seized.left_ms <= 15_000
    assert lab.run(first.state.free()) is True
    assert lab.run(first.state.free()) is False
    again = second.seize()
    assert (again.status, again.fence) == ("granted", 2)
    assert lab.run(exclusive.lock(lab.keys)) == ("h2", 0, 0, 2)


def test_a_repeated_seize_changes_nothing_but_the_lease(lab: Lab) -> None:
    """Its reply was lost: it is the caller's, under the same fence. An old copy gets nothing."""
    mine = holder(lab)
    seize = mine.sent[-1]
    assert lab.run(seize).status == "granted"
    assert lab.run(seize).fence == 1
    lab.run(mine.state.free())
    before = lab.snapshot()
    assert lab.run(seize).status == "gone"
    assert lab.snapshot() == before


@pytest.mark.parametrize("what", ["lives", "doing", "inbox"])
def test_not_while_others_live_or_hold_anything(lab: Lab, what: str) -> None:
    """A live consumer, a dead one with a message, one whose inbox was filled: each is named."""
    lab.push(*E[:3])
    lab.trip("c", 1, want=1 if what == "doing" else 0)
    if what == "inbox":
        lab.bell("c")
    if what != "lives":
        lab.expire("c")
    seized = Holder(lab).seize()
    assert (seized.status, seized.names) == ("busy", ["c"])


def test_not_if_somebody_registers_in_between(lab: Lab) -> None:
    """The script counts the registrations, as it can only look at consumers that it was told of."""
    seize = Holder(lab).state._seize([], "", True)
    lab.trip("c", 1)
    assert lab.run(seize).status == "changed"
    assert Holder(lab).seize().status == "busy"


def test_not_if_somebody_registers_in_the_place_of_another(lab: Lab) -> None:
    """As many as before are not the same ones: the new one has claimed."""
    lab.push(*E[:3])
    lab.trip("left", 1)
    seize = Holder(lab).state._seize(["left"], "", True)
    lab.run(ops.leave(lab.keys, "left", bell_ended=True))
    lab.trip("new", 1, want=3)
    assert lab.run(seize).status == "changed"
    assert lab.doing("new") == E[:3]
    assert Holder(lab).seize().names == ["new"]


def test_nobody_registers_or_claims_while_it_is_held(lab: Lab) -> None:
    """A new consumer is told who does, and nothing is written; one that slept learns that it is dead."""
    lab.push(*E[:3])
    lab.trip("slept", 1)
    lab.expire("slept")
    holder(lab)
    before = lab.snapshot()
    refused = lab.trip("new", 1, want=5)
    assert (refused[0], refused[9], refused[11]) == (b"held", [b"h1"], 0)
    assert 14_000 < refused[7] <= 15_000
    assert lab.trip("slept", 2, want=5)[0] == b"dead"
    assert lab.snapshot() == before


def test_a_takeover_waits_until_the_server_was_up_for_a_lease(lab: Lab) -> None:
    """After a restart nobody could renew; and a lease that looks over is taken over only by who believes it."""
    lab.push(*E[:3])
    first, second = holder(lab), Holder(lab, "h2")
    first.take()
    end_lease(lab)
    assert second.seize(server="run2").status == "waiting"
    assert second.seize(server="run2").status == "waiting"
    assert second.seize(server="run2").left_ms > 14_000
    lab.client.hset(lab.keys.stats, "server_since", 0)
    assert second.seize(server="run2", believed=False).status == "over"
    assert lab.run(exclusive.lock(lab.keys)).holder == "h1"
    assert second.seize(server="run2").status == "granted"
    assert ("takeover", "", "h1, 3 in hand") in lab.events()


def test_ordinary_consumers_end_a_hold_whose_lease_is_over(lab: Lab) -> None:
    """Then they can register; what was in hand counts as lost once."""
    lab.push(*E[:3])
    holder(lab).take(2)
    end_lease(lab)
    assert lab.trip("new", 1)[7] == 0
    ended = lab.run(exclusive.end(lab.keys, lease=15.0, max_losses=3, server="run1"))
    assert ended.status == "free"
    assert [env.unpack(e).lost for e in lab.ready] == [1, 1, 0]
    assert lab.trip("new", 1)[0] == b"ok"
    assert lab.run(exclusive.end(lab.keys, lease=15.0, max_losses=3, server="run1")).status == "free"
    assert [env.unpack(e).lost for e in lab.ready] == [1, 1, 0]


# -- reading ------------------------------------------------------------------------------------------------


def test_a_batch_stays_where_it_is(lab: Lab) -> None:
    """In order, the oldest first; raw bodies get an envelope in their place, equal ones one each."""
    lab.push(E[0], b"7", b"7", E[3], E[4])
    taken = holder(lab).take(4)
    assert taken.elements == lab.ready[:4]
    assert [item.body for item in taken.items] == [0, 7, 7, 3]
    assert len({item.id for item in taken.items}) == 4
    assert lab.ready[4] == E[4]
    assert (taken.number, taken.fence) == (1, 2)
    assert lab.run(exclusive.lock(lab.keys)) == ("h1", 1, 4, 2)


def test_a_repeated_read_is_the_same_batch_and_an_older_one_nothing(lab: Lab) -> None:
    """Its reply was lost, and more was put meanwhile: the same messages, number and fence."""
    lab.push(*E[:3])
    mine = holder(lab)
    assert mine.read(lose=True) is None
    lab.push(*E[3:6])
    found = mine.read()
    assert numbers(found.taken.elements) == [0, 1, 2]
    assert (found.taken.number, found.taken.fence) == (1, 2)
    mine.settle(found.taken)
    before = lab.snapshot()
    assert lab.reply(mine.sent[-3])[0] == b"stale"
    assert lab.snapshot() == before


def test_a_repeated_read_is_none_if_the_head_has_changed(lab: Lab) -> None:
    """What it would return could not be removed."""
    lab.push(*E[:3])
    mine = holder(lab)
    mine.read(lose=True)
    lab.client.rpush(lab.keys.ready, E[9])
    assert mine.read().taken.elements == []
    assert numbers(mine.take().elements) == [9, 0, 1, 2]


def test_bells_are_dropped(lab: Lab) -> None:
    """Wherever they stand, before a batch, in it, and between its reading and its end."""
    lab.push(BELL, E[0], BELL, E[1], BELL, BELL, E[2], E[3])
    mine = holder(lab)
    taken = mine.take(3)
    assert numbers(taken.elements) == [0, 1, 2]
    lab.client.linsert(lab.keys.ready, "BEFORE", E[1], BELL)
    lab.client.rpush(lab.keys.ready, BELL)
    assert mine.settle(taken).done
    assert lab.ready == [E[3]]
    lab.push(BELL)
    mine.settle(mine.take())
    assert mine.take().elements == []


def test_what_is_due_is_promoted(lab: Lab) -> None:
    """Behind what waits; and the answer says when the next one is due."""
    lab.push(E[0])
    lab.client.zadd(lab.keys.later, {E[1]: 1, E[2]: lab.now() + 60_000})
    found = holder(lab).read()
    assert numbers(found.taken.elements) == [0, 1]
    assert 59 < found.due_in <= 60


def test_a_batch_is_bounded_by_bytes_also_of_bodies_beside_the_list(lab: Lab) -> None:
    """256 kB; one larger message comes alone."""
    wide = [element(n, b"x" * 100_000) for n in range(4)]
    lab.push(*wide[:3], element(9, b"y" * 300_000), wide[3])
    for n in (0, 1):
        lab.put_large(20 + n, 200_000)
    mine = holder(lab)
    sizes = []
    for _ in range(5):
        taken = mine.take()
        sizes.append(len(taken.elements))
        mine.settle(taken)
    assert sizes == [2, 1, 1, 1, 1]
    assert lab.ready == lab.ready[-1:]


def test_raw_bodies_are_taken_in_parts(lab: Lab) -> None:
    """To make a message of one takes long: at most 100 of them a call, so that Redis is never held."""
    lab.push(*(b"%d" % n for n in range(240)), E[0])
    mine = holder(lab)
    sizes, bodies = [], []
    while (taken := mine.take(1000)).elements:
        sizes.append(len(taken.elements))
        bodies += [item.body for item in taken.items]
        mine.settle(taken)
    assert sizes == [100, 100, 41]
    assert bodies == [*range(240), 0]


# -- removing -----------------------------------------------------------------------------------------------


def test_an_ack_removes_exactly_the_batch_once(lab: Lab) -> None:
    """What was put meanwhile stays; repeats of the same call, however late, remove nothing more."""
    lab.push(*E[:5])
    mine = holder(lab)
    taken = mine.take(2)
    lab.push(*E[5:8])
    assert mine.settle(taken, lose=True) is None
    assert mine.settle(taken) == Settled(taken, ACK, True)
    assert lab.ready == E[2:8]
    ghost = mine.sent[-1]
    assert lab.reply(ghost)[0] == b"again"
    mine.settle(mine.take(2))
    before = lab.snapshot()
    assert lab.reply(ghost)[0] == b"stale"
    assert lab.snapshot() == before
    assert lab.ready == E[4:8]
    assert int(lab.client.hget(lab.keys.stats, "ack")) == 4


@pytest.mark.parametrize("verb", [ACK, RETRY, RELEASE, RETURN])
@pytest.mark.parametrize("what", ["push", "pop", "swap"])
def test_nothing_is_removed_or_marked_if_the_head_is_another(lab: Lab, verb: str, what: str) -> None:
    """Somebody pushed to the right end, or took from it, or changed what stands there."""
    lab.push(*E[:5])
    mine = holder(lab)
    taken = mine.take(3)
    if what == "push":
        lab.client.rpush(lab.keys.ready, E[9])
    elif what == "pop":
        lab.client.rpop(lab.keys.ready)
    else:
        lab.client.lset(lab.keys.ready, -2, env.bump(env.unpack(E[1])))
    before = lab.ready
    assert mine.settle(taken, verb, most_failed=5).done is False
    assert lab.ready == before
    assert [e for e, _, _ in lab.events()] == ["start", "mismatch"]
    assert lab.reply(mine.sent[-1])[::2] == [b"again", 0]
    again = mine.take(5)
    assert again.fence > taken.fence
    assert again.elements == before[:5]
    assert mine.settle(again).done


def test_who_has_lost_the_lock_removes_nothing(lab: Lab) -> None:
    """A holder that slept past its lease: its settle and its renewal change nothing, nor do old copies."""
    lab.push(*E[:5])
    first, second = holder(lab), Holder(lab, "h2")
    taken = first.take(2)
    end_lease(lab)
    assert second.seize().status == "granted"
    before = lab.snapshot()
    assert first.settle(taken) is None
    assert first.state.lost
    assert lab.run(first.state.prolong()) == 0
    for ghost in first.sent:
        if ghost.verb not in ("ZRANGE",):
            lab.reply(ghost)
    assert lab.snapshot() == before
    assert second.take(5).fence > taken.fence


def test_a_lease_that_is_over_is_still_ours_if_nobody_took_it(lab: Lab) -> None:
    """As with ordinary consumers: what is done late, and disturbed nobody, is done."""
    lab.push(*E[:5])
    mine = holder(lab)
    taken = mine.take(2)
    end_lease(lab)
    assert mine.settle(taken).done
    assert lab.client.zscore(lab.keys.consumers, "h1") > lab.now()


def test_what_a_sleeper_takes_comes_back_to_its_place(lab: Lab) -> None:
    """A consumer that slept when the queue was seized can have a BLMOVE in mind: that harms no order."""
    for name in ("slept", "other"):
        lab.trip(name, 1)
        lab.expire(name)
    mine = holder(lab)
    lab.push(E[0])
    lab.bell("slept")
    lab.push(E[1], E[2])
    taken = mine.take(2)
    assert numbers(taken.elements) == [0, 1]
    lab.bell("other")
    assert mine.settle(taken).done
    assert lab.ready == [E[2]]


def test_large_bodies_go_with_their_batch(lab: Lab) -> None:
    """Only with the ack that removed their message; that of a dead letter stays."""
    one, two, three = (lab.put_large(n, 1000) for n in (1, 2, 3))
    mine = holder(lab)
    taken = mine.take()
    assert [beside.key_of(lab.keys, item.ticket) for item in taken.items] == [one.key, two.key, three.key]
    mine.settle(taken, RETURN)
    assert len(lab.bodies) == 3
    taken = mine.take(2)
    taken.items[1].bury("no such thing")
    lab.client.rpush(lab.keys.ready, E[9])
    assert not mine.settle(taken).done
    assert (len(lab.bodies), lab.dead) == (3, [])
    mine.settle(mine.take(1))
    taken = mine.take(2)
    taken.items[1].bury("no such thing")
    assert mine.settle(taken).done
    assert set(lab.bodies) == {two.key, three.key}
    assert [note["cause"] for note, _ in lab.dead] == ["BURIED"]


def test_what_cannot_be_read_is_buried_from_its_place(lab: Lab) -> None:
    """A wrong version, a wrong length, no JSON: dead letters, as they are; the others are handed over."""
    other = bytearray(E[1])
    other[4] = 9
    long = bytearray(E[2])
    long[5:9] = (1 << 20).to_bytes(4, "big")
    lab.push(E[0], bytes(other), bytes(long), b"{no json", E[4])
    mine = holder(lab)
    taken = mine.take()
    assert [item.body for item in taken.items] == [0, 4]
    assert lab.dead == []
    assert mine.settle(taken).done
    assert (lab.ready, len(lab.dead)) == ([], 4 - 1)
    dead = {note["cause"]: back for note, back in lab.dead}
    assert dead["UNSUPPORTED_VERSION"] == bytes(other)
    assert dead["BAD_LENGTH"] == bytes(long)
    assert env.unpack(dead["UNDECODABLE"]).body == b"{no json"
    counters = lab.client.hmget(lab.keys.stats, "ack", "bury")
    assert [int(n) for n in counters] == [2, 3]


@pytest.mark.parametrize(
    ("verb", "counts"), [(RETRY, (1, 1, 0)), (RELEASE, (1, 0, 1)), (RETURN, (1, 0, 0))]
)  # fmt: skip
def test_counters_are_bumped_in_place(lab: Lab, verb: str, counts: tuple[int, int, int]) -> None:
    """Each way back counts one return, and its cause; failures up to a bound."""
    lab.push(*E[:3])
    mine = holder(lab)
    mine.settle(mine.take(2), verb, Doubt(7, 2), most_failed=1, detail=500)
    for e in lab.ready[:2]:
        envelope = env.unpack(e)
        assert (envelope.returns, envelope.failed, envelope.released) == counts
    assert lab.ready[2] == E[2]
    found = mine.read()
    assert (mine.state.doubt, numbers(found.taken.elements)) == (Doubt(7, 2), [0, 1])
    mine.settle(found.taken, verb, most_failed=1)
    assert env.unpack(lab.ready[0]).failed <= 1
    assert env.unpack(lab.ready[0]).fence == 3


# -- takeovers ----------------------------------------------------------------------------------------------


def die(lab: Lab, number: int) -> None:
    """The holder of this number is gone."""
    end_lease(lab, f"h{number}")


def test_a_poison_is_found_by_halves_and_its_neighbours_live(lab: Lab) -> None:
    """Whoever has it in hand dies. Each takeover bumps fences and halves; alone, after three losses, it is
    buried, and none of the others."""
    lab.push(*E[:40])
    done: list[int] = []
    sizes, fences, fence = [], [], 0
    for number in range(1, 30):
        mine = Holder(lab, f"h{number}")
        assert mine.seize().status == "granted"
        while elements := (taken := mine.take(32)).elements:
            assert taken.fence > fence
            fence = taken.fence
            sizes.append(len(elements))
            fences += [item.fence for item in taken.items if item.body == 13]
            if 13 in numbers(elements):
                break
            done += numbers(elements)
            mine.settle(taken, ACK, mine.state.doubt.cleared(len(elements)))
        else:
            break
        die(lab, number)
    assert done == [n for n in range(40) if n != 13]
    assert sizes[:7] == [32, 16, 8, 4, 2, 1, 1]
    [(note, back)] = lab.dead
    assert (note["cause"], number_of(back)) == ("POISON", 13)
    assert env.unpack(back).lost == 3
    assert fences == sorted(set(fences))
    assert number <= 10
    assert lab.ready == []


def test_losses_in_company_never_bury(lab: Lab) -> None:
    """However often a batch is lost, only a message that was alone in hand counts the last loss."""
    lab.push(*E[:2])
    for number in range(1, 6):
        mine = holder(lab, f"h{number}")
        lab.client.hset(lab.keys.lock, mapping={"span": 0, "size": 0})
        mine.take()
        die(lab, number)
    holder(lab, "last")
    assert [env.unpack(e).lost for e in lab.ready] == [2, 2]
    assert lab.dead == []


def test_a_takeover_counts_nothing_if_the_batch_is_not_there(lab: Lab) -> None:
    """The head is another: who knows what was in hand."""
    lab.push(*E[:4])
    holder(lab).take(2)
    lab.client.rpop(lab.keys.ready)
    end_lease(lab)
    holder(lab, "h2")
    assert lab.ready == E[1:4]
    assert [e for e, _, _ in lab.events()] == ["start", "takeover", "mismatch", "start"]


def test_a_batch_that_was_settled_is_no_loss(lab: Lab) -> None:
    """The holder dies between two batches: nobody is suspected."""
    lab.push(*E[:4])
    mine = holder(lab)
    mine.settle(mine.take(2))
    assert lab.run(exclusive.lock(lab.keys)).in_hand == 0
    end_lease(lab)
    holder(lab, "h2")
    assert lab.ready == E[2:4]
    assert [e for e, _, _ in lab.events()] == ["start", "takeover", "start"]


def test_what_is_in_doubt_outlives_the_holder(lab: Lab) -> None:
    """Span and size stand in the lock."""
    lab.push(*E[:8])
    mine = holder(lab)
    mine.settle(mine.take(8), RETRY, Doubt.of(8), most_failed=9)
    lab.run(mine.state.free())
    assert len(holder(lab, "h2").take(8).elements) == 4


def test_the_doubt_is_halved_until_it_is_over() -> None:
    """What was handled leaves it; what remains is halved again."""
    doubt, sizes = Doubt.of(9), []
    while doubt.size:
        sizes.append(doubt.size)
        doubt = doubt.cleared(doubt.size)
    assert sizes == [5, 2, 1, 1]
    assert doubt == Doubt()
    assert Doubt(7, 4).again(3) == (7, 3)


# -- at random ----------------------------------------------------------------------------------------------


class Attack:
    """Holders that come and go, lost replies, old copies of any call, pushes to both ends."""

    DEEDS = ("put", "put", "act", "act", "act", "act", "haunt", "die", "push_right", "ring")

    def __init__(self, lab: Lab, seed: int) -> None:
        self.lab, self.chance = lab, random.Random(seed)
        self.put_so_far, self.pushed_right = 0, 0
        self.handled: set[int] = set()
        self.order: list[int] = []
        self.ghosts: list[Command] = []
        self.holders = 0
        self.mine: Holder | None = None

    def step(self) -> None:
        getattr(self, self.chance.choice(self.DEEDS))()
        there = [*numbers([e for e in self.lab.ready if e != BELL]), *(number_of(e) for _, e in self.lab.dead)]
        assert len(set(there)) == len(there)
        assert set(range(self.put_so_far)) - set(there) <= self.handled, "removed unread"

    def put(self) -> None:
        more = self.chance.randint(1, 5)
        self.lab.push(*(element(self.put_so_far + i) for i in range(more)))
        self.put_so_far += more

    def push_right(self) -> None:
        if self.chance.random() < 0.3:
            self.lab.client.rpush(self.lab.keys.ready, element(self.put_so_far))
            self.put_so_far, self.pushed_right = self.put_so_far + 1, self.pushed_right + 1

    def ring(self) -> None:
        self.chance.choice([self.lab.client.rpush, self.lab.client.lpush])(self.lab.keys.ready, BELL)

    def haunt(self) -> None:
        if self.ghosts:
            self.lab.reply(self.chance.choice(self.ghosts))

    def die(self) -> None:
        if self.mine is not None and self.chance.random() < 0.4:
            self.ghosts += self.mine.sent
            end_lease(self.lab, self.mine.state.name)
            self.mine = None

    def act(self) -> None:
        mine, lose = self.mine, self.chance.random() < 0.3
        if mine is None:
            self.holders += 1
            self.mine = Holder(self.lab, f"h{self.holders}", max_losses=100)
            while (seized := self.mine.seize()).status != "granted":
                end_lease(self.lab, seized.names[0])  # an old copy of a call has renewed it
        elif mine.state.unanswered is not None:
            mine.call(mine.state.unanswered, lose=lose)
        elif mine.state.in_hand is None:
            mine.read(self.chance.randint(1, 8), lose=lose)
        else:
            self.settle(mine, mine.state.in_hand, lose)

    def settle(self, mine: Holder, taken: Taken, lose: bool) -> None:
        verb = self.chance.choice([ACK, ACK, RETRY, RETURN])
        if verb == ACK:
            self.order += [n for n in numbers(taken.elements) if n not in self.handled]
            self.handled |= set(numbers(taken.elements))
        mine.settle(taken, verb, most_failed=9, lose=lose)
        self.ghosts += mine.sent[-2:]


@pytest.mark.parametrize("seed", range(25))
def test_nothing_is_lost_or_removed_unread(lab: Lab, seed: int) -> None:
    """At every moment each message is in ready or dead, or was removed after a batch with it had been acked;
    what nobody pushed to the right is handled in the order in which it was put."""
    attack = Attack(lab, seed)
    for _ in range(120):
        attack.step()
    if not attack.pushed_right:
        assert attack.order == sorted(attack.order)
    if attack.mine is not None:
        end_lease(lab, attack.mine.state.name)
    last = holder(lab, "last", max_losses=100)
    while (taken := last.take(50)).elements:
        attack.handled |= set(numbers(taken.elements))
        settled = last.settle(taken, ACK, last.state.doubt.cleared(len(taken.elements)))
        assert settled.done
    assert attack.handled == set(range(attack.put_so_far))


# -- what holds for every script ----------------------------------------------------------------------------


def prepare(lab: Lab) -> Holder:
    """A lock with something in every place that the scripts look at."""
    lab.trip("slept", 1)
    lab.expire("slept")
    lab.push(*E[:4], b"raw")
    lab.put_large(30, 1000)
    lab.client.zadd(lab.keys.later, {E[6]: 1})
    mine = holder(lab)
    lab.client.rpush(lab.keys.inbox("slept"), E[7])
    return mine


def settle_command(lab: Lab, mine: Holder) -> Command:
    taken = mine.take()
    taken.items[1].bury("as told")
    lab.client.rpush(lab.keys.inbox("slept"), BELL)
    return mine.state.settle(taken, ACK, NONE)


def failing_command(lab: Lab, mine: Holder) -> Command:
    return mine.state.settle(mine.take(), RETRY, NONE, most_failed=9)


def taking_over(lab: Lab, mine: Holder) -> Command:
    mine.take()
    end_lease(lab)
    return Holder(lab, "h2").state._seize(["h1", "slept"], "run1", True)


def ending(lab: Lab, mine: Holder) -> Command:
    mine.take(1)
    end_lease(lab)
    return exclusive.end(lab.keys, lease=15.0, max_losses=1, server="run1")


COMMANDS: dict[str, Callable[[Lab, Holder], Command]] = {
    "read": lambda lab, mine: mine.state.read(10),
    "settle": settle_command,
    "settle, failed": failing_command,
    "prolong": lambda lab, mine: mine.state.prolong(),
    "free": lambda lab, mine: mine.state.free(),
    "seize, over": taking_over,
    "seize, poison": ending,
}
EVERY = pytest.mark.parametrize("name", COMMANDS)


def places(lab: Lab) -> list[bytes]:
    """The ids (or raw bodies) of all messages, wherever they are."""
    found = [*lab.ready, *lab.later, *(back for _, back in lab.dead), *lab.inbox("slept")]
    return sorted(e[23:39] if env.is_envelope(e) else e for e in found if e != BELL)


@EVERY
def test_wrong_type_loses_nothing(lab: Lab, name: str) -> None:
    """Whichever key holds something else: an error means that nothing was written."""
    command = COMMANDS[name](lab, prepare(lab))
    failed = 0
    for key in dict.fromkeys(command.keys):
        lab.client.delete(*lab.snapshot())
        COMMANDS[name](lab, prepare(lab))
        lab.client.delete(key)
        lab.client.set(key, "foreign")
        before = lab.snapshot()
        if error := error_of(lab, command):
            assert "WRONGTYPE" in error
            assert lab.snapshot() == before
            assert key != lab.keys.events
            failed += 1
        if ":body:" not in key:
            assert lab.client.get(key) == b"foreign", key
    assert failed


@EVERY
def test_out_of_memory(own_lab: Lab, name: str) -> None:
    """All of them work in a full Redis, so that it can be drained."""
    lab = own_lab
    command = COMMANDS[name](lab, prepare(lab))
    everything, before = places(lab), lab.snapshot()
    lab.client.config_set("maxmemory", 1)
    with pytest.raises(redis_py.exceptions.RedisError, match="maxmemory"):
        lab.client.set("x", "y")
    lab.reply(command)
    assert lab.snapshot() != before
    if name == "settle":
        assert sorted(note["cause"] for note, _ in lab.dead) == ["BURIED", "UNDECODABLE"]
        assert len(lab.ready) == 0
    elif name == "read":
        assert len(places(lab)) == len(everything)
    else:
        assert places(lab) == everything


@EVERY
def test_every_key_is_declared(lab: Lab, server: RedisServer | ExternalServer, name: str) -> None:
    """A Redis Cluster must know all keys beforehand."""
    command = COMMANDS[name](lab, prepare(lab))
    lines: list[str] = []
    with server.client() as watcher, watcher.monitor() as monitor:
        lab.reply(command)
        lab.client.echo(lab.keys.prefix + "end")
        for entry in monitor.listen():
            if entry["command"].endswith(lab.keys.prefix + "end"):
                break
            if entry["client_type"] == "lua":
                lines.append(entry["command"])
    mine = [line for line in lines if lab.keys.prefix in line]
    assert mine
    for line in mine:
        touched = re.findall(r"\S*" + re.escape(lab.keys.prefix) + r":\{\S+", line)
        assert set(touched) <= set(command.keys), line


@pytest.mark.parametrize("name", ["read", "settle", "settle, failed", "seize, over", "seize, poison", "free"])
def test_broken_ledger_stops_nothing(lab: Lab, name: str) -> None:
    """Ledger and counters cannot fail a script: a stream of the wrong type, a counter that is no number."""
    command = COMMANDS[name](lab, prepare(lab))
    lab.client.delete(lab.keys.events)
    lab.client.set(lab.keys.events, "foreign")
    lab.client.hset(lab.keys.stats, mapping=dict.fromkeys(("ack", "retry", "bury", "reap", "release"), "x"))
    reply = lab.reply(command)
    assert (reply if isinstance(reply, int) else reply[0]) in (1, b"ok", b"granted", b"free")
