"""``reliq cancel`` and ``reliq reschedule``: what becomes of messages that wait, by their id."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from reliq.cli import filters, logs, text
from reliq.cli.failure import ATTENTION, FINE
from reliq.cli.place import Place, again
from reliq.cli.verb import Verb
from reliq.errors import ConfigError
from reliq.identity import caller
from reliq.sync.queue import Queue


def configure_cancel(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("ids", nargs="+", metavar="ID", help="of a message, as its put returned it, or the text of your own")
    add("--by", default="", metavar="NAME", help="who cancels them, for explain and the ledger")


def cancel(args: argparse.Namespace) -> int:
    """Cancel messages; exit status 1 if one of them is nowhere."""
    caller(args.by)
    return _each(
        args, "cancelled", "is not here", lambda queue, id: queue.cancel(id, by=args.by or "reliq cancel")
    )


def configure_reschedule(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("ids", nargs="+", metavar="ID", help="of a message, as its put returned it, or the text of your own")
    add("--in", dest="delay", metavar="TIME", help="due after so long: 90s, 15m, 2h, 3d")
    add("--at", metavar="TIME", help="due at this time: 2030-01-31T08:00:00+01:00")


def reschedule(args: argparse.Namespace) -> int:
    """Give messages another time; exit status 1 if one of them waits nowhere."""
    if (args.delay is None) == (args.at is None):
        raise ConfigError("reschedule needs --in or --at, one of them, as in: reliq reschedule ID --in 10m")
    at = filters.moment(args.at)
    delay = None if args.delay is None else filters.duration(args.delay, "--in")
    return _each(args, "rescheduled", "does not wait", lambda queue, id: queue.reschedule(id, delay=delay, at=at))


def _each(args: argparse.Namespace, done: str, why_not: str, act: Callable[[Queue, str], bool]) -> int:
    """One after the other, each told as it is done."""
    logs.set_up_plain()
    queue = Place.of(args).one(args.queue)
    outcomes = {}
    for id in dict.fromkeys(args.ids):
        outcomes[id] = act(queue, id)
        if not args.json:
            look = again(args, f"explain {text.safe(id)}", queue.name)
            told = done if outcomes[id] else f"not {done}: it {why_not}; see {look}"
            print(f"{text.safe(id)}: {told}", flush=True)
    if args.json:
        text.print_json({"queue": queue.name, done: outcomes})
    return FINE if all(outcomes.values()) else ATTENTION


CANCEL = Verb(
    name="cancel",
    summary="see to it that messages are not handled (again)",
    details="Those that wait are taken out; handlers that have one are told, and it ends with them. Exit status 1 "
    "if one of them is not here: it is done, dead, or was never put.",
    example="reliq cancel 0198c1f2a3b47c5d8e9f0a1b2c3d4e5f --queue emails --by ada",
    configure=configure_cancel,
    run=cancel,
    queue_help="where they are (default: the only one that there is)",
)

RESCHEDULE = Verb(
    name="reschedule",
    summary="give messages that wait another time",
    details="They become due then, by the server's clock, also if they were ready already. Exit status 1 if one "
    "of them does not wait.",
    example="reliq reschedule 0198c1f2a3b47c5d8e9f0a1b2c3d4e5f --queue emails --in 10m",
    configure=configure_reschedule,
    run=reschedule,
    queue_help="where they are (default: the only one that there is)",
)
