"""Puts of many tasks, together: what comes while a call is under way goes in the next one. Nobody waits for more.

A call is one number of one producer, with the elements in the order in which they came, and has one outcome: its
puts are accepted together or refused together, and if that is unknown, the error of each replays the whole call,
of which the server keeps one copy. A task that is cancelled takes its put back if that still waits. If it is under
way, nothing can: it may be in.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from copy import copy
from functools import partial
from typing import Final, NamedTuple

from reliq import defaults
from reliq.core import ops
from reliq.errors import OutcomeUnknown, ReliqError
from reliq.receipts import Receipt, receipts_of

#: Seconds. If a call takes longer, Redis is far away or in trouble: the next one does not wait for its end.
_PATIENCE: Final = 0.05


class _Put(NamedTuple):
    """One that waits for its outcome."""

    id: bytes
    element: bytes
    outcome: asyncio.Future[Receipt]


class Puts:
    """Those of one queue and one event loop. ``send`` makes a call of ids and elements, ``most`` of them."""

    def __init__(
        self,
        send: Callable[[list[bytes], list[bytes]], Awaitable[list[Receipt]]],
        most: int = defaults.SCRIPT_ELEMENTS,
    ) -> None:
        self._send = send
        self._most = most
        self._waiting: deque[_Put] = deque()
        self._calls: set[asyncio.Task[None]] = set()
        self._latest: asyncio.Task[None] | None = None  # as long as others wait for its end

    async def put(self, id: bytes, element: bytes) -> Receipt:
        """Send it with the next call; the outcome is that of the call."""
        loop = asyncio.get_running_loop()
        put = _Put(id, element, loop.create_future())
        self._waiting.append(put)
        if self._latest is None:
            self._begin(loop)
        return await put.outcome

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        """The call begins with the next turn of the loop, so that what comes in this one is in it."""
        self._latest = call = loop.create_task(self._call())
        self._calls.add(call)
        patience = loop.call_later(_PATIENCE, self._go_on, call)
        call.add_done_callback(partial(self._ended, patience))

    def _ended(self, patience: asyncio.TimerHandle, call: asyncio.Task[None]) -> None:
        patience.cancel()
        self._calls.discard(call)
        self._go_on(call)

    def _go_on(self, after: asyncio.Task[None]) -> None:
        """Whoever waits need not wait for this call any more."""
        if self._latest is after:
            self._latest = None
            while self._waiting and self._waiting[0].outcome.done():
                self._waiting.popleft()
            if self._waiting:
                self._begin(after.get_loop())

    async def _call(self) -> None:
        puts = self._take()
        if not puts:
            return
        try:
            found = await self._send([put.id for put in puts], [put.element for put in puts])
        except Exception as error:  # noqa: BLE001 - the tasks that wait for it raise it
            for put in puts:
                if not put.outcome.done():
                    put.outcome.set_exception(_own(error, put.id))
        except BaseException:  # cancelled, with the loop that ends for example
            for put in puts:
                put.outcome.cancel()
            raise
        else:
            for put, receipt in zip(puts, found, strict=True):
                if not put.outcome.done():
                    put.outcome.set_result(receipt)

    def _take(self) -> list[_Put]:
        """As many as one call may carry, without those whose tasks were cancelled."""
        puts: list[_Put] = []
        size = 0
        while self._waiting and len(puts) < self._most:
            put = self._waiting[0]
            if puts and size + ops.weight(put.element) > defaults.SCRIPT_BYTES:
                break
            self._waiting.popleft()
            if not put.outcome.done():
                puts.append(put)
                size += ops.weight(put.element)
        return puts


def _own(error: Exception, id: bytes) -> Exception:
    """The error of a call as that of one of its puts: each task raises its own."""
    if not isinstance(error, ReliqError):
        return error
    own = copy(error)
    own.__cause__ = error.__cause__
    if isinstance(own, OutcomeUnknown):
        own.ids = [*receipts_of([id])]
    return own
