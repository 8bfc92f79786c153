"""Rounds: real processes at work on a real server, one kind of fault, then heal, drain, and check everything.

A round is made from its seed alone: who plays, what is put, what is hurt and when. (What the machine makes of it
in time differs from run to run; the seed gives the same attack, not the same interleaving.) Its parts:

    1 work    the server, workers, producers; wait until messages are handled
    2 harm    the fault, for some seconds. A round in which it never happened has shown nothing, and fails
    3 heal    faults off, stopped processes go on, producers end
    4 drain   within lease + sweep + work; then processes end on SIGTERM, with status 0
    5 check   history, effects and every key of the server (checker.py)

Kinds of faults are functions under ``@fault``, in the modules that MORE names; matrix.py plays them all. A kind
says which causes of extra deliveries it explains: ``causes=()`` is a fault that may not cost a single one.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import random
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis as redis_py

import reliq
from reliq.core import envelope as env
from reliq.core import ledger
from reliq.core.keys import Keys
from tests.faults import checker
from tests.faults.checker import Final, Found, Report, Terms
from tests.faults.history import Effects, History
from tests.faults.lab import WorkerProcess, wait_until
from tests.faults.proxy import Action, FaultProxy, Rule
from tests.servers import RedisServer, ServerBinary

Settings = dict[str, Any]

MORE = ("tests.faults.kinds", "tests.faults.rounds_replicated")
"""Modules with kinds of faults; one that does not exist is passed over."""

SWEEP = 1.0
"""Seconds within which a worker sees that a lease has ended."""
SLACK = float(os.environ.get("RELIQ_LAB_SLACK", "4"))
"""Seconds that a busy machine may take beyond lease + sweep + work."""
START = 60.0
"""Seconds that processes may take to start, which is nothing that a round is about; who fails is seen at once."""
BELL = b"\xc1rlq\0"
BUSY = {"every": 0.008, "ms": (5, 30), "deeds": {"fail": 0.03, "release": 0.01, "bury": 0.01}}
"""A producer whose messages keep the workers at work, and some of which fail, wait, or are buried."""
SUPERVISED: Settings = {"supervise": True, "worker": {"processes": 2}}
PLAIN: Settings = {}

SKIPS: dict[str, str] = {
    "fsync-per-put": "WAITAOF needs Redis 7.2, and none is at hand",
    "redis-8": "no such server at hand",
    "valkey": "no such server at hand",
}
"""What is part of the matrix and cannot be run here, with the reason. A kind of the same name replaces it."""


@dataclass(frozen=True)
class Kind:
    """A kind of fault. ``harm`` does it; the rest says who plays and what the fault explains."""

    name: str
    what: str
    harm: Callable[[Round], None] = field(repr=False)
    causes: frozenset[str] = frozenset()
    dead: frozenset[str] = frozenset({"BURIED"})
    lease: float = 3.0
    workers: Sequence[Settings] = (SUPERVISED, PLAIN)
    producers: Sequence[Settings] = (BUSY, BUSY)
    queue: Settings = field(default_factory=dict)
    proxied: bool = False
    appendfsync: str = "always"
    forgets: float = 0.0
    durable: bool = False
    deaths: Sequence[int] = (signal.SIGKILL,)
    needs: tuple[int, ...] = (6, 2)
    stage: Callable[[Round], AbstractContextManager[Any]] | None = None


KINDS: dict[str, Kind] = {}


def fault(name: str, *, causes: Sequence[str] = (), **options: Any) -> Callable[[Any], Any]:
    """Register a kind: the first sentence of the function's docstring says what it is.

    ``causes``: of extra deliveries (reap, release, late, rollback) that it explains. ``dead``: causes of dead
    letters. ``lease`` seconds; ``workers`` and ``producers``: settings for cast.py, one process each; ``proxied``:
    all go through ``Round.proxy``; ``forgets``: seconds of confirmed writes that a rollback may lose; ``durable``:
    no put is among them; ``deaths``: the signals that processes may die of; ``needs``: the oldest server version;
    ``stage``: a context manager that takes the Round and gives something with ``url`` and ``client()``, instead
    of one RedisServer.
    """

    def register(harm: Any) -> Any:
        what = " ".join(harm.__doc__.split())
        options.setdefault("dead", {"BURIED"})
        options["dead"] = frozenset(options["dead"])
        KINDS[name] = Kind(name, what, harm, frozenset(causes), **options)
        SKIPS.pop(name, None)
        return harm

    return register


def load_kinds() -> dict[str, Kind]:
    """All kinds, of all modules that are there."""
    for module in MORE:
        if importlib.util.find_spec(module) is not None:
            importlib.import_module(module)
    return KINDS


# -- one round ----------------------------------------------------------------------------------------------


class Vain(AssertionError):
    """The round could not be played as it should; it has shown nothing."""


@dataclass
class Outcome:
    """What one round has shown: the checker's report, the text for people, and how often the fault was done."""

    kind: str
    server: str
    seed: int
    report: Report
    text: str
    done: Counter[str]


class Round:
    """What a kind of fault has in its hands. Everything it starts is ended by pid when the round is over."""

    def __init__(self, kind: Kind, binary: ServerBinary, seed: int, seconds: float, broken: str = "") -> None:
        self.kind, self.binary, self.seed, self.seconds, self.broken = kind, binary, seed, seconds, broken
        self.chance = random.Random(f"{kind.name}:{seed}")
        self.prefix = f"r{seed}"
        self.keys = Keys("work", self.prefix)
        self.workers: list[WorkerProcess] = []
        self.producers: list[WorkerProcess] = []
        self.reapers: list[WorkerProcess] = []
        self.done: Counter[str] = Counter()
        self.rollbacks: list[float] = []
        self.complaints: list[tuple[str, str]] = []
        self.rules: list[Rule] = []
        self.told_twice: set[int] = set()
        self._healed_at = self._start_takes = 0.0
        self._asleep: set[int] = set()
        self._orphans: set[int] = set()
        self._shells = ["threads", "coroutines", "aio"]
        self.chance.shuffle(self._shells)
        self.options = {"lease": kind.lease, "block": 1.0, "timeout": 2.0, "max_losses": 200, **kind.queue}

    # -- the whole of it

    def play(self) -> Outcome:
        """All five parts."""
        with contextlib.ExitStack() as stack:
            self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="reliq-round-")))
            self.server: Any = stack.enter_context((self.kind.stage or _standalone)(self))
            self.history = History(self.folder / "history.jsonl")
            stack.callback(self.history.close)
            self.effects = Effects(self.folder / "effects.sqlite")
            if self.kind.proxied:
                host, port = self.server.url.removeprefix("redis://").split("/")[0].split(":")
                self.proxy = stack.enter_context(FaultProxy(host, int(port), seed=self.seed))
            self.queue = stack.enter_context(
                reliq.Queue("work", self.server.url, prefix=self.prefix, **self.options)
            )
            stack.callback(self._kill_all)
            try:
                return self._play()
            except Exception as error:
                logs = "\n".join(f"--- {w.log_path.name}\n{w.log()[-1500:]}" for w in self._everybody())
                raise Vain(f"{self.title}: {error!r}\n{self.replay}\n{logs}") from error

    def _play(self) -> Outcome:
        self.phase("work")
        began = time.monotonic()
        for settings in self.kind.workers:
            self.worker(**settings)
        for settings in self.kind.producers:
            self.producer(**settings)
        wait_until(lambda: self._all_run() and self._all_started(), START, "all workers have started")
        self._start_takes = time.monotonic() - began
        if self.kind.workers and self.kind.producers:
            wait_until(lambda: self._all_run() and self.effects.count() >= 5, START, "work begins")
        self.phase("harm")
        self.kind.harm(self)
        self.heal()
        if not self.done:
            raise Vain("the fault never happened")
        for producer in self.producers:
            self._end(producer)
        bound = self._bound()
        drained = self._drain(bound)
        recovery = time.monotonic() - self._healed_at
        self.phase("drained" if drained else "not drained")
        for process in [*self.reapers, *self.workers]:
            self._end(process)
        self._await_orphans()
        return self._check(drained, recovery, bound)

    def _all_started(self) -> bool:
        return all("worker started" in worker.log() for worker in self.workers)

    def _all_run(self) -> bool:
        """Nobody may end before the harm begins; who does is broken, and not by a fault."""
        for process in self._everybody():
            if process.process.poll() not in (None, 0, *(-number for number in self.kind.deaths)):
                raise Vain(f"a process has ended with status {process.process.poll()}")
        return True

    @property
    def title(self) -> str:
        broken = f", build broken on purpose: {self.broken}" if self.broken else ""
        return f"round {self.kind.name} on {self.binary.name}, seed {self.seed}{broken}"

    @property
    def replay(self) -> str:
        version = ".".join(self.binary.version.split(".")[:2])
        which = f"--only {self.kind.name} --server {version} --seed {self.seed} --rounds 1"
        broken = f" --break {self.broken}" if self.broken else ""
        return f"scripts/faults {which} --seconds {self.seconds:g}{broken}"

    # -- who plays

    def settings(self, role: str, settings: Settings) -> Settings:
        """What a process of this round is told; settings may name another ``url`` or ``queue`` options."""
        url = self.proxy.url if self.kind.proxied else self.server.url
        base = {"role": role, "url": url, "prefix": self.prefix, "break": self.broken}
        base |= {"history": str(self.history.path), "effects": str(self.folder / "effects.sqlite")}
        return base | settings | {"queue": self.options | settings.get("queue", {})}

    def worker(self, **settings: Any) -> WorkerProcess:
        """Start a worker. Without a ``shell``, each gets another one of the three."""
        if "shell" not in settings:
            shells = [s for s in self._shells if not (settings.get("supervise") and s == "aio")]
            settings["shell"] = "threads" if self.broken else shells[len(self.workers) % len(shells)]
        settings.setdefault("takes_lease", bool(self.broken) or len(self.workers) % 2 == 0)
        worker = WorkerProcess(self.settings("worker", settings), self.folder)
        worker.settings = settings  # type: ignore[attr-defined]
        self.workers.append(worker)
        return worker

    def again(self, worker: WorkerProcess) -> WorkerProcess:
        """Start another worker of the same kind in the place of one that has ended."""
        return self.worker(**worker.settings)  # type: ignore[attr-defined]

    def producer(self, **settings: Any) -> WorkerProcess:
        """Start a producer with numbers of its own."""
        number = len(self.producers)
        settings = {"seed": f"{self.seed}:{number}", "first": number * 1_000_000} | settings
        settings["queue"] = {"timeout": 0.4} | settings.get("queue", {})
        self.producers.append(WorkerProcess(self.settings("producer", settings), self.folder))
        return self.producers[-1]

    def reaper(self, **settings: Any) -> WorkerProcess:
        """Start a process that does nothing but reap."""
        self.reapers.append(WorkerProcess(self.settings("reaper", settings), self.folder))
        return self.reapers[-1]

    def _everybody(self) -> list[WorkerProcess]:
        return [*self.workers, *self.producers, *self.reapers]

    # -- what a kind of fault does

    def beats(self, least: float, most: float) -> Iterator[None]:
        """The moments at which to do harm: so many seconds apart, until the time of this part is over."""
        end = time.monotonic() + self.seconds
        while True:
            time.sleep(self.chance.uniform(least, most))
            if time.monotonic() > end:
                return
            yield

    def did(self, what: str, **details: Any) -> None:
        """Write down a fault that was done."""
        self.done[what] += details.get("times", 1)
        self.history.note("fault", "ok", what=what, **details)

    def phase(self, name: str) -> None:
        self.history.note("phase", "ok", name=name)

    def signal(self, pid: int, number: int) -> bool:
        """Send a signal, and write it down; False if the process is gone already."""
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return False
        (self._asleep.add if number == signal.SIGSTOP else self._asleep.discard)(pid)
        self.did(signal.Signals(number).name, target=pid)
        return True

    def alive(self, *, supervised: bool | None = None) -> list[WorkerProcess]:
        """The workers that run (of one sort)."""
        running = [w for w in self.workers if w.process.poll() is None]
        sorts = {True, False} if supervised is None else {supervised}
        return [w for w in running if bool(w.settings.get("supervise")) in sorts]  # type: ignore[attr-defined]

    def child(self) -> int:
        """The pid of some child of a supervisor, 0 if there is none at the moment."""
        pids = [pid for worker in self.alive(supervised=True) for pid in worker.children()]
        return self.chance.choice(pids) if pids else 0

    def kill(self, worker: WorkerProcess) -> None:
        """kill -9 of a worker, or of a supervisor, whose children then have to end by themselves."""
        self._orphans.update(worker.children())
        self.signal(worker.pid, signal.SIGKILL)
        worker.process.wait(10)

    def rule(self, action: Action, probability: float, commands: Sequence[bytes] = ()) -> Rule:
        """Have the proxy do this to some of the commands that count (not to those of connecting)."""
        wanted = frozenset(commands or (b"EVALSHA", b"EVAL", b"BLMOVE", b"LPUSH", b"LRANGE", b"LTRIM", b"RPUSH"))
        made = self.proxy.on(
            where=lambda args: args[0].upper() in wanted, action=action, count=None, probability=probability
        )
        self.rules.append(made)
        return made

    def cli(self, *args: Any) -> Any:
        """One command on a connection of its own."""
        return self.server.cli(*args)

    # -- the end of it

    def heal(self) -> None:
        """End every fault that is still there."""
        for rule in self.rules:
            rule.remove()
            if rule.hits:
                self.did(rule.action.name, times=rule.hits)
        if self.kind.proxied:
            self.proxy.latency = 0.0
            if self.proxy.partitioned:
                self.proxy.heal()
        for pid in list(self._asleep):
            self.signal(pid, signal.SIGCONT)
        self._healed_at = time.monotonic()
        self.phase("heal")

    def _bound(self) -> float:
        """Seconds from the heal in which all must be done: lease + sweep + work, and what a start takes here, for
        who is started anew in the last moment."""
        size = self.queue.size()
        backlog = size.ready + size.doing + size.later
        longest = max((settings["ms"][1] for settings in self.kind.producers), default=50) / 1000
        work = backlog * longest / 4 + 1.5  # a handler's own release takes a second
        return self.kind.lease + SWEEP + work + self._start_takes + SLACK

    def _drain(self, bound: float) -> bool:
        """Whether everything was settled in time. Redis is asked until it answers."""
        while time.monotonic() - self._healed_at < bound:
            with contextlib.suppress(reliq.ReliqError):
                size = self.queue.size()
                if size.ready + size.doing + size.later == 0 and not self._strays():
                    return True
            time.sleep(0.02)
        return False

    def _strays(self) -> bool:
        """Whether a list is there that no registration tells of."""
        with self.server.client() as client:
            return any(client.scan_iter(match=self.keys.lists_pattern.encode(), count=1000))

    def _end(self, process: WorkerProcess) -> None:
        killed = process.process.poll()
        try:
            status = process.end() if killed is None else killed
        except AssertionError as error:
            self.complaints.append(("I6", f"a process did not end on SIGTERM: {str(error)[-1500:]}"))
            return
        unheard = status == -signal.SIGTERM and (process.pid in self.told_twice or "started" not in process.log())
        if status != 0 and -status not in self.kind.deaths and not unheard:
            log = process.log()[-1500:]
            self.complaints.append(("I6", f"a process ended with status {status} instead of 0:\n{log}"))

    def _await_orphans(self) -> None:
        try:
            wait_until(lambda: not any(self._is_ours(pid) for pid in self._orphans), 5, "orphans end")
        except AssertionError:
            self.complaints.append(("I6", "children of a killed supervisor did not end by themselves"))

    def _is_ours(self, pid: int) -> bool:
        """Whether this process runs, and is one of this round (a pid may come again)."""
        with contextlib.suppress(OSError):
            return str(self.folder).encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
        return False

    def _kill_all(self) -> None:
        pids = {pid for worker in self.workers for pid in worker.children()} | self._orphans
        for process in self._everybody():
            if process.process.poll() is None:
                os.kill(process.pid, signal.SIGKILL)
                process.process.wait(10)
        for pid in pids:
            if self._is_ours(pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def _check(self, drained: bool, recovery: float, bound: float) -> Outcome:
        terms = Terms(
            causes=self.kind.causes,
            dead=self.kind.dead,
            drained=drained,
            recovery=recovery,
            bound=bound,
            rollbacks=self.rollbacks,
            forgets=self.kind.forgets,
            durable=self.kind.durable,
            complaints=self.complaints,
        )
        events, effects, final = self.history.read(), self.effects.read(), self.final()
        report = checker.check(events, effects, final, terms)
        text = checker.incident(report, events, effects, final, title=self.title, replay=self.replay)
        if keep := os.environ.get("RELIQ_LAB_KEEP"):
            self._keep(Path(keep))
        return Outcome(self.kind.name, self.binary.name, self.seed, report, text, self.done)

    def _keep(self, folder: Path) -> None:
        """Leave history and logs there, for a closer look."""
        goal = folder / f"{self.kind.name}-{self.binary.name}-{self.seed}"
        goal.mkdir(parents=True, exist_ok=True)
        for path in [self.history.path, *self.folder.glob("*.log")]:
            (goal / path.name).write_bytes(path.read_bytes())

    def final(self) -> Final:
        """Every key of this queue, read raw."""
        with self.server.client() as client:
            return read_final(client, self.keys)

    def ready_ids(self) -> list[str]:
        """What stands in ready, from its head on."""
        with self.server.client() as client:
            elements: Any = client.lrange(self.keys.ready, 0, -1)
            return [e[23:39].hex() for e in reversed(elements) if env.is_envelope(e)]


def _standalone(round: Round) -> AbstractContextManager[RedisServer]:
    debug = ("--enable-debug-command", "yes") if round.binary.version_info >= (7,) else ()
    return RedisServer(round.binary, appendfsync=round.kind.appendfsync, extra_args=debug)


def read_final(client: redis_py.Redis, keys: Keys) -> Final:
    """Where every message is, by looking at every key under the prefix."""
    found: list[Found] = []
    strange: list[str] = []
    for raw in client.scan_iter(match=f"{keys.prefix}:*".encode(), count=1000):
        key = raw.decode()
        if key in (keys.later, keys.dead):
            members: Any = client.zrange(key, 0, -1)
            place = "later" if key == keys.later else "dead"
        elif key == keys.ready or keys.consumer_of(key):
            members = client.lrange(key, 0, -1)
            place = "ready" if key == keys.ready else key.removeprefix(keys.ready[: -len("ready")]).split(":")[0]
        else:
            continue
        for element in members:
            _file(place, element, found, strange)
    entries: Any = client.xrange(keys.events)
    flat = [(id, [word for field in fields.items() for word in field]) for id, fields in entries]
    told = [event | {"ms": event["at"]} for event in ledger.read(flat)]
    return Final(found, told, strange)


def _file(place: str, element: bytes, found: list[Found], strange: list[str]) -> None:
    cause = ""
    try:
        if place == "dead":
            note, element = env.split_note(element)
            cause = note["cause"]
        envelope = env.unpack(element)
    except reliq.ReliqError as error:
        if element != BELL:
            strange.append(f"{place}: {error}")
        return
    found.append(Found(place, envelope.id.hex(), envelope.fence, cause))


def play(kind: Kind, binary: ServerBinary, seed: int, *, seconds: float, broken: str = "") -> Outcome:
    """Play one round."""
    return Round(kind, binary, seed, seconds, broken).play()
