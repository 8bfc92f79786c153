"""Where is my message, why is it not further, and what do I do now. It only reads.

``looks`` are the commands, ``seek`` finds a place in a deep queue, ``search`` goes through all places,
``timeline`` and ``answer`` make sentences of what was found, and ``Explanation`` is the record. These flows put it
together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace

from reliq.core import envelope as env
from reliq.core import ops
from reliq.core.command import Flow
from reliq.core.explain.answer import found_g, nowhere_g, slow
from reliq.core.explain.explanation import Explanation as Explanation
from reliq.core.explain.explanation import Happening as Happening
from reliq.core.explain.search import Progress as Progress
from reliq.core.explain.search import Search
from reliq.core.keys import Keys
from reliq.core.ops import Known
from reliq.core.orders import Report
from reliq.core.reasons import Reason
from reliq.errors import ConfigError, ReliqError

Told = Callable[[Progress], None]


def explain_g(keys: Keys, id: str, *, deep: bool = True) -> Flow[Explanation]:
    """Explain a message of one queue; if it is in another one of the prefix, that is said instead.

    ``deep``: read everything before saying that it is nowhere, also the other queues; else look only where its id
    says.
    """
    known = yield ops.known_queues(keys.prefix)
    others = queues_of(keys.prefix, known, but=keys.queue) if deep else []
    return (yield from explain_in_g([keys, *others], id, [entry.name for entry in known], deep=deep))


def queues_of(prefix: str, known: Iterable[Known], *, but: str) -> list[Keys]:
    """The keys of the queues in the index, without one of them and those that cannot be."""
    found = []
    for entry in known:
        with suppress(ConfigError):
            if entry.name != but:
                found.append(Keys(entry.name, prefix, entry.key if isinstance(entry.key, str) else None))
    return found


def explain_in_g(
    queues: Sequence[Keys], id: str, known: Sequence[str], *, deep: bool = True, report: Told | None = None
) -> Flow[Explanation]:
    """Explain a message that is in one of these queues: first a quick look into each, then all of each.

    ``known``: the names in the index; ``report`` is told how far a long search is. Raises what kept us from
    searching the first queue; of others it is told.
    """
    raw = raw_id(id, "explain")
    searches = [Search(keys, raw, report) for keys in queues]
    failures: dict[str, ReliqError] = {}
    for way in (Search.quick_g, Search.thorough_g) if deep else (Search.quick_g,):
        for search in searches:
            try:
                found = None if search.keys.queue in failures else (yield from way(search))
            except ReliqError as error:
                failures[search.keys.queue] = error
                continue
            if found is not None:
                return (yield from found_g(search, found))
    if queues[0].queue in failures:
        raise failures[queues[0].queue]
    done = [search for search in searches if search.keys.queue not in failures]
    told = [f"queue {name!r} could not be searched ({str(error).rstrip('.')})" for name, error in failures.items()]
    return (yield from nowhere_g(done, id.strip(), known, told, deep=deep))


def is_handled(found: Explanation) -> bool:
    """Whether a consumer that is alive has it, and can be asked where its handler is."""
    return found.reason in (Reason.LEASED, Reason.CANCELLING) and found.consumer is not None


def with_report(found: Explanation, keys: Keys, report: Report | None) -> Explanation:
    """The same with what its consumer says of it; as it was, if that does not have it in hand any more."""
    for each in report.in_hand if report is not None else ():
        if report is not None and each.id == found.id:
            since = found.held_since if each.since is None else each.since
            told = replace(found, held_since=since, handler=report.handler or None, stack=each.stack)
            return slow(told, keys, since) if each.slow else told
    return found


def raw_id(id: str, verb: str) -> bytes:
    """The 16 bytes of an id, or of the text that stands for one; ConfigError, which names the verb, for none."""
    try:
        if id.strip():
            return env.named_id(id.strip())
    except (AttributeError, UnicodeError):
        pass
    raise ConfigError(f"{verb}({id!r}): the id of a message, as its put returned it")
