"""Peers, with --peers: in an environment of their own, as far as they are installed there (rivals.py).

dramatiq   our drain with concurrency 1 against Dramatiq's worker with no-op actors, in turn. Dramatiq runs in a
           process of its own, once with 1 and once with 8 worker threads; its better figure counts. Both drain
           what was enqueued before, and Dramatiq's clock runs from the start of its worker to its last message.
           Celery, RQ, SAQ, arq and taskiq are measured in the same way and shown beside.
"""

from __future__ import annotations

import os
import subprocess
import sys

import redis

import reliq
from scripts.bench.bars import Bar, Figure, ratios
from scripts.bench.children import ROOT
from scripts.bench.lab import Lab, elements
from scripts.bench.ours import Drain
from scripts.bench.rivals import RIVALS

BARS = (Bar("dramatiq", "our drain, inline, against Dramatiq", 20),)
#: The exit status of who is not installed.
_ABSENT = 3


def measure(lab: Lab) -> dict[str, Figure]:
    """Ours and theirs in turn."""
    if not lab.peers:
        return {"dramatiq": Figure(why="only with --peers")}
    ours: list[float] = []
    theirs: dict[str, list[float]] = {}
    with lab.server() as server:
        client = redis.Redis(port=server.port)
        drain = Drain(client, server.url, elements(reliq.Queue("drain", server.url), lab.size(100_000, 5000)))
        for _ in range(lab.rounds):
            ours.append(drain.threads(1))
            for name, (_, n, _) in RIVALS.items():
                client.flushdb()
                if (rate := _rate(name, server.url, lab.size(n, n // 10))) is not None:
                    theirs.setdefault(name, []).append(rate)
        client.close()
    if "dramatiq" not in theirs:
        return {"dramatiq": Figure(why="Dramatiq is not installed: see scripts/bench/peers.txt")}
    best = list(map(max, theirs["dramatiq"], theirs["dramatiq, 1 thread"]))
    beside = {f"{name} /s": rates for name, rates in theirs.items()}
    return {"dramatiq": Figure(ratios(ours, best), {"reliq /s": ours, **beside})}


def _rate(name: str, url: str, n: int) -> float | None:
    """Messages per second of a peer; None: it is not installed, or does not run, which is told."""
    words = [os.environ.get("RELIQ_PEERS") or sys.executable, "scripts/bench/rivals.py", name, url, str(n)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=300)
    if done.returncode:
        if done.returncode != _ABSENT:
            print(f"{name} does not run: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
        return None
    return float(done.stdout.split()[-1])
