"""The schedules of the prover, their text, and what it calls a difference; no Redis, no handler."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from reliq.errors import ConfigError
from reliq.testing.proving.effects import differences, same
from reliq.testing.proving.schedules import Schedule, Stop, all_of, smaller, stops_of

PATH = [
    Stop("f", 1),
    Stop("f", 2),
    Stop("f", 2, 2),
    Stop("f", 2, 3),
    Stop("g<locals>", 9),
    Stop("f", 3, leaves=True),
]


@pytest.mark.parametrize("ordered", [False, True])
def test_text(ordered: bool) -> None:
    """Whatever is tried can be written down and read again."""
    kinds = all_of([PATH, PATH[:3], PATH], ordered=ordered)
    tried = [schedule for kind in kinds for schedule in kind]
    assert [Schedule.parse(str(schedule), 3) for schedule in tried] == tried
    assert len({str(schedule) for schedule in tried}) == len(tried) > 30


def test_kinds() -> None:
    """Each kind has its name; what is ordered has no other orders and nothing at once; one body has none
    either."""
    names = [kind[0].name for kind in all_of([PATH, PATH], ordered=False)]
    plain = ["delivered twice", "killed", "lease lost half-way", "failed half-way"]
    assert names == [*plain, "out of order", "two at once"]
    assert [kind[0].name for kind in all_of([PATH, PATH], ordered=True)] == plain
    assert [kind[0].name for kind in all_of([PATH], ordered=False)] == plain


def test_stops() -> None:
    """Of a loop the first two times and the last; nothing is raised where a block is left; a kill is at the
    ack, too; of bodies that go the same way, the first and the last."""
    loop = [Stop("f", 1, time) for time in range(1, 100)]
    assert [stop.time for stop in stops_of(loop)] == [1, 2, 99]
    _, kills, losses, failures, *_ = all_of([PATH] * 3, ordered=False)
    assert [str(kill) for kill in kills if kill.target == 1] == [
        "deliver 1 2 3, kill 1 at its ack",
        "deliver 1 2 3, kill 1 at f:2",
        "deliver 1 2 3, kill 1 at f:2#2",
        "deliver 1 2 3, kill 1 at f:2#3",
        "deliver 1 2 3, kill 1 at g<locals>:9",
    ]
    assert {kill.target for kill in kills} == {1, 3}
    assert (len(losses), len(failures)) == (12, 8)


def test_orders() -> None:
    """All others that there are of three; of many, some."""
    orders = all_of([PATH] * 3, ordered=False)[4]
    assert len({schedule.order for schedule in orders}) == 5
    assert orders[0].order == (3, 2, 1)
    many = all_of([PATH] * 20, ordered=False)[4]
    assert len(many) == 6
    assert all(sorted(schedule.order) == list(range(1, 21)) for schedule in many)


def test_smaller() -> None:
    """One body less, or one delivery less, never that of which it is."""
    texts = [str(each) for each in smaller(Schedule.parse("deliver 1 1 2", 2))]
    assert texts == ["deliver 1 1", "deliver 2", "deliver 1 2", "deliver 1 2"]
    texts = [str(each) for each in smaller(Schedule.parse("deliver 1 2 3, overlap 1 at f:2 with 3", 3))]
    assert texts == ["deliver 1 3, overlap 1 at f:2 with 3"]


@pytest.mark.parametrize(
    "text",
    [
        "", "deliver", "deliver 3", "deliver 0", "deliver 1, kill 2 at", "deliver 1, lose 1 at its ack",
        "deliver 1, explode 1 at f:1", "deliver 1 2, overlap 1 at f:1", "deliver 1, kill 1 at f:1 with 2",
        "deliver 1, kill 9 at its ack", "deliver 1 2, kill 1 at f:x",
    ],
)  # fmt: skip
def test_no_schedule(text: str) -> None:
    """What is none is refused, with what one looks like."""
    with pytest.raises(ConfigError, match="schedule="):
        Schedule.parse(text, 2)


@pytest.mark.parametrize(
    ("before", "wanted", "got", "told"),
    [
        (0, 1, 2, "doubled: is 2, should be 1"),
        (100, 80, 60, "doubled: is 60, should be 80"),
        (100, 80, 100, "missing: is 100, should be 80"),
        (Decimal(0), Decimal(3), Decimal(0), "missing: is Decimal('0'), should be Decimal('3')"),
        (7, 7, 8, "differs: is 8, should be 7"),
        ({}, {"a": 1}, {"a": 2}, "doubled: ['a'] is 2, should be 1"),
        ({}, {"a": {"b": 1}}, {"a": {}}, "missing: ['a']['b'] is not there, should be 1"),
        ({}, {}, {"x": "y"}, "extra: ['x'] is 'y', should not be there"),
        ([], ["m"], ["m", "m"], "doubled: 'm' is there twice, should be once"),
        ([], [("m", 1)], [], "missing: ('m', 1) is there not at all, should be once"),
        ([], [{"m": 1}], [{"m": 1}, {"n": 1}], "extra: {'n': 1} is there once, should be not at all"),
        ({}, {"s": {1}}, {"s": {1, 2}}, "extra: ['s'] 2 is there once, should be not at all"),
        ([], [1, 2], [2, 1], "differs: is in another order: [2, 1], should be [1, 2]"),
        ("", "a\nb\n", "a\nb\nb\n", "doubled: 'b' is there twice, should be once"),
        (None, "paid", "open", "differs: is 'open', should be 'paid'"),
        (None, True, False, "differs: is False, should be True"),
    ],
)
def test_differences(before: Any, wanted: Any, got: Any, told: str) -> None:
    """Each with its kind, its place and what should be there."""
    assert [str(each) for each in differences(before, wanted, got, ordered=True)] == [told]
    assert differences(before, wanted, wanted, ordered=True) == []


def test_order_of_lists() -> None:
    """Where order does not count it is that of lists, however deep; that of tuples and texts counts always."""
    assert same({"a": [2, [1, 3]]}, {"a": [[3, 1], 2]}, ordered=False)
    assert not same({"a": [2, [1, 3]]}, {"a": [[3, 1], 2]}, ordered=True)
    assert not same((1, 2), (2, 1), ordered=False)
    assert not same("a\nb", "b\na", ordered=False)
