"""The blocks of docs/deployment.md, by the file that each names first; and how to run them."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.docs.documents import DOCS, ROOT

DEPLOYMENT = (DOCS / "deployment.md").read_text("utf-8")
BLOCKS: dict[str, str] = {
    name: source
    for source, name in re.findall(r"^```[^\n]+\n(# ([\w/.-]+).*?)^```", DEPLOYMENT, re.MULTILINE | re.DOTALL)
}
COMMANDS: list[str] = re.findall(r"^\$ (.*)$", DEPLOYMENT, re.MULTILINE)


def write(folder: Path, *names: str) -> None:
    """These blocks as files."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(BLOCKS[name], "utf-8")


def command(program: str) -> list[str]:
    """The one command of the document that begins so."""
    [line] = [line for line in COMMANDS if line.startswith(program)]
    return line.split()


def environment(url: str, **more: str) -> dict[str, str]:
    """What a program sees: this Python's commands first, this checkout, and the Redis of the test."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "RELIQ_URL": url, **more}


class Program:
    """One that was started in a folder; what it writes goes into a file there."""

    def __init__(self, words: Sequence[str], folder: Path, env: dict[str, str]) -> None:
        self._output = folder / f"output-{time.monotonic_ns()}"
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                words, cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
            )

    @property
    def said(self) -> str:
        return self._output.read_text(errors="replace")

    def until(self, holds: Callable[[], Any], seconds: float = 20) -> Any:
        """Wait for it; an error shows what the program has said."""
        deadline = time.monotonic() + seconds
        while not (value := holds()):
            assert time.monotonic() < deadline, f"it did not come:\n{self.said}"
            assert self.process.poll() is None, f"it has ended:\n{self.said}"
            time.sleep(0.02)
        return value

    def until_said(self, words: str) -> None:
        self.until(lambda: words in self.said)

    def end(self) -> int:
        """SIGTERM, and its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)


@contextmanager
def running(words: Sequence[str], folder: Path, env: dict[str, str]) -> Iterator[Program]:
    """Start a program, and end it whatever happens."""
    program = Program(words, folder, env)
    try:
        yield program
    finally:
        if program.process.poll() is None:
            program.process.kill()
        program.process.wait(10)


def free_port() -> int:
    """One that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
