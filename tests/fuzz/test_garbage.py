"""Garbage on a live connection, in the place of a reply: workers and producers meet it, say so, and go on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

import reliq
from reliq.core import scripts
from tests.conformance.shell import Shell, until
from tests.faults.proxy import Action, FaultProxy, reply_error
from tests.fuzz.work import at_work
from tests.servers import RedisServer

#: What comes instead of a reply, made of that. The first are whole replies, to something else; the others none.
GARBAGE: dict[str, Callable[[bytes], bytes]] = {
    "a status": lambda reply: b"+OK\r\n",
    "a number": lambda reply: b":1\r\n",
    "nothing": lambda reply: b"$-1\r\n",
    "an empty list": lambda reply: b"*0\r\n",
    "half of the list": lambda reply: b"*1\r\n$2\r\nok\r\n",
    "an error in a list": lambda reply: b"*2\r\n$2\r\nok\r\n-ERR x\r\n",
    "an error that is no text": lambda reply: b"-\xff\xfe\r\n",
    "a map": lambda reply: b"%1\r\n+a\r\n:1\r\n",
    "a push": lambda reply: b">2\r\n+x\r\n+y\r\n" + reply,
    "twice": lambda reply: reply + reply,
    "and a half": lambda reply: reply + b"$100\r\nab",
    "HTTP": lambda reply: b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n",
    "noise": lambda reply: bytes(range(256)),
    "NUL": lambda reply: b"\0",
    "cut": lambda reply: reply[:-3],
}


def answer(garbage: Callable[[bytes], bytes]) -> Action:
    """Redis runs the request; the client gets this instead of the reply, on the same connection."""

    def apply(link: Any, request: Any, raw: bytes, rule: Any) -> None:
        rule._lose(raw)
        link.to_client.put(garbage(raw))

    return Action("garbage", "reply", apply)


@pytest.fixture
def proxy(newest: RedisServer) -> Iterator[FaultProxy]:
    with FaultProxy("127.0.0.1", newest.port) as running:
        running.scripts.update({s.name: s.sha for s in vars(scripts).values() if isinstance(s, scripts.Script)})
        yield running


#: Where a worker meets it: in the place of which answer. INFO is the first one of a connection.
MEETINGS = [
    *(("trip", name) for name in ("a status", "half of the list", "an error in a list", "twice", "HTTP", "NUL")),
    *(("BLMOVE", name) for name in ("noise", "a map")),
    *(("INFO", name) for name in ("a number", "HTTP")),
]


async def test_a_worker_meets_garbage_and_goes_on(shell: Shell, proxy: FaultProxy) -> None:
    """In the place of any answer that it waits for: every message is handled once, and the worker ends when it is
    told to, and not before."""
    queue, direct = shell.queue(url=proxy.url, timeout=0.3, block=1), shell.queue()
    handled: list[Any] = []
    async with at_work(shell, queue.ack(handled.append)) as running:
        assert await until(lambda: proxy.counts[b"BLMOVE"])
        for number, (where, name) in enumerate(MEETINGS):
            if where == "INFO":
                proxy.reset_all()
            criteria = {"script": where} if where == "trip" else {"command": where}
            rule = proxy.on(action=answer(GARBAGE[name]), **criteria)
            await shell(direct.put(number))
            assert await until(lambda rule=rule: rule.hits or running.done()), (where, name)
            assert not running.done(), (where, name, running.exception())
        assert await until(lambda: len(set(handled)) == len(MEETINGS), seconds=20), handled
    assert sorted(handled) == list(range(len(MEETINGS)))
    assert tuple(await shell(direct.size())) == (0, 0, 0, 0)


async def test_a_put_that_is_answered_with_garbage_is_in_once(shell: Shell, proxy: FaultProxy) -> None:
    """The same put is sent again on another connection, and the server recognises it; what follows a good answer
    is not taken for that to the next put."""
    queue = shell.queue(url=proxy.url, timeout=0.5)
    await shell(queue.put(0))
    for number, garbage in enumerate(GARBAGE.values()):
        rule = proxy.on(script="put", action=answer(garbage))
        await shell(queue.put(2 * number + 1))
        await shell(queue.put(2 * number + 2))
        assert rule.hits == 1
    assert await shell.drain(shell.queue()) == list(range(2 * len(GARBAGE) + 1))


@pytest.mark.parametrize("name", ["twice", "and a half"])
async def test_an_answer_that_nobody_asked_for_is_taken_for_no_other(
    shell: Shell, proxy: FaultProxy, name: str
) -> None:
    """A put is accepted, and that is said twice; the next one is refused, and is not taken for accepted."""
    queue = shell.queue(url=proxy.url)
    await shell(queue.put(0))
    proxy.on(script="put", action=answer(GARBAGE[name]))
    await shell(queue.put(1))
    proxy.on(script="put", action=reply_error(b"-OOM command not allowed when used memory > 'maxmemory'."))
    with pytest.raises(reliq.QueueFull):
        await shell(queue.put(2))
    assert await shell.drain(shell.queue()) == [0, 1]


async def test_nothing_but_garbage_is_an_unknown_outcome(shell: Shell, proxy: FaultProxy) -> None:
    """Which says what came, and can be given to repeat() when that is over."""
    queue = shell.queue(url=proxy.url, timeout=0.4)
    await shell(queue.put(0))
    opened = proxy.counts[b"INFO"]
    rule = proxy.on(script="put", action=answer(GARBAGE["a status"]), count=None)
    with pytest.raises(reliq.OutcomeUnknown, match=r"put: b'OK' came for an answer.*a proxy") as caught:
        await shell(queue.put(1))
    rule.remove()
    assert proxy.counts[b"INFO"] >= opened + rule.hits, "a connection that said nonsense was used again"
    assert await shell(queue.repeat(caught.value)) == caught.value.ids
    assert await shell.drain(shell.queue()) == [0, 1]
