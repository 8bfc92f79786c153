"""The kinds of faults that one server and some processes on one machine can suffer; see rounds.py.

``causes=()``, the default, means: this may not cost a single extra delivery.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import redis as redis_py

import reliq
from tests.faults.lab import WorkerProcess, wait_until
from tests.faults.proxy import (
    black_hole,
    cut_reply,
    delay_reply,
    delay_request,
    drop_reply,
    drop_request,
    ghost,
    reply_error,
    reset,
    trickle,
)
from tests.faults.rounds import BUSY, PLAIN, SUPERVISED, Round, fault

KILLS = ("reap",)
STOPS = ("reap", "late")
ALL = ("reap", "late", "release")
"""Who gives back at once what a handler still works on gets a late settle from that handler."""
ANOTHER = ("rollback",)
"""The server is another process, or has another history: consumers note that things may be forgotten."""
CALM = {"every": 0.05, "ms": (1, 5)}
"""A producer that leaves the workers idle most of the time."""
POISONOUS = {"every": 0.4, "ms": (1, 20), "plain": True, "most": 3, "deeds": {"segfault": 1.0}}
"""A producer of three messages that each kill their worker."""
ORDERLY = {"every": 0.0, "ms": (1, 2), "plain": True, "most": 400}
"""A producer whose puts are told apart by their order alone."""


# -- processes ----------------------------------------------------------------------------------------------


@fault("kill-workers", causes=KILLS, lease=1.5)
def kill_workers(r: Round) -> None:
    """kill -9 of worker processes under their supervisor."""
    for _ in r.beats(0.15, 0.4):
        if pid := r.child():
            r.signal(pid, signal.SIGKILL)


@fault("kill-plain-workers", causes=KILLS, lease=1.5, workers=(PLAIN, PLAIN, SUPERVISED))
def kill_plain_workers(r: Round) -> None:
    """kill -9 of workers without a supervisor, as if their hosts were gone; new ones are started elsewhere."""
    for _ in r.beats(0.3, 0.7):
        victim = r.chance.choice(r.alive(supervised=False))
        r.kill(victim)
        r.again(victim)


@fault("kill-supervisors", causes=ALL, lease=1.5, workers=(SUPERVISED, SUPERVISED))
def kill_supervisors(r: Round) -> None:
    """kill -9 of a supervisor: its children give back what they hold and end; another one is started."""
    for _ in r.beats(0.5, 1.0):
        victim = r.chance.choice(r.alive())
        r.kill(victim)
        r.again(victim)


@fault("stop-workers", causes=STOPS, lease=1.0, workers=(PLAIN, SUPERVISED, PLAIN))
def stop_workers(r: Round) -> None:
    """SIGSTOP of workers at work for longer than their lease, then SIGCONT."""
    for _ in r.beats(0.05, 0.2):
        pids = {r.chance.choice(r.alive(supervised=False)).pid, r.child() or r.alive(supervised=False)[0].pid}
        for pid in sorted(pids):
            r.signal(pid, signal.SIGSTOP)
        time.sleep(r.kind.lease * r.chance.uniform(1.2, 2.0))
        for pid in sorted(pids):
            r.signal(pid, signal.SIGCONT)


@fault("stop-idle-workers", causes=STOPS, lease=1.0, workers=(PLAIN, PLAIN, PLAIN), producers=(CALM,))
def stop_idle_workers(r: Round) -> None:
    """SIGSTOP of workers that wait in BLMOVE, which takes one more message for them; then kill -9 or SIGCONT."""
    for number, _ in enumerate(r.beats(0.05, 0.2)):
        victim = r.chance.choice(r.alive())
        inboxes = _inboxes(r)
        r.signal(victim.pid, signal.SIGSTOP)
        with contextlib.suppress(AssertionError):  # it may have been stopped in the middle of a trip
            wait_until(lambda seen=inboxes: _inboxes(r) - seen, 1.0, "a message in the inbox of a zombie")
        if number % 2 == 0:
            r.kill(victim)
            r.again(victim)
        else:
            time.sleep(r.kind.lease * 1.5)
            r.signal(victim.pid, signal.SIGCONT)


def _inboxes(r: Round) -> set[bytes]:
    with r.server.client() as client:
        return set(client.scan_iter(match=f"{r.prefix}:*:inbox:*", count=1000))


@fault("stop-supervisors", workers=(SUPERVISED, PLAIN))
def stop_supervisors(r: Round) -> None:
    """SIGSTOP of a supervisor, then SIGCONT: its children live on, and nobody takes anything from them."""
    for _ in r.beats(0.1, 0.3):
        [victim] = r.alive(supervised=True)
        r.signal(victim.pid, signal.SIGSTOP)
        time.sleep(r.chance.uniform(0.3, 1.0) * min(r.seconds, r.kind.lease * 1.5))
        r.signal(victim.pid, signal.SIGCONT)


@fault("stop-supervisors-children-die", causes=KILLS, lease=1.5, workers=(SUPERVISED, PLAIN))
def stop_supervisors_children_die(r: Round) -> None:
    """SIGSTOP of a supervisor while its children are killed: the lease brings their messages back."""
    for _ in r.beats(0.1, 0.3):
        [victim] = r.alive(supervised=True)
        r.signal(victim.pid, signal.SIGSTOP)
        for pid in victim.children():
            r.signal(pid, signal.SIGKILL)
        time.sleep(r.chance.uniform(0.2, 2.0))
        r.signal(victim.pid, signal.SIGCONT)


@fault("term-workers", causes=("release", "late"), workers=(PLAIN, SUPERVISED))
def term_workers(r: Round) -> None:
    """SIGTERM of workers and supervisors, as in a rolling restart; some are told twice."""
    for _ in r.beats(0.3, 0.6):
        victim = r.chance.choice(r.alive())
        r.again(victim)
        _ready_for_signals(r, victim)
        r.signal(victim.pid, signal.SIGTERM)
        if r.chance.random() < 0.3:
            time.sleep(0.02)  # it may have ended in good order by now, and then this signal ends the process
            r.told_twice.add(victim.pid)
            r.signal(victim.pid, signal.SIGTERM)
        victim.process.wait(15)


def _ready_for_signals(r: Round, worker: WorkerProcess) -> None:
    """A process that is still starting ends by SIGTERM as any other does."""
    wait_until(lambda: "worker started" in worker.log(), 20, "a worker has started")


@fault("give-back-in-order", causes=ALL, lease=1.0, workers=(), producers=(ORDERLY,))
def give_back_in_order(r: Round) -> None:
    """SIGTERM (once or twice) or kill -9 and a reaper: what nobody finished stands at the head again, in order."""
    r.producers[0].process.wait(30)
    for _ in r.beats(0.0, 0.05):
        worker = r.worker(worker={"concurrency": 4, "prefetch": 1000})
        seen = r.effects.count()
        wait_until(lambda n=seen: r.effects.count() >= n + 20 or not r.ready_ids(), 20, "at work")
        how = r.chance.choice(["once", "twice", "kill"])
        if how == "kill":
            r.kill(worker)
            reaper = reliq.Reaper(r.queue, interval=0.1)
            wait_until(lambda reaper=reaper: _reaped(r, reaper), 10, "reaped")
        else:
            r.signal(worker.pid, signal.SIGTERM)
            if how == "twice":
                r.told_twice.add(worker.pid)
                r.signal(worker.pid, signal.SIGTERM)
            worker.process.wait(10)
        r.history.note("order", "ok", ids=r.ready_ids(), how=how)
        if not r.ready_ids():
            break
    r.worker()


def _reaped(r: Round, reaper: reliq.Reaper) -> bool:
    """Whether nobody holds anything any more. (A worker that held nothing leaves nothing to reap.)"""
    reaper.run_once()
    return r.queue.size().doing == 0


@fault("poison", causes=KILLS, dead={"BURIED", "POISON"}, deaths=(signal.SIGKILL, signal.SIGSEGV),
       lease=1.5, queue={"max_losses": 3},
       producers=(BUSY, BUSY, POISONOUS))  # fmt: skip
def poison(r: Round) -> None:
    """Messages that kill every worker: each is dead-lettered after three losses, its neighbours are not."""
    for _ in r.beats(0.05, 0.1):
        pass
    plain = [w for w in r.workers if not w.settings.get("supervise")]  # type: ignore[attr-defined]
    for worker in plain:
        if worker.process.poll() is not None:
            r.again(worker)
    deaths = sum(e["op"] == "deliver" and e.get("do") == "segfault" for e in r.history.read())
    if deaths:
        r.did("segfault", times=deaths)


@fault("two-reapers", causes=KILLS, lease=1.0, workers=(PLAIN, PLAIN, SUPERVISED))
def two_reapers(r: Round) -> None:
    """Three reapers at once beside the workers' own, while workers are killed."""
    for _ in range(3):
        r.reaper(every=0.02)
    kill_plain_workers(r)


@fault("idle-reapers", workers=(SUPERVISED, PLAIN))
def idle_reapers(r: Round) -> None:
    """Reapers at work while nobody has died: they find nothing to do."""
    for _ in range(2):
        r.reaper(every=0.02)
    for _ in r.beats(0.2, 0.4):
        r.did("reaper at work")


@fault("kill-producers")
def kill_producers(r: Round) -> None:
    """kill -9 of producers in the middle of their puts: what is unknown is in at most once."""
    for _ in r.beats(0.2, 0.5):
        running = [p for p in r.producers if p.process.poll() is None]
        victim = r.chance.choice(running)
        r.signal(victim.pid, signal.SIGKILL)
        victim.process.wait(10)
        r.producer(**BUSY)


# -- the server ---------------------------------------------------------------------------------------------


@fault("kill-redis", causes=ANOTHER)
def kill_redis(r: Round) -> None:
    """kill -9 of Redis with appendfsync always, and a restart: nothing that was confirmed is lost."""
    for _ in r.beats(0.4, 0.9):
        r.server.kill()
        r.did("kill -9 of Redis")
        time.sleep(r.chance.uniform(0.0, 0.5))
        r.server.start()


@fault("restart-redis", causes=ANOTHER, appendfsync="everysec")
def restart_redis(r: Round) -> None:
    """A restart of Redis in good order (SIGTERM), with appendfsync everysec."""
    for _ in r.beats(0.4, 0.9):
        r.server.stop()
        r.did("restart of Redis")
        time.sleep(r.chance.uniform(0.0, 0.3))
        r.server.start()


@fault("power-cut-everysec", causes=ALL + ANOTHER, appendfsync="everysec", forgets=2.5, lease=1.5)
def power_cut_everysec(r: Round) -> None:
    """Power cut with appendfsync everysec: the last second of the append-only file is gone, and only that."""
    sizes: list[tuple[float, int]] = []
    stopping = threading.Event()
    down = threading.Lock()

    def watch() -> None:
        while not stopping.wait(0.02):
            with down:
                sizes.append((time.monotonic(), _append_only(r).stat().st_size))

    watcher = threading.Thread(target=watch, name="file-watcher")
    watcher.start()
    try:
        for _ in r.beats(1.2, 1.6):
            with down:
                r.server.kill()
                now = time.monotonic()
                kept = max((size for at, size in sizes if at <= now - 1.0), default=sizes[0][1])
                lost = _append_only(r).stat().st_size - kept
                os.truncate(_append_only(r), kept)
                r.rollbacks.append(now)
                sizes[:] = [(now, kept)]
                r.did("power cut", bytes=lost)
                r.server.start()
    finally:
        stopping.set()
        watcher.join()


def _append_only(r: Round) -> Path:
    """The file that the server appends to: one of several from Redis 7 on."""
    parts = sorted(r.server.folder.glob("appendonlydir/*.incr.aof"))
    return Path(parts[-1] if parts else r.server.folder / "appendonly.aof")


@fault("pause-redis", workers=(SUPERVISED, PLAIN))
def pause_redis(r: Round) -> None:
    """Redis stands still for up to two leases (SIGSTOP, DEBUG SLEEP, CLIENT PAUSE): nobody could renew, so
    nobody is reaped."""
    r.reaper(every=0.1)
    for _ in r.beats(0.3, 0.6):
        seconds = r.kind.lease * r.chance.uniform(0.1, 2.0)
        how = r.chance.choice(["SIGSTOP", "DEBUG SLEEP", "CLIENT PAUSE"])
        r.did(how, seconds=round(seconds, 2))
        if how == "SIGSTOP":
            r.server.suspend()
            time.sleep(seconds)
            r.server.resume()
        elif how == "DEBUG SLEEP":
            r.cli("DEBUG", "SLEEP", f"{seconds:.2f}")
        else:
            r.cli("CLIENT", "PAUSE", round(seconds * 1000))
            time.sleep(seconds)


@fault("script-flush")
def script_flush(r: Round) -> None:
    """SCRIPT FLUSH again and again: scripts are sent anew."""
    for _ in r.beats(0.005, 0.05):
        r.cli("SCRIPT", "FLUSH")
        r.did("SCRIPT FLUSH")


@fault("client-kill")
def client_kill(r: Round) -> None:
    """CLIENT KILL of all connections again and again."""
    for _ in r.beats(0.05, 0.3):
        r.cli("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        r.did("CLIENT KILL")


@fault("out-of-memory", workers=(PLAIN,), producers=({"every": 0.002, "ms": (20, 40), "fill": 20_000},) * 2)
def out_of_memory(r: Round) -> None:
    """maxmemory reached with noeviction: puts are refused; workers drain it with no memory freed by hand."""
    r.cli("CONFIG", "SET", "maxmemory-policy", "noeviction")
    with r.server.client() as client:
        used: Any = client.info("memory")
    r.cli("CONFIG", "SET", "maxmemory", used["used_memory"] + 700_000)
    wait_until(lambda: _refused_as(r, "QUEUE_FULL"), 30, "a put is refused")
    for _ in r.beats(0.1, 0.2):
        r.did("full")


def _refused_as(r: Round, code: str) -> bool:
    return any(e["op"] == "put" and e["state"] == "fail" and e["error"] == code for e in r.history.read())


@fault("busy-script")
def busy_script(r: Round) -> None:
    """A third party's script runs too long: Redis answers BUSY, for more than a lease too, until it is killed."""
    r.cli("CONFIG", "SET", "lua-time-limit", 50)
    for _ in r.beats(0.2, 0.5):
        runner = threading.Thread(target=_run_for_ever, args=(r,), name="third-party")
        runner.start()
        time.sleep(r.kind.lease * r.chance.uniform(0.05, 1.2))
        r.did("BUSY")
        wait_until(lambda runner=runner: _script_killed(r, runner), 10, "the script is killed")


def _run_for_ever(r: Round) -> None:
    with r.server.client() as client, contextlib.suppress(redis_py.ResponseError):
        client.eval("while true do end", 0)


def _script_killed(r: Round, runner: threading.Thread) -> bool:
    with contextlib.suppress(redis_py.RedisError):
        r.cli("SCRIPT", "KILL")
    runner.join(0.05)
    return not runner.is_alive()


# -- the network --------------------------------------------------------------------------------------------


def _endure(r: Round) -> None:
    for _ in r.beats(0.1, 0.1):
        pass


@fault("lost-replies", proxied=True)
def lost_replies(r: Round) -> None:
    """Redis runs a command and its reply is lost: puts, trips, BLMOVE, reaps."""
    r.rule(drop_reply(), 0.08)
    _endure(r)


@fault("lost-requests", proxied=True, queue={"timeout": 0.5})
def lost_requests(r: Round) -> None:
    """Commands that never reach Redis, on connections that stay open and silent."""
    r.rule(drop_request(), 0.01)
    _endure(r)


@fault("resets", proxied=True)
def resets(r: Round) -> None:
    """Connections are reset before a command, after it, and all of them at once."""
    r.rule(reset("request"), 0.03)
    r.rule(reset("reply"), 0.03)
    for _ in r.beats(0.3, 0.8):
        r.proxy.reset_all()
        r.did("reset of all")


@fault("cut-replies", proxied=True)
def cut_replies(r: Round) -> None:
    """Replies end in the middle."""
    r.rule(cut_reply(r.chance.randint(1, 12)), 0.04)
    r.rule(cut_reply(r.chance.randint(13, 200)), 0.04)
    _endure(r)


@fault("delays", proxied=True)
def delays(r: Round) -> None:
    """Some commands and some replies come late, by up to a tenth of the lease."""
    r.rule(delay_request(r.kind.lease * 0.1), 0.05)
    r.rule(delay_reply(r.kind.lease * 0.1), 0.05)
    _endure(r)


@fault("latency", proxied=True)
def latency(r: Round) -> None:
    """Every round trip takes 200 ms."""
    r.proxy.latency = 0.1
    r.did("latency")
    _endure(r)


@fault("trickle", proxied=True)
def trickled(r: Round) -> None:
    """Commands and replies arrive one byte at a time."""
    r.rule(trickle("reply", interval=0.0002), 0.1)
    r.rule(trickle("request", interval=0.0002), 0.05)
    _endure(r)


@fault("black-hole", causes=STOPS, proxied=True, lease=1.5, queue={"timeout": 0.7})
def black_holes(r: Round) -> None:
    """Connections go silent for good, while Redis keeps its end of them and what is blocked there."""
    r.rule(black_hole("request"), 0.01)
    r.rule(black_hole("reply"), 0.01)
    _endure(r)


@fault("half-open", causes=STOPS, proxied=True, lease=1.0, queue={"timeout": 0.7}, workers=(PLAIN, SUPERVISED),
       producers=(BUSY,))  # fmt: skip
def half_open(r: Round) -> None:
    """Partition for longer than the lease, some with refused connections; workers on the other side go on."""
    r.worker(url=r.server.url)
    r.producer(**BUSY, url=r.server.url)
    for _ in r.beats(0.2, 0.4):
        r.proxy.partition(refuse=r.chance.random() < 0.3)
        r.did("partition")
        time.sleep(r.kind.lease * r.chance.uniform(0.5, 2.0))
        r.proxy.heal(deliver=r.chance.random() < 0.5)


@fault("ghosts", proxied=True)
def ghosts(r: Round) -> None:
    """Commands that Redis runs after the client has given them up, or that stay blocked there alone."""
    r.rule(ghost(1.0), 0.02)
    r.rule(ghost(1.0, after=0.3), 0.02)
    _endure(r)


REFUSALS = (
    *(b"LOADING", b"BUSY", b"READONLY", b"MISCONF", b"CLUSTERDOWN"),
    *(b"NOREPLICAS", b"TRYAGAIN", b"MASTERDOWN", b"NOSCRIPT", b"UNBLOCKED"),
)


@fault("refusals", proxied=True)
def refusals(r: Round) -> None:
    """Redis refuses with every error that means "not now": nothing ran, and what is safe is tried again."""
    for word in REFUSALS:
        r.rule(reply_error(b"-" + word + b" said the fault lab"), 0.01)
    _endure(r)


# -- clocks, and everything ---------------------------------------------------------------------------------


@fault("clock-skew", lease=2.0, workers=(PLAIN | {"skew": -5}, SUPERVISED | {"skew": 7}, PLAIN),
       producers=(BUSY | {"skew": 3}, BUSY | {"skew": -30}))  # fmt: skip
def clock_skew(r: Round) -> None:
    """Clocks of workers and producers are wrong by hours: no effect, since only that of Redis counts."""
    r.reaper(every=0.1)
    r.did("skew")
    _endure(r)


@fault("clock-skew-kill", causes=KILLS, lease=1.5, workers=(PLAIN | {"skew": 5}, SUPERVISED | {"skew": -7}))
def clock_skew_kill(r: Round) -> None:
    """kill -9 of a worker whose clock is hours ahead: its lease ends all the same."""
    for _ in r.beats(0.5, 0.8):
        [victim] = r.alive(supervised=False)
        r.kill(victim)
        r.again(victim)


@fault("everything", causes=ALL + ANOTHER, proxied=True, lease=1.5, workers=(SUPERVISED, PLAIN, SUPERVISED))
def everything(r: Round) -> None:
    """Kills, stops, restarts of Redis, lost replies, resets, ghosts, flushed scripts: at once."""
    r.rule(drop_reply(), 0.03)
    r.rule(reset("reply"), 0.01)
    r.rule(ghost(0.5, after=0.1), 0.01)
    deeds = [_kill_child, _kill_plain, _stop_child, _restart, _flush]
    for _ in r.beats(0.1, 0.4):
        r.chance.choice(deeds)(r)


def _kill_child(r: Round) -> None:
    if pid := r.child():
        r.signal(pid, signal.SIGKILL)


def _kill_plain(r: Round) -> None:
    victim = r.chance.choice(r.alive(supervised=False))
    r.kill(victim)
    r.again(victim)


def _stop_child(r: Round) -> None:
    if pid := r.child():
        r.signal(pid, signal.SIGSTOP)
        time.sleep(r.chance.uniform(0.1, 1.2) * r.kind.lease)
        r.signal(pid, signal.SIGCONT)


def _restart(r: Round) -> None:
    r.server.kill()
    r.did("kill -9 of Redis")
    r.server.start()


def _flush(r: Round) -> None:
    r.cli("SCRIPT", "FLUSH")
    r.did("SCRIPT FLUSH")
