"""What a trip says of acks: by number while both sides mean the same list, and one by one where they may not."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from reliq.core.message import Message
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
    assert pair.server.run(command)[0] == b"spell"
    pair.state.spell()
    again = pair.state.trip(5, pair.now)
    assert (again.args[1], again.args[5], again.args[11]) == (command.args[1], 5, 3)
    answer = pair.state.answered(pair.server.run(again), pair.now)
    assert [s.message for s in answer.settled] == (messages[:1] if what == "replaced" else [])
    assert pair.doing == ([element(9)] if what == "replaced" else [])


def test_what_comes_up_meanwhile_goes_along() -> None:
    """A trip that was not executed is made anew, with what has finished since behind what it said."""
    pair, messages = with_messages(4)
    assert said(pair, messages[:2])[0] == -2
    pair.state.spell()
    assert said(pair, messages[2:3]) == (3, elements(3))
