"""explain while messages move and workers die: what exists is never said to be nowhere."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import reliq
from reliq.core import ledger
from reliq.core.command import Command
from tests.faults.lab import wait_until
from tests.servers import RedisServer

#: Seconds of asking; the full measure is 60.
EXPLAIN_SECONDS = float(os.environ.get("EXPLAIN_SECONDS", "5"))


def children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def moved(queue: reliq.Queue) -> str:
    """A message that has just moved, by the ledger."""
    last = Command("XREVRANGE", (queue.options.keys.events,), ("+", "-", "COUNT", 50))

    def ids() -> list[str]:
        return [entry["id"] for entry in ledger.read(queue.links.run(last)) if entry["id"]]

    return str(wait_until(ids, 20, "something moves")[0])


@contextlib.contextmanager
def restless(url: str, prefix: str) -> Iterator[int]:
    """A supervised worker that never finishes anything; its pid."""
    words = [sys.executable, "-m", "tests.faults.restless", url, prefix]
    worker = subprocess.Popen(words, stderr=subprocess.DEVNULL, cwd=Path(__file__).parents[2])
    try:
        yield worker.pid
    finally:
        worker.send_signal(signal.SIGTERM)
        try:
            worker.wait(40)
        except subprocess.TimeoutExpired:
            worker.kill()
            raise


@pytest.mark.timeout(300)
@pytest.mark.parametrize("messages", [50, 3_000])
def test_a_message_that_exists_is_found(server: Any, prefix: str, messages: int) -> None:
    """In a queue that is looked at whole, and in one that is searched place by place; while processes are killed
    with messages in hand. None of them is ever finished."""
    chance, states, reasons = random.Random(7), Counter[str](), Counter[str]()
    with reliq.Queue("restless", server.url, prefix=prefix) as queue:
        ids = queue.put_many(range(messages))
        with restless(server.url, prefix) as pid:
            wait_until(lambda: queue.size().doing > 0, 20, "work begins")
            end, kill_at = time.monotonic() + EXPLAIN_SECONDS, 0.0
            while time.monotonic() < end:
                found = queue.explain(moved(queue) if chance.random() < 0.7 else chance.choice(ids))
                states[found.state] += 1
                reasons[found.reason] += 1
                assert found.queue == "restless"
                assert found.state in ("ready", "doing", "later", "moving"), found
                if time.monotonic() > kill_at and (workers := children(pid)):
                    kill_at = time.monotonic() + 0.5
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(chance.choice(workers), signal.SIGKILL)
        print(dict(states), dict(reasons))
        size = queue.size()
        assert size.ready + size.doing + size.later == messages, "the test itself: none is gone"
        for id in chance.sample(ids, 20):
            assert queue.explain(id).state in ("ready", "doing", "later")
    assert states.total() > 10
    assert len(states) > 1
    assert states["moving"] <= states.total() // 20


@pytest.mark.timeout(300)
def test_a_message_that_exists_is_found_while_redis_is_killed(own_server: RedisServer, prefix: str) -> None:
    """Over power cuts that lose nothing (appendfsync always): there may be no answer for the moment, but none is
    wrong, and none says that it may be forgotten."""
    chance, states, cuts = random.Random(11), Counter[str](), 0
    with reliq.Queue("restless", own_server.url, prefix=prefix, timeout=2.0) as queue:
        ids = queue.put_many(range(200))
        with restless(own_server.url, prefix):
            wait_until(lambda: queue.size().doing > 0, 20, "work begins")
            end = time.monotonic() + EXPLAIN_SECONDS
            while time.monotonic() < end or cuts < 3:
                own_server.kill()
                threading.Timer(0.2, own_server.start).start()
                cuts += 1
                until = time.monotonic() + 1.5
                while time.monotonic() < until or not own_server.is_up:
                    with contextlib.suppress(reliq.Unavailable, reliq.OutcomeUnknown):
                        found = queue.explain(chance.choice(ids))
                        states[found.state] += 1
                        assert found.state in ("ready", "doing", "later", "moving"), found
        print(cuts, dict(states))
    assert states.total() > 20


@pytest.mark.timeout(300)
def test_what_is_acked_meanwhile_is_done(server: Any, prefix: str) -> None:
    """While a queue is drained, a message goes from ready to done: never back, and never to anything else."""
    order = ["ready", "doing", "absent"]
    with reliq.Queue("drained", server.url, prefix=prefix) as queue:
        ids = queue.put_many(range(2_000))
        watched = ids[::200]
        seen = {id: [queue.explain(id).state] for id in watched}
        with queue.consumer(until_empty=True) as consumer:
            for n, lease in enumerate(consumer):
                with lease:
                    if n % 50 == 0:
                        for id in watched:
                            seen[id].append(queue.explain(id).state)
        for id in watched:
            seen[id].append(queue.explain(id).state)
    for id, states in seen.items():
        assert states == sorted(states, key=order.index), id
        assert (states[0], states[-1]) == ("ready", "absent")
