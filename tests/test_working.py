"""What a worker gives back keeps its order, however many trips it takes."""

from __future__ import annotations

import pytest

import reliq
from reliq.core.consumer import ConsumerState
from reliq.core.message import Message
from reliq.working import Stationed, give_back
from tests.lua.lab import element


@pytest.fixture
def station() -> Stationed:
    """One queue of a worker, that has talked to nobody yet."""
    queue = reliq.Queue("q", "redis://localhost:1")
    options = queue.options
    state = ConsumerState(options.keys, "c", lease=15.0, codec=options.codec, raw_codec=options.raw_codec)
    return Stationed(0, queue.ack(print), options, state, lambda: None)


def held(station: Stationed, count: int) -> list[Message]:
    """Messages in its hands, in the order in which they were claimed."""
    messages = [Message(element(n), n, station.state) for n in range(count)]
    station.state.held.update({message.element: message for message in messages})
    return messages


def given_back(station: Stationed) -> list[object]:
    """The bodies of what was given back; each goes to the head of the queue, in this order."""
    return [settle.message.body for settle in station.state.finished if not isinstance(settle, Message)]


def test_the_last_goes_first(station: Stationed) -> None:
    """So that the first one comes to lie at the head, also when that takes a second trip."""
    station.give_back(held(station, 5))
    assert given_back(station) == [4, 3, 2, 1, 0]


def test_of_whichever_queue(station: Stationed) -> None:
    """The same, one by one."""
    give_back(held(station, 3))
    assert given_back(station) == [2, 1, 0]


def test_all_at_the_end(station: Stationed) -> None:
    """What handlers have in hand keeps its place among what none has seen."""
    messages = held(station, 4)
    station.give_back_all([messages[1]])
    assert given_back(station) == [3, 2, 1, 0]
