"""Handlers as people write them: ten with one planted defect each, and those that are right.

Each is a function that makes one, with its world: ``Sample(handler, bodies, effects, reset)``. ``fails``: what
has to be found, kind of schedule and kind of difference, and nothing else.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TWICE, KILLED, FAILED = "delivered twice", "killed", "failed half-way"
LOST, ORDER, AT_ONCE = "lease lost half-way", "out of order", "two at once"
DOUBLED, MISSING, EXTRA, DIFFERS = "doubled", "missing", "extra", "differs"


@dataclass
class Sample:
    handler: Callable[..., Any]
    bodies: list[Any]
    effects: Callable[[], Any]
    reset: Callable[[], Any]
    fails: dict[str, set[str]] = field(default_factory=dict)


class Database:
    """A file of SQLite; each use has a connection of its own, as each process would."""

    def __init__(self, folder: Path, schema: str) -> None:
        self.path, self.schema = folder / "shop.db", schema

    def open(self) -> closing[sqlite3.Connection]:
        db = sqlite3.connect(self.path, isolation_level=None, timeout=10)
        db.execute("pragma synchronous = off")  # what a power cut does is not tried
        return closing(db)

    def reset(self) -> None:
        with self.open() as db:
            tables = [name for (name,) in db.execute("select name from sqlite_master where type = 'table'")]
            for table in tables:
                db.execute(f"drop table {table}")
            db.executescript(self.schema)

    def rows(self, query: str) -> list[Any]:
        with self.open() as db:
            return db.execute(query).fetchall()


# -- ten that are wrong -------------------------------------------------------------------------------------


def counter(folder: Path) -> Sample:
    """It counts deliveries, not messages."""
    views: Counter[str] = Counter()

    def count(body: Any) -> None:
        views[body["page"]] += 1

    bodies = [{"page": "/"}, {"page": "/about"}, {"page": "/"}]
    fails = {TWICE: {DOUBLED}, KILLED: {DOUBLED}, LOST: {DOUBLED}}
    return Sample(count, bodies, lambda: dict(views), views.clear, fails)


def mail(folder: Path) -> Sample:
    """No key tells the mail service that it has had this one."""
    sent: list[str] = []

    async def send(body: Any) -> None:
        text = f"Dear {body['to']}"
        await asyncio.sleep(0)
        sent.append(text)
        await asyncio.sleep(0)

    fails = {TWICE: {DOUBLED}, KILLED: {DOUBLED}, LOST: {DOUBLED}, FAILED: {DOUBLED}}
    return Sample(send, [{"to": "ada"}, {"to": "bob"}], lambda: sent, sent.clear, fails)


def check_then_act(folder: Path) -> Sample:
    """It looks first, and writes in one transaction, but nothing holds between the two."""
    base = Database(folder, "create table parcels (order_id text); create table seen (id text);")

    def ship(body: Any, lease: Any) -> None:
        with base.open() as db:
            if db.execute("select 1 from seen where id = ?", (lease.id,)).fetchone():
                return
            db.executescript(
                f"begin; insert into parcels values ('{body['order']}');"
                f"insert into seen values ('{lease.id}'); commit"
            )

    bodies = [{"order": "a"}, {"order": "b"}]
    return Sample(ship, bodies, lambda: base.rows("select * from parcels"), base.reset, {LOST: {DOUBLED}})


def mark_before(folder: Path) -> Sample:
    """It says that it is done before it is: a kill in between loses the effect."""
    done: set[str] = set()
    shipped: list[int] = []

    def ship(body: Any, lease: Any) -> None:
        if lease.id in done:
            return
        done.add(lease.id)
        shipped.append(body["order"])

    def reset() -> None:
        done.clear()
        shipped.clear()

    fails = {KILLED: {MISSING}, FAILED: {MISSING}, LOST: {DOUBLED}}
    return Sample(ship, [{"order": 1}, {"order": 2}], lambda: shipped, reset, fails)


def mark_after(folder: Path) -> Sample:
    """The mark comes after the effect: a kill in between doubles it."""
    done: set[str] = set()
    charged: Counter[str] = Counter()

    def charge(body: Any, lease: Any) -> None:
        if lease.id not in done:
            charged[body["card"]] += body["cents"]
            done.add(lease.id)

    def reset() -> None:
        done.clear()
        charged.clear()

    bodies = [{"card": "x", "cents": 500}, {"card": "y", "cents": 70}]
    fails = {KILLED: {DOUBLED}, FAILED: {DOUBLED}, LOST: {DOUBLED}}
    return Sample(charge, bodies, lambda: dict(charged), reset, fails)


def last_write(folder: Path) -> Sample:
    """Whatever comes last wins, also if it is older."""
    addresses: dict[str, str] = {}

    def move(body: Any) -> None:
        who = body["who"]
        addresses[who] = body["to"]

    bodies = [{"who": "ada", "to": "London"}, {"who": "ada", "to": "Turin"}, {"who": "bob", "to": "Paris"}]
    fails = {ORDER: {DIFFERS}, AT_ONCE: {DIFFERS}}
    return Sample(move, bodies, lambda: dict(addresses), addresses.clear, fails)


def zombie(folder: Path) -> Sample:
    """Who comes second begins anew, yet the first one, whose lease is over, goes on writing into the same
    place."""
    drafts: dict[str, list[str]] = {}
    published: dict[str, tuple[str, ...]] = {}

    def report(body: Any) -> None:
        drafts[body["report"]] = []
        for line in body["lines"]:
            drafts[body["report"]].append(line)
        published[body["report"]] = tuple(drafts[body["report"]])

    def reset() -> None:
        drafts.clear()
        published.clear()

    bodies = [{"report": "may", "lines": ["a", "b"]}, {"report": "june", "lines": ["c"]}]
    return Sample(report, bodies, lambda: dict(published), reset, {LOST: {DOUBLED}})


def balance(folder: Path) -> Sample:
    """A message is taken once, but who read the balance before another one has written it undoes that."""
    accounts: dict[str, int] = {}
    inbox: set[str] = set()

    def deposit(body: Any, lease: Any) -> None:
        now = accounts.get(body["to"], 0)
        if lease.id in inbox:
            return
        accounts[body["to"]], _ = now + body["cents"], inbox.add(lease.id)  # type: ignore[func-returns-value]

    def reset() -> None:
        accounts.clear()
        inbox.clear()

    bodies = [{"to": "ada", "cents": 100}, {"to": "ada", "cents": 30}]
    return Sample(deposit, bodies, lambda: dict(accounts), reset, {AT_ONCE: {MISSING}})


def two_steps(folder: Path) -> Sample:
    """Two transactions, of which the first tells that all is done."""
    base = Database(
        folder,
        "create table transfers (id text primary key);"
        "create table accounts (name text primary key, cents integer);"
        "insert into accounts values ('ada', 100), ('bob', 0);",
    )

    def transfer(body: Any, lease: Any) -> None:
        with base.open() as db:
            db.execute("begin immediate")
            fresh = db.execute("insert or ignore into transfers values (?)", (lease.id,)).rowcount
            if fresh:
                db.execute("update accounts set cents = cents - ? where name = 'ada'", (body,))
            db.execute("commit")
            if fresh:
                db.execute("update accounts set cents = cents + ? where name = 'bob'", (body,))

    fails = {KILLED: {MISSING}, FAILED: {MISSING}}
    return Sample(transfer, [30], lambda: dict(base.rows("select * from accounts")), base.reset, fails)


def append(folder: Path) -> Sample:
    """A line more in a file for each delivery."""
    path = folder / "audit.log"

    def note(body: Any) -> None:
        with path.open("a") as file:
            file.write(f"{body['who']} logged in\n")

    bodies = [{"who": "ada"}, {"who": "bob"}]
    fails = {TWICE: {DOUBLED}, KILLED: {DOUBLED}, LOST: {DOUBLED}, ORDER: {DIFFERS}, AT_ONCE: {DIFFERS}}
    return Sample(note, bodies, path.read_text, lambda: path.write_text("\n"), fails)


# -- and those that are right -------------------------------------------------------------------------------


def upsert(folder: Path) -> Sample:
    """By the key of the data; the same twice is the same."""
    base = Database(folder, "create table parcels (order_id integer primary key, address text);")

    def label(body: Any) -> None:
        with base.open() as db:
            db.execute(
                """insert into parcels values (:order, :to)
                   on conflict (order_id) do update set address = excluded.address""",
                body,
            )

    bodies = [{"order": 1, "to": "London"}, {"order": 2, "to": "Turin"}]
    return Sample(label, bodies, lambda: base.rows("select * from parcels"), base.reset)


def fenced(folder: Path) -> Sample:
    """The store refuses what has a smaller fence; on a connection that can be used in one thread alone."""
    db = sqlite3.connect(folder / "parcels.db")

    def label(body: Any, lease: Any) -> None:
        with db:
            db.execute(
                """insert into parcels values (?, ?, ?)
                   on conflict (id) do update set fence = excluded.fence, address = excluded.address
                   where excluded.fence > parcels.fence""",
                (lease.id, lease.fence, body["address"]),
            )

    def reset() -> None:
        db.executescript(
            "drop table if exists parcels; create table parcels (id text primary key, fence integer, address text)"
        )

    bodies = [{"address": "12 St James's Square"}, {"address": "1 Infinite Loop"}]
    return Sample(label, bodies, lambda: db.execute("select id, address from parcels").fetchall(), reset)


def inbox(folder: Path) -> Sample:
    """An inbox table in the same transaction as the effect, which adds up."""
    base = Database(
        folder,
        "create table accounts (name text primary key, cents integer); create table inbox (id text primary key);"
        "insert into accounts values ('ada', 0);",
    )

    def deposit(body: Any, lease: Any) -> None:
        with base.open() as db:
            db.execute("begin immediate")
            try:
                if db.execute("insert or ignore into inbox values (?)", (lease.id,)).rowcount:
                    db.execute("update accounts set cents = cents + ? where name = ?", (body["cents"], body["to"]))
                db.execute("commit")
            except Exception:
                db.execute("rollback")
                raise

    bodies = [{"to": "ada", "cents": 100}, {"to": "ada", "cents": 30}]
    return Sample(deposit, bodies, lambda: base.rows("select * from accounts"), base.reset)


def tags(folder: Path) -> Sample:
    """Into a set, by a coroutine."""
    tagged: dict[str, set[str]] = {}

    async def tag(body: Any) -> None:
        of_photo = tagged.setdefault(body["photo"], set())
        for each in body["tags"]:
            await asyncio.sleep(0)
            of_photo.add(each)

    bodies = [{"photo": "a", "tags": ["cat", "sun"]}, {"photo": "a", "tags": ["sun"]}, {"photo": "b", "tags": []}]
    return Sample(tag, bodies, lambda: tagged, tagged.clear)


def versioned(folder: Path) -> Sample:
    """A conditional write by version: who is too late fails, is tried again, and finds what is there."""
    store: dict[str, tuple[int, frozenset[str], int]] = {}

    def swap(key: str, version: int, new: tuple[int, frozenset[str], int]) -> bool:
        """What a store does in one step."""
        return store.get(key, (0, frozenset(), 0))[0] == version and store.update({key: new}) is None

    def add(body: Any, lease: Any) -> None:
        version, taken, total = store.get(body["cart"], (0, frozenset[str](), 0))
        if lease.id in taken:
            return
        if not swap(body["cart"], version, (version + 1, taken | {lease.id}, total + body["n"])):
            raise RuntimeError("somebody was faster")

    bodies = [{"cart": "a", "n": 1}, {"cart": "a", "n": 2}]
    return Sample(add, bodies, lambda: {key: total for key, (_, _, total) in store.items()}, store.clear)


def stale_lock(folder: Path) -> Sample:
    """Wrong as well, but a dead process alone leaves its lock behind: an exception runs what is in `finally`."""

    def ship(body: Any, lease: Any) -> None:
        lock, parcel = folder / f"{body}.lock", folder / f"{body}.parcel"
        try:
            lock.touch(exist_ok=False)
        except FileExistsError:
            return
        try:
            parcel.write_text("shipped")
        finally:
            lock.unlink()

    def reset() -> None:
        for path in folder.iterdir():
            path.unlink()

    def effects() -> list[str]:
        return sorted(path.name for path in folder.glob("*.parcel"))

    return Sample(ship, ["a"], effects, reset, {KILLED: {MISSING}})


WRONG = [
    counter, mail, check_then_act, mark_before, mark_after, last_write, zombie, balance, two_steps, append,
]  # fmt: skip
RIGHT = [upsert, fenced, inbox, tags, versioned]
