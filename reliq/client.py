"""What both shells must know about redis-py: how to make its connections explicit, and what its errors mean.

Nothing is inherited from redis-py's defaults (the traps are listed beside each setting), and redis-py
never repeats a command by itself.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import tenacity
from redis.backoff import NoBackoff
from redis.connection import Connection, SSLConnection, UnixDomainSocketConnection, parse_url
from redis.exceptions import RedisError, ResponseError

from reliq import defaults
from reliq.core import outcome
from reliq.errors import ConfigError, OutcomeUnknown, ReliqError, Unavailable, UnsupportedServer

MIN_VERSION = (6, 2)


@dataclass(frozen=True)
class Address:
    """Where Redis is. ``label`` is what people are shown: never a password."""

    url: str = field(repr=False)
    label: str
    kwargs: dict[str, Any] = field(repr=False)

    @property
    def kind(self) -> str:
        """How to connect: ``redis``, ``rediss`` (TLS) or ``unix``."""
        return urlsplit(self.url).scheme


@cache
def _query_options() -> frozenset[str]:
    """What may stand behind the ``?`` of a URL: what redis-py's connections take."""
    kinds = (Connection, SSLConnection, UnixDomainSocketConnection)
    classes = {cls for kind in kinds for cls in kind.__mro__ if cls is not object}
    return frozenset(name for cls in classes for name in inspect.signature(cls).parameters)


def parse(url: str) -> Address:
    """Read a URL: redis://[user:password@]host:port/db, rediss://… or unix:///path?db=0.

    Raises ConfigError with what is wrong; the password is not in the message.
    """
    try:
        parts = urlsplit(url)
        kwargs: dict[str, Any] = dict(parse_url(url))  # type: ignore[no-untyped-call]
        port = parts.port
    except (ValueError, TypeError) as error:
        raise ConfigError(f"the Redis URL is wrong: {error}. Example: redis://localhost:6379/0") from None
    kwargs.pop("connection_class", None)
    if parts.scheme == "unix":
        label = f"unix://{kwargs.get('path', '')}"
    else:
        path = parts.path.strip("/")
        if path and not path.isdigit():
            raise ConfigError(
                f"the Redis URL names database {path!r}; it is a number, as in redis://localhost:6379/0"
            )
        label = f"{parts.hostname or 'localhost'}:{port or 6379}/{kwargs.get('db', 0)}"
    owned = {"socket_timeout", "retry", "protocol", "decode_responses", "health_check_interval"}
    for name, _ in parse_qsl(parts.query):
        if name in owned:
            raise ConfigError(f"the Redis URL sets {name!r}, which reliq decides itself; leave it out")
        if name not in _query_options():
            raise ConfigError(
                f"the Redis URL has an option {name!r} that no connection knows; correct it or leave it out"
            )
    return Address(url, label, kwargs)


def connection_kwargs(address: Address, *, read_timeout: float, retry: Any, name: str) -> dict[str, Any]:
    """The keyword arguments of a redis-py connection, sync or asyncio; ``retry`` is that shell's class."""
    return {
        "socket_connect_timeout": defaults.CONNECT_TIMEOUT,
        **address.kwargs,
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


def insistence(timeout: float) -> dict[str, Any]:
    """How tenacity repeats what is safe to repeat: from 8 ms to 512 ms apart, with jitter, within ``timeout``."""
    return {
        "stop": tenacity.stop_after_delay(timeout),
        "wait": tenacity.wait_exponential(multiplier=0.008, max=0.512) + tenacity.wait_random(0, 0.01),
        "retry": tenacity.retry_if_exception_type((Unavailable, OutcomeUnknown)),
        "reraise": True,
    }


def failure(error: Exception, what: str, where: str, *, sent: bool) -> ReliqError:
    """What an exception of redis-py means: refused, not sent, or unknown."""
    code = getattr(error, "status_code", None)
    if code is None and not _is_transport(error):
        code = "ERR"
    if code is not None:
        text = str(error) if code == "ERR" else f"{code} {error}"
        return outcome.of_reply(text, what, where)
    return (outcome.no_answer if sent else outcome.not_sent)(what, where, error)


def _is_transport(error: Exception) -> bool:
    """Whether the connection failed, as opposed to an error reply (ResponseError)."""
    return isinstance(error, OSError | RedisError | EOFError) and not isinstance(error, ResponseError)


@dataclass(frozen=True)
class Server:
    """What a connection says about the server that it reached."""

    version: str = ""
    run_id: str = ""
    client_id: int = 0


def read_server(info: bytes | str | None, client_id: int, where: str) -> Server:
    """Read INFO's server section; raises UnsupportedServer below 6.2. No INFO (ACL) is accepted as it is."""
    text = info.decode("utf-8", "replace") if isinstance(info, bytes) else info or ""
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    version = fields.get("redis_version", "")
    if version:
        numbers = tuple(int(n) for n in version.split(".")[:2] if n.isdigit())
        if numbers < MIN_VERSION:
            raise UnsupportedServer(
                f"Redis at {where} is version {version}; reliq needs 6.2 or later (for BLMOVE). "
                "Upgrade the server, or point RELIQ_URL at a newer one."
            )
    return Server(version, fields.get("run_id", ""), client_id)
