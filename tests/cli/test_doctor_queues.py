"""`reliq doctor` and queues: each situation is created on a real server, and its code is seen."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from datetime import datetime, timedelta, timezone

import redis as redis_py

from reliq.core import envelope as env
from reliq.core.keys import Keys
from reliq.errors import NewerSchema
from tests.cli.conftest import Commands, environment
from tests.cli.doctoring import found, notes, wait_until, worker_on, wrong

LEASE = 0.5
HOUR = 3600.0

#: A consumer that opens, says so, and then stands still: its renewals too.
STOPPED = """
import os, signal, sys
import reliq
queue = reliq.Queue("emails", sys.argv[1], prefix=sys.argv[2], lease=6)
consumer = queue.consumer()
consumer.claim(1)
print(flush=True)
os.kill(os.getpid(), signal.SIGSTOP)
"""


def old(hours: float, body: bytes = b"1") -> bytes:
    """An element that was put so many hours ago."""
    made = time.time_ns() // 1_000_000 - round(hours * HOUR * 1000)
    return env.pack(env.uuid7(made, os.urandom(10)), body, {"c": "json"})


def test_no_consumers(commands: Commands, redis: redis_py.Redis) -> None:
    """Messages to do and nobody there: a warning at once, an error once they wait for minutes; a bell is none."""
    keys = Keys("emails", commands.prefix)
    with commands.queue("emails") as queue:
        queue.put(1)
    result = commands("doctor", "--json")
    assert (wrong(result), result.status) == ({"NO_CONSUMERS": "warning"}, 0)
    assert found(result, "NO_CONSUMERS")[0]["subject"] == "queue emails"
    redis.rpush(keys.ready, old(0.1))
    result = commands("doctor", "--json")
    assert (wrong(result), result.status) == ({"NO_CONSUMERS": "error"}, 1)
    assert "2 messages to do, for 6 min, and no live consumer" in found(result, "NO_CONSUMERS")[0]["evidence"]
    redis.delete(keys.ready)
    redis.lpush(keys.ready, b"\xc1rlq\x00")
    assert wrong(commands("doctor", "--json")) == {}


def test_held_by_the_dead(commands: Commands) -> None:
    """What a dead consumer holds, with the command that brings it back; it does."""
    with commands.queue("emails") as queue:
        queue.put_many(range(3))
    commands.claim_and_die("emails")
    assert "HELD_BY_DEAD" not in wrong(commands("doctor", "--json"))
    wait_until(lambda: wrong(commands("doctor", "--json")) == {"HELD_BY_DEAD": "warning"})
    [entry] = found(commands("doctor", "--json"), "HELD_BY_DEAD")
    assert entry["evidence"].startswith("3 messages held by ")
    assert entry["remedy"] == f"reliq reap --queue emails --prefix {commands.prefix}"
    commands("reap")
    assert wrong(commands("doctor", "--json")) == {"NO_CONSUMERS": "warning"}


def test_held_for_long(commands: Commands, redis: redis_py.Redis) -> None:
    """Nobody has reaped for more than a minute: an error."""
    keys = Keys("emails", commands.prefix)
    with commands.queue("emails") as queue:
        queue.put(1)
    commands.claim_and_die("emails")
    redis.zadd(keys.consumers, {redis.zrange(keys.consumers, 0, 0)[0]: (time.time() - 61) * 1000})
    assert wrong(commands("doctor", "--json")) == {"HELD_BY_DEAD": "error"}


def test_a_dead_consumer_with_empty_hands_is_no_trouble(commands: Commands) -> None:
    """A registration stays for a day; that is how it is meant to be."""
    commands.queue("emails").put(1)
    commands.claim_and_die("emails")
    wait_until(lambda: "HELD_BY_DEAD" in wrong(commands("doctor", "--json")))
    commands("reap")
    with commands.queue("emails") as queue, queue.consumer(until_empty=True) as consumer:
        for lease in consumer:
            lease.ack()
    assert wrong(commands("doctor", "--json")) == {}


def test_a_lease_is_not_renewed(commands: Commands) -> None:
    """A consumer that stands still is named, with its process, before its lease ends."""
    with commands.queue("emails") as queue:
        queue.put(1)
    words = [sys.executable, "-c", STOPPED, commands.url, commands.prefix]
    with subprocess.Popen(words, stdout=subprocess.PIPE, env=environment()) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            wait_until(lambda: "LATE_RENEWAL" in wrong(commands("doctor", "--json")))
        finally:
            process.kill()
        [entry] = found(commands("doctor", "--json"), "LATE_RENEWAL")
    assert f"(pid={process.pid})" in entry["evidence"]
    assert "has renewed its lease of 6.0 s last " in entry["evidence"]


def test_lists_without_a_registration(commands: Commands, redis: redis_py.Redis) -> None:
    """A processing list, and an inbox, of nobody; what reap does is what the remedy says."""
    keys = Keys("emails", commands.prefix)
    with commands.queue("emails", lease=LEASE) as queue:
        queue.put_many(range(3))
        queue.consumer().close()
        redis.lmove(keys.ready, keys.inbox("host-1-abcd"))
        redis.rename(keys.ready, keys.doing("host-1-abcd"))
        result = commands("doctor", "--json")
        assert wrong(result) == {"STRAY_LISTS": "warning"}
        [entry] = found(result, "STRAY_LISTS")
        assert entry["evidence"] == "3 messages in lists of host-1-abcd"
        assert entry["remedy"].startswith(f"reliq reap --queue emails --prefix {commands.prefix}, and once more")
        wait_until(lambda: commands("reap") and "STRAY_LISTS" not in wrong(commands("doctor", "--json")))


def test_wrong_types(commands: Commands, redis: redis_py.Redis) -> None:
    """Each key of a queue that holds something else is named; the rest is looked at all the same."""
    for name in ("ready", "consumers", "later", "dead", "events", "stats", "producers"):
        keys = Keys(f"q-{name}", commands.prefix)
        with commands.queue(f"q-{name}") as queue:
            queue.put(1)
        redis.delete(key := getattr(keys, name))
        redis.set(key, "no such type")
        result = commands("doctor", "--queue", f"q-{name}", "--json")
        assert wrong(result)["WRONG_KEY_TYPE"] == "error"
        [entry] = found(result, "WRONG_KEY_TYPE")
        assert entry["evidence"].startswith(f"{key} is a string, and should be a ")
        assert result.status == 1
    with worker_on(commands):
        result = commands("doctor", "--json")
        assert len(found(result, "WRONG_KEY_TYPE")) == 7
        unseen = [entry["evidence"] for entry in result.json["checks"] if entry["severity"] == "unseen"]
        assert any(text.startswith("cannot see live consumers: WRONGTYPE") for text in unseen)


def test_an_index_of_the_wrong_type(commands: Commands, redis: redis_py.Redis) -> None:
    """Even the index: nothing else can be found then, and that is said."""
    redis.set(f"{commands.prefix}:queues", "no hash")
    result = commands("doctor", "--json")
    [entry] = found(result, "UNREADABLE_INDEX")
    assert (entry["severity"], result.status) == ("error", 1)
    assert entry["evidence"] == f"{commands.prefix}:queues is a string, and should be a hash"


def test_entries_of_the_index_that_cannot_be_read(commands: Commands, redis: redis_py.Redis) -> None:
    """They are named, with the way to remove them; the others are looked at."""
    commands.queue("emails").put(1)
    redis.hset(f"{commands.prefix}:queues", "junk", "[")
    result = commands("doctor", "--json")
    assert wrong(result) == {"NO_CONSUMERS": "warning", "UNREADABLE_INDEX": "warning"}
    [entry] = found(result, "UNREADABLE_INDEX")
    assert entry["evidence"] == f"entry 'junk' of {commands.prefix}:queues cannot be read"
    assert entry["remedy"].startswith(f"redis-cli HDEL {commands.prefix}:queues junk;")


def test_a_queue_that_the_index_does_not_know(commands: Commands, redis: redis_py.Redis) -> None:
    """The index was deleted: queues with messages are found by their keys. Whoever opens one puts it right."""
    for name in ("emails", "a:b"):
        commands.queue(name).put(1)
    redis.delete(f"{commands.prefix}:queues")
    result = commands("doctor", "--json")
    assert wrong(result) == {"LOST_QUEUE": "warning"}
    says = [entry["evidence"] for entry in found(result, "LOST_QUEUE")]
    assert [text.partition("queue ")[2].partition(",")[0] for text in says] == ["'a:b'", "'emails'"]
    for name in ("emails", "a:b"):
        commands.queue(name).put(2)
    assert "LOST_QUEUE" not in wrong(commands("doctor", "--json"))


def test_dead_letters(commands: Commands, redis: redis_py.Redis) -> None:
    """New ones are a warning, with their causes; old ones alone a note."""
    dead = Keys("emails", commands.prefix).dead
    with commands.queue("emails") as queue, queue.consumer(prefetch=3) as consumer:
        queue.put_many([1, 2, 3])
        for lease in consumer.claim(3, timeout=20):
            lease.bury("no such account")
        result = commands("doctor", "--json")
        assert (wrong(result), result.status) == ({"DEAD_GROWING": "warning"}, 0)
        [entry] = found(result, "DEAD_GROWING")
        assert entry["evidence"] == "3 of 3 in the last hour: 3 BURIED"
        assert entry["remedy"] == f"reliq dead ls --queue emails --prefix {commands.prefix}"
        for member, at in redis.zrange(dead, 0, -1, withscores=True):
            redis.zadd(dead, {member: at - 2 * HOUR * 1000})
        result = commands("doctor", "--json")
    assert wrong(result) == {}
    assert "DEAD_LETTERS" in notes(result)
    assert found(result, "DEAD_LETTERS")[0]["evidence"] == "3 messages given up, none in the last hour"


def test_the_oldest_message(commands: Commands, redis: redis_py.Redis) -> None:
    """By default a note, as messages may be put with a delay; a warning past the age that was allowed."""
    ready = Keys("emails", commands.prefix).ready
    with commands.queue("emails") as queue, queue.consumer():
        redis.rpush(ready, old(3))
        result = commands("doctor", "--json")
        assert wrong(result) == {}
        assert "OLD_BACKLOG" in notes(result)
        assert found(result, "OLD_BACKLOG")[0]["evidence"] == "the next of 1 message was put 3 h ago"
        assert wrong(commands("doctor", "--json", "--max-age", "600")) == {"OLD_BACKLOG": "warning"}
        result = commands("doctor", "--json", "--max-age", "90000")
        assert wrong(result) == {}
        assert "OLD_BACKLOG" not in notes(result)


def test_overdue(commands: Commands) -> None:
    """Due for more than a minute, and still not ready."""
    with commands.queue("emails") as queue:
        queue.put(1, at=datetime.now(timezone.utc) - timedelta(seconds=30))
        assert "OVERDUE" not in wrong(commands("doctor", "--json"))
        queue.put(1, at=datetime.now(timezone.utc) - timedelta(seconds=90))
        result = commands("doctor", "--json")
    assert wrong(result) == {"NO_CONSUMERS": "warning", "OVERDUE": "warning"}
    assert found(result, "OVERDUE")[0]["evidence"].startswith("2 messages due, the first for ")


def test_messages_of_a_newer_release(commands: Commands, redis: redis_py.Redis) -> None:
    """They wait, at either end of the list; or they have died of it."""
    element = bytearray(old(0))
    element[4] = 2
    ready = Keys("emails", commands.prefix).ready
    with commands.queue("emails") as queue:
        queue.put(1)
        for push, pop in ((redis.lpush, redis.lpop), (redis.rpush, redis.rpop)):
            push(ready, bytes(element))
            result = commands("doctor", "--json")
            assert wrong(result) == {"NO_CONSUMERS": "warning", "NEWER_FORMAT": "warning"}
            [entry] = found(result, "NEWER_FORMAT")
            assert entry["evidence"] == "a message of format 2 waits; this release reads 1"
            pop(ready)
        redis.rpush(ready, bytes(element))
        with queue.consumer() as consumer:
            consumer.claim(1, timeout=20)[0].ack()
            result = commands("doctor", "--json")
    assert wrong(result) == {"NEWER_FORMAT": "warning", "DEAD_GROWING": "warning"}
    assert found(result, "NEWER_FORMAT")[0]["evidence"] == "1 message died of it in the last hour"


def test_put_beside_an_adopted_list(commands: Commands, redis: redis_py.Redis) -> None:
    """Somebody has not named the list: what is there is handled by nobody, and the remedy moves it."""
    with commands.queue("orders") as queue:
        queue.put(1)
    with commands.queue("orders", key=f"{commands.prefix} orders") as queue, queue.consumer(prefetch=10):
        result = commands("doctor", "--json")
        assert wrong(result) == {"OTHER_LIST": "warning"}
        usual, ready = Keys("orders", commands.prefix).ready, f"{commands.prefix} orders"
        move = f"redis-cli LMOVE '{usual}' '{ready}' RIGHT LEFT"
        assert found(result, "OTHER_LIST")[0]["remedy"].endswith(move)
        redis.execute_command("LMOVE", usual, ready, "RIGHT", "LEFT")
        assert wrong(commands("doctor", "--json")) == {}


def test_two_queues_with_one_list(commands: Commands) -> None:
    """Each takes a part of the messages of the other."""
    for name in ("a", "b", "c"):
        with commands.queue(name, key=f"{commands.prefix}-{'x' if name < 'c' else name}") as queue:
            queue.consumer().close()
            queue.put(1)
            with queue.consumer(until_empty=True) as consumer:
                for lease in consumer:
                    lease.ack()
    result = commands("doctor", "--json")
    assert wrong(result) == {"SHARED_LIST": "warning"}
    [entry] = found(result, "SHARED_LIST")
    assert entry["evidence"] == f"queues 'a' and 'b' both take from '{commands.prefix}-x'"


def test_many_troubles_at_once(commands: Commands, redis: redis_py.Redis) -> None:
    """They are told apart, each with its own queue."""
    with commands.queue("dying") as queue, queue.consumer() as consumer:
        queue.put(1)
        consumer.claim(1, timeout=20)[0].bury("no")
    commands.queue("waiting").put(1)
    commands.queue("broken").put(1)
    redis.delete(Keys("broken", commands.prefix).stats)
    redis.set(Keys("broken", commands.prefix).stats, "x")
    subjects = {
        (entry["code"], entry["subject"])
        for entry in commands("doctor", "--json").json["checks"]
        if entry["severity"] in ("error", "warning")
    }
    assert subjects == {
        ("DEAD_GROWING", "queue dying"),
        ("NO_CONSUMERS", "queue waiting"),
        ("NO_CONSUMERS", "queue broken"),
        ("WRONG_KEY_TYPE", "queue broken"),
    }


def test_a_schema_of_a_newer_release(commands: Commands, redis: redis_py.Redis) -> None:
    """Something was added that this one overlooks: a warning. Something was changed: an error. What to do is said,
    and a release that knows less does not take it back."""
    with commands.queue("emails") as queue:
        queue.put(1)
        index = queue.options.keys.queues
        for newest, severity, status in (("1.7", "warning", 0), ("3.2", "error", 1)):
            record = json.loads(redis.hget(index, "emails") or "") | {"schema": newest}
            redis.hset(index, "emails", json.dumps(record))
            with contextlib.suppress(NewerSchema), commands.queue("emails") as another:
                another.put(2)
            result = commands("doctor", "--json")
            assert (wrong(result)["NEWER_SCHEMA"], result.status) == (severity, status)
            [entry] = found(result, "NEWER_SCHEMA")
            assert entry["evidence"].startswith(f"its keys have schema {newest}; this release knows 1.0, ")
            assert "upgrade" in entry["remedy"]
    assert found(commands("doctor", "--json"), "NEWER_SCHEMA")[0]["subject"] == "queue emails"
