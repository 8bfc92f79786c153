"""A TCP proxy that speaks RESP, between a client and a real Redis, and breaks things on demand.

    client ──requests──► [ to_server ] ──► Redis        one link = one client connection + one upstream one
    client ◄── [ to_client ] ◄──replies──── Redis       each direction is an ordered pipe

    with FaultProxy("127.0.0.1", redis_port) as proxy:
        rule = proxy.on(command=b"BLMOVE", reply=moved, action=drop_reply())
        ...                                   # use proxy.url
        assert rule.wait(5)                   # Redis moved the message; nobody was told
        rule.lost                             # the raw replies that no client saw

The rules of the file:

1. Without a fault, every byte passes as it came, in order. Whole requests and whole replies pass, no halves.
2. A rule whose action is on the *request* side is asked when a request arrives. One on the *reply* side is
   asked when the reply arrives, about the request that it answers: it also catches a BLMOVE that was blocked
   before the rule was made. The first rule that fires takes the request (or the reply).
3. TCP has no holes. Once a request or a reply was dropped nothing later passes in that direction, so a client
   can never take a later reply for the one that was lost.
4. What a client sent is in flight even when the client has gone: delayed or held bytes still reach Redis, and
   the end of the connection reaches it behind them. So a client that closes while its BLMOVE blocks ends that
   BLMOVE, as it does without the proxy. Only `ghost`, `black_hole` and a partition keep the end from Redis.
5. A hit is counted when its fault is done, so what `wait` announces has happened; and who has seen a fault
   happen finds it in `hits` and `lost`.

The proxy runs in a thread of its own with its own event loop. Its methods may be called from other threads.
Don't fork while it runs: a child holds its sockets open, and no end of a connection would be seen.
An error inside it (a predicate that raises, a CLIENT REPLY, which it cannot follow) comes out of the `with`.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import hashlib
import random
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Literal, TypeAlias

__all__ = [
    "Action",
    "FaultProxy",
    "ReplyFramer",
    "RequestFramer",
    "Rule",
    "black_hole",
    "cut_reply",
    "delay_reply",
    "delay_request",
    "drop_reply",
    "drop_request",
    "ghost",
    "moved",
    "reply_error",
    "reset",
    "trickle",
]

Side: TypeAlias = Literal["request", "reply"]

_LINE_LIMIT = 64 * 1024  # Redis refuses longer inline requests and headers (PROTO_INLINE_MAX_SIZE)
_HELD_LIMIT = 4 * 1024 * 1024  # bytes held in one direction before its source is no longer read
_LOG_LIMIT = 100_000  # requests remembered in FaultProxy.log
_LINGER_RST = struct.pack("ii", 1, 0)  # SO_LINGER on, 0 s: close() sends RST instead of FIN
_FAMILIES = {b"SUBSCRIBE", b"UNSUBSCRIBE", b"PSUBSCRIBE", b"PUNSUBSCRIBE", b"SSUBSCRIBE", b"SUNSUBSCRIBE"}
_SCRIPT_COMMANDS = {b"EVAL": False, b"EVAL_RO": False, b"EVALSHA": True, b"EVALSHA_RO": True}
_MESSAGE = re.compile(rb"[*>]\d+\r\n\$\d+\r\n[ps]?message\r\n", re.IGNORECASE)
_SUBSCRIPTION = re.compile(rb">\d+\r\n\$\d+\r\n[ps]?(?:un)?subscribe\r\n", re.IGNORECASE)
_MONITORED = re.compile(rb"\+\d+\.\d+ \[")


# ---- RESP: cutting byte streams into frames -------------------------------------------------------------


class _Framer:
    """Cuts a byte stream into whole frames; bytes are looked at once, however they are fragmented."""

    def __init__(self) -> None:
        self._tail = bytearray()  # the unfinished frame
        self._pos = 0  # where in it the next unfinished element starts
        self.broken = ""  # why the stream cannot be followed any more

    def feed(self, data: bytes) -> list[bytes]:
        """The frames that `data` completes. Nothing more is cut once the stream is `broken`: see `rest`."""
        buf: bytes | bytearray = data
        if self._tail:
            self._tail += data
            buf = self._tail
        frames: list[bytes] = []
        start = 0
        try:
            while not self.broken and (end := self._frame_end(buf)) > 0:
                frames.append(bytes(buf[start:end]))
                start = end
        except ValueError as error:
            self.broken = str(error)
        if buf is self._tail:
            del self._tail[:start]
        else:
            self._tail += data[start:]
        self._pos -= start
        return frames

    def rest(self) -> bytes:
        """Take what has been fed and is in no frame."""
        data = bytes(self._tail)
        self._tail.clear()
        self._pos = 0
        return data

    def _frame_end(self, buf: bytes | bytearray) -> int:
        """Advance `_pos` as far as `buf` allows: the end of the frame, or 0 if there is more to come."""
        raise NotImplementedError

    @staticmethod
    def _line_end(buf: bytes | bytearray, pos: int, newline: bytes = b"\r\n") -> int:
        end = buf.find(newline, pos)
        if end < 0 and len(buf) - pos > _LINE_LIMIT:
            raise ValueError("a line without an end")
        return end


class RequestFramer(_Framer):
    """Frames of a client: RESP arrays of bulk strings, and inline requests (one line each)."""

    def __init__(self) -> None:
        super().__init__()
        self._left = 0  # bulk strings that the current array still lacks

    def _frame_end(self, buf: bytes | bytearray) -> int:
        pos, left, size = self._pos, self._left, len(buf)
        if not left:
            if pos >= size:
                return 0
            inline = buf[pos] != 0x2A
            line = self._line_end(buf, pos, b"\n" if inline else b"\r\n")
            if line < 0:
                return 0
            left = 0 if inline else max(0, int(buf[pos + 1 : line]))
            pos = line + (1 if inline else 2)
        while left:
            line = self._line_end(buf, pos)
            if line < 0:
                break
            length = int(buf[pos + 1 : line])
            if buf[pos] != 0x24 or length < 0:
                raise ValueError("an argument that is no bulk string")
            end = line + 4 + length
            if end > size:
                break
            pos = end
            left -= 1
        self._pos, self._left = pos, left
        return 0 if left else pos


class ReplyFramer(_Framer):
    """Frames of a server: every RESP2 and RESP3 type but the streamed ones, which no Redis sends."""

    def __init__(self) -> None:
        super().__init__()
        self._open = [1]  # elements that each open aggregate still lacks; the first is the frame itself

    def _frame_end(self, buf: bytes | bytearray) -> int:
        size, stack = len(buf), self._open
        while (line := self._line_end(buf, self._pos)) >= 0:
            kind = buf[self._pos]
            end = line + 2
            children = 0
            if kind in b"$=!":
                length = int(buf[self._pos + 1 : line])
                end += length + 2 if length >= 0 else 0
                if end > size:
                    return 0
            elif kind in b"*~>%|":
                children = max(0, int(buf[self._pos + 1 : line])) * (2 if kind in b"%|" else 1)
            elif kind not in b"+-:_#,(":
                raise ValueError(f"an unknown reply type {chr(kind)!r}")
            self._pos = end
            if kind != 0x7C:  # an attribute stands before an element and is none itself
                stack[-1] -= 1
            if children:
                stack.append(children)
            while stack and not stack[-1]:
                stack.pop()
            if not stack:
                self._open = [1]
                return end
        return 0


def _arguments(raw: bytes) -> list[bytes]:
    """The command and arguments of one request frame."""
    if raw[:1] != b"*":
        return raw.split()
    args: list[bytes] = []
    pos = raw.index(b"\n") + 1
    while pos < len(raw):
        line = raw.index(b"\r\n", pos)
        end = line + 2 + int(raw[pos + 1 : line])
        args.append(raw[line + 2 : end])
        pos = end + 2
    return args


def _command(raw: bytes) -> bytes:
    """The command of one request frame in capitals; empty if Redis ignores the frame and answers nothing."""
    if raw[:1] != b"*":
        words = raw.split(None, 1)
        return words[0].upper() if words else b""
    first = raw.find(b"\n") + 2
    line = raw.find(b"\n", first)
    return raw[line + 1 : line + 1 + int(raw[first : line - 1])].upper() if line > 0 else b""


def moved(reply: bytes) -> bool:
    """A `reply=` predicate: the command gave something, neither nil nor an error."""
    return not reply.startswith((b"-", b"!", b"_", b"$-1\r\n", b"*-1\r\n"))


class _Request:
    """A request that has arrived, until its reply has."""

    __slots__ = ("_args", "canned", "ghost", "left", "name", "raw")

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.name = _command(raw)
        self.left = 1  # frames that its reply still lacks
        self.canned = b""  # the proxy's own reply; Redis has not seen the request
        self.ghost: Rule | None = None  # the rule that made it a ghost
        self._args: list[bytes] | None = None

    @property
    def args(self) -> list[bytes]:
        if self._args is None:
            self._args = _arguments(self.raw)
        return self._args


# ---- rules and actions ----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Action:
    """What a rule does; made by the functions below."""

    name: str
    side: Side
    apply: Callable[[_Link, _Request, bytes, Rule], None] = dataclasses.field(repr=False)


class Rule:
    """One fault that waits for its request; made by `FaultProxy.on`."""

    def __init__(
        self,
        proxy: FaultProxy,
        action: Action,
        matches: Callable[[_Request, bytes], bool],
        first: int,
        count: int | None,
        probability: float | None,
        rng: random.Random,
    ) -> None:
        self.action = action
        self.seen = 0
        """How often a request (or reply) matched while the rule had hits left."""
        self._hits = 0
        self._lost: list[bytes] = []
        self._proxy = proxy
        self._matches = matches
        self._first = first
        self._count = count
        self._probability = probability
        self._rng = rng
        self._changed = threading.Condition()  # held while a fault is done, so that no thread sees half of it

    @property
    def hits(self) -> int:
        """How often the fault was done."""
        with self._changed:
            return self._hits

    @property
    def lost(self) -> list[bytes]:
        """Raw replies that Redis gave and that no client saw because of this rule."""
        with self._changed:
            return list(self._lost)

    def __repr__(self) -> str:
        return f"<Rule {self.action.name} hits={self.hits} seen={self.seen} lost={len(self.lost)}>"

    def wait(self, timeout: float, *, hits: int = 1) -> bool:
        """Block until the fault was done `hits` times in all; False after `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: self._hits >= hits, timeout)

    def wait_lost(self, timeout: float, *, replies: int = 1) -> bool:
        """Block until `lost` holds that many (for a ghost: until it ran); False after `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: len(self._lost) >= replies, timeout)

    def remove(self) -> None:
        """Fire no more. What has been done to a connection stays."""
        self._proxy._remove(self)

    def _fires(self, request: _Request, reply: bytes) -> bool:
        if self._count is not None and self._hits >= self._count:
            return False
        if not self._matches(request, reply):
            return False
        self.seen += 1
        if self.seen <= self._first:
            return False
        return self._probability is None or self._rng.random() < self._probability

    def _hit(self, link: _Link, request: _Request, raw: bytes) -> None:
        with self._changed:
            self.action.apply(link, request, raw, self)
            self._hits += 1
            self._changed.notify_all()

    def _lose(self, reply: bytes) -> None:
        with self._changed:
            self._lost.append(reply)
            self._changed.notify_all()


def drop_request() -> Action:
    """Redis never sees the request, nor any later one of the connection, which stays open and silent."""

    def apply(link: _Link, request: _Request, raw: bytes, rule: Rule) -> None:
        link.deaf = True

    return Action("drop_request", "request", apply)


def drop_reply(*, close: bool = True) -> Action:
    """Redis runs the request; its reply vanishes and the client's connection is closed.

    close=False: it stays open, and no reply comes on it any more, while Redis still runs what is sent.
    """

    def apply(link: _Link, request: _Request, raw: bytes, rule: Rule) -> None:
        rule._lose(raw)
        link.hang_up() if close else link.to_client.shut()

    return Action(f"drop_reply(close={close})", "reply", apply)


def delay_request(seconds: float) -> Action:
    """The request, and all behind it on its connection, reach Redis later, even if the client goes away."""

    def apply(link: _Link, request: _Request, raw: bytes, rule: Rule) -> None:
        link.forward(request, seconds)

    return Action(f"delay_request({seconds})", "request", apply)


def delay_reply(seconds: float) -> Action:
    """Redis runs the request at once; the reply, and all behind it, reach the client later."""

    def apply(link: _Link, request: _Request, raw: bytes, rule: Rule) -> None:
        link.to_client.put(raw, seconds)

    return Action(f"delay_reply({seconds})", "reply", apply)


def reset(side: Side = "request") -> Action:
    """RST both ways before Redis sees the request, or (side="reply") after it ran, instead of its reply."""

    def apply(link: _Link, request: _Request, raw: bytes, rule: Rule) -> None:
        if side == "reply":
            rule._lose(raw)
        link.reset()

    return Action(f"reset({side})", side, apply)


def cut_reply(size: int) -> Action:
    """The first `size` bytes of the reply arrive, then the client's connection is closed."""

    def apply(link: _Link, request: _Request, raw: bytes, rule: Rule) -> None:
        rule._lose(raw)
        link.to_client.put(raw[:size])
        link.hang_up()

    return Action(f"cut_reply({size})", "reply", apply)


def black_hole(side: Side = "request") -> Action:
    """From this request (or reply) on nothing passes either way, not even the end of the connection.

    Redis keeps its end open, with what is blocked on it, until `reset_all` or the end of the proxy.
    """

    def apply(link: _Link, request: _Request, raw: bytes, rule: Rule) -> None:
        if side == "reply":
            rule._lose(raw)
        link.vanish()

    return Action(f"black_hole({side})", side, apply)


def reply_error(error: bytes) -> Action:
    """Redis never sees the request; the client gets this error (`b"-LOADING ..."`) in its turn."""
    line = error if error.endswith(b"\r\n") else error + b"\r\n"
    if not line.startswith(b"-") or line.count(b"\n") != 1:
        raise ValueError(f"not a RESP error line: {error!r}")

    def apply(link: _Link, request: _Request, raw: bytes, rule: Rule) -> None:
        request.canned = line
        link.pending.append(request)
        link.answer_canned()

    return Action(f"reply_error({error!r})", "request", apply)


def trickle(side: Side = "reply", *, interval: float = 0.0005) -> Action:
    """The reply (or request) goes out in writes of one byte, `interval` seconds apart."""

    def apply(link: _Link, request: _Request, raw: bytes, rule: Rule) -> None:
        pipe = link.to_client
        if side == "request":
            pipe = link.to_server
            link.expect(request)
        for i in range(len(raw)):
            pipe.put(raw[i : i + 1], interval * i)

    return Action(f"trickle({side})", side, apply)


def ghost(seconds: float, *, after: float = 0.0) -> Action:
    """The client's connection is closed at once; the request stays with Redis and its reply is discarded.

    It reaches Redis `after` seconds later and may stay blocked there for `seconds` more. What the client sent
    behind it never arrives. `rule.wait_lost` tells when Redis has run it.
    """

    def apply(link: _Link, request: _Request, raw: bytes, rule: Rule) -> None:
        request.ghost = rule
        link.forward(request, after)
        link.haunt(after + seconds)

    return Action(f"ghost({seconds}, after={after})", "request", apply)


# ---- links and pipes ------------------------------------------------------------------------------------


class _Pipe:
    """One direction of a link: pieces leave in order, each not before its time, none during a partition."""

    def __init__(self, proxy: FaultProxy) -> None:
        self.sink: asyncio.Transport | None = None
        self.source: asyncio.Transport | None = None
        self.sink_full = False
        self.is_shut = False
        self._proxy = proxy
        self._queue: collections.deque[tuple[float, bytes | Callable[[], None]]] = collections.deque()
        self._held = 0
        self._timer: asyncio.TimerHandle | None = None
        self._source_paused = False

    def put(self, piece: bytes | Callable[[], None], delay: float = 0.0) -> None:
        """Send bytes, or make a call, after all that was put before and `delay` seconds plus the latency."""
        if self.is_shut:
            return
        delay += self._proxy.latency
        if not self._queue and delay <= 0 and self.sink is not None and not self._proxy.partitioned:
            self._emit(piece)
            return
        self._queue.append((self._proxy._loop.time() + delay, piece))
        self._held += len(piece) if isinstance(piece, bytes) else 0
        self.flow()
        self.pump()

    def shut(self) -> None:
        """Accept nothing more; what is inside goes on."""
        self.is_shut = True

    def discard(self) -> None:
        """Shut, and forget what is inside."""
        self.shut()
        self._queue.clear()
        self._held = 0
        self.flow()

    def pump(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._queue and self.sink is not None and not self._proxy.partitioned:
            due, piece = self._queue[0]
            if due > self._proxy._loop.time():
                self._timer = self._proxy._loop.call_at(due, self.pump)
                break
            self._queue.popleft()
            self._held -= len(piece) if isinstance(piece, bytes) else 0
            self._emit(piece)
        self.flow()

    def flow(self) -> None:
        """Stop reading from the source while too much waits for the sink."""
        full = self.sink_full or self._held > _HELD_LIMIT
        if full != self._source_paused and self.source is not None:
            self._source_paused = full
            self.source.pause_reading() if full else self.source.resume_reading()

    def _emit(self, piece: bytes | Callable[[], None]) -> None:
        if not isinstance(piece, bytes):
            piece()
        elif self.sink is not None and not self.sink.is_closing():
            self.sink.write(piece)


class _Link:
    """A client's connection, the upstream connection that stands for it, and what is in flight between."""

    def __init__(self, proxy: FaultProxy, number: int) -> None:
        self.proxy = proxy
        self.number = number
        self.pending: collections.deque[_Request] = collections.deque()
        self.to_server = _Pipe(proxy)
        self.to_client = _Pipe(proxy)
        self.deaf = False  # requests are read and ignored
        self._client: asyncio.Transport | None = None
        self._server: asyncio.Transport | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._client_left = False
        self._dead = False
        self._haunted = False
        self._monitoring = False
        self._topics: dict[bytes, set[bytes]] = {}
        self._requests = RequestFramer()
        self._replies = ReplyFramer()

    # -- life of the two connections

    def client_made(self, transport: asyncio.Transport) -> None:
        self._client = self.to_client.sink = self.to_server.source = transport
        self.proxy._links.add(self)
        self.wake()

    def wake(self) -> None:
        """Go on, unless there is a partition: connect upstream, send what is held."""
        if self.proxy.partitioned or self._dead:
            return
        if self._connecting is None:
            self._connecting = self.proxy._loop.create_task(self._connect())
        self.to_server.pump()
        self.to_client.pump()

    async def _connect(self) -> None:
        host, port = self.proxy.upstream
        try:
            await self.proxy._loop.create_connection(lambda: _ServerSide(self), host, port)
        except OSError:
            self.reset()

    def server_made(self, transport: asyncio.Transport) -> None:
        if self._dead:
            transport.abort()
            return
        self._server = self.to_server.sink = self.to_client.source = transport
        self.to_server.pump()

    def client_ended(self) -> bool:
        """The client sends no more; whether its transport stays open for replies."""
        self._client_left = True
        if not self._haunted:
            self.end_server()
        return not self.to_client.is_shut

    def client_lost(self) -> None:
        self.client_ended()
        self._client = None
        self.to_client.discard()
        self._forget()

    def server_lost(self, error: Exception | None) -> None:
        self._server = None
        self.to_server.discard()
        self.to_client.put(self._close_client if error is None else self._reset_client)
        self.to_client.shut()
        self._forget()

    def _forget(self) -> None:
        never_connects = self._dead or self.to_server.sink is not None
        if self._client is None and self._server is None and never_connects:
            self.proxy._links.discard(self)

    def _close_client(self) -> None:
        if self._client is not None:
            self._client.close()

    def _reset_client(self) -> None:
        if self._client is not None:
            _abort(self._client)

    def _end_server(self) -> None:
        if self._server is not None and not self._server.is_closing():
            self._server.write_eof()  # not close(): unread replies would make it RST, which eats requests

    def end_server(self) -> None:
        """Behind all that was forwarded, tell Redis that the client has gone."""
        self.deaf = True
        self.to_server.put(self._end_server)
        self.to_server.shut()

    def hang_up(self) -> None:
        """Behind the replies so far, close the client's connection."""
        self.to_client.put(self._close_client)
        self.to_client.shut()

    def haunt(self, seconds: float) -> None:
        """Close the client's connection and keep the upstream one until its last reply, or for `seconds`."""
        self._haunted = self.deaf = True
        self.hang_up()
        self.proxy._loop.call_later(seconds, self.end_server)

    def vanish(self) -> None:
        """Nothing passes any more, either way."""
        self.deaf = True
        self.to_client.discard()
        self.to_server.discard()

    def reset(self) -> None:
        """RST to both ends."""
        self._dead = True
        self.vanish()
        for transport in (self._client, self._server):
            if transport is not None:
                _abort(transport)
        self._forget()

    def _raw(self) -> bool:
        """Whether bytes pass as they come, since they cannot be followed any more."""
        return bool(self._requests.broken or self._replies.broken)

    # -- requests

    def requests(self, data: bytes) -> None:
        if self._raw():
            self.to_server.put(self._requests.rest() + data)
            return
        batch: list[bytes] = []
        for raw in self._requests.feed(data):
            if self._take(_Request(raw), batch):
                batch.append(raw)
        if self._requests.broken:
            batch.append(self._requests.rest())
        self._flush(batch)

    def _take(self, request: _Request, batch: list[bytes]) -> bool:
        """Count a request and ask the rules; True if it goes with the batch."""
        if not request.name:
            return not self.deaf
        self.proxy._count(self, request)
        if self.deaf:
            return False
        rule = self.proxy._rule_for(self.proxy._request_rules, request, b"")
        if rule is None:
            self.expect(request)
            return True
        self._flush(batch)
        rule._hit(self, request, request.raw)
        return False

    def _flush(self, batch: list[bytes]) -> None:
        if batch:
            self.to_server.put(b"".join(batch))
            batch.clear()

    def forward(self, request: _Request, delay: float) -> None:
        self.expect(request)
        self.to_server.put(request.raw, delay)

    def expect(self, request: _Request) -> None:
        """Note that Redis will answer this request, and in how many frames."""
        name = request.name
        if name in (b"SYNC", b"PSYNC"):
            self._requests.broken = "a replication stream follows"
            return
        if name in _FAMILIES:
            request.left = self._subscription_frames(request)
        elif name == b"MONITOR":
            self._monitoring = True
        elif name == b"CLIENT" and request.args[1:2] and request.args[1].upper() == b"REPLY":
            raise NotImplementedError("CLIENT REPLY: FaultProxy could not match replies any more")
        self.pending.append(request)

    def _subscription_frames(self, request: _Request) -> int:
        """One frame for each topic that is named, or that an UNSUBSCRIBE of all ends, and never none."""
        kind = request.name.replace(b"UNSUB", b"SUB")
        topics = self._topics.setdefault(kind, set())
        named = request.args[1:]
        frames = len(named) or len(topics) or 1
        if kind == request.name:
            topics.update(named)
        elif named:
            topics.difference_update(named)
        else:
            topics.clear()
        return frames

    # -- replies

    def replies(self, data: bytes) -> None:
        if self._raw():
            self.to_client.put(self._replies.rest() + data)
            return
        batch: list[bytes] = []
        for raw in self._replies.feed(data):
            request = self._answered(raw)
            if request is not None and self._faulted(request, raw, batch):
                continue
            batch.append(raw)
            if self.pending and self.pending[0].canned:
                self._deliver(batch)
                self.answer_canned()
        if self._replies.broken:
            batch.append(self._replies.rest())
        self._deliver(batch)

    def _answered(self, raw: bytes) -> _Request | None:
        """The request that this frame answers; None if the server sent it unasked."""
        if not self.pending:
            return None
        request = self.pending[0]
        kind = raw[:1]
        if kind == b">" and not (request.name in _FAMILIES and _SUBSCRIPTION.match(raw)):
            return None
        if self._topics and _MESSAGE.match(raw):
            return None
        if self._monitoring and _MONITORED.match(raw):
            return None
        request.left = 0 if kind == b"-" else request.left - 1
        if request.left <= 0:
            self.pending.popleft()
        return request

    def _faulted(self, request: _Request, raw: bytes, batch: list[bytes]) -> bool:
        """Let a ghost or a rule have this reply; False if it passes."""
        if request.ghost is not None:
            request.ghost._lose(raw)
            self.end_server()
            return True
        if self._client_left or self.to_client.is_shut:
            return False
        rule = self.proxy._rule_for(self.proxy._reply_rules, request, raw)
        if rule is None:
            return False
        self._deliver(batch)
        rule._hit(self, request, raw)
        self.answer_canned()
        return True

    def answer_canned(self) -> None:
        """Send the proxy's own replies whose turn has come."""
        while self.pending and self.pending[0].canned:
            self.to_client.put(self.pending.popleft().canned)

    def _deliver(self, batch: list[bytes]) -> None:
        if batch:
            self.to_client.put(b"".join(batch))
            batch.clear()


def _abort(transport: asyncio.Transport) -> None:
    """Close with RST."""
    if not transport.is_closing():
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RST)
    transport.abort()


class _ClientSide(asyncio.Protocol):
    """What a client sends."""

    def __init__(self, link: _Link) -> None:
        self._link = link

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._link.client_made(transport)

    def data_received(self, data: bytes) -> None:
        self._link.requests(data)

    def eof_received(self) -> bool:
        return self._link.client_ended()

    def connection_lost(self, exc: Exception | None) -> None:
        self._link.client_lost()

    def pause_writing(self) -> None:
        self._link.to_client.sink_full = True
        self._link.to_client.flow()

    def resume_writing(self) -> None:
        self._link.to_client.sink_full = False
        self._link.to_client.flow()


class _ServerSide(asyncio.Protocol):
    """What Redis sends."""

    def __init__(self, link: _Link) -> None:
        self._link = link

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._link.server_made(transport)

    def data_received(self, data: bytes) -> None:
        self._link.replies(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._link.server_lost(exc)

    def pause_writing(self) -> None:
        self._link.to_server.sink_full = True
        self._link.to_server.flow()

    def resume_writing(self) -> None:
        self._link.to_server.sink_full = False
        self._link.to_server.flow()


# ---- the proxy ------------------------------------------------------------------------------------------


class FaultProxy:
    """A proxy on a free loopback port, from `with` (or `start`) to the end of it (or `close`).

    A Redis that does not accept connections shows as a client connection that is reset at once.
    """

    def __init__(self, upstream_host: str, upstream_port: int, *, seed: int = 0) -> None:
        self.upstream = (upstream_host, upstream_port)
        self.scripts: dict[str, str] = {}
        """Names for scripts: name → sha1 of the source, in hex. Filled by the test."""
        self.latency = 0.0
        """Seconds that all bytes take, each way; may be set at any time."""
        self.requests = 0
        """Requests that clients have sent, dropped ones included."""
        self.connections = 0
        """Connections that clients have made."""
        self.counts: collections.Counter[bytes] = collections.Counter()
        """Requests by command, in capitals."""
        self.log: collections.deque[tuple[float, int, bytes]] = collections.deque(maxlen=_LOG_LIMIT)
        """The last requests: time.monotonic(), number of the connection from 1, command in capitals."""
        self.errors: list[BaseException] = []
        """What went wrong inside the proxy; the first is raised at the end of the `with` block."""
        self.port = 0
        self.partitioned = False
        self._seed = seed
        self._made = 0
        self._request_rules: tuple[Rule, ...] = ()
        self._reply_rules: tuple[Rule, ...] = ()
        self._lock = threading.Lock()
        self._links: set[_Link] = set()
        self._reserved: socket.socket | None = None
        self._listener: asyncio.Server | None = None
        self._loop: asyncio.AbstractEventLoop
        self._stopping: asyncio.Event
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def __enter__(self) -> FaultProxy:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        if self.errors and error is None:
            raise RuntimeError("FaultProxy failed") from self.errors[0]

    def start(self) -> FaultProxy:
        """Listen; returns when clients can connect."""
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ready,), name="fault-proxy", daemon=True)
        self._thread.start()
        ready.wait()
        if not self.port:
            raise RuntimeError("FaultProxy did not start") from (self.errors[0] if self.errors else None)
        return self

    def close(self) -> None:
        """Reset all connections and end the thread."""
        if self._thread is None:
            return
        with contextlib.suppress(RuntimeError):  # the loop is closed: it failed before
            self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()
        self._thread = None

    # -- rules

    def on(
        self,
        command: bytes | str | None = None,
        *,
        action: Action,
        script: bytes | str | None = None,
        key: bytes | str | None = None,
        where: Callable[[list[bytes]], bool] | None = None,
        reply: Callable[[bytes], bool] | None = None,
        first: int = 0,
        count: int | None = 1,
        probability: float | None = None,
    ) -> Rule:
        """Do `action` to the requests that meet every criterion given (none given: to every request).

        command      its name in any case; "CLIENT KILL" matches command and first argument
        script       EVAL or EVALSHA of this script: a name in `scripts`, a sha1 in hex, or the source. On the
                     reply side a NOSCRIPT answer does not count, since the script did not run
        key          bytes inside any argument
        where        a predicate over the list of the command and its arguments
        reply        a predicate over the raw reply, such as `moved`; only for actions on the reply side
        first        let so many matches pass before
        count        fire so many times; None: without end
        probability  fire on a match by chance, drawn from the proxy's seed and the number of the rule
        """
        if reply is not None and action.side != "reply":
            raise ValueError(f"{action.name} acts before there is a reply to look at")
        tests = _criteria(command, self._sha(script) if script is not None else None, key, where, reply)

        def matches(request: _Request, raw: bytes) -> bool:
            return all(test(request, raw) for test in tests)

        with self._lock:
            rng = random.Random(f"{self._seed}:{self._made}")
            self._made += 1
            rule = Rule(self, action, matches, first, count, probability, rng)
            if action.side == "request":
                self._request_rules += (rule,)
            else:
                self._reply_rules += (rule,)
        return rule

    def _sha(self, script: bytes | str) -> str:
        text = script if isinstance(script, str) else script.decode()
        if text in self.scripts:
            return self.scripts[text].lower()
        if re.fullmatch(r"[0-9a-fA-F]{40}", text):
            return text.lower()
        if re.fullmatch(r"[\w.:/-]+", text):
            raise KeyError(f"{text!r} is not in FaultProxy.scripts, which has {sorted(self.scripts)}")
        return hashlib.sha1(text.encode()).hexdigest()

    def _remove(self, rule: Rule) -> None:
        with self._lock:
            self._request_rules = tuple(r for r in self._request_rules if r is not rule)
            self._reply_rules = tuple(r for r in self._reply_rules if r is not rule)

    @staticmethod
    def _rule_for(rules: tuple[Rule, ...], request: _Request, reply: bytes) -> Rule | None:
        for rule in rules:
            if rule._fires(request, reply):
                return rule
        return None

    def _count(self, link: _Link, request: _Request) -> None:
        self.requests += 1
        self.counts[request.name] += 1
        self.log.append((time.monotonic(), link.number, request.name))

    # -- switches

    def partition(self, *, refuse: bool = False) -> None:
        """Let nothing pass, on any connection, until `heal`; what is sent meanwhile is held.

        New connections are accepted and silent, or refused with `refuse`.
        """
        self._do(self._partition(refuse))

    def heal(self, *, deliver: bool = True) -> None:
        """End the partition: what was held arrives late, or (deliver=False) all connections are reset."""
        self._do(self._heal(deliver))

    def reset_all(self) -> None:
        """RST to both ends of every connection."""
        self._do(self._reset_all())

    async def _partition(self, refuse: bool) -> None:
        self.partitioned = True
        if refuse and self._listener is not None:
            self._listener.close()
            self._listener = None

    async def _heal(self, deliver: bool) -> None:
        if not deliver:
            await self._reset_all()
        self.partitioned = False
        if self._listener is None:
            await self._listen()
        for link in list(self._links):
            link.wake()

    async def _reset_all(self) -> None:
        for link in list(self._links):
            link.reset()
        for _ in range(3):  # transports close in the next turns of the loop
            await asyncio.sleep(0)

    # -- the thread

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _run(self, ready: threading.Event) -> None:
        try:
            asyncio.run(self._main(ready))
        except BaseException as error:
            self.errors.append(error)
        finally:
            ready.set()

    async def _main(self, ready: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(self._failed)
        self._stopping = asyncio.Event()
        self._reserved = _bound(0)
        self.port = self._reserved.getsockname()[1]
        try:
            await self._listen()
            ready.set()
            await self._stopping.wait()
        finally:
            if self._listener is not None:
                self._listener.close()
            await self._reset_all()
            self._reserved.close()

    async def _listen(self) -> None:
        self._listener = await self._loop.create_server(self._accept, sock=_bound(self.port), backlog=1024)

    def _accept(self) -> _ClientSide:
        self.connections += 1
        return _ClientSide(_Link(self, self.connections))

    def _failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.errors.append(context.get("exception") or RuntimeError(context["message"]))


def _bound(port: int) -> socket.socket:
    """A bound socket. One that never listens keeps the port ours while connections to it are refused."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", port))
    return sock


def _criteria(
    command: bytes | str | None,
    sha: str | None,
    key: bytes | str | None,
    where: Callable[[list[bytes]], bool] | None,
    reply: Callable[[bytes], bool] | None,
) -> list[Callable[[_Request, bytes], bool]]:
    """One test for each criterion, the cheapest first."""
    tests: list[Callable[[_Request, bytes], bool]] = []
    if command is not None:
        name, *words = _bytes(command).upper().split()
        tests.append(lambda request, raw: request.name == name)
        if words:
            tests.append(lambda request, raw: [a.upper() for a in request.args[1 : len(words) + 1]] == words)
    if sha is not None:
        tests.append(lambda request, raw: not raw.startswith(b"-NOSCRIPT") and _runs(request, sha))
    if key is not None:
        part = _bytes(key)
        tests.append(lambda request, raw: any(part in arg for arg in request.args[1:]))
    if where is not None:
        tests.append(lambda request, raw: where(request.args))
    if reply is not None:
        tests.append(lambda request, raw: reply(raw))
    return tests


def _runs(request: _Request, sha: str) -> bool:
    by_sha = _SCRIPT_COMMANDS.get(request.name)
    if by_sha is None or len(request.args) < 2:
        return False
    script = request.args[1]
    return (script.lower().decode("latin-1") if by_sha else hashlib.sha1(script).hexdigest()) == sha


def _bytes(text: bytes | str) -> bytes:
    return text.encode() if isinstance(text, str) else text
