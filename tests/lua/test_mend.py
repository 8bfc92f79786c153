"""The scripts that mend: each looks at one moment, changes only what it found so, and loses nothing."""

from __future__ import annotations

import time
from typing import Any

import pytest

from reliq.core import envelope as env
from reliq.core.fsck import finding
from reliq.core.fsck.finding import BadNote, Context, Duplicate, Finding, Spot, Unreadable, WrongType
from tests.lua.lab import BELL, PART, Lab, element, number_of


def context(lab: Lab) -> Context:
    return Context(lab.keys, "me")


def mend(lab: Lab, what: Finding, *, look: bool = False) -> bool:
    """One step of a finding; a look changes nothing."""
    before = lab.snapshot()
    done: bool = lab.run(next(what.look_g() if look else what.repair_g()))
    assert not look or lab.snapshot() == before
    return done


def twins(lab: Lab, stays: Spot, kept: bytes, goes: Spot, copy: bytes) -> Duplicate:
    return Duplicate(context(lab), goes.key, stays, kept, goes, copy)


def in_ready(lab: Lab, place: int) -> Spot:
    return Spot(lab.keys.ready, "ready", place)


# -- dedupe -------------------------------------------------------------------------------------------------


def test_one_of_two_goes(lab: Lab) -> None:
    """The copy goes, the other stays where it is; both were there at that moment. Said in the ledger."""
    lab.push(element(1), element(2), element(3))
    older = element(2, returns=0)
    lab.client.zadd(lab.keys.later, {env.bump(env.unpack(older)): 5})
    [kept] = lab.later
    copies = twins(lab, Spot(lab.keys.later, "later"), kept, in_ready(lab, 1), older)
    assert mend(lab, copies, look=True)
    assert mend(lab, copies)
    assert [number_of(e) for e in lab.ready] == [1, 3]
    assert lab.later == [kept]
    assert lab.events() == [("dedupe", env.unpack(older).id.hex(), "second copy in ready, kept in later")]
    assert not mend(lab, copies)
    assert [number_of(e) for e in lab.ready] == [1, 3]


@pytest.mark.parametrize("gone", ["kept", "copy"])
def test_one_that_moved_on_is_no_copy(lab: Lab, gone: str) -> None:
    """If either is no longer where it was seen, nothing happens."""
    lab.push(element(1))
    lab.client.zadd(lab.keys.dead, {b"\x80" + element(1): 5})
    copies = twins(lab, in_ready(lab, 0), element(1), Spot(lab.keys.dead, "dead"), b"\x80" + element(1))
    lab.client.delete(lab.keys.ready if gone == "kept" else lab.keys.dead)
    assert not mend(lab, copies, look=True)
    assert not mend(lab, copies)
    assert len(lab.ready) + lab.client.zcard(lab.keys.dead) == 1


@pytest.mark.parametrize("place", range(5))
def test_one_element_is_not_two(lab: Lab, place: int) -> None:
    """In the same list the very element that stays is not its own copy, wherever it is looked for."""
    lab.push(*(element(n) for n in range(5)))
    one = twins(lab, in_ready(lab, 2), element(2), in_ready(lab, place), element(2))
    assert not mend(lab, one, look=True)
    lab.push(element(2))
    assert mend(lab, one)
    assert sorted(number_of(e) for e in lab.ready) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("place", [0, 3, 1500, 2996, 2999])
@pytest.mark.parametrize("moved", [-7, 0, 1, 40, 700])
def test_found_near_where_it_was(lab: Lab, place: int, moved: int) -> None:
    """Puts and removals since have moved it; near an end it goes at once, deep inside a bell stands in its place,
    which consumers drop. Everything else keeps its order."""
    e = [element(n) for n in range(3000)]
    for start in range(0, 3000, 500):
        lab.client.rpush(lab.keys.ready, *e[start : start + 500])
    lab.client.zadd(lab.keys.later, {element(place, returns=1): 5})
    [kept] = lab.later
    seen = max(0, place - moved)
    assert mend(lab, twins(lab, Spot(lab.keys.later, "later"), kept, in_ready(lab, seen), e[place]))
    left = lab.list(lab.keys.ready)
    expected = [x for x in e if x != e[place]]
    assert [x for x in left if x != BELL] == expected
    assert left.count(BELL) == (1 if place == 1500 else 0)
    if place == 1500:
        lab.client.ltrim(lab.keys.ready, 0, place)
        assert lab.trip("a", 1, want=1)[9] == [e[place - 1]]


def test_too_far_away_is_not_found(lab: Lab) -> None:
    """A look is bounded: what has moved by more than a thousand places is left for the next scan."""
    lab.push(*(element(n) for n in range(3000)))
    lab.client.zadd(lab.keys.later, {element(2999, returns=1): 5})
    assert not mend(
        lab, twins(lab, Spot(lab.keys.later, "later"), lab.later[0], in_ready(lab, 2500), element(2999))
    )


def test_a_look_is_bounded_by_bytes(lab: Lab) -> None:
    """Large elements around it: some hundred kB are read, and no more."""
    lab.push(element(98))
    lab.push(*(element(n, bytes(PART // 4)) for n in range(40)))
    lab.push(element(99))
    lab.client.config_set("slowlog-log-slower-than", 100_000)
    lab.client.slowlog_reset()
    lab.client.zadd(lab.keys.later, {element(99, returns=1): 5})
    later = Spot(lab.keys.later, "later")
    for far in (98, 99):
        assert not mend(lab, twins(lab, later, lab.later[0], in_ready(lab, 20), element(far)))
    assert mend(lab, twins(lab, later, lab.later[0], in_ready(lab, 1), element(99)))
    assert lab.client.slowlog_get() == []


def test_a_look_at_a_deep_list_is_quick(lab: Lab) -> None:
    """The longest way through a list of 200,000; twenty times of what is measured are allowed."""
    for start in range(0, 200_000, 5000):
        lab.client.rpush(lab.keys.ready, *(b"%06d" % n for n in range(start, start + 5000)))
    lab.client.zadd(lab.keys.later, {b"x": 5})
    started = time.perf_counter()
    assert mend_quick(lab, twins(lab, Spot(lab.keys.later, "later"), b"x", in_ready(lab, 99_500), b"100000"))
    assert time.perf_counter() - started < 0.1


def mend_quick(lab: Lab, what: Finding) -> Any:
    return lab.run(next(what.repair_g()))


# -- entomb -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("raw", [b"\xff garbage", b"", element(1)[:-1]])
def test_raw_garbage_becomes_a_dead_letter(lab: Lab, raw: bytes) -> None:
    """Under an envelope of its own, so that equal ones stay several, with cause and reason; said in the ledger."""
    lab.push(element(1), raw, raw, element(2))
    for number, place in enumerate((2, 1)):
        spot = in_ready(lab, place)
        what = Unreadable(context(lab), lab.keys.ready, spot, raw, "UNDECODABLE", "no json", number)
        assert mend(lab, what, look=True)
        assert mend(lab, what)
    assert lab.ready == [element(1), element(2)]
    (note, one), (_, other) = lab.dead
    assert (note["cause"], note["error"], note["worker"]) == ("UNDECODABLE", "no json", "me")
    assert [env.unpack(e).body for e in (one, other)] == [raw, raw]
    assert env.unpack(one).id.hex() == note["id"] != env.unpack(other).id.hex()
    assert [(event, detail) for event, _, detail in lab.events()] == [("bury", "UNDECODABLE")] * 2
    assert abs(lab.client.zrange(lab.keys.dead, 0, 0, withscores=True)[0][1] - lab.now()) < 60_000


def test_an_unread_envelope_stays_as_it_is(lab: Lab) -> None:
    """A whole envelope keeps its bytes and its id, also in later."""
    bad = env.pack(bytes(range(16)), b"\xff")
    lab.client.zadd(lab.keys.later, {bad: 5})
    what = Unreadable(context(lab), lab.keys.later, Spot(lab.keys.later, "later"), bad, "UNDECODABLE", "x", 0)
    assert mend(lab, what)
    assert not mend(lab, what)
    assert lab.later == []
    [(note, back)] = lab.dead
    assert (back, note["id"]) == (bad, bytes(range(16)).hex())


@pytest.mark.parametrize("member", [b"\xc1 no note", b"", element(1)])
def test_a_member_without_a_note_gets_one(lab: Lab, member: bytes) -> None:
    """It is shown and revived like any other then."""
    lab.client.zadd(lab.keys.dead, {member: 5})
    what = BadNote(context(lab), lab.keys.dead, Spot(lab.keys.dead, "dead"), member, "BAD_NOTE", "x", 0)
    assert mend(lab, what)
    [(note, back)] = lab.dead
    assert note["cause"] == "BAD_NOTE"
    assert back == member if env.is_envelope(member) else env.unpack(back).body == member


# -- set_aside ----------------------------------------------------------------------------------------------


def test_a_key_of_the_wrong_type_gets_another_name(lab: Lab) -> None:
    """Renamed, whole; the ledger says from where, even if it is the ledger itself."""
    lab.client.set(lab.keys.events, "foreign")
    what = WrongType(context(lab), lab.keys.events, "stream", "string")
    assert mend(lab, what, look=True)
    assert mend(lab, what)
    assert not mend(lab, what, look=True)
    assert lab.client.get(lab.keys.aside(lab.keys.events, "me")) == b"foreign"
    assert lab.events() == [("set aside", "", f"string {lab.keys.events}")]


def test_what_is_right_stays(lab: Lab) -> None:
    """A key that was mended meanwhile, or is gone, is not renamed."""
    what = WrongType(context(lab), lab.keys.ready, "list", "string")
    assert not mend(lab, what)
    lab.push(element(1))
    assert not mend(lab, what)
    assert lab.ready == [element(1)]


def test_nothing_is_overwritten(lab: Lab) -> None:
    """A new name that is taken is left alone, and so is the key."""
    what = WrongType(context(lab), lab.keys.ready, "list", "string")
    lab.client.mset({lab.keys.ready: "foreign", lab.keys.aside(lab.keys.ready, "me"): "older"})
    assert not mend(lab, what)
    assert lab.client.get(lab.keys.ready) == b"foreign"


def test_set_aside_works_out_of_memory(own_lab: Lab) -> None:
    """A full Redis can be mended."""
    lab = own_lab
    lab.client.set(lab.keys.ready, "foreign")
    lab.client.config_set("maxmemory", 1)
    assert lab.run(next(WrongType(context(lab), lab.keys.ready, "list", "string").repair_g()))
    assert lab.client.exists(lab.keys.ready) == 0


# -- hands --------------------------------------------------------------------------------------------------


def test_hands(lab: Lab) -> None:
    """Inbox, processing list, registration and who else lives, at one moment."""
    lab.push(element(1), element(2))
    lab.trip("a", 1, want=1, server="run1")
    lab.bell("a")
    lab.client.hset(lab.keys.stats, "server_since", 1)
    seen = lab.run(finding.hands_of(Context(lab.keys, "me", "run1"), "a"))
    assert (seen.inbox, seen.doing, seen.held, seen.live, seen.up) == (1, 1, 2, 1, True)
    assert 0 < seen.end - seen.now <= 15_000
    assert not lab.run(finding.hands_of(Context(lab.keys, "me", "run2"), "a")).up
    assert not lab.run(finding.hands_of(Context(lab.keys, "me", "run1", lease=1e12), "a")).up
    nobody = lab.run(finding.hands_of(Context(lab.keys, "me"), "b"))
    assert (nobody.end, nobody.held) == (None, 0)


def test_what_is_being_brought_back_is_on_its_way(lab: Lab) -> None:
    """Between two looks a reaper took some: it is at work, so nothing is wrong. Still the same: it is."""
    lab.push(element(1), element(2))
    lab.trip("gone", 1, want=2)
    lab.client.zadd(lab.keys.consumers, {"gone": 5})
    lab.client.hset(lab.keys.stats, "server_since", 1)
    [held] = finding.about(context(lab), "gone", lab.run(finding.hands_of(context(lab), "gone")))
    assert run(lab, held.look_g())
    lab.client.lpop(lab.keys.doing("gone"))
    assert not run(lab, held.look_g())


def run(lab: Lab, flow: Any) -> Any:
    """Drive a flow of one command."""
    try:
        flow.send(lab.run(next(flow)))
    except StopIteration as stop:
        return stop.value
