"""What docs/idempotency.md shows, as it stands, while what it is against happens."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import reliq
from tests.docs.documents import DOCS
from tests.faults.lab import wait_until
from tests.recipes.recipes import environment, running
from tests.servers import RedisServer

IDEMPOTENCY = (DOCS / "idempotency.md").read_text("utf-8")
BLOCKS: list[str] = re.findall(r"^```python\n(.*?)^```", IDEMPOTENCY, re.MULTILINE | re.DOTALL)
PAYMENTS = 120


def block(word: str) -> str:
    """The block in which this stands, up to where it is used."""
    [found] = [source for source in BLOCKS if word in source]
    return re.split(r"^(?:q|payments)\.put\(", found, flags=re.MULTILINE)[0]


def test_a_zombies_write_is_refused(
    own_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that wakes up after its lease, when another one has done its work, changes no row any more."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RELIQ_URL", own_server.url)
    recipe: dict[str, Any] = {}
    exec(block("shop.db"), recipe)  # the document's own code
    q, label, db = recipe["q"], recipe["label"], recipe["db"]
    q.put({"address": "from the queue"})
    keys, redis = q.options.keys, own_server.client()
    with q.consumer() as zombie, q.consumer() as successor:
        [old] = zombie.claim(timeout=5)
        redis.hset(keys.stats, "server_since", 0)
        redis.zadd(keys.consumers, {zombie.name: 1})
        reliq.Reaper(q).run_once()
        [new] = successor.claim(timeout=5)
        assert (new.id, old.fence, new.fence) == (old.id, 1, 2)
        label.function({"address": "of the successor"}, new)
        with pytest.raises(reliq.LeaseLost):
            label(old)  # writes late, and its ack is late
        assert db.execute("select fence, address from parcels").fetchall() == [(2, "of the successor")]
        new.ack()
    redis.close()
    q.close()
    db.close()


def test_each_payment_is_booked_exactly_once(own_server: RedisServer, tmp_path: Path) -> None:
    """With inbox and outbox, while worker processes are killed after the transaction, and before: every cent is
    there once, and so is every letter."""
    slow = "\n\n_relay = relay\n\n\ndef relay(db):\n    import time\n\n    time.sleep(0.02)\n    _relay(db)\n"
    (tmp_path / "bank.py").write_text(block("bank.db") + slow)
    env = environment(own_server.url)
    env["PYTHONPATH"] += f":{tmp_path}"
    words = [*f"{Path(sys.executable).parent}/reliq worker bank:book --processes 2 --concurrency 2".split()]
    with reliq.Queue("payments", own_server.url) as payments, reliq.Queue("letters", own_server.url) as letters:
        payments.put_many({"to": f"customer {n % 5}", "cents": n} for n in range(PAYMENTS))
        with running(words, tmp_path, env) as program:
            kills = 0
            deadline = time.monotonic() + 60
            while payments.size().ready and time.monotonic() < deadline:
                time.sleep(0.4)
                children = Path(f"/proc/{program.process.pid}/task/{program.process.pid}/children")
                for pid in map(int, children.read_text().split()[:1]):
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                        kills += 1
            wait_until(lambda: sum(payments.size()) == 0, 60, "all are booked", every=0.1)
            assert program.end() == 0
        db = sqlite3.connect(tmp_path / "bank.db")
        assert db.execute("select sum(cents) from accounts").fetchone() == (sum(range(PAYMENTS)),)
        assert db.execute("select count(*) from inbox").fetchone() == (PAYMENTS,)
        left = db.execute("select count(*) from outbox").fetchone()[0]
        db.close()
        assert letters.size().ready + left == PAYMENTS
        print(f"{kills} kills, {left} letters left to the next relay")
        assert kills >= 1
