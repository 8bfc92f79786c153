"""Commands and what waits in later at no time: messages of tenants count as ready, those of groups gather."""

from __future__ import annotations

import time

from tests.cli.conftest import Commands


def test_messages_of_tenants_are_to_do(commands: Commands) -> None:
    """Everybody counts them, and tells how old they are, though they stand in later."""
    with commands.queue("reports") as queue:
        queue.put_many([1, 2], tenant="acme")
    time.sleep(0.05)
    [entry] = commands("status", "--json").json["queues"]
    assert (entry["ready"], entry["later"]) == (2, 0)
    assert 50 <= entry["oldest_ms"] < 60_000
    late = commands("check", "--max-age", "0.01", "--min-workers", "0")
    assert (late.status, "the next message was put" in late.out) == (1, True)
    assert "queue reports: 2 messages to do" in commands("doctor").out
    old = commands("doctor", "--max-age", "0.01").out
    assert "queue reports: the next of 2 messages was put" in old


def test_peek_says_for_what_they_wait(commands: Commands) -> None:
    """Where they are, if there is nothing in ready, and behind whom, or with whom."""
    with commands.queue("reports") as queue:
        queue.put("a", tenant="acme")
        queue.put("b", tenant="acme", ordering_key="k")
        out = commands("peek").out
        assert out.startswith("queue reports: nothing in ready\n2 of tenants wait for their turn in later: reliq ")
        queue.put("c", group="g")
    looked = commands("peek", "--state", "any", "--json").json["looked"]
    assert [(each["looked"], each["of"]) for each in looked] == [(0, 0), (0, 0), (3, 3), (0, 0)]
    out = commands("peek", "--state", "later").out
    assert "later  waits for its turn (tenant 'acme')  attempt 1" in out
    assert "later  waits for its turn (ordering key 'k', tenant 'acme')" in out
    assert "later  gathers (group 'g')" in out


def test_one_message_gathers(commands: Commands) -> None:
    """And explain says so in the singular."""
    with commands.queue("mails") as queue:
        id = queue.put("a", group="g")
    assert commands("explain", id, "--json").json["why"] == "1 message of group 'g' gathers"
