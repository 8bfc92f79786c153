"""Recovery of many.

reap          1,000 consumers whose lease is over hold 1,000 messages each; ``Reaper(q).run_once()`` brings all
              back: messages per second of the pass. Afterwards all are counted in the ready list.
reap-longest  the longest script call of that pass (SLOWLOG, which counts time in Redis), in ms.
Their lists and registrations are written directly, as trips leave them. Two rounds at most.
"""

from __future__ import annotations

from typing import Any

import redis

import reliq
from scripts.bench.bars import Bar, Figure
from scripts.bench.lab import Lab, elements, timed

BARS = (
    Bar("reap", "reaping 1,000,000 messages of 1,000 dead consumers", 100_000, "/s"),
    Bar("reap-longest", "longest script call meanwhile", 5, "ms", least=False),
)
EACH = 1000


def measure(lab: Lab) -> dict[str, Figure]:
    """Fill, reap, count."""
    rates, longest = [], []
    dead = lab.size(1000, 20)
    with lab.server("--slowlog-log-slower-than", "500", "--slowlog-max-len", "5000") as server:
        client = redis.Redis(port=server.port)
        with reliq.Queue("bench", server.url) as queue:
            for _ in range(min(2, lab.rounds)):
                client.flushdb()
                _die(client, queue, dead)
                client.slowlog_reset()
                seconds = timed(reliq.Reaper(queue).run_once)
                if (back := client.llen(queue.options.keys.ready)) != dead * EACH:
                    raise AssertionError(f"{back} of {dead * EACH} messages came back")
                rates.append(dead * EACH / seconds)
                longest.append(_longest(client))
        client.close()
    return {"reap": Figure(rates), "reap-longest": Figure(longest)}


def _die(client: redis.Redis, queue: reliq.Queue, dead: int) -> None:
    """So many dead consumers with a full processing list, on a server that has been up for long."""
    keys, part = queue.options.keys, elements(queue, EACH)
    server = queue.links.server.identity
    now = int(client.time()[0]) * 1000
    client.hset(keys.stats, mapping={"server": server, "server_since": now - 3_600_000})
    for i in range(dead):
        name = f"host-{i}"
        with client.pipeline(transaction=False) as pipe:
            pipe.rpush(keys.doing(name), *part)
            pipe.zadd(keys.consumers, {name: now - 60_000})
            pipe.hset(keys.session(name), mapping={"trip": 5, "late": "", "epoch": 0, "lease": 15_000})
            pipe.execute()


def _longest(client: redis.Redis) -> float:
    """Milliseconds of the slowest script call; the log holds those above half a millisecond."""
    entries: Any = client.slowlog_get(5000)
    return max((e["duration"] / 1000 for e in entries if e["command"].startswith(b"EVAL")), default=0.5)
