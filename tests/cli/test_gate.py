"""`reliq pause`, `resume` and `limit`: what they say, to people and programs, and what status says of it."""

from __future__ import annotations

import threading

import pytest

import reliq
from tests.cli.conftest import Commands


def test_pause_and_resume(commands: Commands) -> None:
    """Who it was, what stands now, and whether that is new; status tells of it."""
    with commands.queue("emails") as queue:
        queue.put(1)
        result = commands("pause", "--by", "ada")
        assert (result.status, result.err) == (0, "")
        assert result.out.startswith("emails: paused by ada (")
        assert commands("pause").out.rstrip().endswith(", as before")
        status = commands("status", "--json").json["queues"][0]
        assert status["gate"]["paused"].startswith("ada (")
        shown = commands("status").out
        assert "  paused by ada (" in shown
        assert queue.gate().paused is not None
        done = commands("resume", "--json").json
        assert (done["queue"], done["changed"], done["gate"]["paused"]) == ("emails", True, None)
        assert "paused" not in commands("status").out


def work_off(queue: reliq.Queue) -> None:
    """Ack whatever is there."""
    with queue.consumer(until_empty=True) as consumer:
        for lease in consumer:
            lease.ack()


def test_drain(commands: Commands) -> None:
    """It takes no more puts; --wait ends when nothing is left, and tells how much is until then."""
    with commands.queue("emails") as queue:
        queue.put(1)
        assert commands("drain", "--by", "ada").out.startswith("emails: takes no more puts, says ada (")
        done = threading.Thread(target=work_off, args=(queue,))
        done.start()
        result = commands("drain", "--wait")
        done.join()
        assert (result.status, queue.size().ready) == (0, 0)
        result = commands("put", "--queue", "emails", "2")
        assert (result.status, "takes no more puts" in result.err) == (1, True)
        assert commands("resume").out == "emails: open\n"


def test_drain_that_nobody_works_on(commands: Commands) -> None:
    """It says so, once, and ends all the same when somebody has come."""
    with commands.queue("emails") as queue:
        queue.put(1)
        with commands.start("drain", "--wait") as waiting:
            assert waiting.stderr is not None
            said = waiting.stderr.readline()
            assert said.startswith("reliq: nobody works on queue 'emails': start a worker")
            work_off(queue)
            assert waiting.wait(20) == 0


def test_limit(commands: Commands) -> None:
    """Rates by the second, minute, hour and day; without words it shows, --off takes away."""
    with commands.queue("emails") as queue:
        queue.put(1)
        out = commands("limit", "--rate", "30/m", "--concurrency", "10").out
        assert out == "emails: at most 0.5 a second (1 at once after a rest), at most 10 in hand\n"
        assert commands("limit").out == out
        found = commands("limit", "--rate", "7200/h", "--burst", "9", "--json").json["gate"]
        assert (found["rate"], found["burst"], found["concurrency"]) == (2.0, 9, None)
        assert commands("limit", "--off").out == "emails: open\n"
        assert commands("limit").out == "emails: open, no limits\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--rate", "fast"], "--rate fast: messages a second, or 30/m, 1000/h, 5000/d"),
        (["--rate", "5/y"], "--rate 5/y"),
        (["--rate", "0"], "0.000001 or more"),
        (["--concurrency", "0"], "pause()"),
        (["--burst", "5"], "give rate="),
        (["--off", "--rate", "5"], "leave out --rate"),
    ],
)
def test_wrong_words(commands: Commands, words: list[str], said: str) -> None:
    """One line, exit status 2, and nothing is set."""
    with commands.queue("emails") as queue:
        queue.put(1)
        result = commands("limit", *words)
        assert (result.status, result.out) == (2, "")
        assert said in result.err
        assert str(queue.gate()) == "open"
