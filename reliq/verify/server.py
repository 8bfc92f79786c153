"""What reliq needs of a server before anything else: its version, its rights there, and an answer in time."""

from __future__ import annotations

from collections.abc import Iterable

from reliq import defaults
from reliq.core.doctor import CannotSee, ServerFacts, grants
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
    for where, (facts, queue) in site.servers.items():
        keys = queue.options.keys
        forbidden = queue.links.flow(grants.forbidden_keys_g(keys))
        if not isinstance(forbidden, CannotSee) and forbidden:
            raise Unusable(
                f"this user may not use keys below {site.prefix} at {where}; name a prefix that it may use with "
                f"--prefix, or grant it: {grants.line(_user(facts), grants.patterns(site.users_prefix, ()))}"
            )
        if isinstance(facts.denied, CannotSee):
            _try(queue)
        elif facts.denied:
            _rule(facts, facts.denied, where)
    blind = next((f.denied for f, _ in site.servers.values() if isinstance(f.denied, CannotSee)), None)
    rights = f"what is allowed is not shown ({blind}), but" if blind else "all commands are allowed, and"
    return f"version {site.version or 'unknown'}; {rights} keys below {site.prefix} can be used"


def _try(queue: Queue) -> None:
    """What no queue can do without. Raises Unusable."""
    try:
        queue.put("server")
        with queue.consumer() as consumer:
            for lease in consumer.claim(timeout=5):
                lease.ack()
            consumer.claim(timeout=0.05)
    except AccessDenied as error:
        raise Unusable(str(error)) from error


def _rule(facts: ServerFacts, denied: Iterable[str], where: str) -> None:
    """Unusable or Cannot, by what is denied."""
    names, grant = sorted(denied), grants.line(_user(facts), grants.granting(denied))
    if essential := set(names) - grants.SPARE:
        raise Unusable(f"reliq cannot work at {where} without {', '.join(sorted(essential))}; grant it: {grant}")
    raise Cannot(
        f"{where} does not allow {', '.join(names)}: messages are handled without, but less of what happens is "
        "noticed or told",
        grant,
        Reason.MISSING_RIGHTS,
    )


def _user(facts: ServerFacts) -> str:
    return "NAME" if isinstance(facts.user, CannotSee) else facts.user


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
