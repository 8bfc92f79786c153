"""``reliq workers``: who works, on what and for how long, and how to quiet or stop one from afar."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

from reliq.cli import logs, text
from reliq.cli.failure import ATTENTION, FINE
from reliq.cli.place import Place, again
from reliq.cli.status import held, pid_of, state
from reliq.cli.verb import Verb, Verbs
from reliq.core import flows
from reliq.core.flows import ConsumerInfo
from reliq.core.orders import QUIET, REPORT, STACKS, STOP, Answered, Report
from reliq.errors import ConfigError
from reliq.sync.queue import Queue
from reliq.sync.steward import ask

_WAIT: Final = 3.0
_SHOWN: Final = 5
#: Why there is no report, by what became of the order.
_WHY: Final = {
    "silent": "no answer: its process hangs or is stopped, or it is a consumer that nobody asks for messages, or "
    "that holds the queue exclusively",
    "gone": "it has just left",
    "expired": "its lease is over: its process is gone, or cut off",
    "busy": "somebody else has ordered it about all the time: try again",
}


class Seen(NamedTuple):
    """A consumer, and what it says of itself."""

    queue: Queue
    consumer: ConsumerInfo
    answer: Answered

    @property
    def state(self) -> str:
        """As in ``reliq status``, or quiet: it claims no more."""
        found = state(self.consumer)
        report = self.answer.report
        quiet = self.consumer.quiet or (report is not None and report.quiet)
        return "quiet" if found == "live" and quiet else found

    @property
    def is_amiss(self) -> bool:
        """Whether messages are in hands that do not answer."""
        return bool(held(self.consumer)) and self.answer.status != "answered" and self.state != "leaving"


# -- reliq workers ------------------------------------------------------------------------------------------


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--stacks", action="store_true", help="show where each handler is")
    _configure_wait(parser)


def _configure_wait(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--wait", type=float, default=_WAIT, metavar="SECONDS", help="for answers, at most (%(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    """List workers; exit status 1 if messages are in hands that do not answer."""
    logs.set_up_plain()
    _check_wait(args)
    place = Place.of(args)
    what = f"{REPORT} {STACKS}" if args.stacks else REPORT
    seen = [each for queue in place.choose(args.queue) for each in look(queue, what, args.wait)]
    amiss = any(each.is_amiss for each in seen)
    if args.json:
        workers = [as_json(each) for each in seen]
        text.print_json({"prefix": place.prefix, "redis": place.links.address.label, "workers": workers,
                         "attention": amiss})  # fmt: skip
    elif seen:
        print("\n".join(text.safe(line) for each in seen for line in _lines(each, args)))
    else:
        print(f"no workers under {place}. Start one: reliq worker MODULE:HANDLER")
    return ATTENTION if amiss else FINE


def look(queue: Queue, what: str, patience: float) -> list[Seen]:
    """Everybody who is registered and of interest, with the answers of those who live."""
    keys = queue.options.keys
    everybody: list[ConsumerInfo] = queue.links.flow(flows.consumers_g(keys))
    shown = [each for each in everybody if state(each) in ("live", "leaving") or held(each)]
    asked = [each.name for each in shown if state(each) == "live"]
    answers = ask(queue.links, keys, asked, what, patience) if asked else {}
    return [Seen(queue, each, answers.get(each.name, Answered("expired"))) for each in shown]


def _check_wait(args: argparse.Namespace) -> None:
    if not 0 < args.wait <= 60:
        raise ConfigError(f"--wait {args.wait:g}: must be a number of seconds above 0, at most 60")


def as_json(seen: Seen) -> dict[str, Any]:
    """One worker; what only its report tells is null without one."""
    consumer, report = seen.consumer, seen.answer.report
    return {
        "queue": seen.queue.name,
        "name": consumer.name,
        "state": seen.state,
        "lease_ms": consumer.lease_ms,
        "held": held(consumer),
        "who": consumer.who,
        "pid": report.pid if report else pid_of(consumer),
        "answered": report is not None,
        "problem": None if report else _WHY.get(seen.answer.status, seen.answer.status),
        "host": report and report.host,
        "version": report and report.version,
        "python": report and report.python,
        "handler": (report and report.handler) or None,
        "concurrency": (report and report.concurrency) or None,
        "working": report and report.working,
        "waiting": report and report.waiting,
        "stopping": report and report.stopping,
        "rtt_ms": None if report is None or report.rtt_us is None else report.rtt_us / 1000,
        "rss": report and report.rss,
        "in_hand": [
            {"id": each.id, "for_ms": _for_ms(report, each.since), "stack": each.stack} for each in report.in_hand
        ]
        if report
        else [],
    }


def _for_ms(report: Report, since: int | None) -> int | None:
    return None if since is None else max(0, report.at - since)


def _lines(seen: Seen, args: argparse.Namespace) -> Iterator[str]:
    report = seen.answer.report
    yield f"{seen.state:<8} {seen.consumer.name}  queue {seen.queue.name}, {', '.join(_facts(seen))}"
    if report is None:
        yield f"  ! {_WHY.get(seen.answer.status, seen.answer.status)}"
        if seen.is_amiss:
            yield f"    Next: {again(args, 'status', seen.queue.name)}"
        return
    most = None if args.stacks else _SHOWN
    for each in report.in_hand[:most]:
        since = _for_ms(report, each.since)
        yield f"  {each.id}" + (f"  for {text.duration(since)}" if since is not None else "")
        yield from (f"    | {line}" for line in (each.stack or "").splitlines())
    more = report.working - len(report.in_hand[:most])
    if more > 0:
        yield f"  and {more} more (--json lists up to 100)"


def _facts(seen: Seen) -> Iterator[str]:
    report = seen.answer.report
    if report is None:
        yield f"holds {held(seen.consumer)}"
        if seen.consumer.who:
            yield seen.consumer.who
        return
    if report.handler:
        yield f"{report.handler} (up to {report.concurrency} at once)"
    yield f"{report.working} in hand" + (f" and {report.waiting} claimed ahead" if report.waiting else "")
    yield f"pid {report.pid} on {report.host}"
    yield f"reliq {report.version}, Python {report.python}"
    if report.rtt_us is not None:
        yield f"round trip {report.rtt_us / 1000:.1f} ms"
    if report.rss is not None:
        yield f"{report.rss / 1e6:.0f} MB"
    if report.stopping:
        yield "stopping"


# -- reliq workers quiet, stop ------------------------------------------------------------------------------


def _configure_order(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="+", metavar="NAME", help="of a consumer, or HOST-PID for a process")
    _configure_wait(parser)


def _order(args: argparse.Namespace, verb: str) -> int:
    """Give an order to some; exit status 1 if somebody did not obey."""
    logs.set_up_plain()
    _check_wait(args)
    place = Place.of(args)
    seen: list[Seen] = []
    for queue, consumers in _find(place, args.names, args.queue):
        answers = ask(queue.links, queue.options.keys, [each.name for each in consumers], verb, args.wait)
        seen += [Seen(queue, each, answers[each.name]) for each in consumers]
    obeyed = all(_obeyed(each) for each in seen)
    if args.json:
        workers = [{"queue": each.queue.name, "name": each.consumer.name, "obeyed": _obeyed(each),
                    "problem": _problem(each) or None} for each in seen]  # fmt: skip
        text.print_json({"prefix": place.prefix, "redis": place.links.address.label, "order": verb,
                         "workers": workers, "attention": not obeyed})  # fmt: skip
    else:
        print("\n".join(text.safe(_told(each, verb)) for each in seen))
    return FINE if obeyed else ATTENTION


def _find(place: Place, names: Sequence[str], queues: Sequence[str]) -> list[tuple[Queue, list[ConsumerInfo]]]:
    """The consumers that are meant, by queue; ConfigError if a name means none."""
    missing, found, others = set(names), [], []
    for queue in place.choose(queues):
        everybody: list[ConsumerInfo] = queue.links.flow(flows.consumers_g(queue.options.keys))
        meant = []
        for each in everybody:
            names_of = {each.name, each.name.rpartition("-")[0]} & set(names)
            missing -= names_of
            if names_of and (each.name in names or state(each) == "live"):
                meant.append(each)
            elif state(each) == "live":
                others.append(each.name)
        if meant:
            found.append((queue, meant))
    if missing:
        name = sorted(missing)[0]
        there = text.near(name, others) or "; see reliq workers"
        raise ConfigError(f"there is no consumer {name!r} under {place}{there}")
    return found


def _obeyed(seen: Seen) -> bool:
    return seen.answer.status == "answered" and not _problem(seen)


def _problem(seen: Seen) -> str:
    """Why the order was not obeyed; empty if it was."""
    report = seen.answer.report
    if seen.answer.status == "answered":
        return report.refused if report else ""
    return _WHY.get(seen.answer.status, seen.answer.status)


def _told(seen: Seen, verb: str) -> str:
    name = seen.consumer.name
    if problem := _problem(seen):
        return f"! {name}: {problem}. Nothing was done, and the order holds no longer"
    report = seen.answer.report
    in_hand = text.number(report.working + report.waiting, "message") if report else "nothing"
    if verb == QUIET:
        return f"{name} claims no more; {in_hand} in hand. Next: reliq workers stop {name}"
    return f"{name} stops, with its whole process, when its handlers end or its grace is over; {in_hand} in hand"


VERB = Verbs(
    name="workers",
    summary="who works, on what, for how long; quiet or stop one from afar",
    alone=Verb(
        name="workers",
        summary="who works, on what and for how long",
        details="Asks every consumer that is alive, and waits for the answers. Also: reliq workers quiet NAME, "
        "reliq workers stop NAME. Exit status 1 if messages are in hands that do not answer.",
        example="reliq workers --queue emails --stacks",
        configure=configure,
        run=run,
        queue_help="only workers of this queue (default: of all that are known)",
        many_queues=True,
    ),
    verbs=(
        Verb(
            name="workers quiet",
            summary="let a worker claim no more, and live on",
            details="It handles what it has in hand. There is no way back but a new worker.",
            example="reliq workers quiet host-4711-9a51c03e",
            configure=_configure_order,
            run=lambda args: _order(args, QUIET),
            queue_help="only consumers of this queue",
            many_queues=True,
        ),
        Verb(
            name="workers stop",
            summary="stop a worker, as SIGTERM does",
            details="Its process claims no more, lets its handlers finish within the grace, and gives back the "
            "rest; its supervisor does not replace it.",
            example="reliq workers stop host-4711-9a51c03e",
            configure=_configure_order,
            run=lambda args: _order(args, STOP),
            queue_help="only consumers of this queue",
            many_queues=True,
        ),
    ),
)
