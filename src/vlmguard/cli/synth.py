"""``vlmguard synth``: the three-stage dataset, from a recipe to training rows."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmguard.errors import InputError, VlmguardError

if TYPE_CHECKING:
    from vlmguard.policy import Policy
    from vlmguard.synth.crew import Crew
    from vlmguard.synth.recipe import Recipe
    from vlmguard.synth.store import Store, Stored

HELP = "make a dataset for training rewriters: hindsight, causal analysis, prompt optimisation"

_PREVIEWED = 10
_PREVIEW_PATIENCE = 60.0
"""Seconds: somebody sits before a preview."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """``synth check | preview | run | export | status | trl``."""
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
    for what in (lambda: _policy(recipe), lambda: _check_models(recipe)):
        try:
            what()
        except VlmguardError as error:
            problems.append(str(error))
    for problem in problems:
        print(f"missing: {problem}")
    if problems:
        raise InputError(f"{len(problems)} thing(s) are missing")
    print("The sources are complete.")
    return 0


def _check_models(recipe: Recipe) -> None:
    """That the specs can be read. Whether a server answers, ``vlmguard doctor --model SPEC`` tells."""
    from vlmguard.models.spec import make_model, parse_spec

    for spec in filter(None, (recipe.teacher, recipe.target, recipe.judge)):
        placed = _placed(spec, recipe)
        if parse_spec(placed).kind != "local":
            make_model(placed)


def _run(arguments: argparse.Namespace, recipe: Recipe) -> int:
    with _open(arguments, recipe) as store:
        _work(arguments, recipe, store, arguments.engine)
        _finish(store, recipe, arguments.out)
        return _report(store)


def _preview(arguments: argparse.Namespace, recipe: Recipe) -> int:
    from vlmguard.pictures import PictureStore
    from vlmguard.synth.preview import estimate, write_page
    from vlmguard.synth.store import FAILED, KEPT, REJECTED

    with _open(arguments, recipe) as store:
        before = store.spent()
        chosen: list[str] = []
        _work(arguments, recipe, store, "local", most=_PREVIEWED, chosen=chosen)
        shown = [row for row in store.rows(KEPT, REJECTED, FAILED) if row.id in chosen]
        if not shown:
            print("Every row is done; nothing is left to preview.")
            return 0
        file = arguments.out / "preview.html"
        write_page(shown, store, PictureStore(arguments.out / "pictures"), file)
        _show(shown)
        spent = {name: amount - before.get(name, 0) for name, amount in store.spent().items()}
        pending = sum(count for (state, _), count in store.counts().items() if state == "pending")
        told = estimate(pending, len(shown), spent)
        print(
            f"\nThe page: {file}\nStill to do: {told.rows} rows, about {told.calls:,} calls, "
            f"{told.prompt_tokens:,} + {told.completion_tokens:,} tokens."
        )
        return 3 if any(row.state == FAILED for row in shown) else 0


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


def _export(arguments: argparse.Namespace, recipe: Recipe) -> int:
    with _open(arguments, recipe) as store:
        made = store.meta("recipe")
        if made is not None and made != recipe.fingerprint():
            raise InputError(
                "the recipe changed since the rows were made: vlmguard synth run does again what it touches"
            )
        _finish(store, recipe, arguments.out)
        return _report(store)


def _status(arguments: argparse.Namespace, recipe: Recipe) -> int:
    from vlmguard.synth.store import Store

    del recipe
    if not (arguments.out / "run.sqlite").is_file():
        raise InputError(f"{arguments.out} holds no run")
    with Store(arguments.out) as store:
        return _report(store)


def _trl(arguments: argparse.Namespace, recipe: Recipe) -> int:
    from vlmguard.rewriters.quoting import rewriter_chat
    from vlmguard.synth.export import export_trl

    policy = _policy(recipe)
    count = export_trl(arguments.out, lambda chat: rewriter_chat(chat, policy, b""))
    print(f"{count} training rows: {arguments.out / 'trl'}")
    return 0


# ---------------------------------------------------------------------------------------------------------------------


def _open(arguments: argparse.Namespace, recipe: Recipe) -> Store:
    """The run's state, with the rows of the sources in it."""
    from vlmguard.cli.panel import progress
    from vlmguard.synth.prepare import prepare, warnings
    from vlmguard.synth.store import Store

    _policy(recipe)
    _check_models(recipe)
    arguments.out = arguments.out.resolve()
    store = Store(arguments.out)
    try:
        for warning in warnings(recipe):
            _tell(f"note: {warning}")
        with progress(None, "reading the sources") as advance:
            prepare(recipe, arguments.out, store, lambda: advance(1), _tell)
    except BaseException:
        store.close()
        raise
    return store


def _tell(line: str) -> None:
    from vlmguard.cli.panel import printable

    print(printable(line), file=sys.stderr)


def _work(
    arguments: argparse.Namespace,
    recipe: Recipe,
    store: Store,
    engine: str,
    most: int | None = None,
    chosen: list[str] | None = None,
) -> None:
    from vlmguard.cli.panel import progress
    from vlmguard.synth.prepare import open_apart, repeats
    from vlmguard.synth.work import run_fingerprint

    policy = _policy(recipe)
    crew = open_crew(recipe)
    store.reopen(run_fingerprint(crew, recipe, policy))
    store.set_meta("recipe", recipe.fingerprint())
    if most is not None and chosen is not None:
        chosen += [id for id, _ in store.spread(most)]
    pending = sum(count for (state, _), count in store.counts().items() if state == "pending")
    with (
        open_apart(arguments.out) as apart,
        progress(
            min(pending, most or pending) * (2 if recipe.writes_twins and most is None else 1), "synthesising"
        ) as advance,
    ):

        def tick(ended: dict[str, Any]) -> None:
            del ended
            advance(1)

        def door(twin: dict[str, Any]) -> tuple[str, str]:
            words = " ".join(part.get("text", "") for turn in twin["messages"] for part in turn["parts"])
            reason = repeats(apart, [], words)
            return ("decontamination", reason) if reason else ("", "")

        if engine == "ray":
            from vlmguard.synth.engine_ray import run_ray

            run_ray(store, recipe, policy, arguments.out, open_crew, tick=tick, door=door, patience=arguments.patience)
            return
        asyncio.run(_locally(store, crew, recipe, policy, arguments, tick, door, most))


async def _locally(
    store: Store,
    crew: Crew,
    recipe: Recipe,
    policy: Policy,
    arguments: argparse.Namespace,
    tick: Callable[[dict[str, Any]], None],
    door: Callable[[dict[str, Any]], tuple[str, str]],
    most: int | None,
) -> None:
    from vlmguard.pictures import PictureStore
    from vlmguard.synth.engine_local import run_local

    pictures = PictureStore(arguments.out / "pictures")
    patience = min(arguments.patience, _PREVIEW_PATIENCE) if most is not None else arguments.patience
    try:
        await run_local(
            store, crew, recipe, policy, pictures, tick=tick, tell=_tell, door=door, patience=patience, most=most
        )
    finally:
        await crew.close()


def open_crew(recipe: Recipe) -> Crew:
    """The models that a recipe names. Raises ``InputError``, ``MissingExtraError``."""
    from vlmguard.judges.model import ModelJudge
    from vlmguard.models.spec import ModelSettings, make_model, wrap
    from vlmguard.models.wrapper import close
    from vlmguard.synth.crew import Crew, Meter, Metered

    settings = ModelSettings(deadline=300.0, retries=2, concurrency=recipe.concurrency, breaker_failures=1_000_000)
    specs = {"teacher": recipe.teacher, "target": recipe.target, "judge": recipe.judge}
    named = {role: make_model(_placed(spec, recipe), settings) for role, spec in specs.items() if spec}
    wrapped = {role: wrap(one, settings) for role, one in named.items()}
    meter = Meter()
    metered = {role: Metered(model, meter) for role, model in wrapped.items()}
    judge = ModelJudge(metered["judge"], named["judge"].name) if "judge" in named else None
    return Crew(
        teacher=metered["teacher"],
        target=metered.get("target"),
        judge=judge,
        need=judge.keeps_need if judge else None,
        identities={role: one.identity for role, one in named.items()},
        names={role: f"{one.name} ({one.weights[:16]})" for role, one in named.items()},
        meter=meter,
        closers=tuple(partial(close, model) for model in wrapped.values()),
    )


def _placed(spec: str, recipe: Recipe) -> str:
    """A spec whose file or folder is relative to the recipe."""
    kind, _, where = spec.partition(":")
    place = recipe.folder / where.partition("#")[0]
    return f"{kind}:{recipe.folder / where}" if kind == "scripted" or (kind == "local" and place.exists()) else spec


def _policy(recipe: Recipe) -> Policy:
    from vlmguard.policy import load_policy

    return load_policy(recipe.folder / recipe.policy if recipe.policy else None)


def _finish(store: Store, recipe: Recipe, folder: Path) -> None:
    from vlmguard.synth.card import write_card
    from vlmguard.synth.export import export

    write_card(store, recipe, export(store, recipe, folder), folder)


def _report(store: Store) -> int:
    from vlmguard.cli.panel import printable
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
    for reason, count in store.failures(most=3):
        print(f"  {count:,} × {printable(reason)[:200]}")
    return 3 if flow.failed else 0
