"""Commands and large bodies: shown, removed, carried over and searched as those in the list are."""

from __future__ import annotations

import json
import re
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import redis as redis_py

import reliq
from reliq.cli import peek
from reliq.core.keys import Keys
from tests.cli.conftest import Commands

ONCE = reliq.Retry(attempts=1)
LARGE = 100_000


def keys(commands: Commands) -> Keys:
    return Keys("q", commands.prefix)


def bodies(redis: redis_py.Redis, commands: Commands) -> dict[str, bytes]:
    """What lies beside the list."""
    found = sorted(redis.scan_iter(match=keys(commands).body(b"") + "*", count=1000))
    return {key.decode(): redis.get(key) for key in found}


def die(commands: Commands, *messages: Any) -> list[str]:
    """Put them and let a handler fail with all; their ids."""
    with commands.queue("q", retry=ONCE) as queue:
        ids = queue.put_many(messages)
        with queue.consumer(until_empty=True) as consumer:
            for lease in consumer:
                with lease:
                    raise ValueError("no")
    return ids


def handled(commands: Commands) -> list[Any]:
    """What is ready, by handling it."""
    found = []
    with commands.queue("q") as queue, queue.consumer(until_empty=True) as consumer:
        for lease in consumer:
            with lease:
                found.append(lease.body)
    return found


def test_put_and_peek(commands: Commands) -> None:
    """A large body is put by a shell as any other; peek shows its beginning, and all of it if that is wanted."""
    large = "x" * LARGE
    assert commands("put", "--queue", "q", "--text", "-", stdin=large.encode()).status == 0
    assert commands("put", "--queue", "q", "1").status == 0
    first, second = commands("peek", "--json").json["messages"]
    assert (first["beside"], second["beside"]) == (LARGE + 5, None)
    assert LARGE < first["bytes"] < LARGE + 200
    assert (first["body"], first["truncated"], first["preview"][:5]) == (None, True, '"xxxx')
    assert (second["body"], second["truncated"]) == (1, False)
    out = commands("peek").out
    assert "body of 100,005 bytes, beside the list" in out
    assert max(map(len, out.splitlines())) < 310
    assert commands("peek", "--json", "--full").json["messages"][0]["body"] == large
    assert handled(commands) == [large, 1]


@pytest.mark.parametrize("state", ["ready", "doing", "later", "dead"])
def test_peek_filters_by_what_is_in_large_bodies(commands: Commands, redis: redis_py.Redis, state: str) -> None:
    """In every state; and a body is fetched only where all else fits."""
    made = [{"n": n, "fill": "x" * LARGE} for n in range(3)]
    if state == "dead":
        ids = die(commands, *made)
    with commands.queue("q") as queue:
        if state != "dead":
            ids = queue.put_many(made, delay=600 if state == "later" else None)
        with queue.consumer(prefetch=3) as consumer:
            held = consumer.claim(2) + consumer.claim(1) if state == "doing" else []
            before = redis.info("commandstats").get("cmdstat_get", {"calls": 0})["calls"]
            result = commands("peek", "--state", state, "--where", "n=1", "--json")
            assert [m["id"] for m in result.json["messages"]] == [ids[1]]
            assert redis.info("commandstats")["cmdstat_get"]["calls"] - before == 4  # three asked, one shown
            assert (
                commands("peek", "--state", state, "--until", "1h", "--where", "n=1", "--json").json["messages"]
                == []
            )
            assert redis.info("commandstats")["cmdstat_get"]["calls"] - before == 4
            for lease in held:
                lease.release()


def test_peek_holds_one_body_at_a_time(commands: Commands) -> None:
    """Forty of 4 MB are shown with less than ten of them in memory, of which that one is taken apart."""
    size = 4_000_000
    with commands.queue("q") as queue:
        queue.put_many(["x" * size] * 40)
    tracemalloc.start()
    try:
        assert commands("peek", "-n", "40").out.count("4,000,005 bytes, beside the list") == 40
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 10 * size


def test_peek_of_a_body_that_is_gone(commands: Commands, redis: redis_py.Redis) -> None:
    """It is said, and the others are shown."""
    with commands.queue("q") as queue:
        queue.put_many(["x" * LARGE, "y" * LARGE])
    [gone] = [key for key, body in bodies(redis, commands).items() if body.endswith(b"x")]
    redis.delete(gone)
    first, second = commands("peek", "--json").json["messages"]
    assert first["problem"]["code"] == "BODY_MISSING"
    assert gone in first["problem"]["reason"]
    assert second["problem"] is None
    redis.sadd(gone, "x")
    assert "BODY_MISSING" in commands("peek").out


def test_a_dead_letter_without_its_body_is_not_to_be_revived(commands: Commands, redis: redis_py.Redis) -> None:
    """It would only die of the same again; of others it is the next step."""
    with commands.queue("q") as queue:
        queue.put("x" * LARGE)
        [gone] = bodies(redis, commands)
        redis.delete(gone)
        with queue.consumer(until_empty=True) as consumer:
            assert not list(consumer)
        told = commands("dead", "ls").out
        assert "DEAD_BODY_MISSING" in told
        assert "dead show" in told
        assert "revive" not in told
        redis.flushall()
        queue.put(2)
        with queue.consumer(until_empty=True) as consumer:
            next(consumer).bury("so")
        assert "then: reliq dead revive" in commands("dead", "ls").out


def test_dead_letters_there_and_back(commands: Commands, redis: redis_py.Redis, tmp_path: Path) -> None:
    """show, export, rm --exported, import, revive: the body is with its letter at every step, and nowhere else."""
    made = ["a" * LARGE, 1, {"b": "é" * LARGE}]
    ids = die(commands, *made)
    before = bodies(redis, commands)
    members = redis.zrange(keys(commands).dead, 0, -1, withscores=True)
    assert len(before) == 2
    shown = commands("dead", "show", ids[0])
    assert "100,005 bytes in a key of their own" in shown.out
    assert '"' + "a" * LARGE + '"' in shown.out
    assert commands("dead", "show", ids[2], "--json").json["letters"][0]["body"] == made[2]
    exported = commands("dead", "export")
    assert "body" not in json.loads(exported.out.splitlines()[1])
    file = tmp_path / "dead.jsonl"
    file.write_text(exported.out)
    assert bodies(redis, commands) == before
    assert commands("dead", "rm", "--exported", str(file), "--yes", "--json").json["removed"] == 3
    assert bodies(redis, commands) == {}
    for imported in (3, 0):
        document = commands("dead", "import", str(file), "--json").json
        assert (document["imported"], document["skipped"]) == (imported, 3 - imported)
    assert bodies(redis, commands) == before
    assert redis.zrange(keys(commands).dead, 0, -1, withscores=True) == members
    assert commands("dead", "revive", "--all").status == 0
    assert handled(commands) == made
    assert bodies(redis, commands) == {}


def test_letters_are_chosen_by_what_is_in_large_bodies(commands: Commands, redis: redis_py.Redis) -> None:
    """rm takes the letter that is meant, and its body."""
    die(commands, *({"n": n, "fill": "x" * LARGE} for n in range(3)))
    assert commands("dead", "rm", "--field", "n=1", "--yes", "--json").json["removed"] == 1
    assert len(bodies(redis, commands)) == 2
    assert commands("dead", "revive", "--all").status == 0
    assert [body["n"] for body in handled(commands)] == [0, 2]


def test_an_export_of_a_letter_without_its_body(commands: Commands, redis: redis_py.Redis) -> None:
    """It is said that it lacks; the letter is carried over all the same."""
    (id,) = die(commands, "x" * LARGE)
    redis.delete(*bodies(redis, commands))
    exported = commands("dead", "export")
    assert "1 without a body: it is gone" in exported.err
    assert json.loads(exported.out)["body"] is None
    assert commands("dead", "rm", id, "--yes").status == 0
    assert commands("dead", "import", "--json", stdin=exported.out.encode()).json["imported"] == 1
    assert "there is no body at" in commands("dead", "show", id).out


@pytest.mark.parametrize("body", ["eHh4", "no base64!", 7])
def test_a_changed_body_is_not_imported(commands: Commands, redis: redis_py.Redis, body: Any) -> None:
    """The line is named; nothing of it is written."""
    die(commands, "x" * LARGE)
    line = json.loads(commands("dead", "export").out)
    assert commands("dead", "rm", "--all", "--yes").status == 0
    result = commands("dead", "import", stdin=json.dumps(line | {"body": body}).encode())
    assert result.status == 2
    assert "line 1 is no line of reliq dead export" in result.err
    assert bodies(redis, commands) == {}


@pytest.mark.parametrize("state", ["ready", "later", "dead"])
def test_explain_tells_what_lies_beside(commands: Commands, state: str) -> None:
    """The size is that of all of it."""
    if state == "dead":
        (id,) = die(commands, "x" * LARGE)
    else:
        with commands.queue("q") as queue:
            id = queue.put("x" * LARGE, delay=600 if state == "later" else None)
    found = commands("explain", id, "--json").json
    assert (found["state"], found["beside"]) == (state, LARGE + 5)
    assert LARGE < found["size"] < LARGE + 500
    out = " ".join(commands("explain", id).out.split())
    assert re.search(r"100,\d+ bytes \(100,005 of them beside the list\)", out)
    with commands.queue("q") as queue:
        assert commands("explain", queue.put(1), "--json").json["beside"] is None


def test_errors_tells_of_the_cause(commands: Commands) -> None:
    """However it is typed."""
    for word in ("BODY_MISSING", "dead-body-missing"):
        out = commands("errors", word).out
        assert out.startswith("DEAD_BODY_MISSING: its body, which lies beside the list, is gone")


def test_found_without_a_ticket_is_itself() -> None:
    """Nothing is asked of Redis for what came with its element."""
    found = peek.Found("ready", b"1")
    queue: Any = None
    assert found.whole(queue) is found
