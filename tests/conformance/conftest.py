"""The fixtures `shell` (blocking and asyncio) and `own_shell`, which has a server of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.conformance.shell import Shell
from tests.servers import ExternalServer, RedisServer


@pytest.fixture(params=["sync", "aio"])
async def sh(
    request: pytest.FixtureRequest, server: RedisServer | ExternalServer, prefix: str
) -> AsyncIterator[Shell]:
    """One shell on the shared server."""
    shell = Shell(request.param, server.url, prefix)
    yield shell
    await shell.finish()


@pytest.fixture(params=["sync", "aio"])
async def own_sh(request: pytest.FixtureRequest, own_server: RedisServer, prefix: str) -> AsyncIterator[Shell]:
    """One shell on the server of this test alone."""
    shell = Shell(request.param, own_server.url, prefix)
    yield shell
    await shell.finish()
