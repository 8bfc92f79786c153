"""A worker whose messages never come to rest: run as ``python -m tests.faults.restless URL PREFIX``.

Its handler retries, releases or gives back in turn, so that every message exists at any time and hardly ever stays
where it is.
"""

from __future__ import annotations

import random
import sys
import time
from typing import Any

import reliq


def main() -> None:
    queue = reliq.Queue("restless", sys.argv[1], prefix=sys.argv[2], max_losses=255, lease=1.0)
    retry = reliq.Retry(attempts=1_000_000, wait=lambda _: random.random() / 50)

    @queue.ack(retry=retry)
    def handle(body: Any, lease: reliq.Lease) -> None:
        time.sleep(random.random() / 200)
        deed = random.randrange(4)
        if deed == 0:
            raise ValueError("again")
        if deed == 1:
            lease.retry(delay=random.random() / 50)
        elif deed == 2:
            lease.release()
        else:
            raise reliq.RetryAfter(0)

    reliq.Worker(handle, concurrency=8, processes=2).run()


if __name__ == "__main__":
    main()
