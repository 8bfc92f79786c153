"""Which dead letters a command means, how they are counted together, and the lines of an export."""

from __future__ import annotations

import argparse
import json
import sys
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

from reliq import defaults
from reliq.cli import peek, text
from reliq.cli.filters import Field, cause_name, when
from reliq.core import beside, dead, reasons
from reliq.core import envelope as env
from reliq.core.dead import Letter
from reliq.core.reasons import Reason
from reliq.errors import ConfigError
from reliq.sync.queue import Queue

# -- which ones ---------------------------------------------------------------------------------------------


def add_filters(parser: argparse.ArgumentParser) -> None:
    """The options that say which letters are meant; several of one kind: any of them; of two kinds: both."""
    add = parser.add_argument
    add(
        "--cause",
        action="append",
        default=[],
        metavar="CAUSE",
        help="ATTEMPTS, POISON, BURIED, …; can be repeated",
    )
    add("--exception", action="append", default=[], metavar="NAME", help="as ls shows it; can be repeated")
    add("--field", action="append", default=[], metavar="PATH=VALUE",
        help="of the body, as in user.id=17; repeated: all of them")  # fmt: skip
    add("--since", metavar="WHEN", help="died in the last 90s, 15m, 2h, 3d, or since 2030-01-31T08:00Z")


def add_choice(parser: argparse.ArgumentParser) -> None:
    """The same for commands that change something: they need to be told, if all are meant."""
    parser.add_argument("ids", nargs="*", metavar="ID", help="only these")
    add_filters(parser)
    parser.add_argument("--all", action="store_true", help="every dead letter of the queue")


@dataclass(frozen=True)
class Choice:
    """Which dead letters are meant. ``since``: server Unix ms. Empty sets mean any."""

    ids: frozenset[str] = frozenset()
    causes: frozenset[str] = frozenset()
    exceptions: frozenset[str] = frozenset()
    fields: tuple[Field, ...] = ()
    since: int | None = None

    @classmethod
    def of(cls, args: argparse.Namespace, now: int) -> Choice:
        """What the options say, at this server time; ConfigError if they say nothing that can be understood."""
        return cls(
            ids=frozenset(env.named_id(id).hex() for id in getattr(args, "ids", ())),
            causes=frozenset(map(cause_name, args.cause)),
            exceptions=frozenset(args.exception),
            fields=tuple(map(Field.read, args.field)),
            since=None if args.since is None else when(args.since, now),
        )

    @property
    def is_all(self) -> bool:
        """Whether every one is meant."""
        return self == Choice()

    def takes(self, queue: Queue, letter: Letter) -> bool:
        """Whether this letter is meant."""
        return (
            (not self.ids or letter.id in self.ids)
            and (not self.causes or cause_name(letter.cause) in self.causes)
            and (not self.exceptions or letter.exception in self.exceptions)
            and (not self.fields or self._fields_hold(queue, letter))
        )

    def _fields_hold(self, queue: Queue, letter: Letter) -> bool:
        found = peek.read(queue, letter.element, peek.Found("dead", letter.element))
        return peek.holds(self.fields, found.whole(queue))

    def walk(self, queue: Queue, *, until: int | None = None) -> Iterator[list[Letter]]:
        """Those that are meant, oldest first, some at a time; only those that died ``until`` then (server ms)."""
        walk = dead.LetterWalk(queue.options.keys, since=self.since, until=until)
        while not walk.done:
            met = queue.links.flow(walk.step_g())
            if chosen := [letter for letter in met if self.takes(queue, letter)]:
                yield chosen


def check_choice(args: argparse.Namespace, verb: str) -> None:
    """ConfigError unless it was said which letters are meant, once."""
    some = bool(args.ids or args.cause or args.exception or args.field or args.since)
    if not (some or args.all):
        raise ConfigError(
            f"dead {verb}: which ones? Name ids, filter by --cause, --exception, --field or --since, or say --all"
        )
    if some and args.all:
        raise ConfigError(f"dead {verb}: --all means every dead letter; leave it out, or the ids and filters")


# -- together -----------------------------------------------------------------------------------------------


@dataclass
class Group:
    """Letters with one cause and one exception. ``oldest``, ``newest``: server Unix ms; ``id`` and ``error`` are
    those of the newest."""

    cause: str
    exception: str
    count: int = 0
    oldest: int = 0
    newest: int = 0
    id: str = ""
    error: str = ""

    @property
    def reason(self) -> Reason:
        """What the cause stands for."""
        return reasons.of_cause(self.cause)

    def add(self, letter: Letter) -> None:
        self.oldest = min(self.oldest, letter.at) if self.count else letter.at
        self.count += 1
        if letter.at >= self.newest:
            self.newest, self.id, self.error = letter.at, letter.id, letter.error


def grouped(pages: Iterable[Sequence[Letter]]) -> list[Group]:
    """By cause and exception, the largest group first."""
    groups: dict[tuple[str, str], Group] = {}
    for letters in pages:
        for letter in letters:
            key = letter.cause, letter.exception
            groups.setdefault(key, Group(*key)).add(letter)
    return sorted(groups.values(), key=lambda group: (-group.count, group.cause, group.exception))


# -- the lines of an export ---------------------------------------------------------------------------------


def with_body(queue: Queue, letter: Letter) -> Letter:
    """The same with its body, if that lies beside the list and is there still."""
    ticket = letter.ticket
    return letter if ticket is None else letter._replace(body=peek.fetched(queue, ticket))


def line_of(queue: str, letter: Letter) -> str:
    """One JSON document; an import reads ``member``, ``score`` and, if its body lies beside the list, ``body``
    (null: that is gone); the rest is for people."""
    body = None if letter.body is None else b64encode(letter.body).decode()
    return json.dumps(
        {
            "schema": text.SCHEMA,
            "queue": queue,
            "id": letter.id,
            "cause": letter.cause,
            "error": letter.error,
            "score": letter.score,
            "member": b64encode(letter.member).decode(),
            **({} if letter.ticket is None else {"body": body}),
        },
        ensure_ascii=False,
    )


def pages_of(path: str) -> Iterator[list[Letter]]:
    """The letters in a file (``-``: stdin), some at a time. ConfigError for the first line that is none, after
    those before it; blank lines are passed over."""
    page: list[Letter] = []
    size = 0
    with _opened(path) as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                letter = _letter(line)
            except (ValueError, TypeError, KeyError, RecursionError) as error:
                yield page
                reason = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else error
                raise ConfigError(
                    f"line {number} is no line of reliq dead export: {reason}. Those before it were taken, those "
                    "behind it not; correct it and say the same again"
                ) from None
            page.append(letter)
            size += letter.weight
            if size >= defaults.SCRIPT_BYTES or len(page) >= defaults.SCRIPT_ELEMENTS:
                yield page
                page, size = [], 0
    yield page


@contextmanager
def _opened(path: str) -> Iterator[BinaryIO]:
    if path == "-":
        yield sys.stdin.buffer
        return
    try:
        with open(path, "rb") as file:
            yield file
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read: {error.strerror}; name a file that reliq dead export wrote"
        ) from error


def _letter(line: bytes) -> Letter:
    entry = json.loads(line)
    if not isinstance(entry, dict):
        raise ValueError(f"it is no object but {type(entry).__name__}")
    if entry["schema"] != text.SCHEMA:
        raise ValueError(f"its schema is {entry['schema']!r}, this release reads {text.SCHEMA}")
    score = str(entry["score"])
    if not float(score) <= float("inf"):
        raise ValueError(f"its score is {score}")
    letter = Letter.read(b64decode(entry["member"], validate=True), score)
    if letter.id != entry["id"]:
        raise ValueError(f"its id is {entry['id']!r} and that of its member {letter.id}: it was changed")
    ticket, body = letter.ticket, entry.get("body")
    if ticket is None or body is None:
        return letter
    letter = letter._replace(body=b64decode(body, validate=True))
    if len(letter.body or b"") != beside.size_of(ticket):
        raise ValueError(f"its body is not of {beside.size_of(ticket)} bytes: it was changed")
    return letter
