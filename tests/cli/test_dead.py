"""`reliq dead`: counted, shown, put back, removed, carried over; nothing lost and nothing doubled on the way."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis as redis_py

import reliq
from reliq.core import envelope as env
from reliq.core import scripts
from reliq.core.keys import Keys
from tests.cli.conftest import Commands
from tests.faults.lab import wait_until
from tests.faults.proxy import FaultProxy, drop_reply
from tests.servers import ExternalServer, RedisServer

ONCE = reliq.Retry(attempts=1)


class Refused(Exception):
    """A class of the application's own."""


def die(commands: Commands, bodies: list[Any], error: BaseException, queue: str = "emails") -> list[str]:
    """Put messages and let a handler fail with all of them; returns their ids."""
    with commands.queue(queue, retry=ONCE) as q:
        ids = q.put_many(bodies)
        with q.consumer(until_empty=True) as consumer:
            for lease in consumer:
                with lease:
                    raise error
    return ids


def keys(commands: Commands, queue: str = "emails") -> Keys:
    return Keys(queue, commands.prefix)


def members(redis: redis_py.Redis, commands: Commands) -> list[tuple[bytes, float]]:
    """All that is dead, with its time."""
    found: Any = redis.zrange(keys(commands).dead, 0, -1, withscores=True)
    return list(found)


def ids_of(elements: list[bytes]) -> list[str]:
    return [env.unpack(e).id.hex() for e in elements]


def ready(redis: redis_py.Redis, commands: Commands) -> list[bytes]:
    """What is ready, the next to be claimed first."""
    found: Any = redis.lrange(keys(commands).ready, 0, -1)
    return list(found[::-1])


def label(value: Any) -> str:
    """How a case is called: by what is typed."""
    return " ".join(value) if isinstance(value, list) else str(value)


# -- ls -----------------------------------------------------------------------------------------------------


def test_ls_groups_by_cause_and_exception(commands: Commands) -> None:
    """The largest group first, with its span of time and the newest one's id and error; what to type next."""
    assert commands("put", "--queue", "emails", "1", "--delay", "600").status == 0
    result = commands("dead", "ls")
    assert (result.status, result.out) == (0, "queue emails: 0 dead letters\n")
    die(commands, [1], reliq.Bury("no such account"))
    die(commands, [2], Refused("not today"))
    ids = die(commands, [3, 4], ValueError("no such address"))
    document = commands("dead", "ls", "--json").json
    assert (document["queue"], document["letters"]) == ("emails", 4)
    groups = document["groups"]
    assert [(g["cause"], g["exception"], g["count"], g["error"]) for g in groups] == [
        ("ATTEMPTS", "ValueError", 2, "ValueError: no such address"),
        ("ATTEMPTS", "Refused", 1, "Refused: not today"),
        ("BURIED", "", 1, "no such account"),
    ]
    assert groups[0]["id"] in ids
    assert all(abs(g["newest"] / 1000 - time.time()) < 60 and g["oldest"] <= g["newest"] for g in groups)
    out = commands.process("dead", "ls").out
    assert "queue emails: 4 dead letters" in out
    assert re.search(r"    2  ATTEMPTS  ValueError +\S.* ago +\S.* ago +ValueError: no such address", out)
    assert "Next: reliq dead show" in out
    assert f"--cause ATTEMPTS --exception ValueError --queue emails --prefix {commands.prefix}" in out


@pytest.mark.parametrize(
    ("words", "count"),
    [
        (["--cause", "buried"], 1),
        (["--cause", "DEAD_ATTEMPTS"], 4),
        (["--cause", "ATTEMPTS", "--cause", "BURIED"], 5),
        (["--exception", "Refused"], 1),
        (["--exception", "ValueError", "--cause", "BURIED"], 0),
        (["--field", "user.id=17"], 1),
        (["--field", "user.name=17"], 1),
        (["--field", "tags.1=b", "--field", "user.id=17"], 1),
        (["--field", "tags.7=b"], 0),
        (["--field", "gone=null"], 1),
        (["--field", "user=17"], 0),
        (["--field", "user.name=eighteen=18"], 1),
        (["--since", "1h"], 5),
        (["--since", "2030-01-01T00:00Z"], 0),
        (["--since", "2001-01-01T00:00+02:00"], 5),
    ],
    ids=label,
)
def test_filters(commands: Commands, words: list[str], count: int) -> None:
    """Of one kind any, of two kinds both; fields are paths into the decoded body, by value or by text."""
    base: dict[str, Any] = {"user": {"id": 1, "name": "x"}, "tags": ["a"], "gone": 1}
    die(commands, [base, base | {"user": {"id": 17, "name": "17"}, "tags": ["a", "b"]}], ValueError("x"))
    die(commands, [base | {"user": {"name": "eighteen=18"}}], Refused("y"))
    die(commands, [base | {"gone": None}], ValueError("x"))
    die(commands, ["text"], reliq.Bury("z"))
    assert commands("dead", "ls", "--json", *words).json["letters"] == count


def test_since_is_the_time_of_death(commands: Commands, redis: redis_py.Redis) -> None:
    """By the server's clock, to the ms."""
    die(commands, [1, 2], ValueError("x"))
    (old, _), _ = members(redis, commands)
    redis.zincrby(keys(commands).dead, -3 * 3_600_000, old)
    assert [commands("dead", "ls", "--json", "--since", s).json["letters"] for s in ("2h", "240m")] == [1, 2]


# -- show ---------------------------------------------------------------------------------------------------


def test_show_tells_all(commands: Commands) -> None:
    """Body, meta, counters, history from the ledger, traceback, and the command that puts it back."""
    with commands.queue("emails", retry=reliq.Retry(attempts=2, wait=lambda _: 0.0)) as queue:
        with reliq.context.tracing("4bf92f3577b34da6a3ce929d0e0e4736"):
            id = queue.put({"to": "nobody"}, id="order-17")
        with queue.consumer() as consumer:
            for _ in range(2):
                with next(iter(consumer)):
                    raise ValueError("no such address")
    document = commands("dead", "show", "order-17", "--json").json
    (letter,) = document["letters"]
    assert document["missing"] == []
    assert (letter["id"], letter["body"], letter["fence"]) == (id, {"to": "nobody"}, 3)
    assert (letter["failed"], letter["losses"], letter["dead"]["cause"]) == (2, 0, "ATTEMPTS")
    assert letter["meta"]["t"] == letter["trace_id"] == "4bf92f3577b34da6a3ce929d0e0e4736"
    assert letter["meta"]["e"] == "ValueError: no such address"
    assert abs(letter["put_ms"] / 1000 - time.time()) < 60
    assert [(e["event"], e["consumer"]) for e in letter["history"]] == [
        ("retry", consumer.name), ("bury", consumer.name),
    ]  # fmt: skip
    out = commands("dead", "show", "order-17").out
    for part in (
        *('{"to": "nobody"}', "ATTEMPTS", "failed 2, released 0, losses 0, fence 3", "| Traceback", "raise V"),
        *(f"retry by {consumer.name}", f"bury by {consumer.name}"),
        f"Next: reliq dead revive {id} --queue emails",
    ):
        assert part in out


def test_show_of_what_is_not_there(commands: Commands) -> None:
    """Exit status 1, and where to look instead; those that are there are shown all the same."""
    (id,) = die(commands, [1], ValueError("x"))
    result = commands("dead", "show", id, "order-18")
    assert result.status == 1
    missing = env.named_id("order-18").hex()
    assert f"! {missing} is not among the dead letters of queue emails" in result.out
    assert f"reliq peek --id {missing} --queue emails" in result.out
    assert f"{id}  dead" in result.out
    assert commands("dead", "show", "order-18", "--json").json == {
        "schema": 1, "queue": "emails", "letters": [], "missing": [missing],
    }  # fmt: skip


def test_what_is_no_letter_can_be_named_too(commands: Commands, redis: redis_py.Redis) -> None:
    """Foreign members are listed, shown under an id of their own, exported, and removed by it."""
    die(commands, [1], ValueError("x"))
    redis.zadd(keys(commands).dead, {b"\xc1 no note\x1b[2J": float("inf"), b"\x81\xa2id\xc4\x01\xffraw": 1.0})
    groups = {g["cause"]: g for g in commands("dead", "ls", "--json").json["groups"]}
    id = groups["BAD_NOTE"]["id"]
    result = commands("dead", "show", id)
    assert result.status == 0
    assert "BAD_NOTE" in result.out
    assert "\x1b" not in result.out
    assert commands("dead", "show", id, "--json").json["letters"][0]["problem"]["code"] == "BAD_NOTE"
    assert commands("dead", "rm", id, "--yes", "--json").json["removed"] == 1
    assert len(members(redis, commands)) == 2


# -- revive -------------------------------------------------------------------------------------------------


def test_revived_messages_are_handled(commands: Commands) -> None:
    """By id: with all attempts before it, a larger fence, and a line in the ledger."""
    first, second = die(commands, [1, 2], ValueError("x"))
    result = commands("dead", "revive", first)
    assert result.status == 0
    assert "queue emails: 1 dead letter revived: they are ready, behind what waits" in result.out
    with commands.queue("emails", retry=ONCE) as queue, queue.consumer() as consumer:
        (lease,) = consumer.claim(1)
        assert (lease.id, lease.body, lease.attempt, lease.fence) == (first, 1, 1, 3)
        lease.ack()
        assert queue.size() == (0, 0, 0, 1)
    assert commands("dead", "ls", "--json").json["groups"][0]["id"] == second
    result = commands("dead", "revive", first)
    assert result.status == 1
    assert f"! {first} is not among the dead" in result.out


def test_revive_by_filter_keeps_the_order(commands: Commands, redis: redis_py.Redis) -> None:
    """Only those that are meant, oldest first, behind what is ready."""
    with commands.queue("emails") as queue:
        dying = die(commands, [{"n": n} for n in range(3)], ValueError("x"))
        buried = die(commands, [3], reliq.Bury("y"))
        waiting = queue.put(4)
    document = commands("dead", "revive", "--cause", "ATTEMPTS", "--json").json
    assert document == {"schema": 1, "queue": "emails", "revived": 3, "gone": 0, "missing": []}
    assert ids_of(ready(redis, commands))[0] == waiting
    assert sorted(ids_of(ready(redis, commands))[1:]) == sorted(dying)
    assert commands("dead", "revive", "--all", "--json").json["revived"] == 1
    assert ids_of(ready(redis, commands))[-1:] == buried


def test_unknown_versions_revive_unchanged(commands: Commands, redis: redis_py.Redis) -> None:
    """What died unread goes back byte by byte, and dies again under a worker that still cannot read it."""
    newer = bytearray(env.pack(bytes(range(16)), b"\x01"))
    newer[4] = 9
    with commands.queue("emails") as queue:
        queue.put(0, delay=600)
        redis.lpush(keys(commands).ready, bytes(newer), b"\xff no json")
        with queue.consumer(until_empty=True) as consumer:
            assert list(consumer) == []
    causes = {"UNSUPPORTED_VERSION", "UNDECODABLE"}
    assert {g["cause"] for g in commands("dead", "ls", "--json").json["groups"]} == causes
    assert commands("dead", "revive", "--all", "--json").json["revived"] == 2
    elements = ready(redis, commands)
    assert bytes(newer) in elements
    assert any(e.endswith(b"\xff no json") for e in elements)


def test_what_dies_meanwhile_is_left(commands: Commands) -> None:
    """Revived messages that die again at once are not revived again by the same command."""
    die(commands, list(range(20)), ValueError("x"))
    with commands.queue("emails", retry=ONCE) as queue:

        @queue.ack
        def fail(body: int) -> None:
            raise ValueError("again")

        reviver = commands.start("dead", "revive", "--all", "--rate", "20/s", "--json")
        try:
            worker = reliq.Worker(fail, until_empty=True)
            while reviver.poll() is None:
                worker = reliq.Worker(fail, until_empty=True, signals=False)
                worker.run()
        finally:
            out, _ = reviver.communicate(timeout=30)
        assert json.loads(out)["revived"] == 20
        reliq.Worker(fail, until_empty=True, signals=False).run()
        assert queue.size() == (0, 0, 0, 20)


def test_rate(commands: Commands) -> None:
    """Not faster than told: 12 at 20/s take 0.5 s, in calls of two."""
    die(commands, list(range(12)), ValueError("x"))
    started = time.monotonic()
    assert commands("dead", "revive", "--all", "--rate", "20/s").status == 0
    assert time.monotonic() - started >= 0.5


def test_revive_from_python(commands: Commands) -> None:
    """Queue.revive takes an id, also one of the user's own, and says whether there was a letter."""
    with commands.queue("emails", retry=ONCE) as queue:
        queue.put(1, id="order-17")
        with queue.consumer() as consumer:
            consumer.claim(1)[0].bury("no")
        assert queue.revive("order-17") is True
        assert queue.revive("order-17") is False
        assert queue.size() == (1, 0, 0, 0)


# -- rm -----------------------------------------------------------------------------------------------------


def test_rm_asks(commands: Commands) -> None:
    """It shows what it is about; only yes removes, and without an answer nothing happens."""
    die(commands, [1, 2], ValueError("x"))
    for answer in (b"n\n", b"\n"):
        result = commands("dead", "rm", "--all", stdin=answer)
        assert result.status == 1
        assert "ATTEMPTS  ValueError" in result.out
        assert "nothing was removed" in result.out
    result = commands("dead", "rm", "--all")
    assert result.status == 2
    assert "say --yes" in result.error
    assert commands("dead", "ls", "--json").json["letters"] == 2
    result = commands("dead", "rm", "--all", stdin=b"y\n")
    assert result.status == 0
    assert "2 dead letters removed for good" in result.out
    assert commands("dead", "ls", "--json").json["letters"] == 0


def test_rm_by_id_and_filter(commands: Commands) -> None:
    """Only those that are meant."""
    first, _ = die(commands, [1, 2], ValueError("x"))
    die(commands, [{"n": 3}], reliq.Bury("y"))
    assert commands("dead", "rm", first, "--yes", "--json").json["removed"] == 1
    assert commands("dead", "rm", "--field", "n=3", "--yes", "--json").json["removed"] == 1
    assert [g["count"] for g in commands("dead", "ls", "--json").json["groups"]] == [1]


# -- export and import --------------------------------------------------------------------------------------


def test_there_and_back(commands: Commands, redis: redis_py.Redis, tmp_path: Path) -> None:
    """export, rm --exported, import: every byte and every time is back; what died in between is untouched."""
    die(commands, ["é\x00", {"a": b"\xff\xfe"}, "x" * 300_000], ValueError("naïve\ud800"))
    redis.zadd(keys(commands).dead, {b"": 1.5, b"\xc1\xff no note": float("inf")})
    before = members(redis, commands)
    exported = commands.process("dead", "export")
    assert (exported.status, "5 dead letters exported" in exported.err) == (0, True)
    lines = exported.out.splitlines()
    assert [json.loads(line)["schema"] for line in lines] == [1] * 5
    assert members(redis, commands) == before
    file = tmp_path / "dead.jsonl"
    file.write_text(exported.out)
    (late,) = die(commands, ["late"], ValueError("x"))
    assert commands("dead", "rm", "--exported", str(file), "--yes", "--json").json["removed"] == 5
    assert commands("dead", "ls", "--json").json["groups"][0]["id"] == late
    for imported in (5, 0):
        document = commands("dead", "import", str(file), "--json").json
        assert (document["imported"], document["skipped"]) == (imported, 5 - imported)
    after = [pair for pair in members(redis, commands) if late.encode() not in pair[0]]
    assert after == before


def test_import_twice_adds_no_second_copy(commands: Commands, redis: redis_py.Redis) -> None:
    """Not beside the same letter, nor beside one that died again, nor after it was revived."""
    (id,) = die(commands, [1], ValueError("x"))
    export = commands.process("dead", "export").out.encode()
    assert commands("dead", "revive", id).status == 0
    assert commands("dead", "import", "--json", stdin=export).json["skipped"] == 1
    with commands.queue("emails", retry=ONCE) as queue, queue.consumer(until_empty=True) as consumer:
        for lease in consumer:
            with lease:
                raise ValueError("again")
    redis.delete(*redis.keys(f"{commands.prefix}:*:seen:*"))  # an hour later
    assert commands("dead", "import", "--json", stdin=export).json["skipped"] == 1
    assert len(members(redis, commands)) == 1
    twice = export + b"\n" + export
    assert commands("dead", "rm", id, "--yes").status == 0
    assert commands("dead", "import", "--json", stdin=twice).json == {
        "schema": 1, "queue": "emails", "imported": 1, "skipped": 1,
    }  # fmt: skip


def test_into_another_queue(commands: Commands, redis: redis_py.Redis) -> None:
    """An export is not bound to the queue that it came from."""
    die(commands, [1], ValueError("x"))
    with commands.queue("other") as queue:
        queue.put(0, delay=600)
    export = commands.process("dead", "export", "--queue", "emails").out.encode()
    assert commands("dead", "import", "--queue", "other", stdin=export).status == 0
    assert redis.zrange(keys(commands, "other").dead, 0, -1) == redis.zrange(keys(commands).dead, 0, -1)


def changed(line: str, **fields: Any) -> bytes:
    return json.dumps({**json.loads(line), **fields}).encode()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda line: b"{", "line 2 is no line of reliq dead export"),
        (lambda line: b"[]", "no object but list"),
        (lambda line: changed(line, schema=2), "its schema is 2"),
        (lambda line: changed(line, member="YQ"), "padding"),
        (lambda line: changed(line, member="\u00e9"), "line 2"),
        (lambda line: changed(line, id="0" * 32), "it was changed"),
        (lambda line: changed(line, score="nan"), "its score is nan"),
        (lambda line: changed(line, score="soon"), "line 2"),
        (lambda line: json.dumps({"schema": 1}).encode(), "'score' is missing"),
        (lambda line: b"\xff", "line 2"),
    ],
)
def test_a_line_that_is_none(commands: Commands, redis: redis_py.Redis, change: Any, says: str) -> None:
    """Named by its number and the reason; what is before it is in, and may be imported again."""
    die(commands, [1, 2], ValueError("x"))
    first, second = commands.process("dead", "export").out.splitlines()
    assert commands("dead", "rm", "--all", "--yes").status == 0
    result = commands("dead", "import", stdin=first.encode() + b"\n" + change(second) + b"\n")
    assert result.status == 2
    assert says in result.err
    assert "1 dead letter imported before the end" in result.err
    assert len(members(redis, commands)) == 1
    assert commands("dead", "import", stdin=f"{first}\n\n{second}\n".encode()).status == 0
    assert len(members(redis, commands)) == 2


def test_full_redis_refuses_an_import(
    own_server: RedisServer, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """QueueFull, nothing of the call is in; revive and rm work all the same, so it can be drained."""
    commands = Commands(own_server.url, "full", capsys, tmp_path)
    ids = die(commands, [1, 2], ValueError("x"))
    export = commands.process("dead", "export").out.encode()
    own_server.cli("CONFIG", "SET", "maxmemory", "1")
    assert commands("dead", "revive", ids[0]).status == 0
    assert commands("dead", "rm", ids[1], "--yes").status == 0
    result = commands("dead", "import", stdin=export)
    assert result.status == 1
    assert "OOM" in result.err
    assert commands("dead", "ls", "--json").json["letters"] == 0


# -- faults -------------------------------------------------------------------------------------------------


@pytest.fixture
def proxy(server: RedisServer | ExternalServer) -> Iterator[FaultProxy]:
    """A proxy to the shared server that knows the scripts by name."""
    port = int(server.url.rsplit(":", 1)[1].split("/")[0])
    with FaultProxy("127.0.0.1", port) as running:
        running.scripts.update({s.name: s.sha for s in vars(scripts).values() if isinstance(s, scripts.Script)})
        yield running


@pytest.mark.parametrize("verb", ["revive", "discard", "restore"])
def test_a_lost_reply_neither_loses_nor_doubles(
    commands: Commands, redis: redis_py.Redis, proxy: FaultProxy, verb: str
) -> None:
    """Redis ran the call and its answer vanished: it is repeated, does nothing more, and is counted as done."""
    ids = die(commands, [1, 2, 3], ValueError("x"))
    export = commands.process("dead", "export").out.encode()
    if verb == "restore":
        assert commands("dead", "rm", "--all", "--yes").status == 0
    rule = proxy.on(script=verb, action=drop_reply())
    commands.url = proxy.url
    words = {"revive": ("revive", "--all"), "discard": ("rm", "--all", "--yes"), "restore": ("import",)}[verb]
    document = commands("dead", *words, "--json", stdin=export).json
    assert rule.hits == 1
    done = {"revive": "revived", "discard": "removed", "restore": "imported"}[verb]
    assert (document[done], document.get("gone", 0), document.get("skipped", 0)) == (3, 0, 0)
    places = ids_of(ready(redis, commands)), len(members(redis, commands))
    assert places == {"revive": (ids, 0), "discard": ([], 0), "restore": ([], 3)}[verb]


def test_a_revive_that_is_killed(commands: Commands, redis: redis_py.Redis) -> None:
    """kill -9 in the middle: every message is in one place, and the same command does the rest."""
    ids = die(commands, list(range(300)), ValueError("x"))
    reviver = commands.start("dead", "revive", "--all", "--rate", "400/s")
    wait_until(lambda: redis.llen(keys(commands).ready) > 20, 20, "some are revived")
    os.kill(reviver.pid, signal.SIGKILL)
    reviver.communicate(timeout=10)
    revived = ids_of(ready(redis, commands))
    left = [env.split_note(member)[0]["id"] for member, _ in members(redis, commands)]
    assert left
    assert sorted(revived + left) == sorted(ids)
    assert commands("dead", "revive", "--all", "--json").json["revived"] == len(left)
    assert sorted(ids_of(ready(redis, commands))) == sorted(ids)


def test_many_at_once(commands: Commands, redis: redis_py.Redis) -> None:
    """Several revivers of the same letters: each message is revived once, and their counts add up."""
    ids = die(commands, list(range(250)), ValueError("x"))
    revivers = [commands.start("dead", "revive", "--all", "--json") for _ in range(3)]
    outs = [json.loads(reviver.communicate(timeout=60)[0]) for reviver in revivers]
    assert sum(out["revived"] for out in outs) == 250
    assert sorted(ids_of(ready(redis, commands))) == sorted(ids)


def test_interrupted(commands: Commands, redis: redis_py.Redis) -> None:
    """Ctrl-C says how many were done, and leaves the rest."""
    die(commands, list(range(50)), ValueError("x"))
    reviver = commands.start("dead", "revive", "--all", "--rate", "20/s")
    wait_until(lambda: redis.llen(keys(commands).ready) > 3, 20, "some are revived")
    reviver.send_signal(signal.SIGINT)
    _, err = reviver.communicate(timeout=10)
    assert reviver.returncode == 130
    done = re.findall(r"queue emails: (\d+) dead letters revived before the end", err)
    assert [int(n) for n in done] == [redis.llen(keys(commands).ready)]


# -- wrong use ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], ["needs a second word", "ls, show, revive, rm, export, import", "reliq dead ls"]),
        (["sl"], ["no command dead 'sl'"]),
        (["revve", "x"], ["did you mean 'revive'"]),
        (["show"], ["ID", "reliq dead show --help"]),
        (["revive"], ["which ones?", "--cause", "--all"]),
        (["rm"], ["which ones?"]),
        (["revive", "--all", "--cause", "X"], ["--all", "leave it out"]),
        (["revive", "--all", "--rate", "fast"], ["'fast'", "20/s"]),
        (["revive", "--all", "--rate", "0/s"], ["'0/s'"]),
        (["ls", "--since", "yesterday"], ["'yesterday'", "2h"]),
        (["ls", "--since", "2030-01-01T08:00"], ["no zone", "2030-01-01T08:00Z"]),
        (["ls", "--field", "user.id"], ["'user.id'", "user.id=17"]),
        (["ls", "--field", "a..b=1"], ["'a..b=1'"]),
        (["import", "nowhere.jsonl"], ["nowhere.jsonl cannot be read"]),
        (["rm", "--exported", "nowhere.jsonl", "--yes"], ["nowhere.jsonl cannot be read"]),
        (["rm", "--exported", "-"], ["say --yes"]),
        (["rm", "--exported", "x", "--all"], ["leave ids and filters out"]),
        (["ls", "--queue", "emials"], ["did you mean 'emails'"]),
    ],
    ids=label,
)
def test_wrong_use(commands: Commands, words: list[str], says: list[str]) -> None:
    """One line that names what is wrong and what to type; exit status 2."""
    with commands.queue("emails") as queue:
        queue.put(1)
    result = commands("dead", *words)
    assert result.status == 2
    last = result.err.splitlines()[-1]
    assert all(part in last for part in says), last


def test_each_has_help(no_server: Commands) -> None:
    """`reliq dead --help` lists them, and each has an example of its own."""
    listed = no_server.plain("dead", "--help")
    assert listed.status == 0
    for name in ("ls", "show", "revive", "rm", "export", "import"):
        assert f"  {name} " in listed.out
        result = no_server.plain("dead", name, "--help")
        assert result.status == 0
        assert f"example:\n  reliq dead {name}" in result.out
        assert "--queue" in result.out
