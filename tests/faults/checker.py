"""Was anything lost, doubled, invented? Pure functions over a history, effects, and what Redis holds at the end.

In the manner of Jepsen's total-queue: every put is attempted, acknowledged (ok), refused or unknown; then
    lost        acknowledged, and neither acked after its work was done nor anywhere in Redis
    unexpected  delivered or found in Redis, and never attempted
    duplicated  handed to a handler more than once (allowed, if there is a cause for each time)
    recovered   unknown, and it was in

and of DESIGN 3 (the rules are named after it):

    I1  lost, unexpected; an ack before the work was done; a delivery of what was not claimed
    I2  at rest a message is in one place, and in none after an accepted ack
    I3  no fence is claimed twice; a larger fence is not claimed before a smaller one; at most one ack is accepted.
        The order of claims is the server's: by its clock (ms). A claim that was learnt late (a repeated trip, a
        reconciliation) has only a span of time; two are out of order if no moments in their spans are in order
    I4  every extra delivery has a return in the ledger, or an entry there says that the server has forgotten
        things; every reap, late settle and rollback is explained by the faults that were injected; a dead letter
        has a cause that the round expects
    I5  nothing is claimed after an accepted ack or bury. A return counts the fence up, and what was acked cannot
        return: so this is seen from the fences alone (a claim with a larger one), whatever clocks say
    I6  drained within lease + sweep + work after the heal, and processes end when they are told to
    I7  a refused put never appears; an unknown one is in at most once
    ORDER  what goes back without having been handled goes to the head in the order of the puts

What cannot be checked from outside: an ack whose answer nobody received. It counts as accepted if its effect is
there and the message is not; so a loss between the effect and such an ack goes unseen.
After a rollback of the server (`Terms.rollbacks`) confirmed writes are missing: what was confirmed within
`Terms.forgets` seconds before it is excused, counted, and listed. No put is excused with `Terms.durable`, where a
replica had confirmed it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

from tests.faults.history import Effect, Event

FINAL = ("ack", "bury")
SETTLES = ("ack", "retry", "release", "bury")
RETURNS = ("retry", "release", "reap")
ASKED = frozenset({"retry", "bury"})
"""What handlers cause by themselves; every round allows it."""
OF_CONSUMERS = frozenset({"start", "stop", "die", "adopt", "forget", "reconcile"})
"""What happens to consumers: by itself it delivers no message once more, so no fault has to explain it."""
LEDGER_FULL = 9_900
"""The ledger keeps about 10,000 entries; from so many on it may have forgotten some."""


class Found(NamedTuple):
    """One element in Redis at the end: in ``ready``, ``inbox``, ``doing``, ``later`` or ``dead``."""

    place: str
    id: str
    fence: int
    cause: str = ""


@dataclass(frozen=True)
class Final:
    """What Redis holds at the end, and its ledger: entries of event, id, consumer, detail and ms."""

    found: Sequence[Found] = ()
    ledger: Sequence[Event] = ()
    strange: Sequence[str] = ()


@dataclass(frozen=True)
class Terms:
    """What the faults of this round explain, and what has to hold all the same."""

    causes: frozenset[str] = frozenset()
    dead: frozenset[str] = frozenset()
    drained: bool = True
    recovery: float = 0.0
    bound: float = 60.0
    rollbacks: Sequence[float] = ()
    forgets: float = 0.0
    durable: bool = False
    """A replica had every confirmed put: no rollback excuses the loss of one."""
    complaints: Sequence[tuple[str, str]] = ()
    """(rule, what) that the round itself has seen, such as a worker that did not end."""


class Forgotten(NamedTuple):
    """An acknowledged put that a rollback took back: seconds from the start of the round to its confirmation, and
    from there to the rollback."""

    id: str
    at: float
    before: float


class Violation(NamedTuple):
    """A broken rule; ``id`` is the message it is about, if any; ``at`` is its time by the common clock."""

    at: float
    rule: str
    id: str
    what: str


@dataclass
class Report:
    """What came out. ``extra`` counts deliveries that no handler has asked for, by cause."""

    attempted: int = 0
    acknowledged: int = 0
    refused: int = 0
    unknown: int = 0
    recovered: int = 0
    acked: int = 0
    dead: int = 0
    lost: list[str] = field(default_factory=list)
    forgiven: list[Forgotten] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    duplicated: int = 0
    extra: Counter[str] = field(default_factory=Counter)
    recovery: float = 0.0
    violations: list[Violation] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.violations

    @property
    def rules(self) -> set[str]:
        """The names of the rules that are broken."""
        return {violation.rule for violation in self.violations}


class _Put(NamedTuple):
    first: float
    ok: float | None
    unknown: bool


class _Story:
    """The history of one round, sorted by what is asked of it."""

    def __init__(self, events: Sequence[Event], effects: Sequence[Effect], final: Final, terms: Terms) -> None:
        self.events, self.final, self.terms = events, final, terms
        self.puts = _puts(events)
        self.claims = _by_id(events, ["claim"], "ok")
        self.deliveries = _by_id(events, ["deliver"], "ok")
        self.accepted = _by_id(events, FINAL, "ok")
        self.tried = _by_id(events, FINAL, "invoke")
        self.refused_settles = {(e["id"], e["fence"], e["op"]) for e in _of(events, SETTLES, "fail")}
        self.effects: dict[str, list[Effect]] = defaultdict(list)
        for effect in effects:
            self.effects[effect.id].append(effect)
        self.at_rest: dict[str, list[Found]] = defaultdict(list)
        for found in final.found:
            self.at_rest[found.id].append(found)
        self.ledger: dict[str, list[Event]] = defaultdict(list)
        for entry in final.ledger:
            self.ledger[entry["id"]].append(entry)
        self.moments: dict[str, list[float]] = defaultdict(list)
        if terms.rollbacks:
            for event in events:
                for id in [event["id"]] if "id" in event else event.get("ids", ()):
                    self.moments[id].append(event["mono"])
        self.start = min((e["mono"] for e in events), default=0.0)
        self.end = max((e["mono"] for e in events), default=0.0)
        self.anchor = _anchor(events)

    def when(self, entry: Event) -> float:
        """The time of a ledger entry by the common clock."""
        return entry["ms"] / 1000 - self.anchor if self.anchor is not None else self.end

    def rollback_after(self, moment: float) -> float | None:
        """The rollback, if there is one, that came so soon after it that the server may have forgotten it."""
        forgets = self.terms.forgets
        return next((r for r in self.terms.rollbacks if r - forgets <= moment <= r), None)

    def rolled_back(self, id: str) -> bool:
        """Whether the server may have forgotten anything about this message."""
        return any(self.rollback_after(moment) is not None for moment in self.moments.get(id, ()))


def _anchor(events: Iterable[Event]) -> float | None:
    """What to take from a time of day to have the common clock: the round's own process knows both."""
    return next((e["wall"] - e["mono"] for e in events if e["op"] == "phase"), None)


def _of(events: Iterable[Event], ops: Iterable[str], state: str) -> Iterator[Event]:
    wanted = frozenset(ops)
    return (e for e in events if e["op"] in wanted and e["state"] == state)


def _by_id(events: Iterable[Event], ops: Iterable[str], state: str) -> dict[str, list[Event]]:
    sorted_out: dict[str, list[Event]] = defaultdict(list)
    for event in _of(events, ops, state):
        sorted_out[event["id"]].append(event)
    return sorted_out


def _puts(events: Iterable[Event]) -> dict[str, _Put]:
    """What is known about every attempted id. One that was invoked and never ended (its producer died) is
    unknown; so is one that was refused after an unknown try."""
    open_tries: Counter[str] = Counter()
    puts: dict[str, _Put] = {}
    for event in events:
        if event["op"] != "put":
            continue
        for id in event["ids"]:
            put = puts.get(id, _Put(event["mono"], None, False))
            open_tries[id] += 1 if event["state"] == "invoke" else -1
            if event["state"] == "ok" and put.ok is None:
                put = put._replace(ok=event["mono"])
            elif event["state"] == "unknown":
                put = put._replace(unknown=True)
            puts[id] = put
    return {id: put._replace(unknown=put.unknown or open_tries[id] > 0) for id, put in puts.items()}


def check(events: Sequence[Event], effects: Sequence[Effect], final: Final, terms: Terms) -> Report:
    """Everything. ``events`` in the order of the common clock."""
    story = _Story(events, effects, final, terms)
    report = Report(recovery=terms.recovery)
    _count(story, report)
    for rule in (_i1_lost, _i1_unexpected, _i1_work, _i2, _i3, _i4_returns, _i4_causes, _i5, _i6, _i7, _order):
        report.violations += rule(story, report)
    report.violations.sort()
    return report


def _count(story: _Story, report: Report) -> None:
    puts = story.puts
    seen = set(story.claims) | set(story.at_rest)
    report.attempted = len(puts)
    report.acknowledged = sum(put.ok is not None for put in puts.values())
    unknown = {id for id, put in puts.items() if put.ok is None and put.unknown}
    report.unknown, report.recovered = len(unknown), len(unknown & seen)
    report.refused = report.attempted - report.acknowledged - report.unknown
    report.acked = sum(any(e["op"] == "ack" for e in accepted) for accepted in story.accepted.values())
    report.dead = sum(found.place == "dead" for found in story.final.found)
    report.duplicated = sum(len(deliveries) > 1 for deliveries in story.deliveries.values())
    for id, deliveries in story.deliveries.items():
        report.extra += _extra(story, id, deliveries)


def _extra(story: _Story, id: str, deliveries: Sequence[Event]) -> Counter[str]:
    """The deliveries beyond the first that no handler has asked for, by the cause of the return before them."""
    causes: Counter[str] = Counter()
    ordered = sorted(deliveries, key=lambda e: e["fence"])
    returns = [e for e in story.ledger.get(id, ()) if e["event"] in RETURNS]
    for before, after in pairwise(ordered):
        between = {e["event"] for e in returns[before["fence"] - 1 : after["fence"] - 1]}
        if before["fence"] == after["fence"]:
            causes["rollback" if story.rolled_back(id) else "none"] += 1
        elif "reap" in between:
            causes["reap"] += 1
        elif "release" in between:
            causes["release"] += 1
    return causes


# -- the rules ----------------------------------------------------------------------------------------------


def _i1_lost(story: _Story, report: Report) -> Iterator[Violation]:
    for id, put in story.puts.items():
        if put.ok is None or id in story.at_rest:
            continue
        why = _gone_for_no_reason(story, id)
        rollback = None if story.terms.durable else story.rollback_after(put.ok)
        if why and rollback is not None:
            report.forgiven.append(Forgotten(id, put.ok - story.start, rollback - put.ok))
        elif why:
            report.lost.append(id)
            yield Violation(story.end, "I1", id, f"was accepted and is nowhere: {why}")


def _gone_for_no_reason(story: _Story, id: str) -> str:
    """Why the absence of this message is a loss; empty if it is none."""
    if any(e["op"] == "bury" for e in story.accepted.get(id, ())):
        return "it was dead-lettered and is not among the dead"
    worked = {effect.fence for effect in story.effects.get(id, ())}
    if any(e["op"] == "ack" for e in story.accepted.get(id, ())):
        return "" if worked else "it was acked and its work was never done"
    open_acks = [
        e for e in story.tried.get(id, ()) if (id, e["fence"], e["op"]) not in story.refused_settles
    ]  # whose answers nobody received
    if any(e["fence"] in worked for e in open_acks):
        return ""
    return "no ack of it can have been accepted" if id in story.claims else "it was never claimed"


def _i1_unexpected(story: _Story, report: Report) -> Iterator[Violation]:
    for id in [*story.claims, *(id for id in story.at_rest if id not in story.claims)]:
        if id not in story.puts:
            report.unexpected.append(id)
            at = story.claims[id][0]["mono"] if id in story.claims else story.end
            yield Violation(at, "I1", id, "was never put")
    for what in story.final.strange:
        report.unexpected.append(what)
        yield Violation(story.end, "I1", "", f"something in Redis that nobody put: {what}")


def _i1_work(story: _Story, report: Report) -> Iterator[Violation]:
    """Work comes before the ack, and after the claim."""
    for id, accepted in story.accepted.items():
        done = {effect.fence: effect.mono for effect in story.effects.get(id, ())}
        asked = {e["fence"]: e["mono"] for e in story.tried.get(id, ()) if e["op"] == "ack"}
        for e in accepted:
            when = asked.get(e["fence"], e["mono"])
            if e["op"] == "ack" and done.get(e["fence"], when + 1.0) > when and not story.rolled_back(id):
                yield Violation(when, "I1", id, f"fence {e['fence']} was acked before its work was done")
    for id, deliveries in story.deliveries.items():
        claimed = {(e["fence"], e["consumer"]) for e in story.claims.get(id, ())}
        for e in deliveries:
            if (e["fence"], e["consumer"]) not in claimed:
                yield Violation(e["mono"], "I1", id, f"fence {e['fence']} reached a handler and was not claimed")


def _i2(story: _Story, report: Report) -> Iterator[Violation]:
    for id, places in story.at_rest.items():
        names = ", ".join(f"{found.place} (fence {found.fence})" for found in places)
        if len(places) > 1:
            yield Violation(story.end, "I2", id, f"is in {len(places)} places at rest: {names}")
        acks = [e for e in story.accepted.get(id, ()) if e["op"] == "ack"]
        if acks and not story.rolled_back(id):
            yield Violation(story.end, "I2", id, f"was acked (fence {acks[0]['fence']}) and is in {names}")


def _i3(story: _Story, report: Report) -> Iterator[Violation]:
    for id, claims in story.claims.items():
        if story.terms.rollbacks and story.rolled_back(id):
            continue
        first: dict[int, Event] = {}
        for e in claims:
            other = first.setdefault(e["fence"], e)
            if other is not e:
                yield _claimed_twice(story, id, other, e)
        ordered = sorted(first.values(), key=lambda e: e["fence"])
        for before, after in pairwise(ordered):
            if _earliest(before) > after["ms"]:
                what = f"fence {after['fence']} was claimed before fence {before['fence']}, by the server's clock"
                yield Violation(after["mono"], "I3", id, what)
    for id, accepted in story.accepted.items():
        if len(accepted) > 1 and not story.rolled_back(id):
            fences = ", ".join(f"{e['op']} of fence {e['fence']}" for e in accepted)
            yield Violation(accepted[1]["mono"], "I3", id, f"was settled for good {len(accepted)} times: {fences}")


def _claimed_twice(story: _Story, id: str, first: Event, second: Event) -> Violation:
    put = story.puts.get(id)
    returned = any(e["event"] in RETURNS for e in story.ledger.get(id, ()))
    what = f"fence {second['fence']} was claimed twice, by {first['consumer']} and {second['consumer']}"
    if second["fence"] == 1 and put is not None and not returned:
        return Violation(second["mono"], "I7", id, f"{what}, and never went back: two copies of one put")
    return Violation(second["mono"], "I3", id, what)


def _earliest(claim: Event) -> int:
    """The earliest moment, by the server's clock, at which this claim can have been made."""
    return int(claim["ms"] if claim["exact"] else claim["since"])


def _i4_returns(story: _Story, report: Report) -> Iterator[Violation]:
    """As many returns in the ledger as the fence counts; and one handing-over for each fence."""
    forgets = len(story.final.ledger) >= LEDGER_FULL
    for id, deliveries in story.deliveries.items():
        if story.terms.rollbacks and story.rolled_back(id):
            continue
        for fence, times in Counter(e["fence"] for e in deliveries).items():
            if times > 1:
                what = f"fence {fence} was handed over {times} times without going back in between"
                yield Violation(deliveries[-1]["mono"], "I4", id, what)
        last = max(deliveries, key=lambda e: e["fence"])
        recorded = sum(e["event"] in RETURNS for e in story.ledger.get(id, ()))
        if recorded < last["fence"] - 1 and not forgets:
            what = f"went back {last['fence'] - 1} times and the ledger knows {recorded}"
            yield Violation(last["mono"], "I4", id, what)


def _i4_causes(story: _Story, report: Report) -> Iterator[Violation]:
    """Nothing but what the handlers asked for and what the injected faults explain."""
    explained = story.terms.causes | ASKED | OF_CONSUMERS
    for entry in story.final.ledger:
        if entry["event"] not in explained or (_forgot(entry) and not story.terms.rollbacks):
            by = f"{entry['event']} ({entry['detail']}) of consumer {entry['consumer']}"
            what = f"{by}: nothing that was done in this round explains it"
            yield Violation(story.when(entry), "I4", entry["id"], what)
    if report.extra["rollback"] and not any(entry["event"] == "rollback" for entry in story.final.ledger):
        what = f"{report.extra['rollback']} deliveries after a rollback, and the ledger does not know of one"
        yield Violation(story.end, "I4", "", what)
    for found in story.final.found:
        if found.place == "dead" and found.cause not in story.terms.dead:
            yield Violation(story.end, "I4", found.id, f"was dead-lettered as {found.cause}; nothing explains it")
        deadly = any(e.get("do") == "segfault" for e in story.deliveries.get(found.id, ()))
        if found.cause == "POISON" and not deadly:
            yield Violation(story.end, "I4", found.id, "was dead-lettered as POISON and has killed nobody")


def _forgot(entry: Event) -> bool:
    """Whether a consumer has seen that the server forgot something, and not only that it is another process."""
    return bool(entry["event"] == "rollback" and not entry["detail"].startswith("possible"))


def _i5(story: _Story, report: Report) -> Iterator[Violation]:
    for id, accepted in story.accepted.items():
        settled = min(accepted, key=lambda e: e["fence"])
        for e in story.claims.get(id, ()):
            if e["fence"] > settled["fence"] and not story.rolled_back(id):
                what = f"fence {e['fence']} was claimed after the {settled['op']} of fence {settled['fence']}"
                yield Violation(e["mono"], "I5", id, what)


def _i6(story: _Story, report: Report) -> Iterator[Violation]:
    terms = story.terms
    if not terms.drained or terms.recovery > terms.bound:
        left = Counter(found.place for found in story.final.found if found.place != "dead")
        where = ", ".join(f"{n} in {place}" for place, n in left.items()) or "nothing is left now"
        example = next((found.id for found in story.final.found if found.place != "dead"), "")
        what = f"not drained {terms.recovery:.1f} s after the heal (bound {terms.bound:.1f} s): {where}"
        yield Violation(story.end, "I6", example, what)
    elif any(found.place != "dead" for found in story.final.found):
        found = next(found for found in story.final.found if found.place != "dead")
        yield Violation(story.end, "I6", found.id, f"is in {found.place} after the queue had seemed empty")
    for rule, what in terms.complaints:
        yield Violation(story.end, rule, "", what)


def _i7(story: _Story, report: Report) -> Iterator[Violation]:
    for id, put in story.puts.items():
        if put.ok is None and not put.unknown and (id in story.claims or id in story.at_rest):
            at = story.claims[id][0]["mono"] if id in story.claims else story.end
            yield Violation(at, "I7", id, "its put was refused, and here it is")


def _order(story: _Story, report: Report) -> Iterator[Violation]:
    """The round has looked at ``ready``, from its head: what stands there was put in this order."""
    place = {id: n for n, id in enumerate(story.puts)}
    for look in _of(story.events, ["order"], "ok"):
        numbers = [place[id] for id in look["ids"] if id in place]
        for before, after, id in zip(numbers, numbers[1:], look["ids"][1:], strict=False):
            if after < before:
                what = f"put as number {after} and stands behind number {before} after it was given back"
                yield Violation(look["mono"], "ORDER", id, what)
                break


# -- the incident report ------------------------------------------------------------------------------------


def incident(
    report: Report, events: Sequence[Event], effects: Sequence[Effect], final: Final, *, title: str, replay: str
) -> str:
    """The report for people: the verdict, the first violation, the story of that message, how to see it again."""
    start = events[0]["mono"] if events else 0.0
    lines = [f"VERDICT   {_verdict(report)} in {title}"]
    if report.violations:
        first = report.violations[0]
        message = f"message {first.id} " if first.id else ""
        lines.append(f"FIRST     {first.rule} at {first.at - start:+.3f} s: {message}{first.what}")
        more = Counter(violation.rule for violation in report.violations)
        lines.append("ALL       " + ", ".join(f"{rule} {n} times" for rule, n in sorted(more.items())))
        lines += [f"          {v.rule} {v.id} {v.what}" for v in report.violations[1:8]]
        if first.id:
            lines.append(f"HISTORY   of message {first.id}")
            lines += _history(first.id, events, effects, final, start)
        lines.append("FAULTS    that were injected")
        faults = list(_of(events, ["fault", "phase"], "ok"))
        lines += [f"  {e['mono'] - start:+9.3f} s  {_details(e)}" for e in faults[:40]]
        if len(faults) > 40:
            lines.append(f"  and {len(faults) - 40} more")
    lines.append(f"COUNTS    {counts(report)}")
    if report.forgiven:
        lines.append("FORGIVEN  acknowledged puts that the server has forgotten by a rollback:")
        lines += [f"  {line}" for line in forgiven(report)]
    lines.append(f"REPLAY    {replay}")
    return "\n".join(lines)


def _verdict(report: Report) -> str:
    if report.ok:
        return "every invariant kept"
    return f"BROKEN: {', '.join(sorted(report.rules))}"


def forgiven(report: Report) -> list[str]:
    """Exactly which acknowledged puts were lost to a rollback, a line for each."""
    return [
        f"message {id}, put at {at:+.3f} s, is gone: the server was rolled back {before:.3f} s later"
        for id, at, before in report.forgiven
    ]


def counts(report: Report) -> str:
    """All numbers in one line."""
    causes = ", ".join(f"{cause} {n}" for cause, n in sorted(report.extra.items())) or "none"
    rollback = f" (and {len(report.forgiven)} by rollback)" if report.forgiven else ""
    return (
        f"attempted {report.attempted}, acknowledged {report.acknowledged}, refused {report.refused}, unknown "
        f"{report.unknown} (of which {report.recovered} were in), acked {report.acked}, dead {report.dead}, lost "
        f"{len(report.lost)}{rollback}, unexpected {len(report.unexpected)}, delivered more than once "
        f"{report.duplicated}, extra deliveries by cause: {causes}, recovery {report.recovery:.2f} s"
    )


def _history(id: str, events: Sequence[Event], effects: Sequence[Effect], final: Final, start: float) -> list[str]:
    mine = [e for e in events if e.get("id") == id or id in e.get("ids", ())]
    lines = [(e["mono"], f"pid {e['pid']:<7} {_details(e)}") for e in mine]
    lines += [(e.mono, f"pid {e.pid:<7} effect, fence {e.fence}") for e in effects if e.id == id]
    anchor = _anchor(events)
    for entry in final.ledger:
        if entry["id"] == id:
            at = entry["ms"] / 1000 - anchor if anchor is not None else start
            lines.append((at, f"ledger      {entry['event']} ({entry['detail']}) of {entry['consumer']}"))
    text = [f"  {at - start:+9.3f} s  {line}" for at, line in sorted(lines)]
    text += [f"  at the end   in {found.place}, fence {found.fence}" for found in final.found if found.id == id]
    return text if any(found.id == id for found in final.found) else [*text, "  at the end   nowhere in Redis"]


def _details(event: Event) -> str:
    hidden = {"op", "state", "mono", "wall", "pid", "id", "ids", "since", "exact"}
    more = " ".join(f"{name}={value}" for name, value in event.items() if name not in hidden)
    return f"{event['op']} {event['state']} {more}".strip()
