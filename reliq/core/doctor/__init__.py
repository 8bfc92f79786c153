"""``reliq doctor``: facts are gathered by few round trips (``survey``), then judged by pure functions.

::

    survey.py       flows that ask a server, the index, a queue           facts.py     what is known then
    server.py  durability.py  memory.py  clocks.py  rights.py             finding.py   what a check is, and finds
    queues.py  settings.py    the checks, by what they look at            grants.py    the rights that reliq needs
    examination.py  all of them                                           ours.py      its scripts, to a server
"""

from reliq.core.doctor.examination import CHECKS, examine
from reliq.core.doctor.facts import Facts, QueueFacts, ServerFacts, Settings, Unreached, best
from reliq.core.doctor.finding import CannotSee, Finding, Severity
from reliq.core.doctor.survey import Place, index_g, queue_facts_g, server_facts_g

__all__ = [
    "CHECKS",
    "CannotSee",
    "Facts",
    "Finding",
    "Place",
    "QueueFacts",
    "ServerFacts",
    "Settings",
    "Severity",
    "Unreached",
    "best",
    "examine",
    "index_g",
    "queue_facts_g",
    "server_facts_g",
]
