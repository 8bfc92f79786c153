"""The fault proxy passes every byte as it came, and each fault does what it says: no more, no less."""

from __future__ import annotations

import contextlib
import hashlib
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import pytest
import redis as redis_py
from hypothesis import given
from hypothesis import strategies as st

from tests.faults.proxy import (
    Action,
    FaultProxy,
    ReplyFramer,
    RequestFramer,
    black_hole,
    cut_reply,
    delay_reply,
    delay_request,
    drop_reply,
    drop_request,
    ghost,
    moved,
    reply_error,
    reset,
    trickle,
)
from tests.servers import ExternalServer, RedisServer

SOON = 10.0  # seconds that nothing here needs; how long a test waits before it calls a condition false
SILENCE = 0.1  # seconds without a byte that count as silence


def encode(*args: bytes | str | int) -> bytes:
    parts = [arg if isinstance(arg, bytes) else str(arg).encode() for arg in args]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)


class Wire:
    """A client that sees bytes."""

    def __init__(self, host: str, port: int) -> None:
        self.sock = socket.create_connection((host, port), timeout=SOON)
        self._framer = ReplyFramer()
        self._frames: list[bytes] = []

    def send(self, *args: bytes | str | int) -> None:
        self.sock.sendall(encode(*args))

    def read(self) -> bytes:
        """One whole reply, raw; EOFError when the connection ended."""
        while not self._frames:
            data = self.sock.recv(65536)
            if not data:
                raise EOFError(self._framer.rest())
            self._frames += self._framer.feed(data)
        return self._frames.pop(0)

    def call(self, *args: bytes | str | int) -> bytes:
        self.send(*args)
        return self.read()

    def read_to_end(self) -> bytes:
        data = b"".join(self._frames)
        while chunk := self.sock.recv(65536):
            data += chunk
        return data

    def is_silent(self) -> bool:
        """Nothing comes, not even the end of the connection."""
        self.sock.settimeout(SILENCE)
        try:
            self.read()
        except TimeoutError:
            return True
        except (EOFError, ConnectionError):
            return False
        finally:
            self.sock.settimeout(SOON)
        return False

    def is_reset(self) -> bool:
        try:
            self.read()
        except ConnectionResetError:
            return True
        except EOFError:
            return False
        return False

    def close(self) -> None:
        self.sock.close()


def until(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + SOON
    while not (found := condition()) and time.monotonic() < deadline:
        time.sleep(0.002)
    return found


Server = RedisServer | ExternalServer


def address(server: Server) -> tuple[str, int]:
    parts = urlsplit(server.url)
    assert parts.hostname is not None
    assert parts.port is not None
    return parts.hostname, parts.port


@pytest.fixture
def proxy(server: Server) -> Iterator[FaultProxy]:
    with FaultProxy(*address(server), seed=7) as proxy:
        yield proxy


@pytest.fixture
def connect(proxy: FaultProxy) -> Iterator[Callable[[], Wire]]:
    """Opens connections through the proxy."""
    with contextlib.ExitStack() as stack:

        def make() -> Wire:
            wire = Wire("127.0.0.1", proxy.port)
            stack.callback(wire.close)
            return wire

        yield make


@pytest.fixture
def wire(connect: Callable[[], Wire]) -> Wire:
    return connect()


@pytest.fixture
def direct(server: Server) -> Iterator[Wire]:
    wire = Wire(*address(server))
    yield wire
    wire.close()


def blocked(redis: redis_py.Redis, name: str) -> bool:
    """Whether the connection of this CLIENT SETNAME is blocked."""
    return any(c["name"] == name and "b" in c["flags"] for c in redis.client_list())


def connected(redis: redis_py.Redis, name: str) -> bool:
    return any(c["name"] == name for c in redis.client_list())


# ---- framing ---------------------------------------------------------------------------------------------


def chop(data: bytes, rng: random.Random, longest: int = 40) -> Iterator[bytes]:
    while data:
        size = rng.randint(1, longest)
        yield data[:size]
        data = data[size:]


@given(st.lists(st.lists(st.binary(max_size=300), min_size=1, max_size=5), max_size=8), st.randoms())
def test_requests_are_cut_alike_however_fragmented(requests: list[list[bytes]], rng: random.Random) -> None:
    """The frames are those that were encoded, wherever the stream is broken into pieces."""
    frames = [encode(*args) for args in requests] + [b"PING  x\r\n", b"\r\n", b"*0\r\n", b"PING\n"]
    framer = RequestFramer()
    assert [f for piece in chop(b"".join(frames), rng) for f in framer.feed(piece)] == frames
    assert framer.rest() == b""


REPLIES = [
    b"+OK\r\n",
    b"-ERR no\r\n",
    b":-7\r\n",
    b"$-1\r\n",
    b"*-1\r\n",
    b"*0\r\n",
    b"$0\r\n\r\n",
    b"$5\r\n\r\n$1\r\r\n",
    b"*2\r\n*2\r\n:1\r\n*0\r\n$2\r\nab\r\n",
    b"_\r\n",
    b"#t\r\n",
    b",1.5\r\n",
    b"(123456789012345678901234567890\r\n",
    b"!5\r\nERR x\r\n",
    b"=7\r\ntxt:abc\r\n",
    b"%2\r\n+a\r\n*1\r\n:1\r\n+b\r\n%0\r\n",
    b"~2\r\n:1\r\n%1\r\n_\r\n~1\r\n:2\r\n",
    b">2\r\n+invalidate\r\n*1\r\n$1\r\nk\r\n",
    b"|1\r\n+ttl\r\n:3\r\n*2\r\n|1\r\n+x\r\n+y\r\n:1\r\n:2\r\n",
]


@given(st.lists(st.sampled_from(REPLIES), max_size=12), st.randoms())
def test_replies_are_cut_alike_however_fragmented(replies: list[bytes], rng: random.Random) -> None:
    """Every RESP2 and RESP3 type, nested, with attributes before and inside, is one frame per reply."""
    framer = ReplyFramer()
    assert [f for piece in chop(b"".join(replies), rng, 6) for f in framer.feed(piece)] == replies
    assert framer.rest() == b""


@pytest.mark.parametrize(
    ("framer", "data"),
    [
        (RequestFramer(), b"*1\r\n:1\r\n"),
        (RequestFramer(), b"*x\r\n"),
        (RequestFramer(), b"*1\r\n$-2\r\n"),
        (RequestFramer(), b"x" * 70_000),
        (ReplyFramer(), b"?1\r\n"),
        (ReplyFramer(), b"*?\r\n"),
    ],
)
def test_broken_streams_are_given_back(framer: RequestFramer | ReplyFramer, data: bytes) -> None:
    """Where the framing is lost nothing is lost of the bytes."""
    good = encode("PING") if isinstance(framer, RequestFramer) else b"+OK\r\n"
    assert framer.feed(good + data) == [good]
    assert framer.broken
    assert framer.rest() == data


# ---- passing ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [2, 3])
def test_bytes_pass_as_they_came(wire: Wire, direct: Wire, prefix: str, protocol: int) -> None:
    """A connection through the proxy and one without it give the same bytes, with RESP2 and RESP3."""
    stream = b"".join(
        [
            b"PING\r\n",
            b"\r\n",
            b"*0\r\n",
            b'ping "in line"\r\n',
            encode("set", prefix, b"\x00\r\n$\xff" * 50),
            encode("get", prefix),
            encode("nonsense", "x" * 3000),
            encode("hset", prefix + "h", "f", ""),
            encode("hgetall", prefix + "h"),
            encode("smembers", prefix + "none"),
            encode("lpush", prefix + "l", *range(500)),
            encode("lrange", prefix + "l", 0, -1),
            encode("multi"),
            encode("lpop", prefix + "l"),
            encode("zadd", prefix + "z", "1.5", "m"),
            encode("zscore", prefix + "z", "m"),
            encode("exec"),
            encode("eval", "return {1, {2, {'x', false}}, redis.status_reply('S')}", 0),
            encode("blpop", prefix + "none", "0.01"),
            encode("debug", "protocol" if protocol == 3 else "stringmatch-len", "attrib"),
            encode("flushdb", "wrong argument"),
            encode("del", prefix, prefix + "h", prefix + "l", prefix + "z"),
            encode("quit"),
        ]
    )
    answers = []
    for connection in (direct, wire):
        if protocol == 3:
            assert connection.call("HELLO", 3).startswith(b"%7")
        for piece in chop(stream, random.Random(1), 900):
            connection.sock.sendall(piece)
        answers.append(connection.read_to_end())
    assert len(answers[0]) > 3000
    assert answers[1] == answers[0]


def test_malformed_request_gets_the_servers_own_answer(wire: Wire, direct: Wire) -> None:
    """What the proxy cannot follow it passes, so that the client sees how Redis takes it."""
    answers = []
    for connection in (direct, wire):
        connection.sock.sendall(encode("PING") + b"*1\r\n:1\r\nrubbish")
        answers.append(connection.read_to_end())
    assert b"Protocol error" in answers[0]
    assert answers[1] == answers[0]


def test_large_messages_pass_and_are_not_piled_up(wire: Wire, proxy: FaultProxy, prefix: str) -> None:
    """32 MB go through to a client that reads late, and back."""
    body = random.Random(2).randbytes(1 << 20) * 32
    wire.send("SET", prefix, body)
    assert wire.read() == b"+OK\r\n"
    for _ in range(3):
        wire.send("GET", prefix)
    assert until(lambda: proxy.counts[b"GET"] == 3)
    link = next(iter(proxy._links))
    assert until(lambda: link.to_client._source_paused)
    for _ in range(3):
        assert wire.read() == b"$%d\r\n%b\r\n" % (len(body), body)
    assert wire.call("DEL", prefix) == b":1\r\n"


def test_replies_keep_order_behind_a_blocking_command(
    wire: Wire, connect: Callable[[], Wire], prefix: str
) -> None:
    """A blocked BLMOVE holds back what is behind it on its connection, and no other connection."""
    wire.send("BLMOVE", prefix + "a", prefix + "b", "RIGHT", "LEFT", 0)
    wire.send("ECHO", "behind")
    other = connect()
    assert other.call("ECHO", "beside") == b"$6\r\nbeside\r\n"
    assert wire.is_silent()
    other.call("LPUSH", prefix + "a", "m")
    assert [wire.read(), wire.read()] == [b"$1\r\nm\r\n", b"$6\r\nbehind\r\n"]


@pytest.mark.parametrize("protocol", [2, 3])
def test_replies_are_matched_around_subscriptions(
    wire: Wire, proxy: FaultProxy, direct: Wire, prefix: str, protocol: int
) -> None:
    """Published messages answer no request; (un)subscriptions answer theirs once per topic."""
    if protocol == 3:
        wire.call("HELLO", 3)
    rule = proxy.on(b"PING", reply=lambda raw: b"news" in raw, action=drop_reply())
    ping = proxy.on(b"PING", action=delay_reply(0), count=None)
    gone = proxy.on(b"UNSUBSCRIBE", action=delay_reply(0), count=None)
    wire.send("SUBSCRIBE", prefix + "1", prefix + "2", prefix + "3")
    assert [wire.read()[-4:] for _ in range(3)] == [b":1\r\n", b":2\r\n", b":3\r\n"]
    proxy.partition()
    for _ in range(2):
        wire.send("PING")
    direct.call("PUBLISH", prefix + "2", "news")
    proxy.heal()
    answers = [wire.read() for _ in range(3)]
    assert sum(b"news" in answer for answer in answers) == 1
    wire.send("UNSUBSCRIBE")
    assert [wire.read()[-4:] for _ in range(3)] == [b":2\r\n", b":1\r\n", b":0\r\n"]
    wire.send("UNSUBSCRIBE")
    wire.send("PING")
    assert wire.read().endswith(b":0\r\n")
    assert b"PONG" in wire.read().upper()
    assert (ping.hits, gone.hits, rule.hits) == (3, 4, 0)


def test_pushes_answer_no_request(wire: Wire, proxy: FaultProxy, direct: Wire, prefix: str) -> None:
    """What Redis pushes unasked passes, also while a request is under way."""
    wire.call("HELLO", 3)
    wire.call("CLIENT", "TRACKING", "ON")
    wire.call("GET", prefix)
    lost = proxy.on("PING", reply=lambda raw: raw != b"+PONG\r\n", action=drop_reply())
    proxy.partition()
    wire.send("PING")
    direct.call("SET", prefix, "x")
    proxy.heal()
    assert [wire.read()[:1], wire.read()] == [b">", b"+PONG\r\n"]
    assert lost.hits == 0
    direct.call("DEL", prefix)


def test_monitor_lines_answer_no_request(wire: Wire, proxy: FaultProxy, direct: Wire, prefix: str) -> None:
    """What MONITOR shows passes, also while a request is under way."""
    assert wire.call("MONITOR") == b"+OK\r\n"
    lost = proxy.on("PING", reply=lambda raw: raw != b"+PONG\r\n", action=drop_reply())
    proxy.partition()
    wire.send("PING")
    direct.call("ECHO", prefix)
    proxy.heal()
    lines = [wire.read() for _ in range(3)]
    assert prefix.encode() in lines[0]
    assert b"+PONG\r\n" in lines[1:]
    assert lost.hits == 0


def test_a_replica_can_sit_behind_the_proxy(own_server: RedisServer) -> None:
    """A replication stream, which is no RESP, passes."""
    with FaultProxy(*address(own_server)) as proxy:
        own_server.cli("CONFIG", "SET", "repl-diskless-sync", "no")
        own_server.cli("SET", "before", "1")
        replicaof = ["--replicaof", "127.0.0.1", str(proxy.port)]
        with RedisServer(own_server.binary, appendonly=False, extra_args=replicaof) as replica:
            assert until(lambda: replica.cli("GET", "before") == b"1")
            own_server.cli("SET", "after", "1")
            assert until(lambda: replica.cli("GET", "after") == b"1")


def test_client_that_closes_ends_its_blocked_command(wire: Wire, redis: redis_py.Redis, prefix: str) -> None:
    """As without the proxy: Redis drops the BLMOVE of a client that has gone, and a later message stays."""
    wire.call("CLIENT", "SETNAME", prefix)
    wire.send("BLMOVE", prefix + "a", prefix + "b", "RIGHT", "LEFT", 0)
    assert until(lambda: blocked(redis, prefix))
    wire.close()
    assert until(lambda: not connected(redis, prefix))
    redis.lpush(prefix + "a", "m")
    assert redis.lrange(prefix + "a", 0, -1) == [b"m"]


def test_client_that_closes_has_sent_what_it_sent(own_server: RedisServer) -> None:
    """Requests whose sender has closed at once are run, even if Redis comes to them later."""
    with FaultProxy(*address(own_server)) as proxy, contextlib.closing(Wire("127.0.0.1", proxy.port)) as wire:
        own_server.suspend()
        wire.sock.sendall(b"".join(encode("SET", number, "x" * 100) for number in range(2000)))
        wire.close()
        own_server.resume()
        assert until(lambda: own_server.cli("DBSIZE") == 2000)


def test_upstream_that_ends_or_is_down_ends_the_client(own_server: RedisServer) -> None:
    """Clients of a killed server see the end of their connection, new ones too; after a start all is well."""
    with FaultProxy(*address(own_server)) as proxy:
        wire = Wire("127.0.0.1", proxy.port)
        wire.call("PING")
        own_server.kill()
        with pytest.raises((EOFError, ConnectionError)):
            wire.read()
        wire.close()
        with pytest.raises(ConnectionResetError), contextlib.closing(Wire("127.0.0.1", proxy.port)) as late:
            late.read()
        own_server.start()
        wire = Wire("127.0.0.1", proxy.port)
        assert wire.call("PING") == b"+PONG\r\n"
        wire.close()


def test_traffic_is_counted(connect: Callable[[], Wire], proxy: FaultProxy) -> None:
    """Requests are counted in all, by command, and with their connection; blank lines are none."""
    one, two = connect(), connect()
    before = time.monotonic()
    one.sock.sendall(b"\r\nping\r\n" + encode("echo", "1"))
    assert one.read() + one.read() == b"+PONG\r\n$1\r\n1\r\n"
    two.call("PING")
    assert (proxy.requests, proxy.counts[b"PING"], proxy.counts[b"ECHO"]) == (3, 2, 1)
    assert proxy.connections == 2
    assert [(number, name) for _, number, name in proxy.log] == [(1, b"PING"), (1, b"ECHO"), (2, b"PING")]
    assert all(before <= at <= time.monotonic() for at, _, _ in proxy.log)


# ---- matching --------------------------------------------------------------------------------------------

LOADING = b"-LOADING by the proxy\r\n"
SOURCE = "return 'ran'"
SHA = hashlib.sha1(SOURCE.encode()).hexdigest()


def test_rule_fires_once_on_its_command(wire: Wire, proxy: FaultProxy) -> None:
    """Names match in any case, words after the name match arguments, and count=1 is the default."""
    rule = proxy.on("echo", action=reply_error(LOADING))
    words = proxy.on("client getname", action=reply_error(LOADING))
    assert wire.call("PING") == b"+PONG\r\n"
    assert wire.call("Echo", "x") == LOADING
    assert wire.call("Echo", "x") == b"$1\r\nx\r\n"
    assert wire.call("CLIENT", "ID") != LOADING
    assert wire.call("CLIENT", "GetName") == LOADING
    assert (rule.hits, words.hits) == (1, 1)


@pytest.mark.parametrize("given_as", ["load", SHA, SHA.upper(), SOURCE])
def test_rule_finds_a_script(wire: Wire, proxy: FaultProxy, given_as: str) -> None:
    """By name, sha1 or source; run by EVAL or by EVALSHA; and no other script."""
    proxy.scripts["load"] = SHA
    rule = proxy.on(script=given_as, action=reply_error(LOADING), count=None)
    assert wire.call("EVAL", "return 1", 0) == b":1\r\n"
    assert wire.call("SCRIPT", "LOAD", SOURCE) == b"$40\r\n%b\r\n" % SHA.encode()
    assert wire.call("ECHO", SHA) != LOADING
    assert wire.call("EVALSHA", SHA, 0) == LOADING
    assert wire.call("EVALSHA", SHA.upper(), 0) == LOADING
    assert wire.call("EVAL", SOURCE, 0) == LOADING
    assert rule.hits == 3


def test_unknown_script_name_is_an_error(proxy: FaultProxy) -> None:
    """A typing error in a test must not make a rule that never fires."""
    proxy.scripts["claim"] = SHA
    with pytest.raises(KeyError, match="claim"):
        proxy.on(script="clam", action=drop_reply())


def test_noscript_is_no_run_of_the_script(wire: Wire, proxy: FaultProxy, prefix: str) -> None:
    """A reply-side rule for a script waits for the EVALSHA that ran it."""
    source = f"return '{prefix}'"
    sha = hashlib.sha1(source.encode()).hexdigest()
    rule = proxy.on(script=sha, action=drop_reply())
    assert wire.call("EVALSHA", sha, 0).startswith(b"-NOSCRIPT")
    wire.send("EVAL", source, 0)
    assert rule.wait(SOON)
    assert rule.lost == [b"$%d\r\n%b\r\n" % (len(prefix), prefix.encode())]


def test_rule_matches_arguments(wire: Wire, proxy: FaultProxy) -> None:
    """`key` is part of any argument but not of the command, `where` sees all; criteria hold together."""
    proxy.on("ECHO", key="llo", action=reply_error(b"-ERR key"))
    proxy.on(where=lambda args: args[0] == b"ECHO" and len(args[1]) == 3, action=reply_error(b"-ERR where"))
    proxy.on(key="PIN", action=reply_error(b"-ERR command"))
    assert wire.call("PING", "llo") == b"$3\r\nllo\r\n"
    assert wire.call("ECHO", "xyz") == b"-ERR where\r\n"
    assert wire.call("ECHO", "hello") == b"-ERR key\r\n"
    assert wire.call("ECHO", "hello") == b"$5\r\nhello\r\n"


def test_rule_looks_at_the_reply(wire: Wire, proxy: FaultProxy, prefix: str) -> None:
    """`moved` lets the nil of a BLMOVE pass and takes the reply that carries a message."""
    rule = proxy.on(b"BLMOVE", reply=moved, action=drop_reply())
    blmove = ("BLMOVE", prefix + "a", prefix + "b", "RIGHT", "LEFT")
    assert wire.call(*blmove, "0.01") in (b"$-1\r\n", b"*-1\r\n")
    assert (rule.hits, rule.seen) == (0, 0)
    wire.call("LPUSH", prefix + "a", "m")
    wire.send(*blmove, 0)
    assert rule.wait(SOON)
    assert rule.lost == [b"$1\r\nm\r\n"]
    with pytest.raises(ValueError, match="before there is a reply"):
        proxy.on(reply=moved, action=drop_request())


def test_first_count_and_remove(wire: Wire, proxy: FaultProxy) -> None:
    """`first` matches pass, `count` are hit; None is without end, until the rule is removed."""
    rule = proxy.on("PING", first=2, count=2, action=reply_error(LOADING))
    assert [wire.call("PING") == LOADING for _ in range(6)] == [False, False, True, True, False, False]
    assert (rule.hits, rule.seen) == (2, 4)
    rule = proxy.on("PING", count=None, action=reply_error(LOADING))
    assert [wire.call("PING") == LOADING for _ in range(3)] == [True] * 3
    rule.remove()
    assert wire.call("PING") == b"+PONG\r\n"


def test_first_rule_takes_the_request(wire: Wire, proxy: FaultProxy) -> None:
    """The second rule for the same command has its turn when the first is used up."""
    proxy.on("PING", action=reply_error(b"-ERR 1"))
    second = proxy.on("PING", action=reply_error(b"-ERR 2"))
    assert [wire.call("PING") for _ in range(3)] == [b"-ERR 1\r\n", b"-ERR 2\r\n", b"+PONG\r\n"]
    assert second.seen == 1


def test_probability_comes_from_the_seed(server: Server) -> None:
    """Equal seeds hit the same requests, other seeds others, whatever other rules draw."""

    def hits(seed: int, noise: bool) -> list[bool]:
        with FaultProxy(*address(server), seed=seed) as proxy:
            rule = proxy.on("ECHO", probability=0.5, count=None, action=reply_error(LOADING))
            if noise:
                proxy.on("PING", probability=0.5, count=None, action=reply_error(LOADING))
            wire = Wire("127.0.0.1", proxy.port)
            answers = []
            for _ in range(60):
                wire.call("PING")
                answers.append(wire.call("ECHO", "x") == LOADING)
            wire.close()
            assert rule.hits == sum(answers)
        return answers

    first = hits(1, noise=False)
    assert 10 < sum(first) < 50
    assert hits(1, noise=True) == first
    assert hits(2, noise=False) != first


def test_wait_tells_hit_from_none(wire: Wire, proxy: FaultProxy) -> None:
    """`wait` is False when nothing happened, and wakes a thread when the number of hits is there."""
    rule = proxy.on("PING", count=2, action=delay_request(0))
    assert not rule.wait(0.01)
    results: list[bool] = []
    waiter = threading.Thread(target=lambda: results.append(rule.wait(SOON, hits=2)))
    waiter.start()
    wire.call("PING")
    assert not rule.wait(0.01, hits=2)
    wire.call("PING")
    waiter.join(SOON)
    assert results == [True]


def test_errors_inside_come_out(server: Server) -> None:
    """A predicate that raises ends the connection and fails the `with` block."""

    def boom(args: list[bytes]) -> bool:
        raise ZeroDivisionError

    def run() -> None:
        with FaultProxy(*address(server)) as proxy:
            proxy.on(where=boom, action=drop_request())
            wire = Wire("127.0.0.1", proxy.port)
            wire.send("PING")
            with pytest.raises((EOFError, ConnectionError)):
                wire.read()
            wire.close()

    with pytest.raises(RuntimeError, match="FaultProxy failed") as caught:
        run()
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_client_reply_is_refused(server: Server) -> None:
    """CLIENT REPLY would shift all replies: it fails the test instead."""

    def run() -> None:
        with FaultProxy(*address(server)) as proxy:
            wire = Wire("127.0.0.1", proxy.port)
            wire.send("CLIENT", "REPLY", "OFF")
            with pytest.raises((EOFError, ConnectionError)):
                wire.read()
            wire.close()

    with pytest.raises(RuntimeError, match="FaultProxy failed"):
        run()


# ---- actions ---------------------------------------------------------------------------------------------


def test_drop_request(wire: Wire, proxy: FaultProxy, redis: redis_py.Redis, prefix: str) -> None:
    """Redis never sees it; what was asked before is answered, and after it there is silence."""
    wire.call("CLIENT", "SETNAME", prefix)
    rule = proxy.on("INCR", action=drop_request())
    wire.sock.sendall(encode("ECHO", "before") + encode("INCR", prefix) + encode("SET", prefix + "2", "x"))
    assert wire.read() == b"$6\r\nbefore\r\n"
    assert rule.wait(SOON)
    assert wire.is_silent()
    assert redis.exists(prefix, prefix + "2") == 0
    wire.close()
    assert until(lambda: not connected(redis, prefix))


def test_drop_reply(wire: Wire, proxy: FaultProxy, redis: redis_py.Redis, prefix: str) -> None:
    """Redis ran it, once; the client has the replies before it and then the end; Redis is told of the end."""
    wire.call("CLIENT", "SETNAME", prefix)
    rule = proxy.on("INCR", action=drop_reply())
    wire.sock.sendall(encode("ECHO", "before") + encode("INCR", prefix) + encode("ECHO", "behind"))
    assert wire.read() == b"$6\r\nbefore\r\n"
    with pytest.raises(EOFError):
        wire.read()
    assert rule.wait(SOON)
    assert (redis.get(prefix), rule.lost) == (b"1", [b":1\r\n"])
    assert until(lambda: not connected(redis, prefix))


def test_drop_reply_of_a_command_that_was_blocked_before(
    wire: Wire, proxy: FaultProxy, redis: redis_py.Redis, prefix: str
) -> None:
    """A rule made while an idle BLMOVE waits catches its reply."""
    wire.call("CLIENT", "SETNAME", prefix)
    wire.send("BLMOVE", prefix + "a", prefix + "b", "RIGHT", "LEFT", 0)
    assert until(lambda: blocked(redis, prefix))
    rule = proxy.on(b"BLMOVE", action=drop_reply())
    redis.lpush(prefix + "a", "m")
    with pytest.raises(EOFError):
        wire.read()
    assert rule.wait(SOON)
    assert redis.lrange(prefix + "b", 0, -1) == [b"m"]


def test_drop_reply_and_stay_open(wire: Wire, proxy: FaultProxy, redis: redis_py.Redis, prefix: str) -> None:
    """The client sees silence, also for later requests, which Redis still runs, until the client goes."""
    wire.call("CLIENT", "SETNAME", prefix)
    rule = proxy.on("INCR", action=drop_reply(close=False), count=None)
    wire.send("INCR", prefix)
    assert rule.wait(SOON)
    wire.send("INCR", prefix)
    assert until(lambda: redis.get(prefix) == b"2")
    assert wire.is_silent()
    assert (rule.hits, rule.lost) == (1, [b":1\r\n"])
    assert connected(redis, prefix)
    wire.close()
    assert until(lambda: not connected(redis, prefix))


def test_delay_request(wire: Wire, proxy: FaultProxy, redis: redis_py.Redis, prefix: str) -> None:
    """It arrives later, what is behind it arrives behind it, and the client may be gone by then."""
    rule = proxy.on("APPEND", where=lambda args: args[2] == b"2", action=delay_request(0.3))
    began = time.monotonic()
    wire.sock.sendall(b"".join(encode("APPEND", prefix, number) for number in "123"))
    assert rule.wait(SOON)
    assert wire.read() == b":1\r\n"
    assert redis.get(prefix) == b"1"
    wire.close()
    assert until(lambda: redis.get(prefix) == b"123")
    assert time.monotonic() - began >= 0.3


def test_delay_reply(wire: Wire, proxy: FaultProxy, redis: redis_py.Redis, prefix: str) -> None:
    """Redis runs it at once; the replies come later and in order."""
    rule = proxy.on("SET", action=delay_reply(0.3))
    began = time.monotonic()
    wire.sock.sendall(encode("SET", prefix, "1") + encode("ECHO", "behind"))
    assert rule.wait(SOON)
    assert redis.get(prefix) == b"1"
    assert time.monotonic() - began < 0.3, "this machine is too slow for this test"
    assert [wire.read(), wire.read()] == [b"+OK\r\n", b"$6\r\nbehind\r\n"]
    assert time.monotonic() - began >= 0.3


@pytest.mark.parametrize(("action", "ran"), [(reset(), None), (reset("reply"), b"1")])
def test_reset(
    wire: Wire, proxy: FaultProxy, redis: redis_py.Redis, prefix: str, action: Action, ran: bytes | None
) -> None:
    """The client sees RST, no FIN; Redis has lost the client, and has run the request only if asked so."""
    wire.call("CLIENT", "SETNAME", prefix)
    rule = proxy.on("INCR", action=action)
    wire.send("INCR", prefix)
    assert wire.is_reset()
    assert rule.wait(SOON)
    assert until(lambda: not connected(redis, prefix))
    assert redis.get(prefix) == ran


@pytest.mark.parametrize("size", [0, 3, 100])
def test_cut_reply(wire: Wire, proxy: FaultProxy, prefix: str, size: int) -> None:
    """The client has the replies before it, so many bytes of this one, and then the end."""
    rule = proxy.on("GET", action=cut_reply(size))
    wire.call("SET", prefix, "0123456789")
    wire.sock.sendall(encode("ECHO", "x") + encode("GET", prefix) + encode("ECHO", "y"))
    reply = b"$10\r\n0123456789\r\n"
    assert wire.read_to_end() == b"$1\r\nx\r\n" + reply[:size]
    assert rule.wait(SOON)
    assert rule.lost == [reply]


@pytest.mark.parametrize(("action", "ran"), [(black_hole(), None), (black_hole("reply"), b"1")])
def test_black_hole(
    wire: Wire, proxy: FaultProxy, redis: redis_py.Redis, prefix: str, action: Action, ran: bytes | None
) -> None:
    """Silence both ways, even when the client goes: Redis keeps its end until everything is reset."""
    wire.call("CLIENT", "SETNAME", prefix)
    rule = proxy.on("INCR", action=action)
    wire.send("INCR", prefix)
    assert rule.wait(SOON)
    wire.send("SET", prefix + "2", "x")
    assert until(lambda: proxy.counts[b"SET"] == 1)
    assert wire.is_silent()
    assert (redis.get(prefix), redis.get(prefix + "2")) == (ran, None)
    wire.close()
    assert until(lambda: all(link._client is None for link in proxy._links))
    assert connected(redis, prefix)
    proxy.reset_all()
    assert until(lambda: not connected(redis, prefix))


def test_black_hole_swallows_replies_that_were_due(
    wire: Wire, proxy: FaultProxy, redis: redis_py.Redis, prefix: str
) -> None:
    """A command blocked before the hole runs, and its reply falls into it."""
    wire.call("CLIENT", "SETNAME", prefix)
    wire.send("BLMOVE", prefix + "a", prefix + "b", "RIGHT", "LEFT", 0)
    assert until(lambda: blocked(redis, prefix))
    rule = proxy.on("PING", action=black_hole())
    wire.send("PING")
    assert rule.wait(SOON)
    redis.lpush(prefix + "a", "m")
    assert until(lambda: redis.llen(prefix + "b") == 1)
    assert wire.is_silent()


def test_reply_error(wire: Wire, proxy: FaultProxy, redis: redis_py.Redis, prefix: str) -> None:
    """Redis never sees it; the error comes in its turn, and the connection goes on."""
    proxy.on("INCR", action=reply_error(b"-READONLY no"), count=2)
    stream = [encode("ECHO", "1"), encode("INCR", prefix), encode("ECHO", "2"), encode("INCR", prefix)]
    wire.sock.sendall(b"".join(stream))
    assert [wire.read() for _ in range(4)] == [
        b"$1\r\n1\r\n",
        b"-READONLY no\r\n",
        b"$1\r\n2\r\n",
        b"-READONLY no\r\n",
    ]
    assert wire.call("INCR", prefix) == b":1\r\n"
    for wrong in (b"LOADING", b"-A\r\n-B"):
        with pytest.raises(ValueError, match="not a RESP error"):
            reply_error(wrong)


def test_reply_error_waits_for_a_blocked_command(
    wire: Wire, proxy: FaultProxy, redis: redis_py.Redis, prefix: str
) -> None:
    """The proxy's own reply does not overtake one that Redis still owes."""
    proxy.on("PING", action=reply_error(LOADING))
    wire.sock.sendall(encode("BLMOVE", prefix + "a", prefix + "b", "RIGHT", "LEFT", 0) + encode("PING"))
    assert wire.is_silent()
    redis.lpush(prefix + "a", "m")
    assert [wire.read(), wire.read()] == [b"$1\r\nm\r\n", LOADING]


def test_trickled_reply_arrives_in_pieces(wire: Wire, proxy: FaultProxy) -> None:
    """It comes in order and complete, in time, and byte by byte."""
    wire.call("PING")
    rule = proxy.on("ECHO", action=trickle(interval=0.002))
    wire.sock.sendall(encode("ECHO", "x" * 43) + encode("PING"))
    pieces: list[bytes] = []
    while sum(map(len, pieces)) < 57:
        pieces.append(wire.sock.recv(65536))
    assert b"".join(pieces) == b"$43\r\n" + b"x" * 43 + b"\r\n+PONG\r\n"
    assert len(pieces) > 10
    assert rule.hits == 1


def test_trickled_request_is_run(wire: Wire, proxy: FaultProxy, redis: redis_py.Redis, prefix: str) -> None:
    """Redis gets it slowly, runs it when it is complete, and what is behind it afterwards."""
    rule = proxy.on("SET", action=trickle("request", interval=0.002))
    answer = proxy.on("SET", action=delay_reply(0))
    wire.call("PING")
    began = time.monotonic()
    stream = encode("SET", prefix, "x" * 50)
    wire.sock.sendall(stream + encode("GET", prefix))
    assert [wire.read(), wire.read()] == [b"+OK\r\n", b"$50\r\n" + b"x" * 50 + b"\r\n"]
    assert time.monotonic() - began >= 0.002 * (len(stream) - 1)
    assert (rule.hits, answer.hits) == (1, 1)


def test_ghost_takes_a_message_after_its_client_has_gone(
    wire: Wire, proxy: FaultProxy, redis: redis_py.Redis, prefix: str
) -> None:
    """The client is closed at once; the BLMOVE stays blocked, takes the next message, and then is gone."""
    wire.call("CLIENT", "SETNAME", prefix)
    rule = proxy.on(b"BLMOVE", action=ghost(10 * SOON))
    wire.sock.sendall(
        encode("BLMOVE", prefix + "a", prefix + "b", "RIGHT", "LEFT", 0) + encode("SET", prefix, "behind")
    )
    with pytest.raises(EOFError):
        wire.read()
    wire.close()
    assert until(lambda: blocked(redis, prefix))
    assert rule.wait(SOON)
    assert not rule.wait_lost(0.05)
    redis.lpush(prefix + "a", "m")
    assert rule.wait_lost(SOON)
    assert rule.lost == [b"$1\r\nm\r\n"]
    assert (redis.lrange(prefix + "b", 0, -1), redis.get(prefix)) == ([b"m"], None)
    assert until(lambda: not connected(redis, prefix))


def test_ghost_ends(wire: Wire, proxy: FaultProxy, redis: redis_py.Redis, prefix: str) -> None:
    """After its time the ghost takes nothing any more."""
    wire.call("CLIENT", "SETNAME", prefix)
    proxy.on(b"BLMOVE", action=ghost(0.15))
    began = time.monotonic()
    wire.send("BLMOVE", prefix + "a", prefix + "b", "RIGHT", "LEFT", 0)
    with pytest.raises(EOFError):
        wire.read()
    wire.close()
    assert until(lambda: not connected(redis, prefix))
    assert time.monotonic() - began >= 0.15
    redis.lpush(prefix + "a", "m")
    assert redis.llen(prefix + "a") == 1


def test_ghost_runs_late(wire: Wire, proxy: FaultProxy, redis: redis_py.Redis, prefix: str) -> None:
    """With `after`, a command runs when its client is long gone, unless its connection is killed in time."""
    wire.call("CLIENT", "SETNAME", prefix)
    rule = proxy.on("INCR", action=ghost(SOON, after=0.3))
    wire.send("INCR", prefix)
    with pytest.raises(EOFError):
        wire.read()
    assert redis.get(prefix) is None
    assert rule.wait_lost(SOON)
    assert redis.get(prefix) == b"1"


def test_killed_ghost_never_runs(wire: Wire, proxy: FaultProxy, redis: redis_py.Redis, prefix: str) -> None:
    """CLIENT KILL of the old connection keeps a request in flight from running."""
    number = int(wire.call("CLIENT", "ID")[1:])
    rule = proxy.on("INCR", action=ghost(SOON, after=0.3))
    wire.send("INCR", prefix)
    assert rule.wait(SOON)
    assert redis.client_kill_filter(_id=str(number)) == 1
    assert until(lambda: not proxy._links)
    assert not rule.wait_lost(0.4)
    assert redis.get(prefix) is None


# ---- switches --------------------------------------------------------------------------------------------


def test_latency_is_added_each_way(wire: Wire, proxy: FaultProxy) -> None:
    """One trip takes twice the latency; a pipeline takes it once, in order; it can be taken away."""
    wire.call("PING")
    proxy.latency = 0.05
    began = time.monotonic()
    assert wire.call("PING") == b"+PONG\r\n"
    assert time.monotonic() - began >= 0.1
    began = time.monotonic()
    for number in range(20):
        wire.send("ECHO", number)
    assert [wire.read() for _ in range(20)] == [
        b"$%d\r\n%d\r\n" % (len(str(number)), number) for number in range(20)
    ]
    assert 0.1 <= time.monotonic() - began < 1.0
    proxy.latency = 0

    def trip() -> float:
        began = time.monotonic()
        wire.call("PING")
        return time.monotonic() - began

    assert until(lambda: trip() < 0.1)


def test_partition_holds_everything_until_it_heals(
    wire: Wire, proxy: FaultProxy, connect: Callable[[], Wire], redis: redis_py.Redis, prefix: str
) -> None:
    """Old and new connections are silent; after it both get their replies, and nothing is lost or twice."""
    wire.call("PING")
    proxy.partition()
    new = connect()
    wire.send("INCR", prefix)
    new.send("INCR", prefix)
    assert wire.is_silent()
    assert new.is_silent()
    assert redis.get(prefix) is None
    proxy.heal()
    assert {wire.read(), new.read()} == {b":1\r\n", b":2\r\n"}
    assert wire.call("GET", prefix) == b"$1\r\n2\r\n"


def test_partition_hides_the_end_of_a_client(
    wire: Wire, proxy: FaultProxy, redis: redis_py.Redis, prefix: str
) -> None:
    """A BLMOVE whose client closed behind a partition goes on and takes a message that nobody gets."""
    wire.call("CLIENT", "SETNAME", prefix)
    wire.send("BLMOVE", prefix + "a", prefix + "b", "RIGHT", "LEFT", 0)
    assert until(lambda: blocked(redis, prefix))
    proxy.partition()
    wire.close()
    redis.lpush(prefix + "a", "m")
    assert until(lambda: redis.llen(prefix + "b") == 1)
    assert connected(redis, prefix)
    proxy.heal()
    assert until(lambda: not connected(redis, prefix))


def test_partition_can_end_in_resets(
    wire: Wire, proxy: FaultProxy, connect: Callable[[], Wire], redis: redis_py.Redis, prefix: str
) -> None:
    """heal(deliver=False): what was held never arrives, and its connections are gone."""
    wire.call("PING")
    proxy.partition()
    wire.send("INCR", prefix)
    assert until(lambda: proxy.counts[b"INCR"] == 1)
    proxy.heal(deliver=False)
    assert wire.is_reset()
    assert connect().call("GET", prefix) == b"$-1\r\n"


def test_partition_can_refuse(wire: Wire, proxy: FaultProxy, connect: Callable[[], Wire]) -> None:
    """partition(refuse=True): no new connections, on the same port again after it, as often as one likes."""
    wire.call("PING")
    for _ in range(3):
        proxy.partition(refuse=True)
        with pytest.raises(ConnectionRefusedError):
            connect()
        proxy.heal()
        assert connect().call("PING") == b"+PONG\r\n"
    assert wire.call("PING") == b"+PONG\r\n"


def test_reset_all(connect: Callable[[], Wire], proxy: FaultProxy, redis: redis_py.Redis, prefix: str) -> None:
    """Every connection is reset both ways, the silent ones too; new ones are as good as ever."""
    wires = [connect() for _ in range(3)]
    for wire in wires:
        wire.call("CLIENT", "SETNAME", prefix)
    rule = proxy.on("PING", action=drop_request())
    wires[0].send("PING")
    assert rule.wait(SOON)
    proxy.reset_all()
    assert all(wire.is_reset() for wire in wires)
    assert until(lambda: not connected(redis, prefix))
    assert connect().call("PING") == b"+PONG\r\n"


def test_nothing_is_left(server: Server) -> None:
    """After the `with` block the thread is gone, clients see the end, and the port is free."""
    with FaultProxy(*address(server)) as proxy:
        wire = Wire("127.0.0.1", proxy.port)
        wire.call("PING")
        thread = proxy._thread
    assert thread is not None
    assert not thread.is_alive()
    assert wire.is_reset()
    wire.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", proxy.port))
    assert proxy.errors == []


# ---- with a real client ----------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [2, 3])
def test_redis_py_through_the_proxy(proxy: FaultProxy, redis: redis_py.Redis, prefix: str, protocol: int) -> None:
    """What the proxy is for: a claim whose reply is lost has moved its message, and one command was sent."""
    with redis_py.Redis.from_url(proxy.url, protocol=protocol, socket_timeout=SOON) as client:
        client.rpush(prefix + "a", "m1", "m2")
        rule = proxy.on(b"BLMOVE", action=drop_reply())
        with pytest.raises(redis_py.ConnectionError):
            client.blmove(prefix + "a", prefix + "b", 5)
        assert rule.wait(SOON)
        assert redis.lrange(prefix + "b", 0, -1) == [b"m1"]
        assert proxy.counts[b"BLMOVE"] == 1
        assert client.blmove(prefix + "a", prefix + "b", 5) == b"m2"
        with client.pipeline() as pipe:
            for number in range(200):
                pipe.rpush(prefix + "c", number)
            assert pipe.execute() == list(range(1, 201))


def test_threads_share_the_proxy(proxy: FaultProxy, prefix: str) -> None:
    """Eight clients at once, with latency and trickling in between, each get their own answers."""
    proxy.latency = 0.001
    proxy.on("ECHO", action=trickle(interval=0), count=None, probability=0.05)
    proxy.on("ECHO", action=delay_reply(0.005), count=None, probability=0.05)
    failures: list[object] = []

    def work(name: int) -> None:
        with redis_py.Redis.from_url(proxy.url, socket_timeout=SOON) as client:
            for number in range(100):
                text = f"{prefix}-{name}-{number}".encode()
                if (answer := client.echo(text.decode())) != text:
                    failures.append((text, answer))

    threads = [threading.Thread(target=work, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert proxy.counts[b"ECHO"] == 800
