"""`reliq workers`: who works, on what, where its handlers are; quiet and stop from afar, in all workers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import redis as redis_py

import reliq
from reliq.core import orders
from reliq.core.keys import Keys
from tests.cli.conftest import Commands

HANDLERS = """
import asyncio, time
from pathlib import Path
import reliq
from reliq import aio

q = reliq.Queue("emails")

def wait_for_it():
    while not Path("go").exists():
        time.sleep(0.02)

@q.ack
def send(body):
    wait_for_it()

async def wait_deep():
    while not Path("go").exists():
        await asyncio.sleep(0.02)

@q.ack(timeout=60)
async def fetch(body):
    await wait_deep()

@q.ack
async def block(body):
    wait_for_it()

@q.ack
def hang(body):
    sum(range(10**12))  # and keeps the interpreter to itself
"""

PROGRAM = """
import asyncio, os
import handlers, reliq
from reliq import aio

async def main():
    queue = aio.Queue("emails")
    worker = aio.Worker(queue.ack(getattr(handlers, "{handler}").function), concurrency=2)
    await worker.run()

{run}
"""

RUN = {
    "sync": "reliq.Worker(handlers.{handler}, concurrency=2).run()",
    "aio": "asyncio.run(main())",
}

Start = Callable[..., subprocess.Popen[str]]


def wait_until(holds: Callable[[], Any], seconds: float = 40.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)
    return found


@pytest.fixture
def start(commands: Commands, tmp_path: Path) -> Iterator[Start]:
    """Starts `reliq worker handlers:NAME`, or a program that runs such a worker in its own process."""
    (tmp_path / "handlers.py").write_text(HANDLERS)
    started: list[subprocess.Popen[str]] = []
    commands.session = True

    def start(handler: str, *words: str, shell: str = "") -> subprocess.Popen[str]:
        if shell:
            text = PROGRAM.replace("{run}", RUN[shell]).replace("{handler}", handler)
            (tmp_path / "program.py").write_text(text)
            env = {**os.environ, "RELIQ_URL": commands.url, "RELIQ_PREFIX": commands.prefix}
            words = (sys.executable, "program.py")
            started.append(
                subprocess.Popen(
                    words, cwd=tmp_path, env=env, stderr=subprocess.PIPE, text=True, start_new_session=True
                )
            )
        else:
            started.append(commands.start("worker", f"handlers:{handler}", *words))
        return started[-1]

    yield start
    (tmp_path / "go").touch()
    for process in started:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # a child that hangs would keep the pipes
        process.communicate(timeout=30)


def workers(commands: Commands, *words: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = commands("workers", "--json", *words).json["workers"]
    return found


def working(commands: Commands, n: int, *words: str) -> list[dict[str, Any]]:
    """The workers, once handlers have so many messages in hand in all."""

    def look() -> list[dict[str, Any]] | None:
        found = workers(commands, *words)
        return found if sum(each["working"] or 0 for each in found) == n else None

    found: list[dict[str, Any]] = wait_until(look)
    return found


def test_nobody(commands: Commands) -> None:
    """No worker is no fault, and says how to start one."""
    result = commands("workers")
    assert result.status == 0
    assert "Start one: reliq worker MODULE:HANDLER" in result.out
    assert commands("workers", "--json").json["workers"] == []


WHERE = {
    ("", "send"): "wait_for_it",
    ("sync", "send"): "wait_for_it",
    ("sync", "fetch"): "wait_deep",
    ("sync", "block"): "wait_for_it",
    ("aio", "send"): "wait_for_it",
    ("aio", "fetch"): "wait_deep",
}


@pytest.mark.parametrize(("shell", "handler"), WHERE)
def test_what_a_worker_says(commands: Commands, start: Start, shell: str, handler: str, tmp_path: Path) -> None:
    """Host, pid, versions, handler, what is in hand for how long, and the stack: from the handler's own first line
    to where it waits, in a thread, in a coroutine through all that it awaits, and in one that blocks."""
    with commands.queue("emails") as queue:
        ids = queue.put_many(range(1))
        process = start(handler, shell=shell)
        (seen,) = working(commands, 1, "--stacks")
        (first,) = seen.pop("in_hand")
        assert first["id"] == ids[0]
        assert 0 <= first["for_ms"] < 20_000
        lines = first["stack"].splitlines()
        assert lines[0].endswith(f"in {handler}")
        assert any(WHERE[shell, handler] in line for line in lines[1:])
        assert os.uname().nodename == seen.pop("host")
        assert seen["pid"] == process.pid or not shell
        assert seen.pop("version") == reliq.__version__
        assert 0 < seen.pop("rtt_ms") < 5000
        assert 10e6 < seen.pop("rss") < 1e9
        assert f"-{seen['pid']}-" in seen.pop("name")
        assert seen.pop("who") == f"pid={seen['pid']}"
        assert 0 < seen.pop("lease_ms") <= 15_000
        del seen["pid"], seen["python"]
        assert seen == {
            "queue": "emails", "state": "live", "held": 1, "answered": True, "problem": None,
            "handler": f"handlers.{handler}", "concurrency": 2 if shell else 8, "working": 1, "waiting": 0,
            "stopping": False,
        }  # fmt: skip
        assert workers(commands)[0]["in_hand"][0]["stack"] is None
        found = queue.explain(ids[0], stack=True)
        assert found.reason == "LEASED"
        assert found.handler == f"handlers.{handler}"
        assert WHERE[shell, handler] in str(found.stack)
        assert found.held_since is not None
        assert queue.explain(ids[0]).stack is None
        screen = commands("explain", ids[0]).out
        assert f"handler   handlers.{handler} is here:" in screen
        assert WHERE[shell, handler] in screen
        text = commands("workers", "--stacks").out
        assert f"  {ids[0]}  for " in text
        assert f"| {lines[0]}" in text


def test_an_idle_worker_answers_at_once(commands: Commands, start: Start) -> None:
    """It sleeps in BLMOVE for seconds, and an order rings it; the queue is as it was, and nothing was counted."""
    start("send", "--concurrency", "2")
    wait_until(lambda: workers(commands))
    time.sleep(0.2)
    for _ in range(3):
        asked_at = time.monotonic()
        (seen,) = workers(commands)
        assert time.monotonic() - asked_at < 2.0
        assert seen["answered"]
    with commands.queue("emails") as queue:
        assert queue.size() == (0, 0, 0, 0)


@pytest.mark.parametrize("shell", ["", "sync", "aio"])
def test_quiet_and_stop(commands: Commands, start: Start, shell: str, tmp_path: Path) -> None:
    """Quiet: what is in hand is handled, nothing more is claimed, and the worker lives. Stop: it ends as on
    SIGTERM, with status 0, and no supervisor starts another."""
    with commands.queue("emails") as queue:
        queue.put(1)
        process = start("send", shell=shell)
        (seen,) = working(commands, 1)
        result = commands("workers", "quiet", seen["name"])
        assert result.status == 0
        assert f"{seen['name']} claims no more; 1 message in hand" in result.out
        queue.put_many(range(5))
        (tmp_path / "go").touch()
        wait_until(lambda: queue.size().doing == 0)
        time.sleep(1.5)
        assert queue.size() == (5, 0, 0, 0)
        (quiet,) = workers(commands)
        assert (quiet["name"], quiet["state"], quiet["working"]) == (seen["name"], "quiet", 0)
        result = commands("workers", "stop", seen["name"].rpartition("-")[0], "--json")
        assert result.status == 0
        assert result.json["workers"] == [
            {"queue": "emails", "name": seen["name"], "obeyed": True, "problem": None}
        ]
        assert process.wait(20) == 0
        assert workers(commands) == []
        assert queue.size() == (5, 0, 0, 0)


def test_stop_one_of_two_processes(commands: Commands, start: Start, tmp_path: Path) -> None:
    """The other one goes on under the same supervisor, and handles what there is."""
    process = start("send", "--processes", "2", "--concurrency", "1")
    one, two = wait_until(lambda: found if len(found := workers(commands)) == 2 else None)
    assert commands("workers", "stop", one["name"]).status == 0
    wait_until(lambda: [each["name"] for each in workers(commands)] == [two["name"]])
    (tmp_path / "go").touch()
    with commands.queue("emails") as queue:
        queue.put_many(range(3))
        wait_until(lambda: queue.size() == (0, 0, 0, 0))
    time.sleep(1.0)
    assert [each["name"] for each in workers(commands)] == [two["name"]]
    assert process.poll() is None
    commands("workers", "stop", two["name"])
    assert process.wait(20) == 0


def test_who_does_not_answer(commands: Commands, start: Start, redis: redis_py.Redis) -> None:
    """A worker that is killed, or stopped, between order and answer: the command says so within --wait, changes
    nothing, and what was not obeyed in time is not obeyed later. Nothing is lost."""
    with commands.queue("emails", lease=2.0) as queue:
        ids = queue.put_many(range(2))
        process = start("send", shell="sync")
        (seen,) = working(commands, 2)
        process.send_signal(signal.SIGSTOP)
        asked_at = time.monotonic()
        result = commands("workers", "stop", seen["name"], "--wait", "0.5")
        assert time.monotonic() - asked_at < 3.0
        assert result.status == 1
        assert f"! {seen['name']}: no answer" in result.out
        session = Keys("emails", commands.prefix).session(seen["name"])
        before = int(redis.hget(session, "trip") or 0)
        process.send_signal(signal.SIGCONT)
        wait_until(lambda: int(redis.hget(session, "trip") or 0) > before + 1)
        (found,) = wait_until(lambda: found if (found := workers(commands)) and found[0]["answered"] else None)
        assert (found["stopping"], process.poll()) == (False, None)

        keys = Keys("emails", commands.prefix)
        pid = process.pid
        killer = threading.Thread(
            target=lambda: (
                wait_until(lambda: redis.hexists(keys.session(seen["name"]), "order")),
                os.kill(pid, signal.SIGKILL),
            )
        )
        os.kill(pid, signal.SIGSTOP)  # so that it is certainly killed before it answers
        killer.start()
        asked_at = time.monotonic()
        result = commands("workers", "--wait", "0.5")
        killer.join()
        assert time.monotonic() - asked_at < 3.0
        assert result.status == 1
        assert "! no answer" in result.out or "! its lease is over" in result.out
        wait_until(lambda: commands("reap", "--json").json["queues"][0]["returned"] or queue.size().ready == 2)
        with queue.consumer(until_empty=True) as consumer:
            handled = []
            for lease in consumer:  # one by one: a worker has died with them
                with lease:
                    handled.append(lease.id)
        assert sorted(handled) == ids


def test_a_handler_that_keeps_the_interpreter(commands: Commands, start: Start) -> None:
    """Nobody in that process can answer: it is said, with status 1 as a message is in its hands."""
    with commands.queue("emails") as queue:
        queue.put(1)
        start("hang")
        wait_until(lambda: queue.size().doing == 1)
        result = commands("workers", "--wait", "0.5")
        assert result.status == 1
        assert "! no answer: its process hangs" in result.out


def test_a_consumer_of_a_program(commands: Commands) -> None:
    """It reports what it has in hand, and is not told to stop: its program pulls."""
    with commands.queue("emails") as queue:
        ids = queue.put_many(range(2))
        with queue.consumer() as consumer:
            (lease,) = consumer.claim(1)
            (seen,) = working(commands, 1)
            assert seen["name"] == consumer.name
            assert seen["in_hand"] == [{"id": ids[0], "for_ms": None, "stack": None}]
            assert seen["handler"] is None
            result = commands("workers", "stop", consumer.name)
            assert result.status == 1
            assert "it is a consumer that a program has opened" in result.out
            lease.ack()
            (lease,) = consumer.claim(1)
            assert lease.id == ids[1]
            lease.ack()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("quiet",), "required: NAME"),
        (("stop", "nobody"), "there is no consumer 'nobody'"),
        (("dance", "a"), "there is no command workers 'dance'"),
        (("--wait", "0"), "a number of seconds above 0, at most 60"),
    ],
)
def test_wrong_use(commands: Commands, words: tuple[str, ...], says: str) -> None:
    """Status 2, and what is wrong."""
    with commands.queue("emails") as queue:
        queue.put(1)
    result = commands.plain("workers", *words, "--url", commands.url, "--prefix", commands.prefix)
    assert result.status == 2
    assert says in result.error


def test_help_and_no_redis(commands: Commands, no_server: Commands, impatient: None) -> None:
    """The group and each of its commands has a help; without Redis the status is 3."""
    assert "reliq workers quiet NAME" in commands.plain("workers", "--help").out
    assert no_server("workers").status == 3


def test_orders_are_answered_once(commands: Commands) -> None:
    """Two who ask at once share one order and both have the answer."""
    with commands.queue("emails") as queue:
        queue.put(1)
        with queue.consumer() as consumer:
            (lease,) = consumer.claim(1)
            keys = queue.options.keys
            first = queue.links.insist(orders.give(keys, consumer.name, "aa", "report", 5.0))
            assert first == ("given", "aa")
            assert workers(commands)[0]["answered"]
            assert queue.links.insist(orders.give(keys, consumer.name, "bb", "report", 5.0)) == ("given", "bb")
            lease.ack()
