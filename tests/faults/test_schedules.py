"""Whoever fires ticks is killed at its worst moment, and replies get lost: each tick is exactly one message."""

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
from urllib.parse import urlsplit

import pytest

import reliq
from reliq.core import envelope as env
from reliq.core import ticks
from reliq.core.schedule import tick_of
from tests.faults.lab import lab, wait_until
from tests.faults.proxy import FaultProxy, Rule, black_hole, drop_reply, ghost, reset

#: How long, and how many jobs that tick every second; the full measure is 120 s of 1,000.
SCHEDULE_SECONDS = float(os.environ.get("SCHEDULE_SECONDS", "8"))
SCHEDULE_JOBS = int(os.environ.get("SCHEDULE_JOBS", "300"))
EVERY_SECOND = "* * * * * *"
SCRIPTS = {"schedule": ticks._schedule.sha, "due": ticks._due.sha, "fire": ticks._fire.sha}


@pytest.fixture
def proxy(server: Any) -> Iterator[FaultProxy]:
    """A line to the server that knows the scripts of schedules by name."""
    place = urlsplit(server.url)
    with FaultProxy(str(place.hostname), int(place.port or 6379)) as running:
        running.scripts.update(SCRIPTS)
        yield running


class Schedulers:
    """Processes of ``reliq schedule run``, each replaced when it is killed."""

    def __init__(self, urls: list[str], prefix: str) -> None:
        self._words = [["--url", url, "--prefix", prefix] for url in urls]
        self.processes = [self._start(words) for words in self._words]
        self.kills = 0

    @staticmethod
    def _start(words: list[str]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "reliq", "schedule", "run", "--queue", "work", "--log-level", "error", *words],
            cwd=Path(__file__).parents[2],
            stderr=subprocess.DEVNULL,
        )

    def kill(self, place: int) -> None:
        """kill -9, and another one in its place."""
        self.processes[place].kill()
        self.processes[place].wait()
        self.kills += 1
        self.processes[place] = self._start(self._words[place])

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


class Collector:
    """Takes every message out of ready as it is, and counts (schedule, tick)."""

    def __init__(self, client: Any, key: str) -> None:
        self._client, self._key = client, key
        self.found: Counter[tuple[str, int] | None] = Counter()
        self.latest = 0.0

    def take(self) -> None:
        seconds, micros = self._client.time()
        while elements := self._client.rpop(self._key, 2000):
            for element in elements:
                tick = tick_of(env.unpack(element).meta)
                self.found[tick] += 1
                if tick is not None:
                    self.latest = max(self.latest, seconds + micros / 1e6 - tick[1] / 1000)


def assert_each_tick_once(found: Counter[Any], firsts: dict[str, int], nexts: dict[str, int]) -> None:
    """From the first tick of each schedule to the one before its next: none twice, none left out, no other."""
    doubled = {tick: count for tick, count in found.items() if count > 1}
    assert not doubled, f"{len(doubled)} ticks doubled: {sorted(doubled)[:5]}"
    expected = {(name, at) for name, first in firsts.items() for at in range(first, nexts[name], 1000)}
    lost = expected - found.keys()
    assert not lost, f"{len(lost)} of {len(expected)} ticks lost: {sorted(lost)[:5]}"
    assert found.keys() == expected


def test_each_tick_is_one_message_through_kills_and_lost_replies(
    server: Any, prefix: str, proxy: FaultProxy
) -> None:
    """Five schedulers, hundreds of jobs that tick every second; one scheduler is killed every half second or so,
    and two of them lose replies all the time."""
    often: dict[str, Any] = {"action": drop_reply(), "count": None, "probability": 0.5}
    rules = [proxy.on(script=name, **often) for name in ("due", "fire")]
    with reliq.Queue("work", server.url, prefix=prefix) as queue, server.client() as client:
        keys = queue.options.keys
        collector, rng = Collector(client, keys.ready), random.Random(5)
        schedulers = Schedulers([proxy.url] * 2 + [server.url] * 3, prefix)
        try:
            made = [queue.schedule(f"job-{n}", n, cron=EVERY_SECOND) for n in range(SCHEDULE_JOBS)]
            firsts = {each.name: round(each.next_at.timestamp() * 1000) for each in made if each.next_at}
            end = time.monotonic() + SCHEDULE_SECONDS
            kill_at = time.monotonic()
            while time.monotonic() < end:
                time.sleep(0.05)
                collector.take()
                if time.monotonic() > kill_at:
                    schedulers.kill(rng.randrange(5))
                    kill_at = time.monotonic() + rng.uniform(0.2, 1.0)
        finally:
            schedulers.close()
        reliq.Scheduler(queue).run_once()
        collector.take()
        nexts = {name.decode(): int(tick) for name, tick in client.zrange(keys.ticks, 0, -1, withscores=True)}
        lost_replies = sum(rule.hits for rule in rules)
        print(
            f"{len(collector.found):,} ticks of {SCHEDULE_JOBS:,} jobs, {schedulers.kills} kills, {lost_replies} "
            f"lost replies; the latest message came {collector.latest:.1f} s after its tick"
        )
        assert_each_tick_once(collector.found, firsts, nexts)
        assert schedulers.kills >= 5
        assert len(collector.found) > SCHEDULE_JOBS * 2


def test_workers_are_schedulers(server: Any, prefix: str, proxy: FaultProxy) -> None:
    """Nobody but worker processes, which are killed with messages in hand, and lose replies: each tick is one
    message, whose deliveries are told apart by their fence."""
    rules = [proxy.on(script=n, action=drop_reply(), count=None, probability=0.5) for n in ("due", "fire")]
    with lab(server, prefix, lease=2) as it:
        jobs, seconds = 30, min(SCHEDULE_SECONDS, 20)
        made = [it.queue.schedule(f"job-{n}", {"n": n}, cron=EVERY_SECOND) for n in range(jobs)]
        firsts = {each.name: round(each.next_at.timestamp() * 1000) for each in made if each.next_at}
        workers = [it.start(url=url, supervise=True, processes=2) for url in (server.url, proxy.url)]
        wait_until(it.effects, 20, "ticks are handled")
        kills, end, rng = 0, time.monotonic() + seconds, random.Random(3)
        while time.monotonic() < end:
            time.sleep(rng.uniform(0.4, 1.0))
            if children := rng.choice(workers).children():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(rng.choice(children), signal.SIGKILL)
                    kills += 1
        for name in firsts:
            it.queue.unschedule(name)
        it.drained(20)
        effects = it.effects()
        deliveries = Counter((e["schedule"], e["tick"], e["fence"]) for e in effects)
        assert max(deliveries.values()) == 1, deliveries.most_common(3)
        found = {(name, tick) for name, tick, _ in deliveries}
        nexts = {name: 1000 + max(tick for other, tick in found if other == name) for name in firsts}
        assert_each_tick_once(Counter(found), firsts, nexts)
        assert max(nexts.values()) - min(nexts.values()) <= 1000 * 3
        assert len(found) >= jobs * (seconds - 4)
        print(f"{len(found):,} ticks, {kills} kills, {sum(rule.hits for rule in rules)} lost replies")
        assert kills >= 3


@pytest.mark.parametrize("moment", ["before due", "between due and fire", "after fire"])
def test_killed_at_its_worst_moment(server: Any, prefix: str, proxy: FaultProxy, moment: str) -> None:
    """It had the duty, and dies before it has read, before it has fired, or when it has and nobody knows: another
    one goes on within some seconds, and each tick is there once."""
    script, action = {
        "before due": ("due", black_hole()),
        "between due and fire": ("fire", black_hole()),
        "after fire": ("fire", black_hole("reply")),
    }[moment]
    with reliq.Queue("work", server.url, prefix=prefix) as queue, server.client() as client:
        keys = queue.options.keys
        collector = Collector(client, keys.ready)
        rule = proxy.on(script=script, action=action)
        made = queue.schedule("s", 1, every=1)
        schedulers = Schedulers([proxy.url], prefix)
        try:
            wait_until(lambda: rule.hits, 20, f"it hangs {moment}")
            other = Schedulers([server.url], prefix)
            schedulers.processes[0].kill()
            try:
                begun = time.monotonic()
                wait_until(lambda: collector.take() or len(collector.found) >= 3, 20, "another one fires")
                assert time.monotonic() - begun < 10
            finally:
                other.close()
        finally:
            schedulers.close()
        collector.take()
        assert made.next_at is not None
        first = round(made.next_at.timestamp() * 1000)
        assert_each_tick_once(collector.found, {"s": first}, {"s": int(client.zscore(keys.ticks, "s"))})


@pytest.mark.parametrize("script", ["schedule", "fire"])
@pytest.mark.parametrize("how", ["ghost", "reset before", "reset after"])
def test_copies_that_run_late(server: Any, prefix: str, proxy: FaultProxy, script: str, how: str) -> None:
    """The connection breaks, and the copy that was on it is run all the same, before or after the repeat: nothing
    shifts, nothing is fired twice."""
    action = {"ghost": ghost(0.1, after=0.3), "reset before": reset(), "reset after": reset("reply")}[how]
    with reliq.Queue("work", proxy.url, prefix=prefix) as queue, server.client() as client:
        keys = queue.options.keys
        queue.ping()
        rule: Rule = proxy.on(script=script, action=action)
        made = queue.schedule("s", 1, every=1)
        assert made.next_at is not None
        first = round(made.next_at.timestamp() * 1000)
        collector, scheduler = Collector(client, keys.ready), reliq.Scheduler(queue)
        end = time.monotonic() + 3
        while time.monotonic() < end:
            scheduler.run_once()
            collector.take()
            time.sleep(0.05)
        assert rule.hits == 1
        collector.take()
        assert_each_tick_once(collector.found, {"s": first}, {"s": int(client.zscore(keys.ticks, "s"))})
