"""What the server's own settings let go: by which fault, how much, and what to change. Nothing is changed here;
what there is to say about each setting is the doctor's to know."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from reliq.core.doctor import Finding, ServerFacts, durability
from reliq.core.doctor import memory as doctor_memory
from reliq.core.doctor.finding import Check as Look
from reliq.core.reasons import Reason
from reliq.errors import OutcomeUnknown, UnsupportedServer
from reliq.verify.finding import Cannot, Skipped, check
from reliq.verify.site import Site


def judge(site: Site, *looks: Look[ServerFacts]) -> None:
    """Have the doctor look at every server. Cannot if he finds anything, Skipped if he cannot see."""
    found = [
        finding
        for where, (facts, _) in site.servers.items()
        for look in looks
        for finding in look.findings(facts, where)
    ]
    if seen := [finding for finding in found if finding.severity != "unseen"]:
        reason = "; ".join(_each_once(site, [f"{f.evidence} ({f.consequence})" for f in seen], seen))
        raise Cannot(reason, "; ".join(dict.fromkeys(f.remedy for f in seen)), seen[0].code)
    if found:
        raise Skipped("; ".join(_each_once(site, [f.evidence for f in found], found)), "ask who administers it")


def _each_once(site: Site, texts: Sequence[str], findings: Sequence[Finding]) -> Sequence[str]:
    """What is said of all servers is said once; what is said of some, with their addresses."""
    if len(set(texts)) * len(site.servers) == len(texts):
        return list(dict.fromkeys(texts))
    return [f"{finding.subject}: {text}" for text, finding in zip(texts, findings, strict=True)]


@check(
    "disk",
    "Redis killed -9 and restarted: with appendfsync always nothing is lost, with everysec only the last second",
    "read its settings",
)
def disk(site: Site) -> str:
    judge(site, durability.persisted, durability.synced, durability.saving)
    return "appendonly yes, appendfsync always: what was confirmed is on disk, and outlives a crash of the host"


@check(
    "memory",
    "Redis out of memory: puts are refused with QueueFull; claim, ack, retry, reap and bury still work",
    "read its settings (its memory was not filled)",
)
def memory(site: Site) -> str:
    judge(site, doctor_memory.eviction)
    return "maxmemory-policy noeviction: a full Redis refuses puts, and deletes nothing"


@check(
    "replicas",
    "a put that replicas=1 has confirmed outlives the loss of the primary, where there is one replica",
    "put with replicas=1, and measured how long the confirmation took",
)
def replicas(site: Site) -> str:
    judge(site, durability.replicas)
    took = _confirmed(site, Reason.REPLICA_LAGS, replicas=1)
    attached = {facts.info.number("connected_slaves") for facts, _ in site.servers.values()}
    more = "" if attached == {1} else "; of several replicas, a failover may choose one that has not confirmed"
    return f"confirmed after {took:.1f} ms{more}"


@check(
    "fsync",
    "a put that fsync=True has confirmed is on the disk of the primary",
    "put with fsync=True, and measured how long the confirmation took",
)
def fsync(site: Site) -> str:
    try:
        return f"confirmed after {_confirmed(site, Reason.NOT_PERSISTED, fsync=True):.1f} ms"
    except UnsupportedServer as error:
        raise Cannot(
            f"it needs WAITAOF of 7.2 or later, and this is version {site.version}",
            "with appendfsync always every put is on disk, without waiting for more",
            Reason.OLD_SERVER,
        ) from error


def _confirmed(site: Site, otherwise: Reason, **wanted: Any) -> float:
    """Milliseconds that a confirmed put took, at most; Cannot if it was not confirmed in time."""
    took = []
    for _, queue in site.servers.values():
        queue.put("first")  # the connection and the index are no part of it
        started = time.perf_counter()
        try:
            queue.put("confirmed", **wanted)
        except OutcomeUnknown as error:
            raise Cannot.because(otherwise, str(error)) from error
        took.append(1000 * (time.perf_counter() - started))
    return max(took)


@check(
    "split",
    "failover: lost is at most what no replica had; a primary that is cut off stops taking puts",
    "read its settings",
)
def split(site: Site) -> str:
    if not any(facts.info.number("connected_slaves") for facts, _ in site.servers.values()):
        raise Skipped("there is no replica, so there is no failover")
    judge(site, durability.enough_replicas, durability.guarded, durability.lag)
    return "min-replicas-to-write is set: a primary that is cut off refuses puts"
