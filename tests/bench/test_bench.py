"""The benchmark runs, and its JSON says what was measured and what was not."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_quick_run(tmp_path: Path) -> None:
    """One group is measured; every other bar stands in the JSON as not measured, with the reason."""
    file = tmp_path / "bench.json"
    command = [ROOT / "scripts" / "bench" / "run", "--quick", "--rounds", "1", "--only", "put", "--json", file]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert run.returncode in (0, 1), run.stderr  # as the machine is fast or slow just now
    assert "cpu_dma_latency" in run.stdout
    found = json.loads(file.read_text())
    bars = {bar["name"]: bar for bar in found["bars"]}
    assert len(bars) == len(found["bars"]) >= 22
    assert all({"name", "bar", "figure", "met"} <= bar.keys() for bar in bars.values())
    measured = {name for name, bar in bars.items() if bar["met"] is not None}
    assert measured == {"put", "put-many", "put-aio"}, run.stderr
    assert bars["put"]["figure"] > 0
    assert bars["put"]["met"] is (bars["put"]["figure"] >= 1.2) is (run.returncode == 0)
    assert all(bar["why"] and bar["figure"] is None for name, bar in bars.items() if name not in measured)


def test_compare_with_itself(tmp_path: Path) -> None:
    """A run compared with an older one says what changed; a file that is no such JSON is wrong usage."""
    file = tmp_path / "bench.json"
    run = [ROOT / "scripts" / "bench" / "run", "--quick", "--rounds", "1", "--only", "put"]
    subprocess.run([*run, "--json", file], capture_output=True, timeout=120)
    again = subprocess.run([*run, "--compare", file], capture_output=True, text=True, timeout=120)
    assert "since " in again.stdout
    assert "put-many" in again.stdout
    assert subprocess.run([*run, "--compare", __file__], capture_output=True, timeout=120).returncode == 2
