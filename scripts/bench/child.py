"""What runs in processes of its own: ``python -m scripts.bench.child PROGRAM JSON``; the result comes as JSON."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import msgpack
import redis

import reliq
from scripts.bench import textbook
from scripts.bench.ours import noop


def worker(url: str, queue: str, *, collect: str = "", supervised: bool = False, **options: Any) -> Any:
    """A worker until SIGTERM, or empty. ``collect``: "wait" for ns since a body's ``at`` on the monotonic clock,
    "late" for ms since its ``due``, by the wall clock."""
    found: list[float] = []

    def wait(body: Any) -> None:
        found.append(time.monotonic_ns() - body["at"])

    def late(body: Any) -> None:
        found.append(time.time() * 1000 - body["due"])

    handler = {"wait": wait, "late": late}.get(collect, noop)
    made = reliq.Worker(reliq.Queue(queue, url).ack(handler), **options)
    if supervised:
        made.supervise()
    else:
        made.run()
    return found


def blmove(url: str) -> Any:
    """The textbook loop until SIGTERM; ns that each message has waited."""
    client: Any = redis.Redis.from_url(url)
    found: list[float] = []
    over: list[bool] = []
    signal.signal(signal.SIGTERM, lambda *_: over.append(True))
    while not over:
        data = client.blmove(textbook.READY, textbook.DOING, 0.5, "RIGHT", "LEFT")
        if data is not None:
            found.append(time.monotonic_ns() - msgpack.unpackb(data)["at"])
            client.lrem(textbook.DOING, 1, data)
    return found


if __name__ == "__main__":
    programs: dict[str, Callable[..., Any]] = {"worker": worker, "blmove": blmove}
    print(json.dumps(programs[sys.argv[1]](**json.loads(sys.argv[2]))))
