"""What all commands have in common: help, exit status, errors of one line."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import redis as redis_py

import reliq
from reliq.cli.program import VERBS
from tests.cli.conftest import Commands, environment
from tests.servers import RedisServer

HANDLERS = """
import reliq
q = reliq.Queue("emails")

@q.ack
def send(body):
    print(body, flush=True)

def plain(body):
    pass
"""
#: A command line, and what its error has to say besides the exit status 2.
WRONG = [
    (["statsu"], ["no command 'statsu'", "did you mean 'status'", "demo, worker, put"]),
    (["--json", "status"], ["--json stands before the command"]),
    (["status", "--jsn"], ["--jsn", "reliq status --help"]),
    (["status", "extra"], ["extra", "reliq status --help"]),
    (["status", "--url", "http://localhost"], ["Redis URL", "redis://localhost:6379/0"]),
    (["status", "--url", "redis://localhost/emails"], ["database 'emails'"]),
    (["status", "--url", "redis://localhost/0?tiemout=1"], ["option 'tiemout'", "leave it out"]),
    (["status", "--prefix", "a b"], ["prefix 'a b'", "without white space and braces\n"]),
    (["reap", "--queue"], ["--queue", "reliq reap --help"]),
    (["peek", "--state", "gone"], ["--state", "ready", "dead"]),
    (["peek", "-n", "many"], ["-n", "many"]),
    (["peek", "-n", "0"], ["-n 0", "at least 1"]),
    (["put"], ["put needs --queue"]),
    (["put", "--queue", "emails"], ["put needs a BODY", "stdin"]),
    (["put", "--queue", "e mails", "1"], ["'e mails'"]),
    (["put", "--queue", "emails", "1", "--text", "--raw"], ["--raw", "not allowed with"]),
    (["put", "--queue", "emails", "1", "--delay", "soon"], ["--delay", "soon"]),
    (["put", "--queue", "emails", "1", "--delay=-1"], ["delay=-1.0", "not negative"]),
    (["put", "--queue", "emails", "1", "--at", "tomorrow"], ["'tomorrow'", "ISO 8601"]),
    (["put", "--queue", "emails", "1", "--at", "2030-01-01T08:00"], ["no zone", "2030-01-01T08:00Z"]),
    (["put", "--queue", "emails", "1", "--at", "2030-01-01T08:00Z", "--delay", "1"], ["one of them"]),
    (["put", "--queue", "emails", "--lines", "1"], ["--lines", "stdin"]),
    (["put", "--queue", "emails", "--lines", "--id", "a"], ["--lines", "--id"]),
    (["worker"], ["MODULE[:HANDLER]", "reliq worker --help"]),
    (["worker", "handlrs"], ["'handlrs' is not found", "did you mean 'handlers'"]),
    (["worker", "handlers.py"], ["'handlers.py'", "without .py"]),
    (["worker", "nowhere.handlers"], ["there is no 'nowhere'"]),
    (["worker", "handlers:sned"], ["no 'sned'", "(did you mean 'send'?); its handlers are send"]),
    (["worker", "handlers:plain"], ["no handler but function", "@q.ack"]),
    (["worker", "nothing"], ["'nothing' has no handler", "@q.ack"]),
    (["worker", "wrong"], ["ConfigError", "retry=3", "wrong.py:3"]),
    (["worker", "shop.mails.send"], ["no module", "reliq worker shop.mails:send"]),
    (["worker", "broken"], ["cannot be imported", "ZeroDivisionError", "broken.py:2"]),
    (["worker", "syntax"], ["cannot be imported", "SyntaxError", "syntax.py:1"]),
    (["worker", "needs"], ["'needs' cannot be imported", "no_such_package", "needs.py:1"]),
    (["worker", "leaves"], ["cannot be imported", "SystemExit"]),
    (["worker", "threads"], ["starts threads", "a-thread"]),
    (["worker", "handlers", "--queue", "email"], ["no handler takes queue 'email'", "did you mean 'emails'"]),
    (["worker", "handlers", "--processes", "0"], ["processes=0"]),
    (["worker", "handlers", "--concurrency", "x"], ["--concurrency", "x"]),
    (["worker", "handlers", "--grace=-1"], ["grace=-1.0"]),
    (["worker", "handlers", "--log-level", "loud"], ["--log-level", "debug"]),
    (["dead"], ["dead needs a second word", "ls, show, revive, rm, export, import"]),
    (["dead", "revive"], ["which ones?", "--all"]),
    (["fsck", "--repiar"], ["--repiar", "reliq fsck --help"]),
    (["metrics", "--listen", "9108"], ["--listen '9108'", "HOST:PORT"]),
    (["check", "--max-age", "soon"], ["--max-age", "reliq check --help"]),
    (["check", "--max-dead=-1"], ["--max-dead -1", "not negative"]),
    (["check", "--host-only"], ["--host-only is about the workers of a queue", "--queue"]),
    (["demo", "nowhere"], ["nowhere is no folder"]),
    (["demo", "empty"], ["no regular file under empty"]),
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current directory with modules of a user, importable for this test only."""
    (tmp_path / "empty").mkdir()
    for name, text in {
        "handlers": HANDLERS,
        "nothing": "import reliq\n",
        "broken": "\nx = 1 / 0\n",
        "syntax": "def\n",
        "needs": "import no_such_package\n",
        "leaves": "raise SystemExit(3)\n",
        "wrong": "import reliq\nq = reliq.Queue('emails')\n@q.ack(retry=3)\ndef send(body):\n    pass\n",
        "threads": f"{HANDLERS}import threading\n"
        "threading.Thread(target=threading.Event().wait, args=(9,), name='a-thread', daemon=True).start()\n",
    }.items():
        (tmp_path / f"{name}.py").write_text(text)
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "mails.py").write_text(HANDLERS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    modules = (
        "handlers",
        "nothing",
        "broken",
        "syntax",
        "needs",
        "leaves",
        "threads",
        "wrong",
        "shop",
        "shop.mails",
    )
    for name in modules:
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


@pytest.mark.parametrize(("words", "says"), WRONG, ids=[" ".join(words) for words, _ in WRONG])
def test_wrong_use_is_told_in_one_line(
    no_server: Commands, folder: Path, words: list[str], says: list[str]
) -> None:
    """Exit status 2, one line that names the thing and what to do, nothing on stdout; no Redis is needed."""
    url = [] if "--url" in words or words[0] in ("statsu", "--json") else ["--url", no_server.url]
    result = no_server.plain(*words, *url)
    assert (result.status, result.out) == (2, "")
    assert all(part in result.error for part in says), result.err


@pytest.mark.parametrize(
    "words",
    [
        ["status"],
        ["check"],
        ["metrics"],
        ["reap"],
        ["peek"],
        ["put", "--queue", "emails", "1"],
        ["worker", "handlers"],
        ["demo", "."],
    ],
    ids=lambda words: words[0],
)
def test_unreachable_redis_is_exit_status_3(no_server: Commands, folder: Path, words: list[str]) -> None:
    """Every command names the address and what to check, in one line."""
    result = no_server.process(*words)
    assert (result.status, result.out) == (3, "")
    assert "127.0.0.1:1/0" in result.error
    assert "RELIQ_URL" in result.error


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda url: url.removesuffix("/0") + "/99", "the number at the end of the URL"),
        (lambda url: url.replace("://", "://:secret@"), "leave user and password out of the URL"),
    ],
)
def test_url_that_asks_too_much_is_refused_at_once(
    commands: Commands, change: Callable[[str], str], says: str
) -> None:
    """A database that is not there, a password where none is set: reason and next step, without a retry."""
    started = time.monotonic()
    result = commands.plain("status", "--url", change(commands.url))
    assert result.status == 3
    assert says in result.error
    assert time.monotonic() - started < 2


def test_password_is_never_shown(no_server: Commands) -> None:
    """Errors name the address without user and password."""
    result = no_server.plain("status", "--url", "redis://ada:secret@127.0.0.1:1/0")
    assert result.status == 3
    assert "secret" not in result.err


def test_no_private_redis_is_exit_status_3(no_server: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a URL, and with the embedded one switched off, a command says so."""
    monkeypatch.setenv("RELIQ_EMBEDDED", "0")
    result = no_server.plain("status")
    assert result.status == 3
    assert "RELIQ_EMBEDDED=0" in result.error


@pytest.mark.parametrize("verb", VERBS.values(), ids=list(VERBS))
def test_help_shows_an_example(no_server: Commands, verb: object) -> None:
    """`reliq VERB --help` is fine, shows an example and the options of every command."""
    name = getattr(verb, "name", "")
    result = no_server.plain(name, "--help")
    assert (result.status, result.err) == (0, "")
    for part in ("example:", f"reliq {name}", "--url", "--queue", "--prefix", "--codec", "--json"):
        assert part in result.out


def test_help_and_version(no_server: Commands) -> None:
    """`reliq --help` lists the commands; without any word the same goes to stderr, as wrong use."""
    result = no_server.plain("--help")
    assert result.status == 0
    assert all(f"  {name} " in result.out for name in VERBS)
    assert no_server.plain().status == 2
    assert no_server.plain("--version").out == f"reliq {reliq.__version__}\n"


def test_console_script_is_the_module() -> None:
    """`reliq` and `python -m reliq` are one program."""
    for words in ([str(Path(sys.executable).parent / "reliq")], [sys.executable, "-m", "reliq"]):
        done = subprocess.run([*words, "--version"], capture_output=True, text=True, env=environment())
        assert (done.returncode, done.stdout) == (0, f"reliq {reliq.__version__}\n")


def test_reader_that_goes_away_is_no_error(commands: Commands) -> None:
    """`reliq peek | head` ends quietly when head has seen enough."""
    queue = commands.queue("emails")
    queue.put_many("x" * 200 for _ in range(3000))
    queue.close()
    process = commands.start("peek", "-n", "3000")
    assert process.stdout is not None
    assert process.stdout.readline()
    process.stdout.close()
    assert process.stderr is not None
    assert (process.wait(30), process.stderr.read()) == (0, "")
    process.stderr.close()


@pytest.mark.parametrize("words", [["status"], ["reap"], ["peek"]], ids=lambda words: words[0])
def test_unknown_queue_names_near_ones_and_all(commands: Commands, words: list[str]) -> None:
    """A slip in a queue's name is wrong use, and the error knows the right ones."""
    result = commands(*words, "--queue", "emials")
    assert result.status == 2
    assert "no queue is known under prefix" in result.error
    for name in ("emails", "images"):
        with commands.queue(name) as queue:
            queue.put(1)
    result = commands(*words, "--queue", "emials")
    assert result.status == 2
    assert "did you mean 'emails'?" in result.error
    assert "known: emails, images" in result.error


def test_queue_that_is_not_in_the_index_is_found(commands: Commands) -> None:
    """A queue whose entry in the index is gone is still found by its name."""
    with commands.queue("emails") as queue:
        queue.put(1)
    with redis_py.Redis.from_url(commands.url, protocol=2) as client:
        client.delete(f"{commands.prefix}:queues")
    result = commands("status", "--queue", "emails", "--json")
    assert result.json["queues"][0]["ready"] == 1


def test_environment_names_redis_and_prefix(commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    """RELIQ_URL and RELIQ_PREFIX stand in for --url and --prefix."""
    monkeypatch.setenv("RELIQ_URL", commands.url)
    monkeypatch.setenv("RELIQ_PREFIX", commands.prefix)
    assert commands.plain("put", "--queue", "emails", "1").status == 0
    assert commands("peek", "--queue", "emails", "--json").json["messages"][0]["body"] == 1


@pytest.mark.usefixtures("impatient")
def test_frozen_redis_is_exit_status_3(
    own_server: RedisServer, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A Redis that takes connections and answers nothing is unreachable, not a hang."""
    commands = Commands(own_server.url, "frozen", capsys, tmp_path)
    own_server.suspend()
    result = commands("status")
    own_server.resume()
    assert result.status == 3
    assert str(own_server.port) in result.error
