"""What the commands say of a queue that somebody holds exclusively."""

from __future__ import annotations

import time

import redis as redis_py

from tests.cli.conftest import Commands


def test_status_shows_the_holder(commands: Commands) -> None:
    """Who it is, and what is in hand; nothing needs attention. Without a holder there is nothing to say."""
    with commands.queue("emails") as queue:
        queue.put_many(range(5))
        with queue.exclusive(batch=3) as holder:
            batch = next(holder)
            text = commands("status")
            (entry,) = commands("status", "--json").json["queues"]
            batch.ack()
        (after,) = commands("status", "--json").json["queues"]
    assert text.status == 0
    assert f"{holder.name} holds the queue exclusively, 3 messages of batch 1 in hand, in their place" in text.out
    assert entry["exclusive"] == {"holder": holder.name, "batch": 1, "in_hand": 3, "fence": 2}
    assert (entry["ready"], entry["live"], entry["attention"]) == (5, 1, [])
    assert after["exclusive"] is None


def test_explain_says_in_which_batch_a_message_is(commands: Commands, redis: redis_py.Redis) -> None:
    """While it is in hand, and only then: those behind it wait for their turn, and a dead holder has none."""
    with commands.queue("emails") as queue:
        ids = queue.put_many(range(4))
        with queue.exclusive(batch=2) as holder:
            batch = next(holder)
            inside, behind = (commands("explain", id, "--json").json for id in ids[1:3])
            redis.zadd(queue.options.keys.consumers, {holder.name: 1})
            orphan = commands("explain", ids[1], "--json").json
            batch.ack()
        assert (inside["reason"], inside["consumer"]) == ("IN_BATCH", holder.name)
        assert f"in batch 1 of {holder.name}" in inside["why"]
        assert inside["position"] == 2
        assert behind["reason"] == "WAITING_TURN"
        assert orphan["reason"] == "NO_CONSUMERS"


def test_fsck_and_doctor_find_nothing_wrong(commands: Commands) -> None:
    """A lock that is held, one that was let go, and what stands in it are as they should be."""
    with commands.queue("emails") as queue:
        queue.put_many(range(5))
        with queue.exclusive(batch=3) as holder:
            batch = next(holder)
            assert commands("fsck").status == 0
            assert commands("doctor").status == 0
            assert commands("check").status == 0
            batch.ack()
        assert commands("fsck").status == 0


def test_the_ledger_tells_of_takeovers_and_mismatches(commands: Commands, redis: redis_py.Redis) -> None:
    """reliq tail shows both in words."""
    with commands.queue("emails") as queue:
        queue.put_many(range(5))
        redis.hset(queue.options.keys.stats, mapping={"server_since": 0, "server": queue.links.server.identity})
        with queue.exclusive(batch=3) as holder:
            next(holder).ack()
            batch = next(holder)
            redis.rpush(queue.options.keys.ready, "9")
            assert batch.ack() is False
            redis.zadd(queue.options.keys.consumers, {holder.name: time.time() * 1000 - 100})
            with queue.exclusive():
                pass
        shown = commands("tail", "--since", "1h", "--once").out
    assert f"the exclusive hold of {holder.name}, 0 in hand was ended" in shown
    assert "an exclusive holder has removed nothing: 2 in hand" in shown
