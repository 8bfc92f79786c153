"""Memory.

redis-memory   used_memory of Redis before and after 200,000 put_many of small bodies, per message, less the body
               as msgpack encodes it. Once: it does not vary.
worker-memory  RSS of a worker process (default settings, no-op handler) while 5,000,000 messages go through it:
               the median of its last tenth less that between one and two tenths (by then its pools have their
               size). The queue is topped up from here, so that Redis stays small. Once.
"""

from __future__ import annotations

import time
from statistics import mean, median

import redis

import reliq
from scripts.bench import textbook
from scripts.bench.bars import Bar, Figure
from scripts.bench.children import Child, await_idle
from scripts.bench.lab import Lab, body, elements, fill, rss

BARS = (
    Bar("redis-memory", "Redis memory per message over the encoded body", 48, "B", least=False),
    Bar("worker-memory", "growth of a worker over 5,000,000 messages", 5, "MB", least=False),
)


def measure(lab: Lab) -> dict[str, Figure]:
    """First Redis, then the worker."""
    with lab.server() as server:
        client = redis.Redis(port=server.port)
        with reliq.Queue("bench", server.url) as queue:
            per_message = _in_redis(client, queue, lab.size(200_000, 20_000))
        client.flushdb()
        growth, peak = _of_worker(lab, client, server.url, lab.size(5_000_000, 50_000))
        client.close()
    return {"redis-memory": Figure([per_message]), "worker-memory": Figure([growth], {"RSS MB": [peak]})}


def _in_redis(client: redis.Redis, queue: reliq.Queue, n: int) -> float:
    queue.put(body(0))
    before = client.info("memory")["used_memory"]
    queue.put_many(body(i) for i in range(n))
    taken = (int(client.info("memory")["used_memory"]) - int(before)) / n
    return taken - mean(len(textbook.encode(i)) for i in range(n))


def _of_worker(lab: Lab, client: redis.Redis, url: str, total: int) -> tuple[float, float]:
    queue = reliq.Queue("bench", url)
    keys, part = queue.options.keys, elements(queue, min(100_000, total))
    points: list[tuple[int, float]] = []
    put = done = 0
    with Child("worker", url=url, queue="bench") as child:
        await_idle(client)
        while done < total:
            child.check()
            if put < total and put - done < 2 * len(part):
                fill(client, keys.ready, part)
                put += len(part)
            done = int(client.hget(keys.stats, "ack") or 0)
            points.append((done, rss(child.pid) / 1e6))
            time.sleep(0.05)
        child.stop()
    lab.curve("memory of a worker", "messages", "MB", "RSS", points[:: max(1, len(points) // 200)])
    early = [mb for at, mb in points if total * 0.1 <= at <= total * 0.2] or [points[0][1]]
    late = [mb for at, mb in points if at >= total * 0.9]
    return median(late) - median(early), max(mb for _, mb in points)
