"""``reliq top``: the same as ``reliq status``, live: queues, their workers, what these have in hand and where."""

from __future__ import annotations

import argparse
import os
import select
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from reliq.cli import logs, text
from reliq.cli.failure import ATTENTION, FINE
from reliq.cli.interrupt import interruptible
from reliq.cli.place import Place
from reliq.cli.status import Look, Trouble, as_json, cells, look, troubles, verdict
from reliq.cli.verb import Verb
from reliq.cli.workers import Seen
from reliq.cli.workers import look as look_at_workers
from reliq.core.orders import REPORT, STACKS
from reliq.core.sample import Sample
from reliq.errors import ConfigError, OutcomeUnknown, Unavailable

if TYPE_CHECKING:
    from rich.console import RenderableType

_INTERVAL: Final = 2.0
#: Rates are told over so many ms.
_OVER: Final = 10_000
#: Seconds to wait for the answers of workers.
_WAIT: Final = 1.5
_KEYS: Final = {
    b"\x1b[A": "up", b"k": "up", b"\x1b[B": "down", b"j": "down",
    b"\r": "in", b"\n": "in", b"\x1b[C": "in", b"l": "in",
    b"\x1b": "out", b"\x7f": "out", b"\x1b[D": "out", b"h": "out",
    b"q": "quit",
}  # fmt: skip
_HELP: Final = "arrows: choose · enter: look into it · esc: back · q: quit"
#: A column of nothing longer is not broken: at 80 columns a terminal shows the queues.
_SHORT: Final = 8


class Page(NamedTuple):
    """What is shown: a table, the names of its rows to go on from, and lines below it. ``amiss``: rows that need
    attention."""

    title: str
    heads: tuple[str, ...]
    rows: list[tuple[str, ...]]
    names: list[str]
    notes: list[str]
    amiss: frozenset[int] = frozenset()


class Watch:
    """Looks at the queues again and again; rates are told over the last looks."""

    def __init__(self, place: Place, args: argparse.Namespace) -> None:
        self._place, self._args = place, args
        self._history: dict[str, deque[Sample]] = {}

    def queues(self) -> list[tuple[Look, list[Trouble]]]:
        """A look at each queue, and what needs attention."""
        found = []
        for queue in self._place.choose(self._args.queue):
            history = self._history.setdefault(queue.name, deque())
            seen = look(queue, history[0] if history else None)
            history.append(seen.now)
            while seen.now.ms - history[0].ms > _OVER:
                history.popleft()
            found.append((seen, list(troubles(seen, self._args))))
        return found

    def workers(self, queue: str, *, stacks: bool) -> list[Seen]:
        """What the workers of a queue say."""
        what = f"{REPORT} {STACKS}" if stacks else REPORT
        return look_at_workers(self._place.choose([queue])[0], what, _WAIT)


class Screen:
    """Where somebody is: at all queues, in one, or at one of its workers; and on which row."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._path: list[str] = []
        self._rows: list[int] = [0]
        self.page = Page("", (), [], [], [])

    @property
    def row(self) -> int:
        """The chosen row."""
        return min(self._rows[-1], max(0, len(self.page.rows) - 1))

    def press(self, key: str) -> bool:
        """Do what a key says; False: leave."""
        if key == "up":
            self._rows[-1] = max(0, self.row - 1)
        elif key == "down":
            self._rows[-1] = self.row + 1
        elif key == "in" and len(self._path) < 2 and self.page.names:
            self._path.append(self.page.names[self.row])
            self._rows.append(0)
        elif key == "out" and self._path:
            self._path.pop()
            self._rows.pop()
        return key != "quit"

    def look(self) -> None:
        """Look again at what is shown."""
        if not self._path:
            self.page = _queues_page(self._watch.queues())
        elif len(self._path) == 1:
            self.page = _workers_page(self._path[0], self._watch.workers(self._path[0], stacks=False))
        else:
            queue, worker = self._path
            seen = [each for each in self._watch.workers(queue, stacks=True) if each.consumer.name == worker]
            self.page = _messages_page(queue, worker, seen[0] if seen else None, self._rows[-1])


def _queues_page(found: list[tuple[Look, list[Trouble]]]) -> Page:
    heads = ("queue", "ready", "doing", "later", "dead", "oldest", "in/s", "out/s", "failing", "live", "how it is")
    rows, notes = [], []
    for seen, wrong in found:
        code, reason = verdict(seen, wrong)
        told = f"{code}: {reason}" if code else reason
        rows.append((seen.queue.name, *cells(seen), str(seen.live), told))
        notes += [f"{seen.queue.name}: {each.code}. Next: {each.next}" for each in wrong]
    amiss = frozenset(n for n, (_, wrong) in enumerate(found) if wrong)
    names = [seen.queue.name for seen, _ in found]
    return Page("queues", heads, rows, names, notes or ["nothing needs attention"], amiss)


def _workers_page(queue: str, found: list[Seen]) -> Page:
    heads = ("worker", "state", "handler", "in hand", "ahead", "round trip", "memory", "process", "reliq")
    rows = [_worker_row(each) for each in found]
    amiss = frozenset(n for n, each in enumerate(found) if each.is_amiss)
    notes = [] if found else ["nobody works here. Start one: reliq worker MODULE:HANDLER"]
    return Page(f"workers of {queue}", heads, rows, [each.consumer.name for each in found], notes, amiss)


def _worker_row(seen: Seen) -> tuple[str, ...]:
    report = seen.answer.report
    if report is None:
        return (seen.consumer.name, seen.state, f"({seen.answer.status})", *("",) * 4, seen.consumer.who, "")
    trip = "" if report.rtt_us is None else f"{report.rtt_us / 1000:.1f} ms"
    memory = "" if report.rss is None else f"{report.rss / 1e6:.0f} MB"
    process = f"{report.pid} on {report.host}"
    return (
        seen.consumer.name, seen.state, report.handler, str(report.working), str(report.waiting), trip, memory,
        process, report.version,
    )  # fmt: skip


def _messages_page(queue: str, worker: str, seen: Seen | None, row: int) -> Page:
    title, heads = f"in the hands of {worker}, queue {queue}", ("message", "for")
    report = seen.answer.report if seen is not None else None
    if report is None:
        return Page(title, heads, [], [], ["no answer" if seen is not None else "it has left"])
    rows: list[tuple[str, ...]] = [
        (each.id, "" if each.since is None else text.duration(max(0, report.at - each.since)))
        for each in report.in_hand
    ]
    notes = ["nothing in hand"]
    if report.in_hand:
        chosen = report.in_hand[min(row, len(report.in_hand) - 1)]
        notes = [f"{chosen.id} is here:", *(chosen.stack or "(not known)").splitlines()]
    return Page(title, heads, rows, [each.id for each in report.in_hand], notes)


# -- the command --------------------------------------------------------------------------------------------


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--interval", type=float, default=_INTERVAL, metavar="SECONDS", help="between two looks (%(default)s)")
    add("--once", action="store_true", help="show the queues once and end, also without a terminal")


def run(args: argparse.Namespace) -> int:
    """Show until q or Ctrl-C, which is no fault. With --once, exit status 1 if something needs attention."""
    logs.set_up_plain()
    if not 0.1 <= args.interval <= 3600:
        raise ConfigError(f"--interval {args.interval:g}: seconds, from 0.1 to 3600")
    if not args.json:
        _check_screen(args)
    place = Place.of(args)
    watch = Watch(place, args)
    if args.once:
        return _once(place, watch, args)
    with suppress(KeyboardInterrupt), interruptible():
        if args.json:
            _documents(place, watch, args)
        else:
            _live(Screen(watch), args.interval, str(place))
    return FINE


def _check_screen(args: argparse.Namespace) -> None:
    try:
        import rich  # noqa: F401 - only whether it is there
    except ImportError:
        raise ConfigError(
            "reliq top draws with rich, which is not installed: pip install 'reliq[top]'. Without it: "
            "reliq status, or reliq top --json"
        ) from None
    if not args.once and not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise ConfigError("reliq top needs a terminal; without one: reliq top --once, or reliq top --json")


def _once(place: Place, watch: Watch, args: argparse.Namespace) -> int:
    found = watch.queues()
    if args.json:
        _print_document(place, found)
    else:
        from rich.console import Console

        Console(highlight=False).print(draw(_queues_page(found), -1, str(place)))
    return ATTENTION if any(wrong for _, wrong in found) else FINE


def _documents(place: Place, watch: Watch, args: argparse.Namespace) -> None:
    while True:
        _print_document(place, watch.queues())
        sys.stdout.flush()
        time.sleep(args.interval)


def _print_document(place: Place, found: list[tuple[Look, list[Trouble]]]) -> None:
    text.print_json(
        {
            "prefix": place.prefix,
            "redis": place.links.address.label,
            "at": max((seen.now.ms for seen, _ in found), default=None),
            "queues": [as_json(seen, wrong) for seen, wrong in found],
            "attention": any(wrong for _, wrong in found),
        }
    )


# -- the screen ---------------------------------------------------------------------------------------------


def _live(screen: Screen, interval: float, where: str) -> None:
    """Draw, and obey keys, until one says to leave."""
    from rich.live import Live

    screen.look()  # before anything is drawn: what is wrong at the start is said as usual
    with _keys() as keys, Live(draw(screen.page, screen.row, where), screen=True, auto_refresh=False) as live:
        look_at = time.monotonic() + interval
        while True:
            pressed = keys(max(0.0, look_at - time.monotonic()))
            if not all(screen.press(key) for key in pressed):
                return
            trouble = ""
            if set(pressed) - {"up", "down"} or time.monotonic() >= look_at:
                trouble = _look(screen)
                look_at = time.monotonic() + interval
            live.update(draw(screen.page, screen.row, where, trouble), refresh=True)


def _look(screen: Screen) -> str:
    """Look again; what kept us from it."""
    try:
        screen.look()
    except (Unavailable, OutcomeUnknown) as error:
        return f"{error} This is what was seen last; trying again."
    return ""


def draw(page: Page, row: int, where: str, trouble: str = "") -> RenderableType:
    """As rich draws it. What comes from Redis is text, and nothing that a terminal would obey."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    def plain(words: str, style: str = "") -> Text:
        return Text(text.safe(words), style=style)

    title = plain(f"{page.title} · {where}")
    table = Table(title=title, title_justify="left", expand=True, box=box.SIMPLE_HEAD, show_edge=False, padding=0)
    for n, head in enumerate(page.heads):
        left = n == 0 or not any(line[n][:1].isdigit() for line in page.rows)
        short = all(len(words) <= _SHORT for words in (head, *(line[n] for line in page.rows)))
        table.add_column(plain(head), justify="left" if left else "right", overflow="fold", no_wrap=short)
    for n, words in enumerate(page.rows):
        style = "reverse" if n == row else "red" if n in page.amiss else ""
        table.add_row(*map(plain, words), style=style)
    lines = [plain(line) for line in page.notes]
    if trouble:
        lines.append(plain(trouble, "red"))
    if row >= 0:
        lines.append(plain(_HELP, "dim"))
    return Group(table, *lines)


@contextmanager
def _keys() -> Iterator[Any]:
    """Read keys as they are pressed; the terminal is as it was afterwards. Yields what waits for so many seconds
    and returns the keys that were pressed until then."""
    import termios
    import tty

    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)

    def read(seconds: float) -> list[str]:
        if not select.select([fd], [], [], seconds)[0]:
            return []
        data = os.read(fd, 1024)
        return list(pressed(data)) if data else ["quit"]  # the terminal is gone

    try:
        tty.setcbreak(fd)
        yield read
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


def pressed(data: bytes) -> Iterator[str]:
    """The keys that a terminal sends as these bytes; those that mean nothing are passed over."""
    while data:
        length = 3 if data[:2] in (b"\x1b[", b"\x1bO") else 1
        sent, data = data[:length].replace(b"\x1bO", b"\x1b["), data[length:]
        if key := _KEYS.get(sent):
            yield key


VERB = Verb(
    name="top",
    summary="queues, workers and what they have in hand, live",
    details="Enter goes from the queues to the workers of one, and on to what one of them has in hand and where "
    "its handlers are. Needs the extra reliq[top]. With --json, one document per look and line.",
    example="reliq top --queue emails",
    configure=configure,
    run=run,
    queue_help="only these queues (default: all that are known)",
    many_queues=True,
)
