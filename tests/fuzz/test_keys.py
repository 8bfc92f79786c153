"""Another program has put something else under a key of the queue: a clear error that names it, or no harm at all;
nothing is lost, nothing turns into a busy loop, and when the key is gone everything goes on.

Scripts alone: tests/lua/test_every_script.py. A string under each key of an open consumer: tests/conformance.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgpack
import pytest
import redis as redis_py

import reliq
from reliq.cli.peek import STATES
from reliq.core import envelope as env
from reliq.core.keys import Keys
from reliq.errors import PutManyError, ReliqError, WrongKeyType
from tests.cli.conftest import Commands
from tests.conformance.shell import Shell, until
from tests.fuzz.work import at_work
from tests.servers import RedisServer

GONE = "gone"  # a consumer whose lease is over, and that holds a message
PARTS: dict[str, Callable[[Keys], str]] = {
    **{name: lambda k, name=name: getattr(k, name) for name in ("ready", "later", "dead", "consumers", "events")},
    **{name: lambda k, name=name: getattr(k, name) for name in ("stats", "producers", "queues")},
    **{name: lambda k, name=name: getattr(k, name)(GONE) for name in ("inbox", "doing", "session")},
    "seen": lambda k: k.marker(env.named_id("mine")),
}
WRONG: dict[bytes, Callable[[redis_py.Redis, str], object]] = {
    b"string": lambda redis, key: redis.set(key, "mine"),
    b"list": lambda redis, key: redis.rpush(key, "mine"),
    b"set": lambda redis, key: redis.sadd(key, "mine"),
    b"zset": lambda redis, key: redis.zadd(key, {"mine": 1}),
    b"hash": lambda redis, key: redis.hset(key, "mine", "1"),
    b"stream": lambda redis, key: redis.xadd(key, {"mine": "1"}),
}
#: What each part rightly is; anything else is wrong.
RIGHT = {
    **dict.fromkeys(("ready", "inbox", "doing"), b"list"),
    **dict.fromkeys(("later", "dead", "consumers"), b"zset"),
    **dict.fromkeys(("stats", "producers", "queues", "session"), b"hash"),
    "events": b"stream",
    "seen": b"string",
}


@contextmanager
def occupied(redis: redis_py.Redis, key: str, kind: bytes) -> Iterator[None]:
    """Something else under this key, which nobody may touch, and then what was there again."""
    aside = f"{key}-aside"
    if there := redis.exists(key):
        redis.rename(key, aside)
    WRONG[kind](redis, key)
    before = redis.dump(key)
    yield
    assert redis.dump(key) == before, f"{key} was somebody else's and is changed"
    redis.delete(key)
    if there:
        redis.rename(aside, key)


def everything(redis: redis_py.Redis, keys: Keys) -> Counter[str]:
    """The bodies of all messages of the queue, wherever they are."""
    found = [*redis.lrange(keys.ready, 0, -1), *redis.zrange(keys.later, 0, -1)]
    found += [env.split_note(member)[1] for member in redis.zrange(keys.dead, 0, -1)]
    for key in redis.scan_iter(match=keys.lists_pattern, count=1000):
        found += redis.lrange(key, 0, -1)
    return Counter(msgpack.unpackb(env.unpack(element).body) for element in found)


async def busy(sh: Shell, redis: redis_py.Redis) -> Any:
    """A queue with something in every place, on a server that has been up for long."""
    queue = sh.queue(block=0.3)
    keys = queue.options.keys
    await sh(queue.put_many(["ready 1", "ready 2"]))
    await sh(queue.put("later", delay=3600))
    await sh(queue.put("held", id="mine"))
    redis.lmove(keys.ready, keys.doing(GONE), "LEFT", "LEFT")
    redis.zadd(keys.dead, {env.join_note({"id": "ab", "cause": "BURIED", "error": "no"}, _letter()): 1})
    redis.zadd(keys.consumers, {GONE: 1})
    redis.hset(keys.stats, "server_since", 0)
    return queue


def _letter() -> bytes:
    return env.pack(b"d" * 16, msgpack.packb("dead"))


async def claim(sh: Shell, queue: Any) -> None:
    """Open a consumer, claim something, give it back."""
    async with sh.open(queue.consumer()) as consumer:
        for lease in await sh(consumer.claim(1, timeout=0)):
            await sh(lease.release())


OPERATIONS: dict[str, Callable[[Shell, Any], Any]] = {
    "put": lambda sh, q: q.put("put"),
    "put, delayed": lambda sh, q: q.put("put, delayed", delay=3600),
    "put, named": lambda sh, q: q.put("put, named", id="named"),
    "put, mine": lambda sh, q: q.put("put, mine", id="mine"),
    "put_many": lambda sh, q: q.put_many(["put_many"]),
    "size": lambda sh, q: q.size(),
    "reap": lambda sh, q: sh.Reaper(q).run_once(),
    "claim": claim,
}


def check(error: BaseException, key: str) -> None:
    """It is of the kind, and its text names the key, the reason and what to do."""
    if isinstance(error, PutManyError):
        assert isinstance(error.__cause__, ReliqError)
        error = error.__cause__
    assert isinstance(error, WrongKeyType), repr(error)
    check_text(str(error), key)


def check_text(text: str, key: str) -> None:
    assert key in text
    assert re.search(r"holds a \w+, where reliq has a \w+", text), text
    assert "choose another queue name or prefix" in text.lower(), text


@pytest.mark.parametrize("part", PARTS)
async def test_every_operation_on_every_wrong_type(shell: Shell, newest: RedisServer, part: str) -> None:
    """It says which key it is, or does its work; and what is not the queue's stays as it is."""
    sh, redis = shell, newest.client()
    queue = await busy(sh, redis)
    keys = queue.options.keys
    key, before = PARTS[part](keys), everything(redis, keys)
    added: Counter[str] = Counter()
    failed = 0
    for kind in WRONG.keys() - {RIGHT[part]}:
        with occupied(redis, key, kind):
            for name, operation in OPERATIONS.items():
                fresh = sh.queue(block=0.3)  # has not told the index of its name yet
                try:
                    done = await sh(operation(sh, fresh))
                except ReliqError as error:
                    check(error, key)
                    failed += 1
                    continue
                if name.startswith("put") and name != "put, mine":
                    added[name] += 1
                for text in getattr(done, "errors", ()):
                    check_text(text, key)
                    failed += 1
    assert failed or part in ("events", "seen")
    await sh(queue.put("put, named", id="named"))  # one that was refused has left no marker
    added["put, named"] = 1
    assert everything(redis, keys) == before + added
    await sh(queue.put("afterwards"))
    assert "afterwards" in await sh.drain(queue)
    redis.close()


async def test_a_worker_waits_and_goes_on(shell: Shell, newest: RedisServer, caplog: Any) -> None:
    """Under a worker at rest each key becomes something else: it tries again now and then, not all the time, and
    handles the next message when the key is gone."""
    redis, queue = newest.client(), shell.queue(block=0.2)
    keys = queue.options.keys
    handled: list[Any] = []
    told = {"ready", "inbox", "doing", "session", "consumers", "later", "dead", "stats"}
    async with at_work(shell, queue.ack(handled.append)) as running:
        assert await until(lambda: redis.zcard(keys.consumers))
        [name] = [member.decode() for member in redis.zrange(keys.consumers, 0, -1)]
        for part in sorted(RIGHT.keys() - {"seen"}):
            key = getattr(keys, part)
            key = key(name) if callable(key) else key
            caplog.clear()
            with occupied(redis, key, next(iter(WRONG.keys() - {RIGHT[part], b"string"}))):
                if part in told:
                    assert await until(lambda key=key: key in caplog.text), part
                before = calls(redis)
                await asyncio.sleep(0.2)  # of time itself: how often is tried in it
                assert calls(redis) - before < 30, part
            assert not running.done(), part
            await shell(queue.put(part))
            assert await until(lambda part=part: part in handled), part
    assert sorted(handled) == sorted(RIGHT.keys() - {"seen"})
    assert all(record.levelno <= logging.ERROR and not record.exc_info for record in caplog.records)
    redis.close()


def calls(redis: redis_py.Redis) -> int:
    """How many scripts and BLMOVEs there have been."""
    stats: Any = redis.info("commandstats")
    return sum(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("evalsha", "blmove"))


COMMANDS = [
    *(["status"], ["status", "--json"], ["reap"], ["put", "--queue", "q", "1"]),
    *(["peek", "--queue", "q", "--state", state] for state in STATES),
]


@pytest.mark.parametrize("part", PARTS)
def test_every_command_on_a_wrong_type(commands: Commands, redis: redis_py.Redis, part: str) -> None:
    """Exit status 1 and one line that names the key, or the command does its work."""
    with commands.queue("q") as queue:
        queue.put(1, id="mine")
        keys = queue.options.keys
    redis.zadd(keys.consumers, {GONE: 1})
    redis.hset(keys.stats, "server_since", 0)
    key = PARTS[part](keys)
    kind = next(kind for kind in (b"hash", b"string") if kind != RIGHT[part])
    for words in COMMANDS:
        with occupied(redis, key, kind):
            result = commands(*words)
            assert result.status in (0, 1)
            assert "Traceback" not in result.err
            if result.err:
                check_text(result.error, key)
            elif "could not be reaped" in result.out:
                check_text(result.out, key)


def test_the_error_without_the_right_to_ask(own_server: Any, prefix: str) -> None:
    """A user who may not say TYPE gets the same error without the name of the key."""
    with own_server.client() as admin:
        admin.execute_command("ACL", "SETUSER", "lean", "on", ">secret", "~*", "+@all", "-type")
        url = own_server.url.replace("redis://", "redis://lean:secret@")
        with reliq.Queue("q", url, prefix=prefix) as queue:
            queue.put(1)
            admin.delete(queue.options.keys.ready)
            admin.set(queue.options.keys.ready, "mine")
            with pytest.raises(WrongKeyType, match="WRONGTYPE"):
                queue.put(2)
