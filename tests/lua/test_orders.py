"""`order` and `answer`: one order at a time, to somebody who lives; a trip returns it, and else is as it was."""

from __future__ import annotations

import time
from typing import Any

import pytest

from reliq.core import ops, orders
from reliq.core.orders import InHand, Order, Report
from tests.lua.lab import BELL, Lab, element

REPORT = Report(1_700_000_000_000, "host", 7, "0.1.0", "3.12")


def give(lab: Lab, what: str = "report", *, name: str = "a", number: str = "1f", patience: float = 5.0) -> Any:
    return lab.run(orders.give(lab.keys, name, number, what, patience))


def test_a_trip_without_an_order_is_as_it_was(lab: Lab) -> None:
    """Not one byte more: the reply ends where it always ended, before an order and after its answer."""
    assert len(lab.trip("a", 1)) == 12
    give(lab)
    assert len(lab.trip("a", 2)) == 13
    assert lab.run(orders.answer(lab.keys, "a", "1f", REPORT)) is True
    assert len(lab.trip("a", 3)) == 12


def test_trips_return_it_until_it_is_answered(lab: Lab) -> None:
    """A trip whose reply is lost loses no order: the next one brings it again."""
    lab.trip("a", 1)
    assert give(lab, "report stacks") == ("given", "1f")
    for number in (2, 3):
        order = Order.parse(lab.trip("a", number)[12])
        assert order is not None
        assert (order.number, order.verb, order.about) == ("1f", "report", "stacks")
        assert 4000 < order.until - lab.now() <= 5000
    assert len(lab.trip("a", 3)) == 12  # a repeated trip changes nothing, and says nothing new


def test_one_order_at_a_time(lab: Lab) -> None:
    """The same one is joined, another one has to wait, until the first is answered or its time is over."""
    lab.trip("a", 1)
    assert give(lab, patience=0.2) == ("given", "1f")
    assert give(lab, number="2f") == ("joined", "1f")
    assert give(lab, "quiet", number="3f") == ("busy", "1f")
    time.sleep(0.25)
    assert give(lab, "quiet", number="3f") == ("given", "3f")
    assert lab.run(orders.answer(lab.keys, "a", "1f", REPORT)) is True  # too late: the other one stays
    assert lab.trip("a", 2)[12].startswith(b"3f ")
    lab.run(orders.answer(lab.keys, "a", "3f", REPORT))
    assert give(lab, "stop", number="4f") == ("given", "4f")


@pytest.mark.parametrize("how", ["unknown", "left", "dead", "expired"])
def test_only_to_who_lives(lab: Lab, how: str) -> None:
    """No order, and no answer, is written for a name that is gone: nothing would ever remove it."""
    if how != "unknown":
        lab.trip("a", 1)
    if how == "left":
        lab.run(ops.leave(lab.keys, "a", bell_ended=True))
    elif how == "dead":
        lab.reap("a")
    elif how == "expired":
        lab.expire("a", ago=10)
    before = lab.snapshot()
    assert give(lab) == ("expired" if how == "expired" else "gone", "")
    assert lab.snapshot() == before
    if how != "expired":
        assert lab.run(orders.answer(lab.keys, "a", "1f", REPORT)) is False
        assert lab.snapshot() == before


def test_who_is_idle_is_rung(lab: Lab) -> None:
    """One bell for each consumer that lives, as whoever sleeps longest is woken first; none while anything is
    ready or in its hands, and the same order rings once."""
    for name in ("a", "b", "old"):
        lab.trip(name, 1)
    lab.expire("old", ago=10)
    give(lab)
    assert lab.ready == [BELL, BELL]
    give(lab, number="2f")
    assert lab.ready == [BELL, BELL]
    assert lab.trip("b", 2, want=1)[9] == []
    assert lab.ready == []
    lab.push(element(1))
    give(lab, "quiet", name="b")
    assert lab.ready == [element(1)]
    lab.trip("b", 3, want=1)
    lab.run(orders.answer(lab.keys, "b", "1f", REPORT))
    give(lab, "stop", name="b")
    assert lab.ready == []


def test_a_report_comes_back_as_it_was() -> None:
    """Whatever stands in it; and what is none is none."""
    report = Report(5, "hôst", 7, "1", "3", "m.f", 8, 2, 1, (InHand("ab", 3, "x\ny"), InHand("cd")), True, rss=9)
    assert Report.unpack(report.pack()) == report
    for data in (b"", b"\xc1", b"\x80", b"\x01", report.pack()[:-3], Report.pack(report) + b"x"):
        assert Report.unpack(data) is None


def test_a_report_is_bounded() -> None:
    """At most 100 messages and 64,000 characters of stacks, the longest first, the asked one before all."""
    found = [InHand(f"{n:03}", 1000 - n, "s" * 4000) for n in range(150)]
    listed = orders.bounded(found, "007")
    assert [each.id for each in listed[:3]] == ["007", "149", "148"]
    assert len(listed) == 100
    assert sum(len(each.stack or "") for each in listed) == 64_000
    assert listed[-1].stack is None


@pytest.mark.parametrize("text", [b"", b"1f", b"1f x report", b"1f 5 dance", b"1f 5 stop a b", b"\xff \xff"])
def test_what_is_no_order_is_none(text: bytes) -> None:
    """Anybody may have written it: nothing is done."""
    assert Order.parse(text) is None
