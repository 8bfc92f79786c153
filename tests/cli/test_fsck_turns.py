"""`reliq fsck` and the turns of ordering keys: nobody waits for ever behind a message that was deleted by hand."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import redis as redis_py

import reliq
from tests.cli.conftest import Commands


@pytest.fixture
def queue(commands: Commands) -> Iterator[reliq.Queue]:
    """Three messages with one key, of which the first has the turn and is ready, and the others wait."""
    with commands.queue("orders") as queue:
        queue.put_many([1, 2, 3], ordering_key="k")
        with queue.consumer(prefetch=5) as consumer:
            [lease] = consumer.claim(5)
            lease.release()
        assert queue.size().later == 2
        yield queue


def report(commands: Commands, *words: str) -> dict[str, Any]:
    found: dict[str, Any] = commands("fsck", "--json", *words).json["queues"][0]
    return found


def drain(queue: reliq.Queue) -> list[Any]:
    bodies = []
    with queue.consumer(until_empty=True) as consumer:
        for lease in consumer:
            with lease:
                bodies.append(lease.body)
    return bodies


def test_all_is_whole(commands: Commands, queue: reliq.Queue) -> None:
    """As long as who has the turn is somewhere; peek says what the others do."""
    assert report(commands)["clean"]
    assert commands("peek", "--state", "later").out.count("waits for its turn") == 2
    [first] = [m["id"] for m in commands("peek", "--json", "--state", "ready").json["messages"]]
    waits = commands("peek", "--json", "--state", "later").json["messages"]
    assert [m["due_ms"] for m in waits] == [None, None]
    said = commands("explain", "--json", waits[1]["id"]).json["why"]
    assert said == f"it waits for message {first}, which has the turn of its ordering key 'k', and behind 1 more"
    assert drain(queue) == [1, 2, 3]
    assert report(commands)["clean"]


def test_who_has_the_turn_is_nowhere(commands: Commands, redis: redis_py.Redis, queue: reliq.Queue) -> None:
    """Its list was deleted by hand: the repair lets the next one go on, at the head."""
    redis.delete(queue.options.keys.ready)
    result = commands("fsck")
    assert result.status == 1
    assert "! LOST_TURN: 2 wait for the turn of the ordering key 'k', which message " in result.out
    [finding] = report(commands, "--repair")["findings"]
    assert (finding["code"], finding["repaired"], finding["error"]) == ("LOST_TURN", True, None)
    assert report(commands)["clean"]
    assert drain(queue) == [2, 3]


def test_nobody_has_the_turn(commands: Commands, redis: redis_py.Redis, queue: reliq.Queue) -> None:
    """Somebody has deleted the record: explain says so, and the repair."""
    redis.delete(queue.options.keys.uniques, queue.options.keys.ready)
    [first, _] = commands("peek", "--json", "--state", "later").json["messages"]
    said = commands("explain", first["id"])
    assert (said.status, "LOST_TURN" in said.out, "fsck --repair" in said.out) == (1, True, True)
    [finding] = report(commands, "--repair")["findings"]
    assert (finding["code"], finding["repaired"]) == ("LOST_TURN", True)
    assert drain(queue) == [2, 3]
    assert report(commands)["clean"]


def test_a_place_that_nobody_has(commands: Commands, redis: redis_py.Redis) -> None:
    """A tenant's message in hand was deleted by hand: it counts no more after the repair."""
    with commands.queue("shops") as queue:
        queue.limit(tenant_concurrency=1)
        queue.put_many([1, 2], tenant="acme")
        with queue.consumer() as consumer:
            [lease] = consumer.claim(1)
            assert report(commands)["clean"]
            redis.delete(queue.options.keys.doing(consumer.name))
            result = commands("fsck")
            assert (result.status, "! LOST_PLACE: message" in result.out) == (1, True)
            [finding] = report(commands, "--repair")["findings"]
            assert (finding["code"], finding["repaired"]) == ("LOST_PLACE", True)
            [lease] = consumer.claim(1, timeout=5)
            assert lease.body == 2
            lease.ack()
        assert report(commands)["clean"]


def test_nobody_knows_whose_turn_it_is(commands: Commands, redis: redis_py.Redis) -> None:
    """The record of tenants and groups was deleted by hand: the repair calls them again."""
    with commands.queue("shops") as queue:
        first = queue.put("a1", tenant="acme")
        queue.put_many(["b1", "b2"], tenant="Ümläut")
        gathers = queue.put("g1", group=reliq.Group("mail", grace=3600, max_delay=3600))
        queue.put("later", tenant="other", delay=60)
        assert report(commands)["clean"]
        redis.delete(queue.options.keys.turns)
        assert drain(queue) == []
        for id in (first, gathers):
            said = commands("explain", id)
            assert (said.status, "LOST_TURN" in said.out, "fsck --repair" in said.out) == (1, True, True)
        result = commands("fsck")
        assert (result.status, result.out.count("! LOST_TURN: ")) == (1, 3)
        assert "1 of group 'mail' wait, and nothing says when it is their time" in result.out
        assert "2 of tenant 'Ümläut' wait, and nothing says when it is their turn" in result.out
        found = report(commands, "--repair")["findings"]
        assert [(each["code"], each["repaired"]) for each in found] == [("LOST_TURN", True)] * 3
        assert report(commands)["clean"]
        assert sorted(drain(queue)) == ["a1", "b1", "b2", "g1"]
        assert report(commands)["clean"]


def test_a_tenant_at_its_limit_is_not_lost(commands: Commands, redis: redis_py.Redis) -> None:
    """It is in turn no more, until what it has in hand ends, which calls it."""
    with commands.queue("shops") as queue:
        queue.limit(tenant_concurrency=1)
        queue.put_many([1, 2], tenant="acme")
        with queue.consumer(prefetch=2) as consumer:
            [lease] = consumer.claim(2)
            assert redis.zcard(queue.options.keys.turns) == 0
            assert report(commands)["clean"]
            lease.ack()
        assert drain(queue) == [2]


def test_another_type_where_turns_should_be(commands: Commands, redis: redis_py.Redis) -> None:
    """It is told of, and set aside; then what waits is called."""
    with commands.queue("shops") as queue:
        queue.put("a1", tenant="acme")
        redis.delete(queue.options.keys.turns)
        redis.set(queue.options.keys.turns, "foreign")
        assert [each["code"] for each in report(commands)["findings"]] == ["WRONG_KEY_TYPE"]
        report(commands, "--repair")
        report(commands, "--repair")
        assert report(commands)["clean"]
        assert drain(queue) == ["a1"]
