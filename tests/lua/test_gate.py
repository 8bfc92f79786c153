"""gate.lua, and what a trip and a read make of it: paused, so many a second, so many at once."""

from __future__ import annotations

from typing import Any

import pytest

from reliq.core import exclusive, gate, ops
from reliq.core.consumer import Answer
from reliq.core.gate import Gate, Limits
from reliq.core.unique import Unique
from reliq.errors import ConfigError, QueueDraining
from tests.lua.lab import Consumer, Lab, element, large
from tests.lua.test_dead import flow
from tests.lua.test_unique import seized

SUSPECTS, ELEMENTS, READY = 5, 9, 10


def look(lab: Lab) -> Gate:
    found: Gate = flow(lab, gate.look_g(lab.keys))
    return found


def ask(consumer: Consumer, want: int = 10) -> Answer:
    """One trip."""
    answer = consumer.trip(want)
    assert answer is not None
    return answer


def age(lab: Lab, ms: int) -> None:
    """Let so much time have passed since tokens were counted."""
    at = int(lab.client.hget(lab.keys.stats, "tokens_at"))
    lab.client.hset(lab.keys.stats, "tokens_at", at - ms)


def test_paused(lab: Lab) -> None:
    """Nothing is claimed, what a bell had brought goes back, settles are made; then all goes on."""
    consumer = Consumer(lab, "a")
    lab.push(*(element(n) for n in range(3)))
    [message] = ask(consumer, 1).messages
    assert lab.run(gate.pause(lab.keys, "ada"))
    assert not lab.run(gate.pause(lab.keys, "bob"))
    assert look(lab).paused == "ada"
    assert abs((look(lab).paused_at or 0) - lab.now()) < 5000
    lab.bell("a")
    answer = consumer.trip(5, consumer.state.ack(message))
    assert answer is not None
    assert (answer.messages, [s.accepted for s in answer.settled]) == ([], [True])
    assert (len(lab.ready), lab.inbox("a")) == (2, [])
    assert (consumer.state.paused, consumer.state.shut) == (True, 1.0)
    assert lab.run(gate.resume(lab.keys, "bob"))
    assert not lab.run(gate.resume(lab.keys, "bob"))
    assert len(ask(consumer).messages) == 2
    assert (consumer.state.paused, consumer.state.shut) == (False, 0.0)
    assert not lab.client.hexists(lab.keys.stats, "gate")
    assert [event[0] for event in lab.events()] == ["start", "pause", "resume"]


def test_drained(lab: Lab) -> None:
    """No put is taken but a repeat of what was; what is there is claimed, and a sweep leaves the mark."""
    lab.put(element(1), producer=b"p", sequence=1)
    assert lab.run(gate.drain(lab.keys, "ada"))
    assert not lab.run(gate.drain(lab.keys, "bob"))
    assert look(lab) == Gate(draining="ada")
    before = lab.snapshot()
    only = Unique("k").only(lab.keys, bytes(16))
    options: list[dict[str, Any]] = [{}, {"due": ops.Due("in", 5)}, {"marker": lab.keys.marker(bytes(16))}]
    for words in [*options, {"only": only}]:
        with pytest.raises(QueueDraining, match=r"'q' takes no more puts.*reliq resume"):
            lab.put(element(2), **words)
    with pytest.raises(QueueDraining):
        lab.put(large(lab.keys, 3))
    assert not lab.put(element(1), producer=b"p", sequence=1)
    lab.client.delete(large(lab.keys, 3).key, lab.keys.prefix + ":count")
    assert {k: v for k, v in lab.snapshot().items() if b":count" not in k} == before
    for _ in range(2):
        lab.run(ops.sweep_producers(lab.keys))
    assert len(ask(Consumer(lab, "a")).messages) == 1
    assert lab.run(gate.resume(lab.keys, "bob"))
    assert lab.put(element(2))
    assert [event[0] for event in lab.events()] == ["drain", "start", "resume"]


def test_paused_and_empty(lab: Lab) -> None:
    """It is told all the same, so that a worker does not say that it goes on."""
    lab.run(gate.pause(lab.keys, "ada"))
    consumer = Consumer(lab, "a")
    assert not ask(consumer).more
    assert consumer.state.paused
    consumer.trip(0, lose=True)
    ask(consumer)  # the same again
    assert consumer.state.paused


def test_at_once(lab: Lab) -> None:
    """No more than so many are in hand of all consumers, those of the dead included, until they are reaped."""
    lab.run(gate.limit(lab.keys, "me", Limits(None, None, 5)))
    lab.push(*(element(n) for n in range(20)))
    a, b = Consumer(lab, "a"), Consumer(lab, "b")
    first = ask(a, 3).messages
    assert (len(first), a.state.shut) == (3, 0.0)
    assert len(ask(b).messages) == 2
    assert b.state.shut == 0.2
    assert (ask(a).messages, a.state.shut) == ([], 0.2)
    answer = a.trip(10, *(a.state.ack(message) for message in first))
    assert answer is not None
    assert len(answer.messages) == 3  # who settles claims in the same step
    lab.reap("b", started=[])
    assert len(ask(a).messages) == 2
    lab.run(gate.limit(lab.keys, "me", Limits(None, None, None)))
    assert len(ask(a, 100).messages) == 12
    assert a.state.shut == 0.0


def test_a_lower_limit(lab: Lab) -> None:
    """What is in hand above it stays there."""
    lab.push(*(element(n) for n in range(9)))
    a = Consumer(lab, "a")
    held = ask(a, 6).messages
    lab.run(gate.limit(lab.keys, "me", Limits(None, None, 2)))
    for message in held:
        answer = a.trip(5, a.state.ack(message))
        assert answer is not None
        assert len(lab.doing("a")) <= 5
    assert len(lab.doing("a")) == 2


def test_so_many_a_second(lab: Lab) -> None:
    """A burst, then as time goes by the server's clock; what is not used fills up to the burst and no further."""
    lab.run(gate.limit(lab.keys, "me", Limits(10, 4, None)))
    lab.push(*(element(n) for n in range(100)))
    a = Consumer(lab, "a")
    assert len(ask(a).messages) == 4
    assert 0.05 < a.state.shut <= 0.1
    age(lab, 200)
    assert len(ask(a).messages) in (2, 3)
    age(lab, 60_000)
    assert len(ask(a, 2).messages) == 2
    assert a.state.shut == 0.0
    assert len(ask(a).messages) == 2


@pytest.mark.parametrize("left", ["0", "3"])
def test_a_clock_that_went_back(lab: Lab, left: str) -> None:
    """What was counted until then stands, and from now on it is counted anew."""
    lab.run(gate.limit(lab.keys, "me", Limits(10, 4, None)))
    lab.push(*(element(n) for n in range(100)))
    lab.client.hset(lab.keys.stats, mapping={"tokens": left, "tokens_at": lab.now() + 3_600_000})
    a = Consumer(lab, "a")
    assert len(ask(a).messages) == int(left)
    age(lab, 250)
    assert len(ask(a).messages) in (2, 3)


@pytest.mark.parametrize("limits", [(None, None, 3), (1000, 3, None)])
def test_a_suspect_behind_a_limit(lab: Lab, limits: tuple[int | None, int | None, int | None]) -> None:
    """It does not hold up what is behind it, though a limit lets a consumer have less than it asks for."""
    lab.run(gate.limit(lab.keys, "me", Limits(*limits)))
    a, other = Consumer(lab, "a"), Consumer(lab, "other")
    ask(other)
    lab.push(element(1))
    assert len(ask(a, 5).messages) == 1
    lab.push(element(2, lost=1), element(3))
    found = []
    for n in range(16):  # every other time there is no room at all, since somebody else has what is left of it
        if limits[2]:
            lab.client.rpush(lab.keys.doing("other"), *([b"x"] * 5 * (n % 2)), b"y")
        found += ask(a, 5).messages
        lab.client.delete(lab.keys.doing("other"))
        a.now += 0.25
    assert [message.body for message in found] == [3]
    assert lab.ready == [element(2, lost=1)]


def test_a_slow_rate(lab: Lab) -> None:
    """Nobody asks more often than once a second, nor less: limits may change."""
    lab.run(gate.limit(lab.keys, "me", Limits(0.001, None, None)))
    lab.push(*(element(n) for n in range(3)))
    a = Consumer(lab, "a")
    assert len(ask(a).messages) == 1
    assert a.state.shut == 1.0


def test_both(lab: Lab) -> None:
    """The lower one counts; limits outlast a pause."""
    lab.run(gate.limit(lab.keys, "me", Limits(1000, 8, 3)))
    lab.run(gate.pause(lab.keys, "me"))
    lab.run(gate.resume(lab.keys, "me"))
    lab.push(*(element(n) for n in range(30)))
    a = Consumer(lab, "a")
    assert len(ask(a).messages) == 3
    assert look(lab) == Gate(None, None, 1000.0, 8, 3)
    assert str(look(lab)) == "at most 1000 a second (8 at once after a rest), at most 3 in hand"


def test_a_repeat_spends_nothing(lab: Lab) -> None:
    """A trip whose answer was lost is the same trip, and costs its tokens once."""
    lab.run(gate.limit(lab.keys, "me", Limits(0.001, 6, None)))
    lab.push(*(element(n) for n in range(9)))
    a = Consumer(lab, "a")
    assert a.trip(3, lose=True) is None
    assert len(ask(a, 3).messages) == 3
    assert len(ask(a).messages) == 3


def test_said_again(lab: Lab) -> None:
    """The same limits leave the tokens as they are; the ledger names changes alone."""
    assert lab.run(gate.limit(lab.keys, "ada", Limits(2.5, 4, None)))
    lab.push(*(element(n) for n in range(9)))
    ask(Consumer(lab, "a"), 3)
    before = lab.client.hget(lab.keys.stats, "tokens")
    assert not lab.run(gate.limit(lab.keys, "ada", Limits(2.5, 4, None)))
    assert lab.client.hget(lab.keys.stats, "tokens") == before
    assert [e for e in lab.events() if e[0] == "limit"] == [("limit", "", "2.5/s, any number at once")]


def test_fields_of_others(lab: Lab) -> None:
    """What is no number is no limit, to whoever looks."""
    lab.client.hset(lab.keys.stats, mapping={"rate": "x", "burst": b"\xff", "concurrency": "1.5", "paused": "y"})
    assert look(lab) == Gate("somebody", None, None, None, None)


def test_the_exclusive_mode(lab: Lab) -> None:
    """Its holder reads nothing while the queue is paused; that nothing is there, it is told all the same."""
    hold = seized(lab)
    lab.run(gate.pause(lab.keys, "ada"))
    found = hold.answered(lab.reply(hold.read(10)), 0.0)
    assert isinstance(found, exclusive.Found)
    assert (found.taken.elements, found.ready) == ([], 0)
    lab.push(*(element(n) for n in range(3)))
    found = hold.answered(lab.reply(hold.read(10)), 0.0)
    assert isinstance(found, exclusive.Found)
    assert (found.taken.elements, found.ready) == ([], -1)
    lab.run(gate.resume(lab.keys, "ada"))
    found = hold.answered(lab.reply(hold.read(10)), 0.0)
    assert isinstance(found, exclusive.Found)
    assert (len(found.taken.elements), found.ready) == (3, 3)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ((0, None, None), "0.000001 or more"),
        (("5", None, None), "0.000001 or more"),
        ((True, None, None), "0.000001 or more"),
        ((float("nan"), None, None), "0.000001 or more"),
        ((5, 0, None), "at least 1"),
        ((5, 1.5, None), "at least 1"),
        ((None, 5, None), "give rate="),
        ((None, None, 0), r"pause\(\)"),
    ],
)
def test_wrong_words(lab: Lab, said: tuple[float, int, int], words: str) -> None:
    """Each says what would be right, and nothing is sent."""
    with pytest.raises(ConfigError, match=words):
        gate.limit(lab.keys, "me", Limits(*said))
