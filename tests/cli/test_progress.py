"""How far long commands are: on a terminal's stderr, and nowhere else."""

from __future__ import annotations

import argparse
import io
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from reliq.cli import progress
from reliq.core.command import Command
from tests.cli.conftest import Commands

PEOPLE, PROGRAMS = argparse.Namespace(json=False), argparse.Namespace(json=True)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(params=["rich", "plain"])
def terminal(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """One to be set as stderr, with rich and without; and no patience."""
    monkeypatch.setattr(progress, "_PATIENCE", 0.0)
    monkeypatch.setattr(progress, "_BETWEEN", 0.0)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    if request.param == "plain":
        monkeypatch.setitem(sys.modules, "rich", None)
    return Terminal()


def seen(terminal: Terminal) -> str:
    """Without what moves the cursor and colours the text; digits as rich and we write them."""
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", terminal.getvalue()).replace(",", "").replace("/", " of ")


def test_a_bar(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says what, how many, of how many; it makes room, comes again, and is gone in the end."""
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress.bar(PEOPLE, "queue \x1b[31memails", lambda: 2000) as bar:
        bar.add(1000)
        assert re.search(r"emails.*1000 ?of ?2000", seen(terminal))
        assert "\x1b[31m" not in terminal.getvalue()
        bar.hide()
        assert seen(terminal).endswith(("\r", "\n")) or not seen(terminal).split("\n")[-1].strip()
        bar.to(2500)
        assert re.search(r"2500 ?of ?2500", seen(terminal))
        bar.now("the last")
        assert "the last" in seen(terminal)
    assert seen(terminal).rstrip(" ").endswith(("\r", "\n")) or terminal.getvalue().endswith("\x1b[2K")


def test_nobody_looks(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside --json, or without a terminal, there is none."""
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress.bar(PROGRAMS, "x", lambda: 2) as bar:
        bar.add()
    assert terminal.getvalue() == ""
    monkeypatch.setattr(sys, "stderr", pipe := io.StringIO())
    with progress.bar(PEOPLE, "x", lambda: 2) as bar:
        bar.add()
        bar.now("y")
        bar.hide()
    assert (bar.done, pipe.getvalue()) == (1, "")


def test_short_ones_show_none(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is over at once does not flicker."""
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(progress, "_PATIENCE", 60.0)
    with progress.bar(PEOPLE, "x", lambda: 2) as bar:
        bar.add()
    assert terminal.getvalue() == ""


def test_a_watched_flow() -> None:
    """Gets the replies and the errors of the other one, and its result."""

    def flow() -> Iterator[object]:
        seen = [(yield Command("A", ()))]
        try:
            yield Command("B", ())
        except ValueError as error:
            seen.append(str(error))
        return seen

    told: list[int] = []
    watched = progress.watched_g(flow(), lambda: told.append(1))  # type: ignore[arg-type,var-annotated]
    assert next(watched).verb == "A"  # type: ignore[union-attr]
    assert watched.send(7).verb == "B"  # type: ignore[union-attr]
    with pytest.raises(StopIteration) as end:
        watched.throw(ValueError("no"))
    assert (end.value.value, len(told)) == ([7, "no"], 1)


def test_long_commands_have_one(
    commands: Commands, terminal: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fsck, purge --export, and what dead does with many; what they print is as ever."""
    monkeypatch.setattr(sys, "stderr", terminal)

    def run(*words: str) -> str:
        """In this process, with that stderr; returns what was drawn since."""
        from reliq.cli.program import main

        before = len(terminal.getvalue())
        monkeypatch.setattr(sys, "stdout", out := io.StringIO())
        status = main([*words, "--url", commands.url, "--prefix", commands.prefix, "--queue", "emails"])
        assert status == 0, terminal.getvalue()
        if "export" in words:
            (tmp_path / "dead.jsonl").write_text(out.getvalue())
        return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", terminal.getvalue()[before:]).replace("/", " of ")

    with commands.queue("emails") as queue:
        queue.put_many(range(20))
        with queue.consumer(prefetch=10) as consumer:
            for lease in consumer.claim(10, timeout=5):
                lease.bury("no")
    assert re.search(r"queue emails: looking.*20 ?of ?20", run("fsck"))
    assert re.search(r"queue emails: exported.*10 ?of ?10", run("dead", "export"))
    assert re.search(r"queue emails: revived.*10 ?of ?10", run("dead", "revive", "--all"))
    assert re.search(r"queue emails: imported.*10", run("dead", "import", str(tmp_path / "dead.jsonl")))
    assert re.search(
        r"queue emails: exported.*20 ?of ?20", run("purge", "--yes", "--export", str(tmp_path / "out"))
    )
    assert "queue emails" not in run("fsck", "--json")
