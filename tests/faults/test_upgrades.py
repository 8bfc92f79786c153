"""Two releases work on one queue, both are killed again and again, and nothing is lost.

The other release is this one with what a later one may bring: other scripts (their digests differ), a key of meta
and fields in the records of consumers that nobody here knows, a newer minor schema. OTHER_RELEASE names the folder
of a real one (a checkout) to take instead.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import reliq
from tests.faults.lab import PROGRAM, Lab, lab, wait_until
from tests.faults.test_foreign import Killer

ROOT = Path(__file__).resolve().parents[2]
MESSAGES = 2500


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text("utf-8")
    assert old in text, f"{path}: {old}"
    path.write_text(text.replace(old, new, 1), "utf-8")


def later_release(folder: Path, *, version: int = 1) -> Path:
    """A copy of the package that has gone on. ``version``: of the messages that it writes and reads."""
    shutil.copytree(Path(reliq.__file__).parent, folder / "reliq", ignore=shutil.ignore_patterns("__pycache__"))
    core = folder / "reliq" / "core"
    for script in (core / "lua").glob("*.lua"):
        script.write_text(script.read_text("utf-8") + "\n-- of another release\n", "utf-8")
    replace(core / "envelope.py", "VERSION: Final = 1\n", f"VERSION: Final = {version}\n")
    meta = "bytes(msgpack.packb(meta)) if meta else _NO_META"
    replace(core / "envelope.py", meta, "bytes(msgpack.packb({**meta, 'zz': [1]}))")
    replace(core / "keys.py", "SCHEMA: Final = (1, 0)", "SCHEMA: Final = (1, 4)")
    replace(
        core / "lua" / "trip.lua",
        "redis.call('HSET', SESSION, 'trip'",
        "redis.call('HSET', SESSION, 'zz', 1, 'trip'",
    )
    return folder


def run_in(release: Path, code: str) -> list[str]:
    """The command that runs this with that release, and with the tests of here."""
    first = f"import sys; sys.path.insert(0, {str(release)!r}); import reliq; "
    return [sys.executable, "-c", first + f"assert reliq.__file__.startswith({str(release)!r}); " + code]


def worker_of(release: Path) -> list[str]:
    return run_in(
        release, "import runpy; runpy.run_module('tests.faults.program', run_name='__main__', alter_sys=True)"
    )


def put_by(release: Path, it: Lab, first: int, count: int) -> None:
    """That release puts these messages."""
    code = f"q = reliq.Queue('work', {it.url!r}, prefix={it.prefix!r}); "
    code += f"q.put_many({{'n': n, 'ms': 20}} for n in range({first}, {first + count}))"
    subprocess.run(run_in(release, code), cwd=ROOT, check=True, timeout=60)


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """Where the other release is."""
    named = os.environ.get("OTHER_RELEASE")
    return Path(named).resolve() if named else later_release(tmp_path)


def test_two_releases_share_a_queue_while_both_are_killed(server: Any, prefix: str, other: Path) -> None:
    """Each puts half of the messages and handles what comes, killed all the time: none is lost or given up, and
    whatever was handled again was reaped."""
    with lab(server, prefix) as it:
        put_by(other, it, 0, MESSAGES // 2)
        workers = [it.start(processes=2, concurrency=4, program=words) for words in (PROGRAM, worker_of(other))]
        it.queue.put_many({"n": n, "ms": 20} for n in range(MESSAGES // 2, MESSAGES))
        killers, pids = [Killer(worker) for worker in workers], [set[int](), set[int]()]
        deadline = time.monotonic() + 90
        while not it.at_rest():
            assert time.monotonic() < deadline, f"not drained: {it.queue.size()}"
            for worker, killer, seen in zip(workers, killers, pids, strict=True):
                seen.update(worker.children())
                killer.kill_one()
            time.sleep(0.1)
        counts, effects = it.count(), it.effects()
        shares = [sum(effect["pid"] in seen for effect in effects) for seen in pids]
        print(f"{[killer.kills for killer in killers]} kills, handled {shares}")
        assert set(counts) == set(range(MESSAGES))
        assert counts.total() - MESSAGES <= sum(event["event"] == "reap" for event in it.events())
        assert it.queue.size().dead == 0
        assert min(shares) > MESSAGES / 20
        assert min(killer.kills for killer in killers) >= 1
        assert [worker.end() for worker in workers] == [0, 0]


def test_messages_of_a_later_format_wait_for_the_release_that_reads_them(
    server: Any, prefix: str, tmp_path: Path
) -> None:
    """Producers were upgraded first: this release keeps their messages as dead letters, and goes on with its own;
    `reliq dead revive` brings them back for the one that can read them."""
    later = later_release(tmp_path, version=2)
    with lab(server, prefix) as it:
        put_by(later, it, 0, 20)
        it.queue.put({"n": 100})
        worker = it.start(concurrency=2)
        it.drained(20)
        assert set(it.count()) == {100}
        assert it.queue.size().dead == 20
        assert "UNSUPPORTED_VERSION" in worker.log()
        assert worker.end() == 0
        it.start(concurrency=2, program=worker_of(later))
        words = ["dead", "revive", "--cause", "UNSUPPORTED_VERSION", "--queue", "work", "--prefix", prefix]
        subprocess.run([sys.executable, "-m", "reliq", *words, "--url", it.url], cwd=ROOT, check=True, timeout=60)
        wait_until(lambda: set(it.count()) == {100, *range(20)}, 20, "handled by the release that reads them")
        it.drained(10)
        assert it.queue.size().dead == 0
