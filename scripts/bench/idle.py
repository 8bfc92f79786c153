"""A worker with nothing to do, in a process of its own, default settings, on an empty queue.

idle-commands  commands per second that it sends (INFO commandstats without what scripts call), ours not counted.
idle-cpu       CPU time of all its threads over the time that passes (schedstat, which counts nanoseconds).
Both over 20 seconds, after two to settle; once a round, two rounds at most.
"""

from __future__ import annotations

import time

import redis

from scripts.bench.bars import Bar, Figure
from scripts.bench.children import Child, await_idle
from scripts.bench.lab import Lab, cpu_seconds, sent

BARS = (
    Bar("idle-commands", "idle traffic per consumer", 1, "/s", least=False),
    Bar("idle-cpu", "CPU of an idle worker", 0.3, "% of a core", least=False),
)


def measure(lab: Lab) -> dict[str, Figure]:
    """Leave it alone and look."""
    commands, cpu = [], []
    with lab.server() as server:
        client = redis.Redis(port=server.port)
        for _ in range(min(2, lab.rounds)):
            client.flushdb()
            with Child("worker", url=server.url, queue="bench") as child:
                await_idle(client)
                time.sleep(lab.size(2, 1))
                at, used, before = time.monotonic(), cpu_seconds(child.pid), sent(client)
                time.sleep(lab.size(20, 2))
                seconds = time.monotonic() - at
                commands.append((sent(client) - before) / seconds)
                cpu.append(100 * (cpu_seconds(child.pid) - used) / seconds)
                child.stop()
        client.close()
    return {"idle-commands": Figure(commands), "idle-cpu": Figure(cpu)}
