"""Settings: what a mapping, the environment and a URL say, which of them goes first, and what is wrong, in one
line that names the setting, the reason and the next step, and never a password."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import reliq
import reliq.aio
from reliq import Settings
from reliq.core.topology import Node
from reliq.errors import ConfigError
from reliq.settings import TABLE

SECRET = "hunter2"


class Wrong(NamedTuple):
    """What somebody writes into a file of YAML, and what he is told: the setting, the reason, the next step."""

    name: str
    text: str
    says: tuple[str, ...]


TABLE_OF_WRONGS = [
    # keys
    Wrong("typo", "hsot: localhost", ("'hsot'", "no setting", "did you mean 'host'?")),
    Wrong("typo-of-password", f"host: h\npasword: {SECRET}", ("'pasword'", "did you mean 'password'?")),
    Wrong("unknown", "colour: red", ("'colour'", "no setting", "there are url, host, port,")),
    Wrong("of-another-library", "host: h\nmin_idle_conns: 3", ("'min_idle_conns'", "did you mean 'min_idle'?")),
    Wrong("key-is-number", "1: h", ("a key that is a number", "as texts, such as 'host'")),
    Wrong("part-below", "redis:\n  host: h", ("'redis'", "give what stands below it alone")),
    Wrong("no-mapping", "- host", ("settings are a list", "give a mapping, such as")),
    # kinds
    Wrong("port-text", "host: h\nport: '6379'", ("'port'", "'6379', a text", "whole number", "without quotes")),
    Wrong("port-range", "host: h\nport: 70000", ("'port'", "70000", "from 1 to 65,535")),
    Wrong("port-broken", "host: h\nport: 6379.5", ("'port'", "6379.5", "whole number")),
    Wrong("port-true", "host: h\nport: true", ("'port'", "True", "whole number")),
    Wrong("db-range", "host: h\ndb: -1", ("'db'", "-1", "from 0 to")),
    Wrong("db-text", "host: h\ndb: zero", ("'db'", "'zero', a text", "whole number")),
    Wrong("password-number", "host: h\npassword: 12345", ("'password'", "a number", "a text, in quotes")),
    Wrong("host-list", "host: [a, b]", ("'host'", "a list", "a text, in quotes")),
    Wrong("host-empty", "host: ''", ("'host'", "empty", "a text, in quotes")),
    Wrong("tls-text", "host: h\ntls: 'on'", ("'tls'", "'on', a text", "true or false")),
    Wrong("time-text", "host: h\ntimeout: 5s", ("'timeout'", "'5s', a text", "number of seconds")),
    Wrong("time-zero", "host: h\ntimeout: 0", ("'timeout'", "0", "from 0.001")),
    Wrong("time-nan", "host: h\ntimeout: .nan", ("'timeout'", "nan", "number of seconds")),
    Wrong("time-endless", "host: h\nidle_timeout: .inf", ("'idle_timeout'", "inf", "to 1,000,000,000")),
    Wrong("pool-empty", "host: h\npool_size: 0", ("'pool_size'", "0", "from 1 to 10,000")),
    Wrong("retries", "host: h\nretries: -1", ("'retries'", "-1", "from 0")),
    # places
    Wrong("host-is-url", f"host: redis://:{SECRET}@h", ("'host'", "no name and no address", "setting 'url'")),
    Wrong("host-with-port", "host: h:6379", ("'host'", "port and password are settings of their own")),
    Wrong("scheme", f"url: http://:{SECRET}@h", ("URL", "has to begin with redis://", "Example: redis")),
    Wrong("url-option", "url: redis://h?pool_size=many", ("'pool_size'", "cannot be", "whole number")),
    Wrong(
        "url-and-host", "url: redis://h\nhost: g", ("'host' and 'url'", "a place each", "leave one of them out")
    ),
    Wrong("url-and-db", "url: redis://h\ndb: 3", ("'db'", "beside a url", "write it into that")),
    Wrong("url-and-user", f"url: redis://u:{SECRET}@h\nusername: v", ("'username'", "in the url too", "leave it")),
    Wrong("no-host", "port: 6380", ("'port'", "no Redis", "add host")),
    Wrong("socket-and-port", "socket: /s\nport: 1", ("'port'", "beside 'socket'", "leave one of them out")),
    Wrong("socket-relative", "socket: redis.sock", ("'socket'", "no path from the root", "/run/redis/redis.sock")),
    Wrong("node-without-port", "nodes: [a, 'b:1']", ("'nodes'", "no host and port", "redis1:6379")),
    Wrong("cluster-db", "nodes: ['a:1', 'b:1']\ndb: 2", ("'db'", "Cluster", "leave it out")),
    Wrong("no-master", f"nodes: ['a:1']\nsentinel_password: {SECRET}", ("'sentinel_password'", "add master")),
    # TLS and files
    Wrong("ca-without-tls", "host: h\ntls_ca: {here}", ("'tls_ca'", "is for TLS", "add tls: true")),
    Wrong("ca-missing", "host: h\ntls: true\ntls_ca: /no/ca.pem", ("'tls_ca'", "/no/ca.pem", "correct the path")),
    Wrong("key-alone", "host: h\ntls: true\ntls_key: {here}", ("'tls_key'", "add tls_cert")),
    Wrong("tls-in-url", "url: redis://h\ntls: true", ("'tls'", "beside a url", "write it into that")),
    Wrong("two-passwords", f"host: h\npassword: {SECRET}\npassword_file: /x", ("'password_file'", "leave one")),
    Wrong("no-password-file", "host: h\npassword_file: /no/file", ("'password_file'", "No such file", "correct")),
    Wrong("empty-password-file", "host: h\npassword_file: {empty}", ("'password_file'", "is empty", "write the")),
    # against each other
    Wrong("block", "host: h\nblock: 5\nread_timeout: 5", ("'read_timeout' is 5", "'block' 5", "loses", "to 6 or")),
    Wrong("idle", "host: h\nmin_idle: 200", ("'min_idle' is 200", "'pool_size' 100", "lower min_idle")),
    Wrong("backoff", "host: h\nbackoff_from: 1", ("'backoff_from' is 1", "'backoff_to' 0.512", "exchange them")),
]


def told(make: Any) -> str:
    """What the ConfigError says."""
    with pytest.raises(ConfigError) as caught:
        make()
    return str(caught.value)


def assert_one_line(text: str, says: tuple[str, ...]) -> None:
    assert "\n" not in text
    assert SECRET not in text
    for said in says:
        assert said in text, text


@pytest.mark.parametrize("wrong", TABLE_OF_WRONGS, ids=[wrong.name for wrong in TABLE_OF_WRONGS])
def test_what_is_wrong_is_told_in_one_line(wrong: Wrong, tmp_path: Path) -> None:
    """The table above, as a mapping and as what a queue of each shell is made with."""
    (tmp_path / "empty").touch()
    text = wrong.text.replace("{empty}", str(tmp_path / "empty")).replace("{here}", __file__)
    said = yaml.safe_load(text)
    assert_one_line(told(lambda: Settings.of(said)), wrong.says)
    if wrong.name == "scheme":
        return  # what is wrong with a whole URL, a queue says when it connects
    for queue in (reliq.Queue, reliq.aio.Queue):
        assert_one_line(told(lambda queue=queue: queue("q", settings=said)), wrong.says)


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"RELIQ_HSOT": "h"}, ("RELIQ_HSOT", "no variable", "did you mean RELIQ_HOST?")),
        ({"RELIQ_HOST": "h", "RELIQ_PORT": "tcp://10.0.0.1:6379"}, ("RELIQ_PORT", "write a whole number")),
        ({"RELIQ_HOST": "h", "RELIQ_TLS": "maybe"}, ("RELIQ_TLS", "'maybe', a text", "true or false")),
        ({"RELIQ_HOST": "h", "RELIQ_TIMEOUT": "5s"}, ("RELIQ_TIMEOUT", "number of seconds")),
        ({"RELIQ_HOST": "h", "RELIQ_PASSWORD_FILE": "/no"}, ("RELIQ_PASSWORD_FILE", "No such file", "correct")),
        (
            {"RELIQ_HOST": "h", "RELIQ_PASSWORD": SECRET, "RELIQ_PASSWORD_FILE": "/no"},
            ("RELIQ_PASSWORD and RELIQ_PASSWORD_FILE", "unset one of them"),
        ),
    ],
)
def test_a_wrong_variable_is_told(
    variables: dict[str, str], says: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the name that it has there, also when a queue is made."""
    assert_one_line(told(lambda: Settings.from_env(variables)), says)
    for name, text in variables.items():
        monkeypatch.setenv(name, text)
    assert_one_line(told(lambda: reliq.Queue("q")), says)


def place(found: Settings) -> Any:
    """What a connection gets of an address, without what is always the same."""
    address = found.address()
    return {
        "kind": address.kind,
        "nodes": [*map(str, address.nodes)] if address.kind != "unix" else [],
        "db": 0,
        **address.kwargs,
    }


@pytest.mark.parametrize(
    ("said", "url"),
    [
        ({"host": "h"}, "redis://h"),
        ({"host": "h", "port": 1, "db": 2, "username": "u", "password": "p@/ :"}, "redis://u:p%40%2F%20%3A@h:1/2"),
        ({"host": "::1", "tls": True, "tls_check_hostname": False}, "rediss://[::1]?ssl_check_hostname=false"),
        ({"socket": "/run/a b.sock", "db": 3, "password": "x"}, "unix://:x@/run/a%20b.sock?db=3"),
        ({"nodes": ["a:1", "[::1]:2"]}, "redis://a:1,[::1]:2/0"),
        ({"nodes": "a:1,b:2", "master": "m/1", "sentinel_password": "s"}, None),
        ({"url": "redis://h/1", "password": "x"}, "redis://:x@h/1"),
        ({"url": "rediss://h/1?ssl_check_hostname=no", "tls_ca": __file__}, None),
        ({"host": "h", "password_file": "{file}"}, "redis://:from%20a%20file@h"),
        ({"host": "h", "port": None, "password": None}, "redis://h"),
    ],
)
def test_a_mapping_names_the_same_place_as_a_url(said: dict[str, Any], url: str | None, tmp_path: Path) -> None:
    """Each part for itself, whatever characters it has; None is what YAML has for nothing."""
    (tmp_path / "file").write_text("from a file\n")
    found = Settings.of({k: str(tmp_path / "file") if v == "{file}" else v for k, v in said.items()})
    if url is not None:
        assert place(found) == place(Settings.parse(url))
    elif "master" in said:
        address = found.address()
        assert (address.master, address.nodes) == ("m/1", (Node("a", 1), Node("b", 2)))
        assert address.sentinel == {"password": "s"}
    else:
        assert place(found)["ssl_ca_certs"] == __file__


def test_variables_and_mapping_have_the_same_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every setting has its variable: RELIQ_ and the name in capitals, with the same effect."""
    texts = {"prefix": "p", "tls": "no"}
    for name, row in TABLE.items():
        if name in ("url", "host", "port", "db", "username", "password", "password_file", "socket", "nodes"):
            continue
        if name.startswith(("master", "sentinel", "tls")):
            continue
        value = {int: 3, float: 7.5}.get(row.kind, "p")
        if name == "backoff_from":
            value = 0.1
        found = Settings.of({name: value})
        assert getattr(found, name) == value, name
        assert Settings.from_env({f"RELIQ_{name.upper()}": texts.get(name, str(value))}) == found
    said = {"host": "h", "port": 1, "db": 2, "username": "u", "password": "p", "tls": True}
    assert Settings.from_env({f"RELIQ_{k.upper()}": str(v) for k, v in said.items()}) == Settings.of(said)
    nodes = {"RELIQ_NODES": "a:1,b:2", "RELIQ_MASTER": "m"}
    assert Settings.from_env(nodes) == Settings.of({"nodes": ["a:1", "b:2"], "master": "m"})


@pytest.mark.parametrize(
    ("url", "said", "variables", "wins"),
    [
        # the nearer one goes first, each setting for itself
        (None, {"host": "m", "db": 1}, {"RELIQ_HOST": "e", "RELIQ_DB": "2"}, "redis://m:6379/1"),
        (None, {"db": 1}, {"RELIQ_HOST": "e", "RELIQ_PORT": "7"}, "redis://e:7/1"),
        ("redis://a", None, {"RELIQ_URL": "redis://e"}, "redis://a"),
        # who names a place names it whole
        (None, {"host": "m"}, {"RELIQ_URL": "redis://u:p@e:9/9"}, "redis://m:6379/0"),
        (None, {"host": "m"}, {"RELIQ_HOST": "e", "RELIQ_PORT": "9", "RELIQ_TLS": "1"}, "redis://m:6379/0"),
        (None, {"socket": "/s"}, {"RELIQ_HOST": "e", "RELIQ_PORT": "9"}, "unix:///s?db=0"),
        (
            None,
            {},
            {"RELIQ_URL": "redis://e", "RELIQ_HOST": "x", "RELIQ_PORT": "tcp://10.0.0.1:6379"},
            "redis://e",
        ),
        # but a password may come from further away
        (None, {"host": "m"}, {"RELIQ_PASSWORD": "p", "RELIQ_USERNAME": "u"}, "redis://u:p@m:6379/0"),
        (None, {"host": "m", "password": "q"}, {"RELIQ_PASSWORD_FILE": "/none"}, "redis://:q@m:6379/0"),
        ("redis://a/0", None, {"RELIQ_PASSWORD": "p"}, "redis://:p@a/0"),
        ("redis://:q@a/0", None, {"RELIQ_PASSWORD": "p"}, "redis://:q@a/0"),
        (None, {}, {"RELIQ_URL": "redis://:q@e", "RELIQ_PASSWORD": "p"}, "redis://:q@e"),
        ("redis://a", None, {"RELIQ_TLS_CA": "/none"}, "redis://a"),
        # nobody names one
        (None, {}, {"RELIQ_PASSWORD": "p"}, None),
        (None, None, {"RELIQ_URL": ""}, None),
    ],
)
def test_who_goes_first(
    url: str | None,
    said: dict[str, Any] | None,
    variables: dict[str, str],
    wins: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Argument, mapping, environment, and at last the embedded Redis (None)."""
    for name, text in variables.items():
        monkeypatch.setenv(name, text)
    assert reliq.Queue("q", url, settings=said).settings.url == wins
    assert reliq.aio.Queue("q", url, settings=said).settings.url == wins


def test_a_queue_has_the_last_word_on_its_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own arguments go before the mapping, and that before the environment; they are checked together."""
    monkeypatch.setenv("RELIQ_TIMEOUT", "7")
    monkeypatch.setenv("RELIQ_PREFIX", "mine")
    queue = reliq.Queue("q", settings={"block": 2.5, "pool_size": 3})
    assert (queue.options.block, queue.options.timeout, queue.settings.pool_size) == (2.5, 7.0, 3)
    assert queue.options.keys.prefix == "mine"
    assert reliq.Queue("q", timeout=1, prefix="own").settings.timeout == 1
    assert reliq.Queue("q", timeout=1, prefix="own").options.keys.prefix == "own"
    assert "'read_timeout' is 8" in told(lambda: reliq.Queue("q", block=8, settings={"read_timeout": 8}))


def test_two_places_are_one_too_many() -> None:
    """url= beside settings= of another place is refused; of the same, or of none, it is not."""
    for said in (Settings.parse("redis://b"), {"url": "redis://b"}, {"host": "b"}, {"socket": "/b"}):
        assert "leave one of them out" in told(lambda said=said: reliq.Queue("q", "redis://a", settings=said))
    for same in (Settings.parse("redis://a"), {"url": "redis://a"}, {"pool_size": 3}, Settings(pool_size=3), {}):
        assert reliq.Queue("q", "redis://a", settings=same).settings.url == "redis://a"


def test_a_url_says_how_to_connect() -> None:
    """What stands behind its ? of pools and pauses is taken out of it; the rest stays, also in a queue's url=."""
    found = Settings.parse("redis://h/0?pool_size=8&pool_wait=0.5&ssl=no&retries=1".replace("&ssl=no", ""))
    assert (found.url, found.pool_size, found.pool_wait, found.retries) == ("redis://h/0", 8, 0.5, 1)
    queue = reliq.Queue("q", "rediss://h/0?min_idle=2&ssl_check_hostname=no&connect_timeout=0.5")
    assert (queue.settings.min_idle, queue.settings.url) == (2, "rediss://h/0?ssl_check_hostname=no")
    assert queue.links.address.kwargs["socket_connect_timeout"] == 0.5
    assert reliq.Queue("q", settings=Settings("redis://h?pool_size=3")).links.address.label == "h:6379/0"
    assert "'timeout'" in told(lambda: Settings.parse("redis://h/0?timeout=3"))


def test_no_password_is_shown() -> None:
    """Not by a repr of anything that holds one."""
    found = Settings.of({"host": "h", "password": SECRET, "username": "u"})
    queue = reliq.Queue("q", settings=found)
    for thing in (found, queue, queue.links, queue.links.address, queue.options, queue.links.new()):
        assert SECRET not in repr(thing)
    assert SECRET not in str(vars(queue.links))
    queue.close()


# -- anything at all ----------------------------------------------------------------------------------------

values = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12) | st.just(SECRET)
things = st.recursive(
    values, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(values, inner, max_size=3)
)
sensible = st.sampled_from(
    ["h", 6379, 0, 3, 1.5, True, "/run/x", ["a:1", "b:2"], "m", "redis://h/1", "rediss://a?pool_size=2", __file__]
)


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.dictionaries(st.sampled_from(sorted(TABLE)) | values, sensible | things, max_size=5) | things)
def test_whatever_is_read_is_an_address_or_a_config_error(said: Any) -> None:
    """Of any nesting of anything: one line, without the secret, or settings that lead to connections."""
    wrong = ""
    try:
        found = Settings.of(said)
    except ConfigError as error:
        wrong = str(error)
    else:
        assert found.url is None or found.address().label
        assert SECRET not in repr(found) or SECRET in repr(found.prefix)
    assert "\n" not in wrong
    assert not (isinstance(said, Mapping) and said.get("password") == SECRET and SECRET in wrong)


@settings(max_examples=400, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from([f"RELIQ_{name.upper()}" for name in TABLE] + ["RELIQ_HOSTT", "HOME", "RELIQ_"]),
        st.text(max_size=12) | st.sampled_from(["h", "6379", "1", "yes", "redis://h/1", "a:1,b:2", "/run/x"]),
        max_size=5,
    )
)
def test_any_environment_is_read_or_refused(environ: dict[str, str]) -> None:
    """As a ConfigError, or as settings; a URL is judged when it is used."""
    with suppress(ConfigError):
        found = Settings.from_env(environ)
        if found.url is not None:
            found.address()


def test_json_says_what_yaml_says() -> None:
    """Both give the same mapping, and so the same settings."""
    said = {"host": "h", "port": 6380, "pool_size": 4, "idle_timeout": 300, "tls": False}
    assert Settings.of(json.loads(json.dumps(said))) == Settings.of(yaml.safe_load(yaml.safe_dump(said)))
