"""The command scripts/faults and its table: what was shown, what was not, several runs as one, and how it ends."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.faults import matrix, rounds
from tests.faults.checker import Forgotten, Report, Violation
from tests.faults.lab import wait_until
from tests.faults.table import HEADINGS, Results, Run
from tests.servers import find_servers

ROOT = Path(__file__).parents[2]
BROKEN = Report(
    attempted=10_000,
    lost=["x"],
    forgiven=[Forgotten("y", 1.0, 0.5)],
    recovery=1.25,
    extra=Counter(reap=2),
    violations=[Violation(0.0, "I1", "x", "was accepted and is nowhere")],
)
KEPT = Report(attempted=5, recovery=0.5, extra=Counter(reap=1, release=3))


def results(seed: int, *reports: Report, fault: str = "kill-redis", **more: Any) -> Results:
    """Of one run of a minute and a half."""
    made = Results([Run(seed, ["redis-7.0.15"], 1.5)], **more)
    for report in reports:
        made.row(fault).add(report)
        made.incidents += ["VERDICT …"] if not report.ok else []
    return made


def cells(line: str) -> list[str]:
    return re.split(r"  +", line)


# -- the table ----------------------------------------------------------------------------------------------


def test_one_table_with_named_skips() -> None:
    """A row for each kind that was played, a skip for each that was not, and never a pass for a skip."""
    shown = results(7, BROKEN, KEPT, skipped={"valkey": "no such server at hand"})
    lines = shown.text().splitlines()
    assert cells(lines[0]) == list(HEADINGS)
    expected = [
        "kill-redis",
        "2",
        "10,005",
        "1 (+1 by rollback)",
        "0",
        "3 reap, 3 release",
        "1.2 s",
        "BROKEN in 1",
    ]
    assert cells(lines[2]) == expected
    assert cells(lines[3]) == ["valkey", "SKIPPED: no such server at hand"]
    assert lines[4] == (
        "2 rounds of 1 kinds in 1.5 minutes on redis-7.0.15 (seed 7): 10,005 messages, 1 lost, 0 unexpected, "
        "1 rounds with a broken invariant"
    )
    assert shown.status == 1


def test_the_same_as_markdown() -> None:
    """For docs/proof.md: as many cells in each line as there are headings."""
    lines = results(7, KEPT, skipped={"valkey": "no such server at hand"}).markdown().splitlines()
    table = lines[: lines.index("")]
    assert table[0] == "| " + " | ".join(HEADINGS) + " |"
    assert table[2] == "| kill-redis | 1 | 5 | 0 | 0 | 1 reap, 3 release | 0.5 s | kept |"
    assert table[3].startswith("| valkey |")
    assert table[3].endswith("| skipped: no such server at hand |")
    assert {line.count("|") for line in table} == {len(HEADINGS) + 1}


def test_a_round_that_could_not_be_played_is_no_pass() -> None:
    """Neither in the table nor in the exit status; and no rounds at all are none."""
    shown = results(7, KEPT, vain=["round x: …"])
    shown.row("kill-redis").vain = 1
    assert cells(shown.text().splitlines()[2])[-1] == "kept, nothing shown in 1"
    assert "1 that showed nothing" in shown.summary()
    assert shown.status == 1
    assert results(7).status == 1
    assert results(7, KEPT).status == 0


def test_several_runs_are_summed_into_one_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Numbers are added, the worst recovery is that of all; what one of them has played is not skipped."""
    first = results(7, BROKEN, skipped={"poison": "no time", "valkey": "no such server at hand"}, forgotten=["y"])
    second = results(8, KEPT, KEPT) + results(9, KEPT, fault="poison")
    for name, part in (("1.json", first), ("2.json", second)):
        (tmp_path / name).write_text(part.json())
    files = [str(tmp_path / name) for name in ("1.json", "2.json")]
    assert matrix.main(["--sum", *files, "--json", str(tmp_path / "all.json")]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert cells(lines[2])[:5] == ["kill-redis", "3", "10,010", "1 (+1 by rollback)", "0"]
    assert cells(lines[3])[:3] == ["poison", "1", "5"]
    assert [cells(line)[0] for line in lines[4:-1]] == ["valkey"]
    assert lines[-1].startswith(
        "4 rounds of 2 kinds in 4.5 minutes on redis-7.0.15 (seeds 7, 8, 9): 10,015 messages"
    )
    both = json.loads((tmp_path / "all.json").read_text())
    assert (both["schema"], both["forgotten"]) == (1, ["y"])
    assert matrix.main(["--sum", files[1], "--markdown"]) == 0
    assert capsys.readouterr().out.startswith("| fault | rounds |")


@pytest.mark.parametrize("content", [None, "no JSON", "[]", '{"schema": 2}', '{"schema": 1}'])
def test_what_cannot_be_summed_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None
) -> None:
    """Exit status 2, and no table of a part."""
    if content is not None:
        (tmp_path / "x.json").write_text(content)
    assert matrix.main(["--sum", str(tmp_path / "x.json")]) == 2
    said = capsys.readouterr()
    assert "x.json cannot be summed" in said.err
    assert said.out == ""


# -- the command --------------------------------------------------------------------------------------------


def test_every_kind_is_listed_and_an_unknown_one_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """--list shows them all; exit status 2 for a fault that does not exist, 3 for a server that is not here."""
    assert matrix.main(["--list"]) == 0
    listed = capsys.readouterr().out
    assert all(re.search(rf"^{re.escape(name)} ", listed, re.MULTILINE) for name in rounds.load_kinds())
    assert all(f"{why}" in listed for why in rounds.SKIPS.values())
    assert matrix.main(["--only", "gremlins"]) == 2
    assert "gremlins" in capsys.readouterr().err
    assert matrix.main(["--server", "1.0"]) == 3


def test_kinds_and_servers_take_turns(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Each kind on another server in the next cycle, with a seed of its own; what had no turn is a named skip;
    and what a rollback took back is named in a round that was kept too."""
    played: list[tuple[str, str, int]] = []

    def play(kind: rounds.Kind, binary: Any, seed: int, **options: Any) -> rounds.Outcome:
        played.append((kind.name, binary.version, seed))
        report = Report(attempted=1, forgiven=[Forgotten("y" * 32, 1.0, 0.5)])
        return rounds.Outcome(kind.name, binary.name, seed, report, "", Counter(deeds=1))

    monkeypatch.setattr(rounds, "play", play)
    kinds = list(rounds.load_kinds().values())[:2]
    servers = [type("Binary", (), {"version": v, "version_info": (7,), "name": v})() for v in ("6.2", "7.0")]
    shown = matrix.Matrix(kinds, servers, 30).run(60.0, 4, {"valkey": "not here"})
    a, b = (kind.name for kind in kinds)
    assert played == [(a, "6.2", 30), (b, "7.0", 31), (a, "7.0", 32), (b, "6.2", 33)]
    assert shown.skipped == {"valkey": "not here"}
    assert len(shown.forgotten) == 4
    assert all("y" * 32 in line for line in shown.forgotten)
    assert capsys.readouterr().out.count("y" * 32) == 4
    assert b in matrix.Matrix(kinds, servers, 30).run(60.0, 1, {}).skipped


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_run_shows_what_it_has(tmp_path: Path, number: int) -> None:
    """The table and the file with the rounds that were played; nothing of the round under way is left running."""
    words = ["--only", "script-flush", "--seed", "5", "--seconds", "0.5", "--json", str(tmp_path / "x.json")]
    with (tmp_path / "out").open("wb") as out:
        run = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.matrix", *words],
            cwd=ROOT,
            stdout=out,
            env=os.environ | {"TMPDIR": str(tmp_path)},
            start_new_session=True,
        )
    try:
        wait_until(lambda: (tmp_path / "x.json").exists(), 60, "the first round is over")
        wait_until(lambda: list(tmp_path.glob("reliq-round-*")), 20, "another round begins")
        run.send_signal(number)
        assert run.wait(20) == 0
    finally:
        run.kill()
    text = (tmp_path / "out").read_text()
    assert re.search(r"^script-flush +\d+ .* kept$", text, re.MULTILINE), text
    assert text.rstrip().endswith("stopped by a signal")
    assert json.loads((tmp_path / "x.json").read_text())["runs"][0]["stopped"] is True
    assert list(tmp_path.glob("reliq-*")) == []


def test_the_entry_point_runs_the_matrix() -> None:
    """scripts/faults is executable and starts this command, whose help says what its exit status means."""
    script = ROOT / "scripts/faults"
    assert os.access(script, os.X_OK)
    assert "-m tests.faults.matrix" in script.read_text()
    told = subprocess.run([sys.executable, "-m", "tests.faults.matrix", "--help"], cwd=ROOT, capture_output=True)
    assert " ".join(matrix.STATUS.split()) in " ".join(told.stdout.decode().split())
    assert find_servers()
