"""From put to handler.

idle-p50, idle-p99  A Worker in a process of its own (default settings, idle in between) and messages put at 100/s
         by this process, against a BLMOVE + LREM loop in a process of its own and LPUSH at 100/s, in turn. The
         time runs from just before the put until the first line of the handler, on the machine's monotonic clock.
loaded   The same worker at 70 % of the throughput that it has in this run while somebody puts (median): as many
         messages as it handles, with some thousand ready at any time. A drain of what was put before would say
         more than there is on two cores: no producer takes its part of them. p50. Messages are put by put_many,
         each millisecond what is due; the time runs from just before that call. The other loads are the points of
         the curve.
The first tenth of every series is dropped.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import msgpack
import redis

import reliq
from scripts.bench import textbook
from scripts.bench.bars import Bar, Figure, percentile, ratios
from scripts.bench.children import Child, await_idle
from scripts.bench.lab import Lab, await_
from tests.servers import RedisServer

BARS = (
    Bar("idle-p50", "idle worker, 100/s: put to handler, p50, against bare BLMOVE", 1.4, least=False),
    Bar("idle-p99", "idle worker, 100/s: put to handler, p99, against bare BLMOVE", 3, least=False),
    Bar("loaded", "worker at 70 % of its throughput: put to handler, p50", 2, "ms", least=False),
)
RATE = 100
#: Messages of one call of the producer.
_PART = 1000
LOADS = (0.1, 0.3, 0.5, 0.7, 0.8, 0.9)


def measure(lab: Lab) -> dict[str, Figure]:
    """Idle in turn, then loaded."""
    with lab.server() as server:
        client = redis.Redis(port=server.port)
        ours: list[list[float]] = []
        bare: list[list[float]] = []
        for _ in range(lab.rounds):
            ours.append(_ours(lab, client, server))
            bare.append(_bare(lab, client, server))
        found = {f"idle-{p}": _compare(ours, bare, share) for p, share in (("p50", 0.5), ("p99", 0.99))}
        loaded = _loaded(lab, client, server)
        client.close()
    return {**found, "loaded": loaded}


def _compare(ours: list[list[float]], bare: list[list[float]], share: float) -> Figure:
    a, b = ([percentile(series, share) for series in side] for side in (ours, bare))
    return Figure(ratios(a, b), {"reliq ms": a, "BLMOVE ms": b})


def _settled(series: list[float]) -> list[float]:
    """Without the first tenth; in ms."""
    return [ns / 1e6 for ns in series[len(series) // 10 :]]


def _ours(lab: Lab, client: redis.Redis, server: RedisServer) -> list[float]:
    client.flushdb()
    with (
        Child("worker", url=server.url, queue="bench", collect="wait") as child,
        reliq.Queue("bench", server.url) as queue,
    ):
        await_idle(client)
        queue.put({"at": time.monotonic_ns()})
        for _ in paced(RATE, lab.size(5, 1)):
            queue.put({"at": time.monotonic_ns()})
        time.sleep(0.1)
        return _settled(child.stop())


def _bare(lab: Lab, client: redis.Redis, server: RedisServer) -> list[float]:
    client.flushdb()
    with Child("blmove", url=server.url) as child:
        await_idle(client)
        for _ in paced(RATE, lab.size(5, 1)):
            client.lpush(textbook.READY, msgpack.packb({"at": time.monotonic_ns()}))
        time.sleep(0.1)
        return _settled(child.stop())


def paced(rate: float, seconds: float) -> Iterator[None]:
    """So often a second, by the clock and not by pauses."""
    start = time.monotonic()
    for i in range(int(rate * seconds)):
        pause = start + i / rate - time.monotonic()
        if pause > 0:
            time.sleep(pause)
        yield


def _loaded(lab: Lab, client: redis.Redis, server: RedisServer) -> Figure:
    drains = [throughput(client, server, lab.size(2, 1)) for _ in range(lab.size(3, 1))]
    capacity = sorted(drains)[len(drains) // 2]
    rounds = [percentile(_at(lab, client, server, 0.7 * capacity)[0], 0.5) for _ in range(lab.rounds)]
    points = {}
    for load in LOADS if not lab.quick else ():
        series, reached = _at(lab, client, server, load * capacity)
        points[reached] = series
    for name, share in (("p50", 0.5), ("p99", 0.99)):
        line = [(reached, percentile(series, share)) for reached, series in points.items()]
        lab.curve("put to handler over load", "messages/s", "ms", name, line)
    return Figure(rounds, {"throughput /s": [capacity]})


def throughput(client: redis.Redis, server: RedisServer, seconds: float) -> float:
    """Messages per second of a worker in its own process, while this one keeps some thousand ready."""
    client.flushdb()
    with (
        Child("worker", url=server.url, queue="bench", collect="wait") as child,
        reliq.Queue("bench", server.url) as queue,
    ):
        await_idle(client)
        _keep_ready(client, queue, seconds / 4)
        acked, started = _acked(client, queue), time.perf_counter()
        _keep_ready(client, queue, seconds)
        rate = (_acked(client, queue) - acked) / (time.perf_counter() - started)
        await_(lambda: queue.size().ready + queue.size().doing == 0, within=60)
        child.stop()
    return rate


def _keep_ready(client: redis.Redis, queue: reliq.Queue, seconds: float) -> None:
    bodies = [{"at": time.monotonic_ns()}] * _PART
    ready, end = queue.options.keys.ready, time.monotonic() + seconds
    while time.monotonic() < end:
        if int(client.llen(ready)) < 4 * _PART:  # type: ignore[arg-type]
            queue.put_many(bodies)
        else:
            time.sleep(0.001)


def _acked(client: redis.Redis, queue: reliq.Queue) -> int:
    return int(client.hget(queue.options.keys.stats, "ack") or 0)  # type: ignore[arg-type]


def _at(lab: Lab, client: redis.Redis, server: RedisServer, rate: float) -> tuple[list[float], float]:
    """Waits in ms at this load, and how many a second were really put."""
    client.flushdb()
    with (
        Child("worker", url=server.url, queue="bench", collect="wait") as child,
        reliq.Queue("bench", server.url) as queue,
    ):
        await_idle(client)
        put, seconds = feed(queue.put_many, rate, lab.size(3, 1))
        await_(lambda: queue.size().ready + queue.size().doing == 0, within=60)
        return _settled(child.stop()), put / seconds


def feed(put_many: Callable[[list[Any]], Any], rate: float, seconds: float) -> tuple[int, float]:
    """Each millisecond what is due by then; how many that were, and in what time."""
    start, put = time.monotonic(), 0
    while (passed := time.monotonic() - start) < seconds:
        due = int(passed * rate) - put
        if due > 0:
            at = time.monotonic_ns()
            put_many([{"at": at}] * due)
            put += due
        time.sleep(max(0.0, 0.001 - (time.monotonic() - start - passed)))
    return put, time.monotonic() - start
