"""``reliq peek``: look at messages without touching them."""

from __future__ import annotations

import argparse
import json
import sys
from base64 import b64encode
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import islice
from typing import Any, Final, NamedTuple

from reliq.cli import logs, text
from reliq.cli.failure import ATTENTION, FINE
from reliq.cli.filters import Field, cause_name, when
from reliq.cli.place import Place, again
from reliq.cli.verb import Verb
from reliq.core import beside, flows, lanes, ops, pulse, routing
from reliq.core import envelope as env
from reliq.core.codec import decode
from reliq.errors import ConfigError, DecodeError, WrongKeyType
from reliq.sync.queue import Queue

STATES: Final = ("ready", "doing", "later", "dead")
#: Characters of a body that are shown without --full, and lines of a traceback.
PREVIEW: Final = 300
_LINES: Final = 3
#: Elements read at a time, and at most in each state, when an id is looked for.
_PAGE: Final = 100
_SEARCHED: Final = 100_000


@dataclass
class Found:
    """One element as it stands in Redis, and what can be said about it."""

    state: str
    element: bytes
    due: int | None = None
    consumer: str | None = None
    note: env.Meta = field(default_factory=dict)
    envelope: env.Envelope | None = None
    body: Any = None
    problem: tuple[str, str] | None = None
    #: That of its body, which lies beside the list and is fetched by ``whole`` alone.
    ticket: bytes | None = None

    @property
    def id(self) -> str | None:
        """The message's id; a raw element of a foreign producer has none until it is claimed."""
        if self.envelope is not None:
            return self.envelope.id.hex()
        noted = self.note.get("id")
        return noted if isinstance(noted, str) else None

    @property
    def deliveries(self) -> int:
        """How often it has been handed out, the one under way included."""
        e = self.envelope
        return 0 if e is None else e.failed + e.released + e.lost + (self.state == "doing")

    @property
    def beside(self) -> int | None:
        """Bytes of its body, if that lies beside the list."""
        return None if self.ticket is None else beside.size_of(self.ticket)

    def whole(self, queue: Queue) -> Found:
        """The same with its body, wherever that lies. To be let go as soon as it was shown: it may be large."""
        if self.ticket is None or self.envelope is None:
            return self
        body, found = fetched(queue, self.ticket), replace(self)
        if body is None:
            where = beside.key_of(queue.options.keys, self.ticket)
            found.problem = (beside.MISSING, f"there is no body at {where}; or it was acked while we looked")
            return found
        found.envelope = self.envelope._replace(body=body)
        try:
            found.body = decode(found.envelope.meta, body, queue.options.codec, queue.options.raw_codec)
        except DecodeError as error:
            found.problem = (error.code, str(error))
        return found


def fetched(queue: Queue, ticket: bytes) -> bytes | None:
    """The encoded body that lies beside the list; None if it is gone."""
    try:
        body: bytes | None = queue.links.insist(beside.fetch(queue.options.keys, ticket))
    except WrongKeyType:  # somebody has put something else there
        return None
    return body


def read(queue: Queue, element: bytes, found: Found) -> Found:
    """Decode an element; what cannot be decoded is shown as what it is."""
    options = queue.options
    try:
        if env.is_envelope(element):
            found.envelope = env.unpack(element)
            found.ticket = beside.ticket_of(found.envelope.meta)
            if found.ticket is None:
                found.body = decode(found.envelope.meta, found.envelope.body, options.codec, options.raw_codec)
        else:
            found.body = decode({"r": True}, element, options.codec, options.raw_codec)
    except DecodeError as error:
        found.problem = (error.code, str(error))
    return found


def elements(queue: Queue, state: str) -> Iterator[Found]:
    """The messages in a state, page by page: ready in the order of claiming, later by time, dead newest
    first. Read only."""
    return {"ready": _ready, "doing": _doing, "later": _later, "dead": _dead}[state](queue)


def _ready(queue: Queue) -> Iterator[Found]:
    for element in _list(queue, queue.options.keys.ready):
        if element != env.BELL:
            yield read(queue, element, Found("ready", element))


def _doing(queue: Queue) -> Iterator[Found]:
    keys = queue.options.keys
    for name, _ in queue.links.insist(ops.consumers(keys)):
        for part in (keys.doing(name), keys.inbox(name)):
            for element in _list(queue, part):
                if element != env.BELL:
                    yield read(queue, element, Found("doing", element, consumer=name))


def _later(queue: Queue) -> Iterator[Found]:
    for element, score in _sorted(queue, queue.options.keys.later, "ZRANGE"):
        yield read(queue, element, Found("later", element, due=None if lanes.waits(score) else score))


def _dead(queue: Queue) -> Iterator[Found]:
    for member, score in _sorted(queue, queue.options.keys.dead, "ZREVRANGE"):
        try:
            note, element = env.split_note(member)
        except DecodeError as error:
            yield Found("dead", member, problem=(error.code, str(error)))
            continue
        yield read(queue, element, Found("dead", element, note={**note, "at": score}))


def _list(queue: Queue, key: str) -> Iterator[bytes]:
    """From the right, where claiming takes from."""
    for start in range(0, _SEARCHED, _PAGE):
        page = queue.links.insist(ops.page(key, -start - _PAGE, -start - 1))
        yield from reversed(page)
        if len(page) < _PAGE:
            return


def _sorted(queue: Queue, key: str, verb: str) -> Iterator[tuple[bytes, int]]:
    for start in range(0, _SEARCHED, _PAGE):
        page = queue.links.insist(ops.page(key, start, start + _PAGE - 1, verb))
        yield from ((member, _ms(score)) for member, score in zip(page[::2], page[1::2], strict=True))
        if len(page) < 2 * _PAGE:
            return


def _ms(score: bytes) -> int:
    """A score as Unix ms; kept within the calendar, as anybody may have written it."""
    found = float(score)
    return int(min(max(found, 0.0), 9e15 if lanes.waits(found) else 1e14))


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--state", choices=(*STATES, "any"), help="which messages (ready; with --id: any; with --cause: dead)")
    add("-n", type=int, default=10, metavar="N", help="at most so many (%(default)s)")
    add("--id", help="only the message with this id")
    add("--where", action="append", default=[], metavar="PATH=VALUE",
        help="only bodies with this, as in user.id=17; repeated: all of them")  # fmt: skip
    add("--since", metavar="WHEN", help="only put in the last 90s, 15m, 2h, or since 2030-01-31T08:00Z")
    add("--until", metavar="WHEN", help="only put before that")
    add("--cause", action="append", default=[], help="only dead letters with this cause; can be repeated")
    add("--full", action="store_true", help="whole bodies and tracebacks")


def run(args: argparse.Namespace) -> int:
    """Show messages; exit status 1 if the one with --id is not there."""
    logs.set_up_plain()
    if args.n < 1:
        raise ConfigError(f"peek -n {args.n}: at least 1")
    states = _states(args)
    queue = Place.of(args).one(args.queue)
    now = queue.links.insist(ops.server_time())
    scan = Scan(queue, Filter.of(args, now))
    found = list(islice(scan.matches(states), None if args.id else min(args.n, sys.maxsize)))
    if args.json:
        messages = [as_json(each.whole(queue), now, full=args.full) for each in found]
        text.print_json({"queue": queue.name, "states": list(states), "messages": messages,
                         "looked": [each._asdict() for each in scan.looks]})  # fmt: skip
    else:
        _print(queue, states, found, now, args)
        if scan.filter.is_set:
            print("; ".join(map(str, scan.looks)))
    return ATTENTION if args.id and not found else FINE


def _states(args: argparse.Namespace) -> Sequence[str]:
    if args.cause and args.state not in (None, "dead"):
        raise ConfigError(f"peek --cause --state {args.state}: only dead letters have a cause; leave --state out")
    if args.cause:
        return ["dead"]
    if args.state == "any" or (args.id and not args.state):
        return STATES
    return [args.state or "ready"]


@dataclass(frozen=True)
class Filter:
    """Which messages are meant. ``since``, ``until``: of the put, Unix ms; empty ones mean any. What is in a body
    is asked last: it may have to be fetched."""

    id: str = ""
    fields: tuple[Field, ...] = ()
    since: int | None = None
    until: int | None = None
    causes: frozenset[str] = frozenset()

    @classmethod
    def of(cls, args: argparse.Namespace, now: int) -> Filter:
        """What the options say, at this server time; ConfigError if that cannot be understood."""
        return cls(
            id=env.named_id(args.id).hex() if args.id else "",
            fields=tuple(Field.read(given, "--where") for given in args.where),
            since=None if args.since is None else when(args.since, now),
            until=None if args.until is None else when(args.until, now, "--until"),
            causes=frozenset(cause_name(cause) for cause in args.cause),
        )

    @property
    def is_set(self) -> bool:
        """Whether messages are left out by more than their state and id."""
        return bool(self.fields or self.causes) or self.since is not None or self.until is not None

    def takes(self, found: Found, queue: Queue) -> bool:
        """Whether this message is meant. One that cannot be read has no field, and one whose id does not tell was
        put at no time."""
        if self.id and found.id != self.id:
            return False
        if self.causes and cause_name(str(found.note.get("cause"))) not in self.causes:
            return False
        if self.since is not None or self.until is not None:
            put = env.put_ms(found.envelope) if found.envelope is not None else None
            if put is None or put < (self.since or 0) or (self.until is not None and put >= self.until):
                return False
        return not self.fields or holds(self.fields, found.whole(queue))


def holds(fields: Iterable[Field], found: Found) -> bool:
    """Whether a body has all these fields."""
    return found.problem is None and all(field.holds(found.body) for field in fields)


class Looked(NamedTuple):
    """How far a state was looked through. ``of``: so many were there at the start; ``whole``: to the end."""

    state: str
    looked: int
    of: int
    whole: bool

    def __str__(self) -> str:
        end = "" if self.whole else ", and not further"
        return f"{self.looked:,} of {self.of:,} {self.state} looked at{end}"


class Scan:
    """A search through states, each at most 100,000 messages far, that remembers how far it came."""

    def __init__(self, queue: Queue, filter: Filter) -> None:
        self.queue, self.filter = queue, filter
        self.looks: list[Looked] = []

    def matches(self, states: Iterable[str]) -> Iterator[Found]:
        """What is meant, in the order of ``elements``."""
        keys = self.queue.options.keys
        sizes = self.queue.links.flow(flows.sizes_g(keys))._asdict()
        in_turn = self.queue.links.insist(pulse.shared(keys))  # they count as ready, and stand in later
        sizes["ready"], sizes["later"] = max(0, sizes["ready"] - in_turn), sizes["later"] + in_turn
        for state in states:
            looked = 0
            self.looks.append(Looked(state, 0, sizes[state], whole=False))
            for found in islice(elements(self.queue, state), _SEARCHED):
                looked += 1
                self.looks[-1] = self.looks[-1]._replace(looked=looked)
                if self.filter.takes(found, self.queue):
                    yield found
            self.looks[-1] = self.looks[-1]._replace(whole=looked < _SEARCHED)


# -- for programs -------------------------------------------------------------------------------------------


def as_json(found: Found, now: int, *, full: bool) -> dict[str, Any]:
    """One message; without ``full`` a large body is left out."""
    e, shown = found.envelope, body_text(found)
    whole = full or len(shown) <= PREVIEW
    record: dict[str, Any] = {
        "state": found.state,
        "id": found.id,
        "raw": e is None or bool(e.meta.get("r")),
        "bytes": len(found.element) + (found.beside or 0),
        "beside": found.beside,
        "body": _plain_body(found) if whole else None,
        "preview": text.short(shown, PREVIEW),
        "truncated": not whole,
        "problem": dict(zip(("code", "reason"), found.problem, strict=True)) if found.problem else None,
        "deliveries": found.deliveries,
        "attempt": None if e is None else e.failed + (found.state != "dead"),
        "failed": e.failed if e else 0,
        "released": e.released if e else 0,
        "losses": e.lost if e else 0,
        "age_ms": age(found, now),
        "type": routing.type_of(e.meta) if e else None,
        "trace_id": _text(e.meta.get("t")) if e else None,
        "last_error": _text(e.meta.get("e")) if e else None,
        "consumer": found.consumer,
        "due_ms": None if found.due is None else found.due - now,
    }
    if found.state == "dead":
        texts = {name: _text(found.note.get(name)) for name in ("cause", "error", "worker", "traceback")}
        record["dead"] = {**texts, "at": found.note.get("at")}
    return record


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else repr(value)


def age(found: Found, now: int) -> int | None:
    """Milliseconds since the put, if the id says when that was."""
    made = env.id_ms(found.envelope.id) if found.envelope is not None else None
    return None if made is None else max(0, now - made)


def _plain_body(found: Found) -> Any:
    """The body as JSON can carry it: itself, or its text if JSON cannot."""
    if found.problem is not None:
        return None
    try:
        return json.loads(json.dumps(found.body, default=_plain, allow_nan=False))
    except (TypeError, ValueError, RecursionError):
        return repr(found.body)


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"base64": b64encode(value).decode()}
    return _shown(value)


def _shown(value: Any) -> Any:
    """What JSON has no type for, as text; a set as a list."""
    from reliq.core import kinds  # most bodies have nothing of this

    if isinstance(value, set | frozenset):
        return sorted(value, key=repr)
    try:
        return kinds.in_json(value)
    except TypeError:
        return repr(value)


# -- for people ---------------------------------------------------------------------------------------------


def body_text(found: Found) -> str:
    """One line for a body; the bytes if they cannot be read, and where they should be if they are gone."""
    if found.problem is not None and found.problem[0] == beside.MISSING:
        return f"({found.problem[1]})"
    if found.problem is not None:
        return repr(found.envelope.body if found.envelope else found.element)
    if isinstance(found.body, bytes):
        return repr(found.body)
    try:
        return json.dumps(found.body, ensure_ascii=False, default=_shown)
    except (TypeError, ValueError, RecursionError):
        return repr(found.body)


def _print(queue: Queue, states: Iterable[str], found: list[Found], now: int, args: argparse.Namespace) -> None:
    name = text.safe(queue.name)
    if not found and args.id:
        print(
            f"queue {name}: no message {text.safe(args.id)} in {', '.join(states)}. It was acked, or it never "
            "came here, or it moved while we looked"
        )
    elif not found:
        print(f"queue {name}: nothing {'of that ' if Filter.of(args, now).is_set else ''}in {', '.join(states)}")
        if list(states) == ["ready"] and (shared := queue.links.insist(pulse.shared(queue.options.keys))):
            wait = "waits for its" if shared == 1 else "wait for their"
            print(f"{shared:,} of tenants {wait} turn in later: {again(args, 'peek --state later', queue.name)}")
    for light in found:
        each = light.whole(queue)
        print(text.safe(headline(each, now)))
        shown = body_text(each)
        print(f"  {text.safe(shown if args.full else text.short(shown, PREVIEW))}")
        for line in _details(each, full=args.full):
            print(f"  {text.safe(line)}")


def headline(found: Found, now: int) -> str:
    """Id, state, counters and age, in one line."""
    e = found.envelope
    words = [found.id or "(raw, no id yet)", found.state]
    if found.consumer:
        words.append(f"at {found.consumer}")
    if found.due is not None:
        left = found.due - now
        words.append(f"due in {text.duration(left)}" if left > 0 else f"due since {text.duration(-left)}")
    elif found.state == "later":
        words.append(_turn(e.meta if e else {}))
    if e is not None:
        attempt = f"failed {e.failed}" if found.state == "dead" else f"attempt {e.failed + 1}"
        words.append(f"{attempt}, deliveries {found.deliveries}, losses {e.lost}")
        if (kind := routing.type_of(e.meta)) is not None:
            words.append(f"type {kind}")
    old = age(found, now)
    if old is not None:
        words.append(f"{text.duration(old)} old")
    return "  ".join(words)


def _turn(meta: env.Meta) -> str:
    """For what a message waits in later that is due at no time."""
    if (group := lanes.group_of(meta)) is not None:
        return f"gathers (group {group!r})"
    lane = {"ordering key": lanes.key_of(meta), "tenant": lanes.tenant_of(meta)}
    names = ", ".join(f"{what} {name!r}" for what, name in lane.items() if name is not None)
    return f"waits for its turn ({names})" if names else "waits for its turn"


def _details(found: Found, *, full: bool) -> Iterator[str]:
    if found.state == "dead":
        note = found.note
        at = note.get("at")
        when = datetime.fromtimestamp(at / 1000).isoformat(" ", "seconds") if isinstance(at, int) else "?"
        yield f"{note.get('cause')} at {when} in {note.get('worker')}: {note.get('error')}"
        lines = [line for line in str(note.get("traceback") or "").splitlines() if line.strip()]
        yield from (f"| {line}" for line in (lines if full else lines[-_LINES:]))
    elif found.envelope is not None and (last := found.envelope.meta.get("e")):
        yield f"last error: {last}"
    if found.beside is not None:
        yield f"body of {found.beside:,} bytes, beside the list"
    if found.envelope is not None and (method := found.envelope.meta.get("z")):
        yield f"compressed with {method}"
    if found.problem is not None and not (found.state == "dead" and found.problem[1] == found.note.get("error")):
        yield f"{found.problem[0]}: {found.problem[1]}"


VERB = Verb(
    name="peek",
    summary="look at messages without touching them",
    details="Ready: the next to be claimed first. Dead: the newest first, with cause and traceback.",
    example="reliq peek --queue emails --state dead -n 3",
    configure=configure,
    run=run,
    queue_help="which queue (may be left out if there is only one)",
)
