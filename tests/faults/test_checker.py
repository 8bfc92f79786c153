"""The checker is checked: hand-written histories with one thing wrong each, and builds broken on purpose."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from tests.faults import breaks, rounds
from tests.faults.checker import ASKED, Final, Found, Report, Terms, check, incident
from tests.faults.history import Effect, Event
from tests.servers import NO_SERVER, find_servers

A, B = "aa" * 16, "bb" * 16


class Tale:
    """A history in the making; each call is one moment later."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.effects: list[Effect] = []
        self.found: list[Found] = []
        self.ledger: list[Event] = []
        self.strange: list[str] = []
        self.now = 0.0
        self.add("phase", "ok", name="work")

    def add(self, op: str, state: str, **fields: Any) -> Tale:
        self.now += 1.0
        self.events.append({"op": op, "state": state, "mono": self.now, "wall": self.now, "pid": 1, **fields})
        return self

    def put(self, id: str = A, *states: str) -> Tale:
        for state in states or ("invoke", "ok"):
            self.add("put", state, ids=[id], **({"error": "FULL"} if state == "fail" else {}))
        return self

    def claim(
        self, id: str = A, fence: int = 1, who: str = "c1", *, ms: int | None = None, since: int = 0
    ) -> Tale:
        at = round(self.now * 1000) if ms is None else ms
        exact = not since
        return self.add("claim", "ok", id=id, fence=fence, consumer=who, trip=1, ms=at, since=since, exact=exact)

    def work(self, id: str = A, fence: int = 1, who: str = "c1", **more: Any) -> Tale:
        self.add("deliver", "ok", id=id, fence=fence, consumer=who, attempt=1, deliveries=fence, **more)
        return self.effect(id, fence)

    def effect(self, id: str = A, fence: int = 1) -> Tale:
        self.now += 1.0
        self.effects.append(Effect(id, fence, 1, 1, self.now))
        return self

    def settle(self, op: str = "ack", id: str = A, fence: int = 1, who: str = "c1", state: str = "ok") -> Tale:
        self.add(op, "invoke", id=id, fence=fence, consumer=who, trip=2)
        return self.add(op, state, id=id, fence=fence, consumer=who, trip=2, ms=0, exact=True) if state else self

    def log(self, event: str, id: str = A, detail: str = "") -> Tale:
        self.now += 1.0
        self.ledger.append({"event": event, "id": id, "consumer": "c1", "detail": detail, "ms": self.now * 1000})
        return self

    def rest(self, place: str, id: str = A, fence: int = 1, cause: str = "") -> Tale:
        self.found.append(Found(place, id, fence, cause))
        return self

    def check(self, *causes: str, **terms: Any) -> Report:
        return check(self.events, self.effects, self.final, Terms(causes=frozenset(causes), **terms))

    @property
    def final(self) -> Final:
        return Final(self.found, self.ledger, self.strange)


def done(id: str = A) -> Tale:
    """One message, put, claimed, handled and acked."""
    return Tale().put(id).claim(id).work(id).settle(id=id)


def again(tale: Tale, fence: int = 2, who: str = "c2") -> Tale:
    """The same message goes through once more."""
    return tale.claim(fence=fence, who=who).work(fence=fence, who=who).settle(fence=fence, who=who)


def only(report: Report) -> tuple[str, str]:
    """The one violation."""
    assert len(report.violations) == 1, report.violations
    return report.violations[0].rule, report.violations[0].what


# -- what is right ------------------------------------------------------------------------------------------


def test_a_history_in_which_all_went_well() -> None:
    """Put, claim, work, ack: nothing to say."""
    report = done().check()
    assert report.ok
    assert (report.attempted, report.acknowledged, report.acked, report.duplicated) == (1, 1, 1, 0)


def test_a_recovered_message_counts_as_an_extra_delivery_with_its_cause() -> None:
    """Its consumer died, it was reaped, another one did it."""
    report = again(Tale().put().claim().work().log("reap", detail="lost")).check("reap")
    assert report.ok
    assert report.duplicated == 1
    assert report.extra == {"reap": 1}


def test_a_retry_that_a_handler_asked_for_is_no_extra_delivery() -> None:
    """A failing handler explains its own retry, in every round."""
    tale = Tale().put().claim().work().settle("retry").log("retry", detail="50")
    report = again(tale).check()
    assert report.ok
    assert not report.extra


def test_a_late_ack_that_was_refused_does_no_harm() -> None:
    """A zombie's ack fails after the reap; the message was acked once."""
    tale = again(Tale().put().claim().work().log("reap", detail="lost"))
    assert tale.settle(state="fail").log("late", detail="ack").check("reap", "late").ok


@pytest.mark.parametrize("states", [("invoke",), ("invoke", "unknown"), ("invoke", "unknown", "invoke", "fail")])
def test_an_unknown_put_may_be_in_or_not(states: Sequence[str]) -> None:
    """Its producer died, or nobody answered, or a later try was refused: both are right."""
    assert Tale().put(A, *states).check().ok
    report = Tale().put(A, *states).claim().work().settle().check()
    assert report.ok
    assert (report.unknown, report.recovered) == (1, 1)


def test_a_buried_message_rests_among_the_dead() -> None:
    """If the round expects that cause."""
    tale = Tale().put().claim().work().settle("bury").log("bury").rest("dead", cause="BURIED")
    assert tale.check(dead=frozenset({"BURIED"})).ok


def test_an_ack_without_an_answer_counts_if_its_work_is_done_and_the_message_gone() -> None:
    """The process died between the ack and its answer."""
    assert Tale().put().claim().work().settle(state="").check().ok


# -- each violation -----------------------------------------------------------------------------------------


def test_i1_accepted_and_never_claimed() -> None:
    """Total-queue: lost."""
    report = Tale().put().check()
    assert only(report) == ("I1", "was accepted and is nowhere: it was never claimed")
    assert report.lost == [A]


def test_i1_claimed_and_gone_without_an_ack() -> None:
    """Its consumer died, and nothing brought it back."""
    assert only(Tale().put().claim().check())[0] == "I1"
    assert only(Tale().put().claim().work().check())[0] == "I1"
    assert only(Tale().put().claim().work().settle(state="fail").check())[0] == "I1"


def test_i1_acked_and_the_work_was_never_done() -> None:
    """The ack came first, then the process died."""
    report = Tale().put().claim().settle().check()
    assert report.lost == [A]
    assert report.rules == {"I1"}


def test_i1_acked_before_the_work_was_done() -> None:
    """It went well this time."""
    rule, what = only(Tale().put().claim().settle().effect().check())
    assert (rule, what) == ("I1", "fence 1 was acked before its work was done")


def test_i1_what_nobody_put() -> None:
    """Unexpected, delivered or at rest; and what is no message at all."""
    assert Tale().claim().work().settle().check().unexpected == [A]
    assert Tale().rest("dead", cause="BURIED").check(dead=frozenset({"BURIED"})).unexpected == [A]
    tale = Tale()
    tale.strange.append("ready: no envelope")
    assert tale.check().rules == {"I1"}


def test_i1_a_handler_that_got_what_was_not_claimed() -> None:
    """A delivery needs a claim of the same fence by the same consumer."""
    tale = Tale().put().claim(who="c1").work(who="c2").settle()
    assert only(tale.check())[0] == "I1"


def test_i1_dead_lettered_and_not_among_the_dead() -> None:
    """A burial that leaves nothing behind is a loss."""
    assert Tale().put().claim().work().settle("bury").check().lost == [A]


def test_i2_two_places_at_once() -> None:
    """Ready and later."""
    report = Tale().put().rest("ready").rest("later", fence=2).check(drained=False)
    assert "I2" in report.rules


def test_i2_acked_and_still_there() -> None:
    """Even once."""
    assert "I2" in done().rest("doing").check(drained=False).rules


def test_i3_one_fence_claimed_twice() -> None:
    """It went back and its fence did not grow."""
    tale = Tale().put().claim().log("reap").claim(who="c2").work(who="c2").settle(who="c2")
    assert only(tale.check("reap"))[0] == "I3"


def test_i3_fences_out_of_order_at_the_server() -> None:
    """The larger one was claimed earlier, by the server's clock."""
    tale = Tale().put().claim(ms=5000).log("reap").claim(fence=2, who="c2", ms=4000).work(fence=2, who="c2")
    assert only(tale.settle(fence=2).check("reap"))[0] == "I3"


def test_i3_a_claim_that_was_learnt_late_has_a_span_of_time() -> None:
    """A reconciled claim may be older than its answer: no violation as long as some order is right."""
    tale = Tale().put().claim(ms=5000, since=3000).log("reap").claim(fence=2, who="c2", ms=4000)
    assert tale.work(fence=2, who="c2").settle(fence=2).check("reap").ok


def test_i3_two_acks_accepted() -> None:
    """One of them must have been refused."""
    tale = Tale().put().claim().work().log("reap").claim(fence=2, who="c2").work(fence=2, who="c2")
    report = tale.settle(fence=2, who="c2").settle().check("reap")
    assert "I3" in report.rules


def test_i4_a_return_that_the_ledger_does_not_know() -> None:
    """Fence 2 without a reap, retry or release."""
    assert only(again(Tale().put().claim().work()).check("reap"))[0] == "I4"


def test_i4_one_claim_handed_over_twice() -> None:
    """Without going back in between."""
    assert only(Tale().put().claim().work().work().settle().check())[0] == "I4"


def test_i4_a_rollback_that_the_faults_do_not_explain() -> None:
    """Another process is said to be possible; that it forgot something is wrong where no fault made it forget."""
    possible = done().log("rollback", id="", detail="possible: another process")
    assert possible.check("rollback").ok
    assert only(possible.check())[0] == "I4"
    certain = done().log("rollback", id="", detail="trips 3 to 4")
    assert only(certain.check("rollback"))[0] == "I4"
    assert certain.check("rollback", rollbacks=[9.0], forgets=1.0).ok


def test_i4_a_delivery_after_a_rollback_that_the_ledger_does_not_know() -> None:
    """The same fence once more, as the server forgot the ack: somebody has to have written that down."""
    tale = done().claim(who="c2").work(who="c2").settle(who="c2")
    terms: Any = {"rollbacks": [tale.now], "forgets": 9.0}
    assert only(tale.check("rollback", **terms))[0] == "I4"
    assert tale.log("rollback", id="", detail="trips 3 to 4").check("rollback", **terms).ok


@pytest.mark.parametrize("event", ["reap", "late", "release"])
def test_i4_what_no_injected_fault_explains(event: str) -> None:
    """A reap of a consumer that lives, in a round that hurts nobody."""
    rule, what = only(done().log(event).check())
    assert rule == "I4"
    assert event in what
    assert event not in ASKED


def test_i4_a_dead_letter_that_nothing_explains() -> None:
    """A cause that the round does not expect; and poison that has killed nobody."""
    tale = Tale().put().claim().work().settle("bury").rest("dead", cause="ATTEMPTS")
    assert only(tale.check())[0] == "I4"
    neighbour = Tale().put().claim().work().rest("dead", cause="POISON", fence=2)
    assert only(neighbour.check(dead=frozenset({"POISON"})))[0] == "I4"
    killer = Tale().put().claim().work(do="segfault").rest("dead", cause="POISON", fence=2)
    assert killer.check(dead=frozenset({"POISON"})).ok


def test_i5_claimed_after_an_accepted_ack() -> None:
    """The fence tells, whatever the clocks say."""
    report = done().log("reap").claim(fence=2, who="c2").check("reap")
    assert only(report) == ("I5", "fence 2 was claimed after the ack of fence 1")


def test_i6_not_drained_in_time() -> None:
    """Something is left, or it took too long, or a process did not end."""
    assert only(Tale().put().rest("inbox").check(drained=False))[0] == "I6"
    assert only(done().check(recovery=9.0, bound=5.0))[0] == "I6"
    assert only(Tale().put().rest("inbox").check())[0] == "I6"
    assert only(done().check(complaints=[("I6", "did not end")]))[0] == "I6"


def test_i7_a_refused_put_that_appears() -> None:
    """Refused means: not in."""
    assert only(Tale().put(A, "invoke", "fail").claim().work().settle().check())[0] == "I7"
    assert Tale().put(A, "invoke", "fail").check().refused == 1


def test_i7_two_copies_of_one_put() -> None:
    """The same message twice, and it never went back."""
    tale = Tale().put(A, "invoke", "unknown", "invoke", "ok").claim().work().settle()
    report = tale.claim(who="c2").work(who="c2").settle(who="c2").check()
    assert "I7" in report.rules


def test_what_goes_back_unhandled_keeps_its_order() -> None:
    """Given back to the head: in the order of the puts."""
    tale = Tale().put(A).put(B).rest("ready", A).rest("ready", B)
    assert "ORDER" not in tale.add("order", "ok", ids=[A, B]).check(drained=False).rules
    assert "ORDER" in tale.add("order", "ok", ids=[B, A]).check(drained=False).rules


def test_a_rollback_excuses_what_was_confirmed_shortly_before_and_nothing_else() -> None:
    """everysec: the last second may be forgotten; it is listed, not hidden."""
    tale = Tale().put()  # confirmed at 3.0
    report = tale.check(rollbacks=[4.0], forgets=1.5)
    assert report.ok
    assert report.forgiven == [(A, 2.0, 1.0)]
    assert tale.check(rollbacks=[9.0], forgets=1.5).lost == [A]
    assert tale.check(rollbacks=[2.5], forgets=1.5).lost == [A]


def test_the_time_of_the_put_alone_excuses_its_loss() -> None:
    """Whatever else happened to the message around the rollback: it had been safe for long."""
    tale = Tale().put().claim()  # confirmed at 3.0, claimed at 4.0
    assert tale.check(rollbacks=[4.5], forgets=1.0).lost == [A]


def test_the_report_says_exactly_which_acknowledged_puts_a_rollback_took_back() -> None:
    """Each by its id, with the moment of its confirmation and of the rollback; of a round that was kept, too."""
    tale = Tale().put(A).put(B)  # confirmed at 3.0 and 5.0
    report = tale.check(rollbacks=[5.5], forgets=3.0)
    assert report.ok
    text = incident(
        report, tale.events, tale.effects, tale.final, title="round x, seed 7", replay="…"
    ).splitlines()
    first = text.index("FORGIVEN  acknowledged puts that the server has forgotten by a rollback:")
    assert text[first + 1 : first + 3] == [
        f"  message {A}, put at +2.000 s, is gone: the server was rolled back 2.500 s later",
        f"  message {B}, put at +4.000 s, is gone: the server was rolled back 0.500 s later",
    ]
    assert "lost 0 (and 2 by rollback)" in "".join(text)


def test_no_rollback_excuses_the_loss_of_what_a_replica_had() -> None:
    """put(replicas=1): other writes may be forgotten, a confirmed put may not; an unknown one may."""
    tale = Tale().put(A).put(B, "invoke", "unknown")
    report = tale.check(rollbacks=[6.0], forgets=9.0, durable=True)
    assert report.lost == [A]
    assert report.forgiven == []
    back = done().claim(who="c2").work(who="c2").settle(who="c2")  # acked, came back, acked again
    back.log("rollback", id="", detail="trips 3 to 4")
    assert back.check("rollback", rollbacks=[9.0], forgets=9.0, durable=True).ok


def test_the_report_reads_like_that_of_an_incident() -> None:
    """Verdict, first violation, the story of that message in order of time, seed, and how to play it again."""
    tale = Tale().put().claim().work().log("reap", detail="lost")
    report = tale.check("reap")
    text = incident(
        report, tale.events, tale.effects, tale.final, title="round x, seed 7", replay="scripts/faults …"
    )
    lines = text.splitlines()
    assert lines[0] == "VERDICT   BROKEN: I1 in round x, seed 7"
    assert lines[1].startswith(f"FIRST     I1 at +4.000 s: message {A} was accepted and is nowhere")
    story = [line.split(" s  ", 1)[1] for line in lines if line.startswith("  ") and " s  " in line]
    order = ["put invoke", "put ok", "claim ok", "deliver ok", "effect", "reap (lost)"]
    assert [next(i for i, line in enumerate(story) if word in line) for word in order] == list(range(len(order)))
    assert lines[-1] == "REPLAY    scripts/faults …"


# -- builds broken on purpose -------------------------------------------------------------------------------

FOUND_BY = {
    "ack_before_work": ("kill-workers", {"I1"}),
    "move_in_two_commands": ("client-kill", {"I1"}),
    "claim_without_reconcile": ("lost-replies", {"I6"}),
    "reaper_forgets_the_inbox": ("stop-idle-workers", {"I6"}),
    "no_fence": ("kill-workers", {"I3"}),
    "put_is_a_bare_lpush": ("lost-replies", {"I7"}),
    "unknown_counts_as_refused": ("lost-replies", {"I7"}),
    "a_put_does_not_wait": ("sentinel-failover-replicas", {"I1"}),
    "release_goes_to_the_tail": ("give-back-in-order", {"ORDER"}),
    "lease_by_the_clients_clock": ("clock-skew", {"I4"}),
    "late_acks_are_accepted": ("stop-workers", {"I3", "I5"}),
    "a_repeated_trip_runs_again": ("lost-replies", {"I4"}),
    "reaper_does_not_look_at_the_lease": ("idle-reapers", {"I4"}),
}
"""Which round shows it, and which rules have to be broken then."""


def test_every_broken_build_has_its_round() -> None:
    """None is forgotten."""
    assert set(FOUND_BY) == set(breaks.BREAKS)


@pytest.mark.parametrize("broken", FOUND_BY)
def test_a_broken_build_turns_the_checker_red(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within three rounds: one that stays green would mean that a green round says nothing."""
    binaries = find_servers()
    if not binaries:
        pytest.fail(NO_SERVER)
    monkeypatch.setattr(rounds, "SLACK", 1.0)  # to be late is what it shall be
    name, expected = FOUND_BY[broken]
    binary = binaries[list(FOUND_BY).index(broken) % len(binaries)]
    seen: set[str] = set()
    for seed in (7, 8, 9):
        outcome = rounds.play(rounds.load_kinds()[name], binary, seed, seconds=3.0, broken=broken)
        seen |= outcome.report.rules
        if expected <= seen:
            assert outcome.text.startswith("VERDICT   BROKEN")
            return
    pytest.fail(f"the build {broken} was not found by {name}: broken rules {seen}")
