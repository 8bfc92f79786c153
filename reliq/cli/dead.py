"""``reliq dead``: dead letters, counted, shown, put back, removed, carried from one Redis to another."""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Final

from reliq.cli import letters, logs, peek, progress, text
from reliq.cli.failure import ATTENTION, FINE
from reliq.cli.letters import Choice, Group
from reliq.cli.place import Place, again
from reliq.cli.progress import Bar
from reliq.cli.verb import Verb, Verbs
from reliq.core import dead, ops
from reliq.core import envelope as env
from reliq.core.dead import Event, Letter
from reliq.errors import ConfigError, ReliqError
from reliq.identity import consumer_name
from reliq.sync.queue import Queue

_RATE: Final = re.compile(r"(\d+(?:\.\d+)?)(?:/(s|min|m|h))?\Z")
_SECONDS: Final = {"s": 1, None: 1, "m": 60, "min": 60, "h": 3600}
#: How often a second letters go, if there is a rate; so many of them go together.
_BEATS: Final = 10
_SHOWN: Final = 20


def _queue(args: argparse.Namespace) -> Queue:
    logs.set_up_plain()
    return Place.of(args).one(args.queue)


def _now(queue: Queue) -> int:
    now: int = queue.links.insist(ops.server_time())
    return now


# -- ls -----------------------------------------------------------------------------------------------------


def list_groups(args: argparse.Namespace) -> int:
    """How many there are, by cause and exception."""
    queue = _queue(args)
    now = _now(queue)
    groups = letters.grouped(Choice.of(args, now).walk(queue))
    if args.json:
        total = sum(group.count for group in groups)
        told = [{**asdict(group), "reason": group.reason, "remedy": _remedy(group)} for group in groups]
        text.print_json({"queue": queue.name, "letters": total, "groups": told})
        return FINE
    _print_groups(queue, groups, now)
    if groups:
        first = groups[0]
        print(f"{first.reason}: {first.reason.summary}")
        print(text.safe(f"To do: {_remedy(first)}"))
        print(f"Next: {again(args, f'dead show {first.id}', queue.name)}")
        if first.cause != "BODY_MISSING":  # which would only die of it again
            print(f"then: {again(args, f'dead revive {_as_filter(first)}', queue.name)}")
    return FINE


def _remedy(group: Group) -> str:
    """What to do about them, with the newest one for an example."""
    return re.sub(r"\bID\b", group.id, group.reason.remedy)


def _as_filter(group: Group) -> str:
    exception = f" --exception {text.safe(group.exception)}" if group.exception else ""
    return f"--cause {text.safe(group.cause)}{exception}" if group.cause else group.id


def _print_groups(queue: Queue, groups: Sequence[Group], now: int) -> None:
    total = sum(group.count for group in groups)
    print(f"queue {text.safe(queue.name)}: {text.number(total, 'dead letter')}")
    if not groups:
        return
    rows = [("count", "cause", "exception", "oldest", "newest", "the newest one's error")]
    rows += [
        (f"{g.count:,}", g.cause or "?", g.exception or "-", _ago(now - g.oldest), _ago(now - g.newest), g.error)
        for g in groups
    ]
    shown = [[text.safe(text.short(cell, 60)) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in shown) for column in range(5)]
    for count, *cells, error in shown:
        line = "  ".join(cell.ljust(width) for cell, width in zip(cells, widths[1:], strict=True))
        print(f"{count:>{widths[0]}}  {line}  {error}".rstrip())


def _ago(ms: int) -> str:
    return f"{text.duration(max(ms, 0))} ago"


# -- show ---------------------------------------------------------------------------------------------------


def show(args: argparse.Namespace) -> int:
    """All that is known about some; exit status 1 if one of them is not among the dead."""
    queue = _queue(args)
    now = _now(queue)
    choice = Choice(frozenset(env.named_id(id).hex() for id in args.ids))
    found = [letter for page in choice.walk(queue) for letter in page]
    histories = queue.links.flow(dead.history_g(queue.options.keys, {letter.id for letter in found}))
    shown = [_Shown(queue, letter, histories[letter.id]) for letter in found]
    missing = sorted(choice.ids - {letter.id for letter in found})
    if args.json:
        text.print_json(
            {"queue": queue.name, "letters": [each.as_json(now) for each in shown], "missing": missing}
        )
    else:
        for each in shown:
            print("\n".join(text.safe(line) for line in each.lines(now)))
            print(f"Next: {again(args, f'dead revive {each.letter.id}', queue.name)}")
        _print_missing(args, queue, missing)
    return ATTENTION if missing else FINE


def _print_missing(args: argparse.Namespace, queue: Queue, missing: Sequence[str]) -> None:
    for id in missing:
        look = again(args, f"peek --id {id}", queue.name)
        print(f"! {id} is not among the dead letters of queue {text.safe(queue.name)}; anywhere else? {look}")


@dataclass
class _Shown:
    """One letter, decoded, with what the ledger knows of its message."""

    queue: Queue
    letter: Letter
    history: list[Event]

    @property
    def found(self) -> peek.Found:
        letter = self.letter
        if letter.cause == dead.BAD_NOTE:
            return peek.Found("dead", letter.member, note=letter.note, problem=(dead.BAD_NOTE, letter.error))
        note = {**letter.note, "at": letter.at}
        found = peek.read(self.queue, letter.element, peek.Found("dead", letter.element, note=note))
        return found.whole(self.queue)

    def as_json(self, now: int) -> dict[str, Any]:
        found = self.found
        e = found.envelope
        return {
            **peek.as_json(found, now, full=True),
            "id": self.letter.id,
            "fence": e.fence if e else None,
            "put_ms": env.put_ms(e) if e else None,
            "meta": {key: repr(value) if isinstance(value, bytes) else value for key, value in _plain(e)},
            "history": [event._asdict() for event in self.history],
        }

    def lines(self, now: int) -> Iterator[str]:
        found = self.found
        e = found.envelope
        yield peek.headline(found, now) if found.id else f"{self.letter.id}  dead"
        yield f"  body       {peek.body_text(found)}"
        if found.beside is not None:
            yield f"  beside     the list: {found.beside:,} bytes in a key of their own"
        yield f"  died       {_time(self.letter.at)}, {_ago(now - self.letter.at)}: {self.letter.cause}"
        yield f"  error      {self.letter.error}"
        if worker := self.letter.note.get("worker"):
            yield f"  in         {worker}"
        if e is not None:
            put = env.put_ms(e)
            yield f"  put        {'?' if put is None else _time(put)}"
            yield f"  counters   failed {e.failed}, released {e.released}, losses {e.lost}, fence {e.fence}"
            yield f"  meta       {dict(_plain(e)) or '-'}"
        for place, event in enumerate(self.history):
            who = f" by {event.consumer}" if event.consumer else ""
            label = "" if place else "history"
            yield f"  {label:<9}  {_time(event.at)} {event.event}{who} {event.detail}".rstrip()
        for line in str(self.letter.note.get("traceback") or "").splitlines():
            yield f"  | {line}"


def _plain(e: env.Envelope | None) -> list[tuple[str, Any]]:
    """The meta, with values that JSON can carry."""
    if e is None:
        return []
    return [
        (str(key), v if isinstance(v, str | int | float | bool | None) else repr(v)) for key, v in e.meta.items()
    ]


def _time(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000).isoformat(" ", "milliseconds")


# -- revive and rm ------------------------------------------------------------------------------------------


@dataclass
class Tally:
    """What became of the letters that were meant. ``gone``: no longer among the dead when their turn came."""

    done: int = 0
    gone: int = 0
    ids: set[str] = field(default_factory=set)

    def note(self, some: Sequence[Letter], done: Sequence[bool]) -> None:
        self.done += sum(done)
        self.gone += len(done) - sum(done)
        self.ids.update(letter.id for letter in some)


def revive(args: argparse.Namespace) -> int:
    """Put some back to ready; exit status 1 if one that was named is not among the dead."""
    letters.check_choice(args, "revive")
    rate = _rate(args.rate)
    queue = _queue(args)
    now = _now(queue)
    choice, tally = Choice.of(args, now), Tally()
    with _told_if_cut(queue, tally, "revived"), _bar(args, queue, "revived", choice) as bar:
        _carry_out(queue, dead.revive, choice.walk(queue, until=None if choice.ids else now), tally, rate, bar)
    return _conclude(args, queue, choice, tally, "revived", ": they are ready, behind what waits")


def remove(args: argparse.Namespace) -> int:
    """Remove some for good, after a question; exit status 1 if the answer is no, or one is not among the dead."""
    if args.exported is None:
        letters.check_choice(args, "rm")
    elif args.ids or args.cause or args.exception or args.field or args.since or args.all:
        raise ConfigError("dead rm --exported removes exactly what is in that file; leave ids and filters out")
    elif args.exported == "-" and not args.yes:
        raise ConfigError("dead rm --exported - reads stdin, so it cannot ask there; say --yes, or name a file")
    queue = _queue(args)
    now = _now(queue)
    choice = Choice.of(args, now)

    def meant() -> Iterator[list[Letter]]:
        if args.exported is None:
            return choice.walk(queue, until=None if choice.ids else now)
        return letters.pages_of(args.exported)

    if not args.yes and not _agreed(queue, letters.grouped(meant()), now):
        print("nothing was removed")
        return ATTENTION
    tally = Tally()
    with _told_if_cut(queue, tally, "removed"), _bar(args, queue, "removed", choice) as bar:
        _carry_out(queue, dead.discard, meant(), tally, None, bar)
    return _conclude(args, queue, choice, tally, "removed", " for good")


def _agreed(queue: Queue, groups: Sequence[Group], now: int) -> bool:
    """Whether a person agrees, having seen what it is about."""
    _print_groups(queue, groups, now)
    if not groups:
        return True
    print("Remove them for good? [y/N] ", end="", flush=True)
    answer = sys.stdin.readline()
    if not answer:
        print()
        raise ConfigError("dead rm asks before it removes, and there was no answer; say --yes")
    return answer.strip().lower() in ("y", "yes")


def _bar(
    args: argparse.Namespace, queue: Queue, what: str, choice: Choice, *, printing: bool = False
) -> AbstractContextManager[Bar]:
    """How many are dead is known; how many of them are meant, only if that is all. ``printing``: on stdout, and if
    that is the terminal, there is no place for it."""
    if printing and sys.stdout.isatty():
        return nullcontext(Bar(what, None))
    is_all = choice.is_all and getattr(args, "exported", None) is None
    return progress.bar(args, f"queue {queue.name}: {what}", (lambda: queue.size().dead) if is_all else None)


def _carry_out(
    queue: Queue, verb: dead.Verb, pages: Iterator[list[Letter]], tally: Tally, rate: float | None, bar: Bar
) -> None:
    """Bounded calls, one after the other, not faster than so many letters a second."""
    who, started, sent = consumer_name(), time.monotonic(), 0
    together = sys.maxsize if rate is None else max(1, int(rate / _BEATS))
    for page in pages:
        for some in dead.chunks(page, together):
            if rate is not None:
                time.sleep(max(0.0, started + sent / rate - time.monotonic()))
            done = queue.links.flow(dead.carry_out_g(queue.options.keys, verb, who, some))
            tally.note(some, done)
            sent += len(some)
            bar.add(len(some))


@contextmanager
def _told_if_cut(queue: Queue, tally: Tally, what: str) -> Iterator[None]:
    """What was done stays done, so it is said before the error that ended it."""
    try:
        yield
    except (ReliqError, KeyboardInterrupt):
        if tally.done:
            print(f"queue {text.safe(queue.name)}: {text.number(tally.done, 'dead letter')} {what} before the end",
              file=sys.stderr)  # fmt: skip
        raise


def _conclude(args: argparse.Namespace, queue: Queue, choice: Choice, tally: Tally, what: str, where: str) -> int:
    missing = sorted(choice.ids - tally.ids)
    if args.json:
        text.print_json({"queue": queue.name, what: tally.done, "gone": tally.gone, "missing": missing})
    else:
        print(f"queue {text.safe(queue.name)}: {text.number(tally.done, 'dead letter')} {what}{where}")
        if tally.gone:
            print(f"  {tally.gone:,} no longer among the dead when their turn came")
        _print_missing(args, queue, missing)
    return ATTENTION if missing else FINE


def _rate(given: str | None) -> float | None:
    """``20/s``, ``600/min``, ``5``: letters a second."""
    if given is None:
        return None
    match = _RATE.match(given)
    if not match or not float(match[1]):
        raise ConfigError(f"--rate {given!r} is no rate; write 20/s, 600/min or 1000/h")
    return float(match[1]) / _SECONDS[match[2]]


# -- export and import --------------------------------------------------------------------------------------


def export(args: argparse.Namespace) -> int:
    """Write some as JSON lines; they stay where they are."""
    queue = _queue(args)
    choice, count, bodiless = Choice.of(args, _now(queue)), 0, 0
    try:
        with _bar(args, queue, "exported", choice, printing=True) as bar:
            for page in choice.walk(queue):
                for letter in page:
                    whole = letters.with_body(queue, letter)
                    bodiless += whole.body is None and whole.ticket is not None
                    print(letters.line_of(queue.name, whole))
                count += len(page)
                bar.to(count)
            sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise ReliqError(f"dead export: after {count} letters the output failed ({error}); the file is not whole, "
                         "write it again") from error  # fmt: skip
    print(f"queue {text.safe(queue.name)}: {text.number(count, 'dead letter')} exported; they are still there",
          file=sys.stderr)  # fmt: skip
    if bodiless:
        print(f"  {bodiless:,} without a body: it is gone from beside the list", file=sys.stderr)
    return FINE


def import_(args: argparse.Namespace) -> int:
    """Read JSON lines of an export into the dead letters of a queue; those that are there are passed over."""
    queue = _queue(args)
    known = {letter.identity for page in Choice().walk(queue) for letter in page}
    tally = Tally()

    def new() -> Iterator[list[Letter]]:
        for page in letters.pages_of(args.file):
            fresh = {letter.identity: letter for letter in reversed(page) if letter.identity not in known}
            tally.gone += len(page) - len(fresh)
            known.update(fresh)
            yield list(reversed(fresh.values()))

    with _told_if_cut(queue, tally, "imported"), progress.bar(args, f"queue {queue.name}: imported") as bar:
        _carry_out(queue, dead.restore, new(), tally, None, bar)
    if args.json:
        text.print_json({"queue": queue.name, "imported": tally.done, "skipped": tally.gone})
        return FINE
    print(f"queue {text.safe(queue.name)}: {text.number(tally.done, 'dead letter')} imported")
    if tally.gone:
        print(f"  {tally.gone:,} passed over: they are here, or were imported within the hour")
    if tally.done:
        print(f"Next: {again(args, 'dead ls', queue.name)}")
    return FINE


# -- the commands -------------------------------------------------------------------------------------------


def _configure_show(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("ids", nargs="+", metavar="ID", help="of a message, or an id of your own")


def _configure_revive(parser: argparse.ArgumentParser) -> None:
    letters.add_choice(parser)
    parser.add_argument("--rate", metavar="N/s", help="not faster than so many: 20/s, 600/min, 1000/h")


def _configure_remove(parser: argparse.ArgumentParser) -> None:
    letters.add_choice(parser)
    parser.add_argument("--exported", metavar="FILE", help="exactly those in this export; - reads stdin")
    parser.add_argument("--yes", action="store_true", help="do not ask")


def _configure_export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("ids", nargs="*", metavar="ID", help="only these (default: all)")
    letters.add_filters(parser)


def _configure_import(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", nargs="?", default="-", metavar="FILE", help="an export (default: stdin)")


def _verb(
    name: str,
    summary: str,
    details: str,
    example: str,
    configure: Callable[[argparse.ArgumentParser], None],
    run: Callable[[argparse.Namespace], int],
) -> Verb:
    which = "which queue (may be left out if there is only one)"
    return Verb(f"dead {name}", summary, details, f"reliq dead {example}", configure, run, which)


VERB = Verbs(
    name="dead",
    summary="dead letters: ls, show, revive, rm, export, import",
    verbs=(
        _verb("ls", "count dead letters by cause and exception", "Reads them all, and changes nothing.",
              "ls --queue emails --since 2h", letters.add_filters, list_groups),
        _verb("show", "all that is known about a dead letter",
              "Body, meta, counters, what the ledger tells of it, and the traceback.",
              "show 0190a1b2c3d47e5f8a9b0c1d2e3f4a5b --queue emails", _configure_show, show),
        _verb("revive", "put dead letters back to ready",
              "They stand behind what waits, with all attempts before them; the fence goes on growing. One that "
              "workers died with is handed out alone. What dies meanwhile is left.",
              "revive --cause ATTEMPTS --exception TimeoutError --rate 20/s", _configure_revive, revive),
        _verb("rm", "remove dead letters for good",
              "Shows what it is about, and asks. After an export, --exported removes exactly what is in the file.",
              "rm --cause BURIED --field user.id=17", _configure_remove, remove),
        _verb("export", "write dead letters as JSON lines",
              "Byte by byte, on stdout; they stay where they are.",
              "export --queue emails > dead.jsonl", _configure_export, export),
        _verb("import", "read dead letters of an export",
              "They are dead letters again; revive puts them back. What is here, or was imported within the hour, "
              "adds no second copy.",
              "import dead.jsonl --queue emails", _configure_import, import_),
    ),
)  # fmt: skip
