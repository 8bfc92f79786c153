"""`reliq doctor` and rights: the ACL line that it prints is enough, and a right that is missing is found.

A user is made by that line on a real server, and the main job is done as that user: puts of every kind, workers of
both shells, retries, burials, the death of a worker, the reaper, and the commands that look.
"""

from __future__ import annotations

import ast
import asyncio
import os
import re
import shlex
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import pytest
import redis as redis_py

import reliq
import reliq.aio
from reliq.core.doctor import grants
from reliq.core.keys import Keys
from tests.cli.conftest import Commands
from tests.cli.doctoring import found, notes, wait_until, worker_on, wrong
from tests.conftest import BINARIES, _matrix
from tests.servers import RedisServer, ServerBinary
from tests.topologies import Cluster, Replicated

ROOT = Path(reliq.__file__).parent

RARE = {
    "HSETNX": "the first put with an ordering key or a tenant",
    "EVAL": "a script that the server does not know yet",
    "RPOP": "a bell that nobody has heard",
}
"""Rights that count as essential and that the job below need not use, and when they are."""


def create(commands: Commands, server: RedisServer, *, doctor: bool = False) -> str:
    """Run the line (and the one for the doctor) as an administrator does; the URL of the user that it makes."""
    document = commands("doctor", "--acl", "--json").json
    for line in (document["user"], *([document["doctor"]] if doctor else [])):
        words = shlex.split(line)
        assert words[:3] == ["redis-cli", "ACL", "SETUSER"]
        assert server.cli(*words[1:]) == b"OK"
    return server.url.replace("redis://", f"redis://{words[3]}:PASSWORD@")


class Job:
    """What people do with reliq, as one user."""

    def __init__(self, commands: Commands) -> None:
        self.commands = commands

    def run(self, replicas: int = 0) -> None:
        self.put(replicas)
        self.work()
        asyncio.run(self.work_in_asyncio())
        self.lose_a_worker()
        self.look()

    def put(self, replicas: int) -> None:
        with self.commands.queue("emails") as queue:
            queue.put(1, replicas=replicas)
            queue.put(2, delay=0.01)
            queue.put(3, at=datetime.now(timezone.utc))
            for _ in range(2):
                queue.put(4, id="order-4")
                queue.put("x" * 100_000, id="order-5")
            queue.put_many([*range(10), "x" * 100_000])

    def work(self) -> None:
        """A worker process with its supervisor: acks, retries, releases, burials, a SIGTERM."""
        code = Path(self.commands._folder) / "tasks.py"
        code.write_text(
            "import reliq, tenacity\n"
            "q = reliq.Queue('emails', retry=reliq.Retry(attempts=3, wait=tenacity.wait_fixed(0)))\n"
            "@q.ack\n"
            "def send(body, lease: reliq.Lease):\n"
            "    if body == 1 and lease.deliveries == 1: raise ValueError('again')\n"
            "    if body == 2 and lease.deliveries == 1: raise reliq.Release('not now')\n"
            "    if body == 3: raise reliq.Bury('no')\n"
        )
        with self.commands.queue("emails") as queue:
            with self.commands.start("worker", "tasks") as process:
                wait_until(lambda: queue.size()[:3] == (0, 0, 0))
                process.terminate()
                _, log = process.communicate(timeout=30)
            assert process.returncode == 0, log
            assert queue.size().dead == 2
            assert "refused" not in log

    async def work_in_asyncio(self) -> None:
        async with reliq.aio.Queue("mails", self.commands.url, prefix=self.commands.prefix) as queue:
            await queue.put("x")
            worker = reliq.aio.Worker(queue.ack(lambda body: None), until_empty=True)
            await worker.run()
            assert await queue.size() == (0, 0, 0, 0)

    def lose_a_worker(self) -> None:
        with self.commands.queue("emails") as queue:
            queue.put_many(range(3))
            held = self.commands.claim_and_die("emails")
            assert held == 3
            wait_until(lambda: self.commands("reap").status == 0 and queue.size().ready == 3)
            with queue.consumer() as consumer:
                for _ in range(3):
                    consumer.claim(1, timeout=20)[0].ack()
                assert consumer.claim(1, timeout=0.2) == []

    def look(self) -> None:
        for words in (("status",), ("peek",), ("peek", "--state", "dead"), ("peek", "--state", "later")):
            result = self.commands(*words, *(("--queue", "emails") if words[0] == "peek" else ()))
            assert "refused" not in result.err
            assert result.status in (0, 1)
        assert "did you mean" in self.commands("status", "--queue", "email").error


@pytest.fixture
def restricted(own: Commands, own_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> Commands:
    """Commands as the user that the line makes."""
    url = create(own, own_server)
    own.url = url
    monkeypatch.setenv("RELIQ_URL", url)
    monkeypatch.setenv("RELIQ_PREFIX", own.prefix)
    return own


def test_the_line_is_enough(restricted: Commands, own_server: RedisServer) -> None:
    """Everything works as that user; all that the server has run, scripts included, is in the line, and what
    counts as essential in it was run. What the doctor cannot see is said, and is no failure."""
    own_server.cli("CONFIG", "RESETSTAT")
    with RedisServer(own_server.binary) as replica:
        replica.cli("REPLICAOF", "127.0.0.1", own_server.port)
        wait_until(lambda: replica.cli("ROLE")[3] == b"connected")
        own_server.cli("CONFIG", "RESETSTAT")
        Job(restricted).run(replicas=1)
    used = _counted(own_server) - {"REPLCONF", "PSYNC", "PING", "REPLICAOF", "CONFIG RESETSTAT", "AUTH", "HELLO"}
    granted = set(grants.needed(own_server.binary.version))
    if own_server.binary.version_info < (7,):  # which counts subcommands as one
        granted, used = ({name.partition(" ")[0] for name in names} for names in (granted, used))
    assert used - granted == set()
    assert grants.ESSENTIAL - used - {"CLIENT SETNAME"} <= set(RARE)
    result = restricted("doctor", "--json")
    assert result.status == 0
    assert {code for code, severity in wrong(result).items() if severity != "unseen"} <= {
        *("DEAD_GROWING", "NO_CONSUMERS")
    }
    unseen = [entry for entry in result.json["checks"] if entry["severity"] == "unseen"]
    assert {entry["code"] for entry in unseen} >= {"IDLE_TIMEOUT", "SLOW_SCRIPTS", "MISSING_RIGHTS"}
    assert all("cannot see" in entry["evidence"] and ": " in entry["evidence"] for entry in unseen)
    assert "MULTI" in found(result, "MISSING_RIGHTS")[0]["evidence"]


def _counted(server: RedisServer) -> set[str]:
    """Commands that the server has run since its counters were reset."""
    with server.client() as redis:
        stats = redis.info("commandstats")
    names = (name.removeprefix("cmdstat_").upper().replace("|", " ") for name in stats)
    return {name for name in names if name not in ("CLIENT", "ACL", "CONFIG", "CLUSTER")}


def test_the_doctor_sees_all_with_its_own_line(own: Commands, own_server: RedisServer) -> None:
    """With the second line nothing is unseen, and the rights of the user are found to be enough."""
    url = create(own, own_server, doctor=True)
    own.url = url
    with worker_on(own):
        result = own("doctor", "--json")
    assert wrong(result) == {}
    assert "MEMORY_UNLIMITED" in notes(result)


def test_every_missing_right_is_found(own: Commands, own_server: RedisServer) -> None:
    """Each command of the line, taken away alone, is named, and the remedy gives it back. Nothing of the probing
    is ever run."""
    own.url = create(own, own_server, doctor=True)
    own.queue("emails").put(1)
    before = own_server.cli("DEBUG", "DIGEST") if own_server.binary.version_info < (7,) else None
    keys = sorted(own_server.cli("KEYS", "*"))
    for name in grants.needed(own_server.binary.version):
        if name in ("CLIENT SETNAME", "HGETALL", "TYPE"):
            continue  # said at once by every command; or the doctor itself uses it
        if " " in name and own_server.binary.version_info < (7,):
            continue  # there a subcommand can be given, but not taken
        own_server.cli("ACL", "SETUSER", "reliq", f"-{name.lower().replace(' ', '|')}")
        result = own("doctor", "--queue", "emails", "--json")
        [entry] = found(result, "MISSING_RIGHTS")
        assert entry["severity"] == ("error" if name in grants.ESSENTIAL else "warning"), name
        assert entry["evidence"] == f"user reliq may not {name}"
        words = shlex.split(entry["remedy"])
        own_server.cli(*words[1:])
    assert found(own("doctor", "--json"), "MISSING_RIGHTS")[0]["severity"] == "ok"
    assert sorted(own_server.cli("KEYS", "*")) == keys
    if before:
        assert own_server.cli("DEBUG", "DIGEST") == before


def test_keys_that_are_forbidden(own: Commands, own_server: RedisServer) -> None:
    """The list of an adopted queue, which the prefix does not cover, is named; the remedy grants it."""
    own.url = create(own, own_server, doctor=True)
    with worker_on(own):
        admin = Commands(own_server.url, own.prefix, own._capsys, own._folder)
        with admin.queue("orders", key="shop orders") as queue:
            queue.put(1)
        result = own("doctor", "--queue", "orders", "--json")
        [entry] = found(result, "FORBIDDEN_KEYS")
        assert (entry["severity"], entry["subject"], result.status) == ("error", "queue orders", 1)
        assert entry["evidence"] == "user reliq may not use shop orders"
        own_server.cli(*shlex.split(entry["remedy"])[1:])
        assert "FORBIDDEN_KEYS" not in wrong(own("doctor", "--queue", "orders", "--json"))


@pytest.fixture(params=_matrix(BINARIES))
def managed(
    request: pytest.FixtureRequest, prefix: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Iterator[Commands]:
    """On a server that has no CONFIG, ACL, SLOWLOG and MULTI, as those that somebody else manages."""
    binary: ServerBinary = request.param
    hidden = [word for name in ("CONFIG", "ACL", "SLOWLOG", "MULTI") for word in ("--rename-command", name, "")]
    with RedisServer(binary, extra_args=[*hidden, "--maxmemory-policy", "noeviction"]) as server:
        yield Commands(server.url, prefix, capsys, tmp_path)


def test_a_managed_server_is_no_failure(managed: Commands) -> None:
    """What is forbidden is unseen, with the server's own words; all else is seen; exit status 0. Without MULTI,
    what would be probed inside of it is not sent."""
    with worker_on(managed):
        result = managed("doctor", "--json")
    assert result.status == 0
    assert set(wrong(result).values()) == {"unseen"}
    assert "unknown command" in found(result, "IDLE_TIMEOUT")[0]["evidence"]
    assert "unknown command" in found(result, "SLOW_SCRIPTS")[0]["evidence"]
    assert found(result, "EVICTION")[0]["severity"] == "ok"
    assert found(result, "NO_CONSUMERS")[0]["severity"] == "ok"
    assert "0 errors, 0 warnings" in managed("doctor").out
    with redis_py.Redis.from_url(managed.url) as redis:
        assert redis.keys("*doctor*") == []


def test_a_command_was_renamed(prefix: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A command that reliq needs is not there at all: told apart from a missing right."""
    with RedisServer(BINARIES[-1], extra_args=["--rename-command", "LPOS", ""]) as server:
        commands = Commands(server.url, prefix, capsys, tmp_path)
        result = commands("doctor", "--json")
        assert wrong(result) == {"MISSING_RIGHTS": "error"}
        [entry] = found(result, "MISSING_RIGHTS")
        assert entry["evidence"] == "this server does not have LPOS"
        assert "rename-command" in entry["remedy"]


# -- other places -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("binary", _matrix(BINARIES[-1:]))
def test_the_line_is_enough_in_a_cluster(
    binary: ServerBinary, prefix: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """On every node; queues on each of them are worked on as that user, also while a slot moves."""
    with Cluster(binary) as cluster:
        admin = Commands(cluster.url, prefix, capsys, tmp_path)
        for node in cluster.nodes:
            create(admin, node)
        commands = Commands(cluster.url.replace("redis://", "redis://reliq:PASSWORD@"), prefix, capsys, tmp_path)
        for n in range(6):
            with worker_on(commands, f"q{n}"):
                pass
        with worker_on(commands, "moving") as queue:
            cluster.migrate_slot(queue.options.keys.ready, pause=1)
            queue.put(1)
            wait_until(lambda: queue.size() == (0, 0, 0, 0))
        result = commands("doctor", "--json")
        assert result.status == 0
        assert set(wrong(result).values()) <= {"unseen"}


@pytest.mark.parametrize("binary", _matrix(BINARIES[-1:]))
def test_the_line_is_enough_behind_sentinels(
    binary: ServerBinary, prefix: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The primary is asked whether it is one (ROLE)."""
    with Replicated(binary) as servers:
        admin = Commands(servers.url, prefix, capsys, tmp_path)
        line = admin("doctor", "--acl").out
        assert " +role " in line
        create(admin, servers.primary)
        url = servers.url.replace("redis+sentinel://", "redis+sentinel://reliq:PASSWORD@")
        with worker_on(Commands(url, prefix, capsys, tmp_path)):
            pass


def test_another_database(own: Commands, own_server: RedisServer) -> None:
    """Another number than 0 needs SELECT, and the line has it then."""
    assert "+select" not in own("doctor", "--acl").out
    own.url = own.url.removesuffix("/0") + "/3"
    own_server.url = own.url
    own.url = create(own, own_server)
    with worker_on(own):
        assert own("doctor", "--json").status == 0


# -- the list and the code ----------------------------------------------------------------------------------


def sent_by_the_code() -> dict[str, str]:
    """Every verb that stands in a Command(...), in a call of an operation that takes one, or is its default; and
    where."""
    verbs: dict[str, str] = {}
    for path in sorted(ROOT.rglob("*.py")):
        if {"verify", "embedded"} & set(path.parts) or path.name.startswith(("demo", "verify")):
            continue  # these keep to servers and keys of their own
        for node in ast.walk(ast.parse(path.read_text())):
            for value in _candidates(node):
                if isinstance(value, ast.Constant) and re.fullmatch(r"[A-Z]+( [A-Z]+)?", str(value.value)):
                    verbs[str(value.value)] = f"{path.relative_to(ROOT)}:{value.lineno}"
    return verbs


def _candidates(node: ast.AST) -> list[ast.expr]:
    if isinstance(node, ast.Call):
        called = ast.unparse(node.func).rpartition(".")[2]
        return list(node.args) if called in ("Command", "length", "page", "_sorted") else []
    if isinstance(node, ast.FunctionDef) and node.name in ("length", "page"):
        return list(node.args.defaults)
    return []


def test_the_list_is_that_of_the_code() -> None:
    """A verb that the code sends and the list does not have would be refused to the user that the line makes."""
    listed = grants.SENT | grants.IN_SCRIPTS | grants.IN_CLUSTER | grants.BY_SENTINEL | grants.FOR_DOCTOR
    found = sent_by_the_code()
    assert {"BLMOVE", "SET", "CLIENT KILL", "ZREVRANGE", "LLEN"} <= set(found)
    missing = {verb: where for verb, where in found.items() if verb not in listed}
    assert missing == {}, "add them to SENT in reliq/core/doctor/grants.py"


def test_probes_are_complete(server: RedisServer, prefix: str) -> None:
    """A server queues each of them inside of MULTI."""
    with server.client() as client:
        version = str(client.info("server")["redis_version"])
        connection = client.connection_pool.get_connection()
        lines = [grants.sample(name, Keys("emails", prefix).ready) for name in grants.needed(version)]
        for words, answer in ((("MULTI",), b"OK"), *((line, b"QUEUED") for line in lines), (("DISCARD",), b"OK")):
            connection.send_command(*words)
            assert connection.read_response() == answer, words
        client.connection_pool.release(connection)
        assert client.keys(f"{prefix}*") == []


def test_every_kind_of_key_is_asked_for() -> None:
    """What the description of the keys names, but for those that only ``fsck`` makes."""
    keys = Keys("emails")
    wire = (Path(grants.__file__).parents[1] / "wire.md").read_text("utf-8")
    table = wire.split("## Keys\n")[1].split("\n## ")[0]
    rows = [row.split("|")[1] for row in table.splitlines() if row.startswith("| `")]
    named = {name.split("<")[0] for row in rows for name in re.findall("`([a-z:<]+)", row)}
    asked = [keys.part_of(key) or "" for key in grants.all_keys(keys)]
    assert {"ready", "inbox:", "uniques", "purging:later"} <= named
    assert [name for name in named if not any(part.startswith(name) for part in asked)] == ["aside:"]


@pytest.mark.parametrize("prefix_text", ["re*l?iq", "a[b]c", "x\\y"])
def test_patterns_are_literal(server: RedisServer, redis: redis_py.Redis, prefix_text: str) -> None:
    """Characters that a pattern would obey stand for themselves; white space fits by any character."""
    name = f"user{os.getpid()}"
    patterns = grants.patterns(prefix_text, ["my list"])
    redis.execute_command("ACL", "SETUSER", name, "on", "nopass", "+get", "+llen", *patterns)
    try:
        with server.client(username=name, password="x") as user:
            assert user.get(f"{prefix_text}:x") is None
            assert user.llen("my list") == 0
            for other in (f"{prefix_text.replace('*', 'zz')}:x", "reXlYiq:x", "abc:x", "my lists"):
                if other != f"{prefix_text}:x":
                    with pytest.raises(redis_py.exceptions.NoPermissionError):
                        user.get(other)
    finally:
        redis.execute_command("ACL", "DELUSER", name)
