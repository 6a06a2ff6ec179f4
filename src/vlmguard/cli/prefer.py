"""``vlmguard train prefer``: the preference stage, with target and judge from their specs."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from vlmguard.errors import InputError

if TYPE_CHECKING:
    from vlmguard.models.spec import Named
    from vlmguard.protocols import Model
    from vlmguard.train.outcome import Jury
    from vlmguard.train.preference import Preference

HELP = "a rewriter's own samples become pairs, and it learns from these; a run that was stopped goes on where it was"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """``RECIPE.yaml --out RUN [--model FOLDER] [--dataset FOLDER]``."""
    parser.add_argument("recipe", type=Path, metavar="RECIPE.yaml")
    parser.add_argument("--out", type=Path, required=True, metavar="RUN", help="folder of the run")
    parser.add_argument("--model", metavar="MODEL", help="the rewriter to begin with, in place of the recipe's")
    parser.add_argument("--dataset", type=Path, metavar="FOLDER", help="in place of the recipe's")


def run(arguments: argparse.Namespace, tell: Callable[[str], None]) -> int:
    """Exit code 0. Raises ``InputError``, ``MissingExtraError``, ``ModelError``, ``TrainError``."""
    from dataclasses import replace

    from vlmguard.train.prefer import prefer
    from vlmguard.train.preference import load_preference

    recipe = load_preference(arguments.recipe)
    if arguments.model:
        place = Path(arguments.model)
        recipe = replace(recipe, model=str(place.resolve()) if place.is_dir() else arguments.model)
    if arguments.dataset:
        recipe = replace(recipe, dataset=str(arguments.dataset.resolve()))
    if recipe.target:
        _check(recipe)
    done = prefer(
        recipe,
        arguments.out.resolve(),
        open_jury=(lambda: open_jury(recipe)) if recipe.target else None,
        open_sampler=(lambda: _open(recipe.sampler, recipe)[0]) if recipe.sampler else None,
        tell=tell,
    )
    print("round    right  95 % interval    tokens   rows")
    for one in done.curve:
        right, tokens = one["right"], one["tokens"]
        mark = "*" if one["round"] == done.round else " "
        print(
            f"{one['round']:>5}{mark} {100 * right['value']:>7.1f} %  {100 * right['low']:>5.1f} to {100 * right['high']:>5.1f}"
            f"  {tokens['value']:>8.1f} {right['n']:>6}"
        )
    taken = (
        "was taken"
        if done.round
        else "was taken: no round is better than what was begun with, which is handed over unchanged"
    )
    print(f"* {taken}. These rows chose it, so that its interval flatters it a little")
    print(f"The curve: {arguments.out / 'curve.png'}")
    print(f"To use it: vlmguard refine … --rewriter local:{arguments.out}")
    return 0


def open_jury(recipe: Preference) -> Jury:
    """Target and judge of a recipe. Raises ``InputError``, ``MissingExtraError``, ``ModelError``."""
    from vlmguard.judges.select import make_judge
    from vlmguard.models.wrapper import close
    from vlmguard.train.outcome import Jury

    target, named = _open(recipe.target, recipe)
    opened, identities = [target], [named.identity]

    def judging(spec: str) -> tuple[Model, str]:
        model, of = _open(spec, recipe)
        opened.append(model)
        identities.append(of.identity)
        return model, of.name

    judge = make_judge(_placed(recipe.judge, recipe), judging)

    async def close_all() -> None:
        for model in opened:
            await close(model)

    return Jury(target, judge, " ".join((*identities, judge.name)), close_all)


def _check(recipe: Preference) -> None:
    """That the specs can be read, before anything is sampled; what costs memory is opened later."""
    from vlmguard.models.spec import parse_spec

    if parse_spec(_placed(recipe.target, recipe)).kind != "local" and ":local:" not in f":{recipe.judge}":
        asyncio.run(_open_once(recipe))


async def _open_once(recipe: Preference) -> None:
    await open_jury(recipe).close()


def _open(spec: str, recipe: Preference) -> tuple[Model, Named]:
    from vlmguard.models.spec import ModelSettings, make_model, wrap

    settings = ModelSettings(deadline=300.0, retries=2, concurrency=16, breaker_failures=1_000_000)
    named = make_model(_placed(spec, recipe), settings)
    return wrap(named, settings), named


def _placed(spec: str, recipe: Preference) -> str:
    """A spec whose file or folder is relative to the recipe."""
    kind, _, where = spec.partition(":")
    place = recipe.folder / where.partition("#")[0]
    if kind in ("scripted", "rules") or (kind == "local" and place.exists()):
        if kind != "local" and not place.is_file():
            raise InputError(f"{spec}: there is no file {place}")
        return f"{kind}:{recipe.folder / where}"
    return spec
