"""Which Redis: the settings that say it one by one, and the URL that they make."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote, urlencode

from reliq.core.topology import is_address
from reliq.errors import ConfigError
from reliq.settings.setting import Setting

PLACE: Final = (
    Setting("url", str, "all of it in one: redis://, rediss://, redis+sentinel:// or unix://"),
    Setting("host", str, "name or address"),
    Setting("port", int, "where it listens", 6379, 1, 65535),
    Setting("db", int, "number of the database", 0, 0, 999_999_999),
    Setting("username", str, "of an ACL user"),
    Setting("password", str, "of that user, or of all"),
    Setting("password_file", str, "file that holds the password, such as a mounted secret"),
    Setting("socket", str, "path of a Unix socket, instead of `host`"),
    Setting("nodes", list, "`host:port` of nodes of a Cluster, or of the sentinels, instead of `host`"),
    Setting("master", str, "by which name the sentinels know it"),
    Setting("sentinel_username", str, "of the sentinels, where they have any"),
    Setting("sentinel_password", str, "of the sentinels, where they have any"),
    Setting("tls", bool, "whether to speak TLS", False),
    Setting("tls_ca", str, "file with the CA that signed, if the system does not know it"),
    Setting("tls_cert", str, "file with a certificate of ours, if the server wants one"),
    Setting("tls_key", str, "file with the key of that"),
    Setting("tls_check_hostname", bool, "whether the server's certificate has to name the host", True),
)
#: Who says one of these says where Redis is, and says it whole.
WHERE: Final = frozenset({"url", "host", "socket", "nodes"})
SECRET: Final = frozenset({"password", "password_file"})
USER: Final = frozenset({"username", *SECRET})
#: And what redis-py calls them.
TLS: Final[Mapping[str, str]] = {
    "tls_ca": "ssl_ca_certs",
    "tls_cert": "ssl_certfile",
    "tls_key": "ssl_keyfile",
    "tls_check_hostname": "ssl_check_hostname",
}
#: Not compiled here: few programs need them, and every import would pay for it.
_HOST: Final = r"[^\s:/@?#%,\[\]\\]+|[0-9A-Fa-f:]*:[0-9A-Fa-f:.]*"
_NODE: Final = r"(?:\[(.+)\]|([^:]+)):([0-9]{1,5})"

Said = Mapping[str, Any]


def has_user(said: Said) -> bool:
    """Whether there is a URL that has a user or a password."""
    return "@" in re.split("[/?#]", said.get("url", "").partition("://")[2], maxsplit=1)[0]


def is_tls(said: Said) -> bool:
    """Whether that is a place to speak TLS to."""
    return bool(said.get("tls")) or said.get("url", "").startswith("rediss")


def url_of(said: Said) -> str | None:
    """The URL of what is said, each alone of the right kind; None if it names no place. ConfigError says what does
    not go together."""
    named = sorted(WHERE & said.keys())
    lost = sorted(said.keys() - WHERE - USER - TLS.keys())
    if not named:
        if lost:
            raise ConfigError(f"setting {lost[0]!r} is there, but no Redis: add host, or url, socket or nodes")
        return None  # a password alone waits for somebody to name the place
    if len(named) > 1:
        raise ConfigError(f"settings {named[0]!r} and {named[1]!r} name a place each: leave one of them out")
    _check_tls(said)
    return _WAYS[named[0]](said)


def _check_tls(said: Said) -> None:
    first = next((name for name in TLS if name in said), "")
    if first and not is_tls(said):
        raise ConfigError(f"setting {first!r} is for TLS: add tls: true (rediss:// in a URL), or leave it out")
    for name in ("tls_ca", "tls_cert", "tls_key"):
        if name in said and not os.path.isfile(said[name]):
            raise ConfigError(f"setting {name!r} names {said[name][:200]!r}, which is no file: correct the path")
    if "tls_key" in said and "tls_cert" not in said:
        raise ConfigError("setting 'tls_key' is the key of a certificate: add tls_cert, or leave it out")


def _of_url(said: Said) -> str:
    """A URL, with what it lacks of user and TLS."""
    url: str = said["url"]
    beside = sorted(said.keys() - WHERE - USER - TLS.keys() - {"tls"})
    if beside or (said.get("tls") and not is_tls({"url": url})):
        raise ConfigError(
            f"setting {[*beside, 'tls'][0]!r} stands beside a url: write it into that, or take it apart"
        )
    scheme, mark, rest = url.partition("://")
    return f"{scheme}{mark}{_user(said)}{rest}{_query(_tls(said), '&' if '?' in rest else '?')}"


def _of_socket(said: Said) -> str:
    _refuse(said, "socket", "port", "tls", "master", "sentinel_username", "sentinel_password")
    if not said["socket"].startswith("/"):
        raise ConfigError("setting 'socket' is no path from the root: write it as in /run/redis/redis.sock")
    return f"unix://{_user(said)}{quote(said['socket'])}?db={said.get('db', 0)}"


def _of_host(said: Said) -> str:
    return _of_hosts(said, [_host(said["host"], said.get("port", 26379 if "master" in said else 6379))])


def _of_nodes(said: Said) -> str:
    _refuse(said, "nodes", "port")
    if len(said["nodes"]) > 1 and said.get("db") and "master" not in said:
        raise ConfigError("setting 'db' is not 0, and several nodes are a Cluster, which has only 0: leave it out")
    return _of_hosts(said, [_node(each) for each in said["nodes"]])


def _of_hosts(said: Said, hosts: list[str]) -> str:
    sentinel = {name: said[name] for name in ("sentinel_username", "sentinel_password") if name in said}
    if sentinel and "master" not in said:
        raise ConfigError(f"setting {next(iter(sentinel))!r} is for sentinels: add master, or leave it out")
    scheme = ("rediss" if said.get("tls") else "redis") + ("+sentinel" if "master" in said else "")
    master = f"/{quote(said['master'], safe='')}" if "master" in said else ""
    query = _query({**_tls(said), **sentinel}, "?")
    return f"{scheme}://{_user(said)}{','.join(hosts)}{master}/{said.get('db', 0)}{query}"


_WAYS: Final = {"url": _of_url, "socket": _of_socket, "host": _of_host, "nodes": _of_nodes}


def _refuse(said: Said, where: str, *names: str) -> None:
    for name in names:
        if said.get(name):
            raise ConfigError(f"setting {name!r} stands beside {where!r}, which has none: leave one of them out")


def _user(said: Said) -> str:
    if not USER & said.keys():
        return ""
    password = f":{quote(said['password'], safe='')}" if "password" in said else ""
    return f"{quote(said.get('username', ''), safe='')}{password}@"


def _tls(said: Said) -> dict[str, Any]:
    return {theirs: said[name] for name, theirs in TLS.items() if name in said}


def _query(options: Mapping[str, Any], mark: str) -> str:
    return mark + urlencode(options) if options else ""


def _host(host: str, port: int) -> str:
    if not re.fullmatch(_HOST, host) or not is_address(host, port):
        raise ConfigError(
            "setting 'host' is no name and no address: write it as in redis.example.org or 10.0.0.5; port and "
            "password are settings of their own, and a whole URL is the setting 'url'"
        )
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _node(text: str) -> str:
    match = re.fullmatch(_NODE, text.strip())
    host, port = (match[1] or match[2], int(match[3])) if match else ("", 0)
    if not re.fullmatch(_HOST, host) or not is_address(host, port):
        raise ConfigError("setting 'nodes' has one that is no host and port: write each as in redis1:6379")
    return _host(host, port)
