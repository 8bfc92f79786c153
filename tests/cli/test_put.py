"""`reliq put`: a shell script as a producer."""

from __future__ import annotations

import subprocess
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from reliq.core import expiry
from reliq.core.scripts import put, register
from tests.cli.conftest import Commands, environment
from tests.faults.proxy import FaultProxy, drop_reply
from tests.servers import ExternalServer, RedisServer


def bodies(commands: Commands, queue: str, **options: str) -> list[object]:
    """What a consumer gets from the queue, in order."""
    with commands.queue(queue, **options) as q, q.consumer(until_empty=True) as consumer:
        found = []
        for lease in consumer:
            with lease:
                found.append(lease.body)
        return found


def test_json_body_and_its_id(commands: Commands) -> None:
    """The body is JSON, the id is printed, and a consumer gets the value."""
    result = commands.process("put", "--queue", "emails", '{"to": "ada@example.org"}')
    assert (result.status, result.err) == (0, "")
    assert len(result.out.strip()) == 32
    again = commands("put", "--queue", "emails", "--json", "[1, null]").json
    assert again["queue"] == "emails"
    assert len(again["ids"]) == 1
    assert bodies(commands, "emails") == [{"to": "ada@example.org"}, [1, None]]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["hello"], ["BODY is no JSON", "'hello'", "--text"]),
        (["{to: ada}"], ["BODY is no JSON", "Quote it for the shell"]),
        (["1", "--id", ""], ["id=''", "1 to 500"]),
        (["-"], ["BODY is no UTF-8", "--raw"]),
    ],
)
def test_wrong_bodies(commands: Commands, words: list[str], says: list[str]) -> None:
    """What cannot be sent is told in one line, and nothing is sent."""
    result = commands("put", "--queue", "emails", *words, stdin=b"\xff\xfe")
    assert (result.status, result.out) == (2, "")
    assert all(part in result.error for part in says), result.err
    assert bodies(commands, "emails") == []


def test_text_raw_and_stdin(commands: Commands) -> None:
    """--text sends a text, --raw bytes, and - reads the body from stdin."""
    assert commands("put", "--queue", "emails", "--text", "hello").status == 0
    assert commands("put", "--queue", "emails", "--raw", "-", stdin=b"\x00\xff\n").status == 0
    assert commands.process("put", "--queue", "emails", "-", stdin=b'{"n":\n 1}\n').status == 0
    assert bodies(commands, "emails") == ["hello", b"\x00\xff\n", {"n": 1}]


class Rot:
    name = "rot"

    def encode(self, body: str) -> bytes:
        return body.encode()[::-1]

    def decode(self, data: bytes) -> str:
        return data.decode()[::-1]


rot = Rot()


def test_a_codec_of_the_application(commands: Commands) -> None:
    """Named by where it is, commands write and read by it; it is for queues that have it, and no other."""
    with commands.queue("secrets", codec=rot) as queue:
        queue.put("first")
    where = ("--codec", f"{__name__}:rot")
    assert commands("put", "--queue", "secrets", *where, '"second"').status == 0
    assert commands("put", "--queue", "plain", *where, '"third"').status == 0
    shown = commands("peek", "--queue", "secrets", "-n", "2", *where)
    assert '"first"' in shown.out
    assert '"second"' in shown.out
    assert "with --codec MODULE:ATTR" in commands("peek", "--queue", "secrets").out
    assert '"third"' in commands("peek", "--queue", "plain", *where).out
    wrong = commands("peek", "--queue", "secrets", "--codec", "nowhere:codec")
    assert wrong.status == 2
    assert "write 'module:attr'" in wrong.error


def test_the_queue_decides_the_codec(commands: Commands) -> None:
    """A queue that is known as bytes gets bytes; one with an application's own codec takes only --raw."""

    for name, codec in (("blobs", "bytes"), ("secrets", Rot())):
        with commands.queue(name, codec=codec) as queue:
            queue.put(b"first" if codec == "bytes" else "first")
    assert commands("put", "--queue", "blobs", "{not json").status == 0
    assert bodies(commands, "blobs", codec="bytes") == [b"first", b"{not json"]
    assert "'rot'" in commands("put", "--queue", "secrets", "1").error
    assert commands("put", "--queue", "secrets", "--raw", "dnoces").status == 0
    assert bodies(commands, "secrets", codec=Rot()) == ["first", "second"]  # type: ignore[arg-type]


def test_adopted_list_keeps_its_key(commands: Commands) -> None:
    """A queue that adopted a list is put into under that key, and stays so in the index."""
    key = f"{commands.prefix}-orders"
    with commands.queue("orders", key=key, codec="json") as queue:
        queue.put({"n": 1})
    assert commands("put", "--queue", "orders", '{"n": 2}').status == 0
    status = commands("status", "--queue", "orders", "--json").json["queues"][0]
    assert (status["key"], status["codec"], status["ready"]) == (key, "json", 2)
    assert bodies(commands, "orders", key=key, codec="json") == [{"n": 1}, {"n": 2}]


def test_one_message_per_line(commands: Commands) -> None:
    """--lines puts every line, in order, and prints as many ids; blank lines are no JSON, but are texts."""
    lines = b"".join(b'{"n": %d}\n' % n for n in range(2500))
    result = commands.process("put", "--queue", "emails", "--lines", stdin=lines + b"\n \n")
    assert result.status == 0
    assert len(set(result.out.split())) == 2500
    assert bodies(commands, "emails") == [{"n": n} for n in range(2500)]
    assert commands("put", "--queue", "emails", "--lines", "--text", stdin=b"a\r\n\nlast").status == 0
    assert bodies(commands, "emails") == ["a", "", "last"]
    assert len(commands("put", "--queue", "emails", "--lines", "--json", stdin=b"1\n2\n").json["ids"]) == 2


def test_no_lines_at_all(commands: Commands) -> None:
    """An empty stdin is fine and puts nothing."""
    result = commands("put", "--queue", "emails", "--lines", stdin=b"")
    assert (result.status, result.out, result.err) == (0, "", "")


def test_line_that_is_wrong(commands: Commands) -> None:
    """The error names the line; those before it are in and their ids are printed, no later one is."""
    result = commands("put", "--queue", "emails", "--lines", stdin=b"1\n2\noops\n4\n")
    assert result.status == 2
    assert "line 3 is no JSON" in result.error
    assert "The lines before it are in" in result.error
    assert len(result.out.split()) == 2
    assert bodies(commands, "emails") == [1, 2]


def test_lines_are_put_as_they_come(commands: Commands) -> None:
    """Behind `tail -f`, a line is in the queue before the next one is there."""
    words = ["put", "--queue", "emails", "--lines", "--url", commands.url, "--prefix", commands.prefix]
    process = subprocess.Popen(
        [sys.executable, "-m", "reliq", *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    assert process.stdin is not None
    assert process.stdout is not None
    for n in range(3):
        process.stdin.write(f"{n}\n")
        process.stdin.flush()
        assert len(process.stdout.readline().strip()) == 32
    process.communicate(timeout=20)
    assert process.returncode == 0
    assert bodies(commands, "emails") == [0, 1, 2]


def test_delay_and_time(commands: Commands) -> None:
    """--delay and --at put into later; Z is a zone."""
    at = datetime.now(timezone.utc) + timedelta(hours=1)
    assert commands("put", "--queue", "emails", "1", "--delay", "1m").status == 0
    assert commands("put", "--queue", "emails", "2", "--at", at.isoformat()).status == 0
    assert commands("put", "--queue", "emails", "3", "--at", f"{at:%Y-%m-%dT%H:%M:%S}Z").status == 0
    messages = commands("peek", "--queue", "emails", "--state", "later", "--json").json["messages"]
    assert sorted(m["body"] for m in messages) == [1, 2, 3]
    by_body = {m["body"]: m["due_ms"] for m in messages}
    assert 50_000 < by_body[1] <= 60_000
    assert all(3_500_000 < by_body[body] <= 3_601_000 for body in (2, 3))


def test_own_id_adds_no_second_copy(commands: Commands) -> None:
    """The same --id twice is one message, and prints the same id."""
    first = commands("put", "--queue", "emails", "1", "--id", "order-17")
    second = commands.process("put", "--queue", "emails", "1", "--id", "order-17")
    assert first.out == second.out
    assert bodies(commands, "emails") == [1]


def test_one_per_key(commands: Commands) -> None:
    """A second one is not put, which is no failure: the id is that of the message which is there."""
    first = commands("put", "--queue", "emails", "1", "--unique", "ada")
    again = commands("put", "--queue", "emails", "2", "--unique", "ada")
    assert (first.status, first.err, again.status, again.out) == (0, "", 0, first.out)
    assert f"nothing was put: message {first.out.strip()} has the key 'ada'" in again.err
    assert bodies(commands, "emails") == [1]
    refused = commands("put", "--queue", "emails", "--lines", "--unique", "ada", stdin=b"3\n")
    assert (refused.status, "--unique" in refused.error) == (2, True)


def test_what_is_said_of_each(commands: Commands) -> None:
    """When it expires, whose it is, and behind which others it waits: of one and of lines."""
    words = ("--expires", "2h", "--ordering-key", "ada", "--tenant", "acme")
    assert commands("put", "--queue", "emails", "1", *words).status == 0
    assert commands("put", "--queue", "emails", "--lines", *words, stdin=b"2\n3\n").status == 0
    assert commands("put", "--queue", "emails", "--expires", "0", "4").status == 2
    found = []
    with commands.queue("emails") as q, q.consumer(until_empty=True) as consumer:
        for lease in consumer:
            with lease:
                meta = lease._message.envelope.meta
                found.append((lease.body, meta["o"], meta["m"], expiry.KEY in meta))
    assert found == [(n, "ada", "acme", True) for n in (1, 2, 3)]


def test_new_queue_beside_a_similar_one(commands: Commands) -> None:
    """A new queue is fine; one that looks like a slip is noted on stderr."""
    assert commands("put", "--queue", "emails", "1").err == ""
    result = commands("put", "--queue", "emials", "1")
    assert result.status == 0
    assert "queue 'emials' is new (did you mean 'emails'?)" in result.error


def test_full_redis_needs_attention(
    own_server: RedisServer, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A refused put is exit status 1 and says what to do; of lines, it says how many are in."""
    commands = Commands(own_server.url, "full", capsys, tmp_path)
    assert commands("put", "--queue", "emails", "1").status == 0
    own_server.cli("CONFIG", "SET", "maxmemory", "1")
    result = commands("put", "--queue", "emails", "2")
    assert result.status == 1
    assert "let consumers drain it" in result.error.lower()
    result = commands("put", "--queue", "emails", "--lines", stdin=b"1\n2\n")
    assert result.status == 1
    assert "0 of 2 messages are in" in result.error


@pytest.mark.usefixtures("impatient")
def test_unknown_outcome_says_how_to_find_out(
    server: RedisServer | ExternalServer, prefix: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A put without an answer is exit status 3, and the error has the command that tells whether it is in."""
    port = urlsplit(server.url).port or 6379
    with FaultProxy(urlsplit(server.url).hostname or "127.0.0.1", port) as proxy:
        proxy.scripts[put.name] = put.sha
        proxy.on(script="put", action=drop_reply(), count=None)
        commands = Commands(proxy.url, prefix, capsys, tmp_path)
        result = commands("put", "--queue", "emails", "1")
    assert (result.status, result.out) == (3, "")
    look = result.error.partition("see whether it is in: reliq ")[2].split()
    direct = Commands(server.url, prefix, capsys, tmp_path)
    assert direct.plain(*look, "--url", server.url).status == 0
    assert bodies(direct, "emails") == [1]


@pytest.mark.usefixtures("impatient")
def test_index_that_does_not_answer(
    server: RedisServer | ExternalServer, prefix: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """If the queue cannot even be written into the index, nothing was put, and the error says that."""
    port = urlsplit(server.url).port or 6379
    with FaultProxy(urlsplit(server.url).hostname or "127.0.0.1", port) as proxy:
        proxy.on(script=register.source, action=drop_reply(), count=None)
        result = Commands(proxy.url, prefix, capsys, tmp_path)("put", "--queue", "emails", "1")
    assert result.status == 3
    assert "othing was put" in result.error
    assert bodies(Commands(server.url, prefix, capsys, tmp_path), "emails") == []
