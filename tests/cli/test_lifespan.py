"""The lifespan of `reliq worker`: in each of its processes, through kills, and when it fails."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import Commands
from tests.cli.test_worker import effects, eventually, put

MODULE = """
import os, time
from contextlib import contextmanager
import reliq

work = reliq.Queue("work", lease=3)

def note(what):
    with open("effects", "a") as file:
        file.write(f"{what} {os.getpid()}\\n")

@contextmanager
def lifespan():
    if os.path.exists("broken"):
        note("broken")
        raise ConnectionError("no database")
    note("begin")
    yield {"name": "ada"}
    note("end")

@work.ack
def handle(body, name: reliq.Dependency[str]):
    if body == "hold":
        note("hold")
        time.sleep(60)
    time.sleep(0.02)
    note(f"{name}:{body}")
"""
WORDS = ("shop", "--lifespan", "shop:lifespan", "--concurrency", "1", "--grace", "5")


@pytest.fixture
def start(commands: Commands, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts `reliq worker` beside the module; ends what is still there."""
    (tmp_path / "shop.py").write_text(MODULE)
    started: list[subprocess.Popen[str]] = []

    def begin(*words: str) -> subprocess.Popen[str]:
        started.append(commands.start("worker", *WORDS, *words))
        return started[-1]

    yield begin
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def test_once_in_each_process(
    commands: Commands, start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    """Begun before all that the process does, ended after it on SIGTERM; a killed one is replaced by one that
    begins anew, and what it had in hand is handled there."""
    put(commands, "work", *range(30))
    worker = start("--processes", "2")
    eventually(lambda: len(effects(tmp_path)) >= 12, "two have begun and handled something")
    first = effects(tmp_path)[-1][1]
    os.kill(first, signal.SIGKILL)
    eventually(lambda: sum(what.startswith("ada:") for what, _ in effects(tmp_path)) >= 30, "all is handled")
    eventually(lambda: sum(what == "begin" for what, _ in effects(tmp_path)) == 3, "it was replaced")
    worker.send_signal(signal.SIGTERM)
    _, err = worker.communicate(timeout=30)
    assert worker.returncode == 0, err
    by_process: dict[int, list[str]] = {}
    for what, pid in effects(tmp_path):
        by_process.setdefault(pid, []).append(what)
    assert len(by_process) == 3
    for pid, did in by_process.items():
        assert did[0] == "begin"
        assert did.count("begin") == 1
        assert (did[-1] == "end") == (pid != first)
    handled = {what for did in by_process.values() for what in did if what.startswith("ada:")}
    assert handled == {f"ada:{n}" for n in range(30)}
    assert commands("status", "--queue", "work").status == 0


def test_one_that_fails_ends_the_worker(
    commands: Commands, start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    """With exit status 1, the reason and its traceback; nothing was claimed."""
    (tmp_path / "broken").touch()
    put(commands, "work", 1)
    worker = start("--processes", "2")
    _, err = worker.communicate(timeout=30)
    assert worker.returncode == 1, err
    assert "the lifespan of the worker raised ConnectionError: no database before it yielded" in err
    assert 'in lifespan\n    raise ConnectionError("no database")' in err
    assert err.splitlines()[-1].startswith("reliq: START_FAILED: the worker processes could not start")
    assert {what for what, _ in effects(tmp_path)} == {"broken"}
    with commands.queue("work") as queue:
        assert queue.size().ready == 1


def test_one_that_fails_later_is_tried_again(
    commands: Commands, start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    """A process that is replaced while the database is away: others go on, and it comes back with a backoff."""
    worker = start()
    put(commands, "work", "hold")
    (_, held) = eventually(lambda: [e for e in effects(tmp_path) if e[0] == "hold"], "it is in hand")[0]
    (tmp_path / "broken").touch()
    os.kill(held, signal.SIGKILL)
    eventually(lambda: sum(what == "broken" for what, _ in effects(tmp_path)) >= 2, "it is tried again")
    (tmp_path / "broken").unlink()
    eventually(lambda: sum(what == "hold" for what, _ in effects(tmp_path)) == 2, "another one has it")
    worker.kill()


def test_what_is_none(commands: Commands, start: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    """Told in a line, with what would be near."""
    for words, says in (
        (["shop", "--lifespan", "shop:lifspan"], "has no 'lifspan' (did you mean 'lifespan'?)"),
        (["shop", "--lifespan", "shop"], "name a function that makes a context manager"),
        (["shop", "--lifespan", "shop:work"], "Worker(lifespan=<Queue 'work'>): a function that makes"),
        (["shop"], "handler shop.handle needs 'name': give Worker(lifespan=)"),
    ):
        result = commands.process("worker", *words)
        assert (result.status, says in result.err) == (2, True), result.err
