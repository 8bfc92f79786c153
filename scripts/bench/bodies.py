"""Large bodies.

bodies      Messages of 1 MB of random bytes are put one by one and then pulled and acked one by one by a consumer
            that is open already, against SET and then GET of the same bytes by redis-py. MB per second, in turn.
bodies-ack  bytes that Redis receives (INFO stats) per message while they are pulled and acked: an ack that sent
            the body back would make it a megabyte.
"""

from __future__ import annotations

import os
import time
from typing import Any

import redis

import reliq
from scripts.bench import textbook
from scripts.bench.bars import Bar, Figure, ratios
from scripts.bench.lab import Lab, timed

BARS = (
    Bar("bodies", "bodies of 1 MB: put and process against SET and GET", 0.5),
    Bar("bodies-ack", "bodies of 1 MB: sent to Redis to claim and ack one", 10_000, "B", least=False),
)
MEGABYTE = 1_000_000


def measure(lab: Lab) -> dict[str, Figure]:
    """In turn."""
    ours, theirs, back = [], [], []
    data = [os.urandom(MEGABYTE) for _ in range(lab.size(50, 10))]
    with lab.server() as server:
        client = redis.Redis(port=server.port)
        for _ in range(lab.rounds):
            client.flushdb()
            seconds, received = _through(client, server.url, data)
            ours.append(len(data) / seconds)
            back.append(received / len(data))
            client.flushdb()
            theirs.append(len(data) / timed(lambda: textbook.set_get(client, data)))
        client.close()
    return {
        "bodies": Figure(ratios(ours, theirs), {"reliq MB/s": ours, "SET+GET MB/s": theirs}),
        "bodies-ack": Figure(back),
    }


def _through(client: redis.Redis, url: str, data: list[bytes]) -> tuple[float, int]:
    """Seconds to put and process all, and bytes that Redis was sent meanwhile after the puts."""
    with reliq.Queue("bodies", url) as queue:
        queue.put(b"")
        with queue.consumer() as consumer:
            for lease in consumer.claim(1):
                lease.ack()
            seconds = timed(lambda: [queue.put(item) for item in data])
            before, started = _received(client), time.perf_counter()
            for _ in data:
                for lease in consumer.claim(1):
                    lease.ack()
            seconds += time.perf_counter() - started
            return seconds, _received(client) - before


def _received(client: redis.Redis) -> int:
    stats: Any = client.info("stats")
    return int(stats["total_net_input_bytes"])
