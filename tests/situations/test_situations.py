"""The ten situations of docs/situations.md: each is brought about for real, the one command is run as a user runs
it, names the reason, and what it says to do next is done and helps. Where the command's output stands there, it is
compared."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import reliq
from reliq.core import envelope as env
from tests.servers import RedisServer, ServerBinary
from tests.situations.excerpts import between, check
from tests.situations.shop import Shop, shop_at
from tests.topologies import FAST, in_step, until

pytestmark = pytest.mark.timeout(180)

NOTE = """
import os, threading, time
import reliq


def note(*words):
    with open("effects", "a") as file:
        print(*words, file=file)

"""


SLOW = """
@q.ack
def pay(body, lease):
    note("paid", body["order"], os.getpid(), lease.fence)
    while not os.path.exists("go on"):
        time.sleep(0.02)
"""


def module(queue: str, handler: str) -> str:
    """A module with one handler; ``queue``: the arguments of its Queue."""
    return f"{NOTE}\nq = reliq.Queue({queue})\n\n\n{handler.strip()}\n"


def finding(document: Any, code: str) -> dict[str, str]:
    """What the doctor says under this code, once, and not that it is well."""
    [found] = [each for each in document["checks"] if each["code"] == code]
    assert found["severity"] not in ("ok", "unseen"), found
    return found


def codes(document: Any) -> set[str]:
    """Of all that is not well, notes aside."""
    return {each["code"] for each in document["checks"] if each["severity"] in ("error", "warning")}


def command_in(text: str) -> str:
    """The command that a remedy names."""
    match = re.search(r"reliq [a-z].*", text)
    assert match, text
    return match[0]


# -- nothing is processed -----------------------------------------------------------------------------------


def test_nothing_is_processed(shop: Shop) -> None:
    """`reliq status`: NO_CONSUMERS, start one. It is started, and all is well."""
    shop.write("tasks", module('"emails"', '@q.ack\ndef send(body):\n    note("sent", body["to"])'))
    for name in ("ada", "bob", "eve"):
        shop.ok(f"""put --queue emails '{{"to": "{name}@example.org"}}'""")
    [queue] = shop.json("status", status=1)["queues"]
    assert queue["verdict"]["code"] == "NO_CONSUMERS"
    [wrong] = queue["attention"]
    assert (wrong["code"], wrong["next"]) == ("NO_CONSUMERS", "start one: reliq worker MODULE:HANDLER")
    seen = shop.run("status")
    assert seen.status == 1
    check("nothing", seen, shop.folder)
    shop.ok(f"{command_in(wrong['next']).replace('MODULE:HANDLER', 'tasks:send')} --until-empty")
    assert sorted(shop.effects()) == ["sent ada@example.org", "sent bob@example.org", "sent eve@example.org"]
    assert shop.json("status")["queues"][0]["verdict"]["code"] is None


def kill_all(worker: subprocess.Popen[str]) -> None:
    """kill -9 of a supervisor and its children at once, as by the loss of their host: it has no time to notice."""
    worker.send_signal(signal.SIGSTOP)
    children = Path(f"/proc/{worker.pid}/task/{worker.pid}/children").read_text().split()
    for pid in (*map(int, children), worker.pid):
        os.kill(pid, signal.SIGKILL)
    worker.wait()


def test_nothing_is_processed_as_dead_hands_hold_it(shop: Shop) -> None:
    """The host of the worker is lost, and no other is there. `reliq status`: HELD_BY_DEAD, and the command that
    brings the message back; `reliq explain` of it says the same."""
    shop.write("tasks", module('"payments", lease=1.5, timeout=0.5', SLOW))
    queue = shop.queue("payments", lease=1.5, timeout=0.5)
    id = queue.put({"order": 17})
    worker = shop.start("worker tasks")
    shop.eventually(shop.effects, "it is in hand")
    kill_all(worker)
    shop.eventually(lambda: queue.explain(id).reason == "LEASE_EXPIRED", "its lease ends")
    told = shop.json(f"explain {id}", status=1)
    assert told["reason"] == "LEASE_EXPIRED"
    [queue_told] = shop.json("status", status=1)["queues"]
    [wrong] = queue_told["attention"]
    assert wrong["code"] == "HELD_BY_DEAD"
    assert told["command"] == wrong["next"] == "reliq reap --queue payments"
    shop.ok(wrong["next"])
    assert queue.size() == (1, 0, 0, 0)
    assert shop.json(f"explain {id}", status=1)["reason"] == "NO_CONSUMERS"
    (shop.folder / "go on").touch()
    shop.ok("worker tasks --until-empty")
    assert shop.json(f"explain {id}")["again"] == "WORKER_LOST"


def test_nothing_is_processed_of_a_type(shop: Shop) -> None:
    """A deployment lacks a handler. `reliq status`: NO_HANDLER, with the type, and `reliq explain` of the message
    says the same; when the handler is there, it is handled."""
    known = '@q.ack(type="bill")\ndef bill(body):\n    note("billed", body)'
    shop.write("tasks", module('"emails"', known))
    id = shop.ok("put --queue emails --type welcome 1").strip()
    worker = shop.start("worker tasks")
    queue = shop.queue("emails")
    shop.eventually(lambda: queue.explain(id).reason == "NO_HANDLER", "it waits")
    attention = '"code": "NO_HANDLER", "reason": "messages that no worker has a handler for, such as some of type'
    shop.eventually(lambda: attention in shop.run("status --json").out.replace("\n", " "), "and people are told")
    assert queue.explain(id).type == "welcome"
    worker.terminate()
    worker.wait(20)
    assert shop.effects() == []
    more = '@q.ack(type="welcome")\ndef welcome(body):\n    note("welcomed", body)'
    shop.write("tasks", module('"emails"', f"{known}\n\n{more}"))
    shop.start("worker tasks")
    shop.eventually(shop.effects, "it is handled")
    assert shop.effects() == ["welcomed 1"]
    shop.eventually(lambda: not sum(queue.size()), "nothing is left")
    assert shop.json("status")["queues"][0]["attention"] == []


def test_nothing_is_processed_of_another_list(shop: Shop, own_server: RedisServer) -> None:
    """A producer lacks the key= of the workers. `reliq status`: OTHER_LIST, and how to move what it has put."""
    handler = '@q.ack\ndef send(body):\n    note("sent", body)'
    shop.write("tasks", module('"emails", key="mails"', handler))
    shop.ok("worker tasks --until-empty")
    shop.queue("emails").put("ada")
    shop.ok("worker tasks --until-empty")
    assert shop.effects() == []
    [wrong] = shop.json("status", status=1)["queues"][0]["attention"]
    assert wrong["code"] == "OTHER_LIST"
    own_server.cli(*shlex.split(wrong["next"].partition("redis-cli ")[2]))
    shop.ok("worker tasks --until-empty")
    assert shop.effects() == ["sent ada"]


# -- one is stuck -------------------------------------------------------------------------------------------

HANGS = """
door = threading.Lock()
door.acquire()


@q.ack(expected=1)
def send(body):
    if body["to"] == "eve@example.org":
        door.acquire()
    note("sent", body["to"])
"""


def test_one_is_stuck(shop: Shop) -> None:
    """`reliq explain ID`: HANDLER_SLOW, with the line where it hangs. The worker is stopped by the command that is
    named, a better one is deployed, and the message is done."""
    shop.write("tasks", module('"emails"', HANGS))
    queue = shop.queue("emails")
    ids = queue.put_many({"to": f"{name}@example.org"} for name in ("ada", "eve", "bob"))
    worker = shop.start("worker tasks --grace 1")
    shop.eventually(lambda: "is expected to take" in shop.logs(), "it takes long")
    told = shop.json(f"explain {ids[1]}", status=1)
    assert (told["state"], told["reason"]) == ("doing", "HANDLER_SLOW")
    assert told["stack"].splitlines()[-1].strip().startswith("door.acquire()")
    assert told["command"] == f"reliq workers stop {told['consumer']} --queue emails"
    assert f"reliq workers stop {told['consumer']}" in told["remedy"]
    check("stuck", shop.run(f"explain {ids[1]}"), shop.folder)
    assert sorted(shop.effects()) == ["sent ada@example.org", "sent bob@example.org"], "it holds up nobody else"
    shop.ok(told["command"])
    worker.wait(20)
    shop.write("tasks", module('"emails"', '@q.ack(timeout=30)\ndef send(body):\n    note("sent", body["to"])'))
    shop.start("worker tasks")
    shop.eventually(lambda: "sent eve@example.org" in shop.effects(), "another worker has it")


FAILS = """
@q.ack(retry=reliq.Retry(wait=lambda state: 3600))
def send(body):
    raise TimeoutError("no answer from the mail server")
"""


def test_one_is_stuck_as_it_failed(shop: Shop) -> None:
    """`reliq explain ID`: RETRY_BACKOFF, with the error, and when it is tried again."""
    shop.write("tasks", module('"emails"', FAILS))
    id = shop.queue("emails").put(1)
    shop.start("worker tasks")
    shop.eventually(lambda: shop.queue("emails").size().later, "it has failed")
    told = shop.json(f"explain {id}")
    assert (told["reason"], told["error"]) == ("RETRY_BACKOFF", "TimeoutError: no answer from the mail server")
    assert told["error"] in told["why"]
    assert 3500 < (told["next_at"] - told["now"]) / 1000 <= 3600


# -- it ran twice -------------------------------------------------------------------------------------------


def test_it_ran_twice(shop: Shop) -> None:
    """A process sleeps through its lease with the message in hand. `reliq explain ID`: LEASE_LOST, make the effect
    safe to repeat with the fence; which tells the two apart."""
    shop.write("tasks", module('"payments", lease=1.5, timeout=0.5', SLOW))
    queue = shop.queue("payments", lease=1.5, timeout=0.5)
    id = queue.put({"order": 17})
    shop.start("worker tasks --name first")
    shop.eventually(shop.effects, "the first has it")
    first = int(shop.effects()[0].split()[2])
    os.kill(first, signal.SIGSTOP)
    try:
        shop.start("worker tasks --name second")
        shop.eventually(lambda: len(shop.effects()) == 2, "the second has it")
        (shop.folder / "go on").touch()
        shop.eventually(lambda: queue.size().doing == 0, "the second has done it")
    finally:
        os.kill(first, signal.SIGCONT)
    shop.eventually(lambda: queue.explain(id).again == "LEASE_LOST", "the first was late")
    told = shop.json(f"explain {id}")
    assert (told["reason"], told["again"]) == ("DONE", "LEASE_LOST")
    assert "make the effect safe to repeat (the fence helps)" in told["remedy"]
    assert [event["event"] for event in told["timeline"]][-2:] == ["reap", "late"]
    check("twice", shop.run(f"explain {id}"), shop.folder)
    fences = [int(line.split()[3]) for line in shop.effects()]
    assert fences == [1, 2], "who writes it with the effect sees that the second is the newer one"


def test_it_ran_twice_as_its_worker_died(shop: Shop) -> None:
    """kill -9 of the process that has it: WORKER_LOST."""
    shop.write("tasks", module('"payments"', SLOW))
    queue = shop.queue("payments")
    id = queue.put({"order": 17})
    shop.start("worker tasks")
    shop.eventually(shop.effects, "the first has it")
    os.kill(int(shop.effects()[0].split()[2]), signal.SIGKILL)
    shop.eventually(lambda: len(shop.effects()) == 2, "its successor has it")
    (shop.folder / "go on").touch()
    shop.eventually(lambda: queue.size().doing == 0, "it is done")
    assert finding(shop.json("doctor"), "WORKERS_DIE")["severity"] == "info", "once is no pattern"
    told = shop.json(f"explain {id}")
    assert (told["reason"], told["again"]) == ("DONE", "WORKER_LOST")
    assert "write lease.id or lease.fence with it" in told["remedy"]


# -- it vanished --------------------------------------------------------------------------------------------


PUTS = f"""{NOTE}
note(reliq.Queue("orders", trace=True).put(18))
"""


def test_it_vanished(shop: Shop, own_server: RedisServer) -> None:
    """`reliq explain ID` tells what was acked, and by whom, from what was deleted behind everybody's back."""
    shop.write("tasks", module('"orders", trace=True', '@q.ack\ndef pack(body):\n    note("packed", body)'))
    queue = shop.queue("orders", trace=True)
    done, keys = queue.put(17), queue.options.keys
    shop.ok("worker tasks --until-empty")
    told = shop.json(f"explain {done}")
    assert (told["reason"], told["timeline"][-1]["event"]) == ("DONE", "ack")
    assert "acked it" in told["why"]
    shop.write("producer", PUTS)
    shop.python("producer")
    gone = shop.effects()[-1]
    assert own_server.cli("LREM", keys.ready, 1, own_server.cli("LINDEX", keys.ready, 0)) == 1
    told = shop.json(f"explain {gone}", status=1)
    assert (told["state"], told["reason"]) == ("absent", "VANISHED")
    assert told["remedy"].startswith("put it again")
    check("vanished", shop.run(f"explain {gone}"), shop.folder)
    assert "EVICTION" not in codes(shop.json(told["command"])), "it was not evicted, says what is to be run next"
    own_server.cli("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    assert "EVICTION" in codes(shop.json(told["command"]))
    again = queue.put(18)
    shop.ok("worker tasks --until-empty")
    assert shop.effects() == ["packed 17", gone, "packed 18"]
    assert shop.json(f"explain {again}")["reason"] == "DONE"


def test_it_vanished_in_other_ways(shop: Shop) -> None:
    """Without a trace: REMOVED by a person; DONE if it had an id of its own; and what never came here is not told
    from what was acked."""
    shop.write("tasks", module('"orders"', '@q.ack\ndef pack(body):\n    raise reliq.Bury("sold out")'))
    removed = shop.queue("orders").put(17)
    shop.ok("worker tasks --until-empty")
    assert shop.json(f"explain {removed}", status=1)["reason"] == "DEAD_BURIED"
    shop.ok(f"dead rm {removed} --yes")
    assert shop.json(f"explain {removed}", status=1)["reason"] == "REMOVED"
    shop.write("tasks", module('"orders"', "@q.ack\ndef pack(body):\n    pass"))
    named = shop.queue("orders").put(18, id="order-18")
    plain = shop.queue("orders").put(19)
    shop.ok("worker tasks --until-empty")
    assert shop.json("explain order-18")["reason"] == "DONE"
    assert shop.json(f"explain {named}")["reason"] == "DONE"
    for id in (plain, "0198c1f2a3b47c5d8e9f0a1b2c3d4e5f"):
        told = shop.json(f"explain {id}", status=1)
        assert told["reason"] == "DONE_OR_NEVER_PUT"
        assert "--prefix" in told["remedy"]


# -- memory grows -------------------------------------------------------------------------------------------


def test_memory_grows(shop: Shop, own_server: RedisServer) -> None:
    """`reliq doctor`: LARGE_QUEUE names the part of the queue that takes it. They are exported and removed."""
    shop.write("tasks", module('"reports"', RENDER))
    queue = shop.queue("reports")
    queue.put_many({"n": n, "page": "x" * 10_000} for n in range(800))
    shop.ok("worker tasks --until-empty")
    assert queue.size().dead == 800
    with own_server.client() as client:
        used = int(client.info("memory")["used_memory"])
        client.config_set("maxmemory", round(used * 1.05))
    document = shop.json("doctor")
    assert {"MEMORY_LOW", "LARGE_QUEUE", "DEAD_GROWING"} <= codes(document)
    large = finding(document, "LARGE_QUEUE")
    assert (large["severity"], large["subject"]) == ("warning", "queue reports")
    assert large["evidence"].startswith("dead letters (800)")
    seen = shop.run("doctor")
    parts = [between(seen.out, f" {code} ", "->") for code in ("MEMORY_LOW", "LARGE_QUEUE", "DEAD_GROWING")]
    check("memory", seen, shop.folder, parts)
    assert "ATTEMPTS" in shop.ok(command_in(large["remedy"]))
    (shop.folder / "dead.jsonl").write_text(shop.ok("dead export --queue reports"))
    shop.ok("dead rm --exported dead.jsonl --yes")
    assert not codes(shop.json("doctor")) & {"MEMORY_LOW", "LARGE_QUEUE"}


RENDER = """
@q.ack(retry=reliq.Retry(attempts=1))
def render(body):
    raise KeyError("template")
"""


@pytest.mark.parametrize(
    ("count", "size", "delay", "part"),
    [
        (800, 10_000, 3600, "what is put off (800) takes"),
        (800, 10_000, 0, "what waits (800) takes"),
        (80, 100_000, 0, "large bodies beside the list (80) take"),
    ],
)
def test_memory_grows_elsewhere(
    shop: Shop, own_server: RedisServer, count: int, size: int, delay: float, part: str
) -> None:
    """What was put for later, or waits, or lies beside the list is told from dead letters."""
    shop.queue("reports").put_many(({"page": "x" * size} for n in range(count)), delay=delay)
    with own_server.client() as client:
        used = int(client.info("memory")["used_memory"])
        client.config_set("maxmemory", round(used * 1.05))
    large = finding(shop.json("doctor"), "LARGE_QUEUE")
    assert large["evidence"].startswith(part)
    assert shop.run(command_in(large["remedy"])).status in (0, 1)


# -- workers restart ----------------------------------------------------------------------------------------

EXITS = """
@q.ack
def pack(body):
    if body["order"] == 13:
        os._exit(3)
    note("packed", body["order"])
"""


def test_workers_restart(shop: Shop) -> None:
    """`reliq doctor`: WORKERS_DIE, and the message that was in hand; explaining it says that it is given up."""
    shop.write("tasks", module('"orders"', EXITS))
    ids = shop.queue("orders").put_many({"order": n} for n in (12, 13, 14))
    shop.start("worker tasks")
    shop.eventually(lambda: shop.queue("orders").size() == (0, 0, 0, 1), "it is given up, the others are done")
    found = finding(shop.json("doctor"), "WORKERS_DIE")
    assert (found["severity"], found["subject"]) == ("warning", "queue orders")
    assert found["evidence"].startswith("3 workers died with messages in hand")
    assert f"most often with {ids[1]}, 3 times" in found["evidence"]
    seen = shop.run("doctor --queue orders")
    assert seen.status == 0
    check("restarts", seen, shop.folder, [between(seen.out, " WORKERS_DIE ", "->")])
    told = shop.json(command_in(found["remedy"]), status=1)
    assert (told["id"], told["reason"]) == (ids[1], "DEAD_POISON")
    assert f"reliq dead show {ids[1]}" in told["remedy"]
    assert set(shop.effects()) == {"packed 12", "packed 14"}


# -- after a failover ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def sentinel_of(server: RedisServer) -> Iterator[tuple[str, dict[str, int]]]:
    """A sentinel that names the server of this port; its URL, and where to change the port."""
    primary, listening = {"port": server.port}, socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                peer, _ = listening.accept()
                with peer, contextlib.suppress(ConnectionError):
                    while data := peer.recv(4096):
                        port = str(primary["port"]).encode()
                        named = b"*2\r\n$9\r\n127.0.0.1\r\n$%d\r\n%s\r\n" % (len(port), port)
                        peer.sendall(named if b"get-master" in data.lower() else b"+OK\r\n")

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"redis+sentinel://127.0.0.1:{listening.getsockname()[1]}/mymaster", primary
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join(5)


def test_after_a_failover(binary: ServerBinary, tmp_path: Path) -> None:
    """A replica is promoted that has not got all. `reliq doctor`: ROLLED_BACK; and explain says of a lost put that
    it may be forgotten. It is put again with its id, and done."""
    with (
        RedisServer(binary, extra_args=FAST) as old,
        RedisServer(binary, extra_args=FAST) as new,
        sentinel_of(old) as (url, primary),
        shop_at(url, tmp_path) as shop,
    ):
        shop.write("tasks", module('"orders"', '@q.ack\ndef pack(body):\n    note("packed", body)'))
        new.cli("REPLICAOF", "127.0.0.1", old.port)
        until(lambda: in_step(new), "the replica is in step")
        queue = shop.queue("orders")
        queue.put("before", replicas=1)
        shop.start("worker tasks")
        shop.eventually(shop.effects, "the worker works")
        queue.put("safe", delay=3600, replicas=1)
        new.cli("REPLICAOF", "NO", "ONE")  # from here on the old primary confirms what is lost
        lost = queue.put("lost", delay=3600)
        queue.put("packed at once")
        shop.eventually(lambda: len(shop.effects()) == 2, "the old primary goes on")
        primary["port"] = new.port
        old.kill()
        shop.eventually(lambda: queue.size().later == 1, "the new one answers")
        shop.eventually(lambda: "ROLLED_BACK" in codes(shop.json("doctor")), "the worker has noticed", seconds=60)
        document = shop.json("doctor")
        found = finding(document, "ROLLED_BACK")
        assert found["subject"] == "queue orders"
        assert "found to have forgotten trips" in found["evidence"]
        assert finding(document, "NO_REPLICA")
        seen = shop.run("doctor")
        parts = [between(seen.out, f" {code} ", "->") for code in ("ROLLED_BACK", "NO_REPLICA")]
        check("failover", seen, shop.folder, parts)
        told = shop.json(command_in(found["remedy"]).partition(";")[0].replace(" ID", f" {lost}"), status=1)
        assert told["reason"] == "DONE_OR_FORGOTTEN"
        assert told["remedy"].startswith("put it again with its id=")
        assert queue.put("lost", id=lost) == lost
        shop.eventually(lambda: "packed lost" in shop.effects(), "it is done")


def test_after_a_restart(shop: Shop, own_server: RedisServer) -> None:
    """With appendfsync always nothing is forgotten: that another process answers is a note, and no warning."""
    shop.write("tasks", module('"orders"', '@q.ack\ndef pack(body):\n    note("packed", body)'))
    shop.start("worker tasks")
    queue = shop.queue("orders")
    queue.put(1)
    shop.eventually(shop.effects, "the worker works")
    own_server.restart()
    queue.put(2)
    shop.eventually(lambda: len(shop.effects()) == 2, "it goes on")
    assert finding(shop.json("doctor"), "ROLLED_BACK")["severity"] == "info"


# -- a poison message ---------------------------------------------------------------------------------------

CRASHES = """
import ctypes


@q.ack
def resize(body):
    if body["image"] == "huge.png":
        ctypes.string_at(0)
    note("resized", body["image"])
"""


def test_a_poison_message(shop: Shop) -> None:
    """It crashes every worker. `reliq dead ls`: DEAD_POISON, and what to do. The handler is mended, the message is
    revived by the command that is named, and done."""
    shop.write("tasks", module('"images"', CRASHES))
    queue = shop.queue("images")
    ids = queue.put_many({"image": f"{name}.png"} for name in ("cat", "huge", "dog"))
    worker = shop.start("worker tasks")
    shop.eventually(lambda: queue.size() == (0, 0, 0, 1), "it is given up, the others are done")
    [group] = shop.json("dead ls")["groups"]
    assert (group["reason"], group["count"], group["id"]) == ("DEAD_POISON", 1, ids[1])
    assert f"reliq dead show {ids[1]}" in group["remedy"]
    seen = shop.run("dead ls")
    assert seen.status == 0
    check("poison", seen, shop.folder)
    show, revive = (command_in(line) for line in seen.out.splitlines()[-2:])
    assert "huge.png" in shop.ok(show)
    worker.send_signal(signal.SIGTERM)
    worker.wait(20)
    shop.write("tasks", module('"images"', '@q.ack\ndef resize(body):\n    note("resized", body["image"])'))
    shop.ok(revive)
    shop.ok("worker tasks --until-empty")
    assert shop.effects()[-1] == "resized huge.png"
    assert shop.json("dead ls")["letters"] == 0


# -- a wrong deploy -----------------------------------------------------------------------------------------

PRODUCER = """
import json, zlib
import reliq


class Packed:
    name = "zjson"

    def encode(self, body):
        return zlib.compress(json.dumps(body).encode())

    def decode(self, data):
        return json.loads(zlib.decompress(data))


q = reliq.Queue("orders", codec=Packed())
if __name__ == "__main__":
    q.put_many({"order": n} for n in range(3))
"""


def test_a_wrong_deploy(shop: Shop) -> None:
    """The worker lacks the codec of the producer. `reliq doctor MODULE`: OTHER_SETTINGS, before it is deployed and
    after. With the codec, what died of it is put back and done."""
    shop.write("producer", PRODUCER)
    shop.write("tasks", module('"orders"', '@q.ack\ndef pack(body):\n    note("packed", body["order"])'))
    shop.python("producer")
    found = finding(shop.json("doctor tasks"), "OTHER_SETTINGS")
    assert found["severity"] == "warning"
    assert "codec is None in this code, and 'zjson' here" in found["evidence"]
    seen = shop.run("doctor tasks")
    check("deploy", seen, shop.folder, [between(seen.out, " OTHER_SETTINGS ", "->")])
    shop.ok("worker tasks --until-empty")
    shop.python("producer")
    document = shop.json("doctor tasks")
    assert finding(document, "OTHER_SETTINGS")
    assert "3 UNDECODABLE" in finding(document, "DEAD_GROWING")["evidence"]
    right = module('"orders", codec=Packed()', '@q.ack\ndef pack(body):\n    note("packed", body["order"])')
    shop.write("tasks", f"from producer import Packed\n{right}")
    assert "OTHER_SETTINGS" not in codes(shop.json("doctor tasks"))
    shop.ok("dead revive --cause UNDECODABLE")
    shop.ok("worker tasks --until-empty")
    assert sorted(shop.effects()) == sorted(2 * ["packed 0", "packed 1", "packed 2"])


def test_a_wrong_deploy_of_producers_first(shop: Shop, own_server: RedisServer) -> None:
    """A message in a format that these workers do not know. `reliq doctor`: NEWER_FORMAT, while it waits and when
    it has died of it; it is kept, unchanged."""
    shop.write("tasks", module('"orders"', "@q.ack\ndef pack(body):\n    pass"))
    queue = shop.queue("orders")
    queue.put(1)
    keys = queue.options.keys
    newer = bytearray(own_server.cli("LINDEX", keys.ready, 0))
    newer[len(env.MAGIC)] = env.VERSION + 1
    own_server.cli("LPUSH", keys.ready, bytes(newer))
    found = finding(shop.json("doctor"), "NEWER_FORMAT")
    assert found["remedy"].startswith("upgrade the workers first")
    shop.ok("worker tasks --until-empty")
    found = finding(shop.json("doctor"), "NEWER_FORMAT")
    assert "1 message died of it" in found["evidence"]
    assert "UNSUPPORTED_VERSION" in shop.ok(command_in(found["remedy"]))
    with own_server.client() as client:
        [letter] = client.zrange(keys.dead, 0, -1)
        assert letter.endswith(bytes(newer))


# -- slow ---------------------------------------------------------------------------------------------------

WAITS = """
@q.ack
def send(body):
    time.sleep(0.2)
"""


def test_slow(shop: Shop) -> None:
    """More is put than is handled. `reliq status`: BACKLOG_GROWS; the command that it names shows where handlers
    wait; with more of them at once it drains."""
    shop.write("tasks", module('"emails"', WAITS))
    queue, stop = shop.queue("emails"), threading.Event()

    def produce() -> None:
        with reliq.Queue("emails", shop.url) as producer:
            while not stop.wait(0.1):
                producer.put_many(range(5))

    thread = threading.Thread(target=produce)
    thread.start()
    try:
        shop.start("worker tasks --concurrency 2")
        shop.eventually(lambda: queue.size().doing and queue.size().ready > 20, "a backlog")
        [entry] = shop.json("status --interval 2")["queues"]
        assert entry["rates"]["in"] > entry["rates"]["out"] > 0
        assert entry["verdict"]["code"] == "BACKLOG_GROWS"
        seen = shop.run("status --interval 2")
        assert seen.status == 0
        check("slow", seen, shop.folder)
        looked = shop.run(command_in(entry["verdict"]["next"]).partition(";")[0])
        assert looked.status == 0
        assert "time.sleep(0.2)" in looked.out
        shop.start("worker tasks --concurrency 50")
        shop.eventually(lambda: _verdict(shop).startswith(("drains in about", "at work", "idle")), "it drains")
    finally:
        stop.set()
        thread.join()


def _verdict(shop: Shop) -> str:
    [entry] = shop.json("status --interval 1")["queues"]
    return "" if entry["verdict"]["code"] else str(entry["verdict"]["reason"])
