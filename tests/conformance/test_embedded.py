"""Both shells on the private Redis: no URL, nothing set up."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

import reliq
import reliq.aio
from tests.faults.lab import wait_until


@pytest.fixture
def private(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A data directory for this test alone."""
    monkeypatch.setenv("RELIQ_DATA_DIR", str(tmp_path))
    monkeypatch.delenv("RELIQ_URL", raising=False)
    return tmp_path


def _server_pid(queue: reliq.Queue) -> int:
    from reliq.core.command import Command

    info: bytes = queue.links.run(Command("INFO", ("server",)))
    return int(info.split(b"process_id:")[1].split()[0])


def test_a_private_server_whose_keeper_was_ended_is_started_again(private: Path) -> None:
    """Somebody ended keeper and server; the next put brings them back, with what was there."""
    with reliq.Queue("q") as queue:
        queue.put(1)
        server = _server_pid(queue)
        keeper = int(Path(f"/proc/{server}/stat").read_text().rsplit(")", 1)[1].split()[1])
        os.kill(keeper, signal.SIGKILL)
        wait_until(lambda: not Path(f"/proc/{server}").exists(), 10, "the server ends with its keeper")
        queue.put(2)
        assert queue.size().ready == 2
        assert _server_pid(queue) != server


async def test_the_asyncio_shell_starts_it_too(private: Path) -> None:
    """No URL: a private Redis, shared with the blocking shell of the same user."""
    async with reliq.aio.Queue("q") as queue:
        await queue.put(1)
    with reliq.Queue("q") as same:
        assert same.size().ready == 1
