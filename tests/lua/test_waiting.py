"""cancel and reschedule, each alone: exactly what was seen goes or moves, once, and only while it waits."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from reliq.core import beside, waiting
from reliq.core import envelope as env
from reliq.core.command import Command, Flow
from reliq.core.explain.looks import Found
from reliq.core.ops import Due
from reliq.core.waiting import Caller
from tests.lua.lab import BELL, Lab, drop, element, number_of
from tests.lua.test_exclusive import holder

ME = Caller("host:1", "ada")
MINUTE = Due("in", 60_000)


def in_ready(lab: Lab, element: bytes, ahead: int | None = None) -> Found:
    """As a search has seen it in ready, so many before it."""
    ahead = lab.ready.index(element) if ahead is None else ahead
    return Found("ready", len(element), element, position=ahead, length=len(lab.ready))


def in_later(element: bytes) -> Found:
    return Found("later", len(element), element)


def cancel(lab: Lab, found: Found) -> int:
    done: int = lab.run(waiting.cancel(lab.keys, found, ME))
    return done


def reschedule(lab: Lab, found: Found, due: Due = MINUTE) -> int:
    done: int = lab.run(waiting.reschedule(lab.keys, found, due, ME))
    return done


def run(lab: Lab, flow: Flow[bool], answer: Callable[[Command], Any] | None = None) -> bool:
    """Drive a flow to its end."""
    command = next(flow)
    while True:
        try:
            command = flow.send((answer or lab.run)(command))  # type: ignore[arg-type]
        except StopIteration as stop:
            return bool(stop.value)


def counted(lab: Lab, event: str) -> int:
    return int(lab.client.hget(lab.keys.stats, event) or 0)


def scores(lab: Lab) -> dict[int, int]:
    """What is in later: number of the body -> due, server ms."""
    found = lab.client.zrange(lab.keys.later, 0, -1, withscores=True)
    return {number_of(member): int(score) for member, score in found}


# -- cancel -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [0, 1, 4])
def test_one_of_ready_goes(lab: Lab, number: int) -> None:
    """That one, and no other moves; the ledger has who and when; a second time nothing is there."""
    e = [element(n) for n in range(5)]
    lab.push(*e)
    found = in_ready(lab, e[number])
    assert cancel(lab, found) == 1
    assert lab.ready == [x for x in e if x != e[number]]
    id = e[number][23:39].hex()
    [(_, entry)] = lab.client.xrange(lab.keys.events)
    assert entry == {b"event": b"cancel", b"id": id.encode(), b"consumer": b"host:1", b"detail": b"ada"}
    before = lab.snapshot()
    assert cancel(lab, found) == 0
    assert lab.snapshot() == before
    assert counted(lab, "cancel") == 1


def test_deep_in_ready_it_becomes_a_bell(lab: Lab) -> None:
    """To remove it would take as long as the list is deep; consumers drop the bell and claim what is around it."""
    e = [element(n) for n in range(2500)]
    lab.push(*e)
    assert cancel(lab, in_ready(lab, e[1200])) == 1
    assert lab.ready[1200] == BELL
    left = [x for x in e if x != e[1200]]
    claimed: list[bytes] = []
    for number in range(1, 27):
        claimed += lab.trip("a", number, want=100, in_hand=len(claimed))[9]
    assert claimed == left


def test_it_is_found_where_puts_and_claims_have_moved_it(lab: Lab) -> None:
    """Near its place; but what was claimed meanwhile is not touched."""
    e = [element(n) for n in range(1000)]
    lab.push(*e[:10])
    seen, gone = in_ready(lab, e[5]), in_ready(lab, e[0])
    lab.push(*e[10:])
    lab.trip("a", 1, want=3)
    assert cancel(lab, gone) == 0
    assert cancel(lab, seen) == 1
    assert lab.ready == [*e[3:5], *e[6:]]
    assert lab.doing("a") == e[:3]


def test_only_the_very_bytes_go(lab: Lab) -> None:
    """One that went back since has other counters: it may be on its way again, and is looked for again."""
    lab.push(element(1, returns=1))
    assert cancel(lab, in_ready(lab, element(1), 0)) == 0
    lab.client.zadd(lab.keys.later, {element(2, returns=1): 5})
    assert cancel(lab, in_later(element(2))) == 0
    assert (len(lab.ready), len(lab.later)) == (1, 1)


def test_from_later_and_from_an_inbox(lab: Lab) -> None:
    """An inbox is in nobody's hands: its consumer is told nothing, and claims what is left."""
    lab.client.zadd(lab.keys.later, {element(1): 5, element(2): lab.now() + 60_000})
    assert cancel(lab, in_later(element(1))) == 1
    assert lab.later == [element(2)]
    lab.trip("a", 1)
    lab.push(element(3), element(4))
    lab.bell("a")
    assert cancel(lab, Found("inbox", 0, element(3), consumer="a")) == 1
    assert lab.inbox("a") == []
    assert lab.trip("a", 2, want=5)[9] == [element(4)]


def test_its_body_goes_with_it_and_only_then(lab: Lab) -> None:
    """A large one: its key is gone, those of others stay; of one that was claimed meanwhile, too."""
    gone, stays, claimed = lab.put_large(1), lab.put_large(2), lab.put_large(3, due=MINUTE)
    assert cancel(lab, in_ready(lab, gone)) == 1
    assert list(lab.bodies) == sorted([stays.key, claimed.key], key=list(lab.bodies).index)
    lab.client.zadd(lab.keys.later, {bytes(claimed): 0})
    lab.trip("a", 1, want=2)
    for each in (stays, claimed):
        assert cancel(lab, in_later(each)) == 0
        assert cancel(lab, in_ready(lab, each, 0)) == 0
    assert len(lab.bodies) == 2
    lab.trip("a", 2, in_hand=2, acks=[stays, claimed], settles=[drop(stays), drop(claimed)])
    assert lab.bodies == {}


def test_a_batch_of_an_exclusive_holder_stays(lab: Lab) -> None:
    """It lies in ready, in his hands; what is behind it does not, nor does it once the batch is done or his lease
    is over."""
    e = [element(n) for n in range(6)]
    lab.push(*e)
    h = holder(lab)
    taken = h.take(2)
    before = lab.snapshot()
    for number in (0, 1):
        assert cancel(lab, in_ready(lab, e[number])) == 2
        assert reschedule(lab, in_ready(lab, e[number])) == 2
    assert lab.snapshot() == before
    assert cancel(lab, in_ready(lab, e[2])) == 1
    assert reschedule(lab, in_ready(lab, e[3])) == 1
    h.settle(taken)
    assert lab.ready == e[4:]
    h.take(1)
    assert cancel(lab, in_ready(lab, e[4])) == 2
    lab.expire("h1")
    assert cancel(lab, in_ready(lab, e[4])) == 1


# -- reschedule ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("due", [MINUTE, Due("at", 4_000_000_000_000)])
def test_from_ready_to_later(lab: Lab, due: Due) -> None:
    """It waits until then by the server's clock, with a larger fence and no other count; the ledger says so."""
    lab.push(element(1), element(2, failed=2, released=1, lost=1, returns=4), element(3))
    now = lab.now()
    assert reschedule(lab, in_ready(lab, lab.ready[1]), due) == 1
    assert list(map(number_of, lab.ready)) == [1, 3]
    [moved] = lab.later
    e = env.unpack(moved)
    assert (e.returns, e.failed, e.released, e.lost) == (5, 2, 1, 1)
    until = scores(lab)[2]
    assert until == due.ms if due.how == "at" else now + 60_000 <= until < now + 61_000
    assert lab.events() == [("reschedule", e.id.hex(), str(until))]
    assert counted(lab, "reschedule") == 1


def test_within_later(lab: Lab) -> None:
    """Earlier or later than it was due; also at once: then the next trip of anybody brings it."""
    lab.client.zadd(lab.keys.later, {element(1): lab.now() + 5_000, element(2): lab.now() + 9_000})
    assert reschedule(lab, in_later(element(1))) == 1
    assert scores(lab)[1] > lab.now() + 50_000
    [member] = [each for each in lab.later if number_of(each) == 1]
    assert reschedule(lab, in_later(member), Due("at", lab.now() - 1000)) == 1
    [claimed] = lab.trip("a", 1, want=5)[9]
    assert number_of(claimed) == 1
    assert env.unpack(claimed).fence == 3
    assert list(scores(lab)) == [2]


def test_what_is_ready_and_due_stays_in_its_place(lab: Lab) -> None:
    """Nothing is to be done: it is not moved behind others."""
    lab.push(element(1), element(2))
    before = lab.snapshot()
    for due in (Due("in", 0), Due("ready"), Due("at", lab.now() - 5)):
        assert reschedule(lab, in_ready(lab, element(1)), due) == 1
    assert lab.snapshot() == before


def test_a_late_copy_of_a_call_undoes_nothing(lab: Lab) -> None:
    """A connection was closed, and what it carried runs after another time was given, or after it became ready."""
    lab.push(element(1))
    first = waiting.reschedule(lab.keys, in_ready(lab, element(1)), MINUTE, ME)
    assert lab.run(first) == 1
    [member] = lab.later
    second = waiting.reschedule(lab.keys, in_later(member), Due("in", 1), ME)
    assert lab.run(second) == 1
    before = lab.snapshot()
    assert [lab.run(each) for each in (first, second)] == [0, 0]
    assert lab.snapshot() == before
    time.sleep(0.01)
    lab.trip("a", 1)
    before = lab.snapshot()
    assert [lab.run(each) for each in (first, second)] == [0, 0]
    assert lab.snapshot() == before
    assert list(map(number_of, lab.ready)) == [1]


def test_equal_ones_stay_two(lab: Lab) -> None:
    """A sorted set would make one of what a producer has pushed twice."""
    lab.push(element(1), element(1))
    assert reschedule(lab, in_ready(lab, element(1))) == 1
    assert reschedule(lab, in_ready(lab, element(1))) == 1
    assert (len(lab.ready), len(lab.later)) == (0, 2)


def test_one_of_another_version_moves_as_it_is(lab: Lab) -> None:
    """Its counters may mean something else."""
    e = bytearray(element(1))
    e[4] = 9
    lab.push(bytes(e))
    assert reschedule(lab, in_ready(lab, bytes(e))) == 1
    assert reschedule(lab, in_later(bytes(e)), Due("at", 4_000_000_000_000)) == 1
    assert lab.client.zrange(lab.keys.later, 0, -1, withscores=True) == [(bytes(e), 4_000_000_000_000)]
    lab.push(bytes(e))
    assert reschedule(lab, in_ready(lab, bytes(e))) == 0, "an equal one waits there: two would become one"
    assert lab.ready == [bytes(e)]


def test_it_rings_if_it_is_the_soonest(lab: Lab) -> None:
    """Idle consumers sleep until what was due first; nobody is rung for what is due later, nor where nobody is."""
    lab.client.zadd(lab.keys.later, {element(1): lab.now() + 60_000, element(2): lab.now() + 70_000})
    assert reschedule(lab, in_later(element(2)), Due("in", 50_000)) == 1
    assert lab.ready == []
    lab.trip("a", 1)
    [second] = [each for each in lab.later if number_of(each) == 2]
    assert reschedule(lab, in_later(second), Due("in", 90_000)) == 1
    assert lab.ready == []
    assert reschedule(lab, in_later(element(1)), Due("in", 1000)) == 1
    assert lab.ready == [BELL]


def test_a_large_one_keeps_its_body(lab: Lab) -> None:
    """It is moved, not done."""
    e = lab.put_large(1)
    assert reschedule(lab, in_ready(lab, e)) == 1
    assert list(lab.bodies) == [e.key]
    assert beside.ticket_of(env.unpack(lab.later[0]).meta) is not None


def test_it_was_done_although_its_answer_was_lost_and_it_is_gone_since(lab: Lab) -> None:
    """The repeat finds nothing, as it was due, claimed and acked before; the ledger says that it was us, and just
    now: not what we did before."""
    lab.push(element(1))
    id = element(1)[23:39].hex()
    assert run(lab, waiting.reschedule_g(lab.keys, id, MINUTE, ME)) is True

    def done_since(command: Command) -> Any:
        reply = lab.run(command)
        if command.name != "reschedule":
            return reply
        assert reply == 1
        lab.client.delete(lab.keys.later)
        return lab.run(command)  # as after a lost answer

    assert run(lab, waiting.reschedule_g(lab.keys, id, MINUTE, ME), done_since) is True
    assert run(lab, waiting.reschedule_g(lab.keys, id, MINUTE, ME)) is False


# -- both ---------------------------------------------------------------------------------------------------


def test_they_are_quick_in_a_deep_list(lab: Lab) -> None:
    """In the middle of 100,000, and if it is not there: each holds Redis for some ms at most (5 are allowed; ten
    times that here, for slow machines)."""
    e = [element(n) for n in range(100_000)]
    for start in range(0, len(e), 10_000):
        lab.push(*e[start : start + 10_000])
    for found in (in_ready(lab, e[50_000], 50_000), in_ready(lab, element(200_000), 50_000)):
        for act in (reschedule, cancel):
            started = time.perf_counter()
            act(lab, found)
            assert time.perf_counter() - started < 0.05


def test_many_cancelled_ones_hold_no_trip_up(lab: Lab) -> None:
    """20,000 bells in a row: every trip drops some thousands, and what is behind them is claimed."""
    for _ in range(20):
        lab.push(*[BELL] * 1000)
    lab.push(element(1))
    for number in range(1, 10):
        started = time.perf_counter()
        reply = lab.trip("a", number, want=1)
        assert time.perf_counter() - started < 0.05
        if reply[9]:
            break
        assert reply[10] > 0, "more is ready"
    assert reply[9] == [element(1)]
    assert lab.ready == []
