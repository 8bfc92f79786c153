"""The user's side: hold the place, see that a keeper and its server are there, wait until they answer."""

from __future__ import annotations

import enum
import fcntl
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from reliq.embedded import binary, keeper
from reliq.embedded.place import Place
from reliq.errors import EmbeddedUnavailable

READY_S = 10.0  # for the server to answer; starts anew as long as it says that it is loading its data
# An earlier server may take STOP_S to stop, and whoever comes first waits for that and then starts one.
_LEAVING_S = keeper.STOP_S + 5.0
_OTHERS_S = _LEAVING_S + READY_S + 5.0
_SPAWN_S = keeper.ORPHAN_GRACE_S + 2 * keeper.STOP_S + 5.0
_PING_S = 1.0
_POLL_S = 0.01
_LOG_BYTES = 5_000_000
_LOG_LINES = 8

# The users.lock that this process holds, by directory. Never closed: the end of the process lets go of it.
_held: dict[Path, int] = {}


class Answer(enum.Enum):
    """What a server says to PING."""

    NONE = enum.auto()
    LOADING = enum.auto()
    READY = enum.auto()


def bring_up(place: Place) -> str:
    """Hold the server of `place` for the life of this process, start it if need be, and return its URL.

    Raises EmbeddedUnavailable.
    """
    try:
        with _exclusive(place.start_lock):
            _hold(place.users_lock)
            _see_to_server(place)
    except OSError as error:
        raise EmbeddedUnavailable(f"the embedded Redis in {place.directory} cannot be used: {error}") from error
    return place.url


def ping(path: Path) -> Answer:
    """Ask the server behind a Unix socket, without a Redis client."""
    with socket.socket(socket.AF_UNIX) as conversation:
        conversation.settimeout(_PING_S)
        try:
            conversation.connect(os.fspath(path))
            conversation.sendall(b"PING\r\n")
            reply = conversation.recv(64)
        except OSError:
            return Answer.NONE
    if not reply:
        return Answer.NONE
    return Answer.LOADING if reply.startswith(b"-LOADING") else Answer.READY


@contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    """Be the only one, of all threads and processes, between here and the end of the block."""
    lock = _open(path)
    try:
        _flock(lock, fcntl.LOCK_EX, _OTHERS_S, f"another process has held {path}")
        try:
            yield
        finally:
            # Said aloud: a fork made meanwhile by another thread has a copy, so closing ours lets nobody in.
            fcntl.flock(lock, fcntl.LOCK_UN)
    finally:
        os.close(lock)


def _hold(path: Path) -> None:
    """Take the shared lock that tells the keeper that we are here; waits for a keeper that is leaving."""
    if _still_held(path):
        return
    lock = _open(path)
    try:
        _flock(lock, fcntl.LOCK_SH, _LEAVING_S, f"a keeper that is stopping the last server has held {path}")
    except BaseException:
        os.close(lock)
        raise
    _held[path] = lock


def _still_held(path: Path) -> bool:
    """Whether our lock is on the file that is there now: daemons close every file, people remove them."""
    if path not in _held:
        return False
    try:
        ours, there = os.fstat(_held[path]), path.stat()
    except OSError:
        return False
    return os.path.samestat(ours, there)


def _flock(lock: int, kind: int, seconds: float, complaint: str) -> None:
    """Lock by asking again and again, because a blocking flock knows no deadline."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(lock, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise EmbeddedUnavailable(f"{complaint} for {seconds:.0f} s") from None
            time.sleep(_POLL_S)
        else:
            return


def _is_locked(path: Path) -> bool:
    lock = _open(path)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(lock, fcntl.LOCK_UN)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)


def _see_to_server(place: Place) -> None:
    """Wait until a kept server answers, starting a keeper at most once.

    A server without a keeper does not count, even if it answers: it is about to go.
    """
    spawned = False
    deadline = time.monotonic() + READY_S
    while True:
        if not _is_locked(place.keeper_lock):
            if spawned:
                raise _failed(place, "did not start")
            _spawn_keeper(place)
            spawned = True
            deadline = time.monotonic() + READY_S
        answer = ping(place.socket)
        if answer is Answer.READY:
            return
        if answer is Answer.LOADING:
            deadline = time.monotonic() + READY_S
        if time.monotonic() >= deadline:
            raise _failed(place, f"did not answer on {place.socket} within {READY_S:.0f} s")
        time.sleep(_POLL_S)


def _spawn_keeper(place: Place) -> None:
    """Start the keeper. On return it runs by itself, holds its lock, and no earlier server runs."""
    server = binary.command(binary.find(place.directory), place)
    words = [_python(), "-I", "-S", keeper.__file__, str(place.directory), *server]
    _shorten(place.log)
    log = os.open(place.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        subprocess.run(
            words,
            cwd=place.directory,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            timeout=_SPAWN_S,
        )
    except subprocess.SubprocessError as error:
        raise _failed(place, f"has a keeper that did not start ({error})") from error
    finally:
        os.close(log)


def _python() -> str:
    """The interpreter; in uWSGI or a frozen program, sys.executable is the program itself."""
    beside = os.path.join(sys.exec_prefix, "bin", "python3")
    for path in (sys.executable, beside):
        if path and re.match(r"(python|pypy)", os.path.basename(path)) and os.access(path, os.X_OK):
            return path
    raise EmbeddedUnavailable(f"no Python interpreter to run the embedded Redis with ({beside}): set RELIQ_URL")


def _shorten(log: Path) -> None:
    """Set a long log aside, once, before a start: nobody else would ever rotate it."""
    if log.exists() and log.stat().st_size > _LOG_BYTES:
        log.replace(log.with_suffix(".log.1"))


def _failed(place: Place, what: str) -> EmbeddedUnavailable:
    lines = place.log.read_text(errors="replace").splitlines() if place.log.exists() else []
    tail = "\n".join(["", *lines[-_LOG_LINES:]]) if lines else " nothing"
    return EmbeddedUnavailable(
        f"the embedded Redis in {place.directory} {what}: set RELIQ_URL to use another; "
        f"its log {place.log} ends:{tail}"
    )
