"""The formal model, checked by Spin: what scripts/model prints is what has to hold. README.md explains it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
VARIANTS = 8  # at least so many


def model(**environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, ROOT / "scripts" / "model"],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.timeout(1200)  # a machine that has other work takes its time
def test_the_model_holds_and_every_broken_variant_is_found() -> None:
    """Safety and progress hold in all states within the bounds, of both models; what is broken on purpose is
    found; and nothing is counted as checked that was not checked to its end."""
    done = model()
    skipped = re.search("SKIPPED: .*", done.stdout)
    if skipped and os.environ.get("RELIQ_MODEL_REQUIRED") != "1":
        pytest.skip(skipped.group())
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith(("reliq ", "exclusive "))]
    verdicts = {re.split(" {2,}", line)[-1] for line in rows}
    assert verdicts == {"holds", "found", "redundant"}, done.stdout
    for what in (r"reliq .* safety", r"reliq .* progress", r"exclusive .* safety", r"exclusive .* progress"):
        assert any(re.match(what + r" .* holds$", line) for line in rows), f"{what}\n{done.stdout}"
    assert sum(line.endswith("found") for line in rows) >= VARIANTS
    assert "0 surprises" in done.stdout


@pytest.mark.parametrize(("required", "status"), [("", 0), ("1", 1)])
def test_a_missing_checker_is_said_and_never_a_pass(tmp_path: Path, required: str, status: int) -> None:
    """Without spin: one clear line with the word SKIPPED, and exit status 1 where the check was required."""
    done = model(PATH=str(tmp_path), RELIQ_MODEL_REQUIRED=required)
    assert done.stdout == "SKIPPED: spin is not installed (apt-get install spin)\n"
    assert done.returncode == status


def test_every_switch_of_the_models_is_tried() -> None:
    """A broken variant that is in the models and in no run would only look like a check."""
    program = (ROOT / "scripts" / "model").read_text()
    for path in (ROOT / "tests" / "model").glob("*.pml"):
        text = path.read_text()
        defined = set(re.findall(r"#define (\w+)", text))
        for name in set(re.findall(r"#(?:ifdef|ifndef) (\w+)|defined\((\w+)\)", text)):
            switch = "".join(name)
            assert switch in defined or switch in program, f"{path.name}: nobody tries {switch}"
