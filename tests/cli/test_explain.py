"""`reliq explain`: one command says where a message is, why, and what to type now."""

from __future__ import annotations

import contextlib
import io
import sys
from typing import Any

import pytest
import redis as redis_py

import reliq
from reliq.cli.explain import _Teller
from reliq.core import envelope as env
from reliq.core.explain import Progress
from reliq.core.reasons import Reason
from tests.cli.conftest import Commands

NOBODYS = "0198c1f2a3b47c5d8e9f0a1b2c3d4e5f"


def test_the_screen_of_a_message_that_nobody_takes(commands: Commands) -> None:
    """State and reason first; where, why, what next, what to type; the message; what happened to it."""
    with commands.queue("emails") as queue:
        ids = queue.put_many([{"n": n} for n in range(10)])
    result = commands("explain", ids[3])
    assert (result.status, result.err) == (1, "")
    lines = result.out.splitlines()
    assert lines[:6] == [
        f"{ids[3]}: ready, NO_CONSUMERS",
        "  queue     emails",
        "  where     position 4 of 10",
        "  why       no consumer of this queue is registered",
        "  next      nothing, until a worker runs",
        "  run       reliq worker MODULE:HANDLER",
    ]
    assert lines[6].startswith("  message   put ")
    assert lines[6].endswith("ago, attempt 1, 0 deliveries, 44 bytes")
    assert lines[7].startswith("  timeline  20")
    assert lines[8].endswith("  put")
    assert len(lines) == 9


def test_the_json_of_a_message_in_hand(commands: Commands) -> None:
    """`state` and `reason`, everything that the screen shows and more; the usual way is exit status 0."""
    with commands.queue("emails") as queue, reliq.context.tracing("a-trace"):
        id = queue.put({"n": 1})
        with queue.consumer() as consumer:
            [lease] = consumer.claim(1, timeout=5)
            result = commands("explain", id, "--json")
            screen = " ".join(commands("explain", id).out.split())
            lease.ack()
    document = result.json
    assert result.status == 0
    assert (document["state"], document["reason"], document["queue"]) == ("doing", "LEASED", "emails")
    assert (document["consumer"], document["attempt"], document["trace_id"]) == (consumer.name, 1, "a-trace")
    assert (document["prefix"], document["asked"]) == (commands.prefix, None)
    assert document["lease_until"] > document["now"]
    assert [each["event"] for each in document["timeline"]] == ["put"]
    assert f"in the hands of {consumer.name} (pid=" in screen
    assert "its lease ends in 1" in screen
    assert "trace a-trace" in screen


def test_a_dead_letter(commands: Commands) -> None:
    """Its cause is the reason, its error the why, and the command shows more of it."""
    with commands.queue("emails", retry=reliq.Retry(attempts=1)) as queue:
        id = queue.put({"to": "nobody"})
        with queue.consumer(until_empty=True) as consumer:
            for lease in consumer:
                with lease:
                    raise ValueError("no such address")
    result = commands("explain", id, "--queue", "emails")
    assert result.status == 1
    assert result.out.startswith(f"{id}: dead, DEAD_ATTEMPTS\n")
    assert "  why       ValueError: no such address\n" in result.out
    assert f"  run       reliq dead show {id} --queue emails --prefix {commands.prefix}\n" in result.out
    assert f"given up: ATTEMPTS ({consumer.name})" in result.out
    shown = commands.plain(*_typed(result.out), "--url", commands.url)
    assert shown.status == 0
    assert "no such address" in shown.out


def _typed(out: str) -> list[str]:
    """What the screen says to type, without the name of the program."""
    [line] = [line for line in out.splitlines() if line.startswith("  run ")]
    return line.split()[2:]


def test_retried(commands: Commands) -> None:
    """Until when, for which attempt, and the failure with its time and its worker."""
    with commands.queue("emails") as queue:
        id = queue.put(1)
        with queue.consumer() as consumer:
            [lease] = consumer.claim(1, timeout=5)
            lease.retry(delay=3600, reason="TimeoutError: no answer")
            out = commands("explain", id).out.replace("\n" + 26 * " ", " ")  # one line for each happening
    assert out.startswith(f"{id}: later, RETRY_BACKOFF\n")
    assert "  where     due in 60 min (2" in out
    assert "attempt 1 failed: TimeoutError: no answer" in out
    assert f"went back for 60 min, failed: TimeoutError: no answer ({consumer.name})" in out


def test_long_lines_are_wrapped_and_commands_are_not(commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader sees the whole of it, and can copy the command."""
    monkeypatch.setenv("COLUMNS", "80")
    with commands.queue("emails") as queue:
        id = queue.put(1)
        with queue.consumer() as consumer:
            [lease] = consumer.claim(1, timeout=5)
            lease.bury("word " * 60 + "end")
    out = commands("explain", id).out
    [run] = [line for line in out.splitlines() if line.startswith("  run")]
    assert run.endswith(commands.prefix)
    assert all(len(line) <= 80 for line in out.splitlines() if line != run)
    assert "end\n" in out


@pytest.mark.parametrize("named", [True, False])
def test_a_message_of_another_queue(commands: Commands, named: bool) -> None:
    """Without --queue all are looked in; with it, the others too, and it is said first."""
    with commands.queue("emails") as emails, commands.queue("images") as images:
        emails.put(1)
        id = images.put(2)
        with images.consumer() as consumer:
            [lease] = consumer.claim(1, timeout=5)
            words = ["explain", id, *(["--queue", "emails"] if named else [])]
            result, document = commands(*words), commands(*words, "--json").json
            lease.ack()
    first = result.out.splitlines()[0]
    assert first == ("not in queue emails, but in images:" if named else f"{id}: doing, LEASED")
    assert (document["queue"], document["asked"]) == ("images", "emails" if named else None)
    assert result.status == (1 if named else 0)


def test_nowhere(commands: Commands) -> None:
    """In none of the queues: what that may mean, and what the id tells."""
    with commands.queue("emails") as emails, commands.queue("images") as images:
        emails.put(1)
        images.put(2)
    result = commands("explain", NOBODYS)
    assert result.status == 1
    assert result.out.startswith(f"{NOBODYS}: absent, DONE_OR_NEVER_PUT\n")
    assert "it is nowhere in emails, images" in result.out
    assert commands("explain", NOBODYS, "--json").json["reason"] == "DONE_OR_NEVER_PUT"
    assert commands("explain", NOBODYS, "--json", "--quick").json["reason"] == "UNSEARCHED"


def test_an_id_of_ones_own(commands: Commands) -> None:
    """It is found by the text, and done when it is gone."""
    with commands.queue("emails") as queue:
        queue.put(1, id="order 17")
        assert commands("explain", "order 17").out.startswith(f"{env.named_id('order 17').hex()}: ready, ")
        with queue.consumer(until_empty=True) as consumer:
            for lease in consumer:
                lease.ack()
    result = commands("explain", "order 17")
    assert (result.status, result.out.split()[1:3]) == (0, ["done,", "DONE"])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["explain", NOBODYS, "--queue", "emial"], "there is no queue 'emial' under prefix"),
        (["explain", NOBODYS, "--queue", "emial"], "did you mean 'emails'?"),
        (["explain"], "the following arguments are required: ID. See reliq explain --help"),
        (["explain", " "], "explain(' '): the id of a message, as its put returned it"),
        (["explain", NOBODYS, "--queue", "a b"], "queue name 'a b' cannot be used"),
    ],
)
def test_wrong_use(commands: Commands, words: list[str], says: str) -> None:
    """One line, with what is wrong and what to do."""
    with commands.queue("emails") as queue:
        queue.put(1)
    result = commands(*words)
    assert (result.status, result.out) == (2, "")
    assert says in result.error


def test_nothing_under_this_prefix(commands: Commands) -> None:
    """Without any queue, the place is what is doubtful."""
    result = commands("explain", NOBODYS)
    assert result.status == 2
    assert "no queue is known under prefix" in result.error
    assert "Check --url and --prefix" in result.error


def test_no_redis(no_server: Commands) -> None:
    """Exit status 3, one line."""
    result = no_server("explain", NOBODYS)
    assert result.status == 3
    assert "cannot reach Redis" in result.error


def test_a_key_of_the_wrong_type(commands: Commands, redis: redis_py.Redis) -> None:
    """What another program put in the place of a queue is told; the other queues are searched."""
    with commands.queue("emails") as emails, commands.queue("images") as images:
        emails.put(1)
        id = images.put(2)
        redis.delete(emails.options.keys.ready)
        redis.set(emails.options.keys.ready, "foreign")
    result = commands("explain", NOBODYS, "--queue", "emails")
    assert result.status == 1
    assert "Another program uses this key" in result.error
    assert "queue 'emails' could not be searched" in commands("explain", NOBODYS, "--queue", "images").out
    assert commands("explain", id).out.startswith(f"{id}: ready, ")


def test_what_comes_from_redis_is_harmless(commands: Commands) -> None:
    """Control characters in an error do nothing to a terminal."""
    with commands.queue("emails") as queue:
        id = queue.put(1)
        with queue.consumer() as consumer:
            [lease] = consumer.claim(1, timeout=5)
            lease.bury("\x1b[31mred\x07")
    out = commands("explain", id).out
    assert "\x1b" not in out
    assert "\\x1b[31mred\\x07" in out


def test_every_reason_leads_to_its_explanation(commands: Commands) -> None:
    """What explain says can be asked again: reliq errors CODE."""
    with commands.queue("emails") as queue:
        reason = commands("explain", queue.put(1), "--json").json["reason"]
    assert commands.plain("errors", reason).out.startswith(f"{reason}: {Reason[reason].summary}\n")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_a_long_search_says_how_far_it_is(monkeypatch: pytest.MonkeyPatch, stream: type[io.StringIO]) -> None:
    """Not at once; on a terminal in one line that is gone at the end, else now and then."""
    clock: list[float] = [0.0]
    monkeypatch.setattr("reliq.cli.explain.time.monotonic", lambda: clock[0])
    error = stream()
    with contextlib.redirect_stderr(error):
        assert sys.stderr is error
        with _Teller() as teller:
            for seconds in (0.5, 1.2, 1.21, 8.0):
                clock[0] = seconds
                teller.tell(Progress("emails", "ready", int(seconds * 1_000), 10_000))
    told: Any = error.getvalue()
    lines = ["queue emails: ready, 1,200 of 10,000 looked at", "queue emails: ready, 8,000 of 10,000 looked at"]
    if stream is Terminal:
        assert [part.strip() for part in told.split("\r")] == ["", *lines, "", ""]
        assert "\n" not in told
    else:
        assert told.splitlines() == [f"reliq: {line}" for line in lines]


def test_progress_is_shown(commands: Commands) -> None:
    """As its handler said it last, with nothing that a terminal would obey; and that it is done, by its result."""
    with commands.queue("emails") as queue:
        receipt = queue.put({"n": 1}, result=60)
        with queue.consumer() as consumer:
            [lease] = consumer.claim(1, timeout=5)
            lease.progress({"done": 3, "of": "\x1b[2J"})
            consumer._trip(0)
            screen = commands("explain", receipt).out
            assert "  progress  {'done': 3, 'of': '\\x1b[2J'}" in screen
            assert commands("explain", receipt, "--json").json["progress"] == "{'done': 3, 'of': '\\x1b[2J'}"
            lease.ack(result="sent")
    done = commands("explain", receipt)
    assert (done.status, done.out.splitlines()[0]) == (0, f"{receipt}: done, DONE")
    assert "its result is kept" in done.out
