"""The scripts of explain, each alone: what they see, how much they read, and that they change nothing."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import redis as redis_py

from reliq import defaults
from reliq.core import envelope as env
from reliq.core import sample
from reliq.core.command import Command
from reliq.core.explain import looks
from tests.lua.lab import BELL, Lab, element
from tests.lua.test_every_script import error_of
from tests.servers import ExternalServer, RedisServer

E = [element(n) for n in range(12)]
IDS = [env.unpack(e).id for e in E]
NAMES = ["a", "old", "idle"]

READING: dict[str, Callable[[Lab], Command]] = {
    "sight": lambda lab: looks.sight(lab.keys, IDS[4], NAMES),
    "probe": lambda lab: looks.probe(lab.keys, 0),
    "sift": lambda lab: looks.sift(lab.keys, IDS[4], 0, largest=0, left=True),
    "sift_set, cursor": lambda lab: looks.sift_set(lab.keys, IDS[6], "later", 0),
    "sift_set, score": lambda lab: looks.sift_set(lab.keys, IDS[6], "later", 0, scores=(0, 5)),
    "recall": lambda lab: looks.recall(lab.keys, IDS[6], (0, 0)),
    "strays": lambda lab: looks.strays(lab.keys, 0),
}
COMMANDS = READING | {"sample": lambda lab: sample.sample(lab.keys, 0)}


def busy(lab: Lab) -> None:
    """E[0] to E[3] and E[7] are in processing lists, E[4] and E[5] in inboxes, E[6] in later; in ready are a raw
    body, a suspect, and another raw one."""
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
    lab.push(b"raw", element(21, lost=1), b"more")


@pytest.mark.parametrize("name", READING)
def test_reading_changes_nothing(lab: Lab, name: str) -> None:
    """Whatever is there, also keys of the wrong type: an error names that, and nothing is another than before."""
    busy(lab)
    command = READING[name](lab)
    before = lab.snapshot()
    lab.run(command)
    assert lab.snapshot() == before
    for key in command.keys:
        lab.client.delete(key)
        lab.client.set(key, "foreign")
        assert re.search("WRONGTYPE|^$", error_of(lab, command))
        assert lab.client.get(key) == b"foreign"
        lab.client.delete(key)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_key_is_declared(lab: Lab, server: RedisServer | ExternalServer, name: str) -> None:
    """A Redis Cluster must know all keys beforehand."""
    busy(lab)
    command = COMMANDS[name](lab)
    lab.reply(command)
    lab.client.delete(lab.keys.stats)
    lines: list[str] = []
    with server.client() as watcher, watcher.monitor() as monitor:
        lab.reply(command)
        lab.client.echo(lab.keys.prefix + "end")
        for entry in monitor.listen():
            if entry["command"].endswith(lab.keys.prefix + "end"):
                break
            if entry["client_type"] == "lua":
                lines.append(entry["command"])
    touched = [re.findall(r"\S*" + re.escape(lab.keys.prefix) + r":\{\S+", line) for line in lines]
    if name == "strays":  # it names a pattern, and no key
        assert [line.split()[0] for line in lines] == ["SCAN"]
        return
    assert any(touched)
    assert {key for keys in touched for key in keys} <= set(command.keys)


@pytest.mark.parametrize("name", COMMANDS)
def test_out_of_memory(own_lab: Lab, name: str) -> None:
    """A full Redis can be explained, and samples are taken of it, whatever stands in the place of its ledger."""
    busy(own_lab)
    own_lab.client.set(own_lab.keys.events, "foreign")
    command = COMMANDS[name](own_lab)
    own_lab.client.config_set("maxmemory", 1)
    assert own_lab.run(command) is not None
    assert (own_lab.client.hget(own_lab.keys.stats, "sampled") is not None) == (name == "sample")


# -- sight --------------------------------------------------------------------------------------------------


def see(lab: Lab, id: bytes, names: list[str] | None = None, **options: Any) -> looks.Sight:
    found: looks.Sight = lab.run(looks.sight(lab.keys, id, NAMES if names is None else names, **options))
    return found


def test_sight_of_every_place(lab: Lab) -> None:
    """One look finds a message wherever it is, with all that is known of it there."""
    k = lab.keys
    busy(lab)
    lab.client.zadd(k.dead, {env.join_note({"id": IDS[9].hex(), "cause": "X"}, E[9]): 1234.0})
    places = {
        0: ("doing", "a", -1, 0),
        7: ("doing", "old", -1, 0),
        4: ("inbox", "a", -1, 0),
        6: ("later", "", -1, 1),
        9: ("dead", "", -1, 1234),
    }
    for n, (place, consumer, position, score) in places.items():
        [found] = see(lab, IDS[n]).found
        assert (found.place, found.consumer, found.position, found.score) == (place, consumer, position, score)
        assert found.size >= len(E[n])
        assert found.message.id == IDS[n]
    [found] = see(lab, env.unpack(element(21)).id).found
    assert (found.place, found.position, found.length) == ("ready", 1, 3)
    assert see(lab, bytes(16)).found == []


def test_sight_of_the_queue(lab: Lab) -> None:
    """How many are where; who lives; the head, a raw one by its digest; whether it was all."""
    busy(lab)
    seen = see(lab, IDS[0])
    assert (seen.ready, seen.later, seen.registered, seen.looked) == (3, 2, 3, 3)
    assert (seen.live, seen.held, seen.whole) == (2, 6, True)
    assert len(seen.sample.head) == 40
    assert not see(lab, IDS[0], ["a", "old"]).whole, "one is registered that was not named"
    assert not see(lab, IDS[0], ["a", "old", "nobody"]).whole
    lab.client.rpop(lab.keys.ready)
    assert see(lab, IDS[0]).sample.head == env.unpack(element(21)).id.hex()
    lab.client.hset(lab.keys.session("a"), "dead", 1)
    lab.client.hset(lab.keys.session("idle"), "leaving", 1)
    assert see(lab, IDS[0]).live == 0


def test_sight_passes_over_bells(lab: Lab) -> None:
    """A bell is no message: not in ready, not in hands, not before a message."""
    lab.push(E[0])
    lab.client.rpush(lab.keys.ready, BELL)
    seen = see(lab, IDS[0], [])
    assert (seen.ready, seen.sample.head, seen.whole) == (1, IDS[0].hex(), True)
    assert seen.found[0].position == 0
    lab.trip("a", 1)
    lab.client.rpush(lab.keys.inbox("a"), BELL)
    assert see(lab, IDS[0], ["a"]).held == 0


def test_sight_is_bounded(lab: Lab) -> None:
    """In count and in bytes: what is left out is said, and hands come first."""
    lab.push(*E[:4])
    lab.trip("a", 1, want=2)
    lab.push(*(element(100 + n) for n in range(2_000)))
    seen = see(lab, IDS[2], ["a"])
    assert (seen.found[0].position, seen.whole) == (0, False)
    assert not see(lab, env.unpack(element(2_099)).id, ["a"]).found
    assert see(lab, IDS[1], ["a"], elements=1).found[0].place == "doing"
    large = [element(3_000 + n, "x" * 100_000) for n in range(5)]
    lab.client.delete(lab.keys.ready)
    lab.push(*large)
    assert see(lab, env.unpack(large[1]).id, ["a"]).found[0].size == len(large[1])
    assert len(see(lab, env.unpack(large[1]).id, ["a"]).found[0].head) == 32 * 1024
    assert not see(lab, env.unpack(large[4]).id, ["a"]).found


def test_sight_of_many_hands(lab: Lab) -> None:
    """When there is no room for more, it says how many of the consumers were looked at."""
    for name in ("b", "c", "d"):
        lab.push(*(element(1000 * ord(name) + n) for n in range(600)))
        lab.trip(name, 1, want=600)
    seen = see(lab, element(1000 * ord("d"))[23:39], ["b", "c", "d"])
    assert (seen.looked, seen.found, seen.whole) == (2, [], False)
    assert see(lab, element(1000 * ord("d"))[23:39], ["d"]).found[0].consumer == "d"


def test_what_only_looks_like_it(lab: Lab) -> None:
    """An id in the right place of something that is no envelope is not found."""
    lab.push(E[0][:-1] + b"?", b"x" * 23 + IDS[0] + b"y" * 20)
    assert see(lab, IDS[0], []).found == []
    assert lab.run(looks.sift(lab.keys, IDS[0], 0, largest=0)).found is None


def test_two_of_one_id(lab: Lab) -> None:
    """Copies, as of an id of the user's own that was put again after an hour, are all seen."""
    lab.push(E[0], E[1], E[0])
    assert [found.position for found in see(lab, IDS[0], []).found] == [0, 2]


# -- sift, probe --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("left", [True, False])
@pytest.mark.parametrize("largest", [0, 50, 100_000])
def test_sift_reads_all_in_order(lab: Lab, left: bool, largest: int) -> None:
    """From either end, from part to part, every element is met once, and its position counts from the right."""
    many = [element(n) for n in range(2_500)]
    lab.push(*many)
    for n in (0, 1, 999, 1_000, 2_499):
        start = 0
        while True:
            part = lab.run(looks.sift(lab.keys, many[n][23:39], start, largest=largest, left=left))
            start += part.looked
            assert part.looked <= 1_000
            if part.found is not None or start >= part.length:
                break
        assert part.found is not None
        assert (part.found.position, part.found.length, part.length) == (n, 2_500, 2_500)
        assert part.first_ms == part.last_ms == 1_700_000_000_000


def test_sift_is_bounded_in_bytes(lab: Lab) -> None:
    """Large elements make small parts, also behind small ones; one that is too large comes alone."""
    lab.push(*(element(n) for n in range(100)), *(element(200 + n, "x" * 50_000) for n in range(30)))
    start, parts = 0, []
    while start < 130:
        part = lab.run(looks.sift(lab.keys, bytes(16), start, largest=parts[-1].largest if parts else 0))
        parts.append(part)
        start += part.looked
    assert sum(part.looked for part in parts) == 130
    assert all((part.looked - 2) * part.largest <= defaults.SCRIPT_BYTES for part in parts[1:])
    lab.client.delete(lab.keys.ready)
    lab.push(element(1), element(2, "x" * 1_000_000), element(3))
    assert lab.run(looks.sift(lab.keys, bytes(16), 1, largest=0)).looked == 1


def test_probe_takes_the_middle_one(lab: Lab) -> None:
    """Neighbours that are much older or younger do not count; raw ones tell nothing."""

    def made(ms: int) -> bytes:
        return env.pack(env.uuid7(ms, b"0123456789"), b"1")

    lab.push(made(50), made(900_000), made(51), made(2), made(52), b"raw", b"raw", b"raw", b"raw", b"raw", b"raw")
    assert lab.run(looks.probe(lab.keys, 0)) == (11, 51, len(made(1)))
    assert lab.run(looks.probe(lab.keys, 5)) == (11, None, 3)
    assert lab.run(looks.probe(lab.keys, 4)).ms == 52
    assert lab.run(looks.probe(lab.keys, 11)) == (11, None, 0)
    lab.client.delete(lab.keys.ready)
    assert lab.run(looks.probe(lab.keys, 0)) == (0, None, 0)


# -- sift_set, recall, strays, sample -----------------------------------------------------------------------


def test_sift_set_by_cursor(lab: Lab) -> None:
    """All members are met while others come and go, in steps; a dead letter by its note, or by its envelope."""
    many = [element(n) for n in range(3_000)]
    lab.client.zadd(lab.keys.dead, {env.join_note({"id": e[23:39].hex()}, e): n for n, e in enumerate(many)})
    cursor, looked, steps = 0, 0, 0
    while True:
        part = lab.run(looks.sift_set(lab.keys, many[2_999][23:39], "dead", cursor, largest=200))
        lab.client.zadd(lab.keys.dead, {f"new {steps}": 1})
        lab.client.zremrangebyrank(lab.keys.dead, 0, 0)
        cursor, looked, steps = part.cursor, looked + part.looked, steps + 1
        if part.found is not None or cursor == 0:
            break
    assert part.found is not None
    assert (part.found.score, part.found.message.id) == (2_999, many[2_999][23:39])
    assert looked > 1_000 or steps == 1


def test_a_letter_that_only_its_note_knows(lab: Lab) -> None:
    """What died under an id of its note's, a raw body for example, is found by that."""
    member = env.join_note({"id": IDS[3].hex(), "cause": "TOO_LARGE"}, b"a raw body, or of another version")
    lab.client.zadd(lab.keys.dead, {member: 5})
    for found in (
        see(lab, IDS[3]).found[0],
        lab.run(looks.sift_set(lab.keys, IDS[3], "dead", 0)).found,
        lab.run(looks.sift_set(lab.keys, IDS[3], "dead", 0, scores=(4, 6))).found,
    ):
        assert (found.place, found.score, found.note["cause"]) == ("dead", 5, "TOO_LARGE")


def test_sift_set_by_score(lab: Lab) -> None:
    """Only what is due then."""
    lab.client.zadd(lab.keys.later, {E[0]: 1_000, E[1]: 2_000})
    assert lab.run(looks.sift_set(lab.keys, IDS[1], "later", 0, scores=(1_900, 2_100))).found.score == 2_000
    assert lab.run(looks.sift_set(lab.keys, IDS[0], "later", 0, scores=(1_900, 2_100))).found is None


def test_recall_goes_on_where_it_was(lab: Lab) -> None:
    """Page by page, and then only what is new; entries without our fields are passed over."""

    def note(n: int, of: int) -> None:
        told = {"event": "retry", "id": IDS[of].hex(), "consumer": f"c{n}", "detail": str(n)}
        lab.client.xadd(lab.keys.events, told, id=f"{1_000 + n}-0")

    for n in range(2_100):
        note(n, 0 if n % 700 == 5 else 1)
    lab.client.xadd(lab.keys.events, {"other": "program"}, id="9000-0")
    after, events = (0, 0), []
    for _ in range(3):
        page = lab.run(looks.recall(lab.keys, IDS[0], after))
        after, events = page.last, events + page.events
        assert page.oldest == (1_000, 0)
    assert [event.ms for event in events] == [1_005, 1_705, 2_405]
    assert events[0] == looks.Event(1_005, "retry", "c5", "5")
    assert (page.looked, after) == (101, (9_000, 0))
    assert lab.run(looks.recall(lab.keys, IDS[0], after)) == ((1_000, 0), (0, 0), 0, [])
    note(9_000, 0)
    assert [event.ms for event in lab.run(looks.recall(lab.keys, IDS[0], after)).events] == [10_000]


def test_strays_are_lists_of_this_queue(lab: Lab) -> None:
    """Inboxes and processing lists, whoever they are of; nothing of another queue."""
    lab.client.rpush(lab.keys.doing("x:y"), "1")
    lab.client.rpush(lab.keys.inbox("z"), "1")
    lab.client.rpush(Lab(lab.client, lab.keys.prefix, "other").keys.doing("x"), "1")
    cursor, found = -1, []
    while cursor != 0:
        cursor, lists = lab.run(looks.strays(lab.keys, max(cursor, 0)))
        found += lists
    assert sorted(found) == [("x:y", lab.keys.doing("x:y")), ("z", lab.keys.inbox("z"))]


def test_samples_are_apart(lab: Lab) -> None:
    """The last one and the one before; not so soon again; what is no sample is replaced."""
    k = lab.keys
    lab.push(E[0])
    lab.client.hset(k.stats, mapping={"sampled": "nonsense", "ack": 7, "retry": 3})
    assert lab.run(sample.sample(k, 5)) is True
    assert lab.run(sample.sample(k, 5)) is False
    first = sample.Sample.parse(lab.client.hget(k.stats, "sampled"))
    assert first is not None
    assert first[1:] == (7, 3, 0, 0, IDS[0].hex(), 5, 0, 0)
    lab.client.hset(k.stats, "sampled", f"{first.ms - 20_000} 5 0 0 0 ")
    lab.client.rpush(k.ready, BELL)
    assert lab.run(sample.sample(k, 5)) is True
    now = see(lab, IDS[0], [])
    assert [each and each.acked for each in now.samples] == [5, 7]
    assert now.samples[1] is not None
    assert now.samples[1].head == IDS[0].hex(), "a bell is no head"


def test_every_script_is_what_its_digest_says(redis: redis_py.Redis) -> None:
    """EVALSHA finds what SCRIPT LOAD of the source gives."""
    for command in (make(Lab(redis, "x")) for make in COMMANDS.values()):
        assert not isinstance(command.verb, str)
        loaded: Any = redis.script_load(command.verb.source)
        assert loaded in (command.verb.sha, command.verb.sha.encode())
