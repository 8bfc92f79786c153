"""`reliq cancel` and `reliq reschedule`: messages that wait, by their id."""

from __future__ import annotations

import time

import pytest

from tests.cli.conftest import Commands


def test_cancelled(commands: Commands) -> None:
    """Each is told, what does not wait makes it status 1, and explain says by whom."""
    with commands.queue("emails") as q:
        ids = q.put_many([1, 2, 3])
        done = commands("cancel", ids[0], ids[2], "--by", "ada")
        assert done.status == 0
        assert done.out.splitlines() == [f"{id}: cancelled" for id in (ids[0], ids[2])]
        assert q.size().ready == 1
        explained = commands("explain", ids[0])
        assert explained.status == 0
        assert "(ada) cancelled it" in explained.out
        missing = commands("cancel", "order-17", ids[1])
        assert missing.status == 1
        assert missing.out.startswith("order-17: not cancelled: it is not here; see reliq explain")
        assert "--queue emails" in missing.out
        assert q.size().ready == 0


def test_rescheduled(commands: Commands) -> None:
    """In so long, or at a time; the queue need not be named if it is the only one."""
    with commands.queue("emails") as q:
        id = q.put(1)
        assert commands("reschedule", id, "--in", "10m").out == f"{id}: rescheduled\n"
        assert 590_000 < (q.explain(id).due_at or 0) - time.time() * 1000 < 610_000
        assert commands("reschedule", id, "--at", "2100-12-01T10:00+01:00", "--queue", "emails").status == 0
        assert q.explain(id).due_at == 4_131_334_800_000
        gone = commands("reschedule", "order-17", "--in", "1s")
        assert gone.status == 1
        assert "not rescheduled" in gone.out


def test_cancelled_in_hand(commands: Commands) -> None:
    """It is marked, and explain says so, with status 0: its handler is told, and nobody need do anything."""
    with commands.queue("emails") as q, q.consumer() as consumer:
        id = q.put(1)
        [lease] = consumer.claim(1, timeout=5)
        assert commands("cancel", id, "--by", "ada").out == f"{id}: cancelled\n"
        explained = commands("explain", id, "--quick")
        assert explained.status == 0
        assert "doing, CANCELLING" in explained.out
        assert "(ada) has cancelled it" in explained.out
        lease.retry()
        assert commands("explain", id).out.startswith(f"{id}: cancelled, CANCELLED")


def test_as_json(commands: Commands) -> None:
    """What became of each id."""
    with commands.queue("emails") as q:
        id = q.put(1)
    assert commands("reschedule", id, "--in", "1h", "--json").json == {
        "schema": 1, "queue": "emails", "rescheduled": {id: True},
    }  # fmt: skip
    told = commands("cancel", id, "x", "--json")
    assert told.status == 1
    assert told.json == {"schema": 1, "queue": "emails", "cancelled": {id: True, "x": False}}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("cancel",), "ID"),
        (("cancel", "1", "--by", "a\nb"), "a line of at most 100"),
        (("reschedule", "1"), "--in or --at"),
        (("reschedule", "1", "--in", "1h", "--at", "2100-12-01T10:00Z"), "--in or --at"),
        (("reschedule", "1", "--in", "soon"), "is no time span"),
        (("reschedule", "1", "--at", "2100-12-01T10:00"), "has no zone"),
        (("cancel", "1", "--queue", "emial"), "did you mean"),
    ],
)
def test_wrong_use(commands: Commands, words: tuple[str, ...], said: str) -> None:
    """One line that says what is wrong."""
    with commands.queue("emails") as q:
        q.put(1)
        result = commands(*words)
        assert result.status == 2
        assert said in result.error
        assert q.size().ready == 1
