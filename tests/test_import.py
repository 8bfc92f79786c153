"""What `import reliq` costs, against the three packages that it cannot do without."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from reliq.core import scripts

ROOT = Path(__file__).resolve().parents[1]
MARK = "-- next --"
CODE = f"""
import sys
print({MARK!r}, file=sys.stderr, flush=True)
import redis, tenacity, msgpack
print({MARK!r}, file=sys.stderr, flush=True)
import reliq
"""
MOST = 0.15
"""Of the time, and of the number of modules, that the dependencies take by themselves."""

RUNS = 7


class Run(NamedTuple):
    """One fresh process: each module that it imported, with its own microseconds."""

    theirs: dict[str, int]
    ours: dict[str, int]


def run(cache: Path) -> Run:
    """Import the dependencies, then reliq: one process is measured against itself."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    # Compiling is no part of importing: the bytecode of both is there after the first run.
    environment["PYTHONPYCACHEPREFIX"] = str(cache)
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", CODE],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    _, theirs, ours = done.stderr.split(MARK)  # first what Python itself needs to start
    return Run(_modules(theirs), _modules(ours))


def _modules(report: str) -> dict[str, int]:
    """Lines such as ``import time:       128 |        128 |   redis``: own µs, with what it imported, name."""
    rows = [line.removeprefix("import time:").split("|") for line in report.splitlines() if "|" in line]
    return {name.strip(): int(own) for own, _, name in rows if own.strip().isdigit()}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    """Several runs, after one that compiles."""
    cache = tmp_path_factory.mktemp("pycache")
    run(cache)
    return [run(cache) for _ in range(RUNS)]


def test_import_time(runs: list[Run]) -> None:
    """reliq adds at most 15 % to the time that importing redis, tenacity and msgpack takes.

    Of each module the least of several runs counts: whatever else the machine does can only add.
    """
    theirs = {name: min(each.theirs[name] for each in runs) for name in runs[0].theirs}
    ours = {name: min(each.ours[name] for each in runs) for name in runs[0].ours}
    share = sum(ours.values()) / sum(theirs.values())
    slowest = ", ".join(f"{name} {ours[name]} µs" for name in sorted(ours, key=lambda name: -ours[name])[:5])
    assert share <= MOST, f"{share:.1%}; the slowest are {slowest}"


def test_number_of_modules(runs: list[Run]) -> None:
    """reliq adds at most 15 % to the number of modules: this one does not depend on the machine."""
    assert "reliq.sync.queue" in runs[0].ours
    assert len(runs[0].ours) <= MOST * len(runs[0].theirs)


def test_a_producer_imports_no_worker(runs: list[Run]) -> None:
    """What only consumers, tracing, asyncio, the embedded Redis or the command line need comes when used."""
    worker = ("reliq.sync.worker", "reliq.sync.consumer", "reliq.core.failure", "reliq.core.reaping")
    for part in (*worker, "reliq.tracing", "reliq.aio", "reliq.embedded.start", "reliq.cli"):
        assert part not in runs[0].ours


def test_nobody_imports_telemetry_unasked() -> None:
    """Workers of both shells and all commands are there, and the packages that only telemetry needs are not."""
    code = (
        "import sys, redis\nbefore = set(sys.modules)  # redis-py has an eye on OpenTelemetry of its own\n"
        "import reliq.cli.program, reliq.sync.supervisor, reliq.aio; reliq.Worker; reliq.aio.Worker\n"
        "new = {name.split('.')[0] for name in set(sys.modules) - before}\n"
        "print(sorted(new & {'prometheus_client', 'opentelemetry'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_out_of_a_zip(tmp_path: Path) -> None:
    """The scripts are found in a zip too, as zipapp makes them, and are the same."""
    archive = shutil.make_archive(str(tmp_path / "packed"), "zip", ROOT, "reliq")
    code = "from reliq.core import scripts as s; print(s.__file__, s.put.sha, s.trip.sha)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": archive},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    file = Path(archive, "reliq", "core", "scripts.py")
    assert done.stdout == f"{file} {scripts.put.sha} {scripts.trip.sha}\n"


def test_public_names() -> None:
    """Every public name is there, those that come late too, and dir() shows them; others raise."""
    import reliq

    for name in reliq.__all__:
        if name != "Dependency":  # which is an annotation
            assert getattr(reliq, name).__name__ == name
    assert set(reliq.__all__) <= set(dir(reliq))
    assert reliq.logging.ContextFilter
    assert reliq.context.tracing
    with pytest.raises(AttributeError, match="Wroker"):
        reliq.Wroker  # noqa: B018
