"""put.lua alone: accepted once, by sequence or by marker, at once or later; a bell for idle consumers."""

from __future__ import annotations

from typing import Any

import pytest

from reliq.core import ops
from tests.lua.lab import BELL, Lab, element


def test_put_is_left_in(lab: Lab) -> None:
    """The first of several is the first to be claimed; earlier puts stay ahead."""
    assert lab.put(element(1), element(2))
    assert lab.put(element(3))
    assert lab.ready == [element(1), element(2), element(3)]


def test_repeat_adds_nothing(lab: Lab) -> None:
    """The same producer and sequence again is recognised, also after later puts of others."""
    assert lab.put(element(1), producer=b"\x00\xff", sequence=1)
    assert lab.put(element(2), producer=b"other", sequence=1)
    assert not lab.put(element(1), producer=b"\x00\xff", sequence=1)
    assert lab.put(element(3), producer=b"\x00\xff", sequence=2)
    assert not lab.put(element(1), producer=b"\x00\xff", sequence=1)
    assert lab.ready == [element(1), element(2), element(3)]


@pytest.mark.parametrize("named", [False, True])
def test_repeat_is_a_write(lab: Lab, named: bool) -> None:
    """It changes nothing, and yet it is replicated: a WAIT behind it has something to wait for on any server."""
    marker = lab.keys.marker(b"\x01" * 16) if named else ""
    producer = b"other" if named else b"p"
    assert lab.put(element(1), producer=b"p", sequence=1, marker=marker)
    before, written = lab.snapshot(), lab.client.info("persistence")["rdb_changes_since_last_save"]
    assert not lab.put(element(1), producer=producer, sequence=1, marker=marker)
    assert lab.client.info("persistence")["rdb_changes_since_last_save"] == written + 1
    assert lab.snapshot() == before


@pytest.mark.parametrize("due", [ops.NOW, ops.Due("in", 60_000), ops.Due("at", 4_000_000_000_000)])
def test_marker_dedupes_for_anybody(lab: Lab, due: ops.Due) -> None:
    """With an explicit id any producer's repeat adds nothing; the marker ends with the window."""
    marker = lab.keys.marker(b"\x01" * 16)
    assert lab.put(element(1), due=due, marker=marker)
    before = lab.snapshot()
    assert not lab.put(element(1), due=due, marker=marker)
    assert not lab.put(element(1, returns=1), due=due, marker=marker)
    assert lab.snapshot() == before
    assert 3_590_000 < lab.client.pttl(marker) <= 3_600_000
    lab.client.delete(marker)
    assert lab.put(element(1), due=due, marker=marker)


def test_delay_and_time(lab: Lab) -> None:
    """A delay counts from the server's clock, a time is a time; neither is ready now."""
    now = lab.now()
    lab.put(element(1), due=ops.Due("in", 5000))
    lab.put(element(2), element(3), due=ops.Due("at", now + 9000))
    scores = dict(lab.client.zrange(lab.keys.later, 0, -1, withscores=True))
    assert now + 5000 <= scores[element(1)] < now + 6000
    assert scores[element(2)] == scores[element(3)] == now + 9000
    assert lab.ready == []


def test_delayed_put_rings_the_bell(lab: Lab) -> None:
    """If this is due sooner than all else, one of the idle consumers must know: exactly once."""
    lab.trip("a", 1)
    lab.put(element(1), due=ops.Due("in", 60_000))
    assert lab.ready == [BELL]
    lab.put(element(2), due=ops.Due("in", 50_000))  # not idle: the bell waits to be taken
    assert lab.ready == [BELL]
    lab.client.delete(lab.keys.ready)
    lab.put(element(3), due=ops.Due("in", 55_000))  # not sooner
    assert lab.ready == []
    lab.put(element(4), due=ops.Due("in", 1000))
    assert lab.ready == [BELL]


def test_bell_needs_somebody_to_hear_it(lab: Lab) -> None:
    """Without a living consumer no bell is left in the list; nor where work waits anyway."""
    lab.put(element(1), due=ops.Due("in", 60_000))
    assert lab.ready == []
    lab.trip("a", 1)
    lab.expire("a")
    lab.put(element(2), due=ops.Due("in", 50_000))
    assert lab.ready == []
    lab.trip("b", 1)
    lab.put(element(3))
    lab.put(element(4), due=ops.Due("in", 40_000))
    assert lab.ready == [element(3)]


def test_full_calls(lab: Lab) -> None:
    """A thousand elements go in one call, at once or later."""
    many = [element(n) for n in range(1000)]
    assert lab.put(*many)
    assert lab.ready == many
    assert lab.put(*many, due=ops.Due("in", 1000))
    assert len(lab.later) == 1000


def test_idle_producers_are_swept(lab: Lab) -> None:
    """What a sweep has found idle, and another one after the whole window, is forgotten; some at a time."""
    now = lab.now()
    old, new = now - 3_601_000, now - 3_500_000
    records = {f"old{n}": f"7:{old}" for n in range(2500)} | {f"new{n}": f"7:{new}" for n in range(500)}
    lab.client.hset(lab.keys.producers, mapping=records)
    sweeps = 1
    while lab.run(ops.sweep_producers(lab.keys)):
        sweeps += 1
    assert sweeps > 2
    while lab.client.hlen(lab.keys.producers) > 500:
        lab.run(ops.sweep_producers(lab.keys))
    assert set(lab.client.hkeys(lab.keys.producers)) == {b"new%d" % n for n in range(500)}
    assert not lab.put(element(1), producer=b"new1", sequence=7)
    assert lab.put(element(1), producer=b"old1", sequence=7)


def test_a_sweep_notes_who_is_idle(lab: Lab) -> None:
    """From the first sweep on the window counts; a put starts it anew. A repeat does not, and is still one."""

    def record() -> Any:
        return lab.client.hget(lab.keys.producers, b"p")

    lab.put(element(1), producer=b"p", sequence=5)
    assert record() == b"5"
    before = lab.now()
    lab.run(ops.sweep_producers(lab.keys))
    number, _, since = record().partition(b":")
    assert (number, before <= int(since) <= lab.now()) == (b"5", True)
    assert not lab.put(element(1), producer=b"p", sequence=5)
    lab.run(ops.sweep_producers(lab.keys))
    assert record() == b"5:" + since
    assert lab.put(element(2), producer=b"p", sequence=6)
    assert record() == b"6"
    assert lab.ready == [element(1), element(2)]
