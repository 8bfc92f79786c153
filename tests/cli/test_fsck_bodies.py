"""`reliq fsck` and large bodies: those without a message, and messages without one; no other is taken for them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import redis as redis_py

import reliq
from reliq.core import envelope as env
from tests.cli.conftest import Commands

LARGE = "x" * 100_000


@pytest.fixture
def queue(commands: Commands) -> Iterator[reliq.Queue]:
    """A large and a small message in every state."""
    with commands.queue("q", retry=reliq.Retry(attempts=1)) as queue:
        queue.put(LARGE)
        with queue.consumer(until_empty=True) as consumer:
            for lease in consumer:
                with lease:
                    raise ValueError("no")
        queue.put_many([LARGE, 1])
        queue.put(LARGE, delay=600)
        yield queue


def bodies(redis: redis_py.Redis, queue: reliq.Queue) -> list[bytes]:
    return sorted(redis.scan_iter(match=queue.options.keys.body(b"") + "*", count=1000))


def report(commands: Commands, *words: str) -> dict[str, Any]:
    found: dict[str, Any] = commands("fsck", "--json", *words).json["queues"][0]
    return found


def test_all_is_whole(commands: Commands, queue: reliq.Queue) -> None:
    """Bodies with messages, in whatever state, are no finding, and no foreign keys."""
    with queue.consumer() as consumer:
        lease = consumer.claim()[0]
        assert report(commands)["clean"]
        lease.release()
    assert report(commands)["clean"]


def test_an_orphan_is_told_of_and_deleted(commands: Commands, redis: redis_py.Redis, queue: reliq.Queue) -> None:
    """The dry run says which key and how many bytes; the repair takes that one alone."""
    before = bodies(redis, queue)
    queue.put(LARGE + "y")
    [lost] = set(bodies(redis, queue)) - set(before)
    redis.lpop(queue.options.keys.ready)
    result = commands("fsck")
    assert result.status == 1
    assert f"! ORPHAN_BODY: {lost.decode()}, a large body of 100,006 bytes, belongs to no message" in result.out
    assert "a repair would delete it, 100,006 bytes" in result.out
    assert len(bodies(redis, queue)) == 4
    [finding] = report(commands, "--repair")["findings"]
    assert (finding["code"], finding["repaired"], finding["error"]) == ("ORPHAN_BODY", True, None)
    assert bodies(redis, queue) == before
    assert report(commands)["clean"]


def test_a_long_queue_is_not_repaired(commands: Commands, redis: redis_py.Redis, queue: reliq.Queue) -> None:
    """It is said why, and what to do; nothing is deleted."""
    queue.put(LARGE)
    redis.lpop(queue.options.keys.ready)
    queue.put_many(range(1100))
    before = bodies(redis, queue)
    [finding] = report(commands, "--repair")["findings"]
    assert (finding["code"], finding["repaired"]) == ("ORPHAN_BODY", False)
    assert "more than one step can look at (1,000 messages or 256 kB)" in finding["error"]
    assert bodies(redis, queue) == before


@pytest.mark.parametrize("state", ["ready", "later"])
def test_a_message_without_its_body(
    commands: Commands, redis: redis_py.Redis, queue: reliq.Queue, state: str
) -> None:
    """It is made a dead letter, with its ticket; the others stay."""
    before = bodies(redis, queue)
    id = queue.put(LARGE, delay=900 if state == "later" else None)
    [body] = set(bodies(redis, queue)) - set(before)
    redis.delete(body)
    [finding] = report(commands)["findings"]
    assert (finding["code"], finding["id"]) == ("UNREADABLE", id)
    assert f"BODY_MISSING: there is no body at {body.decode()}" in finding["evidence"]
    [finding] = report(commands, "--repair")["findings"]
    assert finding["repaired"]
    notes = [env.split_note(member)[0] for member in redis.zrange(queue.options.keys.dead, 0, -1)]
    assert [(note["id"], note["cause"]) for note in notes][1:] == [(id, "BODY_MISSING")]
    assert report(commands)["clean"]
    assert bodies(redis, queue) == before


def test_a_body_of_the_wrong_type(commands: Commands, redis: redis_py.Redis, queue: reliq.Queue) -> None:
    """It is set aside, and then its message has none."""
    before = bodies(redis, queue)
    id = queue.put(LARGE)
    [body] = set(bodies(redis, queue)) - set(before)
    redis.delete(body)
    redis.sadd(body, "x")
    findings = report(commands, "--repair")["findings"]
    assert [(f["code"], f["repaired"]) for f in findings] == [("WRONG_KEY_TYPE", True), ("UNREADABLE", True)]
    assert findings[1]["id"] == id
    assert report(commands)["clean"]


@pytest.mark.parametrize("name", ["body:x", "body:" + "g" * 32, "body:" + "a" * 31, "body:" + "a" * 33])
def test_what_only_looks_like_a_body(
    commands: Commands, redis: redis_py.Redis, queue: reliq.Queue, name: str
) -> None:
    """A key of somebody else's, whose owner knows what it is for."""
    key = queue.options.keys.part_of(queue.options.keys.later) and queue.options.keys.later[: -len("later")] + name
    redis.set(str(key), "x")
    assert [f["code"] for f in report(commands, "--repair")["findings"]] == ["FOREIGN_KEY"]
    assert redis.exists(str(key))


def test_a_busy_queue_has_no_orphans(commands: Commands, redis: redis_py.Redis) -> None:
    """Large messages that are put, claimed, retried and acked while all is read."""
    stop = threading.Event()

    def work() -> None:
        with commands.queue("q") as queue, queue.consumer(prefetch=2) as consumer:
            while not stop.is_set():
                for lease in consumer.claim(2, timeout=0.05):
                    lease.retry(delay=0) if lease.attempt < 2 else lease.ack()

    with commands.queue("q") as queue:
        queue.put_many([LARGE] * 5 + list(range(1200)))
        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(8):
                queue.put_many([LARGE] * 5)
                found = report(commands, "--repair")["findings"]
                assert [f for f in found if f["code"] in ("ORPHAN_BODY", "UNREADABLE")] == []
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        with queue.consumer(until_empty=True) as consumer:
            for lease in consumer:
                lease.ack()
        assert bodies(redis, queue) == []
        assert queue.size().dead == 0
