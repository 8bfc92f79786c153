"""A worker of several levels dies or is cut off with messages of each claimed ahead: none is lost, and those that
come again have the same order and the same shares."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from tests.faults.lab import Lab, lab, wait_until
from tests.faults.proxy import FaultProxy, drop_reply
from tests.faults.test_network import proxy  # noqa: F401 - a fixture

LEVELS = {"high": 0, "normal": 10_000, "low": 20_000}
"""What the numbers of each level begin with."""


def level_of(effect: dict[str, Any]) -> str:
    """Of what a handler did."""
    return max((level for level in LEVELS if LEVELS[level] <= effect["n"]), key=LEVELS.__getitem__)


def fill(it: Lab, messages: int, *, slow: int | None = None) -> set[int]:
    """So many of each level; one of the normal ones is held for long enough to be killed with it."""
    numbers = set[int]()
    for level, first in LEVELS.items():
        bodies = [{"n": first + i, "hold": 30 * ((level, i) == ("normal", slow))} for i in range(messages)]
        it.queue.put_many(bodies, priority=level)
        numbers |= {body["n"] for body in bodies}
    return numbers


def sizes(it: Lab) -> dict[str, Any]:
    """Of each level."""
    return {level: it.queue.level(level).size() for level in LEVELS}


def at_rest(it: Lab) -> Callable[[], bool]:
    """Whether nothing of any level is anywhere."""
    return lambda: not any(size.ready or size.doing or size.later for size in sizes(it).values())


@pytest.mark.parametrize("supervise", [True, False])
def test_kill_9_with_messages_of_several_levels_claimed_ahead(server: Any, prefix: str, supervise: bool) -> None:
    """Nothing is lost, only the one in hand comes to a handler again; and the levels share as before, in order."""
    with lab(server, prefix, levels=True, lease=2.0) as it:
        numbers = fill(it, 900, slow=150)
        worker = it.start(supervise=supervise, concurrency=1)
        wait_until(lambda: any(e["n"] == LEVELS["normal"] + 150 for e in it.effects()), 20, "the slow one")
        done = len(it.effects()) - 1
        wait_until(
            lambda: sum(s.ready + s.doing for s in sizes(it).values()) == 2700 - done, 20, "the others acked"
        )
        ahead = {level: size.doing for level, size in sizes(it).items()}
        assert sum(ahead.values()) > 2, ahead  # how many, the machine says: what handlers finish in 20 ms
        [pid] = worker.children() if supervise else [worker.pid]
        os.kill(pid, signal.SIGKILL)
        if not supervise:
            worker.process.wait(20)
            it.start(concurrency=1)
        wait_until(at_rest(it), 40, "all levels empty")
        counts = it.count()
        assert set(counts) == numbers, "lost"
        assert [n for n, times in counts.items() if times > 1] == [LEVELS["normal"] + 150]
        assert all(size.dead == 0 for size in sizes(it).values())
        again = [e for e in it.effects() if e["pid"] != pid]
        if supervise:  # what a lost host had claimed ahead is handed out alone, whenever that comes back
            first = Counter(level_of(e) for e in again[100:500])
            assert first["high"] == pytest.approx(240, rel=0.15)
            assert first["normal"] == pytest.approx(120, rel=0.15)
            assert first["low"] == pytest.approx(40, rel=0.3)
            # And what it held comes back behind what its successor has claimed meanwhile.
            for level in LEVELS:
                mine = [e["n"] for e in again if level_of(e) == level and e["deliveries"] == 1]
                assert mine == sorted(mine)


def test_every_tenth_reply_lost_of_several_levels(
    server: Any,
    prefix: str,
    proxy: FaultProxy,  # noqa: F811
) -> None:
    """Each handled exactly once, and each level in order. (In which proportion, the line says.)"""
    with lab(server, prefix, levels=True) as it:
        numbers = fill(it, 400)
        proxy.on(script="trip", action=drop_reply(), count=None, probability=0.1)
        it.start(url=proxy.url, concurrency=1)
        wait_until(at_rest(it), 60, "all levels empty")
        assert it.count() == dict.fromkeys(numbers, 1)
        seen = it.effects()
        for level in LEVELS:
            mine = [e["n"] for e in seen if level_of(e) == level]
            assert mine == sorted(mine)
