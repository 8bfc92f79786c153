"""orphan.lua, and entomb.lua for messages without a body: nothing is removed that a message may still need."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from reliq import defaults
from reliq.core import envelope as env
from reliq.core.beside import Beside
from reliq.core.fsck.bodies import Bodies, Bodiless, Orphan
from reliq.core.fsck.finding import Context, Spot
from tests.lua.lab import PART, Lab, element, large
from tests.lua.test_dead import flow

PLACES: dict[str, Callable[[Lab, bytes], Any]] = {
    "ready": lambda lab, e: lab.push(e),
    "later": lambda lab, e: lab.client.zadd(lab.keys.later, {e: lab.now() + 60_000}),
    "dead": lambda lab, e: lab.client.zadd(lab.keys.dead, {env.join_note({"cause": "X"}, e): 1}),
    "doing": lambda lab, e: (lab.trip("a", 1), lab.client.rpush(lab.keys.doing("a"), e)),
    "inbox": lambda lab, e: (lab.trip("a", 1), lab.client.rpush(lab.keys.inbox("a"), e)),
    "the hands of a stray": lambda lab, e: lab.client.rpush(lab.keys.doing("stray"), e),
}


def orphan(lab: Lab, e: Beside) -> Orphan:
    context = Context(lab.keys, "me")
    return Orphan(context, e.key, bytes.fromhex(e.key[-32:]), Bodies(context))


def alone(lab: Lab) -> Beside:
    """A body that no message has."""
    e = large(lab.keys, 1)
    lab.client.set(e.key, e.body)
    return e


def test_an_orphan_is_removed(lab: Lab) -> None:
    """A look says how large it is and changes nothing; the repair removes it, once, and writes that down."""
    e = alone(lab)
    lab.put_large(2)
    found, before = orphan(lab, e), lab.snapshot()
    assert flow(lab, found.look_g())
    assert lab.snapshot() == before
    assert (found.size, "100,000 bytes" in found.evidence, found.action) == (
        100_000,
        True,
        "delete it, 100,000 bytes",
    )
    assert flow(lab, found.repair_g())
    assert list(lab.bodies) == [large(lab.keys, 2).key]
    assert lab.events()[-1] == ("unlink", "", f"100000 bytes, {e.key}")
    assert not flow(lab, found.repair_g())
    assert not flow(lab, found.look_g())


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("before", [0, 30])
def test_a_body_with_a_message_stays(lab: Lab, place: str, before: int) -> None:
    """Wherever that is, and whatever is beside it."""
    e = alone(lab)
    for n in range(before):
        PLACES[place](lab, element(100 + n))
    PLACES[place](lab, bytes(large(lab.keys, 1, returns=3)))
    for n in range(before):
        PLACES[place](lab, element(200 + n))
    found = orphan(lab, e)
    assert not flow(lab, found.look_g())
    assert not flow(lab, found.repair_g())
    assert list(lab.bodies) == [e.key]


@pytest.mark.parametrize("fill", ["many", "large"])
def test_what_cannot_be_proved_is_not_removed(lab: Lab, fill: str) -> None:
    """More than one step may look at: it is found by a walk, and not removed before the queue is shorter."""
    e = alone(lab)
    if fill == "many":
        lab.put(*(element(n) for n in range(10, 10 + defaults.SCRIPT_ELEMENTS)))
        lab.put(element(9))
    else:
        for n in range(2):
            lab.put(element(n, "x" * PART))
    found = orphan(lab, e)
    assert flow(lab, found.look_g())
    with pytest.raises(Exception, match="more than one step can look at"):
        flow(lab, found.repair_g())
    assert list(lab.bodies) == [e.key]
    for number in (1, 3):
        held = lab.trip("a", number, want=1000)[9]
        lab.trip("a", number + 1, in_hand=len(held), acks=held)
    assert flow(lab, found.repair_g())


def test_the_walk_finds_the_message_of_a_long_queue(lab: Lab) -> None:
    """It stands where one step does not come."""
    e = lab.put_large(1)
    lab.put(*(element(n) for n in range(10, 10 + defaults.SCRIPT_ELEMENTS)))
    for n in range(3):
        lab.push(*(element(2000 + 1000 * n + m) for m in range(1000)))
    assert not flow(lab, orphan(lab, e).look_g())


def test_a_consumer_that_was_not_named_proves_nothing(lab: Lab) -> None:
    """It came while the names were read, and holds the message."""
    e = alone(lab)
    found = orphan(lab, e)
    steps = found.repair_g()
    command = next(steps)
    while command.name != "orphan":
        command = steps.send(lab.run(command))
    PLACES["doing"](lab, bytes(e))
    assert lab.run(command) == [2, 100_000]
    assert list(lab.bodies) == [e.key]


def test_what_is_no_body_is_left_alone(lab: Lab) -> None:
    """A key of that name that holds something else is another finding."""
    e = large(lab.keys, 1)
    lab.client.sadd(e.key, "x")
    assert not flow(lab, orphan(lab, e).repair_g())
    assert lab.client.exists(e.key)


@pytest.mark.parametrize("place", ["ready", "later"])
def test_a_message_without_a_body_is_buried_once_more_looked_at(lab: Lab, place: str) -> None:
    """Not if the body is there after all."""
    e = large(lab.keys, 1)
    PLACES[place](lab, bytes(e))
    key = getattr(lab.keys, place)
    spot = Spot(key, place, 0 if place == "ready" else None)
    found = Bodiless(Context(lab.keys, "me"), key, spot, bytes(e), "BODY_MISSING", "gone", 1, e.key)
    lab.client.set(e.key, e.body)
    assert not flow(lab, found.look_g())
    assert not flow(lab, found.repair_g())
    lab.client.delete(e.key)
    assert flow(lab, found.look_g())
    assert (lab.dead, len(lab.ready) + len(lab.later)) == ([], 1)
    assert flow(lab, found.repair_g())
    [(note, back)] = lab.dead
    assert (note["cause"], note["id"], back) == ("BODY_MISSING", e[23:39].hex(), e)
    assert (lab.ready, lab.later) == ([], [])
