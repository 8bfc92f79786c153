"""explain while messages move and workers die: what exists is never said to be nowhere."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import reliq
from reliq.core.command import Command
from tests.faults.lab import wait_until

#: Seconds of asking; the full measure is 60.
EXPLAIN_SECONDS = float(os.environ.get("EXPLAIN_SECONDS", "5"))


def children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def moved(queue: reliq.Queue) -> str:
    """A message that has just moved, by the ledger."""
    last = Command("XREVRANGE", (queue.options.keys.events,), ("+", "-", "COUNT", 1))
    [(_, fields)] = wait_until(lambda: queue.links.run(last), 20, "something moves")
    told = dict(zip(fields[::2], fields[1::2], strict=True))
    return str(told[b"id"].decode())


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
