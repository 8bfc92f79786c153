"""A place in a list of millions is found by a handful of probes, whatever the puts were like: no server is needed,
as a flow that asks for probes can be answered from a list of times."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reliq.core.explain import looks
from reliq.core.explain.looks import Probe
from reliq.core.explain.seek import Bracket, Place, around_g
from reliq.core.keys import Keys

KEYS = Keys("q")


def answer(times: Sequence[int | None], position: int, size: int) -> Probe:
    """What stands at a position, 0 being the oldest: the middle one of some, as probe.lua gives them."""
    near = sorted(ms for ms in times[position : position + looks.BESIDE] if ms is not None)
    return Probe(len(times), near[len(near) // 2] if near else None, size)


def find(times: Sequence[int | None], ms: int, size: int = 100) -> tuple[Place | None, int]:
    """Run the search; returns where it ended and how many probes it took."""
    flow, probes = around_g(KEYS, ms), 0
    try:
        command: Any = next(flow)
        while True:
            probes += 1
            command = flow.send(answer(times, command.args[0], size))
    except StopIteration as stop:
        return stop.value, probes


def even(n: int) -> list[int]:
    return [1_700_000_000_000 + i for i in range(n)]


def bursts(n: int) -> list[int]:
    """A thousand in each ms, then silence for a minute."""
    return [1_700_000_000_000 + i // 10_000 * 60_000 + i % 10_000 // 1_000 for i in range(n)]


def faster_and_faster(n: int) -> list[int]:
    return [1_700_000_000_000 + int(86_400_000 * (1 - (1 - i / n) ** 4)) for i in range(n)]


def one_old_one(n: int) -> list[int]:
    """The oldest waits for a year already, all others came today."""
    return [1_668_000_000_000, *even(n - 1)]


SHAPES: list[Callable[[int], list[int]]] = [even, bursts, faster_and_faster, one_old_one]


@pytest.mark.parametrize("shape", SHAPES)
def test_few_probes_bring_us_near(shape: Callable[[int], list[int]]) -> None:
    """Of a million, within two dozen probes, and mostly a handful, next to the right place."""
    times = shape(1_000_000)
    taken = []
    for position in (0, 1, 499, 5_000, 123_456, 500_000, 999_000, 999_998, 999_999):
        place, probes = find(times, times[position])
        assert place is not None
        low, high = bisect_left(times, times[position]), bisect_left(times, times[position] + 1)
        assert low - place.near <= place.position <= high + place.near, position
        taken.append(probes)
    print(shape.__name__, taken)
    assert max(taken) <= 24
    assert sorted(taken)[len(taken) // 2] <= 12


def test_large_elements_are_probed_to_the_end() -> None:
    """Where elements are large, reading 500 of them is more than some more probes."""
    place, probes = find(even(1_000_000), 1_700_000_500_000, size=100_000)
    assert place is not None
    assert place.near == 8
    assert abs(place.position - 500_000) <= 8
    assert probes <= 24


def test_nothing_there() -> None:
    """An empty list has no place."""
    assert find([], 1) == (None, 1)


def test_older_and_younger_than_all() -> None:
    """At the ends."""
    times = even(10_000)
    first, _ = find(times, times[0] - 5)
    last, _ = find(times, times[-1] + 5)
    assert (first and first.position, last and last.position) == (0, 10_000)


def test_raw_bodies_between() -> None:
    """Where nothing tells its time, the middle is asked; where that tells nothing either, it is over."""
    times: list[int | None] = [ms if i % 100_000 < 50_000 else None for i, ms in enumerate(even(1_000_000))]
    place, probes = find(times, 1_700_000_230_000)
    assert place is not None
    assert probes <= 40
    found, _ = find([None] * 100_000, 1_700_000_000_000)
    assert found is not None, "no place is certain, none is denied"


@given(
    st.lists(st.integers(0, 50), min_size=1, max_size=400),
    st.integers(0, 10**6),
    st.integers(1, 64),
)
def test_the_bracket_always_closes(gaps: list[int], pick: int, near: int) -> None:
    """Whatever the gaps are: a probe is inside of the bracket, the bracket holds the place and gets smaller."""
    times = list(accumulate(gap**4 for gap in gaps))
    wanted = times[pick % len(times)]
    if not times[0] < wanted < times[-1]:
        return
    bracket = Bracket(0, times[0], len(times) - 1, times[-1])
    for _ in range(len(times)):
        if bracket.width <= near:
            break
        position, width = bracket.aim(wanted, near), bracket.width
        assert bracket.low < position < bracket.high
        if times[position] == wanted:
            return
        bracket.saw(position, times[position], wanted)
        assert bracket.width < width
        assert times[bracket.low] < wanted < times[bracket.high]
    assert bracket.width <= near or bracket.width == 1
