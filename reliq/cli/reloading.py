"""``reliq worker --reload``: the worker in a process of its own, which is started anew when the code changes.

This process imports nothing of the user's, so each start is a fresh one. The old worker gets SIGTERM, as at a
deployment: it claims no more, finishes within its grace, and gives back the rest. While changed files cannot be
compiled it goes on as it is.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from reliq.cli import failure
from reliq.errors import ConfigError, ReliqError
from reliq.logging import log
from reliq.sync.supervisor import die_with
from reliq.sync.worker import can_fork, exit_child, flush_output, taken_signals

#: How often to look, seconds; and for how long nothing may change before the worker is started anew.
_LOOK: Final = 0.3
#: Folders that hold no code of the user's.
_OTHERS: Final = frozenset({"__pycache__", "node_modules", "site-packages"})
_ORDERS: Final = (signal.SIGTERM, signal.SIGINT)

#: Path -> when it was changed (ns), and its size.
Look = dict[str, tuple[int, int]]


def look(folders: Iterable[str]) -> Look:
    """The Python files in these folders and below, as they are now."""
    return {path: stamp for folder in folders for path, stamp in _files(folder)}


def _files(folder: str) -> Iterator[tuple[str, tuple[int, int]]]:
    try:
        entries = list(os.scandir(folder))
    except OSError:  # it was removed since
        return
    if any(entry.name == "pyvenv.cfg" for entry in entries):  # a virtual environment
        return
    for entry in entries:
        if entry.name.startswith(".") or entry.name in _OTHERS:
            continue
        try:
            if entry.is_dir(follow_symlinks=False):
                yield from _files(entry.path)
            elif entry.name.endswith(".py"):
                found = entry.stat()
                yield entry.path, (found.st_mtime_ns, found.st_size)
        except OSError:
            continue


def changed(before: Look, now: Look) -> list[str]:
    """Files that are new, changed or gone."""
    return sorted(path for path in before.keys() | now.keys() if before.get(path) != now.get(path))


def wrong_in(paths: Iterable[str]) -> str | None:
    """What cannot be compiled in one of these files, and where."""
    for path in paths:
        try:
            with open(path, "rb") as file:
                compile(file.read(), path, "exec")
        except (SyntaxError, ValueError) as error:
            at = f":{error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
            return f"{_short(path)}{at}: {type(error).__name__}: {error}"
        except OSError:  # it is gone
            continue
    return None


def _short(path: str) -> str:
    return os.path.relpath(path)


class Reloader:
    """Runs ``work`` (which returns an exit status) in a child, until told to stop."""

    def __init__(self, work: Callable[[], int], folders: Sequence[str]) -> None:
        if not can_fork():
            raise ConfigError(f"--reload forks, and {sys.platform} cannot do that; leave it out")
        for folder in folders:
            if not os.path.isdir(folder):
                raise ConfigError(f"--reload-dir {folder}: there is no such folder; name one that holds your code")
        self._work = work
        self._folders = [os.path.abspath(folder) for folder in folders]
        self._pid = 0
        self._status = 0
        self._stops = 0
        self._told = 0  # how often the child was told to stop
        self._pending: set[str] = set()  # files that have changed since it was started

    def run(self) -> int:
        """Until SIGTERM or SIGINT; the exit status of the last worker."""
        with taken_signals(self._stop, True):
            seen = look(self._folders)
            log.info("reload: watches %d Python files below %s", len(seen), ", ".join(map(_short, self._folders)))
            self._start()
            while not self._stops:
                time.sleep(_LOOK)
                if self._collect():
                    log.warning("reload: the worker has ended (%d); the next change starts another", self._status)
                if (now := look(self._folders)) != seen:
                    before, seen = seen, self._at_rest(now)
                    self._heed(changed(before, seen))
            self._end()
        return self._status

    def _stop(self) -> None:
        self._stops += 1

    def _at_rest(self, now: Look) -> Look:
        """How it is when nothing changes any more: an editor or a checkout may still be writing."""
        while not self._stops:
            time.sleep(_LOOK)
            before, now = now, look(self._folders)
            if now == before:
                break
        return now

    def _heed(self, paths: list[str]) -> None:
        if self._stops:
            return
        self._pending |= set(paths)
        wrong = wrong_in(paths := sorted(self._pending))
        if wrong is not None:
            goes_on = "the worker goes on as it was" if self._pid else "there is no worker meanwhile"
            log.error("reload: %s. Correct that; %s", wrong, goes_on)
            return
        names = ", ".join(map(_short, paths[:3])) + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")
        log.warning("reload: %s changed; starting the worker anew", names)
        self._pending.clear()
        self._end()
        if not self._stops:
            self._start()

    def _start(self) -> None:
        flush_output()
        parent, self._told = os.getpid(), 0
        unblocked = signal.pthread_sigmask(signal.SIG_BLOCK, _ORDERS)
        self._pid = os.fork()
        if self._pid:
            signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
            return
        status = failure.ATTENTION
        try:
            # A terminal signals all of its processes: SIGINT is for the parent, which passes on SIGTERM.
            signal.signal(signal.SIGINT, lambda number, frame: None)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
            die_with(parent)
            sys.dont_write_bytecode = True  # its stamps are too coarse for who saves twice in a second
            importlib.invalidate_caches()
            status = self._work()
        except ReliqError as error:
            status = failure.complain(error)
        except BaseException:  # noqa: BLE001 - a forked child must end here, whatever happens
            traceback.print_exc()
        finally:
            exit_child(status)

    def _collect(self) -> bool:
        """Whether the worker has ended since."""
        if not self._pid:
            return False
        pid, status = os.waitpid(self._pid, os.WNOHANG)
        if not pid:
            return False
        self._pid, code = 0, os.waitstatus_to_exitcode(status)
        self._status = code if code >= 0 else 128 - code
        return True

    def _end(self) -> None:
        """Tell the worker to stop, and wait for it; once more each time that we are told."""
        while self._pid and not self._collect():
            while self._told < max(1, self._stops):
                self._told += 1
                os.kill(self._pid, signal.SIGTERM)
            time.sleep(0.02)
