"""Which messages are traced, and what is written down of them."""

from __future__ import annotations

import pytest

import reliq
from reliq.core import ops, trace
from reliq.core.envelope import pack
from reliq.core.keys import Keys
from reliq.core.message import RETRY
from reliq.identity import Ids
from tests.core.test_consumer import KEYS, Pair, element


@pytest.mark.parametrize("share", [0.01, 0.5])
@pytest.mark.parametrize("many", [True, False])
def test_a_share_is_traced(share: float, many: bool) -> None:
    """About so many, also of ids that were made in one go and differ in their last bits only."""
    ids = Ids().many(100_000) if many else [Ids().one() for _ in range(100_000)]
    traced = sum(trace.sampled(id, share) for id in ids)
    assert traced == pytest.approx(share * len(ids), rel=0.15)


def test_all_or_none() -> None:
    """The ends of the range."""
    ids = [bytes(16), b"\xff" * 16, *Ids().many(1000)]
    assert all(trace.sampled(id, 1.0) for id in ids)
    assert not any(trace.sampled(id, 0.0) for id in ids)


def test_a_share_contains_smaller_ones() -> None:
    """Raising the share keeps those that were traced before."""
    ids = Ids().many(10_000)
    few, more = ({id for id in ids if trace.sampled(id, share)} for share in (0.01, 0.1))
    assert few < more


def test_a_step_says_how_long_ago_it_was() -> None:
    """It is written down later than it happened; whoever reads it knows when that was."""
    now = [7.0]
    step = trace.Step(trace.FAIL, "id", "ValueError: 1 2", now[0], lambda: now[0])
    now[0] += 0.25
    assert step.words == "250.0 ValueError: 1 2"
    assert trace.read(trace.FAIL, 1_000, step.words) == (750, "ValueError: 1 2")
    assert trace.read(trace.PUT, 1_000, "5 shop.py") == (1_000, "5 shop.py")
    for other in ("", "soon", "nan 1", "inf 1", "1e999 2"):
        assert trace.read(trace.DELIVER, 1_000, other) == (1_000, other)


def traced(number: int) -> bytes:
    plain = element(number)
    return pack(plain[23:39], plain[40:], {trace.KEY: 1})


def test_only_trips_with_something_to_tell_know_of_traces() -> None:
    """A trip of untraced messages is word for word as it was, whatever it settles."""
    pair = Pair()
    pair.server.ready += [element(1), element(2)]
    one, two = pair.trip().messages
    assert not one.traced
    pair.state.finished += [one, pair.state.retry(two, 1.0, "no")]
    command = pair.state.trip(0, pair.now)
    assert len(command.keys) == 12
    assert Keys(KEYS.queue).traces not in command.keys
    assert command.args[11:] == (1, one.element, RETRY, two.element, command.args[15], 1000)


def test_steps_ride_on_the_next_trip() -> None:
    """A delivery and its ack are words of a trip that is made anyway."""
    pair = Pair()
    pair.server.ready.append(traced(1))
    [message] = pair.trip().messages
    assert message.traced
    message.handed_over(lambda: pair.now)
    pair.now += 0.5
    pair.state.finished.append(pair.state.ack(message))
    command = pair.state.trip(0, pair.now)
    assert command.keys[12:] == (KEYS.traces,)
    assert command.args[11:] == (
        *(1, message.element),
        *("trace", message.id, trace.DELIVER, "500.0 1"),
        *("trace", message.id, trace.ACK, "500.0"),
    )
    assert command is pair.state.trip(0, pair.now), "the repeat of a trip is the same"


@pytest.mark.parametrize("how", ["retry", "ack"])
def test_what_one_trip_writes_down_is_bounded(how: str) -> None:
    """However much has gathered: Redis is held for some ms at most, and the rest goes with the next trips."""
    pair = Pair()
    pair.server.ready += [traced(n) for n in range(900)]
    messages = pair.trip(want=900).messages
    for message in messages:
        message.handed_over(lambda: pair.now)
        pair.state.finished.append(pair.state.retry(message, 1.0, "no") if how == "retry" else message)
    command = pair.state.trip(0, pair.now)
    acks = abs(int(command.args[11]))
    verbs = command.args[12 + min(acks, 2) :: 4]
    assert acks + verbs.count(RETRY) == trace.MOST
    assert verbs.count("trace") == (2 if how == "retry" else 3) * trace.MOST


def test_what_is_settled_or_lost_is_forgotten() -> None:
    """Nothing is kept of a traced message that is no longer held."""
    pair = Pair()
    pair.server.ready += [traced(n) for n in range(3)]
    one, two, _ = pair.trip().messages
    assert len(pair.state.traced) == 3
    pair.trip(0, pair.state.ack(one), pair.state.retry(two, 1.0, "no"))
    assert len(pair.state.traced) == 1
    pair.server.doing["a"].clear()
    pair.trip(0)
    assert pair.state.traced == {}


def test_what_one_put_writes_down_is_bounded() -> None:
    """By smaller calls where messages are traced; a queue that traces none has calls as before."""
    of = {share: reliq.Queue("q", "redis://localhost:1/0", trace=share).options for share in (0, 0.01)}
    assert (of[0].most_at_once, of[0.01].most_at_once) == (1000, trace.MOST_PUTS)
    assert [len(part) for part in ops.chunks([b"x"] * 1100, trace.MOST_PUTS)] == [500, 500, 100]
    assert [len(part) for part in ops.chunks([b"x"] * 600, trace.MOST_PUTS)] == [500, 100]
