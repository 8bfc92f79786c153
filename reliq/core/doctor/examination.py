"""All checks, in the order in which people want to read them, and what they find in given facts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from reliq.core.doctor import clocks, durability, memory, queues, rights, server, settings
from reliq.core.doctor.facts import Facts
from reliq.core.doctor.finding import ORDER, Finding

OF_SERVER: Final = (
    *server.CHECKS,
    *memory.CHECKS,
    *durability.CHECKS,
    *clocks.OF_SERVER,
    *rights.OF_SERVER,
)
OF_QUEUE: Final = (*rights.OF_QUEUE, *queues.CHECKS, *memory.OF_QUEUE, *clocks.OF_QUEUE)
OF_ALL: Final = settings.CHECKS
CHECKS: Final = (*OF_SERVER, *OF_QUEUE, *OF_ALL)


def examine(facts: Facts) -> list[Finding]:
    """What every check finds, the worst first; one that finds nothing anywhere says so once."""
    found: list[Finding] = []
    for group in (_of_servers(facts), _of_queues(facts), _of_all(facts)):
        found += group
    return sorted(found, key=lambda finding: ORDER.index(finding.severity))


def _of_servers(facts: Facts) -> Iterator[Finding]:
    for check in OF_SERVER:
        findings = [f for each in facts.servers for f in check.findings(each, each.label)]
        yield from findings or [check.fine()]


def _of_queues(facts: Facts) -> Iterator[Finding]:
    for check in OF_QUEUE:
        findings = [f for each in facts.queues for f in check.findings(each, f"queue {each.name}")]
        yield from findings or [check.fine()]


def _of_all(facts: Facts) -> Iterator[Finding]:
    for check in OF_ALL:
        yield from list(check.findings(facts, "")) or [check.fine()]
