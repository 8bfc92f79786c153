"""What keeps applications on one Redis apart, and passwords to themselves: prefixes, databases, ACL users; and no
password in a log, an error, or a list of processes."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import redis as redis_py

import reliq
from reliq.core.doctor import grants
from tests.cli.conftest import Commands, environment
from tests.cli.doctoring import wait_until, worker_on
from tests.servers import RedisServer

SECRET = "hunter2"


@pytest.fixture
def locked(own_server: RedisServer) -> RedisServer:
    """A server with a password, which its URL does not have."""
    own_server.cli("CONFIG", "SET", "requirepass", SECRET)
    return own_server


def make_user(commands: Commands, server: RedisServer, name: str) -> str:
    """An ACL user by the line that the tool prints for this prefix, under another name; its URL."""
    words = shlex.split(commands("doctor", "--acl", "--json").json["user"])
    assert words[:4] == ["redis-cli", "ACL", "SETUSER", "reliq"]
    assert server.cli("ACL", "SETUSER", name, *(SECRET if w == "PASSWORD" else w for w in words[4:])) == b"OK"
    server.cli("ACL", "SETUSER", name, f">{SECRET}")
    return server.url.replace("redis://", f"redis://{name}:{SECRET}@")


def test_two_users_do_not_see_each_other(
    own_server: RedisServer, prefix: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Each made by the line for its own prefix: its work is done, and what is the other's is refused, whatever is
    asked, in one line that says what to do. The line has no right to all keys or all commands."""
    ours, theirs = (Commands(own_server.url, f"{prefix}{who}", capsys, tmp_path) for who in "ab")
    with theirs.queue("emails") as queue:
        id = queue.put("private")
    before = sorted(own_server.cli("KEYS", f"{prefix}b*"))
    ours.url = make_user(ours, own_server, "ours")
    with worker_on(ours):
        assert ours("status", "--json").status == 0
    rights = own_server.cli("ACL", "LIST")
    assert not re.search(rb"user ours .*(~\* |\+@all|allkeys|allcommands)", b"\n".join(rights))
    spying = Commands(ours.url, theirs.prefix, capsys, tmp_path)
    for words in (
        ("put", "1", "--queue", "emails"),
        ("peek", "--queue", "emails"),
        ("explain", id),
        ("dead", "ls", "--queue", "emails"),
        ("reap", "--queue", "emails"),
        ("status",),
    ):
        result = spying(*words)
        assert result.status == 3, words
        assert "NOPERM" in result.error, words
        assert SECRET not in result.err
    with reliq.Queue("emails", ours.url, prefix=theirs.prefix) as queue, pytest.raises(reliq.Refused):
        queue.put(2)
    assert sorted(own_server.cli("KEYS", f"{prefix}b*")) == before
    with redis_py.Redis.from_url(ours.url) as raw:
        for probe in (["LRANGE", f"{theirs.prefix}:{{emails}}:ready", 0, -1], ["FLUSHALL"], ["KEYS", "*"],
                      ["CONFIG", "GET", "*"], ["ACL", "LIST"]):  # fmt: skip
            with pytest.raises(redis_py.exceptions.NoPermissionError):
                raw.execute_command(*probe)
    assert "+@all" not in grants.granting(grants.needed("7.0.15"))


def test_prefixes_and_databases(server: RedisServer, prefix: str) -> None:
    """The same name under another prefix, or in another database, is another queue."""
    with (
        reliq.Queue("q", server.url, prefix=prefix) as here,
        reliq.Queue("q", server.url, prefix=f"{prefix}2") as beside,
        reliq.Queue("q", settings={"url": f"{server.url[:-1]}5", "prefix": prefix}) as elsewhere,
    ):
        for n, queue in enumerate((here, beside, elsewhere)):
            queue.put_many(range(n + 1))
        assert [queue.size().ready for queue in (here, beside, elsewhere)] == [1, 2, 3]
    with server.client(db=5) as client:
        for key in client.keys(f"{prefix}*"):
            client.delete(key)


# -- passwords ----------------------------------------------------------------------------------------------


def family(pid: int) -> list[int]:
    """A process and all below it, as far as they live."""
    try:
        below = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [pid, *(each for child in below for each in family(int(child)))]


def seen_by_others(pid: int) -> str:
    """What a list of processes shows of this one and all below it."""
    lines = []
    for each in family(pid):
        try:
            lines.append(Path(f"/proc/{each}/cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return "\n".join(lines)


TASKS = """
import reliq
q = reliq.Queue("emails")
@q.ack
def send(body):
    if body == "fail": raise ValueError(f"cannot reach {q.settings.url} with password={body}")
"""


@pytest.mark.parametrize("where", ["RELIQ_URL", "RELIQ_PASSWORD", "RELIQ_PASSWORD_FILE"])
def test_a_worker_shows_no_password(locked: RedisServer, prefix: str, tmp_path: Path, where: str) -> None:
    """Neither it nor its children in a list of processes, nor what they log, even about an error that shows the
    URL; wherever the password comes from."""
    (tmp_path / "tasks.py").write_text(TASKS)
    (tmp_path / "secret").write_text(SECRET + "\n")
    url = locked.url.replace("redis://", f"redis://:{SECRET}@") if where == "RELIQ_URL" else locked.url
    secret = {"RELIQ_PASSWORD": SECRET, "RELIQ_PASSWORD_FILE": str(tmp_path / "secret")}
    env = environment(**{"RELIQ_URL": url, "RELIQ_PREFIX": prefix, where: secret.get(where, url)})
    words = [sys.executable, "-m", "reliq", "worker", "tasks", "--processes", "2"]
    with (
        subprocess.Popen(words, cwd=tmp_path, env=env, stderr=subprocess.PIPE, text=True) as process,
        reliq.Queue("emails", locked.url, settings={"password": SECRET}, prefix=prefix) as queue,
    ):
        try:
            queue.put_many(["fail", *range(20)])
            wait_until(lambda: queue.size().ready == 0 and queue.size().later == 1)
            assert len(family(process.pid)) >= 3
            shown = seen_by_others(process.pid)
        finally:
            process.terminate()
            _, log = process.communicate(timeout=30)
    assert "worker tasks" in shown
    assert SECRET not in shown
    assert "cannot reach" in log
    assert SECRET not in log
    assert "the password of --url" not in log


def test_a_password_among_the_words_is_told(locked: RedisServer, prefix: str, tmp_path: Path) -> None:
    """Of a worker, which runs for long: its own words cannot be hidden, so it says where the password belongs."""
    (tmp_path / "tasks.py").write_text(TASKS)
    url = locked.url.replace("redis://", f"redis://:{SECRET}@")
    words = ["worker", "tasks", "--until-empty", "--url", url, "--prefix", prefix]
    done = subprocess.run(
        [sys.executable, "-m", "reliq", *words], cwd=tmp_path, env=environment(), capture_output=True, text=True,
        timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "the password of --url" in done.stderr
    assert "RELIQ_URL" in done.stderr
    assert SECRET not in done.stderr + done.stdout


def test_the_demo_shows_no_password(locked: RedisServer, prefix: str, tmp_path: Path) -> None:
    """Its worker is a process of its own, which is given the URL in its environment."""
    for n in range(300):
        (tmp_path / str(n)).write_bytes(os.urandom(2000))
    url = locked.url.replace("redis://", f"redis://:{SECRET}@")
    env = environment(RELIQ_URL=url, RELIQ_PREFIX=prefix)
    words = [sys.executable, "-m", "reliq", "demo", str(tmp_path), "--json"]
    shown = []
    with subprocess.Popen(words, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        wait_until(lambda: shown.append(seen_by_others(process.pid)) or process.poll() is not None, 90)
        out, log = process.communicate(timeout=60)
    assert process.returncode == 0, log
    assert any("demo_worker" in each for each in shown)
    assert SECRET not in "".join(shown) + out + log


def test_one_word_with_the_password_is_enough(
    locked: RedisServer, commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every command takes a --url without it, and it from the environment; a wrong one is told and not shown."""
    commands.url = locked.url
    assert "NOAUTH" in commands("status").error
    monkeypatch.setenv("RELIQ_PASSWORD", SECRET)
    assert commands("status").status == 0
    assert commands("put", "1", "--queue", "emails").status == 0
    assert commands("doctor").status in (0, 1)
    monkeypatch.setenv("RELIQ_PASSWORD", "wrong-" + SECRET)
    result = commands("status")
    assert result.status == 3
    assert "WRONGPASS" in result.error
    assert SECRET not in result.err
