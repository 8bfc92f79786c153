"""``reliq put``: produce from a shell script."""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections.abc import Iterator
from datetime import datetime
from typing import Any, BinaryIO, Final

from reliq.cli import failure, filters, logs, text
from reliq.cli.failure import FINE
from reliq.cli.place import Place, again
from reliq.cli.verb import Verb
from reliq.core.keys import check_name
from reliq.errors import ConfigError, OutcomeUnknown, PutManyError, ReliqError
from reliq.putting import due
from reliq.sync.queue import Queue

#: Bytes of stdin that are looked at together; lines that came together are put together.
_READ: Final = 256 * 1024


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("body", nargs="?", metavar="BODY", help="the body as JSON; - reads it from stdin")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--text", action="store_true", help="BODY is a text, not JSON")
    how.add_argument("--raw", action="store_true", help="BODY is bytes, handed over as they are")
    add("--lines", action="store_true", help="one message per line of stdin")
    add("--delay", type=filters.seconds, metavar="SECONDS", help="ready after so long; or 15m, 2h")
    add("--at", metavar="TIME", help="ready at this time: 2030-01-31T08:00:00+01:00")
    add("--type", metavar="TYPE", help="a word: which of a worker's handlers it is for")
    add("--expires", type=filters.seconds, metavar="SECONDS", help="after so long no attempt begins; or 15m, 2h")
    add("--ordering-key", metavar="KEY", help="messages with one key are handled one at a time, in this order")
    add("--tenant", metavar="NAME", help="whose it is: each tenant gets its share")
    add("--unique", metavar="KEY", help="put nothing if a message with this key waits, or is at work")
    add("--id", help="an id of your own: the same within an hour adds no second copy")


def run(args: argparse.Namespace) -> int:
    """Put one body, or one per line, and print the ids."""
    logs.set_up_plain()
    _check(args)
    at = filters.moment(args.at)
    due(args.delay, at)
    queue, known = Place.of(args).for_put(args.queue)
    names = [entry.name for entry in known]
    if queue.name not in names and (near := text.near(queue.name, names)):
        failure.say(f"queue {queue.name!r} is new{near}")
    reader = Reader(args, queue)
    if args.lines:
        return _put_lines(args, queue, reader, at)
    data = sys.stdin.buffer.read() if args.body == "-" else args.body.encode(errors="surrogateescape")
    body = reader.body(data, "BODY")
    try:
        receipt = queue.put(body, id=args.id, unique=args.unique, **_words(args, at))
    except OutcomeUnknown as error:
        raise _doubtful(args, error) from error
    if not receipt.added:
        failure.say(f"nothing was put: message {receipt} has the key {args.unique!r}")
    _print(args, queue, [receipt])
    return FINE


def _words(args: argparse.Namespace, at: datetime | None) -> dict[str, Any]:
    """What the command line says of each message."""
    names = ("delay", "type", "expires", "ordering_key", "tenant")
    return {"at": at, **{name: getattr(args, name) for name in names}}


def _check(args: argparse.Namespace) -> None:
    if args.queue is None:
        raise ConfigError("put needs --queue NAME: the queue to put into (it need not exist yet)")
    check_name("queue name", args.queue)
    if args.lines and args.body not in (None, "-"):
        raise ConfigError("put --lines reads its bodies from stdin; leave BODY out")
    if args.lines and args.id is not None:
        raise ConfigError("put --lines puts many messages and --id names one; leave one of them out")
    if args.lines and args.unique is not None:
        raise ConfigError("put --lines puts many messages and --unique lets one of them in; leave one of them out")
    if not args.lines and args.body is None:
        raise ConfigError("""put needs a BODY, as in: reliq put --queue emails '{"to": "ada"}'; - reads stdin""")


class Reader:
    """Makes bodies of what was typed or read, by the options and the queue's codec."""

    def __init__(self, args: argparse.Namespace, queue: Queue) -> None:
        self._text = args.text
        self._raw = args.raw or (queue.options.codec.name == "bytes")

    def bodies(self, lines: list[bytes], first: int) -> tuple[list[Any], ConfigError | None]:
        """The bodies of numbered lines, up to the first that is none, and what is wrong with that one. Blank
        lines are no JSON bodies; as texts they count."""
        found: list[Any] = []
        for number, line in enumerate(lines, first):
            if line.strip() or self._raw or self._text:
                try:
                    found.append(self.body(line, f"line {number}"))
                except ConfigError as error:
                    return found, error
        return found, None

    def body(self, data: bytes, what: str) -> Any:
        """The body; ConfigError if these bytes are no JSON, or no UTF-8."""
        if self._raw:
            return data
        try:
            typed = data.decode()
        except UnicodeDecodeError as error:
            raise ConfigError(f"{what} is no UTF-8 ({error.reason}); --raw sends bytes as they are") from None
        if self._text:
            return typed
        try:
            return json.loads(typed)
        except (ValueError, RecursionError) as error:
            shown = text.short(typed.strip(), 60)
            raise ConfigError(
                f'{what} is no JSON ({error}): {shown!r}. Quote it for the shell, as in \'{{"to": "ada"}}\', '
                "or send it as a text with --text"
            ) from None


def _put_lines(args: argparse.Namespace, queue: Queue, reader: Reader, at: datetime | None) -> int:
    """Lines that arrive together are put together; ids are printed as they are accepted."""
    ids: list[str] = []
    first = 1
    try:
        for first, lines in _batches(sys.stdin.buffer):
            bodies, wrong = reader.bodies(lines, first)
            ids += _shown(args, queue.put_many(bodies, **_words(args, at)))
            if wrong is not None:
                raise ConfigError(f"{wrong}. The lines before it are in, no line after it is")
    except PutManyError as error:
        ids += _shown(args, error.accepted)
        _print_lines(args, queue, ids)
        failure.say(f"of the lines from {first} on, {error}")
        return failure.status_of(error)
    except ReliqError:
        _print_lines(args, queue, ids)
        raise
    _print_lines(args, queue, ids)
    return FINE


def _batches(stream: BinaryIO) -> Iterator[tuple[int, list[bytes]]]:
    """(number of the first line, lines without their ends), as they arrive."""
    rest: list[bytes] = []
    number = 1
    while chunk := _read_some(stream):
        if b"\n" not in chunk:
            rest.append(chunk)
            continue
        *lines, last = b"".join([*rest, chunk]).split(b"\n")
        rest = [last]
        yield number, [line.removesuffix(b"\r") for line in lines]
        number += len(lines)
    if any(rest):
        yield number, [b"".join(rest)]


def _read_some(stream: BinaryIO) -> bytes:
    """What is there now, waiting only if nothing is."""
    return stream.read1(_READ) if isinstance(stream, io.BufferedReader | io.BytesIO) else stream.read(_READ)


def _shown(args: argparse.Namespace, ids: list[str]) -> list[str]:
    """Print ids at once, unless they become one JSON document; returns those still to print."""
    if args.json:
        return ids
    for id in ids:
        print(id)
    sys.stdout.flush()
    return []


def _print_lines(args: argparse.Namespace, queue: Queue, ids: list[str]) -> None:
    if args.json:
        _print(args, queue, ids)


def _print(args: argparse.Namespace, queue: Queue, ids: list[str]) -> None:
    if args.json:
        text.print_json({"queue": queue.name, "ids": ids})
    else:
        print("\n".join(ids))


def _doubtful(args: argparse.Namespace, error: OutcomeUnknown) -> OutcomeUnknown:
    """What a shell can do about a put of unknown outcome."""
    if not error.ids:  # the index of queues did not answer, and the message was not sent
        return OutcomeUnknown(f"nothing was put: {error}")
    first = str(error.__cause__ or error)
    if args.id is not None:
        return OutcomeUnknown(f"{first} Say the same again with --id {args.id}: it adds no second copy")
    look = again(args, f"peek --id {error.ids[0]}", args.queue)
    return OutcomeUnknown(f"{first} When Redis answers, see whether it is in: {look}")


VERB = Verb(
    name="put",
    summary="put a message, or one per line of stdin",
    details="Prints the id of each. A body is JSON, unless --text or --raw says otherwise.",
    example="""reliq put --queue emails '{"to": "ada@example.org"}'
  ls *.jpg | reliq put --queue images --lines --text""",
    configure=configure,
    run=run,
    queue_help="where to put it (required; need not exist yet)",
)
