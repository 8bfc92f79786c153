"""What is looked at before any work: is Redis there, is it Redis, and is it new enough. Each is told in one line
that names the address, the reason and the next step, by what comes first: a ping, a put, a worker, a command."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import reliq
from reliq.errors import UnsupportedServer
from tests.conformance.shell import Shell
from tests.faults.proxy import Action, FaultProxy
from tests.servers import ExternalServer, RedisServer, _free_port


def of_another_time() -> Action:
    """The reply as a server of version 6.0 gives it."""

    def apply(link: Any, request: Any, raw: bytes, rule: Any) -> None:
        link.to_client.put(re.sub(rb"redis_version:\d\.\d", b"redis_version:6.0", raw))

    return Action("of_another_time", "reply", apply)


@pytest.fixture(params=["too old", "not there"])
def bad(request: pytest.FixtureRequest, server: RedisServer | ExternalServer) -> Iterator[tuple[str, str, type]]:
    """A URL where nothing can be done, what is said of it, and as what."""
    if request.param == "not there":
        port = _free_port()
        yield (
            f"redis://127.0.0.1:{port}/0",
            rf"127\.0\.0\.1:{port}/0 .*refused.*Check that it runs",
            reliq.Unavailable,
        )
        return
    with FaultProxy("127.0.0.1", int(server.url.rsplit(":", 1)[1].split("/")[0])) as proxy:
        proxy.on(command="INFO", action=of_another_time(), count=None)
        port = proxy.url.rsplit(":", 1)[1].split("/")[0]
        yield (
            proxy.url,
            rf"127\.0\.0\.1:{port}/0 is version 6\.0\.\d+; reliq needs 6\.2 .*Upgrade the server",
            UnsupportedServer,
        )


async def test_every_start_tells_it(sh: Shell, bad: tuple[str, str, type]) -> None:
    """A ping, a put, an open consumer and a worker, before they have done anything."""
    url, says, kind = bad
    q = sh.queue(url=url, timeout=1.0)
    handler = q.ack(lambda body: None)
    for first in (q.ping, lambda: q.put(1), sh.Worker(handler, signals=False).run):
        with pytest.raises(kind, match=says) as caught:
            await asyncio.wait_for(sh.start(first) if sh.name == "sync" else first(), 20)
        assert "\n" not in str(caught.value)


def test_every_command_tells_it(bad: tuple[str, str, type], tmp_path: Path) -> None:
    """With exit status 3, and so does a worker, which does not wait for a server that it has never seen."""
    url, says, _ = bad
    (tmp_path / "tasks.py").write_text("import reliq\n@reliq.Queue('q').ack\ndef work(body): pass\n")
    for words in (["status"], ["put", "1", "--queue", "q"], ["doctor"], ["worker", "tasks"]):
        done = subprocess.run(
            [sys.executable, "-m", "reliq", *words, "--url", url], cwd=tmp_path, capture_output=True, text=True,
            timeout=60,
        )  # fmt: skip
        assert done.returncode == 3, (words, done.stderr)
        assert re.search(says, done.stderr), (words, done.stderr)
        assert len(done.stderr.splitlines()) == 1, (words, done.stderr)
