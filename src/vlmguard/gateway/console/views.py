"""Rows and policies as the pages show them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlmguard.errors import VlmguardError
from vlmguard.gateway.audit_marks import read_kept
from vlmguard.gateway.audit_store import Row
from vlmguard.gateway.console import words
from vlmguard.policy import Policy, Thresholds
from vlmguard.types import Text


def listed(row: Row) -> dict[str, Any]:
    """A row as the pages show it."""
    stages = json.loads(row["stages_ms"])
    return {
        **row,
        "categories": json.loads(row["categories"]),
        "milliseconds": sum(stages.values()),
        "words": _words_of(row),
        "kept": row.get("kept", row["raw"] is not None),
        "mark": row.get("mark"),
    }


def listed_with(rows: list[Row], text: str | None) -> list[dict[str, Any]]:
    """Rows as the list shows them; of those that the database found for a word, the ones in whose words it stands: what
    looks like it in the letters of an encoded picture does not count."""
    return [listed(row) for row in rows if text is None or _says(row, text)]


def _says(row: Row, text: str) -> bool:
    request = read_kept(row)
    if request is None:
        return True  # what cannot be read as a request was searched as it is
    said = (part.text for message in request.chat.messages for part in message.parts if isinstance(part, Text))
    return text.casefold() in "\n".join(said).casefold()


def _words_of(row: Row) -> str | None:
    """The beginning of the prompt, where it was kept and is short enough to have been fetched."""
    try:
        request = read_kept(row)
        return None if request is None else words.first_words(request.chat.prompt)
    except VlmguardError:
        return None


def contradictions(row: Row, receipt: Mapping[str, Any]) -> list[str]:
    """What the row says otherwise than the receipt, which alone is signed."""
    names = ("id", "time", "mode", "outcome", "intended_outcome")
    return [
        f"{name}: {row[name]} in the database, {receipt[name]} in the receipt"
        for name in names
        if row[name] != receipt[name]
    ]


def by_part(judgements: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    parts: dict[str, list[dict[str, Any]]] = {}
    for judgement in judgements:
        parts.setdefault(judgement["path"] or "the request", []).append(judgement)
    return parts


def file_text(file: str) -> str:
    """What stands in the policy's file now, to begin an edit from."""
    if not file:
        return '# Laid over the packaged policy entry by entry. For example:\n#\n# [categories.privacy]\n# action = "block"\n'
    try:
        return Path(file).read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        return f"# {file} cannot be read now: {error}\n"


def differences(old: Policy, new: Policy) -> list[tuple[str, str, str]]:
    """Entries that differ: name, before, after."""
    found: list[tuple[str, str, str]] = []
    for name in dict.fromkeys([*old.categories, *new.categories]):
        before, after = old.categories.get(name), new.categories.get(name)
        for part in ("action", "acts_from", "thresholds", "title", "rule", "risk", "guidance", "aliases"):
            one, two = (None if side is None else getattr(side, part) for side in (before, after))
            if one != two:
                found.append((f"{name}: {part}", _told(one), _told(two)))
    for reason in old.unjudged:
        if old.unjudged[reason] != new.unjudged[reason]:
            found.append((f"unjudged: {reason.value}", old.unjudged[reason].value, new.unjudged[reason].value))
    for part in ("tool_results", "tool_definitions", "judged", "safety_prompt", "notice", "allowed"):
        if getattr(old, part) != getattr(new, part):
            found.append((part, _told(getattr(old, part)), _told(getattr(new, part))))
    return found


def _told(value: object) -> str:
    match value:
        case None:
            return "—"
        case Mapping():
            return str(value.get("en", ""))
        case tuple():
            return ", ".join(map(str, value))
        case Thresholds():
            return f"{value.low:g} / {value.medium:g} / {value.high:g}"
        case _:
            return str(value)
