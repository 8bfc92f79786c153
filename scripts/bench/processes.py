"""Several processes.

processes  A supervised Worker with 2 processes against one with 1, concurrency 8, no-op handlers. The rate is that
           of the middle: the time in which the ready list shrinks from nine tenths to one tenth of what was put,
           seen from outside; so starting and ending processes does not count. Redis needs a core too: the bar is
           also met if the cores were 95 % busy (no more than 10 % of it by others) while 2 processes worked.
"""

from __future__ import annotations

import os
import time
from statistics import median

import redis

import reliq
from scripts.bench.bars import Bar, Figure, ratios
from scripts.bench.children import Child
from scripts.bench.lab import Lab, await_, cores_busy, cpu_seconds, descendants, elements, fill
from tests.servers import RedisServer

BARS = (Bar("processes", "2 processes against 1 (or all cores >= 95 % busy)", 1.6),)


def measure(lab: Lab) -> dict[str, Figure]:
    """1 and 2 in turn."""
    one, two, busy, ours = [], [], [], []
    with lab.server() as server:
        client = redis.Redis(port=server.port)
        messages = elements(reliq.Queue("bench", server.url), lab.size(100_000, 10_000))
        for _ in range(lab.rounds):
            one.append(_rate(client, server, messages, 1)[0])
            rate, all_busy, we_busy = _rate(client, server, messages, 2)
            two.append(rate)
            busy.append(all_busy)
            ours.append(we_busy)
        client.close()
    full, mine = median(busy), median(ours)
    which = f"cores {full:.0%} busy, {mine:.0%} by us"
    beside = {"1 process /s": one, "2 processes /s": two}
    return {
        "processes": Figure(
            ratios(two, one), beside, note=which, instead=which if full >= 0.95 and full - mine <= 0.1 else ""
        )
    }


def _rate(client: redis.Redis, server: RedisServer, messages: list[bytes], processes: int) -> tuple[float, ...]:
    """Messages per second, and what part of the cores was busy meanwhile: in all, and by the server and us."""
    client.flushdb()
    ready = reliq.Queue("bench", server.url).options.keys.ready
    fill(client, ready, messages, times=3)
    total = 3 * len(messages)
    options = {"processes": processes, "supervised": True, "concurrency": 8, "until_empty": True}
    with Child("worker", url=server.url, queue="bench", **options) as child:
        await_(lambda: client.llen(ready) < total * 0.9, within=30, every=0.002)
        pids = [server.pid, *descendants(child.pid)]
        start, at, (busy, there) = client.llen(ready), time.perf_counter(), cores_busy()
        used = sum(map(cpu_seconds, pids))
        await_(lambda: client.llen(ready) < total * 0.1, within=120, every=0.01)
        seconds, done = time.perf_counter() - at, start - client.llen(ready)
        used, (busy_then, there_then) = sum(map(cpu_seconds, pids)) - used, cores_busy()
        child.result()
    cores = os.cpu_count() or 1
    return done / seconds, (busy_then - busy) / (there_then - there), used / seconds / cores
