"""The thread that waits in BLMOVE for a worker, at the moment when the worker goes."""

from __future__ import annotations

import time

import pytest
import redis as redis_py

from reliq.sync.bell import Bell
from reliq.sync.connection import Link
from reliq.sync.engine import Engine
from reliq.sync.queue import Queue
from tests.servers import RedisServer


def test_stop_before_the_bell_has_connected(
    server: RedisServer, prefix: str, redis: redis_py.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that finds its queues empty stops while its bell still connects: the bell then sends no BLMOVE,
    which nobody could end, so the goodbye is quick and complete, and no thread fails."""
    connect = Link.connect

    def slowly(link: Link) -> bool:
        time.sleep(0.3 if link is engine._bells else 0)
        return connect(link)

    monkeypatch.setattr(Link, "connect", slowly)
    with Queue("emails", server.url, prefix=prefix) as queue:
        engine = Engine(queue, "test")
        engine.trip(0)
        bell = Bell(engine, lambda: None)
        started = time.monotonic()
        bell.arm(5.0)
        time.sleep(0.1)
        assert bell.stop()
        assert engine.leave(bell_ended=True)
        assert time.monotonic() - started < 1.0
        assert redis.zcard(queue.options.keys.consumers) == 0
