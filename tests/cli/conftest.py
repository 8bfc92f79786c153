"""Commands for the tests: called in this process for speed, or started as anybody would start them."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import reliq
from reliq.cli import main
from tests.servers import ExternalServer, RedisServer

#: Claims everything that is ready, as a worker whose host dies at once would: nobody says goodbye.
CLAIM_AND_DIE = """
import os, sys
import reliq
queue = reliq.Queue(sys.argv[1], sys.argv[2], prefix=sys.argv[3], lease=0.5)
held = queue.consumer(prefetch=100).claim(100)
print(len(held), flush=True)
os._exit(0)
"""


@dataclass
class Result:
    """What a command left behind."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        document = json.loads(self.out)
        assert document["schema"] == 1
        return document

    @property
    def error(self) -> str:
        """The error, which is exactly one line and no traceback."""
        assert self.err.startswith("reliq: ")
        assert self.err.count("\n") == 1, self.err
        return self.err


def environment(**changes: str) -> dict[str, str]:
    """That of this process, with warnings as errors."""
    return {**os.environ, "PYTHONWARNINGS": "error", **changes}


class Commands:
    """`commands("status", "--json")` on the server and prefix of the test."""

    def __init__(self, url: str, prefix: str, capsys: pytest.CaptureFixture[str], folder: Path) -> None:
        self.url = url
        self.prefix = prefix
        self._capsys = capsys
        self._folder = folder
        self.session = False  # whether a started process leads a group of its own

    def _all(self, words: tuple[str, ...]) -> list[str]:
        return [*words, "--url", self.url, "--prefix", self.prefix]

    def __call__(self, *words: str, stdin: bytes = b"") -> Result:
        """Run in this process."""
        return self.plain(*self._all(words), stdin=stdin)

    def plain(self, *words: str, stdin: bytes = b"") -> Result:
        """Run in this process, with these words only."""
        self._capsys.readouterr()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
            status = main(words)
        captured = self._capsys.readouterr()
        return Result(status, captured.out, captured.err)

    def process(self, *words: str, stdin: bytes = b"", **env: str) -> Result:
        """Run as a process of its own, in the test's folder."""
        done = subprocess.run(
            [sys.executable, "-m", "reliq", *self._all(words)],
            input=stdin,
            capture_output=True,
            cwd=self._folder,
            env=environment(**env),
            timeout=60,
        )
        return Result(done.returncode, done.stdout.decode(), done.stderr.decode())

    def start(self, *words: str, **env: str) -> subprocess.Popen[str]:
        """Start a process that goes on; the caller ends it."""
        return subprocess.Popen(
            [sys.executable, "-m", "reliq", *self._all(words)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self._folder,
            env=environment(**env),
            start_new_session=self.session,
        )

    def queue(self, name: str, **options: Any) -> reliq.Queue:
        """A queue on the same server and prefix."""
        return reliq.Queue(name, self.url, prefix=self.prefix, **options)

    def claim_and_die(self, queue: str) -> int:
        """Another process claims what is ready, with a lease of 0.5 s, and dies."""
        words = [sys.executable, "-c", CLAIM_AND_DIE, queue, self.url, self.prefix]
        return int(subprocess.run(words, capture_output=True, check=True, timeout=30, env=environment()).stdout)


@pytest.fixture(autouse=True)
def _restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A command sets up logging and the environment of its process, which here is that of all tests."""
    root, log = logging.getLogger(), logging.getLogger("reliq")
    before = (root.handlers[:], root.level, log.level)
    for name in ("RELIQ_URL", "RELIQ_PREFIX"):
        monkeypatch.setenv(name, "")  # so that what a command sets is taken back
    yield
    root.handlers[:], root.level, log.level = before


@pytest.fixture
def commands(
    server: RedisServer | ExternalServer, prefix: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Commands:
    """Commands on the shared server, under keys of this test; what was slow in another is not its affair."""
    with server.client() as client:
        client.slowlog_reset()
    return Commands(server.url, prefix, capsys, tmp_path)


@pytest.fixture
def own(own_server: RedisServer, prefix: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Commands:
    """Commands on a server of this test alone."""
    return Commands(own_server.url, prefix, capsys, tmp_path)


@pytest.fixture
def no_server(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Commands:
    """Commands that find no Redis."""
    return Commands("redis://127.0.0.1:1/0", "none", capsys, tmp_path)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands of this process wait for an answer for half a second only."""
    monkeypatch.setattr("reliq.defaults.TIMEOUT", 0.5)
