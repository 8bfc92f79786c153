"""What both shells must know about redis-py: how to make its connections explicit, and what its errors mean.

Nothing is inherited from redis-py's defaults (the traps are listed beside each setting), and redis-py
never repeats a command by itself.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

import tenacity
from redis.backoff import NoBackoff
from redis.connection import parse_url
from redis.exceptions import AskError, MovedError, RedisError, ResponseError

from reliq import defaults
from reliq.core import outcome
from reliq.core.command import Command
from reliq.core.keys import Keys
from reliq.core.shape import ANY, fits
from reliq.core.topology import Node, Server, Topology, is_address, redirection
from reliq.errors import (
    ConfigError,
    OutcomeUnknown,
    PoolExhausted,
    ReliqError,
    Unavailable,
    UnsupportedServer,
)

if TYPE_CHECKING:
    from reliq.settings import Settings

try:
    from hiredis import pack_command
except ImportError:
    pack_command = None  # type: ignore[assignment]  # then redis-py's own is used

MIN_VERSION = (6, 2)
#: Seconds for a sentinel or a node of a Cluster to say where the primary is; then another one is asked.
ASK_TIMEOUT: Final = 1.0
_SENTINEL: Final = "+sentinel"
#: What a URL looks like. Not compiled here: few URLs need more than two of these, and every import would pay.
_SCHEME: Final = r"(rediss?(\+sentinel)?|unix)://"
_HOST: Final = r"(\[[^\]\s]+\]|[^\s:\[\]]+)(?::([0-9]{1,5}))?"
_NUMBER: Final = r"[0-9]{1,9}"
#: A colon behind which there is no port, and no host either.
_CUT_OFF: Final = r"^[^@\[]*:(?![0-9]+$)[^@,]*$"
_EXAMPLE: Final = "Example: redis://localhost:6379/0"
_OWNED: Final = frozenset(
    {"socket_timeout", "retry", "protocol", "decode_responses", "health_check_interval", "client_name"}
)
_TEXT, _BOOL = r"(?s).+", r"(?i)true|false|yes|no|y|n|t|f|0|1"
#: What may stand behind the ``?`` of a URL, and what its value looks like.
_OPTIONS: Final = {
    "db": _NUMBER,
    "username": _TEXT,
    "password": _TEXT,
    "socket_connect_timeout": r"[0-9]{1,6}(\.[0-9]{1,6})?",
    "socket_keepalive": _BOOL,
    "ssl_check_hostname": _BOOL,
    "ssl_cert_reqs": "none|optional|required",
    **dict.fromkeys(("ssl_ca_certs", "ssl_ca_path", "ssl_ca_data", "ssl_certfile", "ssl_keyfile"), _TEXT),
    **dict.fromkeys(("ssl_password", "ssl_ciphers"), _TEXT),
}


@dataclass(frozen=True, eq=False)
class Address:
    """Where Redis is. ``label`` is what people are shown: never a password. ``master``: the name by which the
    sentinels at ``nodes`` know it; without one, several ``nodes`` are those of a Cluster."""

    url: str = field(repr=False)
    label: str
    kwargs: dict[str, Any] = field(repr=False)
    nodes: tuple[Node, ...] = (Node("", 0),)
    master: str = ""
    sentinel: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def kind(self) -> str:
        """How to connect: ``redis``, ``rediss`` (TLS) or ``unix``."""
        return urlsplit(self.url).scheme.removesuffix(_SENTINEL)

    @property
    def has_password(self) -> bool:
        """Whether the URL holds one, of Redis or of its sentinels."""
        return "password" in {**self.kwargs, **self.sentinel}

    def topology(self) -> Topology:
        """What is known of the servers there: nothing yet."""
        return Topology(self.nodes, master=self.master, label=self.label)


def parse(url: str) -> Address:
    """Read a URL: redis://[user:password@]host:port/db, rediss://… or unix:///path?db=0; several hosts of a
    Cluster (redis://h1:7000,h2:7001/0); redis+sentinel://[user:password@]host:26379,host2:26379/master/db.

    Raises ConfigError with what is wrong; the password is not in the message.
    """
    try:
        return _read(url)
    except ConfigError:
        if isinstance(url, str) and "@" in url[len(_authority(url)) :]:
            # The password has ended the host too early, so that whatever we would name may be a part of it.
            raise ConfigError(
                "the Redis URL cannot be read. In a user name or password, / is written %2F, ? is %3F, # is %23, "
                f"@ is %40, [ is %5B and : is %3A. {_EXAMPLE}"
            ) from None
        raise


def _authority(url: str) -> str:
    """The URL up to the end of what should be user, password and hosts."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{re.split('[/?#]', rest, maxsplit=1)[0]}"


def _read(url: str) -> Address:
    if not isinstance(url, str) or not re.match(_SCHEME, url):
        raise ConfigError(
            "the Redis URL has to begin with redis://, rediss://, unix:// or redis+sentinel://, and be a text. "
            f"{_EXAMPLE}"
        )
    try:
        url.encode()
        parts = urlsplit(url)
    except ValueError:  # whose text may show the password
        raise ConfigError(
            "the Redis URL cannot be read: brackets belong around IPv6 addresses alone, and what is no plain "
            f"letter or digit in user and password is percent-encoded. {_EXAMPLE}"
        ) from None
    if "#" in url:
        raise ConfigError("the Redis URL has a #, and nothing belongs behind one; in a password it is written %23")
    if parts.query and re.search(_CUT_OFF, parts.netloc):  # what follows may be the rest of a password
        raise ConfigError(
            "the Redis URL has a ? where a port or a host belongs; in a user or a password it is written %3F. "
            f"{_EXAMPLE}"
        )
    behind_sentinels = parts.scheme.endswith(_SENTINEL)
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        _check_option(name, value, parts.scheme, behind_sentinels=behind_sentinels)
    if parts.scheme == "unix":
        return _on_this_host(url)
    if behind_sentinels:
        return _behind_sentinels(url)
    return _by_hosts(url)


def _check_option(name: str, value: str, scheme: str, *, behind_sentinels: bool) -> None:
    """What stands behind the ``?`` of a URL; the value is not shown, it may be a password."""
    if name in _OWNED:
        raise ConfigError(f"the Redis URL sets {name!r}, which reliq decides itself; leave it out")
    if behind_sentinels and name.startswith("sentinel_"):
        return
    if name not in _OPTIONS:
        raise ConfigError(
            f"the Redis URL has an option {name!r} that no connection knows; correct it or leave it out"
        )
    if name.startswith("ssl_") and not scheme.startswith("rediss"):
        raise ConfigError(
            f"the Redis URL sets {name!r}, which is for TLS: begin the URL with rediss://, or leave it out"
        )
    if not re.fullmatch(_OPTIONS[name], value):
        raise ConfigError(f"the Redis URL sets {name!r} to what it cannot be; correct it or leave it out")


def _on_this_host(url: str) -> Address:
    """unix://[user:password@]/path/of/the/socket?db=0"""
    parts = urlsplit(url)
    if (parts.netloc and not parts.netloc.endswith("@")) or not parts.path.strip("/") or "%00" in parts.path:
        raise ConfigError("the Redis URL names no socket. Example: unix:///run/redis/redis.sock?db=0")
    kwargs = _kwargs(url)
    return Address(url, f"unix://{kwargs.get('path', '')}", kwargs)


def _by_hosts(url: str) -> Address:
    """One server, or some nodes of a Cluster."""
    parts = urlsplit(url)
    user, at, hosts = parts.netloc.rpartition("@")
    nodes = _nodes(hosts or "localhost", 6379)
    path = parts.path.strip("/")
    if path and not re.fullmatch(_NUMBER, path):
        raise ConfigError(f"the Redis URL names database {path!r}; it is a number, as in redis://localhost:6379/0")
    kwargs = _kwargs(parts._replace(netloc=f"{user}{at}{nodes[0]}").geturl())
    db = kwargs.get("db", 0)
    if len(nodes) > 1 and db:
        raise ConfigError(
            f"the Redis URL names several hosts, so a Cluster, and database {db}; a Cluster has only 0"
        )
    return Address(url, f"{','.join(map(str, nodes))}/{db}", kwargs, nodes)


def _behind_sentinels(url: str) -> Address:
    """redis+sentinel://[user:password@]host:26379,host2:26379/master/db; user and password are those of Redis,
    ``?sentinel_username=`` and ``?sentinel_password=`` those of the sentinels, where they have any."""
    parts = urlsplit(url)
    user, at, hosts = parts.netloc.rpartition("@")
    nodes = _nodes(hosts or "localhost", 26379)
    master, _, db = parts.path.strip("/").partition("/")
    if not master or "@" in master or (db and not re.fullmatch(_NUMBER, db)):
        raise ConfigError(
            "the sentinel URL has to name the master, and then perhaps a database: "
            "redis+sentinel://host:26379,host2:26379/mymaster/0"
        )
    query = parse_qsl(parts.query)
    own = [(k, v) for k, v in query if not k.startswith("sentinel_")]
    scheme = parts.scheme.removesuffix(_SENTINEL)
    plain = parts._replace(scheme=scheme, netloc=f"{user}{at}{nodes[0]}", path=f"/{db}", query=urlencode(own))
    theirs = {k.removeprefix("sentinel_"): v for k, v in query if k.startswith("sentinel_")}
    if not theirs.keys() <= {"username", "password"}:
        raise ConfigError(
            "the sentinel URL takes sentinel_username and sentinel_password, nothing else of that kind"
        )
    label = f"{unquote(master)!r} by sentinels {','.join(map(str, nodes))}"
    return Address(url, label, _kwargs(plain.geturl()), nodes, unquote(master), theirs)


def _nodes(hosts: str, port: int) -> tuple[Node, ...]:
    """host:port,host2:port2. What is wrong is not shown: without an @ it may be the password."""
    found = []
    for text in hosts.split(","):
        match = re.fullmatch(_HOST, text)
        node = match and Node(match[1].strip("[]"), int(match[2] or port))
        if not node or not is_address(*node):
            raise ConfigError(
                f"the Redis URL has no host and port where they should be. {_EXAMPLE}; several of a Cluster are "
                "separated by commas, and a password ends with an @"
            )
        found.append(node)
    return tuple(dict.fromkeys(found))


def _kwargs(url: str) -> dict[str, Any]:
    """What redis-py makes of a URL with one host."""
    try:
        kwargs: dict[str, Any] = dict(parse_url(url))  # type: ignore[no-untyped-call]
    except (ValueError, TypeError):
        raise ConfigError(f"the Redis URL cannot be read. {_EXAMPLE}") from None
    kwargs.pop("connection_class", None)
    return kwargs


def connection_kwargs(
    address: Address, node: Node | None = None, *, read_timeout: float, retry: Any, name: str
) -> dict[str, Any]:
    """The keyword arguments of a redis-py connection, sync or asyncio; ``retry`` is that shell's class."""
    return {
        "socket_connect_timeout": defaults.CONNECT_TIMEOUT,
        **address.kwargs,
        **({"host": node.host, "port": node.port} if node and node.host else {}),
        "socket_timeout": read_timeout,
        # Redis() retries ten times around send *and* read, so a bare LPUSH can run eleven times.
        "retry": retry(NoBackoff(), 0),
        # RESP3 turns on maintenance notifications, which switch off the check for unread replies and
        # lengthen timeouts behind our back.
        "protocol": 2,
        "decode_responses": False,
        "health_check_interval": 0,
        "client_name": name,
        "driver_info": None,  # saves two round trips per connection
    }


def asking_kwargs(address: Address, node: Node, *, retry: Any) -> dict[str, Any]:
    """The same for a connection that asks a sentinel, or a node of a Cluster, where the primary is."""
    kwargs = connection_kwargs(address, node, read_timeout=ASK_TIMEOUT, retry=retry, name="reliq-ask")
    kwargs["socket_connect_timeout"] = min(ASK_TIMEOUT, float(kwargs["socket_connect_timeout"]))
    if not address.master:
        return kwargs
    kwargs |= {"db": 0, "username": None, "password": None, "client_name": None}
    return kwargs | address.sentinel


def place(address: Address, node: Node) -> str:
    """How messages to people call a node that was reached by way of this address."""
    label, tls = address.label.rpartition("/")[0], outcome.TLS if address.kind == "rediss" else ""
    if not node.host or address.nodes == (node,):
        return address.label + tls
    return (f"{node} ({address.label})" if address.master else f"{node} (of the cluster at {label})") + tls


def opening(address: Address) -> list[tuple[str, ...]]:
    """What a new connection asks; ``read_server`` takes the replies."""
    return [
        ("INFO", "server"),
        ("INFO", "replication"),
        ("CLIENT", "ID"),
        *([("ROLE",)] if address.master else []),
    ]


def insistence(settings: Settings) -> dict[str, Any]:
    """How tenacity repeats what is safe to repeat, after a first failure: from ``backoff_from`` to ``backoff_to``
    apart, with jitter, within ``timeout`` and at most ``retries`` times."""
    stop: tenacity.stop.stop_base = tenacity.stop_after_delay(settings.timeout)
    if settings.retries is not None:
        stop |= tenacity.stop_after_attempt(settings.retries)
    wait = tenacity.wait_exponential(multiplier=settings.backoff_from, max=settings.backoff_to)
    return {
        "stop": stop,
        "wait": wait + tenacity.wait_random(0, 0.01),
        "retry": tenacity.retry_if_exception_type((Unavailable, OutcomeUnknown)),
        "reraise": True,
    }


def end_of_age(now: float, max_age: float) -> float:
    """When a connection made now is too old: after 90 to 100 % of ``max_age``, so that those which a failover has
    made all at once are not made anew all at once."""
    return now + max_age * random.uniform(0.9, 1.0)


def exhausted(settings: Settings, where: str) -> PoolExhausted:
    """Nobody has given a connection back in time."""
    return PoolExhausted(
        f"no connection to Redis at {where}: all {settings.pool_size} (pool_size) were in use for "
        f"{settings.pool_wait:g} s (pool_wait), so nothing was sent. Raise pool_size, do less at once, or see "
        "whether Redis is slow: reliq doctor."
    )


def failure(error: Exception, what: str, where: str, *, sent: bool) -> ReliqError:
    """What an exception of redis-py means: refused, not sent, or unknown."""
    text = _reply_text(error)
    if text is not None:
        return outcome.of_reply(text, what, where)
    return (outcome.no_answer if sent else outcome.not_sent)(what, where, error)


def _reply_text(error: Exception) -> str | None:
    """The error reply as the server sent it; None if there was none."""
    code = getattr(error, "status_code", None)
    if code is None:
        return None if _is_transport(error) else str(error)
    return str(error) if code == "ERR" else f"{code} {error}"


def is_elsewhere(error: Exception, topology: Topology, node: Node | None) -> bool:
    """Note what an error reply tells about the nodes; True if the primary is no longer behind this connection."""
    text = _reply_text(error) or ""
    code = outcome.code_of(text)
    found = redirection(text, node)
    if code == "MOVED" and found is not None:
        topology.moved(*found)
    elif code in ("CLUSTERDOWN", "MASTERDOWN"):
        topology.doubt(node)
    return code in outcome.ELSEWHERE


def pack(connection: Any, lines: Iterable[Sequence[Any]]) -> Any:
    """Commands as they go over the wire: by hiredis where it is installed, which takes a fifth of the time."""
    if pack_command is None:
        return connection.pack_commands(lines)
    return b"".join([pack_command(line) for line in lines])  # type: ignore[arg-type]  # of a tuple of one, it says


def asked_to(error: object, node: Node | None) -> Node | None:
    """Where an ASK sends this one command; None if it is another error, or none."""
    if not isinstance(error, AskError) or isinstance(error, MovedError):
        return None
    found = redirection(_reply_text(error) or "", node)
    return found and found[1]


def _is_transport(error: Exception) -> bool:
    """Whether the connection failed, as opposed to an error reply (ResponseError)."""
    return isinstance(error, OSError | RedisError | EOFError) and not isinstance(error, ResponseError)


def read_server(replies: list[Any], where: str) -> Server:
    """Read the replies to ``opening``; raises UnsupportedServer below 6.2. What an ACL forbids is None."""
    *infos, client_id = replies[:3]
    role = replies[3:]
    text = "\n".join(i.decode("utf-8", "replace") if isinstance(i, bytes) else i or "" for i in infos)
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    version = fields.get("redis_version", "")
    if version and _numbers(version) < MIN_VERSION:
        raise UnsupportedServer(
            f"Redis at {where} is version {version}; reliq needs 6.2 or later (for BLMOVE). "
            "Upgrade the server, or point RELIQ_URL at a newer one."
        )
    said = role[0][0] if role and role[0] else b""
    return Server(
        version, fields.get("run_id", ""), client_id or 0, fields.get("redis_mode") == "cluster",
        said.decode() if isinstance(said, bytes) else str(said), fields.get("master_replid", ""),
    )  # fmt: skip


def check_greeting(replies: list[Any], address: Address, where: str) -> None:
    """Refuse what no Redis says to ``opening``: something else listens there, or stands in between."""
    for question, reply in zip(opening(address), replies, strict=True):
        if reply is not None and not _GREETINGS[question[0]](reply):
            raise outcome.not_sent("connect", where, f"it answers {' '.join(question)} with {repr(reply)[:100]}")


_GREETINGS: Final[dict[str, Callable[[Any], bool]]] = {
    "INFO": lambda reply: isinstance(reply, bytes | str),
    "CLIENT": lambda reply: isinstance(reply, int),
    "ROLE": lambda reply: fits(reply, (bytes, ANY, ...)) and reply[0].isascii(),
}


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(n) for n in version.split(".")[:2] if n.isdecimal())


def check_keys(keys: Keys | None, server: Server) -> None:
    """Refuse what a Cluster cannot serve: a queue whose keys are not all in one slot (DESIGN 9.16)."""
    if server.cluster and keys is not None and not keys.one_slot:
        raise ConfigError(
            f"queue {keys.queue!r}: on a Redis Cluster the list {keys.key!r} cannot be adopted: no hash tag has "
            "the slot of a name with '}' in it, so the queue's other keys could not be beside it. Rename the "
            "list, or use a Redis that is no Cluster"
        )


def check_needs(command: Command, server: Server, where: str) -> None:
    """Refuse, before anything is sent, what this server does not know."""
    if server.version and _numbers(server.version) < command.needs:
        raise UnsupportedServer(
            f"Redis at {where} is version {server.version}; fsync=True needs WAITAOF of "
            f"{'.'.join(map(str, command.needs))} or later. Nothing was put: leave it out, or upgrade the server."
        )
