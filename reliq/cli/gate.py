"""``reliq pause``, ``drain``, ``resume`` and ``limit``: what may be put and claimed, by all together."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any, Final

from reliq.cli import failure, logs, text
from reliq.cli.failure import FINE
from reliq.cli.place import Place
from reliq.cli.verb import Verb
from reliq.core import flows
from reliq.errors import ConfigError
from reliq.sync.queue import Queue

_WHICH: Final = "which one (default: the only one that there is)"
#: Between two looks of ``drain --wait``, seconds.
_LOOK: Final = 1.0

_LIMITS = ("rate", "burst", "concurrency", "tenant_rate", "tenant_burst", "tenant_concurrency")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--by", default="", metavar="NAME", help="who says so, for status, explain and the ledger")


def configure_drain(parser: argparse.ArgumentParser) -> None:
    configure(parser)
    parser.add_argument("--wait", action="store_true", help="until nothing is ready, in hand or due later")


def configure_limit(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--rate", metavar="N", help="messages a second, of all workers together: 100, 0.5, or 30/m, 1000/h")
    add("--burst", metavar="N", type=int, help="so many at once after a rest (default: what a second brings)")
    add("--concurrency", metavar="N", type=int, help="messages in hand at once, of all workers together")
    add("--tenant-rate", metavar="N", help="the same for each tenant (put with tenant=), beside that")
    add("--tenant-burst", metavar="N", type=int, help="so many of a tenant at once after a rest")
    add("--tenant-concurrency", metavar="N", type=int, help="messages of each tenant in hand at once")
    add("--off", action="store_true", help="no limits any more")
    configure(parser)


def pause(args: argparse.Namespace) -> int:
    """Pause a queue."""
    return _done(args, lambda queue: queue.pause(by=args.by or "reliq pause"))


def drain(args: argparse.Namespace) -> int:
    """Let a queue take no more puts; with --wait, until nothing is left."""
    status = _done(args, lambda queue: queue.drain(by=args.by or "reliq drain"))
    if args.wait:
        _wait(args, Place.of(args).one(args.queue))
    return status


def _wait(args: argparse.Namespace, queue: Queue) -> None:
    """Until nothing is left, and say once that nobody is at it, if that is so."""
    seen, is_told = None, False
    while sum((size := queue.size())[:3]):  # dead letters stay
        if size != seen and not args.json:
            print(f"{size.ready:,} ready, {size.doing:,} in hand, {size.later:,} later", flush=True)
        elif size == seen and not is_told and not _is_attended(queue):
            failure.say(f"nobody works on queue {queue.name!r}: start a worker, and this ends when it is through")
            is_told = True
        seen = size
        time.sleep(_LOOK)


def _is_attended(queue: Queue) -> bool:
    consumers = queue.links.flow(flows.consumers_g(queue.options.keys))
    return any(c.lease_ms > 0 and not (c.dead or c.quiet) for c in consumers)


def resume(args: argparse.Namespace) -> int:
    """Let a queue go on."""
    return _done(args, lambda queue: queue.resume(by=args.by or "reliq resume"))


def limit(args: argparse.Namespace) -> int:
    """Set the limits of a queue; without any, show what there is."""
    said: dict[str, Any] = {name: getattr(args, name) for name in _LIMITS}
    if args.off and any(word is not None for word in said.values()):
        raise ConfigError("limit --off takes all limits away; leave out --rate, --concurrency and the others")
    if not args.off and all(word is None for word in said.values()):
        return _show_limits(args)
    for name in ("rate", "tenant_rate"):
        if said[name] is not None:
            said[name] = _rate(name, said[name])
    return _done(args, lambda q: q.limit(**said, by=args.by or "reliq limit"))


def _rate(name: str, said: str) -> float:
    """Messages a second."""
    count, _, per = said.partition("/")
    seconds = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}.get(per)
    try:
        return float(count) / (seconds or 0)
    except (ValueError, ZeroDivisionError):
        raise ConfigError(
            f"--{name.replace('_', '-')} {said}: messages a second, or 30/m, 1000/h, 5000/d"
        ) from None


def _show_limits(args: argparse.Namespace) -> int:
    if args.json:
        return _done(args, lambda queue: False)
    logs.set_up_plain()
    queue = Place.of(args).one(args.queue)
    gate = queue.gate()
    limited = any(getattr(gate, name) is not None for name in _LIMITS)
    print(text.safe(f"{queue.name}: {gate}{'' if limited else ', no limits'}"))
    return FINE


def _done(args: argparse.Namespace, act: Callable[[Queue], bool]) -> int:
    logs.set_up_plain()
    queue = Place.of(args).one(args.queue)
    changed = act(queue)
    gate = queue.gate()
    if args.json:
        text.print_json({"queue": queue.name, "changed": changed, "gate": gate._asdict()})
    else:
        print(text.safe(f"{queue.name}: {gate}{'' if changed else ', as before'}"))
    return FINE


PAUSE = Verb(
    name="pause",
    summary="let nobody claim from a queue until it is resumed",
    details="What is in hand is finished, and puts are accepted. All workers see it within a second.",
    example="reliq pause --queue emails --by ada",
    configure=configure,
    run=pause,
    queue_help=_WHICH,
)

DRAIN = Verb(
    name="drain",
    summary="let a queue take no more puts, and be worked off",
    details="Puts are refused from now on; workers go on with what is there. reliq resume ends it.",
    example="reliq drain --queue emails --wait",
    configure=configure_drain,
    run=drain,
    queue_help=_WHICH,
)

RESUME = Verb(
    name="resume",
    summary="let a paused queue go on, and a drained one take puts",
    details="All workers see it within a second.",
    example="reliq resume --queue emails",
    configure=configure,
    run=resume,
    queue_help=_WHICH,
)

LIMIT = Verb(
    name="limit",
    summary="limit what all workers of a queue claim together, or show the limits",
    details="A limit that is not named is taken away. They stand in Redis, until somebody says otherwise.",
    example="reliq limit --queue emails --rate 100 --concurrency 10",
    configure=configure_limit,
    run=limit,
    queue_help=_WHICH,
)
