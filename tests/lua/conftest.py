"""`lab`: one queue, with a prefix of its own, on the shared server; `own_lab` on the test's own one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis as redis_py

from tests.lua.lab import Lab
from tests.servers import RedisServer


@pytest.fixture
def lab(redis: redis_py.Redis, prefix: str) -> Lab:
    """A queue on the shared server."""
    return Lab(redis, prefix)


@pytest.fixture
def own_lab(own_server: RedisServer, prefix: str) -> Iterator[Lab]:
    """A queue on a server that the test may set up as it likes."""
    with own_server.client() as client:
        yield Lab(client, prefix)
