"""Answers probes and scrapers in the worker's own event loop: while that is blocked, nobody is answered."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from reliq.logging import log
from reliq.serving import MOST, PATIENCE, Pages, answer, listen


class Health:
    """Listens from the beginning, so that a port in use is said at once; answers from ``start`` to ``aclose``."""

    def __init__(self, option: str, where: str, pages: Pages) -> None:
        self._pages = pages
        self._listening = listen(option, where)
        self._server: asyncio.Server | None = None
        log.info("health is told on port %d", self.port)

    @property
    def port(self) -> int:
        """Where it listens; chosen by the system for port 0."""
        port: int = self._listening.getsockname()[1]
        return port

    async def start(self) -> None:
        """Answer until ``aclose``."""
        self._server = await asyncio.start_server(self._meet, sock=self._listening, limit=MOST)

    async def _meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.TimeoutError):
            await asyncio.wait_for(self._converse(reader, writer), PATIENCE)
        writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request, reply = b"", None
        while reply is None:
            said = await reader.read(MOST)
            request += said
            reply = answer(request, self._pages)
            if reply is None and not said:
                return
        writer.write(reply)
        await writer.drain()

    async def aclose(self) -> None:
        """Listen no more."""
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
        self._listening.close()
