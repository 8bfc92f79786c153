"""The handler of ``reliq demo``, in the worker processes that it starts (and kills one of).

Its effect is a line in a file, on the disk before the ack: so a message that is delivered twice shows, as
it would with an e-mail or a payment.
"""

from __future__ import annotations

import os
import time
from functools import cache

from reliq.cli.demo import PAUSE_VARIABLE, QUEUE, QUEUE_VARIABLE, RESULTS_VARIABLE, sha256_of
from reliq.sync.lease import Lease
from reliq.sync.queue import Queue

q = Queue(os.environ.get(QUEUE_VARIABLE, QUEUE))


@q.ack
def digest(path: str | bytes, lease: Lease) -> None:
    """Note the SHA-256 of a file: one line with id, digest, delivery, time and process."""
    pause = float(os.environ.get(PAUSE_VARIABLE, "0"))
    found = sha256_of(path)
    if pause:
        time.sleep(pause)
    line = f"{lease.id} {found} {lease.deliveries} {time.monotonic()} {os.getpid()}\n"
    os.write(_results(), line.encode())
    os.fsync(_results())


@cache
def _results() -> int:
    """One file for all processes: a write to a file opened for appending is never mixed with another's."""
    return os.open(os.environ[RESULTS_VARIABLE], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
