"""What is written down beside the messages: who came and went, and what was otherwise than believed."""

from __future__ import annotations

import pytest

from reliq.core import ops
from tests.lua.lab import Lab, element
from tests.lua.test_reap import held


def told(lab: Lab) -> list[tuple[str, str, str]]:
    """(event, consumer, detail) of every entry about no message."""
    entries = [e for _, e in lab.client.xrange(lab.keys.events) if not e[b"id"]]
    return [(e[b"event"].decode(), e[b"consumer"].decode(), e[b"detail"].decode()) for e in entries]


def test_a_consumer_comes_and_goes(lab: Lab) -> None:
    """Once each, also if it announces itself again after a reconnect, or says goodbye again."""
    lab.trip("a", 1, who="pid=7 shop", server="s")
    lab.trip("a", 2, who="pid=7 shop", server="s", epoch="")
    for _ in range(2):
        assert lab.run(ops.leave(lab.keys, "a", bell_ended=True))
    assert told(lab) == [("start", "a", "pid=7 shop"), ("stop", "a", "")]


def test_a_goodbye_with_messages_in_hand_says_so(lab: Lab) -> None:
    """Whoever looks for them sees how many were left to a reaper."""
    held(lab, element(1), element(2))
    for _ in range(2):
        assert not lab.run(ops.leave(lab.keys, "a", bell_ended=True))
    assert told(lab) == [("stop", "a", "2 left in hand")]


def test_a_death_is_told_once(lab: Lab) -> None:
    """Also of a consumer that held nothing; supervisors reap a dead name more than once."""
    lab.trip("idle", 1)
    held(lab, element(1))
    for name in ("idle", "a", "a"):
        lab.reap(name)
    assert told(lab) == [("die", "idle", "0 in hand"), ("die", "a", "1 in hand")]


@pytest.mark.parametrize(("options", "expected"), [
    ({"in_hand": 2}, []),
    ({"in_hand": 1}, [("reconcile", "a", "2 in hand, 1 known")]),
    ({"in_hand": 2, "epoch": "7"}, [("reconcile", "a", "2 in hand, 2 known")]),
    ({"in_hand": 2, "epoch": ""}, []),
])  # fmt: skip
def test_another_belief_than_redis_has_is_told(
    lab: Lab, options: dict[str, int | str], expected: list[tuple[str, str, str]]
) -> None:
    """And only that: whoever has just connected asks for the whole list, which is usual."""
    held(lab, element(1), element(2))
    lab.trip("a", 2, **options)
    assert told(lab) == expected


def test_strays_are_told(lab: Lab) -> None:
    """Lists that nobody registered, when they are found; and when their name is forgotten."""
    lab.client.hset(lab.keys.stats, mapping={"server": "s", "server_since": 1})
    lab.client.rpush(lab.keys.doing("ghost"), element(1))
    for _ in range(2):
        lab.reap("ghost", dead=False, server="s")
    assert told(lab) == [("adopt", "ghost", "1 held")]
    lab.client.delete(lab.keys.doing("ghost"))
    lab.expire("ghost", ago=90_000_000)
    assert lab.reap("ghost", dead=False, server="s").status == "forgotten"
    assert told(lab)[1:] == [("forget", "ghost", "")]


def test_work_as_usual_is_not_told(lab: Lab) -> None:
    """Puts, claims, acks and renewals write nothing down."""
    lab.put(element(1), element(2))
    lab.trip("a", 1, want=2)
    lab.trip("a", 2, in_hand=2, acks=[element(1), element(2)])
    lab.trip("a", 3)
    assert lab.events() == []
    assert not lab.client.exists(lab.keys.events)
