"""A worker beside a test, that ends with it whatever becomes of the test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tests.conformance.shell import Shell

SECONDS = 10.0


@asynccontextmanager
async def at_work(shell: Shell, handler: Any) -> AsyncIterator[asyncio.Task[None]]:
    """The worker as a task (of a thread, in the blocking shell). At the end it is stopped, and what it raised is
    raised."""
    worker = shell.Worker(handler, concurrency=2, grace=2.0, signals=False)
    running = asyncio.create_task(worker.run() if shell.name == "aio" else asyncio.to_thread(worker.run))
    try:
        yield running
    finally:
        worker.stop()
        await asyncio.wait({running}, timeout=SECONDS)
    assert running.done(), "it does not stop"
    running.result()
