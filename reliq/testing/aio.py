"""What runs and asks Redis, in asyncio: the same names as in ``reliq.testing``, awaitable."""

from __future__ import annotations

import asyncio
import time
from types import ModuleType
from typing import Any

from reliq.ack import Handler
from reliq.aio.worker import Worker, own_queue, own_queues
from reliq.testing.runs import GRACE, LEAVE, Run, Watch


async def run_until_empty(
    *handlers: Handler[..., Any] | ModuleType,
    later: str = LEAVE,
    concurrency: int = 1,
    timeout: float = 30.0,
    raise_on_dead: bool = True,
) -> Run:
    """Run a real worker in this event loop until nothing of the handlers' queues is ready or in hand.

    ``handlers``: made with ``@q.ack``, or modules that have some. ``later="leave"``: what is delayed, or waits
    for another attempt, stays. ``concurrency``: handlers at once; with 1, in order. ``timeout``: seconds for all
    of it, then NotEmpty. Messages that die raise DeadLettered, from what their handler raised, unless
    ``raise_on_dead`` is False. Returns a ``Run``.
    """
    watch = Watch(handlers, later, timeout)
    over = time.monotonic() + timeout
    homes = [own_queue(handler.queue) for handler in watch.handlers]
    queues = [queue for home in homes for queue in own_queues(home)]
    for queue in queues:
        await queue.links.flow(watch.begin_g(queue.options.keys))
    worker = Worker(*watch.handlers, concurrency=concurrency, signals=False, until_empty=True, grace=GRACE)
    timer = asyncio.get_running_loop().call_later(over - time.monotonic(), worker.stop)
    try:
        await worker.run()
    finally:
        timer.cancel()
    for queue in queues:
        await queue.links.flow(watch.end_g(queue.options.keys))
    for home, handler in zip(homes, watch.handlers, strict=True):
        if home is not handler.queue:
            await home.aclose()
    return watch.result(in_time=time.monotonic() < over, raise_on_dead=raise_on_dead)
