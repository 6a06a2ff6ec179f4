"""The policy: which risks there are, what to do about each, and what a safe and useful answer to it looks like.

``policies/default.toml`` is the packaged policy. A user's file is laid over it entry by entry, so that it may hold one line.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from vlmguard.errors import PolicyError
from vlmguard.types import JUDGED_ROLES, ROLES, Finding, Level, Reason, Role

LANGUAGES = ("en", "es", "de", "fr", "zh", "hi", "ar")
"""The languages that guidance is written in. English is the one that must be there."""

MOST_WRITTEN = 1_000
"""Characters that a text of a policy may have, so that what is composed from it keeps to the bound on rewrites."""


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


class DefinitionAction(StrEnum):
    """What to do about orders in the definition of a tool, which is not rewritten: the model is to call it as it is."""

    DEGRADE = "degrade"
    BLOCK = "block"
    FORWARD = "forward"


@dataclass(frozen=True, slots=True)
class Thresholds:
    """The lowest score of each level, in [0, 1], increasing."""

    low: float
    medium: float
    high: float

    def level(self, score: float) -> Level:
        """The level that a score stands for. Raises ``ValueError`` for what is no probability."""
        if not 0 <= score <= 1:
            raise ValueError(f"a score is a number from 0 to 1, not {score}")
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
    tool_definitions: DefinitionAction
    judged: tuple[Role, ...]
    """Whose turns are judged: the user's and the tools', and those of others where clients are not trusted to set them."""
    safety_prompt: Mapping[str, str]
    """Language → the static system prompt of ``Outcome.DEGRADED``."""
    notice: Mapping[str, str]
    """Language → what a user is told whose request is blocked."""
    allowed: tuple[str, ...]
    """What a rewrite may bring in that the user did not write: emergency numbers and the like."""
    hash: str
    """SHA-256 of what the policy says, whatever files it came from and however they spell it."""

    def category(self, word: str) -> Category:
        """The category that a word means, be it an id, an alias or a near spelling of one; else ``other``."""
        if (known := self.categories.get(word)) is not None:
            return known
        names = {_folded(name): category for category in self.categories.values() for name in category.aliases}
        names |= {_folded(category.id): category for category in self.categories.values()}
        near = difflib.get_close_matches(_folded(word), names, n=1, cutoff=0.85)
        return names[near[0]] if near else self.categories["other"]

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


_PACKAGED = Path(__file__).with_name("policies") / "default.toml"


def load_policy(path: Path | None = None) -> Policy:
    """The packaged policy, with the file at ``path`` laid over it. Raises ``PolicyError`` with file, line and reason.

    Tables are laid over each other entry by entry, lists take the place of lists. Files that did not change are not
    read into a policy again.
    """
    return _load(None, "") if path is None else _load(str(path), _read(path))


def read_policy(text: str, name: str) -> Policy:
    """The packaged policy with a TOML text laid over it; ``name`` stands for the text in messages. Raises ``PolicyError``."""
    return _load(name, text)


@lru_cache(maxsize=8)
def _load(name: str | None, text: str) -> Policy:
    packaged = _packaged()
    if name is None:
        return _policy(packaged.tables, packaged)
    source = _Source(name, text)
    return _policy(_laid_over(packaged.tables, source.tables), source)


@lru_cache(maxsize=1)
def _packaged() -> _Source:
    return _Source(_PACKAGED.name, _read(_PACKAGED))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise PolicyError(f"{path}:{line}: the file is not UTF-8; save it as UTF-8") from error
    except (OSError, ValueError) as error:
        raise PolicyError(f"{path}: the policy cannot be read: {getattr(error, 'strerror', None) or error}") from error


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
        lines: dict[tuple[str, ...], int] = {}
        for path, line in _entries(self._text):
            for end in range(1, len(path) + 1):
                lines.setdefault(path[:end], line)
        line = next((lines[where[:end]] for end in range(len(where), 0, -1) if where[:end] in lines), 1)
        raise PolicyError(f"{self.name}:{line}: {'.'.join(where)}: {reason}")


_TOKEN = re.compile(
    r"""\"{3}(?:\\.|[^\\])*?\"{3,5} | '{3}.*?'{3,5} | "(?:\\.|[^"\\\n])*" | '[^'\n]*'  # strings of all four kinds
      | \#[^\n]* | [\w+:-]+ | [][{}=.,\n]""",
    re.DOTALL | re.VERBOSE,
)


def _entries(text: str) -> Iterator[tuple[tuple[str, ...], int]]:
    """The key path of every table and entry of a valid TOML text, and its line: tomllib keeps no lines."""
    table: tuple[str, ...] = ()
    outer: list[tuple[str, tuple[str, ...]]] = []  # the brackets around a value, and the entry that each belongs to
    keys: list[str] = []
    in_value, line = False, 1
    for token in _TOKEN.findall(text):
        path = (*(outer[-1][1] if outer else table), *keys)
        if token == "\n" and not outer:
            keys, in_value = [], False
        elif token == "=" and not in_value:
            in_value = True
            yield path, line
        elif token in "[{" and in_value:
            outer.append((token, path))
            keys, in_value = [], token == "["
        elif token in "]}" and outer:
            outer.pop()
            keys, in_value = [], True
        elif token == "[":
            table = ()
        elif token == "]":
            table, keys = tuple(keys), []
            yield table, line
        elif token == "," and outer and outer[-1][0] == "{":
            keys, in_value = [], False
        elif not in_value and token not in ".\n" and not token.startswith("#"):
            keys.append(token.strip("\"'"))
        line += token.count("\n")


# ---------------------------------------------------------------------------------------------------------------------
# Tables → values

_E = TypeVar("_E", bound=StrEnum)
_TOP = (
    "version",
    "thresholds",
    "unjudged",
    "tool_results",
    "tool_definitions",
    "judged",
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
    entries = _table(tables, "categories", (), source)
    policy = Policy(
        version=1,
        categories={name: _category(name, entries, standard, source) for name in entries},
        unjudged=_unjudged(_table(tables, "unjudged", (), source), source),
        tool_results=_word(ToolAction, tables.get("tool_results"), ("tool_results",), source),
        tool_definitions=_word(DefinitionAction, tables.get("tool_definitions"), ("tool_definitions",), source),
        judged=_judged(tables.get("judged"), source),
        safety_prompt=_languages(tables, "safety_prompt", (), source),
        notice=_languages(tables, "notice", (), source),
        allowed=_strings(tables.get("allowed", []), ("allowed",), source),
        hash="",
    )
    effective = json.dumps(asdict(policy), sort_keys=True, ensure_ascii=False)
    return replace(policy, hash=hashlib.sha256(effective.encode()).hexdigest())


def _category(name: str, entries: dict[str, Any], standard: Thresholds, source: _Source) -> Category:
    where = ("categories", name)
    table = _table(entries, name, ("categories",), source)
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,63}", name):
        source.fail(where, "a category is named in lower-case letters, digits and '_'")
    _known_keys(table, _FIELDS, where, source)
    for field in ("title", "rule", "risk", "guidance"):
        if field not in table:
            near = difflib.get_close_matches(name, entries.keys() - {name}, n=1)
            hint = f"; did you mean the category {near[0]!r}?" if near else ""
            source.fail(where, f"{field} is missing, which a new category needs{hint}")
    acts_from = table.get("acts_from", "medium")
    if not isinstance(acts_from, str) or acts_from not in _LEVELS:
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
    reasons = [reason for reason in Reason if reason is not Reason.FAILURE]  # for that, nobody asks the policy
    _known_keys(table, tuple(reason.value for reason in reasons), ("unjudged",), source)
    for reason in reasons:
        if reason.value not in table:
            source.fail(("unjudged",), f"the rule for {reason.value} is missing")
    return {reason: _word(Rule, table[reason.value], ("unjudged", reason.value), source) for reason in reasons}


def _judged(value: object, source: _Source) -> tuple[Role, ...]:
    found = frozenset(_strings(value, ("judged",), source))
    if unknown := found - set(ROLES):
        source.fail(("judged",), f"it holds some of {', '.join(ROLES)}, not {min(unknown)!r}")
    if missing := JUDGED_ROLES - found:
        source.fail(("judged",), f"{min(missing)!r} is missing: turns of the user's and of tools are always judged")
    return tuple(role for role in ROLES if role in found)


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
    if len(value) > MOST_WRITTEN:
        source.fail(where, f"the text has {len(value):,} characters where {MOST_WRITTEN:,} are the most")
    return value.strip()


def _strings(value: object, where: tuple[str, ...], source: _Source) -> tuple[str, ...]:
    if not isinstance(value, list):
        source.fail(where, f"a list of texts is expected, not {value!r}")
    return tuple(_string(item, where, source) for item in value)


def _languages(table: Mapping[str, Any], key: str, where: tuple[str, ...], source: _Source) -> dict[str, str]:
    texts = _table(table, key, where, source)
    if "en" not in texts:
        source.fail((*where, key), "the English text (en) is missing: the others fall back to it")
    _known_keys(texts, LANGUAGES, (*where, key), source)
    return {language: _string(text, (*where, key, language), source) for language, text in texts.items()}


def _word(kind: type[_E], value: object, where: tuple[str, ...], source: _Source) -> _E:
    try:
        return kind(value)  # type: ignore[arg-type]
    except ValueError:
        words = [item.value for item in kind]
        near = difflib.get_close_matches(str(value), words, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        source.fail(where, f"it is one of {', '.join(words)}, not {value!r}{hint}")
