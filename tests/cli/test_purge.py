"""`reliq purge`: it asks, it exports, and what it has removed can be had back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Commands


def test_it_asks(commands: Commands) -> None:
    """With nobody to ask, it says what it would do, and does nothing."""
    with commands.queue("emails") as queue:
        queue.put_many([1, 2])
        queue.put(3, delay=60)
        result = commands("purge")
        assert (result.status, result.out) == (2, "")
        assert (
            "would remove 2 ready and 1 later of queue 'emails' for good, and asks first; use --yes" in result.err
        )
        assert tuple(queue.size()) == (2, 0, 1, 0)
        assert commands("purge", "--yes", "--state", "later").out == "emails: 1 message removed\n"
        assert commands("purge", "--yes", "--json").json["removed"] == 2
        assert tuple(queue.size()) == (0, 0, 0, 0)


def test_there_and_back(commands: Commands, tmp_path: Path) -> None:
    """All of them, small and large, raw and due later, by import and revive."""
    path = tmp_path / "emails.jsonl"
    with commands.queue("emails") as queue:
        queue.put_many([1, {"a": "x" * 100_000}])
        queue.put(3, delay=60)
        for _ in range(2):  # equal ones are two
            queue.links.insist(raw(queue))
        out = commands("purge", "--yes", "--export", str(path)).out
        assert "emails: 5 messages removed\n" in out
        assert f"reliq dead import {path}" in out
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        assert {line["cause"] for line in lines} == {"PURGED"}
        assert commands("dead", "import", str(path)).status == 0
        assert commands("dead", "revive", "--all").status == 0
        with queue.consumer(until_empty=True) as consumer:
            bodies = []
            for lease in consumer:
                with lease:
                    bodies.append(lease.body)
        assert sorted(map(str, bodies)) == sorted(["1", "3", "5", "5", str({"a": "x" * 100_000})])


def raw(queue: object) -> object:
    """What a foreign producer pushes."""
    from reliq.core.command import Command

    return Command("LPUSH", (queue.options.keys.ready,), (b"5",))  # type: ignore[attr-defined]


def test_a_file_that_is_there(commands: Commands, tmp_path: Path) -> None:
    """It is not written over, and nothing is removed."""
    path = tmp_path / "emails.jsonl"
    path.write_text("mine")
    with commands.queue("emails") as queue:
        queue.put(1)
        result = commands("purge", "--yes", "--export", str(path))
        assert (result.status, queue.size().ready, path.read_text()) == (2, 1, "mine")
        assert "name a file that is not there yet" in result.err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_no_room(commands: Commands, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What was not written stays aside, and the next purge takes it."""
    from reliq.cli import purge

    with commands.queue("emails") as queue:
        queue.put_many([1, 2])
        monkeypatch.setattr(purge, "_new", lambda path: open("/dev/full", "wb", buffering=0))  # noqa: SIM115
        result = commands("purge", "--yes", "--export", "x")
        assert result.status == 1
        assert "purge again with --export and another file" in result.err
        monkeypatch.undo()
        assert queue.size().ready == 0
        path = tmp_path / "second.jsonl"
        assert "2 messages removed" in commands("purge", "--yes", "--export", str(path)).out
        assert len(path.read_text().splitlines()) == 2
