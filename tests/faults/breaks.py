"""Deliberately broken builds of reliq, made in the processes of a round: each is a mistake that real queues make.

A checker that has never been seen red proves nothing. ``apply(name)`` patches this process (and what it forks);
tests/faults/test_checker.py has each found. A patch that no longer fits the source fails loudly.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from hashlib import sha1
from typing import Any

from reliq.core import envelope as env
from reliq.core import ops, scripts
from reliq.core.command import Command
from reliq.core.consumer import ConsumerState
from reliq.core.message import Message
from reliq.errors import OutcomeUnknown, Unavailable
from reliq.receipts import receipts_of
from reliq.running import Executor, Slot
from reliq.sync.engine import Engine
from reliq.sync.queue import Queue

BREAKS: dict[str, Callable[[], None]] = {}


def apply(name: str) -> None:
    """Break this process in this way."""
    BREAKS[name]()


def _broken(make: Callable[[], None]) -> Callable[[], None]:
    BREAKS[make.__name__] = make
    return make


def _rewrite(script: str, *changes: tuple[str, str]) -> None:
    """Another source for one of the scripts."""
    source = getattr(scripts, script).source
    for old, new in changes:
        if source.count(old) != 1:
            raise LookupError(f"{script}.lua has changed: {old!r} is there {source.count(old)} times")
        source = source.replace(old, new)
    sha = sha1(source.encode(), usedforsecurity=False).hexdigest()
    setattr(scripts, script, scripts.Script(script, source, sha))


def _forgets(self: Any, slot: Slot, message: Message, lease: Any, error: Any) -> None:
    """The end of a handler whose message was settled before."""
    if lease is not None:
        lease.mark_settled()
    slot.message = None


@_broken
def ack_before_work() -> None:
    """The message is removed when its handler starts (at-most-once, as BRPOP has it)."""
    may_start = Executor._may_start

    def acks_first(self: Any, message: Message, now: float) -> bool:
        if not may_start(self, message, now):
            return False
        message.state.owner.finish(message.state.ack(message))
        return True

    Executor._may_start = acks_first  # type: ignore[method-assign]
    Executor._end = _forgets  # type: ignore[method-assign]


@_broken
def move_in_two_commands() -> None:
    """A claim reads the tail, then pushes it into the processing list, then trims: three steps, not one."""
    trip = Engine.trip

    def claims_by_hand(self: Engine, want: int, *, look: bool = True) -> Any:
        keys, name = self.state.keys, self.state.name
        if want:
            tail = self.queue.links.insist(Command("LRANGE", (keys.ready,), (-want, -1)))
            if tail:
                self.queue.links.insist(Command("LTRIM", (keys.ready,), (0, -len(tail) - 1)))
                time.sleep(0.001)
                self.queue.links.insist(Command("RPUSH", (keys.doing(name),), tuple(reversed(tail))))
        return trip(self, 0, look=look)  # finds them there, and hands them over

    Engine.trip = claims_by_hand  # type: ignore[method-assign]


@_broken
def claim_without_reconcile() -> None:
    """Nobody looks into the processing list for what a lost reply has brought."""
    _rewrite(
        "trip",
        ("local unknown = moved or amiss", "local unknown = false"),
        ("late, 1, 0, -1, 0, 0, held,", "late, 0, 0, -1, 0, 0, {},"),
    )


@_broken
def reaper_forgets_the_inbox() -> None:
    """The reaper looks at processing lists only; what BLMOVE brought to a zombie stays with it."""
    _rewrite(
        "reap",
        ("take(INBOX, function(element)", "local _ = (function(element)"),
        ("redis.call('LLEN', INBOX) == 0 and returned < limit", "returned < limit"),
        ("local in_inbox, in_doing = redis.call('LLEN', INBOX), ", "local in_inbox, in_doing = 0, "),
        ("local left = redis.call('LLEN', INBOX) + ", "local left = 0 + "),
    )


@_broken
def no_fence() -> None:
    """What goes back comes again under the same number."""
    bump = env.bump

    def same_returns(envelope: Any, **counts: Any) -> bytes:
        element = bump(envelope, **counts)
        return element[:13] + envelope.element[13:17] + element[17:]

    env.bump = same_returns
    _rewrite("reap", ("    returns = returns + 1\n", ""))


@_broken
def put_is_a_bare_lpush() -> None:
    """A put that got no answer is sent again, and nothing tells the server that it is a repeat."""
    send = Queue._send

    def pushes(self: Queue, ids: list[bytes], elements: Any, due: ops.Due, *more: Any, **named: Any) -> Any:
        if due.how != "ready":
            return send(self, ids, elements, due, *more, **named)
        self.links.insist(Command("LPUSH", (self.options.keys.ready,), tuple(elements), idempotent=True))
        return receipts_of(ids)

    Queue._send = pushes  # type: ignore[method-assign]


@_broken
def unknown_counts_as_refused() -> None:
    """A put that got no answer is reported as not executed."""
    send = Queue._send

    def denies(self: Queue, *args: Any, **named: Any) -> Any:
        insist = self.links.insist
        self.links.insist = self.links.run  # type: ignore[method-assign]
        try:
            return send(self, *args, **named)
        except OutcomeUnknown as error:
            raise Unavailable(str(error)) from error
        finally:
            self.links.insist = insist  # type: ignore[method-assign]

    Queue._send = denies  # type: ignore[method-assign]


@_broken
def a_put_does_not_wait() -> None:
    """replicas=1 is taken for done when the primary has the message."""
    send = Queue._send

    def hurries(
        self: Queue, ids: list[bytes], elements: Any, due: ops.Due, marker: str, *_: Any, **__: Any
    ) -> Any:
        return send(self, ids, elements, due, marker, ops.NOTHING)

    Queue._send = hurries  # type: ignore[method-assign]


@_broken
def release_goes_to_the_tail() -> None:
    """What is given back queues up again behind everybody else."""
    _rewrite("trip", ("redis.call('RPUSH', READY, back)", "redis.call('LPUSH', READY, back)"))


@_broken
def lease_by_the_clients_clock() -> None:
    """The end of a lease is what its holder believes the time to be, plus the lease."""
    _rewrite(
        "trip",
        ("redis.call('ZADD', CONSUMERS, now + lease, name)",
         "redis.call('ZADD', CONSUMERS, tonumber(ARGV[#ARGV]) + lease, name)"),
        ("for i = 13 + listed, #ARGV, 4 do", "for i = 13 + listed, #ARGV - 1, 4 do"),
    )  # fmt: skip
    build = ConsumerState._build

    def with_the_time(self: ConsumerState, want: int) -> Command:
        command = build(self, want)
        return command._replace(args=(*command.args, round(time.time() * 1000)))

    ConsumerState._build = with_the_time  # type: ignore[method-assign]


@_broken
def late_acks_are_accepted() -> None:
    """An ack says yes, whether the message was still there or not."""
    _rewrite(
        "trip",
        ("    if redis.call('LREM', DOING, 1, acked[i]) == 1 then\n      counts.ack",
         "    redis.call('LREM', DOING, 1, acked[i])\n    if true then\n      counts.ack"),
    )  # fmt: skip


@_broken
def a_repeated_trip_runs_again() -> None:
    """Trips carry no number: one whose answer was lost is executed a second time."""
    _rewrite("trip", ("if trip == last then", "if false then"))
    _rewrite("trip", ("if trip < last then", "if false then"))


@_broken
def reaper_does_not_look_at_the_lease() -> None:
    """Whoever is asked about is reaped, alive or not; and everybody is asked about."""
    _rewrite(
        "reap",
        ("  if score and tonumber(score) > now then\n    return {'alive', 0, 0, 0}\n  end\n", ""),
        ("  if now - tonumber(server[2] or '0') < lease then\n    return {'waiting', 0, 0, 0}\n  end\n", ""),
    )
    _rewrite("expired", ("'ZRANGEBYSCORE', KEYS[1], from, now,", "'ZRANGEBYSCORE', KEYS[1], '-inf', '+inf',"))
