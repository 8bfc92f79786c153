"""reliq: an at-least-once reliable queue on Redis lists."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from reliq import context as context
from reliq import logging as logging
from reliq.core.retry import Retry
from reliq.core.waits import wait_fibonacci, wait_table
from reliq.errors import (
    BatchFailed,
    Bury,
    LeaseLost,
    MessageFailed,
    OutcomeUnknown,
    QueueFull,
    QueueHeld,
    Refused,
    Release,
    ReliqError,
    ResultError,
    ResultMissing,
    ResultPending,
    RetryAfter,
    Unavailable,
)
from reliq.settings import Settings
from reliq.sync.queue import Queue

if TYPE_CHECKING:
    from reliq.core.explain import Explanation
    from reliq.core.failure import Failure
    from reliq.core.lanes import Group
    from reliq.core.reaping import ReapReport
    from reliq.core.schedule import Schedule
    from reliq.core.unique import Unique
    from reliq.idempotency import idempotent
    from reliq.needs import Dependency
    from reliq.sync.consumer import Consumer
    from reliq.sync.exclusive import Batch, Exclusive
    from reliq.sync.lease import Lease
    from reliq.sync.reaper import Reaper
    from reliq.sync.scheduler import Scheduler
    from reliq.sync.worker import Worker

__version__ = "0.1.0"
__all__ = [
    "Batch",
    "BatchFailed",
    "Bury",
    "Consumer",
    "Dependency",
    "Exclusive",
    "Explanation",
    "Failure",
    "Group",
    "Lease",
    "LeaseLost",
    "MessageFailed",
    "OutcomeUnknown",
    "Queue",
    "QueueFull",
    "QueueHeld",
    "ReapReport",
    "Reaper",
    "Refused",
    "Release",
    "ReliqError",
    "ResultError",
    "ResultMissing",
    "ResultPending",
    "Retry",
    "RetryAfter",
    "Schedule",
    "Scheduler",
    "Settings",
    "Unavailable",
    "Unique",
    "Worker",
    "idempotent",
    "wait_fibonacci",
    "wait_table",
]

#: A producer needs none of these, and pays for none of them when it starts.
_LATER: Final = {
    "Batch": "reliq.sync.exclusive",
    "Consumer": "reliq.sync.consumer",
    "Dependency": "reliq.needs",
    "Exclusive": "reliq.sync.exclusive",
    "Explanation": "reliq.core.explain",
    "Failure": "reliq.core.failure",
    "Lease": "reliq.sync.lease",
    "ReapReport": "reliq.core.reaping",
    "Reaper": "reliq.sync.reaper",
    "Group": "reliq.core.lanes",
    "Unique": "reliq.core.unique",
    "Schedule": "reliq.core.schedule",
    "Scheduler": "reliq.sync.scheduler",
    "Worker": "reliq.sync.worker",
    "idempotent": "reliq.idempotency",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(_LATER[name]), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})
