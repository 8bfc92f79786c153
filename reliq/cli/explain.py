"""``reliq explain``: where is my message, why, and what do I do now."""

from __future__ import annotations

import argparse
import shutil
import sys
import textwrap
import time
from collections.abc import Iterator
from dataclasses import asdict
from datetime import datetime
from typing import Final

from reliq.cli import logs, text
from reliq.cli.failure import ATTENTION, FINE
from reliq.cli.place import Place
from reliq.cli.verb import Verb
from reliq.core.explain import Explanation, Progress, explain_in_g, queues_of
from reliq.core.keys import Keys
from reliq.sync.steward import with_stack

_LABEL: Final = 10
_NARROW, _WIDE = 80, 120
#: Seconds before a long search tells how far it is, and between two lines of that for whoever reads no terminal.
_PATIENCE: Final = 1.0
_BETWEEN: Final = 5.0


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("id", metavar="ID", help="of the message, as its put returned it, or the text of your own")
    add("--quick", action="store_true", help="look only where the id says, and ask no worker where it is with it")


def run(args: argparse.Namespace) -> int:
    """Explain one message; exit status 1 if it does not go its usual way, or is nowhere."""
    logs.set_up_plain()
    place = Place.of(args)
    known = place.known()
    asked = place.one(args.queue) if args.queue or not known else None
    first = [asked.options.keys] if asked is not None else []
    queues = first + queues_of(place.prefix, known, but=asked.name if asked is not None else "")
    search = queues[:1] if args.quick and asked is not None else queues
    with _Teller() as teller:
        found = _explain(place, search, args, [entry.name for entry in known], teller)
    if not args.quick:
        keys = next(each for each in queues if each.queue == found.queue)
        found = with_stack(place.links.of(keys), keys, found)
    elsewhere = asked is not None and found.queue != asked.name
    if args.json:
        told = {"prefix": place.prefix, "asked": args.queue, **asdict(found), "remedy": found.remedy}
        told["progress"] = None if found.progress is None else str(found.progress)
        text.print_json({**told, "timeline": [happening._asdict() for happening in found.timeline]})
    else:
        if elsewhere:
            print(f"not in queue {text.safe(args.queue)}, but in {text.safe(found.queue)}:")
        print("\n".join(text.safe(line) for line in _lines(found)))
    return FINE if found.usual and not elsewhere else ATTENTION


def _explain(
    place: Place, queues: list[Keys], args: argparse.Namespace, known: list[str], teller: _Teller
) -> Explanation:
    flow = explain_in_g(queues, args.id, known, deep=not args.quick, report=teller.tell)
    return place.links.of(queues[0]).flow(flow)


class _Teller:
    """Says on stderr how far a long search is: on a terminal in one line that changes, else now and then."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._next = time.monotonic() + _PATIENCE
        self._shown = ""

    def tell(self, progress: Progress) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + (0.1 if self._terminal else _BETWEEN)
        of = f" of {progress.of:,}" if progress.of else ""
        line = text.safe(f"queue {progress.queue}: {progress.place}, {progress.looked:,}{of} looked at")
        if self._terminal:
            print(f"\r{line:<{len(self._shown)}}", end="", file=sys.stderr, flush=True)
        else:
            print(f"reliq: {line}", file=sys.stderr, flush=True)
        self._shown = line

    def __enter__(self) -> _Teller:
        return self

    def __exit__(self, *_: object) -> None:
        if self._terminal and self._shown:
            print(f"\r{'':<{len(self._shown)}}\r", end="", file=sys.stderr, flush=True)


# -- for people ---------------------------------------------------------------------------------------------


def _lines(found: Explanation) -> Iterator[str]:
    yield f"{found.id}: {found.state}, {found.reason}"
    yield from _row("queue", found.queue)
    yield from _row("where", ", ".join(_where(found)))
    yield from _row("why", found.why)
    yield from _row("again", f"{found.again}: {found.again_why}" if found.again else "")
    yield from _row("next", found.next)
    if not found.command or found.command not in found.remedy:
        yield from _row("do", found.remedy)
    if found.command:
        yield f"  {'run':<{_LABEL}}{found.command}"
    yield from _row("message", ", ".join(_message(found)))
    if found.progress is not None:
        yield from _row("progress", text.safe(str(found.progress)))
    if found.error and found.error not in found.why:
        yield from _row("error", found.error)
    if found.traceback and found.traceback not in (found.error, found.why):
        yield from _row("traceback", found.traceback)
    if found.stack:
        yield from _row("handler", f"{found.handler} is here:")
        yield from (f"{'':<{_LABEL + 2}}{line}" for line in found.stack.splitlines())
    day = ""
    for happening in found.timeline:
        at = datetime.fromtimestamp(happening.at / 1000)
        who = f" ({happening.consumer})" if happening.consumer else ""
        date = f"{at:%Y-%m-%d}"
        if date != day:
            yield from _row("timeline" if not day else "", date)
            day = date
        yield from _row("", f"{at:%H:%M:%S}.{at.microsecond // 1000:03}  {happening.told}{who}", hang=14)


def _row(label: str, value: str, *, hang: int = 0) -> Iterator[str]:
    """A label and a text that may take several lines; nothing for an empty one."""
    if value:
        first, other = f"  {label:<{_LABEL}}", " " * (2 + _LABEL + hang)
        width = min(max(shutil.get_terminal_size().columns, _NARROW), _WIDE)
        yield from textwrap.wrap(
            value, width, initial_indent=first, subsequent_indent=other, break_on_hyphens=False
        )


def _where(found: Explanation) -> Iterator[str]:
    if found.position is not None and found.length is not None:
        yield f"position {found.position:,} of {found.length:,}"
    if found.state == "doing":
        yield f"in the hands of {found.consumer}" + (f" ({found.who})" if found.who else "")
        if found.held_since is not None:
            yield f"for {text.duration(found.now - found.held_since)}"
        elif found.held_after is not None:
            yield f"for at most {text.duration(max(0, found.now - found.held_after))}"
        if found.lease_until is not None:
            yield f"its lease ends {_when(found.lease_until, found.now)}"
    if found.due_at is not None:
        yield f"due {_when(found.due_at, found.now)}"
    if found.dead_at is not None:
        yield f"dead since {_clock(found.dead_at)}" + (f", at {found.consumer}" if found.consumer else "")


def _message(found: Explanation) -> Iterator[str]:
    if found.size is None:
        return
    if found.put_at is not None:
        yield f"put {text.duration(max(0, found.now - found.put_at))} ago"
    if found.raw:
        yield "of a foreign producer"
    for name in ("type", "ordering_key", "tenant", "group"):
        if (said := getattr(found, name)) is not None:
            yield f"{name.replace('_', ' ')} {said}"
    if found.attempt is not None:
        yield f"attempt {found.attempt}"
    yield f"{found.deliveries} deliveries" if found.deliveries != 1 else "1 delivery"
    counts = (("failed", found.failed), ("released", found.released), ("lost", found.lost))
    yield from (f"{n} {what}" for what, n in counts if n)
    yield f"{found.size:,} bytes" + (f" ({found.beside:,} of them beside the list)" if found.beside else "")
    if found.trace_id:
        yield f"trace {found.trace_id}"


def _when(at: int, now: int) -> str:
    """``in 12 s (2030-01-31 08:00:12)``"""
    away = f"in {text.duration(at - now)}" if at > now else f"{text.duration(now - at)} ago"
    return f"{away} ({_clock(at)})"


def _clock(at: int) -> str:
    return datetime.fromtimestamp(at / 1000).isoformat(" ", "seconds")


VERB = Verb(
    name="explain",
    summary="where is my message, why, and what do I do now",
    details="Looks in the named queue and in all others under the prefix. Exit status 1 if the message does not "
    "go the usual way (nobody takes it, its worker is gone, it is dead), or is nowhere.",
    example="reliq explain 0198c1f2a3b47c5d8e9f0a1b2c3d4e5f --queue emails",
    configure=configure,
    run=run,
    queue_help="look here first (default: in all that are known)",
)
