"""Answers probes and scrapers: beside a worker in a thread of its own, in a supervisor from its one loop."""

from __future__ import annotations

import selectors
import socket
import threading
from contextlib import suppress

from reliq.identity import clock
from reliq.logging import log
from reliq.serving import AT_ONCE, MOST, PATIENCE, Pages, answer, listen


class _Caller:
    """A connection: what it has said, and what is still to be said to it."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.request = b""
        self.reply = b""
        self.until = clock() + PATIENCE


class Health:
    """Listens from the beginning, so that a port in use is said at once; ``step`` answers whoever is there.

    Never blocks: a slow client costs a place, for five seconds. ``fileno`` is readable when somebody is there.
    """

    def __init__(self, option: str, where: str, pages: Pages) -> None:
        self._pages = pages
        self._listening = listen(option, where)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listening, selectors.EVENT_READ)
        self._callers: dict[int, _Caller] = {}
        self._thread: threading.Thread | None = None
        self._over = threading.Event()
        log.info("health is told on port %d", self.port)

    @property
    def port(self) -> int:
        """Where it listens; chosen by the system for port 0."""
        port: int = self._listening.getsockname()[1]
        return port

    def fileno(self) -> int:
        """What select() can wait for."""
        return self._selector.fileno()

    def step(self, seconds: float = 0.0) -> None:
        """Answer whoever is there; wait for somebody for so long at most."""
        for key, _ in self._selector.select(seconds):
            caller = self._callers.get(key.fd)
            if caller is None:
                self._accept()
            else:
                self._go_on(caller)
        now = clock()
        for caller in [caller for caller in self._callers.values() if caller.until < now]:
            self._part(caller)

    def _accept(self) -> None:
        with suppress(OSError):  # it went away again
            sock, _ = self._listening.accept()
            sock.setblocking(False)
            self._callers[sock.fileno()] = _Caller(sock)
            self._selector.register(sock, selectors.EVENT_READ)
            if len(self._callers) >= AT_ONCE:
                self._part(min(self._callers.values(), key=lambda caller: caller.until))

    def _go_on(self, caller: _Caller) -> None:
        try:
            if not caller.reply:
                said = caller.sock.recv(MOST)
                caller.request += said
                caller.reply = answer(caller.request, self._pages) or b""
                if caller.reply:
                    caller.until = clock() + PATIENCE  # to make a page may have taken long
                    self._selector.modify(caller.sock, selectors.EVENT_WRITE)
                elif not said:
                    self._part(caller)
                return
            caller.reply = caller.reply[caller.sock.send(caller.reply) :]
            if not caller.reply:
                self._part(caller)
        except BlockingIOError:
            return
        except OSError:
            self._part(caller)

    def _part(self, caller: _Caller) -> None:
        self._selector.unregister(caller.sock)
        del self._callers[caller.sock.fileno()]
        caller.sock.close()

    # -- in a thread of its own ---------------------------------------------------------------------------

    def start(self) -> None:
        """Answer in a thread until ``close``."""
        self._thread = threading.Thread(target=self._run, name="reliq-health", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._over.is_set():
            self.step(0.2)

    # -- the end ------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Listen no more."""
        self._over.set()
        if self._thread is not None:
            self._thread.join(5.0)
        self.abandon()

    def abandon(self) -> None:
        """Close what is ours in a forked child. Nothing is unregistered: the parent waits by the same."""
        self._selector.close()
        for caller in self._callers.values():
            caller.sock.close()
        self._listening.close()
