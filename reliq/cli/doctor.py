"""``reliq doctor``: what is wrong, or will be, with Redis, queues and settings, and what to do about it."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import reliq
from reliq import client
from reliq.cli import logs, text, worker
from reliq.cli import place as places
from reliq.cli.failure import ATTENTION, FINE
from reliq.cli.verb import Verb
from reliq.client import Address
from reliq.core import doctor
from reliq.core import envelope as env
from reliq.core.doctor import (
    CannotSee,
    Facts,
    Finding,
    QueueFacts,
    ServerFacts,
    Settings,
    Severity,
    Unreached,
    best,
    grants,
)
from reliq.core.keys import Keys
from reliq.core.ops import Known
from reliq.errors import ConfigError, ReliqError
from reliq.identity import clock
from reliq.sync.connection import Links
from reliq.sync.queue import Queue

_USER: Final = "reliq"
_WORDS: Final[Mapping[Severity, str]] = {
    "error": "error",
    "warning": "warning",
    "unseen": "unseen",
    "info": "note",
    "ok": "well",
}


def _database(address: Address) -> int:
    return int(address.kwargs.get("db", 0))


@dataclass
class Visit:
    """One look at everything: each server once, however many queues it serves."""

    place: places.Place
    max_age: float | None = None
    servers: dict[tuple[str, str], ServerFacts] = field(default_factory=dict)
    queues: list[QueueFacts] = field(default_factory=list)
    unreached: list[Unreached] = field(default_factory=list)

    def server(self, links: Links, keys: Keys) -> ServerFacts:
        """The facts of the server that serves these keys; outside of a Cluster there is but one."""
        for known in self.servers.values():
            if known.cluster is None:
                return known
        address, link = links.address, links.new(name="reliq-doctor")
        try:
            link.connect()
        finally:
            link.close()
        label = client.place(address, link.node) if link.node else address.label
        name = (label, link.server.run_id)
        if name not in self.servers:
            local, sentinel = address.kind == "unix", bool(address.master)
            where = doctor.Place(label, local=local, sentinel=sentinel, database=_database(address))
            flow = doctor.server_facts_g(where, link.server, keys, clock, time.time)
            self.servers[name] = links.flow(flow)
        return self.servers[name]

    def queue(self, entry: Known) -> None:
        """Look at a queue. What is wrong with one does not keep others from being looked at."""
        queue = self.place.open(entry)
        keys, links = queue.options.keys, queue.links
        try:
            server = self.server(links, keys)
            self.queues.append(links.flow(doctor.queue_facts_g(entry, keys, server, self.max_age)))
        except ReliqError as error:
            self.unreached.append(Unreached(entry.name, str(error), split=isinstance(error, ConfigError)))


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("handlers", nargs="*", metavar="MODULE[:HANDLER]", help="also the settings of the queues in this code")
    add("--max-age", type=float, metavar="SECONDS", help="warn if the oldest message was put longer ago")
    add("--acl", action="store_true", help="only print the ACL line that creates a user with just enough rights")
    add("--all", action="store_true", help="also what is well")


def run(args: argparse.Namespace) -> int:
    """Look at everything; exit status 1 if something is an error (warnings alone are fine)."""
    logs.set_up_plain()
    place = places.Place.of(args)
    own = _queues_in_code(args)
    index = place.links.flow(doctor.index_g(place.prefix))
    entries = _chosen(place, args.queue, index.known, own)
    if args.acl:
        _print_acl(place, entries, args)
        return FINE
    visit = Visit(place, args.max_age)
    for entry in entries:
        visit.queue(entry)
    if not entries:
        visit.server(place.links, Keys("doctor", place.prefix))
    facts = Facts(
        redis=place.links.address.label,
        prefix=place.prefix,
        servers=list(visit.servers.values()),
        queues=visit.queues,
        unreached=visit.unreached,
        index=index,
        settings=[_settings(queue) for queue in own],
        connect_timeout=place.links.address.kwargs.get("socket_connect_timeout"),
    )
    findings = doctor.examine(facts)
    if args.json:
        text.print_json(_as_json(facts, findings))
    else:
        _print(facts, findings, show_all=args.all)
    return ATTENTION if _count(findings, "error") else FINE


def _queues_in_code(args: argparse.Namespace) -> list[Queue]:
    """Those of the handlers that were named."""
    if not args.handlers:
        return []
    worker.make_importable(args)
    queues = dict.fromkeys(handler.queue for handler in worker.find_all(args.handlers))
    return [queue for queue in queues if not args.queue or queue.name in args.queue]


def _chosen(
    place: places.Place, names: Sequence[str], known: Sequence[Known] | CannotSee, own: list[Queue]
) -> list[Known]:
    """The queues to look at: those named, or all that the index or the code knows."""
    ours = {q.name: Known(q.name, q.options.keys.key, q.options.named_codec, q.options.lease) for q in own}
    if isinstance(known, CannotSee):
        return [ours.get(name, Known(name)) for name in names or ours]
    found = ours | {entry.name: entry for entry in known}
    strange = [name for name in names if name not in found]
    if strange:
        place.choose(strange)  # says what is wrong with the name, unless there are keys of such a queue
    return [found.get(name, Known(name)) for name in names or sorted(found)]


def _settings(queue: Queue) -> Settings:
    options = queue.options
    return Settings(
        queue=options.name,
        redis=queue.links.address.label,
        prefix=options.keys.prefix,
        key=options.keys.key,
        codec=options.named_codec,
        lease=options.lease,
        timeout=options.timeout,
        max_body=options.max_body,
    )


def _count(findings: list[Finding], severity: Severity) -> int:
    return sum(finding.severity == severity for finding in findings)


# -- the ACL line -------------------------------------------------------------------------------------------


def _print_acl(place: places.Place, entries: list[Known], args: argparse.Namespace) -> None:
    server, address = place.links.server, place.links.address
    commands = grants.needed(
        server.version,
        cluster=server.cluster,
        sentinel=bool(address.master),
        database=_database(address),
    )
    keys = grants.patterns(place.prefix, [entry.key for entry in entries if entry.key])
    user = grants.line(_USER, ["on", ">PASSWORD", *keys, *grants.granting(commands)])
    doctor_too = grants.line(_USER, grants.granting(grants.FOR_DOCTOR))
    if args.json:
        text.print_json({"user": user, "doctor": doctor_too, "commands": commands, "keys": keys})
        return
    print(text.safe(user))
    print(f"# and, if reliq doctor shall see everything as this user:\n{text.safe(doctor_too)}")


# -- the report ---------------------------------------------------------------------------------------------


def _as_json(facts: Facts, findings: list[Finding]) -> dict[str, Any]:
    return {
        "reliq": reliq.__version__,
        "format": env.VERSION,
        "prefix": facts.prefix,
        "redis": facts.redis,
        "servers": [_server_json(server) for server in facts.servers],
        "queues": [
            {
                "queue": queue.name,
                "key": queue.keys.ready,
                "server": queue.server.label,
                "slot": queue.slot if queue.server.cluster is not None else None,
            }
            for queue in facts.queues
        ],
        "checks": [finding._asdict() for finding in findings],
        "errors": _count(findings, "error"),
        "warnings": _count(findings, "warning"),
        "attention": bool(_count(findings, "error")),
    }


def _server_json(server: ServerFacts) -> dict[str, Any]:
    clocks = None if isinstance(server.clocks, CannotSee) else best(server.clocks)
    return {
        "server": server.label,
        "version": _maybe(server, "redis_version"),
        "up_s": int(_maybe(server, "uptime_in_seconds") or 0) or None,
        "rtt_ms": clocks and round(server.rtt_ms, 3),
        "clock_ahead_ms": clocks and round(clocks.ahead_ms, 1),
    }


def _maybe(server: ServerFacts, name: str) -> str | None:
    try:
        return server.info.text(name)
    except CannotSee:
        return None


def _print(facts: Facts, findings: list[Finding], *, show_all: bool) -> None:
    print(f"reliq {reliq.__version__} looked at prefix {facts.prefix!r}")
    for server in facts.servers:
        print(f"  {text.safe(_headline(server))}")
    for queue in facts.queues:
        slot = f", slot {queue.slot} of {queue.server.label}" if queue.server.cluster is not None else ""
        print(f"  {text.safe(f'queue {queue.name} (list {queue.keys.ready}{slot})')}")
    print()
    for finding in findings:
        if show_all or finding.severity != "ok":
            print("\n".join(map(text.safe, _lines(finding))))
    counts = [
        text.number(_count(findings, "error"), "error"),
        text.number(_count(findings, "warning"), "warning"),
        f"{_count(findings, 'unseen')} not seen",
        text.number(_count(findings, "info"), "note"),
        f"{_count(findings, 'ok')} well",
    ]
    print(f"{len(doctor.CHECKS)} checks: {', '.join(counts)}. More about a code: reliq errors CODE")


def _headline(server: ServerFacts) -> str:
    words = [f"Redis {_maybe(server, 'redis_version') or '(version not shown)'} at {server.label}"]
    if up := _maybe(server, "uptime_in_seconds"):
        words.append(f"up {text.duration(int(up) * 1000)}")
    if not isinstance(server.clocks, CannotSee):
        words.append(f"round trip {server.rtt_ms:.1f} ms")
    return ", ".join(words)


def _lines(finding: Finding) -> Iterator[str]:
    where = f"{finding.subject}: " if finding.subject else ""
    yield f"{_WORDS[finding.severity]:<8} {finding.code}  {where}{finding.evidence}"
    if finding.consequence:
        yield f"{'':9}{finding.consequence}"
    if finding.remedy:
        yield f"{'':9}-> {finding.remedy}"


VERB = Verb(
    name="doctor",
    summary="what is wrong, or will be, with Redis, queues and settings",
    details="Each finding has a code, what was seen, what comes of it, and what to do. Exit status 1 if one of "
    "them is an error; warnings alone are fine. What a server does not show is said, and is no failure.",
    example="reliq doctor --url redis://localhost:6379/0",
    configure=configure,
    run=run,
    queue_help="only this queue (default: all that are known)",
    many_queues=True,
)
