"""Tenants in the scripts: each gets its share and no more than its limits; no place and no turn is lost."""

from __future__ import annotations

import msgpack
import pytest

from reliq.core import envelope as env
from reliq.core import exclusive, gate, ops, waiting
from reliq.core.explain.looks import Found
from reliq.core.gate import NO_LIMITS, Limits
from reliq.core.lanes import PARKED, SHARED, Lane
from tests.lua.lab import BELL, Lab, element, number_of
from tests.lua.test_purge import clear

CALLER = waiting.Caller("host:1", "me")


def theirs(number: int, tenant: str = "a", meta: env.Meta | None = None, **counters: int) -> bytes:
    """An envelope of a tenant."""
    id = env.uuid7(1_700_000_000_000, number.to_bytes(10, "big"))
    return env.pack(id, msgpack.packb(number), {"m": tenant, **(meta or {})}, **counters)


def put(lab: Lab, *numbers: int, tenant: str = "a") -> None:
    lab.put(*(theirs(n, tenant) for n in numbers), lane=Lane(tenant=tenant))


def limit(lab: Lab, **limits: float) -> None:
    lab.run(gate.limit(lab.keys, "me", NO_LIMITS, Limits(**limits)))  # type: ignore[arg-type]


def claim(lab: Lab, name: str, number: int, want: int = 10, **options: object) -> list[int]:
    return [number_of(e) for e in lab.trip(name, number, want=want, **options)[9]]  # type: ignore[arg-type]


def waiting_ones(lab: Lab) -> list[int]:
    """The numbers of those that wait for the turn of their tenant."""
    found = lab.client.zrangebyscore(lab.keys.later, SHARED, "+inf")
    assert lab.client.zcard(lab.keys.lanes) == len(found)
    return [number_of(e) for e in found]


def held(lab: Lab) -> dict[str, int]:
    """How many of each tenant are in hand, as the limits count them."""
    counts = {k[1:]: int(v) for k, v in lab.uniques.items() if k[0] == "~"}
    places = [v for k, v in lab.uniques.items() if k[0] == "@"]
    assert counts == {tenant: places.count(tenant) for tenant in places}
    return counts


def test_each_gets_its_share(lab: Lab) -> None:
    """However much one has put before: they take turns, each in its order; who comes anew is not behind."""
    put(lab, *range(1000))
    put(lab, 2000, 2001, 2002, tenant="b")
    assert claim(lab, "a", 1, 4) == [0, 2000, 1, 2001]
    put(lab, 3000, 3001, tenant="c")
    assert sorted(claim(lab, "a", 2, 5, in_hand=4)) == [2, 3, 2002, 3000, 3001]
    assert claim(lab, "a", 3, 2, in_hand=9) == [4, 5]
    assert len(waiting_ones(lab)) == 994


def test_what_has_no_tenant_gets_half(lab: Lab) -> None:
    """Neither ready nor the tenants starve; a claim of one takes them in turn."""
    lab.push(*(element(n) for n in range(5000, 5100)))
    put(lab, *range(100))
    seen = claim(lab, "a", 1, 10)
    assert sum(n >= 5000 for n in seen) == 5
    ones = [claim(lab, "b", trip, 1, in_hand=trip - 1)[0] for trip in range(1, 7)]
    assert sum(n >= 5000 for n in ones) == 3


def test_no_more_in_hand_than_the_limit(lab: Lab) -> None:
    """Of each tenant, over all consumers; the place of one that leaves goes to the next, however it leaves."""
    limit(lab, concurrency=2)
    put(lab, *range(10))
    put(lab, 100, tenant="b")
    assert sorted(claim(lab, "a", 1)) == [0, 1, 100]
    assert claim(lab, "b", 1) == []
    assert held(lab) == {"a": 2, "b": 1}
    assert claim(lab, "b", 2) == []  # no use to ask, and nothing to wait for but the others
    assert sorted(claim(lab, "a", 2, in_hand=3, acks=[theirs(0)])) == [2]
    settles = [("retry", theirs(1), theirs(1, returns=1), 60_000)]
    assert claim(lab, "a", 3, in_hand=3, settles=settles) == [3]
    letter = env.join_note({"id": "x", "cause": "X"}, theirs(2))
    assert claim(lab, "a", 4, in_hand=3, settles=[("bury", theirs(2), letter, "X")]) == [4]
    assert held(lab) == {"a": 2, "b": 1}
    lab.reap("a")
    assert held(lab) == {}
    assert sorted(claim(lab, "b", 3)) == [100]  # suspects are claimed alone
    assert held(lab) == {"b": 1}


def test_a_late_settle_gives_no_place(lab: Lab) -> None:
    """The message is in hand elsewhere, and counts there."""
    limit(lab, concurrency=1)
    put(lab, 1, 2)
    assert claim(lab, "a", 1) == [1]
    lab.client.lrem(lab.keys.doing("a"), 1, theirs(1))
    lab.client.rpush(lab.keys.doing("b"), theirs(1))
    assert claim(lab, "a", 2, in_hand=0, acks=[theirs(1)]) == []
    assert held(lab) == {"a": 1}


def test_what_goes_back_keeps_to_the_limit(lab: Lab) -> None:
    """Another attempt is claimed from ready: if its tenant has enough in hand, it waits in the lane."""
    limit(lab, concurrency=1)
    put(lab, 1, 2)
    assert claim(lab, "a", 1) == [1]
    back = theirs(1, returns=1)
    assert claim(lab, "a", 2, 0, in_hand=1, settles=[("release", theirs(1), back, "")]) == []
    lab.client.lpush(lab.keys.ready, theirs(3))  # and one that was pushed by hand
    first = claim(lab, "a", 3, 4)
    assert len(first) == 1
    assert held(lab) == {"a": 1}
    assert lab.ready in ([], [BELL])
    seen = list(first)
    for trip in range(4, 7):
        acked = next(e for e in (theirs(1), back, theirs(2), theirs(3)) if e in lab.doing("a"))
        seen += claim(lab, "a", trip, 4, in_hand=1, acks=[acked])
    assert sorted(seen) == [1, 2, 3]


def test_rate(lab: Lab) -> None:
    """So many at once after a rest, and then the tenant rests, and nobody asks before; others go on."""
    limit(lab, rate=10, burst=3)
    put(lab, *range(10))
    put(lab, 100, tenant="b")
    assert sorted(claim(lab, "a", 1)) == [0, 1, 2, 100]
    reply = lab.trip("a", 2, want=10, in_hand=4)
    assert reply[9] == []
    assert 0 < reply[7] <= 100
    assert reply[10] == -1
    lab.client.zadd(lab.keys.turns, {"ra": 1e13 + lab.now() - 50, "wa": 1e12 + 1})  # it has rested
    assert claim(lab, "a", 3, in_hand=4) == [3, 4, 5]
    lab.client.zadd(lab.keys.turns, {"ra": 1e13 + 1, "rb": 1e13 + 1, "wa": 1e12 + 1})
    lab.trip("a", 4, want=0, in_hand=7)
    assert lab.client.zscore(lab.keys.turns, "rb") is None  # what is used up takes no memory


@pytest.mark.parametrize("better", [{}, {"rate": 100, "burst": 10}])
def test_who_rests_by_limits_that_are_gone_goes_on(lab: Lab, better: dict[str, float]) -> None:
    """A rate that was too low holds nobody back for an hour once it is higher, or gone."""
    limit(lab, rate=0.001, burst=1)
    put(lab, 1, 2, 3)
    assert claim(lab, "a", 1) == [1]
    assert lab.trip("a", 2, want=10, in_hand=1)[7] > 10_000
    lab.run(gate.limit(lab.keys, "me", NO_LIMITS, Limits(**better)))  # type: ignore[arg-type]
    reply = lab.trip("a", 3, want=10, in_hand=1)
    assert [number_of(e) for e in reply[9]] == ([] if better else [2, 3])
    assert not better or 0 <= reply[7] <= 11


def test_a_clock_that_goes_back(lab: Lab) -> None:
    """Another server may be an hour behind: who rests by the clock of the one before rests for one message."""
    limit(lab, rate=1, burst=1)
    put(lab, 7)
    ahead = lab.now() + 3_600_000
    lab.client.zadd(lab.keys.turns, {"ra": 1e13 + ahead, "wa": ahead})
    assert 0 < lab.trip("a", 1, want=10)[7] <= 1001


def test_repeated_trip_counts_once(lab: Lab) -> None:
    """Its answer was lost."""
    limit(lab, concurrency=3)
    put(lab, *range(5))
    assert claim(lab, "a", 1) == claim(lab, "a", 1) == [0, 1, 2]
    assert held(lab) == {"a": 3}


def test_suspects_come_alone(lab: Lab) -> None:
    """Also one that waits in a lane: it is the next one in ready, for who has empty hands."""
    lab.client.hset(lab.keys.stats, "shared", "- - -")
    put(lab, 2)
    suspect = theirs(1, lost=1, returns=1)
    lab.put(suspect, lane=Lane(tenant="a"))
    assert claim(lab, "a", 1) == [2]
    assert lab.ready == [suspect]
    assert claim(lab, "b", 1) == [1]
    put(lab, 3)
    lab.put(theirs(4, lost=1), lane=Lane(tenant="a"))
    assert claim(lab, "c", 1, 1) == [3]
    assert claim(lab, "c", 2, 2, in_hand=1, acks=[theirs(3)]) == [4]


def test_one_that_waits_for_empty_hands_is_not_passed_for_ever(lab: Lab) -> None:
    """While it is at the head of ready, tenants are not served either: hands would never be empty."""
    put(lab, 1, 2, 3)
    assert claim(lab, "a", 1, 1) == [1]
    lab.client.rpush(lab.keys.ready, element(9, lost=1))
    assert claim(lab, "a", 2, 3, in_hand=1) == []
    assert claim(lab, "a", 3, 3, in_hand=1, mode="decline") == [2, 3]
    assert claim(lab, "a", 4, 3, in_hand=3, acks=[theirs(1), theirs(2), theirs(3)]) == [9]


def test_a_place_that_a_reap_frees_wakes_somebody(lab: Lab) -> None:
    """Also if nothing comes back by it."""
    limit(lab, concurrency=1)
    put(lab, 1, 2)
    assert claim(lab, "a", 1) == [1]
    assert claim(lab, "b", 1) == []
    assert lab.ready == []
    lab.reap("a", max_losses=1)
    assert lab.ready == [BELL]
    assert claim(lab, "b", 2) == [2]


def test_no_trip_takes_long(lab: Lab) -> None:
    """One that passes over many which wait for the turn of their ordering key leaves the rest to the next."""
    lab.put(*(theirs(n, meta={"o": "k"}) for n in range(1000)), lane=Lane("k", "a"))
    put(lab, 2000, tenant="b")
    assert sorted(claim(lab, "a", 1)) == [0, 2000]
    assert lab.client.zcount(lab.keys.later, PARKED, SHARED - 1) < 200
    for trip in range(2, 12):
        assert claim(lab, "a", trip, in_hand=2) == []
    assert (lab.client.zcount(lab.keys.later, PARKED, SHARED - 1), lab.ready) == (999, [])


def test_with_an_ordering_key(lab: Lab) -> None:
    """Both hold: one of the key at a time, within the share of the tenant."""
    lane = Lane("k", "a")
    ones = [theirs(n, meta={"o": "k"}) for n in range(3)]
    lab.put(*ones, lane=lane)
    put(lab, 10)
    assert sorted(claim(lab, "a", 1)) == [0, 10]
    assert claim(lab, "a", 2, in_hand=2, acks=[ones[0]]) == [1]
    assert claim(lab, "a", 3, in_hand=2, acks=[ones[1]]) == [2]
    assert claim(lab, "a", 4, in_hand=2, acks=[ones[2], theirs(10)]) == []
    assert lab.uniques.keys() == {"#"}
    assert not lab.client.exists(lab.keys.lanes, lab.keys.later)


def test_cancelled_and_purged(lab: Lab) -> None:
    """What waits for the turn of its tenant can be taken out; nothing of it is left."""
    put(lab, *range(5))
    assert lab.run(waiting.cancel(lab.keys, Found("later", 0, theirs(1)), CALLER)) == 1
    assert claim(lab, "a", 1, 2) == [0, 2]
    assert waiting_ones(lab) == [3, 4]
    assert lab.run(ops.sizes(lab.keys, ["a"]))[:2] == [2, 0]
    assert clear(lab) == 2
    assert claim(lab, "a", 2, in_hand=2, acks=[theirs(0), theirs(2)]) == []
    assert lab.uniques.keys() == {"#"}
    assert not lab.client.exists(lab.keys.lanes, lab.keys.later, lab.keys.turns)


def test_a_stranger_pushes_one(lab: Lab) -> None:
    """Into ready, as producers do that know nothing of lanes: it is claimed, and its limits hold."""
    limit(lab, concurrency=1)
    lab.push(theirs(1), theirs(2), theirs(3, "b"))
    assert claim(lab, "a", 1) == [1, 3]
    assert claim(lab, "a", 2, in_hand=2, acks=[theirs(1)]) == [2]


def test_nobody_is_asked_for_nothing(lab: Lab) -> None:
    """An idle consumer is woken by a put, once; a tenant that has enough in hand rings nobody."""
    limit(lab, concurrency=1)
    lab.trip("a", 1, want=5)
    put(lab, 1)
    put(lab, 2)
    assert lab.ready == [BELL]
    assert claim(lab, "a", 2) == [1]
    assert lab.ready == []
    assert lab.trip("a", 3, want=5, in_hand=1)[10] == 0


@pytest.mark.parametrize("limits", [{}, {"concurrency": 50}, {"rate": 1000, "burst": 1000}])
def test_many_tenants(lab: Lab, limits: dict[str, float]) -> None:
    """A thousand with a message each, and one with a thousand: nobody is left out."""
    if limits:
        limit(lab, **limits)
    put(lab, *range(1000))
    for n in range(1000):
        put(lab, 2000 + n, tenant=f"t{n}")
    seen: list[int] = []
    hands: list[bytes] = []
    for trip in range(1, 60):
        acks, hands = hands, lab.trip("a", trip, want=100, in_hand=len(hands), acks=hands)[9]
        seen += map(number_of, hands)
        if len(seen) == 2000:
            break
        assert acks is not None
    assert sorted(seen) == [*range(1000), *range(2000, 3000)]


def test_exclusive(lab: Lab) -> None:
    """Who holds the queue for himself alone gets all of it, in the order in which it was put."""
    put(lab, 1, 2)
    put(lab, 3, tenant="b")
    put(lab, 4)
    lab.client.hset(lab.keys.stats, "exclusive", "h")
    names = (lab.keys.ready, lab.keys.lock, lab.keys.consumers, lab.keys.stats, lab.keys.later, lab.keys.dead)
    reply = lab.client.execute_command(
        "EVAL", exclusive._READ.source, 7, *names, lab.keys.events, "h", 1, 15000, 10, 100_000, 100
    )
    assert [number_of(e) for e in reply[8]] == [1, 2, 3, 4]
