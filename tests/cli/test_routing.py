"""Types of messages on the command line: put --type, and what is told of a type that nobody handles."""

from __future__ import annotations

from pathlib import Path

import reliq
from tests.cli.conftest import Commands
from tests.cli.doctoring import found


def test_put_peek_explain_status_doctor(commands: Commands) -> None:
    """The type goes with the message; while no worker handles it, people are told, and then no more."""
    assert commands("put", "--queue", "accounts", "--type", "new", "1").status == 0
    lines = commands("put", "--queue", "accounts", "--type", "new", "--lines", stdin=b"2\n3\n")
    assert lines.status == 0
    id = lines.out.split()[0]
    peeked = commands("peek", "--queue", "accounts", "--json").json["messages"]
    assert [each["type"] for each in peeked] == ["new"] * 3
    assert "type new" in commands("peek", "--queue", "accounts").out
    with commands.queue("accounts") as queue:
        reliq.Worker(queue.ack(print, type="known"), until_empty=True).run()
        explained = commands("explain", id, "--queue", "accounts")
        assert explained.status == 1
        assert "later, NO_HANDLER" in explained.out
        assert "type new" in explained.out
        status = commands("status", "--queue", "accounts")
        assert (status.status, "NO_HANDLER: messages that no worker" in status.out) == (1, True)
        assert "such as some of type 'new'" in status.out
        [finding] = found(commands("doctor", "--queue", "accounts", "--json"), "NO_HANDLER")
        assert finding["severity"] == "warning"
        assert "messages of type 'new' go back" in str(finding)
        assert queue.purge() == 3
        assert "NO_HANDLER" not in commands("status", "--queue", "accounts").out


def test_all_handlers_of_a_module(commands: Commands, tmp_path: Path) -> None:
    """A worker for a module runs its handlers of every type; two of one type are told, by their names."""
    (tmp_path / "shop.py").write_text(
        "import reliq\n"
        "q = reliq.Queue('accounts')\n"
        "def note(what):\n"
        "    with open('effects', 'a') as file:\n"
        "        file.write(what + '\\n')\n"
        "@q.ack(type='a')\n"
        "def first(body): note(f'first {body}')\n"
        "@q.ack(type='b')\n"
        "async def second(body): note(f'second {body}')\n"
        "@q.ack\n"
        "def others(body): note(f'others {body}')\n"
    )
    with commands.queue("accounts") as queue:
        for number, kind in enumerate(("a", "b", "c", None)):
            queue.put(number, type=kind)
    result = commands.process("worker", "shop", "--burst")
    assert result.status == 0, result.err
    assert sorted((tmp_path / "effects").read_text().split("\n")[:-1]) == [
        "first 0", "others 2", "others 3", "second 1",
    ]  # fmt: skip
    (tmp_path / "twice.py").write_text("from shop import *\n@q.ack(type='a')\ndef again(body): pass\n")
    result = commands.process("worker", "twice")
    assert result.status == 2
    assert "two handlers for messages of type 'a' in queue 'accounts': shop.first and twice.again" in result.err


def test_a_schedule_of_a_type(commands: Commands) -> None:
    """It is listed, and its messages have it."""
    words = ("schedule", "add", "nightly", "1", "--queue", "accounts", "--cron", "0 3 * * *", "--type", "report")
    assert commands(*words).status == 0
    assert "0 3 * * * (UTC), type report" in commands("schedule", "ls").out
    [listed] = commands("schedule", "ls", "--json").json["schedules"]
    assert listed["type"] == "report"
    with commands.queue("accounts") as queue:
        [schedule] = queue.schedules()
        assert schedule.type == "report"


def test_wrong_type(commands: Commands) -> None:
    """Told in one line; nothing is put."""
    result = commands("put", "--queue", "accounts", "--type", "", "1")
    assert (result.status, result.out) == (2, "")
    assert "a word of 1 to 100 characters" in result.error
