"""What the code under test puts: noted where it calls ``put``, sent or not. No Redis is mocked."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

from reliq.errors import ConfigError
from reliq.receipts import receipts_of


class Put(NamedTuple):
    """One message that was put. ``options``: what the call said besides, as {"delay": 60}; ``id``: the receipt."""

    queue: str
    body: Any
    options: dict[str, Any]
    id: str


class Captured(list[Put]):
    """The puts, in order."""

    @property
    def bodies(self) -> list[Any]:
        """Of all of them."""
        return [put.body for put in self]


@contextmanager
def capture(*queues: Any, passthrough: bool = True) -> Iterator[Captured]:
    """Note all that is put through these queues (``Queue`` objects of either shell, with all their levels) while
    the block runs: ``with capture(app.emails) as puts: …; assert puts.bodies == […]``

    A put that raises is not noted. ``passthrough=False``: all is checked and encoded as ever, and receipts are ids
    as ever, but nothing is sent; so each is new, also one with the ``id`` or the ``unique`` key of another.
    Ticks of schedules, and what others put into the same list, are none of these.
    """
    puts = Captured()
    with ExitStack() as stack:
        for queue in queues:
            if not hasattr(queue, "put_many"):
                raise ConfigError(f"capture({queue!r:.80}): pass Queue objects, those that the code puts through")
            for each in {id(q): q for q in (queue, *map(queue.level, queue.options.levels))}.values():
                stack.enter_context(_stood_in(each, puts, passthrough))
        yield puts


@contextmanager
def _stood_in(queue: Any, puts: Captured, passthrough: bool) -> Iterator[None]:
    """In the place of the methods of this one object, and of no other."""
    make = _awaitable if inspect.iscoroutinefunction(type(queue)._send) else _blocking
    stand_ins = make(queue, puts)
    if passthrough:
        del stand_ins["_send"]
    state = vars(queue)
    before = {name: state[name] for name in stand_ins if name in state}  # of a capture around this one
    state.update(stand_ins)
    try:
        yield
    finally:
        for name in stand_ins:
            state.pop(name, None)
        state.update(before)


def _blocking(queue: Any, puts: Captured) -> dict[str, Any]:
    real, real_many, name = queue.put, queue.put_many, queue.name

    def put(body: Any, **options: Any) -> Any:
        receipt = real(body, **options)
        puts.append(Put(name, body, options, receipt))
        return receipt

    def put_many(bodies: Any, **options: Any) -> Any:
        bodies = list(bodies)
        receipts = real_many(bodies, **options)
        puts.extend(Put(name, body, options, id) for body, id in zip(bodies, receipts, strict=True))
        return receipts

    def _send(ids: list[bytes], *_: Any, **__: Any) -> Any:
        return receipts_of(ids)

    return {"put": put, "put_many": put_many, "_send": _send}


def _awaitable(queue: Any, puts: Captured) -> dict[str, Any]:
    real, real_many, name = queue.put, queue.put_many, queue.name

    async def put(body: Any, **options: Any) -> Any:
        receipt = await real(body, **options)
        puts.append(Put(name, body, options, receipt))
        return receipt

    async def put_many(bodies: Any, **options: Any) -> Any:
        bodies = list(bodies)
        receipts = await real_many(bodies, **options)
        puts.extend(Put(name, body, options, id) for body, id in zip(bodies, receipts, strict=True))
        return receipts

    async def _send(ids: list[bytes], *_: Any, **__: Any) -> Any:
        return receipts_of(ids)

    return {"put": put, "put_many": put_many, "_send": _send}
