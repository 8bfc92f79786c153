"""`reliq worker --reload`: a worker that is started anew when the code changes, and loses nothing by that."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from reliq.cli.reloading import changed, look, wrong_in
from tests.cli.conftest import Commands
from tests.cli.test_worker import effects, eventually, put

MODULE = """
import os, time
import reliq

work = reliq.Queue("work", lease=3)

def note(what):
    with open("effects", "a") as file:
        file.write(f"{{what}} {{os.getpid()}}\\n")

@work.ack
def handle(body):
    if body == "slow":
        note("begins")
        time.sleep(1.5)
    if body == "hang":
        note("hangs")
        time.sleep({seconds})
    note(f"{name}:{{body}}")
"""


@pytest.fixture
def start(commands: Commands, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts `reliq worker --reload` beside the module; ends what is still there."""
    write(tmp_path, "first")
    started: list[subprocess.Popen[str]] = []

    def begin(*words: str) -> subprocess.Popen[str]:
        started.append(commands.start("worker", "shop", "--reload", *words))
        return started[-1]

    yield begin
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def write(folder: Path, name: str, seconds: int = 60) -> None:
    """Save the module at once, as editors do."""
    (folder / "shop.new").write_text(MODULE.format(name=name, seconds=seconds))
    os.replace(folder / "shop.new", folder / "shop.py")


def did(folder: Path) -> list[str]:
    return [what for what, _ in effects(folder)]


def read_until(worker: subprocess.Popen[str], text: str) -> str:
    """The next line that it logs with this in it."""
    assert worker.stderr is not None
    seen = []
    for line in worker.stderr:
        seen.append(line)
        if text in line:
            return line
    raise AssertionError(f"{text!r} is not in what it logged: {seen}")


def test_the_new_code_handles_the_next_message(
    commands: Commands, start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    """What was in hand is finished by the old code. What cannot be compiled is told, and the old code goes on;
    what cannot be imported is told, and the next change starts a worker. SIGTERM ends all with 0."""
    worker = start("--concurrency", "2", "--grace", "10")
    put(commands, "work", 1)
    eventually(lambda: "first:1" in did(tmp_path), "the first code works")
    put(commands, "work", "slow")
    eventually(lambda: "begins" in did(tmp_path), "it is in hand")
    write(tmp_path, "second")
    eventually(lambda: "first:slow" in did(tmp_path), "what was in hand is finished")
    put(commands, "work", 2)
    eventually(lambda: "second:2" in did(tmp_path), "the second code works")

    read_until(worker, "reload: shop.py changed; starting the worker anew")

    (tmp_path / "shop.py").write_text("def (:\n")
    line = read_until(worker, "reload: shop.py:1: SyntaxError: ")
    assert "Correct that; the worker goes on as it was" in line
    put(commands, "work", 3)
    eventually(lambda: "second:3" in did(tmp_path), "it goes on")
    write(tmp_path, "third")
    read_until(worker, "worker started")
    put(commands, "work", 4)
    eventually(lambda: "third:4" in did(tmp_path), "the third code works")

    (tmp_path / "shop.py").write_text("import no_such_module\n")
    read_until(worker, "module 'shop' cannot be imported: ModuleNotFoundError: No module named 'no_such_module'")
    read_until(worker, "reload: the worker has ended (2); the next change starts another")
    put(commands, "work", 5)
    write(tmp_path, "fourth")
    eventually(lambda: "fourth:5" in did(tmp_path), "the fourth code works")
    worker.send_signal(signal.SIGTERM)
    _, err = worker.communicate(timeout=30)
    assert worker.returncode == 0, err
    assert commands("status", "--queue", "work").status == 0


def test_what_does_not_end_goes_back(
    commands: Commands, start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    """A handler past the grace is cut off, and its message handled by the new code; nothing is lost."""
    worker = start("--concurrency", "1", "--grace", "0.3")
    put(commands, "work", "hang")
    eventually(lambda: "hangs" in did(tmp_path), "it is in hand")
    put(commands, "work", 1)
    write(tmp_path, "second", seconds=0)
    eventually(lambda: {"second:hang", "second:1"} <= set(did(tmp_path)), "both are handled")
    worker.send_signal(signal.SIGINT)
    _, err = worker.communicate(timeout=30)
    assert worker.returncode == 0, err


def test_the_worker_ends_with_its_watcher(
    commands: Commands, start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    """Whoever kills the one that watches kills no message: the worker stops in good order."""
    worker = start("--grace", "5")
    put(commands, "work", "slow")
    eventually(lambda: "begins" in did(tmp_path), "it is in hand")
    worker.kill()
    eventually(lambda: "first:slow" in did(tmp_path), "what was in hand is finished")

    def gone() -> bool:
        [queue] = commands("status", "--queue", "work", "--json").json["queues"]
        return not queue["consumers"] and sum(queue[state] for state in ("ready", "doing", "later")) == 0

    eventually(gone, "it has said goodbye")


def test_burst_and_wrong_words(
    commands: Commands, start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    """--burst is --until-empty; what cannot be watched is told."""
    put(commands, "work", 1, 2)
    assert commands.process("worker", "shop", "--burst").status == 0
    assert sorted(did(tmp_path)) == ["first:1", "first:2"]
    for words, says in (
        (["--reload", "--reload-dir", "nowhere"], "--reload-dir nowhere: there is no such folder"),
        (["--reload", "--burst"], "leave one out"),
        (["--reload-dir", "."], "--reload-dir says where --reload looks"),
    ):
        result = commands.process("worker", "shop", *words)
        assert (result.status, says in result.err) == (2, True), result.err


def test_what_is_watched(tmp_path: Path) -> None:
    """Python files at any depth; not those of environments, caches and hidden folders, nor other files."""
    for folder in ("pkg/deep", "venv/lib", ".git", "pkg/__pycache__", "node_modules"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "venv/pyvenv.cfg").touch()
    for name in (
        "a.py",
        "pkg/deep/b.py",
        "venv/lib/c.py",
        ".git/d.py",
        "pkg/__pycache__/e.py",
        "node_modules/f.py",
    ):
        (tmp_path / name).write_text("x = 1\n")
    (tmp_path / "a.txt").touch()
    (tmp_path / "gone.py").symlink_to("nowhere")
    before = look([str(tmp_path)])
    assert sorted(Path(path).name for path in before) == ["a.py", "b.py"]
    (tmp_path / "pkg/deep/b.py").write_text("x = 22\n")
    (tmp_path / "a.py").unlink()
    (tmp_path / "g.py").write_text("x = (\n")
    paths = changed(before, look([str(tmp_path)]))
    assert [Path(path).name for path in paths] == ["a.py", "g.py", "b.py"]
    said = wrong_in(paths)
    assert said is not None
    assert "g.py:1: SyntaxError" in said
    assert wrong_in(paths[:1] + paths[2:]) is None
    (tmp_path / "g.py").write_bytes(b"\0")
    assert wrong_in(paths) is not None
