"""The exclusive mode when things break: kills, sleep, lost replies, a Redis that dies, and pushes to the head."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis as redis_py

import reliq
from reliq.core import exclusive
from reliq.core.command import Command
from tests.faults.copier import Store
from tests.faults.lab import wait_until
from tests.faults.proxy import FaultProxy, delay_reply, drop_reply, drop_request
from tests.lua.lab import Lab
from tests.lua.test_exclusive import Holder
from tests.servers import RedisServer

#: How often a copier is killed, while it copies 5,000 rows each; the full measure is 20.
KILLS = int(os.environ.get("EXCLUSIVE_KILLS", "4"))
SCRIPTS = {
    script.name: script.sha
    for script in (exclusive._SEIZE, exclusive._READ, exclusive._SETTLE, exclusive._PROLONG, exclusive._FREE)
}


class Copiers:
    """Processes that copy one queue into one database, and what came of it."""

    def __init__(self, url: str, prefix: str, folder: Path, *, batch: int = 500, **queue: Any) -> None:
        self.folder, self.pause = folder, folder / "pause"
        self.queue = reliq.Queue("work", url, prefix=prefix, **queue)
        self.store = Store(str(folder / "rows.db"))
        self.settings = {
            "url": url, "prefix": prefix, "queue": queue, "batch": batch, "database": self.store.path,
            "pause": str(self.pause),
        }  # fmt: skip
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> subprocess.Popen[bytes]:
        """One more; it waits while another one holds the queue."""
        with (self.folder / f"{len(self.processes)}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.faults.copier", json.dumps(self.settings)],
                cwd=Path(__file__).parents[2],
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.processes.append(process)
        return process

    def holder(self) -> str:
        """The name of who holds the queue now, or nothing."""
        found = self.queue.links.insist(exclusive.lock(self.queue.options.keys))
        return found.holder if found else ""

    def holding(self, process: subprocess.Popen[bytes]) -> bool:
        return f"-{process.pid}-" in self.holder()

    def who_holds(self) -> subprocess.Popen[bytes] | None:
        """The process that holds the queue now, if it lives."""
        return next((each for each in self.processes if each.poll() is None and self.holding(each)), None)

    def log(self, process: subprocess.Popen[bytes]) -> str:
        return (self.folder / f"{self.processes.index(process)}.log").read_text(errors="replace")

    def dead(self) -> int:
        return self.queue.size().dead

    def end(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait(10)
        self.queue.close()
        self.store.db.close()


@pytest.fixture
def copiers(server: Any, prefix: str, tmp_path: Path) -> Iterator[Any]:
    """Makes Copiers on the shared server, and ends them."""
    made: list[Copiers] = []

    def make(**options: Any) -> Copiers:
        made.append(Copiers(server.url, prefix, tmp_path, **options))
        return made[-1]

    yield make
    for each in made:
        each.end()


@pytest.mark.timeout(900)
def test_rows_are_copied_in_order_through_kills(copiers: Any) -> None:
    """5,000 rows for each kill -9, in batches of 500, two copiers at once: each row once, in the right order."""
    it, rows, chance = copiers(lease=1.0), 5000 * KILLS, random.Random(5)
    it.queue.put_many(range(rows))
    started = time.monotonic()
    it.start(), it.start()
    kills, waits = 0, []
    while kills < KILLS:
        mark = it.store.count() + chance.randint(500, 3500)
        wait_until(lambda mark=mark: it.store.count() >= mark, 60, f"{mark} rows, after {kills} kills")
        victim = wait_until(it.who_holds, 20, "somebody holds the queue")
        time.sleep(chance.random() / 100)
        victim.send_signal(signal.SIGKILL)
        killed, held = time.monotonic(), it.holder()
        kills += 1
        it.start()
        wait_until(lambda held=held: it.holder() not in ("", held), 30, "taken over")
        waits.append(time.monotonic() - killed)
    wait_until(lambda: it.store.count() == rows and not it.queue.size().ready, 120, "all rows")
    print(f"{rows:,} rows, {kills} kills, {time.monotonic() - started:.1f} s; taken over after {max(waits):.2f} s")
    assert it.store.numbers() == list(range(rows))
    assert it.dead() == 0
    for process in it.processes:
        assert process.wait(30) in (0, -signal.SIGKILL), it.log(process)
    assert tuple(it.queue.size()) == (0, 0, 0, 0)


def test_who_wakes_up_after_a_takeover_removes_nothing(copiers: Any) -> None:
    """SIGSTOP past the lease with a batch in hand, a takeover, SIGCONT: store and lock refuse it."""
    it = copiers(lease=1.0, batch=100)
    it.queue.put_many(range(1000))
    it.pause.touch()
    first = it.start()
    wait_until(lambda: it.holding(first), 20, "the first one holds the queue")
    wait_until(lambda: it.queue.links.insist(exclusive.lock(it.queue.options.keys)).in_hand, 10, "in hand")
    first.send_signal(signal.SIGSTOP)
    second = it.start()
    wait_until(lambda: it.holding(second), 20, "taken over")
    wait_until(lambda: it.queue.links.insist(exclusive.lock(it.queue.options.keys)).in_hand, 10, "in hand again")
    first.send_signal(signal.SIGCONT)
    wait_until(lambda: "no longer held by" in it.log(first), 10, "it is told that its lock is lost")
    assert it.store.count() == 0
    it.pause.unlink()
    assert second.wait(30) == 0, it.log(second)
    assert first.wait(30) == 0, it.log(first)
    assert it.store.numbers() == list(range(1000))
    assert tuple(it.queue.size()) == (0, 0, 0, 0)


def test_a_late_ack_is_refused_even_if_the_store_is_not_asked(server: Any, prefix: str) -> None:
    """The holder is cut off with a batch in hand until another one has it: its ack removes nothing."""
    host, port = server.url.removeprefix("redis://").split("/")[0].split(":")
    with (
        FaultProxy(host, int(port)) as proxy,
        reliq.Queue("work", proxy.url, prefix=prefix, lease=0.8, timeout=1.0) as cut_off,
        reliq.Queue("work", server.url, prefix=prefix, lease=0.8) as queue,
    ):
        queue.put_many(range(4))
        with cut_off.exclusive(batch=2) as holder:
            batch = next(holder)
            proxy.partition()
            wait_until(lambda: batch.lost, 5, "it is told before the lease ends")
            with queue.exclusive(batch=4, wait=10) as other:
                newer = next(other)
                assert newer.bodies == [0]
                proxy.heal()
                with pytest.raises(reliq.LeaseLost):
                    batch.ack()
                assert queue.size().ready == 4
                newer.ack()
        assert queue.size().ready == 3


@pytest.mark.parametrize("how", ["reply", "request", "slow"])
def test_lost_replies_lose_and_double_nothing(server: Any, prefix: str, how: str) -> None:
    """One call in eight of each script is lost on its way back, or there, or takes long: each message is handled
    once, in order."""
    host, port = server.url.removeprefix("redis://").split("/")[0].split(":")
    with (
        FaultProxy(host, int(port)) as proxy,
        reliq.Queue("work", proxy.url, prefix=prefix, lease=3.0, timeout=0.5) as queue,
    ):
        queue.put_many(range(3000))
        proxy.scripts.update(SCRIPTS)
        actions = {"reply": drop_reply(), "request": drop_request(), "slow": delay_reply(0.05)}
        rules = [proxy.on(script=name, action=actions[how], count=None, probability=0.125) for name in SCRIPTS]
        handled: list[int] = []
        with queue.exclusive(batch=50, until_empty=True) as holder:
            for batch in holder:
                with batch:
                    handled += batch.bodies
        assert handled == list(range(3000))
        assert sum(rule.hits for rule in rules) > 5
        assert tuple(queue.size()) == (0, 0, 0, 0)
        assert queue.links.insist(exclusive.lock(queue.options.keys)) is None


def test_redis_killed_and_restarted(own_server: RedisServer, prefix: str) -> None:
    """appendfsync always: the holder reconnects, keeps its lock, and goes on; no message twice, none lost."""
    with reliq.Queue("work", own_server.url, prefix=prefix, lease=2.0) as queue:
        queue.put_many(range(4000))
        handled: list[int] = []
        fences: list[int] = []
        with queue.exclusive(batch=100, until_empty=True) as holder:
            for batch in holder:
                if batch.number in (5, 15):
                    own_server.kill()
                    threading.Timer(0.3, own_server.start).start()
                with batch:
                    handled += batch.bodies
                    fences.append(batch.fence)
        assert handled == list(range(4000))
        assert fences == sorted(set(fences))


def test_a_redis_that_stood_still_is_no_reason_to_take_over(own_server: RedisServer, prefix: str) -> None:
    """The server is stopped for three leases, and its clock goes on: the holder could not renew, and keeps it."""
    queue = reliq.Queue("work", own_server.url, prefix=prefix, lease=1.0)
    other = reliq.Queue("work", own_server.url, prefix=prefix, lease=1.0)
    with queue, other, queue.exclusive() as holder:
        queue.put(1)
        batch = next(holder)
        found: list[Any] = []

        def contend() -> None:
            with contextlib.suppress(reliq.ReliqError), other.exclusive(wait=6.0) as contender:
                found.append(contender.name)

        contending = threading.Thread(target=contend)
        contending.start()
        time.sleep(1.2)
        own_server.suspend()
        time.sleep(3.0)
        own_server.resume()
        wait_until(lambda: not holder.lost, 5, "renewed again")
        assert batch.ack() is True
        contending.join()
        assert found == []


@contextlib.contextmanager
def running(threads: list[threading.Thread], stop: threading.Event, reaper: reliq.Reaper) -> Iterator[None]:
    """These threads run; whatever happens, they end."""
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        reaper.stop()
        for thread in threads:
            thread.join()


def test_who_wants_the_queue_doubts_an_answer_that_came_late(server: Any, prefix: str) -> None:
    """While Redis was silent nobody could renew: what it then says of a lease counts one lease later."""
    host, port = server.url.removeprefix("redis://").split("/")[0].split(":")
    with (
        FaultProxy(host, int(port)) as proxy,
        server.client() as client,
        reliq.Queue("q", proxy.url, prefix=prefix, lease=1.0) as queue,
    ):
        gone = Holder(Lab(client, prefix), "gone")
        assert gone.seize().status == "granted"
        keys = queue.options.keys
        client.hset(keys.stats, mapping={"server": queue.links.server.identity, "server_since": 0})
        client.zadd(keys.consumers, {"gone": 1})
        proxy.scripts.update(SCRIPTS)
        rule = proxy.on(script="seize", action=delay_reply(0.6))
        started = time.monotonic()
        with queue.exclusive(wait=10):
            assert rule.hits == 1
            assert 1.6 <= time.monotonic() - started < 4


def test_pushes_to_the_head_reaps_and_sleepers_beside_it(server: Any, prefix: str) -> None:
    """Others push to the right end, a reaper runs, a consumer that slept takes messages by BLMOVE: nothing is lost
    or skipped, and what comes again is what was in hand when that happened."""
    keys = reliq.Queue("work", server.url, prefix=prefix).options.keys
    with reliq.Queue("work", server.url, prefix=prefix, lease=2.0) as queue, server.client() as client:
        sleeper = "host-1-slept"
        queue.links.insist(Command("ZADD", (keys.consumers,), (1, sleeper)))
        queue.put_many(range(4000))
        stop, chance = threading.Event(), random.Random(3)
        pushed = [0]
        taken = [0]

        def disturb() -> None:
            own: redis_py.Redis = server.client()
            while not stop.wait(chance.random() / 50):
                if chance.random() < 0.5:
                    own.rpush(keys.ready, str(10_000 + pushed[0]))
                    pushed[0] += 1
                elif chance.random() < 0.7:
                    taken[0] += bool(own.lmove(keys.ready, keys.inbox(sleeper), "RIGHT", "RIGHT"))
            own.close()

        reaper = reliq.Reaper(queue, interval=0.05)
        threads = [threading.Thread(target=disturb), threading.Thread(target=reaper.run)]
        handled: list[int] = []
        batches = 0
        with queue.exclusive(batch=20, until_empty=True) as holder, running(threads, stop, reaper):
            for batch in holder:
                batches += 1
                with batch:
                    time.sleep(0.002)
                    handled += batch.bodies
                if batches == 150:
                    stop.set()
                    threads[0].join()
        assert pushed[0] > 5
        assert taken[0] > 5
        first = list(dict.fromkeys(handled))
        assert sorted(first) == [*range(4000), *range(10_000, 10_000 + pushed[0])]
        ours = [n for n in first if n < 10_000]
        assert ours == list(range(4000))
        assert tuple(queue.size()) == (0, 0, 0, 0)
        assert client.llen(keys.inbox(sleeper)) == 0
