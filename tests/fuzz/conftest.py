"""The fixture `sh` of tests/conformance: a test runs in the blocking shell and in asyncio, on every server.

`shell` does the same on the newest server alone (`newest`), for what depends on no server.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.cli.conftest import _restored, commands
from tests.conformance.conftest import sh
from tests.conformance.shell import Shell
from tests.servers import NO_SERVER, RedisServer, find_servers

__all__ = ["_restored", "commands", "sh"]


@pytest.fixture(scope="package")
def newest() -> Iterator[RedisServer]:
    """One server for all of these tests: they keep apart by `prefix`."""
    binaries = find_servers()
    assert binaries, NO_SERVER
    with RedisServer(binaries[-1], appendfsync="everysec") as running:
        yield running


@pytest.fixture(params=["sync", "aio"])
async def shell(request: pytest.FixtureRequest, newest: RedisServer, prefix: str) -> AsyncIterator[Shell]:
    """One shell on it."""
    made = Shell(request.param, newest.url, prefix)
    yield made
    await made.finish()
