"""Cost over how much there is.

depth            In two queues of one Redis, one that holds 10,000,000 messages and one that holds 10,000: 20,000
                 messages are put by put_many and as many are handled by a Worker (concurrency 1, no-op), which is
                 then stopped; so the depth stays what it is. Time per message, deep over shallow, in turn.
claim-consumers  A consumer that claims and acks one by one, beside 10,000 registered consumers against 10: time
                 that its scripts take in Redis (INFO commandstats), per call, in turn.
reap-calls       A Reaper's pass over these 10,000 live consumers: its script calls,
reap-nothing     and their time in Redis.
"""

from __future__ import annotations

import redis

import reliq
from scripts.bench.bars import Bar, Figure, ratios
from scripts.bench.lab import Lab, available_memory, body, elements, fill, script_time, timed

BARS = (
    Bar("depth", "cost per message at depth 10,000,000 against 10,000", 1.1, least=False),
    Bar("claim-consumers", "claim with 10,000 registered consumers against 10", 1.1, least=False),
    Bar("reap-calls", "a reaper pass that finds nothing: calls", 1, "", least=False),
    Bar("reap-nothing", "a reaper pass that finds nothing: time in Redis", 1, "ms", least=False),
)
SHALLOW, DEEP = 10_000, 10_000_000


def measure(lab: Lab) -> dict[str, Figure]:
    """Depth first, in a server of its own."""
    return {"depth": _depth(lab), **_consumers(lab)}


def _depth(lab: Lab) -> Figure:
    if not lab.quick and available_memory() < 4e9:
        return Figure(why="needs 4 GB of free memory")
    depths = [SHALLOW, lab.size(DEEP, 100_000)]
    if lab.plots:
        depths[1:1] = [lab.size(100_000, 20_000), lab.size(1_000_000, 50_000)]
    costs: dict[int, list[float]] = {depth: [] for depth in depths}
    with lab.server() as server:
        client = redis.Redis(port=server.port)
        queues = {depth: reliq.Queue(f"depth-{depth}", server.url) for depth in depths}
        for depth, queue in queues.items():
            part = elements(queue, min(depth, 100_000))
            fill(client, queue.options.keys.ready, part, times=depth // len(part))
        for _ in range(lab.rounds):
            for depth, queue in queues.items():
                costs[depth].append(1e6 * _cost(queue, lab.size(20_000, 2000)))
        for queue in queues.values():
            queue.close()
        client.close()
    lab.curve("cost over depth", "messages in the queue", "us per message", "put and handle", [
        (depth, sorted(found)[len(found) // 2]) for depth, found in costs.items()
    ])  # fmt: skip
    deep, shallow = costs[depths[-1]], costs[SHALLOW]
    return Figure(ratios(deep, shallow), {"deep us": deep, "shallow us": shallow})


def _cost(queue: reliq.Queue, n: int) -> float:
    """Seconds per message to put and to handle at constant depth."""
    seconds = timed(lambda: queue.put_many(map(body, range(n))))
    left = n

    def countdown(_: object) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            worker.stop()

    worker = reliq.Worker(queue.ack(countdown), concurrency=1)
    return (seconds + timed(worker.run)) / n


def _consumers(lab: Lab) -> dict[str, Figure]:
    crowds = (10, 10_000)
    costs: dict[int, list[float]] = {crowd: [] for crowd in crowds}
    passes: list[float] = []
    calls: list[float] = []
    with lab.server() as server:
        client = redis.Redis(port=server.port)
        queues = {crowd: reliq.Queue(f"crowd-{crowd}", server.url) for crowd in crowds}
        for crowd, queue in queues.items():
            _register(client, queue, crowd)
            reliq.Reaper(queue).run_once()  # so that Redis knows the scripts
        for _ in range(lab.rounds):
            for crowd, queue in queues.items():
                costs[crowd].append(1e6 * _claim(client, queue, lab.size(2000, 200)))
            made, seconds = _pass(client, queues[crowds[-1]])
            passes.append(1000 * seconds)
            calls.append(made)
        client.close()
    many, few = costs[crowds[-1]], costs[crowds[0]]
    return {
        "claim-consumers": Figure(ratios(many, few), {"10,000 us": many, "10 us": few}),
        "reap-calls": Figure(calls),
        "reap-nothing": Figure(passes),
    }


def _register(client: redis.Redis, queue: reliq.Queue, crowd: int) -> None:
    """So many consumers with a long lease, as their first trip leaves them."""
    keys = queue.options.keys
    end = 1000 * (int(client.time()[0]) + 3600)
    with client.pipeline(transaction=False) as pipe:
        for i in range(crowd):
            pipe.zadd(keys.consumers, {f"host-{i}": end + i})
            pipe.hset(keys.session(f"host-{i}"), mapping={"trip": 1, "late": "", "epoch": 0, "lease": 15_000})
        pipe.execute()


def _claim(client: redis.Redis, queue: reliq.Queue, n: int) -> float:
    """Seconds in Redis per trip that acks one and claims one."""
    fill(client, queue.options.keys.ready, elements(queue, n + 1))
    with queue.consumer() as consumer:
        calls, used = script_time(client)
        for _ in range(n):
            for lease in consumer.claim(1, timeout=5):
                lease.ack()
        calls_then, used_then = script_time(client)
    client.delete(queue.options.keys.ready)
    return (used_then - used) / (calls_then - calls)


def _pass(client: redis.Redis, queue: reliq.Queue) -> tuple[int, float]:
    """Script calls of a pass that finds nothing, and their seconds in Redis."""
    reaper = reliq.Reaper(queue)
    calls, used = script_time(client)
    reaper.reap(queue)
    calls_then, used_then = script_time(client)
    return calls_then - calls, used_then - used
