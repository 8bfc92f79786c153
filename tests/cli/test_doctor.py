"""`reliq doctor`: silent about what is well, on every kind of server; its exit status, its JSON, its text."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

import reliq
from reliq.core import doctor
from reliq.core.keys import Keys
from reliq.core.reasons import Reason
from reliq.core.topology import slot_of
from tests.cli.conftest import Commands
from tests.cli.doctoring import notes, wait_until, worker_on, wrong
from tests.conftest import BINARIES, _matrix
from tests.servers import RedisServer, ServerBinary
from tests.topologies import Cluster, Replicated

NOTES = {"OLD_SERVER", "MEMORY_UNLIMITED", "UNSYNCED_WRITES", "NO_REPLICA", "UNGUARDED_FAILOVER"}
"""Choices that one should know of, and that a healthy server may well have made."""


def test_nothing_is_wrong_with_a_healthy_server(own: Commands) -> None:
    """A worker at work, delayed messages, an adopted list: no error, no warning, nothing unseen; exit status 0."""
    with worker_on(own) as queue, worker_on(own, "orders", key=f"{own.prefix}-orders") as orders:
        queue.put_many(range(100))
        queue.put(1, delay=3600)
        orders.put(2, delay=0.01)
        result = own("doctor", "--json")
        assert wrong(result) == {}
        assert result.status == 0
        assert notes(result) <= NOTES
    assert wrong(own("doctor", "--json")) in (
        {},
        {"NO_CONSUMERS": "warning"},
    )  # the workers have gone, work may not


def test_nothing_is_wrong_where_nothing_is(own: Commands) -> None:
    """A server without a queue is well too, and its rights and settings are looked at all the same."""
    result = own("doctor", "--json")
    assert (result.status, wrong(result), result.json["queues"]) == (0, {}, [])
    assert len(result.json["servers"]) == 1


def test_nothing_is_wrong_with_the_embedded_redis(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The private server that is started where no URL is given."""
    monkeypatch.setenv("RELIQ_DATA_DIR", str(tmp_path / "data"))
    commands = Commands("", "t", capsys, tmp_path)
    with reliq.Queue("emails") as queue:
        with queue.consumer() as consumer:
            queue.put(1)
            with consumer.claim(1)[0]:
                result = commands.plain("doctor", "--json")
        assert queue.size() == (0, 0, 0, 0)
    assert wrong(result) == {}
    assert result.status == 0
    assert result.json["redis"].startswith("unix://")
    assert notes(result) <= NOTES


@pytest.fixture(params=_matrix(BINARIES))
def binary(request: pytest.FixtureRequest) -> ServerBinary:
    found: ServerBinary = request.param
    return found


def test_nothing_is_wrong_behind_sentinels(
    binary: ServerBinary, prefix: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A primary with its replica."""
    with Replicated(binary) as servers:
        commands = Commands(servers.url, prefix, capsys, tmp_path)
        with worker_on(commands):
            result = commands("doctor", "--json")
            assert wrong(result) == {}
        assert result.status == 0
        assert notes(result) <= NOTES
        assert "UNGUARDED_FAILOVER" in notes(result)
        [server] = result.json["servers"]
        assert server["server"].startswith(f"127.0.0.1:{servers.primary.port} ")


def test_nothing_is_wrong_with_a_cluster(
    binary: ServerBinary, prefix: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Queues spread over the nodes: each node is looked at once, and each queue has its slot. What the Cluster
    cannot serve, and what is down, is said."""
    with Cluster(binary) as cluster:
        commands = Commands(cluster.url, prefix, capsys, tmp_path)
        names = [f"q{n}" for n in range(8)]
        for name in names:
            with commands.queue(name) as queue, queue.consumer(until_empty=True) as consumer:
                queue.put(1)
                for lease in consumer:
                    lease.ack()
        result = commands("doctor", "--json")
        assert wrong(result) == {}
        assert result.status == 0
        keys = {entry["queue"]: Keys(entry["queue"], prefix).ready for entry in result.json["queues"]}
        assert [entry["slot"] for entry in result.json["queues"]] == [slot_of(keys[name]) for name in names]
        owners = {f"127.0.0.1:{cluster.owner(key).port} " for key in keys.values()}
        assert {entry["server"].partition("(")[0] for entry in result.json["servers"]} == owners
        _break_a_cluster(cluster, commands, keys)


def _break_a_cluster(cluster: Cluster, commands: Commands, keys: Mapping[str, str]) -> None:
    index = f"{commands.prefix}:queues"
    with cluster.client_of(index) as redis:
        redis.hset(index, "split", '{"key": "a}b"}')
    result = commands("doctor", "--json")
    assert wrong(result) == {"SPLIT_SLOTS": "error"}
    with cluster.client_of(index) as redis:
        redis.hdel(index, "split")
    name, key = next((n, k) for n, k in keys.items() if cluster.owner(k) is not cluster.owner(index))
    owner = cluster.owner(key)
    cluster.replica_of(owner).kill()
    owner.kill()
    result = commands("doctor", "--json")
    assert result.status == 1
    assert wrong(result)["UNAVAILABLE"] == "error"
    assert any(name in entry["evidence"] for entry in result.json["checks"] if entry["code"] == "UNAVAILABLE")

    def seen() -> bool:
        return wrong(commands("doctor", "--json")).get("CLUSTER_BROKEN") == "error"

    wait_until(seen)


# -- what it prints -----------------------------------------------------------------------------------------


def test_json(own: Commands, own_server: RedisServer) -> None:
    """One document: who looked at what, every code at least once, and the sums."""
    own_server.cli("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    document = own("doctor", "--json").json
    assert set(document) == {
        *("schema", "reliq", "format", "prefix", "redis", "servers", "queues", "checks"),
        *("errors", "warnings", "attention"),
    }
    assert (document["reliq"], document["format"]) == (reliq.__version__, 1)
    [server] = document["servers"]
    assert server["version"] == own_server.binary.version
    assert 0 < server["rtt_ms"] < 1000
    assert abs(server["clock_ahead_ms"]) < 1000
    assert {entry["code"] for entry in document["checks"]} == {check.code.name for check in doctor.CHECKS}
    [found] = [entry for entry in document["checks"] if entry["code"] == "EVICTION"]
    assert found == {
        "code": "EVICTION",
        "severity": "warning",
        "subject": f"127.0.0.1:{own_server.port}/0",
        "evidence": "maxmemory-policy is allkeys-lru; only because maxmemory is 0 nothing is deleted yet",
        "consequence": Reason.EVICTION.summary,
        "remedy": Reason.EVICTION.remedy,
    }
    assert (document["errors"], document["warnings"], document["attention"]) == (0, 1, False)


def test_text_and_exit_status(own: Commands, own_server: RedisServer) -> None:
    """The worst first, each with what comes of it and what to do; 0 for warnings, 1 for errors."""
    own_server.cli("CONFIG", "SET", "tcp-keepalive", "0")
    result = own("doctor")
    assert result.status == 0
    assert "\nwarning  KEEPALIVE_OFF  127.0.0.1:" in result.out
    own_server.cli("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    own_server.cli("CONFIG", "SET", "maxmemory", "100mb")
    result = own.process("doctor")
    assert (result.status, result.err) == (1, "")
    lines = result.out.splitlines()
    assert lines[0] == f"reliq {reliq.__version__} looked at prefix {own.prefix!r}"
    start = next(n for n, line in enumerate(lines) if line.startswith("error    EVICTION  127.0.0.1:"))
    assert "maxmemory-policy is allkeys-lru, maxmemory 100.0 MB; keys deleted so far: 0" in lines[start]
    assert lines[start + 1].strip() == Reason.EVICTION.summary
    assert lines[start + 2].strip() == f"-> {Reason.EVICTION.remedy}"
    assert start < next(n for n, line in enumerate(lines) if line.startswith("warning  KEEPALIVE_OFF"))
    assert f"{len(doctor.CHECKS)} checks: 1 error, 1 warning, 0 not seen" in lines[-1]
    assert not any(line.startswith("well") for line in lines)
    assert sum(line.startswith("well ") for line in own("doctor", "--all").out.splitlines()) > 20


def test_a_queue_that_is_not_there(own: Commands) -> None:
    """A typo is told, with the queue that was meant (2); no Redis is 3."""
    with own.queue("emails") as queue:
        queue.put(1)
    assert "did you mean 'emails'?" in own("doctor", "--queue", "email").error
    assert own("doctor", "--queue", "email").status == 2
    assert [q["queue"] for q in own("doctor", "--queue", "emails", "--json").json["queues"]] == ["emails"]


def test_no_redis(no_server: Commands) -> None:
    """One line, exit status 3."""
    result = no_server("doctor")
    assert result.status == 3
    assert "cannot reach Redis at 127.0.0.1:1/0" in result.error


def test_a_password_is_missing(own: Commands, own_server: RedisServer) -> None:
    """Like any command: one line, exit status 3."""
    own_server.cli("CONFIG", "SET", "requirepass", "secret")
    result = own("doctor")
    assert result.status == 3
    assert "Put the password into the URL" in result.error


def test_every_check_has_a_reason_of_its_own() -> None:
    """No two checks have one code, and each says what it looks at."""
    codes = [check.code for check in doctor.CHECKS]
    assert len(set(codes)) == len(codes)
    assert len({check.looks_at for check in doctor.CHECKS}) == len(codes)


def test_every_code_is_explained(no_server: Commands) -> None:
    """What the doctor says can be looked up, without a Redis."""
    for check in doctor.CHECKS:
        assert no_server.plain("errors", check.code.name).out.startswith(f"{check.code}: {check.code.summary}\n")
