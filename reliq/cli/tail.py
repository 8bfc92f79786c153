"""``reliq tail``: follow the ledger, what happened that is not the usual way of a message."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any, Final, NamedTuple

from reliq.cli import logs, text
from reliq.cli.failure import FINE, say
from reliq.cli.filters import when
from reliq.cli.interrupt import interruptible
from reliq.cli.place import Place
from reliq.cli.verb import Verb
from reliq.core import ops
from reliq.core.command import Command
from reliq.core.explain.looks import Event
from reliq.core.explain.timeline import tell
from reliq.core.keys import Keys
from reliq.core.retry import backoff
from reliq.errors import OutcomeUnknown, Unavailable
from reliq.sync.queue import Queue

#: Seconds between two looks. Not a blocking read: that would need a connection for each node of a Cluster, and a
#: right that nothing else needs.
_PAUSE: Final = 0.25
#: Seconds between two looks for queues that are new.
_NEW: Final = 5.0
_PAGE: Final = 500
_FIRST: Final = "0-0"


class Entry(NamedTuple):
    """An entry of a ledger; ``name``: where it stands in the stream."""

    queue: str
    name: str
    id: str
    event: Event


class Follower:
    """Reads the ledgers of some queues, each from where it was left; it survives that Redis is away."""

    def __init__(self, place: Place, names: list[str], since: int | None) -> None:
        self._place, self._names, self._since = place, names, since
        self._queues: dict[str, Queue] = {}
        self._read_to: dict[str, str] = {}
        self._look_again_at = 0.0

    def meet(self, *, new: bool = False) -> None:
        """Find the queues to follow. ``new``: who was not here before, is read from its first entry on."""
        self._look_again_at = time.monotonic() + _NEW
        for queue in self._place.choose(self._names):
            if queue.name not in self._queues:
                start = _FIRST if new else self._start(queue)
                self._queues[queue.name], self._read_to[queue.name] = queue, start

    def _start(self, queue: Queue) -> str:
        if self._since is not None:
            return f"{max(self._since - 1, 0)}-{2**64 - 1}"
        last: list[tuple[str, dict[str, str]]] = queue.links.insist(_last(queue.options.keys))
        return last[0][0] if last else _FIRST

    def read(self) -> list[Entry]:
        """What is new, by time; some of it, if that is much."""
        if not self._names and time.monotonic() > self._look_again_at:
            self.meet(new=True)
        found = []
        for name, queue in self._queues.items():
            entries = queue.links.insist(_behind(queue.options.keys, self._read_to[name]))
            if entries:
                self._read_to[name] = entries[-1][0]
            found += [each for entry in entries for each in _told(name, *entry)]
        return sorted(found, key=lambda each: each.event.ms)


def _told(queue: str, name: str, fields: dict[str, str]) -> Iterator[Entry]:
    """One for each message that an entry names: a reap names all that it brought back."""
    words = (fields.get(field, "") for field in ("event", "consumer", "detail"))
    event = Event(int(name.partition("-")[0]), *words)
    yield from (Entry(queue, name, id, event) for id in fields.get("id", "").split(" "))


def _last(keys: Keys) -> Command:
    return Command(
        "XREVRANGE", (keys.events,), ("+", "-", "COUNT", 1), _entries, idempotent=True, queue=keys.queue
    )


def _behind(keys: Keys, name: str) -> Command:
    args = (f"({name}", "+", "COUNT", _PAGE)
    return Command("XRANGE", (keys.events,), args, _entries, idempotent=True, queue=keys.queue)


def _entries(reply: Any) -> list[tuple[str, dict[str, str]]]:
    found = []
    for name, fields in reply:
        words = [field.decode("utf-8", "replace") for field in fields]
        found.append((name.decode(), dict(zip(words[::2], words[1::2], strict=True))))
    return found


# -- the command --------------------------------------------------------------------------------------------


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--since", metavar="WHEN", help="also what happened in the last 90s, 15m, 2h, or since 2030-01-31T08:00Z")
    add("--event", action="append", default=[], metavar="EVENT", help="only retry, bury, reap, …; can be repeated")
    add("--id", help="only what is about this message")
    add("--once", action="store_true", help="end when all that is there was shown")


def run(args: argparse.Namespace) -> int:
    """Follow until Ctrl-C, which is no fault; exit status 3 if Redis is not there at the start."""
    logs.set_up_plain()
    place = Place.of(args)
    now = place.links.insist(ops.server_time())
    since = 0 if args.once else None
    follower = Follower(place, args.queue, since if args.since is None else when(args.since, now))
    follower.meet()
    try:
        with interruptible():
            _follow(follower, args)
    except KeyboardInterrupt:
        pass
    return FINE


def _follow(follower: Follower, args: argparse.Namespace) -> None:
    failures = 0
    while True:
        try:
            entries = follower.read()
        except (Unavailable, OutcomeUnknown) as error:
            if args.once:
                raise
            if not failures:
                say(f"{error} Trying again until it answers.")
            failures += 1
            time.sleep(backoff(failures, most=1.0))
            continue
        if failures:
            say("Redis answers again")
            failures = 0
        for entry in entries:
            if _is_wanted(entry, args):
                print(_line(entry, as_json=args.json), flush=True)
        if not entries:
            if args.once:
                return
            time.sleep(_PAUSE)


def _is_wanted(entry: Entry, args: argparse.Namespace) -> bool:
    return (not args.event or entry.event.event in args.event) and (not args.id or entry.id == args.id)


def _line(entry: Entry, *, as_json: bool) -> str:
    event = entry.event
    if as_json:
        record = {
            "schema": text.SCHEMA,
            "queue": entry.queue,
            "entry": entry.name,
            "at": event.ms,
            "event": event.event,
            "id": entry.id or None,
            "consumer": event.consumer or None,
            "detail": event.detail,
            "told": tell(event),
        }
        return json.dumps(record, ensure_ascii=False)
    at = datetime.fromtimestamp(event.ms / 1000)
    who = f" ({event.consumer})" if event.consumer else ""
    about = f" {entry.id}" if entry.id else ""
    told = f"{event.event}{about}: {tell(event)}{who}"
    return text.safe(f"{at:%Y-%m-%d %H:%M:%S}.{at.microsecond // 1000:03}  {entry.queue}  {told}")


VERB = Verb(
    name="tail",
    summary="follow what happens that is not usual: retries, deaths, reaps, late settles",
    details="A put, a claim and an ack are not written down. Goes on while Redis is away; Ctrl-C ends it, with "
    "status 0. With --json, one document per line.",
    example="reliq tail --queue emails --since 15m --event bury",
    configure=configure,
    run=run,
    queue_help="only these queues (default: all, and those that are new)",
    many_queues=True,
)
