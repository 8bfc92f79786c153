"""What reliq needs of a server before anything else: its version, its rights there, and an answer in time."""

from __future__ import annotations

from reliq import defaults
from reliq.core.doctor import CannotSee, ServerFacts, grants, rights
from reliq.core.reasons import Reason
from reliq.errors import AccessDenied
from reliq.sync.queue import Queue
from reliq.verify.finding import Cannot, Unusable, check
from reliq.verify.site import Site


@check(
    "server",
    "Redis 6.2 or later, or Valkey; scripts, commands and keys that reliq needs are allowed to this user",
    "asked for the version, and had every command checked in a transaction that was discarded",
)
def server(site: Site) -> str:
    shown = "all commands are allowed, and"
    for where, (facts, queue) in site.servers.items():
        _check_keys(site, where, facts, queue)
        for found in rights.commands.findings(facts, where):
            if found.severity == "error":
                raise Unusable(f"reliq cannot work at {where}: {found.evidence}. Grant it: {found.remedy}")
            if found.severity != "unseen":
                lack = "messages are handled without, but not all is noticed, told or repaired"
                raise Cannot(f"{where}: {found.evidence}; {lack}", found.remedy, found.code)
            _try(queue)
            shown = f"{found.evidence}, but"
    return f"version {site.version or 'unknown'}; {shown} keys below {site.prefix} can be used"


def _check_keys(site: Site, where: str, facts: ServerFacts, queue: Queue) -> None:
    forbidden = queue.links.flow(grants.forbidden_keys_g(queue.options.keys))
    if isinstance(forbidden, CannotSee) or not forbidden:
        return
    user = "NAME" if isinstance(facts.user, CannotSee) else facts.user
    raise Unusable(
        f"this user may not use keys below {site.prefix} at {where}; name a prefix that it may use with --prefix, "
        f"or grant it: {grants.line(user, grants.patterns(site.users_prefix, ()))}"
    )


def _try(queue: Queue) -> None:
    """What no queue can do without, where rights are not shown. Raises Unusable."""
    try:
        queue.put("server")
        with queue.consumer() as consumer:
            for lease in consumer.claim(timeout=5):
                lease.ack()
            consumer.claim(timeout=0.05)
    except AccessDenied as error:
        raise Unusable(str(error)) from error


@check(
    "round-trip",
    "the lease is kept while a round trip takes less than a third of it",
    "measured round trips, and compared the longest with the shortest lease of your queues",
)
def round_trip(site: Site) -> str:
    times = sorted(site.round_trip() for _ in range(40))
    limit = site.users_lease / defaults.RENEW_SHARE
    seen = (
        f"{1000 * times[20]:.2f} ms at the median, {1000 * times[-1]:.2f} ms at most; "
        f"a third of the lease of {site.users_lease:g} s is {limit:.1f} s"
    )
    if times[-1] >= limit:
        raise Cannot.because(Reason.SLOW_NETWORK, seen)
    return seen
