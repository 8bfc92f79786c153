"""URLs: one server, several nodes of a Cluster, Sentinels; what is wrong is said without the password."""

from __future__ import annotations

import pytest

from reliq import client
from reliq.core.topology import Node
from reliq.errors import ConfigError


@pytest.mark.parametrize(
    ("url", "nodes", "label"),
    [
        ("redis://h", [("h", 6379)], "h:6379/0"),
        ("redis://u:p%40ss@h:1/2", [("h", 1)], "h:1/2"),
        ("rediss://[::1]:7000/0", [("::1", 7000)], "[::1]:7000/0"),
        ("redis://u:p@a:7000,b:7001,a:7000,c", [("a", 7000), ("b", 7001), ("c", 6379)], "a:7000,b:7001,c:6379/0"),
        (
            "redis+sentinel://u:p@a,b:5/my/2?sentinel_password=x",
            [("a", 26379), ("b", 5)],
            "'my' by sentinels a:26379,b:5",
        ),
    ],
)
def test_hosts_and_label(url: str, nodes: list[tuple[str, int]], label: str) -> None:
    """All hosts with their ports; the label shows no password."""
    address = client.parse(url)
    assert address.nodes == tuple(Node(*node) for node in nodes)
    assert address.label == label


def test_sentinels_have_a_password_of_their_own() -> None:
    """User, password and database of the URL are those of Redis."""
    address = client.parse("rediss+sentinel://u:p%40@a,b/my/2?sentinel_password=x&ssl_check_hostname=False")
    assert (address.kind, address.master) == ("rediss", "my")
    to_redis = client.connection_kwargs(address, Node("h", 1), read_timeout=1, retry=lambda *a: None, name="n")
    to_sentinel = client.asking_kwargs(address, Node("a", 26379), retry=lambda *a: None)
    keys = ("host", "port", "username", "password", "db")
    assert [to_redis.get(k) for k in keys] == ["h", 1, "u", "p@", 2]
    assert [to_sentinel.get(k) for k in keys] == ["a", 26379, None, "x", 0]
    assert to_sentinel["ssl_check_hostname"] is False


@pytest.mark.parametrize(
    "url",
    [
        "redis+sentinel://:secret@a,b",
        "redis+sentinel://:secret@a,b/my/x",
        "redis+sentinel://:secret@a,b/my?sentinel_user=x",
        "redis://:secret@a?sentinel_password=x",
        "redis://:secret@a,b/1",
        "redis://:secret@a,,b/0",
        "redis://:secret@a:70000",
        "redis://:secret@[::1/0",
        "http+sentinel://:secret@a/my",
    ],
)
def test_what_is_wrong_is_told(url: str) -> None:
    """As ConfigError, and the password is not in it."""
    with pytest.raises(ConfigError) as caught:
        client.parse(url)
    assert "secret" not in str(caught.value)
