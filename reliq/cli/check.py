"""``reliq check``: an exit status for probes and monitors. Not whether a process exists: whether Redis
answers, claim loops go on, and the queue is within its limits."""

from __future__ import annotations

import argparse
from typing import Any, Final, NamedTuple

from reliq.cli import logs, text
from reliq.cli.failure import ATTENTION, FINE
from reliq.cli.place import Place, again
from reliq.cli.verb import Verb
from reliq.core.pulse import EVERYBODY, Choice, Limits, Pulse, Trouble, pulse_g, troubles
from reliq.core.reasons import Reason
from reliq.errors import ConfigError
from reliq.identity import host_name
from reliq.sync.queue import Queue

_START: Final = "start one: reliq worker MODULE:HANDLER"


class Look(NamedTuple):
    """A queue, its pulse, and what is wrong with it."""

    queue: Queue
    pulse: Pulse
    wrong: list[Trouble]


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--min-workers", type=int, metavar="N", help="so many claim loops go on (default: 1 if there is work)")
    add("--host-only", action="store_true", help="only workers of this host, as a probe in a pod wants it")
    add("--pid", type=int, metavar="PID", help="only the worker process of this id on this host")
    add("--worker", metavar="NAME", help="only workers of this --name, or the consumer of this name")
    add("--max-age", type=float, metavar="SECONDS", help="the message that is next was put at most so long ago")
    add("--max-depth", type=int, metavar="N", help="at most so many messages are ready or due")
    add("--max-dead", type=int, metavar="N", help="at most so many dead letters")


def run(args: argparse.Namespace) -> int:
    """Look at the named queues, or all; exit status 1 if something is not within its limits."""
    logs.set_up_plain()
    limits = _limits(args)
    place = Place.of(args)
    looks = [_look(queue, limits) for queue in place.choose(args.queue)]
    if args.json:
        text.print_json(
            {
                "prefix": place.prefix,
                "redis": place.links.address.label,
                "queues": [_as_json(look, args) for look in looks],
                "attention": any(look.wrong for look in looks),
            }
        )
    else:
        print("\n".join(line for look in looks for line in _lines(look, args)) or f"no queues under {place}")
    return ATTENTION if any(look.wrong for look in looks) else FINE


def _limits(args: argparse.Namespace) -> Limits:
    for name in ("min_workers", "max_age", "max_depth", "max_dead"):
        value = getattr(args, name)
        if value is not None and not 0 <= value < float("inf"):
            raise ConfigError(f"--{name.replace('_', '-')} {value}: not negative. See reliq check --help")
    here = args.host_only or args.pid is not None
    choice = Choice(host=host_name() if here else None, pid=args.pid, worker=args.worker)
    if choice != EVERYBODY and not args.queue:
        option = "--worker" if args.worker is not None else "--pid" if args.pid is not None else "--host-only"
        raise ConfigError(f"{option} is about the workers of a queue; name it with --queue")
    return Limits(args.max_age, args.max_depth, args.max_dead, args.min_workers, choice)


def _look(queue: Queue, limits: Limits) -> Look:
    pulse: Pulse = queue.links.flow(pulse_g(queue.options.keys, limits.choice))
    return Look(queue, pulse, list(troubles(pulse, limits)))


def _next(trouble: Trouble, queue: str, args: argparse.Namespace) -> str:
    """What to type, or to do."""
    if trouble.code is Reason.DEAD_LETTERS:
        return again(args, "dead ls", queue)
    if trouble.code in (Reason.NO_CONSUMERS, Reason.TOO_FEW_WORKERS):
        return f"{_START}; who is there: {again(args, 'status', queue)}"
    return trouble.code.remedy


def _lines(look: Look, args: argparse.Namespace) -> list[str]:
    name, pulse = look.queue.name, look.pulse
    if look.wrong:
        found = (f"queue {name}: {code}: {seen}. Next: {_next(Trouble(code, seen), name, args)}"
                 for code, seen in look.wrong)  # fmt: skip
        return [f"! {text.safe(line)}" for line in found]
    oldest = f", the next was put {text.duration(pulse.oldest_ms)} ago" if pulse.oldest_ms is not None else ""
    working = sum(beat.goes_on for beat in pulse.beats)
    return [text.safe(f"queue {name}: {text.number(working, 'consumer')} at work, {pulse.depth:,} to do{oldest}")]


def _as_json(look: Look, args: argparse.Namespace) -> dict[str, Any]:
    pulse, name = look.pulse, look.queue.name
    return {
        "queue": name,
        "ready": pulse.ready,
        "due": pulse.due,
        "later": pulse.later,
        "dead": pulse.dead,
        "oldest_ms": pulse.oldest_ms,
        "lapsed": pulse.lapsed,
        "consumers": [
            {
                "name": beat.name,
                "who": beat.who,
                "lease_ms": beat.left_ms,
                "silent_ms": beat.silent_ms,
                "leaving": beat.leaving,
                "goes_on": beat.goes_on,
            }
            for beat in pulse.beats
        ],
        "attention": [
            {"code": trouble.code, "reason": trouble.seen, "next": _next(trouble, name, args)}
            for trouble in look.wrong
        ],
    }


VERB = Verb(
    name="check",
    summary="for probes and monitors: do claim loops go on, is it within limits",
    details="Exit status 1 if one of them does not, if nobody is there for what waits, or if a limit that you "
    "name is passed; 3 if Redis does not answer. It takes a few round trips and changes nothing.",
    example="reliq check --queue orders --max-age 600 --max-depth 10000",
    configure=configure,
    run=run,
    queue_help="only this queue (default: all that are known)",
    many_queues=True,
)
