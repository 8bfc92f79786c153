"""Both shells against a plain model, step by step: any order of puts, claims, settles, goodbyes and losses of
consumers leaves every message where the promises say, in the order that they say.

The consumers' clock stands still, so that their keepers, who act by it, do nothing between the steps. To die is to
be heard of no more; what Redis has of such a consumer is the same as of one whose host is gone.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

import msgpack
import pytest
import redis as redis_py
import tenacity
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import reliq
from reliq.core import envelope as env
from reliq.errors import ConsumerClosed
from tests.conformance.model import Item, Model, Places
from tests.conformance.shell import Shell, now_ms, until
from tests.core.model import BELL
from tests.servers import ExternalServer, RedisServer

#: The same few in every run; RELIQ_TEST_EXAMPLES=2000 looks at as many others, each time anew.
EXAMPLES = int(os.environ.get("RELIQ_TEST_EXAMPLES", "0"))
PROFILE = settings(
    max_examples=EXAMPLES or 30,
    stateful_step_count=50,
    derandomize=not EXAMPLES,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)

LONG = 3600
ATTEMPTS, MAX_LOSSES = 2, 2
JUNK = b"\xff\x00 no JSON"
RAW = {raw: json.loads(raw) for raw in (b"1", b'{"to": "ada"}')}
#: How to call it; "block" and "fail" are the two ends of a ``with`` block.
CALLS: dict[str, tuple[Any, ...]] = {
    "ack": ("ack",),
    "retry": ("retry",),
    "retry at once": ("retry", 0),
    "retry later": ("retry", LONG),
    "release": ("release",),
    "bury": ("bury", "no"),
}
VERBS = st.sampled_from([*CALLS, "block", "fail"])
_runs = itertools.count(1)


@dataclass(eq=False)
class Held:
    """A lease in somebody's hands."""

    lease: Any
    item: Item


@dataclass(eq=False)
class Seat:
    """A consumer, and the leases that it gave out."""

    consumer: Any
    prefetch: int
    leases: list[Held] = field(default_factory=list)

    @property
    def name(self) -> str:
        return str(self.consumer.name)


class ShellMachine(RuleBasedStateMachine):
    """``kind``, ``url``, ``prefix`` and ``redis`` are set by the test."""

    kind: str
    url: str
    prefix: str
    redis: Any

    @initialize()
    def start(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.sh = Shell(self.kind, self.url, self.prefix)
        policy = reliq.Retry(attempts=ATTEMPTS, wait=tenacity.wait_fixed(LONG))
        self.q = self.sh.queue(f"q{next(_runs)}", lease=LONG, retry=policy, max_losses=MAX_LOSSES)
        self.keys = self.q.options.keys
        self.model = Model(attempts=ATTEMPTS, max_losses=MAX_LOSSES, unreadable=[JUNK])
        self.bodies, self.times = itertools.count(1), itertools.count(1)
        self.open_: list[Seat] = []
        self.silent: list[Seat] = []
        self.settled: list[Held] = []
        self.orphans: list[Held] = []
        self.agreed = False
        self.put_many(3, None)
        for prefetch in (1, 2):
            self.new_consumer(prefetch)

    # -- to call and to look ----------------------------------------------------------------------------

    def run(self, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """One call of the shell, awaited if it is awaitable."""
        self.agreed = False
        return self.loop.run_until_complete(self.sh(function(*args, **options)))

    def look(self) -> Places:
        """What stands in Redis, all at one moment."""
        names = [name.decode() for name in self.redis.zrange(self.keys.consumers, 0, -1)]
        names += [seat.name for seat in self.open_ + self.silent if seat.name not in names]
        pipe = self.redis.pipeline(transaction=True)
        pipe.lrange(self.keys.ready, 0, -1)
        pipe.zrange(self.keys.later, 0, -1)
        pipe.zrange(self.keys.dead, 0, -1)
        pipe.zrange(self.keys.consumers, 0, -1)
        for name in names:
            pipe.lrange(self.keys.doing(name), 0, -1)
            pipe.llen(self.keys.inbox(name))
        ready, later, dead, registered, *lists = pipe.execute()
        assert not any(lists[1::2]), "an inbox was left behind"
        doing = {name: items(held) for name, held in zip(names, lists[::2], strict=True)}
        notes = [env.split_note(member) for member in dead]
        return Places(
            items(reversed(ready)),
            {name: held for name, held in doing.items() if held or name.encode() in registered},
            set(items(later)),
            {(note["cause"], item_of(element)) for note, element in notes},
        )

    # -- producers --------------------------------------------------------------------------------------

    def new_body(self) -> str:
        return f"body {next(self.bodies)}"

    def new_item(self, id: str, body: Any) -> Item:
        return Item(id, msgpack.packb(body))

    @rule(how=st.sampled_from(["ready", "due", "a", "b"]))
    def put(self, how: str) -> None:
        """Ready at once, or with an id of the user's own, of which only the first one counts, or at a time that is
        past: then it is in later until somebody's next trip."""
        body, options = self.new_body(), dict[str, Any]()
        if how == "due":
            options = {"at": datetime.fromtimestamp(next(self.times), timezone.utc)}
        elif how != "ready":
            options = {"id": how}
        item = self.new_item(self.run(self.q.put, body, **options), body)
        if how == "ready":
            self.model.put(item)
        elif how == "due":
            self.model.put_later(item)
            self.model.come_due(item)
        else:
            assert item.id == env.named_id(how).hex()
            self.model.put_named(item)

    @rule(count=st.integers(1, 4), delay=st.sampled_from([None, None, LONG]))
    def put_many(self, count: int, delay: float | None) -> None:
        """In order."""
        bodies = [self.new_body() for _ in range(count)]
        ids = self.run(self.q.put_many, bodies, delay=delay)
        made = [self.new_item(id, body) for id, body in zip(ids, bodies, strict=True)]
        (self.model.put if delay is None else self.model.put_later)(*made)

    @rule(raw=st.sampled_from([*RAW, JUNK]), count=st.integers(1, 2))
    def push(self, raw: bytes, count: int) -> None:
        """A foreign producer, who may say the same twice."""
        self.redis.lpush(self.keys.ready, *[raw] * count)
        self.model.put(*[Item("", raw)] * count)

    @precondition(lambda self: self.model.places.later - set(self.model.due))
    @rule(data=st.data())
    def come_due(self, data: st.DataObject) -> None:
        """The time of a delayed message has come."""
        waiting = self.model.places.later - set(self.model.due)
        in_order = sorted(waiting, key=lambda item: item[1:])  # not by the id: that is random
        item = data.draw(st.sampled_from(in_order))
        [element] = [e for e in self.redis.zrange(self.keys.later, 0, -1) if item_of(e) == item]
        self.redis.zadd(self.keys.later, {element: next(self.times) * 1000})
        self.model.come_due(item)

    # -- consumers --------------------------------------------------------------------------------------

    def new_consumer(self, prefetch: int) -> Seat:
        consumer = self.run(self.q.consumer, prefetch=prefetch)
        self.run(self.sh.open(consumer).__aenter__)
        seat = Seat(consumer, prefetch)
        self.open_.append(seat)
        self.model.open(seat.name, prefetch, self.look())
        return seat

    @precondition(lambda self: len(self.open_) < 3 and len(self.open_ + self.silent) < 5)
    @rule(prefetch=st.integers(1, 3))
    def open(self, prefetch: int) -> None:
        self.new_consumer(prefetch)

    @precondition(lambda self: self.open_ and self.is_ready())
    @rule(data=st.data(), n=st.integers(1, 4))
    def claim(self, data: st.DataObject, n: int) -> None:
        """As many as there are, up to n."""
        self.claim_some(data.draw(st.sampled_from(self.open_)), n)

    def claim_some(self, seat: Seat, n: int) -> None:
        leases = self.run(seat.consumer.claim, n, timeout=0)
        self.model.claim(seat.name, n, self.look())
        self.take(seat, n, leases)

    def take(self, seat: Seat, n: int, leases: list[Any]) -> None:
        """What a claim returned, and what each lease says of its message."""
        ahead = {(item.id, item.fence): item for item in self.model.hands[seat.name].ahead}
        got = [Held(lease, ahead[lease.id, lease.fence]) for lease in leases]
        self.model.handed_over(seat.name, n, [each.item for each in got])
        seat.leases += got
        for each in got:
            lease, item = each.lease, each.item
            assert lease.body == body_of(item)
            assert lease.attempt == item.failed + 1
            assert lease.deliveries == item.failed + item.released + item.lost + 1

    def is_ready(self) -> bool:
        return bool(self.model.places.ready or self.model.due)

    def is_idle(self, seat: Seat) -> bool:
        hand = self.model.hands[seat.name]
        return not (hand.held or hand.ahead or self.model.places.doing[seat.name])

    @precondition(lambda self: not self.is_ready() and any(map(self.is_idle, self.open_)))
    @rule(data=st.data(), how=st.sampled_from(["ready", "due", "raw"]))
    def claim_and_wait(self, data: st.DataObject, how: str) -> None:
        """A claim that finds nothing waits in BLMOVE, and has the message that comes."""
        seat = data.draw(st.sampled_from([seat for seat in self.open_ if self.is_idle(seat)]))
        waiting = self.run(self.begin_to_wait, seat)
        if how == "raw":
            self.push(b"1", 1)
        else:
            self.put(how)
        leases = self.run(asyncio.wait_for, waiting, 10)
        self.model.claim(seat.name, 1, self.look())
        self.take(seat, 1, leases)

    async def begin_to_wait(self, seat: Seat) -> asyncio.Task[Any]:
        def blocked() -> bool:
            return any(client["cmd"] == "blmove" and "b" in client["flags"] for client in self.redis.client_list())

        task = self.sh.start(seat.consumer.claim, timeout=10)
        assert await until(blocked)
        return task

    @precondition(lambda self: self.leases())
    @rule(data=st.data(), verb=VERBS)
    def settle(self, data: st.DataObject, verb: str) -> None:
        """What is still ours is settled; what is not is refused, and nothing happens."""
        seat, held = data.draw(st.sampled_from(self.leases()))
        self.finish(seat, (held, verb))

    @precondition(lambda self: self.lost_leases())
    @rule(data=st.data(), verb=VERBS)
    def settle_late(self, data: st.DataObject, verb: str) -> None:
        """The same, of one that is not."""
        seat, held = data.draw(st.sampled_from(self.lost_leases()))
        self.finish(seat, (held, verb))

    @precondition(lambda self: self.open_ and len(self.model.places.ready) > 1)
    @rule(
        data=st.data(),
        acks=st.integers(2, 4),
        last=st.sampled_from(["ack", "bury", "retry later"]),
        swap=st.booleans(),
    )
    def settle_together(self, data: st.DataObject, acks: int, last: str, swap: bool) -> None:
        """Threads, or tasks, share trips. How many is not certain, so nothing may be left to be claimed. Some have
        changed places in the list meanwhile, which a number of them does not tell."""
        seat = data.draw(st.sampled_from(self.open_))
        self.claim_some(seat, 100)
        if not self.is_ready():
            if swap:
                self.swap(seat, {held.item.id for held in seat.leases[:acks]})
            self.finish(seat, *zip(list(seat.leases), [*["ack"] * acks, last], strict=False))

    def swap(self, seat: Seat, ids: set[str]) -> None:
        """By hand, the two oldest in the list of a consumer, if they are among these."""
        key = self.keys.doing(seat.name)
        oldest = self.redis.lrange(key, 0, 1)
        if len(oldest) == 2 and {env.unpack(element).id.hex() for element in oldest} <= ids:
            for place, element in enumerate(reversed(oldest)):
                self.redis.lset(key, place, element)

    def finish(self, seat: Seat, *settles: tuple[Held, str]) -> None:
        """One lease of a consumer, or several at once."""
        ours = [self.is_ours(seat, held) for held, _ in settles]
        outcomes = self.run(self.do_one if len(settles) == 1 else self.do_together, settles)
        for (held, _), mine, outcome in zip(settles, ours, outcomes, strict=True):
            assert outcome is None if mine else isinstance(outcome, reliq.LeaseLost)
            assert held.lease.settled
            assert held.lease.lost is not mine
            seat.leases.remove(held)
            self.settled.append(held)
        assert self.model.settle(seat.name, [(held.item, verb) for held, verb in settles], self.look()) == ours
        for other in seat.leases:
            assert other.lease.lost is not self.is_ours(seat, other)

    async def do_one(self, settles: tuple[tuple[Held, str]]) -> list[Any]:
        [(held, verb)] = settles
        return list(await asyncio.gather(self.do(held.lease, verb), return_exceptions=True))

    async def do_together(self, settles: tuple[tuple[Held, str], ...]) -> list[Any]:
        calls = [(held.lease, *CALLS[verb]) for held, verb in settles]
        tasks = [self.sh.start(getattr(lease, name), *args) for lease, name, *args in calls]
        return await asyncio.gather(*tasks, return_exceptions=True)

    async def do(self, lease: Any, verb: str) -> None:
        if verb in CALLS:
            name, *args = CALLS[verb]
            await self.sh(getattr(lease, name)(*args))
        else:
            await self.block(lease, ValueError("no") if verb == "fail" else None)

    async def block(self, lease: Any, error: Exception | None) -> None:
        async with self.sh.open(lease):
            if error is not None:
                raise error

    def leases(self) -> list[tuple[Seat, Held]]:
        return [(seat, held) for seat in self.open_ for held in seat.leases]

    def lost_leases(self) -> list[tuple[Seat, Held]]:
        return [(seat, held) for seat, held in self.leases() if not self.is_ours(seat, held)]

    def is_ours(self, seat: Seat, held: Held) -> bool:
        return held.item in self.model.places.doing[seat.name]

    @precondition(lambda self: self.open_ and self.is_ready())
    @rule(data=st.data(), verbs=st.lists(VERBS, min_size=1, max_size=4), pause=st.booleans())
    def work(self, data: st.DataObject, verbs: list[str], pause: bool) -> None:
        """What mostly happens: claim, and settle. Or pause for longer than a lease first: then that is late."""
        seat = data.draw(st.sampled_from(self.open_))
        self.claim_some(seat, len(verbs))
        if pause:
            self.reap([seat])
            for other in self.open_:
                if other is not seat:
                    self.claim_some(other, 1)
        for held, verb in zip(list(seat.leases), verbs, strict=False):
            self.finish(seat, (held, verb))

    @precondition(lambda self: self.settled or self.orphans)
    @rule(data=st.data(), verb=VERBS)
    def settle_again(self, data: st.DataObject, verb: str) -> None:
        """What was settled, or refused, stays so: nothing happens. What went back when its consumer was closed
        can't be settled any more."""
        held = data.draw(st.sampled_from(self.settled + self.orphans))
        with pytest.raises(ConsumerClosed) if held in self.orphans else nullcontext():
            self.run(self.do, held.lease, verb)
        if held in self.orphans:
            self.orphans.remove(held)

    @precondition(lambda self: self.open_)
    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        """What is in hand goes back in order; the leases are good for nothing any more."""
        self.say_goodbye(data.draw(st.sampled_from(self.busy(self.open_) or self.open_)))

    def say_goodbye(self, seat: Seat) -> None:
        name = seat.name
        self.run(self.sh.close, seat.consumer)
        self.model.close(name, self.look())
        self.orphans += seat.leases
        for seats in (self.open_, self.silent):
            if seat in seats:
                seats.remove(seat)

    # -- faults -----------------------------------------------------------------------------------------

    def busy(self, seats: list[Seat]) -> list[Seat]:
        return [seat for seat in seats if self.model.places.doing[seat.name]]

    @precondition(lambda self: self.busy(self.open_))
    @rule(data=st.data())
    def fall_silent(self, data: st.DataObject) -> None:
        """The host of a consumer dies, or stops."""
        seat = data.draw(st.sampled_from(self.busy(self.open_)))
        self.open_.remove(seat)
        self.silent.append(seat)

    @precondition(lambda self: self.silent)
    @rule(data=st.data())
    def wake(self, data: st.DataObject) -> None:
        """It had only stopped, and goes on as if nothing had been."""
        seat = data.draw(st.sampled_from(self.silent))
        self.silent.remove(seat)
        self.open_.append(seat)

    @precondition(lambda self: self.busy(self.open_ + self.silent))
    @rule(data=st.data(), others=st.booleans())
    def lease_ends(self, data: st.DataObject, others: bool) -> None:
        """By the server's clock, and a reaper comes. The consumers may live: then they do not know it yet."""
        seats = self.open_ + self.silent
        seat = data.draw(st.sampled_from(self.busy(seats)))
        self.reap([seat, *(other for other in seats if others and other is not seat)])

    def reap(self, seats: list[Seat]) -> None:
        # So long ago that no consumer is asked to see to it, and not so long that it is forgotten; the first one
        # is reaped first.
        past = int(now_ms(self.redis)) - 600_000
        ends = {seat.name: past + place for place, seat in enumerate(seats)}
        self.redis.hset(self.keys.stats, "server_since", 0)
        self.redis.zadd(self.keys.consumers, ends)
        report = self.run(self.sh.Reaper(self.q).run_once)
        held = {name for name in ends if self.model.places.doing[name]}
        returned, buried = map(sum, zip(*map(self.model.reap, ends), strict=True))
        assert (report.adopted, report.waiting, report.errors) == ([], [], [])
        assert set(report.consumers) <= held
        if set(report.consumers) == held:  # else a consumer's own reaper was quicker
            assert (report.returned, report.buried) == (returned, buried)

    # -- what must hold ---------------------------------------------------------------------------------

    @invariant()
    def every_message_is_in_its_place(self) -> None:
        seen, model = self.look(), self.model
        expected = model.places
        everywhere = seen.all()
        ids = [item.id for item in everywhere if item.id]
        assert len(set(ids)) == len(ids), "a message is in two places"
        assert not model.acked & set(ids), "an acked message is back"
        assert len(everywhere) + len(model.acked) == model.accepted, "a message is lost, or was never put"
        assert seen.ready == expected.ready, "not ready, or not in this order"
        assert seen.doing == expected.doing, "not in these hands"
        assert (seen.later, seen.dead) == (expected.later, expected.dead)
        assert tuple(self.run(self.q.size)) == seen.sizes
        self.agreed = True

    def teardown(self) -> None:
        if not hasattr(self, "loop"):
            return
        try:
            if self.agreed:
                self.heal()
        finally:
            self.clean_up()

    def heal(self) -> None:
        """Who is silent is reaped, and wakes too late; the others close. Then the queue drains, in order."""
        if self.silent:
            self.reap(list(self.silent))
        for seat in self.silent + self.open_:
            self.say_goodbye(seat)
            self.every_message_is_in_its_place()
        last = self.new_consumer(1)
        while self.is_ready() or self.model.hands[last.name].ahead:
            self.claim_some(last, 1)
            for held in list(last.leases):
                self.finish(last, (held, "ack"))
        self.say_goodbye(last)
        self.every_message_is_in_its_place()
        assert self.model.places.sizes[:2] == (0, 0)

    def clean_up(self) -> None:
        for seat in self.open_ + self.silent:
            self.loop.run_until_complete(self.sh.close(seat.consumer))
        self.loop.run_until_complete(self.sh.finish())
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()


def items(elements: Any) -> list[Item]:
    return [item_of(element) for element in elements if element != BELL]


def item_of(element: bytes) -> Item:
    if not env.is_envelope(element):
        return Item("", element)
    e = env.unpack(element)
    return Item(e.id.hex(), e.body, e.returns, e.failed, e.released, e.lost)


def body_of(item: Item) -> Any:
    """As a handler sees it: what was pushed is JSON, what was put is MessagePack."""
    return RAW[item.body] if item.body in RAW else msgpack.unpackb(item.body)


@pytest.fixture(autouse=True)
def _clock_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.clock_gettime", lambda _: 1e6)


@pytest.mark.timeout(0 if EXAMPLES else 600)
@pytest.mark.parametrize("kind", ["sync", "aio"])
def test_shell_and_model_agree(
    kind: str, server: RedisServer | ExternalServer, redis: redis_py.Redis, prefix: str
) -> None:
    """Whatever producers, consumers and reapers do, in any order, every message is where the model has it."""

    class Machine(ShellMachine):
        pass

    Machine.kind, Machine.url, Machine.prefix, Machine.redis = kind, server.url, prefix, redis
    run_state_machine_as_test(Machine, settings=PROFILE)
