"""How many messages a worker process claims: its free slots, and a little ahead if handlers are quick.

A message that waits in a process behind a slow one could be running elsewhere, and what is claimed when
a process dies runs again. So the window ahead is a time, not a number: what the handlers will have
finished in 20 ms. Handlers slower than that get nothing ahead.
"""

from __future__ import annotations

from typing import Final

from reliq import defaults

#: Seconds within which a handler is so short that waking a thread for it costs more than running it in turn.
QUICK: Final = 0.0005
#: How much one handler call moves the running mean.
_WEIGHT: Final = 0.05


class Pace:
    """``concurrency`` handlers at once; ``most`` messages claimed ahead at the most (0: none)."""

    def __init__(self, concurrency: int, most: int = defaults.PREFETCH_MOST) -> None:
        self.concurrency = concurrency
        self.most = most
        self.mean: float | None = None

    def ran(self, seconds: float) -> None:
        """A handler took so long."""
        self.mean = seconds if self.mean is None else self.mean + (seconds - self.mean) * _WEIGHT

    @property
    def capacity(self) -> int:
        """The most to hold, running and waiting."""
        if not self.most or self.mean is None:
            return self.concurrency
        rounds = defaults.PREFETCH_WINDOW / max(self.mean, 1e-6) - 1
        return self.concurrency + min(self.most, int(self.concurrency * max(0.0, rounds)))

    @property
    def quick(self) -> bool:
        """Whether handlers are ``QUICK`` on the whole."""
        return self.mean is not None and self.mean < QUICK
