"""Servers that fail over. Each test that asks for one runs once per server binary found."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conftest import BINARIES, _matrix
from tests.servers import NO_SERVER, ServerBinary
from tests.topologies import Cluster, Replicated


@pytest.fixture(scope="module", params=_matrix(BINARIES))
def binary(request: pytest.FixtureRequest) -> ServerBinary:
    """Of the servers that the topology is made of."""
    if request.param is None:
        pytest.fail(NO_SERVER)
    assert isinstance(request.param, ServerBinary)
    return request.param


@pytest.fixture
def replicated(binary: ServerBinary) -> Iterator[Replicated]:
    """A primary, a replica and three sentinels, for one test alone."""
    with Replicated(binary) as running:
        yield running


@pytest.fixture(scope="module")
def shared_cluster(binary: ServerBinary) -> Iterator[Cluster]:
    with Cluster(binary) as running:
        yield running


@pytest.fixture
def cluster(shared_cluster: Cluster) -> Cluster:
    """Three primaries and three replicas, whole again after what the last test did."""
    shared_cluster.revive()
    return shared_cluster
