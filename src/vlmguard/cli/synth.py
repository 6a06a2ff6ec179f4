"""``vlmguard synth``: the three-stage dataset, from a recipe to training rows."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmguard.errors import InputError

if TYPE_CHECKING:
    from vlmguard.policy import Policy
    from vlmguard.synth.pipeline import Crew
    from vlmguard.synth.recipe import Recipe
    from vlmguard.synth.store import Store, Stored

HELP = "make a dataset for training rewriters: hindsight, causal analysis, prompt optimisation"

_PREVIEWED = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """``synth check | preview | run | export | status``."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, help in (
        ("check", "what the recipe's sources lack, before anything is paid for"),
        ("preview", f"{_PREVIEWED} rows through all stages, as a page with pictures, and what the whole would cost"),
        ("run", "all rows; a run that was stopped goes on where it was"),
        ("export", "write the dataset anew from what was done"),
        ("status", "the funnel as it stands"),
        ("trl", "training rows for TRL, from the exported dataset"),
    ):
        action = actions.add_parser(name, help=help, description=help)
        action.add_argument("recipe", type=Path, metavar="RECIPE.yaml")
        if name != "check":
            action.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="of the run and the dataset")
        if name == "run":
            action.add_argument(
                "--engine", choices=("local", "ray"), default="local", help="one process, or a Ray cluster"
            )
        if name in ("run", "preview"):
            action.add_argument("--patience", type=float, default=7200.0, metavar="S", help="for a model that is away")


def run(arguments: argparse.Namespace) -> int:
    """Exit code: 0 done, 3 done with rows that failed. Raises ``InputError``, ``ModelError``, ``StoreError``."""
    from vlmguard.synth.recipe import load_recipe

    recipe = load_recipe(arguments.recipe)
    actions: dict[str, Callable[[argparse.Namespace, Recipe], int]] = {
        "check": _check,
        "preview": _preview,
        "run": _run,
        "export": _export,
        "status": _status,
        "trl": _trl,
    }
    return actions[arguments.action](arguments, recipe)


def _check(arguments: argparse.Namespace, recipe: Recipe) -> int:
    del arguments
    from vlmguard.synth.prepare import check, warnings

    for warning in warnings(recipe):
        print(f"note: {warning}")
    problems = check(recipe)
    for problem in problems:
        print(f"missing: {problem}")
    if problems:
        raise InputError(f"{len(problems)} thing(s) are missing")
    print("The sources are complete.")
    return 0


def _run(arguments: argparse.Namespace, recipe: Recipe) -> int:
    with _open(arguments, recipe) as store:
        _work(arguments, recipe, store, arguments.engine)
        _finish(store, recipe, arguments.out)
        return _report(store)


def _preview(arguments: argparse.Namespace, recipe: Recipe) -> int:
    from vlmguard.synth.pictures import PictureStore
    from vlmguard.synth.preview import estimate, write_page
    from vlmguard.synth.store import FAILED, KEPT, REJECTED

    with _open(arguments, recipe) as store:
        before = set(_ids(store))
        _work(arguments, recipe, store, "local", most=_PREVIEWED)
        rows = [row for row in store.rows(KEPT, REJECTED, FAILED) if row.body.get("messages")]
        shown = [row for row in rows if row.id not in before][:_PREVIEWED] or rows[:_PREVIEWED]
        file = arguments.out / "preview.html"
        write_page(shown, store, PictureStore(arguments.out / "pictures"), file)
        _show(shown)
        told = estimate(store, len(shown))
        print(
            f"\nThe page: {file}\nStill to do: {told.rows} rows, about {told.calls:,} calls, "
            f"{told.prompt_tokens:,} + {told.completion_tokens:,} tokens."
        )
    return 0


def _show(rows: list[Stored]) -> None:
    """The rows in the terminal: what was asked, found and made of it."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from vlmguard import trace
    from vlmguard.cli.panel import printable

    table = Table("row", "asked", "found", "becomes", box=None, padding=(0, 2, 1, 0), header_style="dim")
    for row in rows:
        asked = " / ".join(part["text"] for turn in row.body["messages"] for part in turn["parts"] if part.get("text"))
        found, becomes = row.reason, f"{row.state}: {row.gate}"
        if row.result is not None:
            refinement = trace.parse(row.result["trace"])
            found = f"{refinement.report.worst.level}: {refinement.understanding}"
            becomes = refinement.prompt or "forwarded unchanged"
        table.add_row(*(Text(printable(cell)[:400]) for cell in (row.id, asked, found, becomes)))
    Console().print(table)


def _ids(store: Store) -> list[str]:
    return [row.id for row in store.rows("kept", "rejected", "failed")]


def _export(arguments: argparse.Namespace, recipe: Recipe) -> int:
    with _open(arguments, recipe) as store:
        _finish(store, recipe, arguments.out)
        return _report(store)


def _status(arguments: argparse.Namespace, recipe: Recipe) -> int:
    with _open(arguments, recipe, prepared=False) as store:
        return _report(store)


def _trl(arguments: argparse.Namespace, recipe: Recipe) -> int:
    from vlmguard.rewriters.quoting import rewriter_chat
    from vlmguard.synth.export import export_trl

    policy = _policy(recipe)
    count = export_trl(arguments.out, lambda chat: rewriter_chat(chat, policy, b""))
    print(f"{count} training rows: {arguments.out / 'trl'}")
    return 0


# ---------------------------------------------------------------------------------------------------------------------


def _open(arguments: argparse.Namespace, recipe: Recipe, *, prepared: bool = True) -> Store:
    from vlmguard.cli.panel import progress
    from vlmguard.synth.prepare import prepare, warnings
    from vlmguard.synth.store import Store

    store = Store(arguments.out / "run.sqlite")
    if prepared:
        for warning in warnings(recipe):
            print(f"note: {warning}", file=sys.stderr)
        with progress(None, "reading the sources") as advance:
            prepare(recipe, arguments.out, store, lambda: advance(1))
        (arguments.out / "recipe.json").write_text(
            json.dumps({"fingerprint": recipe.fingerprint(), "recipe": str(arguments.recipe)}, indent=1) + "\n"
        )
    return store


def _work(arguments: argparse.Namespace, recipe: Recipe, store: Store, engine: str, most: int | None = None) -> None:
    from vlmguard.cli.panel import progress
    from vlmguard.synth.pictures import PictureStore

    policy = _policy(recipe)
    store.reopen(f"{recipe.fingerprint()}:{policy.hash}")
    pictures = PictureStore(arguments.out / "pictures")
    pending = sum(count for (state, _), count in store.counts().items() if state == "pending")
    with progress(min(pending, most or pending), "synthesising") as advance:

        def tick(ended: dict[str, Any]) -> None:
            del ended
            advance(1)

        if engine == "ray":
            from vlmguard.synth.engine_ray import run_ray

            run_ray(store, recipe, policy, arguments.out, open_crew, tick=tick)
            return
        from vlmguard.synth.engine_local import run_local

        asyncio.run(
            run_local(
                store, open_crew(recipe), recipe, policy, pictures, tick=tick, patience=arguments.patience, most=most
            )
        )


def open_crew(recipe: Recipe) -> Crew:
    """The models that a recipe names. Raises ``InputError``, ``MissingExtraError``."""
    from vlmguard.judges.model import ModelJudge
    from vlmguard.models.spec import ModelSettings, make_model, wrap
    from vlmguard.synth.pipeline import Crew

    settings = ModelSettings(deadline=300.0, retries=5, concurrency=recipe.concurrency, breaker_failures=1_000_000)

    def opened(spec: str) -> Any:
        kind, _, where = spec.partition(":")
        if kind in ("local", "scripted"):
            place = recipe.folder / where
            spec = f"{kind}:{place}" if place.exists() else spec
        return wrap(make_model(spec, settings), settings)

    judge = ModelJudge(opened(recipe.judge), recipe.judge) if recipe.judge else None
    return Crew(
        teacher=opened(recipe.teacher),
        target=opened(recipe.target) if recipe.target else None,
        judge=judge,
        need=judge.keeps_need if judge else None,
    )


def _policy(recipe: Recipe) -> Policy:
    from vlmguard.policy import load_policy

    return load_policy(recipe.folder / recipe.policy if recipe.policy else None)


def _finish(store: Store, recipe: Recipe, folder: Path) -> None:
    from vlmguard.synth.card import write_card
    from vlmguard.synth.export import export

    write_card(store, recipe, export(store, recipe, folder), folder)


def _report(store: Store) -> int:
    from vlmguard.synth.card import funnel

    flow = funnel(store)
    left = flow.rows
    print(f"{'rows':18} {left:>9,}")
    for gate, count in flow.drops:
        left -= count
        print(f"{gate:18} {-count:>9,}  → {left:,}")
    print(f"{'kept':18} {flow.kept:>9,}")
    for name, count in (("failed", flow.failed), ("still to do", flow.pending)):
        if count:
            print(f"{name:18} {count:>9,}")
    return 3 if flow.failed else 0
