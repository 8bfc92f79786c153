"""`reliq fsck`: what stands wrong in Redis is found and mended; what is on its way is neither."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
import redis as redis_py

import reliq
from reliq.core import envelope as env
from reliq.core import scripts
from reliq.core.fsck import finding
from reliq.core.keys import Keys
from tests.cli.conftest import Commands
from tests.faults.lab import Lab, lab, wait_until
from tests.faults.proxy import FaultProxy, drop_reply
from tests.servers import ExternalServer, RedisServer

STATES = ("ready", "inbox", "doing", "later", "dead")


def keys(commands: Commands, queue: str = "emails") -> Keys:
    return Keys(queue, commands.prefix)


@pytest.fixture
def queue(commands: Commands, redis: redis_py.Redis) -> Iterator[reliq.Queue]:
    """A queue with five messages ready and one for later, on a server that has been up for long."""
    with commands.queue("emails") as queue:
        queue.put_many({"n": n} for n in range(5))
        queue.put("later", delay=600)
        settled(redis, queue)
        yield queue


def settled(redis: redis_py.Redis, queue: reliq.Queue) -> None:
    """Leases count as over on this server: it was seen up for more than one."""
    redis.hset(queue.options.keys.stats, mapping={"server": queue.links.server.identity, "server_since": 1})


def ready(redis: redis_py.Redis, k: Keys) -> list[bytes]:
    found: Any = redis.lrange(k.ready, 0, -1)
    return list(found)


def handled(queue: reliq.Queue) -> list[Any]:
    """Ack everything that is ready; the bodies in order."""
    bodies = []
    with queue.consumer(until_empty=True) as consumer:
        for lease in consumer:
            with lease:
                bodies.append(lease.body)
    return bodies


def found(commands: Commands, *words: str) -> list[dict[str, Any]]:
    (report,) = commands("fsck", "--json", *words).json["queues"]
    findings: list[dict[str, Any]] = report["findings"]
    return findings


def codes(commands: Commands, *words: str) -> list[str]:
    return sorted(f["code"] for f in found(commands, *words))


def everything(redis: redis_py.Redis, prefix: str) -> dict[bytes, Any]:
    """All keys but the ledger and the counters."""
    names = [k for k in redis.scan_iter(f"{prefix}*", count=1000) if not k.endswith((b":events", b":stats"))]
    return {name: redis.dump(name) for name in names}


# -- clean --------------------------------------------------------------------------------------------------


def test_nothing_known(commands: Commands) -> None:
    """A prefix without queues is fine."""
    assert commands("fsck").status == 0
    assert commands("fsck", "--json").json == {"schema": 1, "repair": False, "queues": [], "attention": False}


def test_a_queue_that_is_whole(commands: Commands, queue: reliq.Queue) -> None:
    """In every state something, by every way there is: nothing is wrong, and it says how much was read."""
    with queue.consumer() as consumer:
        consumer.claim(1)[0].bury("no")
        consumer.claim(1)[0].retry(delay=600, reason="busy")
        (held,) = consumer.claim(1)
        queue.put(1, id="order-17")
        (report,) = commands("fsck", "--json").json["queues"]
        assert report.pop("looked") == {
            "ready": 3, "inbox": 0, "doing": 1, "later": 2, "dead": 1, "consumers": 1, "keys": report_keys(queue),
            "whole": True,
        }  # fmt: skip
        assert report == {"queue": "emails", "clean": True, "left": 0, "findings": [], "error": None}
        held.release()
    result = commands.process("fsck")
    assert result.status == 0
    assert "queue emails: 4 ready, 0 inbox, 0 doing, 2 later, 1 dead" in result.out
    assert result.out.endswith(": clean\n")


def report_keys(queue: reliq.Queue) -> int:
    """How many keys the queue has."""
    with redis_py.Redis.from_url(str(queue.url), protocol=2) as client:
        return sum(1 for _ in client.scan_iter(f"{queue.options.keys._of('')}*", count=1000))


def test_what_life_leaves_behind_is_no_finding(commands: Commands, queue: reliq.Queue) -> None:
    """Sessions of those who left, registrations of those who died and were reaped, revived and imported letters,
    two puts of one id, foreign raw bodies that are equal, bells: all that is right."""
    k = queue.options.keys
    with redis_py.Redis.from_url(commands.url, protocol=2) as redis:
        redis.lpush(k.ready, b'{"raw": 1}', b'{"raw": 1}', b"\xc1rlq\x00")
        queue.put("x", id="order-17")
        redis.delete(*redis.keys(k._of("seen:*")))  # an hour later
        queue.put("y", id="order-17")  # the same within one ms would be the same bytes, which is a finding
        with queue.consumer() as consumer:
            consumer.claim(1)[0].bury("no")
        assert commands("dead", "revive", "--all").status == 0
        redis.zadd(k.consumers, {"dead": time.time() * 1000 - 60_000})
    assert found(commands) == []


def test_an_adopted_list(commands: Commands, redis: redis_py.Redis) -> None:
    """Its keys stand under the tag of that list, and are all known."""
    with commands.queue("orders", key=f"{commands.prefix}-orders") as queue:
        redis.lpush(f"{commands.prefix}-orders", b'{"id": 7}')
        with queue.consumer() as consumer:
            (lease,) = consumer.claim(1)
            (report,) = commands("fsck", "--json").json["queues"]
            lease.ack()
    assert report["findings"] == []
    assert report["looked"]["doing"] == 1


def test_neighbours_that_share_a_tag(commands: Commands, redis: redis_py.Redis) -> None:
    """Two queues on lists with one hash tag: the keys of the one are not foreign to the other."""
    tag = f"{{{commands.prefix}}}"
    for name in ("orders", "orders:late"):
        with commands.queue(name, key=f"{tag}{name}") as queue:
            queue.put(1, delay=600)
    document = commands("fsck", "--json").json
    assert [q["findings"] for q in document["queues"]] == [[], []]
    redis.hdel(f"{commands.prefix}:queues", "orders:late")
    assert {f["code"] for f in found(commands)} == {"FOREIGN_KEY"}


# -- findings -----------------------------------------------------------------------------------------------


def test_copies(commands: Commands, redis: redis_py.Redis, queue: reliq.Queue) -> None:
    """Across places and in one: named, and a repair leaves the one that is further, whatever its counters are."""
    k = queue.options.keys
    e = ready(redis, k)
    redis.lpush(k.ready, e[1])
    bumped = env.bump(env.unpack(e[2]), failed=1, meta={"e": "ValueError"})
    redis.zadd(k.later, {bumped: 5e13})
    redis.zadd(k.dead, {env.join_note({"id": e[3][23:39].hex(), "cause": "X"}, e[3]): 5})
    before = everything(redis, commands.prefix)
    findings = found(commands)
    assert everything(redis, commands.prefix) == before
    told = {f["id"]: (f["code"], f["evidence"], f["action"], f["repairable"], f["repaired"]) for f in findings}
    ids = [x[23:39].hex() for x in e]
    assert told == {
        ids[1]: ("DUPLICATE", f"message {ids[1]} is in ready twice", "remove one of the two", True, None),
        ids[2]: ("DUPLICATE", f"message {ids[2]} is in later and once more in ready",
                 "remove the one in ready, keep the one in later", True, None),
        ids[3]: ("DUPLICATE", f"message {ids[3]} is in ready and once more in dead",
                 "remove the one in dead, keep the one in ready", True, None),
    }  # fmt: skip
    result = commands("fsck", "--repair", "--json")
    assert result.status == 0
    assert [f["repaired"] for f in result.json["queues"][0]["findings"]] == [True] * 3
    assert sorted(ready(redis, k)) == sorted([e[0], e[1], e[3], e[4]])
    assert redis.zscore(k.later, bumped) == 5e13
    assert redis.zcard(k.dead) == 0
    assert found(commands) == []
    ledger: Any = redis.xrange(k.events)
    assert sorted(entry[b"id"].decode() for _, entry in ledger if entry[b"event"] == b"dedupe") == sorted(ids[1:4])


def test_a_copy_in_hands_is_left(commands: Commands, redis: redis_py.Redis, queue: reliq.Queue) -> None:
    """Nobody takes a message from a handler: the copy that waits goes, and of two in hands none."""
    k = queue.options.keys
    with queue.consumer() as consumer, queue.consumer() as other:
        (mine,) = consumer.claim(1)
        (element,) = redis.lrange(k.doing(consumer.name), 0, -1)
        redis.rpush(k.ready, element)
        (only,) = found(commands, "--repair")
        assert (only["repaired"], only["action"]) == (True, "remove the one in ready, keep the one in doing")
        assert redis.lrange(k.doing(consumer.name), 0, -1) == [element]
        (theirs,) = other.claim(1)
        redis.rpush(k.doing(other.name), element)
        result = commands("fsck", "--repair", "--json")
        (only,) = result.json["queues"][0]["findings"]
        assert (only["repairable"], only["repaired"], result.status) == (False, None, 1)
        redis.lrem(k.doing(other.name), 1, element)
        mine.ack()
        theirs.ack()


def test_more_copies_than_two(commands: Commands, redis: redis_py.Redis, queue: reliq.Queue) -> None:
    """All but one go, in one call."""
    k = queue.options.keys
    e = ready(redis, k)
    redis.rpush(k.ready, *[e[2]] * 5)
    redis.lpush(k.ready, *[e[2]] * 5)
    assert commands("fsck", "--repair").status == 0
    assert sorted(ready(redis, k)) == sorted(e)


def test_entries_that_cannot_be_read(commands: Commands, redis: redis_py.Redis, queue: reliq.Queue) -> None:
    """Garbage in ready and later, members of dead without a note: dead letters afterwards, every byte kept."""
    k = queue.options.keys
    bad = env.pack(bytes(range(16)), b"\xff", {"c": "json"})
    redis.rpush(k.ready, b"\xff\x00\x1b[2J", bad)
    redis.zadd(k.later, {b"raw garbage": 5e13})
    redis.zadd(k.dead, {b"\xc1 no note": 5})
    assert codes(commands) == ["DEAD_BAD_NOTE", *["UNREADABLE"] * 3]
    out = commands("fsck").out
    assert "\x1b" not in out
    assert "a repair would make it a dead letter (cause UNDECODABLE)" in out
    assert f"Next: reliq fsck --repair --queue emails --prefix {commands.prefix}" in out
    assert codes(commands, "--repair") == ["DEAD_BAD_NOTE", *["UNREADABLE"] * 3]
    assert found(commands) == []
    members = b"".join(redis.zrange(k.dead, 0, -1))
    for body in (b"\xff\x00\x1b[2J", bad, b"raw garbage", b"\xc1 no note"):
        assert body in members
    groups = {g["cause"]: g["count"] for g in commands("dead", "ls", "--json").json["groups"]}
    assert groups == {"UNDECODABLE": 3, "BAD_NOTE": 1}
    assert commands("dead", "revive", "--all", "--json").json["revived"] == 4


def test_a_newer_format_is_left(commands: Commands, redis: redis_py.Redis, queue: reliq.Queue) -> None:
    """It may be good for other workers, so it is told and not touched."""
    k = queue.options.keys
    newer = bytearray(ready(redis, k)[0])
    newer[4] = 9
    redis.rpush(k.ready, bytes(newer))
    result = commands("fsck", "--repair", "--json")
    (only,) = result.json["queues"][0]["findings"]
    assert (only["code"], only["repairable"], result.status) == ("UNREADABLE", False, 1)
    assert "upgrade the workers" in only["action"]
    assert ready(redis, k)[-1] == bytes(newer)


def test_bodies_of_a_codec_that_is_not_known_here(commands: Commands, redis: redis_py.Redis) -> None:
    """They are the application's business: nothing is judged that cannot be."""

    class Upper:
        name = "upper"

        def encode(self, body: Any) -> bytes:
            return str(body).upper().encode()

        def decode(self, data: bytes) -> Any:
            return data.decode().lower()

    with commands.queue("emails", codec=Upper()) as queue:
        queue.put("x")
        redis.rpush(queue.options.keys.ready, b"\xff raw")
    with commands.queue("plain") as queue:
        queue.put(1)
        redis.rpush(queue.options.keys.ready, env.pack(bytes(16), b"\xff", {"c": "avro"}))
    assert [q["findings"] for q in commands("fsck", "--json").json["queues"]] == [[], []]


@pytest.mark.parametrize("part", ["ready", "later", "dead", "consumers", "events", "stats", "producers"])
def test_keys_of_the_wrong_type(commands: Commands, redis: redis_py.Redis, queue: reliq.Queue, part: str) -> None:
    """Renamed, whole, and the queue works again; what stood behind it is looked at in the same call."""
    k = queue.options.keys
    key = getattr(k, part)
    redis.delete(key)
    redis.set(key, "foreign")
    (only, *_) = found(commands)
    assert (only["code"], only["key"]) == ("WRONG_KEY_TYPE", key)
    result = commands("fsck", "--repair", "--json")
    assert result.status == 0
    (aside,) = redis.keys(k._of(f"aside:{part}:*"))
    assert redis.get(aside) == b"foreign"
    assert found(commands) == []
    queue.put(9)
    assert handled(queue)[-1] == 9


def test_lists_of_the_wrong_type(commands: Commands, redis: redis_py.Redis, queue: reliq.Queue) -> None:
    """A consumer's keys too; the adopted list of a queue is its owner's and is left."""
    redis.set(queue.options.keys.doing("x"), "foreign")
    redis.set(f"{commands.prefix}-orders", "foreign")
    with commands.queue("orders", key=f"{commands.prefix}-orders") as other:
        redis.zadd(other.options.keys.later, {env.pack(bytes(16), b"\x01"): 5e13})
        redis.hset(f"{commands.prefix}:queues", "orders", json.dumps({"key": f"{commands.prefix}-orders"}))
    document = commands("fsck", "--repair", "--json")
    told = {q["queue"]: [(f["code"], f["repaired"]) for f in q["findings"]] for q in document.json["queues"]}
    assert told == {"emails": [("WRONG_KEY_TYPE", True)], "orders": [("WRONG_KEY_TYPE", None)]}
    assert document.status == 1
    assert redis.get(f"{commands.prefix}-orders") == b"foreign"


def test_foreign_keys(commands: Commands, redis: redis_py.Redis, queue: reliq.Queue) -> None:
    """Told and never touched, also with a name that is no text."""
    k = queue.options.keys
    for key in (k._of("odd"), k.tagged + "nobody:ready", (k.tagged + "x").encode() + b"\xff", k._of("doing")):
        redis.set(key, "1")
    result = commands("fsck", "--repair", "--json")
    assert result.status == 1
    findings = result.json["queues"][0]["findings"]
    assert [(f["code"], f["repairable"]) for f in findings] == [("FOREIGN_KEY", False)] * 4
    assert {f["key"] for f in findings} > {k._of("odd"), k.tagged + "x\\xff"}
    assert len(redis.keys(f"{commands.prefix}:*")) >= 4 + 4


def test_lists_that_nobody_registered(commands: Commands, redis: redis_py.Redis, queue: reliq.Queue) -> None:
    """Found after a second look; a repair registers them, and a reaper brings back what they hold."""
    k = queue.options.keys
    redis.lmove(k.ready, k.doing("ghost"), "RIGHT", "LEFT")
    redis.lmove(k.ready, k.inbox("ghost"), "RIGHT", "LEFT")
    redis.hset(k.session("ghost"), "lease", 100)
    (only,) = found(commands)
    assert (only["code"], only["evidence"]) == (
        "STRAY_LISTS",
        "2 messages in lists of ghost, which nobody registered",
    )
    assert commands("fsck", "--repair").status == 0
    time.sleep(0.2)
    assert commands("reap", "--json").json["queues"][0]["returned"] == 2
    assert len(ready(redis, k)) == 5
    assert (b"adopt", b"ghost") in [(e[b"event"], e[b"consumer"]) for _, e in redis.xrange(k.events)]


@pytest.mark.parametrize("part", ["doing", "inbox"])
def test_what_dead_consumers_hold(
    commands: Commands, redis: redis_py.Redis, queue: reliq.Queue, part: str
) -> None:
    """Long after the lease is over, with nobody to reap: brought back in order; before that nothing is wrong."""
    k = queue.options.keys
    e = ready(redis, k)
    for _ in range(2):
        redis.lmove(k.ready, getattr(k, part)("gone"), "RIGHT", "RIGHT")
    now = time.time() * 1000
    redis.zadd(k.consumers, {"gone": now + 60_000})
    assert found(commands) == []
    redis.zadd(k.consumers, {"gone": now - 5000})
    (only,) = found(commands)
    assert only["code"] == {"doing": "HELD_BY_DEAD", "inbox": "INBOX_LEFTOVERS"}[part]
    assert "gone" in only["evidence"]
    assert commands("fsck", "--repair").status == 0
    assert [x[23:39] for x in ready(redis, k)] == [x[23:39] for x in e]
    redis.hset(k.stats, "server", "another")  # a server that was just started: all leases may be young
    redis.lmove(k.ready, getattr(k, part)("gone"), "RIGHT", "RIGHT")
    assert found(commands) == []


def test_registrations_without_lists(commands: Commands, redis: redis_py.Redis, queue: reliq.Queue) -> None:
    """One that should have been forgotten days ago is; a younger one stays."""
    k = queue.options.keys
    now = time.time() * 1000
    redis.zadd(k.consumers, {"old": now - 3 * 86_400_000, "young": now - 3_600_000})
    (only,) = found(commands)
    assert (only["code"], only["action"]) == ("STALE_REGISTRATION", "forget it")
    assert commands("fsck", "--repair").status == 0
    assert redis.zrange(k.consumers, 0, -1) == [b"young"]


def test_one_queue_does_not_stop_another(commands: Commands, redis: redis_py.Redis, queue: reliq.Queue) -> None:
    """All are looked at, and the exit status is that of the worst; --queue names some."""
    with commands.queue("broken") as other:
        other.put(1)
        redis.rpush(other.options.keys.ready, b"\xff")
    assert commands("fsck").status == 1
    assert commands("fsck", "--queue", "emails").status == 0
    assert "did you mean 'emails'" in commands("fsck", "--queue", "emials").error


def test_more_than_one_scan_keeps(commands: Commands, redis: redis_py.Redis, queue: reliq.Queue) -> None:
    """Thousands of one kind: the first thousand are kept, and it says so; a repair goes on until none is left."""
    k = queue.options.keys
    redis.rpush(k.ready, *(b"\xff%d" % n for n in range(2500)))
    (report,) = commands("fsck", "--json").json["queues"]
    assert (len(report["findings"]), report["looked"]["whole"]) == (1000, False)
    result = commands("fsck", "--repair")
    assert result.status == 0
    assert "2,500 findings" in result.out
    assert "and 2,480 more" in result.out
    assert (len(ready(redis, k)), redis.zcard(k.dead)) == (5, 2500)


def test_it_works_out_of_memory(own: Commands, own_server: RedisServer) -> None:
    """A full Redis can be mended."""
    with own.queue("emails") as queue, own_server.client() as redis:
        queue.put_many(range(3))
        k = queue.options.keys
        e = ready(redis, k)
        redis.rpush(k.ready, e[0], b"\xff")
        redis.zadd(k.later, {e[1]: 5e13})
        redis.config_set("maxmemory", 1)
        result = own("fsck", "--repair", "--json")
        assert result.status == 0
        assert [f["repaired"] for f in result.json["queues"][0]["findings"]] == [True] * 3
        assert sorted(ready(redis, k)) == sorted(e)


# -- faults -------------------------------------------------------------------------------------------------


@pytest.fixture
def proxy(server: RedisServer | ExternalServer) -> Iterator[FaultProxy]:
    """A proxy to the shared server that knows the scripts by name."""
    port = int(server.url.rsplit(":", 1)[1].split("/")[0])
    mending = {s.name: s.sha for s in vars(finding).values() if isinstance(s, scripts.Script)}
    with FaultProxy("127.0.0.1", port) as running:
        running.scripts.update(mending)
        yield running


def test_a_lost_reply_of_a_repair(
    commands: Commands, redis: redis_py.Redis, queue: reliq.Queue, proxy: FaultProxy
) -> None:
    """Redis ran it and the answer vanished: the repeat finds nothing to do, and nothing more is gone."""
    k = queue.options.keys
    e = ready(redis, k)
    redis.lpush(k.ready, e[1], b"\xff")
    rules = [proxy.on(script=name, action=drop_reply(), first=1) for name in ("dedupe", "entomb")]
    commands.url = proxy.url
    assert commands("fsck", "--repair").status == 0
    assert [rule.hits for rule in rules] == [1, 1]
    assert sorted(ready(redis, k)) == sorted(e)
    assert redis.zcard(k.dead) == 1


def test_a_repair_that_is_killed(commands: Commands, redis: redis_py.Redis, queue: reliq.Queue) -> None:
    """kill -9 in the middle: what it did not reach is as it was, and the same command does the rest."""
    k = queue.options.keys
    redis.rpush(k.ready, *(b"\xff%d" % n for n in range(900)))
    mender = commands.start("fsck", "--repair")
    wait_until(lambda: redis.zcard(k.dead) > 10, 30, "some are mended", every=0.001)
    os.kill(mender.pid, signal.SIGKILL)
    mender.communicate(timeout=10)
    assert redis.zcard(k.dead) + redis.llen(k.ready) == 905
    assert commands("fsck", "--repair").status == 0
    assert (redis.zcard(k.dead), redis.llen(k.ready)) == (900, 5)


def test_two_at_once(commands: Commands, redis: redis_py.Redis, queue: reliq.Queue) -> None:
    """Several repairs of the same: each thing is mended once."""
    k = queue.options.keys
    e = ready(redis, k)
    redis.rpush(k.ready, *e, *(b"\xff%d" % n for n in range(50)))
    menders = [commands.start("fsck", "--repair", "--json") for _ in range(3)]
    outs = [json.loads(mender.communicate(timeout=60)[0]) for mender in menders]
    assert sum(f["repaired"] is True for out in outs for f in out["queues"][0]["findings"]) == 55
    assert (sorted(ready(redis, k)), redis.zcard(k.dead)) == (sorted(e), 50)


# -- at work ------------------------------------------------------------------------------------------------


class Traffic:
    """Puts, delayed and failing ones too, and processes killed now and then, until it is told to end."""

    def __init__(self, it: Lab) -> None:
        self._it = it
        self._end = threading.Event()
        self._worker = it.start(processes=3, supervise=True, concurrency=4)
        self.count = 0
        self._threads = [threading.Thread(target=run) for run in (self._put, self._kill)]

    def __enter__(self) -> Traffic:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()

    def _put(self) -> None:
        with reliq.Queue("work", self._it.url, prefix=self._it.prefix, **self._it.queue_options) as queue:
            while not self._end.wait(0.002):
                numbers = range(self.count, self.count + 5)
                bodies = ({"n": n, "ms": 5, "do": "raise" if n % 10 == 3 else "work"} for n in numbers)
                queue.put_many(bodies, delay=0.2 if self.count % 7 == 2 else None)
                self.count += 5

    def _kill(self) -> None:
        while not self._end.wait(0.7):
            for child in self._worker.children()[:1]:
                with suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)


def test_a_queue_at_work_is_never_called_broken(server: Any, prefix: str, commands: Commands) -> None:
    """Scan after scan while messages are put, claimed, retried, promoted, reaped, dead-lettered and revived, and
    processes are killed: no finding. And what is really wrong is found all the same, in the same traffic."""
    with lab(server, prefix) as it, Traffic(it) as traffic:
        wait_until(it.effects, 20, "work begins")
        end, scans, looked = time.monotonic() + 12, 0, 0
        while time.monotonic() < end:
            result = commands("fsck", "--json")
            (report,) = result.json["queues"]
            assert (report["findings"], report["error"], result.status) == ([], None, 0)
            looked += sum(report["looked"][state] for state in STATES)
            scans += 1
            commands("dead", "revive", "--all")
        assert scans >= 3
        assert looked > 100
        assert traffic.count > 500
        assert {e["event"] for e in it.events()} >= {"retry", "bury", "reap", "revive"}
        k = it.queue.options.keys
        with redis_py.Redis.from_url(it.url, protocol=2) as redis:
            redis.zadd(k.later, {env.pack(bytes(range(16)), b"\x01"): 5e13})
            redis.zadd(k.dead, {b"\x80" + env.pack(bytes(range(16)), b"\x01"): 5e13})
            redis.rpush(k.doing("ghost"), env.pack(bytes(range(1, 17)), b"\x01"))
            assert set(codes(commands)) - {"STRAY_LISTS"} == {"DUPLICATE"}  # a worker may adopt ghost first
            assert commands("fsck", "--repair").status == 0
            redis.zrem(k.later, env.pack(bytes(range(16)), b"\x01"))


def test_a_repair_of_a_queue_at_work_loses_nothing(server: Any, prefix: str, commands: Commands) -> None:
    """Repairs all the time, while work goes on: every message is handled."""
    with lab(server, prefix) as it:
        with Traffic(it) as traffic:
            wait_until(it.effects, 20, "work begins")
            end = time.monotonic() + 8
            while time.monotonic() < end:
                assert found(commands, "--repair") == []
        it.drained(60)
        dead = commands("dead", "ls", "--json").json["letters"]
        handled = it.count()
        assert set(handled) == set(range(traffic.count))
        assert dead <= traffic.count


def test_a_process_reads_the_same(commands: Commands, queue: reliq.Queue) -> None:
    """As anybody would start it."""
    result: subprocess.CompletedProcess[str] | Any = commands.process("fsck", "--repair")
    assert (result.status, result.err) == (0, "")


def test_results_reports_and_keys_are_no_findings(commands: Commands, redis: redis_py.Redis) -> None:
    """What ends by itself is known, and told of by nobody; what holds something else there is."""
    with commands.queue("emails") as queue:

        @queue.ack
        @reliq.idempotent(key="k")
        def handle(body: Any, lease: reliq.Lease) -> str:
            lease.progress(50)
            return "done"

        receipt = queue.put({"k": 1}, result=60)
        reliq.Worker(handle, until_empty=True, signals=False).run()
        keys = queue.options.keys
        assert receipt.result(5) == "done"
        result = commands("fsck", "--queue", "emails")
        assert (result.status, result.err) == (0, "")
        redis.hset(keys.result(bytes(16)), "x", "y")
        result = commands("fsck", "--queue", "emails")
        assert result.status == 1
        assert "WRONG_KEY_TYPE" in result.out
