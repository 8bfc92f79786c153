"""Fixtures that every test shares. Each test that asks for a server runs once per server found.

`server`      one process per binary for the whole session (never kill it), plus what RELIQ_TEST_URLS names
`own_server`  a process for this test alone, to kill, freeze and restart
`redis`       a raw client to `server`;  `prefix` a key prefix that no other test has
"""

from __future__ import annotations

import itertools
import os
import secrets
from collections.abc import Generator, Iterator, Sequence
from typing import Any

import pytest
import redis as redis_py

from tests.servers import (
    NO_SERVER,
    ExternalServer,
    RedisServer,
    ServerBinary,
    external_servers,
    find_servers,
)

BINARIES = find_servers()
EXTERNAL = external_servers()

_numbers = itertools.count(1)


def _matrix(servers: Sequence[ServerBinary | ExternalServer]) -> list[Any]:
    """Without any server the tests have to fail; an empty list would make pytest skip them."""
    found = [pytest.param(server, id=server.name) for server in servers]
    return found or [pytest.param(None, id="no-server")]


@pytest.fixture(scope="session", autouse=True)
def _no_settings_from_outside() -> Iterator[None]:
    """No test may reach the queue that a developer's shell is set up for. What CI requires stays required."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            kept = name == "RELIQ_REDIS_SERVER" or name.endswith("_REQUIRED")
            if name == "REDIS_URL" or (name.startswith("RELIQ_") and not kept):
                patch.delenv(name)
        yield


@pytest.fixture(scope="session", params=_matrix([*BINARIES, *EXTERNAL]))
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer | ExternalServer]:
    """A running server, shared by all tests: they keep apart by `prefix`."""
    if request.param is None:
        pytest.fail(NO_SERVER)
    if isinstance(request.param, ExternalServer):
        yield request.param
    else:
        with RedisServer(request.param, appendfsync="everysec") as running:
            yield running


@pytest.fixture(params=_matrix(BINARIES))
def own_server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """A running server for one test, with appendfsync always: what it has confirmed outlives a kill."""
    if request.param is None:
        pytest.fail(NO_SERVER)
    with RedisServer(request.param) as running:
        yield running


@pytest.fixture
def redis(server: RedisServer | ExternalServer) -> Iterator[redis_py.Redis]:
    """A raw client to the shared server: RESP2, no retries, bytes in and out."""
    with server.client() as client:
        yield client


@pytest.fixture
def prefix() -> str:
    """A key prefix for this test alone, also on a server that outlives the session."""
    return f"t{next(_numbers)}{secrets.token_hex(4)}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failed test shows the end of its own server's log."""
    report = yield
    own = getattr(item, "funcargs", {}).get("own_server")
    if report.failed and isinstance(own, RedisServer):
        report.sections.append((f"{own.name} log", own.log[-4000:]))
    return report
