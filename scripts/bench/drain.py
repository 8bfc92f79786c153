"""Draining with no-op handlers, in one process, from a queue that was filled before.

drain-inline   Worker(concurrency=1) against the batched limit (limit.py).
drain-threads  Worker(concurrency=8), the default, against the batched limit.
drain-asyncio  aio.Worker(concurrency=100) with coroutine handlers against the batched limit.
round-trips    commands that clients have sent in drain-threads, over its messages.
A rate is all messages over the whole life of the worker: connecting, draining, goodbye. After each drain it is
checked that Redis has counted every message as acked. The textbook loop and the bulk variant of the limit run in
turn with them and are shown beside.
"""

from __future__ import annotations

import redis

import reliq
from scripts.bench import limit, textbook
from scripts.bench.bars import Bar, Figure, ratios
from scripts.bench.lab import Lab, elements, fill, sent, timed
from scripts.bench.ours import Drain, noop

BARS = (
    Bar("drain-inline", "drain, inline (concurrency 1), against the batched limit", 0.7),
    Bar("drain-threads", "drain, threads, concurrency 8, against the batched limit", 0.5),
    Bar("drain-asyncio", "drain, asyncio, concurrency 100, against the batched limit", 0.4),
    Bar("round-trips", "Redis round trips per processed message under load", 0.05, "", least=False),
)


def measure(lab: Lab) -> dict[str, Figure]:
    """All in turn, round by round."""
    n, few = lab.size(100_000, 5000), lab.size(10_000, 1000)
    rates: dict[str, list[float]] = {k: [] for k in ("limit", "bulk", "textbook", "inline", "threads", "asyncio")}
    trips = []
    with lab.server() as server:
        client = redis.Redis(port=server.port)
        drain = Drain(client, server.url, elements(reliq.Queue("drain", server.url), n))
        bodies = [textbook.encode(i) for i in range(n)]
        for _ in range(lab.rounds):
            rates["limit"].append(limit_rate(client, bodies, limit.EACH))
            rates["bulk"].append(limit_rate(client, bodies, limit.BULK))
            rates["inline"].append(drain.threads(1))
            before = sent(client)
            rates["threads"].append(drain.threads(8))
            trips.append((sent(client) - before) / n)
            rates["asyncio"].append(drain.tasks(100))
            rates["textbook"].append(textbook_rate(client, bodies[:few]))
        if lab.plots:
            _curve(lab, drain)
        drain.queue.close()
        client.close()
    shared = {f"{name} /s": rates[name] for name in ("limit", "bulk", "textbook")}
    found = {
        f"drain-{name}": Figure(ratios(rates[name], rates["limit"]), {"reliq /s": rates[name], **shared})
        for name in ("inline", "threads", "asyncio")
    }
    return {**found, "round-trips": Figure(trips)}


def limit_rate(client: redis.Redis, bodies: list[bytes], script: str) -> float:
    """Messages per second of the batched limit."""
    client.flushdb()
    fill(client, limit.READY, bodies)
    return len(bodies) / timed(lambda: limit.drain(client, noop, script))


def textbook_rate(client: redis.Redis, bodies: list[bytes]) -> float:
    """Messages per second of the textbook loop."""
    client.flushdb()
    fill(client, textbook.READY, bodies)
    return len(bodies) / timed(lambda: textbook.drain(client, len(bodies), noop))


def _curve(lab: Lab, drain: Drain) -> None:
    steps = (1, 2, 4, 8, 16, 50)
    threads = [(c, drain.threads(c)) for c in steps]
    tasks = [(c, drain.tasks(c)) for c in (*steps, 100)]
    lab.curve("drain over concurrency", "concurrency", "messages/s", "threads", threads)
    lab.curve("drain over concurrency", "concurrency", "messages/s", "asyncio", tasks)
