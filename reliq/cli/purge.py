"""``reliq purge``: remove what waits, after a question, and with an export if wanted."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from io import FileIO

from reliq import identity
from reliq.cli import letters, logs, progress, text
from reliq.cli.failure import ATTENTION, FINE
from reliq.cli.place import Place, again
from reliq.cli.progress import Bar
from reliq.cli.verb import Verb
from reliq.core.dead import Letter
from reliq.core.purge import STATES, Purged, letter_of, purge_g
from reliq.errors import ConfigError, ReliqError
from reliq.sync.queue import Queue


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--state", action="append", choices=STATES, default=[], help="only this (default: both)")
    add("--export", metavar="FILE", help="write them there first, part by part; the file must not be there yet")
    add("--by", default="", metavar="NAME", help="who purges, for the ledger")
    add("--yes", action="store_true", help="do not ask")


def run(args: argparse.Namespace) -> int:
    """Purge a queue."""
    logs.set_up_plain()
    queue = Place.of(args).one(args.queue)
    states = tuple(args.state) or STATES
    size = queue.size()
    if not (args.yes or _agrees(queue, {state: getattr(size, state) for state in states})):
        print("Nothing was removed.", file=sys.stderr)
        return ATTENTION
    caller, token = identity.caller(args.by or "reliq purge", "purge"), identity.consumer_name()
    with ExitStack() as stack:
        sink = None
        if args.export is not None:
            file = stack.enter_context(_new(args.export))
            bar = progress.bar(
                args, f"queue {queue.name}: exported", lambda: sum(getattr(size, s) for s in states)
            )
            sink = _exporter(queue, caller.name, file, stack.enter_context(bar))
        removed = queue.links.flow(purge_g(queue.options.keys, states, caller, token, sink))
    if args.json:
        text.print_json({"queue": queue.name, "removed": removed, "export": args.export})
        return FINE
    print(f"{text.safe(queue.name)}: {text.number(removed, 'message')} removed")
    if args.export is not None:
        back = again(args, f"dead import {text.safe(args.export)}", queue.name)
        print(f"  to have them back, as dead letters, to be revived: {back}")
    return FINE


def _agrees(queue: Queue, counts: dict[str, int]) -> bool:
    """Ask; ConfigError if there is nobody to ask."""
    what = " and ".join(f"{count:,} {state}" for state, count in counts.items())
    if not sys.stdin.isatty():
        raise ConfigError(f"purge would remove {what} of queue {queue.name!r} for good, and asks first; use --yes")
    question = f"Remove {what} of queue {text.safe(queue.name)} for good? Type its name: "
    print(question, end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip() == queue.name


def _new(path: str) -> FileIO:
    try:
        return open(path, "xb", buffering=0)
    except OSError as error:
        raise ConfigError(f"--export {path}: {error.strerror}; name a file that is not there yet") from error


def _exporter(queue: Queue, who: str, file: FileIO, bar: Bar) -> Callable[[Sequence[Purged]], None]:
    """What writes down a part before it is removed."""

    fresh = identity.Ids()

    def export(part: Sequence[Purged]) -> None:
        try:
            for purged in part:
                letter = Letter.read(letter_of(who, purged, fresh.one()), str(time.time_ns() // 1_000_000))
                line = letters.line_of(queue.name, letters.with_body(queue, letter))
                file.write(line.encode() + b"\n")
            os.fsync(file.fileno())
            bar.add(len(part))
        except OSError as error:
            raise ReliqError(
                f"purge: the export failed ({error}). What was not written was not removed, but is set aside: "
                "make room, and purge again with --export and another file"
            ) from error

    return export


VERB = Verb(
    name="purge",
    summary="remove all that waits in a queue, for good",
    details="It is taken out in one step; what is in hand, dead, or put meanwhile, stays. With --export it can be "
    "imported as dead letters, and revived.",
    example="reliq purge --queue emails --export emails.jsonl",
    configure=configure,
    run=run,
    queue_help="which one (default: the only one that there is)",
)
