"""A program for the fault tests that copies a queue into SQLite, in strict order: the exclusive mode at work.

Run as ``python -m tests.faults.copier``, one JSON argument: url, prefix, queue (its options), batch, database,
and ``pause``, a file: while it is there, a batch is in hand and nothing is written.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import sys
import time
from pathlib import Path
from typing import Any

import reliq

log = logging.getLogger("copier")


class Store:
    """Rows in the order of their writing. A holder that was replaced is refused by its fence."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.db = sqlite3.connect(path, timeout=30, isolation_level=None)
        self.db.execute("PRAGMA journal_mode = WAL")
        self.db.execute("PRAGMA synchronous = OFF")  # it outlives a kill of the process, which is all that is done
        self.db.execute("CREATE TABLE IF NOT EXISTS fence (fence INTEGER)")
        self.db.execute(
            "CREATE TABLE IF NOT EXISTS rows (place INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE, n INTEGER)"
        )

    def write(self, batch: reliq.Batch) -> None:
        """All of a batch, or nothing; what is there already is not written again."""
        self.db.execute("BEGIN IMMEDIATE")
        try:
            (last,) = self.db.execute("SELECT coalesce(max(fence), 0) FROM fence").fetchone()
            if batch.fence <= last:
                raise reliq.LeaseLost(f"fence {batch.fence} comes after {last}")
            self.db.execute("DELETE FROM fence")
            self.db.execute("INSERT INTO fence VALUES (?)", (batch.fence,))
            rows = [(message.id, message.body) for message in batch.messages]
            self.db.executemany("INSERT OR IGNORE INTO rows (id, n) VALUES (?, ?)", rows)
        except BaseException:
            self.db.execute("ROLLBACK")
            raise
        self.db.execute("COMMIT")

    def count(self) -> int:
        (found,) = self.db.execute("SELECT count(*) FROM rows").fetchone()
        return int(found)

    def numbers(self) -> list[int]:
        """In the order in which they were written."""
        return [n for (n,) in self.db.execute("SELECT n FROM rows ORDER BY place")]


def copy(queue: reliq.Queue, store: Store, batch: int, pause: Path) -> None:
    """Until the queue is empty; who loses it in between waits for it again."""
    while True:
        try:
            with queue.exclusive(batch=batch, until_empty=True, wait=None) as holder:
                for each in holder:
                    with each:
                        while pause.exists():
                            time.sleep(0.01)
                        store.write(each)
            return
        except reliq.LeaseLost as lost:
            log.warning("lost: %s", lost)


def main() -> None:
    settings: dict[str, Any] = json.loads(sys.argv[1])
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(process)d %(levelname)s %(message)s")
    queue = reliq.Queue("work", settings["url"], prefix=settings["prefix"], **settings["queue"])
    copy(queue, Store(settings["database"]), settings["batch"], Path(settings["pause"]))
    log.info("copied")


if __name__ == "__main__":
    main()
