"""The traps of redis-py 8 and of Redis itself, each with the tests in which it is seen to be closed.

Redis() repeats a command ten times around send and read: eleven LPUSHes, a BLMOVE that moves eleven
    test_one_command_is_sent_once, test_pool::test_retries_are_counted, test_faults::test_lost_reply_of_a_put,
    test_faults::test_lost_reply_of_blmove
from_url() has other defaults than Redis()
    test_nothing_is_left_to_defaults
a block as long as socket_timeout ends as TimeoutError, and what was moved is lost
    test_settings::test_what_is_wrong_is_told_in_one_line, test_pool::test_times_of_the_connection_that_blocks,
    test_claim::test_idle_consumer_outlasts_its_block
RESP3 switches off the check for unread replies, and maintenance mode lengthens timeouts
    test_what_a_connection_says_first, test_link::test_what_nobody_read_is_nobodys
a signal, or a time limit of a handler, between question and answer leaves the reply to the next command
    test_a_signal_between_question_and_answer, test_aio::test_timeout_around_a_claim_and_a_handler,
    test_aio::test_cancellation_at_any_point
a cancelled BLMOVE has moved a message
    test_aio::test_claim_cancelled_after_redis_replied
each new connection costs four round trips more
    test_what_a_connection_says_first
the server, or somebody in between without a word, ends idle connections
    test_pool::test_the_server_ends_idle_ones, test_pool::test_a_silent_end_is_found_by_a_ping
it takes Redis() 3.9 s to tell that a connection is refused
    test_a_refused_connection_is_told_at_once
LMOVE and BLMOVE are refused when memory is full
    test_faults::test_full_redis_drains, test_every_script::test_drained_while_out_of_memory
"""

from __future__ import annotations

import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import redis as redis_py

import reliq
from reliq import client
from reliq.core.command import Command
from reliq.errors import OutcomeUnknown
from tests.conformance.shell import Shell
from tests.faults.proxy import FaultProxy, drop_reply
from tests.servers import ExternalServer, RedisServer, _free_port


def test_the_tests_above_are_there() -> None:
    """Every name in the table is one of a test."""
    tests = Path(__file__).parents[1]
    code = {path.stem: path.read_text() for path in tests.rglob("test_*.py")}
    named = re.findall(r"\b(?:(test_\w+)::)?(test_\w+)\b", __doc__ or "")
    assert len(named) > 15
    for module, name in named:
        where = [code[module]] if module else code.values()
        assert name in code or any(f"def {name}(" in text for text in where), (module, name)


async def test_one_command_is_sent_once(
    sh: Shell, server: RedisServer | ExternalServer, redis: redis_py.Redis, prefix: str
) -> None:
    """A command that is not safe to repeat is not repeated, whatever becomes of its reply: the caller learns that
    its outcome is unknown."""
    with FaultProxy("127.0.0.1", int(server.url.rsplit(":", 1)[1].split("/")[0])) as proxy:
        q = sh.queue(url=proxy.url)
        await sh(q.ping())
        rule = proxy.on(command="LPUSH", action=drop_reply(), count=None)
        with pytest.raises(OutcomeUnknown):
            await sh(q.links.insist(Command("LPUSH", (f"{prefix}:list",), ("x",))))
        assert rule.hits == 1
        assert redis.llen(f"{prefix}:list") == 1


def test_nothing_is_left_to_defaults() -> None:
    """Each setting with a trap behind it is said for every connection, in both shells."""

    def made(backoff: Any, retries: int) -> tuple[Any, int]:
        return backoff, retries

    address = client.parse("redis://h")
    for kwargs in (
        client.connection_kwargs(address, read_timeout=1.5, retry=made, name="n"),
        client.asking_kwargs(address, address.nodes[0], retry=made),
    ):
        assert kwargs["retry"][1] == 0
        assert kwargs["protocol"] == 2
        assert 0 < kwargs["socket_timeout"] <= 1.5
        assert 0 < kwargs["socket_connect_timeout"] <= 2
        assert (kwargs["health_check_interval"], kwargs["driver_info"]) == (0, None)


async def test_what_a_connection_says_first(own_sh: Shell, own_server: RedisServer) -> None:
    """Its name, and at once all that we ask a server: nothing of RESP3, maintenance or libraries."""
    own_server.cli("CONFIG", "RESETSTAT")
    q = own_sh.queue()
    await own_sh(q.ping())
    with own_server.client() as raw:
        asked = {name.removeprefix("cmdstat_") for name in raw.info("commandstats")}
        [ours] = [each for each in raw.client_list() if each["name"] == "reliq"]
    assert asked <= {"client", "client|setname", "client|id", "info", "config", "config|resetstat"}
    assert ours.get("resp", "2") == "2"
    assert ours.get("lib-name", "") == ""


async def test_a_refused_connection_is_told_at_once(sh: Shell) -> None:
    """In less than half a second, and in one line."""
    q = sh.queue(url=f"redis://127.0.0.1:{_free_port()}/0")
    started = time.monotonic()
    with pytest.raises(reliq.Unavailable, match="Check that it runs"):
        await sh(q.put(1))
    assert time.monotonic() - started < 0.5


# An alarm in the middle of connecting leaves a socket to the collector of garbage, which closes it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_between_question_and_answer(server: RedisServer | ExternalServer, prefix: str) -> None:
    """A handler of signals that raises ends the wait; the reply that comes later is never taken for another's."""

    class Alarm(Exception):
        pass

    def ring(number: int, frame: Any) -> None:
        raise Alarm

    before = signal.signal(signal.SIGALRM, ring)
    try:
        with reliq.Queue("q", server.url, prefix=prefix) as queue:

            def interrupted(seconds: float) -> None:
                signal.setitimer(signal.ITIMER_REAL, seconds)
                queue.links.run(Command("BLPOP", (f"{prefix}:nothing",), (0.3,)))

            for n in range(20):
                with pytest.raises(Alarm):
                    interrupted(0.005 + 0.005 * n)
                assert queue.links.run(Command("ECHO", (), (str(n),))) == str(n).encode()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
