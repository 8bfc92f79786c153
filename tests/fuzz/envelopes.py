"""Malformed envelopes through the parser, and through a real server with a real worker: none crashes anything, and
none is silently dropped.

    python -m tests.fuzz.envelopes --count 1000000 --seed 1

Each batch goes the whole way of a bad day: pushed by a foreign producer; claimed by a consumer that dies, so that
what is raw gets its envelope; reaped; claimed by a worker, whose handler fails at some; and then every single one
must have been handled, or be a dead letter with its reason, as wire.md has it. What does not agree raises
AssertionError, with the batch to look at: `--first N --count M` runs the batches from number N on.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import msgpack
import redis as redis_py

import reliq
import reliq.aio
from reliq.core import envelope as env
from reliq.core import expiry, ops
from reliq.core.codec import CODECS, decode
from reliq.errors import DecodeError
from tests.fuzz import fates, mutants
from tests.fuzz.fates import MESSAGE, RAW, Fate
from tests.fuzz.mutants import IMMUTABLE, META, Mutant
from tests.lua.lab import Lab
from tests.servers import NO_SERVER, RedisServer, find_servers

BATCH: Final = 10_000
#: Raw elements are read in each of these ways; None is a queue that names no codec.
QUEUE_CODECS: Final = (None, "bytes", "json", "msgpack")
ENDS: Final = (
    *(MESSAGE, RAW, "UNDECODABLE", "UNSUPPORTED_VERSION", "BAD_LENGTH", "BAD_META", "POISON", "ATTEMPTS"),
)  # fmt: skip


class Tally:
    """What became of the mutants, by kind and end, and how long each stage took, in seconds."""

    def __init__(self) -> None:
        self.ends: Counter[tuple[str, str]] = Counter()
        self.seconds: Counter[str] = Counter()

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[stage] += time.perf_counter() - started

    @property
    def total(self) -> int:
        return sum(self.ends.values())

    def __str__(self) -> str:
        kinds = [kind for kind in mutants.KINDS if any(self.ends[kind, end] for end in ENDS)]
        lines = [f"{'':<16}{'all':>9}" + "".join(f"{end.replace('UNSUPPORTED_', ''):>12}" for end in ENDS)]
        for kind in [*kinds, "all"]:
            row = [sum(self.ends[k, end] for k in (kinds if kind == "all" else [kind])) for end in ENDS]
            lines.append(f"{kind:<16}{sum(row):>9,}" + "".join(f"{n or '':>12,}" if n else " " * 12 for n in row))
        stages = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in self.seconds.items())
        return "\n".join([*lines, "", stages])


# -- the parser alone ---------------------------------------------------------------------------------------


def parsed(element: bytes, codec: str | None) -> tuple[str, Any]:
    """What reliq's own parser makes of an element; in the terms of ``fates.verdict``."""
    raw_codec = CODECS[codec or "json"]
    try:
        if not env.is_envelope(element):
            return RAW, decode({"r": True}, element, raw_codec, raw_codec)
        envelope = env.unpack(element)
        expiry.check(envelope.meta, 1_000_000_000_000)  # some day before that of any test
        return MESSAGE, decode(envelope.meta, envelope.body, CODECS[codec or "msgpack"], raw_codec)
    except DecodeError as error:
        return error.code if str(error) else "no reason", None


def check_parser(batch: Iterable[Mutant], codec: str | None) -> None:
    """The parser and wire.md agree about each."""
    for kind, element in batch:
        ours, book = parsed(element, codec), fates.verdict(element, codec)
        assert repr(ours) == repr(book), f"{kind} {element[:200]!r}: {ours} is not {book}"


# -- a server and a worker ----------------------------------------------------------------------------------


class Round:
    """One batch on a real server, from the foreign producer to its end."""

    def __init__(self, client: redis_py.Redis, url: str, prefix: str, codec: str | None, tally: Tally) -> None:
        self.lab = Lab(client, prefix)
        self.tally = tally
        self._client = client
        self._url, self._prefix, self._codec = url, prefix, codec

    def run(self, batch: list[Mutant], *, shell: str = "sync") -> None:
        """All of it; AssertionError if one of them is not where it belongs."""
        elements = [mutant.element for mutant in batch]
        with self.tally.timed("push"):
            self._push(elements)
        with self.tally.timed("claim"):
            held = self._claim_and_die(elements)
        started = {element[IMMUTABLE:META] for i, element in enumerate(held) if i % 997 == 0 or element[21] == 2}
        with self.tally.timed("reap"):
            self._reap(held, started)
        expected = [
            fates.fate(element, copy, self._codec, started=copy[IMMUTABLE:META] in started)
            for element, copy in zip(elements, held, strict=True)
        ]
        with self.tally.timed("work"):
            handled = self._work(shell)
        self._compare(expected, handled)
        for mutant, fate in zip(batch, expected, strict=True):
            self.tally.ends[mutant.kind, fate.end] += 1

    def _push(self, elements: list[bytes]) -> None:
        for start in range(0, len(elements), 1000):
            self._client.lpush(self.lab.keys.ready, *elements[start : start + 1000])

    def _claim_and_die(self, elements: list[bytes]) -> list[bytes]:
        """Everything, in the order of its put: an envelope as it is, anything else in an envelope of its own."""
        held: list[bytes] = []
        number = 0
        while self._client.llen(self.lab.keys.ready):
            number += 1
            mode = "beside"  # or the first message that a consumer has died with would keep all others away
            reply = self.lab.trip("dying", number, want=1000, in_hand=len(held), mode=mode)
            assert (reply[0], reply[4]) == (b"ok", 0)
            assert reply[9], "a trip that takes nothing from a list that is not empty"
            held += reply[9]
        assert len(held) == len(elements)
        for element, copy in zip(elements, held, strict=True):
            if not fates.is_envelope(element):
                assert copy == mutants.seal(copy[IMMUTABLE:META] + b"\x81\xa1r\xc3" + element), element[:200]
            else:
                assert copy == element
        return held

    def _reap(self, held: list[bytes], started: set[bytes]) -> None:
        """All of it, in the same order, except for what is POISON now."""
        command = ops.reap(self.lab.keys, "dying", dead=True, started=sorted(started))
        reaped = returned = 0
        while True:
            answer: ops.Reaped = self.lab.run(command)
            reaped += answer.returned + answer.buried
            returned += answer.returned
            if not answer.more:
                break
        assert reaped == len(held)
        back = [fates.after_reap(copy, started=copy[IMMUTABLE:META] in started) for copy in held]
        assert self.lab.ready == [element for element in back if element is not None]
        assert len(self.dead()) == reaped - returned, "equal messages became one dead letter"

    def _work(self, shell: str) -> list[tuple[bytes, int, int, str]]:
        """What a handler was given and has not failed at: (id, fence, deliveries, body)."""
        handled: list[tuple[bytes, int, int, str]] = []

        def handle(lease: reliq.Lease) -> None:
            id = bytes.fromhex(lease.id)
            if fates.is_failed_once(id, lease.attempt):
                raise reliq.RetryAfter(0.1)
            handled.append((id, lease.fence, lease.deliveries, repr(lease.body)))

        while self._client.llen(self.lab.keys.ready) or self._client.zcard(self.lab.keys.later):
            if shell == "sync":
                with self._queue(reliq.Queue) as queue:
                    reliq.Worker(queue.ack(handle), until_empty=True, signals=False).run()
            else:
                asyncio.run(self._work_async(handle))
        return handled

    async def _work_async(self, handle: Any) -> None:
        async with self._queue(reliq.aio.Queue) as queue:
            await reliq.aio.Worker(queue.ack(handle), until_empty=True, signals=False).run()

    def _queue(self, kind: Any) -> Any:
        return kind("q", self._url, prefix=self._prefix, codec=self._codec)

    def dead(self) -> list[tuple[dict[str, Any], bytes]]:
        """The dead letters: (note, element)."""
        found = []
        for member in self._client.zrange(self.lab.keys.dead, 0, -1):
            reader = msgpack.Unpacker(max_buffer_size=len(member))
            reader.feed(member)
            note = reader.unpack()
            found.append((note, member[reader.tell() :]))
        return found

    def _compare(self, expected: list[Fate], handled: list[Any]) -> None:
        alive = Counter(fate.what for fate in expected if fate.end in (MESSAGE, RAW))
        differ(alive, Counter(handled), "handled")
        died = Counter((fate.end, fate.what) for fate in expected if fate.end not in (MESSAGE, RAW))
        dead = self.dead()
        # A retry writes the last failure into the meta, so of those the id has to do.
        differ(
            Counter((end, what[13:29] if end == "ATTEMPTS" else what) for end, what in died.elements()),
            Counter(
                (note["cause"], e[23:39] if note["cause"] == "ATTEMPTS" else fates.without_counters(e))
                for note, e in dead
            ),
            "dead letters",
        )
        assert all(note["error"] and note["worker"] and note["id"] for note, _ in dead), "a reason is missing"
        assert len(handled) + len(dead) == len(expected)
        left = {key for key in self.lab.snapshot() if key.endswith((b":ready", b":later")) or b"ing:" in key}
        assert not left, f"something is left: {left}"


def differ(expected: Counter[Any], found: Counter[Any], what: str) -> None:
    """AssertionError that shows some of what is missing and of what is too much."""
    if expected != found:
        missing, extra = list((expected - found).items())[:3], list((found - expected).items())[:3]
        raise AssertionError(f"{what}: missing {repr(missing)[:2000]}; not expected {repr(extra)[:2000]}")


# -- the command --------------------------------------------------------------------------------------------


def run(
    server: Any, prefix: str, *, count: int, seed: int, first: int = 0, shell: str = "sync", size: int = BATCH
) -> Tally:
    """Batch after batch, each on keys of its own that are removed when all is well."""
    tally = Tally()
    with server.client() as client, complaints() as lines:
        for number, start in enumerate(range(0, count, size), first):
            with tally.timed("make"):
                batch = mutants.batch(seed, number, min(size, count - start))
            codec = QUEUE_CODECS[number % len(QUEUE_CODECS)]
            try:
                with tally.timed("parse"):
                    check_parser(batch, codec)
                Round(client, server.url, f"{prefix}-{number}", codec, tally).run(batch, shell=shell)
                assert not lines, lines[:5]
            except AssertionError as error:
                where = f"--seed {seed} --first {number} --count {len(batch)} --shell {shell} (codec {codec})"
                raise AssertionError(f"{where}: {error}") from error
            client.delete(*client.scan_iter(match=f"{prefix}-{number}:*", count=1000))
    assert tally.total == count
    return tally


@contextmanager
def complaints() -> Iterator[list[str]]:
    """What reliq logs meanwhile, except for what is meant to happen."""
    lines: list[str] = []
    # The last: of equal elements that cannot be read one may be buried once too often, which is refused.
    expected = ("dead-lettered", "back in ", "worker st", "reaped: ", "late settle(s) refused, the first: bury")

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            line = self.format(record)
            if not any(part in line for part in expected):
                lines.append(line)

    log, collector = logging.getLogger("reliq"), Collector(logging.INFO)
    before = log.propagate, log.level
    log.propagate = False
    log.setLevel(logging.INFO)
    log.addHandler(collector)
    try:
        yield lines
    finally:
        log.removeHandler(collector)
        log.propagate = before[0]
        log.setLevel(before[1])


def main() -> int:
    """Start the newest server found here, send them through, print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.envelopes", description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=20_000, help="how many (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of all that is random (%(default)s)")
    parser.add_argument("--first", type=int, default=0, metavar="N", help="begin with this batch (%(default)s)")
    parser.add_argument("--shell", choices=("sync", "aio"), default="sync", help="(%(default)s)")
    args = parser.parse_args()
    binaries = find_servers()
    if not binaries:
        print(NO_SERVER, file=sys.stderr)
        return 3
    started = time.perf_counter()
    with RedisServer(binaries[-1], appendonly=False) as server:
        tally = run(server, "fuzz", count=args.count, seed=args.seed, first=args.first, shell=args.shell)
    seconds = time.perf_counter() - started
    print(tally)
    print(f"{args.count:,} in, {tally.total:,} out: none crashed, none dropped ({server.name}, {seconds:.0f} s)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
