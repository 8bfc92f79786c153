"""Two consumers, a producer, a reaper and a bad network in any order: no message is lost or in two places,
fences grow, and at most one ack is accepted.

The bodies are numbers, so that a message keeps its identity from the raw element to the dead letter.
"""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import redis as redis_py
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from reliq.core import envelope as env
from reliq.core import ops
from reliq.core.command import Command
from reliq.core.consumer import Answer
from reliq.core.message import Message, Settle
from tests.core.model import Model
from tests.lua.lab import BELL, Consumer, Lab, element, number_of

SLOTS = st.integers(0, 1)
_runs = itertools.count(1)


def numbers(elements: list[bytes]) -> list[int]:
    return [number_of(e) for e in elements if e != BELL]


class QueueMachine(RuleBasedStateMachine):
    """``client`` and ``prefix`` are set by the test."""

    client: redis_py.Redis
    prefix: str

    @initialize()
    def start(self) -> None:
        self.lab = Lab(self.client, f"{self.prefix}-{next(_runs)}")
        self.names = itertools.count(1)
        self.bodies = itertools.count(1)
        self.sequence = 0
        self.accepted: set[int] = set()
        self.asked_to_ack: set[int] = set()
        self.acked: Counter[int] = Counter()
        self.fences: dict[int, int] = {}
        self.used: list[str] = []
        self.hands: list[list[Message]] = [[], []]
        self.consumers = [self.new_consumer(), self.new_consumer()]
        self.past: list[Command] = []
        self.dead: set[str] = set()
        self.reaped: set[tuple[int, int]] = set()
        self.owed: list[list[Settle]] = [[], []]

    def new_consumer(self) -> Consumer:
        name = f"c{next(self.names)}"
        self.used.append(name)
        return Consumer(self.lab, name)

    # -- producers --------------------------------------------------------------------------------------

    @rule(count=st.integers(1, 3), how=st.sampled_from(["ready", "at", "in"]), copies=st.integers(1, 2))
    def put(self, count: int, how: str, copies: int) -> None:
        """A put, whose reply may get lost so that it is repeated."""
        bodies = [next(self.bodies) for _ in range(count)]
        self.sequence += 1
        due = ops.Due(how, 1 if how != "ready" else 0)
        command = ops.put(self.lab.keys, b"p", self.sequence, [element(b) for b in bodies], due)
        for _ in range(copies):
            self.lab.run(command)
        self.accepted.update(bodies)

    @rule()
    def push(self) -> None:
        """A foreign producer."""
        body = next(self.bodies)
        self.lab.push(b"%d" % body)
        self.accepted.add(body)

    # -- consumers --------------------------------------------------------------------------------------

    @rule(slot=SLOTS, want=st.integers(0, 4), lose=st.booleans(), wait=st.sampled_from([0, 0, 1.5, 20]))
    def trip(self, slot: int, want: int, lose: bool, wait: float) -> None:
        consumer = self.consumers[slot]
        consumer.now += wait  # of its patience with suspects
        sent = len(consumer.sent)
        answer = consumer.trip(want, lose=lose)
        self.past += consumer.sent[sent:]
        if answer is not None:
            assert answer.status == ("dead" if consumer.state.name in self.dead else answer.status)
            self.digest(slot, answer)
            if answer.status in ("dead", "stale"):
                consumer.state.rename(f"c{next(self.names)}")
                self.used.append(consumer.state.name)

    def digest(self, slot: int, answer: Answer) -> None:
        if answer.status == "dead":  # what is owed under that name is refused under the next one
            self.reaped.update((s.message.body, s.message.envelope.fence) for s in self.owed[slot])
        for settle in answer.settled:
            self.owed[slot].remove(settle)
            body, fence = settle.message.body, settle.message.envelope.fence
            if not settle.accepted:
                assert (body, fence) in self.reaped or answer.status == "dead", "refused for no reason"
            elif settle.verb == "ack":
                self.acked[body] += 1
        gone = {id(m) for m in answer.lost} | {id(s.message) for s in answer.settled}
        self.hands[slot] = [m for m in self.hands[slot] if id(m) not in gone]
        for lost in answer.lost if answer.status != "dead" else ():
            assert (lost.body, lost.envelope.fence) in self.reaped, "called lost for no reason"
        for message in answer.messages:
            body, fence = message.body, message.envelope.fence
            assert self.acked[body] == 0, "delivered after an accepted ack"
            assert fence > self.fences.get(body, 0), "an older or equal fence was delivered later"
            self.fences[body] = fence
            self.hands[slot].append(message)

    @rule(slot=SLOTS, data=st.data(), verb=st.sampled_from(["ack", "ack", "retry", "release", "bury"]))
    def finish(self, slot: int, data: st.DataObject, verb: str) -> None:
        """A handler is done with a message; it may also be one that was lost meanwhile."""
        if not self.hands[slot]:
            return
        message = data.draw(st.sampled_from(self.hands[slot]))
        self.settle(slot, message, verb)

    def settle(self, slot: int, message: Message, verb: str) -> None:
        self.hands[slot].remove(message)
        state = self.consumers[slot].state
        if verb == "ack":
            self.asked_to_ack.add(message.body)
            settle = state.ack(message)
        elif verb == "retry":
            settle = state.retry(message, 0.001, "no")
        elif verb == "release":
            settle = state.release(message, handled=True)
        else:
            settle = state.bury(message, "BURIED", "no")
        state.finished.append(settle)
        self.owed[slot].append(settle)

    @rule(slot=SLOTS, verb=st.sampled_from(["ack", "retry", "release"]), lose=st.booleans())
    def work(self, slot: int, verb: str, lose: bool) -> None:
        """What mostly happens: claim, handle all, settle."""
        self.trip(slot, 3, False, 0)
        for message in list(self.hands[slot]):
            self.settle(slot, message, verb)
        self.trip(slot, 3, lose, 0)

    @rule(slot=SLOTS, verb=st.sampled_from(["ack", "retry", "release", "bury"]), dead=st.booleans())
    def pause(self, slot: int, verb: str, dead: bool) -> None:
        """A consumer is silent for longer than its lease, is reaped, and then wants to settle."""
        self.trip(slot, 3, False, 0)
        self.reap_one(self.consumers[slot].state.name, dead, 3, False)
        for message in list(self.hands[slot]):
            self.settle(slot, message, verb)

    @rule(slot=SLOTS)
    def bell(self, slot: int) -> None:
        """A BLMOVE, read or unread."""
        self.lab.bell(self.consumers[slot].state.name)

    @rule(slot=SLOTS, bell_ended=st.booleans())
    def leave(self, slot: int, bell_ended: bool) -> None:
        """A goodbye after the last trip was answered; the process goes on as another consumer."""
        consumer = self.consumers[slot]
        if consumer.state.unanswered:
            return
        self.lab.run(ops.leave(self.lab.keys, consumer.state.name, bell_ended=bell_ended))
        self.hands[slot], self.owed[slot], self.consumers[slot] = [], [], self.new_consumer()

    # -- faults -----------------------------------------------------------------------------------------

    @rule(slot=SLOTS)
    def crash(self, slot: int) -> None:
        """A process is gone with all it knew; its lease is over later."""
        self.hands[slot], self.owed[slot], self.consumers[slot] = [], [], self.new_consumer()

    @rule(data=st.data())
    def ghost(self, data: st.DataObject) -> None:
        """A trip of a closed connection runs once more, perhaps for the first time."""
        if self.past:
            old = data.draw(st.sampled_from(self.past[-6:]))
            name = str(old.args[0])
            session = self.lab.keys.session(name)
            if name in self.dead or self.lab.client.hexists(session, "leaving"):
                assert self.lab.reply(old)[0] == b"dead"
            elif self.lab.client.exists(session):
                reply = self.lab.reply(old)
                newest = max(c.args[1] for c in self.past if c.args[0] == name)
                if reply[0] == b"spell":  # as it was answered before, and that reply got lost
                    assert old.args[1] == newest
                    assert any(c.state.awaits(old) for c in self.consumers)
                else:
                    assert reply[0] == (b"again" if old.args[1] == newest else b"stale")

    @rule(data=st.data(), dead=st.booleans(), elements=st.integers(1, 3), exact=st.booleans())
    def reap(self, data: st.DataObject, dead: bool, elements: int, exact: bool) -> None:
        """One bounded call, for a lease that is over or a process that was seen to die."""
        self.reap_one(data.draw(st.sampled_from(self.used[-4:])), dead, elements, exact)

    def reap_one(self, name: str, dead: bool, elements: int, exact: bool) -> None:
        before = self.lab.doing(name)
        command = ops.reap(self.lab.keys, name, dead=dead, max_losses=2, started=[] if exact else None)
        if not dead and self.lab.client.zscore(self.lab.keys.consumers, name) is not None:
            self.lab.expire(name)
        self.lab.run(command._replace(args=(*command.args[:5], elements, *command.args[6:])))
        left = self.lab.doing(name)
        gone = [env.unpack(e) for e in before if e not in left]
        self.reaped.update((number_of(e.element), e.fence) for e in gone)
        if dead:
            self.dead.add(name)

    # -- what must hold ---------------------------------------------------------------------------------

    def places(self) -> Counter[int]:
        keys = self.lab.keys
        found = [*self.lab.ready, *self.lab.later, *(back for _, back in self.lab.dead)]
        for name in self.used:
            found += [*self.lab.inbox(name), *self.lab.doing(name)]
        assert all(env.is_envelope(e) for n in self.used for e in self.lab.doing(n)), keys.ready
        return Counter(numbers(found))

    @invariant()
    def every_message_is_in_one_place(self) -> None:
        places = self.places()
        assert set(places) <= self.accepted, "something was never put"
        assert all(count == 1 for count in places.values()), "a message is in two places"
        assert self.accepted - set(places) <= self.asked_to_ack, "a message is lost"

    @invariant()
    def an_accepted_ack_is_final(self) -> None:
        assert all(count == 1 for count in self.acked.values()), "two acks were accepted"
        assert not set(self.acked) & set(self.places()), "an acked message is back"

    def teardown(self) -> None:
        """The fault heals: everything can be claimed and acked, or is dead (I6)."""
        if not hasattr(self, "lab"):
            return
        for slot, consumer in enumerate(self.consumers):
            while consumer.state.unanswered or consumer.state.finished:
                self.trip(slot, 0, False, 0)
        assert self.owed == [[], []], "a settle was never answered"
        for name in self.used:
            while self.lab.reap(name, max_losses=255, started=[]).more:
                pass
        last, held = self.new_consumer(), list[Message]()
        for _ in range(500):
            last.now += 2
            answer = last.trip(10, *(last.state.ack(m) for m in held))
            assert answer is not None
            held = answer.messages
            if not (held or last.state.held or self.lab.client.zcard(self.lab.keys.later) or self.lab.ready):
                break
        assert set(self.places()) == {number_of(back) for _, back in self.lab.dead}, "it did not drain"


def test_nothing_is_lost_or_doubled(redis: redis_py.Redis, prefix: str) -> None:
    """Any order of puts, trips, losses of replies, ghosts, crashes, reaps and goodbyes keeps the invariants."""

    class Machine(QueueMachine):
        pass

    Machine.client, Machine.prefix = redis, prefix
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=40,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


class TwinMachine(RuleBasedStateMachine):
    """The scripts and the model of tests/core/model.py, step by step: both must always agree."""

    client: redis_py.Redis
    prefix: str

    @initialize()
    def start(self) -> None:
        self.lab = Lab(self.client, f"{self.prefix}-{next(_runs)}")
        self.model = Model()
        self.consumers = [Consumer(self.lab, name) for name in "ab"]
        self.bodies = itertools.count(1)
        self.hands: list[list[Message]] = [[], []]

    @rule(lost=st.integers(0, 1), twins=st.integers(1, 2))
    def put(self, lost: int, twins: int) -> None:
        e = element(next(self.bodies), lost=lost, returns=lost)
        self.lab.push(*[e] * twins)
        self.model.put(*[e] * twins)

    @rule(raw=st.sampled_from([b"1", b"", b"\xc1rlq", BELL]))
    def push(self, raw: bytes) -> None:
        self.lab.push(raw)
        self.model.put(raw)

    @rule(slot=SLOTS)
    def bell(self, slot: int) -> None:
        self.lab.bell("ab"[slot])
        self.model.bell("ab"[slot])

    @rule(slot=SLOTS, want=st.integers(0, 4), wait=st.sampled_from([0, 0, 1.5, 20]))
    def trip(self, slot: int, want: int, wait: float) -> None:
        consumer = self.consumers[slot]
        consumer.now += wait
        command = consumer.state.trip(want, consumer.now)
        reply: Any = self.lab.reply(command)
        self.model.now = reply[1]
        assert [*reply[:8], reply[9]] == [*(expected := self.model.run(command))[:8], expected[9]]
        if reply[0] == b"spell":
            consumer.state.spell(reply)
            self.trip(slot, want, 0)
            return
        answer = consumer.state.answered(reply, consumer.now)
        gone = {id(m) for m in answer.lost} | {id(s.message) for s in answer.settled}
        self.hands[slot] = [m for m in self.hands[slot] if id(m) not in gone] + answer.messages

    @rule(slot=SLOTS, data=st.data(), verb=st.sampled_from(["ack", "retry", "release", "bury"]))
    def finish(self, slot: int, data: st.DataObject, verb: str) -> None:
        if self.hands[slot]:
            message = data.draw(st.sampled_from(self.hands[slot]))
            self.hands[slot].remove(message)
            state = self.consumers[slot].state
            state.finished.append(
                {
                    "ack": lambda: state.ack(message),
                    "retry": lambda: state.retry(message, 60, "no"),
                    "release": lambda: state.release(message),
                    "bury": lambda: state.bury(message, "BURIED", "no"),
                }[verb]()
            )

    @rule(slot=SLOTS)
    def reap(self, slot: int) -> None:
        name = "ab"[slot]
        if self.lab.client.zscore(self.lab.keys.consumers, name) is not None:
            self.lab.expire(name, ago=0)
            self.model.consumers[name] = 0
            self.lab.reap(name, dead=False, max_losses=255)  # equal twins would fold in dead
            self.model.reap(name, poison=255)

    @invariant()
    def both_agree(self) -> None:
        lab, model = self.lab, self.model
        assert lab.ready == model.ready[::-1]
        for name in "ab":
            assert lab.doing(name) == model.doing[name]
            assert lab.inbox(name) == model.inbox[name]
        assert dict(lab.client.zrange(lab.keys.later, 0, -1, withscores=True)) == model.later
        assert set(lab.client.zrange(lab.keys.dead, 0, -1)) == set(model.dead)


def test_model_and_scripts_agree(redis: redis_py.Redis, prefix: str) -> None:
    """What tests/core believes about the scripts is what real servers do."""

    class Machine(TwinMachine):
        pass

    Machine.client, Machine.prefix = redis, prefix
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=60,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
