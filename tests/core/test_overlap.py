"""The next trip is made before what the last one brought is looked into, and still knows what is in hand."""

from __future__ import annotations

from reliq.core import envelope as env
from tests.core.test_consumer import Pair, element, elements


def filled(count: int) -> Pair:
    """A consumer that is known to the server, and so many messages."""
    pair = Pair()
    pair.trip(0)
    pair.server.put(*elements(count))
    return pair


def ahead(pair: Pair, want: int = 10) -> list[bytes]:
    """A trip whose messages are left to ``take_in``; what it has claimed."""
    reply = pair.server.run(pair.state.trip(want, pair.now))
    answer = pair.state.answered(reply, pair.now, look=False)
    assert answer.messages == []
    return list(reply[9])


def test_the_next_trip_counts_what_was_not_looked_into() -> None:
    """It says how many are in hand, those included, so the server sees no difference; nothing comes twice."""
    pair = filled(6)
    ahead(pair, 4)
    assert pair.state.in_hand == 4
    assert not pair.state.held
    following = pair.state.trip(2, pair.now)
    messages = pair.state.take_in()
    assert [m.body for m in messages] == [0, 1, 2, 3]
    answer = pair.state.answered(pair.server.run(following), pair.now)
    assert not answer.reconciled
    assert [m.body for m in answer.messages] == [4, 5]


def test_who_was_interrupted_gets_it_with_the_next_answer() -> None:
    """Even if that tells the whole list: each message once, in order."""
    pair = filled(3)
    ahead(pair)
    pair.state.reconnected("another server")  # so the next answer is the whole list
    answer = pair.trip()
    assert answer.reconciled
    assert [m.body for m in answer.messages] == [0, 1, 2]
    assert pair.state.in_hand == 3
    assert not pair.trip().reconciled


def test_what_was_not_looked_into_is_given_back() -> None:
    """At the end, what nobody has seen goes back to the head, in order."""
    pair = filled(3)
    claimed = ahead(pair)
    for message in pair.state.unsettled():
        pair.state.finished.append(pair.state.release(message))
    pair.trip(0)
    assert [env.unpack(e).id for e in reversed(pair.server.ready)] == [env.unpack(e).id for e in claimed]
    assert pair.state.in_hand == 0


def test_a_suspect_is_never_left_for_later() -> None:
    """What it changes is what may be asked for next: it is looked into at once."""
    pair = filled(0)
    pair.server.put(element(0, lost=1))
    reply = pair.server.run(pair.state.trip(5, pair.now))
    assert [m.suspect for m in pair.state.answered(reply, pair.now, look=False).messages] == [True]
    assert pair.state.trip(5, pair.now).args[5] == 0


def test_a_name_that_was_declared_dead() -> None:
    """What was not looked into is somebody else's, too."""
    pair = filled(2)
    ahead(pair)
    pair.server.reap("a", dead=True)
    answer = pair.trip()
    assert answer.status == "dead"
    assert [m.body for m in answer.lost] == [0, 1]
    assert pair.state.take_in() == []
