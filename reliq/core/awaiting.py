"""Waiting for a result: without asking again and again, and never for one that cannot come.

The answer (see ``results``) stands in a list of one element. BLMOVE from the list to itself waits for it, and
leaves it: for others who wait, for whoever asks again, for a repeat after a lost reply. While nothing comes, the
message is looked for now and then, more and more seldom: one that is nowhere, or whose put has not asked, tells
nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar

from reliq.core import results
from reliq.core.command import Command, Flow
from reliq.core.explain import explain_g, raw_id
from reliq.core.explain.explanation import Explanation
from reliq.core.explain.search import Search
from reliq.core.keys import Keys
from reliq.core.retry import backoff
from reliq.errors import (
    ConfigError,
    MessageFailed,
    OutcomeUnknown,
    QueueFull,
    ReliqError,
    ResultMissing,
    ResultPending,
    Unavailable,
    given,
)

#: The longest time between two looks whether it can still come, seconds.
_LOOK_MOST: Final = 300.0
#: BLMOVE is refused while Redis is out of memory; then it is asked again so often, seconds.
_FULL: Final = 0.25


class Block(NamedTuple):
    """Run this on a connection of its own: it waits there for so long as it says."""

    command: Command


class Pause(NamedTuple):
    """Do nothing for so many seconds."""

    seconds: float


T = TypeVar("T")
Steps: TypeAlias = "Generator[Command | list[Command] | Block | Pause, Any, T]"


def result_g(
    keys: Keys, id: str, timeout: float | None, *, block: float, clock: Callable[[], float]
) -> Steps[Any]:
    """See ``Queue.result``. ``block``: seconds that one BLMOVE may wait; ``clock`` gives seconds."""
    raw = raw_id(id, "result")
    if timeout is not None and not (isinstance(timeout, int | float) and timeout >= 0):
        raise ConfigError(f"result(timeout={given(timeout)}): seconds, not negative, or None: as long as it takes")
    now = clock()
    ends = None if timeout is None else now + timeout
    look_at, pause, failures = now + block, block, 0
    while True:
        answer = yield look(keys, raw)
        if answer is None and ends is not None and clock() >= ends:
            raise pending(keys, raw, timeout, (yield from explain_g(keys, raw.hex(), deep=False)))
        if answer is None and clock() >= look_at:
            answer = yield from _still_g(keys, raw)
            pause = min(pause * 2, _LOOK_MOST)
            look_at = clock() + pause
        if answer is None:
            seconds = block if ends is None else min(block, max(0.001, ends - clock()))
            try:
                answer = yield Block(wait(keys, raw, seconds))
                failures = 0
            except QueueFull:
                yield Pause(min(_FULL, seconds))
            except (Unavailable, OutcomeUnknown):
                failures += 1
                yield Pause(min(seconds, backoff(failures)))
        if answer is not None:
            return value_of(keys, raw, answer)


def look(keys: Keys, id: bytes) -> Command:
    """Parses to the answer, or None if there is none yet."""
    return Command(
        "LRANGE", (keys.result(id),), (0, 0), lambda r: r[0] if r else None, idempotent=True, queue=keys.queue
    )


def wait(keys: Keys, id: bytes, seconds: float) -> Command:
    """The same, but wait for it so long. Nothing is taken, and a repeat does no harm."""
    key = keys.result(id)
    return Command("BLMOVE", (key, key), ("LEFT", "LEFT", round(seconds, 3)), queue=keys.queue)


def _still_g(keys: Keys, id: bytes) -> Flow[bytes | None]:
    """None if it may still come; the answer, if that came meanwhile; ResultMissing if it never will."""
    search = Search(keys, id)
    found = yield from search.quick_g()
    if found is None:
        found = yield from search.thorough_g()
        if found is None and not search.certain:
            return None
    if found is not None and (results.asked(found.message.meta) is not None or found.place == "dead"):
        # A dead one has told so when it died; if that has ended since, it may be revived.
        return None
    answer: bytes | None = yield look(keys, id)
    if answer is not None:
        return answer
    if found is not None:
        raise ResultMissing(
            f"queue {keys.queue!r}: message {id.hex()} has no result, since its put did not ask for one. Put with "
            "result=, and look where it is: reliq explain " + id.hex()
        )
    raise ResultMissing(
        f"queue {keys.queue!r}: there is no result of message {id.hex()}, and the message is nowhere: it was kept "
        "for as long as its put said, or its put did not ask, or it was never put here. Ask sooner, or put with a "
        "longer result=; what is known of it: reliq explain " + id.hex()
    )


def pending(keys: Keys, id: bytes, timeout: float | None, where: Explanation) -> ReliqError:
    """The error of who has waited for long enough."""
    return ResultPending(
        f"queue {keys.queue!r}: no result of message {id.hex()} within {timeout:g} s: it is {where.state} "
        f"({where.why}). Wait again, the result is kept for later; or see what it waits for: "
        f"reliq explain {id.hex()}"
    )


def value_of(keys: Keys, id: bytes, answer: bytes) -> Any:
    """What the handler returned; or raise what the answer says instead."""
    found = results.read(answer)
    found = found if isinstance(found, dict) else {results.LOST: f"nobody can read {found!r}"}
    if results.VALUE in found:
        return found[results.VALUE]
    name = f"queue {keys.queue!r}: message {id.hex()}"
    if results.CAUSE in found:
        cause, error, trace = (str(found.get(part) or "") for part in (results.CAUSE, "error", "traceback"))
        told = f" ({cause}): {error}" if error else f" ({cause})"
        raise MessageFailed(
            f"{name} was not done{told}. What became of it: reliq explain {id.hex()}",
            cause=cause,
            error=error,
            traceback=trace,
        )
    raise ResultMissing(f"{name} is done, but its result could not be kept: {found.get(results.LOST)}")
