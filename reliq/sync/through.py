"""A queue whose puts go through middleware; imported when there is some."""

from __future__ import annotations

from collections.abc import Iterable
from inspect import iscoroutine
from typing import Any

from reliq.errors import ConfigError
from reliq.middleware import Put, afters, befores, failed_after, instead
from reliq.receipts import Receipt
from reliq.sync.queue import Queue


class Through(Queue):
    """What a queue becomes that was made with ``middleware=``."""

    def put(self, body: Any, **options: Any) -> Receipt:
        """See ``Queue.put``."""
        put = self._before(Put(self.name, (body,), options))
        receipt = super().put(put.body, **put.options)
        self._after(put, [receipt])
        return receipt

    def put_many(self, bodies: Iterable[Any], **options: Any) -> list[str]:
        """See ``Queue.put_many``."""
        if not (bodies := tuple(bodies)):  # nothing is put, and no hook looks at it
            return super().put_many(bodies, **options)
        put = self._before(Put(self.name, bodies, options))
        receipts = super().put_many(put.bodies, **put.options)
        self._after(put, receipts)
        return receipts

    def _before(self, put: Put) -> Put:
        for hook in befores(self.options.middleware):
            said = hook.before_put(put)
            if iscoroutine(said):
                said.close()
                raise ConfigError(f"before_put of {hook!r:.120} is a coroutine function: it is for reliq.aio")
            put = instead(put, said, hook)
        return put

    def _after(self, put: Put, receipts: list[Any]) -> None:
        for hook in afters(self.options.middleware):
            try:
                if iscoroutine(said := hook.after_put(put, receipts)):
                    said.close()
                    raise ConfigError("it is a coroutine function, for reliq.aio")
            except Exception as error:  # noqa: BLE001 - the put has happened, whatever is said of it
                failed_after(hook, error)


def through(kind: type[Queue]) -> type[Queue]:
    """This class of queues, with middleware: also one that a user has made of ``Queue``."""
    if issubclass(kind, Through):
        return kind
    return Through if kind is Queue else type(kind.__name__, (Through, kind), {})
