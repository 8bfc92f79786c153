"""A real worker for the fault tests: run as ``python -m tests.faults.program KEY=VALUE…``, one JSON argument.

The handler writes its effect to a file before the message can be acked, so what ran twice is seen there.
Bodies: {"n": 1, "ms": 15, "hold": 5, "do": "…"} where ``hold`` is how many seconds its first delivery takes, and
``do`` one of the deeds below. Settings with a "role" are for the
processes of a round (cast.py), which record what they do.
"""

from __future__ import annotations

import faulthandler
import json
import logging
import os
import sys
import time
from typing import Any

import reliq


def main() -> None:
    settings = json.loads(sys.argv[1])
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(process)d %(levelname)s %(message)s")
    if "role" in settings:
        from tests.faults.cast import play

        play(settings)
        return
    queue = reliq.Queue("work", settings["url"], prefix=settings["prefix"], **settings.get("queue", {}))
    effects = os.open(settings["effects"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def handle(body: Any, lease: reliq.Lease) -> Any:
        record = {"n": body["n"], "id": lease.id, "fence": lease.fence, "pid": os.getpid(), "at": time.time()}
        record |= {"attempt": lease.attempt, "deliveries": lease.deliveries}
        if lease.tick is not None:
            record |= {"schedule": lease.schedule, "tick": round(lease.tick.timestamp() * 1000)}
        os.write(effects, (json.dumps(record) + "\n").encode())
        if lease.deliveries == 1:
            time.sleep(body.get("hold", 0))
        do(body)
        if body.get("ends"):
            record = {"n": body["n"], "id": lease.id, "pid": os.getpid(), "at": time.time(), "end": True}
            os.write(effects, (json.dumps(record) + "\n").encode())
        return f"{os.getpid()}-{time.time_ns()}" if body.get("returns") == "run" else body.get("returns")

    def handle_many(bodies: list[Any], leases: list[reliq.Lease]) -> None:
        for body, lease in zip(bodies, leases, strict=True):
            handle(body, lease)

    if settings.get("once"):
        handle = reliq.idempotent(key=settings["once"])(handle)
    handler: Any = queue.ack(
        handle if settings.get("batch") is None else handle_many,
        batch=settings.get("batch"),
        wait=settings.get("wait") or 0.0,
        timeout=settings.get("timeout"),
        retry=reliq.Retry(attempts=3, wait=lambda s: 0.05),
        type=settings.get("type"),
    )
    worker = reliq.Worker(handler, **settings.get("worker", {}))
    if settings.get("supervise"):
        worker.supervise()
    else:
        worker.run()


def do(body: dict[str, Any]) -> None:
    """Work, or one of the things that handlers should not do."""
    deed = body.get("do", "work")
    time.sleep(body.get("ms", 0) / 1000)
    if deed == "segfault":
        faulthandler.disable()
        os.kill(os.getpid(), 11)
        time.sleep(5)
    elif deed == "exit":
        sys.exit(3)
    elif deed == "raise":
        raise BaseException("not an Exception")
    elif deed == "hang":
        time.sleep(3600)
    elif deed == "leak":
        _leak()
    elif deed == "fork":
        if os.fork() == 0:  # a grandchild that keeps every inherited socket open
            time.sleep(body["seconds"])
            os._exit(0)
    elif deed == "gil":
        _hold_the_gil(body["seconds"])


def _leak() -> None:
    """Keep more and more memory, until somebody ends it."""
    kept = []
    while True:
        kept.append(bytearray(b"x") * 4_000_000)
        time.sleep(0.005)


def _hold_the_gil(seconds: float) -> None:
    """Keep every other thread of this process from running, as a C extension might."""
    import ctypes

    ctypes.PyDLL(None).usleep(int(seconds * 1_000_000))  # PyDLL does not release the lock


if __name__ == "__main__":
    main()
