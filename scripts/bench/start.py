"""Starting.

start  In a fresh process each, in turn: from its first line over ``import reliq`` and a Worker until its handler
       has a message that waits, against ``import redis`` and a PING on a new connection. The start of the
       interpreter counts for neither. Seven of each per round; the median of a round. The modules were compiled
       before, as those of an installed package are.
"""

from __future__ import annotations

import os
import subprocess
import sys
from statistics import median

import redis

import reliq
from scripts.bench.bars import Bar, Figure, ratios
from scripts.bench.children import ROOT
from scripts.bench.lab import Lab, body

BARS = (Bar("start", "worker start to first message against import redis + connect", 1.5, least=False),)

_OURS = """
import time; start = time.perf_counter()
import sys, reliq
queue = reliq.Queue("start", sys.argv[1])
@queue.ack
def handler(body):
    print(time.perf_counter() - start)
    worker.stop()
worker = reliq.Worker(handler)
worker.run()
"""

_BARE = """
import time; start = time.perf_counter()
import sys, redis
redis.Redis.from_url(sys.argv[1]).ping()
print(time.perf_counter() - start)
"""


def measure(lab: Lab) -> dict[str, Figure]:
    """In turn."""
    ours, bare = [], []
    with lab.server() as server:
        client = redis.Redis(port=server.port)
        queue = reliq.Queue("start", server.url)
        _compile(server.url, queue)
        for _ in range(lab.rounds):
            starts: tuple[list[float], list[float]] = ([], [])
            for _ in range(lab.size(7, 2)):
                client.flushdb()
                queue.put(body(0))
                starts[0].append(_run(_OURS, server.url))
                starts[1].append(_run(_BARE, server.url))
            ours.append(1000 * median(starts[0]))
            bare.append(1000 * median(starts[1]))
        queue.close()
        client.close()
    return {"start": Figure(ratios(ours, bare), {"reliq ms": ours, "redis ms": bare})}


def _compile(url: str, queue: reliq.Queue) -> None:
    """Have all modules compiled, which the first start does."""
    queue.put(body(0))
    _run(_OURS, url)


def _run(program: str, url: str) -> float:
    command = [sys.executable, "-c", program, url]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    found = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True, timeout=30)
    return float(found.stdout)
