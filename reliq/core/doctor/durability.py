"""Checks of what Redis keeps: on disk, on replicas, and what a crash or a failover loses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from reliq.core.doctor.facts import ServerFacts, Table
from reliq.core.doctor.finding import CannotSee, Seen, check
from reliq.core.reasons import Reason

#: Seconds, where the server names none itself: what min-replicas-max-lag is by default.
_LAG_S: Final = 10


@check(Reason.NOT_PERSISTED, "appendonly")
def persisted(server: ServerFacts) -> Iterator[Seen]:
    if server.info.number("aof_enabled"):
        return
    snapshots = _snapshots(server.config)
    if snapshots == "":
        alone = server.info.number("connected_slaves") == 0
        yield Seen(
            "error" if alone else "warning",
            f"appendonly is no, there are no snapshots{' and no replica' if alone else ''}: a restart loses all",
        )
        return
    unsaved = server.info.number("rdb_changes_since_last_save")
    points = "" if snapshots is None else f" ({snapshots})"
    yield Seen(
        "warning",
        f"appendonly is no: a restart loses what came since the last snapshot{points}; now {unsaved:,} changes",
    )


def _snapshots(config: Table) -> str | None:
    """The save points, empty if there are none; None if it is not shown."""
    try:
        return config.text("save")
    except CannotSee:
        return None


@check(Reason.UNSYNCED_WRITES, "appendfsync")
def synced(server: ServerFacts) -> Iterator[Seen]:
    if not server.info.number("aof_enabled"):
        return  # said already
    how = server.config.text("appendfsync")
    if how == "everysec":
        yield Seen("info", "appendfsync is everysec: the last second is lost")
    elif how == "no":
        yield Seen(
            "warning",
            "appendfsync is no: what the system has not written yet is lost, often 30 s",
            "redis-cli CONFIG SET appendfsync everysec (or always), and write it into redis.conf",
        )
    if how != "no" and server.config.text("no-appendfsync-on-rewrite") == "yes":
        yield Seen(
            "warning",
            "no-appendfsync-on-rewrite is yes: while the file is rewritten, nothing is synced",
            "redis-cli CONFIG SET no-appendfsync-on-rewrite no",
        )


@check(Reason.SAVE_FAILED, "the last writes to disk")
def saving(server: ServerFacts) -> Iterator[Seen]:
    if server.info.number("aof_enabled"):
        if _failed(server.info, "aof_last_write_status"):
            yield Seen("error", "the last write to the append-only file failed, so Redis refuses writes (MISCONF)")
        if _failed(server.info, "aof_last_bgrewrite_status"):
            yield Seen("warning", "the append-only file cannot be rewritten, so it grows")
    if _failed(server.info, "rdb_last_bgsave_status"):
        refuses = server.config.text("stop-writes-on-bgsave-error") == "yes" and server.config.text("save") != ""
        yield Seen(
            "error" if refuses else "warning",
            "the last snapshot failed" + (", so Redis refuses writes (MISCONF)" if refuses else ""),
        )


def _failed(info: Table, name: str) -> bool:
    return info.text(name) != "ok"


@check(Reason.NO_REPLICA, "replicas")
def replicas(server: ServerFacts) -> Iterator[Seen]:
    if server.info.text("role") == "master" and server.info.number("connected_slaves") == 0:
        yield Seen("info", "no replica is attached")


@check(Reason.TOO_FEW_REPLICAS, "min-replicas-to-write against the replicas")
def enough_replicas(server: ServerFacts) -> Iterator[Seen]:
    wanted = server.config.number("min-replicas-to-write")
    if not wanted or server.config.number("min-replicas-max-lag") == 0:
        return
    good = server.info.number("min_slaves_good_slaves")
    if good < wanted:
        yield Seen("error", f"min-replicas-to-write is {wanted}, and {good} are in step")


@check(Reason.UNGUARDED_FAILOVER, "min-replicas-to-write")
def guarded(server: ServerFacts) -> Iterator[Seen]:
    attached = server.info.number("connected_slaves")
    if attached and server.config.number("min-replicas-to-write") == 0:
        yield Seen("info", f"{attached} attached, and min-replicas-to-write is 0")


@check(Reason.REPLICA_LAGS, "how far replicas are behind")
def lag(server: ServerFacts) -> Iterator[Seen]:
    if not server.info.number("connected_slaves"):
        return
    limit = _lag_limit(server.config)
    for name, line in sorted(server.info.starting("slave").items()):
        fields = dict(part.partition("=")[::2] for part in line.split(","))
        if "state" not in fields:
            continue  # slave_expires_tracked_keys and the like
        who = f"{fields.get('ip', name)}:{fields.get('port', '')}"
        if fields["state"] == "online" and int(fields.get("lag", 0)) > limit:
            yield Seen("warning", f"replica {who} has said nothing for {fields['lag']} s")


def _lag_limit(config: Table) -> int:
    try:
        return config.number("min-replicas-max-lag") or _LAG_S
    except CannotSee:
        return _LAG_S


CHECKS: Final = (persisted, synced, saving, replicas, enough_replicas, guarded, lag)
