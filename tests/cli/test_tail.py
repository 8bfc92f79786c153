"""`reliq tail`: what happens that is not usual, as it happens, from all queues, also over a restart of Redis."""

from __future__ import annotations

import json
import queue as queues
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import reliq
from tests.cli.conftest import Commands
from tests.servers import RedisServer


class Lines:
    """The lines of a process as they come."""

    def __init__(self, process: subprocess.Popen[str], stream: Any) -> None:
        self.process = process
        self._lines: queues.SimpleQueue[str] = queues.SimpleQueue()
        self._thread = threading.Thread(target=lambda: [self._lines.put(line) for line in stream])
        self._thread.start()

    def next(self) -> str:
        return self._lines.get(timeout=20).rstrip("\n")

    def document(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.next())
        assert found.pop("schema") == 1
        return found

    def of(self, event: str) -> dict[str, Any]:
        """The next one about this event; consumers come and go."""
        while (found := self.document())["event"] != event:
            assert found["event"] in ("start", "stop"), found
        return found

    def join(self) -> None:
        self._thread.join(10)


@contextmanager
def tailing(commands: Commands, *words: str) -> Iterator[tuple[Lines, Lines]]:
    process = commands.start("tail", *words)
    assert process.stdout is not None
    assert process.stderr is not None
    out, err = Lines(process, process.stdout), Lines(process, process.stderr)
    try:
        yield out, err
    finally:
        process.kill()
        process.wait(10)
        out.join()
        err.join()
        process.stdout.close()
        process.stderr.close()


def retry_one(queue: reliq.Queue) -> str:
    id = queue.put({"to": "ada"})
    with queue.consumer() as consumer:
        (lease,) = consumer.claim(1)
        lease.retry(60)
    return id


def follow_until_there(queue: reliq.Queue, out: Lines) -> dict[str, Any]:
    """Make things happen until the follower tells of one: it has begun then."""
    done = threading.Event()

    def go_on() -> None:
        while not done.wait(0.3):
            retry_one(queue)

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        return out.of("retry")
    finally:
        done.set()
        thread.join()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_as_it_happens(commands: Commands, number: signal.Signals) -> None:
    """Of all queues, of one that is new too; nothing of what was before; Ctrl-C ends it with status 0."""
    with commands.queue("emails") as queue:
        before = retry_one(queue)
        with tailing(commands, "--json") as (out, _):
            first = follow_until_there(queue, out)
            assert first["id"] != before
            assert first["queue"] == "emails"
            assert (first["event"], first["detail"], first["told"]) == ("retry", "60000", "went back for 60 s")
            assert abs(first["at"] / 1000 - time.time()) < 60
            assert first["entry"].startswith(str(first["at"]))
            with commands.queue("images") as other:
                id = retry_one(other)
            while (found := out.document())["queue"] != "images" or found["event"] != "retry":
                assert found["event"] in ("retry", "start", "stop")
            assert found["id"] == id
            out.process.send_signal(number)
            assert out.process.wait(10) == 0


def test_what_was(commands: Commands) -> None:
    """--since and --once: what happened so far, in words, and filtered; a reap names each message."""
    with commands.queue("emails", lease=0.5) as queue:
        id = retry_one(queue)
        ids = queue.put_many(range(2))
        commands.claim_and_die("emails")
        time.sleep(0.6)
        commands("reap")
        other = queue.put({"to": "bob"})
        with queue.consumer() as consumer:
            for lease in consumer.claim(3):
                lease.bury("no") if lease.id == other else lease.release()

    def told(*words: str) -> list[dict[str, Any]]:
        result = commands("tail", "--once", "--json", *words)
        assert result.status == 0
        return [json.loads(line) for line in result.out.splitlines()]

    assert [each["id"] for each in told("--event", "retry")] == [id]
    assert {each["id"] for each in told("--event", "reap")} == set(ids)
    assert [each["event"] for each in told("--id", id)] == ["retry"]
    assert {each["event"] for each in told("--event", "reap", "--event", "retry")} == {"reap", "retry"}
    assert told("--since", "2035-01-31T08:00Z") == []
    assert told("--since", "1h") == told()
    line = commands("tail", "--once", "--id", id).out
    assert f"  emails  retry {id}: went back for 60 s (" in line
    assert "is no time" in commands("tail", "--since", "soon").error


def test_redis_goes_away_and_comes_back(own: Commands, own_server: RedisServer) -> None:
    """It says so once, goes on by itself, and misses nothing that is there; nothing comes twice."""
    with own.queue("emails") as queue, tailing(own, "--json") as (out, err):
        follow_until_there(queue, out)
        own_server.kill()
        assert "Trying again until it answers." in err.next()
        own_server.start()
        assert err.next() == "reliq: Redis answers again"
        id = retry_one(queue)
        seen = []
        while (found := out.document())["id"] != id:
            seen.append(found["entry"])
        assert len(seen) == len(set(seen))
        assert found["event"] == "retry"


def test_no_redis(no_server: Commands, impatient: None) -> None:
    """At the start that is status 3, as with every command."""
    assert no_server("tail").status == 3
