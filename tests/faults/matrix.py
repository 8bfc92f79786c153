"""The command scripts/faults: rounds of all kinds in turn, each time on the other server; at the end one table.

    scripts/faults --minutes 60 --seed 1 --json 1.json   the whole matrix again and again, alternating the servers
    scripts/faults --only kill-workers --seed 1 --rounds 1 --server 7.0      one round, as a report replays it
    scripts/faults --list                                every kind of fault, in one sentence each
    scripts/faults --sum 1.json 2.json --markdown        the table of several runs together

A run that is stopped (Ctrl-C, SIGTERM) shows what it has so far; the round that was under way does not count.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from tests.faults import checker, rounds
from tests.faults.rounds import Kind, Outcome, Vain
from tests.faults.table import Results, Run
from tests.servers import NO_SERVER, ServerBinary, ServerFailed, find_servers

STATUS = "exit status: 0 every invariant kept in every round, 1 not so, 2 wrong usage, 3 no server to play on"


class Matrix:
    """Plays rounds and gathers what they show. ``seen`` is called after each with all results so far."""

    def __init__(
        self,
        kinds: Sequence[Kind],
        binaries: Sequence[ServerBinary],
        seed: int,
        seen: Callable[[Results], Any] = lambda results: None,
        **play: Any,
    ) -> None:
        self.kinds, self.binaries, self.seed, self._seen, self._play = kinds, binaries, seed, seen, play
        self._run = Run(seed, [binary.name for binary in binaries])
        self.results = Results([self._run])

    def run(self, minutes: float, most: int | None, skips: dict[str, str]) -> Results:
        """At least one round; none is begun after the time is over, or after ``most`` of them, or a signal.
        ``skips``: what belongs to the matrix and cannot be run, by name."""
        began = time.monotonic()
        late = {kind.name: "the time was over before its turn" for kind in self.kinds}
        self.results.skipped = skips | late
        try:
            for number in itertools.islice(itertools.count(), most):
                self._round(number)
                self.results.skipped.pop(self._kind(number).name, None)
                self._run.minutes = (time.monotonic() - began) / 60
                self._seen(self.results)
                if self._run.minutes > minutes:
                    break
        except KeyboardInterrupt:
            self._run.stopped = True
        return self.results

    def _kind(self, number: int) -> Kind:
        return self.kinds[number % len(self.kinds)]

    def _round(self, number: int) -> None:
        """The next kind, in the next cycle on another server."""
        cycle, place = divmod(number, len(self.kinds))
        kind = self._kind(number)
        able = [binary for binary in self.binaries if binary.version_info >= kind.needs]
        binary, seed = able[(place + cycle) % len(able)], self.seed + number
        label = f"{number + 1:4}  {kind.name:29} {binary.name:13} seed {seed}"
        try:
            self._add(label, rounds.play(kind, binary, seed, **self._play))
        except (Vain, ServerFailed) as error:
            self.results.row(kind.name).vain += 1
            self.results.vain.append(str(error))
            print(f"{label}  VAIN: {error}", flush=True)

    def _add(self, label: str, outcome: Outcome) -> None:
        report = outcome.report
        self.results.row(outcome.kind).add(report)
        where = f"{outcome.kind} on {outcome.server}, seed {outcome.seed}"
        self.results.forgotten += [f"{where}: {line}" for line in checker.forgiven(report)]
        done = ", ".join(f"{what} {n}" for what, n in outcome.done.items())
        print(f"{label}  {'kept' if report.ok else 'BROKEN'}  {checker.counts(report)}; {done}", flush=True)
        if not report.ok:
            self.results.incidents.append(outcome.text)
            print(outcome.text, flush=True)
        elif report.forgiven:
            print(*checker.forgiven(report), sep="\n", flush=True)


# -- the command --------------------------------------------------------------------------------------------


def main(words: Sequence[str] | None = None) -> int:
    """Its exit status: see STATUS."""
    options = _arguments(words)
    if options.list:
        return _list()
    return _sum(options) if options.sum else _play(options)


def _list() -> int:
    for kind in rounds.load_kinds().values():
        print(f"{kind.name:29} {kind.what}")
    for name, why in rounds.SKIPS.items():
        print(f"{name:29} SKIPPED: {why}")
    return 0


def _sum(options: argparse.Namespace) -> int:
    total = Results()
    for name in options.sum:
        try:
            total += Results.of_json(Path(name).read_text())
        except (OSError, ValueError, TypeError, KeyError) as error:
            return _refuse(2, f"{name} cannot be summed: {error}; give files that --json has written")
    return _show(total, options)


def _play(options: argparse.Namespace) -> int:
    kinds = rounds.load_kinds()
    if unknown := set(options.only) - set(kinds):
        return _refuse(2, f"no fault named {', '.join(sorted(unknown))}; --list shows all")
    binaries = [b for b in find_servers() if b.version.startswith(options.server)]
    if not binaries:
        return _refuse(3, f"no server {options.server} here" if options.server else NO_SERVER)
    chosen = [kind for name, kind in kinds.items() if not options.only or name in options.only]
    able = [kind for kind in chosen if any(b.version_info >= kind.needs for b in binaries)]
    unable = {kind.name: f"needs Redis {'.'.join(map(str, kind.needs))}" for kind in chosen if kind not in able}
    if not able:
        return _refuse(3, ", ".join(f"{name} {why}" for name, why in unable.items()))
    seed = options.seed if options.seed is not None else random.randrange(1_000_000)
    print(f"seed {seed}, servers {', '.join(b.name for b in binaries)}, {len(able)} kinds of faults", flush=True)
    matrix = Matrix(
        able,
        binaries,
        seed,
        lambda results: _write(results, options.json),
        seconds=options.seconds,
        broken=getattr(options, "break"),
    )
    signal.signal(signal.SIGTERM, _interrupt)
    skips = unable if options.only else rounds.SKIPS | unable
    return _show(matrix.run(options.minutes, options.rounds, skips), options)


def _interrupt(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


def _show(results: Results, options: argparse.Namespace) -> int:
    print(results.markdown() if options.markdown else results.text())
    _write(results, options.json)
    return results.status


def _write(results: Results, name: str | None) -> None:
    """Whole or not at all: a run may be killed at any moment."""
    if name:
        part = Path(f"{name}.part")
        part.write_text(results.json())
        os.replace(part, name)


def _refuse(status: int, why: str) -> int:
    print(f"scripts/faults: {why}", file=sys.stderr)
    return status


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/faults",
        description="Hurts a working reliq in every way, and checks that nothing is lost.",
        epilog=STATUS,
    )
    parser.add_argument("--minutes", type=float, default=5.0, help="begin no round after so long (default 5)")
    parser.add_argument("--seed", type=int, help="round n has the seed SEED + n (default: by chance, printed)")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="this fault; may be repeated")
    parser.add_argument("--server", default="", metavar="VERSION", help="such as 6.2 or 7.0 (default: in turn)")
    parser.add_argument("--rounds", type=int, help="at most so many")
    parser.add_argument("--seconds", type=float, default=5.0, help="of harm in each round (default 5)")
    parser.add_argument("--json", metavar="FILE", help="write the results there too, after each round")
    parser.add_argument("--sum", nargs="+", metavar="FILE", help="play nothing; add up what --json wrote")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    parser.add_argument("--list", action="store_true", help="show every kind of fault and what is skipped")
    parser.add_argument("--break", default="", metavar="BUILD", help="a deliberately broken build: see breaks.py")
    return parser.parse_args(words)


if __name__ == "__main__":
    sys.exit(main())
