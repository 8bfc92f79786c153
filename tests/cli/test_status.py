"""`reliq status` and `reliq reap`: who holds what, what needs attention, and bringing it back."""

from __future__ import annotations

import os
import re
import threading
import time

import pytest
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
    assert 0 <= entry.pop("oldest_ms") < 20_000
    assert entry == {
        "queue": "emails", "key": Keys("emails", commands.prefix).ready, "codec": None,
        "ready": 4, "doing": 1, "later": 1, "due": 0, "dead": 0, "attention": [],
        "live": 1, "stale": 0, "rates": None, "drained_in_ms": None, "exclusive": None,
        "gate": dict.fromkeys(
            ("paused", "paused_at", "rate", "burst", "concurrency", "draining",
             "tenant_rate", "tenant_burst", "tenant_concurrency")
        ),
        "schedules": 0, "next_tick_ms": None,
        "verdict": {"code": None, "reason": "at work; how fast is not known yet", "next": ""},
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
    assert "! NO_CONSUMERS: 1 message to do and no live consumer. Next: start one: reliq worker" in result.out
    assert codes(commands("status", "--json").json) == ["NO_CONSUMERS"]
    redis.delete(Keys("emails", commands.prefix).later)
    redis.lpush(Keys("emails", commands.prefix).ready, *[b"\xc1rlq\x00"] * 3)
    result = commands("status", "--json")
    assert result.status == 0
    assert result.json["queues"][0]["ready"] == 0
    redis.lpush(Keys("emails", commands.prefix).ready, b"1", b"\xc1rlq\x00")
    redis.rpush(Keys("emails", commands.prefix).ready, b"2")  # went back in front of them
    assert commands("status", "--json").json["queues"][0]["ready"] == 2


def test_dead_letters(commands: Commands) -> None:
    """A dead letter needs attention, with the command that shows it."""
    with commands.queue("emails") as queue:
        queue.put(1)
        with queue.consumer() as consumer:
            consumer.claim(1)[0].bury("no such account")
    result = commands.process("status")
    assert result.status == 1
    assert "! DEAD_LETTERS: 1 dead letter: given up on" in result.out
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


def sampled(redis: redis_py.Redis, keys: Keys, ago: int, **counts: int) -> None:
    """As a consumer on duty has written it, so many seconds ago."""
    now = redis.time()[0] * 1000  # type: ignore[index]
    words = [now - ago * 1000, *(counts.get(name, 0) for name in ("ack", "retry", "bury", "reap")), ""]
    words += [counts.get(name, 0) for name in ("total", "discard", "restore")]
    redis.hset(keys.stats, mapping={"sampled_before": "", "sampled": " ".join(map(str, words))})


def test_rates_over_the_last_minute(commands: Commands, redis: redis_py.Redis) -> None:
    """What came is what is there now and what was acked since; an import was not put, and what was removed by hand
    was. Two of five attempts failed. It drains at the difference."""
    keys = Keys("emails", commands.prefix)
    with commands.queue("emails") as queue, queue.consumer():
        queue.put_many(range(60))
        sampled(redis, keys, 60, ack=1000, retry=10, bury=5, total=240, discard=7, restore=1)
        counts = {"ack": 1000 + 300, "retry": 10 + 180, "bury": 5 + 20, "discard": 7 + 30, "restore": 1 + 10}
        redis.hset(keys.stats, mapping=counts)
        (entry,) = commands("status", "--json").json["queues"]
        rates = entry["rates"]
        over = rates["over_ms"] / 1000
        assert 59 <= over < 80
        assert rates["in"] * over == pytest.approx(60 - 240 + 300 + 30 - 10)
        assert rates["out"] * over == pytest.approx(320)
        assert rates["failing"] == pytest.approx(200 / 500)
        assert entry["drained_in_ms"] / 1000 == pytest.approx(60 / (rates["out"] - rates["in"]), rel=0.01)
        assert entry["verdict"]["reason"].startswith("drains in about ")
        assert "40.0%" in commands("status").out


def test_what_is_not_known_is_not_told(commands: Commands, redis: redis_py.Redis) -> None:
    """A sample that is too old or too young, counters that were deleted, a sample of an older release: no rate, or
    none of those that it cannot tell."""
    keys = Keys("emails", commands.prefix)
    with commands.queue("emails") as queue, queue.consumer():
        queue.put(1)
        for ago, counts in ((5, {}), (180, {}), (60, {"ack": 5})):
            sampled(redis, keys, ago, **counts)
            redis.hset(keys.stats, mapping={"ack": 1})
            (entry,) = commands("status", "--json").json["queues"]
            assert entry["rates"] is None
            assert entry["drained_in_ms"] is None
        now = redis.time()[0] * 1000  # type: ignore[index]
        redis.hset(keys.stats, "sampled", f"{now - 30_000} 1 0 0 0 ")
        (entry,) = commands("status", "--json").json["queues"]
        assert (entry["rates"]["in"], entry["rates"]["out"], entry["rates"]["failing"]) == (None, 0, None)
        sampled(redis, keys, 30, ack=1, total=1)
        (entry,) = commands("status", "--json").json["queues"]
        assert entry["verdict"]["code"] == "CONSUMERS_STALLED"
        sampled(redis, keys, 30, ack=0, total=0)
        (entry,) = commands("status", "--json").json["queues"]
        assert entry["verdict"]["code"] == "BACKLOG_GROWS"
        assert "reliq workers --stacks" in entry["verdict"]["next"]
        assert entry["verdict"]["reason"].startswith("grows by ")


def test_a_consumer_takes_the_samples(commands: Commands, redis: redis_py.Redis) -> None:
    """Of all that is in the queue, in whatever state."""
    with commands.queue("emails") as queue:
        queue.put_many(range(3))
        queue.put(4, delay=60)
        with queue.consumer() as consumer:
            (lease,) = consumer.claim(1)
            stats = Keys("emails", commands.prefix).stats
            deadline = time.monotonic() + 15
            while not (found := redis.hget(stats, "sampled")):
                assert time.monotonic() < deadline
                time.sleep(0.05)
            lease.ack()
    assert found.split(b" ")[6:] in ([b"4", b"0", b"0"], [b"3", b"0", b"0"])


def test_two_looks(commands: Commands) -> None:
    """--interval needs nobody to have counted."""
    with commands.queue("emails") as queue:
        queue.put_many(range(10))
        putting = threading.Timer(0.3, lambda: queue.put_many(range(10)))
        putting.start()
        (entry,) = commands("status", "--json", "--interval", "1.5").json["queues"]
        putting.join()
    assert 1500 <= entry["rates"]["over_ms"] < 10_000
    assert entry["rates"]["in"] * entry["rates"]["over_ms"] == pytest.approx(10_000)
    assert entry["rates"]["out"] == 0
    assert "a number of seconds above 0, at most 60" in commands("status", "--interval", "0").error


def test_what_is_most_urgent_comes_first(commands: Commands) -> None:
    """Messages and nobody to handle them stand before dead letters; both are told."""
    with commands.queue("emails") as queue:
        queue.put_many(range(2))
        with queue.consumer() as consumer:
            consumer.claim(1)[0].bury("no such account")
    document = commands("status", "--json").json
    assert codes(document) == ["NO_CONSUMERS", "DEAD_LETTERS"]
    assert document["queues"][0]["verdict"]["code"] == "NO_CONSUMERS"
