"""The idempotency prover: a handler of the user's under everything that at-least-once means.

First each message once, in order, for reference; then schedules, kind by kind, the simplest first. Of each
kind the first that leaves other effects behind is made smaller as far as it stays so, and told. All on a real
Redis: leases are claimed, end and are reaped as ever, and a handler sees the fence and the deliveries that it
would see.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from reliq.errors import ConfigError
from reliq.testing.proving import schedules
from reliq.testing.proving.report import Finding, NotIdempotent, Proof
from reliq.testing.proving.schedules import Schedule
from reliq.testing.proving.stage import Stage, stage_for


def prove(
    handler: Any,
    bodies: Sequence[Any],
    *,
    effects: Callable[[], Any],
    reset: Callable[[], Any],
    ordered: bool = False,
    inside: Sequence[Any] = (),
    processes: bool = False,
    schedule: str | None = None,
    most: int = 500,
    url: str | None = None,
    raises: bool = True,
) -> Proof:
    """See whether a handler has the same effects whatever happens to its messages; NotIdempotent tells where not.

    ``handler``: made with ``@q.ack``, or the function itself, plain or coroutine; given the lease if it takes
    one; one that takes a list gets lists of one. ``bodies``: 1 to 20, that tell: two of one customer rather than
    twenty alike. ``effects()``: a snapshot of the world that the handler changes: dicts, lists, numbers, rows;
    without what may differ, such as times. ``reset()``: makes that world as new. Both may be coroutine functions.

    Each message is delivered twice; killed before each line of the handler, and between its end and the ack;
    its lease is lost at each line, another consumer handles the message, and the first one goes on; it fails
    at each line and is tried again; messages come in other orders, and two at once, unless ``ordered`` says
    that they do not (in those two the order of lists does not count). ``inside``: other functions whose lines
    are stops, too. ``schedule``: play just that one. ``most``: schedules at most. ``url``: of the Redis; else
    ``$RELIQ_TEST_URL``, else the private one. Returns a Proof, also if it fails and ``raises`` is False.
    Unprovable: without any fault the handler fails, has other effects the second time, or none that is seen.

    A kill is an exception here (no Exception, but a BaseException): a ``finally`` of the handler runs, and
    what it has open is closed, as a dead process would not do, and most databases would do for it. With
    ``processes`` each delivery is made in a forked process, that is really killed (SIGKILL), or stopped while
    another one comes in: for effects outside of this process (files, databases), by a handler that opens its
    connections by itself.
    """
    with stage_for(handler, bodies, effects, reset, inside, processes, url) as stage:
        proof = Proof(stage.name, list(bodies), notes=stage.notes)
        if schedule is not None:
            _replay(stage, Schedule.parse(schedule, len(bodies)), proof)
        else:
            _try_all(stage, proof, ordered=ordered, most=most)
        proof.schedules = stage.played
    if raises and not proof.ok:
        raise NotIdempotent(proof)
    return proof


def _replay(stage: Stage, schedule: Schedule, proof: Proof) -> None:
    outcome = stage.play(schedule)
    if schedule.kind != schedules.DELIVER and not outcome.happened:
        raise ConfigError(
            f"schedule={str(schedule)!r}: body {schedule.target} never came to {schedule.stop or 'its ack'}; has "
            f"the code changed since? It went through {' '.join(map(str, stage.paths.get(schedule.target, ())))}"
        )
    if finding := stage.compared(schedule, outcome):
        proof.findings.append(finding)


def _try_all(stage: Stage, proof: Proof, *, ordered: bool, most: int) -> None:
    kinds = schedules.all_of(
        [stage.paths[n] for n in sorted(stage.paths)], ordered=ordered, processes=stage.processes
    )
    kinds = [kind for kind in kinds if kind and kind[0].kind not in stage.leaves_out]
    total = sum(map(len, kinds))
    if total > most:
        proof.notes.append(f"of {total} schedules {most} were played at most, evenly spread; see most=")
    for kind in kinds:
        for schedule in _spread(kind, max(1, len(kind) * most // max(total, most))):
            if finding := stage.compared(schedule, stage.play(schedule)):
                proof.findings.append(_smallest(stage, finding))
                break


def _spread(kind: list[Schedule], most: int) -> list[Schedule]:
    """So many of them, over all of them."""
    return kind if len(kind) <= most else [kind[i * len(kind) // most] for i in range(most)]


def _smallest(stage: Stage, finding: Finding) -> Finding:
    """Take away from it what is not needed."""
    while True:
        for schedule in schedules.smaller(finding.schedule):
            if schedule.name == finding.kind and (less := stage.compared(schedule, stage.play(schedule))):
                finding = less
                break
        else:
            return finding
