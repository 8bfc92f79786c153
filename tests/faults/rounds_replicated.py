"""The kinds of faults of servers that have replicas: failover by Sentinel and in a Cluster, a migrating slot, a
primary that turns into a replica; see rounds.py. (tests/replicated asks the same of small cases.)

Replication is asynchronous: what the new primary never heard of is lost or comes back, which is what ``forgets``
excuses; each put is counted and named. A migrating slot excuses nothing. In the kinds that end in ``-replicas``
producers put with ``replicas=1``, there is exactly one replica, and one failover at a time: what was acked may
come back, but not one confirmed put may be lost.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import redis as redis_py

from tests.faults.rounds import PLAIN, SUPERVISED, Round, Settings, fault
from tests.servers import RedisServer
from tests.topologies import FAST, Cluster, Replicated, in_step, until

FORGETS = 3.0
"""Seconds before a rollback that may be forgotten: for so long the old primary may take writes on its own."""
BETWEEN_ELECTIONS = 2.2
"""Seconds, so that no node wins two within four, see tests/replicated/test_cluster.py."""
BACK = ("reap", "late", "release", "rollback")
SLOW: Settings = {"every": 0.01, "ms": (20, 50), "deeds": {"fail": 0.03}}
WAITING: Sequence[Settings] = (SLOW | {"replicas": 1},) * 2
FEW: Settings = {"processes": 2, "concurrency": 1}
FEW_HANDS: Sequence[Settings] = (SUPERVISED | {"worker": FEW}, PLAIN | {"worker": {"concurrency": 1}})
"""Workers that fall behind: what a primary takes without its replica is then still unhandled when that primary is
gone, so that every put that was wrongly confirmed is seen to be lost."""


# -- Sentinel -----------------------------------------------------------------------------------------------


def _sentinel_failovers(r: Round, longest: float) -> None:
    """``longest``: seconds for which an old primary may take writes on its own; in the first failover it does."""
    for number, _ in enumerate(r.beats(0.3, 0.8)):
        if number == 0 or r.chance.random() < 0.5:
            r.server.failover(split=r.chance.uniform(0.4, 1.0) * longest)
            r.did("SENTINEL FAILOVER")
        else:
            _kill(r, r.server.primary)
            r.did("kill -9 of the primary", heir=r.server.primary.port)
            r.server.revive()
        r.rollbacks.append(time.monotonic())


def _kill(r: Round, primary: RedisServer) -> None:
    primary.kill()
    r.rollbacks.append(time.monotonic())


@fault("sentinel-failover", causes=BACK, forgets=FORGETS, stage=lambda r: Replicated(r.binary))
def sentinel_failover(r: Round) -> None:
    """SENTINEL FAILOVER, with an old primary that takes writes for a while, and kill -9 of the primary."""
    _sentinel_failovers(r, 0.8)


@fault("sentinel-failover-replicas", causes=BACK, forgets=FORGETS, durable=True,
       workers=FEW_HANDS, producers=WAITING, stage=lambda r: Replicated(r.binary))  # fmt: skip
def sentinel_failover_replicas(r: Round) -> None:
    """The same for puts that wait for the replica: not one that was confirmed is lost."""
    _sentinel_failovers(r, 1.5)


# -- Cluster ------------------------------------------------------------------------------------------------


class _OneQueue(Cluster):
    """A Cluster, looked at from the node that has the slot of the round's queue."""

    def __init__(self, r: Round) -> None:
        super().__init__(r.binary)
        self.key = r.keys.ready

    def client(self, **options: Any) -> redis_py.Redis:
        return self.client_of(self.key, **options)

    @contextmanager
    def split(self) -> Iterator[None]:
        """Meanwhile the owner takes writes without its replica, which cannot log in to it any more."""
        owner = self.owner(self.key)
        replica = self.replica_of(owner)
        replica.cli("CONFIG", "SET", "masterauth", "wrong")
        replica.cli("CONFIG", "SET", "masteruser", "nobody")
        owner.cli("CLIENT", "KILL", "TYPE", "replica")
        try:
            yield
        finally:
            replica.cli("CONFIG", "SET", "masteruser", "")
            replica.cli("CONFIG", "SET", "masterauth", "")


def _cluster_failovers(r: Round) -> None:
    last = 0.0
    for number, _ in enumerate(r.beats(0.3, 0.8)):
        time.sleep(max(0.0, last + BETWEEN_ELECTIONS - time.monotonic()))
        r.rollbacks.append(time.monotonic())
        if number and r.chance.random() < 0.4:
            r.server.failover(r.keys.ready)
            r.did("CLUSTER FAILOVER")
        else:
            _kill_owner(r, split=r.chance.uniform(0.3, 1.0) if number == 0 or r.chance.random() < 0.5 else 0.0)
        last = time.monotonic()
        r.rollbacks.append(last)
        r.server.revive()


def _kill_owner(r: Round, split: float) -> None:
    """kill -9, after so many seconds in which it had no replica."""
    alone_since = time.monotonic()
    with r.server.split() if split else nullcontext():
        time.sleep(split)
        _kill(r, r.server.owner(r.keys.ready))
        # On a busy machine it was alone for longer than FORGETS: all that it took alone is forgotten.
        r.rollbacks += [r.rollbacks[-1] - ago for ago in range(int(r.rollbacks[-1] - alone_since) + 1)]
        what = "kill -9 of a primary without its replica" if split else "kill -9 of the primary"
        r.did(what, heir=r.server.owner(r.keys.ready).port)


@fault("cluster-failover", causes=BACK, forgets=FORGETS, stage=_OneQueue)
def cluster_failover(r: Round) -> None:
    """kill -9 of the primary that has the queue's slot, at times after its replica has left it, and CLUSTER
    FAILOVER: the replica takes over."""
    _cluster_failovers(r)


@fault("cluster-failover-replicas", causes=BACK, forgets=FORGETS, durable=True,
       workers=FEW_HANDS, producers=WAITING, stage=_OneQueue)  # fmt: skip
def cluster_failover_replicas(r: Round) -> None:
    """The same for puts that wait for the replica: not one that was confirmed is lost."""
    _cluster_failovers(r)


@fault("slot-migration", causes=("rollback",), stage=_OneQueue)
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
        r.server.follow(r.server.first, r.server.second)
        r.rollbacks.append(time.monotonic())
        r.did("READONLY")
        time.sleep(r.chance.uniform(0.1, 1.0) * r.kind.lease)
        r.server.follow(r.server.second, r.server.first)
        r.rollbacks.append(time.monotonic())
