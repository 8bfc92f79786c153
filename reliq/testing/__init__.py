"""For the tests of those who use reliq. Everything here works on a real Redis; nothing is mocked.

``Queues``            queues that no other test has (the fixture ``reliq_queues`` of the pytest plugin)
``run_until_empty``   a real worker in this process, until nothing is left to do
``travel``            time travel: what is delayed, and the ticks of schedules
``capture``           what the code under test puts
``prove``             whether a handler has the same effects whatever happens to its messages
``reliq.testing.aio`` the first two functions again, awaitable

Install ``reliq[testing]``; the fixtures are in ``pytest_reliq`` (``plugin`` here), which pytest finds by itself.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from reliq.testing.capturing import Captured, capture
    from reliq.testing.places import Queues
    from reliq.testing.proving import prove
    from reliq.testing.proving.report import Finding, NotIdempotent, Proof, Unprovable
    from reliq.testing.runs import DeadLettered, NotEmpty, Run
    from reliq.testing.sync import run_until_empty, travel

__all__ = [
    "Captured",
    "DeadLettered",
    "Finding",
    "NotEmpty",
    "NotIdempotent",
    "Proof",
    "Queues",
    "Run",
    "Unprovable",
    "capture",
    "prove",
    "run_until_empty",
    "travel",
]

#: The plugin is loaded by every pytest that finds it, and most tests need none of these.
_LATER: Final = {
    "Captured": "reliq.testing.capturing",
    "DeadLettered": "reliq.testing.runs",
    "Finding": "reliq.testing.proving.report",
    "NotEmpty": "reliq.testing.runs",
    "NotIdempotent": "reliq.testing.proving.report",
    "Proof": "reliq.testing.proving.report",
    "Queues": "reliq.testing.places",
    "Run": "reliq.testing.runs",
    "Unprovable": "reliq.testing.proving.report",
    "capture": "reliq.testing.capturing",
    "prove": "reliq.testing.proving",
    "run_until_empty": "reliq.testing.sync",
    "travel": "reliq.testing.sync",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(_LATER[name]), name)
    return found
