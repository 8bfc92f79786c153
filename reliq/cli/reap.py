"""``reliq reap``: one pass of the reaper; safe in any number at once, made for cron."""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Final

from reliq.cli import logs, text
from reliq.cli.failure import ATTENTION, FINE
from reliq.cli.place import Place, again
from reliq.cli.verb import Verb
from reliq.core import reaping
from reliq.core.reaping import ReapReport
from reliq.errors import AccessDenied, OutcomeUnknown, ReliqError, Unavailable
from reliq.sync.queue import Queue
from reliq.sync.reaper import Reaper

#: Seconds for the search for lists without a registration, over all queues; 1,000 keys take about 0.3 ms.
SCAN_SECONDS: Final = 10.0
_SCAN_STEPS: Final = 10


@dataclass
class Pass:
    """What one pass did in one queue; ``searched``: whether the search for stray lists came to its end."""

    queue: Queue
    report: ReapReport
    searched: bool = False

    @property
    def needs_attention(self) -> bool:
        """A pass that brought back messages is fine; one that could not, or dead-lettered, is not."""
        return bool(self.report.errors or self.report.buried)

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self.report), "searched": self.searched}


def configure(parser: argparse.ArgumentParser) -> None:
    del parser  # it has no options of its own


def run(args: argparse.Namespace) -> int:
    """One pass over the named queues, or all. A queue that cannot be reaped does not keep others from it."""
    logs.set_up_plain()
    place = Place.of(args)
    passes = [_reap(queue) for queue in place.choose(args.queue)]
    _search(passes)
    attention = any(p.needs_attention for p in passes)
    if args.json:
        text.print_json({"queues": [p.as_json() for p in passes], "attention": attention})
    elif passes:
        for each in passes:
            print("\n".join(_lines(each, args)))
    else:
        print(f"no queues under {place}: nothing to reap")
    return ATTENTION if attention else FINE


def _reap(queue: Queue) -> Pass:
    each = Pass(queue, ReapReport(queue.name))
    with _noting_errors(each):
        each.report.add(Reaper(queue, scan_steps=0).run_once())
    return each


@contextmanager
def _noting_errors(each: Pass) -> Iterator[None]:
    """Let what is wrong with one queue go into its report; what is wrong with Redis ends the command."""
    try:
        yield
    except (Unavailable, AccessDenied, OutcomeUnknown):
        raise
    except ReliqError as error:
        each.report.errors.append(" ".join(str(error).split()))


def _search(passes: list[Pass]) -> None:
    """Look for lists without a registration. In random order, so that on a Redis too large for the time
    every queue has its turn in one of the next runs."""
    deadline = time.monotonic() + SCAN_SECONDS
    for each in random.sample(passes, len(passes)):
        cursor = -1
        while cursor and time.monotonic() < deadline and not each.report.errors:
            with _noting_errors(each):
                cursor = _search_on(each, max(cursor, 0))
        each.searched = cursor == 0


def _search_on(each: Pass, cursor: int) -> int:
    options, links = each.queue.options, each.queue.links
    report, cursor = links.flow(
        reaping.adopt_strays_g(
            options.keys,
            cursor,
            _SCAN_STEPS,
            lease=options.lease,
            server=links.server.identity,
            max_losses=options.max_losses,
        )
    )
    each.report.add(report)
    return cursor


def _lines(each: Pass, args: argparse.Namespace) -> list[str]:
    report, name = each.report, text.safe(each.queue.name)
    lines = [f"queue {name}: {text.number(report.returned, 'message')} back to ready"]
    if report.consumers:
        lines.append(f"  held by {_names(report.consumers)}, whose lease was over")
    if report.waiting:
        lines.append(
            f"  left alone: {_names(report.waiting)}; Redis has not been seen up for one lease, "
            "the next pass takes them"
        )
    if report.adopted:
        lines.append(f"  found without a registration: {_names(report.adopted)}; they get one lease, then go back")
    if not each.searched and not report.errors:
        lines.append(f"  not all keys were searched in {SCAN_SECONDS:.0f} s; the next runs go on")
    if report.buried:
        lines.append(
            f"! {text.number(report.buried, 'message')} dead-lettered as POISON (every worker that had it died): "
            f"{again(args, 'dead ls --cause POISON', each.queue.name)}"
        )
    lines += [f"! could not be reaped: {text.safe(error)}" for error in report.errors]
    return lines


def _names(names: list[str]) -> str:
    return ", ".join(map(text.safe, names))


VERB = Verb(
    name="reap",
    summary="bring back what dead workers held (one pass, for cron)",
    details="Running workers do this by themselves; cron does it where none may be left. "
    "Any number may run at once. See scripts/reap.cron.",
    example="reliq reap --url redis://localhost:6379/0",
    configure=configure,
    run=run,
    queue_help="only this queue (default: all that are known)",
    many_queues=True,
)
