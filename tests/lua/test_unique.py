"""Unique messages: put.lua, begin.lua, and that whatever ends a message frees what it holds."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from reliq.core import beside, exclusive, ops, unique, waiting
from reliq.core import envelope as env
from reliq.core.beside import Beside
from reliq.core.fsck.finding import Context, Spot, Unreadable
from reliq.core.message import Message
from reliq.core.purge import purge_g
from reliq.core.unique import Claim, Placed, Unique
from reliq.core.waiting import Caller
from reliq.errors import Unavailable
from tests.lua.lab import Consumer, Lab
from tests.lua.test_dead import flow

KEY = "invoice:42"
DONE, STARTED = Unique(KEY), Unique(KEY, until="started")
NEWER = Unique(KEY, on_conflict="replace")


def id_of(number: int) -> bytes:
    return env.uuid7(1_700_000_000_000, number.to_bytes(10, "big"))


def hex_of(number: int) -> str:
    return id_of(number).hex()


def make(number: int, only: Unique = DONE, **counters: int) -> bytes:
    """The element of a message that is unique."""
    return env.pack(id_of(number), msgpack.packb(number), only.meta, **counters)


def put(lab: Lab, number: int, only: Unique = DONE, **options: Any) -> Placed:
    """Put such a message."""
    found: Any = lab.put(make(number, only), only=only.only(lab.keys, id_of(number)), **options)
    assert isinstance(found, Placed)
    return found


def begin(lab: Lab, number: int, only: Unique = DONE) -> bool:
    """Have a message begun."""
    claim = unique.claim_of(only.meta)
    assert claim is not None
    [may] = lab.run(unique.begin(lab.keys, "a", [(id_of(number), claim)]))
    return bool(may)


def free(number: int, lab: Lab) -> tuple[str, str, str, str]:
    """What goes with the settle that ends it."""
    return "free", hex_of(number), KEY, lab.keys.uniques


# -- put ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("due", [ops.NOW, ops.Due("in", 60_000), ops.Due("at", 4_000_000_000_000)])
@pytest.mark.parametrize("only", [DONE, STARTED])
def test_one_per_key(lab: Lab, due: ops.Due, only: Unique) -> None:
    """The second is told of the first, and nothing is put; another key is another matter."""
    assert put(lab, 1, only, due=due) == Placed()
    before = lab.snapshot()
    assert put(lab, 2, only, due=due) == Placed(kept=hex_of(1))
    assert lab.snapshot() == before
    other = Unique("other")
    assert lab.put(make(3, other), only=other.only(lab.keys, id_of(3))) == Placed()  # type: ignore[comparison-overlap]
    assert lab.uniques == {"+" + KEY: hex_of(1), "+other": hex_of(3)}
    assert len(lab.ready) + len(lab.later) == 2


def test_a_repeat_is_told_the_same(lab: Lab) -> None:
    """A put that was accepted is not in its own way; one that was not asks again."""
    options: dict[str, Any] = {"producer": b"p", "sequence": 7}
    assert put(lab, 1, **options) == put(lab, 1, **options) == Placed()
    options = {"producer": b"q", "sequence": 1}
    assert put(lab, 2, **options) == put(lab, 2, **options) == Placed(kept=hex_of(1))
    lab.trip("a", 1, want=1)
    lab.trip("a", 2, in_hand=1, acks=[make(1)], settles=[free(1, lab)])
    assert put(lab, 2, **options) == Placed()
    assert put(lab, 2, **options) == Placed()
    assert lab.ready == [make(2)]


def test_an_id_comes_first(lab: Lab) -> None:
    """Of a put with an id of its own a second one is a repeat, whoever has the key by then."""
    marker = lab.keys.marker(id_of(1))
    assert put(lab, 1, marker=marker) == Placed()
    lab.client.delete(lab.keys.uniques)
    assert put(lab, 1, marker=marker) == Placed()
    assert (lab.ready, lab.uniques) == ([make(1)], {})
    assert put(lab, 2, marker=lab.keys.marker(id_of(2))) == Placed()
    assert put(lab, 3, marker=lab.keys.marker(id_of(3))) == Placed(kept=hex_of(2))
    assert not lab.client.exists(lab.keys.marker(id_of(3)))


def test_replaced(lab: Lab) -> None:
    """The newer one is put, and has the key; the older one is not to be begun any more, the newest is."""
    assert put(lab, 1) == Placed()
    assert put(lab, 2, NEWER) == Placed(replaced=hex_of(1))
    assert put(lab, 3, NEWER) == Placed(replaced=hex_of(2))
    assert put(lab, 4) == Placed(kept=hex_of(3))
    assert lab.ready == [make(1), make(2), make(3)]
    assert [begin(lab, n) for n in (1, 2, 3, 1)] == [False, False, True, False]
    assert ("replace", hex_of(1), hex_of(2)) in lab.events()
    for n in (1, 2, 3):
        lab.trip("a", 2 * n - 1, want=1)
        lab.trip("a", 2 * n, in_hand=1, acks=[make(n)], settles=[free(n, lab)])
    assert lab.uniques == {}


def test_for_a_time(lab: Lab) -> None:
    """Whatever becomes of the first one, and not longer than that."""
    once = Unique(KEY, seconds=60)
    key = once.only(lab.keys, id_of(1)).lock
    assert put(lab, 1, once) == Placed()
    assert lab.client.get(key).decode() == hex_of(1)
    lab.trip("a", 1, want=1)
    lab.trip("a", 2, in_hand=1, acks=[make(1, once)])
    assert put(lab, 2, once) == Placed(kept=hex_of(1))
    assert 0 < lab.client.pttl(key) <= 60_000
    lab.client.pexpire(key, 1000)
    assert put(lab, 3, Unique(KEY, seconds=60, on_conflict="extend")) == Placed(kept=hex_of(1))
    assert lab.client.pttl(key) > 50_000
    lab.client.delete(key)
    assert put(lab, 4, once) == Placed()
    assert lab.uniques == {}


@pytest.mark.parametrize("accepted", [True, False])
def test_with_a_body_beside(lab: Lab, accepted: bool) -> None:
    """It is made to last with its message, or goes if there is none."""
    if not accepted:
        put(lab, 1)
    name, body = id_of(9), msgpack.packb(bytes(100_000))
    element = env.pack(id_of(2), b"", {"b": beside.ticket(name, body), **DONE.meta})
    large = beside.checked(element, lab.keys.body(name), body)
    found = lab.put(large, only=DONE.only(lab.keys, id_of(2)))
    assert found == (Placed() if accepted else Placed(kept=hex_of(1)))  # type: ignore[comparison-overlap]
    assert list(lab.bodies) == ([large.key] if accepted else [])
    assert lab.client.exists(large.key) == accepted


def test_with_a_body_that_is_gone(lab: Lab) -> None:
    """Nothing is put, and nothing is held."""
    name = id_of(9)
    large = Beside(env.pack(id_of(2), b"", {"b": beside.ticket(name, b"x"), **DONE.meta}))
    large.key, large.body = lab.keys.body(name), b"x"
    with pytest.raises(Unavailable):
        lab.run(ops.put(lab.keys, b"p", 1, [large], only=DONE.only(lab.keys, id_of(2))))
    assert (lab.uniques, lab.ready) == ({}, [])


# -- what ends a message frees what it holds -----------------------------------------------------------------


def test_begun(lab: Lab) -> None:
    """What is held until the start is free from then on, once; what is held until the end is not."""
    put(lab, 1, STARTED)
    assert begin(lab, 1, STARTED)
    assert lab.uniques == {}
    put(lab, 2, STARTED)
    assert begin(lab, 1, STARTED)  # a repeat, or the second attempt
    assert lab.uniques == {"+" + KEY: hex_of(2)}
    assert begin(lab, 2, DONE)
    assert lab.uniques == {"+" + KEY: hex_of(2)}


def test_acked(lab: Lab) -> None:
    """By the script that removes it; a repeat of that trip, and a late one, free nothing more."""
    put(lab, 1)
    lab.trip("a", 1, want=1)
    assert lab.uniques
    ack = {"in_hand": 1, "acks": [make(1)], "settles": [free(1, lab)]}
    lab.trip("a", 2, **ack)
    assert lab.uniques == {}
    put(lab, 1)
    lab.trip("a", 2, **ack)
    lab.trip("a", 3, **ack)
    assert lab.uniques == {"+" + KEY: hex_of(1)}


def test_of_another(lab: Lab) -> None:
    """The end of one that was replaced leaves the key to whoever has it."""
    put(lab, 1)
    put(lab, 2, NEWER)
    lab.trip("a", 1, want=1)
    lab.trip("a", 2, in_hand=1, acks=[make(1)], settles=[free(1, lab)])
    assert lab.uniques == {"+" + KEY: hex_of(2)}


@pytest.mark.parametrize("late", [False, True])
def test_buried(lab: Lab, late: bool) -> None:
    """As a dead letter it is in nobody's way; but not if it was taken from us."""
    put(lab, 1)
    lab.trip("a", 1, want=1)
    if late:
        lab.client.delete(lab.keys.doing("a"))
    bury = ("bury", make(1), env.join_note({"id": hex_of(1), "cause": "X"}, make(1)), "X")
    lab.trip("a", 2, in_hand=1, settles=[bury, free(1, lab)])
    assert lab.uniques == ({"+" + KEY: hex_of(1)} if late else {})


@pytest.mark.parametrize("verb", ["retry", "release"])
def test_not_ended(lab: Lab, verb: str) -> None:
    """It comes back, and has its key still."""
    put(lab, 1)
    consumer = Consumer(lab, "a")
    consumer.trip()
    [message] = lent(consumer)
    settle = consumer.state.retry(message, 60, "no") if verb == "retry" else consumer.state.release(message)
    consumer.trip(0, settle)
    assert lab.uniques == {"+" + KEY: hex_of(1)}


def test_poison(lab: Lab) -> None:
    """A reap that dead-letters it frees its key; one that returns it does not."""
    put(lab, 1)
    lab.trip("a", 1, want=1)
    assert lab.reap("a", max_losses=2).returned == 1
    assert lab.uniques
    lab.trip("b", 1, want=1)
    assert lab.reap("b", max_losses=2).buried == 1
    assert lab.uniques == {}


def test_poison_of_one_that_was_replaced(lab: Lab) -> None:
    """It has nothing any more; the newer one keeps its key."""
    put(lab, 1)
    put(lab, 2, NEWER)
    lab.trip("a", 1, want=1)
    assert lab.reap("a", max_losses=1).buried == 1
    assert lab.uniques == {"+" + KEY: hex_of(2)}


def test_poison_without_uniques(lab: Lab) -> None:
    """Forged metas, and a key that holds something else, stop no reap."""
    forged: list[Any] = [{"u": 1}, {"u": [1]}, {"u": []}, {"u": {"a": 1}}, {"u": [KEY, 0]}, {}]
    lab.push(*(env.pack(id_of(n), b"\x01", meta) for n, meta in enumerate(forged)))
    lab.client.set(lab.keys.uniques, "foreign")
    lab.trip("a", 1, want=10)
    assert lab.reap("a", max_losses=1).buried == len(forged)


def test_found_unreadable(lab: Lab) -> None:
    """What is dead-lettered from outside because nobody can read it."""
    put(lab, 1)
    spot = Spot(lab.keys.ready, "ready", 0)
    found = Unreadable(Context(lab.keys, "me"), lab.keys.ready, spot, make(1), "UNDECODABLE", "no", 0)
    assert lab.run(next(found.repair_g())) == 1
    assert (lab.uniques, len(lab.dead)) == ({}, 1)


@pytest.mark.parametrize("due", [ops.NOW, ops.Due("in", 60_000)])
def test_cancelled(lab: Lab, due: ops.Due) -> None:
    """By the step that takes it out; what was replaced takes nothing along."""
    put(lab, 1, due=due)
    put(lab, 2, NEWER, due=due)
    assert flow(lab, waiting.cancel_g(lab.keys, hex_of(1), waiting.Caller("me")))
    assert lab.uniques == {"+" + KEY: hex_of(2)}
    assert flow(lab, waiting.cancel_g(lab.keys, hex_of(2), waiting.Caller("me")))
    assert lab.uniques == {}


def test_the_exclusive_mode(lab: Lab) -> None:
    """An acked batch frees what its messages hold, and a replaced one is not handed over; nor is it buried."""
    put(lab, 1)
    put(lab, 2, NEWER)
    other = Unique("other", until="started")
    lab.put(make(3, other), only=other.only(lab.keys, id_of(3)))
    hold = seized(lab)
    found = hold.answered(lab.reply(hold.read(10)), 0.0)
    assert isinstance(found, exclusive.Found)
    taken = found.taken
    assert [item.id for item in taken.unbegun] == [hex_of(n) for n in (1, 2, 3)]
    items = taken.unbegun
    hold.begun(taken, items, lab.run(hold.begin(items)))
    assert [item.id for item in taken.items] == [hex_of(2), hex_of(3)]
    assert "+other" not in lab.uniques
    done = hold.answered(lab.reply(hold.settle(taken, exclusive.ACK, exclusive.Doubt())), 0.0)
    assert isinstance(done, exclusive.Settled)
    assert done.done
    assert (lab.uniques, lab.ready, lab.dead) == ({}, [], [])


def test_poison_in_the_exclusive_mode(lab: Lab) -> None:
    """A holder that died with it alone, as often as the limit says."""
    put(lab, 1)
    hold = seized(lab)
    lab.reply(hold.read(1))
    lab.expire(hold.name)
    lab.client.hset(lab.keys.stats, "server_since", 0)
    lab.run(exclusive.end(lab.keys, lease=15, max_losses=1, server=""))
    assert (lab.uniques, len(lab.dead)) == ({}, 1)


def seized(lab: Lab) -> exclusive.Hold:
    """A holder of the queue."""
    from reliq.core.codec import CODECS

    hold = exclusive.Hold(
        lab.keys, "h", lease=15.0, codec=CODECS["msgpack"], raw_codec=CODECS["json"], who="w", max_losses=1
    )
    flow = hold.seize_g("", believed=True)
    command = next(flow)
    while True:
        try:
            command = flow.send(lab.run(command))
        except StopIteration as end:
            hold.granted(end.value, 0.0)
            return hold


# -- the consumer -------------------------------------------------------------------------------------------


def lent(consumer: Consumer) -> list[Message]:
    """What may be handed over once all preparations are made."""
    found: list[Message] = []
    while (due := consumer.state.preparation) is not None:
        found += due.done(consumer.lab.run(due.command))
    return found


def test_a_consumer_has_it_begun(lab: Lab) -> None:
    """Nothing unique is handed over before; what was replaced is acked unseen, with its body, and all is free."""
    put(lab, 1, STARTED)
    put(lab, 2, Unique(KEY, until="started", on_conflict="replace"))
    lab.put(env.pack(id_of(3), b"\x03"))
    consumer = Consumer(lab, "a")
    answer = consumer.trip()
    assert answer is not None
    assert [m.body for m in answer.messages] == [3]
    assert consumer.state.preparing
    [message] = lent(consumer)
    assert message.body == 2
    assert not consumer.state.preparing
    assert lab.uniques == {"-" + hex_of(1): hex_of(2)}
    answer = consumer.trip(0, consumer.state.ack(message), lose=True) or consumer.trip(0)
    assert answer is not None
    assert lab.uniques == {}
    assert not consumer.state.uniques
    assert len(lab.doing("a")) == 1


def test_a_body_beside_comes_after(lab: Lab) -> None:
    """First whether it may be handed over, then its body."""
    name, body = id_of(9), msgpack.packb("x" * 100)
    element = env.pack(id_of(1), b"", {"b": beside.ticket(name, body), **DONE.meta})
    lab.put(beside.checked(element, lab.keys.body(name), body), only=DONE.only(lab.keys, id_of(1)))
    consumer = Consumer(lab, "a")
    consumer.trip()
    [message] = lent(consumer)
    assert message.body == "x" * 100
    consumer.trip(0, consumer.state.ack(message))
    assert (lab.uniques, lab.bodies, lab.doing("a")) == ({}, {}, [])


def test_unreadable_bodies_are_buried_and_free(lab: Lab) -> None:
    """What cannot be decoded never gets as far as being begun."""
    broken = env.pack(id_of(1), b"\xc1", DONE.meta)
    lab.put(broken, only=DONE.only(lab.keys, id_of(1)))
    consumer = Consumer(lab, "a")
    consumer.trip()
    consumer.trip(0)
    assert (len(lab.dead), lab.uniques) == (1, {})


def test_a_lost_one_is_forgotten(lab: Lab) -> None:
    """A message that was reaped from us while it waited to be begun is not handed over."""
    put(lab, 1)
    consumer = Consumer(lab, "a")
    consumer.trip()
    lab.client.delete(lab.keys.doing("a"))
    consumer.trip(0)
    assert lent(consumer) == []
    assert not consumer.state.preparing
    assert lab.uniques == {"+" + KEY: hex_of(1)}


# -- words --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"key": ""}, "1 to 500 characters"),
        ({"key": "x" * 501}, "1 to 500 characters"),
        ({"key": 5}, "1 to 500 characters"),
        ({"key": "\ud800"}, "UTF-8"),
        ({"key": "k", "until": "done", "seconds": 5}, "not both"),
        ({"key": "k", "until": "never"}, "'done' or 'started'"),
        ({"key": "k", "seconds": 0}, "0.001 or more"),
        ({"key": "k", "seconds": "5"}, "a number of seconds"),
        ({"key": "k", "seconds": True}, "a number of seconds"),
        ({"key": "k", "on_conflict": "extend"}, "'skip' or 'replace'"),
        ({"key": "k", "seconds": 5, "on_conflict": "replace"}, "'skip' or 'extend'"),
    ],
)
def test_wrong_words(said: dict[str, Any], words: str) -> None:
    """Each says what would be right."""
    with pytest.raises(ValueError, match=words):
        Unique(**said)


@pytest.mark.parametrize("found", [None, 1, [], ["k"], [1, 0], {"k": 1}])
def test_no_claim(found: Any) -> None:
    """Metas of others, that say something else by the same word."""
    assert unique.claim_of({"u": found}) is None
    assert unique.claim_of({"u": ["k", 1]}) == Claim("k", True)


def test_replaced_by_itself(lab: Lab) -> None:
    """An id of the user's own, put again when its marker is over: it is not in its own way, nor is a copy that was
    replaced long ago."""
    assert put(lab, 1, NEWER) == Placed()
    assert put(lab, 1, NEWER) == Placed()
    assert (begin(lab, 1), lab.uniques) == (True, {"+" + KEY: hex_of(1)})
    assert put(lab, 2, NEWER) == Placed(replaced=hex_of(1))
    assert put(lab, 1, NEWER) == Placed(replaced=hex_of(2))
    assert [begin(lab, n) for n in (1, 2)] == [True, False]


def test_copies_that_end_at_once(lab: Lab) -> None:
    """Two byte-identical ones whose time is over are dead letters, and their key is free."""
    e = env.pack(id_of(1), msgpack.packb(1), {**DONE.meta, "d": lab.now() - 1})
    assert lab.put(e, only=DONE.only(lab.keys, id_of(1)))
    lab.push(e)
    consumer = Consumer(lab, "a")
    consumer.trip(10)
    consumer.trip(0)
    assert (lab.doing("a"), len(lab.dead), lab.uniques) == ([], 2, {})


@pytest.mark.parametrize("how", ["poison", "purge"])
def test_one_with_its_body_beside_the_list_frees_its_key(lab: Lab, how: str) -> None:
    """Its ticket, which stands first in the meta, is no reason not to see the key, whatever ends it."""
    body, name = msgpack.packb("x" * 2000), bytes(16)
    element = env.pack(id_of(1), b"", {"b": beside.ticket(name, body), **DONE.meta})
    assert lab.put(beside.checked(element, lab.keys.body(name), body), only=DONE.only(lab.keys, id_of(1)))
    assert lab.uniques == {"+" + KEY: hex_of(1)}
    if how == "poison":
        lab.trip("a", 1, want=1)
        lab.reap("a", max_losses=1)
        assert len(lab.dead) == 1
    else:
        assert flow(lab, purge_g(lab.keys, ["ready"], Caller("host:1"), "token")) == 1
    assert lab.uniques == {}
