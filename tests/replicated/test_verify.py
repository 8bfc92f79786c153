"""`reliq verify` by the URLs of a Cluster and of Sentinels: every primary is looked at, and no key is left."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from reliq.cli import main
from tests.conftest import BINARIES
from tests.servers import NO_SERVER, RedisServer
from tests.topologies import Cluster, Replicated

CHECKS = ("server", "order", "lost-replies", "cut-connections", "disk", "replicas", "split")


@pytest.fixture(scope="module")
def newest_cluster() -> Iterator[Cluster]:
    """What is tried here depends little on the version, so one will do."""
    assert BINARIES, NO_SERVER
    with Cluster(BINARIES[-1]) as running:
        yield running


def verify(url: str, capsys: pytest.CaptureFixture[str], *names: str) -> tuple[dict[str, str], Any]:
    """The verdicts of all or of these checks, and the document."""
    words = [word for name in names or CHECKS for word in ("--only", name)]
    status = main(["verify", "--seconds", "1", "--json", "--url", url, *words])
    captured = capsys.readouterr()
    assert (status, captured.err) == (0, "")
    document = json.loads(captured.out)
    return {found["check"]: found["verdict"] for found in document["checks"]}, document


def assert_empty(nodes: list[RedisServer]) -> None:
    assert [node.cli("DBSIZE") for node in nodes] == [0] * len(nodes)


def test_cluster(newest_cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    """All holds by the address of one node; a setting of a single primary is told with its address."""
    odd = newest_cluster.nodes[1]
    odd.cli("CONFIG", "SET", "appendfsync", "no")
    try:
        found, document = verify(newest_cluster.one_url(), capsys)
    finally:
        odd.cli("CONFIG", "SET", "appendfsync", "always")
    assert found == {**dict.fromkeys(CHECKS, "holds"), "disk": "cannot hold here", "split": "cannot hold here"}
    reasons = {each["check"]: each["reason"] for each in document["checks"]}
    assert reasons["disk"].startswith(f"127.0.0.1:{odd.port}: appendfsync is no")
    assert reasons["split"].startswith("1 attached, and min-replicas-to-write is 0")
    assert document["removed"]["problem"] == ""
    assert_empty(newest_cluster.nodes[:3])


def test_cluster_by_all_its_nodes(newest_cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    """A URL with several hosts is a Cluster too, and what is the same everywhere is said once."""
    found, document = verify(newest_cluster.url, capsys, "order", "disk", "split")
    assert list(found.values()) == ["holds", "holds", "cannot hold here"]
    assert document["checks"][2]["reason"].count("attached") == 1
    assert_empty(newest_cluster.nodes[:3])


def test_sentinels(capsys: pytest.CaptureFixture[str]) -> None:
    """The primary is found and tried; that a cut-off primary would go on taking puts is a warning."""
    with Replicated(BINARIES[-1]) as replicated:
        found, document = verify(replicated.url, capsys)
        assert found == {**dict.fromkeys(CHECKS, "holds"), "split": "cannot hold here"}
        split = next(each for each in document["checks"] if each["check"] == "split")
        assert split["code"] == "UNGUARDED_FAILOVER"
        assert document["removed"]["problem"] == ""
        assert_empty([replicated.primary])
