"""A primary with replica and three Sentinels, and a Cluster of three primaries with a replica each, from the same
binaries as all tests, on free loopback ports. Everything is waited for by a condition and stopped by pid."""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import redis

from reliq.core.topology import SLOTS, slot_of
from tests.servers import RedisServer, ServerBinary, ServerFailed, _Addressed, _free_port

#: Replicas are in step within milliseconds, and no save to disk keeps a failover waiting.
FAST = ("--repl-diskless-sync", "yes", "--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1")


def until(holds: Callable[[], Any], what: str, seconds: float = 20.0, every: float = 0.02) -> Any:
    """Wait for a condition; a server that is away for the moment makes it false. Its value."""
    deadline = time.monotonic() + seconds
    while True:
        value = None
        with contextlib.suppress(redis.RedisError):
            value = holds()
        if value:
            return value
        if time.monotonic() > deadline:
            raise ServerFailed(f"not within {seconds} s: {what}")
        time.sleep(every)


def in_step(server: RedisServer) -> bool:
    """Whether this is a replica that has everything its primary had when it attached."""
    role = server.cli("ROLE")
    return bool(role[0] == b"slave" and role[3] == b"connected")


class Sentinel(_Addressed):
    """One sentinel process, with a configuration file that it writes to."""

    def __init__(self, binary: ServerBinary, master: str, primary: RedisServer, down_after_ms: int) -> None:
        self.name = f"sentinel-{binary.version}"
        self.port = _free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.folder = Path(tempfile.mkdtemp(prefix="reliq-sentinel-"))
        config = self.folder / "sentinel.conf"
        config.write_text(
            f"port {self.port}\nbind 127.0.0.1\ndir {self.folder}\nlogfile {self.folder}/server.log\n"
            f"sentinel monitor {master} 127.0.0.1 {primary.port} 2\n"
            f"sentinel down-after-milliseconds {master} {down_after_ms}\n"
            f"sentinel failover-timeout {master} 2000\n"
        )
        self.process = subprocess.Popen(
            [binary.path, config, "--sentinel"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        return self.process.pid

    def suspend(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


class Replicated(_Addressed, AbstractContextManager["Replicated"]):
    """A primary, its replica, and three sentinels that watch them."""

    def __init__(
        self,
        binary: ServerBinary,
        *,
        master: str = "mymaster",
        down_after_ms: int = 500,
        appendfsync: str = "always",
    ) -> None:
        self.binary, self.name, self.master = binary, f"sentinel-{binary.version}", master
        self._down_after_ms, self._appendfsync = down_after_ms, appendfsync
        self._stack = ExitStack()
        self.nodes: list[RedisServer] = []
        self.sentinels: list[Sentinel] = []

    def __enter__(self) -> Replicated:
        with ExitStack() as stack:
            for _ in range(2):
                node = RedisServer(self.binary, appendfsync=self._appendfsync, extra_args=FAST)
                self.nodes.append(stack.enter_context(node))
            first, second = self.nodes
            second.cli("REPLICAOF", "127.0.0.1", first.port)
            until(lambda: in_step(second), "the replica is in step")
            for _ in range(3):
                sentinel = Sentinel(self.binary, self.master, first, self._down_after_ms)
                stack.callback(sentinel.close)
                self.sentinels.append(sentinel)
            until(self._all_know_all, "the sentinels know each other and the replica")
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def url(self) -> str:  # type: ignore[override]
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://{hosts}/{self.master}/0"

    def client(self, **options: Any) -> redis.Redis:
        """A raw client to whoever is primary now."""
        return self.primary.client(**options)

    def _all_know_all(self) -> bool:
        return all(
            view["num-slaves"] == "1" and view["num-other-sentinels"] == "2" and view["flags"] == "master"
            for view in map(self._view, self.sentinels)
        )

    def _view(self, sentinel: Sentinel) -> dict[str, str]:
        with sentinel.client(decode_responses=True) as client:
            flat = iter(client.execute_command("SENTINEL", "MASTER", self.master, NEVER_DECODE=True))
            return {str(_text(k)): str(_text(v)) for k, v in zip(flat, flat, strict=True)}

    def named(self, sentinel: Sentinel) -> int:
        """The port of the primary, as this sentinel says."""
        with sentinel.client() as client:
            reply: Any = client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.master)
            return int(reply[1])

    @property
    def primary(self) -> RedisServer:
        """The node that says of itself that it is the primary, as most sentinels do."""
        found: RedisServer = until(self._find_primary, "there is a primary")
        return found

    def _find_primary(self) -> RedisServer | None:
        for node in self.nodes:
            with contextlib.suppress(redis.RedisError, RuntimeError):
                named = sum(self.named(s) == node.port for s in self.sentinels)
                if named >= 2 and node.cli("ROLE")[0] == b"master":
                    return node
        return None

    @property
    def replica(self) -> RedisServer:
        primary = self.primary
        return next(node for node in self.nodes if node is not primary)

    def failover(self, *, split: float = 0.0) -> RedisServer:
        """SENTINEL FAILOVER, until the other is primary and the old one its replica; the new primary. Between the
        two the old one still takes writes, which are lost: for ``split`` seconds (left to themselves, sentinels
        take ten and more)."""
        old = self.primary
        until(lambda: self.sentinels[0].cli("SENTINEL", "FAILOVER", self.master), "a failover begins")
        new = self._await_other(old)
        time.sleep(split)
        self._follow(old, new)
        return new

    def _follow(self, old: RedisServer, new: RedisServer) -> None:
        old.cli("REPLICAOF", "127.0.0.1", new.port)
        until(lambda: in_step(old), "the old primary follows")

    def kill_primary(self) -> RedisServer:
        """kill -9 of the primary, until the sentinels have made the other one primary; the new primary."""
        old = self.primary
        old.kill()
        return self._await_other(old)

    def _await_other(self, old: RedisServer) -> RedisServer:
        def other() -> RedisServer | None:
            found = self._find_primary()
            return None if found is old else found

        new: RedisServer = until(other, "a new primary", 30)
        return new

    def revive(self) -> None:
        """Start again who was killed; it becomes a replica."""
        for node in self.nodes:
            if not node.is_up:
                node.start()
                self._follow(node, self.primary)


def _text(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value


class Cluster(_Addressed, AbstractContextManager["Cluster"]):
    """Three primaries, each with a replica."""

    def __init__(self, binary: ServerBinary, *, node_timeout_ms: int = 800, appendfsync: str = "always") -> None:
        self.binary, self.name = binary, f"cluster-{binary.version}"
        self._settings = (
            *FAST,
            *("--cluster-enabled", "yes", "--cluster-node-timeout", str(node_timeout_ms)),
            *("--cluster-replica-validity-factor", "0", "--cluster-require-full-coverage", "no"),
        )
        self._appendfsync = appendfsync
        self._stack = ExitStack()
        self.nodes: list[RedisServer] = []
        self.ids: dict[int, str] = {}

    def __enter__(self) -> Cluster:
        with ExitStack() as stack:
            for _ in range(6):
                node = RedisServer(self.binary, appendfsync=self._appendfsync, extra_args=self._settings)
                self.nodes.append(stack.enter_context(_on_low_port(node)))
            self._join()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _join(self) -> None:
        first = self.nodes[0]
        for number, node in enumerate(self.nodes):
            self.ids[node.port] = node.cli("CLUSTER", "MYID").decode()
            node.cli("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for node in self.nodes[1:]:
            node.cli("CLUSTER", "MEET", "127.0.0.1", first.port)
        share = SLOTS // 3
        for number, node in enumerate(self.nodes[:3]):
            last = SLOTS if number == 2 else (number + 1) * share
            node.cli("CLUSTER", "ADDSLOTS", *range(number * share, last))
        until(lambda: all(len(self._lines(node)) == 6 for node in self.nodes), "all nodes know each other")
        for number, node in enumerate(self.nodes[3:]):
            node.cli("CLUSTER", "REPLICATE", self.ids[self.nodes[number].port])
        self.whole()

    def _lines(self, node: RedisServer) -> list[list[str]]:
        with node.client(socket_timeout=2) as client:
            text: Any = client.connection_pool.get_connection()
            try:
                text.send_command("CLUSTER", "NODES")
                return [line.split() for line in text.read_response().decode().splitlines()]
            finally:
                client.connection_pool.release(text)

    @property
    def url(self) -> str:  # type: ignore[override]
        return f"redis://{','.join(f'127.0.0.1:{node.port}' for node in self.nodes)}/0"

    def one_url(self) -> str:
        """That of a single node: the others have to be found."""
        return self.nodes[0].url

    def up(self) -> list[RedisServer]:
        return [node for node in self.nodes if node.is_up]

    def owner(self, key: str) -> RedisServer:
        """The node that serves this key, as most nodes that run say."""
        found: RedisServer = until(lambda: self._find_owner(slot_of(key)), f"somebody serves {key}")
        return found

    def _find_owner(self, slot: int) -> RedisServer | None:
        votes: dict[int, int] = {}
        for node in self.up():
            for fields in self._lines(node):
                if "master" in fields[2] and "fail" not in fields[2] and _has(fields[8:], slot):
                    port = int(fields[1].partition("@")[0].rpartition(":")[2])
                    votes[port] = votes.get(port, 0) + 1
        best = max(votes, key=lambda port: votes[port], default=0)
        found = next((n for n in self.up() if n.port == best), None)
        return found if found is not None and votes[best] > len(self.up()) // 2 else None

    def client_of(self, key: str, **options: Any) -> redis.Redis:
        """A raw client to the node that serves this key."""
        return self.owner(key).client(**options)

    def replica_of(self, primary: RedisServer) -> RedisServer:
        id = self.ids[primary.port]
        port = next(int(f[1].partition("@")[0].rpartition(":")[2]) for f in self._lines(primary) if f[3] == id)
        return next(node for node in self.nodes if node.port == port)

    def whole(self) -> None:
        """Wait until every node runs as a primary with slots or as a replica in step, and all agree."""

        def holds() -> bool:
            for node in self.nodes:
                with node.client(socket_timeout=2) as client:
                    info: Any = client.execute_command("CLUSTER INFO")
                said = (
                    info
                    if isinstance(info, dict)
                    else dict(line.split(":") for line in _text(info).splitlines() if ":" in line)
                )
                if said["cluster_state"] != "ok" or said["cluster_slots_ok"] != str(SLOTS):
                    return False
                if node.cli("ROLE")[0] != b"master" and not in_step(node):
                    return False
                if any("fail" in fields[2] or fields[7] != "connected" for fields in self._lines(node)):
                    return False
            return [node.cli("ROLE")[0] for node in self.nodes].count(b"slave") == 3

        until(holds, "the cluster is whole", 30)

    def kill_primary(self, key: str) -> RedisServer:
        """kill -9 of the owner of this key, until its replica has taken over; the new owner."""
        old = self.owner(key)
        old.kill()
        return self._await_other(key, old)

    def failover(self, key: str) -> RedisServer:
        """CLUSTER FAILOVER, asked of the replica of this key's owner; the new owner."""
        old = self.owner(key)
        self.replica_of(old).cli("CLUSTER", "FAILOVER")
        new = self._await_other(key, old)
        until(lambda: in_step(old) and self._known_as_replica(old, new), "all know that the old owner follows")
        return new

    def _known_as_replica(self, node: RedisServer, primary: RedisServer) -> bool:
        """Whether every node has heard of it: those that have not will not vote for it."""
        pair = (self.ids[node.port], self.ids[primary.port])
        return all(pair in [(f[0], f[3]) for f in self._lines(each)] for each in self.up())

    def _await_other(self, key: str, old: RedisServer) -> RedisServer:
        slot = slot_of(key)

        def other() -> RedisServer | None:
            found = self._find_owner(slot)
            return None if found is old else found

        new: RedisServer = until(other, "a new owner", 30)
        return new

    def revive(self) -> None:
        for node in self.nodes:
            if not node.is_up:
                node.start()
        self.whole()

    def migrate_slot(self, key: str, *, pause: float = 0.0) -> RedisServer:
        """Move the slot of this key to another primary, key by key, with a ``pause`` of so many seconds in the
        middle; the new owner."""
        for _ in self.migration(key):
            time.sleep(pause)
        return self.owner(key)

    def migration(self, key: str) -> Iterator[str]:
        """The same in steps, for tests that do something in between: opened, half, moved."""
        slot, old = slot_of(key), self.owner(key)
        new = next(n for n in self.up() if n is not old and n.cli("ROLE")[0] == b"master")
        new.cli("CLUSTER", "SETSLOT", slot, "IMPORTING", self.ids[old.port])
        old.cli("CLUSTER", "SETSLOT", slot, "MIGRATING", self.ids[new.port])
        yield "opened"
        half = False
        while keys := old.cli("CLUSTER", "GETKEYSINSLOT", slot, 2):
            old.cli("MIGRATE", "127.0.0.1", new.port, "", 0, 5000, "KEYS", *keys)
            if not half:
                half = True
                yield "half"
        yield "moved"
        for node in (new, old, *(n for n in self.up() if n.cli("ROLE")[0] == b"master")):
            node.cli("CLUSTER", "SETSLOT", slot, "NODE", self.ids[new.port])
        until(lambda: self._find_owner(slot) is new, "all know the new owner")


def _on_low_port(node: RedisServer) -> RedisServer:
    """The port of the cluster bus is 10,000 above, so it has to be below 55,536, and that one free too."""
    for _ in range(200):
        port = _free_port()
        if port < 55_000 and _is_free(port + 10_000):
            node.port = port
            return node
    raise ServerFailed("no free port below 55,000 with a free one for the cluster bus")


def _is_free(port: int) -> bool:
    with socket.socket() as probe, contextlib.suppress(OSError):
        probe.bind(("127.0.0.1", port))
        return True
    return False


def _has(ranges: list[str], slot: int) -> bool:
    for part in ranges:
        if part.startswith("["):
            continue
        first, _, last = part.partition("-")
        if int(first) <= slot <= int(last or first):
            return True
    return False
