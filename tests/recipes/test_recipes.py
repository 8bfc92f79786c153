"""The recipes of docs/deployment.md as they stand: web frameworks, notebooks, containers, systemd and cron."""

from __future__ import annotations

import ast
import asyncio
import configparser
import inspect
import json
import re
import shutil
import subprocess
import sys
import types
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml

import reliq
from reliq import defaults
from reliq.cli import worker as worker_verb
from reliq.cli.program import VERBS
from tests.docs.documents import ROOT
from tests.recipes.recipes import BLOCKS, command, environment, free_port, running, write
from tests.servers import RedisServer

JOBS = """
import reliq
q = reliq.Queue("resize")


@q.ack
def resize(body):
    print("resized", body, flush=True)
"""


def post(port: int, path: str, body: Any) -> Any:
    """What a site answers, as JSON; None as long as it does not."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", json.dumps(body).encode())
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)
    except urllib.error.HTTPError:
        raise
    except OSError:
        return None


def status(port: int, path: str) -> int:
    """The status of a page; 0 as long as nobody listens."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def test_django(own_server: RedisServer, tmp_path: Path) -> None:
    """A put on commit, and none after a rollback; the management command handles it and ends on SIGTERM."""
    write(tmp_path, "shop/mails.py", "shop/management/commands/work.py", "settings.py")
    for package in ("shop", "shop/management", "shop/management/commands"):
        (tmp_path / package / "__init__.py").touch()
    with (tmp_path / "settings.py").open("a") as settings:
        settings.write(
            "SECRET_KEY = 'x'\nUSE_TZ = True\nDEFAULT_AUTO_FIELD = 'django.db.models.BigAutoField'\n"
            "INSTALLED_APPS = ['django.contrib.contenttypes', 'django.contrib.auth', 'shop']\n"
            "DATABASES = {'default': {'ENGINE': 'django.db.backends.sqlite3', 'NAME': 'shop.sqlite'}}\n"
        )
    (tmp_path / "use.py").write_text(
        "import django\ndjango.setup()\nfrom django.db import transaction\nfrom shop import mails\n"
        "mails.sign_up('ada')\n"
        "try:\n    with transaction.atomic():\n        mails.sign_up('eve')\n        raise KeyError\n"
        "except KeyError:\n    pass\n"
    )
    env = environment(own_server.url, DJANGO_SETTINGS_MODULE="settings", PYTHONWARNINGS="ignore")
    env["PYTHONPATH"] += f":{tmp_path}"
    for words in ("-m django migrate -v 0", "use.py"):
        subprocess.run([sys.executable, *words.split()], cwd=tmp_path, env=env, check=True)
    with reliq.Queue("mails", own_server.url) as queue:
        assert queue.size().ready == 1
        with running([sys.executable, "-m", "django", "work"], tmp_path, env) as program:
            program.until_said("welcome ada")
            program.until(lambda: queue.size() == (0, 0, 0, 0))
            assert program.end() == 0
            assert "eve" not in program.said


def test_starlette(own_server: RedisServer, tmp_path: Path) -> None:
    """The worker lives as long as the application: it handles what a request has put, and finishes at the end."""
    write(tmp_path, "web.py")
    port = free_port()
    words = [sys.executable, "-m", *command("uvicorn"), "--port", str(port)]
    with running(words, tmp_path, environment(own_server.url)) as program:
        answer = program.until(lambda: post(port, "/mails", {"to": "ada"}))
        assert re.fullmatch("[0-9a-f]{32}", answer["id"])
        program.until_said("welcome ada")
        assert program.end() in (0, -15)  # uvicorn ends by the signal that it has taken
        assert "Application shutdown complete" in program.said
    with reliq.Queue("mails", own_server.url) as queue:
        assert queue.size() == (0, 0, 0, 0)
        assert own_server.cli("ZCARD", queue.options.keys.consumers) == 0  # it has said goodbye


def test_gunicorn_with_preload(own_server: RedisServer, tmp_path: Path) -> None:
    """A queue that has connected before the fork: each process has connections of its own, and no answer gets
    to another one."""
    write(tmp_path, "wsgi.py")
    port = free_port()
    words = [sys.executable, "-m", *command("gunicorn"), "--bind", f"127.0.0.1:{port}"]
    with running(words, tmp_path, environment(own_server.url)) as program:
        seen: list[dict[str, Any]] = [program.until(lambda: post(port, "/", 0))]

        def from_both() -> bool:
            seen.append(post(port, "/", len(seen)))
            return len({answer["pid"] for answer in seen}) == 2 and len(seen) >= 20

        program.until(from_both)
        with reliq.Queue("mails", own_server.url) as queue, queue.consumer(until_empty=True) as consumer:
            handled = {}
            for lease in consumer:
                with lease:
                    handled[lease.id] = lease.body
        assert handled == {answer["id"]: number for number, answer in enumerate(seen)}
        assert program.end() == 0


def test_a_cell_of_a_notebook(
    own_server: RedisServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As IPython runs it: in a loop that runs already, with await at the top."""
    monkeypatch.setenv("RELIQ_URL", own_server.url)
    code = compile(BLOCKS["cell.py"], "cell.py", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    assert code.co_flags & inspect.CO_COROUTINE

    async def notebook() -> None:
        names: dict[str, Any] = {}
        await types.FunctionType(code, names)()
        await asyncio.to_thread(names["q"].close)

    asyncio.run(notebook())
    assert capsys.readouterr().out == "{'n': 1}\n{'n': 2}\n"


# -- containers ---------------------------------------------------------------------------------------------


def dockerfile() -> list[tuple[str, str]]:
    """The instructions, with their words."""
    lines = [line for line in BLOCKS["Dockerfile"].splitlines() if line and not line.startswith("#")]
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines)]


def container() -> tuple[dict[str, Any], dict[str, Any]]:
    """The pod of the deployment, and its container."""
    pod = yaml.safe_load(BLOCKS["deployment.yaml"])["spec"]["template"]["spec"]
    [worker] = pod["containers"]
    return pod, worker


def test_the_dockerfile_is_one() -> None:
    """Known instructions in an order that works: dependencies before the code, a user who is not root, and a CMD
    that is a list."""
    found = dockerfile()
    words = [word for word, _ in found]
    assert words == ["FROM", "WORKDIR", "COPY", "RUN", "COPY", "ENV", "USER", "CMD"]
    values = dict(found)
    assert re.fullmatch(r"python:3\.\d+-slim", values["FROM"])
    assert values["USER"] != "0"
    assert "RELIQ_EMBEDDED=0" in values["ENV"].split()
    assert json.loads(values["CMD"])[0] == "reliq"
    install = values["RUN"].split()
    assert install[:2] == ["pip", "install"]
    assert found[words.index("RUN") - 1] == ("COPY", f"{install[-1]} .")


@pytest.mark.parametrize("where", ["Dockerfile", "deployment.yaml"])
def test_the_command_of_the_container_runs(own_server: RedisServer, tmp_path: Path, where: str) -> None:
    """The same words as there, up to the port: probes are answered, messages handled, SIGTERM ends it with 0."""
    _, worker = container()
    words = json.loads(dict(dockerfile())["CMD"]) if where == "Dockerfile" else worker["args"]
    args = VERBS[words[1]].parse(words[2:])
    host, _, number = args.health.partition(":")
    assert host == "0.0.0.0"  # the kubelet comes from outside of the pod
    probes = [worker[probe]["httpGet"] for probe in ("livenessProbe", "readinessProbe")]
    assert {probe["port"] for probe in probes} == {int(number)}
    port = free_port()
    words = [word.replace(f":{number}", f":{port}") for word in words]
    (tmp_path / "jobs.py").write_text(JOBS)
    env = environment(own_server.url, **dict(pair.split("=") for pair in dict(dockerfile())["ENV"].split()))
    with running([sys.executable, "-m", *words], tmp_path, env) as program:
        for probe in probes:
            program.until(lambda probe=probe: status(port, probe["path"]) == 200)
        with reliq.Queue("resize", own_server.url) as queue:
            queue.put("a.png")
            program.until_said("resized a.png")
            program.until(lambda: queue.size() == (0, 0, 0, 0))
        assert program.end() == 0


def test_the_pod_waits_longer_than_its_worker() -> None:
    """What is left when the grace is over gives messages back, before Kubernetes kills: the hook and the grace
    together take less than the pod has."""
    pod, worker = container()
    args = worker_verb.VERB.parse(worker["args"][2:])
    assert worker["args"][:2] == ["reliq", "worker"]
    name, seconds = worker["lifecycle"]["preStop"]["exec"]["command"]
    assert name == "sleep"
    assert args.grace == defaults.GRACE
    assert float(seconds) + args.grace + 2 < pod["terminationGracePeriodSeconds"]
    assert {variable["name"] for variable in worker["env"]} == {"RELIQ_URL"}
    for probe in ("livenessProbe", "readinessProbe"):
        assert set(worker[probe]) <= {"httpGet", "periodSeconds", "timeoutSeconds", "failureThreshold"}


def test_without_a_url_the_container_fails_at_once(tmp_path: Path) -> None:
    """It does not start a Redis that nobody else sees."""
    (tmp_path / "jobs.py").write_text(JOBS)
    words = json.loads(dict(dockerfile())["CMD"])
    env = environment("", RELIQ_EMBEDDED="0", HOME=str(tmp_path))
    env.pop("RELIQ_URL")
    done = subprocess.run([sys.executable, "-m", *words], cwd=tmp_path, env=env, capture_output=True, timeout=30)
    assert done.returncode == 3
    assert b"set RELIQ_URL" in done.stderr


# -- systemd and cron ---------------------------------------------------------------------------------------


def reap_units() -> dict[str, str]:
    """The two units that stand as comments in scripts/reap.cron."""
    text = (ROOT / "scripts/reap.cron").read_text("utf-8")
    parts = re.findall(r"^# (/etc/systemd/system/\S+)\n((?:#   .*\n?)+)", text, re.MULTILINE)
    return {Path(path).name: re.sub("^#   ", "", body, flags=re.MULTILINE) for path, body in parts}


def units() -> dict[str, str]:
    own = {Path(name).name: text for name, text in BLOCKS.items() if name.endswith(".service")}
    return own | reap_units()


def read(unit: str) -> configparser.ConfigParser:
    parsed = configparser.ConfigParser(interpolation=None)
    parsed.optionxform = str  # type: ignore[assignment,method-assign]  # names are as they are written
    parsed.read_string(unit)
    return parsed


def test_the_units_are_those_of_systemd(tmp_path: Path) -> None:
    """As systemd itself reads them, where it is; else as far as a parser of ini files sees."""
    found = units()
    assert sorted(found) == ["reliq-reap.service", "reliq-reap.timer", "reliq-worker.service"]
    for name, text in found.items():
        (tmp_path / name).write_text(text)
        assert set(read(text).sections()) <= {"Unit", "Service", "Timer", "Install"}
    if shutil.which("systemd-analyze"):
        words = ["systemd-analyze", "verify", "--man=no", *(str(tmp_path / name) for name in found)]
        done = subprocess.run(words, capture_output=True, text=True, timeout=60)
        ours = [line for line in done.stderr.splitlines() if str(tmp_path) in line or "reliq" in line]
        assert ours == []


def test_the_units_run_commands_of_reliq() -> None:
    """With options that they have, and more time to stop than the worker takes."""
    for name in ("reliq-worker.service", "reliq-reap.service"):
        service = read(units()[name])["Service"]
        env, reliq_word, verb, *words = service["ExecStart"].split()
        assert (env, reliq_word) == ("/usr/bin/env", "reliq")
        args = VERBS[verb].parse(words)
        if verb == "worker":
            assert int(service["TimeoutStopSec"]) > args.grace
            assert service["KillMode"] == "mixed"


def crontab(text: str) -> str:
    """The command of its one entry, whose first five words are a time."""
    [line] = [line for line in text.splitlines() if re.match(r"[*\d]", line)]
    *when, what = line.split(" ", 5)
    assert all(re.fullmatch(r"\*(/\d+)?|\d+", field) for field in when)
    assert "%" not in what.replace("'%s\\n'", "")  # elsewhere cron makes a new line of it
    return what


def test_the_worker_in_cron(own_server: RedisServer, tmp_path: Path) -> None:
    """It handles what is there, and ends without a word."""
    (tmp_path / "jobs.py").write_text(JOBS.replace('print("resized", body, flush=True)', "pass"))
    what = (
        crontab(BLOCKS["crontab"]).replace("/tmp/resize", f"{tmp_path}/resize").replace("/srv/shop", str(tmp_path))
    )
    with reliq.Queue("resize", own_server.url) as queue:
        queue.put_many(["a.png", "b.png"])
        done = subprocess.run(["sh", "-c", what], env=environment(own_server.url), capture_output=True, timeout=60)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
        assert queue.size() == (0, 0, 0, 0)


def test_the_reaper_in_cron(own_server: RedisServer) -> None:
    """Silent if all is well; with a mail of what it says, if not."""
    what = crontab((ROOT / "scripts/reap.cron").read_text("utf-8"))
    for url, says in ((own_server.url, b""), ("redis://127.0.0.1:1", b"cannot reach Redis")):
        done = subprocess.run(["sh", "-c", what], env=environment(url), capture_output=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, b"")
        assert (says in done.stdout) if says else done.stdout == b""
