"""The search for the primary, driven by hand: no server, no socket."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from redis.crc import key_slot

from reliq.core.topology import Ask, Node, Open, Server, Topology, redirection, slot_of
from reliq.errors import AccessDenied, ReliqError, Unavailable

A, B, C, D = (Node("10.0.0.1", n) for n in range(1, 5))
DOWN = Unavailable("down")
MASTER, REPLICA, MEMBER = Server(role="master"), Server(role="slave"), Server(cluster=True)


def drive(topology: Topology, answer: Callable[[Ask | Open], Any], key: str = "k") -> list[Ask | Open]:
    """Answer each step; what is an error is thrown into the flow. The steps that were made."""
    flow, steps = topology.reach_g(key), []
    try:
        step = next(flow)
        while True:
            steps.append(step)
            reply = answer(step)
            step = flow.throw(reply) if isinstance(reply, ReliqError) else flow.send(reply)
    except StopIteration:
        return steps


def slots(*ranges: tuple[int, int, Node]) -> list[Any]:
    """A reply to CLUSTER SLOTS."""
    return [[first, last, [node.host.encode(), node.port, b"id"]] for first, last, node in ranges]


def test_slots_are_those_of_the_specification() -> None:
    """Of the hash tag, if there is one that is not empty; else of the whole key."""
    for key in ("", "k", "{a}b", "x{a}{b}", "{}a", "a}b", "{a", "reliq:{emails}:emails:ready", "ключ"):
        assert slot_of(key) == key_slot(key.encode())
    assert slot_of("123456789") == 12739


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("MOVED 3999 127.0.0.1:6381", (3999, Node("127.0.0.1", 6381))),
        ("ASK 1 ::1:7000", (1, Node("::1", 7000))),
        ("MOVED 1 host.example:7000", (1, Node("host.example", 7000))),
        ("MOVED 1 :7000", (1, Node("10.0.0.1", 7000))),
        ("MOVED 1 ?:7000", (1, Node("10.0.0.1", 7000))),
        ("MOVED said somebody", None),
        ("MOVED 1 host", None),
        ("ERR no", None),
        ("", None),
    ],
)
def test_redirections(text: str, found: tuple[int, Node] | None) -> None:
    """Slot and node; an empty or unknown host is that of the node that was asked."""
    assert redirection(text, A) == found


def test_one_server_is_simply_opened() -> None:
    """No question is asked of a server that is no Cluster."""
    assert drive(Topology([A]), lambda step: Server()) == [Open(A)]


def test_sentinels_are_asked_in_turn_the_last_good_one_first() -> None:
    """A dead one and one that knows no such master are passed over; the next time the good one comes first."""
    topology = Topology([A, B, C], master="m")
    replies: dict[Node, Any] = {A: DOWN, B: None, C: [b"10.0.0.1", b"4"]}
    steps = drive(topology, lambda s: MASTER if isinstance(s, Open) else replies[s.node])
    assert [s.node for s in steps] == [A, B, C, D]
    again = drive(topology, lambda s: MASTER if isinstance(s, Open) else replies[s.node])
    assert [s.node for s in again] == [C, D]


@pytest.mark.parametrize("found", [REPLICA, DOWN])
def test_a_sentinel_that_is_behind_is_not_believed(found: Any) -> None:
    """What it names is a replica or dead: it is opened once, and the next sentinel is asked."""
    topology = Topology([A, B], master="m")
    names = {A: [b"10.0.0.1", b"3"], B: [b"10.0.0.1", b"4"]}
    steps = drive(topology, lambda s: names[s.node] if isinstance(s, Ask) else MASTER if s.node == D else found)
    assert [s.node for s in steps] == [A, C, B, D]
    with pytest.raises(Unavailable, match=r"'m'.*10\.0\.0\.1:1, 10\.0\.0\.1:2"):
        drive(topology, lambda s: [b"10.0.0.1", b"3"] if isinstance(s, Ask) else found)


def test_a_wrong_password_is_no_reason_to_look_further() -> None:
    """It would be wrong everywhere."""
    with pytest.raises(AccessDenied):
        drive(Topology([A, B], master="m"), lambda s: [b"h", b"1"] if isinstance(s, Ask) else AccessDenied("no"))


def test_one_node_of_a_cluster_tells_of_the_others() -> None:
    """The first server says that it is a Cluster: then the owner of the slot is opened, and remembered."""
    topology = Topology([A])
    answer = slots((0, 16383, B))
    steps = drive(topology, lambda s: answer if isinstance(s, Ask) else MEMBER)
    assert steps == [Open(A), Ask(A, ("CLUSTER", "SLOTS")), Open(B)]
    assert topology.owner("k") == B
    assert drive(topology, lambda s: MEMBER) == [Open(B)]


def test_moved_is_followed_and_the_rest_asked_there() -> None:
    """The slot at once; the whole map anew, of the node that MOVED names."""
    topology = Topology([A, B])
    drive(topology, lambda s: slots((0, 16383, A)) if isinstance(s, Ask) else MEMBER)
    topology.moved(slot_of("k"), C)
    assert topology.owner("k") == C
    assert topology.owner("other") == A
    steps = drive(topology, lambda s: slots((0, 16383, C)) if isinstance(s, Ask) else MEMBER)
    assert steps == [Ask(C, ("CLUSTER", "SLOTS")), Open(C)]
    assert topology.owner("other") == C


def test_a_dead_owner_makes_others_be_asked_until_one_knows_better() -> None:
    """A node that still names the dead one is not the last word."""
    topology = Topology([A, B, C])
    drive(topology, lambda s: slots((0, 16383, A)) if isinstance(s, Ask) else MEMBER)

    def answer(step: Ask | Open) -> Any:
        if step.node == A:
            return DOWN
        return MEMBER if isinstance(step, Open) else slots((0, 16383, A if step.node == B else C))

    assert [s.node for s in drive(topology, answer)] == [A, B, C, C]
    assert topology.owner("k") == C


def test_nobody_knows_better() -> None:
    """Then the error of the owner is told, and it is tried again the next time."""
    topology = Topology([A, B])
    answer = slots((0, 16383, A))
    drive(topology, lambda s: answer if isinstance(s, Ask) else MEMBER)
    with pytest.raises(Unavailable, match="down"):
        drive(topology, lambda s: answer if isinstance(s, Ask) and s.node == B else DOWN)
    assert drive(topology, lambda s: answer if isinstance(s, Ask) else MEMBER)[-1] == Open(A)


def test_a_slot_that_nobody_serves_and_a_cluster_that_nobody_answers_for() -> None:
    """Each with its own words."""
    with pytest.raises(Unavailable, match=r"serves slot \d+ \(of 'k'\)"):
        drive(Topology([A, B]), lambda s: slots((0, 0, A)))
    with pytest.raises(Unavailable, match="no node of the cluster"):
        drive(Topology([A, B]), lambda s: DOWN)
    with pytest.raises(Unavailable, match="no list of slots"):
        drive(Topology([A, B]), lambda s: [b"what"])
