"""trip.lua alone: every reply, its repeat, late settles, claims, suspects, promotion."""

from __future__ import annotations

import hashlib
import time
from typing import Any

import msgpack
import pytest

from reliq.core import envelope as env
from reliq.core import ops, routing
from tests.lua.lab import BELL, PART, Lab, element, number_of

STATUS, NOW, EPOCH, LATE, WHOLE, SUSPECTS, OTHERS, DUE, SWEEP, ELEMENTS, READY, LAST = range(12)


def numbers(elements: list[bytes]) -> list[int]:
    return [number_of(e) for e in elements]


# -- numbers of trips ---------------------------------------------------------------------------------------


def test_first_trip_of_an_idle_queue(lab: Lab) -> None:
    """The first trip registers the consumer with a lease by the server's clock, and finds nothing."""
    reply = lab.trip("a", 1, want=5, epoch="", who="host 1", server="run1")
    assert reply[:8] == [b"ok", reply[NOW], b"0", [], 1, 0, -1, -1]
    assert reply[ELEMENTS] == []
    assert abs(reply[NOW] - lab.now()) < 1000
    assert lab.client.zscore(lab.keys.consumers, "a") == reply[NOW] + 15_000
    session = lab.client.hgetall(lab.keys.session("a"))
    assert session[b"who"] == b"host 1"
    assert session[b"lease"] == b"15000"
    assert lab.client.hmget(lab.keys.stats, "server", "server_since") == [b"run1", b"%d" % reply[NOW]]


def test_server_since_is_kept(lab: Lab) -> None:
    """A reconnect to the same server does not count as a restart."""
    first = lab.trip("a", 1, server="run1")[NOW]
    lab.trip("a", 2, server="run1")
    lab.trip("a", 3)
    assert int(lab.client.hget(lab.keys.stats, "server_since")) == first
    second = lab.trip("a", 4, server="run2")[NOW]
    assert int(lab.client.hget(lab.keys.stats, "server_since")) == second


def test_repeat_changes_nothing(lab: Lab) -> None:
    """The last trip again gives the same verdicts and the whole processing list, and only renews the lease."""
    e = [element(n) for n in range(4)]
    lab.push(*e)
    lab.trip("a", 1, want=2)
    command = lab.trip_command("a", 2, want=1, in_hand=2, acks=[element(99), e[0]])
    first = lab.reply(command)
    assert (first[STATUS], first[LATE], first[WHOLE], first[ELEMENTS]) == (b"ok", [0], 0, [e[2]])
    lab.expire("a")
    before = lab.snapshot()
    for _ in range(2):
        again = lab.reply(command)
        assert (again[STATUS], again[LATE], again[WHOLE], again[ELEMENTS]) == (b"again", [0], 1, e[1:3])
    after = lab.snapshot()
    assert after.pop(lab.keys.consumers.encode()) != before.pop(lab.keys.consumers.encode())
    assert after == before


def test_older_trip_is_stale(lab: Lab) -> None:
    """A ghost of an earlier trip changes nothing at all."""
    e = [element(n) for n in range(3)]
    lab.push(*e)
    old = lab.trip_command("a", 1, want=1)
    lab.reply(old)
    lab.trip("a", 2, want=1, in_hand=1)
    before = lab.snapshot()
    reply = lab.reply(old)
    assert (reply[STATUS], reply[ELEMENTS]) == (b"stale", [])
    assert lab.snapshot() == before


def test_dead_name(lab: Lab) -> None:
    """A name that was declared dead settles, claims and renews nothing."""
    lab.push(element(1), element(2))
    lab.trip("a", 1, want=1)
    lab.reap("a")
    before = lab.snapshot()
    reply = lab.trip("a", 2, want=5, in_hand=1, acks=[element(1)])
    assert (reply[STATUS], reply[ELEMENTS]) == (b"dead", [])
    assert lab.snapshot() == before


# -- settles ------------------------------------------------------------------------------------------------


def test_settles(lab: Lab) -> None:
    """Each verb takes the message out of the processing list and puts it where it belongs."""
    e = [element(n) for n in range(6)]
    back = [element(n, returns=1) for n in range(6)]
    lab.push(*e)
    lab.trip("a", 1, want=6)
    reply = lab.trip(
        "a", 2, in_hand=6, acks=[e[0], e[1]],
        settles=[
            ("retry", e[2], back[2], 60_000),
            ("bury", e[3], env.join_note({"cause": "X"}, back[3]), "X"),
            ("release", e[5], back[5], ""),
            ("release", e[4], back[4], ""),
        ],
    )  # fmt: skip
    assert (reply[LATE], reply[WHOLE], reply[ELEMENTS]) == ([], 0, [])
    assert lab.doing("a") == []
    assert lab.ready == [back[4], back[5]]
    assert lab.later == [back[2]]
    assert lab.client.zscore(lab.keys.later, back[2]) == reply[NOW] + 60_000
    assert lab.dead == [({"cause": "X"}, back[3])]
    counts = lab.client.hgetall(lab.keys.stats)
    assert [int(counts[k]) for k in (b"ack", b"retry", b"bury", b"release")] == [2, 1, 1, 2]
    ids = [env.unpack(x).id.hex() for x in e]
    assert lab.events() == [
        ("retry", ids[2], "60000"), ("bury", ids[3], "X"), ("release", ids[5], ""), ("release", ids[4], ""),
    ]  # fmt: skip


@pytest.mark.parametrize("verb", ["ack", "retry", "bury", "release"])
def test_late_settle_is_refused(lab: Lab, verb: str) -> None:
    """What is no longer in the processing list cannot be settled: nothing is written but the ledger."""
    e, other = element(1), element(2)
    lab.push(e, other)
    lab.trip("a", 1, want=2)
    lab.client.lrem(lab.keys.doing("a"), 1, e)
    settles = {"acks": [e]} if verb == "ack" else {"settles": [(verb, e, element(1, returns=1), "7")]}
    reply = lab.trip("a", 2, in_hand=2, **settles)
    assert (reply[LATE], reply[WHOLE], reply[ELEMENTS]) == ([0], 1, [other])
    assert (lab.ready, lab.later, lab.dead) == ([], [], [])
    assert lab.events() == [("late", env.unpack(e).id.hex(), verb), ("reconcile", "", "1 in hand, 2 known")]
    assert lab.client.hget(lab.keys.stats, verb) is None


def test_late_indexes_count_over_acks_and_settles(lab: Lab) -> None:
    """Late settles are named by their place among all settles of the trip."""
    e = [element(n) for n in range(4)]
    lab.push(*e[:2])
    lab.trip("a", 1, want=4)
    reply = lab.trip(
        "a", 2, in_hand=2, acks=[e[0], e[2]],
        settles=[("release", e[3], e[3], ""), ("release", e[1], element(1, returns=1), "")],
    )  # fmt: skip
    assert reply[LATE] == [1, 2]


def test_settle_twice_in_one_trip(lab: Lab) -> None:
    """The second settle of one message is late."""
    e = element(1)
    lab.push(e)
    lab.trip("a", 1, want=1)
    reply = lab.trip("a", 2, in_hand=1, acks=[e, e], settles=[("release", e, element(1, returns=1), "")])
    assert reply[LATE] == [1, 2]
    assert lab.ready == []


# -- reconciling --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("epoch", "in_hand", "whole"), [("0", 1, 0), ("0", 2, 1), ("0", 0, 1), ("1", 1, 1)])
def test_belief_is_checked(lab: Lab, epoch: str, in_hand: int, whole: int) -> None:
    """If length or epoch are not what the consumer believes, it gets the whole list."""
    lab.push(element(1), element(2))
    lab.trip("a", 1, want=1)
    reply = lab.trip("a", 2, want=1, epoch=epoch, in_hand=in_hand)
    assert (reply[WHOLE], numbers(reply[ELEMENTS])) == (whole, [1, 2] if whole else [2])


def test_epoch_after_a_reap(lab: Lab) -> None:
    """A reap changes the epoch that trips return."""
    lab.push(element(1))
    lab.trip("a", 1, want=1)
    lab.expire("a")
    assert lab.reap("a", dead=False).returned == 1
    reply = lab.trip("a", 2, want=1, in_hand=1)
    assert (reply[EPOCH], reply[WHOLE]) == (b"1", 1)
    assert lab.trip("a", 3, epoch="1", in_hand=1)[WHOLE] == 0


# -- claims -------------------------------------------------------------------------------------------------


def test_claims_the_oldest(lab: Lab) -> None:
    """Claims come from the right end, no more than there are slots, and stand in the list in that order."""
    lab.push(*(element(n) for n in range(5)))
    assert lab.trip("a", 1, want=0)[ELEMENTS] == []
    assert numbers(lab.trip("a", 2, want=3)[ELEMENTS]) == [0, 1, 2]
    assert numbers(lab.doing("a")) == [0, 1, 2]
    assert numbers(lab.ready) == [3, 4]


@pytest.mark.parametrize(
    ("what", "in_hand", "mode", "claimed", "left"),
    [
        (element(1), 1, "alone", 1, 0),
        (b"1", 1, "alone", 1, 0),
        (BELL, 1, "alone", 0, 0),
        (element(1, lost=1), 1, "alone", 0, 1),
        (element(1, lost=1), 1, "decline", 0, 1),
        (element(1, lost=1), 1, "beside", 1, 0),
        (element(1, lost=1), 0, "alone", 1, 0),
    ],
    ids=["one", "raw", "bell", "suspect waits", "suspect passed over", "suspect beside", "suspect alone"],
)
def test_what_is_alone_in_the_inbox(
    lab: Lab, what: bytes, in_hand: int, mode: str, claimed: int, left: int
) -> None:
    """With nothing ready it is claimed, or goes to ready if it may not be; it is in one place, and the
    answer says how many are ready by then."""
    lab.push(element(0))
    lab.trip("a", 1, want=in_hand)
    lab.client.delete(lab.keys.ready)
    lab.push(what)
    lab.bell("a")
    reply = lab.trip("a", 2, want=5, in_hand=in_hand, mode=mode)
    assert (len(reply[ELEMENTS]), len(lab.doing("a")) - in_hand) == (claimed, claimed)
    assert (reply[READY], lab.ready, lab.inbox("a")) == (left, [what] * left, [])
    assert reply[SUSPECTS] == left


def test_inbox_goes_through_the_head(lab: Lab) -> None:
    """What BLMOVE brought is claimed first, in order, even what there is no slot for stays in order."""
    lab.push(*(element(n) for n in range(5)))
    lab.bell("a")
    lab.bell("a")
    reply = lab.trip("a", 1, want=1)
    assert numbers(reply[ELEMENTS]) == [0]
    assert numbers(lab.ready) == [1, 2, 3, 4]
    assert lab.inbox("a") == []


def test_what_is_released_stands_before_what_blmove_brought_since(lab: Lab) -> None:
    """It was claimed earlier; otherwise a worker that ends gives its messages back in another order."""
    lab.push(*(element(n) for n in range(4)))
    [first] = lab.trip("a", 1, want=1)[ELEMENTS]
    lab.bell("a")
    lab.trip("a", 2, in_hand=1, settles=[("release", first, first, "")])
    assert numbers(lab.ready) == [0, 1, 2, 3]


def test_acks_are_looked_for(lab: Lab) -> None:
    """In whatever order the consumer names them; what is not there is late."""
    elements = [element(n) for n in range(6)]
    lab.push(*elements)
    lab.trip("a", 1, want=6)
    for number, in_hand, acked, late in ((2, 6, [0, 1], []), (3, 4, [3, 2], []), (4, 2, [4, 9, 5], [1])):
        assert lab.trip("a", number, in_hand=in_hand, acks=[element(n) for n in acked])[LATE] == late
    assert lab.doing("a") == []
    assert lab.client.hget(lab.keys.stats, "ack") == b"6"


def test_acks_by_number(lab: Lab) -> None:
    """The oldest, of which the first and the last are named; with other settles behind them, and once."""
    elements = [element(n) for n in range(8)]
    lab.push(*elements)
    lab.trip("a", 1, want=8)
    settles = [("retry", elements[5], env.bump(env.unpack(elements[5]), failed=1), 60_000)]
    options = {"in_hand": 8, "acks": elements[:3], "by_number": True, "settles": settles}
    assert lab.trip("a", 2, **options)[:4:3] == [b"ok", []]
    assert lab.trip("a", 2, **options)[0] == b"again"
    assert numbers(lab.doing("a")) == [3, 4, 6, 7]
    assert lab.client.hmget(lab.keys.stats, "ack", "retry") == [b"3", b"1"]
    assert lab.trip("a", 3, in_hand=4, acks=[elements[n] for n in (3, 4, 6, 7)], by_number=True)[0] == b"ok"
    assert lab.doing("a") == []


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("others are in hand", {"in_hand": 5}),
        ("a reap came between", {"epoch": "1"}),
        ("trips were forgotten", {"number": 4}),
        ("the first is another", {"acks": [1, 2]}),
        ("the last is another", {"acks": [0, 2]}),
        ("so many are not there", {"acks": [0, 1, 2, 3, 4]}),
    ],
)
def test_acks_by_number_need_the_list_to_be_as_it_seems(lab: Lab, what: str, change: dict[str, Any]) -> None:
    """Else nothing at all is done, and the consumer names them one by one: under the same number, as if this had
    never come."""
    elements = [element(n) for n in range(5)]
    lab.push(*elements[:4])
    lab.trip("a", 1, want=4)
    lab.push(element(7))
    lab.bell("a")
    before = lab.snapshot()
    options = {"number": 2, "in_hand": 4, "acks": [0, 1], "want": 5} | change
    if what == "the last is another":
        options["acks"] = [0, 1, 3]
    number, acked = options.pop("number"), [elements[n] for n in options.pop("acks")]
    reply = lab.trip("a", number, acks=acked, by_number=True, **options)
    assert (reply[0], reply[LAST], reply[ELEMENTS]) == (b"spell", 1, [])
    assert lab.snapshot() == before
    reply = lab.trip("a", number, acks=acked, **options)
    assert (reply[0], len(reply[LATE])) == (b"ok", sum(e not in elements[:4] for e in acked))


def test_a_gap_in_the_numbers_is_a_rollback(lab: Lab) -> None:
    """The consumer had the answers to the trips in between, so the server has forgotten them; it says so."""
    for number, last in ((1, 0), (2, 1), (5, 2), (6, 5)):
        assert lab.trip("a", number)[LAST] == last
    assert lab.events() == [("rollback", "", "trips 3 to 4")]


def test_bell_is_dropped(lab: Lab) -> None:
    """The wake-up of a delayed put is no message, wherever it stands."""
    lab.push(BELL, element(1), BELL, element(2), BELL)
    lab.bell("a")
    first = lab.trip("a", 1, want=3)
    second = lab.trip("a", 2, want=3, in_hand=len(first[ELEMENTS]))
    assert numbers(first[ELEMENTS] + second[ELEMENTS]) == [1, 2]
    assert lab.ready == []


def test_what_is_still_ready_is_told(lab: Lab) -> None:
    """Also after bells were dropped, after what BLMOVE brought, and after what this very trip has put back or
    promoted, which it claims as well."""
    lab.push(*(element(n) for n in range(3)))
    lab.client.rpush(lab.keys.ready, BELL, BELL)
    reply = lab.trip("a", 1, want=1)
    assert (numbers(reply[ELEMENTS]), reply[READY]) == ([0], 2)
    lab.bell("a")
    assert lab.trip("a", 2, in_hand=1)[READY] == 2
    lab.trip("b", 1, want=2)
    reply = lab.trip("a", 3, in_hand=1, want=1, settles=[("release", element(0), element(0), "")])
    assert (numbers(reply[ELEMENTS]), reply[READY]) == ([0], 0)
    reply = lab.trip("a", 4, in_hand=1, settles=[("retry", element(0), element(0), 0)])
    assert (reply[READY], lab.ready, lab.later) == (1, [element(0)], [])
    assert lab.trip("a", 4, in_hand=1, settles=[("retry", element(0), element(0), 0)])[READY] == 1


def test_raw_elements_are_wrapped(lab: Lab) -> None:
    """A foreign body gets an envelope in the processing list: its own id each, also for equal bodies."""
    lab.push(b"1", b"1", b"", b"\x00\xff")
    reply = lab.trip("a", 1, want=4)
    found = [env.unpack(e) for e in reply[ELEMENTS]]
    assert [f.body for f in found] == [b"1", b"1", b"", b"\x00\xff"]
    assert lab.doing("a") == reply[ELEMENTS]
    assert len({f.id for f in found}) == 4
    for place, f in enumerate(found, 1):
        assert env.id_ms(f.id) == reply[NOW]
        assert f.id == env.uuid7(reply[NOW], hashlib.sha1(b"a:1:%d" % place).digest()[:10])
        assert (f.meta, f.returns, f.deliveries) == ({"r": True}, 0, 1)
        assert f.element == env.pack(f.id, f.body, {"r": True})


def test_envelopes_are_left_as_they_are(lab: Lab) -> None:
    """Complete envelopes of any version, length or meta pass unchanged; damaged ones are raw bodies."""
    good = element(1, returns=5, failed=2)
    future = good[:4] + b"\x02" + good[5:]
    wrong_length = good[:8] + bytes([good[8] ^ 1]) + good[9:]
    bad_meta = env.pack(bytes(16), b"", {"x": 1}).replace(b"\x81\xa1x\x01", b"\xc1\xa1x\x01")
    bad_meta = bad_meta[:9] + env.checksum(bad_meta[23:]) + bad_meta[13:]
    damaged = good[:-1] + bytes([good[-1] ^ 1])
    raws = [damaged, good[:-1], good[:39], env.MAGIC, b"\xc1"]
    lab.push(good, future, wrong_length, bad_meta, *raws)
    found = lab.trip("a", 1, want=20)[ELEMENTS]
    assert found[:4] == [good, future, wrong_length, bad_meta]
    assert [env.unpack(e).body for e in found[4:]] == raws
    assert all(env.unpack(e).meta == {"r": True} for e in found[4:])


# -- bounds -------------------------------------------------------------------------------------------------


def test_claim_is_bounded_by_bytes(lab: Lab) -> None:
    """A thousand messages of 10 kB come in parts of at most 256 kB, in order, none twice."""
    lab.push(*(element(n, bytes(10_000) + b"%06d" % n) for n in range(1000)))
    claimed: list[bytes] = []
    trip = 0
    while lab.client.llen(lab.keys.ready):
        trip += 1
        part = lab.trip("a", trip, want=1000, in_hand=len(claimed))[ELEMENTS]
        assert len(part) > 20 or not lab.client.llen(lab.keys.ready)
        assert sum(map(len, part)) <= PART
        claimed += part
    assert [int(msgpack.unpackb(env.unpack(e).body)[-6:]) for e in claimed] == list(range(1000))


def test_huge_element_comes_alone(lab: Lab) -> None:
    """One message over the limit is claimed, with nothing beside it."""
    huge = element(1, bytes(3 * PART))
    lab.push(element(0), huge, element(2))
    assert numbers(lab.trip("a", 1, want=5)[ELEMENTS]) == [0]
    assert lab.trip("a", 2, want=5, in_hand=1)[ELEMENTS] == [huge]
    assert numbers(lab.trip("a", 3, want=5, in_hand=2)[ELEMENTS]) == [2]


def test_raw_element_too_large_to_be_sent_back_is_kept_unread(lab: Lab) -> None:
    """Near what the protocol can carry an ack would fail for ever: a dead letter, and the next one is claimed."""
    lab.client.rpush(lab.keys.ready, b"7")
    lab.client.eval("redis.call('RPUSH', KEYS[1], string.rep('x', 268435457))", 1, lab.keys.ready)
    [claimed] = lab.trip("a", 1, want=1)[9] or lab.trip("a", 2, want=1)[9]
    assert number_of(claimed) == 7
    [member] = lab.client.zrange(lab.keys.dead, 0, -1)
    lab.client.delete(lab.keys.dead)
    note, element = env.split_note(member)
    assert note["cause"] == "TOO_LARGE"
    assert len(element) > 268435457


def test_large_elements_behind_small_ones_are_not_read_in_vain(lab: Lab) -> None:
    """A small head does not make a trip read all that stands behind it: a few ms, not a second."""
    for _ in range(100):
        lab.push(bytes(1_000_000))
    lab.trip("a", 1)
    times = []
    for trip in (2, 3, 4):
        lab.client.rpush(lab.keys.ready, b"1")
        started = time.perf_counter()
        reply = lab.trip("a", trip, want=1000, in_hand=trip - 2)
        times.append(time.perf_counter() - started)
        assert len(reply[ELEMENTS]) == 1
    assert min(times) < 0.05


# -- suspects -----------------------------------------------------------------------------------------------


def suspect(number: int) -> bytes:
    return element(number, returns=1, lost=1)


def test_suspect_waits_for_empty_hands(lab: Lab) -> None:
    """In mode 'alone' nothing is claimed past a suspect while something is in hand."""
    lab.push(element(1), suspect(2), element(3))
    first = lab.trip("a", 1, want=3)
    assert (numbers(first[ELEMENTS]), first[SUSPECTS], first[OTHERS]) == ([1], 1, 0)
    second = lab.trip("a", 2, want=3, in_hand=1)
    assert (second[ELEMENTS], second[SUSPECTS]) == ([], 1)
    third = lab.trip("a", 3, want=3, in_hand=1, acks=[element(1)])
    assert (numbers(third[ELEMENTS]), third[SUSPECTS], third[OTHERS]) == ([2], 0, -1)
    assert numbers(lab.ready) == [3]


def test_suspects_are_declined_in_order(lab: Lab) -> None:
    """In mode 'decline' suspects stay at the head, as they were, and what is behind them is claimed."""
    lab.trip("b", 1)
    lab.push(suspect(1), element(2), suspect(3), suspect(4), element(5), element(6))
    reply = lab.trip("a", 1, want=2, mode="decline")
    assert (numbers(reply[ELEMENTS]), reply[SUSPECTS], reply[OTHERS]) == ([2, 5], 1, 1)
    assert lab.ready == [suspect(1), suspect(3), suspect(4), element(6)]


def test_suspect_beside_others(lab: Lab) -> None:
    """In mode 'beside' one suspect is taken beside what is in hand, and nothing beside it in that trip."""
    lab.push(element(1), suspect(2), suspect(3), element(4))
    lab.trip("a", 1, want=1)
    reply = lab.trip("a", 2, want=3, in_hand=1, mode="beside")
    assert numbers(reply[ELEMENTS]) == [2]
    assert lab.ready == [suspect(3), element(4)]


# -- later --------------------------------------------------------------------------------------------------


def test_due_messages_go_behind(lab: Lab) -> None:
    """What is due is promoted, soonest first, behind what waits already."""
    now = lab.now()
    lab.client.zadd(lab.keys.later, {element(n): now - 100 + n for n in (3, 2, 4)})
    lab.client.zadd(lab.keys.later, {element(9): now + 60_000})
    lab.push(element(1))
    reply = lab.trip("a", 1, want=2)
    assert numbers(reply[ELEMENTS]) == [1, 2]
    assert numbers(lab.ready) == [3, 4]
    assert numbers(lab.later) == [9]
    assert 59_000 < reply[DUE] <= 60_000


def test_promotion_is_bounded(lab: Lab) -> None:
    """No more than so many and so many bytes are promoted at once; then more is due at once."""
    now = lab.now()
    lab.client.zadd(lab.keys.later, {element(n): now - 1000 + n for n in range(250)})
    reply = lab.trip("a", 1)
    assert (numbers(lab.ready), reply[DUE]) == (list(range(100)), 0)
    lab.client.delete(lab.keys.ready, lab.keys.later)
    large = {element(n, bytes(100_000)): now - 1000 + n for n in range(5)}
    lab.client.zadd(lab.keys.later, {**large, element(9, bytes(2 * PART)): now - 2000})
    assert [lab.trip("a", n) and len(lab.ready) for n in (2, 3, 4, 5)] == [1, 3, 5, 6]
    assert len(lab.later) == 0


def test_a_retry_without_delay_is_due_at_once(lab: Lab) -> None:
    """A retry in no time comes back in the same trip, behind the others."""
    lab.push(element(1), element(2))
    lab.trip("a", 1, want=1)
    back = element(1, returns=1, failed=1)
    reply = lab.trip("a", 2, want=2, in_hand=1, settles=[("retry", element(1), back, 0)])
    assert reply[ELEMENTS] == [element(2), back]


def test_due_in_counts_the_leases_of_others(lab: Lab) -> None:
    """An idle consumer sleeps no longer than until somebody else's lease may end."""
    assert lab.trip("a", 1)[DUE] == -1
    lab.client.zadd(lab.keys.consumers, {"b": lab.now() + 5000})
    assert 4000 < lab.trip("a", 2)[DUE] <= 5001


# -- sweeping -----------------------------------------------------------------------------------------------


def test_one_consumer_a_second_sweeps(lab: Lab) -> None:
    """The duty to sweep is given to one consumer at a time: recent leases often, everything seldom."""
    assert lab.trip("a", 1)[SWEEP] == 2
    assert lab.trip("b", 1)[SWEEP] == 0
    lab.expire("c", ago=10)
    assert [lab.trip("a", 2)[SWEEP], lab.trip("b", 2)[SWEEP]] == [1, 0]
    lab.client.hset(lab.keys.stats, mapping={"sweep_at": 1})
    assert lab.trip("b", 3)[SWEEP] == 1
    lab.client.hset(lab.keys.stats, mapping={"sweep_at": 1, "full_sweep_at": 1})
    assert [lab.trip("a", 3)[SWEEP], lab.trip("b", 4)[SWEEP]] == [2, 1]


def test_its_own_lease_is_no_reason_to_sweep(lab: Lab) -> None:
    """Who was silent for longer than its lease, and was not reaped, renews it by that; others are looked for."""
    lab.trip("a", 1)
    for number, others, sweep in ((2, (), 0), (3, ("z",), 1), (4, ("A", "z"), 1)):
        lab.client.hset(lab.keys.stats, mapping={"sweep_at": 1})
        for name in others:
            lab.expire(name, ago=5)
        lab.expire("a", ago=10)
        assert lab.trip("a", number)[SWEEP] == sweep


def test_producers_need_no_trip(lab: Lab) -> None:
    """Delayed puts are claimed when due, without anybody else's help."""
    lab.put(element(1), due=ops.Due("at", lab.now() - 1))
    reply: Any = lab.trip("a", 1, want=1)
    assert numbers(reply[ELEMENTS]) == [1]


def test_equal_messages_that_are_retried_stay_two(lab: Lab) -> None:
    """Somebody has pushed an envelope twice, and a handler fails at both: one waits, one comes back at once."""
    e, back = element(1), element(1, returns=1, failed=1)
    lab.push(e, e)
    lab.trip("a", 1, want=2)
    again = ("retry", e, back, 60_000)
    assert lab.trip("a", 2, in_hand=2, settles=[again, again])[3] == []
    assert (lab.ready, lab.later, lab.doing("a")) == ([back], [back], [])


# -- types that nobody handles ------------------------------------------------------------------------------


def test_what_nobody_handles_waits(lab: Lab) -> None:
    """It goes into later, counted for itself; the ledger and the mark tell of one a minute, however many."""
    e = [element(n) for n in range(4)]
    back = [element(n, returns=1) for n in range(4)]
    lab.push(*e)
    lab.trip("a", 1, want=4)
    settles = [("unrouted", e[n], back[n], said) for n, said in enumerate(("60000 new", "60000 old", "60000"))]
    command = lab.trip_command("a", 2, in_hand=4, settles=[*settles, ("unrouted", element(9), back[3], "1 x")])
    reply = lab.reply(command)
    assert (reply[STATUS], reply[LATE], reply[ELEMENTS]) == (b"ok", [3], [])
    assert 50_000 < reply[DUE] <= 60_000
    later = lab.client.zrange(lab.keys.later, 0, -1, withscores=True)
    assert {member for member, _ in later} == set(back[:3])
    assert all(abs(due - reply[NOW] - 60_000) < 2 for _, due in later)
    assert lab.client.lrange(lab.keys.doing("a"), 0, -1) == [e[3]]
    assert lab.client.hmget(lab.keys.stats, "unrouted", "retry") == [b"3", None]
    told = [fields for _, fields in lab.client.xrange(lab.keys.events) if fields[b"event"] == b"unrouted"]
    assert [fields[b"detail"] for fields in told] == [b"60000 new"]
    assert lab.client.hget(lab.keys.stats, "no_handler") == b"%d new" % reply[NOW]
    assert lab.run(routing.unrouted(lab.keys)) == (reply[NOW], "new")
    assert lab.reply(command)[STATUS] == b"again"
    assert lab.client.zcard(lab.keys.later) == 3

    lab.client.hset(lab.keys.stats, "no_handler", b"%d new" % (reply[NOW] - 60_000))
    lab.trip("a", 3, in_hand=1, settles=[("unrouted", e[3], back[3], "5 an odd one")])
    assert lab.run(routing.unrouted(lab.keys)).type == "an odd one"
    assert lab.client.hget(lab.keys.stats, "unrouted") == b"4"
