"""A very small HTTP/1.1 server without its sockets: what a probe asks, and the bytes that answer it.

One request a connection, which is closed behind the answer: probes and scrapers ask seldom. The shells own the
sockets; both listen by ``listen`` and answer by ``answer``.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from reliq.errors import ConfigError
from reliq.logging import log

#: Of a request, bytes; more is refused.
MOST: Final = 8192
#: Seconds that a client has for its request, and to take the answer.
PATIENCE: Final = 5.0
#: Connections at once; more wait in the backlog.
AT_ONCE: Final = 32

TEXT: Final = "text/plain; charset=utf-8"
_REASONS: Final = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    501: "Not Implemented",
    503: "Service Unavailable",
}


class Page(NamedTuple):
    """What is answered. ``kind``: its content type."""

    status: int
    body: str
    kind: str = TEXT


#: By path: what makes the page when somebody asks for it.
Pages = Mapping[str, Callable[[], Page]]


def answer(request: bytes, pages: Pages) -> bytes | None:
    """The bytes that answer a request; None as long as it is not whole."""
    head, end, _ = request.partition(b"\r\n\r\n")
    if not end:
        return _written(Page(431, "the request is too long\n")) if len(request) > MOST else None
    words = head.split(b"\r\n", 1)[0].split(b" ")
    if len(words) != 3 or not words[2].startswith(b"HTTP/1."):
        return _written(Page(400, "this is no HTTP request\n"))
    method, path = words[0], words[1].partition(b"?")[0].decode("latin-1")
    if method not in (b"GET", b"HEAD"):
        return _written(Page(405, "only GET and HEAD are answered here\n"), "Allow: GET, HEAD\r\n")
    make = pages.get(path)
    if make is None:
        return _written(Page(404, f"there is no such page; there are {' '.join(pages)}\n"), body=method == b"GET")
    try:
        page = make()
    except Exception:  # noqa: BLE001 - a page that cannot be made must not end the worker
        log.exception("%s cannot be made", path)
        page = Page(500, "it cannot be told; see the log of this process\n")
    return _written(page, body=method == b"GET")


def _written(page: Page, more: str = "", *, body: bool = True) -> bytes:
    data = page.body.encode()
    head = (
        f"HTTP/1.1 {page.status} {_REASONS[page.status]}\r\nContent-Type: {page.kind}\r\n"
        f"Content-Length: {len(data)}\r\n{more}Cache-Control: no-store\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + (data if body else b"")


def address(option: str, text: str) -> tuple[str, int]:
    """Host and port of ``127.0.0.1:8080``, ``:8080`` (all addresses) or ``[::1]:8080``; ConfigError names the
    option."""
    host, colon, port = text.rpartition(":") if isinstance(text, str) else ("", "", "")
    if not colon or not port.isascii() or not port.isdecimal() or int(port) > 65535:
        raise ConfigError(f"{option} {text!r}: write it as HOST:PORT, for example 127.0.0.1:8080")
    return host.removeprefix("[").removesuffix("]"), int(port)


def listen(option: str, text: str) -> socket.socket:
    """A socket that listens there and does not block; ConfigError if that cannot be had."""
    host, port = address(option, text)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((host, port))
        found.listen(AT_ONCE)
        found.setblocking(False)
    except (OSError, UnicodeError) as error:
        found.close()
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ConfigError(
            f"{option} {text!r}: cannot listen there: {why}. Choose another port, or end what has this one"
        ) from error
    return found
