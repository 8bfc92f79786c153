"""Peers, with --peers, as far as they are installed in this environment (they are no dependency of ours).

dramatiq   our drain with concurrency 1 against Dramatiq's worker with no-op actors, in turn. Dramatiq runs in a
           process of its own, once with 1 and once with 8 worker threads; its better figure counts. Both drain
           what was enqueued before, and Dramatiq's clock runs from the start of its worker to its last message.
"""

from __future__ import annotations

import importlib.util
import threading
import time

import redis

import reliq
from scripts.bench.bars import Bar, Figure, ratios
from scripts.bench.children import Child
from scripts.bench.lab import Lab, elements
from scripts.bench.ours import Drain

BARS = (Bar("dramatiq", "our drain, inline, against Dramatiq", 20),)


def measure(lab: Lab) -> dict[str, Figure]:
    """Ours and theirs in turn."""
    if not lab.peers:
        return {"dramatiq": Figure(why="only with --peers")}
    if importlib.util.find_spec("dramatiq") is None:
        return {"dramatiq": Figure(why="Dramatiq is not installed in this environment")}
    ours: list[float] = []
    theirs: list[float] = []
    with lab.server() as server:
        client = redis.Redis(port=server.port)
        drain = Drain(client, server.url, elements(reliq.Queue("drain", server.url), lab.size(100_000, 5000)))
        for _ in range(lab.rounds):
            ours.append(drain.threads(1))
            theirs.append(max(_dramatiq(client, server.url, lab.size(6000, 500), threads) for threads in (1, 8)))
        client.close()
    return {"dramatiq": Figure(ratios(ours, theirs), {"reliq /s": ours, "Dramatiq /s": theirs})}


def _dramatiq(client: redis.Redis, url: str, n: int, threads: int) -> float:
    client.flushdb()
    with Child("dramatiq", url=url, n=n, threads=threads) as child:
        return float(child.result())


def run_dramatiq(url: str, n: int, threads: int) -> float:
    """In the child: enqueue, then drain."""
    import dramatiq
    from dramatiq.brokers.redis import RedisBroker

    broker = RedisBroker(url=url)
    dramatiq.set_broker(broker)
    left, done = n, threading.Event()
    lock = threading.Lock()

    def noop(number: int) -> None:
        nonlocal left
        with lock:
            left -= 1
            if left == 0:
                done.set()

    actor = dramatiq.actor(noop, broker=broker)
    for i in range(n):
        actor.send(i)
    worker = dramatiq.Worker(broker, worker_threads=threads)
    started = time.perf_counter()
    worker.start()
    if not done.wait(300):
        raise TimeoutError("Dramatiq did not finish")
    seconds = time.perf_counter() - started
    worker.stop()
    return n / seconds
