"""``reliq verify``: which promises hold on this Redis, and which its settings do not allow."""

from __future__ import annotations

import argparse
import logging
import textwrap
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Final

from reliq import defaults, embedded
from reliq.cli import failure, progress, text
from reliq.cli.failure import ATTENTION, FINE
from reliq.cli.interrupt import interruptible
from reliq.cli.place import Place
from reliq.cli.progress import Bar
from reliq.cli.verb import Verb
from reliq.errors import AccessDenied, ConfigError
from reliq.verify.checks import CHECKS, UNTRIED
from reliq.verify.finding import Check, Finding, Verdict
from reliq.verify.site import Removal, Site

#: About so many, if nobody says otherwise: enough to try each fault more than once.
SECONDS: Final = 20.0
_LABELS: Final = {
    Verdict.HOLDS: "holds",
    Verdict.CANNOT: "CANNOT",
    Verdict.SKIPPED: "skipped",
    Verdict.BROKEN: "BROKEN",
}
_COUNTED: Final = {
    Verdict.HOLDS: "hold",
    Verdict.CANNOT: "cannot hold here",
    Verdict.SKIPPED: "were skipped",
    Verdict.BROKEN: "broken",
}
_INDENT: Final = " " * 9
_WIDTH: Final = 99


def configure(parser: argparse.ArgumentParser) -> None:
    about = "about how long in all (%(default)g); on a slow machine or way to Redis it takes longer"
    parser.add_argument("--seconds", type=float, default=SECONDS, metavar="N", help=about)
    parser.add_argument(
        "--only", action="append", default=[], metavar="CHECK", help=f"can be repeated; one of {', '.join(CHECKS)}"
    )


def run(args: argparse.Namespace) -> int:
    """Returns 1 if a promise is broken; what the server does not allow is a warning, and fine."""
    logging.getLogger("reliq").setLevel(logging.CRITICAL)  # what goes wrong here is meant to
    checks = _chosen(args)
    place = Place.of(args)
    lease = _shortest_lease(place, args)
    site = Site(embedded.url_or_embedded(args.url), prefix=place.prefix, seconds=args.seconds, lease=lease)
    screen, started = Screen(quiet=args.json), time.monotonic()
    with interruptible(), progress.bar(args, "promises tried", lambda: len(checks)) as screen.bar:
        findings = _visit(site, checks, screen, private=place.settings.url is None)
    if not args.only:
        findings += screen.show_each(UNTRIED)
    seconds = round(time.monotonic() - started, 3)
    if args.json:
        text.print_json(_as_json(site, findings, seconds))
    else:
        screen.summary(findings, site.removal, seconds)
    return ATTENTION if any(found.verdict is Verdict.BROKEN for found in findings) else FINE


def _chosen(args: argparse.Namespace) -> list[Check]:
    """Those that were named, or all, in their order."""
    if not args.seconds > 0:
        raise ConfigError(f"verify: --seconds {args.seconds:g}: a number above 0")
    for name in args.only:
        if name not in CHECKS:
            raise ConfigError(
                f"verify: there is no check {name!r}{text.near(name, CHECKS)}; they are {', '.join(CHECKS)}"
            )
    return [check for check in CHECKS.values() if not args.only or check.name in args.only]


def _shortest_lease(place: Place, args: argparse.Namespace) -> float:
    """Seconds: of the named queues, or of all that are known."""
    if args.queue:
        return min(queue.options.lease for queue in place.choose(args.queue))
    try:
        return min((known.lease for known in place.known()), default=defaults.LEASE)
    except AccessDenied:  # which of its rights this user lacks is the first check's to say
        return defaults.LEASE


def _visit(site: Site, checks: Sequence[Check], screen: Screen, *, private: bool) -> list[Finding]:
    """All checks, one after the other. Whatever ends it early, our keys are removed, and it says so."""
    entered = False
    try:
        with site:
            entered = True
            screen.opening(site, private=private)
            return [screen.show(screen.about_to(check).examine(site)) for check in checks]
    except BaseException:
        if entered:
            failure.say(f"ended early; {site.removal}")
        raise


def _as_json(site: Site, findings: Sequence[Finding], seconds: float) -> dict[str, Any]:
    counts = Counter(found.verdict for found in findings)
    return {
        "redis": site.links.address.label,
        "version": site.version,
        "prefix": site.prefix,
        "seconds": seconds,
        "checks": [{**found._asdict(), "code": found.code and found.code.name} for found in findings],
        "counts": {verdict.value: counts[verdict] for verdict in Verdict},
        "ok": not counts[Verdict.BROKEN],
        "removed": site.removal._asdict(),
    }


class Screen:
    """What people see: each finding as soon as there is one."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self.bar = Bar("", None)

    def about_to(self, check: Check) -> Check:
        """It is tried next."""
        self.bar.now(f"promises tried, now {check.name}")
        return check

    def _say(self, line: str = "") -> None:
        if not self._quiet:
            print(text.safe(line), flush=True)

    def opening(self, site: Site, *, private: bool) -> None:
        """Where, and what will be touched."""
        where = f"{'a private Redis' if private else 'Redis'} {site.version} at {site.links.address.label}".split()
        self._say(f"reliq verify on {' '.join(where)}, about {site.seconds:g} s")
        self._say(f"all keys are below {site.prefix} and are removed; nothing else is touched")
        self._say()

    def show(self, found: Finding) -> Finding:
        """The promise behind the verdict; below it what was seen, and what to do."""
        self.bar.hide()
        self.bar.done += 1
        self._block(f"{_LABELS[found.verdict]:<8} ", f"{found.check}: {found.promise}")
        self._block(_INDENT, found.reason)
        if found.next:
            code = f" (reliq errors {found.code.name})" if found.code else ""
            self._block(_INDENT, f"next: {found.next}{code}")
        return found

    def show_each(self, findings: Iterable[Finding]) -> list[Finding]:
        """Several."""
        return [self.show(found) for found in findings]

    def _block(self, first: str, words: str) -> None:
        wrapper = textwrap.TextWrapper(_WIDTH - len(_INDENT), break_long_words=False, break_on_hyphens=False)
        for number, line in enumerate(wrapper.wrap(text.safe(words))):
            self._say(f"{_INDENT if number else first}{line}")

    def summary(self, findings: Sequence[Finding], removal: Removal, seconds: float) -> None:
        """How many of each, and that nothing is left."""
        counts = Counter(found.verdict for found in findings)
        parts = ", ".join(f"{counts[verdict]} {_COUNTED[verdict]}" for verdict in Verdict)
        self._say()
        self._say(f"of {len(findings)} promises {parts}; {seconds:.1f} s")
        self._say(f"{removal}"[0].upper() + f"{removal}"[1:])


VERB = Verb(
    name="verify",
    summary="try faults on your own Redis: which promises hold there",
    details="It works below a random prefix of its own, kills only its own processes and connections, changes "
    "no setting, and removes its keys. What the server does not allow is a warning; exit status 1 means that a "
    "promise is broken.",
    example="reliq verify --url redis://localhost:6379/0",
    configure=configure,
    run=run,
    queue_help="whose lease the round trip is compared with (default: the shortest of all that are known)",
    many_queues=True,
)
