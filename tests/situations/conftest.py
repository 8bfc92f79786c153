"""A shop on a server of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import BINARIES, _matrix
from tests.servers import NO_SERVER, RedisServer, ServerBinary
from tests.situations.shop import Shop, shop_at


@pytest.fixture
def shop(own_server: RedisServer, tmp_path: Path) -> Iterator[Shop]:
    """On a server that nobody else uses, under the usual prefix."""
    with shop_at(own_server.url, tmp_path) as made:
        yield made


@pytest.fixture(params=_matrix(BINARIES))
def binary(request: pytest.FixtureRequest) -> ServerBinary:
    """For a test that starts several servers."""
    if request.param is None:
        pytest.fail(NO_SERVER)
    assert isinstance(request.param, ServerBinary)
    return request.param
