"""Whose turn it is: shares by weight, nobody starved, strictly in order where that was asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reliq.core import levels
from reliq.core.turns import Seat, Turns
from reliq.errors import ConfigError

WEIGHTS = st.lists(st.integers(1, 50), min_size=1, max_size=16)


def flat(weights: Sequence[int]) -> list[Seat]:
    """Queues without levels."""
    return [Seat(group, weight) for group, weight in enumerate(weights)]


GROUPS = st.lists(st.tuples(st.integers(1, 20), st.lists(st.integers(1, 9), min_size=1, max_size=3)), min_size=1)


def leveled(groups: Sequence[tuple[int, Sequence[int]]]) -> list[Seat]:
    """Queues in levels."""
    return [Seat(i, weight, part) for i, (weight, parts) in enumerate(groups[:6]) for part in parts]


@given(WEIGHTS, st.integers(1, 10))
def test_a_round_gives_each_its_weight(weights: list[int], rounds: int) -> None:
    """While all have work: after every round of as many messages as the weights are, nobody is off by more than
    one."""
    turns = Turns(flat(weights))
    everybody = range(len(weights))
    for n in range(1, rounds + 1):
        counts = Counter(turns.next(everybody) for _ in range(sum(weights)))
        assert all(abs(counts[seat] - weight) <= 1 for seat, weight in enumerate(weights)), n


@given(GROUPS, st.data())
def test_nobody_waits_longer_than_the_others_take_for_a_round(
    groups: list[tuple[int, list[int]]], data: st.DataObject
) -> None:
    """Whoever else comes and goes: who has work gets a turn before all others have had what one message of his is
    worth, and one more each."""
    seats = leveled(groups)
    turns, waited = Turns(seats), 0
    patient = data.draw(st.integers(0, len(seats) - 1))
    group, weight, part = seats[patient]
    least = weight * part / sum(s.part for s in seats if s.group == group)
    most = sum(s.weight for s in {s.group: s for s in seats}.values()) / least + 2 * len(seats)
    for _ in range(100):
        others = data.draw(st.sets(st.integers(0, len(seats) - 1))) if waited < 3 else range(len(seats))
        waited = 0 if turns.next(sorted({patient, *others})) == patient else waited + 1
        assert waited <= most


def test_levels_share_what_their_queue_gets() -> None:
    """Whichever of its levels have work, a queue gets no more and no less among the others."""
    seats = [Seat(0, 3, 6), Seat(0, 3, 3), Seat(0, 3, 1), Seat(1, 1)]
    for active in ([0, 1, 2, 3], [2, 3], [0, 2, 3]):
        turns = Turns(seats)
        counts = Counter(turns.next(active) for _ in range(4000))
        assert abs(counts[3] - 1000) <= 2
        parts = sum(seats[seat].part for seat in active if seat < 3)
        for seat in active[:-1]:
            assert abs(counts[seat] - 3000 * seats[seat].part / parts) <= 2


def test_who_was_away_begins_where_the_others_are() -> None:
    """Turns are not saved up: the first message comes at once, and then one in seven."""
    turns = Turns(flat([6, 1]))
    for _ in range(1000):
        turns.next([0])
    assert turns.next([0, 1]) == 1
    got = [turns.next([0, 1]) for _ in range(70)]
    assert got.count(1) == 10


@pytest.mark.parametrize("weights", [[6, 1], [1, 6], [1, 1], [1000, 1], [1, 1000]])
def test_the_first_message_of_who_was_away_is_next(weights: list[int]) -> None:
    """Whatever it weighs, and also if it had a message just before the others got theirs."""
    turns = Turns(flat(weights))
    turns.next([0])
    for _ in range(2000):
        turns.next([1])
    assert turns.next([0, 1]) == 0


@given(st.lists(st.sets(st.integers(0, 5), min_size=1), min_size=1))
def test_strictly_the_first_that_has_work(actives: list[set[int]]) -> None:
    """In the order given."""
    turns = Turns(flat([1] * 6), strict=True)
    for active in actives:
        assert turns.next(sorted(active)) == min(active)


def test_strictly_the_levels_of_one_queue_share_all_the_same() -> None:
    """Also while an earlier queue has something now and then."""
    turns = Turns([Seat(0), Seat(1, 1, 6), Seat(1, 1, 1)], strict=True)
    counts = Counter[int]()
    for n in range(2100):
        counts[turns.next([0, 1, 2] if n % 3 == 0 else [1, 2])] += 1
    assert counts == {0: 700, 1: 1200, 2: 200}


# -- rooms ---------------------------------------------------------------------------------------------


@given(GROUPS, st.integers(0, 1500), st.data(), st.booleans())
def test_rooms(groups: list[tuple[int, list[int]]], slots: int, data: st.DataObject, strict: bool) -> None:
    """No more than is free, but for what others hold beyond their share; nothing free is left while somebody asks;
    strictly nothing for a later queue while an earlier one asks."""
    seats = leveled(groups)
    some = len(seats)
    waiting = data.draw(st.lists(st.integers(0, 300), min_size=some, max_size=some))
    asking = data.draw(st.lists(st.booleans(), min_size=some, max_size=some))
    rooms = Turns(seats, strict=strict).rooms(slots, waiting, asking)
    assert all(0 <= room <= slots for room in rooms)
    wanted = [seat for seat in range(some) if asking[seat]]
    if strict and wanted:
        first = seats[wanted[0]].group
        assert all(rooms[seat] == 0 for seat in range(some) if seats[seat].group > first)
        wanted = [seat for seat in wanted if seats[seat].group == first]
        held = sum(waiting[seat] for seat in range(some) if seats[seat].group <= first)
    else:
        held = sum(waiting)
    if wanted:
        assert sum(rooms[seat] for seat in wanted) >= max(0, slots - held)
        over = [seat for seat in wanted if not waiting[seat]]
        if over == wanted:
            assert sum(rooms[seat] for seat in wanted) <= max(0, slots)
    else:
        assert all(room == max(0, slots - held) for room in rooms if not strict)


def test_one_slot_goes_to_whose_turn_it_is() -> None:
    """Slow handlers, whose slots come free one by one: the shares come from here alone."""
    turns, counts = Turns(flat([6, 1])), Counter[int]()
    for _ in range(700):
        rooms = turns.rooms(1, [0, 0], [True, True])
        assert sorted(rooms) == [0, 1]
        seat = rooms.index(1)
        turns.took(seat, [0, 1])
        counts[seat] += 1
    assert counts == {0: 600, 1: 100}


def test_what_another_has_claimed_ahead_is_no_obstacle() -> None:
    """By weights up to the share, strictly all."""
    assert Turns(flat([6, 1])).rooms(100, [0, 100], [True, True]) == [85, 0]
    assert Turns(flat([1, 6])).rooms(100, [0, 100], [True, True]) == [14, 0]
    assert Turns(flat([1, 1]), strict=True).rooms(100, [0, 100], [True, True]) == [100, 0]
    assert Turns(flat([1, 1]), strict=True).rooms(100, [100, 0], [True, True]) == [0, 0]
    assert Turns(flat([1, 1]), strict=True).rooms(0, [0, 3], [True, True]) == [0, 0], "all slots are in handlers"


# -- levels --------------------------------------------------------------------------------------------


def test_the_names_of_levels() -> None:
    """True is three of them."""
    assert levels.checked("q", True) == {"high": 6, "normal": 3, "low": 1}
    assert list(levels.names("q", {"now": 2, "normal": 1})) == ["q.now", "q"]
    assert list(levels.names("q", {})) == ["q"]


@pytest.mark.parametrize(
    "wrong",
    [
        *(
            5,
            "high",
            ["high", "normal"],
            {"high": 1},
            {"normal": 1},
            {"normal": 1, "a.b": 1},
            {"normal": 1, "": 1},
        ),
        *({"normal": 1, 3: 1}, {"normal": 0, "high": 1}, {"normal": 1, "high": -1}, {"normal": 1, "high": 1001}),
        *({"normal": 1, "high": 1.5}, {"normal": 1, "high": True}, {"normal": 1, **{str(n): 1 for n in range(8)}}),
    ],
)
def test_wrong_levels(wrong: object) -> None:
    """Each is refused, with the queue and what was given."""
    with pytest.raises(ConfigError, match="queue 'q': levels="):
        levels.checked("q", wrong)
