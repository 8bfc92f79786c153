"""What is cancelled while a consumer has it in hand: marked, told by each trip, ended however it comes back."""

from __future__ import annotations

import time
from typing import Any

import pytest
import redis as redis_py

from reliq.core import envelope as env
from reliq.core import waiting
from reliq.core.command import Command
from reliq.core.explain.looks import Found
from reliq.core.waiting import Caller
from tests.lua import test_unique
from tests.lua.lab import Consumer, Lab, drop, element, large
from tests.lua.test_every_script import error_of

ME = Caller("host:1", "ada lovelace")
E = [element(n) for n in range(6)]
BACK = [element(n, returns=1) for n in range(6)]


def id_of(element: bytes) -> str:
    return element[23:39].hex()


def off(lab: Lab, element: bytes, name: str = "a") -> Command:
    return waiting.call_off(lab.keys, Found("doing", len(element), element, consumer=name), ME)


def call_off(lab: Lab, *elements: bytes, name: str = "a") -> None:
    for each in elements:
        assert lab.run(off(lab, each, name)) == 1


def held(lab: Lab, *elements: bytes, name: str = "a") -> None:
    lab.push(*elements)
    assert lab.trip(name, 1, want=len(elements))[9] == list(elements)


def told(reply: list[Any]) -> set[str]:
    """Of which messages a trip says that they are cancelled."""
    return set(reply[13].decode().split(" ")) if len(reply) > 13 else set()


def ended(lab: Lab) -> list[tuple[str, str]]:
    """(id, who) of those that the ledger tells to be cancelled."""
    entries = [fields for _, fields in lab.client.xrange(lab.keys.events)]
    return [(e[b"id"].decode(), e[b"consumer"].decode()) for e in entries if e[b"event"] == b"cancel"]


def test_every_trip_tells_it_until_it_ends(lab: Lab) -> None:
    """Behind the order, or where there is none, behind nothing; one without a mark is as it always was."""
    held(lab, *E[:3])
    assert len(lab.trip("a", 2, in_hand=3)) == 12
    call_off(lab, E[0], E[2])
    call_off(lab, E[0])  # once more: the same
    for number in (3, 4):
        reply = lab.trip("a", number, in_hand=3)
        assert reply[12] == b""
        assert told(reply) == {id_of(E[0]), id_of(E[2])}
    lab.client.hset(lab.keys.session("a"), "order", "1f 99999999999999 report")
    reply = lab.trip("a", 5, in_hand=3, settles=[("release", E[0], BACK[0], "")])
    assert (reply[12], told(reply)) == (b"1f 99999999999999 report", {id_of(E[2])})
    lab.client.hdel(lab.keys.session("a"), "order")
    assert len(lab.trip("a", 6, in_hand=2, settles=[("release", E[2], BACK[2], "")])) == 12
    assert lab.client.hget(lab.keys.session("a"), "cancel") is None
    assert [event for event in lab.events() if event[0] == "call off"] == [
        ("call off", id_of(each), "ada lovelace") for each in (E[0], E[2])
    ]


@pytest.mark.parametrize("verb", ["retry", "release", "bury"])
def test_however_it_is_settled_it_ends(lab: Lab, verb: str) -> None:
    """It goes nowhere: not to later, not to ready, not to the dead; its neighbours do as they are told."""
    held(lab, *E[:3])
    call_off(lab, E[1])
    extra: Any = {"retry": 1000, "release": "", "bury": "ATTEMPTS"}[verb]
    settles = [(verb, e, env.join_note({"cause": "X"}, b) if verb == "bury" else b, extra)
               for e, b in zip(E[:3], BACK, strict=False)]  # fmt: skip
    reply = lab.trip("a", 2, in_hand=3, settles=settles[::-1])
    assert (reply[3], told(reply)) == ([], set())
    left = [*lab.ready, *lab.later, *(e for _, e in lab.dead)]
    assert sorted(left) == sorted([BACK[0], BACK[2]])
    assert lab.doing("a") == []
    assert ended(lab) == [(id_of(E[1]), "host:1")]
    stats = lab.client.hgetall(lab.keys.stats)
    assert (stats[b"cancel"], stats[verb.encode()]) == (b"1", b"2")


@pytest.mark.parametrize("by_number", [True, False])
def test_done_is_done(lab: Lab, by_number: bool) -> None:
    """Its handler was through before it heard of it, or did not heed it: acked, and no mark is left."""
    held(lab, *E[:3])
    call_off(lab, E[0], E[2])
    assert told(lab.trip("a", 2, in_hand=3, acks=E[:2], by_number=by_number)) == {id_of(E[2])}
    assert ended(lab) == []
    assert lab.client.hget(lab.keys.stats, "ack") == b"2"
    assert told(lab.trip("a", 3, in_hand=1)) == {id_of(E[2])}


def test_a_lost_answer_and_its_repeat(lab: Lab) -> None:
    """The trip that ended it is repeated: nothing is late, nothing is counted twice."""
    held(lab, E[0])
    call_off(lab, E[0])
    command = lab.trip_command("a", 2, in_hand=1, settles=[("retry", E[0], BACK[0], 1000)])
    assert lab.reply(command)[0] == b"ok"
    again = lab.reply(command)
    assert (again[0], again[3], again[9]) == (b"again", [], [])
    assert len(ended(lab)) == 1
    assert lab.later == []


@pytest.mark.parametrize("how", ["dead", "lease"])
def test_it_ends_if_its_worker_dies(lab: Lab, how: str) -> None:
    """A reap brings back the others, in order; no loss is charged to what is gone, and it is not given up."""
    held(lab, *E[:4])
    call_off(lab, E[1], E[3])
    lab.expire("a")
    reaped = lab.reap("a", dead=how == "dead", max_losses=2)
    assert reaped == ("reaped", 2, 0, False)
    assert [x[23:39] for x in lab.ready] == [E[0][23:39], E[2][23:39]]
    assert sorted(ended(lab)) == sorted([(id_of(E[1]), "host:1"), (id_of(E[3]), "host:1")])
    assert (lab.doing("a"), lab.dead) == ([], [])
    assert lab.client.hget(lab.keys.session("a"), "cancel") is None
    assert (lab.client.hget(lab.keys.stats, "cancel"), lab.client.hget(lab.keys.stats, "reap")) == (b"2", b"2")


def test_a_reap_in_parts_ends_each_in_its_part(lab: Lab) -> None:
    """A call takes so many at most; what is left keeps its mark until its turn."""
    held(lab, *E[:6])
    call_off(lab, E[0], E[5])
    lab.expire("a")
    assert lab.small_reap("a", 2).more
    assert [id for id, _ in ended(lab)] == [id_of(E[5])]
    while lab.small_reap("a", 2).more:
        pass
    assert [id for id, _ in ended(lab)] == [id_of(E[5]), id_of(E[0])]
    assert [x[23:39] for x in lab.ready] == [e[23:39] for e in E[1:5]]


def test_a_late_settle_changes_nothing(lab: Lab) -> None:
    """Its consumer was reaped, and says afterwards that it failed, or that it is done: refused, as always."""
    held(lab, *E[:2])
    call_off(lab, *E[:2])
    lab.expire("a")
    assert lab.reap("a", dead=False).status == "reaped"
    reply = lab.trip("a", 2, in_hand=2, acks=[E[0]], settles=[("retry", E[1], BACK[1], 5)])
    assert sorted(reply[3]) == [0, 1]
    assert (lab.ready, lab.later, len(ended(lab))) == ([], [], 2)


def test_only_what_is_in_these_hands_is_marked(lab: Lab) -> None:
    """What went back meanwhile, or is in other hands, is looked for again; nothing is written."""
    held(lab, E[0])
    lab.trip("a", 2, in_hand=1, settles=[("retry", E[0], BACK[0], 0)])
    lab.trip("b", 1, want=1)
    before = lab.snapshot()
    for each, name in ((E[0], "a"), (BACK[0], "a"), (E[0], "b"), (E[1], "b"), (E[0], "nobody")):
        assert lab.run(off(lab, each, name)) == 0
    assert lab.snapshot() == before
    assert lab.run(off(lab, BACK[0], "b")) == 1


def test_a_body_beside_the_list_goes_too(lab: Lab) -> None:
    """At once if its consumer says where it is, else by itself within the hour; never one that goes back."""
    e = [lab.put_large(n, 40) for n in range(4)]
    assert len(lab.trip("a", 1, want=4)[9]) == 4
    call_off(lab, *e[:3])
    assert [0 < lab.client.ttl(x.key) <= 3600 for x in e] == [True, True, True, False]
    back = [large(lab.keys, n, 40, returns=1) for n in range(4)]
    releases = [("release", bytes(x), bytes(b), "") for x, b in zip(e, back, strict=True)]
    lab.trip("a", 2, in_hand=4, settles=[releases[3], releases[1], releases[0], drop(e[3]), drop(e[0])])
    assert [lab.client.exists(x.key) for x in e] == [0, 1, 1, 1]
    assert lab.ready == [back[3]]
    lab.trip("a", 3, in_hand=1, acks=[e[2]], settles=[drop(e[2])])
    assert lab.client.exists(e[2].key) == 0


def test_keys_of_a_wrong_type_lose_nothing(lab: Lab) -> None:
    """An error says that nothing was written; a ledger that is none stops nothing."""
    for part in ("doing", "session", "events"):
        lab.client.delete(*(lab.snapshot() or ["-"]))
        held(lab, E[0])
        command = off(lab, E[0])
        key = {"doing": lab.keys.doing("a"), "session": lab.keys.session("a"), "events": lab.keys.events}[part]
        lab.client.delete(key)
        lab.client.set(key, "foreign")
        before = lab.snapshot()
        error = error_of(lab, command)
        assert ("WRONGTYPE" in error) is (part != "events")
        assert (lab.snapshot() == before) is (part != "events")


def test_it_works_while_redis_is_out_of_memory(own_lab: Lab) -> None:
    """To cancel is what frees memory."""
    lab = own_lab
    held(lab, *E[:2])
    lab.client.config_set("maxmemory", 1)
    with pytest.raises(redis_py.exceptions.RedisError, match="maxmemory"):
        lab.client.set("x", "y")
    call_off(lab, *E[:2])
    lab.trip("a", 2, in_hand=2, settles=[("retry", E[0], BACK[0], 5)])
    assert lab.reap("a").status == "reaped"
    assert (len(ended(lab)), lab.ready, lab.later) == (2, [], [])


def test_a_thousand_marks_hold_nothing_up(lab: Lab) -> None:
    """All that a consumer can hold is cancelled: a trip, and its end, take some ms (twenty times that here)."""
    e = [element(n) for n in range(1000)]
    lab.push(*e)
    lab.trip("a", 1, want=1000)
    call_off(lab, *e)
    started = time.perf_counter()
    assert len(told(lab.trip("a", 2, in_hand=1000))) == 1000
    between = time.perf_counter()
    settles = [("release", x, element(n, returns=1), "") for n, x in enumerate(e)]
    reply = lab.trip("a", 3, in_hand=1000, settles=settles)
    assert max(between - started, time.perf_counter() - between) < 0.3
    assert (reply[3], len(ended(lab)), lab.ready) == ([], 1000, [])


@pytest.mark.parametrize("how", ["retry", "release", "reap"])
@pytest.mark.parametrize("is_told", [True, False])
def test_what_is_unique_by_it_is_free(lab: Lab, how: str, is_told: bool) -> None:
    """Whoever ends it, and whether or not its consumer has heard of it; and another one may come."""
    test_unique.put(lab, 1)
    consumer = Consumer(lab, "a")
    consumer.trip()
    [message] = test_unique.lent(consumer)
    call_off(lab, message.element)
    if is_told:
        answer = consumer.trip(0)
        assert answer is not None
        assert answer.called_off == (message,)
    if how == "reap":
        assert lab.reap("a").returned == 0
    else:
        state = consumer.state
        consumer.trip(0, state.retry(message, 60, "no") if how == "retry" else state.release(message))
    assert (lab.ready, lab.later, len(ended(lab))) == ([], [], 1)
    assert lab.uniques == {}


def test_what_waits_for_its_body_is_not_handed_over(lab: Lab) -> None:
    """It is told before its body has come: nobody gets it, and it ends with the next trip."""
    lab.put_large(1)
    consumer = Consumer(lab, "a")
    consumer.trip()
    [element] = lab.doing("a")
    call_off(lab, element)
    consumer.trip(0)
    assert test_unique.lent(consumer) == []
    consumer.trip(0)
    assert (lab.doing("a"), lab.ready, len(ended(lab))) == ([], [], 1)
    assert lab.bodies == {}
