"""A queue whose puts go through middleware; imported when there is some."""

from __future__ import annotations

from collections.abc import Iterable
from inspect import isawaitable
from typing import Any

from reliq.aio.queue import Queue
from reliq.middleware import Put, afters, befores, failed_after, instead
from reliq.receipts import Receipt


class Through(Queue):
    """What a queue becomes that was made with ``middleware=``."""

    async def put(self, body: Any, **options: Any) -> Receipt:
        """See ``Queue.put``."""
        put = await self._before(Put(self.name, (body,), options))
        receipt = await super().put(put.body, **put.options)
        await self._after(put, [receipt])
        return receipt

    async def put_many(self, bodies: Iterable[Any], **options: Any) -> list[str]:
        """See ``Queue.put_many``."""
        if not (bodies := tuple(bodies)):  # nothing is put, and no hook looks at it
            return await super().put_many(bodies, **options)
        put = await self._before(Put(self.name, bodies, options))
        receipts = await super().put_many(put.bodies, **put.options)
        await self._after(put, receipts)
        return receipts

    async def _before(self, put: Put) -> Put:
        for hook in befores(self.options.middleware):
            said = hook.before_put(put)
            put = instead(put, await said if isawaitable(said) else said, hook)
        return put

    async def _after(self, put: Put, receipts: list[Any]) -> None:
        for hook in afters(self.options.middleware):
            try:
                if isawaitable(said := hook.after_put(put, receipts)):
                    await said
            except Exception as error:  # noqa: BLE001 - the put has happened, whatever is said of it
                failed_after(hook, error)


def through(kind: type[Queue]) -> type[Queue]:
    """This class of queues, with middleware: also one that a user has made of ``Queue``."""
    if issubclass(kind, Through):
        return kind
    return Through if kind is Queue else type(kind.__name__, (Through, kind), {})
