"""`reliq peek`: what stands where, read only."""

from __future__ import annotations

import time
from datetime import date, datetime, timezone
from decimal import Decimal
from uuid import UUID

import pytest
import redis as redis_py

import reliq
from reliq.core import envelope as env
from reliq.core.keys import Keys
from tests.cli.conftest import Commands


def snapshot(client: redis_py.Redis, prefix: str) -> dict[bytes, bytes | None]:
    return {key: client.dump(key) for key in client.scan_iter(f"{prefix}*")}


def test_ready_in_the_order_of_claiming(commands: Commands) -> None:
    """The next to be claimed stands first; -n bounds; ids, attempts and age are there."""
    with commands.queue("emails") as queue:
        ids = queue.put_many({"n": n} for n in range(20))
    document = commands("peek", "--queue", "emails", "--json", "-n", "3").json
    assert document["queue"] == "emails"
    assert [m["id"] for m in document["messages"]] == ids[:3]
    first = document["messages"][0]
    assert (first["body"], first["state"], first["attempt"], first["deliveries"]) == ({"n": 0}, "ready", 1, 0)
    assert 0 <= first["age_ms"] < 60_000
    result = commands.process("peek", "-n", "2")  # the only queue needs no name
    assert result.status == 0
    assert f"{ids[0]}  ready  attempt 1, deliveries 0, losses 0" in result.out
    assert '  {"n": 1}' in result.out
    assert '{"n": 2}' not in result.out


def test_which_queue(commands: Commands) -> None:
    """With several queues the name is needed, and the error lists them."""
    for name in ("emails", "images"):
        with commands.queue(name) as queue:
            queue.put(1)
    result = commands("peek")
    assert result.status == 2
    assert "which queue?" in result.error
    assert "emails, images" in result.error


def test_nothing_there(commands: Commands) -> None:
    """An empty state is fine and says so."""
    with commands.queue("emails") as queue:
        queue.put(1)
    result = commands("peek", "--state", "dead")
    assert (result.status, result.out) == (0, "queue emails: nothing in dead\n")


def test_dead_letter_says_why(commands: Commands) -> None:
    """Cause, error, worker, time and the end of the traceback; --full has all of it."""
    with commands.queue("emails", retry=reliq.Retry(attempts=1)) as queue:
        queue.put({"to": "nobody"})
        with queue.consumer(until_empty=True) as consumer:
            for lease in consumer:
                with lease:
                    raise ValueError("no such address")
    (message,) = commands("peek", "--state", "dead", "--json").json["messages"]
    dead = message["dead"]
    assert (dead["cause"], dead["error"]) == ("ATTEMPTS", "ValueError: no such address")
    assert dead["worker"] == consumer.name
    assert "raise ValueError" in dead["traceback"]
    assert abs(dead["at"] / 1000 - time.time()) < 60
    assert (message["body"], message["attempt"], message["failed"]) == ({"to": "nobody"}, 1, 1)
    out = commands("peek", "--state", "dead").out
    assert "ATTEMPTS at 2" in out
    assert f"in {consumer.name}: ValueError: no such address" in out
    assert "| ValueError: no such address" in out
    assert "| Traceback" not in out
    assert "| Traceback" in commands("peek", "--state", "dead", "--full").out


def test_doing_and_later(commands: Commands) -> None:
    """What a consumer holds is shown with its name, a retried message with its last error and due time."""
    with commands.queue("emails") as queue:
        queue.put_many([1, 2])
        with queue.consumer() as consumer:
            (lease,) = consumer.claim(1)
            lease.retry(delay=60, reason="busy")
            (second,) = consumer.claim(1)
            (doing,) = commands("peek", "--state", "doing", "--json").json["messages"]
            assert (doing["id"], doing["consumer"], doing["deliveries"]) == (second.id, consumer.name, 1)
            second.ack()
    (later,) = commands("peek", "--state", "later", "--json").json["messages"]
    assert (later["last_error"], later["attempt"], later["deliveries"]) == ("busy", 2, 1)
    assert 50_000 < later["due_ms"] <= 60_000
    out = commands("peek", "--state", "later").out
    assert "due in 60 s" in out or "due in 59 s" in out
    assert "last error: busy" in out


def test_by_id_in_every_state(commands: Commands) -> None:
    """--id looks everywhere, takes an id of the user's own, and exit status 1 means it is not there."""
    with commands.queue("emails") as queue:
        ids = queue.put_many(range(300))
        queue.put("later", id="order-17", delay=60)
    (found,) = commands("peek", "--id", ids[250], "--json").json["messages"]
    assert (found["state"], found["body"]) == ("ready", 250)
    (found,) = commands("peek", "--id", "order-17", "--json").json["messages"]
    assert (found["state"], found["body"]) == ("later", "later")
    result = commands("peek", "--id", "order-18")
    assert result.status == 1
    assert "no message order-18 in ready, doing, later, dead" in result.out


def test_large_bodies_are_bounded(commands: Commands) -> None:
    """A preview by default, everything with --full."""
    with commands.queue("emails") as queue:
        queue.put("x" * 10_000)
    (message,) = commands("peek", "--json").json["messages"]
    assert (message["body"], message["truncated"], len(message["preview"])) == (None, True, 300)
    assert max(map(len, commands("peek").out.splitlines())) < 310
    (message,) = commands("peek", "--json", "--full").json["messages"]
    assert (message["body"], message["truncated"]) == ("x" * 10_000, False)
    assert "x" * 10_000 in commands("peek", "--full").out


def test_foreign_and_unreadable_elements(commands: Commands, redis: redis_py.Redis) -> None:
    """Raw JSON is decoded, other raw bytes, unknown versions, codecs and death notes are shown as they are."""
    keys = Keys("emails", commands.prefix)
    with commands.queue("emails") as queue:
        queue.put(1)
    newer = bytearray(env.pack(bytes(16), b"\x01"))
    newer[4] = 9
    other = env.pack(bytes(range(16)), b"xyz", {"c": "avro", "t": 5, "e": b"\xff"})
    for element in (b'{"raw": true}', b"\xff\x00not json\x1b[2J", bytes(newer), other, b"\xc1rlq\x00", b""):
        redis.lpush(keys.ready, element)
    redis.zadd(keys.dead, {b"\xc1 no note": float("inf"), b"\x81\xa2id\xc4\x01\xff" + other: 1.0})
    messages = commands("peek", "--json").json["messages"]
    assert [m["problem"] and m["problem"]["code"] for m in messages] == [
        None, None, "UNDECODABLE", "UNSUPPORTED_VERSION", "UNDECODABLE", "UNDECODABLE",
    ]  # fmt: skip
    assert (messages[1]["body"], messages[1]["raw"], messages[1]["id"]) == ({"raw": True}, True, None)
    assert (messages[4]["trace_id"], messages[4]["raw"]) == ("5", False)
    out = commands("peek").out
    assert "\x1b" not in out
    assert "(raw, no id yet)  ready" in out
    assert "UNSUPPORTED_VERSION: envelope version 9" in out
    dead = commands("peek", "--state", "dead", "--json").json["messages"]
    assert [m["problem"]["code"] for m in dead] == ["BAD_NOTE", "UNDECODABLE"]
    assert commands("peek", "--state", "dead").status == 0


def test_bodies_that_json_has_no_form_for(commands: Commands) -> None:
    """Bytes, dates, odd keys and NaN are still printed, and the JSON stays JSON."""
    with commands.queue("emails") as queue:
        queue.put_many(
            [b"\x00\xff", datetime(2030, 1, 1, tzinfo=timezone.utc), {b"k": 1}, float("nan"), {"b": b"x"}]
        )
    bodies = [m["body"] for m in commands("peek", "--json").json["messages"]]
    assert bodies == [
        {"base64": "AP8="},
        "2030-01-01T00:00:00+00:00",
        "{b'k': 1}",
        "nan",
        {"b": {"base64": "eA=="}},
    ]
    assert commands("peek").status == 0


def test_nothing_is_touched(commands: Commands, redis: redis_py.Redis) -> None:
    """No key changes by looking."""
    with commands.queue("emails") as queue:
        queue.put_many(range(5))
        queue.put(6, delay=60)
    commands.claim_and_die("emails")
    before = snapshot(redis, commands.prefix)
    for state in ("ready", "doing", "later", "dead"):
        assert commands("peek", "--state", state).status == 0
    commands("peek", "--id", "x")
    assert snapshot(redis, commands.prefix) == before


def test_filters(commands: Commands, redis: redis_py.Redis) -> None:
    """By fields of the body, by the time of the put and by cause, in any state; and how far it looked is told."""
    with commands.queue("emails", retry=reliq.Retry(attempts=1)) as queue:
        ids = queue.put_many({"user": {"id": n % 3}, "n": n} for n in range(9))
        later = queue.put({"user": {"id": 1}, "n": 9}, delay=60)
        with queue.consumer() as consumer:
            first, second = consumer.claim(2)
            with first:
                raise TimeoutError("away")
            second.bury("no such account")
            redis.lpush(Keys("emails", commands.prefix).ready, b"raw", b"\xc1rlq\x00")
            (held,) = consumer.claim(1)

            def found(*words: str) -> list[str]:
                return [m["id"] for m in commands("peek", "--json", *words).json["messages"]]

            assert found("--where", "user.id=1") == [ids[4], ids[7]]
            assert found("--where", "user.id=1", "--where", "n=7") == [ids[7]]
            assert found("--where", "user.id=1", "-n", "1") == [ids[4]]
            everywhere = found("--where", "user.id=1", "--state", "any")
            assert everywhere == [ids[4], ids[7], later, ids[1]]
            assert found("--state", "any", "--where", "n=2") == [held.id]
            assert found("--cause", "dead_buried") == [ids[1]]
            assert set(found("--cause", "BURIED", "--cause", "attempts")) == {ids[0], ids[1]}
            assert found("--since", "1h") == ids[3:], "the raw one has no time"
            assert found("--until", "1h") == []
            assert found("--since", "2h", "--until", "1h") == []
            document = commands("peek", "--json", "--where", "n=1", "--state", "any").json
            assert document["looked"] == [
                {"state": "ready", "looked": 7, "of": 7, "whole": True},
                {"state": "doing", "looked": 1, "of": 1, "whole": True},
                {"state": "later", "looked": 1, "of": 1, "whole": True},
                {"state": "dead", "looked": 2, "of": 2, "whole": True},
            ]
            stopped = commands("peek", "--json", "--where", "n=3", "-n", "1").json["looked"]
            assert stopped == [{"state": "ready", "looked": 1, "of": 7, "whole": False}]
            result = commands("peek", "--where", "n=100")
            assert "nothing of that in ready" in result.out
            assert "7 of 7 ready looked at\n" in result.out
            assert "1 of 7 ready looked at, and not further" in commands("peek", "--since", "1h", "-n", "1").out
            held.ack()


def test_wrong_filters(commands: Commands) -> None:
    """Status 2, and how to write it."""
    with commands.queue("emails") as queue:
        queue.put(1)
    assert "write it as in --where user.id=17" in commands("peek", "--where", "x").error
    assert "--until 'soon' is no time" in commands("peek", "--until", "soon").error
    assert "only dead letters have a cause" in commands("peek", "--cause", "X", "--state", "ready").error


def test_a_search_is_bounded(commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a deep queue it ends, and says how far it came."""
    monkeypatch.setattr("reliq.cli.peek._SEARCHED", 200)
    with commands.queue("emails") as queue:
        queue.put_many(range(500))
    looked = commands("peek", "--json", "--where", "x=1").json["looked"]
    assert looked == [{"state": "ready", "looked": 200, "of": 500, "whole": False}]


def test_bodies_of_all_types(commands: Commands) -> None:
    """Times, UUIDs, decimal numbers and sets are text and lists, also as conditions; compressed ones say so."""
    body = {
        "id": UUID(int=17),
        "price": Decimal("1.10"),
        "day": date(2030, 1, 2),
        "tags": {"b", "a"},
        "x": "y" * 5000,
    }
    with commands.queue("emails", compress="zstd") as queue:
        queue.put(body)
        queue.put({"id": UUID(int=18)})
    out = commands("peek", "--queue", "emails", "--where", f"id={UUID(int=17)}", "--full").out
    assert '"price": "1.10", "day": "2030-01-02", "tags": ["a", "b"]' in out
    assert "compressed with zstd" in out
    assert str(UUID(int=18)) not in out
    [shown] = commands("peek", "--queue", "emails", "--where", "day=2030-01-02", "--full", "--json").json[
        "messages"
    ]
    assert (shown["body"]["id"], shown["body"]["tags"]) == (str(UUID(int=17)), ["a", "b"])
