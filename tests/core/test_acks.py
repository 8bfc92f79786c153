"""What a trip says of acks: by number while both sides mean the same list, and one by one where they may not."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from reliq.core import trace
from reliq.core.command import Command
from reliq.core.message import Message
from reliq.errors import OutcomeUnknown
from tests.core.test_consumer import Pair, bodies, element, elements


def said(pair: Pair, messages: Sequence[Message]) -> tuple[int, list[bytes]]:
    """The number of acks in the next trip, and the elements that it names."""
    pair.state.finished.extend(messages)
    args = pair.state.trip(0, pair.now).args
    number = int(args[11])
    return number, [bytes(e) for e in args[12 : 12 + (2 if number < 0 else number)]]  # type: ignore[arg-type]


def with_messages(count: int) -> tuple[Pair, list[Message]]:
    """A consumer that the server knows, and what it has in hand."""
    pair = Pair()
    pair.trip(0)
    pair.server.put(*elements(count))
    return pair, pair.trip().messages


def test_the_oldest_are_acked_by_their_number() -> None:
    """Only the first and the last are named, however many they are; a single one is named itself."""
    pair, messages = with_messages(6)
    assert said(pair, messages[:4]) == (-4, [element(0), element(3)])
    pair.trip(0)
    assert pair.doing == elements(6)[4:]
    assert said(pair, messages[4:5]) == (1, [element(4)])


def test_others_are_named() -> None:
    """In another order than they were claimed, or with an older one still in hand."""
    pair, messages = with_messages(4)
    assert said(pair, [messages[1], messages[0]]) == (2, [element(1), element(0)])
    pair, messages = with_messages(4)
    assert said(pair, messages[1:3]) == (2, [element(1), element(2)])


def test_a_new_connection_hears_all_names() -> None:
    """It may be to another server, or to one that was rolled back."""
    pair, messages = with_messages(3)
    pair.state.reconnected("another")
    assert said(pair, messages) == (3, elements(3))


def test_equal_messages_are_named() -> None:
    """With two of them in hand, places in the list are other ones than they seem; until nothing is in hand."""
    pair = Pair()
    pair.trip(0)
    pair.server.put(element(0), element(0), element(1), element(2))
    messages = pair.trip().messages
    assert said(pair, messages[:2])[0] == 2
    [freed] = pair.trip(0).messages
    assert said(pair, [messages[2], freed])[0] == 2
    pair.trip(0)
    assert pair.doing == []
    pair.server.put(element(3), element(4))
    assert said(pair, pair.trip().messages)[0] == -2


def test_after_a_lost_reply_numbers_count_again() -> None:
    """The whole list tells what is in hand, in its order."""
    pair, _ = with_messages(2)
    pair.server.put(element(5), element(6))
    pair.lose_reply()
    answer = pair.trip()
    assert (answer.status, bodies(answer.messages)) == ("again", [5, 6])
    assert said(pair, list(pair.state.held.values())) == (-4, [element(0), element(6)])


@pytest.mark.parametrize("what", ["replaced", "swapped"])
def test_a_list_that_was_changed_by_hand(what: str) -> None:
    """The trip is not executed; made again with all names, it acks what is there, and refuses what is not."""
    pair, messages = with_messages(3)
    if what == "replaced":
        pair.doing[0] = element(9)
    else:
        pair.doing.reverse()
    pair.state.finished.extend(messages)
    command = pair.state.trip(5, pair.now)
    assert int(command.args[11]) == -3
    reply = pair.server.run(command)
    assert reply[0] == b"spell"
    pair.state.spell(reply)
    again = pair.state.trip(5, pair.now)
    assert (again.args[1], again.args[5], again.args[11]) == (command.args[1], 5, 3)
    answer = pair.state.answered(pair.server.run(again), pair.now)
    assert [s.message for s in answer.settled] == (messages[:1] if what == "replaced" else [])
    assert pair.doing == ([element(9)] if what == "replaced" else [])


def spelled(pair: Pair, meanwhile: Sequence[Message] = ()) -> tuple[Command, Command]:
    """The next trip, which acks by number, and how it is made again; what is finished between the two."""
    command = pair.state.trip(5, pair.now)
    assert int(command.args[11]) < 0
    pair.doing.reverse()
    reply = pair.server.run(command)
    assert reply[0] == b"spell"
    pair.state.spell(reply)
    pair.state.finished.extend(meanwhile)
    return command, pair.state.trip(9, pair.now)


def test_what_else_a_trip_says_is_said_again() -> None:
    """Reports of progress and steps of traced messages are taken from where they wait when a trip is made."""
    pair, messages = with_messages(4)
    pair.state.results.report(messages[3], b"50 %")
    pair.state.steps.append(trace.Step(trace.DELIVER, messages[3].id, "", 0.0, lambda: 0.0))
    pair.state.finished.extend(messages[:3])
    command, again = spelled(pair)
    assert "report" in command.args
    assert "trace" in command.args
    assert again == command._replace(args=(*command.args[:11], 3, *elements(3), *command.args[14:]))


def test_what_comes_up_meanwhile_waits() -> None:
    """For the next trip: should an older copy of this one run after all, what it did is what this one does."""
    pair, messages = with_messages(4)
    pair.state.finished.extend(messages[:2])
    command, _ = spelled(pair, [messages[2]])
    pair.doing.reverse()
    assert pair.server.run(command)[0] == b"ok"
    assert pair.trip(0).status == "again"
    assert list(pair.state.held.values()) == messages[2:]
    pair.trip(0)
    assert pair.doing == [messages[3].element]


def test_a_trip_that_names_its_acks_is_not_refused_for_that() -> None:
    """Who says so has not read it, and nothing that it settles is taken for settled."""
    pair, messages = with_messages(3)
    pair.state.finished.extend(messages[:2])
    command, again = spelled(pair)
    reply = [b"spell", *pair.server.run(command)[1:]]
    with pytest.raises(OutcomeUnknown):
        pair.state.spell(reply)
    assert pair.state.trip(0, pair.now) is again
