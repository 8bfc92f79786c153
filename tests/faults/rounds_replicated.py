"""The kinds of faults of servers that have replicas: failover by Sentinel and in a Cluster, a migrating slot, a
primary that turns into a replica; see rounds.py. (tests/replicated asks the same of small cases, and that nothing
is lost which a replica has confirmed.)

Replication is asynchronous: what the new primary never heard of is lost or comes back, which is what ``forgets``
excuses; it is counted. A migrating slot excuses nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis as redis_py

from tests.faults.rounds import Round, fault
from tests.servers import RedisServer
from tests.topologies import FAST, Cluster, Replicated, in_step, until

FORGETS = 3.0
"""Seconds before a rollback that may be forgotten: for so long the old primary may take writes on its own."""
BETWEEN_ELECTIONS = 2.2
"""Seconds, so that no node wins two within four, see tests/replicated/test_cluster.py."""
BACK = ("reap", "late", "release")


# -- Sentinel -----------------------------------------------------------------------------------------------


@fault("sentinel-failover", causes=BACK, forgets=FORGETS, stage=lambda r: Replicated(r.binary))
def sentinel_failover(r: Round) -> None:
    """SENTINEL FAILOVER, with an old primary that takes writes for a while, and kill -9 of the primary."""
    for _ in r.beats(0.3, 0.8):
        if r.chance.random() < 0.5:
            r.server.failover(split=r.chance.uniform(0.0, 0.8))
            r.did("SENTINEL FAILOVER")
        else:
            r.rollbacks.append(time.monotonic())
            r.server.kill_primary()
            r.did("kill -9 of the primary")
            r.server.revive()
        r.rollbacks.append(time.monotonic())


# -- Cluster ------------------------------------------------------------------------------------------------


class _OneQueue(Cluster):
    """A Cluster, looked at from the node that has the slot of the round's queue."""

    def __init__(self, r: Round) -> None:
        super().__init__(r.binary)
        self.key = r.keys.ready

    def client(self, **options: Any) -> redis_py.Redis:
        return self.client_of(self.key, **options)


@fault("cluster-failover", causes=BACK, forgets=FORGETS, stage=_OneQueue)
def cluster_failover(r: Round) -> None:
    """kill -9 of the primary that has the queue's slot, and CLUSTER FAILOVER: its replica takes over."""
    last = 0.0
    for _ in r.beats(0.3, 0.8):
        time.sleep(max(0.0, last + BETWEEN_ELECTIONS - time.monotonic()))
        r.rollbacks.append(time.monotonic())
        if r.chance.random() < 0.4:
            r.server.failover(r.keys.ready)
            r.did("CLUSTER FAILOVER")
        else:
            r.server.kill_primary(r.keys.ready)
            r.did("kill -9 of the primary")
        last = time.monotonic()
        r.rollbacks.append(last)
        r.server.revive()


@fault("slot-migration", stage=_OneQueue)
def slot_migration(r: Round) -> None:
    """The queue's slot moves to another node and on, key by key, while workers work: MOVED, ASK, TRYAGAIN."""
    for _ in r.beats(0.1, 0.4):
        r.server.migrate_slot(r.keys.ready, pause=r.chance.uniform(0.0, 0.3))
        r.did("slot moved")


# -- a primary that is a replica for a while ----------------------------------------------------------------


class _Pair:
    """Two servers; clients only know the first, which is the primary unless a fault says otherwise."""

    def __init__(self, first: RedisServer, second: RedisServer) -> None:
        self.first, self.second = first, second
        self.url, self.client, self.cli = first.url, first.client, first.cli
        self.follow(second, first)

    def follow(self, replica: RedisServer, primary: RedisServer) -> None:
        """Make one the primary and the other its replica, in step."""
        primary.cli("REPLICAOF", "NO", "ONE")
        replica.cli("REPLICAOF", "127.0.0.1", primary.port)
        until(lambda: in_step(replica), "the replica is in step")


@contextmanager
def _pair(r: Round) -> Iterator[_Pair]:
    with RedisServer(r.binary, extra_args=FAST) as first, RedisServer(r.binary, extra_args=FAST) as second:
        yield _Pair(first, second)


@fault("read-only-replica", causes=BACK, forgets=FORGETS, stage=_pair)
def read_only_replica(r: Round) -> None:
    """The server that clients know turns into a replica for up to a lease and back: UNBLOCKED, READONLY."""
    for _ in r.beats(0.3, 0.8):
        r.rollbacks.append(time.monotonic())
        r.server.follow(r.server.first, r.server.second)
        r.did("READONLY")
        time.sleep(r.chance.uniform(0.1, 1.0) * r.kind.lease)
        r.rollbacks.append(time.monotonic())
        r.server.follow(r.server.second, r.server.first)
