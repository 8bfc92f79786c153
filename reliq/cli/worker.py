"""``reliq worker``: runs handlers, always under a supervisor."""

from __future__ import annotations

import argparse
import importlib
import os
import pkgutil
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import reliq
from reliq import defaults
from reliq.ack import Handler
from reliq.cli import logs, text
from reliq.cli.failure import FINE
from reliq.cli.reloading import Reloader
from reliq.cli.verb import Verb
from reliq.errors import ConfigError
from reliq.logging import log
from reliq.settings import Settings
from reliq.sync.worker import Worker, can_fork

AnyHandler = Handler[..., Any]

_HOW = "make one with @q.ack above a function, where q = reliq.Queue(name)"


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("handlers", nargs="+", metavar="MODULE[:HANDLER]", help="a handler, or a module for all of its handlers")
    at_once = "handlers at once per process (%(default)s)"
    add("--concurrency", type=int, default=defaults.CONCURRENCY, metavar="N", help=at_once)
    add("--processes", type=int, default=1, metavar="N", help="worker processes (%(default)s)")
    to_finish = "for handlers to finish on SIGTERM (%(default)s)"
    add("--grace", type=float, default=defaults.GRACE, metavar="SECONDS", help=to_finish)
    add("--name", default="", help="shown by reliq status beside the pid")
    add("--health", metavar="HOST:PORT", help="listen there for probes: /healthz, /readyz, /metrics")
    add(
        "--weight",
        action="append",
        default=[],
        metavar="QUEUE=N",
        help="so much of the work, where several have some (1)",
    )
    add("--strict", action="store_true", help="a queue only while none has work whose handler stands before it")
    add("--lifespan", metavar="MODULE:FUNCTION", help="what each process begins with, and hands to handlers")
    add("--reload", action="store_true", help="for development: start anew when a Python file changes")
    add(
        "--reload-dir",
        action="append",
        default=[],
        metavar="FOLDER",
        help="watch there instead of in the current directory; can be repeated",
    )
    add(
        "--until-empty",
        "--burst",
        action="store_true",
        help="end when nothing is ready; what waits for its time stays",
    )
    add("--log-level", choices=logs.LEVELS, default="info", help="(%(default)s)")
    add("--log-format", choices=tuple(logs.FORMATS), help="of the lines on stderr (text; with --json: json)")
    add("--log-bodies", action="store_true", help="also the body of a message whose handler fails")


def run(args: argparse.Namespace) -> int:
    """Until SIGTERM or SIGINT (or empty). Raises at once if a queue cannot be reached."""
    form = args.log_format or ("json" if args.json else "text")
    logs.set_up(args.log_level, form, with_bodies=args.log_bodies)
    if args.url and Settings.parse(args.url).address().has_password:
        log.warning(
            "the password of --url can be read by all who may list processes on this host: set RELIQ_URL instead, "
            "or RELIQ_PASSWORD_FILE beside a --url without it"
        )
    if args.reload and args.until_empty:
        raise ConfigError("--reload goes on until it is stopped, and --until-empty (--burst) ends: leave one out")
    if args.reload:
        return Reloader(partial(_work, args, reloaded=True), args.reload_dir or ["."]).run()
    if args.reload_dir:
        raise ConfigError("--reload-dir says where --reload looks; give both")
    return _work(args)


def _work(args: argparse.Namespace, *, reloaded: bool = False) -> int:
    make_importable(args)
    make_spans()
    before = set(threading.enumerate())
    handlers = only(find_all(args.handlers), args.queue)
    _check_threads(set(threading.enumerate()) - before, args.handlers)
    worker = Worker(
        *handlers,
        concurrency=args.concurrency,
        processes=args.processes,
        grace=args.grace,
        name=args.name,
        until_empty=args.until_empty,
        health=args.health,
        weights=weights(args.weight),
        strict=args.strict,
        lifespan=None if args.lifespan is None else _attribute(args.lifespan),
        signals=not reloaded,
    )
    if reloaded:
        signal.signal(signal.SIGTERM, lambda number, frame: worker.stop())
    if can_fork() or args.processes > 1:
        worker.supervise()
    else:
        log.warning("this system cannot fork: nobody replaces this worker if a handler hangs or kills it")
        worker.run()
    return FINE


def weights(said: Sequence[str]) -> dict[str, int] | None:
    """What each ``--weight QUEUE=N`` gives a queue; None if there is none."""
    found: dict[str, int] = {}
    for each in said:
        queue, _, number = each.rpartition("=")
        if not queue or not number.isdecimal():
            raise ConfigError(f"--weight {each}: a queue and a whole number, as in --weight emails=6")
        if queue in found:
            raise ConfigError(f"--weight {each}: queue {queue!r} has got {found[queue]} before; leave one out")
        found[queue] = int(number)
    return found or None


def make_importable(args: argparse.Namespace) -> None:
    """Let handlers be imported, from the current directory too. Their queues are made then, so what those fall
    back to is said before."""
    for variable, value in (("RELIQ_URL", args.url), ("RELIQ_PREFIX", args.prefix)):
        if value:
            os.environ[variable] = value
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())


def make_spans() -> None:
    """For OpenTelemetry, if the environment asks for them."""
    if os.environ.get("RELIQ_OTEL", "0") in ("", "0"):
        return
    try:
        from reliq.telemetry import otel
    except ImportError as error:
        raise ConfigError("RELIQ_OTEL needs opentelemetry-api, see: pip install 'reliq[otel]'") from error
    otel.instrument()


def find_all(specs: Sequence[str]) -> list[AnyHandler]:
    """The handlers that these names mean, each once, in order; ConfigError for one that means none."""
    found: list[AnyHandler] = []
    for spec in specs:
        module_name, colon, attribute = spec.partition(":")
        module = load(module_name)
        found += [_named(module, attribute)] if colon else _all_of(module)
    return list(dict.fromkeys(found))


def _attribute(spec: str) -> Any:
    """What ``--lifespan module:function`` means."""
    module_name, _, attribute = spec.partition(":")
    module = load(module_name)
    if not hasattr(module, attribute):
        raise ConfigError(
            f"--lifespan {spec}: module {module_name!r} has no {attribute!r}{text.near(attribute, vars(module))}; "
            "name a function that makes a context manager: --lifespan shop.setup:lifespan"
        )
    return getattr(module, attribute)


def only(handlers: list[AnyHandler], queues: Sequence[str]) -> list[AnyHandler]:
    """Those of the named queues; all, if none is named."""
    names = [handler.queue.name for handler in handlers]
    for queue in queues:
        if queue not in names:
            raise ConfigError(
                f"no handler takes queue {queue!r}{text.near(queue, names)}; there are handlers for "
                f"{', '.join(names)}"
            )
    return [handler for handler in handlers if not queues or handler.queue.name in queues]


def load(name: str) -> ModuleType:
    """Import a module of the user; ConfigError says what is wrong with it, and where."""
    if name.endswith(".py") or not all(part.isidentifier() for part in name.split(".")):
        advice = " (without .py)" if name.endswith(".py") else ""
        raise ConfigError(f"{name!r} is no module name{advice}; write it as in an import: reliq worker pkg.module")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            raise _not_found(name, error.name) from error
        raise _broken(name, error) from error
    except (Exception, SystemExit) as error:
        raise _broken(name, error) from error


def _not_found(name: str, missing: str) -> ConfigError:
    here = [module.name for module in pkgutil.iter_modules([os.getcwd()])]
    parent, _, last = name.rpartition(".")
    if missing == name and hasattr(sys.modules.get(parent), last):
        return ConfigError(f"{name!r} is no module; a handler stands behind a colon: reliq worker {parent}:{last}")
    lacks = "" if missing == name else f" (there is no {missing!r})"
    return ConfigError(
        f"module {name!r} is not found{lacks}{text.near(name, here)}; it is looked for in "
        f"{os.getcwd()} and in what is installed for {sys.executable}"
    )


def _broken(name: str, error: BaseException) -> ConfigError:
    """The user's module fails when it is imported: the error, and the last line of it that is not ours."""
    ours = (str(Path(reliq.__file__).parent) + os.sep, "<frozen")
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(ours)]
    where = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    if isinstance(error, SyntaxError):
        where = f"{error.filename}:{error.lineno}"
    at = f" at {where}" if where else ""
    return ConfigError(
        f"module {name!r} cannot be imported: {type(error).__name__}: {error}{at}. "
        f"`python -c 'import {name}'` shows all of it"
    )


def _named(module: ModuleType, attribute: str) -> AnyHandler:
    found: Any = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            names = list(_handlers_in(module))
            known = f"; its handlers are {', '.join(names)}" if names else f"; it has no handler: {_HOW}"
            raise ConfigError(
                f"module {module.__name__!r} has no {attribute!r}{text.near(attribute, names)}{known}"
            )
        found = getattr(found, part)
    if not isinstance(found, Handler):
        raise ConfigError(
            f"{module.__name__}:{attribute} is no handler but {type(found).__name__}; {_HOW}, "
            "or wrap it: handler = q.ack(function)"
        )
    return found


def _all_of(module: ModuleType) -> list[AnyHandler]:
    found = list(_handlers_in(module).values())
    if not found:
        raise ConfigError(f"module {module.__name__!r} has no handler; {_HOW}")
    return found


def _handlers_in(module: ModuleType) -> dict[str, AnyHandler]:
    return {name: value for name, value in vars(module).items() if isinstance(value, Handler)}


def _check_threads(started: set[threading.Thread], specs: Sequence[str]) -> None:
    """A process with threads must not be forked: a lock that one of them holds stays locked in the child."""
    if started:
        names = ", ".join(sorted(thread.name for thread in started))
        raise ConfigError(
            f"importing {' '.join(specs)} starts threads ({names}), and a process with threads cannot be forked "
            "safely; start them in the handler at its first call, or run reliq.Worker(handler).run() in a "
            "program of your own"
        )


VERB = Verb(
    name="worker",
    summary="run handlers, supervised",
    details="A worker process that dies or hangs is replaced, and what it held is ready again at once. "
    "Modules of the current directory can be imported.",
    example="reliq worker shop.mails:send --concurrency 16 --processes 2",
    configure=configure,
    run=run,
    queue_help="run only the handlers of this queue",
    many_queues=True,
)
