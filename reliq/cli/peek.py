"""``reliq peek``: look at messages without touching them."""

from __future__ import annotations

import argparse
import json
from base64 import b64encode
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import date, datetime
from itertools import islice
from typing import Any, Final

from reliq.cli import logs, text
from reliq.cli.failure import ATTENTION, FINE
from reliq.cli.place import Place
from reliq.cli.status import BELL
from reliq.cli.verb import Verb
from reliq.core import envelope as env
from reliq.core import ops
from reliq.core.codec import decode
from reliq.errors import ConfigError, DecodeError
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


def read(queue: Queue, element: bytes, found: Found) -> Found:
    """Decode an element; what cannot be decoded is shown as what it is."""
    options = queue.options
    try:
        if env.is_envelope(element):
            found.envelope = env.unpack(element)
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
        if element != BELL:
            yield read(queue, element, Found("ready", element))


def _doing(queue: Queue) -> Iterator[Found]:
    keys = queue.options.keys
    for name, _ in queue.links.insist(ops.consumers(keys)):
        for part in (keys.doing(name), keys.inbox(name)):
            for element in _list(queue, part):
                if element != BELL:
                    yield read(queue, element, Found("doing", element, consumer=name))


def _later(queue: Queue) -> Iterator[Found]:
    for element, score in _sorted(queue, queue.options.keys.later, "ZRANGE"):
        yield read(queue, element, Found("later", element, due=score))


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
    return int(min(max(float(score), 0.0), 1e14))


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--state", choices=STATES, help="which messages (ready; with --id: all)")
    add("-n", type=int, default=10, metavar="N", help="at most so many (%(default)s)")
    add("--id", help="only the message with this id")
    add("--full", action="store_true", help="whole bodies and tracebacks")


def run(args: argparse.Namespace) -> int:
    """Show messages; exit status 1 if the one with --id is not there."""
    logs.set_up_plain()
    if args.n < 1:
        raise ConfigError(f"peek -n {args.n}: at least 1")
    queue = Place.of(args).one(args.queue)
    now = queue.links.insist(ops.server_time())
    states = [args.state] if args.state else STATES if args.id else ["ready"]
    most = min(args.n, _SEARCHED)
    found = list(_search(queue, states, args.id)) if args.id else list(islice(elements(queue, states[0]), most))
    if args.json:
        messages = [as_json(each, now, full=args.full) for each in found]
        text.print_json({"queue": queue.name, "states": list(states), "messages": messages})
    else:
        _print(queue, states, found, now, args)
    return ATTENTION if args.id and not found else FINE


def _search(queue: Queue, states: Iterable[str], id: str) -> Iterator[Found]:
    wanted = env.named_id(id).hex()
    for state in states:
        yield from (each for each in elements(queue, state) if each.id == wanted)


# -- for programs -------------------------------------------------------------------------------------------


def as_json(found: Found, now: int, *, full: bool) -> dict[str, Any]:
    """One message; without ``full`` a large body is left out."""
    e, shown = found.envelope, body_text(found)
    whole = full or len(shown) <= PREVIEW
    record: dict[str, Any] = {
        "state": found.state,
        "id": found.id,
        "raw": e is None or bool(e.meta.get("r")),
        "bytes": len(found.element),
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
    if isinstance(value, date | datetime):
        return value.isoformat()
    return repr(value)


# -- for people ---------------------------------------------------------------------------------------------


def body_text(found: Found) -> str:
    """One line for a body; the bytes themselves if they cannot be read."""
    if found.problem is not None:
        return repr(found.envelope.body if found.envelope else found.element)
    if isinstance(found.body, bytes):
        return repr(found.body)
    try:
        return json.dumps(found.body, ensure_ascii=False, default=lambda value: repr(value))
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
        print(f"queue {name}: nothing in {', '.join(states)}")
    for each in found:
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
    if e is not None:
        attempt = f"failed {e.failed}" if found.state == "dead" else f"attempt {e.failed + 1}"
        words.append(f"{attempt}, deliveries {found.deliveries}, losses {e.lost}")
    old = age(found, now)
    if old is not None:
        words.append(f"{text.duration(old)} old")
    return "  ".join(words)


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
