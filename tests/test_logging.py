"""Log records: one line each, about which message, without secrets and bodies, never the same by the thousand."""

from __future__ import annotations

import io
import json
import logging
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import reliq
from reliq.core.consumer import ConsumerState
from reliq.core.message import Message
from reliq.defaults import LOG_BURST
from reliq.lease import report, settle_for
from reliq.logging import (
    FIELDS,
    ContextFilter,
    JsonFormatter,
    KeyValueFormatter,
    RepeatFilter,
    SecretFilter,
    bodies,
    without_secrets,
)

LINES = ["\n", "\r", "\x85", "\u2028", "\x0b", "\x1b"]


def record(message: str, *args: Any, **extra: Any) -> logging.LogRecord:
    made = logging.getLogger("shop").makeRecord(
        "shop", logging.WARNING, "shop.py", 7, message, args, None, extra=extra
    )
    assert isinstance(made, logging.LogRecord)
    return made


def failed(error: BaseException) -> logging.LogRecord:
    """A record with a traceback."""
    made = record("it failed")
    try:
        raise error
    except BaseException as raised:
        made.exc_info = (type(raised), raised, raised.__traceback__)
    return made


def message(body: Any = 1, url: str = "redis://localhost:1/0") -> Message:
    """One in hand."""
    options = reliq.Queue("emails", url).options
    state = ConsumerState(options.keys, "web-1-aa", lease=15, codec=options.codec, raw_codec=options.raw_codec)
    return Message(options.element(body)[1], body, state)


@contextmanager
def handling(message: Message) -> Iterator[None]:
    token = reliq.context.enter(message)
    try:
        yield
    finally:
        reliq.context.leave(token)


@contextmanager
def listening(name: str = "reliq", formatter: logging.Formatter | None = None) -> Iterator[io.StringIO]:
    """What a handler of the application gets to see."""
    logger, stream = logging.getLogger(name), io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        yield stream
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


# -- formatters -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("formatter", [KeyValueFormatter(), JsonFormatter()])
def test_a_record_is_one_line_and_says_its_message(formatter: logging.Formatter) -> None:
    """Whatever stands in it; with what it is about, without a filter or anything else to be set up."""
    held = message()
    with handling(held):
        for text in [*(f"a{c}b" for c in LINES), 'quotes " and = and \\', "", "ünïcode"]:
            line = formatter.format(record("%s", text, note=text))
            assert len(line.splitlines()) == 1, line
            found = read(line)
            assert (found["message"], found["note"]) == (text, text)
            assert {name: str(found[name]) for name in FIELDS} == {n: str(getattr(held, n)) for n in FIELDS}
    assert "id" not in read(formatter.format(record("about nothing")))


def read(line: str) -> dict[str, Any]:
    """A line of either format, as a program reads it."""
    if line.startswith("{"):
        found: dict[str, Any] = json.loads(line)
        return found
    pairs: dict[str, Any] = {}
    decoder, rest = json.JSONDecoder(), line
    while rest:
        name, _, rest = rest.partition("=")
        if rest.startswith('"'):
            pairs[name], end = decoder.raw_decode(rest)
        else:
            end = (rest + " ").index(" ")
            pairs[name] = rest[:end]
        assert rest[end : end + 1] in ("", " ")
        rest = rest[end + 1 :]
    return pairs


def test_plain_values_need_no_quotes() -> None:
    """So that grep finds them."""
    line = KeyValueFormatter().format(record("sent", to="ada@example.org", at="10:30", size=7))
    assert shlex.split(line)[1:3] == ["level=warning", "logger=shop"]
    assert line.endswith("message=sent to=ada@example.org at=10:30 size=7")


@pytest.mark.parametrize("formatter", [KeyValueFormatter(), JsonFormatter()])
def test_an_exception_is_in_the_line(formatter: logging.Formatter) -> None:
    """With its traceback."""
    line = formatter.format(failed(ValueError("no such address")))
    assert len(line.splitlines()) == 1
    assert read(line)["exception"].splitlines()[-1] == "ValueError: no such address"
    assert read(line)["exception"].startswith("Traceback")


def test_json_is_led_by_what_one_likes() -> None:
    """As the schema of the command line."""
    assert JsonFormatter(schema=1).format(record("x")).startswith('{"schema": 1, "time": "')


# -- secrets ----------------------------------------------------------------------------------------------------

SECRETS = [
    "redis://ada:hunter2@db:6379/0",
    "rediss://:hunter2@db",
    "redis+sentinel://:hunter2@s1:26379,s2:26379/m/0?sentinel_password=hunter2",
    "connect(host='db', password='hunter2')",
    "{'username': 'ada', 'password': 'hunter2'}",
    "unix:///run/redis.sock?password=hunter2&db=0",
    "postgresql://ada:hunter2@pg/shop",
]


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("formatter", [KeyValueFormatter(), JsonFormatter(), None])
def test_no_password_is_logged(secret: str, formatter: logging.Formatter | None) -> None:
    """Neither as a part of a message nor in an exception or a stack; whatever formatter the application has."""
    log = logging.getLogger("reliq")
    with listening(formatter=formatter) as stream:
        log.warning("cannot reach %s", secret)
        try:
            raise ConnectionError(secret)
        except ConnectionError as error:
            log.exception("failed: %s", error)
    assert "hunter2" not in stream.getvalue()
    assert stream.getvalue().count("***") >= 3


@pytest.mark.parametrize("secret", SECRETS)
def test_formatters_hide_those_of_other_loggers_too(secret: str) -> None:
    """As far as they look like one; also where another handler has formatted the exception before."""
    for formatter in (KeyValueFormatter(), JsonFormatter()):
        made = failed(ConnectionError(secret))
        logging.Formatter().format(made)
        made.msg = secret
        assert "hunter2" not in formatter.format(made)


@pytest.mark.parametrize(
    "text", ["10:30@noon", "see http://example.org/a:b", "the password is wrong", "a@b", "://@"]
)
def test_what_is_no_secret_stays(text: str) -> None:
    """Nothing else is taken away."""
    assert without_secrets(text) == text
    assert SecretFilter().filter(made := record("%s", text))
    assert made.getMessage() == text


# -- bodies -----------------------------------------------------------------------------------------------------


def test_bodies_are_logged_when_asked_for_alone() -> None:
    """Not by a level of the parent; what a handler raised may show one, and that is its own."""
    held = message({"card": "4111-marker"})
    error = ValueError("no luck")
    with listening() as stream, handling(held):
        settle = settle_for(held.state, held, reliq.Retry(attempts=2, wait=lambda state: 0.05), error)
        report(error, settle)
        assert "back in 50 ms: ValueError: no luck" in stream.getvalue()
        assert "marker" not in stream.getvalue()
        bodies.setLevel(logging.DEBUG)
        try:
            report(error, settle)
        finally:
            bodies.setLevel(logging.CRITICAL)
        assert stream.getvalue().count("4111-marker") == 1


# -- repeats ----------------------------------------------------------------------------------------------------


def test_a_kind_of_record_is_shown_so_often_and_counted_then() -> None:
    """The last one that is shown says so, and the next one after the window how many there were."""
    now = [0.0]
    repeats = RepeatFilter(most=3, seconds=10, clock=lambda: now[0])
    shown = []

    def say(text: str, queue: str = "q") -> None:
        made = record("%s", text, queue=queue)
        if repeats.filter(made):
            shown.append(made.getMessage())

    for n in range(1000):
        say(f"failed {n}")
    assert shown == ["failed 0", "failed 1", "failed 2 (more like it in the next 10 s are counted, not shown)"]
    say("of another queue", queue="other")
    assert shown[3:] == ["of another queue"]
    now[0] = 10.0
    say("failed again")
    say("failed still")
    assert shown[4:] == ["failed again (997 like it were not shown)", "failed still"]


def test_a_thousand_failures_a_second_do_not_fill_the_disk() -> None:
    """Dead letters are in Redis; their lines are shown by the hundred, for each queue."""
    held = message()
    held.state.keys = reliq.Queue("of-this-test", "redis://localhost:1/0").options.keys
    error = ValueError("no luck")
    with listening() as stream, handling(held):
        settle = held.state.bury(held, "ATTEMPTS", "no luck")
        for _ in range(1000):
            report(error, settle)
    assert stream.getvalue().count("dead-lettered") == LOG_BURST


def test_the_filter_alone_gives_fields_to_any_formatter() -> None:
    """As it was."""
    made = record("x")
    with handling(message()):
        ContextFilter().filter(made)
    assert logging.Formatter("%(queue)s %(attempt)s").format(made) == "emails 1"
