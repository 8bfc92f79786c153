"""What the hooks of a retry policy are told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Failure:
    """A failed attempt, as the hooks of a policy are told of it.

    ``attempt``: which it was, from 1; ``deliveries``: how often the message was handed over, and ``losses``: how
    often its worker died. ``delay``: seconds until it comes back, or None: it is dead-lettered for ``cause``.
    """

    queue: str
    id: str
    body: Any
    error: BaseException
    attempt: int
    deliveries: int
    losses: int
    delay: float | None
    cause: str
