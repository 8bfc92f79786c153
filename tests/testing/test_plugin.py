"""The pytest plugin, as a user's project has it: pytest in a process of its own finds it by its entry point."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import reliq
from reliq import aio
from reliq.testing import Queues
from tests.servers import ExternalServer, RedisServer

APP = """
import reliq

orders = reliq.Queue("orders", "redis://127.0.0.1:1/0", key="adopted", codec="json")
done = []

@orders.ack
def handle(body):
    done.append(body)

def take(body):
    reliq.Queue("orders", key="adopted", codec="json").put(body)  # wherever the environment says
"""

SYNC = """
import app, pytest, reliq
from reliq.testing import run_until_empty

def test_queue(reliq_queue):
    assert reliq_queue.put(1)
    assert reliq_queue.size().ready == 1

def test_again(reliq_queue, reliq_url, monkeypatch):
    assert reliq_queue.size() == (0, 0, 0, 0)  # nobody else's
    assert reliq_queue.url == reliq_url

def test_app(reliq_queues):
    queue = reliq_queues(app.orders)
    assert queue is app.orders
    app.take({"id": 7})
    assert run_until_empty(app).handled == 1
    assert app.done == [{"id": 7}]

def test_app_is_as_it_was():
    assert app.orders.url == "redis://127.0.0.1:1/0"
    with pytest.raises(reliq.Unavailable):
        app.orders.put(1)
"""

AIO = """
import asyncio, anyio, pytest
from reliq.testing.aio import run_until_empty

async def work(queue):
    done = []

    @queue.ack
    async def handle(body):
        done.append(body)

    await queue.put_many([1, 2])
    assert (await run_until_empty(handle)).handled == 2
    assert done == [1, 2]

def test_plain(reliq_aio_queue):
    asyncio.run(work(reliq_aio_queue))

@pytest.mark.asyncio
async def test_asyncio(reliq_aio_queue):
    await work(reliq_aio_queue)

@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_anyio(reliq_aio_queues):
    await work(reliq_aio_queues("emails", lease=20))
"""


#: pytest-asyncio, which is here for our own tests, warns without the second.
_OWN = ("-p", "no:cacheprovider", "-o", "asyncio_default_fixture_loop_scope=function")


def run_pytest(folder: Path, *options: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", *_OWN, *options],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_plugin(tmp_path: Path) -> None:
    """Queues of a test's own on a private server that ends with the session; those of the application move to it
    and back; nothing is told to pytest but to have installed reliq."""
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "test_sync.py").write_text(SYNC)
    assert "4 passed" in run_pytest(tmp_path, "--basetemp", str(tmp_path / "base"))
    [data] = (tmp_path / "base").glob("reliq[0-9]*")
    assert (data / "redis.log").exists()


def test_plugin_in_asyncio(tmp_path: Path, server: RedisServer | ExternalServer) -> None:
    """Whichever plugin runs the event loop; and on a server that is named, no other one is started."""
    (tmp_path / "test_aio.py").write_text(AIO)
    base = tmp_path / "base"
    out = run_pytest(tmp_path, "--basetemp", str(base), RELIQ_TEST_URL=server.url)
    assert "3 passed" in out
    assert not list(base.glob("reliq[0-9]*"))
    with server.client() as redis:
        assert not list(redis.scan_iter("test-*"))


def test_plugin_asks_for_nothing(tmp_path: Path) -> None:
    """Who uses none of the fixtures does not even import reliq."""
    (tmp_path / "test_none.py").write_text(
        "import sys\ndef test_none():\n    assert 'pytest_reliq' in sys.modules and 'reliq' not in sys.modules\n"
    )
    run_pytest(tmp_path)


def test_queues_by_hand(server: RedisServer | ExternalServer) -> None:
    """Without pytest: the same class, of either shell; a moved queue keeps its handlers and its options."""
    queue = aio.Queue("q", "redis://127.0.0.1:1/0", lease=7, levels=True)
    queues = Queues(server.url)
    assert queues(queue) is queue
    assert (queue.url, queue.options.lease, queue.options.keys.prefix) == (server.url, 7, queues.prefix)
    assert queue.level("high").options.keys.prefix == queues.prefix
    own = queues("other", retry=reliq.Retry(attempts=2))
    own.put(1)
    queues.close()
    assert (queue.url, queue.options.keys.prefix) == ("redis://127.0.0.1:1/0", "reliq")
    with server.client() as redis:
        assert not list(redis.scan_iter(f"{queues.prefix}:*"))
