"""All checks in the order of a visit: first what the others need, last what only the settings can tell."""

from __future__ import annotations

from typing import Final

from reliq.verify import durability, life, network, processes, server
from reliq.verify.finding import Check, Finding, Verdict

CHECKS: Final[dict[str, Check]] = {
    check.name: check
    for check in (
        server.server,
        server.round_trip,
        life.order,
        life.settling,
        life.same_id,
        life.garbage,
        network.lost_replies,
        network.unknown_put,
        network.cut_connections,
        network.forgotten_scripts,
        processes.worker_killed,
        processes.supervisor_killed,
        processes.sigterm,
        processes.failing_handlers,
        processes.poison,
        processes.host_killed,
        processes.stopped,
        processes.clocks,
        durability.disk,
        durability.memory,
        durability.replicas,
        durability.fsync,
        durability.split,
    )
}

_WHERE: Final = "scripts/faults in reliq's source does it to servers of its own"


def _untried(name: str, promise: str, why: str) -> Finding:
    return Finding(name, promise, "nothing", Verdict.SKIPPED, why, _WHERE)


UNTRIED: Final = (
    _untried(
        "restart",
        "Redis killed and restarted, or away for longer than a lease: reconnect with backoff, reconcile, go on",
        "not tried: it would be gone for everybody; see disk",
    ),
    _untried(
        "full-memory",
        "Redis out of memory: it drains",
        "not tried: others could not write either; see memory",
    ),
    _untried(
        "failover",
        "Sentinel or Cluster failover, slot migration: workers resume by themselves",
        "not tried: it would happen to everybody; see replicas and split",
    ),
)
