"""A small application in trouble: modules with handlers, `reliq worker` beside them, and commands as a user types
them, each a process of its own that knows the server from RELIQ_URL."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import reliq
from tests.faults.lab import wait_until


@dataclass
class Result:
    """What a command left behind."""

    command: str
    status: int
    out: str
    err: str


class Shop:
    """`shop.run("status --queue emails")`; modules of the application are in ``folder``."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url, self.folder = url, folder
        self.started: list[subprocess.Popen[str]] = []
        self._queues: list[reliq.Queue] = []

    @property
    def environment(self) -> dict[str, str]:
        """Of everything that is started: wide enough a terminal, warnings are errors."""
        return {**os.environ, "RELIQ_URL": self.url, "PYTHONWARNINGS": "error", "COLUMNS": "100"}

    # -- the application ----------------------------------------------------------------------------------

    def write(self, module: str, source: str) -> None:
        """Save a module, also in the place of another; what it calls ``note`` writes down an effect."""
        (self.folder / f"{module}.py").write_text(source)

    def effects(self) -> list[str]:
        """What handlers did, one line each, in order."""
        path = self.folder / "effects"
        return path.read_text().splitlines() if path.exists() else []

    def queue(self, name: str, **options: Any) -> reliq.Queue:
        """A queue on the same server; closed at the end."""
        self._queues.append(reliq.Queue(name, self.url, **options))
        return self._queues[-1]

    def python(self, module: str) -> None:
        """Run a module that was written as a program."""
        words = [sys.executable, f"{module}.py"]
        subprocess.run(words, cwd=self.folder, env=self.environment, check=True, timeout=60)

    # -- commands -----------------------------------------------------------------------------------------

    def run(self, line: str) -> Result:
        """Run a command, named without or with its first word ``reliq``."""
        words = shlex.split(line.removeprefix("reliq "))
        done = subprocess.run(
            [sys.executable, "-m", "reliq", *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            cwd=self.folder,
            env=self.environment,
            timeout=60,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return Result(shlex.join(["reliq", *words]), done.returncode, done.stdout, done.stderr)

    def ok(self, line: str) -> str:
        """The output of a command that has to succeed."""
        result = self.run(line)
        assert result.status == 0, (line, result)
        return result.out

    def json(self, line: str, status: int = 0) -> Any:
        """The document of a command that has to end with this status."""
        result = self.run(f"{line} --json")
        assert result.status == status, result
        document = json.loads(result.out)
        assert document["schema"] == 1
        return document

    def start(self, line: str) -> subprocess.Popen[str]:
        """Start a command that goes on, such as a worker; ended at the end."""
        with (self.folder / f"log-{len(self.started)}").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "reliq", *shlex.split(line)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                text=True,
                cwd=self.folder,
                env=self.environment,
            )
        self.started.append(process)
        return process

    def eventually(self, true: Callable[[], Any], what: str, seconds: float = 30) -> Any:
        """Wait for a condition; its value."""
        return wait_until(true, seconds, what, every=0.05)

    def logs(self) -> str:
        """What the processes that were started have written."""
        return "\n".join(path.read_text() for path in sorted(self.folder.glob("log-*")))

    def close(self) -> None:
        """End what still runs, by its pid."""
        for queue in self._queues:
            queue.close()
        for process in self.started:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self.started:
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextlib.contextmanager
def shop_at(url: str, folder: Path) -> Iterator[Shop]:
    """A shop on this server; if the test fails, the logs of its processes are shown."""
    made = Shop(url, folder)
    try:
        yield made
    except BaseException:
        made.close()
        print(made.logs()[-6000:])
        raise
    finally:
        made.close()
