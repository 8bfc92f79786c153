"""``reliq fsck``: whether everything that stands in Redis is whole, and what it takes to mend it."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from reliq.cli import logs, progress, text
from reliq.cli.failure import ATTENTION, FINE
from reliq.cli.place import ForeignCodec, Place, again
from reliq.cli.verb import Verb
from reliq.core.fsck import Finding, Scan
from reliq.core.fsck.finding import Context
from reliq.core.fsck.scan import Looked
from reliq.errors import AccessDenied, OutcomeUnknown, ReliqError, Unavailable
from reliq.identity import consumer_name
from reliq.sync.queue import Queue

#: Findings that are printed without --json; of the others only the number.
_SHOWN: Final = 20
#: A repair can bring to light what stood behind it, such as the entries of a key that nobody could read.
_ROUNDS: Final = 20


@dataclass
class Outcome:
    """What became of one finding. ``repaired``: None if that was not asked for, or cannot be."""

    finding: Finding
    repaired: bool | None = None
    error: str = ""

    @property
    def is_left(self) -> bool:
        """Whether it still is as it was; what moved on by itself meanwhile is not."""
        return self.repaired is None or bool(self.error)


@dataclass
class Report:
    """What a scan of one queue found. ``error``: why it did not come to its end."""

    queue: Queue
    looked: Looked = field(default_factory=Looked)
    outcomes: list[Outcome] = field(default_factory=list)
    error: str = ""

    @property
    def left(self) -> int:
        """How many findings are as they were."""
        return sum(outcome.is_left for outcome in self.outcomes)

    @property
    def needs_attention(self) -> bool:
        return bool(self.left or self.error or not self.looked.whole)


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--repair", action="store_true", help="do what is said without it; every step is atomic")


def run(args: argparse.Namespace) -> int:
    """Scan the named queues, or all. Exit status 0: everything is whole (now), 1: something is not."""
    logs.set_up_plain()
    place = Place.of(args)
    known = frozenset(entry.name for entry in place.known())
    reports = [_examine(queue, known, args) for queue in place.choose(args.queue)]
    attention = any(report.needs_attention for report in reports)
    if args.json:
        queues = [_as_json(report) for report in reports]
        text.print_json({"repair": args.repair, "queues": queues, "attention": attention})
    elif reports:
        for report in reports:
            print("\n".join(text.safe(line) for line in _lines(report, args)))
    else:
        print(f"no queues under {place}: nothing to look at")
    return ATTENTION if attention else FINE


# -- one queue ----------------------------------------------------------------------------------------------


def _examine(queue: Queue, known: frozenset[str], args: argparse.Namespace) -> Report:
    """Scan a queue, and mend it if that is wanted. What is wrong with one does not keep others from it."""
    report = Report(queue)
    try:
        for _ in range(_ROUNDS):
            scan = _scan_of(queue, known - {queue.name})
            findings = list(_confirmed(queue, _suspicions(queue, scan, args)))
            report.looked = scan.looked
            report.outcomes = [o for o in report.outcomes if not o.is_left]
            outcomes = [_mend(queue, finding) if args.repair else Outcome(finding) for finding in findings]
            report.outcomes += outcomes
            if not any(outcome.repaired for outcome in outcomes):
                break
    except (Unavailable, AccessDenied, OutcomeUnknown):
        raise
    except ReliqError as error:
        report.error = " ".join(str(error).split())
    return report


def _suspicions(queue: Queue, scan: Scan, args: argparse.Namespace) -> Sequence[Finding]:
    with progress.bar(args, f"queue {queue.name}: looking", lambda: sum(queue.size())) as bar:
        flow = progress.watched_g(scan.suspicions_g(), lambda: bar.to(sum(scan.looked.entries.values())))
        return queue.links.flow(flow)


def _scan_of(queue: Queue, neighbours: frozenset[str]) -> Scan:
    options = queue.options
    foreign = isinstance(options.codec, ForeignCodec)
    context = Context(
        options.keys, consumer_name(), queue.links.server.identity, options.lease, options.max_losses
    )
    return Scan(
        context,
        neighbours=neighbours,
        codec=None if foreign else options.codec,
        raw_codec=None if foreign else options.raw_codec,
    )


def _confirmed(queue: Queue, suspicions: Sequence[Finding]) -> Iterator[Finding]:
    """Those that are still so at a second look, after each had the time to move on."""
    started = time.monotonic()
    for finding in sorted(suspicions, key=lambda finding: finding.patience):
        time.sleep(max(0.0, started + finding.patience - time.monotonic()))
        if queue.links.flow(finding.look_g()):
            yield finding


def _mend(queue: Queue, finding: Finding) -> Outcome:
    if not finding.repairable:
        return Outcome(finding)
    try:
        return Outcome(finding, queue.links.flow(finding.repair_g()))
    except (Unavailable, AccessDenied, OutcomeUnknown):
        raise
    except ReliqError as error:
        return Outcome(finding, False, " ".join(str(error).split()))


# -- telling it ---------------------------------------------------------------------------------------------


def _as_json(report: Report) -> dict[str, Any]:
    looked = report.looked
    return {
        "queue": report.queue.name,
        "clean": not report.outcomes and not report.needs_attention,
        "left": report.left,
        "looked": {
            **{state: looked.entries[state] for state in ("ready", "inbox", "doing", "later", "dead")},
            "consumers": looked.consumers,
            "keys": looked.keys,
            "whole": looked.whole,
        },
        "findings": [
            {
                "code": outcome.finding.code,
                "key": outcome.finding.key,
                "id": outcome.finding.id or None,
                "evidence": outcome.finding.evidence,
                "action": outcome.finding.action,
                "repairable": outcome.finding.repairable,
                "repaired": outcome.repaired,
                "error": outcome.error or None,
            }
            for outcome in report.outcomes
        ],
        "error": report.error or None,
    }


def _lines(report: Report, args: argparse.Namespace) -> Iterator[str]:
    looked, entries = report.looked, report.looked.entries
    where = ", ".join(f"{entries[state]:,} {state}" for state in ("ready", "inbox", "doing", "later", "dead"))
    result = text.number(len(report.outcomes), "finding") if report.outcomes else "clean"
    what = f"{text.number(looked.consumers, 'consumer')}, {text.number(looked.keys, 'key')}"
    yield f"queue {report.queue.name}: {where}; {what}: {result}"
    for outcome in report.outcomes[:_SHOWN]:
        finding = outcome.finding
        yield f"! {finding.code}: {finding.evidence}"
        yield f"  {_said(outcome)}"
    if len(report.outcomes) > _SHOWN:
        yield f"  and {len(report.outcomes) - _SHOWN:,} more (--json lists all)"
    if not looked.whole:
        yield "! there is more of this kind than one scan keeps; say the same again"
    if report.error:
        yield f"! the scan did not come to its end: {report.error}"
    if any(outcome.finding.repairable and outcome.repaired is None for outcome in report.outcomes):
        yield f"Next: {again(args, 'fsck --repair', report.queue.name)}"


def _said(outcome: Outcome) -> str:
    """What a repair does, would do, or did."""
    action = outcome.finding.action
    if not outcome.finding.repairable:
        return f"by hand: {action}"
    if outcome.error:
        return f"not repaired ({outcome.error}): {action}"
    if outcome.repaired is None:
        return f"a repair would {action}"
    return f"done ({action})" if outcome.repaired else "moved on by itself meanwhile: nothing was to be done"


VERB = Verb(
    name="fsck",
    summary="whether everything in Redis is whole, and mend it",
    details="Reads everything that a queue has in Redis, in small steps, also while workers work: what is only on "
    "its way is looked at again before it is called a finding. Says what a repair would do; --repair does it and "
    "writes it into the queue's ledger. Exit status 0 if all is whole, or is so again; 1 if something is left.",
    example="reliq fsck --queue emails --repair",
    configure=configure,
    run=run,
    queue_help="only this queue (default: all that are known)",
    many_queues=True,
)
