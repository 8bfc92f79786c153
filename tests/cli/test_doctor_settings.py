"""`reliq doctor` and settings that contradict each other: in the code of handlers, in the URL, in the index."""

from __future__ import annotations

from pathlib import Path

import pytest

from reliq import defaults
from tests.cli.conftest import Commands
from tests.cli.doctoring import found, wrong
from tests.servers import RedisServer

CODE = """
import reliq

q = reliq.Queue("emails"{})


@q.ack
def send(body):
    pass
"""


@pytest.fixture
def handlers(own: Commands, tmp_path: Path) -> Commands:
    """Commands in a folder with a module `tasks`, whose queue is made with the defaults."""
    (tmp_path / "tasks.py").write_text(CODE.format(""))
    return own


def test_defaults_contradict_nothing(handlers: Commands) -> None:
    """Neither each other nor the server; the queue of the code is looked at before anybody has used it."""
    result = handlers.process("doctor", "tasks", "--json")
    assert (wrong(result), result.status) == ({}, 0)
    assert [entry["queue"] for entry in result.json["queues"]] == ["emails"]


@pytest.mark.parametrize(
    ("arguments", "alarm"),
    [("lease=5", True), ("timeout=10", True), ("lease=5, timeout=3", False), ("timeout=9.9", False)],
)
def test_timeout_against_lease(handlers: Commands, tmp_path: Path, arguments: str, alarm: bool) -> None:
    """Whoever waits for one answer until his lease is over loses it."""
    (tmp_path / "tasks.py").write_text(CODE.format(f", {arguments}"))
    result = handlers.process("doctor", "tasks:send", "--json")
    assert wrong(result) == ({"TIMEOUT_OVER_LEASE": "warning"} if alarm else {})
    if alarm:
        [entry] = found(result, "TIMEOUT_OVER_LEASE")
        assert entry["remedy"].startswith("raise lease= above ")


def test_body_against_the_server(handlers: Commands, own_server: RedisServer) -> None:
    """A body that the code allows and the server refuses: over the protocol's limit, or more than its memory."""
    own_server.cli("CONFIG", "SET", "proto-max-bulk-len", defaults.MAX_BODY // 2)
    result = handlers.process("doctor", "tasks", "--json")
    assert wrong(result) == {"BODY_OVER_LIMIT": "warning"}
    assert "proto-max-bulk-len 33,554,432" in found(result, "BODY_OVER_LIMIT")[0]["evidence"]
    own_server.cli("CONFIG", "SET", "proto-max-bulk-len", defaults.MAX_BODY)
    own_server.cli("CONFIG", "SET", "maxmemory", defaults.MAX_BODY // 4)
    result = handlers.process("doctor", "tasks", "--json")
    assert wrong(result) == {"BODY_OVER_LIMIT": "warning"}
    assert "maxmemory 16,777,216" in found(result, "BODY_OVER_LIMIT")[0]["evidence"]


@pytest.mark.parametrize(
    ("theirs", "says"),
    [
        ({"key": "orders"}, "key is None in this code, and 'orders' here"),
        ({"codec": "json"}, "codec is None in this code, and 'json' here"),
    ],
)
def test_others_open_the_queue_otherwise(handlers: Commands, theirs: dict[str, str], says: str) -> None:
    """The list or the codec that the index has from others is not that of this code."""
    with handlers.queue("emails", **theirs) as queue, queue.consumer():
        result = handlers.process("doctor", "tasks", "--json")
    assert wrong(result) == {"OTHER_SETTINGS": "warning"}
    assert says in found(result, "OTHER_SETTINGS")[0]["evidence"]


def test_the_code_is_about_another_redis(handlers: Commands, own_server: RedisServer, tmp_path: Path) -> None:
    """It names a URL or a prefix of its own: what is looked at here is not what it uses."""
    other = f"redis://127.0.0.1:{own_server.port}/1"
    (tmp_path / "tasks.py").write_text(CODE.format(f", {other!r}, prefix='mine'"))
    result = handlers.process("doctor", "tasks", "--json")
    assert wrong(result) == {"OTHER_SETTINGS": "warning"}
    says = [entry["evidence"] for entry in found(result, "OTHER_SETTINGS")]
    assert says == [
        f"queue 'emails': Redis is '127.0.0.1:{own_server.port}/1' in this code, "
        f"and '127.0.0.1:{own_server.port}/0' here",
        f"queue 'emails': prefix is 'mine' in this code, and {handlers.prefix!r} here",
    ]


def test_connecting_against_the_lease(own: Commands) -> None:
    """What the URL says for each try to connect is too long for one queue, and short enough for another."""
    for name, lease in (("short", 5), ("long", 60)):
        with own.queue(name, lease=lease) as queue:
            queue.put(1)
            with queue.consumer(until_empty=True) as consumer:
                for message in consumer:
                    message.ack()
    assert wrong(own("doctor", "--json")) == {}
    own.url += "?socket_connect_timeout=4"
    result = own("doctor", "--json")
    assert wrong(result) == {"CONNECT_OVER_LEASE": "warning"}
    [entry] = found(result, "CONNECT_OVER_LEASE")
    assert entry["evidence"] == "queue 'short': connect_timeout is 4 s, and the lease 5 s"


def test_code_that_cannot_be_imported(handlers: Commands) -> None:
    """Wrong use, in one line, as with reliq worker."""
    result = handlers.process("doctor", "task")
    assert result.status == 2
    assert "did you mean 'tasks'?" in result.error
    assert handlers.process("doctor", "tasks:x").status == 2
