"""Windows and macOS, as far as a Linux can play them: in a process from which is taken what their Python lacks."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.servers import ExternalServer, RedisServer

ROOT = Path(__file__).resolve().parents[1]

#: What the standard library and the dependencies need of Linux when they are imported is imported before.
WINDOWS = """
import argparse, asyncio, concurrent.futures, ctypes, functools, http.server, importlib, logging.handlers
import multiprocessing.connection, os, pathlib, pkgutil, platform, select, shutil, signal, socket, ssl, subprocess
import sys, sysconfig, tempfile, time, uuid
import msgpack, prometheus_client, redis.asyncio, redis.sentinel, redis.cluster, rich.live, tenacity
import opentelemetry.sdk.trace.export

for name in ("fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "syslog"):
    sys.modules[name] = None  # importing it raises ImportError
socket.socketpair = functools.partial(socket.socketpair, socket.AF_UNIX) # there it is made of two others
lacks = {
    os: ("fork", "forkpty", "getuid", "geteuid", "killpg", "setsid", "getpgid", "register_at_fork", "sysconf",
         "waitid", "WNOHANG", "O_NOFOLLOW", "O_NONBLOCK", "sched_getaffinity"),
    signal: ("SIGHUP", "SIGQUIT", "SIGCHLD", "SIGKILL", "SIGSTOP", "SIGCONT", "SIGUSR1", "SIGALRM", "SIG_BLOCK",
             "SIG_SETMASK", "pthread_sigmask", "setitimer", "sigwait"),
    time: ("CLOCK_BOOTTIME", "CLOCK_MONOTONIC", "clock_gettime"),
    socket: ("AF_UNIX",),
    select: ("poll", "epoll"),
}
for module, names in lacks.items():
    for name in names:
        if hasattr(module, name):
            delattr(module, name)
signal.Signals = [number for number in signal.Signals if number.name in ("SIGINT", "SIGTERM", "SIGABRT")]
sys.platform = "win32"

def refuse(*args):
    raise NotImplementedError

asyncio.unix_events._UnixSelectorEventLoop.add_signal_handler = refuse
asyncio.unix_events._UnixSelectorEventLoop.remove_signal_handler = refuse
"""

MAC = """
import sys, time
del time.CLOCK_BOOTTIME
sys.platform = "darwin"
"""


def run(before: str, script: str, *args: str) -> subprocess.CompletedProcess[str]:
    """A Python that lacks something runs this, in the checkout."""
    words = [sys.executable, "-c", before + textwrap.dedent(script), *args]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_every_module_can_be_imported_on_windows() -> None:
    """Whatever is missing there is missed when it is used, not before. What is below reliq.embedded
    needs file locks, and is imported only after a look at the system."""
    script = """
        import reliq
        names = [module.name for module in pkgutil.walk_packages(reliq.__path__, "reliq.")]
        for name in names:
            if name != "reliq.__main__" and not name.startswith("reliq.embedded."):
                importlib.import_module(name)
        print(len(names))
    """
    done = run(WINDOWS, script)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 80


def test_windows_puts_and_handles(server: RedisServer | ExternalServer, prefix: str) -> None:
    """Queues, consumers, workers of one process in both shells, and `reliq worker`, which says what it lacks."""
    script = """
        import reliq
        from reliq import aio, cli
        url, prefix = sys.argv[1:]
        q, seen = reliq.Queue("q", url, prefix=prefix), []
        handler = q.ack(seen.append)
        q.put(1)
        reliq.Worker(handler, until_empty=True).run()
        q.put(2)
        asyncio.run(aio.Worker(handler, until_empty=True).run())
        q.put(3)
        with q.consumer(until_empty=True) as consumer:
            for lease in consumer:
                with lease:
                    seen.append(lease.body)
        q.put(4)
        sys.modules["tasks"] = type(sys)("tasks")
        sys.modules["tasks"].handler = handler
        status = cli.main(["worker", "tasks:handler", "--until-empty"])
        print(seen, tuple(q.size()), status)
    """
    done = run(WINDOWS, script, server.url, prefix)
    assert (done.returncode, done.stdout) == (0, "[1, 2, 3, 4] (0, 0, 0, 0) 0\n"), done.stderr
    assert "this system cannot fork" in done.stderr


@pytest.mark.parametrize(
    ("use", "says"),
    [
        (
            "reliq.Worker(q.ack(print), processes=2).run()",
            "processes=2) are forked, and win32 cannot do that; run",
        ),
        ("os.name = 'nt'; reliq.Queue('q').put(1)", "needs Unix sockets and file locks: set RELIQ_URL"),
    ],
    ids=["processes", "embedded"],
)
def test_what_windows_cannot_do_is_said(use: str, says: str) -> None:
    """By an error that names the reason and what to do instead."""
    script = f"""
        import reliq
        os.environ.pop("RELIQ_URL", None)
        q = reliq.Queue("q", "redis://127.0.0.1:1")
        try:
            {use}
        except reliq.ReliqError as error:
            print(error)
    """
    done = run(WINDOWS, script)
    assert says in done.stdout, done.stderr


def test_sigterm_stops_an_asyncio_worker_on_windows(server: RedisServer | ExternalServer, prefix: str) -> None:
    """Although its event loop takes no signals."""
    script = """
        import reliq
        from reliq import aio
        q = aio.Queue("q", sys.argv[1], prefix=sys.argv[2])

        @q.ack
        async def handler(body):
            signal.raise_signal(signal.SIGTERM)

        async def main():
            before = signal.getsignal(signal.SIGTERM)
            async with q:
                await q.put(1)
                await aio.Worker(handler).run()
                assert signal.getsignal(signal.SIGTERM) is before
                print(tuple(await q.size()))

        asyncio.run(main())
    """
    done = run(WINDOWS, script, server.url, prefix)
    assert (done.returncode, done.stdout) == (0, "(0, 0, 0, 0)\n"), done.stderr


@pytest.mark.parametrize(("before", "clock"), [(MAC, "CLOCK_MONOTONIC"), ("import time\n", "CLOCK_BOOTTIME")])
def test_leases_are_counted_by_a_clock_that_does_not_sleep(before: str, clock: str) -> None:
    """CLOCK_BOOTTIME on Linux; on a Mac CLOCK_MONOTONIC, since time.monotonic() stands still there in sleep."""
    script = f"""
        asked = []
        time.clock_gettime = lambda clock: asked.append(clock) or 7.0
        from reliq.identity import clock
        assert clock() == 7.0
        assert asked == [time.{clock}], asked
    """
    done = run(before, script)
    assert done.returncode == 0, done.stderr


def test_a_mac_supervises(server: RedisServer | ExternalServer, prefix: str) -> None:
    """Without PR_SET_PDEATHSIG and CLOCK_BOOTTIME two processes share the work."""
    script = """
        import sys
        import reliq
        q = reliq.Queue("q", sys.argv[1], prefix=sys.argv[2])
        handler = q.ack(lambda body: None)
        q.put_many(range(50))
        reliq.Worker(handler, processes=2, until_empty=True).run()
        print(tuple(q.size()))
    """
    done = run(MAC, script, server.url, prefix)
    assert (done.returncode, done.stdout) == (0, "(0, 0, 0, 0)\n"), done.stderr
