"""What runs and asks Redis, in asyncio: the same names as in ``reliq.testing``, awaitable."""

from __future__ import annotations

import asyncio
import time
from types import ModuleType
from typing import Any

from reliq.ack import Handler
from reliq.aio.queue import Queue
from reliq.aio.worker import Worker, own_queue, own_queues
from reliq.testing.runs import GRACE, LEAVE, TRAVEL, Run, Watch
from reliq.testing.travels import checked, next_due_g, travel_g


async def run_until_empty(
    *handlers: Handler[..., Any] | ModuleType,
    later: str = LEAVE,
    concurrency: int = 1,
    timeout: float = 30.0,
    raise_on_dead: bool = True,
    **options: Any,
) -> Run:
    """Run a real worker in this event loop until nothing of the handlers' queues is ready or in hand.

    ``handlers``: made with ``@q.ack``, or modules that have some. ``later="leave"``: what is delayed, or waits
    for another attempt, stays; ``"travel"``: time jumps to the next of these, as by ``travel``, until there is
    none. ``concurrency``: handlers at once; with 1, in order. ``timeout``: seconds for all of it, then NotEmpty.
    Messages that die raise DeadLettered, from what their handler raised, unless ``raise_on_dead`` is False.
    ``options``: of the Worker, as ``lifespan``. Returns a ``Run``.
    """
    watch = Watch(handlers, later, timeout)
    over = time.monotonic() + timeout
    homes = [(queue, own_queue(queue)) for queue in watch.queues]
    queues = [queue for _, home in homes for queue in own_queues(home)]
    for queue in queues:
        await queue.links.flow(watch.begin_g(queue.options.keys))
    await _work(watch, over, concurrency=concurrency, **options)
    while later == TRAVEL and time.monotonic() < over and (ms := await _next_due(queues)) is not None:
        for queue in queues:
            await queue.links.flow(travel_g(queue.options, max(1, ms)))
        await _work(watch, over, concurrency=concurrency, **options)
    for queue in queues:
        await queue.links.flow(watch.end_g(queue.options.keys))
    for queue, home in homes:
        if home is not queue:
            await home.aclose()
    return watch.result(in_time=time.monotonic() < over, raise_on_dead=raise_on_dead)


async def _work(watch: Watch, over: float, **options: Any) -> None:
    """A worker, until it finds nothing any more, or the time is over."""
    worker = Worker(*watch.handlers, signals=False, until_empty=True, grace=GRACE, **options)
    timer = asyncio.get_running_loop().call_later(over - time.monotonic(), worker.stop)
    try:
        await worker.run()
    finally:
        timer.cancel()


async def _next_due(queues: list[Queue]) -> int | None:
    """In how many ms the first of what is delayed is due."""
    found = [await queue.links.flow(next_due_g(queue.options.keys)) for queue in queues]
    return min((ms for ms in found if ms is not None), default=None)


async def travel(queue: Any, seconds: float) -> int:
    """Let a queue, with all its levels, be so many ``seconds`` later; returns how many messages that made due.

    What is delayed, or waits for another attempt, is due so much sooner, in the same order. Ticks of schedules
    on the way are fired, each once, all of them (as if workers had been there), and their messages say the right
    time. What waits is so much older, for ``expires``, ``max_age`` and tenacity's ``stop_after_delay``; and what
    ends by itself (the hour of ``put(id=)``, ``unique`` for a time) ends so much sooner.
    The clocks of the server and of this program stay as they are: a lease, a ``timeout``, the rate of a tenant and
    ``datetime.now()`` in a handler know nothing of it, what is in hand does not change, a schedule made after a
    journey has its first tick by the clock, and there is no way back. ConfigError for what is no time.
    """
    ms = checked(seconds)
    return sum([await q.links.flow(travel_g(q.options, ms)) for q in own_queues(own_queue(queue))])
