"""`reliq schedule`: added, listed with what is wrong, removed, fired; and what status and doctor say of it."""

from __future__ import annotations

import json
import signal
import time
from datetime import datetime, timezone

import pytest
import redis as redis_py

from reliq.core.keys import Keys
from tests.cli.conftest import Commands
from tests.cli.doctoring import found, wait_until, wrong


def keys(commands: Commands, queue: str = "reports") -> Keys:
    return Keys(queue, commands.prefix)


def add(commands: Commands, *words: str, queue: str = "reports") -> None:
    assert commands("schedule", "add", *words, "--queue", queue).status == 0


def late(redis: redis_py.Redis, commands: Commands, name: str, seconds: float) -> None:
    """Let the next tick of a schedule be due for so long."""
    redis.zadd(keys(commands).ticks, {name: int((time.time() - seconds) * 1000)})


def test_added_listed_and_removed(commands: Commands) -> None:
    """A queue that was not there before; JSON and text say the same; what is gone is gone."""
    cron = ("--cron", "0 7 * * MON-FRI", "--tz", "Europe/Vienna", "--jitter", "2.5", "--catch-up", "all")
    result = commands("schedule", "add", "daily", '{"n": 1}', *cron, "--queue", "reports")
    assert result.status == 0
    assert result.out.startswith("queue reports: daily is scheduled, next at ")
    made = commands(
        "schedule", "add", "pulse", "-", "--every", "30s", "--text", "--queue", "b", "--json", stdin=b"hi"
    )
    assert (made.json["queue"], made.json["name"], made.json["body"]) == ("b", "pulse", "hi")
    listed = commands("schedule", "ls", "--json", "-n", "2")
    assert listed.status == 0
    pulse, daily = listed.json["schedules"]
    assert (pulse["every"], pulse["cron"], pulse["body"]) == (30.0, None, "hi")
    assert {name: value for name, value in daily.items() if name not in ("next", "late_ms")} == {
        "queue": "reports", "name": "daily", "cron": "0 7 * * MON-FRI", "every": None, "tz": "Europe/Vienna",
        "catch_up": "all", "jitter": 2.5, "body": {"n": 1}, "problem": None,
        "type": None,
    }  # fmt: skip
    times = [datetime.fromisoformat(time) for time in daily["next"]]
    assert len(times) == 2
    assert all(time.hour == 7 and time > datetime.now(timezone.utc) for time in times)
    shown = commands("schedule", "ls", "-n", "2", "--queue", "reports").out
    assert "0 7 * * MON-FRI (Europe/Vienna) + up to 2.5 s" in shown
    assert shown.count("07:00:00+0") == 2
    assert "{'n': 1}" in shown
    assert "pulse" not in shown
    gone = commands("schedule", "rm", "daily", "nightly", "--queue", "reports")
    assert gone.status == 1
    assert "daily: removed" in gone.out
    assert "! queue reports: nightly: there is no such schedule" in gone.out
    again = commands("schedule", "rm", "daily", "--queue", "reports", "--json")
    assert (again.status, again.json["removed"], again.json["missing"]) == (1, [], ["daily"])
    assert commands("schedule", "ls", "--queue", "reports", "--json").json["schedules"] == []
    assert commands("schedule", "ls", "--queue", "reports").out.startswith("no schedules")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["add", "s", "1", "--every", "5"], "--queue NAME"),
        (["add", "s", "1", "--queue", "q"], "--cron"),
        (["add", "s", "1", "--queue", "q", "--cron", "x", "--every", "5"], "not allowed with"),
        (["add", "s", "1", "--queue", "q", "--cron", "* *"], "Wrong number of fields"),
        (["add", "s", "1", "--queue", "q", "--every", "0"], "from 1 to 31,622,400 (366 days)"),
        (["add", "s", "1", "--queue", "q", "--every", "soon"], "write seconds, or 90s, 15m"),
        (["add", "s", "1", "--queue", "q", "--every", "5", "--tz", "Nowhere"], "tzdata"),
        (["add", "s", "{", "--queue", "q", "--every", "5"], "no JSON"),
        (["add", "", "1", "--queue", "q", "--every", "5"], "1 to 200"),
        (["ls", "-n", "0"], "1 to 1000"),
        (["lst"], "ls, add, rm, run"),
        (["run"], "no queues are known"),
    ],
)
def test_wrong_use(commands: Commands, words: list[str], says: str) -> None:
    """One line that says what is wrong; nothing is scheduled."""
    result = commands("schedule", *words)
    assert result.status == 2
    assert says in result.error
    assert commands("schedule", "ls", "--json").json["schedules"] == []


def test_fired_once_and_in_the_background(commands: Commands, redis: redis_py.Redis) -> None:
    """--once fires what is due and ends; without it, it goes on until SIGTERM, and then ends well."""
    add(commands, "s", "1", "--every", "1")
    wait_until(lambda: redis.zcount(keys(commands).ticks, "-inf", time.time() * 1000) == 1)
    assert commands("schedule", "run", "--once", "--json").json["messages"] >= 1
    assert commands("schedule", "run", "--once").out.endswith(" put\n")
    before = redis.llen(keys(commands).ready)
    process = commands.start("schedule", "run", "--queue", "reports")
    try:
        wait_until(lambda: redis.llen(keys(commands).ready) >= before + 2)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=10)
    finally:
        process.kill()
    assert (process.returncode, out, err) == (0, "", "")


def test_nobody_fires_it(commands: Commands, redis: redis_py.Redis) -> None:
    """ls, status and doctor say so after a minute, with the code that `reliq errors` explains."""
    add(commands, "s", "1", "--every", "3600")
    late(redis, commands, "s", 30)
    assert commands("schedule", "ls").status == 0
    assert "TICKS_LATE" not in wrong(commands("doctor", "--json"))
    late(redis, commands, "s", 600)
    listed = commands("schedule", "ls")
    assert (listed.status, "! TICKS_LATE: s is due for 10 min" in listed.out) == (1, True), listed.out
    status = commands("status", "--json")
    assert status.status == 1
    [queue] = status.json["queues"]
    assert (queue["schedules"], queue["verdict"]["code"]) == (1, "TICKS_LATE")
    assert -610_000 < queue["next_tick_ms"] < -590_000
    assert "TICKS_LATE" in commands("status").out
    [entry] = found(commands("doctor", "--json"), "TICKS_LATE")
    assert (entry["severity"], entry["evidence"]) == ("warning", "the first one is due for 10 min")
    assert "nobody fires them" in commands.plain("errors", "TICKS_LATE").out


def test_status_counts_them(commands: Commands) -> None:
    """Where there are some."""
    with commands.queue("emails") as queue:
        queue.put(1)
        assert "schedule" not in commands("status").out
        queue.schedule("s", 1, every=3600)
    assert "  1 schedule, the next tick in " in commands("status").out


def test_what_cannot_be_read_is_shown(commands: Commands, redis: redis_py.Redis) -> None:
    """With what to type to remove it; a body of a codec that is not known here is no trouble."""
    add(commands, "s", "1", "--every", "60")
    redis.hset(keys(commands).schedules, "bad", b"\xc1")

    class Mine:
        name = "mine"

        def encode(self, body: object) -> bytes:
            return json.dumps(body).encode()

        def decode(self, data: bytes) -> object:
            return json.loads(data)

    with commands.queue("foreign", codec=Mine()) as queue:
        queue.schedule("other", 1, every=60)
    listed = commands("schedule", "ls")
    assert listed.status == 1
    assert "(cannot be decoded here)" in listed.out
    assert "reliq schedule rm bad --queue reports" in listed.out
    problems = {s["name"]: s["problem"] for s in commands("schedule", "ls", "--json").json["schedules"]}
    assert problems["s"] is problems["other"] is None
    assert "'bad'" in problems["bad"]
    assert commands("schedule", "rm", "bad", "--queue", "reports").status == 0
    assert commands("schedule", "ls").status == 0


def test_fsck_and_doctor_know_the_keys(commands: Commands, redis: redis_py.Redis) -> None:
    """They are no foreign keys; of another type they are named."""
    add(commands, "s", "1", "--every", "60")
    assert commands("fsck", "--json").json["attention"] is False
    redis.delete(keys(commands).ticks)
    redis.set(keys(commands).ticks, "foreign")
    assert keys(commands).ticks in commands("fsck").out
    assert found(commands("doctor", "--json"), "WRONG_KEY_TYPE")
