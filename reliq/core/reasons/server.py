"""What is wrong with a server, or with the way to it.

Of each code what it means, where it comes from, and what to do now.
"""

from __future__ import annotations

from typing import Final

TEXTS: Final = {
    "OLD_SERVER": (
        "what newer servers can do is refused: put(fsync=True) needs 7.2",
        "the server is older",
        "nothing is to be done, unless you want that; then upgrade",
    ),
    "READ_ONLY_REPLICA": (
        "nothing can be put, claimed or acked here",
        "the URL names a replica, or a failover has made one of it",
        "connect to the primary; redis+sentinel:// finds it by itself",
    ),
    "NOT_PERSISTED": (
        "a restart of Redis loses messages that were accepted",
        "appendonly is off",
        "redis-cli CONFIG SET appendonly yes, and write it into redis.conf",
    ),
    "UNSYNCED_WRITES": (
        "a crash of the Redis host loses what was accepted last",
        "appendfsync is not always: writes reach the disk later",
        "if that is too much: redis-cli CONFIG SET appendfsync always, or put(replicas=1)",
    ),
    "SAVE_FAILED": (
        "Redis cannot write to disk: it refuses puts, or a restart loses what was accepted",
        "the disk is full, read-only or broken, or the process may not write there",
        "see the log of Redis; make room on its disk",
    ),
    "NO_REPLICA": (
        "if the machine of this Redis is lost, the queues are",
        "no replica is attached",
        "nothing is to be done if that is accepted; else attach a replica, and put(replicas=1)",
    ),
    "TOO_FEW_REPLICAS": (
        "Redis refuses all writes (NOREPLICAS) until enough replicas are in step",
        "min-replicas-to-write is more than the replicas that are in step",
        "bring the replicas back, or lower min-replicas-to-write",
    ),
    "REPLICA_LAGS": (
        "a failover now loses what the replica does not have yet",
        "a replica is cut off, suspended or too slow",
        "see its log, and INFO replication",
    ),
    "UNGUARDED_FAILOVER": (
        "a primary that was cut off goes on taking puts, which a failover loses",
        "min-replicas-to-write is 0 although there are replicas",
        "redis-cli CONFIG SET min-replicas-to-write 1, or put(replicas=1) where it matters",
    ),
    "ROLLED_BACK": (
        "puts of the last moments before it may be missing, and acked messages be handled again",
        "a failover, a crash or a restored copy: this Redis does not have all that was confirmed before",
        "ask for what is missing: reliq explain ID; from now on put(replicas=1) where it matters",
    ),
    "EVICTION": (
        "Redis throws away whole queues to make room, when its memory is full",
        "maxmemory-policy is not noeviction",
        "redis-cli CONFIG SET maxmemory-policy noeviction, and write it into redis.conf",
    ),
    "MEMORY_LOW": (
        "soon Redis refuses puts (QUEUE_FULL); claims and acks go on",
        "more is put than is handled, or maxmemory is too small",
        "let consumers drain it, start more workers, or raise maxmemory",
    ),
    "LARGE_QUEUE": (
        "most of Redis' memory is taken by one part of one queue",
        "messages are put, put off or given up faster than they go",
        "start more workers; look at dead letters and revive or remove them: reliq dead ls",
    ),
    "MEMORY_UNLIMITED": (
        "a queue that nobody drains grows until the machine kills Redis",
        "maxmemory is 0",
        "set maxmemory (with noeviction): puts are refused then, and nothing is lost",
    ),
    "FRAGMENTED_MEMORY": (
        "Redis holds much more memory than its data needs",
        "many elements of different sizes came and went",
        "redis-cli MEMORY PURGE; CONFIG SET activedefrag yes where the server has it",
    ),
    "IDLE_TIMEOUT": (
        "Redis ends the connections of idle workers between two of their round trips",
        "timeout is not 0, and shorter than an idle worker is silent",
        "redis-cli CONFIG SET timeout 0, or at least 60",
    ),
    "KEEPALIVE_OFF": (
        "connections of hosts that are gone stay, and take messages that wait a lease for a reaper",
        "tcp-keepalive is 0",
        "redis-cli CONFIG SET tcp-keepalive 300, and write it into redis.conf",
    ),
    "MANY_CLIENTS": (
        "soon Redis refuses new connections",
        "more processes or threads than expected, or connections that are never closed",
        "see CLIENT LIST; raise maxclients, and the limit of open files",
    ),
    "SLOW_SCRIPTS": (
        "everybody waits while a script of reliq runs",
        "bodies are large, or the machine of Redis is overloaded",
        "put large data into a store and send its address; give Redis a core of its own",
    ),
    "SLOW_NETWORK": (
        "leases cannot be renewed in time, and messages are handled twice",
        "the round trip to Redis is long, or Redis is overloaded",
        "raise lease=, or bring workers and Redis closer together",
    ),
    "CLOCK_SKEW": (
        "put(at=) is off by this, and so are the ages that commands show; leases are not",
        "the clock of this host, or that of Redis, is wrong",
        "set both by NTP",
    ),
    "CLUSTER_BROKEN": (
        "queues whose slots nobody serves stand still",
        "nodes of the Cluster are down, or slots belong to nobody",
        "redis-cli --cluster check HOST:PORT, and bring the nodes back",
    ),
    "MISSING_RIGHTS": (
        "what needs these commands fails (ACCESS_DENIED)",
        "the ACL user may not use them, or the server has renamed them",
        "grant them: reliq doctor --acl prints the whole line",
    ),
    "FORBIDDEN_KEYS": (
        "what needs these keys fails (ACCESS_DENIED)",
        "the ACL user may not read and write all keys of the queue",
        "grant them: reliq doctor --acl prints the whole line",
    ),
}
