from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.gateway.entries import entry
from tests.test_receipts import SECRET
from vlmguard.cli.main import main
from vlmguard.gateway.audit import AuditEntry, AuditLog
from vlmguard.types import Outcome

DAY = datetime(2025, 11, 20, 12, tzinfo=UTC)


@pytest.fixture
def made() -> list[AuditEntry]:
    return [
        entry(time=DAY, raw="the user's words \x1b[2J"),
        entry(time=DAY + timedelta(days=1), outcome=Outcome.BLOCK, categories=("hate", "privacy")),
        entry(time=DAY + timedelta(days=2), owner="bob", model="模型", stages_ms={}, categories=()),
    ]


@pytest.fixture
def database(tmp_path: Path, made: list[AuditEntry]) -> str:
    url = f"sqlite:{tmp_path / 'audit.db'}"

    async def fill() -> None:
        log = await AuditLog.open(url, signing_key=SECRET)
        for one in made:
            await log.record(one)
        await log.close()

    asyncio.run(fill())
    return url


def exported(text: str) -> list[str]:
    return [json.loads(line)["id"] for line in text.splitlines()]


def test_an_export_holds_every_decision_and_its_receipts_verify(
    database: str, made: list[AuditEntry], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.jsonl"
    assert main(["audit", "export", "--database", database, "--out", str(out)]) == 0
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [row["id"] for row in rows] == [one.receipt.id for one in made]
    first, second, third = rows
    assert set(first) == {
        "id", "time", "owner", "route", "dialect", "model", "mode", "outcome", "intended_outcome",
        "categories", "level", "status", "stages_ms", "receipt",
    }  # fmt: skip
    assert first["time"] == "2025-11-20T12:00:00.000+00:00"
    assert first["stages_ms"] == {"read": 0.25, "guard": 3.5}
    assert second["categories"] == ["hate", "privacy"]
    assert third["model"] == "模型"
    assert out.stat().st_mode & 0o077 == 0, "others' words are nobody else's to read"
    monkeypatch.setenv("VLMGUARD_RECEIPT_KEY", SECRET.decode())
    assert main(["verify", "--lines", str(out)]) == 0


def test_the_users_words_are_exported_only_when_asked_for(
    database: str, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert main(["audit", "export", "--database", database]) == 0
    assert b"the user's words" not in capfdbinary.readouterr().out
    assert main(["audit", "export", "--database", database, "--raw"]) == 0
    rows = [json.loads(line) for line in capfdbinary.readouterr().out.splitlines()]
    assert [row.get("raw") for row in rows] == ["the user's words \x1b[2J", None, None]


@pytest.mark.parametrize(
    ("filters", "wanted"),
    [
        (["--since", "2025-11-21"], [1, 2]),
        (["--since", "2025-11-21T12:00:00Z"], [1, 2]),
        (["--since", "2025-11-21T14:00:01+02:00"], [2]),
        (["--until", "2025-11-21T12:00"], [0]),
        (["--outcome", "block"], [1]),
        (["--owner", "bob"], [2]),
        (["--owner", "bob", "--outcome", "block"], []),
        (["--until", "0h", "--since", "99999d"], [0, 1, 2]),
        (["--since", "1d"], []),
    ],
)
def test_an_export_can_be_narrowed(
    filters: list[str], wanted: list[int], database: str, made: list[AuditEntry], tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    assert main(["audit", "export", "--database", database, "--out", str(out), *filters]) == 0
    assert exported(out.read_text(encoding="utf-8")) == [made[number].receipt.id for number in wanted]


def test_parquet_holds_the_same_with_types(database: str, made: list[AuditEntry], tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    assert main(["audit", "export", "--database", database, "--format", "parquet", "--out", str(out), "--raw"]) == 0
    table = pq.read_table(out)
    rows = table.to_pylist()
    assert [row["id"] for row in rows] == [one.receipt.id for one in made]
    assert [row["time"] for row in rows] == [DAY, DAY + timedelta(days=1), DAY + timedelta(days=2)]
    assert rows[0]["stages_ms"] == [("read", 0.25), ("guard", 3.5)]
    assert [row["categories"] for row in rows] == [["hate"], ["hate", "privacy"], []]
    assert rows[0]["raw"] == "the user's words \x1b[2J"
    assert json.loads(rows[1]["receipt"])["outcome"] == "block"
    assert table.schema.metadata[b"schema"] == b"vlmguard.audit/1"
    assert (
        main(["audit", "export", "--database", database, "--format", "parquet", "--out", str(out), "--owner", "x"]) == 0
    )
    assert pq.read_table(out).num_rows == 0


def test_show_prints_one_decision_that_cannot_drive_the_terminal(
    database: str, made: list[AuditEntry], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["audit", "show", "--database", database, made[0].receipt.id]) == 0
    said = capsys.readouterr().out
    assert "\x1b" not in said
    assert json.loads(said)["raw"] == "the user's words \x1b[2J"
    assert main(["audit", "show", "--database", database, "nothing\x1b[2J"]) == 1
    assert capsys.readouterr().err == "vlmguard: nothing·[2J: no such decision\n"


def test_erase_and_what_remains(
    database: str, made: list[AuditEntry], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = made[1].receipt.id
    assert main(["audit", "erase", "--database", database, gone]) == 0
    assert "1 of 1 decisions erased" in capsys.readouterr().out
    assert main(["audit", "show", "--database", database, gone]) == 1
    assert "erased at 20" in capsys.readouterr().err
    assert main(["audit", "erase", "--database", database, gone, made[0].receipt.id, "x"]) == 1
    said = capsys.readouterr()
    assert "1 of 3 decisions erased" in said.out
    assert "x: no such decision" in said.err
    out = tmp_path / "out.jsonl"
    assert main(["audit", "export", "--database", database, "--out", str(out)]) == 0
    assert exported(out.read_text(encoding="utf-8")) == [made[2].receipt.id]


def test_prune(database: str, made: list[AuditEntry], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", "prune", "--database", database, "--older-than", "2025-11-21T12:00"]) == 0
    assert capsys.readouterr().out.startswith("1 decisions from before 2025-11-21T12:00:00.000+00:00 removed")


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["export", "--format", "parquet"], 2, "name a file with --out"),
        (["export", "--out", "{folder}"], 2, "cannot be written"),
        (["export", "--out", "{folder}/missing/out"], 2, "cannot be written"),
        (["export", "--database", "sqlite:{folder}/missing.db"], 1, "does not exist"),
        (["show", "--database", "mysql://u:secret@h/d", "x"], 1, "not to mysql"),
    ],
)
def test_what_cannot_be_done_is_said(
    arguments: list[str], code: int, says: str, database: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [argument.format(folder=tmp_path) for argument in arguments]
    if "--database" not in arguments:
        arguments += ["--database", database]
    before = {path.name for path in tmp_path.iterdir()}
    assert main(["audit", *arguments]) == code
    said = capsys.readouterr().err
    assert says in said
    assert "secret" not in said
    assert {path.name for path in tmp_path.iterdir()} <= before | {"audit.db-wal", "audit.db-shm"}


@pytest.mark.parametrize("age", ["yesterday", "30", "-1d", "1.5d", "", "999999d"])
def test_an_age_that_cannot_be_read_is_bad_usage(age: str, database: str) -> None:
    with pytest.raises(SystemExit) as raised:
        main(["audit", "prune", "--database", database, f"--older-than={age}"])
    assert raised.value.code == 2


def test_the_database_can_come_from_the_environment(database: str, made: list[AuditEntry]) -> None:
    said = subprocess.run(
        [sys.executable, "-m", "vlmguard.cli.main", "audit", "export"],
        env={"VLMGUARD_AUDIT_URL": database},
        capture_output=True,
        text=True,
        check=True,
    )
    assert exported(said.stdout) == [one.receipt.id for one in made]
    assert said.stderr == "3 decisions exported\n"


def test_without_the_extra_the_command_says_what_to_install(tmp_path: Path) -> None:
    """As after ``pip install vlmguard``: the module is there and SQLAlchemy is not."""
    (tmp_path / "sqlalchemy.py").write_text("raise ImportError('not installed')")
    said = subprocess.run(
        [sys.executable, "-m", "vlmguard.cli.main", "audit", "show", "x"],
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.returncode == 1
    assert said.stderr == "vlmguard: the audit log needs more packages: pip install 'vlmguard[gateway]'\n"
