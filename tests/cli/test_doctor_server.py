"""`reliq doctor` and servers: each situation is created on a real one, and its code is seen."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from reliq.core import scripts
from reliq.core.doctor import memory, ours, server
from reliq.core.doctor.facts import ServerFacts, SlowCall, Table
from reliq.core.doctor.survey import _KeyReader
from reliq.core.keys import Keys
from tests.cli.conftest import Commands
from tests.cli.doctoring import found, notes, wait_until, worker_on, wrong
from tests.faults.proxy import FaultProxy
from tests.servers import RedisServer
from tests.topologies import in_step, until

MEGABYTE = 1024 * 1024

SETTINGS: list[tuple[str, str, dict[str, str], str]] = [
    ("EVICTION", "error", {"maxmemory": "100mb", "maxmemory-policy": "allkeys-lru"}, "maxmemory 100.0 MB"),
    ("EVICTION", "warning", {"maxmemory-policy": "allkeys-random"}, "only because maxmemory is 0"),
    ("EVICTION", "warning", {"maxmemory": "100mb", "maxmemory-policy": "volatile-ttl"}, "repeated put(id=)"),
    ("NOT_PERSISTED", "error", {"appendonly": "no", "save": ""}, "no snapshots and no replica"),
    ("NOT_PERSISTED", "warning", {"appendonly": "no", "save": "3600 1"}, "since the last snapshot (3600 1)"),
    ("UNSYNCED_WRITES", "warning", {"appendfsync": "no"}, "often 30 s"),
    ("UNSYNCED_WRITES", "warning", {"no-appendfsync-on-rewrite": "yes"}, "nothing is synced"),
    ("TOO_FEW_REPLICAS", "error", {"min-replicas-to-write": "1"}, "min-replicas-to-write is 1, and 0 are in step"),
    ("IDLE_TIMEOUT", "warning", {"timeout": "5"}, "timeout is 5 s"),
    ("KEEPALIVE_OFF", "warning", {"tcp-keepalive": "0"}, "tcp-keepalive is 0"),
]
"""code, severity, what was set, what is said of it."""


@pytest.mark.parametrize(("code", "severity", "config", "says"), SETTINGS)
def test_settings(
    own: Commands, own_server: RedisServer, code: str, severity: str, config: dict[str, str], says: str
) -> None:
    """Each setting that is bad for queues is found, alone, and is gone once it is put right."""
    with own_server.client(decode_responses=True) as redis:
        before: dict[str, str] = {name: redis.config_get(name)[name] for name in config}
    for name, value in config.items():
        own_server.cli("CONFIG", "SET", name, value)
    result = own("doctor", "--json")
    assert wrong(result) == {code: severity}
    assert any(says in entry["evidence"] for entry in found(result, code)), found(result, code)
    assert result.status == (severity == "error")
    for name, value in before.items():
        own_server.cli("CONFIG", "SET", name, value)
    assert wrong(own("doctor", "--json")) == {}


def test_choices_are_notes(own: Commands, own_server: RedisServer) -> None:
    """What is a choice is said and no alarm; what was chosen otherwise is not said."""
    own_server.cli("CONFIG", "SET", "appendfsync", "everysec")
    result = own("doctor", "--json")
    assert {"UNSYNCED_WRITES", "MEMORY_UNLIMITED", "NO_REPLICA"} <= notes(result)
    assert ("OLD_SERVER" in notes(result)) == (own_server.binary.version_info < (7, 2))
    own_server.cli("CONFIG", "SET", "appendfsync", "always")
    own_server.cli("CONFIG", "SET", "maxmemory", "1gb")
    assert notes(own("doctor", "--json")) <= {"OLD_SERVER", "NO_REPLICA"}


def test_memory_runs_out(own: Commands, own_server: RedisServer) -> None:
    """Nearly full is a warning; full, when puts are refused, is an error."""
    with own.queue("emails", codec="bytes") as queue, own_server.client() as redis:
        queue.put_many([b"x" * 100_000] * 100)
        used = int(redis.info("memory")["used_memory"])
        redis.config_set("maxmemory", int(used * 1.05))
        result = own("doctor", "--json")
        assert wrong(result).get("MEMORY_LOW") == "warning"
        redis.config_set("maxmemory", used // 2)
        result = own("doctor", "--json")
        assert wrong(result).get("MEMORY_LOW") == "error"
        assert "puts are refused" in found(result, "MEMORY_LOW")[0]["evidence"]
        redis.config_set("maxmemory", used * 3)
        assert "MEMORY_LOW" not in wrong(own("doctor", "--json"))


def test_memory_of_the_machine(own_server: RedisServer) -> None:
    """Without a limit, a Redis that has taken most of its machine is a warning, and no longer a note."""
    with own_server.client() as redis:
        info = {name: str(value) for name, value in redis.info().items()}
    for share, severity in ((0.5, "info"), (0.9, "warning")):
        info["used_memory"] = str(int(int(info["total_system_memory"]) * share))
        [seen] = memory.unlimited.findings(_facts(info=Table("INFO", info)), "")
        assert seen.severity == severity


def _facts(**known: Any) -> ServerFacts:
    """Of a server of which a check looks at nothing else."""
    blank: dict[str, Any] = {field.name: None for field in dataclasses.fields(ServerFacts)}
    return ServerFacts(**{**blank, **known})


def test_memory_is_fragmented(own: Commands, own_server: RedisServer) -> None:
    """Most of very many elements are deleted, and their memory cannot be given back."""
    with own_server.client() as redis:
        redis.config_set("appendonly", "no")  # quicker
        fill = "for i = 1, 20000 do redis.call('SET', 'k' .. (ARGV[1] + i), string.rep('x', 200)) end"
        empty = "for i = 1, 20000 do if i % 20 > 0 then redis.call('DEL', 'k' .. (ARGV[1] + i)) end end"
        for start in range(0, 700_000, 20_000):
            redis.eval(fill, 0, start)
        assert "FRAGMENTED_MEMORY" not in wrong(own("doctor", "--json"))
        for start in range(0, 700_000, 20_000):
            redis.eval(empty, 0, start)
    result = own("doctor", "--json")
    assert wrong(result).get("FRAGMENTED_MEMORY") == "warning"
    assert "of data take" in found(result, "FRAGMENTED_MEMORY")[0]["evidence"]


def test_disk_fails(own: Commands, own_server: RedisServer) -> None:
    """A snapshot that failed is a warning; where Redis refuses writes for it, an error."""
    assert own_server.folder is not None
    shutil.rmtree(own_server.folder)
    own_server.cli("BGSAVE")
    wait_until(lambda: wrong(own("doctor", "--json")) == {"SAVE_FAILED": "warning"})
    own_server.cli("CONFIG", "SET", "save", "3600 1")
    result = own("doctor", "--json")
    assert wrong(result) == {"SAVE_FAILED": "error"}
    assert "MISCONF" in found(result, "SAVE_FAILED")[0]["evidence"]


def test_the_append_only_file_fails(own: Commands, own_server: RedisServer) -> None:
    """One that cannot be rewritten is a warning: it grows."""
    own_server.cli("MSET", *(word for n in range(100) for word in (f"k{n}", n)))
    own_server.cli("CONFIG", "SET", "rdb-key-save-delay", "1000000")
    own_server.cli("BGREWRITEAOF")
    children = Path(f"/proc/{own_server.pid}/task/{own_server.pid}/children")
    wait_until(children.read_text)
    os.kill(int(children.read_text()), signal.SIGKILL)
    wait_until(lambda: wrong(own("doctor", "--json")) == {"SAVE_FAILED": "warning"})
    assert "cannot be rewritten" in found(own("doctor", "--json"), "SAVE_FAILED")[0]["evidence"]


def test_connections_run_out(own: Commands, own_server: RedisServer) -> None:
    """Most of what maxclients allows is in use."""
    with contextlib.ExitStack() as stack:
        for _ in range(10):
            stack.enter_context(own_server.client(single_connection_client=True)).ping()
        assert wrong(own("doctor", "--json")) == {}
        own_server.cli("CONFIG", "SET", "maxclients", "13")
        result = own("doctor", "--json")
        assert wrong(result) == {"MANY_CLIENTS": "warning"}
        assert "of maxclients 13 connections are open" in found(result, "MANY_CLIENTS")[0]["evidence"]


def test_replicas(own: Commands, own_server: RedisServer) -> None:
    """A replica that says nothing is behind; a replica itself takes nothing."""
    with RedisServer(own_server.binary) as replica:
        replica.cli("REPLICAOF", "127.0.0.1", own_server.port)
        until(lambda: in_step(replica), "the replica is in step")
        wait_until(lambda: wrong(own("doctor", "--json")) == {})
        own_server.cli("CONFIG", "SET", "min-replicas-max-lag", "1")
        replica.suspend()
        wait_until(lambda: wrong(own("doctor", "--json")) == {"REPLICA_LAGS": "warning"})
        own_server.cli("CONFIG", "SET", "min-replicas-to-write", "1")
        assert wrong(own("doctor", "--json")) == {"REPLICA_LAGS": "warning", "TOO_FEW_REPLICAS": "error"}
        replica.resume()
        wait_until(lambda: wrong(own("doctor", "--json")) == {})
        own.url = replica.url
        result = own("doctor", "--json")
        assert wrong(result) == {"READ_ONLY_REPLICA": "error"}
        assert found(result, "READ_ONLY_REPLICA")[0]["evidence"].endswith(f"127.0.0.1:{own_server.port}")
        assert result.status == 1


def test_slow_scripts(own: Commands, own_server: RedisServer) -> None:
    """Scripts of ours that hold Redis are found, by name; those of others are not."""
    with own_server.client() as redis:
        for _ in range(4):
            redis.eval("local x = 0 for i = 1, 3000000 do x = x + i end return x", 0)
        assert len(redis.slowlog_get(10)) >= 4
        assert wrong(own("doctor", "--json")) == {}
        with own.queue("emails", codec="bytes", timeout=60) as queue:
            bodies = [bytes(16 * MEGABYTE)] * 4
            redis.lpush(queue.options.keys.ready, *bodies)  # raw, so a claim makes envelopes of them
            with queue.consumer() as consumer:
                for _ in bodies:
                    consumer.claim(1)[0].ack()
    result = own("doctor", "--json")
    assert wrong(result).get("SLOW_SCRIPTS") == "warning"
    assert "the longest trip with " in found(result, "SLOW_SCRIPTS")[0]["evidence"]


def test_one_slow_script_is_no_alarm() -> None:
    """The log counts time on the wall: a machine that was busy elsewhere makes a slow call now and then."""
    now = 1_800_000_000
    calls = [SlowCall("trip", now - 60, 30.0), SlowCall("put", now - 60, 400.0)]
    old = SlowCall("put", now - 7200, 400.0)
    quick = SlowCall("put", now - 60, 12.0)
    assert list(server.slow_scripts.findings(_facts(now=1000 * now, slow=[*calls, old, quick]), "")) == []
    [seen] = server.slow_scripts.findings(_facts(now=1000 * now, slow=[*calls, calls[0]]), "")
    assert seen.severity == "warning"


def test_round_trip_against_the_lease(own: Commands, own_server: RedisServer) -> None:
    """A tenth of the lease is a warning, a third an error, for each queue by its own."""
    for name, lease in (("short", 0.5), ("long", 60)):
        own.queue(name, lease=lease).put(1)
    with FaultProxy("127.0.0.1", own_server.port) as proxy:
        own.url = proxy.url
        proxy.latency = 0.04  # each way
        result = own("doctor", "--json")
        assert wrong(result).get("SLOW_NETWORK") == "warning"
        assert [entry["subject"] for entry in found(result, "SLOW_NETWORK")] == ["queue short"]
        proxy.latency = 0.1
        result = own("doctor", "--json")
        assert wrong(result).get("SLOW_NETWORK") == "error"
        assert result.json["servers"][0]["rtt_ms"] >= 200


@pytest.mark.parametrize("seconds", [-7200.0, 7200.0])
def test_clocks_differ(own: Commands, seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock of this host is hours off: said, with the side; ages and due times go by the clock of Redis."""
    with worker_on(own):
        right = time.time
        monkeypatch.setattr("reliq.cli.doctor.time.time", lambda: right() + seconds)
        result = own("doctor", "--json")
        monkeypatch.undo()
    assert wrong(result) == {"CLOCK_SKEW": "warning"}
    side = "ahead of" if seconds < 0 else "behind"
    assert f"7,200.0 s {side} that of this host" in found(result, "CLOCK_SKEW")[0]["evidence"]
    assert result.json["servers"][0]["clock_ahead_ms"] == pytest.approx(-1000 * seconds, abs=1000)


def test_scripts_are_known_in_the_slow_log() -> None:
    """By digest, or by how the source begins, which the log cuts; a beginning that several have names none."""
    assert ours.name_of(["EVALSHA", scripts.trip.sha]) == "trip"
    assert ours.name_of(["evalsha", scripts.sizes.sha.upper()]) == "sizes"
    assert ours.name_of(["EVAL", f"{scripts.put.source[:128]}... (2000 more bytes)"]) == "put"
    assert ours.name_of(["EVAL", f"{scripts.trip.source[:128]}... (9000 more bytes)"]) == "a script"
    for other in (
        ["EVAL", "-- ... (2000 more bytes)"],
        ["EVAL", "return 1"],
        ["LPUSH", scripts.trip.sha],
        ["PING"],
    ):
        assert ours.name_of(other) == ""


def test_looking_costs_few_round_trips(own: Commands, own_server: RedisServer) -> None:
    """Some for the server, and five for each queue."""
    for n in range(5):
        own.queue(f"q{n}").put(1)
    with own_server.client() as redis:
        before = int(redis.info("stats")["total_commands_processed"])
        own("doctor", "--json")
        after = int(redis.info("stats")["total_commands_processed"])
    assert after - before < 500
    with FaultProxy("127.0.0.1", own_server.port) as proxy:
        own.url, proxy.latency = proxy.url, 0.05
        started = time.monotonic()
        own("doctor", "--json")
        took = time.monotonic() - started
    assert took < 2 * 0.05 * 60


def test_keys_are_taken_apart() -> None:
    """A key name leads to its queue, part and consumer, whatever the queue is called and whatever it adopted."""
    read = _KeyReader("re[l]iq").read
    for keys in (
        Keys("emails", "re[l]iq"),
        Keys("a:b:later", "re[l]iq"),
        Keys("o", "re[l]iq", "{shop}orders"),
        Keys("o", "re[l]iq", "a{b"),
    ):
        for part in ("later", "dead"):
            assert read(getattr(keys, part)) == (keys.queue, part, "")
        assert read(keys.inbox("host-1-ab:cd")) == (keys.queue, "inbox", "host-1-ab:cd")
        assert read(keys.doing("x")) == (keys.queue, "doing", "x")
        for other in (keys.stats, keys.session("x"), keys.events, keys.queues, keys.marker(bytes(16))):
            assert read(other) == ("", "", "")
