"""The policy: which risks there are, what to do about each, and what a safe and useful answer to it looks like.

``policies/default.toml`` is the packaged policy. A user's file is laid over it entry by entry, so that it may hold one line.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from vlmguard.errors import PolicyError
from vlmguard.types import Finding, Level, Reason

LANGUAGES = ("en", "es", "de", "fr", "zh", "hi", "ar")
"""The languages that guidance is written in. English is the one that must be there."""


class Action(StrEnum):
    """What to do about a finding."""

    FORWARD = "forward"
    REWRITE = "rewrite"
    BLOCK = "block"


class Rule(StrEnum):
    """What to do about a part that was not judged."""

    FORWARD = "forward"
    DEGRADE = "degrade"
    BLOCK = "block"


class ToolAction(StrEnum):
    """What to do about a risky tool result, which cannot be rewritten as a wish."""

    NEUTRALISE = "neutralise"
    BLOCK = "block"
    FORWARD = "forward"


@dataclass(frozen=True, slots=True)
class Thresholds:
    """The lowest score of each level, in [0, 1], increasing."""

    low: float
    medium: float
    high: float

    def level(self, score: float) -> Level:
        """The level that a score stands for."""
        if score >= self.high:
            return Level.HIGH
        if score >= self.medium:
            return Level.MEDIUM
        return Level.LOW if score >= self.low else Level.NONE


@dataclass(frozen=True, slots=True)
class Category:
    """One kind of risk."""

    id: str
    title: str
    rule: str
    """What counts and what does not, in plain words: given to a model at run time."""
    action: Action
    acts_from: Level
    thresholds: Thresholds
    risk: Mapping[str, str]
    """Language → a clause naming the harm."""
    guidance: Mapping[str, str]
    """Language → what a safe and useful answer is, in the user's voice."""
    aliases: tuple[str, ...] = ()
    """Other words that models use for it."""


@dataclass(frozen=True, slots=True)
class Policy:
    """A checked policy."""

    version: int
    categories: Mapping[str, Category]
    unjudged: Mapping[Reason, Rule]
    tool_results: ToolAction
    safety_prompt: Mapping[str, str]
    """Language → the static system prompt of ``Outcome.DEGRADED``."""
    notice: Mapping[str, str]
    """Language → what a user is told whose request is blocked."""
    allowed: tuple[str, ...]
    """What a rewrite may bring in that the user did not write: emergency numbers and the like."""
    hash: str
    """SHA-256 of all of it, whatever file it came from."""

    def category(self, word: str) -> Category:
        """The category that a word means; ``other`` for one that nobody knows."""
        if (known := self.categories.get(word)) is not None:
            return known
        folded = _folded(word)
        for category in self.categories.values():
            if folded == _folded(category.id) or folded in map(_folded, category.aliases):
                return category
        return self.categories["other"]

    def level(self, category: str, score: float) -> Level:
        """The level of a score in a category."""
        return self.category(category).thresholds.level(score)

    def action(self, finding: Finding) -> Action:
        """What to do about a finding."""
        if finding.category is None:
            return Action.FORWARD
        category = self.category(finding.category)
        return category.action if finding.level >= category.acts_from else Action.FORWARD

    @staticmethod
    def say(texts: Mapping[str, str], language: str) -> str:
        """The text in a language, or in English where there is none."""
        return texts.get(language) or texts["en"]


def _folded(word: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", word.lower()).strip("_")


@lru_cache(maxsize=8)
def load_policy(path: Path | None = None) -> Policy:
    """The packaged policy, with the file at ``path`` laid over it. Raises ``PolicyError`` with file, line and reason."""
    packaged = files("vlmguard") / "policies" / "default.toml"
    source = _Source("default.toml", packaged.read_text(encoding="utf-8"))
    tables = source.tables
    if path is not None:
        source = _Source(str(path), _read(path))
        tables = _laid_over(tables, source.tables)
    return _policy(tables, source)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise PolicyError(f"{path}: the file is not UTF-8") from error
    except OSError as error:
        raise PolicyError(f"{path}: the policy cannot be read: {error.strerror or error}") from error


def _laid_over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        under = merged.get(key)
        merged[key] = _laid_over(under, value) if isinstance(under, dict) and isinstance(value, dict) else value
    return merged


class _Source:
    """A policy file: its tables, and the line on which an entry stands, for messages."""

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self._text = text
        try:
            self.tables = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            line = re.search(r"at line (\d+)", str(error))
            raise PolicyError(f"{name}:{line[1] if line else 1}: not valid TOML: {error}") from error

    def fail(self, where: tuple[str, ...], reason: str) -> NoReturn:
        """Raises ``PolicyError`` for the entry at ``where``; the line is that of its nearest part in this file."""
        dotted = ".".join(where)
        raise PolicyError(f"{self.name}:{self._line(where)}: {dotted}: {reason}")

    def _line(self, where: tuple[str, ...]) -> int:
        table: tuple[str, ...] = ()
        best, found = 0, 1
        for number, line in enumerate(self._text.splitlines(), start=1):
            if header := re.match(r"\s*\[([^\[\]]+)\]", line):
                table = _keys(header[1])
                here = table
            elif entry := re.match(r"\s*((?:[\w-]+|\"[^\"]*\")(?:\s*\.\s*(?:[\w-]+|\"[^\"]*\"))*)\s*=", line):
                here = (*table, *_keys(entry[1]))
            else:
                continue
            if len(here) > best and where[: len(here)] == here:
                best, found = len(here), number
        return found


def _keys(dotted: str) -> tuple[str, ...]:
    return tuple(key.strip().strip("\"'") for key in dotted.split("."))


# ---------------------------------------------------------------------------------------------------------------------
# Tables → values

_E = TypeVar("_E", bound=StrEnum)
_TOP = (
    "version",
    "thresholds",
    "unjudged",
    "tool_results",
    "safety_prompt",
    "notice",
    "allowed",
    "categories",
)
_FIELDS = ("title", "rule", "action", "acts_from", "thresholds", "risk", "guidance", "aliases")
_LEVELS = {str(level): level for level in Level if level > Level.NONE}


def _policy(tables: dict[str, Any], source: _Source) -> Policy:
    _known_keys(tables, _TOP, (), source)
    if tables.get("version") != 1:
        source.fail(("version",), "this vlmguard reads policies of version 1")
    standard = _thresholds(_table(tables, "thresholds", (), source), ("thresholds",), source)
    categories = {
        name: _category(
            name,
            _table(_table(tables, "categories", (), source), name, ("categories",), source),
            standard,
            source,
        )
        for name in _table(tables, "categories", (), source)
    }
    unjudged = _unjudged(_table(tables, "unjudged", (), source), source)
    allowed = _strings(tables.get("allowed", []), ("allowed",), source)
    canonical = json.dumps(tables, sort_keys=True, ensure_ascii=False, default=str)
    return Policy(
        version=1,
        categories=categories,
        unjudged=unjudged,
        tool_results=_word(ToolAction, tables.get("tool_results"), ("tool_results",), source),
        safety_prompt=_languages(tables, "safety_prompt", (), source),
        notice=_languages(tables, "notice", (), source),
        allowed=allowed,
        hash=hashlib.sha256(canonical.encode()).hexdigest(),
    )


def _category(name: str, table: dict[str, Any], standard: Thresholds, source: _Source) -> Category:
    where = ("categories", name)
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,63}", name):
        source.fail(where, "a category is named in lower-case letters, digits and '_'")
    _known_keys(table, _FIELDS, where, source)
    for field in ("title", "rule", "risk", "guidance"):
        if field not in table:
            source.fail(where, f"{field} is missing")
    acts_from = table.get("acts_from", "medium")
    if acts_from not in _LEVELS:
        source.fail((*where, "acts_from"), f"it is one of {', '.join(_LEVELS)}, not {acts_from!r}")
    thresholds = standard
    if "thresholds" in table:
        given = _table(table, "thresholds", where, source)
        whole = {"low": standard.low, "medium": standard.medium, "high": standard.high, **given}
        thresholds = _thresholds(whole, (*where, "thresholds"), source)
    return Category(
        id=name,
        title=_string(table["title"], (*where, "title"), source),
        rule=_string(table["rule"], (*where, "rule"), source),
        action=_word(Action, table.get("action", "rewrite"), (*where, "action"), source),
        acts_from=_LEVELS[acts_from],
        thresholds=thresholds,
        risk=_languages(table, "risk", where, source),
        guidance=_languages(table, "guidance", where, source),
        aliases=_strings(table.get("aliases", []), (*where, "aliases"), source),
    )


def _thresholds(table: dict[str, Any], where: tuple[str, ...], source: _Source) -> Thresholds:
    _known_keys(table, ("low", "medium", "high"), where, source)
    values: list[float] = []
    for key in ("low", "medium", "high"):
        value = table.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            source.fail((*where, key), f"a threshold is a number from 0 to 1, not {value!r}")
        values.append(float(value))
    if not values[0] <= values[1] <= values[2]:
        source.fail(where, f"thresholds increase from low to high, not {values}")
    return Thresholds(*values)


def _unjudged(table: dict[str, Any], source: _Source) -> dict[Reason, Rule]:
    _known_keys(table, tuple(Reason), ("unjudged",), source)
    for reason in Reason:
        if reason.value not in table:
            source.fail(("unjudged",), f"the rule for {reason.value} is missing")
    return {reason: _word(Rule, table[reason.value], ("unjudged", reason.value), source) for reason in Reason}


def _known_keys(table: Mapping[str, Any], known: tuple[str, ...], where: tuple[str, ...], source: _Source) -> None:
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(known)}"
            source.fail((*where, key), f"unknown entry; {hint}")


def _table(tables: Mapping[str, Any], key: str, where: tuple[str, ...], source: _Source) -> dict[str, Any]:
    value = tables.get(key)
    if not isinstance(value, dict):
        source.fail((*where, key), "a table is expected" if key in tables else "this table is missing")
    return value


def _string(value: object, where: tuple[str, ...], source: _Source) -> str:
    if not isinstance(value, str) or not value.strip():
        source.fail(where, f"a text is expected, not {value!r}")
    return value.strip()


def _strings(value: object, where: tuple[str, ...], source: _Source) -> tuple[str, ...]:
    if not isinstance(value, list):
        source.fail(where, f"a list of texts is expected, not {value!r}")
    return tuple(_string(item, where, source) for item in value)


def _languages(table: Mapping[str, Any], key: str, where: tuple[str, ...], source: _Source) -> dict[str, str]:
    texts = _table(table, key, where, source)
    if "en" not in texts:
        source.fail((*where, key), "the English text (en) is missing: the others fall back to it")
    for language in texts:
        if not re.fullmatch(r"[a-z]{2,3}", language):
            source.fail((*where, key, language), "a language is its ISO code, such as 'es'")
    return {language: _string(text, (*where, key, language), source) for language, text in texts.items()}


def _word(kind: type[_E], value: object, where: tuple[str, ...], source: _Source) -> _E:
    try:
        return kind(value)  # type: ignore[arg-type]
    except ValueError:
        words = [item.value for item in kind]
        near = difflib.get_close_matches(str(value), words, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        source.fail(where, f"it is one of {', '.join(words)}, not {value!r}{hint}")
