"""``reliq status``: how many messages are where, who works on them, and what needs attention."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from reliq.cli import logs, text
from reliq.cli.failure import ATTENTION, FINE
from reliq.cli.place import Place, again
from reliq.cli.verb import Verb
from reliq.core import flows, ops
from reliq.core.command import Command, Flow
from reliq.core.flows import ConsumerInfo
from reliq.core.keys import Keys
from reliq.sync.queue import Queue

#: What put.lua rings an idle consumer with; it is no message.
BELL: Final = b"\xc1rlq\0"
_SHOWN: Final = 20


class Trouble(NamedTuple):
    """One thing that needs attention. ``code`` is stable; ``next`` is what to type."""

    code: str
    reason: str
    next: str


class Look(NamedTuple):
    """One look at a queue. ``due``: of those in later, whose time has come. ``beside``: in the list that
    a queue of this name would have without ``key=``, where nobody looks for them."""

    queue: Queue
    ready: int
    later: int
    due: int
    dead: int
    consumers: list[ConsumerInfo]
    beside: int = 0

    @property
    def doing(self) -> int:
        return sum(held(c) for c in self.consumers)


def look_g(keys: Keys) -> Flow[tuple[int, int, int, int, list[ConsumerInfo]]]:
    """ready, later, due, dead and the consumers; read one after the other, so one in motion may be missed."""
    now = yield ops.server_time()
    consumers = yield from flows.consumers_g(keys)
    counts = yield [
        ops.length(keys.ready),
        ops.length(keys.later, "ZCARD"),
        Command("ZCOUNT", (keys.later,), ("-inf", now), idempotent=True, queue=keys.queue),
        ops.length(keys.dead, "ZCARD"),
        Command("LRANGE", (keys.ready,), (-1, -1), idempotent=True, queue=keys.queue),
    ]
    ready, later, due, dead, head = flows.all_of(counts)
    return ready - (head == [BELL]), later, due, dead, consumers


def look(queue: Queue) -> Look:
    """Look at a queue."""
    ready, later, due, dead, consumers = queue.links.flow(look_g(queue.options.keys))
    return Look(queue, ready, later, due, dead, consumers, _beside(queue))


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
    """What needs attention, and what to do about it."""
    name = seen.queue.name
    if seen.dead:
        what = text.number(seen.dead, "dead letter")
        yield Trouble("DEAD_LETTERS", f"{what}: given up on", again(args, "dead ls", name))
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
    waiting = seen.ready + seen.due
    if waiting and not any(state(c) == "live" for c in seen.consumers):
        reason = f"{text.number(waiting, 'message')} to do and no live consumer"
        yield Trouble("NO_CONSUMERS", reason, "start one: reliq worker MODULE:HANDLER")


def configure(parser: argparse.ArgumentParser) -> None:
    del parser  # it has no options of its own


def run(args: argparse.Namespace) -> int:
    """Look at the named queues, or all."""
    logs.set_up_plain()
    place = Place.of(args)
    looks = [look(queue) for queue in place.choose(args.queue)]
    found = [list(troubles(seen, args)) for seen in looks]
    if args.json:
        queues = [_as_json(seen, wrong) for seen, wrong in zip(looks, found, strict=True)]
        text.print_json({"prefix": place.prefix, "redis": place.links.address.label, "queues": queues,
                         "attention": any(found)})  # fmt: skip
    elif looks:
        _print(looks, found)
    else:
        print(f"no queues under {place}; a queue appears with its first put or its first worker")
    return ATTENTION if any(found) else FINE


def _as_json(seen: Look, found: list[Trouble]) -> dict[str, Any]:
    options = seen.queue.options
    return {
        "queue": seen.queue.name,
        "key": options.keys.ready,
        "codec": options.named_codec,
        "ready": seen.ready,
        "doing": seen.doing,
        "later": seen.later,
        "due": seen.due,
        "dead": seen.dead,
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
        "attention": [trouble._asdict() for trouble in found],
    }


def _print(looks: list[Look], found: list[list[Trouble]]) -> None:
    width = max(12, *(len(seen.queue.name) for seen in looks))
    print(f"{'queue':<{width}} {'ready':>9} {'doing':>9} {'later':>9} {'dead':>9}  consumers")
    for seen, wrong in zip(looks, found, strict=True):
        numbers = (seen.ready, seen.doing, seen.later, seen.dead)
        live = sum(state(c) == "live" for c in seen.consumers)
        print(f"{text.safe(seen.queue.name):<{width}} {' '.join(f'{n:>9,}' for n in numbers)}  {live} live")
        shown = [c for c in seen.consumers if state(c) in ("live", "leaving") or held(c)]
        for consumer in shown[:_SHOWN]:
            print(f"  {_line(consumer)}")
        if len(shown) > _SHOWN:
            print(f"  and {len(shown) - _SHOWN} more (--json lists all)")
        for trouble in wrong:
            print(f"! {trouble.reason}. Next: {trouble.next}")


def _line(consumer: ConsumerInfo) -> str:
    over = consumer.lease_ms <= 0
    lease = f"lease over for {text.duration(-consumer.lease_ms)}" if over else (
        f"lease {text.duration(consumer.lease_ms)} left")  # fmt: skip
    who = f", {consumer.who}" if consumer.who else ""
    return text.safe(f"{state(consumer):<8} {consumer.name}  holds {held(consumer)}, {lease}{who}")


VERB = Verb(
    name="status",
    summary="how many messages are where, who works, what needs attention",
    details="Exit status 1 if there are dead letters, messages held by workers that are gone, or messages and no "
    "live consumer.",
    example="reliq status --queue emails",
    configure=configure,
    run=run,
    queue_help="only this queue (default: all that are known)",
    many_queues=True,
)
