"""When messages that gather for a handler of batches go, and what such a handler is."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

import reliq
from reliq.batching import Gathering, apart
from reliq.core import envelope as env
from reliq.core.codec import find
from reliq.core.consumer import ConsumerState
from reliq.core.keys import Keys
from reliq.core.message import Message
from reliq.errors import ConfigError
from reliq.sync.board import Board

STATE = ConsumerState(Keys("q", "reliq"), "me", lease=15.0, codec=find(None), raw_codec=find("json"))


@pytest.fixture
def q() -> reliq.Queue:
    """A queue that is never connected."""
    return reliq.Queue("q", "redis://127.0.0.1:1/0")


def message(n: int, *, suspect: bool = False) -> Message:
    element = env.pack(n.to_bytes(16, "big"), msgpack.packb(n))
    if suspect:
        element = element[: env.LOST_AT] + b"\x01" + element[env.LOST_AT + 1 :]
    return Message(element, n, STATE)


def gathering(q: reliq.Queue, batch: int = 3, wait: float = 0.0) -> Gathering:
    return Gathering(q.ack(lambda bodies: None, batch=batch, wait=wait))


def add(it: Gathering, numbers: range, now: float) -> None:
    for n in numbers:
        it.add(message(n), now)


def bodies(it: Gathering, now: float, slots: int = 2, *, hurry: bool = False) -> list[list[int]]:
    return [[m.body for m in bunch.messages] for bunch in it.bunches(now, slots, hurry=hurry)]


def test_full_ones_go_at_once(q: reliq.Queue) -> None:
    """However long others may wait, and also while no slot is free: they cannot grow."""
    it = gathering(q, wait=60.0)
    add(it, range(7), 0.0)
    assert (it.slots, it.lacking, it.messages) == (3, 2, 7)
    assert bodies(it, 0.0) == [[0, 1, 2], [3, 4, 5]]
    assert (it.slots, it.lacking, it.messages, it.due_in(0.0, 2)) == (3, 2, 7, None)
    assert bodies(it, 100.0) == []
    it.live.pop().apart()
    assert it.due_in(50.0, 2) == 10.0
    assert bodies(it, 59.9) == []
    assert bodies(it, 60.0) == [[6]]


def test_a_part_goes_when_its_time_has_come(q: reliq.Queue) -> None:
    """Counted from its first message; at once without one, or when others wait for that."""
    it = gathering(q, wait=1.0)
    add(it, range(1), 0.0)
    add(it, range(1, 2), 0.9)
    assert bodies(it, 0.99) == []
    assert bodies(it, 1.0) == [[0, 1]]
    add(it, range(2), 5.0)
    assert bodies(it, 5.0, hurry=True) == [[0, 1]]
    at_once = gathering(q)
    add(at_once, range(2), 5.0)
    assert at_once.due_in(5.0, 2) == 0.0
    assert bodies(at_once, 5.0) == [[0, 1]]


def test_a_suspect_goes_alone(q: reliq.Queue) -> None:
    """At once, and takes nothing of what gathers along."""
    it = gathering(q, wait=1.0)
    it.add(message(0), 0.0)
    it.add(message(1, suspect=True), 0.0)
    it.add(message(2, suspect=True), 0.0)
    assert it.slots == 3
    assert bodies(it, 0.0) == [[1], [2]]
    assert bodies(it, 1.0, 3) == [[0]]


def test_what_gathers_can_be_taken_back(q: reliq.Queue) -> None:
    """One of it, all of it, or what is in bunches that nobody has begun with, in order."""
    it = gathering(q)
    messages = [message(n) for n in range(4)]
    for each in messages:
        it.add(each, 0.0)
    assert it.remove(messages[3])
    assert not it.remove(messages[3])
    assert not it.remove(message(7))
    [bunch] = it.bunches(0.0, 2, hurry=False)
    assert bunch.id == messages[0].id
    single = message(9)
    assert list(apart([bunch, single])) == [*messages[:3], single]
    assert (it.slots, it.take()) == (0, [])


def test_what_is_lost_meanwhile_is_not_handed_over(q: reliq.Queue) -> None:
    """Nor what somebody else has begun to settle; a bunch of which nothing is left is over."""
    it = gathering(q)
    messages = [message(n) for n in range(3)]
    for each in messages:
        it.add(each, 0.0)
    [bunch] = it.bunches(0.0, 2, hurry=False)
    messages[0].lost = messages[1].minded = True
    assert not bunch.over(0.0)
    assert bunch.messages == messages[2:]
    messages[2].lost = True
    assert bunch.over(0.0)
    assert not it.live


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"batch": 0}, "1 to 1,000"),
        ({"batch": 1001}, "1 to 1,000"),
        ({"batch": True}, "1 to 1,000"),
        ({"batch": "100"}, "1 to 1,000"),
        ({"batch": 5, "wait": -1}, "0 or above"),
        ({"batch": 5, "wait": float("inf")}, "0 or above"),
        ({"batch": 5, "wait": "1"}, "0 or above"),
        ({"wait": 1}, r"ack\(batch=100, wait=1\)"),
    ],
)
def test_wrong_options(q: reliq.Queue, options: dict[str, Any], says: str) -> None:
    """Say what is right."""
    with pytest.raises(ConfigError, match=says):
        q.ack(print, **options)


def test_parameters(q: reliq.Queue) -> None:
    """The leases go to `leases`, or to what is annotated as a list of them; one lease there is none."""

    def by_name(bodies: Any, leases: Any) -> None: ...

    def annotated(handles: list[reliq.Lease], bodies: Any) -> None: ...

    def single(bodies: Any, lease: Any) -> None: ...

    for function in (by_name, annotated):
        assert q.ack(function, batch=5).wants_leases
    assert not q.ack(lambda bodies: None, batch=5).wants_leases
    assert q.ack(lambda bodies: None, batch=5).plain is None
    with pytest.raises(TypeError, match="takes a list of bodies, and the leases"):
        q.ack(single, batch=5)
    with pytest.raises(TypeError, match="takes the body, and the lease"):
        q.ack(by_name)


def test_a_board_shows_all_of_a_batch() -> None:
    """Each slot for itself, and nothing when it is done."""
    board = Board(2, 1, 3)
    ids = [bytes([n]) * 16 for n in range(5)]
    board.start(0, 0, b"".join(ids[:3]), 1.0, 30.0)
    board.start(1, 0, b"".join(ids[3:]), 2.0, None)
    assert [slot.id for slot in board.slots()] == ids
    assert [slot.timeout for slot in board.slots()] == [30.0, 30.0, 30.0, None, None]
    board.finish(0)
    assert [slot.id for slot in board.slots()] == ids[3:]
    board.clear()
    assert board.slots() == []
