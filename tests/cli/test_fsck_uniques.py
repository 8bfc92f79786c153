"""`reliq fsck` and the keys of unique messages: what a message that was deleted by hand leaves is let go."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import redis as redis_py

import reliq
from tests.cli.conftest import Commands


@pytest.fixture
def queue(commands: Commands) -> Iterator[reliq.Queue]:
    """A queue with unique messages of every kind in every place."""
    with commands.queue("orders") as queue:
        queue.put(1, unique="a")
        queue.put(2, unique=reliq.Unique("b", until="started"), delay=60)
        queue.put(3, unique=reliq.Unique("c", seconds=60))
        queue.put(4, unique=reliq.Unique("a", on_conflict="replace"))
        yield queue


def report(commands: Commands, *words: str) -> dict[str, Any]:
    found: dict[str, Any] = commands("fsck", "--json", *words).json["queues"][0]
    return found


def test_all_is_whole(commands: Commands, queue: reliq.Queue) -> None:
    """Messages in ready, later and in hand hold what they hold, and no key is a foreign one."""
    assert report(commands)["clean"]
    with queue.consumer(prefetch=2) as consumer:
        leases = consumer.claim(2)
        assert [lease.body for lease in leases] == [3]
        assert report(commands)["clean"]
        leases[0].ack()


def test_what_nobody_holds_is_let_go(commands: Commands, redis: redis_py.Redis, queue: reliq.Queue) -> None:
    """The dry run says who held it; the repair lets go that one alone, and the next put is accepted."""
    later, uniques = queue.options.keys.later, queue.options.keys.uniques
    holder = redis.hget(uniques, "+b").decode()
    redis.delete(later)
    result = commands("fsck")
    assert result.status == 1
    assert f"! ORPHAN_UNIQUE: the key 'b' is held by message {holder}, which is nowhere" in result.out
    assert not queue.put(5, unique="b").added
    [finding] = report(commands, "--repair")["findings"]
    assert (finding["code"], finding["repaired"], finding["error"]) == ("ORPHAN_UNIQUE", True, None)
    assert report(commands)["clean"]
    assert queue.put(5, unique="b").added
    assert not queue.put(6, unique="a").added


def test_something_else_there(commands: Commands, redis: redis_py.Redis, queue: reliq.Queue) -> None:
    """A key of the wrong type is told of, and read no further."""
    redis.delete(queue.options.keys.uniques)
    redis.set(queue.options.keys.uniques, "foreign")
    [finding] = report(commands)["findings"]
    assert finding["code"] == "WRONG_KEY_TYPE"
