"""Checks of time: the two clocks, and the way there and back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from reliq import defaults
from reliq.core.doctor.facts import QueueFacts, ServerFacts, best
from reliq.core.doctor.finding import Seen, check, seen
from reliq.core.reasons import Reason

#: Hosts with NTP differ by milliseconds; what people notice in an age or a put(at=) begins here.
_SKEW_MS: Final = 2000.0
#: A lease is renewed when a third of it has passed, and kept while the round trip is below a third (DESIGN 4). A
#: tenth leaves room for three tries.
_LATE_SHARE: Final = 10


@check(Reason.CLOCK_SKEW, "the clocks of this host and of Redis")
def skew(server: ServerFacts) -> Iterator[Seen]:
    look = best(seen(server.clocks))
    if abs(look.ahead_ms) - look.rtt_ms / 2 > _SKEW_MS:
        side = "ahead of" if look.ahead_ms > 0 else "behind"
        yield Seen("warning", f"the clock of Redis is {abs(look.ahead_ms) / 1000:,.1f} s {side} that of this host")


@check(Reason.SLOW_NETWORK, "the round trip against the lease")
def network(queue: QueueFacts) -> Iterator[Seen]:
    rtt, lease_ms = queue.server.rtt_ms, queue.lease * 1000
    if rtt * _LATE_SHARE > lease_ms:
        yield Seen(
            "error" if rtt * defaults.RENEW_SHARE > lease_ms else "warning",
            f"a round trip takes {rtt:,.0f} ms, the lease is {queue.lease:g} s",
        )


OF_SERVER: Final = (skew,)
OF_QUEUE: Final = (network,)
