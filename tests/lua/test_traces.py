"""Traced messages in the scripts: what put and trip write down of them, and that it stops nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from reliq.core import envelope as env
from reliq.core import ops
from reliq.core.command import Command
from reliq.core.trace import Told
from tests.lua.lab import Lab, element


def steps(lab: Lab) -> list[tuple[str, ...]]:
    """(event, id, consumer, detail) of every entry of the traces."""
    entries = lab.client.xrange(lab.keys.traces)
    return [tuple(e[k].decode() for k in (b"event", b"id", b"consumer", b"detail")) for _, e in entries]


def hex_id(e: bytes) -> str:
    return env.unpack(e).id.hex()


@pytest.mark.parametrize("due", [ops.NOW, ops.Due("in", 60_000)])
@pytest.mark.parametrize("marker", [False, True])
def test_put_writes_down_who_it_was(lab: Lab, due: ops.Due, marker: bool) -> None:
    """Of those that are traced, once: a repeat adds nothing."""
    e = [element(n) for n in range(3)]
    told = Told("web:7", "shop.py", [e[0][23:39], e[2][23:39]])
    options = {"due": due, "marker": lab.keys.marker(bytes(16)) if marker else "", "told": told}
    assert lab.put(*e, producer=b"p", sequence=1, **options)
    assert not lab.put(*e, producer=b"p", sequence=1, **options)
    assert steps(lab) == [("put", hex_id(e[n]), "web:7", "shop.py") for n in (0, 2)]
    assert sorted(lab.ready + lab.later) == sorted(e)


def traced_trip(lab: Lab, number: int, in_hand: int, *settles: Any, acks: Sequence[bytes] = ()) -> list[object]:
    command: Command = lab.trip_command("a", number, in_hand=in_hand, acks=acks, settles=settles)
    reply: list[object] = lab.reply(command._replace(keys=(*command.keys, lab.keys.traces)))
    return reply


def test_trip_writes_down_steps(lab: Lab) -> None:
    """Beside its settles, whose places do not count them; that an ack was made only if it was."""
    e = [element(n) for n in range(3)]
    lab.push(*e)
    lab.trip("a", 1, want=3)
    for gone in e[1:]:
        lab.client.lrem(lab.keys.doing("a"), 1, gone)
    words = [("trace", hex_id(e[0]), "deliver", "3 1"), ("release", e[2], element(2, returns=1), "")]
    words += [("trace", hex_id(x), "ack", "1.5") for x in e[:2]]
    for _ in range(2):
        reply = traced_trip(lab, 2, 1, *words, acks=e[:2])
    assert reply[3] == [1, 2]
    assert steps(lab) == [("deliver", hex_id(e[0]), "a", "3 1"), ("ack", hex_id(e[0]), "a", "1.5")]
    told = [(event, id) for event, id, _ in lab.events() if id]
    assert told == [("late", hex_id(e[1])), ("late", hex_id(e[2]))]
    assert (lab.doing("a"), lab.client.hget(lab.keys.stats, "ack")) == ([], b"1")


def test_something_else_under_the_key_stops_nothing(lab: Lab) -> None:
    """Tracing is never a reason for a message to stay."""
    lab.client.set(lab.keys.traces, "foreign")
    e = element(1)
    assert lab.put(e, told=Told("web:7", "shop.py", [e[23:39]]))
    lab.trip("a", 1, want=1)
    traced_trip(lab, 2, 1, ("trace", hex_id(e), "deliver", "3 1"), acks=[e])
    assert (lab.ready, lab.doing("a")) == ([], [])
    assert lab.client.get(lab.keys.traces) == b"foreign"
