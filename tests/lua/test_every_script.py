"""What holds for every script: wrong types and full memory lose nothing, all keys are declared."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from hashlib import sha1
from pathlib import Path
from typing import Any

import pytest
import redis as redis_py

import reliq.core
from reliq.core import (
    beside,
    dead,
    gate,
    idempotency,
    lanes,
    ops,
    orders,
    schedule,
    scripts,
    ticks,
    unique,
    waiting,
)
from reliq.core import envelope as env
from reliq.core.command import Command
from reliq.core.explain.looks import Found
from reliq.core.fsck import finding
from reliq.core.fsck.finding import Context, Duplicate, Spot, Unreadable
from reliq.core.lanes import GROUPED, PARKED, SHARED, Group, Lane
from reliq.core.orders import Report
from reliq.core.timing import Timing
from reliq.core.unique import Claim, Unique
from reliq.core.walk import SortedWalk
from tests.lua.lab import Lab, element, large
from tests.servers import ExternalServer, RedisServer

LUA = Path(reliq.core.__file__).parent / "lua"
#: E[0] has the turn of its ordering key, and AFTER waits for it.
E = [element(0, meta={"o": "k"}), element(1, meta={"m": "acme"}), *(element(n) for n in range(2, 10))]
AFTER = element(22, meta={"o": "k"})
#: It gathers, and its time has come.
TOGETHER = element(24, meta={"g": "g"})
#: It waits for the turn of its tenant, of which E[1] is in hand.
THEIRS = element(23, meta={"m": "acme"})
BACK = [element(n, returns=1) for n in range(10)]
LETTER = dead.Letter.read(env.join_note({"id": "30" * 16, "cause": "X"}, element(30, lost=3)), "5")
NEW = dead.Letter.read(env.join_note({"id": "31" * 16, "cause": "X"}, element(31)), "6")
TWIN = element(0, returns=1)
TWIN_SEEN = Found("ready", 0, TWIN, position=3, length=4)
CALLER = waiting.Caller("host:1", "me")
HOURLY, DAILY = (
    schedule.Definition(Timing(None, hours * 3_600_000, "UTC"), "last", 0, {}, b"\xc0").pack() for hours in (1, 24)
)
#: What changes nothing that a snapshot shows.
READ_ONLY = ("expired", "page", "leave, empty", "trip, again", "dedupe, look", "hands", "due")
#: Scripts that take in what is new; a full Redis refuses them.
SHARED_FILES = (
    *("admit", "envelope", "lanes", "shares", "groups", "places", "lock", "marks", "tell", "tick", "unique"),
)
TAKE_IN = ("put", "restore", "schedule", "fire")


def put_large(lab: Lab, due: ops.Due = ops.NOW, marker: str = "") -> Command:
    """A put whose body was brought before."""
    element = large(lab.keys, 8, 40)
    lab.run(beside.bring(element, lab.keys.queue))
    return ops.put(lab.keys, b"p", 1, [element], due, marker)


def busy_trip(lab: Lab) -> Command:
    """A trip that does all that a trip can do."""
    return lab.trip_command(
        "a", 2, want=5, in_hand=4, acks=[E[0], E[9]], server="run1", who="me",
        settles=[
            ("retry", E[1], BACK[1], 60_000),
            ("bury", E[2], env.join_note({"cause": "X"}, BACK[2]), "X"),
            ("release", E[3], BACK[3], ""),
        ],
    )  # fmt: skip


def duplicate(lab: Lab) -> Duplicate:
    """What is in the hands of a, and once more (in a snapshot of busy()) the oldest that is ready."""
    k = lab.keys
    return Duplicate(
        Context(k, "me"), k.ready, Spot(k.doing("a"), "doing", 0), E[0], Spot(k.ready, "ready", 0), TWIN
    )


def unreadable(lab: Lab) -> Unreadable:
    """A raw element of busy() that is taken for garbage."""
    k = lab.keys
    return Unreadable(Context(k, "me"), k.ready, Spot(k.ready, "ready", 1), b"more", "UNDECODABLE", "no json", 0)


def waits_large(lab: Lab) -> Found:
    """In later, with a body beside the list."""
    element = large(lab.keys, 8, 40)
    lab.put(element, due=ops.Due("in", 60_000))
    return Found("later", 0, element)


COMMANDS: dict[str, Callable[[Lab], Command]] = {
    "put": lambda lab: ops.put(lab.keys, b"p", 1, [E[8]]),
    "put, marker": lambda lab: ops.put(lab.keys, b"p", 1, [E[8]], marker=lab.keys.marker(bytes(16))),
    "put, later": lambda lab: ops.put(lab.keys, b"p", 1, [E[8]], ops.Due("at", 0)),
    "put, later, marker": lambda lab: ops.put(
        lab.keys, b"p", 1, [E[8]], ops.Due("at", 0), lab.keys.marker(bytes(16))
    ),
    "put, beside": lambda lab: put_large(lab),
    "put, unique": lambda lab: ops.put(
        lab.keys, b"p", 1, [E[8]], only=Unique("k", on_conflict="replace").only(lab.keys, bytes(16))
    ),
    "put, once": lambda lab: ops.put(
        lab.keys, b"p", 1, [E[8]], only=Unique("k", seconds=9).only(lab.keys, bytes(16))
    ),
    "put, ordered": lambda lab: ops.put(lab.keys, b"p", 1, [E[8]], lane=Lane("k")),
    "put, shared": lambda lab: ops.put(lab.keys, b"p", 1, [E[8]], lane=Lane("k", "acme")),
    "put, grouped": lambda lab: ops.put(lab.keys, b"p", 1, [E[8]], lane=Lane(group=Group("g"))),
    "begin": lambda lab: unique.begin(
        lab.keys, "a", [(bytes(16), Claim("k", True)), (b"1" * 16, Claim("l", True))]
    ),
    "enter": lambda lab: idempotency.enter(lab.keys, "a", E[1], idempotency.marker(lab.keys, "", "k"), 9),
    "put, later, beside": lambda lab: put_large(lab, ops.Due("at", 0), lab.keys.marker(bytes(16))),
    "trip": busy_trip,
    "trip, unrouted": lambda lab: lab.trip_command(
        "a", 2, want=5, in_hand=4, acks=[E[0]], settles=[("unrouted", E[1], BACK[1], "60000 new")]
    ),
    "trip, drop": lambda lab: lab.trip_command(
        "a",
        2,
        want=5,
        in_hand=4,
        acks=[E[0], E[1]],
        settles=[
            ("drop", E[0][23:39].hex(), lab.keys.body(bytes(16)), ""),
            ("keep", E[0][23:39].hex(), f"9000 {lab.keys.result(E[0][23:39])}", b"\x80"),
            ("mark", E[1][23:39].hex(), f"9000 {lab.keys.once(bytes(16))}", b"d"),
            ("report", E[2], f"9000 {lab.keys.progress(E[2][23:39])}", b"\x07"),
            ("free", E[0][23:39].hex(), "k", ""),
        ],
        also=(lab.keys.result(E[0][23:39]), lab.keys.once(bytes(16)), lab.keys.progress(E[2][23:39])),
    ),
    "trip, decline": lambda lab: lab.trip_command("a", 2, want=5, in_hand=4, mode="decline"),
    "trip, again": lambda lab: lab.trip_command("a", 1, want=4),
    "reap, lease": lambda lab: ops.reap(lab.keys, "old", server="", max_losses=1),
    "reap, dead": lambda lab: ops.reap(lab.keys, "a", dead=True, max_losses=3),
    "reap, poison": lambda lab: ops.reap(lab.keys, "a", dead=True, max_losses=1),
    "reap, waiting": lambda lab: ops.reap(lab.keys, "old", server="run9"),
    "reap, adopted": lambda lab: ops.reap(lab.keys, "stray"),
    "leave": lambda lab: ops.leave(lab.keys, "a", bell_ended=True),
    "leave, empty": lambda lab: ops.leave(lab.keys, "idle", bell_ended=True),
    "renew": lambda lab: ops.renew(lab.keys, "a", 15),
    "gate": lambda lab: gate.limit(lab.keys, "me", gate.Limits(5, None, 3), gate.Limits(7, 2, 2)),
    "pause": lambda lab: gate.pause(lab.keys, "me"),
    "order": lambda lab: orders.give(lab.keys, "a", "1f", "report", 1),
    "answer": lambda lab: orders.answer(lab.keys, "a", "1f", Report(1, "host", 2, "0", "3")),
    "expired": lambda lab: ops.expired(lab.keys, 0, 10),
    "sweep_producers": lambda lab: ops.sweep_producers(lab.keys),
    "page": lambda lab: next(SortedWalk(lab.keys.later).step_g()),
    "revive": lambda lab: dead.revive(lab.keys, "me", [LETTER]),
    "discard": lambda lab: dead.discard(lab.keys, "me", [LETTER]),
    "restore": lambda lab: dead.restore(lab.keys, "me", [NEW, LETTER]),
    "dedupe": lambda lab: next(duplicate(lab).repair_g()),
    "dedupe, look": lambda lab: next(duplicate(lab).look_g()),
    "entomb": lambda lab: next(unreadable(lab).repair_g()),
    "cancel": lambda lab: waiting.cancel(lab.keys, TWIN_SEEN, CALLER),
    "cancel, later": lambda lab: waiting.cancel(lab.keys, Found("later", 0, E[6]), CALLER),
    "cancel, waits": lambda lab: waiting.cancel(lab.keys, Found("later", 0, AFTER), CALLER),
    "cancel, theirs": lambda lab: waiting.cancel(lab.keys, Found("later", 0, THEIRS), CALLER),
    "cancel, together": lambda lab: waiting.cancel(lab.keys, Found("later", 0, TOGETHER), CALLER),
    "cancel, inbox": lambda lab: waiting.cancel(lab.keys, Found("inbox", 0, E[4], consumer="a"), CALLER),
    "cancel, beside": lambda lab: waiting.cancel(lab.keys, waits_large(lab), CALLER),
    "call_off": lambda lab: waiting.call_off(lab.keys, Found("doing", 0, E[2], consumer="a"), CALLER),
    "reschedule": lambda lab: waiting.reschedule(lab.keys, TWIN_SEEN, ops.Due("in", 60_000), CALLER),
    "reschedule, later": lambda lab: waiting.reschedule(
        lab.keys, Found("later", 0, E[6]), ops.Due("in", 60_000), CALLER
    ),
    "vacate": lambda lab: lanes.vacate(lab.keys, E[1][23:39].hex()),
    "turn": lambda lab: lanes.go_on(lab.keys, "k", E[0][23:39].hex()),
    "schedule": lambda lab: ticks.schedule(lab.keys, "new", ticks.Known(), DAILY, 5),
    "schedule, change": lambda lab: ticks.schedule(lab.keys, "old", ticks.Known(HOURLY, 7), DAILY, 5),
    "unschedule": lambda lab: ticks.unschedule(lab.keys, "old"),
    "due": lambda lab: ticks.due(lab.keys),
    "due, politely": lambda lab: ticks.due(lab.keys, politely=True),
    "fire": lambda lab: ticks.fire(lab.keys, "me", "", [ticks.Shot("old", HOURLY, 7, 8, 7, E[8], E[8][23:39])]),
    "fire, later": lambda lab: ticks.fire(lab.keys, "me", "", [ticks.Shot("old", HOURLY, 7, 8, 1 << 50, E[8])]),
    "hands": lambda lab: finding.hands_of(Context(lab.keys, "me"), "a"),
}


def busy(lab: Lab, *, idle: bool = False) -> None:
    """A queue with something in every place: the state in which each command has most to do."""
    k = lab.keys
    lab.push(*E[:4])
    lab.trip("a", 1, want=4)
    lab.trip("old", 1)
    lab.trip("idle", 1)
    lab.expire("old", ago=10)
    lab.client.rpush(k.doing("old"), E[7])
    lab.push(E[4])
    lab.bell("a")
    lab.push(E[5])
    lab.bell("stray")
    lab.client.zadd(k.later, {E[6]: 1, element(20): lab.now() + 60_000})
    lab.client.hset(k.producers, "long ago", "5:1")
    lab.client.hset(k.schedules, "old", HOURLY)
    lab.client.zadd(k.ticks, {"old": 7})
    lab.client.hset(k.stats, "tick_at", 7)
    lab.client.zadd(k.dead, {LETTER.member: 5})
    lab.client.hset(k.uniques, mapping={"+k": bytes(16).hex(), "-" + (b"1" * 16).hex(): bytes(16).hex()})
    lab.client.hset(k.stats, "ordered", 1)
    lab.client.hset(k.uniques, mapping={"=k": E[0][23:39].hex(), "#": 1})
    lab.client.zadd(k.later, {AFTER: PARKED + 1})
    lab.client.zadd(k.lanes, {sha1(b"k").hexdigest() + str(PARKED + 1): 0})
    lab.client.hset(k.stats, mapping={"shared": "5 2 1", "grouped": 1})
    lab.client.zadd(k.later, {TOGETHER: GROUPED + 1})
    lab.client.zadd(k.lanes, {"g" + sha1(b"g").hexdigest() + str(GROUPED + 1): 0})
    lab.client.zadd(k.turns, {"gg": 2e13 + 7})
    lab.client.hset(k.uniques, "*g", "5 1")
    lab.client.hset(k.uniques, mapping={"@" + E[1][23:39].hex(): "acme", "~acme": 1})
    lab.client.zadd(k.later, {THEIRS: SHARED + 1})
    lab.client.zadd(k.lanes, {"t" + sha1(b"acme").hexdigest() + str(SHARED + 1): 0})
    lab.client.zadd(k.turns, {"wzoo": 5, "rzoo": 1e13 + 7, "wyak": 1e12 + 7})
    if not idle:
        lab.push(b"raw", element(21, lost=1), b"more", TWIN)


def messages(lab: Lab) -> list[bytes]:
    """The ids (or raw bodies) of all messages of the queue, wherever they are."""
    k = lab.keys
    found = [*lab.ready, *lab.later, *(back for _, back in lab.dead)]
    for key in lab.client.scan_iter(match=k.lists_pattern, count=1000):
        found += lab.list(key.decode())
    bodies = []
    for e in found:
        envelope = env.unpack(e) if env.is_envelope(e) else None
        bodies.append(e if envelope is None else envelope.body if envelope.meta.get("r") else envelope.id)
    return sorted(bodies)


def error_of(lab: Lab, command: Command) -> str:
    """The error reply to a command; empty if there was none."""
    try:
        lab.reply(command)
    except redis_py.exceptions.ResponseError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("idle", [False, True])
@pytest.mark.parametrize("name", COMMANDS)
def test_wrong_type_loses_nothing(lab: Lab, name: str, idle: bool) -> None:
    """Whichever key holds something else: an error means that nothing was written; and if the key was not
    needed, the script did its work."""
    command = COMMANDS[name](lab)
    failed = 0
    for key in dict.fromkeys(command.keys):
        lab.client.delete(*(lab.snapshot() or ["-"]))
        busy(lab, idle=idle)
        lab.client.delete(key)
        lab.client.set(key, "foreign")
        before = lab.snapshot()
        error = error_of(lab, command)
        if error:
            assert "WRONGTYPE" in error
            assert lab.snapshot() == before
            assert key != lab.keys.events
            failed += 1
        # A marker, a body and a result are ours, whatever they hold.
        ours = [":body:", ":result:", ":progress:"]
        ours += {"trip, drop": [":once:"], "enter": [":once:"], "discard": [":seen:"], "revive": [":seen:"]}.get(
            name, []
        )
        if not any(part in key for part in ours):
            assert lab.client.get(key) == b"foreign"
    assert failed


@pytest.mark.parametrize("name", ["trip", "reap, dead", "reap, poison", "revive"])
def test_broken_ledger_stops_nothing(lab: Lab, name: str) -> None:
    """Ledger and counters cannot fail a script: a stream of the wrong type, a counter that is no number."""
    busy(lab)
    lab.client.set(lab.keys.events, "foreign")
    counters = ("ack", "retry", "bury", "reap", "release", "revive")
    lab.client.hset(lab.keys.stats, mapping=dict.fromkeys(counters, "x"))
    everything = messages(lab)
    acked = [env.unpack(E[0]).id] if name == "trip" else []
    assert lab.reply(COMMANDS[name](lab))[0] in (b"ok", b"reaped", 1)
    assert sorted(messages(lab) + acked) == everything


@pytest.mark.parametrize("name", COMMANDS)
def test_out_of_memory(own_lab: Lab, name: str) -> None:
    """A full Redis refuses puts before anything is written; all else works, so that it can be drained."""
    lab = own_lab
    busy(lab, idle=name.startswith("put"))
    command = COMMANDS[name](lab)
    everything = messages(lab)
    lab.client.config_set("maxmemory", 1)
    before = lab.snapshot()
    with pytest.raises(redis_py.exceptions.RedisError, match="maxmemory"):
        lab.client.set("x", "y")
    if name.startswith(TAKE_IN):
        with pytest.raises(redis_py.exceptions.RedisError, match="maxmemory"):
            lab.reply(command)
        assert lab.snapshot() == before
        lab.client.config_set("maxmemory", 0)
        assert lab.run(command)
        return
    lab.reply(command)
    gone = {"trip": [E[0]], "trip, drop": E[:2], "discard": [LETTER.element], "dedupe": [TWIN], "cancel": [TWIN]}
    gone |= {
        "trip, unrouted": [E[0]],
        "cancel, later": [E[6]],
        "cancel, waits": [AFTER],
        "cancel, theirs": [THEIRS],
        "cancel, together": [TOGETHER],
        "cancel, inbox": [E[4]],
        "cancel, beside": [large(lab.keys, 8, 40)],
    }
    assert sorted(messages(lab) + [env.unpack(e).id for e in gone.get(name, [])]) == everything
    assert lab.snapshot() != before or name in READ_ONLY


def test_drained_while_out_of_memory(own_lab: Lab) -> None:
    """Trips with BLMOVE refused empty a full queue."""
    lab = own_lab
    lab.push(*(element(n) for n in range(100)))
    lab.client.config_set("maxmemory", 1)
    acks: list[bytes] = []
    for number in range(1, 12):
        acks = lab.trip("a", number, want=10, acks=acks, in_hand=len(acks))[9]
    assert (lab.ready, lab.doing("a")) == ([], [])
    assert int(lab.client.hget(lab.keys.stats, "ack")) == 100


@pytest.mark.parametrize("name", COMMANDS)
def test_every_key_is_declared(lab: Lab, server: RedisServer | ExternalServer, name: str) -> None:
    """A Redis Cluster must know all keys beforehand: no command inside of a script touches another one."""
    busy(lab, idle="later" in name)
    command = COMMANDS[name](lab)
    lab.reply(command)  # loaded, and done
    lab.client.delete(*lab.snapshot())
    busy(lab, idle="later" in name)
    lines: list[str] = []
    with server.client() as watcher, watcher.monitor() as monitor:
        lab.reply(command)
        lab.client.echo(lab.keys.prefix + "end")
        for entry in monitor.listen():
            if entry["command"].endswith(lab.keys.prefix + "end"):
                break
            if entry["client_type"] == "lua":
                lines.append(entry["command"])
    mine = [line for line in lines if lab.keys.prefix in line]
    assert mine
    for line in mine:
        touched = re.findall(r"\S*" + re.escape(lab.keys.prefix) + r":\{\S+", line)
        # Of results the beginning is declared: which ones are told, only the script knows, in the same slot.
        told = {key for key in touched if key.startswith(lab.keys.results) and lab.keys.results in command.keys}
        assert set(touched) - told <= set(command.keys), line
        assert len(touched) == 1, line


def test_script_flush(own_lab: Lab) -> None:
    """A server that forgot a script gets it again, and the state goes on where it was."""
    lab = own_lab
    busy(lab)
    for name, make in COMMANDS.items():
        lab.client.script_flush()
        command = make(lab)
        with pytest.raises(redis_py.exceptions.NoScriptError):
            lab.client.execute_command(*command.words())
        lab.client.execute_command(*command.source_words())
        lab.client.execute_command(*command.words())
        assert name


def test_headers() -> None:
    """Each script opens with its purpose, and names KEYS or ARGV, what it returns and what it costs."""
    for path in LUA.glob("*.lua"):
        text = path.read_text("utf-8")
        head = "".join(line for line in text.splitlines(True) if line.startswith("--"))
        if path.stem not in SHARED_FILES:
            assert text.startswith(f"-- {path.stem}: ")
            for word in ("-- KEYS  1 ", "-- ARGV  ", "-- Returns ", "-- Cost  O("):
                assert word in head, (path.name, word)
        assert all(len(line) <= 120 for line in text.splitlines()), path.name


def test_source_and_digest_agree(redis: redis_py.Redis) -> None:
    """EVALSHA finds what SCRIPT LOAD of the source gives."""
    for script in vars(scripts).values():
        if isinstance(script, scripts.Script):
            loaded: Any = redis.script_load(script.source)
            assert loaded in (script.sha, script.sha.encode())


def test_a_thousand_settles_are_quick(lab: Lab) -> None:
    """The largest trip, all verbs, holds Redis for some ms; twenty times of what is measured are allowed."""
    count = 1000
    e = [element(n) for n in range(count)]
    lab.push(*e)
    lab.trip("a", 1, want=count)
    back = [element(n, returns=1) for n in range(count)]
    settles: list[tuple[str, bytes, bytes, Any]] = [
        ("retry", x, y, 60_000) for x, y in zip(e[500:], back[500:], strict=True)
    ]
    started = time.perf_counter()
    reply = lab.trip("a", 2, in_hand=count, acks=e[:500], settles=settles)
    assert time.perf_counter() - started < 0.3
    assert reply[3] == []
