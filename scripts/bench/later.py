"""Delayed messages.

later         1,000,000 messages, written directly as delayed puts leave them, become due evenly over a minute; one
              idle Worker process (default settings). Lateness: start of the handler less the due time, both by the
              machine's wall clock, p99. Once.
later-quiet   commands per second that the worker sends in the 8 seconds before the first is due, while it waits
              for a time that it knows: no polling.
"""

from __future__ import annotations

import time

import redis

import reliq
from scripts.bench.bars import Bar, Figure, percentile
from scripts.bench.children import Child, await_idle
from scripts.bench.lab import Lab, await_, sent

BARS = (
    Bar("later", "1,000,000 due over a minute: lateness, p99", 50, "ms", least=False),
    Bar("later-quiet", "commands while nothing is due yet", 1, "/s", least=False),
)
QUIET = 8.0


def measure(lab: Lab) -> dict[str, Figure]:
    """Quiet first, then the minute."""
    n, minute = lab.size(1_000_000, 10_000), lab.size(60, 2)
    with lab.server() as server:
        client = redis.Redis(port=server.port)
        with (
            reliq.Queue("bench", server.url) as queue,
            Child("worker", url=server.url, queue="bench", collect="late") as child,
        ):
            await_idle(client)
            first = _schedule(client, queue, n, minute)
            time.sleep(1)
            before, at = sent(client), time.time()
            time.sleep(max(0.5, first - at - 0.5))
            quiet = (sent(client) - before) / (time.time() - at)
            time.sleep(max(0.0, first - time.time()))
            before = sent(client)
            await_(lambda: int(client.hget(queue.options.keys.stats, "ack") or 0) >= n, within=minute * 3 + 30)
            trips = (sent(client) - before) / n
            late = child.stop()
        client.close()
    p50, p99 = percentile(late, 0.5), percentile(late, 0.99)
    return {
        "later": Figure(
            [p99], {"p50 ms": [p50], "most ms": [max(late)]}, note=f"{trips:.3f} round trips a message"
        ),
        "later-quiet": Figure([quiet]),
    }


def _schedule(client: redis.Redis, queue: reliq.Queue, n: int, seconds: float) -> float:
    """Write them all; returns the Unix time when the first is due."""
    keys, options = queue.options.keys, queue.options
    first = time.time() + n * 8e-6 + QUIET + 1
    for start in range(0, n, 1000):
        dues = [round(1000 * (first + i * seconds / n)) for i in range(start, min(n, start + 1000))]
        client.zadd(keys.later, {options.element({"due": due}, None)[1]: due for due in dues})
    # Idle consumers sleep until what was due first: a put tells them, and so does this one.
    queue.put({"due": round(1000 * first)}, delay=max(0.0, first - time.time()))
    return first
