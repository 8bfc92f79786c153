"""Messages whose body lies beside the list, in the hands of a ConsumerState joined with a model of the server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgpack
import pytest

from reliq.core import beside, reasons
from reliq.core import envelope as env
from reliq.core.beside import Beside
from reliq.core.keys import Keys
from reliq.core.message import ACK, Message
from reliq.core.reasons import Reason
from reliq.errors import OutcomeUnknown
from tests.core.test_consumer import LEASE, Pair, element


def large(number: int, body: Any = None, **counters: int) -> Beside:
    """The element of a message with this body; it knows where that lies."""
    id, name = (env.uuid7(1_700_000_000_000, n.to_bytes(10, "big")) for n in (number, number + 1000))
    data = msgpack.packb(number if body is None else body)
    return beside.checked(
        env.pack(id, b"", {"b": beside.ticket(name, data)}, **counters), Keys("q").body(name), data
    )


class Hall(Pair):
    """A Pair that fetches bodies as the shells do."""

    def put(self, *elements: bytes) -> None:
        self.server.put(*map(bytes, elements))
        self.server.bodies |= {e.key: e.body for e in elements if isinstance(e, Beside)}

    def fetch(self) -> list[Message]:
        """Those messages that may be handed over now."""
        found = []
        for message, ticket in list(self.state.bodies.unfetched.items()):
            [key] = beside.fetch(self.state.keys, ticket).keys
            found.append(self.state.furnish(message, self.server.bodies.get(key)))
        return [message for message in found if message is not None]

    def reap(self, *, acked: bool = False) -> None:
        """Somebody takes away all that is held; and handles it."""
        taken, self.doing[:] = list(self.doing), []
        session = self.server.sessions[self.state.name]
        session["epoch"] = session.get("epoch", 0) + 1
        if acked:
            self.server.bodies.clear()
        else:
            self.server.ready += reversed(taken)


@pytest.fixture
def hall() -> Hall:
    return Hall()


def test_it_waits_for_its_body_and_is_acked_with_it(hall: Hall) -> None:
    """What comes small is there at once; the ack of a large one drops its body, and its element has none."""
    hall.put(large(1), element(2))
    assert [m.body for m in hall.trip().messages] == [2]
    assert hall.state.bodies.are_due
    [message] = hall.fetch()
    assert (message.body, hall.state.bodies.are_due) == (1, False)
    assert [m.body for m in hall.state.in_order([*hall.state.held.values()][::-1])] == [1, 2]
    hall.trip(0, hall.state.ack(message))
    assert (hall.server.bodies, len(hall.doing), bool(hall.state.bodies)) == ({}, 1, False)


def test_the_key_of_a_small_message_is_of_no_interest(hall: Hall) -> None:
    """The hot path: no body beside, no word more in the trip."""
    hall.put(element(1))
    [message] = hall.trip().messages
    hall.state.finished.append(message)
    command = hall.state.trip(0, hall.now)
    assert (len(command.keys), len(command.args)) == (12, 13)


def test_ten_acks_bring_ten_keys(hall: Hall) -> None:
    """Each key that a trip names in a drop is declared."""
    hall.put(*map(large, range(10)))
    hall.trip()
    for message in hall.fetch():
        hall.state.finished.append(message)
    command = hall.state.trip(0, hall.now)
    assert list(command.keys[13:]) == [large(n).key for n in range(10)]
    assert command.args[-40:] == tuple(
        word for n in range(10) for word in ("drop", large(n)[23:39].hex(), large(n).key, "")
    )


SETTLES: dict[str, Callable[[Hall, Message], Any]] = {
    "retry": lambda hall, m: hall.state.retry(m, 60, "no"),
    "release": lambda hall, m: hall.state.release(m),
    "bury": lambda hall, m: hall.state.bury(m, "BURIED", "no"),
}


@pytest.mark.parametrize("verb", SETTLES)
def test_what_goes_back_keeps_its_ticket(hall: Hall, verb: str) -> None:
    """Wherever it goes; and the ticket stays the first in its meta, where the scripts find it."""
    hall.put(large(1))
    hall.trip()
    [message] = hall.fetch()
    hall.trip(0, SETTLES[verb](hall, message))
    [back] = [*hall.server.later, *hall.server.ready, *(env.split_note(member)[1] for member in hall.server.dead)]
    assert beside.ticket_of(env.unpack(back).meta) is not None
    assert back[40:44] == b"\xa1b\xc4\x14"
    assert list(hall.server.bodies) == [large(1).key]


# -- bodies that are not there ------------------------------------------------------------------------------


def test_a_missing_body_of_a_message_that_is_gone_is_a_lost_lease(hall: Hall) -> None:
    """It was reaped, and whoever got it has acked it: the next trip asks for the whole list, and tells."""
    hall.put(large(1))
    hall.trip()
    hall.reap(acked=True)
    assert hall.fetch() == []
    assert hall.state.bodies.are_due
    answer = hall.trip()
    assert [m.id for m in answer.lost] == [large(1)[23:39].hex()]
    assert answer.lost[0].lost
    assert (hall.server.dead, list(hall.state.finished), hall.state.bodies.are_due) == ({}, [], False)


def test_a_trip_that_was_under_way_proves_nothing(hall: Hall) -> None:
    """It was made before the body was missed, and has no list to tell whose the message is: the next one has."""
    hall.put(large(1))
    hall.trip()
    reply = hall.server.run(hall.state.trip(0, hall.now))
    hall.reap(acked=True)
    hall.fetch()
    assert not hall.state.answered(reply, hall.now).lost
    assert list(hall.state.finished) == []
    assert len(hall.trip().lost) == 1


def test_what_is_lost_waits_for_no_body(hall: Hall) -> None:
    """It was reaped before its body came."""
    hall.put(large(1))
    hall.trip()
    hall.reap()
    assert len(hall.trip(0).lost) == 1
    assert not hall.state.bodies.are_due


def test_the_whole_list_is_asked_for_though_all_looks_well(hall: Hall) -> None:
    """The epoch and the number in hand are as believed; without a missing body nobody would ask."""
    hall.put(large(1))
    hall.trip()
    assert not hall.trip().reconciled
    hall.server.bodies.clear()
    hall.fetch()
    assert hall.trip().reconciled
    hall.trip()
    assert not hall.trip().reconciled


def test_a_message_that_is_held_and_has_no_body_is_dead(hall: Hall) -> None:
    """Once the server has said that it is ours still: BODY_MISSING, and which key is not there."""
    hall.put(large(1), element(2))
    hall.trip()
    hall.server.bodies.clear()
    hall.fetch()
    assert hall.server.dead == {}
    hall.trip()
    answer = hall.trip()
    assert [s.accepted for s in answer.settled] == [True]
    [(note, back)] = map(env.split_note, hall.server.dead)
    assert (note["cause"], note["error"]) == ("BODY_MISSING", f"there is no body at {large(1).key}")
    assert back == large(1)
    assert reasons.of_cause(beside.MISSING) is Reason.DEAD_BODY_MISSING
    assert [m.body for m in hall.state.held.values()] == [2]


def test_one_that_is_given_back_meanwhile_is_not_buried(hall: Hall) -> None:
    """A consumer that closes gives back what it holds, with body or without: one settle each."""
    hall.put(large(1), large(2))
    hall.trip()
    del hall.server.bodies[large(1).key]
    hall.fetch()
    for message in hall.state.unsettled():
        hall.state.finished.append(hall.state.release(message))
    answer = hall.trip(0)
    assert [s.accepted for s in answer.settled] == [True, True]
    assert (hall.server.dead, list(hall.state.finished)) == ({}, [])
    assert [e[23:39] for e in reversed(hall.server.ready)] == [large(1)[23:39], large(2)[23:39]]


def test_a_body_that_cannot_be_read_is_dead(hall: Hall) -> None:
    """As one in the list that cannot: UNDECODABLE; the body stays for whoever looks."""
    hall.put(large(1))
    hall.trip()
    hall.server.bodies[large(1).key] = b"\xc1"
    assert hall.fetch() == []
    hall.trip()
    [(note, back)] = map(env.split_note, hall.server.dead)
    assert (note["cause"], back) == ("UNDECODABLE", large(1))
    assert hall.server.bodies


def test_a_body_that_comes_too_late_is_handed_to_nobody(hall: Hall) -> None:
    """Its lease was lost while it was fetched, or the message was given back."""
    hall.put(large(1), large(2))
    hall.trip()
    lost, released = list(hall.state.bodies.unfetched)
    hall.state.finished.append(hall.state.release(released))
    lost.lost = True
    assert hall.fetch() == []
    assert not hall.state.bodies.are_due


# -- trips that go wrong ------------------------------------------------------------------------------------


@pytest.mark.parametrize("ran", [True, False])
def test_a_lost_trip_that_acks(hall: Hall, ran: bool) -> None:
    """Whether it ran or not, its repeat leaves no body and takes none that is needed."""
    hall.put(large(1), large(2))
    hall.trip()
    first, second = hall.fetch()
    if ran:
        hall.lose_reply(0, hall.state.ack(first))
    else:
        hall.state.finished.append(hall.state.ack(first))
        hall.state.trip(0, hall.now)
    answer = hall.trip(0)
    assert [s.accepted for s in answer.settled] == [True]
    assert list(hall.server.bodies) == [large(2).key]
    assert hall.trip(0, hall.state.ack(second)).lost == []
    assert hall.server.bodies == {}


def test_a_lost_claim_brings_it_all_the_same(hall: Hall) -> None:
    """The repeat has the whole list; each body is fetched once."""
    hall.put(large(1), element(2), large(3))
    hall.lose_reply(10)
    assert [m.body for m in hall.trip().messages] == [2]
    assert [m.body for m in hall.fetch()] == [1, 3]
    hall.trip()
    assert not hall.state.bodies.are_due


def test_a_refused_ack_takes_no_body(hall: Hall) -> None:
    """Somebody else has the message."""
    hall.put(large(1))
    hall.trip()
    [message] = hall.fetch()
    hall.reap()
    answer = hall.trip(0, hall.state.ack(message))
    assert [(s.verb, s.accepted) for s in answer.settled] == [(ACK, False)]
    assert list(hall.server.bodies) == [large(1).key]


def test_a_dead_name_waits_for_nothing(hall: Hall) -> None:
    """What it held is somebody else's: no body is fetched, and none of those that come is handed over."""
    hall.put(large(1), large(2))
    hall.trip()
    waiting = list(hall.state.bodies.unfetched)
    hall.server.sessions["a"]["dead"] = 1
    answer = hall.trip()
    assert {m.id for m in answer.lost} == {m.id for m in waiting}
    assert (hall.state.bodies.are_due, bool(hall.state.bodies), hall.fetch()) == (False, False, [])
    assert hall.state.furnish(waiting[0], b"\x01") is None


def test_what_the_server_forgot_is_acked_again_with_its_body(hall: Hall) -> None:
    """A rollback brings back message and body; the same settle removes both, and no handler sees it."""
    hall.put(large(1))
    hall.trip()
    [message] = hall.fetch()
    ready, bodies = [bytes(large(1))], dict(hall.server.bodies)
    hall.trip(0, hall.state.ack(message))
    hall.server.ready, hall.server.bodies = ready, bodies
    hall.state.reconnected("one")
    hall.state.reconnected("another")
    assert hall.trip().messages == []
    assert not hall.state.bodies.are_due
    hall.trip(0)
    assert (hall.server.bodies, hall.doing) == ({}, [])


def test_interrupted_ones_are_brought_by_the_next_answer(hall: Hall) -> None:
    """What was decoded and not handed on; but not what was lost or given back since."""
    hall.put(large(1), large(2), element(3))
    messages = hall.trip().messages + hall.fetch()
    hall.state.left_over += messages
    hall.state.finished.append(hall.state.release(messages[1]))
    messages[2].lost = True
    assert hall.state.take_in() == [messages[0]]
    assert hall.state.take_in() == []


# -- copies -------------------------------------------------------------------------------------------------


def test_twins_have_one_body(hall: Hall) -> None:
    """Some producer pushed an envelope twice: each is handled with the body, and the last ack drops it."""
    hall.put(large(1), large(1))
    hall.trip()
    [first] = hall.fetch()
    assert hall.trip(0, hall.state.ack(first)).messages == []
    assert list(hall.server.bodies) == [large(1).key]
    [second] = hall.fetch()
    assert second.body == 1
    hall.trip(0, hall.state.ack(second))
    assert (hall.server.bodies, hall.doing, bool(hall.state.bodies)) == ({}, [], False)


def test_suspects_wait_alone_for_their_bodies(hall: Hall) -> None:
    """A message that somebody died with is alone in hand also while its body is fetched."""
    hall.put(large(1, lost=1), element(2))
    assert hall.trip().messages == []
    assert hall.trip().messages == []
    assert len(hall.doing) == 1
    [message] = hall.fetch()
    assert message.suspect
    hall.pass_time(LEASE + 1)
    assert [m.body for m in hall.trip().messages] == [2]


# -- the ticket ---------------------------------------------------------------------------------------------


def test_a_ticket_names_a_key_of_the_queue_and_a_size() -> None:
    """Wherever it comes from, it leads to no other key."""
    keys = Keys("orders", "shop", "{eu}list")
    made = beside.ticket(bytes(range(16)), b"x" * 70_000)
    assert len(made) == 20
    assert (beside.size_of(made), beside.key_of(keys, made)) == (
        70_000,
        f"shop:{{eu}}:orders:body:{bytes(range(16)).hex()}",
    )


@pytest.mark.parametrize("value", [None, b"", b"x" * 19, b"x" * 21, "x" * 20, 7, [b"x" * 20]])
def test_what_is_no_ticket_is_none(value: Any) -> None:
    """A foreign meta may say b, too: then the body is where it always was."""
    assert beside.ticket_of({"b": value}) is None


def test_a_reply_that_is_no_body() -> None:
    """A proxy that makes numbers of what it does not know."""
    command = beside.fetch(Keys("q"), bytes(20))
    assert (command.read(None), command.read(b"x")) == (None, b"x")
    with pytest.raises(OutcomeUnknown):
        command.read(7)
