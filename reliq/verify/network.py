"""Replies that are lost, connections that are cut, scripts that Redis has forgotten: made at our own end of the
socket, or to our own connections by their id."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from reliq.core import ops, scripts
from reliq.core.scripts import Script
from reliq.errors import OutcomeUnknown, ReliqError
from reliq.sync.consumer import Consumer
from reliq.sync.lease import Lease
from reliq.sync.queue import Queue
from reliq.sync.reaper import Reaper
from reliq.verify.child import Child
from reliq.verify.finding import Broken, Skipped, check
from reliq.verify.life import same, sizes
from reliq.verify.mishap import MishandledLinks, Mishaps
from reliq.verify.site import Site


@check(
    "lost-replies",
    "reply of put, claim, settle or reap lost after Redis ran it: no loss, no stranded message, no second copy; a "
    "claimed message is delivered by the same consumer at once",
    "closed our socket after Redis had run the command, and before the reply was read",
)
def lost_replies(site: Site) -> str:
    mishaps = Mishaps()
    q = site.queue("lost-replies", mishaps=mishaps)
    dying = site.queue("lost-replies-reap", mishaps=mishaps, lease=site.short_lease)
    with site.puppet(dying) as puppet:
        dying.put_many([{"n": 1}, {"n": 2}])
        puppet.tell("claim", n=2, timeout=10)
        lost = _puts(q, mishaps) + _settles(site, q, mishaps)
        same(puppet.answer()["numbers"], [1, 2], "the process to be killed claimed")
        puppet.kill()
    return f"{lost + _reap(site, dying, mishaps, puppet)} replies were lost, and nothing else"


def _losing(mishaps: Mishaps, of: Script | str, act: Callable[[], Any]) -> Any:
    """Do something whose reply is lost once."""
    mishap = mishaps.lose_reply(of)
    result = act()
    if not mishap.hits:
        raise Broken(f"a step that should send {of} did not")
    return result


def _puts(q: Queue, mishaps: Mishaps) -> int:
    """Once more each, by the same producer."""
    q.put("before")  # from here on Redis knows the script
    ways: list[dict[str, Any]] = [{}, {"id": "mine"}, {"delay": 3600.0}]
    for options in ways:
        _losing(mishaps, scripts.put, partial(q.put, "put", **options))
    _losing(mishaps, scripts.put, partial(q.put_many, ["many"] * 3))
    sizes(q, ready=6, later=1)
    return len(ways) + 1


def _settles(site: Site, q: Queue, mishaps: Mishaps) -> int:
    verbs: list[Callable[[Lease], Any]] = [
        lambda lease: lease.ack(),
        lambda lease: lease.retry(3600),
        lambda lease: lease.bury("reliq verify"),
        lambda lease: lease.release(),
    ]
    with q.consumer() as c:
        claimed = _losing(mishaps, scripts.trip, partial(c.claim, timeout=5))
        for settle in verbs:
            if not claimed:
                raise Broken("a claim whose reply was lost has stranded its message for 5 s")
            same((claimed[0].deliveries, claimed[0].fence), (1, 1), "it came as delivery and fence")
            _losing(mishaps, scripts.trip, partial(settle, claimed[0]))  # which brings the next message, too
            claimed = c.claim(timeout=5)
        same((claimed[0].body, claimed[0].fence), ("many", 2), "what was released came again as")
        claimed[0].ack()
        site.settle_all(c, 2)
        _losing(mishaps, "BLMOVE", partial(c.claim, timeout=0.5))
    sizes(q, later=2, dead=1)
    return len(verbs) + 2


def _reap(site: Site, q: Queue, mishaps: Mishaps, dead: Child) -> int:
    """What the killed process held comes back once, although the reaper never hears of it."""
    mishap, reaper = mishaps.lose_reply(scripts.reap), Reaper(q, scan_steps=0)

    def reaped() -> bool:
        try:
            reaper.run_once()
        except OutcomeUnknown:
            reaper.run_once()
        return mishap.hits > 0 and q.size().doing == 0

    site.until(reaped, f"what process {dead.pid} held is ready again")
    sizes(q, ready=2)
    with q.consumer() as c:
        same(site.settle_all(c, 2), [{"n": 1}, {"n": 2}], "it came as")
    return 1


@check(
    "unknown-put",
    "a put whose outcome is unknown is told apart, and can be repeated without a second copy",
    "lost every reply of a put for as long as it waits, then repeated it",
)
def unknown_put(site: Site) -> str:
    mishaps = Mishaps()
    q = site.queue("unknown-put", mishaps=mishaps, timeout=max(0.4, 10 * site.rtt))
    q.put(0)
    lost = mishaps.lose_reply(scripts.put, times=1_000_000)
    try:
        q.put(1)
    except OutcomeUnknown as error:
        unknown = error
    except ReliqError as error:
        raise Broken(f"a put that Redis has run was told as {error.code}: {error}") from error
    else:
        raise Broken("a put was accepted that got no reply")
    mishaps.clear()
    q.put(2)
    same(q.repeat(unknown), unknown.ids, "a repeat returned")
    same(q.repeat(unknown), unknown.ids, "a second repeat returned")
    sizes(q, ready=3)
    return f"{lost.hits} replies were lost; told as unknown, repeated twice, one copy"


@check(
    "cut-connections",
    "connections cut at any time: no loss, and no message is delivered a second time",
    "CLIENT KILL of our own connections by their id, while messages were put, claimed and acked",
)
def cut_connections(site: Site) -> str:
    q = site.queue("cut-connections", mishaps=Mishaps())
    handled, killed = 0, 0
    with q.consumer(prefetch=3) as c:
        for number in site.rounds(0.1):
            for n in range(6):
                q.put([number, n])
                killed += _cut(site, q) if n % 3 == 2 else 0
            for n in range(6):
                claimed = c.claim(timeout=10)
                if not claimed:
                    raise Broken(f"after {killed} killed connections a message did not come within 10 s")
                killed += _cut(site, q) if n % 2 else 0
                same((claimed[0].body, claimed[0].deliveries), ([number, n], 1), "it came as body and delivery")
                claimed[0].ack()
                handled += 1
    sizes(q)
    if not killed:
        raise Broken("no connection could be killed")
    return f"{killed} connections were killed; all {handled} messages came in order, once each"


def _cut(site: Site, queue: Queue) -> int:
    """Kill the connections of this queue by their ids, if they are of the very server process that gave them."""
    assert isinstance(queue.links, MishandledLinks)
    ours = site.links.of(queue.options.keys)
    here = ours.server.run_id
    if not here:
        raise Skipped("INFO is not allowed, so it is not certain that an id is ours", "grant +info, and run again")
    ids = [link.server.client_id for link in list(queue.links.made) if link.server.run_id == here]
    return sum(int(ours.insist(ops.kill_client(id))) for id in ids if id)


@check(
    "forgotten-scripts",
    "NOSCRIPT, as after a restart of Redis: the script is sent again, and nothing is done twice",
    "asked for our scripts by a digest that Redis does not know (nobody's script cache was flushed)",
)
def forgotten_scripts(site: Site) -> str:
    mishaps = Mishaps()
    q = site.queue("forgotten-scripts", mishaps=mishaps)
    planned = [mishaps.forget(script) for script in (scripts.put, scripts.trip, scripts.sizes, scripts.leave)]
    q.put_many(range(3))
    with q.consumer() as c:
        _handle_in_order(site, c)
    sizes(q)
    forgotten = sum(mishap.hits for mishap in planned)
    same(forgotten, len(planned), "scripts that were forgotten")
    return f"{forgotten} scripts were not known and were sent; nothing was lost or done twice"


def _handle_in_order(site: Site, consumer: Consumer) -> None:
    same(site.settle_all(consumer, 3), [0, 1, 2], "the messages came as")
