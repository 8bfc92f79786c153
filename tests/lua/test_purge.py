"""purge.lua: what waits goes as a whole, in parts that were looked at, with bodies and keys; all else stays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import redis as redis_py

from reliq.core import envelope as env
from reliq.core import ops, purge
from reliq.core.dead import Letter
from reliq.core.purge import Purged, purge_g
from reliq.core.waiting import Caller
from reliq.errors import ConfigError, QueueHeld
from tests.lua.lab import BELL, Lab, element
from tests.lua.test_dead import flow
from tests.lua.test_unique import DONE, hex_of, put, seized

ME = Caller("host:1", "me")


def clear(lab: Lab, *states: str, sink: Any = None) -> int:
    """Purge, as this program."""
    removed: int = flow(lab, purge_g(lab.keys, states or purge.STATES, ME, "one", sink))
    return removed


def fill(lab: Lab) -> None:
    """Messages in every place, large and unique ones, raw ones and a bell among them."""
    lab.push(element(1))
    lab.trip("a", 1, want=1)
    lab.push(*(element(n) for n in range(2, 602)))
    lab.push(b"raw", BELL)
    lab.put_large(700)
    put(lab, 701)
    for n in range(300):
        lab.put(element(1000 + n), due=ops.Due("in", 60_000 + n % 7))
    lab.client.zadd(lab.keys.dead, {env.join_note({"id": "1" * 32, "cause": "X"}, element(5000)): 1})


def test_what_waits_goes(lab: Lab) -> None:
    """And what is in hand, dead, or put meanwhile, stays; with a message go its body and its key."""
    fill(lab)
    seen: list[Purged] = []

    def sink(part: Sequence[Purged]) -> None:
        if not seen:
            lab.put(element(9000))  # somebody puts meanwhile
        assert len(part) <= 250
        seen.extend(part)

    assert clear(lab, sink=sink) == 903
    assert len(seen) == len({each.element for each in seen}) == 903
    assert [each.element for each in seen[:600]] == [element(n) for n in range(2, 602)]
    assert sum(each.state == "later" for each in seen) == 300
    assert all(float(each.score) > 1e12 for each in seen if each.state == "later")
    assert (lab.ready, lab.later, len(lab.dead), len(lab.doing("a"))) == ([element(9000)], [], 1, 1)
    assert (lab.bodies, lab.uniques) == ({}, {})
    assert [(e[0], e[2]) for e in lab.events() if e[0] == "purge"] == [
        ("purge", "604 of ready"),
        ("purge", "300 of later"),
    ]
    assert not lab.client.exists(lab.keys.purging("ready"), lab.keys.purging("later"))


def test_one_place(lab: Lab) -> None:
    """The other one stays."""
    fill(lab)
    assert clear(lab, "later") == 300
    assert (len(lab.ready), len(lab.later)) == (604, 0)


def test_nothing(lab: Lab) -> None:
    """An empty queue is none the worse."""
    assert clear(lab) == 0
    assert lab.events() == []


def test_cut_short(lab: Lab) -> None:
    """What was not written is not removed, nobody claims it, and the next purge takes it, too."""
    fill(lab)
    parts = 0

    def full(part: Sequence[Purged]) -> None:
        nonlocal parts
        parts += 1
        if parts == 2:
            raise OSError("no space left")

    with pytest.raises(OSError, match="no space"):
        clear(lab, sink=full)
    assert lab.ready == []
    assert len(lab.list(lab.keys.purging("ready"))) == 604 - 250
    lab.put(element(9001))
    seen: list[Purged] = []
    removed: int = flow(lab, purge_g(lab.keys, purge.STATES, ME, "two", seen.extend))
    assert removed == len(seen) == 903 - 250 + 1


def drive(lab: Lab, steps: Any, before: Callable[[Any], None]) -> int:
    """Drive a flow to its end; ``before`` sees each command that is about to run."""
    command: Any = next(steps)
    while True:
        before(command)
        try:
            command = steps.send(lab.run(command))
        except StopIteration as end:
            return int(end.value)


@pytest.mark.parametrize("verb", ["take", "drop"])
def test_a_repeat(lab: Lab, verb: str) -> None:
    """After a lost reply: what is put meanwhile is not taken, and no part is removed unseen."""
    lab.push(*(element(n) for n in range(300)))
    lost: list[Any] = []

    def lose(command: Any) -> None:
        if command.args[0] == verb and not lost:
            lost.append(lab.run(command))
            lab.put(element(9002))

    assert drive(lab, purge_g(lab.keys, ["ready"], ME, "one"), lose) == 300
    assert lost
    assert lab.ready == [element(9002)]


def test_two_at_once(lab: Lab) -> None:
    """A part that another purge has taken meanwhile is looked at again; each is seen."""
    lab.push(*(element(n) for n in range(600)))
    seen: list[Purged] = []
    others: list[int] = []

    def interfere(command: Any) -> None:
        if command.args[0] == "drop" and not others:
            others.append(flow(lab, purge_g(lab.keys, ["ready"], ME, "two", seen.extend)))

    drive(lab, purge_g(lab.keys, ["ready"], ME, "one", seen.extend), interfere)
    assert {each.element for each in seen} == {element(n) for n in range(600)}
    assert (others, lab.ready) == ([600], [])


def test_out_of_memory(own_lab: Lab) -> None:
    """A full Redis can be emptied so."""
    fill(own_lab)
    own_lab.client.config_set("maxmemory", 1)
    assert clear(own_lab) == 903
    assert (own_lab.ready, own_lab.later) == ([], [])


def test_wrong_type(lab: Lab) -> None:
    """Something else in the place of ready is not purged."""
    lab.client.set(lab.keys.ready, "foreign")
    with pytest.raises(redis_py.exceptions.ResponseError, match="WRONGTYPE"):
        lab.run(next(purge_g(lab.keys, ["ready"], ME, "one")))
    assert lab.client.get(lab.keys.ready) == b"foreign"


def test_refused(lab: Lab) -> None:
    """While somebody holds the queue exclusively; and for words that are no state. Nothing is moved."""
    put(lab, 1, DONE)
    seized(lab)
    before = lab.snapshot()
    with pytest.raises(QueueHeld):
        clear(lab)
    with pytest.raises(ConfigError, match="ready, later"):
        clear(lab, "ready", "dead")
    assert lab.snapshot() == before
    assert lab.uniques == {"+invoice:42": hex_of(1)}


def test_letters_of_an_export() -> None:
    """A message, a raw one and one with a due time are letters that can be read."""
    e = element(5)
    letter = Letter.read(purge.letter_of("me", Purged("later", e, "17"), bytes(16)), "0")
    assert (letter.element, letter.cause, letter.error) == (e, "PURGED", "purged from later, due 17")
    raw = Letter.read(purge.letter_of("me", Purged("ready", b"{}"), bytes(16)), "0")
    assert (env.unpack(raw.element).body, env.unpack(raw.element).meta) == (b"{}", {"r": True})


def test_an_earlier_one_left_some_of_later(lab: Lab) -> None:
    """What it has set aside goes, and what waits now goes, too."""
    lab.put(element(1), due=ops.Due("in", 60_000))

    def full(part: Sequence[Purged]) -> None:
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space"):
        clear(lab, "later", sink=full)
    lab.put(element(2))
    lab.put(element(3), due=ops.Due("in", 60_000))
    assert flow(lab, purge_g(lab.keys, purge.STATES, ME, "two")) == 3
    assert (lab.ready, lab.later) == ([], [])
