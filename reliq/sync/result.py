"""Who waits for a result: the steps of ``core.awaiting``, with a connection of its own to block on."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from reliq.core.awaiting import Block, Pause, Steps, result_g
from reliq.errors import ReliqError
from reliq.identity import clock
from reliq.sync.link import Link

if TYPE_CHECKING:
    from reliq.sync.queue import Queue


class Waiter:
    """One wait. Several at once have a connection each: puts and workers never stand behind one."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._link: Link | None = None

    def result(self, id: str, timeout: float | None) -> Any:
        """See ``Queue.result``."""
        options = self._queue.options
        try:
            return self._drive(result_g(options.keys, id, timeout, block=options.block, clock=clock))
        finally:
            if self._link is not None:
                self._queue.links.waited(self._link)

    def _drive(self, steps: Steps[Any]) -> Any:
        try:
            step = next(steps)
            while True:
                try:
                    reply = self._do(step)
                except ReliqError as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(reply)
        except StopIteration as stop:
            return stop.value

    def _do(self, step: Any) -> Any:
        links = self._queue.links
        if isinstance(step, Pause):
            time.sleep(step.seconds)
        elif isinstance(step, Block):
            if self._link is None:
                self._link = links.waiting(read_timeout=self._queue.settings.patience)
            return self._link.run(step.command)
        else:
            return links.pipeline(step) if isinstance(step, list) else links.insist(step)
        return None
