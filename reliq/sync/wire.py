"""Words and replies on an open connection. redis-py makes it and ends it; where hiredis is installed, the bytes go
straight between hiredis and the socket: half the time of a round trip on the same host was spent in between."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import redis
from redis.connection import AbstractConnection

from reliq import client

try:
    from hiredis import Reader
except ImportError:
    Reader = None  # type: ignore[assignment, misc]  # then it is not used

#: Bytes to read at once. For more, memory is asked of the system anew each time, which takes longer than to read.
_AT_ONCE: Final = 64 * 1024
_TOO_MUCH: Final = redis.exceptions.ConnectionError("the server has said more than it was asked, or has ended")


class Wire:
    """The way through redis-py, which is always there. An error reply is returned like any other; what is raised
    (RedisError, OSError) means that the connection is of no use any more."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def pack(self, lines: Iterable[Sequence[Any]]) -> Any:
        """Commands as ``send`` takes them."""
        return client.pack(self._connection, lines)

    def send(self, packed: Any) -> None:
        """Hand over all of it to the socket, unless the server has said more than it was asked: it would be taken
        for the answer to this."""
        if self._connection.can_read(0):
            raise _TOO_MUCH
        self._connection.send_packed_command([packed] if isinstance(packed, bytes) else packed, check_health=False)

    def read(self) -> Any:
        """The next reply."""
        try:
            return self._connection.read_response()
        except redis.exceptions.ResponseError as error:
            return error


class StraightWire(Wire):
    """The way past it: the same socket, the same reader."""

    def __init__(self, connection: Any) -> None:
        super().__init__(connection)
        self._sock, self._reader = connection._sock, connection._parser._reader
        self._nothing = self._reader.gets()  # what it says as long as a reply is not whole

    def send(self, packed: bytes | tuple[bytes, ...]) -> None:
        if self._reader.has_data():
            raise _TOO_MUCH
        for piece in (packed,) if isinstance(packed, bytes) else packed:
            self._sock.sendall(piece)

    def read(self) -> Any:
        while (reply := self._reader.gets()) is self._nothing:
            data = self._sock.recv(_AT_ONCE)
            if not data:
                raise redis.exceptions.ConnectionError("closed by the server")
            self._reader.feed(data)
        return reply


def wire(connection: Any) -> Wire:
    """The shortest way on this connection, which is connected."""
    ours = isinstance(connection, AbstractConnection) and Reader is not None
    if ours and isinstance(getattr(connection._parser, "_reader", None), Reader):
        return StraightWire(connection)
    return Wire(connection)
