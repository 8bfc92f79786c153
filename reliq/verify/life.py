"""What becomes of messages when nothing goes wrong, and when what was put is not what it should be."""

from __future__ import annotations

from collections import Counter
from itertools import zip_longest
from typing import Any, Final

import msgpack

from reliq.core import envelope as env
from reliq.core import ops
from reliq.core.command import Command
from reliq.errors import WrongKeyType
from reliq.sync.queue import Queue
from reliq.sync.reaper import Reaper
from reliq.verify.finding import Broken, check
from reliq.verify.site import Site

#: More members of a list than these are not shown.
_SHOWN: Final = 5


def same(seen: Any, wanted: Any, what: str) -> None:
    """Broken if they differ; of long lists, from where they do."""
    if seen == wanted:
        return
    if isinstance(seen, list) and isinstance(wanted, list) and max(len(seen), len(wanted)) > 2 * _SHOWN:
        pairs = enumerate(zip_longest(seen, wanted, fillvalue=None))
        start = next(place for place, (one, other) in pairs if one != other)
        what = f"{what} {len(seen)} of {len(wanted)}, from place {start} on"
        seen, wanted = seen[start : start + _SHOWN], wanted[start : start + _SHOWN]
    raise Broken(f"{what}: {seen!r}, not {wanted!r}")


def sizes(queue: Queue, **wanted: int) -> None:
    """Broken if a queue holds anything else, in any state."""
    found = {state: n for state, n in queue.size()._asdict().items() if n}
    same(found, wanted, "the queue holds")


def dead_letters(queue: Queue) -> list[dict[str, Any]]:
    """The death notes, the oldest first."""
    page = queue.links.insist(ops.page(queue.options.keys.dead, 0, -1, "ZRANGE"))
    return [env.split_note(member)[0] for member in page[::2]]


@check(
    "order",
    "no accepted message is lost, none is delivered that was not put, and they come in the order of their puts",
    "put messages one by one and many at a time, claimed them with two consumers, and acked them",
)
def order(site: Site) -> str:
    q = site.queue("order")
    count = 0
    for _ in site.rounds(0.02):
        for _ in range(5):
            q.put(count)
            count += 1
        q.put_many(range(count, count + 45))
        count += 45
    half = count // 2
    with q.consumer(prefetch=5) as one, q.consumer(prefetch=5) as two:
        bodies = site.settle_all(one, half)
        one.close()
        bodies += site.settle_all(two, count - half)
        same(bodies, list(range(count)), "the messages came as")
        same(two.claim(timeout=0), [], "more came")
    sizes(q)
    return f"{count} messages came in order, once each, and nothing is left"


@check(
    "settling",
    "at rest every message is in exactly one place; fences grow with every return; failures are counted by cause",
    "acked, retried, released, buried and delayed messages, and had a reaper look at a consumer that lives",
)
def settling(site: Site) -> str:
    q = site.queue("settling")
    q.put_many(["ack", "release", "retry", "bury"])
    with q.consumer() as c:
        ack, release, retry, bury = c.claim(4, timeout=5)
        sizes(q, doing=4)
        same(Reaper(q, scan_steps=0).run_once().returned, 0, "a reaper took from a consumer that lives")
        ack.ack()
        retry.retry(3600, reason="reliq verify")
        bury.bury("reliq verify")
        q.put("behind")
        release.release()
        again, behind = c.claim(timeout=5) + c.claim(timeout=5)
        same((again.body, again.attempt, again.fence), ("release", 1, 2), "what was released came first as")
        again.ack()
        behind.retry(0)
        (failed,) = c.claim(timeout=5)
        same((failed.body, failed.attempt, failed.fence), ("behind", 2, 2), "what was retried came again as")
        failed.ack()
    same([note["cause"] for note in dead_letters(q)], ["BURIED"], "the dead letters say")
    sizes(q, later=1, dead=1)
    _delay(site)
    return "each went where it should, the counters say why, and the reaper took nothing from the living"


def _delay(site: Site) -> None:
    """Delays count by the server's clock."""
    q = site.queue("delay")
    q.put("delayed", delay=0.3)
    (member, due) = q.links.insist(ops.page(q.options.keys.later, 0, -1, "ZRANGE"))
    left = float(due) - q.links.insist(ops.server_time())
    if not (-1000 * (1 + 10 * site.rtt) < left <= 300 and env.is_envelope(member)):
        raise Broken(f"a message with a delay of 300 ms is due in {left:.0f} ms by the server's clock")
    with q.consumer() as c:
        same(site.settle_all(c, 1), ["delayed"], "after its delay it came as")
    sizes(q)


@check(
    "same-id",
    "a put with an id of your own adds no second copy, from any process, within the hour",
    "put the same id several times from two producers, at once and with a delay",
)
def same_id(site: Site) -> str:
    q, other = site.queue("same-id"), site.queue("same-id")
    ids = {q.put(1, id="order-4711"), other.put(2, id="order-4711"), q.put(3, id="order-4711", delay=60)}
    same(len(ids), 1, "ids that were returned for one")
    sizes(q, ready=1)
    with other.consumer() as c:
        same(site.settle_all(c, 1), [1], "it came as")
    q.put(4, id="order-4711")
    sizes(q)
    return "four puts, one copy, which was acked; the id is still known"


_WHOLE: Final = env.pack(bytes(16), msgpack.packb({"n": 1}))
#: What strangers put into lists, and the cause that its dead letter has to name.
_GARBAGE: Final = {
    "no bytes at all": (b"", "UNDECODABLE"),
    "no JSON": (b"\x00\xff not JSON", "UNDECODABLE"),
    "a cut envelope": (_WHOLE[:-3], "UNDECODABLE"),
    "a later format": (_WHOLE[:4] + b"\x63" + _WHOLE[5:], "UNSUPPORTED_VERSION"),
    "a wrong length": (_WHOLE[:5] + b"\x00\x00\xff\xff" + _WHOLE[9:], "BAD_LENGTH"),
    "a body that is no msgpack": (env.pack(bytes(15) + b"\x01", b"\xc1\xc1"), "UNDECODABLE"),
}


@check(
    "garbage",
    "undecodable, truncated, empty or wrong-version input is kept as a dead letter, or is a clear error; it "
    "blocks nobody",
    "pushed garbage between good messages, and put into a key of another type",
)
def garbage(site: Site) -> str:
    q = site.queue("garbage")
    ready = q.options.keys.ready
    q.put("first")
    for element, _ in _GARBAGE.values():
        q.links.insist(Command("LPUSH", (ready,), (element,)))
    q.links.insist(Command("LPUSH", (ready,), (b'{"raw": 1}',)))
    q.put("last")
    with q.consumer(prefetch=3) as c:
        same(site.settle_all(c, 3), ["first", {"raw": 1}, "last"], "the good ones came as")
        site.until(lambda: q.size().doing == 0, "the garbage has left the processing list")
    sizes(q, dead=len(_GARBAGE))
    causes = Counter(note["cause"] for note in dead_letters(q))
    same(causes, Counter(cause for _, cause in _GARBAGE.values()), "the dead letters say")
    wrong = site.queue("wrong-type")
    wrong.links.insist(Command("SET", (wrong.options.keys.ready,), ("no list",)))
    try:
        wrong.put(1)
    except WrongKeyType:
        return f"{len(_GARBAGE)} kinds of it are dead letters with their causes; the neighbours were handled"
    raise Broken("a put into a key that is no list was accepted")
