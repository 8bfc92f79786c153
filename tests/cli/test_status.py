"""`reliq status` and `reliq reap`: who holds what, what needs attention, and bringing it back."""

from __future__ import annotations

import os
import re
import time

import redis as redis_py

from reliq.core.keys import Keys
from tests.cli.conftest import Commands

LEASE = 0.5


def codes(document: dict[str, object], queue: str = "emails") -> list[str]:
    (entry,) = [q for q in document["queues"] if q["queue"] == queue]  # type: ignore[attr-defined]
    return [trouble["code"] for trouble in entry["attention"]]


def test_nothing_known(commands: Commands) -> None:
    """A prefix without queues is fine for both commands, and says when queues appear."""
    result = commands("status")
    assert result.status == 0
    assert "no queues under prefix" in result.out
    assert commands("status", "--json").json["queues"] == []
    assert commands("reap").status == 0
    assert commands("reap", "--json").json == {"schema": 1, "queues": [], "attention": False}


def test_a_healthy_queue(commands: Commands) -> None:
    """Depths by state, the live consumer with its lease, what it holds and its pid; exit status 0."""
    with commands.queue("emails") as queue:
        queue.put_many(range(5))
        queue.put(6, delay=60)
        with queue.consumer() as consumer:
            (lease,) = consumer.claim(1)
            document = commands("status", "--json").json
            text = commands("status")
            lease.ack()
    assert document["attention"] is False
    assert document["prefix"] == commands.prefix
    (entry,) = document["queues"]
    (who,) = entry.pop("consumers")
    assert entry == {
        "queue": "emails", "key": Keys("emails", commands.prefix).ready, "codec": None,
        "ready": 4, "doing": 1, "later": 1, "due": 0, "dead": 0, "attention": [],
    }  # fmt: skip
    assert 0 < who.pop("lease_ms") <= 15_000
    assert who == {
        "name": consumer.name, "state": "live", "doing": 1, "inbox": 0, "who": f"pid={os.getpid()}",
        "pid": os.getpid(),
    }  # fmt: skip
    assert text.status == 0
    assert f"live     {consumer.name}  holds 1, lease 1" in text.out
    assert "!" not in text.out


def test_messages_and_nobody_to_handle_them(commands: Commands, redis: redis_py.Redis) -> None:
    """Ready, or due in later, without a live consumer needs attention; a bell alone is no message."""
    with commands.queue("emails") as queue:
        queue.put(1, delay=0.01)
    time.sleep(0.1)
    result = commands("status")
    assert result.status == 1
    assert "! 1 message to do and no live consumer. Next: start one: reliq worker" in result.out
    assert codes(commands("status", "--json").json) == ["NO_CONSUMERS"]
    redis.delete(Keys("emails", commands.prefix).later)
    redis.lpush(Keys("emails", commands.prefix).ready, b"\xc1rlq\x00")
    assert commands("status").status == 0


def test_dead_letters(commands: Commands) -> None:
    """A dead letter needs attention, with the command that shows it."""
    with commands.queue("emails") as queue:
        queue.put(1)
        with queue.consumer() as consumer:
            consumer.claim(1)[0].bury("no such account")
    result = commands.process("status")
    assert result.status == 1
    assert "! 1 dead letter: given up on" in result.out
    assert f"Next: reliq dead ls --queue emails --prefix {commands.prefix}" in result.out
    assert codes(commands("status", "--json").json) == ["DEAD_LETTERS"]


def test_a_dead_workers_messages_come_back(commands: Commands) -> None:
    """status names what an expired consumer holds, reap brings it back (0: fine), and it is ready again."""
    with commands.queue("emails") as queue:
        ids = queue.put_many(range(3))
    assert commands.claim_and_die("emails") == 3
    early = commands("reap", "--json").json["queues"][0]
    assert (early["returned"], early["consumers"]) == (0, [])
    time.sleep(LEASE + 0.1)
    result = commands("status")
    assert result.status == 1
    assert "3 messages held by 1 worker that is gone. Next: reliq reap" in result.out
    assert "expired " in result.out
    (who,) = commands("status", "--json").json["queues"][0]["consumers"]
    assert (who["state"], who["doing"]) == ("expired", 3)
    assert who["lease_ms"] < 0
    result = commands.process("reap")
    assert (result.status, result.err) == (0, "")
    assert "queue emails: 3 messages back to ready" in result.out
    assert f"held by {who['name']}" in result.out
    assert codes(commands("status", "--json").json) == ["NO_CONSUMERS"]
    assert [m["id"] for m in commands("peek", "--json").json["messages"]] == ids
    again = commands("reap", "--queue", "emails", "--json")
    assert again.status == 0
    assert again.json["queues"] == [
        {"queue": "emails", "returned": 0, "buried": 0, "consumers": [], "adopted": [], "waiting": [],
         "errors": [], "searched": True}
    ]  # fmt: skip


def test_many_reapers_at_once(commands: Commands) -> None:
    """Any number may run together: each message comes back once."""
    with commands.queue("emails") as queue:
        queue.put_many(range(50))
    commands.claim_and_die("emails")
    time.sleep(LEASE + 0.1)
    reapers = [commands.start("reap", "--json") for _ in range(4)]
    for reaper in reapers:
        reaper.communicate(timeout=30)
    assert [reaper.returncode for reaper in reapers] == [0] * 4
    with commands.queue("emails") as queue:
        assert queue.size().ready == 50


def test_poison_needs_attention(commands: Commands) -> None:
    """What three workers died with is dead-lettered by the reaper: exit status 1, and where to look."""
    with commands.queue("emails") as queue:
        queue.put(1)
    for _ in range(3):
        assert commands.claim_and_die("emails") == 1
        time.sleep(LEASE + 0.1)
        result = commands("reap")
    assert result.status == 1
    assert "! 1 message dead-lettered as POISON" in result.out
    assert "reliq dead ls --cause POISON --queue emails" in result.out
    assert commands("peek", "--state", "dead", "--json").json["messages"][0]["dead"]["cause"] == "POISON"


def test_lists_that_nobody_registered(commands: Commands, redis: redis_py.Redis) -> None:
    """A processing list without a registration is found, given a lease, and reaped when that is over."""
    keys = Keys("emails", commands.prefix)
    with commands.queue("emails", lease=LEASE) as queue:
        queue.put(1)
        queue.consumer().close()
    redis.rename(keys.ready, keys.doing("stray"))
    time.sleep(LEASE + 0.1)
    redis.hset(keys.session("stray"), "lease", "500")
    result = commands("reap")
    assert result.status == 0
    assert "found without a registration: stray" in result.out
    time.sleep(LEASE + 0.1)
    assert commands("reap", "--json").json["queues"][0]["returned"] == 1


def test_restarted_redis_gets_one_lease(commands: Commands, redis: redis_py.Redis) -> None:
    """After a restart nobody is reaped for one lease; the report names who is left alone."""
    with commands.queue("emails") as queue:
        queue.put(1)
    commands.claim_and_die("emails")
    time.sleep(LEASE + 0.1)
    redis.hset(Keys("emails", commands.prefix).stats, "server", "another")
    result = commands("reap")
    assert result.status == 0
    assert "left alone: " in result.out
    time.sleep(LEASE + 0.1)
    assert commands("reap", "--json").json["queues"][0]["returned"] == 1


def test_one_broken_queue_does_not_stop_the_others(commands: Commands, redis: redis_py.Redis) -> None:
    """A queue whose key holds something else is reported (exit status 1); the others are reaped."""
    for name in ("broken", "emails"):
        with commands.queue(name) as queue:
            queue.put(1)
    commands.claim_and_die("emails")
    time.sleep(LEASE + 0.1)
    redis.set(Keys("broken", commands.prefix).consumers, "no set")
    result = commands("reap")
    assert result.status == 1
    assert "! could not be reaped: " in result.out
    assert "queue emails: 1 message back to ready" in result.out
    assert commands("status").status == 1
    assert "WRONGTYPE" in commands("status").error


def test_odd_entries_in_the_index(commands: Commands, redis: redis_py.Redis) -> None:
    """Entries that somebody else wrote into the index are passed over or read as far as possible."""
    with commands.queue("emails") as queue:
        queue.put(1)
    index = f"{commands.prefix}:queues"
    redis.hset(index, mapping={b"\xff": b"{}", b"junk": b"[", b"list": b"[]", b"odd": b'{"key": 5, "codec": []}'})
    document = commands("status", "--json").json
    assert [q["queue"] for q in document["queues"]] == ["emails", "odd"]


def test_put_beside_an_adopted_list(commands: Commands, redis: redis_py.Redis) -> None:
    """Put by somebody who did not name the list: nobody handles that, so status says so, and how to move it."""
    ready = Keys("orders", commands.prefix).ready
    assert commands("put", "--queue", "orders", "1").status == 0
    with commands.queue("orders", key=f"{commands.prefix}-orders") as queue:
        with queue.consumer(until_empty=True) as consumer:
            assert list(consumer) == []
        result = commands("status")
        assert result.status == 1
        assert f"1 message put by a Queue('orders') without key='{commands.prefix}-orders'" in result.out
        assert codes(commands("status", "--json").json, "orders") == ["OTHER_LIST"]
        (source, target) = re.findall(r"LMOVE '?(\S+?)'? (\S+) RIGHT LEFT", result.out)[0]
        assert source == ready
        redis.execute_command("LMOVE", source, target, "RIGHT", "LEFT")
        assert queue.size().ready == 1
    assert codes(commands("status", "--json").json, "orders") == ["NO_CONSUMERS"]
