"""Checks of a server: what it is, whom it cuts off, and how fast it answers scripts of ours."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from reliq import defaults
from reliq.core.doctor.facts import ServerFacts
from reliq.core.doctor.finding import Seen, check, seen
from reliq.core.reasons import Reason

#: An idle worker asks again after ``block``, or when a third of its lease has passed; twice that is safe.
_SILENCE: Final = 2 * max(defaults.BLOCK, defaults.LEASE / defaults.RENEW_SHARE)
#: Of maxclients; what is left has to do for a deployment, when old and new workers run at once.
_CLIENTS_SHARE: Final = 0.8
#: The log counts time on the wall, so a machine that was busy elsewhere makes a single entry; several within an
#: hour, each five times what a script of ours may take, are no chance.
_SLOW_MS: Final = 25.0
_SLOW_COUNT: Final = 3
_SLOW_WITHIN_S: Final = 3600


@check(Reason.OLD_SERVER, "the version of Redis")
def version(server: ServerFacts) -> Iterator[Seen]:
    found = server.info.text("redis_version")
    if tuple(int(n) for n in found.split(".")[:2] if n.isdigit()) < (7, 2):
        yield Seen("info", f"this is version {found}")


@check(Reason.READ_ONLY_REPLICA, "whether this is a primary")
def role(server: ServerFacts) -> Iterator[Seen]:
    if server.info.text("role") != "master":
        primary = f"{server.info.text('master_host')}:{server.info.text('master_port')}"
        yield Seen("error", f"this is a replica of {primary}")


@check(Reason.IDLE_TIMEOUT, "timeout")
def idle_timeout(server: ServerFacts) -> Iterator[Seen]:
    timeout = server.config.number("timeout")
    if 0 < timeout <= _SILENCE:
        yield Seen("warning", f"timeout is {timeout} s")


@check(Reason.KEEPALIVE_OFF, "tcp-keepalive")
def keepalive(server: ServerFacts) -> Iterator[Seen]:
    if not server.local and server.config.number("tcp-keepalive") == 0:
        yield Seen("warning", "tcp-keepalive is 0")


@check(Reason.MANY_CLIENTS, "connections against maxclients")
def clients(server: ServerFacts) -> Iterator[Seen]:
    connected, most = server.info.number("connected_clients"), server.config.number("maxclients")
    if connected > most * _CLIENTS_SHARE:
        yield Seen("warning", f"{connected:,} of maxclients {most:,} connections are open")


@check(Reason.SLOW_SCRIPTS, "the slow log, for scripts of reliq")
def slow_scripts(server: ServerFacts) -> Iterator[Seen]:
    recent = [
        call for call in seen(server.slow) if call.ms >= _SLOW_MS and call.at >= server.now / 1000 - _SLOW_WITHIN_S
    ]
    if len(recent) >= _SLOW_COUNT:
        worst = max(recent, key=lambda call: call.ms)
        yield Seen(
            "warning",
            f"{len(recent)} calls of {_SLOW_MS:.0f} ms and more in the last hour, the longest {worst.script} with "
            f"{worst.ms:.0f} ms",
        )


@check(Reason.CLUSTER_BROKEN, "the state of the Cluster")
def cluster(server: ServerFacts) -> Iterator[Seen]:
    if server.cluster is None:
        return
    state, well = server.cluster.text("cluster_state"), server.cluster.number("cluster_slots_ok")
    if state != "ok" or well < 16384:
        yield Seen("error", f"cluster_state is {state}, {well:,} of 16,384 slots are served")


CHECKS: Final = (version, role, cluster, idle_timeout, keepalive, clients, slow_scripts)
