"""Which Redis, and how to talk to it: read from a mapping, the environment or a URL, and checked before anything
connects. What is wrong is said in one line that names the setting, the reason and the next step, never a password.

What is said nearer to the code goes first: an argument of ``Queue``, then the mapping, then the environment, and
at last the embedded Redis. That holds for each setting alone, but who says where Redis is (``url``, ``host``,
``socket``, ``nodes``) says it whole; only what he leaves out of user, password and TLS files is still taken from
further away, so that a password can come from where secrets are kept.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode

from reliq import client, defaults
from reliq.errors import ConfigError
from reliq.settings.place import PLACE, WHERE, url_of
from reliq.settings.setting import MOST, Setting
from reliq.settings.sources import together

__all__ = ["TABLE", "Setting", "Settings"]

#: Seconds by which a connection has to outwait a command that blocks: Redis looks at the clock every 100 ms, and
#: an answer that nobody waits for any more may hand out a message.
MARGIN: Final = 1.0
_BRIEF: Final = 0.001


def _row(name: str, kind: type, default: Any, about: str, least: float = 0, most: float = MOST) -> Any:
    return field(default=default, metadata={"row": Setting(name, kind, about, default, least, most)})


@dataclass(frozen=True)
class Settings:
    """All that there is to say about connections, checked: ConfigError says what is wrong. Times are in seconds.

    Made from a mapping (``of``), the environment (``from_env``) or a URL (``parse``). ``url`` may hold a password,
    and is therefore not in the repr; None means the embedded Redis.
    """

    url: str | None = field(default=None, repr=False)
    prefix: str | None = _row("prefix", str, None, "of all keys (`reliq`), to keep applications apart")
    block: float = _row("block", float, defaults.BLOCK, "an idle consumer asks again this often", _BRIEF)
    timeout: float = _row(
        "timeout", float, defaults.TIMEOUT, "to write a command and read its answer; for a put in all", _BRIEF
    )
    read_timeout: float | None = _row(
        "read_timeout",
        float,
        None,
        "of the connection that blocks: `block` and a second, or more (and `timeout`)",
        _BRIEF,
    )
    connect_timeout: float = _row("connect_timeout", float, defaults.CONNECT_TIMEOUT, "to connect", _BRIEF)
    pool_size: int = _row("pool_size", int, 100, "connections at once of a process or event loop", 1, 10_000)
    pool_wait: float = _row("pool_wait", float, 5.0, "to wait for one of them; then `PoolExhausted`")
    min_idle: int = _row("min_idle", int, 0, "connections that the first use opens, and that stay", 0, 10_000)
    idle_check: float = _row("idle_check", float, 60.0, "one idle for longer is asked (PING) before it is used")
    idle_timeout: float = _row("idle_timeout", float, 300.0, "one idle for longer is closed", _BRIEF)
    max_age: float = _row("max_age", float, 600.0, "an older one is made anew between two commands", _BRIEF)
    retries: int | None = _row(
        "retries", int, None, "of what is safe to repeat (as many as `timeout` has room for)", 0, 1_000_000
    )
    backoff_from: float = _row("backoff_from", float, 0.008, "the first pause between two of them; doubles")
    backoff_to: float = _row("backoff_to", float, 0.512, "the longest of these pauses")

    def __post_init__(self) -> None:
        for name, row in OPTIONS.items():
            value = getattr(self, name)
            if value is not None or row.default is not None:
                object.__setattr__(self, name, row.check(value, f"setting {name!r}"))
        self._agree()

    def _agree(self) -> None:
        """Settings against each other."""
        enough = self.block + MARGIN
        if self.patience < enough and self.read_timeout is not None:
            raise ConfigError(
                f"setting 'read_timeout' is {self.patience:g} and 'block' {self.block:g}: a connection that gives "
                f"up before Redis answers loses what Redis hands out then. Raise read_timeout to {enough:g} or "
                "more, or leave it out, or lower block"
            )
        if self.min_idle > self.pool_size:
            raise ConfigError(
                f"setting 'min_idle' is {self.min_idle} and 'pool_size' {self.pool_size}, and no more can be idle "
                "than there are: lower min_idle, or raise pool_size"
            )
        if self.backoff_from > self.backoff_to:
            raise ConfigError(
                f"setting 'backoff_from' is {self.backoff_from:g} and 'backoff_to' {self.backoff_to:g}, and "
                "pauses grow from the one to the other: exchange them"
            )

    @classmethod
    def of(cls, said: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> Settings:
        """Read a mapping, as YAML or JSON gives it; ``environ`` (none) completes what it does not say."""
        settings = cls._of(said, environ or {})
        if settings.url is not None:
            settings.address()
        return settings

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """Read RELIQ_URL, or RELIQ_HOST and the like, from here (``os.environ``)."""
        return cls._of({}, os.environ if environ is None else environ)

    @classmethod
    def parse(cls, url: str) -> Settings:
        """Read a URL, which may say behind its ``?`` how to connect: redis://localhost:6379/0?pool_size=8"""
        return cls.of({"url": url})

    @classmethod
    def chosen(cls, url: str | None, said: Settings | Mapping[str, Any] | None) -> Settings:
        """What ``Queue(url=, settings=)`` means, together with the environment. Whether the URL can be read, the
        first use says."""
        named = said.url if isinstance(said, Settings) else _place_in(said)
        if url is not None and named not in (None, url):
            raise ConfigError("url= and settings= name a place each: leave one of them out")
        if isinstance(said, Settings):
            return said if url is None else said.at(url)
        here = {} if url is None else {"url": url}
        return cls._of({**said, **here} if isinstance(said, Mapping) else said or here, os.environ)

    @classmethod
    def _of(cls, said: Mapping[str, Any], environ: Mapping[str, str]) -> Settings:
        found = together(said, environ, TABLE)
        options = {name: found.pop(name) for name in list(found) if name in OPTIONS}
        url = url_of(found)
        if url is None:
            return cls(**options)
        plain, more = _apart(url)
        return cls(plain, **{**options, **more})

    def at(self, url: str) -> Settings:
        """The same at this URL, with what its ``?`` says about connections."""
        plain, said = _apart(url)
        return dataclasses.replace(self, url=plain, **said)

    def with_times(self, block: float, timeout: float) -> Settings:
        """The same with what a queue says itself; ConfigError if that does not go together."""
        if (block, timeout) == (self.block, self.timeout):
            return self
        return dataclasses.replace(self, block=block, timeout=timeout)

    @property
    def patience(self) -> float:
        """Seconds to wait for the answer to what blocks."""
        return self.block + self.timeout if self.read_timeout is None else self.read_timeout

    def address(self) -> client.Address:
        """Where Redis is. ConfigError if the URL cannot be read."""
        address = client.parse(self.url or "")
        if self.connect_timeout == defaults.CONNECT_TIMEOUT:
            return address
        kwargs = {"socket_connect_timeout": self.connect_timeout, **address.kwargs}
        return dataclasses.replace(address, kwargs=kwargs)


OPTIONS: Final[Mapping[str, Setting]] = {
    each.name: each.metadata["row"] for each in dataclasses.fields(Settings) if each.metadata
}
#: Everything that can be said, by name.
TABLE: Final[Mapping[str, Setting]] = {**{row.name: row for row in PLACE}, **OPTIONS}
#: What a URL may say behind its ``?``. The others are a queue's own, and known before its URL is.
_IN_URL: Final = OPTIONS.keys() - {"prefix", "block", "timeout", "read_timeout"}


def _place_in(said: object) -> object:
    """The URL that a mapping names, or that it names another place."""
    if not isinstance(said, Mapping):
        return None
    return said.get("url", next((name for name in WHERE if name in said), None))


def _apart(url: str) -> tuple[str, dict[str, Any]]:
    """The URL without what it says about connections, and that."""
    head, _, query = url.partition("?")
    pairs = parse_qsl(query, keep_blank_values=True)
    said = {name: text for name, text in pairs if name in _IN_URL}
    if not said or "@" in query:  # a ? in a password: who reads the URL tells of it
        return url, {}
    found = {name: OPTIONS[name].read(text) for name, text in said.items()}
    for name, value in found.items():
        if isinstance(value, str):
            raise ConfigError(f"the Redis URL sets {name!r} to what it cannot be: {OPTIONS[name].wanted}")
        OPTIONS[name].check(value, f"{name!r} in the Redis URL")
    rest = urlencode([(n, text) for n, text in pairs if n not in _IN_URL], errors="surrogatepass")
    return f"{head}?{rest}" if rest else head, found
