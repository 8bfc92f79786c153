"""A process of its own that ``reliq verify`` may kill, stop, or be wrong about the time: a consumer that does what
it is told line by line, or a supervised worker. What it says, and what its handlers do, outlives it.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Final

from reliq.core.retry import Retry
from reliq.errors import ReliqError
from reliq.sync.consumer import Consumer
from reliq.sync.lease import Lease
from reliq.sync.queue import Queue
from reliq.sync.reaper import Reaper
from reliq.sync.worker import Worker
from reliq.verify.effects import DONE, STARTED, Pen

#: The environment variable that carries the settings, as JSON. The address of Redis, which may hold a password, is
#: in RELIQ_URL: arguments can be read by everybody on the host.
SETTINGS: Final = "RELIQ_VERIFY_PUPPET"


def main() -> None:
    """The whole life of the process."""
    settings = json.loads(os.environ[SETTINGS])
    signal.alarm(settings["seconds"])  # whoever has started us may be gone
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(process)d %(levelname)s %(message)s")
    queue = Queue(settings["queue"], prefix=settings["prefix"], **settings["options"])
    if settings["worker"] is None:
        Puppet(queue).obey()
    else:
        work(queue, settings["effects"], **settings["worker"])


# -- a worker -----------------------------------------------------------------------------------------------


def work(queue: Queue, effects: str, **options: Any) -> None:
    """Handle messages under a supervisor until SIGTERM. Bodies are {"n": 1, "ms": 20, "do": "…"}."""
    pen = Pen(effects)

    def handle(body: Any, lease: Lease) -> None:
        pen.note(STARTED, lease)
        time.sleep(body["ms"] / 1000)
        if lease.attempt == 1:
            _DEEDS[body.get("do", "work")]()
        pen.note(DONE, lease)

    handler = queue.ack(handle, retry=Retry(attempts=3, wait=lambda state: 0.05))
    Worker(handler, grace=10.0, **options).supervise()


def _raise() -> None:
    raise RuntimeError("reliq verify: this handler fails the first time")


#: What a handler does besides its work.
_DEEDS: Final[dict[str, Callable[[], Any]]] = {
    "work": lambda: None,
    "raise": _raise,
    "exit": lambda: sys.exit(3),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
}


# -- a consumer ---------------------------------------------------------------------------------------------


class Puppet:
    """Reads orders from stdin, one JSON object a line, and answers each with one on stdout."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._consumer: Consumer | None = None
        self._leases: list[Lease] = []
        self._clocks = time.time, time.time_ns

    def obey(self) -> None:
        """Until stdin ends."""
        for line in sys.stdin:
            order = json.loads(line)
            try:
                answer = getattr(self, f"do_{order.pop('do')}")(**order)
            except ReliqError as error:
                answer = {"error": error.code, "text": str(error)}
            print(json.dumps(answer), flush=True)
        if self._consumer is not None:
            self._consumer.close()

    def do_claim(self, n: int, timeout: float) -> dict[str, Any]:
        """Claim up to n messages and keep them."""
        if self._consumer is None:
            self._consumer = self._queue.consumer()
        claimed = self._consumer.claim(n, timeout=timeout)
        while claimed and len(claimed) < n and (more := self._consumer.claim(n - len(claimed), timeout=0)):
            claimed += more
        self._leases += claimed
        return {"numbers": [lease.body["n"] for lease in claimed]}

    def do_ack(self) -> dict[str, Any]:
        """Ack what it holds; says of each what came of it."""
        leases, self._leases = self._leases, []
        return {"acks": [_outcome(lease.ack) for lease in leases]}

    def do_put(self, n: int, **options: Any) -> dict[str, Any]:
        """Put one message."""
        return {"id": self._queue.put({"n": n}, **options)}

    def do_reap(self) -> dict[str, Any]:
        """One pass of a reaper."""
        return asdict(Reaper(self._queue, scan_steps=0).run_once())

    def do_skew(self, hours: float) -> dict[str, Any]:
        """From here on this process is wrong about the time of day; its monotonic clock goes on as it should."""
        right, right_ns = self._clocks
        time.time = lambda: right() + hours * 3600
        time.time_ns = lambda: right_ns() + round(hours * 3600e9)
        return {}


def _outcome(settle: Callable[[], None]) -> str:
    try:
        settle()
    except ReliqError as error:
        return error.code
    return "accepted"


if __name__ == "__main__":
    main()
