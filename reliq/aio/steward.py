"""Orders from afar: a worker's way to do and answer them, and the way to give them and wait for the answers."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from reliq.core import ops, orders
from reliq.core.consumer import Answer
from reliq.core.explain import Explanation, is_handled, with_report
from reliq.core.keys import Keys
from reliq.core.orders import REPORT, STOP, Answered, Inquiry, Order
from reliq.errors import ReliqError
from reliq.identity import clock
from reliq.inspecting import obey, of_worker
from reliq.logging import log
from reliq.reporting import Orders

if TYPE_CHECKING:
    from reliq.aio.connection import Links
    from reliq.aio.loop import Loop
    from reliq.aio.station import Station

_PAUSE: Final = 0.05
PATIENCE: Final = 2.0
"""Seconds: while anything is in hand there is a trip every second."""


class Steward:
    """Does what a worker's consumers are told, each time in a task of its own: no trip waits for it."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._orders = Orders()
        self._answers: set[asyncio.Task[None]] = set()

    def take(self, station: Station, answer: Answer) -> None:
        """A trip has brought an order. If it says so, the next trip claims nothing any more."""
        order = self._orders.take(station, answer.order, answer.server_ms)
        if order is not None:
            obey(self._loop, order)
            task = asyncio.create_task(self._answer(station, station.state.name, order), name="reliq-steward")
            self._answers.add(task)
            task.add_done_callback(self._answers.discard)

    async def _answer(self, station: Station, name: str, order: Order) -> None:
        links = station.queue.links
        try:
            asked_at, at = await timed(links)
            report = of_worker(self._loop, station, self._loop.slots, order, asked_at=asked_at, at=at)
            await links.run(orders.answer(station.options.keys, name, order.number, report))
        except ReliqError as error:
            self._orders.failed(station, order)
            log.debug("queue %r: could not answer an order: %s", station.queue.name, error)
        if order.verb == STOP:
            self._loop.dismiss()

    async def aclose(self) -> None:
        """Answer what is to be answered still."""
        if self._answers:
            await asyncio.wait(self._answers, timeout=1.0)


async def timed(links: Links) -> tuple[float, int]:
    """Ask Redis for the time on a connection that is open: (when it was asked, server ms)."""
    await links.run(ops.server_time())
    return clock(), await links.run(ops.server_time())


async def ask(
    links: Links, keys: Keys, consumers: Sequence[str], what: str, patience: float
) -> dict[str, Answered]:
    """Give an order to consumers of a queue and wait for their answers, at most ``patience`` seconds. ``what``: a
    verb of ``core.orders``, and what a report is to tell of."""
    inquiry = Inquiry(keys, consumers, what, secrets.token_hex(4), patience)
    deadline = clock() + patience
    await links.flow(inquiry.step_g())
    while not inquiry.done and clock() < deadline:
        await asyncio.sleep(_PAUSE)
        await links.flow(inquiry.step_g())
    return inquiry.end()


async def with_stack(links: Links, keys: Keys, found: Explanation, patience: float = PATIENCE) -> Explanation:
    """Ask the worker that has a message in hand where its handler is; as it was, if nobody answers."""
    if not is_handled(found) or found.queue != keys.queue:
        return found
    name = str(found.consumer)
    answers = await ask(links, keys, [name], f"{REPORT} {found.id}", patience)
    return with_report(found, keys, answers[name].report)
