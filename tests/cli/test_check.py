"""`reliq check`: claim loops that go on are told from those that do not, a queue within its limits from others."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis as redis_py

from reliq.core import pulse
from reliq.core.keys import Keys
from reliq.identity import host_name
from tests.cli.conftest import Commands

BELL = b"\xc1rlq\x00"
HANDLERS = """
import ctypes, time
import reliq

emails = reliq.Queue("emails", lease=1.5, timeout=0.4)

@emails.ack
def send(body):
    if body == "hold":
        ctypes.PyDLL(None).sleep(6)  # and does not let go of the interpreter lock
"""


@pytest.fixture
def worker(commands: Commands, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts `reliq worker` with the handler above; ends what is still there."""
    (tmp_path / "handlers.py").write_text(HANDLERS)
    started: list[subprocess.Popen[str]] = []

    def start(*words: str) -> subprocess.Popen[str]:
        started.append(commands.start("worker", "handlers", *words))
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.terminate()
        process.communicate(timeout=30)


def codes(document: Any) -> list[str]:
    return [trouble["code"] for queue in document["queues"] for trouble in queue["attention"]]


def check(commands: Commands, *words: str) -> tuple[int, list[str]]:
    """Exit status and codes; what is said says the same."""
    result = commands("check", "--queue", "emails", *words)
    document = commands("check", "--queue", "emails", *words, "--json")
    assert result.status == document.status == int(document.json["attention"])
    assert result.err == ""
    found = codes(document.json)
    if found:
        assert [line.split(": ")[1] for line in result.out.splitlines()] == found
        assert all(line.startswith("! queue emails: ") and ". Next: " in line for line in result.out.splitlines())
    return result.status, found


def seen(commands: Commands, *words: str) -> list[str]:
    """The codes, while things change."""
    return codes(commands("check", "--queue", "emails", *words, "--json").json)


def eventually(true: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + 20
    while not (value := true()):
        assert time.monotonic() < deadline, what
        time.sleep(0.05)
    return value


def test_a_queue_that_is_well(commands: Commands) -> None:
    """A consumer at work and a message that waits: exit status 0, one line, the same in JSON."""
    with commands.queue("emails") as queue:
        queue.put_many(range(3))
        with queue.consumer() as consumer:
            (lease,) = consumer.claim(1)
            result = commands.process("check", "--queue", "emails", "--host-only", "--min-workers", "1")
            (entry,) = commands("check", "--json").json["queues"]
            lease.ack()
    assert (result.status, result.err) == (0, "")
    assert result.out.startswith("queue emails: 1 consumer at work, 2 to do, the next was put ")
    (who,) = entry.pop("consumers")
    assert 0 <= entry.pop("oldest_ms") < 60_000
    assert entry == {
        "queue": "emails", "ready": 2, "due": 0, "later": 0, "dead": 0, "lapsed": 0, "attention": []
    }  # fmt: skip
    assert 0 <= who.pop("silent_ms") + 0 * who.pop("lease_ms") < 5_500
    assert who == {"name": consumer.name, "who": f"pid={os.getpid()}", "leaving": False, "goes_on": True}


def test_nothing_known_is_well(commands: Commands) -> None:
    """Without queues there is nothing to be wrong; a queue that was named has to be there."""
    assert commands("check").status == 0
    result = commands("check", "--queue", "emails")
    assert result.status == 2
    assert "no queue" in result.error


def test_work_and_nobody_there(commands: Commands, redis: redis_py.Redis) -> None:
    """Messages that wait, or are due, need one; an empty queue as many as are asked for; a bell is no work."""
    with commands.queue("emails") as queue:
        queue.put(1, delay=0.01)
        keys = queue.options.keys
    eventually(lambda: seen(commands) == ["NO_CONSUMERS"], "nobody misses a worker")
    assert check(commands) == (1, ["NO_CONSUMERS"])
    redis.delete(keys.later)
    redis.rpush(keys.ready, BELL)
    assert check(commands) == (0, [])
    assert check(commands, "--min-workers", "1") == (1, ["NO_CONSUMERS"])
    assert check(commands, "--host-only") == (1, ["NO_CONSUMERS"])
    with queue.consumer():
        assert check(commands, "--min-workers", "1") == (0, [])
        assert check(commands, "--min-workers", "2") == (1, ["TOO_FEW_WORKERS"])


def test_limits(commands: Commands, redis: redis_py.Redis) -> None:
    """Depth, age and dead letters are each compared with what is named, and only with that."""
    with commands.queue("emails") as queue, queue.consumer() as consumer:
        queue.put_many(range(3))
        consumer.claim(1)[0].bury("no such account")
        eventually(lambda: queue.size().doing == 0, "it holds something")
        assert check(commands) == (0, [])
        assert check(commands, "--max-depth", "2", "--max-dead", "1", "--max-age", "60") == (0, [])
        assert check(commands, "--max-depth", "1") == (1, ["DEEP_BACKLOG"])
        assert check(commands, "--max-dead", "0") == (1, ["DEAD_LETTERS"])
        time.sleep(0.05)
        assert check(commands, "--max-age", "0.01") == (1, ["OLD_BACKLOG"])
        assert check(commands, "--max-age", "0", "--max-depth", "0", "--max-dead", "0")[1] == [
            "DEEP_BACKLOG", "OLD_BACKLOG", "DEAD_LETTERS"
        ]  # fmt: skip
        redis.rpush(queue.options.keys.ready, BELL)
        assert check(commands, "--max-age", "0.01") == (1, ["OLD_BACKLOG"])


def test_age_of_a_message_with_an_id_of_its_own(commands: Commands, redis: redis_py.Redis) -> None:
    """Its id does not tell when it was put, its meta does; a raw body does not tell at all."""
    with commands.queue("emails") as queue, queue.consumer():
        queue.put(1, id="order-17")
        time.sleep(0.05)
        assert check(commands, "--max-age", "0.01") == (1, ["OLD_BACKLOG"])
        redis.rpush(queue.options.keys.ready, b"[" * 100)
        assert check(commands, "--max-age", "0.01") == (0, [])


def test_whose_workers(commands: Commands, redis: redis_py.Redis) -> None:
    """Those of this host, of a process, of a name; others are not looked at."""
    with commands.queue("emails") as queue, queue.consumer() as consumer:
        assert check(commands, "--host-only") == (0, [])
        assert check(commands, "--pid", str(os.getpid())) == (0, [])
        assert check(commands, "--pid", "1") == (1, ["NO_CONSUMERS"])
        assert check(commands, "--worker", consumer.name) == (0, [])
        assert check(commands, "--worker", "web1") == (1, ["NO_CONSUMERS"])
        keys = queue.options.keys
        redis.hset(keys.session(consumer.name), "who", f"pid={os.getpid()} web1")
        assert check(commands, "--worker", "web1") == (0, [])
        other = f"x{host_name()}-{os.getpid()}-0a1b2c3d"
        redis.zadd(keys.consumers, {other: 9e14})
        assert check(commands, "--min-workers", "2") == (0, [])
        assert check(commands, "--min-workers", "2", "--host-only") == (1, ["TOO_FEW_WORKERS"])
    redis.hset(keys.session(other), mapping={"dead": 1})
    assert check(commands, "--min-workers", "1") == (1, ["NO_CONSUMERS"])


def test_a_loop_that_is_held_up_while_its_lease_is_kept(
    commands: Commands, worker: Callable[..., subprocess.Popen[str]]
) -> None:
    """A handler that holds the interpreter lock: the supervisor renews, and yet the loop does not go on. When the
    handler lets go, all is well again."""
    worker()
    eventually(lambda: _known(commands) and seen(commands, "--host-only") == [], "no worker came")
    with commands.queue("emails") as queue:
        queue.put("hold")
    eventually(lambda: seen(commands, "--host-only") == ["CLAIM_LOOP_STALLED", "NO_CONSUMERS"], "nobody noticed")
    eventually(lambda: seen(commands, "--host-only") == [], "it is not well again")


def test_a_worker_that_is_stopped(commands: Commands, worker: Callable[..., subprocess.Popen[str]]) -> None:
    """SIGSTOP: first its round trip is late, then its lease is over; after SIGCONT all is well again."""
    process = worker()
    eventually(lambda: _known(commands) and seen(commands, "--host-only") == [], "no worker came")
    (who,) = commands("check", "--json").json["queues"][0]["consumers"]
    pid = int(who["who"].removeprefix("pid="))
    for each in (process.pid, pid):
        os.kill(each, signal.SIGSTOP)
    eventually(lambda: "LATE_RENEWAL" in seen(commands, "--host-only"), "nobody noticed")
    eventually(lambda: seen(commands, "--host-only") == ["NO_CONSUMERS"], "its lease does not end")
    result = commands("check", "--queue", "emails", "--host-only")
    assert f"no consumer of host {host_name()} at work; the leases of 1 are over" in result.out
    for each in (process.pid, pid):
        os.kill(each, signal.SIGCONT)
    eventually(lambda: seen(commands, "--host-only") == [], "it is not well again")


def _known(commands: Commands) -> bool:
    return bool(commands("status", "--json").json["queues"])


def test_round_trips_are_few(commands: Commands, redis: redis_py.Redis) -> None:
    """Two, with 600 live consumers three; those of other hosts cost nothing."""
    keys = Keys("emails", commands.prefix)
    with commands.queue("emails") as queue:
        queue.put_many(range(10))
        assert trips(queue) == 2
        redis.zadd(keys.consumers, {f"elsewhere-{n}-00000000": 9e14 for n in range(600)})
        assert trips(queue) == 3
        assert trips(queue, pulse.Choice(host="here")) == 2


def trips(queue: Any, choice: pulse.Choice = pulse.EVERYBODY) -> int:
    """How often Redis is asked for one pulse."""
    asked = 0

    def counted() -> Any:
        nonlocal asked
        flow = pulse.pulse_g(queue.options.keys, choice)
        sent = None
        try:
            while True:
                commands = flow.send(sent)
                asked += 1
                sent = yield commands
        except StopIteration as end:
            return end.value

    queue.links.flow(counted())
    return asked
