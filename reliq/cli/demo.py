"""``reliq demo``: real work on real files, and a kill -9 in the middle of it.

The story is one `reliq worker` with two processes, as anybody would start it. Half-way one of the two is
killed; its supervisor brings back what it held. At the end every digest is compared with one computed here.
"""

from __future__ import annotations

import argparse
import errno
import hashlib
import json
import logging
import os
import secrets
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

from reliq import embedded
from reliq.cli import text
from reliq.cli.failure import ATTENTION, FINE
from reliq.cli.interrupt import interruptible
from reliq.cli.status import held, pid_of
from reliq.cli.verb import Verb
from reliq.core import flows, ledger, ops
from reliq.core.command import Command
from reliq.core.flows import ConsumerInfo
from reliq.errors import ConfigError, ReliqError
from reliq.settings import Settings
from reliq.sync.queue import Queue

QUEUE: Final = "files"
#: How the handler in ``demo_worker`` learns what it needs. That module makes its queue when it is imported,
#: from what ``reliq worker`` was told, so nothing else may import it.
QUEUE_VARIABLE: Final = "RELIQ_DEMO_QUEUE"
RESULTS_VARIABLE: Final = "RELIQ_DEMO_RESULTS"
PAUSE_VARIABLE: Final = "RELIQ_DEMO_PAUSE"
PROCESSES: Final = 2
CONCURRENCY: Final = 4
#: Seconds that the work should take at least, so that there is a half-way; few files get a pause each.
_WORK_S: Final = 1.5
_ENOUGH_FILES: Final = 2000
_STALLED_S: Final = 30.0
_POLL_S: Final = 0.004
_WIDTH: Final = 79
#: In the default folder, but not of the standard library.
_NOT_STANDARD: Final = frozenset({"site-packages", "dist-packages", "__pycache__"})


class Effect(NamedTuple):
    """One line that a handler wrote."""

    id: str
    digest: str
    deliveries: int
    at: float
    pid: int


class Effects:
    """What the handlers have written so far."""

    def __init__(self, path: Path) -> None:
        path.touch()
        self._file = path.open(encoding="ascii")
        self._rest = ""
        self.lines: list[Effect] = []
        self.ids: set[str] = set()

    def read(self) -> int:
        """Read on; returns how many messages have had their effect."""
        *lines, self._rest = (self._rest + self._file.read()).split("\n")
        for line in lines:
            id, digest, deliveries, at, pid = line.split(" ")
            self.lines.append(Effect(id, digest, int(deliveries), float(at), int(pid)))
            self.ids.add(id)
        return len(self.ids)

    def close(self) -> None:
        self._file.close()


@dataclass
class Kill:
    """What was killed, when by the server's clock, and what came of it."""

    pid: int
    consumer: str
    at: int
    returned: int = 0
    in_handlers: int = 0
    ready_again_ms: int = 0


@dataclass
class Outcome:
    """The figures of a run. ``redelivered``: deliveries to a handler beyond the first; ``done_twice``:
    messages whose effect happened before the kill and again; ``changed``: files rewritten meanwhile."""

    folder: str
    files: int
    digests: int = 0
    wrong: int = 0
    changed: int = 0
    lost: int = 0
    redelivered: int = 0
    done_twice: int = 0
    seconds: float = 0.0
    messages_per_s: int = 0
    processes: list[int] = field(default_factory=list)
    kill: Kill | None = None

    @property
    def ok(self) -> bool:
        return not (self.lost or self.wrong)


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", nargs="?", metavar="FOLDER", help="whose files (Python's standard library)")


def run(args: argparse.Namespace) -> int:
    """Returns 1 if a message was lost or a digest is wrong."""
    logging.getLogger("reliq").setLevel(logging.ERROR)  # that a private Redis is used, we say ourselves
    files = list(find_files(args.folder))
    if not files:
        raise ConfigError(f"demo: there is no regular file under {args.folder}; name a folder that has some")
    url = embedded.url_or_embedded(args.url)
    screen = Screen(quiet=args.json)
    with interruptible(), Stage(url, args) as stage:
        outcome = Play(stage, screen, files, args.folder or _standard_library()).perform()
    if args.json:
        text.print_json({**asdict(outcome), "ok": outcome.ok})
    else:
        screen.verdict(outcome)
    return FINE if outcome.ok else ATTENTION


def find_files(folder: str | None) -> Iterator[str]:
    """All regular files under a folder, without links; ConfigError if it is none."""
    skipped = frozenset() if folder else _NOT_STANDARD
    root = folder or _standard_library()
    if not os.path.isdir(root):
        raise ConfigError(f"demo: {root} is no folder; name one whose files are to be read")
    for place, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if name not in skipped)
        for name in sorted(names):
            path = os.path.abspath(os.path.join(place, name))
            if os.path.isfile(path) and not os.path.islink(path):
                yield path


def _standard_library() -> str:
    return sysconfig.get_path("stdlib")


class Stage:
    """A prefix, a folder for scratch and a worker, all of which are gone afterwards."""

    def __init__(self, url: str, args: argparse.Namespace) -> None:
        self.url = url
        self.prefix = f"{args.prefix or 'reliq'}-demo-{secrets.token_hex(4)}"
        self.queue = Queue(args.queue or QUEUE, url, prefix=self.prefix)
        self.worker: subprocess.Popen[bytes] | None = None
        private = Settings.chosen(args.url, None).url is None
        self.where = f"{'a private one at ' if private else ''}{_tail(self.queue.links.address.label, 50)}"

    def __enter__(self) -> Stage:
        self.queue.ping()
        self.scratch = Path(tempfile.mkdtemp(prefix="reliq-demo-"))
        self.effects = Effects(self.scratch / "results")
        return self

    def start_worker(self, pause: float) -> subprocess.Popen[bytes]:
        """The command that anybody would type, on modules from where ours come from."""
        code = f"import sys; sys.path[:] = {_absolute(sys.path)!r}; from reliq.cli import main; sys.exit(main())"
        words = ["worker", "reliq.cli.demo_worker:digest", "--prefix", self.prefix]
        words += ["--processes", str(PROCESSES), "--concurrency", str(CONCURRENCY), "--until-empty", "--json"]
        environment = {
            **os.environ,
            "RELIQ_URL": self.url,  # its password would be seen among the arguments
            QUEUE_VARIABLE: self.queue.name,
            RESULTS_VARIABLE: str(self.scratch / "results"),
            PAUSE_VARIABLE: str(pause),
        }
        with self.log.open("wb") as log:
            # In a session of its own, so that Ctrl-C reaches us alone; --until-empty ends it should we be killed.
            self.worker = subprocess.Popen(
                [sys.executable, "-c", code, *words],
                cwd=self.scratch,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return self.worker

    @property
    def log(self) -> Path:
        """What the worker says."""
        return self.scratch / "worker.log"

    def started(self) -> list[int]:
        """The worker processes, in the order of their start, as their log tells it."""
        records = [
            json.loads(line) for line in self.log.read_text(errors="replace").splitlines() if line[:1] == "{"
        ]
        return [record["pid"] for record in records if record["message"].startswith("worker started")]

    def last_words(self) -> str:
        """The end of the worker's log, for an error message."""
        lines = self.log.read_text(errors="replace").splitlines()[-3:]
        return " | ".join(lines) or "it said nothing"

    def __exit__(self, *_: object) -> None:
        self._stop_worker()
        self.effects.close()
        shutil.rmtree(self.scratch, ignore_errors=True)
        with suppress(ReliqError):  # Redis is gone, and our keys with it or out of reach
            self._remove_keys()
        self.queue.close()

    def _stop_worker(self) -> None:
        if self.worker is None or self.worker.poll() is not None:
            return
        self.worker.terminate()
        try:
            self.worker.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self.worker.pid, signal.SIGKILL)
            self.worker.wait()

    def _remove_keys(self) -> None:
        """The prefix is of this run alone, so all keys under it are ours."""
        links, cursor = self.queue.links, 0
        pattern = f"{self.queue.options.keys.prefix}:*"
        while True:
            args = (cursor, "MATCH", pattern, "COUNT", 1000)
            reply = links.insist(Command("SCAN", (), args, idempotent=True))
            for key in reply[1]:
                links.insist(Command("DEL", (), (key,), idempotent=True))
            cursor = int(reply[0])
            if cursor == 0:
                return


def _absolute(paths: list[str]) -> list[str]:
    return [os.path.abspath(path) for path in paths]


class Play:
    """Put, work, kill, check."""

    def __init__(self, stage: Stage, screen: Screen, files: list[str], folder: str) -> None:
        self._stage = stage
        self._queue = stage.queue
        self._screen = screen
        self._files = files
        self._seen = {path: _version(path) for path in files}
        self._outcome = Outcome(folder, len(files))

    def perform(self) -> Outcome:
        """All of it; returns the figures."""
        outcome, screen = self._outcome, self._screen
        screen.opening(self._stage.where, outcome)
        ids = self._queue.put_many(_body(path) for path in self._files)
        pause = _pause(len(ids))
        screen.put(outcome, self._queue.name, pause)
        worker = self._stage.start_worker(pause)
        self._work(worker, until=len(ids) // 2)
        outcome.kill = self._kill(worker)
        if outcome.kill:
            screen.kill(outcome.kill)
        self._work(worker, until=len(ids))
        self._wait(worker)
        if outcome.kill:
            self._measure(outcome.kill)
            screen.reaped(outcome.kill, self._stage.started())
        screen.checking()
        self._compare(ids)
        return outcome

    # -- while they work --------------------------------------------------------------------------------

    def _work(self, worker: subprocess.Popen[bytes], until: int) -> None:
        """Watch until so many messages have had their effect, or the worker ends, or nothing moves."""
        effects, total = self._stage.effects, len(self._files)
        moved_at, done = time.monotonic(), effects.read()
        while done < until and worker.poll() is None:
            self._screen.progress(done, total)
            time.sleep(_POLL_S)
            before, done = done, effects.read()
            if done > before:
                moved_at = time.monotonic()
            elif time.monotonic() - moved_at > _STALLED_S:
                return
        self._screen.progress(effects.read(), total)

    def _kill(self, worker: subprocess.Popen[bytes]) -> Kill | None:
        """kill -9 a process that has messages in hand; None if there is none any more."""
        while worker.poll() is None and self._stage.effects.read() < len(self._files):
            victim = self._victim()
            if victim is not None:
                pid = pid_of(victim) or 0
                now: int = self._queue.links.insist(ops.server_time())
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    return Kill(pid, victim.name, now)
            time.sleep(_POLL_S)
        return None

    def _victim(self) -> ConsumerInfo | None:
        found = self._queue.links.flow(flows.consumers_g(self._queue.options.keys))
        at_work = [c for c in found if held(c) and not c.dead and pid_of(c)]
        return max(at_work, key=held, default=None)

    def _wait(self, worker: subprocess.Popen[bytes]) -> None:
        """The worker ends by itself when the queue is empty. If it ends before, something is wrong with it
        (and nothing is lost: the rest is in the queue)."""
        try:
            status = worker.wait(_STALLED_S)
            how = f"ended with status {status}"
        except subprocess.TimeoutExpired:
            how = f"did not get on for {_STALLED_S:.0f} s"
        sizes = self._queue.size()
        done, left = self._stage.effects.read(), sizes.ready + sizes.doing + sizes.later + sizes.dead
        if left:
            raise ReliqError(
                f"demo: the worker {how} when {done} messages were done; {left} are still in the queue. It said: "
                f"{self._stage.last_words()}"
            )

    def _measure(self, kill: Kill) -> None:
        """What the ledger says: every return is an event there, and the server gave it the time."""
        entries: list[Any] = self._queue.links.insist(
            Command("XRANGE", (self._queue.options.keys.events,), (kill.at, "+"), idempotent=True)
        )
        for event in ledger.read(entries):
            if (event["event"], event["consumer"]) == ("reap", kill.consumer):
                kill.returned += 1
                kill.in_handlers += event["detail"] == "lost"
                kill.ready_again_ms = max(kill.ready_again_ms, event["at"] - kill.at)

    # -- afterwards -------------------------------------------------------------------------------------

    def _compare(self, ids: list[str]) -> None:
        """Every digest against one computed here and now."""
        outcome, lines = self._outcome, self._stage.effects.lines
        done: dict[str, list[Effect]] = {}
        for line in lines:
            done.setdefault(line.id, []).append(line)
        for id, path in zip(ids, self._files, strict=True):
            effects = done.get(id, [])
            outcome.lost += not effects
            outcome.digests += bool(effects)
            outcome.redelivered += max(len(effects), *(effect.deliveries for effect in effects), 1) - 1
            outcome.done_twice += len(effects) > 1
            if effects and {effect.digest for effect in effects} != {sha256_of(path)}:
                if _version(path) == self._seen[path]:
                    outcome.wrong += 1
                else:
                    outcome.changed += 1
        outcome.processes = list(dict.fromkeys(line.pid for line in lines))
        times = [line.at for line in lines] or [0.0]
        outcome.seconds = round(max(times) - min(times), 3)
        outcome.messages_per_s = round(outcome.digests / max(outcome.seconds, 0.001))


def sha256_of(path: str | bytes) -> str:
    """The digest of a file's content, or why it cannot be read."""
    try:
        with open(path, "rb") as file:
            sha256 = hashlib.sha256()
            while block := file.read(1 << 18):
                sha256.update(block)
            return sha256.hexdigest()
    except OSError as error:
        return f"unreadable:{errno.errorcode.get(error.errno or 0, 'EIO')}"


def _body(path: str) -> str | bytes:
    """The path, as bytes if it is no proper text."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return os.fsencode(path)
    return path


def _version(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


def _pause(files: int) -> float:
    """Seconds that a handler sleeps besides, if there are too few files to interrupt the work on them."""
    if files >= _ENOUGH_FILES:
        return 0.0
    return min(0.25, _WORK_S * PROCESSES * CONCURRENCY / files)


class Screen:
    """What is shown: one screen, which says what happened to somebody who has never seen this."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._live = sys.stdout.isatty() and not quiet
        self._shown_at = 0.0

    def _say(self, line: str = "") -> None:
        if not self._quiet:
            print(text.short(text.safe(line), _WIDTH), flush=True)

    def opening(self, address: str, outcome: Outcome) -> None:
        self._say("reliq demo: what happens to messages when their worker is killed")
        self._say()
        self._say(f"redis   {address}")
        self._say(f"files   {_tail(outcome.folder, 60)}")

    def put(self, outcome: Outcome, queue: str, pause: float) -> None:
        self._say(f"put     {outcome.files:,} messages, each the path of a file, into queue {queue!r}")
        slowed = f" ({text.duration(pause * 1000)} each)" if pause else ""
        self._say(f"work    {PROCESSES} worker processes note the SHA-256 of each on disk{slowed}")

    def progress(self, done: int, total: int) -> None:
        """A line that moves, on a terminal only."""
        if self._live and (done == total or time.monotonic() - self._shown_at > 0.05):
            self._shown_at = time.monotonic()
            filled = 40 * done // max(1, total)
            print(f"\r        [{'#' * filled}{'.' * (40 - filled)}] {done:,} of {total:,} ", end="", flush=True)

    def _clear(self) -> None:
        if self._live:
            print(f"\r{' ' * _WIDTH}\r", end="", flush=True)

    def kill(self, kill: Kill) -> None:
        self._clear()
        self._say(f"kill    half-way: kill -9 of process {kill.pid}, with messages in its hands")

    def reaped(self, kill: Kill, started: list[int]) -> None:
        """What the supervisor did about it; ``started``: the processes that it ever started."""
        self._clear()
        new = f"process {started[PROCESSES]} took its place" if len(started) > PROCESSES else "none was needed"
        self._say(f"reap    its supervisor saw it die and put back all that it had claimed: {kill.returned:,}")
        self._say(f"        messages, of which {kill.in_handlers} were being handled; {new}")

    def checking(self) -> None:
        self._clear()
        self._say("check   every digest is compared with one that is computed here")
        self._say()

    def verdict(self, outcome: Outcome) -> None:
        """The figures, what they mean, and what to try next."""
        right = "all of them right" if not outcome.wrong else f"{outcome.wrong:,} of them WRONG"
        changed = f"; {outcome.changed:,} files changed meanwhile" if outcome.changed else ""
        self._say(f"  files          {outcome.files:>7,}")
        self._say(f"  digests        {outcome.digests:>7,}   {right}{changed}")
        self._say(f"  lost           {outcome.lost:>7,}   {_lost(outcome)}")
        self._say(f"  redelivered    {outcome.redelivered:>7,}   {_redelivered(outcome)}")
        if outcome.kill and outcome.kill.returned:
            ms = outcome.kill.ready_again_ms
            self._say(f"  kill to ready  {ms:>7,}   milliseconds from kill -9 until all were ready again")
        self._say(f"  speed          {outcome.messages_per_s:>7,}   messages per second, each flushed to disk")
        self._say()
        self._say("Next, with a queue of your own:")
        self._say("""  reliq put --queue emails '{"to": "ada@example.org"}'""")
        self._say("  reliq peek --queue emails")
        self._say("  reliq status")


def _lost(outcome: Outcome) -> str:
    if outcome.lost:
        return "LOST: this must not happen; please report it"
    kill = outcome.kill
    if kill is None:
        return "but nothing was killed: all was done before; try a larger folder"
    if not kill.returned:
        return "but what was killed had nothing in hand just then; try again"
    return f"a plain BRPOP would have lost the {kill.in_handlers} in hand" if kill.in_handlers else ""


def _redelivered(outcome: Outcome) -> str:
    if not outcome.redelivered:
        return ""
    if not outcome.done_twice:
        return "handed out a second time: a handler must bear that"
    return f"{outcome.done_twice:,} of them done already: a handler must bear that"


def _tail(path: str, limit: int) -> str:
    return path if len(path) <= limit else f"...{path[3 - limit :]}"


VERB = Verb(
    name="demo",
    summary="see it at work: thousands of files, two workers, one kill -9",
    details="Runs on a private Redis (or --url), under keys of its own that are removed at the end.",
    example="reliq demo /usr/share/doc",
    configure=configure,
    run=run,
    queue_help=f"what to call the demo's queue (default: {QUEUE})",
)
