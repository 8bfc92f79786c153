"""Whatever somebody types wrong: one line that names the thing, the reason and the next step, with the right exit
status, no traceback, and nothing lost.

Each row is a command as somebody types it, run as a process of its own. In its words ``{url}`` is a working
server, ``{at}`` its host and port, ``{locked}`` one with a password, ``{other}`` where something else listens.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
import redis as redis_py

import reliq
from tests.conftest import BINARIES
from tests.servers import RedisServer


class Wrong(NamedTuple):
    """The words behind ``reliq``, the exit status, and what the line says: the thing, the reason, the next step.
    ``key``: a part of the queue ``images`` that another program has made a string of. ``env``: one variable."""

    name: str
    words: str
    status: int
    says: tuple[str, ...]
    stdin: str = ""
    key: str = ""
    env: str = ""


USAGE, ATTENTION, AWAY = 2, 1, 3
TO = "--url {url}"
TABLE = [
    # names and ids
    Wrong("queue-typo", f"status --queue emials {TO}", USAGE, ("'emials'", "did you mean 'emails'?", "known: ")),
    Wrong("queue-unknown", f"peek --queue zzz {TO}", USAGE, ("no queue 'zzz'", "known: emails, images")),
    Wrong("queue-not-named", f"peek {TO}", USAGE, ("which queue?", "--queue", "emails, images")),
    Wrong("queue-impossible", f"put --queue a{{b 1 {TO}", USAGE, ("'a{b'", "1 to 200 characters", "key=")),
    Wrong("prefix-wrong", f"peek --prefix nowhere {TO}", USAGE, ("'nowhere'", "no queue is known", "--prefix")),
    Wrong("id-empty", f"explain '' {TO}", USAGE, ("explain('')", "as its put returned it")),
    # URLs
    Wrong("url-no-scheme", "status --url localhost:6379", USAGE, ("has to begin with redis://", "Example: redis")),
    Wrong("url-scheme", "status --url http://localhost:6379", USAGE, ("begin with redis://", "Example: redis")),
    Wrong(
        "url-no-port", "status --url redis://localhost:", USAGE, ("no host and port", "Example: redis://localhost")
    ),
    Wrong("url-port-text", "status --url redis://localhost:port/0", USAGE, ("no host and port", "Example: redis")),
    Wrong("url-db-text", "status --url redis://localhost:6379/zero", USAGE, ("'zero'", "a number", "6379/0")),
    Wrong("url-db-range", "status --url redis://{at}/99", AWAY, ("/99", "out of range", "correct the number")),
    Wrong(
        "url-option", "status --url redis://{at}/0?foo=1", USAGE, ("'foo'", "no connection knows", "leave it out")
    ),
    # servers
    Wrong("no-redis", "status --url redis://127.0.0.1:1/0", AWAY, ("127.0.0.1:1", "refused", "Check that it")),
    Wrong("no-password", "status --url redis://{locked}/0", AWAY, ("NOAUTH", "Put the password into the URL")),
    Wrong("wrong-password", "status --url redis://:hunter2@{locked}/0", AWAY, ("WRONGPASS", "Check user and")),
    Wrong("acl-keys", "put --queue emails 1 --url redis://other:pw@{at}/0", AWAY, ("NOPERM", "keys", "Grant")),
    Wrong("acl-command", "put --queue emails 1 --url redis://reader:pw@{at}/0", AWAY, ("NOPERM", "Grant")),
    Wrong("no-redis-there", "status --url redis://{other}/0", AWAY, ("{other}", "no Redis", "correct")),
    Wrong("tls-to-plain", "status --url rediss://{at}/0", AWAY, ("{at}/0 by TLS", "begins with redis://")),
    # keys of another program
    Wrong(
        "ready-taken", f"put --queue images 1 {TO}", ATTENTION, ("images:ready", "a string", "choose"), key="ready"
    ),
    Wrong("later-taken", f"put --queue images 1 --delay 9 {TO}", ATTENTION, ("images:later", "zset"), key="later"),
    Wrong(
        "dead-taken", f"dead ls --queue images {TO}", ATTENTION, ("images:dead", "a string", "zset"), key="dead"
    ),
    # words
    Wrong("verb-typo", f"statsu {TO}", USAGE, ("'statsu'", "did you mean 'status'?", "reliq --help")),
    Wrong("verb-second", f"dead reviev {TO}", USAGE, ("'reviev'", "did you mean 'revive'?", "dead ls")),
    Wrong("option-typo", f"status --qeue emails {TO}", USAGE, ("--qeue", "did you mean '--queue'?", "--help")),
    Wrong("option-first", "--url {url} status", USAGE, ("--url", "stands before the command", "after it")),
    Wrong("choice", f"peek --state gone {TO}", USAGE, ("'gone'", "choose from", "reliq peek --help")),
    Wrong(
        "code", "errors RETRY_BAKOFF", USAGE, ("'RETRY_BAKOFF'", "did you mean 'RETRY_BACKOFF'", "reliq errors")
    ),
    # handlers
    Wrong("module-missing", f"worker emty {TO}", USAGE, ("'emty'", "did you mean 'empty'?", "looked for in")),
    Wrong("module-file", f"worker empty.py {TO}", USAGE, ("'empty.py'", "without .py", "reliq worker pkg.module")),
    Wrong("module-broken", f"worker broken {TO}", USAGE, ("'broken'", "nothing_here", "broken.py:2", "python -c")),
    Wrong("no-handlers", f"worker empty {TO}", USAGE, ("'empty'", "no handler", "@q.ack above a function")),
    Wrong("no-such-handler", f"worker empty:send {TO}", USAGE, ("no 'send'", "@q.ack above a function")),
    # bodies and files
    Wrong("body", f"put --queue emails {{bad {TO}", USAGE, ("no JSON", "'{bad'", "Quote it", "--text")),
    Wrong(
        "body-stdin", f"put --queue emails --lines {TO}", USAGE, ("no JSON", "line 2", "--text"), stdin="1\nno\n"
    ),
    Wrong("delay", f"put --queue emails 1 --delay -5 {TO}", USAGE, ("-5", "seconds, not negative")),
    Wrong("put-where", f"put 1 {TO}", USAGE, ("--queue NAME", "the queue to put into")),
    Wrong("import-missing", f"dead import none.jsonl --queue emails {TO}", USAGE, ("none.jsonl", "name a file")),
    Wrong(
        "import-garbage", f"dead import bad.jsonl --queue emails {TO}", USAGE, ("line 1", "dead export", "again")
    ),
    Wrong("revive-which", f"dead revive --queue emails {TO}", USAGE, ("which ones?", "--cause", "--all")),
    # settings
    Wrong(
        "pool-option",
        "status --url redis://{at}/0?pool_size=many",
        USAGE,
        ("'pool_size'", "cannot be", "whole number"),
    ),
    Wrong(
        "variable-typo",
        f"status {TO}",
        USAGE,
        ("RELIQ_TIMOUT", "did you mean RELIQ_TIMEOUT?"),
        env="RELIQ_TIMOUT=3",
    ),
    Wrong(
        "variable-kind",
        f"status {TO}",
        USAGE,
        ("RELIQ_TIMEOUT", "'5s', a text", "seconds"),
        env="RELIQ_TIMEOUT=5s",
    ),
    Wrong("variable-file", f"status {TO}", USAGE, ("'/none'", "No such file"), env="RELIQ_PASSWORD_FILE=/none"),
    Wrong("variable-block", f"status {TO}", USAGE, ("'read_timeout' is 5", "to 6 or"), env="RELIQ_READ_TIMEOUT=5"),
    Wrong("variable-host", "status", USAGE, ("'port' is there, but no Redis", "add host"), env="RELIQ_PORT=6380"),
    Wrong(
        "variable-secret",
        "status --url redis://{locked}/0",
        AWAY,
        ("WRONGPASS", "Check"),
        env="RELIQ_PASSWORD=hunter2",
    ),
    Wrong("nothing-set", "status", AWAY, ("no Redis URL", "RELIQ_EMBEDDED=0", "set RELIQ_URL")),
]


class Scene(NamedTuple):
    """Servers, files and two queues with one message each."""

    names: dict[str, str]
    folder: Path
    client: redis_py.Redis
    queues: tuple[reliq.Queue, reliq.Queue]


@pytest.fixture(scope="module", params=BINARIES, ids=lambda binary: binary.name)
def scene(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """For all rows: none of them may change anything."""
    with RedisServer(request.param) as server:
        yield from _set_up(server, tmp_path_factory.mktemp("typed"))


def _set_up(own_server: RedisServer, tmp_path: Path) -> Iterator[Scene]:
    (tmp_path / "empty.py").write_text("x = 1\n")
    (tmp_path / "broken.py").write_text("x = 1\nimport nothing_here\n")
    (tmp_path / "bad.jsonl").write_text("no JSON\n")
    at = own_server.url.split("//")[1].split("/")[0]
    with (
        RedisServer(own_server.binary) as locked,
        something_else() as other,
        own_server.client() as client,
        locked.client() as admin,
        reliq.Queue("emails", own_server.url) as emails,
        reliq.Queue("images", own_server.url) as images,
    ):
        admin.config_set("requirepass", "secret")
        client.execute_command("ACL", "SETUSER", "other", "on", ">pw", "~theirs:*", "+@all")
        client.execute_command("ACL", "SETUSER", "reader", "on", ">pw", "~*", "+@read", "+@connection", "+info")
        emails.put(1)
        images.put(1)
        locked_at = locked.url.split("//")[1].split("/")[0]
        names = {"url": own_server.url, "at": at, "locked": locked_at, "other": other}
        yield Scene(names, tmp_path, client, (emails, images))
        admin.config_set("requirepass", "")


@contextmanager
def something_else() -> Iterator[str]:
    """A port where an HTTP server listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(1000)
                    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        threading.Thread(target=serve, daemon=True).start()
        yield "{}:{}".format(*listener.getsockname())


def named(scene: Scene, text: str) -> str:
    for name, value in scene.names.items():
        text = text.replace(f"{{{name}}}", value)
    return text


def run(scene: Scene, wrong: Wrong) -> subprocess.CompletedProcess[str]:
    extra = dict([wrong.env.split("=")]) if wrong.env else {}
    words = [named(scene, word) for word in wrong.words.replace("''", "\0").split()]
    return subprocess.run(
        [sys.executable, "-m", "reliq", *(word.replace("\0", "") for word in words)],
        input=wrong.stdin,
        capture_output=True,
        text=True,
        cwd=scene.folder,
        env={**os.environ, "PYTHONWARNINGS": "error", "RELIQ_EMBEDDED": "0", "RELIQ_URL": "", **extra},
        timeout=60,
    )


@pytest.mark.parametrize("wrong", TABLE, ids=[wrong.name for wrong in TABLE])
def test_it_is_told_in_one_line(scene: Scene, wrong: Wrong) -> None:
    """The table above."""
    emails, images = scene.queues
    before = emails.size(), images.size()
    with taken(scene, wrong.key):
        done = run(scene, wrong)
    assert done.stderr.startswith("reliq: "), done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "hunter2" not in done.stderr
    for said in wrong.says:
        assert named(scene, said) in done.stderr, done.stderr
    assert done.returncode == wrong.status
    accepted = len(done.stdout.split())  # the ids of what a put has put before that
    assert accepted == (wrong.name == "body-stdin")
    assert (emails.size(), images.size()) == (before[0]._replace(ready=before[0].ready + accepted), before[1])


@contextmanager
def taken(scene: Scene, part: str) -> Iterator[None]:
    """Another program has put something else under this key, which nobody may touch; then what was there again."""
    if not part:
        yield
        return
    key = getattr(scene.queues[1].options.keys, part)
    there = scene.client.dump(key)
    scene.client.set(key, "of another program")
    try:
        yield
        assert scene.client.get(key) == b"of another program"
    finally:
        scene.client.delete(key)
        if there is not None:
            scene.client.restore(key, 0, there)


def test_an_id_of_another_queue_is_found_there(scene: Scene) -> None:
    """It is no error: the first line says where it is, and the exit status that this was not asked for."""
    _, images = scene.queues
    id = images.put(2)
    done = run(scene, Wrong("", f"explain {id} --queue emails {TO}", ATTENTION, ()))
    assert done.stdout.splitlines()[0] == "not in queue emails, but in images:"
    assert (done.returncode, done.stderr) == (ATTENTION, "")


def test_an_id_that_was_cut_is_told_so(scene: Scene) -> None:
    """It may be a text of somebody's own, so it is looked for."""
    done = run(scene, Wrong("", f"explain 01a21f52d9f17e6699fe {TO}", ATTENTION, ()))
    assert "an id of reliq has 32 digits, and this has 20: was it cut?" in " ".join(done.stdout.split())
    assert (done.returncode, done.stderr) == (ATTENTION, "")
