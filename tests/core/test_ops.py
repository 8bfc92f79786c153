"""Single operations say exactly what goes over the wire, and read every reply that Redis gives."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reliq import defaults
from reliq.core import beside, ops, reaping, scripts
from reliq.core.command import Command, Flow, bulk
from reliq.core.keys import Keys
from reliq.errors import Unavailable, WrongKeyType

K = Keys("q")


@given(st.lists(st.integers(0, 2 * defaults.SCRIPT_BYTES), max_size=30))
def test_chunks_keep_order_and_bounds(sizes: list[int]) -> None:
    """Chunks are the elements in order, none empty, each within the limits unless it is one alone."""
    elements = [bytes(size) for size in sizes]
    parts = list(ops.chunks(elements))
    assert [e for part in parts for e in part] == elements
    for part in parts:
        assert len(part) == 1 or sum(map(len, part)) <= defaults.SCRIPT_BYTES
        assert part


def test_chunks_bound_the_number() -> None:
    """Small elements are bounded by their number, and chunks are as full as the limits let them be."""
    many = [b"x"] * (2 * defaults.SCRIPT_ELEMENTS + 1)
    assert [len(part) for part in ops.chunks(many)] == [defaults.SCRIPT_ELEMENTS] * 2 + [1]
    half = bytes(defaults.SCRIPT_BYTES // 2)
    assert [len(part) for part in ops.chunks([half, half, b"x", half])] == [2, 2]
    assert list(ops.chunks([])) == []


LARGE = beside.checked(b"e", "key", b"the body")


@given(st.lists(st.booleans(), max_size=12))
def test_large_bodies_go_alone(larges: list[bool]) -> None:
    """Whatever stands before or behind them; the order is kept."""
    elements = [LARGE if is_large else b"x" for is_large in larges]
    parts = list(ops.chunks(elements))
    assert [e for part in parts for e in part] == elements
    assert all(len(part) == 1 for part in parts if LARGE in part)
    assert len(parts) == sum(larges) + sum(a != b and not b for a, b in pairwise([True, *larges]))


def test_a_large_body_is_brought_first_and_is_not_copied() -> None:
    """Its key is declared by the put, behind the marker if there is one; the pieces are what the words are."""
    for marker in ("", "marker"):
        command = ops.put(K, b"p", 7, [LARGE], ops.NOW, marker)
        behind = (*([marker, K.results + "marker"] if marker else []), "key")
        assert command.keys == (K.ready, K.producers, K.later, K.consumers, K.traces, *behind)
        assert command.args[-6:] == (1, "", "", "", "", b"e")
    brought = beside.bring(LARGE, "q")
    assert (brought.keys, brought.args) == (("key",), (b"the body", "PX", 3_600_000, "NX"))
    assert brought.idempotent
    assert isinstance(brought.packed, tuple)
    assert brought.packed[1] is LARGE.body
    words = brought.words()
    assert b"".join(brought.packed) == b"*%d\r\n%b" % (len(words), b"".join(map(bulk, words)))


def test_a_put_whose_body_is_gone_is_refused() -> None:
    """Certainly not in."""
    command = ops.put(K, b"p", 7, [LARGE])
    assert command.read(1) is True
    with pytest.raises(Unavailable, match="nothing was put"):
        command.read(-1)
    with pytest.raises(Unavailable, match="nothing was put"):
        ops.put(K, b"p", 7, [LARGE], confirm=ops.Confirm(1, False, 100)).read([-1, 0])


def test_words() -> None:
    """A script goes by its digest and, if the server does not know it, by its source; a verb as it is."""
    command = ops.put(K, b"p", 7, [b"e"], ops.Due("in", 500), "marker")
    words, source = command.words(), command.source_words()
    assert words[:3] == ("EVALSHA", scripts.put.sha, 7)
    assert source[:3] == ("EVAL", scripts.put.source, 7)
    assert words[3:] == source[3:]
    behind = (K.ready, K.producers, K.later, K.consumers, K.traces, "marker", K.results + "marker")
    assert words[3:10] == behind
    assert words[10:] == (b"p", 7, "in", 500, 3600000, "", "", "", 0, "", "", "", "", b"e")
    assert ops.put(K, b"p", 7, [b"e"]).words()[2:] == (2, K.ready, K.producers, b"p", 7, b"e")
    assert ops.unblock(5).words() == ("CLIENT", "UNBLOCK", 5, "TIMEOUT")
    assert ops.length("k").words() == ("LLEN", "k")


def test_a_series_packs_what_put_says() -> None:
    """A put of one element for now, packed beforehand: the same command, and the same words on the wire."""
    producer, element = b"\x00\r\n$5", b"\xff\r\n" * 100
    series = ops.Series(K, producer)
    for sequence in (1, 12_345):
        command, plain = series.put(sequence, element), ops.put(K, producer, sequence, [element])
        assert command._replace(packed=b"") == plain
        words = [word if isinstance(word, bytes) else str(word).encode() for word in plain.words()]
        wire = b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)
        assert command.packed == b"*%d\r\n" % len(words) + wire


def test_only_repeatable_commands_are_idempotent() -> None:
    """BLMOVE must never be sent again by itself; what only reads or what the server recognises may be."""
    assert not ops.bell(K, "c", 5).idempotent
    for command in (
        *(ops.put(K, b"p", 1, [b"e"]), ops.leave(K, "c", bell_ended=True), ops.renew(K, "c", 15)),
        *(ops.reap(K, "c"), ops.consumers(K), ops.server_time()),
    ):
        assert command.idempotent


@pytest.mark.parametrize(
    ("command", "reply", "parsed"),
    [
        (ops.put(K, b"p", 1, [b"e"]), 1, True),
        (ops.put(K, b"p", 1, [b"e"]), 0, False),
        (ops.leave(K, "c", bell_ended=True), 1, True),
        (ops.leave(K, "c", bell_ended=False), 0, False),
        (ops.renew(K, "c", 15), 0, False),
        (ops.expired(K, 0, 10), [1700, b"a", b"b"], (1700, ["a", "b"])),
        (ops.reap(K, "c"), [b"reaped", 3, 1, 1], ops.Reaped("reaped", 3, 1, True)),
        (ops.sweep_producers(K), 101, True),
        (ops.sweep_producers(K), 100, False),
        (
            ops.scan_lists(K, 0),
            [b"7", [K.inbox("a").encode(), K.doing("a").encode(), b"\xff", K.doing("b").encode()]],
            (7, ["a", "b"]),
        ),
        (ops.consumers(K), [b"a", b"1700.0", b"b", b"1.7e3"], [("a", 1700), ("b", 1700)]),
        (ops.session(K, "a"), [b"me\xff", b"3", None, None, None, None], {"who": "me\ufffd", "lease": "3"}),
        (ops.server_time(), [b"1700", b"999999"], 1700999),
        (ops.known_queues("p"), [], []),
        (
            ops.known_queues("p"),
            [b"b", b'{"key": "k", "codec": "json"}', b"a", b"{}", b"bad", b"x", b"bad2", b"[]"],
            [ops.Known("a"), ops.Known("b", "k", "json")],
        ),
        (ops.known_queues("p"), {b"a": b"{}"}, [ops.Known("a")]),
    ],
)
def test_replies_are_read(command: Command, reply: Any, parsed: Any) -> None:
    """Each reply becomes what the docstring promises; entries that nobody can read are skipped."""
    assert command.read(reply) == parsed


def test_register_is_read_back() -> None:
    """What the first put writes into the index is what commands find there; without a schema it is 1.0."""
    keys = Keys("orders", key="{shop}o")
    name, head, major, minor = ops.register(keys, "json", 7.5, 2).args
    for schema in ("", f', "schema": "{major}.{minor}"'):
        [found] = ops.known_queues("reliq").read([str(name).encode(), f"{head}{schema}}}".encode()])
        assert found == ("orders", "{shop}o", "json", 7.5, 2, "1.0")


def test_script_sources_are_whole() -> None:
    """Every .lua file is loaded, opens with its purpose, and shared functions stand before their users."""
    for script in (scripts.put, scripts.leave, scripts.renew, scripts.expired, scripts.sweep_producers):
        assert script.source.startswith(f"-- {script.name}: ")
    for script in (scripts.trip, scripts.reap):
        assert script.source.index("local function whole") < script.source.index(f"-- {script.name}: ")


def drive(flow: Flow[Any], replies: Sequence[Any]) -> Any:
    """Run a flow on given replies; an exception among them is thrown in, as a driver does."""
    waiting = iter(replies)
    try:
        next(flow)
        while True:
            reply = next(waiting)
            flow.throw(reply) if isinstance(reply, Exception) else flow.send(reply)
    except StopIteration as stop:
        assert next(waiting, None) is None
        return stop.value


def test_one_bad_consumer_stops_no_reap() -> None:
    """An error of one consumer, at its first call or a later one, is reported; the others are reaped."""
    flow = reaping.reap_expired_g(K, lease=15, server="", max_losses=3, patience=reaping.Patience(15, lambda: 0.0))
    bad = WrongKeyType("no list")
    first = [bad, ops.Reaped("reaped", 1000, 0, True), ops.Reaped("reaped", 5, 1, False)]
    report = drive(flow, [(1700, ["a", "b", "c"]), first, WrongKeyType("now it is"), ])  # fmt: skip
    assert report.errors == ["a: no list", "b: now it is"]
    assert (report.returned, report.buried, report.consumers) == (1005, 1, ["b", "c"])


def test_no_lease_is_believed_to_be_over_for_one_lease_after_redis_was_silent() -> None:
    """An answer that took longer than half a lease, or the first after a failure: nobody could renew meanwhile."""
    now = [100.0]
    patience = reaping.Patience(10, lambda: now[0])

    def answered_after(seconds: float) -> bool:
        patience.ask()
        now[0] += seconds
        return patience.holds(round(1000 * now[0]))

    assert not answered_after(4.9)
    assert answered_after(5.1)
    assert answered_after(4.0)
    now[0] += 20
    assert not answered_after(0.1)
    patience.failed()
    assert answered_after(0.1)
    now[0] += 10
    assert not answered_after(0.1)


def test_no_lease_is_believed_to_be_over_for_one_lease_after_the_servers_clock_has_jumped() -> None:
    """All leases look over then, or none."""
    now = [100.0]
    patience = reaping.Patience(10, lambda: now[0])
    patience.ask()
    assert not patience.holds(1_000_000)
    assert not patience.holds(1_004_000)
    assert patience.holds(4_604_000)
    now[0] += 10
    patience.ask()
    assert not patience.holds(4_614_000)


def test_who_asks_for_expired_leases_asks_once() -> None:
    """A try that failed is news to the reaper, not to be repeated under its feet: nobody could renew meanwhile."""
    assert not ops.expired(K, 0, 10).idempotent


def test_what_a_doubted_answer_named_is_reported_as_waiting() -> None:
    """Not reaped, and not asked for more."""
    patience = reaping.Patience(10, lambda: 0.0)
    patience.failed()
    report = drive(
        reaping.reap_expired_g(K, lease=10, server="", max_losses=3, patience=patience), [(1700, ["a", "b"])]
    )
    assert report.waiting == ["a", "b"]
    assert report.returned == 0


def test_reap_goes_on_until_nothing_is_left() -> None:
    """A bounded call that leaves a rest is followed by the next."""
    flow = reaping.reap_dead_g(K, "a", max_losses=3, started=None)
    rest = [ops.Reaped("reaped", 1000, 0, True)] * 3 + [ops.Reaped("reaped", 1, 1, False)]
    report = drive(flow, rest)
    assert (report.returned, report.buried, report.consumers) == (3001, 1, ["a"])
    assert str(report).startswith("queue q: 3001 back to ready, 1 dead-lettered as POISON")
