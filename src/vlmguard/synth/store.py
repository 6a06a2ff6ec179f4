"""The state of a run on disk, in SQLite: rows, what became of them, and every step that a model was paid for.

A step is committed before the next begins, so a kill at any moment loses the calls that were under way and nothing else. A lock
on the folder keeps a second run out.
"""

from __future__ import annotations

import fcntl
import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmguard.errors import InputError, VlmguardError

PENDING, KEPT, REJECTED, FAILED = "pending", "kept", "rejected", "failed"
"""The states of a row. A failed one (its model could not be asked) is tried again at the next run."""

_VERSION = 1
_CHUNK = 256
_TWIN = 0
"""The generation of rows that came about in the run and in no preparation."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS rows (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, body TEXT NOT NULL, state TEXT NOT NULL,
    gate TEXT NOT NULL DEFAULT '', reason TEXT NOT NULL DEFAULT '', result TEXT, generation INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS pending ON rows (number) WHERE state = 'pending';
CREATE TABLE IF NOT EXISTS steps (
    id TEXT NOT NULL, step TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL, seconds REAL NOT NULL,
    PRIMARY KEY (id, step)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS costs (name TEXT PRIMARY KEY, amount INTEGER NOT NULL) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class Stored:
    """A row of the store."""

    id: str
    body: dict[str, Any]
    state: str
    gate: str
    reason: str
    result: dict[str, Any] | None


class Store:
    """A run's database. Use as a context manager. Raises ``VlmguardError`` when the disk does not take what is written."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "run.sqlite"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = (folder / "run.lock").open("a")
        except OSError as error:
            raise InputError(
                f"{folder} cannot be used for a run: {error.strerror}; name another folder with --out"
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise InputError(f"another run works in {folder}: wait for it, or end it") from error
        try:
            self._database = sqlite3.connect(self._path, isolation_level=None)
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = NORMAL")
            self._database.executescript(_SCHEMA)
        except sqlite3.OperationalError as error:
            self._lock.close()
            raise StoreError(
                f"{self._path} cannot be written: {error}; free space, or name another folder with --out"
            ) from error
        except sqlite3.DatabaseError as error:
            self._lock.close()
            raise InputError(
                f"{self._path} is not the state of a run: {error}; name another folder with --out"
            ) from error
        version = self.meta("version")
        if version is None:
            self.set_meta("version", str(_VERSION))
        elif version != str(_VERSION):
            self.close()
            raise InputError(
                f"{self._path} was written by another version ({version}, ours is {_VERSION}); use a fresh folder"
            )

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Lets go of the file and the lock."""
        self._database.close()
        self._lock.close()

    # -- facts about the run

    def meta(self, name: str) -> str | None:
        """A fact that was kept."""
        found = self._database.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return None if found is None else str(found[0])

    def set_meta(self, name: str, value: str) -> None:
        """Keeps a fact."""
        self._write("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))

    # -- rows

    def begin(self) -> None:
        """Starts a transaction for many writes; ``commit`` ends it."""
        self._write("BEGIN", ())

    def commit(self) -> None:
        """Ends the transaction."""
        self._write("COMMIT", ())

    def add(self, id: str, body: dict[str, Any], generation: int, *, gate: str = "", reason: str = "") -> None:
        """Adds a row of a preparation, pending or rejected at the door. What became of the same row in an earlier preparation
        stays; when it reads otherwise now, or meets another door, it is to be done again.
        """
        written = json.dumps(body, ensure_ascii=False)
        state = REJECTED if gate else PENDING
        known = self._database.execute("SELECT body, gate, reason FROM rows WHERE id = ?", (id,)).fetchone()
        if known is None:
            self._write(
                "INSERT INTO rows (id, body, state, gate, reason, generation) VALUES (?, ?, ?, ?, ?, ?)",
                (id, written, state, gate, reason, generation),
            )
        elif known[0] == written and gate in ("", known[1]):
            self._write("UPDATE rows SET generation = ? WHERE id = ?", (generation, id))
        else:
            self._write(
                "UPDATE rows SET body = ?, state = ?, gate = ?, reason = ?, result = NULL, generation = ? WHERE id = ?",
                (written, state, gate, reason, generation, id),
            )

    def add_twin(self, id: str, body: dict[str, Any], gate: str, reason: str) -> None:
        """Adds a row that came about in the run."""
        self.add(id, body | {"twin": True}, _TWIN, gate=gate, reason=reason)

    def drop_others(self, generation: int) -> None:
        """Takes out rows that the newest preparation did not bring, and twins, whose rows may be among them. Steps stay."""
        self._write("DELETE FROM rows WHERE generation != ?", (generation,))

    def pending(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """(id, body) of what is to be done, in order, also of rows that are added meanwhile; each once."""
        last = 0
        while True:
            chunk = self._database.execute(
                "SELECT number, id, body FROM rows WHERE state = 'pending' AND number > ? ORDER BY number LIMIT ?",
                (last, _CHUNK),
            ).fetchall()
            if not chunk:
                return
            for number, id, body in chunk:
                last = number
                yield id, json.loads(body)

    def finish(
        self, id: str, state: str, *, gate: str = "", reason: str = "", result: dict[str, Any] | None = None
    ) -> None:
        """What became of a row."""
        written = None if result is None else json.dumps(result, ensure_ascii=False)
        self._write(
            "UPDATE rows SET state = ?, gate = ?, reason = ?, result = ? WHERE id = ?",
            (state, gate, reason, written, id),
        )

    def has_pending(self) -> bool:
        """Whether something is to be done."""
        return self._database.execute("SELECT 1 FROM rows WHERE state = 'pending' LIMIT 1").fetchone() is not None

    def spread(self, most: int) -> list[tuple[str, dict[str, Any]]]:
        """``most`` of the pending rows, evenly spread over all."""
        numbers = [
            number
            for (number,) in self._database.execute("SELECT number FROM rows WHERE state = 'pending' ORDER BY number")
        ]
        chosen = numbers[:: max(1, len(numbers) // most)][:most]
        marks = ", ".join("?" * len(chosen))
        found = self._database.execute(f"SELECT id, body FROM rows WHERE number IN ({marks}) ORDER BY number", chosen)
        return [(id, json.loads(body)) for id, body in found]

    def reopen(self, fingerprint: str) -> None:
        """Makes rows pending that are to be done again: failed ones, and all that went on under other settings.

        Steps stay: those whose key is still the same are not asked for again.
        """
        if self.meta("fingerprint") not in (None, fingerprint):
            self._write("DELETE FROM rows WHERE generation = ?", (_TWIN,))
            marks = ", ".join("?" * len(DOOR))
            self._write(
                f"UPDATE rows SET state = 'pending', gate = '', reason = '', result = NULL WHERE gate NOT IN ({marks})",
                DOOR,
            )
        self._write("UPDATE rows SET state = 'pending', gate = '', reason = '' WHERE state = 'failed'", ())
        self.set_meta("fingerprint", fingerprint)

    def rows(self, *states: str) -> Iterator[Stored]:
        """The rows in some states, in the order of their ids, which does not depend on the engine."""
        last = ""
        marks = ", ".join("?" * len(states))
        while True:
            chunk = self._database.execute(
                f"SELECT id, body, state, gate, reason, result FROM rows WHERE id > ? AND state IN ({marks})"
                " ORDER BY id LIMIT ?",
                (last, *states, _CHUNK),
            ).fetchall()
            if not chunk:
                return
            for id, body, state, gate, reason, result in chunk:
                last = id
                yield Stored(id, json.loads(body), state, gate, reason, None if result is None else json.loads(result))

    def counts(self) -> dict[tuple[str, str], int]:
        """(state, gate) → rows."""
        found = self._database.execute("SELECT state, gate, COUNT(*) FROM rows GROUP BY state, gate")
        return {(state, gate): count for state, gate, count in found}

    def failures(self, most: int) -> list[tuple[str, int]]:
        """The commonest reasons of failed rows, and how many have them."""
        return self._database.execute(
            "SELECT reason, COUNT(*) FROM rows WHERE state = 'failed' GROUP BY reason ORDER BY 2 DESC LIMIT ?", (most,)
        ).fetchall()

    # -- steps

    def steps(self, id: str) -> dict[str, tuple[str, Any]]:
        """Step → (key, value) of a row."""
        found = self._database.execute("SELECT step, key, value FROM steps WHERE id = ?", (id,))
        return {step: (key, json.loads(value)) for step, key, value in found}

    def save_step(self, id: str, step: str, key: str, value: Any, seconds: float) -> None:
        """Keeps what a step gave; committed when this returns."""
        self._write(
            "INSERT OR REPLACE INTO steps VALUES (?, ?, ?, ?, ?)",
            (id, step, key, json.dumps(value, ensure_ascii=False), seconds),
        )

    def step_seconds(self, id: str) -> dict[str, float]:
        """How long each step of a row took."""
        return dict(self._database.execute("SELECT step, seconds FROM steps WHERE id = ?", (id,)))

    # -- costs

    def spend(self, **amounts: int) -> None:
        """Adds to what was spent over all runs: calls, tokens."""
        for name, amount in amounts.items():
            if amount:
                self._write(
                    "INSERT INTO costs VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET amount = amount + excluded.amount",
                    (name, amount),
                )

    def spent(self) -> dict[str, int]:
        """What was spent over all runs."""
        return dict(self._database.execute("SELECT name, amount FROM costs"))

    def _write(self, statement: str, values: tuple[Any, ...]) -> sqlite3.Cursor:
        try:
            return self._database.execute(statement, values)
        except sqlite3.OperationalError as error:
            raise StoreError(
                f"{self._path} cannot be written: {error}. What was done is kept: free space (or end the other run), run again"
            ) from error


DOOR = ("unreadable", "decontamination", "duplicate")
"""Gates that a row meets before any model is asked."""


class StoreError(VlmguardError):
    """The state of a run could not be written: the disk is full, or another run holds it."""
