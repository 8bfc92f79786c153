"""`reliq dead` and `reliq fsck` on a Cluster: each queue is read and mended on the node that has it."""

from __future__ import annotations

from pathlib import Path

import pytest

import reliq
from tests.cli.conftest import Commands
from tests.topologies import Cluster


@pytest.fixture
def commands(cluster: Cluster, prefix: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Commands:
    return Commands(cluster.url, prefix, capsys, tmp_path)


def test_on_whatever_node_they_are(commands: Commands, cluster: Cluster) -> None:
    """Dead letters are counted, exported, removed, imported and revived; a copy and a stray list are found."""
    names = [f"q{n}" for n in range(6)]
    queues = [commands.queue(name, retry=reliq.Retry(attempts=1)) for name in names]
    assert len({cluster.owner(queue.options.keys.ready).port for queue in queues}) > 1
    for queue in queues:
        with queue:
            queue.put_many([1, 2])
            with queue.consumer() as consumer:
                for lease in consumer.claim(1):
                    lease.bury("no")
    assert [q["findings"] for q in commands("fsck", "--json").json["queues"]] == [[]] * 6
    for name in names:
        export = commands.process("dead", "export", "--queue", name).out.encode()
        assert commands("dead", "rm", "--all", "--yes", "--queue", name, "--json").json["removed"] == 1
        assert commands("dead", "import", "--queue", name, "--json", stdin=export).json["imported"] == 1
        assert commands("dead", "ls", "--queue", name, "--json").json["letters"] == 1
        assert commands("dead", "revive", "--all", "--queue", name, "--json").json["revived"] == 1
    for queue in queues:
        keys = queue.options.keys
        with cluster.client_of(keys.ready) as client:
            (element, *_) = client.lrange(keys.ready, 0, -1)
            client.lpush(keys.ready, element)
            client.rpush(keys.doing("ghost"), b"raw")
    told = [[f["code"] for f in q["findings"]] for q in commands("fsck", "--json").json["queues"]]
    assert told == [["DUPLICATE", "STRAY_LISTS"]] * 6
    commands("fsck", "--repair")
    for queue in queues:
        with cluster.client_of(queue.options.keys.ready) as client:
            assert client.llen(queue.options.keys.ready) == 2
