"""Who waits is told by whatever script ends a message, only if its meta asks in earnest, and never for ever."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from reliq.core import awaiting, idempotency, ops, results, waiting
from reliq.core import envelope as env
from reliq.core.explain.looks import Found
from tests.lua.lab import Lab, element

CALLER = waiting.Caller("host:1", "me")


def asking(number: int, ms: Any = 60_000, **counters: int) -> bytes:
    """An element whose put wants its result, or says something of that kind."""
    plain = env.unpack(element(number))
    return env.pack(plain.id, plain.body, {"w": ms}, **counters)


def told(lab: Lab, e: bytes) -> Any:
    """What stands there for who waits, and that it has an end."""
    key = lab.keys.result(e[23:39])
    found = lab.list(key)
    assert len(found) <= 1
    assert not found or 0 < lab.client.pttl(key) <= 60_000
    return msgpack.unpackb(found[0]) if found else None


def cancelled(lab: Lab, e: bytes) -> None:
    """Put, and cancel where it waits."""
    lab.put(e)
    assert lab.run(waiting.cancel(lab.keys, Found("ready", len(e), e, position=0, length=1), CALLER)) == 1


@pytest.mark.parametrize("ms", [0, -5, 1e14, float("nan"), "60000", True, None, [1], 2**64 - 1])
def test_what_is_no_time(lab: Lab, ms: Any) -> None:
    """Anybody may have written the meta: nothing is kept, and nothing fails."""
    cancelled(lab, asking(1, ms))
    assert told(lab, asking(1, ms)) is None
    assert lab.ready == []


def test_the_time_may_be_a_fraction_or_in_the_way(lab: Lab) -> None:
    """Another type of value at the key gives way; a fraction of a ms is rounded."""
    e = asking(2, 59_999.5)
    lab.client.set(lab.keys.result(e[23:39]), "foreign")
    cancelled(lab, e)
    assert told(lab, e)["cause"] == "CANCELLED"


def test_who_waits_takes_nothing_away(lab: Lab) -> None:
    """BLMOVE from the list to itself leaves the element, and its end."""
    e = asking(3)
    cancelled(lab, e)
    for _ in range(3):
        assert lab.run(awaiting.wait(lab.keys, e[23:39], 1)) == lab.run(awaiting.look(lab.keys, e[23:39]))
    assert told(lab, e)["error"] == "cancelled by host:1 (me)"


def test_an_answer_goes_with_its_settle(lab: Lab) -> None:
    """Not with one that came too late, nor with one by which it stays; of a dead letter it is the note."""
    done, late, back, dead = (asking(n) for n in range(4, 8))
    lab.push(done, back, dead)
    lab.trip("a", 1, want=3)
    keep = [
        ("keep", e[23:39].hex(), f"60000 {lab.keys.result(e[23:39])}", results.answer(7))
        for e in (done, late, back, dead)
    ]
    note = {"cause": "ATTEMPTS", "error": "no"}
    settles: list[Any] = [
        ("retry", back, asking(6, failed=1), 60_000),
        ("bury", dead, env.join_note(note, asking(7, failed=1)), "ATTEMPTS"),
        *keep,
    ]
    also = [lab.keys.result(e[23:39]) for e in (done, late, back, dead)]
    reply = lab.trip("a", 2, in_hand=3, acks=[done, late], settles=settles, also=also)
    assert reply[3] == [1]
    assert [told(lab, e) for e in (done, late, back, dead)] == [{"value": 7}, None, None, note]


def test_a_report_of_who_has_it_in_hand(lab: Lab) -> None:
    """And of nobody else."""
    here, gone = asking(8), asking(9)
    lab.push(here)
    lab.trip("a", 1, want=1)
    reports = [("report", e, f"60000 {lab.keys.progress(e[23:39])}", results.report(50)) for e in (here, gone)]
    lab.trip("a", 2, in_hand=1, settles=reports, also=[lab.keys.progress(e[23:39]) for e in (here, gone)])
    assert [lab.run(results.progress(lab.keys, e[23:39])) for e in (here, gone)] == [50, None]
    assert lab.run(ops.reap(lab.keys, "a", dead=True, max_losses=1)).buried == 1
    assert told(lab, here)["cause"] == "POISON"


def test_a_key_is_in_one_hand(lab: Lab) -> None:
    """Whoever enters first has it, as long as the element stands in that consumer's list; nobody else locks it."""
    marker = idempotency.marker(lab.keys, "", "k")
    first, second = element(10), element(11)
    lab.push(first)
    lab.trip("a", 1, want=1)
    lab.push(second)
    lab.trip("b", 1, want=1)

    def enter(consumer: str, e: bytes) -> str:
        found: idempotency.Entered = lab.run(idempotency.enter(lab.keys, consumer, e, marker, 60))
        return found.how

    assert [enter("a", first), enter("a", first), enter("b", second)] == ["", "", "busy"]
    assert enter("b", first) == "lost"
    lab.trip("a", 2, in_hand=1, settles=[("retry", first, element(10, failed=1), 60_000)])
    assert [enter("b", second), enter("a", first)] == ["", "lost"]
    mark = (
        "mark",
        second[23:39].hex(),
        f"60000 {marker}",
        idempotency.done(second[23:39].hex(), results.answer(1)),
    )
    lab.trip("b", 2, in_hand=1, acks=[second], settles=[mark], also=[marker])
    lab.push(element(12))
    lab.trip("a", 3, want=1)
    found = lab.run(idempotency.enter(lab.keys, "a", element(12), marker, 60))
    assert (found.how, found.id, found.value) == ("done", second[23:39].hex(), 1)
    assert 0 < lab.client.pttl(marker) <= 60_000


@pytest.mark.parametrize("found", [b"", b"x", b"p", b"p" + b"0" * 32, b"p" + b"0" * 32 + b"\n", b"\xff" * 50])
def test_a_marker_that_nobody_can_read_locks_nothing(lab: Lab, found: bytes) -> None:
    """It is taken over."""
    marker = idempotency.marker(lab.keys, "", "k")
    lab.push(element(13))
    lab.trip("a", 1, want=1)
    lab.client.set(marker, found)
    assert lab.run(idempotency.enter(lab.keys, "a", element(13), marker, 60)).how == ""
