from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.test_receipts import OTHER, SECRET, a_receipt
from vlmguard.cli.main import main
from vlmguard.json_form import receipt_form
from vlmguard.receipts import sign


@pytest.fixture
def signed() -> dict[str, Any]:
    return sign(receipt_form(a_receipt()), SECRET)


@pytest.fixture
def key_file(tmp_path: Path) -> str:
    file = tmp_path / "key"
    file.write_bytes(SECRET + b"\n")
    return str(file)


def write(tmp_path: Path, text: str) -> str:
    file = tmp_path / "receipt.json"
    file.write_text(text, encoding="utf-8")
    return str(file)


def test_a_receipt_from_a_file_with_the_key_of_the_environment(
    tmp_path: Path, signed: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VLMGUARD_RECEIPT_KEY", SECRET.decode())
    assert main(["verify", write(tmp_path, json.dumps(signed, indent=2))]) == 0
    assert capsys.readouterr().out.startswith(f"valid: receipt {signed['id']}, rewrite, {signed['time']}, key ")


def test_a_receipt_from_standard_input_with_several_keys(
    tmp_path: Path, signed: dict[str, Any], key_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    other.write_bytes(OTHER)
    body = json.dumps({"id": signed["id"], "receipt": signed}).encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(body)))
    assert main(["verify", "-", "--key-file", str(other), "--key-file", key_file]) == 0


def test_an_altered_receipt_exits_1_and_says_so(
    tmp_path: Path, signed: dict[str, Any], key_file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path, json.dumps({**signed, "outcome": "\u202eforward"}))
    assert main(["verify", file, "--key-file", key_file]) == 1
    assert "NOT VALID" in capsys.readouterr().out
    assert main(["verify", file, "--key-file", key_file, "--json"]) == 1
    said = json.loads(capsys.readouterr().out)
    assert said["valid"] is False
    assert "altered" in said["why"]


def test_an_export_is_checked_line_by_line(
    tmp_path: Path, signed: dict[str, Any], key_file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [signed, {**signed, "tier": "model"}, receipt_form(a_receipt())]
    file = write(tmp_path, "\n".join(json.dumps({"receipt": row}) for row in rows) + "\n\n")
    assert main(["verify", "--lines", file, "--key-file", key_file]) == 1
    said = capsys.readouterr().out.splitlines()
    assert [line.split(":")[1].strip() for line in said[:3]] == ["valid", "NOT VALID", "NOT VALID"]
    assert said[3] == "1 of 3 signatures hold"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is empty"),
        ("{", "not JSON"),
        ("[]", "not a JSON object"),
        ("{}", "no 'id' and 'outcome'"),
        ('{"id": "a", "outcome": "block", "outcome": "forward"}', "stands twice"),
        ('{"id": "a", "outcome": NaN}', "not JSON"),
        ('{"id": "a", "outcome": "\\ud800"}', "surrogate"),
    ],
)
def test_what_cannot_be_checked_exits_2(
    text: str, says: str, tmp_path: Path, key_file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", write(tmp_path, text), "--key-file", key_file]) == 2
    assert says in capsys.readouterr().err


def test_without_a_usable_key_nothing_is_checked(
    tmp_path: Path, signed: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path, json.dumps(signed))
    monkeypatch.delenv("VLMGUARD_RECEIPT_KEY", raising=False)
    assert main(["verify", file]) == 2
    assert "set VLMGUARD_RECEIPT_KEY" in capsys.readouterr().err
    monkeypatch.setenv("VLMGUARD_RECEIPT_KEY", "short")
    assert main(["verify", file]) == 2
    assert "at least 32 characters" in capsys.readouterr().err
    assert main(["verify", file, "--key-file", str(tmp_path / "missing")]) == 2
    assert "cannot be read" in capsys.readouterr().err
    assert main(["verify", str(tmp_path / "missing")]) == 2
