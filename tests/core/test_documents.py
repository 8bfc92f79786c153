"""The two documents beside the code say what the code does."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import reliq.core
from reliq import defaults
from reliq.core import envelope as env
from reliq.core import lanes, trace
from reliq.core.codec import CODECS
from reliq.core.keys import Keys

CORE = Path(reliq.core.__file__).parent
ROOT = Path(__file__).resolve().parents[2]
WIRE = (CORE / "wire.md").read_text("utf-8")
REPLIES = (CORE / "lua" / "replies.md").read_text("utf-8")
SHARED = ("admit", "envelope", "lanes", "shares", "groups", "places", "lock", "marks", "tell", "tick", "unique")
SCRIPTS = sorted(path.stem for path in (CORE / "lua").glob("*.lua") if path.stem not in SHARED)


def section(text: str, title: str) -> str:
    """What stands under a heading, up to the next one."""
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, f"no section {title}"
    return found[1]


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_reply_is_explained(name: str) -> None:
    """Each script has a section, and each status that it can return stands there."""
    source = re.sub(r"--.*", "", (CORE / "lua" / f"{name}.lua").read_text("utf-8"))
    words = set(re.findall(r"return \{\s*'(\w+)'", source)) | set(re.findall(r"return (\d)\b", source))
    words |= {f"{number}, now" for number in re.findall(r"return \{(\d), now\}", source)}
    explained = re.findall(r"^\| `([^`]+)`", section(REPLIES, name), re.MULTILINE)
    assert set(explained) == words
    assert len(explained) == len(words)


def test_statuses_are_found_at_all() -> None:
    """The check above sees the status words."""
    assert {"ok", "again", "stale", "dead"} <= set(re.findall(r"^\| `(\w+)`", section(REPLIES, "trip"), re.M))
    assert len(re.findall(r"^## (\w+)$", REPLIES, re.M)) == len(SCRIPTS)


def test_trip_fields_are_explained() -> None:
    """The reply of a trip has as many parts as its section names."""
    [named] = re.findall(r"^Reply: (status, .*)\.$", section(REPLIES, "trip"), re.MULTILINE)
    assert len(named.split(", ")) == 12
    assert named == "status, now, epoch, late, whole, suspects, others, due, sweep, elements, ready, last"


def test_foreign_producer_example_works() -> None:
    """The code for producers without reliq makes a message that we read."""
    [code] = re.findall(r"```python\n(.*?)```", WIRE, re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)  # the document's own code
    found = env.unpack(names["envelope"](b'{"to": "ada"}'))
    assert (found.meta, found.body, found.fence) == ({"c": "json"}, b'{"to": "ada"}', 1)
    assert env.id_ms(found.id)


def test_offsets_are_right() -> None:
    """The table of fields adds up to the header."""
    rows = re.findall(r"^\| (\d+) \| (\d+) \| (\w+) \|", WIRE, re.MULTILINE)
    assert [row[2] for row in rows] == [
        *("magic", "version", "length", "checksum", "returns", "failed", "released", "lost", "reserved", "id"),
    ]
    place = 0
    for offset, size, _ in rows:
        assert int(offset) == place
        place += int(size)
    assert place == env.META_FROM
    assert int(rows[-1][0]) == env.CHECKED_FROM


def test_names_are_right() -> None:
    """Every key of a queue, every codec and the vectors are where the document says."""
    keys = Keys("emails")
    for key in (
        *(keys.ready, keys.consumers, keys.later, keys.dead, keys.events, keys.stats, keys.producers, keys.lock),
        *(keys.schedules, keys.ticks, keys.uniques, keys.lanes, keys.turns),
        *(keys.inbox("<consumer>"), keys.doing("<consumer>"), keys.session("<consumer>")),
    ):
        assert f"| `{key.removeprefix('reliq:{emails}:emails:')}`" in WIRE
    assert f"LPUSH {keys.ready} " in WIRE
    assert all(f"`{name}`" in section(WIRE, "The envelope") for name in CODECS)
    [vectors] = re.findall(r"Test vectors: `(.*?)`", WIRE)
    assert (ROOT / vectors).is_file()


def test_the_ledger_is_as_long_as_the_defaults_say() -> None:
    """docs/settings.md prints the length from the defaults; every script that writes events uses it."""
    lengths = [
        int(number)
        for path in sorted((CORE / "lua").glob("*.lua"))
        for number in re.findall(r"'MAXLEN', '~', '(\d+)'", path.read_text("utf-8"))
    ]
    assert len(lengths) >= 2
    assert set(lengths) == {defaults.LEDGER_LENGTH}


def test_the_scripts_and_the_core_mean_the_same_scores() -> None:
    """Where a message waits is told by its score, which stands as a number in several scripts."""
    known = {lanes.PARKED, lanes.SHARED, lanes.GROUPED, lanes._RESTS, lanes._GROUPS, lanes._GROUPS // 2}
    for path in sorted((CORE / "lua").glob("*.lua")):
        found = set(map(int, re.findall(r"\b[1-9]0{12,}\b|\b[1-9]\d0{12,}\b", path.read_text("utf-8"))))
        assert found <= known, path.name
    shared = (CORE / "lua" / "shares.lua").read_text("utf-8")
    rates = lanes._GROUPS // 2  # between the times of tenants that rest and those of groups
    assert f"local SHARED, RESTS, RATES = {lanes.SHARED}, {lanes._RESTS}, {rates}\n" in shared


def test_every_event_is_explained() -> None:
    """The tables of the ledger and of traces name exactly those that are written down."""
    sources = [re.sub(r"--.*", "", path.read_text("utf-8")) for path in (CORE / "lua").glob("*.lua")]
    sources = [source for source in sources if "XADD" in source]
    written = {word for source in sources for word in re.findall(r"(?:\bnote\(|'event', )'([a-z ]+)'", source)}
    written |= {"retry", "release", "unrouted"}  # a trip notes what it settled by the name of the verb
    written |= {"pause", "drain", "resume", "limit"}  # and a gate what is done to it
    written |= {trace.PUT, trace.DELIVER, trace.FAIL, trace.ACK}
    assert {"start", "reap", "bury", "dedupe"} <= written
    explained = re.findall(r"`([a-z ]+)`", "".join(re.findall(r"^\|(.*?)\|", section(WIRE, "The ledger"), re.M)))
    assert sorted(explained) == sorted(written)
