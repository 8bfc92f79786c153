"""schedule, unschedule, due, fire: each tick one message, whoever fires and however often; trips tell when."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import redis as redis_py

from reliq.core import envelope as env
from reliq.core import gate, ticks
from reliq.core.consumer import FIRE
from reliq.core.schedule import Definition, id_of, tick_of
from reliq.core.ticks import Known, Shot
from reliq.core.timing import Timing
from tests.lua.lab import BELL, Lab, element

HOUR = 3_600_000


def definition(body: bytes = b"\xc0", **change: Any) -> Definition:
    return Definition(Timing(None, 1000, "UTC"), "last", 0, {}, body)._replace(**change)


PACKED = definition().pack()


def add(lab: Lab, name: str, tick: int, packed: bytes = PACKED) -> None:
    assert lab.run(ticks.schedule(lab.keys, name, Known(), packed, tick))


def shot(lab: Lab, name: str, tick: int, following: int | None, **change: Any) -> Shot:
    message = definition().element(id_of(lab.keys.queue, name, tick), name, tick)
    return Shot(name, PACKED, tick, following, tick, message)._replace(**change)


def fire(lab: Lab, *shots: Shot) -> tuple[int, int | None]:
    fired: tuple[int, int | None] = lab.run(ticks.fire(lab.keys, "me:1", "program", list(shots)))
    return fired


def next_of(lab: Lab) -> dict[bytes, float]:
    return dict(lab.client.zrange(lab.keys.ticks, 0, -1, withscores=True))


def tick_at(lab: Lab) -> int | None:
    found = lab.client.hget(lab.keys.stats, "tick_at")
    return None if found is None else int(found)


def fired_ticks(lab: Lab) -> list[tuple[str, int] | None]:
    return [tick_of(env.unpack(e).meta) for e in [*lab.ready, *lab.later] if e != BELL]


# -- schedule and unschedule --------------------------------------------------------------------------------


def test_the_same_again_changes_nothing(lab: Lab) -> None:
    """A repeat after a lost reply, or another process at its start: nothing shifts."""
    now = lab.now()
    command = ticks.schedule(lab.keys, "s", Known(), PACKED, now + HOUR)
    assert lab.run(command) is True
    before = lab.snapshot()
    assert lab.run(command) is True
    assert lab.run(ticks.schedule(lab.keys, "s", Known(), PACKED, now + 2 * HOUR)) is True
    assert lab.snapshot() == before
    assert next_of(lab) == {b"s": now + HOUR}
    assert tick_at(lab) == now + HOUR


@pytest.mark.parametrize(
    "known", [Known(), Known(PACKED, 6), Known(b"other", 5), Known(b"", 5), Known(PACKED, None)]
)
def test_what_is_not_as_it_was_read_is_not_changed(lab: Lab, known: Known) -> None:
    """Definition and next tick both have to be those that the caller has reckoned with."""
    add(lab, "s", 5)
    before = lab.snapshot()
    assert lab.run(ticks.schedule(lab.keys, "s", known, definition(b"\xc2").pack(), 9)) is False
    assert lab.snapshot() == before
    assert lab.run(ticks.schedule(lab.keys, "s", Known(PACKED, 5), definition(b"\xc2").pack(), 9)) is True
    assert next_of(lab) == {b"s": 9}


def test_unschedule(lab: Lab) -> None:
    """It is gone with its tick; the next one of the others is told, and nothing if there is none."""
    now = lab.now()
    add(lab, "a", now + HOUR)
    add(lab, "b", now + 2 * HOUR)
    assert [lab.run(ticks.unschedule(lab.keys, "a")) for _ in range(2)] == [True, False]
    assert (next_of(lab), tick_at(lab)) == ({b"b": now + 2 * HOUR}, now + 2 * HOUR)
    assert fire(lab, shot(lab, "a", now + HOUR, now + 2 * HOUR))[0] == 0
    assert lab.run(ticks.unschedule(lab.keys, "b"))
    assert not lab.client.exists(lab.keys.schedules, lab.keys.ticks)
    assert tick_at(lab) is None


def test_whoever_says_it_again_mends_what_trips_look_at(lab: Lab) -> None:
    """Somebody has deleted the counters: with the next start of a program that schedules, ticks are told again."""
    add(lab, "s", lab.now() + HOUR)
    lab.client.delete(lab.keys.stats)
    add(lab, "s", 5)
    assert tick_at(lab) == next_of(lab)[b"s"]


# -- due ----------------------------------------------------------------------------------------------------


def test_due_in_order_and_bounded(lab: Lab) -> None:
    """The longest due first; at most 500 or 256 kB, and the rest is told of."""
    large = definition(b"\xc6" + bytes(40_000)).pack()
    for n in range(10):
        add(lab, f"s{n}", 100 - n, large)
    page = lab.run(ticks.due(lab.keys))
    assert [name for name, _, _ in page.ticks] == [f"s{n}" for n in range(9, 3, -1)]
    assert {(tick, packed) for _, tick, packed in page.ticks} == {(100 - n, large) for n in range(4, 10)}
    assert page.more
    assert [name for name, _, _ in lab.run(ticks.due(lab.keys, skip=6)).ticks] == ["s3", "s2", "s1", "s0"]


def test_five_hundred_at_once(lab: Lab) -> None:
    """Small ones come by the hundred; exactly as many as there are is not more."""
    for n in range(501):
        add(lab, f"t{n:03}", n)
    page = lab.run(ticks.due(lab.keys))
    assert [(name, tick) for name, tick, _ in page.ticks] == [(f"t{n:03}", n) for n in range(500)]
    assert page.more
    lab.run(ticks.unschedule(lab.keys, "t500"))
    page = lab.run(ticks.due(lab.keys))
    assert (len(page.ticks), page.more) == (500, False)


def test_a_tick_without_its_schedule(lab: Lab) -> None:
    """Somebody has deleted the definition: the tick is told of, and goes when it is fired."""
    add(lab, "s", 5)
    lab.client.hdel(lab.keys.schedules, "s")
    assert lab.run(ticks.due(lab.keys)).ticks == [("s", 5, b"")]
    assert fire(lab, Shot("s", b"", 5, None)) == (0, None)
    assert (next_of(lab), tick_at(lab), lab.ready) == ({}, None, [])


def test_one_at_a_time_for_a_second(lab: Lab) -> None:
    """Who asks politely takes the duty for a second; others are told to wait, unless they were given it by a
    trip."""
    add(lab, "s", 5)
    first = lab.run(ticks.due(lab.keys, politely=True))
    assert (len(first.ticks), first.wait) == (1, 1000)
    second = lab.run(ticks.due(lab.keys, politely=True))
    assert second.ticks == []
    assert 0 < second.wait <= 1000
    assert len(lab.run(ticks.due(lab.keys)).ticks) == 1
    lab.client.hset(lab.keys.stats, "tick_at", lab.now() - 1)  # that second is over
    assert len(lab.run(ticks.due(lab.keys, politely=True)).ticks) == 1


def test_nothing_due(lab: Lab) -> None:
    """How long to wait; and whatever stood there of the next tick is put right."""
    assert lab.run(ticks.due(lab.keys, politely=True))[1:] == (None, False, [])
    add(lab, "s", lab.now() + HOUR)
    lab.client.hset(lab.keys.stats, "tick_at", 5)
    page = lab.run(ticks.due(lab.keys, politely=True))
    assert page.ticks == []
    assert HOUR - 5000 < page.wait <= HOUR
    assert tick_at(lab) == next_of(lab)[b"s"]


# -- fire ---------------------------------------------------------------------------------------------------


def test_each_tick_once(lab: Lab) -> None:
    """The second to fire it, and a repeat after a lost reply, add nothing."""
    now = lab.now()
    add(lab, "s", now - 1000)
    one = shot(lab, "s", now - 1000, now + HOUR)
    assert fire(lab, one)[0] == 1
    before = lab.snapshot()
    assert fire(lab, one)[0] == 0
    assert fire(lab, one._replace(following=now + 2 * HOUR))[0] == 0
    assert lab.snapshot() == before
    assert (fired_ticks(lab), next_of(lab)) == ([("s", now - 1000)], {b"s": now + HOUR})
    assert tick_at(lab) == now + HOUR


@pytest.mark.parametrize(
    "change",
    [
        lambda lab: lab.run(ticks.unschedule(lab.keys, "s")),
        lambda lab: lab.run(ticks.schedule(lab.keys, "s", Known(PACKED, 5), definition(b"\xc2").pack(), 5)),
        lambda lab: lab.run(ticks.schedule(lab.keys, "s", Known(PACKED, 5), definition(jitter=1).pack(), 9)),
        lambda lab: fire(lab, shot(lab, "s", 5, 6)),
    ],
)
def test_what_was_changed_meanwhile_is_not_fired(lab: Lab, change: Callable[[Lab], Any]) -> None:
    """Removed, another body, another timing, or fired by somebody else: the tick as it was read is nobody's."""
    add(lab, "s", 5)
    add(lab, "other", 5)
    change(lab)
    fired = fired_ticks(lab)
    assert fire(lab, shot(lab, "s", 5, 7), shot(lab, "other", 5, 8))[0] == 1
    assert fired_ticks(lab) == [*fired, ("other", 5)]
    assert next_of(lab)[b"other"] == 8
    assert next_of(lab).get(b"s") != 7


def test_several_ticks_of_one_schedule(lab: Lab) -> None:
    """In one call, in order, each from where the one before has left it; one that does not fit ends it."""
    add(lab, "s", 5)
    shots = [shot(lab, "s", 5, 6), shot(lab, "s", 6, 7), shot(lab, "s", 8, 9), shot(lab, "s", 7, 10)]
    assert fire(lab, *shots)[0] == 3
    assert (fired_ticks(lab), next_of(lab)) == ([("s", 5), ("s", 6), ("s", 7)], {b"s": 10})
    assert fire(lab, *shots)[0] == 0


def test_passed_over(lab: Lab) -> None:
    """A tick without a message only moves on; without a next one the schedule ticks no more."""
    add(lab, "s", 5)
    assert fire(lab, shot(lab, "s", 5, 6, element=b""))[0] == 0
    assert (lab.ready, next_of(lab)) == ([], {b"s": 6})
    assert fire(lab, shot(lab, "s", 6, None)) == (1, None)
    assert (next_of(lab), tick_at(lab)) == ({}, None)
    assert lab.client.hexists(lab.keys.schedules, "s")


def test_due_later(lab: Lab) -> None:
    """What has a share of jitter waits in later until then; what has none left is ready."""
    now = lab.now()
    for name in ("s", "t"):
        add(lab, name, now - 10)
    both = [shot(lab, "s", now - 10, now + HOUR, due=now + HOUR), shot(lab, "t", now - 10, now + HOUR, due=now)]
    assert fire(lab, *both)[0] == 2
    assert lab.client.zrange(lab.keys.later, 0, -1, withscores=True) == [(both[0].element, now + HOUR)]
    assert lab.ready == [both[1].element]


def test_claimed_in_the_order_of_firing(lab: Lab) -> None:
    """Behind what waits."""
    lab.push(element(1))
    for n in range(3):
        add(lab, f"s{n}", n)
    shots = [shot(lab, f"s{n}", n, 10 + n) for n in range(3)]
    fire(lab, *shots)
    assert lab.trip("a", 1, want=10)[9] == [element(1), *(each.element for each in shots)]


def test_out_of_memory_keeps_the_tick(own_lab: Lab) -> None:
    """The call is refused as a whole; with memory again it is fired, once."""
    lab = own_lab
    add(lab, "s", 5)
    add(lab, "t", 5)
    both = [shot(lab, "s", 5, 6), shot(lab, "t", 5, 6, due=lab.now() + HOUR)]
    lab.client.config_set("maxmemory", 1)
    before = lab.snapshot()
    for shots in (both, both[1:], [both[0]._replace(element=b"")]):
        with pytest.raises(redis_py.exceptions.RedisError, match="maxmemory"):
            fire(lab, *shots)
    assert lab.snapshot() == before
    assert len(lab.run(ticks.due(lab.keys, politely=True)).ticks) == 2  # looking goes on
    lab.client.config_set("maxmemory", 0)
    assert (fire(lab, *both)[0], fire(lab, *both)[0]) == (2, 0)


def test_a_queue_that_is_drained_takes_no_ticks(lab: Lab) -> None:
    """They stay due, and are fired when it takes puts again."""
    add(lab, "s", 5)
    lab.run(gate.drain(lab.keys, "me"))
    before = lab.snapshot()
    assert fire(lab, shot(lab, "s", 5, 6)) == (0, 1000)
    assert lab.snapshot() == before
    lab.run(gate.resume(lab.keys, "me"))
    assert fire(lab, shot(lab, "s", 5, 6))[0] == 1


def test_what_is_left_is_tried_again_within_a_second(lab: Lab) -> None:
    """While a tick is due, trips give the duty again a second after it was given, and not all the time."""
    add(lab, "s", 5)
    add(lab, "t", 6)
    lab.client.hset(lab.keys.stats, "tick_at", lab.now() - 1)
    assert lab.trip("a", 1, server="r", who="w")[8] == 2  # a new consumer sweeps first
    assert lab.trip("a", 2)[8] == FIRE
    until = tick_at(lab)
    assert until is not None
    assert lab.now() < until <= lab.now() + 1000
    _, wait = fire(lab, shot(lab, "s", 5, lab.now() + HOUR))
    assert tick_at(lab) == until
    assert wait is not None
    assert wait <= 1000


def test_traced(lab: Lab) -> None:
    """That it was put is written down of those which are traced, and of no others."""
    for name in ("s", "t"):
        add(lab, name, 5)
    one = shot(lab, "s", 5, 6)
    one = one._replace(traced=env.unpack(one.element).id)
    fire(lab, one, shot(lab, "t", 5, 6))
    fire(lab, one)
    [(_, entry)] = lab.client.xrange(lab.keys.traces)
    assert entry == {
        b"event": b"put",
        b"id": one.traced.hex().encode(),
        b"consumer": b"me:1",
        b"detail": b"program",
    }


# -- bells and trips ----------------------------------------------------------------------------------------


def test_trips_tell_when_the_next_tick_is(lab: Lab) -> None:
    """Without a schedule nothing is said; with one, its tick counts like all that is due by itself."""
    assert lab.trip("a", 1)[7:9] == [-1, 2]
    assert lab.trip("a", 2)[7:9] == [-1, 0]
    add(lab, "s", lab.now() + 5000)
    due, duty = lab.trip("a", 3)[7:9]
    assert (4000 < due <= 5000, duty) == (True, 0)
    lab.client.zadd(lab.keys.later, {element(1): lab.now() + 2000})
    assert lab.trip("a", 4)[7] <= 2000


def test_the_duty_is_given_to_one(lab: Lab) -> None:
    """Of several that ask, one is to fire, and for a second nobody else."""
    for name in ("a", "b"):
        lab.trip(name, 1)
    add(lab, "s", lab.now() - 1)
    lab.client.hset(lab.keys.stats, "tick_at", lab.now() - 1)
    replies = [lab.trip(name, 2) for name in ("a", "b")]
    assert [reply[8] for reply in replies] == [FIRE, 0]
    assert all(0 < reply[7] <= 1000 for reply in replies)
    lab.client.hset(lab.keys.stats, "tick_at", lab.now() - 1)
    assert lab.trip("b", 3)[8] == FIRE


def test_garbage_there_stops_no_trip(lab: Lab) -> None:
    """A counter that is no number is no tick."""
    lab.client.hset(lab.keys.stats, "tick_at", "soon")
    assert lab.trip("a", 1)[0] == b"ok"


@pytest.mark.parametrize("what", ["idle", "nobody", "busy", "later"])
def test_who_sleeps_is_woken_for_a_sooner_tick(lab: Lab, what: str) -> None:
    """A bell rings if a consumer lives, nothing is ready, and nothing else is due sooner."""
    now = lab.now()
    if what != "nobody":
        lab.trip("a", 1)
    if what == "busy":
        lab.push(element(1))
    if what == "later":
        lab.client.zadd(lab.keys.later, {element(1): now + 1})
    add(lab, "s", now + HOUR)
    assert lab.ready.count(BELL) == (what == "idle")
    lab.client.delete(lab.keys.ready)
    add(lab, "t", now + 2 * HOUR)  # which is not sooner
    assert lab.ready == []


def test_a_message_wakes_by_itself(lab: Lab) -> None:
    """Fired into ready there is no bell; fired into later, or passed over, there is one if that is due sooner than
    all that sleepers know of."""
    now = lab.now()
    lab.trip("a", 1)
    add(lab, "s", now - 10)
    lab.client.delete(lab.keys.ready)
    lab.client.hset(lab.keys.stats, "tick_at", now + 1000)
    fire(lab, shot(lab, "s", now - 10, now + 900))
    assert BELL not in lab.ready
    lab.client.delete(lab.keys.ready)
    lab.client.zadd(lab.keys.ticks, {"s": now - 9})
    lab.client.hset(lab.keys.stats, "tick_at", now + 1000)
    fire(lab, shot(lab, "s", now - 9, now + HOUR, due=now + 500))
    assert lab.ready == [BELL]
    lab.client.delete(lab.keys.ready)
    lab.client.zadd(lab.keys.ticks, {"s": now - 8})
    lab.client.hset(lab.keys.stats, "tick_at", now + 1000)
    fire(lab, shot(lab, "s", now - 8, now + HOUR, due=now + 600))  # another is due before
    assert lab.ready == []


def test_five_hundred_are_fired_quickly(lab: Lab) -> None:
    """One call fires as many as it may; Redis' own time is a few ms at most."""
    for n in range(500):
        add(lab, f"s{n}", 5)
    shots = [shot(lab, f"s{n}", 5, 6) for n in range(500)]
    lab.client.config_resetstat()
    assert fire(lab, *shots)[0] == 500
    stats = lab.client.info("commandstats")
    micros = sum(stats.get(f"cmdstat_{name}", {}).get("usec", 0) for name in ("evalsha", "eval"))
    assert 0 < micros < 50_000
