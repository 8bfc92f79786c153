"""What a put gives back: the ids of its messages, and what was confirmed of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from reliq.core.command import Command
from reliq.core.ops import Confirmed
from reliq.errors import ConfigError, OutcomeUnknown


class Receipt(str):
    """The id of an accepted message (it is that text), and what was confirmed of its put.

    ``replicas``: how many replicas had it in memory; ``fsynced``: whether the primary had it on disk; None where
    the put did not ask. ``added``: False if nothing was put, since this message was there and has what was to be
    unique; ``replaced``: the id of the message in whose place it was put.
    """

    __slots__ = ()
    replicas: int | None = None
    fsynced: bool | None = None
    added: bool = True
    replaced: str | None = None

    def result(self, timeout: float | None = None) -> Any:
        """What its handler returned, as ``queue.result(id, timeout)`` gives it; in ``reliq.aio`` to be awaited."""
        raise ConfigError(
            f"receipt {self}: its put did not ask for a result (result=), or it was pickled since and knows no "
            "queue any more; then ask that: queue.result(id)"
        )

    def progress(self) -> Any:
        """How far its handler has come, as ``queue.progress(id)`` gives it; in ``reliq.aio`` to be awaited."""
        return self.result()  # which says why not


class FullReceipt(Receipt):
    """That of a put which asked for more than to be accepted."""

    __slots__ = ("added", "fsynced", "replaced", "replicas")

    def __new__(
        cls, id: str, replicas: int | None, fsynced: bool | None, added: bool = True, replaced: str | None = None
    ) -> FullReceipt:
        made = super().__new__(cls, id)
        made.replicas, made.fsynced, made.added, made.replaced = replicas, fsynced, added, replaced
        return made

    def __getnewargs__(self) -> tuple[Any, ...]:
        return str(self), self.replicas, self.fsynced, self.added, self.replaced


class AwaitedReceipt(FullReceipt):
    """That of a put which asked for a result: it knows where to ask."""

    __slots__ = ("_queue",)
    _queue: Any

    def result(self, timeout: float | None = None) -> Any:
        return self._queue.result(str(self), timeout)

    def progress(self) -> Any:
        return self._queue.progress(str(self))

    def __reduce__(self) -> Any:
        return FullReceipt, self.__getnewargs__()


def awaited(receipt: Receipt, queue: Any) -> Receipt:
    """The same, of a message in this queue whose result is asked for."""
    made = AwaitedReceipt(receipt, receipt.replicas, receipt.fsynced, receipt.added, receipt.replaced)
    made._queue = queue
    return made


def receipts_of(ids: Sequence[bytes]) -> list[Receipt]:
    """Of a put that asked for nothing, or did not learn yet what was confirmed."""
    return list(map(Receipt, map(bytes.hex, ids)))


def confirmed(receipts: list[Receipt], reply: Any, command: Command) -> list[Receipt]:
    """What the caller of a put gets; OutcomeUnknown if not all that was asked for has been confirmed."""
    if isinstance(reply, bool):
        return receipts
    asked = reply if isinstance(reply, Confirmed) else None
    kept, replaced = (asked.placed if asked else reply) or ("", "")
    replicas, fsynced = (asked.replicas, asked.fsynced) if asked else (None, None)
    found: list[Receipt] = [
        FullReceipt(kept or id, replicas, fsynced, not kept, replaced or None) for id in receipts
    ]
    if asked and (missing := asked.shortfall):
        raise OutcomeUnknown(
            f"queue {command.queue!r}: put: the primary has it, but {missing} in time, so a failover or a crash "
            "may lose it. Give this error to queue.repeat() to wait again without a second copy.",
            ids=found,
            replay=command,
        )
    return found
