"""URLs and settings of the environment, right, wrong and hurt: read, or refused by a ConfigError that shows no
password; and nobody is asked on the network meanwhile."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from redis.retry import Retry

import reliq
import reliq.aio
from reliq import client
from reliq.aio import link as aio_link
from reliq.errors import ConfigError, EmbeddedUnavailable
from reliq.sync.link import KINDS

SECRET = "s3cr3t"
#: What passwords are made of that nobody has percent-encoded, and what some parsers change into a delimiter.
_ODD = "/?#@:[]%&=+, \\\t\n\0é²\u2100\uff0f\uff1a\uff20\udcff"

_odd = st.text(_ODD, max_size=3)
_password = st.builds(lambda before, after: f"{before}{SECRET}{after}", _odd, _odd)
_auth = st.one_of(
    st.just(""),
    st.builds(lambda user, password: f"{user}:{password}@", st.sampled_from(["", "u", "u%40"]), _password),
    st.builds(lambda password: f":{password}", _password),  # and the host is forgotten
)
_host = st.one_of(
    st.sampled_from(["h", "h:1", "[::1]", "[::1]:5", "[::1%25eth0]", "::1", "[::1", "a..b", "x" * 64, "", "h:0"]),
    st.sampled_from(["h:70000", "h:x", "h:²", "h\0", "\udcff", "[v1.x]", "h:", " h", "*", "é"]),
    st.text(max_size=5),
)
_path = st.one_of(
    st.sampled_from(["", "/", "/0", "/15", "/x", "/²", "/٣", "/-1", "/9999999999", "//", "/my", "/my/0", "/my/x"]),
    st.sampled_from(["/tmp/r.sock", "/%00", "/0;x", "/run/redis@1/r.sock"]),
)
_option = st.one_of(
    st.sampled_from(["db=1", "db=x", "db=", f"password={SECRET}", f"username=u&password={SECRET}"]),
    st.sampled_from([f"sentinel_password={SECRET}", f"sentinel_password={SECRET}&sentinel_user=x"]),
    st.sampled_from(
        ["ssl_cert_reqs=none", "ssl_cert_reqs=maybe", "ssl_ca_certs=/nowhere", "ssl_check_hostname=no"]
    ),
    st.sampled_from(["parser_class=x", "encoding=x", "host=evil", "port=x", "credential_provider=x", "path=/x"]),
    st.sampled_from(["socket_timeout=1", "socket_connect_timeout=x", "socket_connect_timeout=0.5", "protocol=3"]),
    st.builds(lambda name, value: f"{name}={value}", st.text(max_size=4), st.text(max_size=4)),
)
_schemes = ["redis://", "rediss://", "unix://", "redis+sentinel://", "rediss+sentinel://", "http://", "redis:", ""]


@st.composite
def urls(draw: st.DrawFn) -> str:
    """A URL, often a right one, at times with one character too many or too few."""
    hosts = ",".join(draw(st.lists(_host, min_size=1, max_size=2)))
    options = draw(st.lists(_option, max_size=2))
    query = "?" * bool(options) + "&".join(options)
    url = draw(st.sampled_from(_schemes)) + draw(_auth) + hosts + draw(_path) + query
    place = draw(st.integers(0, len(url)))
    how = draw(st.sampled_from(["as it is", "as it is", "less", "more"]))
    if how == "less":
        return url[:place] + url[place + 1 :]
    return url[:place] + draw(st.sampled_from(_ODD)) + url[place:] if how == "more" else url


def fuzz(examples: int) -> settings:
    """The same examples in every run."""
    return settings(
        max_examples=examples,
        derandomize=True,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )


@pytest.fixture(autouse=True)
def _nobody_is_asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def asked(*args: Any) -> Any:
        raise AssertionError(f"somebody was asked: {args}")

    with monkeypatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", asked)
        patch.setattr(socket.socket, "connect", asked)
        yield


#: One of these stands in every refusal: an example, or what to do.
_STEPS = (
    "Example: ",
    "leave it out",
    "redis://localhost",
    "redis+sentinel://host",
    "%23",
    "has only 0",
    "of that kind",
)


def refusal(make: Callable[[], Any], names: str = "URL") -> str:
    """The text of the ConfigError that this raises, which is one line, names the thing and the next step, and
    shows no password; empty if it raises none."""
    try:
        make()
    except ConfigError as error:
        text = str(error)
    else:
        return ""
    assert names in text
    assert SECRET not in text
    assert "\n" not in text
    if names == "URL":
        assert any(step in text for step in _STEPS), text
    return text


def connections(address: client.Address) -> None:
    """Make, without connecting, every connection that the address leads to, in both shells."""
    for node in address.nodes:
        assert address.kind == "unix" or (node.host.encode("idna") and 0 < node.port < 65536)
        options: dict[str, Any] = {"read_timeout": 1.0, "name": "fuzz"}
        for kinds in (KINDS, aio_link._KINDS):
            made = kinds[address.kind](**client.connection_kwargs(address, node, retry=Retry, **options))
            assert made.pack_command("PING")
            kinds[address.kind](**client.asking_kwargs(address, node, retry=Retry))


@fuzz(300)
@given(urls())
@example(f"redis://:a/{SECRET}@h:6379/0")
@example(f"redis://u:1#{SECRET}@h:6379/0")
@example(f"redis://:a\u2100{SECRET}@h")
@example(f"redis://:[{SECRET}]@h")
@example(f"redis://:{SECRET}")
@example("rediss://h?ssl_cert_reqs=maybe")
@example("redis://h?parser_class=x")
@example("redis://a..b")
def test_a_url_is_read_or_refused(url: str) -> None:
    """Whatever it is: a queue can be made; its address is read, or it is said what is wrong."""
    queue = reliq.Queue("q", url)
    assert SECRET not in repr(queue) + repr(reliq.aio.Queue("q", url))
    if refusal(lambda: queue.links.address):
        return
    address = queue.links.address
    # Behind unix:/// all is path. The label is what people are shown of an address, in many messages.
    assert SECRET not in address.label + repr(address) or url.startswith("unix:///")
    assert all(SECRET not in str(node) for node in address.nodes)
    connections(address)


@fuzz(300)
@given(st.one_of(st.text(max_size=30), st.binary(max_size=5), st.integers(), st.just(["redis://h"])))
def test_what_is_no_url_is_refused(url: Any) -> None:
    """Any text, and what is no text at all."""
    assert refusal(lambda: client.parse(url))


@fuzz(300)
@given(url=urls(), prefix=st.text(max_size=5) | st.sampled_from(["a b", "{x}", "inbox", "a:doing:b", "\udcff"]))
def test_the_environment_is_read_or_refused(monkeypatch: pytest.MonkeyPatch, url: str, prefix: str) -> None:
    """RELIQ_URL and RELIQ_PREFIX: as the arguments are; empty ones are none."""
    with monkeypatch.context() as patch:
        for name, value in (("RELIQ_URL", url), ("RELIQ_PREFIX", prefix), ("RELIQ_EMBEDDED", "0")):
            patch.setenv(name, value.replace("\0", ""))
        if refusal(lambda: reliq.Queue("q"), "prefix"):
            return
        queue = reliq.Queue("q")
        assert queue.options.keys.ready.encode()
        with suppress(EmbeddedUnavailable):  # an empty URL
            refusal(lambda: queue.links.address)


@fuzz(300)
@given(st.text(max_size=10) | st.sampled_from(["a" * 201, "\udcff", "a\0b", "{x}y", "a}b"]), st.booleans())
def test_a_name_is_taken_or_refused(name: str, is_key: bool) -> None:
    """Of a queue, or of a list that is adopted: what cannot go to Redis is refused when the queue is made."""
    names = {"name": "q", "key": name} if is_key else {"name": name}
    if not refusal(lambda: reliq.Queue(url="redis://h", **names), "queue"):
        keys = reliq.Queue(url="redis://h", **names).options.keys
        for key in (keys.ready, keys.later, keys.doing("c"), keys.queues):
            assert key.encode()
