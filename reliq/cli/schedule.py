"""``reliq schedule``: cron and interval jobs, listed, added, removed, and fired where no worker runs."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from types import FrameType
from typing import Any, Final, NamedTuple

from reliq import defaults
from reliq.cli import failure, logs, put, text
from reliq.cli.failure import ATTENTION, FINE
from reliq.cli.filters import seconds
from reliq.cli.place import Place, again
from reliq.cli.verb import Verb, Verbs
from reliq.core import ops
from reliq.core.codec import decode
from reliq.core.keys import check_name
from reliq.core.reasons import Reason
from reliq.core.schedule import CATCH_UP, Definition, Schedule, shown
from reliq.core.ticks import list_g
from reliq.errors import ConfigError, DecodeError
from reliq.sync.queue import Queue
from reliq.sync.scheduler import Scheduler

_UNREAD: Final = "(cannot be decoded here)"


# -- ls -----------------------------------------------------------------------------------------------------


class Listed(NamedTuple):
    """A schedule, or what is wrong with it; ``late_ms``: so long its next tick is due by now."""

    queue: str
    name: str
    schedule: Schedule | None
    problem: str
    late_ms: int

    @property
    def needs_attention(self) -> bool:
        """It cannot be fired, or nobody does."""
        return bool(self.problem) or self.late_ms > defaults.TICK_GRACE * 1000

    def as_json(self, times: int) -> dict[str, Any]:
        record: dict[str, Any] = {"queue": self.queue, "name": self.name, "problem": self.problem or None}
        record["late_ms"] = self.late_ms
        if (found := self.schedule) is None:
            return record
        body = found.body if _is_plain(found.body) else repr(found.body)
        return {
            **record,
            "cron": found.cron,
            "every": found.every,
            "tz": found.tz,
            "catch_up": found.catch_up,
            "jitter": found.jitter,
            "type": found.type,
            "body": body,
            "next": [time.isoformat() for time in found.next_times(times)],
        }


def _is_plain(body: Any) -> bool:
    """Whether JSON can carry it."""
    if isinstance(body, dict):
        return all(isinstance(key, str) and _is_plain(value) for key, value in body.items())
    return all(map(_is_plain, body)) if isinstance(body, list) else isinstance(body, str | int | float | None)


def _configure_ls(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-n", type=int, default=1, metavar="N", help="how many of the next ticks (default: 1)")


def list_schedules(args: argparse.Namespace) -> int:
    """All schedules of the named queues, or of all, with their next ticks."""
    if not 1 <= args.n <= 1000:
        raise ConfigError(f"-n {args.n}: how many of the next ticks; it must be 1 to 1000")
    logs.set_up_plain()
    place = Place.of(args)
    found = [each for queue in place.choose(args.queue) for each in _listed(queue)]
    if args.json:
        text.print_json({"schedules": [each.as_json(args.n) for each in found]})
    elif found:
        print("\n".join(_lines(args, found)))
    else:
        print(f"no schedules under {place}; reliq schedule add adds one")
    return ATTENTION if any(each.needs_attention for each in found) else FINE


def _listed(queue: Queue) -> Iterator[Listed]:
    now = queue.links.insist(ops.server_time())
    options = queue.options
    for name, packed, tick in queue.links.flow(list_g(options.keys)):
        late = max(0, now - tick) if tick is not None else 0
        try:
            definition = Definition.read(name, packed)
        except DecodeError as error:
            yield Listed(queue.name, name, None, str(error), late)
            continue
        try:
            body = decode(definition.meta, definition.body, options.codec, options.raw_codec)
        except DecodeError:  # a codec of somebody's application; it fires all the same
            body = _UNREAD
        yield Listed(queue.name, name, shown(name, definition, tick, body), "", late)


def _lines(args: argparse.Namespace, found: Sequence[Listed]) -> Iterator[str]:
    rows = [("queue", "name", "when", "next", "body")]
    rows += [_row(each, args.n) for each in found]
    table = [[text.safe(text.short(cell, 60)) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in table) for column in range(4)]
    for each, (*cells, last) in zip([None, *found], table, strict=True):
        yield "  ".join([*(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)), last]).rstrip()
        if each is not None and each.schedule is not None:
            yield from (f"{'':<{widths[0]}}  then {_time(time)}" for time in each.schedule.next_times(args.n)[1:])
    for each in found:
        if each.problem:
            remove = again(args, f"schedule rm {text.safe(each.name)}", each.queue)
            yield text.safe(f"! {each.problem}. To remove it: {remove}")
        elif each.needs_attention:
            late, remedy = text.duration(each.late_ms), Reason.TICKS_LATE.remedy
            yield text.safe(f"! TICKS_LATE: {each.name} is due for {late}, and nobody fires it. Next: {remedy}")


def _row(each: Listed, times: int) -> tuple[str, str, str, str, str]:
    if (found := each.schedule) is None:
        return each.queue, each.name, "?", "-", "?"
    when = f"every {found.every:g} s" if found.cron is None else f"{found.cron} ({found.tz})"
    if found.jitter:
        when += f" + up to {found.jitter:g} s"
    if found.type is not None:
        when += f", type {found.type}"
    return each.queue, each.name, when, _time(found.next_at) if found.next_at else "-", repr(found.body)


def _time(time: datetime) -> str:
    return time.isoformat(" ", "seconds" if not time.microsecond else "milliseconds")


# -- add and rm ---------------------------------------------------------------------------------------------


def _configure_add(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("name", metavar="NAME", help="what it is called; the same name again changes it")
    add("body", metavar="BODY", help="the body of its messages, as JSON; - reads it from stdin")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--text", action="store_true", help="BODY is a text, not JSON")
    how.add_argument("--raw", action="store_true", help="BODY is bytes, handed over as they are")
    when = parser.add_mutually_exclusive_group(required=True)
    when.add_argument("--cron", metavar="EXPRESSION", help="5 fields, or 6 with seconds first: '0 7 * * MON-FRI'")
    when.add_argument("--every", type=seconds, metavar="SECONDS", help="at the multiples of so many; or 15m, 2h")
    add("--tz", default="UTC", metavar="ZONE", help="time zone of --cron, as in Europe/Vienna (default: UTC)")
    add("--catch-up", choices=CATCH_UP, default="last", help="what becomes of missed ticks (default: last)")
    add("--type", metavar="TYPE", help="of its messages: which of a worker's handlers they are for")
    add("--jitter", type=seconds, default=0.0, metavar="SECONDS", help="spread messages over so long")


def add(args: argparse.Namespace) -> int:
    """Add a schedule, or change it."""
    logs.set_up_plain()
    if args.queue is None:
        raise ConfigError("schedule add needs --queue NAME: where its messages go (it need not exist yet)")
    check_name("queue name", args.queue)
    queue, known = Place.of(args).for_put(args.queue)
    names = [entry.name for entry in known]
    if queue.name not in names and (near := text.near(queue.name, names)):
        failure.say(f"queue {queue.name!r} is new{near}")
    data = sys.stdin.buffer.read() if args.body == "-" else args.body.encode(errors="surrogateescape")
    made = queue.schedule(
        args.name,
        put.Reader(args, queue).body(data, "BODY"),
        cron=args.cron,
        every=args.every,
        tz=args.tz,
        catch_up=args.catch_up,
        jitter=args.jitter,
        type=args.type,
    )
    if args.json:
        text.print_json(Listed(queue.name, made.name, made, "", 0).as_json(1))
    else:
        soon = _time(made.next_at) if made.next_at else "never"
        print(text.safe(f"queue {queue.name}: {made.name} is scheduled, next at {soon}"))
    return FINE


def _configure_rm(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="+", metavar="NAME", help="of the schedules")


def remove(args: argparse.Namespace) -> int:
    """Remove schedules; exit status 1 if one of them is not there."""
    logs.set_up_plain()
    queue = Place.of(args).one(args.queue)
    gone = {name: queue.unschedule(name) for name in dict.fromkeys(args.names)}
    missing = [name for name, was_there in gone.items() if not was_there]
    if args.json:
        removed = [name for name, was_there in gone.items() if was_there]
        text.print_json({"queue": queue.name, "removed": removed, "missing": missing})
    else:
        for name, was_there in gone.items():
            state = "removed; what it has put already stays" if was_there else "there is no such schedule"
            print(text.safe(f"{'' if was_there else '! '}queue {queue.name}: {name}: {state}"))
    return ATTENTION if missing else FINE


# -- run ----------------------------------------------------------------------------------------------------


def fire(args: argparse.Namespace) -> int:
    """Fire what comes due, until it is stopped."""
    logs.set_up(args.log_level, args.log_format)
    place = Place.of(args)
    queues = place.choose(args.queue)
    if not queues:
        raise ConfigError(
            f"no queues are known under {place}: start it when there is one, or name it with --queue"
        )
    scheduler = Scheduler(*queues)
    if args.once:
        messages = scheduler.run_once()
        if args.json:
            text.print_json({"queues": [queue.name for queue in queues], "messages": messages})
        else:
            print(f"{text.number(messages, 'message')} put")
        return FINE

    def end(number: int, frame: FrameType | None) -> None:
        scheduler.stop()

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, end)
        signal.signal(signal.SIGINT, end)
    scheduler.run()
    return FINE


def _configure_run(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--once", action="store_true", help="fire what is due now, and end")
    add("--log-level", choices=logs.LEVELS, default="info", help="default: info")
    add("--log-format", choices=sorted(logs.FORMATS), default="text", help="default: text")


def _verb(
    name: str,
    summary: str,
    details: str,
    example: str,
    configure: Callable[[argparse.ArgumentParser], None],
    run: Callable[[argparse.Namespace], int],
    queue_help: str,
    *,
    many: bool = False,
) -> Verb:
    return Verb(
        f"schedule {name}", summary, details, f"reliq schedule {example}", configure, run, queue_help, many
    )


VERB = Verbs(
    name="schedule",
    summary="cron and interval jobs: list, add, remove; fire them where no worker runs",
    verbs=(
        _verb("ls", "all schedules, with their next ticks",
              "Exit status 1 if one cannot be fired, or nobody does.",
              "ls -n 3", _configure_ls, list_schedules, "only this queue (default: all known)", many=True),
        _verb("add", "add a schedule, or change it",
              "Workers of the queue fire it. The same again changes nothing.",
              """add daily '{"kind": "sum"}' --cron '0 7 * * MON-FRI' --tz Europe/Vienna --queue reports""",
              _configure_add, add, "where its messages go (required; need not exist yet)"),
        _verb("rm", "remove schedules", "Exit status 1 if one of them is not there.",
              "rm daily --queue reports", _configure_rm, remove, "the queue (default: the only one)"),
        _verb("run", "fire what comes due, where no worker and no consumer runs",
              "Any number may run; it looks at the queues that are known when it starts.",
              "run --queue reports", _configure_run, fire, "only this queue (default: all that are known)",
              many=True),
    ),
)  # fmt: skip
