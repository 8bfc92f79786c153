"""What the groups share: how long to measure, servers of their own, bodies, and what a server or process did."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis

import reliq
from tests.servers import NO_SERVER, RedisServer, ServerBinary, find_servers

Curves = dict[str, dict[str, Any]]


def body(n: int) -> dict[str, Any]:
    """A small message, 30 bytes of msgpack."""
    return {"to": f"user{n}@example.org", "n": n}


@dataclass
class Lab:
    """How a run is done. ``plots``: measure the points that only a curve needs. ``peers``: Dramatiq and others."""

    rounds: int = 5
    quick: bool = False
    plots: bool = False
    peers: bool = False
    curves: Curves = field(default_factory=dict)

    def size(self, full: int, quick: int) -> int:
        """How many, in a full run or in a quick one."""
        return quick if self.quick else full

    @contextmanager
    def server(self, *args: str) -> Iterator[RedisServer]:
        """A Redis of its own on loopback TCP, without persistence."""
        with RedisServer(binary(), appendonly=False, extra_args=args) as server:
            yield server

    def curve(self, name: str, x: str, y: str, series: str, points: Sequence[tuple[float, float]]) -> None:
        """Note the points of one line of a plot."""
        found = self.curves.setdefault(name, {"x": x, "y": y, "series": {}})
        found["series"][series] = [list(point) for point in points]


def binary() -> ServerBinary:
    """The newest Redis here, else the newest Valkey."""
    found = find_servers()
    if not found:
        raise SystemExit(NO_SERVER)
    return max(found, key=lambda b: (b.kind == "redis", b.version_info))


def timed(work: Callable[[], object]) -> float:
    """Seconds that the work takes."""
    gc.collect()
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def elements(queue: reliq.Queue, n: int) -> list[bytes]:
    """What ``put`` would send for so many messages, made beforehand."""
    return [queue.options.element(body(i), None)[1] for i in range(n)]


def fill(client: redis.Redis, key: str, items: Sequence[bytes], times: int = 1) -> None:
    """Push these elements, so many times over."""
    parts = [items[start : start + 1000] for start in range(0, len(items), 1000)]
    for _ in range(times):
        for start in range(0, len(parts), 20):
            with client.pipeline(transaction=False) as pipe:
                for part in parts[start : start + 20]:
                    pipe.lpush(key, *part)
                pipe.execute()


def await_(what: Callable[[], bool], *, within: float, every: float = 0.01) -> None:
    """Look until it is so."""
    deadline = time.monotonic() + within
    while not what():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {within} s")
        time.sleep(every)


# -- what a server did --------------------------------------------------------------------------------------

#: Commands that come from clients; what our scripts call stands beside them in INFO commandstats.
_SENT = ("evalsha", "eval", "blmove", "ping", "hello", "scan", "client", "auth", "select")


def sent(client: redis.Redis) -> int:
    """Commands that clients have sent so far: round trips, if they don't pipeline."""
    stats: Any = client.info("commandstats")
    return sum(s["calls"] for name, s in stats.items() if name[8:].split("|")[0] in _SENT)


def script_time(client: redis.Redis) -> tuple[int, float]:
    """Script calls so far, and the seconds that they took in Redis."""
    stats: Any = client.info("commandstats")
    found = [s for name, s in stats.items() if name in ("cmdstat_evalsha", "cmdstat_eval")]
    return sum(s["calls"] for s in found), sum(s["usec"] for s in found) / 1e6


# -- what a process did (Linux) -----------------------------------------------------------------------------


def cpu_seconds(pid: int) -> float:
    """CPU time of a process so far, all threads, to the nanosecond."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            total += int((task / "schedstat").read_text().split()[0])
        except FileNotFoundError:  # a thread that has just ended
            continue
    return total / 1e9


def rss(pid: int) -> int:
    """Bytes of memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def cores_busy() -> tuple[float, float]:
    """Seconds that all cores together have been (busy, there) since boot."""
    fields = [int(f) for f in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
    idle = fields[3] + fields[4]
    return (sum(fields) - idle) / 100, sum(fields) / 100


def descendants(pid: int) -> list[int]:
    """A process and all that came from it."""
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").iterdir():
            found += [int(child) for child in (task / "children").read_text().split()]
    return found


def available_memory() -> int:
    """Bytes that can be used without swapping."""
    lines = Path("/proc/meminfo").read_text().split("\n")
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
