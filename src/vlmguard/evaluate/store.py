"""A run on disk: ``DIR/run.sqlite`` with samples, answers, verdicts and kept responses, and ``DIR/pictures/``.

Rows are written as they come and committed several times a second, so a kill loses a moment. One process writes to a run; shards
are runs of their own and are merged.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import secrets
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vlmguard.benchmarks.files import readable
from vlmguard.errors import InputError
from vlmguard.images import read_image
from vlmguard.types import (
    Answer,
    Chat,
    Completion,
    Image,
    Message,
    Outcome,
    Part,
    Refinement,
    Sample,
    Text,
    Usage,
    Verdict,
)

VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS benchmarks (name TEXT PRIMARY KEY, fingerprint TEXT NOT NULL, measures TEXT NOT NULL,
    title TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS samples (benchmark TEXT, id TEXT, grp TEXT, category TEXT, harmful INTEGER, chat TEXT, reference TEXT,
    choices TEXT, hazard TEXT, broken TEXT, PRIMARY KEY (benchmark, id)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS cells (key TEXT PRIMARY KEY, benchmark TEXT, target TEXT, defence TEXT, seed INTEGER, position INTEGER)
    WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS answers (cell TEXT, sample TEXT, text TEXT, outcome TEXT, refinement TEXT, calls INTEGER,
    prompt_tokens INTEGER, completion_tokens INTEGER, seconds REAL, overhead REAL, prompt TEXT, error TEXT, time TEXT,
    PRIMARY KEY (cell, sample)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS verdicts (cell TEXT, sample TEXT, judge TEXT, safe INTEGER, helpful INTEGER, refused INTEGER,
    safety REAL, helpfulness REAL, correct REAL, rationale TEXT, error TEXT, PRIMARY KEY (cell, sample, judge)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS responses (key TEXT PRIMARY KEY, text TEXT, reason TEXT, prompt_tokens INTEGER,
    completion_tokens INTEGER, seconds REAL) WITHOUT ROWID;
"""
_TABLES = ("benchmarks", "samples", "cells", "answers", "verdicts", "responses")
_MERGE = (
    # What failed here makes room for what did not fail there.
    "DELETE FROM main.samples WHERE broken IS NOT NULL AND EXISTS (SELECT 1 FROM other.samples o"
    " WHERE o.benchmark = samples.benchmark AND o.id = samples.id AND o.broken IS NULL)",
    "DELETE FROM main.answers WHERE error IS NOT NULL AND EXISTS (SELECT 1 FROM other.answers o"
    " WHERE o.cell = answers.cell AND o.sample = answers.sample AND o.error IS NULL)",
    # A verdict belongs to its answer: those of an answer that is not taken over stay behind.
    "CREATE TEMP TABLE IF NOT EXISTS foreign_answers (cell TEXT, sample TEXT, PRIMARY KEY (cell, sample)) WITHOUT ROWID",
    "DELETE FROM foreign_answers",
    "INSERT INTO foreign_answers SELECT m.cell, m.sample FROM main.answers m JOIN other.answers o USING (cell, sample)"
    " WHERE m.error IS NULL AND m.text != o.text",
    "DELETE FROM main.verdicts WHERE error IS NOT NULL AND EXISTS (SELECT 1 FROM other.verdicts o"
    " WHERE o.cell = verdicts.cell AND o.sample = verdicts.sample AND o.judge = verdicts.judge AND o.error IS NULL)"
    " AND (cell, sample) NOT IN foreign_answers",
)


@dataclass(frozen=True, slots=True)
class Cell:
    """One benchmark, target, defence and seed."""

    key: str
    """Hash of all that its answers depend on."""
    benchmark: str
    target: str
    defence: str
    seed: int


@dataclass(frozen=True, slots=True)
class Stored:
    """An answer as it is kept: a real one, or the error in its place."""

    answer: Answer | None
    error: str = ""


class Store:
    """Opens or makes a run. Use as a context manager.

    Args:
        folder: of the run. It holds harmful text, so it is its owner's alone.
        make: whether a missing one is made.
    """

    def __init__(self, folder: Path, *, make: bool = True) -> None:
        file = folder / "run.sqlite"
        if not make and not file.is_file():
            raise InputError(f"{folder} holds no run: `vlmguard eval run PLAN.toml --out {folder}` makes one")
        self.folder = folder
        self.pictures = folder / "pictures"
        self._made = not file.exists()
        if not folder.exists():
            folder.mkdir(mode=0o700, parents=True)
        self.pictures.mkdir(mode=0o700, exist_ok=True)
        if self._made:
            file.touch(mode=0o600)
        try:
            self._db = sqlite3.connect(file, isolation_level=None, timeout=30, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.executescript(_SCHEMA)
        except sqlite3.DatabaseError as error:
            raise InputError(f"{file} is no run of vlmguard ({error}): use another folder") from error
        self._open = self._closed = False
        self._seen: set[tuple[str, str]] = set()
        version = self.meta("version")
        if version not in (None, str(VERSION)):
            raise InputError(f"{file} was written by another version of vlmguard (format {version}): use that one")
        self.set_meta("version", str(VERSION))
        if self.meta("key") is None:
            self.set_meta("key", secrets.token_hex(16))
        self.commit()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._closed:
            self.commit()
            self._db.close()
            self._closed = True

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Keeps other writers away, which would ask and pay for the same. Raises ``InputError`` where there is one."""
        with (self.folder / "run.lock").open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise InputError(
                    f"another process writes to {self.folder}: wait for it, or use another folder"
                ) from error
            yield

    def discard(self) -> None:
        """Closes the run and, where it was made just now, takes it away again: its plan was refused."""
        self.__exit__()
        if self._made:
            for name in ("run.sqlite", "run.sqlite-wal", "run.sqlite-shm", "run.lock"):
                (self.folder / name).unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # somebody's own files stay
                self.pictures.rmdir()
                self.folder.rmdir()

    def commit(self) -> None:
        """What was written is on disk afterwards."""
        if self._open:
            self._db.execute("COMMIT")
            self._open = False

    def _write(self, sql: str, values: tuple[Any, ...]) -> None:
        if not self._open:
            self._db.execute("BEGIN IMMEDIATE")
            self._open = True
        self._db.execute(sql, tuple(readable(value) if isinstance(value, str) else value for value in values))

    # -----------------------------------------------------------------------------------------------------------------
    # Meta, benchmarks, cells

    @property
    def judge_key(self) -> bytes:
        """Makes the marks around what is judged: secret, and the same as long as the run lives, so that verdicts are kept."""
        return bytes.fromhex(self.meta("key") or "")

    def meta(self, key: str) -> str | None:
        """A kept value."""
        row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def set_meta(self, key: str, value: str) -> None:
        """Keeps a value."""
        self._write("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def check_benchmark(self, name: str, fingerprint: str) -> None:
        """Raises ``InputError`` where the run knows other data under this name."""
        row = self._db.execute("SELECT fingerprint FROM benchmarks WHERE name = ?", (name,)).fetchone()
        if row is not None and row[0] != fingerprint:
            raise InputError(
                f"the files of {name} are not those that this run was begun with ({fingerprint[:12]} instead of"
                f" {row[0][:12]}): use another --out, or the old files"
            )

    def add_benchmark(self, name: str, fingerprint: str, measures: str, title: str) -> None:
        """Raises ``InputError`` where the run knows other data under this name."""
        self.check_benchmark(name, fingerprint)
        self._write("INSERT OR REPLACE INTO benchmarks VALUES (?, ?, ?, ?)", (name, fingerprint, measures, title))

    def benchmarks(self) -> dict[str, dict[str, str]]:
        """Name → fingerprint, measures, title."""
        rows = self._db.execute("SELECT name, fingerprint, measures, title FROM benchmarks ORDER BY name")
        return {row[0]: {"fingerprint": row[1], "measures": row[2], "title": row[3]} for row in rows}

    def check_cell(self, cell: Cell) -> None:
        """Raises ``InputError`` where the run has answers of this name that were got in another way."""
        row = self._db.execute(
            "SELECT key FROM cells WHERE benchmark = ? AND target = ? AND defence = ? AND seed = ? AND key != ?",
            (cell.benchmark, cell.target, cell.defence, cell.seed, cell.key),
        ).fetchone()
        if row is not None:
            raise InputError(
                f"{cell.defence} on {cell.target} and {cell.benchmark} was begun with other settings here (model, prompt, policy,"
                " length, temperature or version of vlmguard): use another --out"
            )

    def add_cell(self, cell: Cell, position: int) -> None:
        """A cell that is evaluated, with its place in tables. Raises ``InputError`` as ``check_cell``."""
        self.check_cell(cell)
        values = (cell.key, cell.benchmark, cell.target, cell.defence, cell.seed, position)
        self._write("INSERT OR REPLACE INTO cells VALUES (?, ?, ?, ?, ?, ?)", values)

    def cells(self) -> list[Cell]:
        """In the order of the plan."""
        rows = self._db.execute("SELECT key, benchmark, target, defence, seed FROM cells ORDER BY position, key")
        return [Cell(*row) for row in rows]

    # -----------------------------------------------------------------------------------------------------------------
    # Samples

    def add_sample(self, benchmark: str, sample: Sample) -> None:
        """A sample with its pictures, once. Raises ``InputError`` where another one was answered under its id."""
        if (benchmark, sample.id) in self._seen:
            return
        form = json.dumps(chat_form(sample.chat))
        row = self._db.execute(
            "SELECT chat FROM samples WHERE benchmark = ? AND id = ? AND broken IS NULL", (benchmark, sample.id)
        ).fetchone()
        if row is not None and row[0] != form and self._is_answered(benchmark, sample.id):
            raise InputError(
                f"{benchmark} {sample.id} is not what it was when it was answered (another picture, or other words): use another"
                " --out, or the old files"
            )
        self._seen.add((benchmark, sample.id))
        for image in sample.chat.images:
            file = self.pictures / image.sha256
            if not file.exists():
                file.write_bytes(image.data)
        harmful = None if sample.harmful is None else int(sample.harmful)
        values = (
            benchmark, sample.id, sample.group, sample.category, harmful, form, sample.reference,
            json.dumps(sample.choices), sample.hazard, None,
        )  # fmt: skip
        self._write("INSERT OR REPLACE INTO samples VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", values)

    def add_broken(self, benchmark: str, id: str, reason: str) -> None:
        """A row that cannot be read. One that could be read, and was answered, stays."""
        if self._is_answered(benchmark, id):
            return
        values = (benchmark, id, "", None, None, "[]", "", "[]", "", reason)
        self._write("INSERT OR REPLACE INTO samples VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", values)

    def _is_answered(self, benchmark: str, id: str) -> bool:
        row = self._db.execute(
            "SELECT 1 FROM cells c JOIN answers a ON a.cell = c.key WHERE c.benchmark = ? AND a.sample = ? AND a.error IS NULL",
            (benchmark, id),
        ).fetchone()
        return row is not None

    def sample(self, benchmark: str, id: str) -> Sample:
        """Raises ``InputError`` where it is not there, or a picture is not."""
        row = self._db.execute(
            "SELECT id, chat, harmful, category, reference, choices, grp, hazard FROM samples WHERE benchmark = ? AND id = ?",
            (benchmark, id),
        ).fetchone()
        if row is None:
            raise InputError(f"the run has no sample {id!r} of {benchmark}")
        harmful = None if row[2] is None else bool(row[2])
        chat = self._chat(json.loads(row[1]))
        return Sample(row[0], chat, harmful, row[3], row[4], tuple(json.loads(row[5])), row[6], row[7])

    def _chat(self, form: list[dict[str, Any]]) -> Chat:
        return Chat(tuple(Message(turn["role"], tuple(self._part(part) for part in turn["parts"])) for turn in form))

    def _part(self, form: dict[str, str]) -> Part:
        if "image" not in form:
            return Text(form["text"], form.get("path", ""))
        return self.picture(form["image"], form.get("path", ""))

    def picture(self, sha256: str, path: str = "") -> Image:
        """A kept picture. Raises ``InputError``."""
        file = self.pictures / sha256
        if not file.is_file():
            raise InputError(f"the picture {file} of the run is missing")
        return read_image(file.read_bytes(), path)

    def sample_rows(self) -> Iterator[sqlite3.Row]:
        """All of them, for tables: benchmark, id, grp, category, harmful, chat, reference, hazard, broken."""
        return self._rows("SELECT benchmark, id, grp, category, harmful, chat, reference, hazard, broken FROM samples")

    # -----------------------------------------------------------------------------------------------------------------
    # Answers and verdicts

    def add_answer(self, cell: Cell, sample: str, stored: Stored) -> None:
        """An answer, or the error in its place."""
        answer = stored.answer or Answer("", calls=0)
        values = (
            cell.key, sample, answer.text, answer.outcome and answer.outcome.value, _refinement_form(answer.refinement),
            answer.calls, answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.seconds, answer.overhead,
            answer.prompt, stored.error or None, datetime.now(UTC).isoformat(timespec="seconds"),
        )  # fmt: skip
        self._write("INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", values)

    def answered(self, cell: Cell) -> set[str]:
        """Samples with a real answer."""
        rows = self._db.execute("SELECT sample FROM answers WHERE cell = ? AND error IS NULL", (cell.key,))
        return {row[0] for row in rows}

    def answer(self, cell: Cell, sample: str) -> Answer:
        """What a judge needs of a real answer."""
        row = self._db.execute(
            "SELECT text, outcome, calls, prompt_tokens, completion_tokens, seconds, overhead, prompt FROM answers"
            " WHERE cell = ? AND sample = ?",
            (cell.key, sample),
        ).fetchone()
        outcome = None if row[1] is None else Outcome(row[1])
        return Answer(row[0], outcome, None, row[2], Usage(row[3], row[4]), row[5], row[6], row[7])

    def answer_rows(self) -> Iterator[sqlite3.Row]:
        """All of them, for tables."""
        return self._rows("SELECT * FROM answers")

    def add_verdict(self, cell: Cell, sample: str, verdict: Verdict, error: str = "") -> None:
        """A verdict, or the error in its place."""
        flags = [None if flag is None else int(flag) for flag in (verdict.safe, verdict.helpful, verdict.refused)]
        values = (
            cell.key, sample, verdict.judge, *flags, verdict.safety, verdict.helpfulness, verdict.correct, verdict.rationale,
            error or None,
        )  # fmt: skip
        self._write("INSERT OR REPLACE INTO verdicts VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", values)

    def judged(self, cell: Cell, judge: str) -> set[str]:
        """Samples of which a judge has said something, or that it could not: errors are asked again."""
        sql = "SELECT sample FROM verdicts WHERE cell = ? AND judge = ? AND error IS NULL"
        return {row[0] for row in self._db.execute(sql, (cell.key, judge))}

    def verdict_rows(self) -> Iterator[sqlite3.Row]:
        """All of them, for tables."""
        return self._rows("SELECT * FROM verdicts")

    def _rows(self, sql: str) -> Iterator[sqlite3.Row]:
        cursor = self._db.cursor()
        cursor.row_factory = sqlite3.Row
        yield from cursor.execute(sql)

    # -----------------------------------------------------------------------------------------------------------------
    # Kept responses

    def response(self, key: str) -> Completion | None:
        """A kept one."""
        row = self._db.execute(
            "SELECT text, reason, prompt_tokens, completion_tokens, seconds FROM responses WHERE key = ?", (key,)
        ).fetchone()
        return None if row is None else Completion(row[0], row[1], Usage(row[2], row[3]), row[4])

    def keep(self, key: str, completion: Completion) -> None:
        """Keeps a response."""
        usage = completion.usage
        values = (
            key, completion.text, completion.finish_reason, usage.prompt_tokens, usage.completion_tokens, completion.seconds,
        )  # fmt: skip
        self._write("INSERT OR REPLACE INTO responses VALUES (?, ?, ?, ?, ?, ?)", values)

    # -----------------------------------------------------------------------------------------------------------------
    # Shards

    def merge(self, other: Path) -> None:
        """Takes over all rows of another run: the first real answer stays with its verdicts, real ones outweigh errors.

        Raises ``InputError``, and writes nothing, where it is no run, or was made from other files or with other settings.
        """
        with Store(other, make=False) as source:
            for name, told in source.benchmarks().items():
                self.check_benchmark(name, told["fingerprint"])
            for cell in source.cells():
                self.check_cell(cell)
            self._check_samples(other)
            for key in ("plan", "judges"):
                if self.meta(key) is None and (known := source.meta(key)) is not None:
                    self.set_meta(key, known)
            for file in source.pictures.iterdir():
                if not (self.pictures / file.name).exists():
                    (self.pictures / file.name).write_bytes(file.read_bytes())
        self.commit()
        with self._attached(other):
            self._db.execute("BEGIN IMMEDIATE")
            for statement in _MERGE:
                self._db.execute(statement)
            for table in _TABLES:
                own = " WHERE (cell, sample) NOT IN foreign_answers" if table == "verdicts" else ""
                self._db.execute(f"INSERT OR IGNORE INTO main.{table} SELECT * FROM other.{table}{own}")
            self._db.execute("COMMIT")

    def _check_samples(self, other: Path) -> None:
        self.commit()
        with self._attached(other):
            row = self._db.execute(
                "SELECT o.benchmark, o.id FROM main.samples m JOIN other.samples o USING (benchmark, id)"
                " WHERE m.broken IS NULL AND o.broken IS NULL AND m.chat != o.chat"
            ).fetchone()
        if row is not None:
            raise InputError(f"{row[0]} {row[1]} is another sample in {other} (another picture, or other words)")

    @contextlib.contextmanager
    def _attached(self, other: Path) -> Iterator[None]:
        self._db.execute("ATTACH ? AS other", (str(other / "run.sqlite"),))
        try:
            yield
        finally:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            self._db.execute("DETACH other")


def chat_form(chat: Chat) -> list[dict[str, Any]]:
    """A chat as JSON, pictures by their hash."""
    return [
        {"role": message.role, "parts": [form for part in message.parts if (form := _part_form(part)) is not None]}
        for message in chat.messages
    ]


def _part_form(part: Part) -> dict[str, str] | None:
    match part:
        case Text():
            return {"text": part.text, "path": part.path}
        case Image():
            return {"image": part.sha256, "path": part.path}
        case _:
            return None  # no benchmark has any


def _refinement_form(refinement: Refinement | None) -> str | None:
    """What a report shows of it."""
    if refinement is None:
        return None
    findings: Mapping[str, Any] = {
        modality.value: {"level": str(finding.level), "category": finding.category, "rationale": finding.rationale}
        for modality, finding in refinement.report
        if finding is not None
    }
    evidence = [{"source": item.source, "observation": item.observation} for item in refinement.evidence]
    form = {
        "understanding": refinement.understanding,
        "findings": findings,
        "evidence": evidence,
        "analysis": refinement.analysis,
    }
    return json.dumps(form, ensure_ascii=False)
