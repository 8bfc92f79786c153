"""The task that waits in BLMOVE, so that an idle worker starts on a message at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from reliq.aio.engine import Engine
from reliq.core.retry import backoff
from reliq.errors import ReliqError


class Bell:
    """Rings when there may be something to claim, when BLMOVE's time is over, or when it failed.

    Every ring is answered by a trip, so nothing depends on why it rang. While Redis refuses BLMOVE (out
    of memory, not there), it rings about every second.
    """

    def __init__(self, engine: Engine, on_ring: Callable[[], None]) -> None:
        self._engine = engine
        self._on_ring = on_ring
        self._waiting: asyncio.Task[None] | None = None
        self._stopped: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._failures = 0

    @property
    def armed(self) -> bool:
        """Whether it is waiting and will ring."""
        return self._waiting is not None and not self._waiting.done()

    def arm(self, seconds: float) -> None:
        """Wait for a message for at most so long, then ring. Does nothing if it waits already."""
        if not self.armed and not self._stopped.done():
            self._waiting = asyncio.get_running_loop().create_task(self._wait(seconds))

    async def _wait(self, seconds: float) -> None:
        try:
            await self._engine.ring(seconds)
            self._failures = 0
        except ReliqError:  # the trip that answers the ring meets the same trouble, and reports it
            self._failures += 1
            pause = min(1.0, backoff(self._failures))
            await asyncio.wait([self._stopped], timeout=pause)
        self._on_ring()

    async def stop(self) -> bool:
        """End the wait, on the server too; True if no BLMOVE of ours can be under way any more."""
        if not self._stopped.done():
            self._stopped.set_result(None)
        ended = await self._engine.end_bell()
        if self._waiting is not None:
            await asyncio.wait([self._waiting], timeout=1.0)
        return ended and not self.armed  # else it may be about to send one
