"""The thread that waits in BLMOVE, so that an idle worker starts on a message at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue

from reliq.core.retry import backoff
from reliq.errors import ReliqError
from reliq.sync.engine import Engine, Rest


class Bell:
    """Rings when there may be something to claim, when BLMOVE's time is over, or when it failed.

    Every ring is answered by a trip, so nothing depends on why it rang. While Redis refuses BLMOVE (out
    of memory, not there), it rings about every second.
    """

    def __init__(self, engine: Engine, on_ring: Callable[[], None]) -> None:
        self._engine = engine
        self._on_ring = on_ring
        self._orders: SimpleQueue[float | None] = SimpleQueue()
        self._stopping = threading.Event()
        #: Whether somebody waits, and will ring.
        self.armed = False
        self._thread = threading.Thread(target=self._run, name="reliq-bell", daemon=True)
        self._thread.start()

    def arm(self, seconds: float) -> None:
        """Wait for a message for at most so long, then ring. Does nothing if it waits already."""
        if self.take():
            self._orders.put(seconds)

    def take(self) -> bool:
        """Let the caller's thread ``rest`` instead; False if it waits already, or has stopped. One thread at a
        time calls this or ``arm``: the connection is for one."""
        if self.armed or self._stopping.is_set():
            return False
        self.armed = True
        return True

    def rest(self, seconds: float, want: int) -> Rest | None:
        """After ``take``: wait in this thread for at most so long, the next trip behind it (``Engine.rest``)."""
        try:
            return self._engine.rest(seconds, want)
        except ReliqError:  # the next trip meets the same trouble, and reports it
            return None
        except Exception:  # see below
            if not self._stopping.is_set():
                raise
            return None
        finally:
            self.armed = False

    def _run(self) -> None:
        failures = 0
        while (seconds := self._orders.get()) is not None:
            try:
                self._engine.ring(seconds)
                failures = 0
            except ReliqError:  # the trip that answers the ring meets the same trouble, and reports it
                failures += 1
                self._stopping.wait(min(1.0, backoff(failures)))
            except Exception:  # redis-py raises anything when leave() closes the connection under it
                if not self._stopping.is_set():
                    raise
            self.armed = False
            self._on_ring()

    def stop(self) -> bool:
        """End the wait, on the server too; True if no BLMOVE of ours can be under way any more."""
        self._stopping.set()
        self._orders.put(None)
        ended = self._engine.end_bell(is_over=lambda: not self.armed)
        self._thread.join(1.0)
        return ended and not self._thread.is_alive()  # else it may be about to send one
