"""``reliq status``: how many messages are where, how fast they go, who works on them, and what needs attention."""

from __future__ import annotations

import argparse
import re
import shlex
import time
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from reliq import defaults
from reliq.cli import logs, text
from reliq.cli.failure import ATTENTION, FINE
from reliq.cli.place import Place, again
from reliq.cli.verb import Verb
from reliq.core import flows, gate, ops
from reliq.core.exclusive import Lock, lock
from reliq.core.flows import ConsumerInfo, Sizes
from reliq.core.keys import Keys
from reliq.core.pulse import Limits, Pulse, pulse_g
from reliq.core.pulse import troubles as pulse_troubles
from reliq.core.reasons import Reason
from reliq.core.routing import Unrouted, unrouted, words
from reliq.core.sample import Rates, Sample, now_g, rates
from reliq.core.ticks import Glance, glance_g
from reliq.errors import ConfigError
from reliq.sync.queue import Queue

_SHOWN: Final = 20


class Trouble(NamedTuple):
    """One thing that needs attention. ``code`` is stable; ``next`` is what to type."""

    code: str
    reason: str
    next: str


class Look(NamedTuple):
    """One look at a queue. ``now``: how far it has come; ``rates``: how fast, as far as that is known; ``beside``:
    in the list that a queue of this name would have without ``key=``, where nobody looks for them; ``lock``: of
    who holds the queue exclusively; ``schedules``: how many, and when the next one of them ticks; ``gate``:
    what stands before it; ``unrouted``: the last message whose type nobody handles."""

    queue: Queue
    sizes: Sizes
    pulse: Pulse
    consumers: list[ConsumerInfo]
    now: Sample
    rates: Rates | None
    beside: int = 0
    lock: Lock | None = None
    schedules: Glance = Glance()
    gate: gate.Gate = gate.Gate()
    unrouted: Unrouted | None = None

    @property
    def waiting(self) -> int:
        """Messages that could be claimed at this moment."""
        return self.sizes.ready + self.pulse.due

    @property
    def live(self) -> int:
        """Consumers whose claim loop goes on."""
        return sum(beat.goes_on for beat in self.pulse.beats)

    @property
    def stale(self) -> int:
        """Consumers that are alive and make no round trips, or are gone and hold something."""
        gone = sum(1 for c in self.consumers if state(c) in ("expired", "dead") and held(c))
        return len(self.pulse.beats) - self.live + gone

    @property
    def drained_in(self) -> float | None:
        """Milliseconds until nothing waits, at these rates; None: never, or not known."""
        if not self.waiting:
            return 0.0
        if self.rates is None or self.rates.come is None or self.rates.out <= self.rates.come:
            return None
        return self.waiting * 1000 / (self.rates.out - self.rates.come)


def look(queue: Queue, before: Sample | None = None) -> Look:
    """Look at a queue. ``before``: an earlier look, over which rates are told instead of over the last samples."""
    keys, flow = queue.options.keys, queue.links.flow
    sizes, pulse, consumers = flow(flows.sizes_g(keys)), flow(pulse_g(keys)), flow(flows.consumers_g(keys))
    now, samples = flow(now_g(keys, pulse.now, sum(sizes)))
    found = rates(now, samples) if before is None else rates(now, [before], shortest=1)
    locked, schedules = queue.links.insist(lock(keys)), flow(glance_g(keys))
    before_it, nobody_s = flow(gate.look_g(keys)), queue.links.insist(unrouted(keys))
    return Look(queue, sizes, pulse, consumers, now, found, _beside(queue), locked, schedules, before_it, nobody_s)


def _own(keys: Keys) -> Keys:
    """The keys of this queue, if no list had been adopted."""
    return Keys(keys.queue, keys.prefix)


def _beside(queue: Queue) -> int:
    keys = queue.options.keys
    if keys.key is None or keys.ready == _own(keys).ready:
        return 0
    return int(queue.links.insist(ops.length(_own(keys).ready)))


def held(consumer: ConsumerInfo) -> int:
    """What a consumer has claimed, seen by a handler or not."""
    return consumer.doing + consumer.inbox


def state(consumer: ConsumerInfo) -> str:
    """live, leaving, expired (its lease is over) or dead (its process was seen to die)."""
    if consumer.dead:
        return "dead"
    if consumer.lease_ms <= 0:
        return "expired"
    return "leaving" if consumer.leaving else "live"


def pid_of(consumer: ConsumerInfo) -> int | None:
    """The process id on its host, if it says so."""
    match = re.match(r"pid=([1-9][0-9]{0,9})\b", consumer.who)
    return int(match[1]) if match else None


def troubles(seen: Look, args: argparse.Namespace) -> Iterator[Trouble]:
    """What needs attention, and what to do about it; what is most urgent first."""
    name = seen.queue.name
    gone = [c for c in seen.consumers if state(c) in ("expired", "dead") and held(c)]
    if gone:
        what, who = text.number(sum(map(held, gone)), "message"), text.number(len(gone), "worker")
        reason = f"{what} held by {who} that {'is' if len(gone) == 1 else 'are'} gone"
        yield Trouble("HELD_BY_DEAD", reason, again(args, "reap", name))
    if seen.beside:
        keys = seen.queue.options.keys
        what = text.number(seen.beside, "message")
        reason = f"{what} put by a Queue({name!r}) without key={keys.key!r}, which nobody handles"
        move = f"redis-cli LMOVE {shlex.quote(_own(keys).ready)} {shlex.quote(keys.ready)} RIGHT LEFT"
        yield Trouble(
            "OTHER_LIST", text.safe(reason), text.safe(f"name key= there too, and once for each: {move}")
        )
    if seen.waiting and not any(state(c) == "live" for c in seen.consumers):
        reason = f"{text.number(seen.waiting, 'message')} to do and no live consumer"
        yield Trouble("NO_CONSUMERS", reason, "start one: reliq worker MODULE:HANDLER")
    elif seen.waiting and all(c.quiet for c in seen.consumers if state(c) == "live"):
        reason = f"{text.number(seen.waiting, 'message')} to do and all consumers were told to be quiet"
        yield Trouble("NO_CONSUMERS", reason, "start one: reliq worker MODULE:HANDLER")
    if seen.sizes.later and seen.unrouted is not None and seen.unrouted.goes_on(seen.pulse.now):
        kind = words(seen.unrouted.type or None)
        reason = f"messages that no worker has a handler for, such as some of {kind}, go back again and again"
        yield Trouble("NO_HANDLER", text.safe(reason), "start a worker that has one: @q.ack(type=...)")
    late = seen.pulse.now - (seen.schedules.next_tick or seen.pulse.now)
    if late > defaults.TICK_GRACE * 1000:
        reason = f"a tick of {text.number(seen.schedules.schedules, 'schedule')} is due for {text.duration(late)}"
        yield Trouble("TICKS_LATE", f"{reason}, and nobody fires it", again(args, "schedule ls", name))
    for wrong in pulse_troubles(seen.pulse, Limits(workers=0)):
        yield Trouble(str(wrong.code), wrong.seen, again(args, "workers --stacks", name))
    if seen.sizes.dead:
        what = text.number(seen.sizes.dead, "dead letter")
        yield Trouble("DEAD_LETTERS", f"{what}: given up on", again(args, "dead ls", name))


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--interval",
        type=float,
        metavar="SECONDS",
        help="look twice, so far apart, and tell rates over that (default: over the last minute, as far as a "
        "consumer was alive to count)",
    )


def run(args: argparse.Namespace) -> int:
    """Look at the named queues, or all."""
    logs.set_up_plain()
    place = Place.of(args)
    queues = place.choose(args.queue)
    looks = [look(queue) for queue in queues] if args.interval is None else _look_twice(queues, args.interval)
    found = [list(troubles(seen, args)) for seen in looks]
    if args.json:
        shown = [as_json(seen, wrong) for seen, wrong in zip(looks, found, strict=True)]
        text.print_json({"prefix": place.prefix, "redis": place.links.address.label, "queues": shown,
                         "attention": any(found)})  # fmt: skip
    elif looks:
        _print(looks, found)
    else:
        print(f"no queues under {place}; a queue appears with its first put or its first worker")
    return ATTENTION if any(found) else FINE


def _look_twice(queues: list[Queue], interval: float) -> list[Look]:
    if not 0 < interval <= 60:
        raise ConfigError(f"--interval {interval:g}: must be a number of seconds above 0, at most 60")
    before = [look(queue).now for queue in queues]
    time.sleep(interval)
    return [look(queue, then) for queue, then in zip(queues, before, strict=True)]


def as_json(seen: Look, found: list[Trouble]) -> dict[str, Any]:
    """One queue; what is not known is null."""
    options, going, left = seen.queue.options, seen.rates, seen.drained_in
    return {
        "queue": seen.queue.name,
        "key": options.keys.ready,
        "codec": options.named_codec,
        "ready": seen.sizes.ready,
        "doing": seen.sizes.doing,
        "later": seen.sizes.later,
        "due": seen.pulse.due,
        "dead": seen.sizes.dead,
        "oldest_ms": seen.pulse.oldest_ms,
        "rates": going and {
            "over_ms": going.over_ms, "in": going.come, "out": going.out, "failing": going.failing
        },
        "drained_in_ms": None if left is None else round(left),
        "live": seen.live,
        "stale": seen.stale,
        "consumers": [
            {
                "name": c.name,
                "state": state(c),
                "lease_ms": c.lease_ms,
                "doing": c.doing,
                "inbox": c.inbox,
                "who": c.who,
                "pid": pid_of(c),
            }
            for c in seen.consumers
        ],
        "schedules": seen.schedules.schedules,
        "next_tick_ms": seen.schedules.next_tick and seen.schedules.next_tick - seen.pulse.now,
        "exclusive": seen.lock and seen.lock._asdict(),
        "gate": seen.gate._asdict(),
        "verdict": _verdict_json(seen, found),
        "attention": [trouble._asdict() for trouble in found],
    }  # fmt: skip


def _verdict_json(seen: Look, found: list[Trouble]) -> dict[str, Any]:
    code, reason = verdict(seen, found)
    remedy = found[0].next if found else Reason[code].remedy if code else ""
    return {"code": code, "reason": reason, "next": remedy}


def verdict(seen: Look, found: list[Trouble]) -> tuple[str | None, str]:
    """How the queue is: a code, if there is something to say with one, and a few words."""
    going = seen.rates
    if found:
        return found[0].code, found[0].reason
    if seen.gate.paused is not None:
        return str(Reason.PAUSED), str(seen.gate)
    if not seen.waiting:
        return None, "at work" if seen.sizes.doing else "idle"
    if seen.drained_in is not None:
        return None, f"drains in about {text.duration(seen.drained_in)}"
    if going is None or going.come is None:
        return None, "at work; how fast is not known yet"
    if going.out == 0 and going.failing is None:
        over = text.duration(going.over_ms)
        return str(Reason.CONSUMERS_STALLED), f"no handler has ended in the last {over}: they take long, or hang"
    grows = going.come - going.out
    if grows > 0:
        return str(Reason.BACKLOG_GROWS), f"grows by {_rate(grows)} messages a second"
    return None, "does not get shorter"


def _print(looks: list[Look], found: list[list[Trouble]]) -> None:
    print("\n".join(_table(looks, found)))


def _table(looks: list[Look], found: list[list[Trouble]]) -> Iterator[str]:
    """All queues as lines of text: a row, who works, what needs attention."""
    width = max(12, *(len(seen.queue.name) for seen in looks))
    heads = ("ready", "doing", "later", "dead", "oldest", "in/s", "out/s", "failing")
    yield f"{'queue':<{width}} {' '.join(f'{head:>9}' for head in heads)}  consumers"
    for seen, wrong in zip(looks, found, strict=True):
        stale = f", {seen.stale} stale" if seen.stale else ""
        row = " ".join(f"{cell:>9}" for cell in cells(seen))
        yield f"{text.safe(seen.queue.name):<{width}} {row}  {seen.live} live{stale}"
        shown = [c for c in seen.consumers if state(c) in ("live", "leaving") or held(c)]
        yield from (f"  {_line(consumer)}" for consumer in shown[:_SHOWN])
        if seen.lock is not None:
            what = (
                f"{text.number(seen.lock.in_hand, 'message')} of batch {seen.lock.batch} in hand, in their place"
            )
            yield text.safe(f"  {seen.lock.holder} holds the queue exclusively, {what}")
        if seen.schedules.schedules:
            yield f"  {text.number(seen.schedules.schedules, 'schedule')}{_next_tick(seen)}"
        if seen.gate != gate.Gate():
            yield text.safe(f"  {seen.gate}")
        if len(shown) > _SHOWN:
            yield f"  and {len(shown) - _SHOWN} more (--json lists all)"
        if not wrong:
            code, reason = verdict(seen, wrong)
            yield text.safe(f"  {code}: {reason}. Next: {Reason[code].remedy}" if code else f"  {reason}")
        yield from (f"! {trouble.code}: {trouble.reason}. Next: {trouble.next}" for trouble in wrong)


def _next_tick(seen: Look) -> str:
    tick = seen.schedules.next_tick
    return "" if tick is None else f", the next tick in {text.duration(max(0, tick - seen.pulse.now))}"


def cells(seen: Look) -> Iterator[str]:
    """Depth by state, the age of the next message, rates and the failing share."""
    yield from (f"{n:,}" for n in (seen.sizes.ready, seen.sizes.doing, seen.sizes.later, seen.sizes.dead))
    yield "-" if seen.pulse.oldest_ms is None else text.duration(seen.pulse.oldest_ms)
    going = seen.rates
    yield _rate(going and going.come)
    yield _rate(going and going.out)
    yield "?" if going is None or going.failing is None else f"{going.failing:.1%}"


def _rate(rate: float | None) -> str:
    """``?``: not known."""
    return "?" if rate is None else f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"


def _line(consumer: ConsumerInfo) -> str:
    over = consumer.lease_ms <= 0
    lease = f"lease over for {text.duration(-consumer.lease_ms)}" if over else (
        f"lease {text.duration(consumer.lease_ms)} left")  # fmt: skip
    who = f", {consumer.who}" if consumer.who else ""
    return text.safe(f"{state(consumer):<8} {consumer.name}  holds {held(consumer)}, {lease}{who}")


VERB = Verb(
    name="status",
    summary="how many messages are where, how fast they go, who works, what needs attention",
    details="Exit status 1 if there are dead letters, messages held by workers that are gone, messages and no "
    "live consumer, or messages of a type that no worker handles.",
    example="reliq status --queue emails",
    configure=configure,
    run=run,
    queue_help="only this queue (default: all that are known)",
    many_queues=True,
)
