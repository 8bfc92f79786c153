"""Command lines that nobody would type: an exit status of the four that there are, never a traceback, and for
wrong use one line that names the next step."""

from __future__ import annotations

import argparse
import io
import re
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from random import Random
from typing import NamedTuple

import pytest

import reliq
from reliq.cli.program import VERBS, main
from reliq.cli.verb import Verb, Verbs
from tests.servers import RedisServer

NOWHERE = "redis://127.0.0.1:1/0"
ODD = [
    *("", " ", "-", "--", "-n", "--json", "-1", "0", "1", "7", "1.5", "nan", "inf", "1e400", "9" * 30, "9" * 5000),
    *("emails", "e mails", "{x}", "a\nb", "\x1b[31m", "\udcff", "\u2028", "é", "\0", "x" * 5000, "no_such_module"),
    *('{"to": "ada"}', "[1, 2", "NaN", "[" * 3000, "json:loads", "a..b", "nowhere/", ".py", "ready", "dead"),
    *("2030-01-31T08:00Z", "0001-01-01T00:00+23:59", "9999-12-31T23:59:59-23:59", "tomorrow", "90s"),
    *("ab" * 16, "ORDER-17", "--help", "--no-such-option", "--queue", "*", "$(true)", "-5d", "field=1"),
]  # fmt: skip
URLS = [
    NOWHERE,
    "http://h",
    "redis://:secret@127.0.0.1:1",
    "redis://a..b",
    "unix:///nowhere",
    "redis://h/x",
    "",
    "\0",
]
#: What stands in every error of wrong use: where to read on, an example, or what would be right.
STEP = re.compile(
    "--help|[Ss]ee |[Uu]se |write |[Gg]ive |[Nn]ame |leave |needs |Quote|correct |as in |Example|choose |one of |"
    "set RELIQ_URL|at least|not negative|must be|reads |looked for in|known:|Check |there are |the commands are |"
    "they are |a queue appears|make one with|lists all|without white space|spell it|as its put returned|"
    "a number above|a text of"
)
#: These work for long, or start processes: only where there is no Redis to work on.
NOT_HERE = {"demo", "drain", "metrics", "run", "tail", "top", "verify", "worker"}


class Result(NamedTuple):
    status: int
    out: str
    err: str


def options(verb: Verb | Verbs) -> list[tuple[str, ...]]:
    """The second words of a command, or its options, as its own parser has them."""
    if isinstance(verb, Verbs):
        return [(each.name.split()[-1], *found) for each in verb.verbs for found in [(), *options(each)]]
    return [(action.option_strings[-1],) for action in verb.parser()._actions if action.option_strings]


def command_line(rng: Random, url: str) -> list[str]:
    """Mostly a command with options of its own, some of them with values that may be right."""
    name = rng.choice([*VERBS, *VERBS, "statsu", "", "-h", "--version", "--json"])
    words = [name]
    if name in VERBS:
        verb = VERBS[name]
        for _ in range(rng.randrange(4)):
            words += rng.choice(options(verb))
            words += [rng.choice(ODD)] * (rng.random() < 0.6)
    words += rng.choices(ODD, k=rng.choice([0, 0, 1, 1, 2]))
    if rng.random() < 0.1:
        rng.shuffle(words)
    here = url if not NOT_HERE & set(words) else NOWHERE
    ending = rng.choice([["--url", here], ["--url", here, "--queue", "emails"], ["--url", rng.choice(URLS)], []])
    return [*words, *ending]


def run(words: list[str], stdin: bytes = b"") -> Result:
    """In this process, with streams as a terminal would give them."""
    streams = [io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2)]
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(streams[0]), redirect_stderr(streams[1]):
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        patch.setenv("RELIQ_URL", "")  # which a command sets for the modules that it imports
        status = main(words)
    texts = []
    for stream in streams:
        stream.flush()
        texts.append(stream.buffer.getvalue().decode("utf-8"))
    return Result(status, *texts)


@pytest.fixture
def place(newest: RedisServer, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A Redis with some messages, an empty folder, and no private Redis to fall back to."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RELIQ_EMBEDDED", "0")
    monkeypatch.setenv("RELIQ_PREFIX", prefix)
    monkeypatch.setattr(sys, "path", sys.path[:])
    with reliq.Queue("emails", newest.url) as queue:
        queue.put_many([{"to": "ada"}, None, "x" * 500])
        queue.put("later", delay=3600)
        with queue.consumer() as consumer:
            for lease in consumer.claim(1):
                lease.bury("no such address")
    return newest.url


@pytest.mark.parametrize("seed", range(8))
def test_any_command_line_ends_in_good_order(place: str, seed: int) -> None:
    """0 fine, 1 needs attention, 2 wrong use, 3 Redis unreachable; errors are one line on stderr."""
    rng = Random(seed)
    for _ in range(100):
        words = command_line(rng, place)
        result = run(words, rng.choice([b"", b"1\n2\n", b"\xff\n", b'{"a": 1}', b"\0" * 10]))
        told = f"{words!r}: {result}"[:3000]
        assert result.status in (0, 1, 2, 3), told
        assert "Traceback" not in result.err, told
        assert "secret" not in result.err + result.out, told
        if result.status in (2, 3) and words[0]:
            assert result.err.endswith("\n"), told
            line = result.err.splitlines()[-1]
            assert line.startswith("reliq: "), told
            assert sum(line.startswith("reliq: ") for line in result.err.splitlines()) == 1, told
            assert STEP.search(line), told


NUMBERS = [
    *("", "0", "-1", "1", "1.5", "nan", "inf", "-inf", "1e400", "9" * 18, "9" * 30, "9" * 5000, "٣", "0x10", " 7"),
]


@pytest.mark.parametrize("name", sorted(VERBS.keys() - NOT_HERE))
def test_every_option_with_every_odd_number(place: str, name: str) -> None:
    """Too large, too small, none at all: an option that takes a number says so, or does what it can."""
    verbs = VERBS[name].verbs if isinstance(verb := VERBS[name], Verbs) else [verb]
    for each in verbs:
        for action in each.parser()._actions:
            if action.type in (int, float) and action.option_strings:
                for number in NUMBERS:
                    words = [*each.name.split(), f"{action.option_strings[-1]}={number}"]
                    result = run([*words, "--url", place, "--queue", "emails", *["1"] * (name == "put")])
                    assert result.status in (0, 1, 2), f"{words!r}: {result}"
                    assert result.status != 2 or STEP.search(result.err), f"{words!r}: {result}"


def test_every_command_has_met_the_server(place: str) -> None:
    """The lines above are not all wrong: most commands work at times."""
    rng, fine = Random("fine"), set()
    for name in sorted(VERBS.keys() - NOT_HERE):
        for _ in range(30):
            words = [name, *rng.choice([(), *options(VERBS[name])])]
            here = NOWHERE if NOT_HERE & set(words) else place
            if run([*words, "--url", here, "--queue", "emails"]).status in (0, 1):
                fine.add(name)
                break
    assert fine >= {"status", "peek", "reap", "dead", "fsck", "doctor"}


def test_parsers_are_known() -> None:
    """Options are read from the commands themselves, so that a new one is tried without a word here."""
    assert ("--state",) in options(VERBS["peek"])
    assert isinstance(VERBS["peek"], Verb)
    assert isinstance(VERBS["peek"].parser(), argparse.ArgumentParser)
