"""A claimed message in the handler's hands."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Protocol

from reliq.core.consumer import ConsumerState
from reliq.core.message import Message, Settle
from reliq.core.retry import Retry
from reliq.core.verdict import describe
from reliq.lease import Leased, report
from reliq.logging import log


class Settler(Protocol):
    """Who holds the message: a Consumer, or a Worker's loop."""

    state: ConsumerState

    async def settle(self, settle: Settle) -> bool:
        """Have it done by the next trip and wait: False if it was refused as too late."""

    def post(self, settle: Settle) -> None:
        """Have it done soon, without waiting: for a task that is being cancelled."""


class Lease(Leased):
    """A message in your hands, until it is settled: ``async with lease:``, or one of the four verbs.

    Leaving the ``async with`` block acks; an exception inside is logged and retried by the queue's policy
    (or settled as a raised Bury, Release or RetryAfter says) and does not leave the block, so a loop goes
    on. Cancellation, KeyboardInterrupt and SystemExit put the message back, uncounted, and go on.
    """

    def __init__(self, message: Message, settler: Settler, retry: Retry) -> None:
        super().__init__(message, settler.state, retry)
        self._settler = settler

    async def ack(self, result: Any = None) -> None:
        """Done: remove the message, and give ``result`` to who waits for that (``put(result=)``). Raises LeaseLost
        if that comes too late, OutcomeUnknown if unanswered."""
        await self._settle(self._done(self._result if result is None else result))

    async def retry(self, delay: float | None = None, *, reason: str = "retry") -> None:
        """Failed: come back in ``delay`` seconds (None: as the policy says); counts as an attempt."""
        await self._settle(self.again(delay, reason))

    async def release(self) -> None:
        """Put it back unprocessed, at the head of the queue; counts no attempt."""
        await self._settle(self._state.release(self._message, handled=True))

    async def bury(self, reason: str) -> None:
        """Dead-letter it, with the reason."""
        await self._settle(self._state.bury(self._message, "BURIED", reason, failed=1))

    async def _settle(self, settle: Settle) -> None:
        if self._settled:
            return
        self._settled = True
        if not await self._settler.settle(settle):
            raise self._lost_error()

    async def __aenter__(self) -> Lease:
        self.enter()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        try:
            if not self._settled:
                settle = self.verdict(error)
                if error is not None and not isinstance(error, Exception):
                    self._settled = True
                    self._settler.post(settle)  # interrupted: to wait here would be to wait once too often
                    return False
                if error is not None:
                    report(error, settle)
                await self._settle(settle)
            elif isinstance(error, Exception):
                log.error("failed after it was settled: %s", describe(error), exc_info=error)
        finally:
            self.leave()
        return isinstance(error, Exception)
