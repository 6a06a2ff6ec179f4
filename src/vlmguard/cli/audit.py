"""``vlmguard audit``: export, show, prune and erase what the gateway kept (docs/audit.md)."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import sys
from collections.abc import Callable, Coroutine
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmguard.errors import InputError
from vlmguard.types import Outcome

if TYPE_CHECKING:
    from vlmguard.gateway.audit_store import Filter, Store

HELP = "export, show, prune and erase the decisions that the gateway kept"
ENVIRONMENT = "VLMGUARD_AUDIT_URL"
DATABASE = "sqlite:vlmguard-audit.db"
"""Where the gateway writes when nobody says otherwise."""

_AGE = re.compile(r"(\d{1,6})([dh])\Z")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``audit`` and of its four actions."""
    parser.epilog = "Exit codes: 0 done, 1 no such decision, or the database could not be used, 2 bad usage."
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--database",
        metavar="URL",
        default=os.environ.get(ENVIRONMENT) or DATABASE,
        help=f"sqlite:FILE or postgresql://… (default: the variable {ENVIRONMENT}, then {DATABASE})",
    )

    def action(name: str, help: str) -> argparse.ArgumentParser:
        return actions.add_parser(name, help=help, description=help, parents=[common])

    export = action("export", "write decisions to a file, oldest first")
    export.add_argument("--format", choices=("jsonl", "parquet"), default="jsonl")
    export.add_argument("--out", type=Path, metavar="FILE", help="where to (default for jsonl: standard output)")
    export.add_argument(
        "--since", type=_moment, metavar="TIME", help="from this moment on: ISO 8601, or an age such as 7d, 12h"
    )
    export.add_argument("--until", type=_moment, metavar="TIME", help="up to, not including, this moment")
    export.add_argument("--outcome", choices=[outcome.value for outcome in Outcome])
    export.add_argument("--owner", metavar="KEY_ID", help="only requests made with this key")
    export.add_argument(
        "--marks",
        action="store_true",
        help="marked requests as rows for vlmguard calibrate: 'prompt', 'label', 'images'",
    )
    export.add_argument("--raw", action="store_true", help="with the requests' own words, where they were kept")
    show = action("show", "print one decision, with all that was kept of it")
    show.add_argument("id")
    erase = action("erase", "take decisions out for good; their ids and the moment stay on record")
    erase.add_argument("id", nargs="+")
    prune = action("prune", "take out old decisions")
    prune.add_argument("--older-than", type=_moment, required=True, metavar="AGE", help="such as 30d or 12h")


def run(arguments: argparse.Namespace) -> int:
    """Exit code: 0 done, 1 an id is unknown. Raises ``InputError``, ``AuditError``, ``MissingExtraError``."""
    if arguments.action == "export" and arguments.format == "parquet" and arguments.out is None:
        raise InputError("parquet is no text: name a file with --out")
    if arguments.action == "export" and arguments.marks and arguments.format == "parquet":
        raise InputError("marks are exported as JSON lines: leave out --format parquet")
    return asyncio.run(_run(arguments))


async def _run(arguments: argparse.Namespace) -> int:
    from vlmguard.gateway.audit_store import Store

    store = Store(arguments.database, create=False)
    try:
        await store.prepare()
        return await _ACTIONS[arguments.action](store, arguments)
    finally:
        await store.close()


async def _export(store: Store, arguments: argparse.Namespace) -> int:
    from vlmguard.gateway.audit_export import write_jsonl, write_parquet
    from vlmguard.gateway.audit_store import Filter

    wanted = Filter(arguments.since, arguments.until, arguments.outcome, arguments.owner)
    if arguments.marks:
        return await _export_marks(store, wanted, arguments.out)
    async with aclosing(store.rows(wanted, raw=arguments.raw)) as rows:
        if arguments.format == "parquet":
            count = await write_parquet(rows, arguments.out, raw=arguments.raw)
        else:
            count = await write_jsonl(rows, arguments.out or sys.stdout.buffer)
    print(f"{count:,} decisions exported", file=sys.stderr)
    return 0


async def _export_marks(store: Store, wanted: Filter, out: Path | None) -> int:
    from vlmguard.gateway.audit_marks import write_marks
    from vlmguard.gateway.audit_pages import marked

    async with aclosing(marked(store, wanted)) as rows:
        written, wordless = await write_marks(rows, out or sys.stdout.buffer)
    print(f"{written:,} marked requests exported", file=sys.stderr)
    if wordless:
        print(f"{wordless:,} left out: their words were not kept, or cannot be read (audit.raw)", file=sys.stderr)
    return 0


async def _show(store: Store, arguments: argparse.Namespace) -> int:
    from vlmguard.gateway.audit_export import form

    if (row := await store.one(arguments.id)) is not None:
        print(json.dumps(form(row), indent=2))  # ASCII: hostile words must not drive the terminal
        return 0
    return await _missing(store, arguments.id)


async def _missing(store: Store, id: str) -> int:
    from vlmguard.cli.panel import printable

    when = await store.erased(id)
    print(printable(f"vlmguard: {id}: " + (f"erased at {when}" if when else "no such decision")), file=sys.stderr)
    return 1


async def _erase(store: Store, arguments: argparse.Namespace) -> int:
    gone = await store.erase(arguments.id)
    print(f"{len(gone)} of {len(set(arguments.id))} decisions erased")
    codes = [await _missing(store, id) for id in dict.fromkeys(arguments.id) if id not in gone]
    return max(codes, default=0)


async def _prune(store: Store, arguments: argparse.Namespace) -> int:
    count = await store.prune(arguments.older_than)
    print(f"{count:,} decisions from before {arguments.older_than} removed")
    return 0


_ACTIONS: dict[str, Callable[[Any, argparse.Namespace], Coroutine[Any, Any, int]]] = {
    "export": _export,
    "show": _show,
    "erase": _erase,
    "prune": _prune,
}


def _moment(text: str) -> str:
    """A moment as the database writes it. A time without a zone is UTC."""
    if (age := _AGE.match(text)) is not None:
        hours = int(age[1]) * (24 if age[2] == "d" else 1)
        try:
            moment = datetime.now(UTC) - timedelta(hours=hours)
        except OverflowError as error:
            raise argparse.ArgumentTypeError(f"{text} lies before all time") from error
    else:
        try:
            moment = datetime.fromisoformat(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(
                f"{text!r} is neither an age such as 30d, 12h nor a time such as 2026-11-24"
            ) from error
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
    return moment.astimezone(UTC).isoformat(timespec="milliseconds")
