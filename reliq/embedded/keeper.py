"""The keeper: parent of the embedded redis-server, which it stops when its last user has gone.

Run as ``python -I -S keeper.py DIRECTORY SERVER ARGUMENT...``: by its path, and with nothing but the standard
library, so that it starts in a few milliseconds and depends on neither the current directory nor PYTHONPATH.
It has one thread and two children, and one os.wait() learns of both::

    keeper ─┬─ redis-server   ends: start it again, with backoff; after RESTARTS quick deaths give up
            └─ watcher        ends when it gets users.lock: nobody is left, so stop the server and go

Nothing here is ever stale, because only locks count. A keeper that is killed takes its server along where
the kernel offers that (Linux); elsewhere the next keeper stops the orphan before it starts its own.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import sys
import time

USERS_LOCK = "users.lock"
KEEPER_LOCK = "keeper.lock"
SERVER_LOCK = "server.lock"

STOP_S = 10.0  # for a server to write and sync its file after SIGTERM; then SIGKILL
ORPHAN_GRACE_S = 3.0  # for a server whose keeper died to go by itself, as it does on Linux
SETTLED_S = 30.0  # a server that lived this long did not die of its start
RESTARTS = 5
FIRST_PAUSE_S = 0.1  # doubles with each quick death: 0.1 to 1.6 s, 3 s in all
_POLL_S = 0.02
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main(directory: str, command: list[str]) -> None:
    """Become the keeper of `directory` unless there is one, and return when the server need not run any more.

    The process that was started returns to its caller as soon as the keeper holds its lock and no earlier
    server runs; the keeper itself lives on as its child, so that the caller never has a child to wait for.
    """
    _forget_the_caller(directory)
    keeper_lock = _open(KEEPER_LOCK)
    try:
        fcntl.flock(keeper_lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    _evict_orphan()
    if os.fork():
        os._exit(0)
    _write_pid(keeper_lock)
    _Keeper(command, keeper_lock).run()


def _forget_the_caller(directory: str) -> None:
    """Undo what a process inherits over exec and what would break the keeper or show its files."""
    os.chdir(directory)
    os.umask(0o077)
    # With SIGCHLD ignored, os.wait() tells nothing; with SIGTERM blocked, redis-server cannot stop cleanly.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


class _Keeper:
    """Two children and the lock that all users share."""

    def __init__(self, command: list[str], keeper_lock: int) -> None:
        self._command = command
        self._keeper_lock = keeper_lock
        self._users_lock = _open(USERS_LOCK)
        self._watcher = self._watch()
        self._server = 0

    def run(self) -> None:
        quick = 0
        while True:
            started = time.monotonic()
            self._server = _start_server(self._command)
            status = self._until_server_ends()
            if status is None:
                return
            quick = 0 if time.monotonic() - started > SETTLED_S else quick + 1
            if quick > RESTARTS:
                self._give_up(_how(status))
                return
            pause = FIRST_PAUSE_S * 2 ** max(quick - 1, 0)
            _log(f"redis-server ended ({_how(status)}); next try in {pause:.1f} s")
            if self._nobody_left(pause):
                return

    def _give_up(self, how: str) -> None:
        os.kill(self._watcher, signal.SIGKILL)
        _log(f"redis-server ended ({how}), {RESTARTS + 1} times soon after its start; giving up")

    def _until_server_ends(self) -> int | None:
        """Its exit status; None if it was stopped because nobody is left."""
        while True:
            pid, status = os.wait()
            if pid == self._server:
                return status
            if self._alone():
                _stop(self._server)
                return None
            self._watcher = self._watch()

    def _nobody_left(self, seconds: float) -> bool:
        """Wait at most `seconds` for the last user to leave."""
        if not _ended(self._watcher, seconds):
            return False
        if self._alone():
            return True
        self._watcher = self._watch()
        return False

    def _watch(self) -> int:
        """Fork the watcher. It shares the open file with the keeper, which so holds what the watcher gets."""
        parent = os.getpid()
        pid = os.fork()
        if pid:
            return pid
        try:
            _die_with_parent(parent, signal.SIGKILL)
            os.close(self._keeper_lock)  # or a dead keeper would look alive for as long as its watcher lives
            fcntl.flock(self._users_lock, fcntl.LOCK_EX)
        finally:
            os._exit(0)

    def _alone(self) -> bool:
        """Whether we hold users.lock. Asked again, because a watcher may also end by being killed."""
        try:
            fcntl.flock(self._users_lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def _start_server(command: list[str]) -> int:
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    try:
        _die_with_parent(parent, signal.SIGTERM)
        _take_data()
        os.execv(command[0], command)
    except OSError as error:
        _log(f"{command[0]} cannot be started: {error!r}")
    finally:
        os._exit(70)


def _take_data() -> None:
    """Lock the data for this process: POSIX locks outlive exec, and a fork (AOF rewrite) gets none."""
    lock = _open(SERVER_LOCK)
    os.set_inheritable(lock, True)  # closing it would drop the lock
    fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    _write_pid(lock)


def _evict_orphan() -> None:
    """Wait for the server of a killed keeper to go, and make it go: two writers would ruin the data."""
    lock = _open(SERVER_LOCK)
    if not _came_free(lock, ORPHAN_GRACE_S):
        # The pid is its own: it was written by the process that holds the lock until this moment.
        orphan = int(os.pread(lock, 32, 0))
        _log(f"stopping redis-server {orphan}, whose keeper is gone")
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):  # it went just now
                os.kill(orphan, number)
            if _came_free(lock, STOP_S):
                break
    os.close(lock)


def _came_free(lock: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(_POLL_S)
        else:
            return True


def _stop(server: int) -> None:
    os.kill(server, signal.SIGTERM)
    if not _ended(server, STOP_S):
        _log(f"redis-server {server} did not stop within {STOP_S:.0f} s: killing it")
        os.kill(server, signal.SIGKILL)
        os.waitpid(server, 0)


def _ended(child: int, seconds: float) -> bool:
    """Whether `child` ended within `seconds`."""
    deadline = time.monotonic() + seconds
    while os.waitpid(child, os.WNOHANG)[0] == 0:
        if time.monotonic() >= deadline:
            return False
        time.sleep(_POLL_S)
    return True


def _die_with_parent(parent: int, number: int) -> None:
    """Ask the kernel for signal `number` when the parent ends, where it can do that (prctl(2), Linux)."""
    if not sys.platform.startswith("linux"):
        return
    try:
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
    except (ImportError, OSError, AttributeError):
        return
    if os.getppid() != parent:  # it went before we asked
        os._exit(70)


def _open(path: str) -> int:
    # Writable, because a lock over NFS needs that. Python opens files so that exec closes them.
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)


def _write_pid(lock: int) -> None:
    os.ftruncate(lock, 0)
    os.pwrite(lock, b"%d\n" % os.getpid(), 0)


def _how(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    return f"signal {-code}" if code < 0 else f"exit status {code}"


def _log(line: str) -> None:
    stamp = time.strftime("%d %b %Y %H:%M:%S")
    os.write(2, f"{os.getpid()}:keeper {stamp} # {line}\n".encode(errors="replace"))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
