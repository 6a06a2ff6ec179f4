"""The panel: what the guard saw, for a person to read. Standard output; progress goes to standard error."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.rule import Rule
from rich.table import Table
from rich.text import Text as Styled

from vlmguard.policy import Policy
from vlmguard.types import (
    Chat,
    Evidence,
    Finding,
    Guarded,
    Judgement,
    Level,
    Modality,
    Mode,
    Outcome,
    Reason,
    Receipt,
)

_COLOURS = {
    Outcome.FORWARD: "green",
    Outcome.REWRITE: "yellow",
    Outcome.BLOCK: "red",
    Outcome.DEGRADED: "magenta",
    Outcome.UNGUARDED: "red",
}
_HEADLINES = {
    Outcome.FORWARD: "forwarded unchanged",
    Outcome.REWRITE: "rewritten",
    Outcome.BLOCK: "blocked",
    Outcome.DEGRADED: "forwarded behind the safety prompt",
    Outcome.UNGUARDED: "forwarded unguarded",
}
_LEVEL_COLOURS = {Level.NONE: "green", Level.LOW: "cyan", Level.MEDIUM: "yellow", Level.HIGH: "red"}
_NAMES = {Modality.TEXT: "in the text", Modality.IMAGE: "in the pictures", Modality.CROSS: "between them"}
_REASONS = {
    Reason.SCENE: "what it shows beyond words: this rewriter cannot see scenes",
    Reason.BUDGET: "beyond the budget of one request",
    Reason.UNREADABLE: "could not be read",
    Reason.SCRIPT: "in a script that the reader does not know",
    Reason.LANGUAGE: "in a language that the scorer was not measured in",
    Reason.REMOTE_STATE: "stands on a server, not in the request",
    Reason.OPAQUE: "of a kind that nobody here can open",
    Reason.CONTESTED: "found harmless by a model, against other evidence",
    Reason.ROLE: "the operator's or the model's own words",
}
_WORDS = re.compile(r"\s+|[“”\"«»()]|[^\s“”\"«»()]+")
"""What a difference is made of; a word that comes to stand in quotation marks is the same word."""
_NAMED = 4
"""Places that are named where several share a line of the receipt."""
_SHOWN = 2_000
"""Characters of a prompt that the panel shows."""


def show(
    chat: Chat,
    guarded: Guarded,
    policy: Policy,
    ms: float,
    console: Console | None = None,
    words: Sequence[tuple[str, float]] = (),
) -> None:
    """Prints the panel for one judged chat. ``words``: those that moved the score, with the share of each."""
    console = console or Console(highlight=False, soft_wrap=False)
    receipt = guarded.receipt
    colour = _COLOURS[receipt.intended_outcome]
    sections: list[RenderableType] = [
        _found(guarded, policy),
        *_evidence(guarded.refinement.evidence),
        *_words(words),
        *_analysis(guarded),
        Rule(style="dim"),
        *_result(chat, guarded, coloured=console.color_system is not None and not console.no_color),
        Rule(style="dim"),
        _receipt(receipt),
    ]
    title = Styled.assemble(("vlmguard", "bold"), " · ", (_headline(receipt), f"bold {colour}"))
    console.print(
        Panel(
            Group(*sections),
            title=title,
            title_align="left",
            subtitle=f"{ms:,.0f} ms",
            subtitle_align="right",
            border_style=colour,
            padding=(1, 2),
        )
    )


def _headline(receipt: Receipt) -> str:
    headline = _HEADLINES[receipt.intended_outcome]
    return f"monitor mode, would be: {headline}" if receipt.mode is Mode.MONITOR else headline


def _found(guarded: Guarded, policy: Policy) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for modality, finding in guarded.refinement.report:
        table.add_row(_NAMES[modality], _level(finding), _what(finding, policy))
    return table


def _level(finding: Finding | None) -> Styled:
    if finding is None:
        return Styled("–", style="dim")
    return Styled(str(finding.level).upper(), style=f"bold {_LEVEL_COLOURS[finding.level]}")


def _what(finding: Finding | None, policy: Policy) -> Styled:
    if finding is None:
        return Styled("absent or not judged", style="dim")
    if finding.category is None:
        return Styled("nothing found", style="dim")
    score = "" if finding.score is None else f" {finding.score:.2f}"
    return Styled.assemble(
        (policy.category(finding.category).title, "bold"), (score, "dim"), "  ", printable(finding.rationale)
    )


def _evidence(evidence: tuple[Evidence, ...]) -> Iterator[RenderableType]:
    if not evidence:
        return
    yield Rule("evidence", style="dim", align="left")
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for item in evidence[:12]:
        table.add_row(item.source, Styled(printable(item.observation)))
    if len(evidence) > 12:
        table.add_row("", Styled(f"and {len(evidence) - 12} more (see --json)", style="dim"))
    yield table


def _words(words: Sequence[tuple[str, float]]) -> Iterator[RenderableType]:
    if not words:
        return
    yield Rule("the words that moved the score", style="dim", align="left")
    styled = Styled()
    for word, share in words:
        styled.append(printable(word), style="bold red" if share >= 0.15 else "yellow" if share >= 0.05 else "dim")
        styled.append(f" {share:.0%} " if share >= 0.05 else " ", style="dim")
    yield styled


def _analysis(guarded: Guarded) -> Iterator[RenderableType]:
    if guarded.refinement.analysis:
        yield Rule("analysis", style="dim", align="left")
        yield Styled(printable(guarded.refinement.analysis))


def _result(chat: Chat, guarded: Guarded, *, coloured: bool) -> Iterator[RenderableType]:
    if guarded.outcome is Outcome.BLOCK:
        yield Styled.assemble(("Nothing is sent. ", "bold red"), printable(guarded.notice or ""))
        return
    proposed = guarded.refinement.prompt if guarded.receipt.intended_outcome is Outcome.REWRITE else None
    if proposed is None:
        yield Styled.assemble(("The prompt is forwarded byte for byte: ", "bold"), _shown(chat.prompt or "(no words)"))
    else:
        newest = len(chat.messages) - 1
        turn = newest if guarded.turn < 0 else guarded.turn
        if turn != newest:
            yield Styled(
                f"Turn {turn + 1} is rewritten again, as when it came; what follows it is judged by itself.",
                style="dim",
            )
        legend = "(new words green, words taken out red)" if coloured else "(new words {+so+}, words taken out [-so-])"
        yield Styled.assemble(("The refined prompt ", "bold"), (legend, "dim"))
        yield _difference(chat.messages[turn].text, proposed, coloured=coloured)
    if guarded.chat is not None and len(guarded.chat.messages) > len(chat.messages):
        yield Styled("The policy's static safety prompt goes before it.", style="magenta")


def _difference(before: str, after: str, *, coloured: bool) -> Styled:
    """Word by word, in marks where there are no colours. A prompt too long to compare is shown cut."""
    old, new = _WORDS.findall(_shown(before)), _WORDS.findall(_shown(after))
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    styled = Styled()
    for kind, old_from, old_to, new_from, new_to in matcher.get_opcodes():
        if kind == "equal":
            styled.append("".join(new[new_from:new_to]))
            continue
        out, come = "".join(old[old_from:old_to]), "".join(new[new_from:new_to])
        if out:
            styled.append(out if coloured else _marked(out, "[-", "-]"), style="red strike")
        if out and come:
            styled.append(" ")
        if come:
            styled.append(come if coloured else _marked(come, "{+", "+}"), style="green")
    return styled


def _marked(words: str, opening: str, closing: str) -> str:
    """Marks around words, not around the space at their ends."""
    bare = words.strip()
    start = words.index(bare) if bare else len(words)
    return f"{words[:start]}{opening}{bare}{closing}{words[start + len(bare) :]}" if bare else words


def _receipt(receipt: Receipt) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("receipt", Styled(f"{receipt.id}  {receipt.time}", style="dim"))
    if receipt.failure is not None:
        table.add_row("failed", Styled(printable(receipt.failure), style="red"))
    judged = _grouped(
        (row, f"by {printable(row.judged_by)}") for row in receipt.judgements if row.judged_by is not None
    )
    table.add_row(
        "judged", Styled("; ".join(f"{places} {judge}" for places, judge in judged) or "nothing", style="dim")
    )
    gaps = (
        (row, _REASONS[row.unjudged])
        for row in receipt.judgements
        if row.unjudged is not None and row.unjudged is not Reason.ROLE
    )
    for places, reason in _grouped(gaps):
        table.add_row("not judged", Styled.assemble((f"{places}: ", "bold"), reason, style="dim"))
    return table


def _grouped(rows: Iterable[tuple[Judgement, str]]) -> list[tuple[str, str]]:
    """Places that share an aspect and what is said of it, a few named and the others counted."""
    groups: dict[tuple[str, str], list[str]] = {}
    for row, said in rows:
        groups.setdefault((row.aspect.value, said), []).append(_place(row))
    return [(f"{_named(places)} ({aspect})", said) for (aspect, said), places in groups.items()]


def _named(places: list[str]) -> str:
    more = len(places) - _NAMED
    return ", ".join(places) if more <= 1 else f"{', '.join(places[:_NAMED])} and {more} more"


def _place(row: Judgement) -> str:
    """Where it stood, on one line: a file may be named anything."""
    return "the prompt" if row.path in ("", "/prompt") else printable(row.path).replace("\n", "·")


def _shown(text: str) -> str:
    shown = printable(text[:_SHOWN])
    return shown if len(text) <= _SHOWN else f"{shown}… ({len(text) - _SHOWN:,} characters more)"


def printable(text: str) -> str:
    """Without control and direction characters: hostile text must not drive the terminal."""
    return "".join(map(_shown_character, text))


def _shown_character(character: str) -> str:
    if character in "\n\u3000":
        return character
    if character == "\t":
        return "␣"
    return character if character.isprintable() and not 0x202A <= ord(character) <= 0x2069 else "·"


@contextmanager
def progress(total: int | None, what: str) -> Iterator[Callable[[int], None]]:
    """A progress bar on standard error; yields what to call with the number of steps done. ``total`` may be unknown."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=total)
        yield lambda steps: bar.advance(task, steps)
