"""The ack decorator: which functions it takes, what it hands them, and what it does with a Lease."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import redis as redis_py
import tenacity

import reliq
from reliq import aio
from reliq.ack import Handler
from reliq.core import envelope as env
from reliq.core.codec import find
from reliq.core.consumer import ConsumerState
from reliq.core.keys import Keys
from reliq.core.message import Message
from reliq.errors import ConfigError, DecodeError
from reliq.lease import Leased
from tests.conformance.shell import dead_letters
from tests.servers import ExternalServer, RedisServer

if TYPE_CHECKING:
    from reliq import Lease as OnlyForCheckers

BODY = {"to": "ada@example.org"}


@pytest.fixture
def q() -> reliq.Queue:
    """A queue that is never connected."""
    return reliq.Queue("emails", "redis://127.0.0.1:1/0")


@pytest.fixture
def live(server: RedisServer | ExternalServer, prefix: str) -> Any:
    """A queue on a real server."""
    with reliq.Queue("emails", server.url, prefix=prefix) as queue:
        yield queue


def held(body: Any = BODY) -> Leased:
    """A lease on a message that no server knows: to see what a handler is handed."""
    codec = find("json")
    state = ConsumerState(Keys("emails", "reliq"), "me", lease=15.0, codec=codec, raw_codec=codec)
    element = env.pack(bytes(16), codec.encode(body))
    return Leased(Message(element, body, state), state, reliq.Retry())


def handed(q: reliq.Queue, function: Callable[..., Any]) -> Any:
    """What the function returns when a worker calls it; functions here return what they were given."""
    return q.ack(function).call(held())


# -- decoration ---------------------------------------------------------------------------------------------


def test_bare_and_with_options(q: reliq.Queue) -> None:
    """@q.ack, @q.ack() and @q.ack(...) make a handler; without a policy the queue's is taken."""
    policy = reliq.Retry(attempts=1)

    def send(body: Any) -> None: ...

    for handler in (q.ack(send), q.ack()(send), q.ack(send, retry=None)):
        assert isinstance(handler, Handler)
        assert (handler.retry, handler.timeout, handler.function) == (q.options.retry, None, send)
    chosen = q.ack(retry=policy, timeout=30)(send)
    assert (chosen.retry, chosen.timeout, chosen.queue) == (policy, 30, q)


def test_it_is_still_the_function(q: reliq.Queue) -> None:
    """The plain call, with all its arguments, returns and raises as before; name, doc and module survive."""

    def send(body: dict[str, str], *, dry: bool = False) -> str:
        """Send it."""
        return f"{body['to']} {dry}"

    handler = q.ack(send)
    assert handler(BODY) == "ada@example.org False"
    assert handler(body=BODY, dry=True) == "ada@example.org True"
    with pytest.raises(KeyError):
        handler({})
    assert (handler.__name__, handler.__doc__, handler.__module__) == ("send", "Send it.", __name__)  # type: ignore[attr-defined]
    assert handler.__wrapped__ is send  # type: ignore[attr-defined]
    assert handler.name.endswith("send")
    assert repr(handler) == f"<Handler {handler.name} of <Queue 'emails'>>"


def test_attributes_of_the_function_do_not_get_in_the_way(q: reliq.Queue) -> None:
    """A function that tenacity has wrapped has an attribute `retry`; the handler's policy is not that."""

    @q.ack
    @tenacity.retry(stop=tenacity.stop_after_attempt(2), reraise=True)
    def send(body: Any) -> Any:
        return body

    assert isinstance(send.retry, reliq.Retry)
    assert send.call(held(7)) == 7


@pytest.mark.parametrize(
    "options",
    [{"retry": 3}, {"retry": tenacity.stop_after_attempt(3)}, {"timeout": 0}, {"timeout": "30"}, {"timeout": -1}],
    ids=["retry-number", "retry-stop", "timeout-0", "timeout-text", "timeout-negative"],
)
def test_wrong_option(q: reliq.Queue, options: dict[str, Any]) -> None:
    """An option of the wrong kind is a ConfigError that names it, when the module is imported."""
    with pytest.raises(ConfigError, match=next(iter(options))):
        q.ack(**options)(print)


def test_not_a_function(q: reliq.Queue) -> None:
    """@q.ack("emails"), @q.ack(30) and unknown options say what to write instead."""
    for wrong in ("emails", 30):
        with pytest.raises(ConfigError, match=r"use @q\.ack"):
            q.ack(wrong)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="attempts"):
        q.ack(attempts=3)  # type: ignore[call-overload]


def two_bodies(body: Any, other: Any) -> None: ...


def needs_keyword(body: Any, *, dry: bool) -> None: ...


def positional_lease(body: Any, lease: reliq.Lease, /) -> None: ...


def two_leases(body: Any, lease: reliq.Lease, other: reliq.Lease) -> None: ...


def generator(body: Any) -> Any:
    yield body


async def async_generator(body: Any) -> Any:
    yield body


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (two_bodies, "'other'"),
        (needs_keyword, "'dry'"),
        (positional_lease, "'lease' must be passable by name"),
        (two_leases, "'other'"),
        (generator, "generator"),
        (async_generator, "generator"),
    ],
)
def test_functions_that_cannot_be_handlers(q: reliq.Queue, function: Callable[..., Any], says: str) -> None:
    """What could never be called, or would do nothing, is a TypeError at decoration, not at the first message."""
    with pytest.raises(TypeError, match=says) as raised:
        q.ack(function)
    assert function.__name__ in str(raised.value)


# -- what it hands over -------------------------------------------------------------------------------------


def by_name(body: Any, lease: Any) -> Any:
    return body, lease


def by_annotation(body: Any, claimed: reliq.Lease) -> Any:
    return body, claimed


def by_aio_annotation(body: Any, claimed: aio.Lease) -> Any:
    return body, claimed


def by_unresolved_annotation(body: Any, claimed: OnlyForCheckers, more: NotThere | None = None) -> Any:  # type: ignore[name-defined] # noqa: F821
    return body, claimed


def by_unresolved_name(body: Any, claimed: reliq.Lease, more: NotThere | None = None) -> Any:  # type: ignore[name-defined] # noqa: F821
    return body, claimed


def keyword_only(body: Any, *, lease: Any) -> Any:
    return body, lease


def keyword_only_first(*, lease: Any, body: Any = "unused") -> Any:
    return BODY, lease


def lease_first(lease: Any, body: Any) -> Any:
    return body, lease


def lease_first_positional(lease: Any, body: Any, /) -> Any:
    return body, lease


def lease_and_rest(lease: Any, *rest: Any) -> Any:
    return rest[0], lease


def only_lease(claimed: reliq.Lease) -> Any:
    return claimed.body, claimed


def default_between(body: Any, dry: bool = False, lease: Any = None) -> Any:
    assert dry is False
    return body, lease


@pytest.mark.parametrize(
    "function",
    [
        by_name,
        by_annotation,
        by_aio_annotation,
        by_unresolved_name,
        keyword_only,
        keyword_only_first,
        lease_first,
        lease_first_positional,
        lease_and_rest,
        only_lease,
        default_between,
    ],
)
def test_lease(q: reliq.Queue, function: Callable[..., Any]) -> None:
    """The lease goes to the parameter named `lease`, or annotated with a Lease, wherever that one stands."""
    lease = held()
    assert q.ack(function).call(lease) == (BODY, lease)


def test_annotation_that_exists_only_for_type_checkers(q: reliq.Queue) -> None:
    """`x: Lease` under TYPE_CHECKING counts, by the last part of its name."""

    def under_its_name(body: Any, claimed: Any) -> Any:
        return body, claimed

    under_its_name.__annotations__["claimed"] = "somewhere.Lease"
    lease = held()
    assert q.ack(under_its_name).call(lease) == (BODY, lease)
    with pytest.raises(TypeError, match="'claimed'"):
        q.ack(by_unresolved_annotation)


def test_body_only(q: reliq.Queue) -> None:
    """Defaults stay what they are; *args takes the body; partials, objects and bound methods are functions."""

    class Sender:
        def __call__(self, body: Any) -> Any:
            return body

        def send(self, body: Any, tries: int = 3) -> Any:
            assert tries == 3
            return body

    assert handed(q, lambda body, dry=False, *, tries=3: (body, dry, tries)) == (BODY, False, 3)
    assert handed(q, lambda *args, **options: (args, options)) == ((BODY,), {})
    assert handed(q, lambda *args, lease: (args, lease.body)) == ((BODY,), BODY)
    assert handed(q, Sender()) == handed(q, Sender().send) == BODY
    assert handed(q, functools.partial(two_bodies_back, "first")) == ("first", BODY)
    assert handed(q, max_of_pair) == max(BODY)
    assert "Sender" in q.ack(Sender()).name


def two_bodies_back(first: Any, second: Any) -> Any:
    return first, second


max_of_pair: Callable[..., Any] = max
"""A builtin without a signature."""


async def test_coroutine_functions(q: reliq.Queue) -> None:
    """async def is awaitable, also behind a partial or as an object's __call__."""

    class Sender:
        async def __call__(self, body: Any) -> Any:
            return body

    async def send(body: Any, lease: Any = None) -> Any:
        return body

    for function in (send, functools.partial(send), Sender(), Sender().__call__):
        handler = q.ack(function)
        assert handler.is_async
        assert await handler.call(held()) == BODY
    assert await q.ack(send)(1) == 1


def test_hidden_coroutine_is_an_error(q: reliq.Queue) -> None:
    """A plain function that returns a coroutine would be acked without having run: it fails instead."""

    async def send(body: Any) -> None: ...

    handler = q.ack(lambda body: send(body))
    with pytest.raises(TypeError, match="async def"):
        handler.call(held())


# -- called with a Lease ------------------------------------------------------------------------------------


def test_called_with_a_lease(live: reliq.Queue) -> None:
    """A handler given a lease handles its body and acks it, and returns what the function returned."""
    handler = live.ack(lambda body, lease: (body, lease.attempt))
    live.put(BODY)
    with live.consumer() as consumer:
        (lease,) = consumer.claim(timeout=5)
        assert handler(lease) == (BODY, 1)
        assert lease.settled
    assert tuple(live.size()) == (0, 0, 0, 0)


def test_called_with_a_lease_that_fails(
    live: reliq.Queue, redis: redis_py.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """The handler's own policy decides, not the queue's; the failure is logged and does not come out."""

    @live.ack(retry=reliq.Retry(attempts=1))
    def send(body: Any) -> str:
        raise ValueError("no such address")

    live.put(BODY)
    with live.consumer() as consumer, caplog.at_level(logging.ERROR, "reliq"):
        (lease,) = consumer.claim(timeout=5)
        assert send(lease) is None
    ((note, _),) = dead_letters(redis, live)
    assert (note["cause"], note["error"]) == ("ATTEMPTS", "ValueError: no such address")
    assert "no such address" in caplog.text


async def test_awaited_with_a_lease(server: RedisServer | ExternalServer, prefix: str) -> None:
    """A coroutine handler given a lease of the asyncio shell does the same, awaited."""
    async with aio.Queue("emails", server.url, prefix=prefix) as queue:

        @queue.ack
        async def send(body: Any, lease: aio.Lease) -> Any:
            return body, lease.attempt

        await queue.put(BODY)
        async with queue.consumer() as consumer:
            (lease,) = await consumer.claim(timeout=5)
            assert await send(lease) == (BODY, 1)  # type: ignore[call-overload]
            assert lease.settled
        assert tuple(await queue.size()) == (0, 0, 0, 0)


# -- annotated with a class ---------------------------------------------------------------------------------


@dataclass
class Mail:
    to: str


def test_a_body_becomes_what_is_annotated(q: reliq.Queue) -> None:
    """Also beside annotations that are there for type checkers alone; a plain call changes nothing."""

    def plain(mail: Mail) -> Any:
        return mail

    def beside_others(mail: Mail, lease: OnlyForCheckers) -> Any:
        return mail

    def any_number(*mails: Mail) -> Any:
        return mails[0]

    for function in (plain, beside_others, any_number, functools.partial(plain)):
        assert handed(q, function) == Mail("ada@example.org")  # type: ignore[arg-type]
    handler = q.ack(plain)
    assert handler.plain is not None
    assert handler.plain(BODY) == Mail("ada@example.org")
    assert handler.around(lambda function: lambda body: [function(body)]).plain(BODY) == [Mail("ada@example.org")]  # type: ignore[misc]
    assert handler(BODY) == BODY  # type: ignore[arg-type]
    with pytest.raises(DecodeError, match="the body is no Mail: to is missing"):
        handler.call(held({}))


def test_other_annotations_cost_nothing(q: reliq.Queue) -> None:
    """The function is called as it is."""

    def plain(body: dict[str, str]) -> None: ...

    assert q.ack(plain).plain is plain
