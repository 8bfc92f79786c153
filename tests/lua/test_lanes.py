"""Ordering keys in the scripts: one turn a key, passed on by whatever ends a message, and never lost."""

from __future__ import annotations

import msgpack
import pytest

from reliq.core import beside, dead, lanes, ops, purge, waiting
from reliq.core import envelope as env
from reliq.core.explain.looks import Found
from reliq.core.lanes import PARKED, Lane
from tests.lua.lab import Lab, element, number_of
from tests.lua.test_purge import clear

CALLER = waiting.Caller("host:1", "me")


def ordered(number: int, key: str = "k", **counters: int) -> bytes:
    """An envelope with an ordering key."""
    id = env.uuid7(1_700_000_000_000, number.to_bytes(10, "big"))
    return env.pack(id, msgpack.packb(number), {"o": key}, **counters)


def put(lab: Lab, *elements: bytes) -> None:
    """Each as its own put, with its own key."""
    for e in elements:
        key = lanes.key_of(env.unpack(e).meta)
        lab.put(e, **({} if key is None else {"lane": Lane(key)}))


def parked(lab: Lab) -> list[int]:
    """The numbers of those that wait for their turn."""
    found = lab.client.zrangebyscore(lab.keys.later, PARKED, "+inf")
    assert lab.client.zcard(lab.keys.lanes) == len(found)
    return [number_of(e) for e in found]


def turns(lab: Lab) -> dict[str, int]:
    """Which number has the turn of which key."""
    return {k[1:]: int(v[-4:], 16) for k, v in lab.uniques.items() if k[0] == "="}


def claim(lab: Lab, name: str, number: int, want: int = 10, **options: object) -> list[int]:
    return [number_of(e) for e in lab.trip(name, number, want=want, **options)[9]]  # type: ignore[arg-type]


def test_one_of_a_key_is_claimed_and_the_others_wait(lab: Lab) -> None:
    """Behind it, where no clock reaches them; what has no key, or another one, passes them."""
    put(lab, ordered(1), ordered(2), element(3), ordered(4, "l"), ordered(5))
    assert claim(lab, "a", 1) == [1, 3, 4]
    assert parked(lab) == [2, 5]
    assert turns(lab) == {"k": 1, "l": 4}
    assert lab.trip("a", 2, in_hand=3)[7] == -1  # nothing is due


@pytest.mark.parametrize("how", ["ack", "bury", "cancelled", "cancelled, reaped", "poison"])
def test_what_ends_one_gives_the_turn_to_the_next(lab: Lab, how: str) -> None:
    """Which is claimed at once, by the same trip if there is one."""
    one, two, three = ordered(1), ordered(2), ordered(3)
    put(lab, one, two, three)
    assert claim(lab, "a", 1) == [1]
    if how.startswith("cancelled"):
        assert lab.run(waiting.call_off(lab.keys, Found("doing", 0, one, consumer="a"), CALLER))
    if how == "ack":
        assert claim(lab, "a", 2, in_hand=1, acks=[one]) == [2]
    elif how == "bury":
        letter = env.join_note({"id": "x", "cause": "X"}, one)
        assert claim(lab, "a", 2, in_hand=1, settles=[("bury", one, letter, "X")]) == [2]
    elif how == "cancelled":
        assert claim(lab, "a", 2, in_hand=1, settles=[("release", one, ordered(1, returns=1), "")]) == [2]
    else:
        lab.reap("a", max_losses=1)
        assert claim(lab, "b", 1) == [2]
    assert parked(lab) == [3]
    assert turns(lab) == {"k": 2}


@pytest.mark.parametrize("verb", ["retry", "release", "reap"])
def test_what_goes_back_keeps_its_turn(lab: Lab, verb: str) -> None:
    """The next one waits until it has ended, however often it is tried."""
    one, back = ordered(1), ordered(1, returns=1)
    put(lab, one, ordered(2))
    assert claim(lab, "a", 1) == [1]
    if verb == "reap":
        lab.reap("a")
        back = lab.ready[0]
        assert claim(lab, "b", 1) == [1]
    else:
        settle = (verb, one, back, 0 if verb == "retry" else "")
        assert claim(lab, "a", 2, in_hand=1, settles=[settle]) == [1]
    assert (parked(lab), turns(lab)) == ([2], {"k": 1})
    name, number = ("b", 2) if verb == "reap" else ("a", 3)
    assert claim(lab, name, number, in_hand=1, acks=[back]) == [2]
    assert claim(lab, name, number + 1, in_hand=1, acks=[ordered(2)]) == []
    assert (parked(lab), turns(lab)) == ([], {})


def test_a_late_settle_passes_no_turn(lab: Lab) -> None:
    """The message goes on elsewhere, and keeps the others waiting."""
    one = ordered(1)
    put(lab, one, ordered(2))
    claim(lab, "a", 1)
    lab.client.lrem(lab.keys.doing("a"), 1, one)
    lab.client.rpush(lab.keys.ready, one)
    assert lab.trip("a", 2, in_hand=1, acks=[one])[3] == [0]
    assert turns(lab) == {"k": 1}
    assert parked(lab) == [2]


def test_a_repeated_trip_passes_it_once(lab: Lab) -> None:
    """Its answer was lost: the second copy changes nothing."""
    one = ordered(1)
    put(lab, one, ordered(2), ordered(3))
    claim(lab, "a", 1)
    assert claim(lab, "a", 2, in_hand=1, acks=[one]) == [2]
    assert claim(lab, "a", 2, in_hand=1, acks=[one]) == [2]
    assert parked(lab) == [3]


def test_cancelled_while_it_waits(lab: Lab) -> None:
    """The turn passes it by; if it is the last one, nothing is left of the key."""
    put(lab, ordered(1), ordered(2), ordered(3))
    claim(lab, "a", 1)
    assert lab.run(waiting.cancel(lab.keys, Found("later", 0, ordered(2)), CALLER)) == 1
    assert parked(lab) == [3]
    assert claim(lab, "a", 2, in_hand=1, acks=[ordered(1)]) == [3]
    assert claim(lab, "a", 3, in_hand=1, acks=[ordered(3)]) == []
    assert (turns(lab), lab.client.exists(lab.keys.lanes)) == ({}, 0)


def test_cancelled_before_it_is_claimed_again(lab: Lab) -> None:
    """One that had gone back, and had the turn."""
    put(lab, ordered(1), ordered(2))
    claim(lab, "a", 1)
    lab.reap("a")
    [back] = lab.ready
    assert lab.run(waiting.cancel(lab.keys, Found("ready", 0, back, position=0, length=1), CALLER)) == 1
    assert lab.ready == [ordered(2)]
    assert turns(lab) == {"k": 2}


def test_rescheduled_out_of_the_lane(lab: Lab) -> None:
    """By the wish of somebody it comes at another time: then it waits behind those that came before."""
    put(lab, ordered(1), ordered(2), ordered(3))
    claim(lab, "a", 1)
    moved = Found("later", 0, ordered(2))
    assert lab.run(waiting.reschedule(lab.keys, moved, ops.Due("in", 0), CALLER)) == 1
    assert claim(lab, "a", 2, in_hand=1) == []  # promoted, and put aside again: behind 3
    assert claim(lab, "a", 3, in_hand=1, acks=[ordered(1)]) == [3]
    [back] = list(lab.client.zrangebyscore(lab.keys.later, PARKED, "+inf"))
    assert claim(lab, "a", 4, in_hand=1, acks=[ordered(3)]) == [2]
    assert claim(lab, "a", 5, in_hand=1, acks=[back]) == []
    assert turns(lab) == {}


@pytest.mark.parametrize("states", [("ready",), ("later",), ("ready", "later")])
def test_purged(lab: Lab, states: tuple[str, ...]) -> None:
    """Those that wait go with later; the turn of one that was ready goes on."""
    put(lab, ordered(1), ordered(2), ordered(3))
    claim(lab, "a", 1)
    lab.reap("a")  # 1 is ready, and has the turn
    removed = clear(lab, *states)
    assert removed == {("ready",): 1, ("later",): 2, ("ready", "later"): 3}[states]
    if states == ("ready",):
        assert ([number_of(e) for e in lab.ready], parked(lab), turns(lab)) == ([2], [3], {"k": 2})
    elif states == ("later",):
        assert (parked(lab), turns(lab)) == ([], {"k": 1})
    else:
        assert (lab.ready, parked(lab), turns(lab)) == ([], [], {})


def test_many_that_have_gone_hide_nobody(lab: Lab) -> None:
    """A lane is not left before its end because of thousands that were purged, or rescheduled."""
    for start in range(0, 2500, 500):
        put(lab, *(ordered(n) for n in range(start, start + 500)))
    for trip in range(1, 12):
        claim(lab, "a", trip, in_hand=min(1, trip - 1))
    assert len(parked(lab)) == 2499
    aside = purge._command(lab.keys, "later", "take", "me", "w")
    assert lab.run(aside) == [1, 2499]
    put(lab, ordered(5000))
    assert claim(lab, "a", 12, in_hand=1) == []  # it waits behind the first one
    assert claim(lab, "a", 13, in_hand=1, acks=[ordered(0)]) == [5000]
    put(lab, ordered(5001), ordered(5002))
    assert claim(lab, "a", 14, in_hand=1) == []
    assert lab.run(waiting.reschedule(lab.keys, Found("later", 0, ordered(5001)), ops.Due("in", 60_000), CALLER))
    assert lab.client.zcard(lab.keys.lanes) == 1
    assert claim(lab, "a", 15, in_hand=1, acks=[ordered(5000)]) == [5002]


def test_equal_ones_are_two(lab: Lab) -> None:
    """Some producer pushed an envelope twice: a sorted set holds one of them, and the other one waits in ready."""
    put(lab, ordered(1), ordered(2))
    lab.push(ordered(2))
    reply = lab.trip("a", 1, want=5)
    assert [number_of(e) for e in reply[9]] == [1]
    assert (parked(lab), [number_of(e) for e in lab.ready]) == ([2], [2])
    reply = lab.trip("a", 2, want=5, in_hand=1)
    assert (reply[9], reply[5]) == ([], -201)  # no use to ask again at once
    seen = claim(lab, "a", 3, in_hand=1, acks=[ordered(1)])
    assert seen == [2, 2]  # they have one id, and so one turn


def test_revived(lab: Lab) -> None:
    """A dead letter that comes back waits behind those that have come since."""
    one = ordered(1)
    put(lab, one, ordered(2))
    claim(lab, "a", 1)
    letter = env.join_note({"id": one[23:39].hex(), "cause": "X"}, one)
    assert claim(lab, "a", 2, in_hand=1, settles=[("bury", one, letter, "X")]) == [2]
    [(member, score)] = lab.client.zrange(lab.keys.dead, 0, -1, withscores=True)
    assert lab.run(dead.revive(lab.keys, "me", [dead.Letter.read(member, str(int(score)).encode())]))
    assert claim(lab, "a", 3, in_hand=1) == []
    assert parked(lab) == [1]
    assert claim(lab, "a", 4, in_hand=1, acks=[ordered(2)]) == [1]


def test_many_of_one_key_do_not_hide_the_others(lab: Lab) -> None:
    """A trip looks some hundred further, and puts aside what it passes; the next ones go on from there."""
    put(lab, *map(ordered, range(200)), element(200))
    put(lab, *(ordered(n, "l") for n in range(201, 250)))
    assert claim(lab, "a", 1, want=3) == [0, 200, 201]
    assert len(parked(lab)) == 199 + 48


def test_one_with_its_body_beside_the_list(lab: Lab) -> None:
    """Its ticket, which stands first in the meta, is no reason not to see the key."""
    for number in (1, 2):
        body = msgpack.packb("x" * 2000)
        ticket = beside.ticket(number.to_bytes(16, "big"), body)
        id = env.uuid7(1_700_000_000_000, number.to_bytes(10, "big"))
        big = beside.checked(env.pack(id, b"", {"b": ticket, "o": "k"}), lab.keys.body(bytes(16)), body)
        put(lab, bytes(big)) if number == 1 else put(lab, bytes(big), element(3))
    [one, three] = lab.trip("a", 1, want=5)[9]
    assert number_of(three) == 3
    assert lab.client.zcard(lab.keys.lanes) == 1
    assert len(lab.trip("a", 2, want=5, in_hand=2, acks=[one])[9]) == 1


def test_no_flag_no_look(lab: Lab) -> None:
    """Without a put that says so, keys are not looked at: what does not use them pays nothing."""
    lab.push(ordered(1), ordered(2))
    assert claim(lab, "a", 1) == [1, 2]
    assert lab.uniques == {}


def test_the_flag_comes_with_the_first_put(lab: Lab) -> None:
    """Also with one for later, and one with a body beside the list."""
    lab.put(ordered(1), lane=Lane("k"), due=ops.Due("in", 60_000))
    assert lab.client.hget(lab.keys.stats, "ordered") == b"1"


def test_what_is_on_its_way_to_an_idle_consumer_is_not_overtaken(lab: Lab) -> None:
    """Two consumers sleep, and each is brought something: the first of a key has the turn from its put on."""
    lab.trip("a", 1)
    lab.trip("b", 1)
    put(lab, ordered(1))
    lab.bell("a")
    put(lab, ordered(2), ordered(3))
    lab.bell("b")
    assert claim(lab, "b", 2) == []
    assert claim(lab, "a", 2) == [1]
    assert parked(lab) == [2, 3]


def test_promoted_in_order(lab: Lab) -> None:
    """Those that were put for later, too: one is ready, the others wait for it."""
    for n in (1, 2, 3):
        lab.put(ordered(n), lane=Lane("k"), due=ops.Due("at", n))
    lab.trip("a", 1)
    lab.bell("a")
    assert claim(lab, "b", 1) == []
    assert claim(lab, "a", 2) == [1]
    assert parked(lab) == [2, 3]
