"""The dataset card beside the data: counts, licences, the funnel, categories, provenance, limits; and its two plots."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmguard import __version__
from vlmguard.errors import MissingExtraError
from vlmguard.jsonl import read_rows
from vlmguard.synth.export import Exported
from vlmguard.synth.gates import GATES
from vlmguard.synth.recipe import Recipe
from vlmguard.synth.store import DOOR, FAILED, KEPT, PENDING, Store

_WHY = {
    "unreadable": "could not be read from the source",
    "decontamination": "repeats a picture or text of an evaluation set",
    "duplicate": "repeats an earlier row",
    "answers": "safe and unsafe answer missing, alike, or not what they were taken for",
    "grammar": "a stage broke the trace grammar twice",
    "false alarm": "a harmless row was found to be risky",
    "missed": "a risky row was found to be harmless",
    "leakage": "the trace speaks of an answer",
    "grounding": "evidence names nothing of the input",
    "checks": "the guard would not send the rewrite",
    "need": "the rewrite loses the user's need",
    "outcome": "the target's answer to the rewrite is not safe and helpful",
    "nothing to mend": "the target answers the original safely and helpfully",
}


@dataclass(frozen=True, slots=True)
class Funnel:
    """How many rows came in, were dropped by each gate in order, and were kept."""

    rows: int
    drops: tuple[tuple[str, int], ...]
    kept: int
    failed: int
    pending: int


def funnel(store: Store) -> Funnel:
    """The funnel of a run as it stands."""
    counts = store.counts()
    drops = Counter({gate: count for (_, gate), count in counts.items() if gate})
    return Funnel(
        rows=sum(counts.values()),
        drops=tuple((gate, drops[gate]) for gate in (*DOOR, *GATES) if drops[gate]),
        kept=counts.get((KEPT, ""), 0),
        failed=counts.get((FAILED, ""), 0),
        pending=counts.get((PENDING, ""), 0),
    )


def write_card(store: Store, recipe: Recipe, exported: Exported, folder: Path) -> None:
    """Writes ``README.md``, ``funnel.png`` and ``categories.png`` into ``folder``."""
    rows = _Counts(folder / "data.jsonl")
    flow = funnel(store)
    (folder / "README.md").write_text(_card(store, recipe, exported, rows, flow), encoding="utf-8")
    _plot_funnel(flow, folder / "funnel.png")
    _plot_categories(rows, folder / "categories.png")


class _Counts:
    """What the card says of the rows, counted one at a time."""

    def __init__(self, data: Path) -> None:
        self.benign = 0
        self.images = 0
        self.licences: Counter[str] = Counter()
        self.origins: Counter[str] = Counter()
        self.categories: Counter[str] = Counter()
        self.models: dict[str, str] = {}
        self.prompts: dict[str, str] = {}
        self.total = 0
        for row in read_rows(data):
            self.total += 1
            self.benign += bool(row["benign"])
            self.images += bool(row["provenance"]["images"])
            self.licences[row["provenance"]["licence"]] += 1
            self.origins[row["provenance"]["origin"].partition(":")[0]] += 1
            self.categories[row["category"] or "harmless"] += 1
            self.models |= row["provenance"]["models"]
            self.prompts |= row["provenance"]["prompts"]


def _card(store: Store, recipe: Recipe, exported: Exported, rows: _Counts, flow: Funnel) -> str:
    spent = store.spent()
    models = ", ".join(f"{role} `{_plain(name)}`" for role, name in sorted(rows.models.items()))
    prompts = ", ".join(f"{name} {short}" for name, short in sorted(rows.prompts.items()))
    return "\n".join(
        [
            "# Dataset card",
            "",
            f"Made by vlmguard {__version__} with `vlmguard synth`, after the three stages of VLMGuard-R1 (arXiv 2504.12661).",
            "",
            f"- Rows: {rows.total} ({exported.train} train, {exported.validation} validation; a picture is never on both sides)",
            f"- Harmless: {rows.benign} ({_percent(rows.benign, rows.total)}); with pictures: {rows.images}",
            f"- Left out by the mix ({_mix(recipe)}): {exported.left_out}; rejected: {exported.rejected}",
            f"- Made by: {models or 'models without a name'}; seed {recipe.seed}",
            f"- Ablations: {', '.join(recipe.ablations) or 'none'}",
            f"- Prompts (SHA-256): {prompts}",
            f"- Fingerprint of the recipe: `{recipe.fingerprint()[:16]}`",
            f"- Spent: {spent.get('calls', 0)} calls, {spent.get('prompt_tokens', 0)} + {spent.get('completion_tokens', 0)} tokens",
            "",
            "## Licences and origins",
            "",
            *_table(("licence", "rows"), rows.licences.most_common()),
            "",
            *_table(("origin", "rows"), rows.origins.most_common()),
            "",
            "## Funnel",
            "",
            "![funnel](funnel.png)",
            "",
            *_table(
                ("gate", "rows", "why"),
                [
                    ("in", flow.rows, "rows of the sources, twins among them"),
                    *((gate, count, _WHY[gate]) for gate, count in flow.drops),
                    ("kept", flow.kept, ""),
                    *([("failed", flow.failed, "a model could not be asked; run again")] if flow.failed else []),
                ],
            ),
            "",
            "What was dropped stands in rejected.jsonl, with gate, reason and, for repeats, what matched.",
            "",
            "## Categories",
            "",
            "![categories](categories.png)",
            "",
            *_table(("category", "rows"), rows.categories.most_common()),
            "",
            "## Limits",
            "",
            *_limits(recipe),
            "",
        ]
    )


def _limits(recipe: Recipe) -> list[str]:
    limits = [
        "- Traces are a model's words, checked by rules and, where a judge is named, by a model; nobody has read them all.",
        "- `provenance.safe` and `provenance.unsafe` are hindsight: they must never be part of what a rewriter is shown.",
        "- The gate `leakage` knows English phrasings of hindsight; in other languages it compares words with the answers only.",
    ]
    if not recipe.target or not recipe.judge:
        limits.append(
            "- **No outcome test**: without a target and a judge nobody has seen whether the rewrites make answers safe."
        )
    else:
        limits.append(
            "- The outcome test used one target; how far its rewrites carry to other models is to be measured there."
        )
    if not recipe.keep_apart:
        limits.append("- **Not decontaminated**: the recipe names no evaluation sets to keep apart from.")
    return limits


def _mix(recipe: Recipe) -> str:
    ratio = recipe.ratio
    return "all rows as they came" if ratio is None else f"{ratio['benign']:g} harmless to {ratio['risky']:g} risky"


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "–"


def _table(heads: tuple[str, ...], rows: list[tuple[Any, ...]]) -> list[str]:
    return [
        f"| {' | '.join(heads)} |",
        f"|{'---|' * len(heads)}",
        *(f"| {' | '.join(_plain(value) for value in row)} |" for row in rows),
    ]


def _plain(value: object) -> str:
    """On one line and without marks that would end a cell or a name."""
    return " ".join(str(value).replace("|", "/").replace("`", "'").split())


# ---------------------------------------------------------------------------------------------------------------------
# Plots


def _plot_funnel(flow: Funnel, file: Path) -> None:
    left, names, values = flow.rows, ["in"], [flow.rows]
    for gate, count in flow.drops:
        left -= count
        names.append(f"after {gate}")
        values.append(left)
    _bars(names, values, "Rows that are left after each gate", file)


def _plot_categories(rows: _Counts, file: Path) -> None:
    common = rows.categories.most_common()
    _bars([name for name, _ in common], [count for _, count in common], "Rows by category", file)


def _bars(names: list[str], values: list[int], title: str, file: Path) -> None:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("plots", "synth") from error
    figure = Figure(figsize=(7, 0.6 + 0.32 * max(3, len(names))), layout="constrained")
    axes = figure.subplots()
    bars = axes.barh(names[::-1], values[::-1], color="#3b6ea5", height=0.7)
    axes.bar_label(bars, labels=[f"{value:,}" for value in values[::-1]], padding=4, fontsize=9)
    axes.set_title(title, loc="left", fontsize=11)
    axes.set_xlim(0, max([*values, 1]) * 1.12)
    for side in ("top", "right", "bottom"):
        axes.spines[side].set_visible(False)
    axes.tick_params(axis="x", bottom=False, labelbottom=False)
    axes.tick_params(axis="y", length=0)
    figure.savefig(file, dpi=120)
