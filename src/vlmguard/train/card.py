"""The model cards of runs and their plots: what was trained on what, how it does on held-out rows, how it is served."""

from __future__ import annotations

import json
import re
import shlex
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vlmguard.errors import MissingExtraError
from vlmguard.jsonl import read_rows
from vlmguard.train.run import LENGTHS, METRICS, MODEL

SERVED = "vlmguard-rewriter"
"""The name under which a server is told to serve it."""
_MEANING = {
    "valid": "valid traces",
    "decisions": "forwards or rewrites as the dataset does",
    "forwarded_benign": "benign rows forwarded",
    "rewritten_risky": "risky rows rewritten",
    "level_text": "level of the words as the dataset's",
    "level_image": "level of the pictures as the dataset's",
    "level_cross": "level of the two together as the dataset's",
}


def write_card(out: Path, state: dict[str, Any]) -> None:
    """Writes ``README.md`` (also into ``model/``), ``loss.png``, ``held_out.png`` and ``lengths.png`` into a finished run."""
    metrics = list(read_rows(out / METRICS))
    plots = [name for name, drawn in _plots(metrics, out) if drawn]
    _write(out, lambda plots: _lines(out, state, plots), plots)


def write_preferred_card(out: Path, state: dict[str, Any]) -> None:
    """Writes ``README.md`` (also into ``model/``) into a finished run of the preference stage, whose plot is there."""
    plots = ["curve.png"] if (out / "curve.png").exists() else []
    _write(out, lambda plots: _preferred_lines(out, state, plots), plots)


def _write(out: Path, lines: Callable[[list[str]], list[str]], plots: list[str]) -> None:
    for folder, shown in ((out, plots), (out / MODEL, [])):
        (folder / "README.md").write_text("\n".join(lines(shown)) + "\n", encoding="utf-8")


def _adapter(out: Path) -> dict[str, Any] | None:
    """What the run's adapter says of itself; ``None`` for whole weights."""
    file = out / MODEL / "adapter_config.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None


def _head(out: Path, base: str, stage: str, how: str) -> list[str]:
    adapter = _adapter(out)
    kind = f"A LoRA adapter (rank {adapter.get('r')}) for" if adapter else "Whole weights, from"
    return [
        f"# {out.name}: a rewriter of vlmguard",
        "",
        f"{kind} `{base}`, trained by `vlmguard train {stage}`{how} to read a conversation with its pictures, to say where its risk"
        " lies in vlmguard's trace grammar, and to refine the prompt.",
    ]


def _made_with(state: Mapping[str, Any]) -> list[str]:
    return [
        f"- policy `{state['policy_hash'][:16]}`, rewriter's prompts `{state['prompts_hash'][:16]}`: it is meant to be asked with these",
        f"- {', '.join(f'{name} {number}' for name, number in state['versions'].items())}",
    ]


def _shown(plots: list[str]) -> list[str]:
    return [f"\n![{name.removesuffix('.png').replace('_', ' ')}]({name})" for name in plots]


def _lines(out: Path, state: dict[str, Any], plots: list[str]) -> list[str]:
    recipe = state["recipe"]
    return [
        *_head(out, state["base"], state["stage"], ""),
        "",
        "## What it was trained on",
        "",
        f"- {recipe['dataset']}, fingerprint `{state['dataset_fingerprint']}`",
        f"- {state['tokens_a_pass']:,} tokens a pass; {state['error_rows']:,} error rows were left out (`error_rows.jsonl`)",
        f"- {state['steps']:,} steps in {state['seconds']:,.0f} s of the last start, on {state['device']}, processes:"
        f" {state['processes']}; last training loss {state['loss']:.4f}",
        *_made_with(state),
        *_shown(plots),
        "",
        "## How it does on held-out rows",
        "",
        *_table(state["held_out"]),
        "",
        "Measured by generating greedily, against the traces of the dataset, which a teacher model wrote: agreement, not truth. What the"
        " rewriter is worth for a target is measured by `vlmguard eval`.",
        "",
        *_serving(out),
    ]


def _preferred_lines(out: Path, state: dict[str, Any], plots: list[str]) -> list[str]:
    recipe = state["recipe"]
    taken = state["round"]
    judged = f"the answers of `{_open(recipe['target'])}` by the judgement of `{_open(recipe['judge'])}`, " * bool(
        recipe["target"]
    )
    adapter = _adapter(out)
    return [
        *_head(
            out,
            (adapter or {}).get("base_model_name_or_path", state["base"]),
            "prefer",
            " by preferences among its own traces",
        ),
        *["", "**No round was better on held-out rows than what was begun with, and this is a copy of that.**"]
        * (not taken),
        "",
        "## What it was trained on",
        "",
        f"- begun with `{state['base']}`",
        f"- {recipe['dataset']}, fingerprint `{state['dataset_fingerprint']}`: its training rows, {recipe['samples']} samples of each in a"
        f" round; pairs ordered by what serving takes, {judged}the dataset's decisions and levels, and length",
        *[f"- {line}" for line in _pairs(out, len(state["curve"]) - 1, taken)],
        f"- on {state['device']}",
        *_made_with(state),
        *_shown(plots),
        "",
        "## How it does on held-out rows",
        "",
        *_rounds(state["curve"], taken),
        "",
        f"Taken: {state['chosen']}. These rows chose it, so that its interval flatters it a little. *Right* is a trace that serving"
        " takes, with the dataset's decision and, where there is a target, with a good outcome. What the rewriter is worth for a"
        " target is measured by `vlmguard eval`, on other data.",
        "",
        *_serving(out),
    ]


def _open(spec: str) -> str:
    """A model's or judge's spec without what an address may carry of keys."""
    return re.sub(r"\?[^#]*", "", spec)


def _pairs(out: Path, rounds: int, taken: int) -> list[str]:
    lines = []
    for number in range(1, rounds + 1):
        file = out / f"round-{number}/pairs.jsonl"
        grounds = Counter(pair["ground"] for pair in read_rows(file)) if file.exists() else Counter[str]()
        told = ", ".join(f"{count:,} by {ground}" for ground, count in grounds.most_common())
        left = "" if number <= taken else ", which is not in it"
        lines.append(f"round {number}{left}: {grounds.total():,} pairs ({told or 'none'})")
    return lines


def _rounds(curve: list[dict[str, Any]], taken: int) -> list[str]:
    def share(of: Mapping[str, Any]) -> str:
        if of["value"] is None:
            return "none"
        return f"{100 * of['value']:.1f} % ({100 * of['low']:.1f} to {100 * of['high']:.1f} of {of['n']})"

    return [
        "Shares with their 95 % intervals; round 0 is what was begun with.",
        "",
        "| round | right | benign rows forwarded | risky rows rewritten | tokens of a trace |",
        "|---|---|---|---|---|",
        *(
            f"| {one['round']}{' (taken)' * (one['round'] == taken)} | {share(one['right'])} | {share(one['forward'])} |"
            f" {share(one['caught'])} | {one['tokens']['value']:.1f} |"
            for one in curve
        ),
    ]


def _table(held_out: dict[str, dict[str, float]]) -> list[str]:
    if not held_out:
        return ["Nothing was measured: the dataset has no validation rows, or the recipe says `held_out: 0`."]
    return [
        "| | share | 95 % interval | n |",
        "|---|---|---|---|",
        *(
            f"| {_MEANING[name]} | {100 * found['value']:.1f} % | {100 * found['low']:.1f} to {100 * found['high']:.1f} % |"
            f" {found['n']} |"
            for name, found in held_out.items()
        ),
    ]


def _serving(out: Path) -> list[str]:
    run, adapter = shlex.quote(str(out)), _adapter(out)
    if adapter:
        merging = [f"vlmguard train merge {run} --out MERGED                     # whole weights, for any server"]
        command = vllm_command(adapter["base_model_name_or_path"], out / MODEL, adapter.get("r", 8))
    else:
        merging, command = [], vllm_command(str(out / MODEL))
    return [
        "## How to serve it",
        "",
        "```",
        f"vlmguard refine PROMPT --image FILE --rewriter local:{run}    # in this process",
        *merging,
        *command,
        f"vlmguard serve … --rewriter endpoint:http://127.0.0.1:8000/v1#{SERVED}",
        "```",
        "",
        "The chat template lies beside the weights (`chat_template.jinja`) and is the one it was trained with. The settings are in"
        " `run.json`.",
    ]


def vllm_command(base: str, adapter: Path | None = None, rank: int = 0) -> list[str]:
    """The command that serves a rewriter with vLLM, one line of it an element."""
    template = (adapter or Path(base)) / "chat_template.jinja"
    lines = [f"vllm serve {shlex.quote(base)} --limit-mm-per-prompt '{{\"image\": 16}}' \\"]
    lines.append(f"    --chat-template {shlex.quote(str(template))} --chat-template-content-format openai \\")
    if adapter is None:
        lines.append(f"    --served-model-name {SERVED}")
    else:
        lines.append(f"    --enable-lora --max-lora-rank {rank} --lora-modules {SERVED}={shlex.quote(str(adapter))}")
    return lines


# ---------------------------------------------------------------------------------------------------------------------
# Plots


def _plots(metrics: list[dict[str, Any]], out: Path) -> list[tuple[str, bool]]:
    held_out = {name: _curve(metrics, f"eval_{name}") for name in _MEANING}
    losses = {"training": _curve(metrics, "loss"), "validation": _curve(metrics, "eval_loss")}
    return [
        ("loss.png", _lines_plot(losses, "Loss", out / "loss.png")),
        ("held_out.png", _lines_plot(held_out, "Held-out rewriting: shares", out / "held_out.png", top=1.02)),
        ("lengths.png", _lengths_plot(out)),
    ]


def _curve(metrics: list[dict[str, Any]], key: str) -> list[tuple[int, float]]:
    return [(row["step"], row[key]) for row in metrics if row.get(key) is not None]


def _figure() -> tuple[Any, Any]:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("plots", "train") from error
    figure = Figure(figsize=(7, 3.4), layout="constrained")
    axes = figure.subplots()
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure, axes


def _lines_plot(curves: dict[str, list[tuple[int, float]]], title: str, file: Path, top: float | None = None) -> bool:
    """Whether there was anything to draw."""
    drawn = {name: curve for name, curve in curves.items() if curve}
    if not drawn:
        return False
    figure, axes = _figure()
    for name, curve in drawn.items():
        axes.plot(
            *zip(*curve, strict=True),
            label=_MEANING.get(name, name),
            marker="." if len(curve) < 40 else "",
            linewidth=1.4,
        )
    axes.set_title(title, loc="left", fontsize=11)
    axes.set_xlabel("step")
    axes.set_ylim(bottom=0, top=top)
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(file, dpi=120)
    return True


def _lengths_plot(out: Path) -> bool:
    with np.load(out / LENGTHS) as kept:
        whole = kept["asked"] + kept["said"]
    figure, axes = _figure()
    axes.hist(whole[whole > 0], bins=40, color="#3b6ea5")
    axes.set_title("Tokens of a row", loc="left", fontsize=11)
    figure.savefig(out / "lengths.png", dpi=120)
    return True
