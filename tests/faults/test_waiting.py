"""Messages are cancelled and given other times while they are claimed, and while whoever does so is killed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import reliq
from reliq.core import ledger
from reliq.core.command import Command
from reliq.errors import MovedOn
from tests.faults.lab import lab, wait_until

#: Messages of a race; the full measure is 20,000.
MESSAGES = int(os.environ.get("RACE_MESSAGES", "3000"))

#: Cancels, and dies at the worst moment: before its script is sent, or before the answer is read.
DYING = """
import os, signal, sys
import reliq
from reliq.core import waiting
url, prefix, when, id = sys.argv[1:]
cancel = waiting.cancel

def dying(*args):
    command = cancel(*args)
    if when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    return command._replace(parse=lambda reply: os.kill(os.getpid(), signal.SIGKILL))

waiting.cancel = dying
reliq.Queue("q", url, prefix=prefix).cancel(id, by="dying")
"""


def entries(queue: reliq.Queue, event: str) -> Counter[str]:
    """How often the ledger tells this of which message."""
    found = queue.links.run(Command("XRANGE", (queue.options.keys.events,), ("-", "+")))
    return Counter(entry["id"] for entry in ledger.read(found) if entry["event"] == event)


class Race:
    """Consumers claim, and some of what they have goes back; meddlers cancel, and give other times."""

    def __init__(self, queue: reliq.Queue, ids: list[str]) -> None:
        self.queue, self.ids = queue, ids
        self.handled: Counter[str] = Counter()
        self.cancelled: set[str] = set()
        self.in_hand: deque[str] = deque(maxlen=60)
        self.errors: list[BaseException] = []
        self.stop = threading.Event()

    def consume(self, chance: random.Random) -> None:
        with self.queue.consumer(prefetch=20) as consumer:
            while not self.stop.is_set():
                leases = consumer.claim(20, timeout=0.1)
                self.in_hand.extend(lease.id for lease in leases)
                for lease in leases:
                    if chance.random() < 0.4:
                        lease.retry(delay=chance.random() * 0.1)
                    else:
                        lease.ack()
                        self.handled[lease.id] += 1

    def meddle(self, chance: random.Random) -> None:
        for n in chance.sample(range(len(self.ids)), len(self.ids) // 6):
            id = self.in_hand[-1] if n % 2 and self.in_hand else self.ids[n]
            with suppress(MovedOn):
                if chance.random() < 0.5:
                    self.queue.reschedule(id, delay=chance.random() * 0.2)
                if self.queue.cancel(id):
                    self.cancelled.add(id)

    def start(self, run: Callable[[random.Random], None], seed: int) -> threading.Thread:
        def watched() -> None:
            try:
                run(random.Random(seed))
            except BaseException as error:
                self.errors.append(error)

        thread = threading.Thread(target=watched)
        thread.start()
        return thread

    def run(self) -> None:
        """Until all meddlers are done, and nothing is left."""
        consumers = [self.start(self.consume, seed) for seed in range(3)]
        for meddler in [self.start(self.meddle, seed) for seed in (10, 11)]:
            meddler.join(120)
        wait_until(lambda: not sum(self.queue.size()[:3]) or self.errors, 60, "drained")
        self.stop.set()
        for consumer in consumers:
            consumer.join(20)
        assert not self.errors, self.errors[0]


@pytest.mark.timeout(300)
def test_handled_or_cancelled_never_both_never_neither(server: Any, prefix: str) -> None:
    """What the ledger says was cancelled was acked by nobody; all others are, once. Whatever cancel said True of
    is cancelled, unless a handler had it in hand and finished it; of nothing else is it said."""
    with reliq.Queue("q", server.url, prefix=prefix, retry=reliq.Retry(attempts=5, wait=0.05)) as queue:
        race = Race(queue, queue.put_many(range(MESSAGES)))
        race.run()
        told, moved = entries(queue, "cancel"), entries(queue, "reschedule")
        print(f"{len(race.handled)} handled, {len(race.cancelled)} cancelled, {sum(moved.values())} rescheduled")
        assert tuple(queue.size()) == (0, 0, 0, 0)
        assert set(race.handled.values()) == {1}
        assert not set(told) & set(race.handled), "both"
        assert set(told) | set(race.handled) == set(race.ids), "neither"
        assert set(told.values()) == {1}
        assert set(told) <= race.cancelled
        in_hand = entries(queue, "call off")
        assert race.cancelled <= set(told) | set(in_hand)
        assert len(set(told) - set(in_hand)) > MESSAGES // 100
        assert set(told) & set(in_hand)
        assert moved


@pytest.mark.timeout(300)
def test_a_cancelled_message_ends_if_its_worker_is_killed(server: Any, prefix: str) -> None:
    """Processes are killed with messages in hand that were cancelled just before, at random moments: what was
    cancelled is handed to no handler later than a second after that, and all others are handled."""
    with lab(server, prefix) as it:
        ids = it.queue.put_many({"n": n, "ms": 100} for n in range(400))
        worker = it.start(processes=3, concurrency=4)
        wait_until(lambda: len(it.effects()) > 20, 20, "work begins")
        chance, cancelled = random.Random(5), dict[int, float]()
        for _ in range(12):
            before = len(it.effects())
            wait_until(lambda before=before: len(it.effects()) > before + 5, 20, "work goes on")
            latest = it.effects()[-1]
            for n in (latest["n"], chance.randrange(len(ids))):
                if it.queue.cancel(ids[n], by="chance"):
                    cancelled.setdefault(n, time.time())
            with suppress(ProcessLookupError):
                os.kill(latest["pid"], signal.SIGKILL)
        it.drained(60)
        told = {ids.index(id) for id in entries(it.queue, "cancel")}
        done = set(it.count())  # begun, that is
        print(f"{len(cancelled)} asked, {len(told)} cancelled, {len(told & done)} of them in hand")
        assert set(range(len(ids))) <= done | told, "neither"
        assert told <= set(cancelled)
        assert set(cancelled) <= told | done
        assert min(len(told - done), len(told & done)) > 3, "while they waited, and in the hands of the killed"
        assert not [each for each in it.effects() if each["n"] in told and each["at"] > cancelled[each["n"]] + 1.2]
        assert it.queue.size().dead == 0
        assert worker.end() == 0


@pytest.mark.parametrize("when", ["before", "after"])
def test_kill_9_of_who_cancels(server: Any, prefix: str, when: str) -> None:
    """Between its look and what it does, or before it has its answer: the message waits as before, or is cancelled
    and explained so; whoever asks again gets True."""
    with reliq.Queue("q", server.url, prefix=prefix) as queue:
        ids = queue.put_many(range(5))
        words = [sys.executable, "-c", DYING, server.url, prefix, when, ids[2]]
        died = subprocess.run(words, cwd=Path(__file__).parents[2], timeout=30, check=False)
        assert died.returncode == -signal.SIGKILL
        found = queue.explain(ids[2])
        assert found.state == {"before": "ready", "after": "cancelled"}[when]
        assert queue.size().ready == {"before": 5, "after": 4}[when]
        assert queue.cancel(ids[2]) is True
        assert queue.size().ready == 4
