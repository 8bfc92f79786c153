"""`reliq worker`: handlers of a module in the current directory, under a supervisor."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis as redis_py

import reliq
from tests.cli.conftest import Commands
from tests.conformance.test_health import free_port, get

HANDLERS = """
import logging, os, time
import reliq

emails = reliq.Queue("emails")
images = reliq.Queue("images")

def note(what):
    with open("effects", "a") as file:
        file.write(f"{what} {os.getpid()}\\n")

@emails.ack
def send(body):
    logging.getLogger("shop").info("sending %s", body)
    if body == "slow":
        time.sleep(1)
    if body == "long":
        time.sleep(10)
    note(body)

@images.ack
async def resize(body):
    note(body)
"""

PLAIN = """
from shop.handlers import images, note

@images.ack
def shrink(body):
    note(body)
"""
"""One that runs in threads, as that of emails does."""


@pytest.fixture
def shop(commands: Commands, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts `reliq worker` beside a package `shop` with some handlers; ends what is still there."""
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__init__.py").touch()
    (tmp_path / "shop" / "handlers.py").write_text(HANDLERS)
    (tmp_path / "shop" / "plain.py").write_text(PLAIN)
    started: list[subprocess.Popen[str]] = []

    def start(*words: str) -> subprocess.Popen[str]:
        started.append(commands.start("worker", *words))
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def effects(folder: Path) -> list[tuple[str, int]]:
    """What the handlers did, and in which process."""
    path = folder / "effects"
    lines = path.read_text().splitlines() if path.exists() else []
    return [(line.split()[0], int(line.split()[1])) for line in lines]


def eventually(true: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + 20
    while not (value := true()):
        assert time.monotonic() < deadline, what
        time.sleep(0.02)
    return value


def put(commands: Commands, queue: str, *bodies: object) -> None:
    with commands.queue(queue) as q:
        q.put_many(bodies)


def test_sigterm_ends_it_with_0(
    commands: Commands, shop: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    """All handlers of a module run, in a child; SIGTERM finishes what is at work: exit status 0, nothing left."""
    worker = shop("shop.handlers", "--name", "web1")
    put(commands, "images", "cat")
    eventually(lambda: effects(tmp_path), "nobody took the image")
    put(commands, "emails", "slow")

    def consumers() -> list[dict[str, Any]]:
        (queue,) = commands("status", "--queue", "emails", "--json").json["queues"]
        return [c for c in queue["consumers"] if c["state"] == "live" and c["doing"]]

    (who,) = eventually(consumers, "nobody holds the slow message")
    assert who["who"] == f"pid={who['pid']} web1"
    assert who["pid"] != worker.pid
    worker.send_signal(signal.SIGTERM)
    out, err = worker.communicate(timeout=20)
    assert (worker.returncode, out) == (0, "")
    assert [body for body, _ in effects(tmp_path)] == ["cat", "slow"]
    assert "Traceback" not in err
    assert commands("status").status == 0


def test_until_empty_ends_by_itself(
    commands: Commands, shop: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    """--until-empty ends with 0 when nothing is left, also with several processes."""
    put(commands, "emails", *range(200))
    worker = shop("shop.handlers:send", "--until-empty", "--processes", "2", "--concurrency", "2")
    _, err = worker.communicate(timeout=30)
    assert worker.returncode == 0, err
    assert sorted(int(body) for body, _ in effects(tmp_path)) == list(range(200))


def test_killed_child_is_replaced(
    commands: Commands, shop: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    """It supervises with one process too: a child killed at work is replaced, and its message runs again."""
    put(commands, "emails", "slow")
    worker = shop("shop.handlers:send", "--until-empty")

    def holder() -> int | None:
        consumers = commands("status", "--json").json["queues"][0]["consumers"]
        return next((c["pid"] for c in consumers if c["doing"]), None)

    first = eventually(holder, "nobody holds the slow message")
    os.kill(first, signal.SIGKILL)
    _, err = worker.communicate(timeout=30)
    assert worker.returncode == 0, err
    ((body, second),) = effects(tmp_path)
    assert body == "slow"
    assert second not in (first, worker.pid)
    assert f"worker process {first} ended (killed by SIGKILL" in err


def test_only_some_queues(commands: Commands, shop: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    """--queue runs only the handlers of these queues."""
    put(commands, "emails", "e")
    put(commands, "images", "i")
    worker = shop("shop.handlers", "--queue", "images", "--until-empty")
    worker.communicate(timeout=30)
    assert [body for body, _ in effects(tmp_path)] == ["i"]


def test_logs_say_which_message(commands: Commands, shop: Callable[..., subprocess.Popen[str]]) -> None:
    """Lines of a handler carry queue, id and trace id; --json makes each a document; levels are kept."""
    with commands.queue("emails") as queue:
        mid = queue.put("ada")
    _, err = shop("shop.handlers:send", "--until-empty").communicate(timeout=30)
    (line,) = [line for line in err.splitlines() if "sending ada" in line]
    assert line.endswith(f" sending ada queue=emails id={mid} attempt=1")  # a trace id only if it says more
    assert " INFO " in line
    put(commands, "emails", "bob")
    _, err = shop("shop.handlers:send", "--until-empty", "--json").communicate(timeout=30)
    documents = [json.loads(line) for line in err.splitlines()]
    assert all(document["schema"] == 1 for document in documents)
    (document,) = [d for d in documents if d["message"] == "sending bob"]
    assert (document["queue"], document["level"], document["logger"]) == ("emails", "info", "shop")
    put(commands, "emails", "eve")
    _, err = shop("shop.handlers:send", "--until-empty", "--log-level", "error").communicate(timeout=30)
    assert err == ""


def test_failing_handler_is_logged(commands: Commands, tmp_path: Path) -> None:
    """A handler that raises is one line with its message's id; the worker goes on."""
    (tmp_path / "failing.py").write_text(
        "import reliq\nq = reliq.Queue('emails', retry=reliq.Retry(attempts=1))\n"
        "@q.ack\ndef fail(body):\n    raise ValueError('no such address')\n"
    )
    with commands.queue("emails") as queue:
        mid = queue.put(1)
        queue.put(2, id="two")
        with reliq.context.tracing("a-trace"):
            queue.put(3)
    result = commands.process("worker", "failing", "--until-empty")
    assert result.status == 0
    assert result.err.count("no such address") == 3
    assert result.err.count("trace_id=") == result.err.count("trace_id=a-trace") == 1
    (line,) = [line for line in result.err.splitlines() if f"id={mid}" in line]
    assert "dead-lettered" in line
    assert mid in line
    assert commands("status").status == 1


def test_logs_as_logfmt_without_secrets_and_bodies(commands: Commands, tmp_path: Path) -> None:
    """One line for each failure, with all that it is about; a password in an exception is hidden, and the body
    shown only if that is asked for."""
    (tmp_path / "failing.py").write_text(
        "import reliq\nq = reliq.Queue('emails', retry=reliq.Retry(attempts=1))\n"
        "@q.ack\ndef fail(body):\n    raise ConnectionError('redis://ada:hunter2@db:6379 is away\\nfor long')\n"
    )
    for asked in ((), ("--log-bodies",)):
        with commands.queue("emails") as queue:
            mid = queue.put({"card": "4111-marker"})
        result = commands.process("worker", "failing", "--until-empty", "--log-format", "logfmt", *asked)
        assert result.status == 0
        assert "hunter2" not in result.err
        lines = result.err.splitlines()
        assert all(line.startswith("time=") for line in lines), result.err
        (line,) = [line for line in lines if "level=error" in line]
        assert "redis://ada:***@db:6379 is away for long" in line
        for field in ("queue=emails", f"id={mid}", f"trace_id={mid}", "attempt=1", "consumer=", "logger=reliq"):
            assert f" {field}" in line
        assert result.err.count("4111-marker") == len(asked)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_to_the_whole_group_is_one_request(
    commands: Commands,
    shop: Callable[..., subprocess.Popen[str]],
    tmp_path: Path,
    number: signal.Signals,
) -> None:
    """Ctrl-C and systemd signal the children too, besides the supervisor that passes it on: the handler at work
    still finishes."""
    commands.session = True
    put(commands, "emails", "slow")
    worker = shop("shop.handlers:send")
    eventually(lambda: commands("peek", "--state", "doing", "--json").json["messages"], "nobody took it")
    os.killpg(worker.pid, number)
    _, err = worker.communicate(timeout=20)
    assert worker.returncode == 0, err
    assert [body for body, _ in effects(tmp_path)] == ["slow"]
    assert commands("status").status == 0


def test_second_signal_gives_back_at_once(
    commands: Commands, shop: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    """SIGTERM twice does not wait for the handler: its message is ready again, exit status 0."""
    put(commands, "emails", "long")
    worker = shop("shop.handlers:send")
    eventually(lambda: commands("peek", "--state", "doing", "--json").json["messages"], "nobody took it")
    worker.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    worker.send_signal(signal.SIGTERM)
    started = time.monotonic()
    _, err = worker.communicate(timeout=20)
    assert (worker.returncode, effects(tmp_path)) == (0, []), err
    assert time.monotonic() - started < 3
    (message,) = commands("peek", "--json").json["messages"]
    assert message["body"] == "long"
    assert (
        f"1 handler(s) did not end in time; their messages go back to be handled again, the first: {message['id']}"
        in err
    )
    assert "starting another" not in err


def test_unreadable_message_is_logged(commands: Commands, shop: Callable[..., subprocess.Popen[str]]) -> None:
    """No handler sees it, so the worker says that it is dead-lettered, and why."""
    with commands.queue("emails") as queue, redis_py.Redis.from_url(commands.url) as client:
        client.lpush(queue.options.keys.ready, "{'id': 7}")
    _, err = shop("shop.handlers:send", "--until-empty").communicate(timeout=30)
    (line,) = [line for line in err.splitlines() if "dead-lettered" in line]
    assert "queue 'emails': 1 message(s) dead-lettered unread, the first: the body is no json" in line
    shown = commands("peek", "--state", "dead").out
    assert shown.count("the body is no json") == 1


def test_last_timeout_says_dead_lettered(commands: Commands, tmp_path: Path) -> None:
    """A handler past its timeout: the line says what becomes of the message."""
    (tmp_path / "stuck.py").write_text(
        "import time, reliq\nq = reliq.Queue('emails', retry=reliq.Retry(attempts=1))\n"
        "@q.ack(timeout=0.3)\ndef stuck(body):\n    time.sleep(10)\n"
    )
    put(commands, "emails", "x")
    result = commands.process("worker", "stuck", "--until-empty")
    assert "is past its timeout of 0.3 s: dead-lettered; this process is replaced" in result.err


def test_health_of_supervised_processes(
    commands: Commands, shop: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    """--health: the supervisor answers for its children, and adds up what they count, also those that died."""
    port = free_port()
    worker = shop("shop.handlers:send", "--processes", "2", "--health", f"127.0.0.1:{port}")
    eventually(lambda: get(port, "/readyz").status == 200, "it is not ready")
    assert get(port, "/healthz").text == "ok\n"
    put(commands, "emails", *range(50))
    acks = 'reliq_acks_total{queue="emails"} '
    eventually(lambda: f"{acks}50.0" in get(port, "/metrics").text, "it does not count")
    put(commands, "emails", "long", "long")
    eventually(
        lambda: len(commands("peek", "--state", "doing", "--json").json["messages"]) == 2, "nobody took them"
    )
    (consumer, *_) = commands("status", "--json").json["queues"][0]["consumers"]
    os.kill(consumer["pid"], signal.SIGKILL)
    lost = 'reliq_retries_total{cause="lost",queue="emails"} '
    eventually(lambda: f"{lost}0.0" not in get(port, "/metrics").text, "it does not count what it has reaped")
    text = get(port, "/metrics").text
    assert f"{acks}50.0" in text
    assert 'reliq_run_time_seconds_count{queue="emails"} 50.0' in text
    assert get(port, "/healthz").status == 200
    worker.send_signal(signal.SIGTERM)
    eventually(lambda: get(port, "/readyz").text == "not ready: it stops\n", "it is ready while it stops")
    worker.send_signal(signal.SIGTERM)
    worker.communicate(timeout=20)
    assert worker.returncode == 0


def test_a_child_that_is_stopped_is_not_alive(
    commands: Commands, shop: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    """SIGSTOP of the one child: after two thirds of its lease the supervisor says so, until it goes on."""
    (tmp_path / "short.py").write_text(
        "import reliq\nq = reliq.Queue('emails', lease=1.5, timeout=0.4)\n@q.ack\ndef send(body):\n    pass\n"
    )
    port = free_port()
    shop("short", "--health", f"127.0.0.1:{port}")
    eventually(lambda: get(port, "/readyz").status == 200, "it is not ready")
    # Looked for until it is there: a lease this short can lapse for a moment on a busy machine.
    (consumer,) = eventually(lambda: commands("status", "--json").json["queues"][0]["consumers"], "no consumer")
    os.kill(consumer["pid"], signal.SIGSTOP)
    told = eventually(lambda: (told := get(port, "/healthz")).status == 503 and told, "nobody noticed")
    assert f"CLAIM_LOOP_STALLED: queue emails of process {consumer['pid']}: Redis answered" in told.text
    os.kill(consumer["pid"], signal.SIGCONT)
    eventually(lambda: get(port, "/healthz").status == 200, "it is not well again")


def test_health_where_somebody_listens(commands: Commands, shop: Callable[..., subprocess.Popen[str]]) -> None:
    """A port in use is one line and exit status 2."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        where = "{}:{}".format(*taken.getsockname())
        worker = shop("shop.handlers", "--health", where)
        _, err = worker.communicate(timeout=20)
    assert worker.returncode == 2
    said = f"reliq: health '{where}': cannot listen there: Address already in use. Choose another port"
    assert err.splitlines()[-1].startswith(said)


def test_strict(commands: Commands, shop: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    """--strict: the queues of the handlers in the order given, whatever that is in their module."""
    put(commands, "emails", *range(100))
    put(commands, "images", *range(100, 200))
    words = ("--strict", "--concurrency", "1", "--until-empty")
    worker = shop("shop.plain:shrink", "shop.handlers:send", *words)
    _, err = worker.communicate(timeout=30)
    assert worker.returncode == 0, err
    assert [int(body) for body, _ in effects(tmp_path)] == [*range(100, 200), *range(100)]


def test_weights(commands: Commands, shop: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    """--weight: while both have work, each gets its share."""
    put(commands, "emails", *range(700))
    put(commands, "images", *range(1000, 1700))
    words = ("--weight", "emails=6", "--concurrency", "1", "--until-empty")
    worker = shop("shop.plain:shrink", "shop.handlers:send", *words)
    _, err = worker.communicate(timeout=30)
    assert worker.returncode == 0, err
    done = [int(body) for body, _ in effects(tmp_path)]
    assert len(done) == 1400
    last = done.index(699)
    assert sum(n >= 1000 for n in done[:last]) == pytest.approx(700 / 6, rel=0.25)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--weight", "emails"), "a queue and a whole number, as in --weight emails=6"),
        (("--weight", "emails=-1"), "a queue and a whole number"),
        (("--weight", "emails=0"), "a weight is a whole number, 1 to 1,000, not 0"),
        (("--weight", "emials=2"), "there is no handler for this queue; there are some for emails, images"),
        (("--weight", "emails=2", "--weight", "emails=3"), "queue 'emails' has got 2 before"),
        (("--weight", "emails=2", "--strict"), "give one of them"),
    ],
)
def test_wrong_priorities(
    commands: Commands, shop: Callable[..., subprocess.Popen[str]], words: tuple[str, ...], said: str
) -> None:
    """One line that names what is wrong; exit status 2."""
    worker = shop("shop.handlers", *words)
    _, err = worker.communicate(timeout=20)
    assert worker.returncode == 2
    assert said in err
    assert "Traceback" not in err
