"""The servers that all other tests stand on do what their names say."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis as redis_py
import yaml

from tests import servers
from tests.servers import (
    COMPOSE_SERVERS,
    ExternalServer,
    RedisServer,
    ServerBinary,
    ServerFailed,
    external_servers,
)

ROOT = Path(__file__).resolve().parent.parent


def test_confirmed_write_outlives_a_kill(own_server: RedisServer) -> None:
    """What a server with appendfsync always has confirmed is there after kill and start, on the same port."""
    port = own_server.port
    own_server.cli("SET", "k", "v")
    own_server.kill()
    own_server.start()
    assert (own_server.port, own_server.cli("GET", "k")) == (port, b"v")


def test_suspended_server_answers_nothing_and_goes_on_later(own_server: RedisServer) -> None:
    """A frozen server lets a command time out; resumed, it answers again."""
    own_server.suspend()
    with own_server.client(socket_timeout=0.05) as client, pytest.raises(redis_py.TimeoutError):
        client.ping()
    own_server.resume()
    assert own_server.cli("ECHO", "here") == b"here"


def test_closing_leaves_nothing(own_server: RedisServer) -> None:
    """After close the process and its folder are gone, also when the server was frozen."""
    pid, folder = own_server.pid, own_server.folder
    assert folder is not None
    own_server.suspend()
    own_server.close()
    assert not folder.exists()
    assert not Path(f"/proc/{pid}").exists()


def test_shared_server_is_reached_by_client_and_cli(
    server: RedisServer | ExternalServer, redis: redis_py.Redis, prefix: str
) -> None:
    """The fixtures `redis` and `server` mean one server, and no other test has written under `prefix`."""
    assert list(redis.scan_iter(f"{prefix}*")) == []
    redis.set(prefix, "here")
    assert server.cli("GET", prefix) == b"here"


def test_failed_start_shows_the_log(own_server: RedisServer) -> None:
    """A server that cannot start says why in the error, and leaves no folder."""
    broken = RedisServer(own_server.binary, extra_args=["--no-such-setting", "1"])
    with pytest.raises(ServerFailed, match="ended with status 1"), broken:
        pass
    assert broken.folder is None


def test_versions_and_duplicates(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One entry per version, oldest first; 6.0 is left out, Valkey told apart, and rubbish passed over."""
    texts = [
        "Redis server v=7.0.15 sha=0:0",
        "Redis server v=6.0.9 sha=0:0",
        "Valkey server v=8.0.1 sha=0:0",
        "Redis server v=7.0.15 sha=1:0",
        "Redis server v=6.2.14 sha=0:0",
        "hello",
    ]
    paths = [tmp_path / "missing", tmp_path]
    for number, text in enumerate(texts):
        paths.append(tmp_path / f"server{number}")
        paths[-1].write_text(f"#!/bin/sh\necho '{text}'\n")
        paths[-1].chmod(0o755)
    monkeypatch.setattr(servers, "_candidates", lambda: iter(paths))
    assert servers.find_servers() == [
        ServerBinary(tmp_path / "server4", "6.2.14"),
        ServerBinary(tmp_path / "server0", "7.0.15"),
        ServerBinary(tmp_path / "server2", "8.0.1", "valkey"),
    ]


def test_servers_named_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """RELIQ_TEST_URLS adds servers by name and address, or all of the compose file; a slip is an error."""
    monkeypatch.setenv("RELIQ_TEST_URLS", "a=redis://h:1/0,b=redis://h:2/0")
    assert external_servers() == [ExternalServer("a", "redis://h:1/0"), ExternalServer("b", "redis://h:2/0")]
    monkeypatch.setenv("RELIQ_TEST_URLS", "docker")
    assert {server.name: server.url for server in external_servers()} == COMPOSE_SERVERS
    monkeypatch.setenv("RELIQ_TEST_URLS", "redis://h:1/0")
    with pytest.raises(ValueError, match="want name=url"):
        external_servers()


def test_compose_file_starts_the_servers_of_the_list() -> None:
    """docker-compose.test.yml and COMPOSE_SERVERS name the same servers, versions and loopback ports."""
    compose = yaml.safe_load((ROOT / "docker-compose.test.yml").read_text())
    served = {}
    for name, service in compose["services"].items():
        image, _, tag = service["image"].rpartition("/")[2].partition(":")
        assert f"{image}-{tag}" == name
        assert service["command"].startswith(f"{image}-server ")
        (mapping,) = service["ports"]
        host, port, inside = mapping.split(":")
        assert inside == "6379"
        served[name] = f"redis://{host}:{port}/0"
    assert served == COMPOSE_SERVERS
