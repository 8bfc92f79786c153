"""Large bodies beside the list: written with their message by one script, dropped by accepted acks alone."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
import redis as redis_py

from reliq.core import beside, dead, ops
from reliq.core import envelope as env
from reliq.core.beside import Beside
from reliq.core.dead import Letter
from reliq.core.trace import Told
from tests.lua.lab import PART, Consumer, Lab, drop, element, large

LATE, ELEMENTS = 3, 9


def stands(*elements: Beside) -> dict[str, bytes]:
    return {e.key: e.body for e in elements}


@pytest.mark.parametrize(
    ("due", "place"),
    [(ops.NOW, "ready"), (ops.Due("in", 60_000), "later"), (ops.Due("at", 4_000_000_000_000), "later")],
)
@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("told", [None, Told("host:1", "prog", [bytes(16)])])
def test_a_put_writes_message_and_body(lab: Lab, due: ops.Due, place: str, named: bool, told: Told | None) -> None:
    """At once or later, with a marker or without, traced or not; the element is small, the body has no end."""
    marker = lab.keys.marker(b"\x01" * 16) if named else ""
    e = lab.put_large(1, due=due, marker=marker, told=told)
    assert getattr(lab, place) == [bytes(e)]
    assert len(e) < 100
    assert lab.bodies == stands(e)
    assert lab.client.ttl(e.key) == -1
    assert lab.client.exists(marker or lab.keys.ready, lab.keys.traces) >= named + (told is not None)


@pytest.mark.parametrize("due", [ops.NOW, ops.Due("in", 60_000)])
def test_a_repeat_writes_nothing(lab: Lab, due: ops.Due) -> None:
    """Neither by its number, nor by its id: the second ticket stands for nothing."""
    marker = lab.keys.marker(b"\x01" * 16)
    e = large(lab.keys, 1)
    assert lab.put(e, producer=b"p", sequence=3, due=due, marker=marker)
    before = lab.snapshot()
    assert not lab.put(e, producer=b"p", sequence=3, due=due, marker=marker)
    assert not lab.put(large(lab.keys, 2), due=due, marker=marker)
    assert lab.snapshot() == before


def test_a_repeat_after_the_ack_leaves_no_body(lab: Lab) -> None:
    """A put whose answer came late is repeated when its message has long been handled."""
    e = large(lab.keys, 1)
    assert lab.put(e, producer=b"p", sequence=3)
    lab.trip("a", 1, want=1)
    lab.trip("a", 2, in_hand=1, acks=[e], settles=[drop(e)])
    assert not lab.put(e, producer=b"p", sequence=3)
    assert (lab.bodies, lab.ready) == ({}, [])


@pytest.mark.parametrize("due", [ops.NOW, ops.Due("in", 60_000)])
def test_a_full_redis_refuses_a_put_whole(own_lab: Lab, due: ops.Due) -> None:
    """Nothing of it is written; what is there is claimed, acked and dropped all the same."""
    first = own_lab.put_large(1)
    before = own_lab.snapshot()
    own_lab.client.config_set("maxmemory", 1)
    with pytest.raises(redis_py.exceptions.ResponseError, match="maxmemory"):
        own_lab.put(large(own_lab.keys, 2), due=due)
    assert own_lab.snapshot() == before
    assert own_lab.trip("a", 1, want=1)[ELEMENTS] == [first]
    assert own_lab.trip("a", 2, in_hand=1, acks=[first], settles=[drop(first)])[LATE] == []
    assert own_lab.bodies == {}


def test_a_wrong_type_refuses_a_put_whole(lab: Lab) -> None:
    """A ready list that is none: the body does not stand there alone."""
    lab.client.set(lab.keys.ready, "x")
    with pytest.raises(redis_py.exceptions.ResponseError, match="WRONGTYPE"):
        lab.put(large(lab.keys, 1), producer=b"p", sequence=1)
    assert lab.bodies == {}


def test_an_accepted_ack_drops_the_body(lab: Lab) -> None:
    """Of those that were acked, and of no other."""
    a, b = lab.put_large(1), lab.put_large(2)
    lab.trip("a", 1, want=2)
    reply = lab.trip("a", 2, in_hand=2, acks=[a], settles=[drop(a)])
    assert reply[LATE] == []
    assert lab.bodies == stands(b)


def test_a_late_ack_drops_nothing(lab: Lab) -> None:
    """The message was reaped and is somebody else's; the other ack of the same trip is accepted."""
    a, b = lab.put_large(1), lab.put_large(2)
    lab.trip("a", 1, want=1)
    lab.reap("a")
    lab.trip("b", 1, want=2)
    back = lab.doing("b")
    reply = lab.trip("c", 1, acks=[a], settles=[drop(a)])
    assert reply[LATE] == [0]
    assert lab.bodies == stands(a, b)
    lab.trip(
        "b", 2, in_hand=len(back), acks=[back[0], element(7)], settles=[drop(a), ("drop", "0" * 32, b.key, "")]
    )
    assert a.key not in lab.bodies


def test_the_places_of_late_settles_do_not_count_drops(lab: Lab) -> None:
    """A drop is no settle: what stands behind it is numbered as if it were not there."""
    a = lab.put_large(1)
    lab.put(element(2), element(3))
    lab.trip("a", 1, want=3)
    reply = lab.trip(
        "a", 2, in_hand=3, acks=[a],
        settles=[drop(a), ("release", element(9), element(9, returns=1), ""),
                 ("release", element(2), element(2, returns=1), "")],
    )  # fmt: skip
    assert reply[LATE] == [1]
    assert lab.bodies == {}
    assert lab.ready == [element(2, returns=1)]


def test_a_repeated_trip_drops_nothing_more(lab: Lab) -> None:
    """A ghost of the trip that acked, and the very same trip again, change nothing."""
    a = lab.put_large(1)
    lab.trip("a", 1, want=1)
    acking = lab.trip_command("a", 2, in_hand=1, acks=[a], settles=[drop(a)])
    lab.reply(acking)
    lab.client.set(a.key, a.body)  # as an import of its export would
    assert lab.reply(acking)[0] == b"again"
    lab.trip("a", 3)
    assert lab.reply(acking)[0] == b"stale"
    assert lab.bodies == stands(a)


@pytest.mark.parametrize("verb", ["retry", "release", "bury"])
def test_what_goes_back_keeps_its_body(lab: Lab, verb: str) -> None:
    """Whatever is settled otherwise than by an ack."""
    a = lab.put_large(1)
    lab.trip("a", 1, want=1)
    back = bytes(large(lab.keys, 1, returns=1))
    back = env.join_note({"cause": "X"}, back) if verb == "bury" else back
    lab.trip("a", 2, in_hand=1, settles=[(verb, a, back, "1000")])
    assert lab.bodies == stands(a)
    assert lab.doing("a") == []


def test_reap_and_poison_keep_it(lab: Lab) -> None:
    """Also a letter has its body, so that it can be revived."""
    a = lab.put_large(1)
    lab.trip("a", 1, want=1)
    assert lab.reap("a", max_losses=1).buried == 1
    assert lab.bodies == stands(a)


def test_a_claim_is_bounded_by_the_bodies_beside(lab: Lab) -> None:
    """256 kB of bodies a claim, wherever they lie; the order is that of the puts, one larger comes alone."""
    order = [
        lab.put_large(1),
        lab.put_large(2),
        lab.put_large(3),
        element(4),
        lab.put_large(5, PART * 2),
        element(6),
    ]
    lab.client.delete(lab.keys.ready)
    lab.push(*order)
    claims = []
    for number in range(1, 6):
        claims.append(lab.trip("a", number, want=100, in_hand=sum(map(len, claims)))[ELEMENTS])
    assert claims == [order[:2], order[2:4], order[4:5], order[5:], []]


def test_bodies_in_the_list_count_with_those_beside(lab: Lab) -> None:
    """One measure for both."""
    lab.put_large(1, 200_000)
    lab.put(element(2, "x" * 100_000))
    assert len(lab.trip("a", 1, want=10)[ELEMENTS]) == 1


@pytest.mark.parametrize("size", [1000, 255 * 1024])
def test_a_forged_ticket_bounds_nothing_but_itself(lab: Lab, size: int) -> None:
    """A ticket that says more than there is, or stands elsewhere in the meta, is no reason to claim nothing."""
    tickets: list[dict[str, Any]] = [
        {"b": b"\xff" * 20},
        {"x": 1, "b": b"\xff" * 20},
        {"b": b"\xff" * 19},
        {"b": "no"},
    ]
    made = [
        env.pack(env.uuid7(1, bytes([n] * 10)), msgpack.packb("x" * size), meta) for n, meta in enumerate(tickets)
    ]
    lab.push(*made)
    found: list[bytes] = []
    for number in range(1, 5):
        found += lab.trip("a", number, want=10, in_hand=len(found))[ELEMENTS]
    assert found == made


def test_a_consumer_brings_the_drops(lab: Lab) -> None:
    """The state machine and the script together: from the put to the last key."""
    lab.put_large(1)
    consumer = Consumer(lab, "a")
    assert consumer.trip() is not None
    [(message, ticket)] = consumer.state.bodies.unfetched.items()
    assert consumer.state.furnish(message, lab.run(beside.fetch(lab.keys, ticket))) is message
    assert message.body == b"\x01" * (100_000 - 5)
    answer = consumer.trip(0, consumer.state.ack(message), lose=True) or consumer.trip(0)
    assert answer is not None
    assert [settle.accepted for settle in answer.settled] == [True]
    assert lab.bodies == {}
    assert not consumer.state.bodies


# -- dead letters -------------------------------------------------------------------------------------------


def bury(lab: Lab, e: Beside, cause: str = "ATTEMPTS", **note: Any) -> Letter:
    """A large one among the dead; the letter as an export has it."""
    member = env.join_note({"id": e[23:39].hex(), "cause": cause, **note}, e)
    lab.client.zadd(lab.keys.dead, {member: 1000})
    lab.client.set(e.key, e.body)
    return Letter.read(member, "1000")._replace(body=e.body)


def test_a_letter_knows_its_ticket(lab: Lab) -> None:
    """One without, and what is no letter, has none."""
    letter = bury(lab, large(lab.keys, 1))
    assert letter.ticket is not None
    assert beside.key_of(lab.keys, letter.ticket) == large(lab.keys, 1).key
    assert letter.weight == len(letter.member) + 100_000
    assert Letter.read(env.join_note({"id": "x"}, element(1)), "1").ticket is None
    assert Letter.read(b"garbage", "1").ticket is None


def test_a_letter_and_its_body_are_removed_together(lab: Lab) -> None:
    """Of those that are there; one that was revived meanwhile needs its body."""
    a, b, c = (large(lab.keys, n) for n in range(3))
    letters = [bury(lab, e) for e in (a, b, c)]
    assert lab.run(dead.revive(lab.keys, "me", [letters[1]])) == [True]
    assert lab.bodies == stands(a, b, c)
    assert lab.run(dead.discard(lab.keys, "me", letters[:2])) == [True, False]
    assert lab.bodies == stands(b, c)
    assert len(lab.dead) == 1


def test_small_ones_among_large_ones(lab: Lab) -> None:
    """Each body belongs to its own letter."""
    e = large(lab.keys, 1)
    small = [Letter.read(env.join_note({"id": "0" * 32, "n": n}, element(n)), "5") for n in range(2)]
    letters = [small[0], bury(lab, e), small[1]]
    assert lab.run(dead.discard(lab.keys, "me", letters)) == [False, True, False]
    assert lab.bodies == {}
    assert lab.run(dead.restore(lab.keys, "me", letters)) == [True] * 3
    assert lab.bodies == stands(e)
    assert lab.client.ttl(e.key) == -1


def test_an_import_brings_the_body_once(lab: Lab) -> None:
    """Repeats, and imports while the message is here in whatever state, add neither letter nor body."""
    e = large(lab.keys, 1)
    letter = bury(lab, e)
    assert lab.run(dead.restore(lab.keys, "me", [letter])) == [False]
    lab.run(dead.revive(lab.keys, "me", [letter]))
    lab.client.delete(lab.keys.marker(letter.identity))  # the hour is over
    assert lab.run(dead.restore(lab.keys, "me", [letter])) == [False]
    assert (lab.dead, lab.bodies) == ([], stands(e))
    lab.trip("a", 1, want=1)
    [back] = lab.doing("a")
    lab.trip("a", 2, in_hand=1, acks=[back], settles=[drop(e)])
    assert lab.run(dead.restore(lab.keys, "me", [letter])) == [True]
    assert lab.bodies == stands(e)
    lab.client.delete(lab.keys.dead, e.key)  # by hand; then the marker tells a repeat
    assert lab.run(dead.restore(lab.keys, "me", [letter])) == [False]
    assert lab.bodies == {}


def test_an_export_without_the_body_brings_the_letter(lab: Lab) -> None:
    """It was gone when it was exported."""
    letter = bury(lab, large(lab.keys, 1))
    lab.client.delete(lab.keys.dead, large(lab.keys, 1).key)
    assert lab.run(dead.restore(lab.keys, "me", [letter._replace(body=None)])) == [True]
    assert (len(lab.dead), lab.bodies) == (1, {})


def test_a_full_redis_refuses_an_import_whole(own_lab: Lab) -> None:
    """Neither the letter nor its body; to remove them frees memory, and is not refused."""
    lab = own_lab
    here, new = bury(lab, large(lab.keys, 1)), bury(lab, large(lab.keys, 2))
    lab.run(dead.discard(lab.keys, "me", [new]))
    lab.client.config_set("maxmemory", 1)
    before = lab.snapshot()
    with pytest.raises(redis_py.exceptions.ResponseError, match="maxmemory"):
        lab.run(dead.restore(lab.keys, "me", [new]))
    assert lab.snapshot() == before
    assert lab.run(dead.discard(lab.keys, "me", [here])) == [True]
    assert lab.bodies == {}


def test_a_large_letter_goes_alone(lab: Lab) -> None:
    """What is sent together is bounded with the bodies that are brought along."""
    letters = [bury(lab, large(lab.keys, n)) for n in range(5)]
    assert [len(part) for part in dead.chunks(letters)] == [2, 2, 1]
    assert [len(part) for part in dead.chunks([letter._replace(body=None) for letter in letters])] == [5]
    assert list(dead.chunks([])) == []
