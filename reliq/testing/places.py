"""Where a test has its queues: on a server of the session, under a prefix that no other test has."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from reliq import embedded
from reliq.core.command import Command
from reliq.errors import ConfigError
from reliq.sync.queue import Queue

#: Where the tests' queues are, if not on a private server.
URL = "RELIQ_TEST_URL"


def url_in(folder: Callable[[], Path | None]) -> str:
    """``$RELIQ_TEST_URL``, else that of a private server in this folder (None: the user's own), which ends
    with this process."""
    return os.environ.get(URL) or embedded.ensure(folder())


def fresh_prefix() -> str:
    """A prefix that nobody has had, also on a server that outlives the session."""
    return f"test-{os.urandom(6).hex()}"


class Queues:
    """Makes the queues of one test, at ``url`` and under ``prefix``; ``make``: ``reliq.Queue`` or that of
    ``reliq.aio``. ``close`` removes all that they have left in Redis.

    ``queues("emails", retry=…)`` makes a queue with the options of ``Queue``. ``queues(app.emails)`` moves one
    that is there already, whichever kind it is, with all handlers that it has, until the test is over.
    """

    def __init__(self, url: str, prefix: str = "", make: Callable[..., Any] = Queue) -> None:
        self.url = url
        self.prefix = prefix or fresh_prefix()
        self._make = make
        self._made: list[Any] = []
        self._moved: list[tuple[Any, dict[str, Any]]] = []

    def __call__(self, queue: Any = "test", **options: Any) -> Any:
        """A queue of this name, or this one, moved. ConfigError if it is neither, or the options are wrong."""
        if isinstance(queue, str):
            found = self._make(queue, self.url, **{"prefix": self.prefix, **options})
        elif not options and hasattr(queue, "options") and hasattr(queue, "settings"):
            found = self._move(queue)
        else:
            raise ConfigError(f"queues({queue!r:.80}): the name of a queue and its options, or a Queue alone")
        self._made.append(found)
        return found

    def _move(self, queue: Any) -> Any:
        state = vars(queue)
        self._moved.append((queue, dict(state)))
        state["options"] = replace(queue.options, keys=replace(queue.options.keys, prefix=self.prefix))
        queue._open(queue.settings.at(self.url))
        return queue

    def close(self) -> None:
        """Bring back what was moved, and remove what is left in Redis. The connections of asyncio queues end with
        their event loop."""
        adopted = [queue.options.keys.key for queue in self._made if queue.options.keys.key]
        for queue in self._made:
            if isinstance(queue, Queue):
                queue.close()
        for queue, state in reversed(self._moved):
            vars(queue).clear()
            vars(queue).update(state)
        self._made, self._moved = [], []
        with Queue("purge", self.url) as queue:
            purge(queue, f"{self.prefix}:*", adopted)


def purge(queue: Queue, pattern: str, keys: list[str]) -> None:
    """Remove all keys of this pattern, and these."""
    cursor, run = 0, queue.links.insist
    while True:
        scan = Command("SCAN", (), (cursor, "MATCH", pattern, "COUNT", 1000), idempotent=True)
        reply = run(scan)
        if names := [*reply[1], *keys]:
            run(Command("UNLINK", (), tuple(names), idempotent=True))
        cursor, keys = int(reply[0]), []
        if not cursor:
            return
