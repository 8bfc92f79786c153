"""Groups in the scripts: messages gather, come together when it is time, and are never out of sight."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from reliq.core import envelope as env
from reliq.core import gate, ops, waiting
from reliq.core.explain.looks import Found
from reliq.core.gate import Limits
from reliq.core.lanes import GROUPED, Group, Lane
from tests.lua.lab import BELL, Lab, element, number_of
from tests.lua.test_purge import clear

CALLER = waiting.Caller("host:1", "me")
GROUPS = 20_000_000_000_000


def of(number: int, group: str = "g", **counters: int) -> bytes:
    """An envelope of a group."""
    id = env.uuid7(1_700_000_000_000, number.to_bytes(10, "big"))
    return env.pack(id, msgpack.packb(number), {"g": group}, **counters)


def put(lab: Lab, *numbers: int, group: str = "g", **said: Any) -> None:
    lab.put(*(of(n, group) for n in numbers), lane=Lane(group=Group(group, **said)))


def due_in(lab: Lab, group: str = "g") -> float | None:
    """In how many ms it is the time of a group."""
    score = lab.client.zscore(lab.keys.turns, "g" + group)
    return None if score is None else score - GROUPS - lab.now()


def trip(lab: Lab, number: int, want: int = 10, *, together: bool = True, **options: Any) -> list[Any]:
    command = lab.trip_command("a", number, want=want, promote=-100 if together else 100, **options)
    reply: list[Any] = lab.reply(command)
    return reply


def gathered(lab: Lab) -> list[int]:
    found = lab.client.zrangebyscore(lab.keys.later, GROUPED, "+inf")
    assert lab.client.zcard(lab.keys.lanes) == len(found)
    return [number_of(e) for e in found]


def travel(lab: Lab, ms: int) -> None:
    """Let all groups be so much older."""
    for member in lab.client.zrangebyscore(lab.keys.turns, GROUPS, "+inf"):
        lab.client.zincrby(lab.keys.turns, -ms, member)


def test_they_wait_for_each_other_and_come_together(lab: Lab) -> None:
    """Until none has come for a while; the trip before says when, and what is ready goes on meanwhile."""
    put(lab, 1, grace=5)
    put(lab, 2, grace=5)
    lab.push(element(9))
    reply = trip(lab, 1)
    assert [number_of(e) for e in reply[9]] == [9]
    assert 4000 < reply[7] <= 5000
    assert gathered(lab) == [1, 2]
    assert lab.run(ops.sizes(lab.keys, ["a"]))[:2] == [0, 2]
    travel(lab, 5000)
    assert [number_of(e) for e in trip(lab, 2, in_hand=1)[9]] == [1, 2]
    assert lab.uniques == {"#": "2"}
    assert not lab.client.exists(lab.keys.turns, lab.keys.lanes, lab.keys.later)


def test_each_put_waits_anew_but_not_for_ever(lab: Lab) -> None:
    """The first one waits for so long at most; and when enough have come, it is time at once."""
    put(lab, 1, grace=5, max_delay=8)
    assert 4000 < (due_in(lab) or 0) <= 5000
    lab.client.hset(lab.keys.uniques, "*g", f"{lab.now() - 6000} 1")  # it came six seconds ago
    put(lab, 2, grace=5, max_delay=8)
    assert 1000 < (due_in(lab) or 0) <= 2000
    put(lab, 3, grace=5, max_delay=8, max_size=3)
    assert (due_in(lab) or 0) <= 0
    put(lab, 4, grace=5, max_delay=8, max_size=3)
    assert (due_in(lab) or 0) <= 0
    assert [number_of(e) for e in trip(lab, 1)[9]] == [1, 2, 3, 4]


def test_together_also_if_that_is_more_than_there_is_room(lab: Lab) -> None:
    """For a handler that takes a list; another consumer takes what it asked for."""
    put(lab, *range(20), grace=0)
    put(lab, *range(50, 60), group="h", grace=0)
    assert [number_of(e) for e in trip(lab, 1, want=3)[9]] == [*range(20)]
    hand = [of(n) for n in range(20)]
    assert [number_of(e) for e in trip(lab, 2, want=3, together=False, in_hand=20, acks=hand)[9]] == [50, 51, 52]


@pytest.mark.parametrize("limits", [{"concurrency": 5}, {"rate": 0.01, "burst": 5}])
def test_together_within_the_limits_of_the_queue(lab: Lab, limits: dict[str, float]) -> None:
    """A group is no way around them: then it comes in parts; and who got what he wanted is not shut out."""
    lab.run(gate.limit(lab.keys, "me", Limits(**limits)))  # type: ignore[arg-type]
    put(lab, *range(20), grace=0)
    reply = trip(lab, 1, want=3)
    assert ([number_of(e) for e in reply[9]], reply[5], reply[10]) == ([*range(5)], 0, 15)
    reply = trip(lab, 2, want=3, in_hand=5)
    assert reply[9] == []
    assert reply[5] < -1
    if "concurrency" in limits:
        acks = [of(n) for n in range(5)]
        assert [number_of(e) for e in trip(lab, 3, want=3, in_hand=5, acks=acks)[9]] == [*range(5, 10)]


def test_a_large_group_comes_in_parts(lab: Lab) -> None:
    """One trip lets a few hundred go; none is left behind."""
    for start in range(0, 1000, 100):
        put(lab, *range(start, start + 100), grace=0)
    seen: list[int] = []
    hand: list[bytes] = []
    for number in range(1, 10):
        acks, hand = hand, trip(lab, number, want=300, in_hand=len(hand), acks=hand)[9]
        assert acks is not None
        seen += map(number_of, hand)
    assert seen == [*range(1000)]


def test_who_sleeps_is_woken_for_a_new_group_only(lab: Lab) -> None:
    """It has to know when that is due; later messages of the group make it no sooner, the last one does."""
    trip(lab, 1)
    put(lab, 1)
    assert lab.ready == [BELL]
    trip(lab, 2)
    put(lab, 2)
    assert lab.ready == []
    put(lab, 3, max_size=3)
    assert lab.ready == [BELL]


def test_cancelled_and_purged(lab: Lab) -> None:
    """While it gathers; the others come, and nothing is left."""
    put(lab, 1, 2, 3)
    assert lab.run(waiting.cancel(lab.keys, Found("later", 0, of(2)), CALLER)) == 1
    assert gathered(lab) == [1, 3]
    assert clear(lab, "later") == 2
    travel(lab, 60_000)
    assert trip(lab, 1)[9] == []
    assert lab.uniques == {"#": "3"}
    assert not lab.client.exists(lab.keys.turns, lab.keys.lanes, lab.keys.later)


def test_a_repeated_put_adds_nothing(lab: Lab) -> None:
    """Its answer was lost."""
    lane = Lane(group=Group("g"))
    assert lab.put(of(1), sequence=1, lane=lane)
    assert not lab.put(of(1), sequence=1, lane=lane)
    assert gathered(lab) == [1]
    assert lab.uniques["*g"].endswith(" 1")


def test_what_goes_back_does_not_gather_again(lab: Lab) -> None:
    """Another attempt, and what a dead worker had in hand: at once, and those alone."""
    put(lab, 1, 2, grace=0)
    trip(lab, 1)
    lab.reap("a")
    assert [number_of(e) for e in lab.ready] == [1, 2]
    reply = lab.trip("b", 1, want=5)
    assert [number_of(e) for e in reply[9]] == [1]


@pytest.mark.parametrize(
    "wrong", [{"grace": -1}, {"max_delay": "x"}, {"max_size": 0}, {"max_size": 301}, {"key": ""}, {"key": 5}]
)
def test_wrong_words(wrong: dict[str, Any]) -> None:
    """Each says what would be right."""
    with pytest.raises(ValueError, match=next(iter(wrong)).replace("key", "1 to 500")):
        Group(**({"key": "g"} | wrong))
