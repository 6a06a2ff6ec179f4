"""``vlmguard verify``: does the signature of a receipt hold?"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from vlmguard.errors import InputError, SignatureError
from vlmguard.receipts import read_key, verify
from vlmguard.wire.json_text import read_object

HELP = "check the signature of a receipt"
ENVIRONMENT = "VLMGUARD_RECEIPT_KEY"
_MOST_BYTES = 64 * 1024 * 1024


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``verify``."""
    parser.epilog = (
        f"The key comes from the environment variable {ENVIRONMENT}, or from --key-file. "
        "Exit codes: 0 the signature holds, 1 it does not (altered, unsigned, another key), 2 it could not be checked."
    )
    parser.add_argument(
        "file", metavar="FILE|-", help="a receipt as JSON, or a row that holds one ('-': standard input)"
    )
    parser.add_argument(
        "--key-file",
        action="append",
        default=[],
        metavar="FILE",
        type=Path,
        help="a file that holds a signing key; several times for several keys",
    )
    parser.add_argument("--lines", action="store_true", help="FILE has a receipt or row on each line (an audit export)")
    parser.add_argument("--json", action="store_true", help="print JSON for programs, a line for each receipt")


def run(arguments: argparse.Namespace) -> int:
    """Exit code: 0 every signature holds, 1 one does not. Raises ``InputError``."""
    secrets = _secrets(arguments.key_file)
    failed = count = 0
    for line, body in _bodies(arguments.file, arguments.lines):
        count += 1
        row = _check(_receipt(body, line), secrets)
        failed += not row["valid"]
        _say({"line": line, **row} if arguments.lines else row, arguments.json)
    if not count:
        raise InputError("there is no receipt to check: the input is empty")
    if arguments.lines and not arguments.json:
        print(f"{count - failed} of {count} signatures hold")
    return 1 if failed else 0


def _secrets(files: list[Path]) -> list[bytes]:
    texts = [os.environ[ENVIRONMENT]] if os.environ.get(ENVIRONMENT) else []
    for file in files:
        try:
            texts.append(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"the key file {file} cannot be read: {error}") from error
    if not texts:
        raise InputError(f"no key to check with: set {ENVIRONMENT}, or name a file with --key-file")
    return [read_key(text) for text in texts]


def _bodies(name: str, lines: bool) -> Iterator[tuple[int, bytes]]:
    """The texts to read, with their line numbers."""
    try:
        with nullcontext(sys.stdin.buffer) if name == "-" else Path(name).open("rb") as file:
            if not lines:
                body = file.read(_MOST_BYTES + 1)
                if len(body) > _MOST_BYTES:
                    raise InputError(f"{name} is larger than {_MOST_BYTES:,} bytes; is it an export? Then say --lines")
                if body.strip():
                    yield 1, body
                return
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, line
    except OSError as error:
        raise InputError(f"{name} cannot be read: {error}") from error


def _receipt(body: bytes, line: int) -> dict[str, Any]:
    """The receipt itself, or the one in a row of an export or in the answer of ``refine --json``."""
    try:
        value = read_object(body)
    except InputError as error:
        raise InputError(f"line {line} holds no receipt: {error}") from error
    inner = value.get("receipt")
    receipt = inner if isinstance(inner, dict) else value
    if not isinstance(receipt.get("id"), str) or "outcome" not in receipt:
        raise InputError(f"line {line} holds no receipt: it has no 'id' and 'outcome' (docs/receipts.md)")
    return receipt


def _check(receipt: dict[str, Any], secrets: list[bytes]) -> dict[str, Any]:
    told = {"id": receipt["id"], "outcome": receipt["outcome"], "time": receipt.get("time")}
    try:
        return {"valid": True, "key": verify(receipt, secrets), **told}
    except SignatureError as error:
        return {"valid": False, "why": str(error), **told}


def _say(row: dict[str, Any], as_json: bool) -> None:
    from vlmguard.cli.panel import printable

    if as_json:
        print(json.dumps(row))
        return
    where = f"line {row['line']}: " if "line" in row else ""
    if row["valid"]:
        told = f"{where}valid: receipt {row['id']}, {row['outcome']}, {row['time']}, key {row['key']}"
    else:
        told = f"{where}NOT VALID: receipt {row['id']}: {row['why']}"
    print(printable(told))
