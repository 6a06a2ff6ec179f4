"""``vlmguard train``: a rewriter from a base VLM and a dataset."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "train a rewriter: supervised, on a dataset of vlmguard synth"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """``train sft``."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    help = "a base VLM and a dataset become a rewriter; a run that was stopped goes on where it was"
    action = actions.add_parser("sft", help=help, description=help)
    action.add_argument("recipe", type=Path, metavar="RECIPE.yaml")
    action.add_argument("--out", type=Path, required=True, metavar="RUN", help="folder of the run")
    action.add_argument("--base", metavar="MODEL", help="folder or hub id, in place of the recipe's")
    action.add_argument("--dataset", type=Path, metavar="FOLDER", help="in place of the recipe's")


def run(arguments: argparse.Namespace) -> int:
    """Exit code: 0 done, 3 done with rows left out. Raises ``InputError``, ``MissingExtraError``, ``TrainError``."""
    from dataclasses import replace

    from vlmguard.train.recipe import load_recipe
    from vlmguard.train.sft import sft

    recipe = load_recipe(arguments.recipe)
    if arguments.base:
        place = Path(arguments.base)
        recipe = replace(recipe, base=str(place.resolve()) if place.is_dir() else arguments.base)
    if arguments.dataset:
        recipe = replace(recipe, dataset=str(arguments.dataset.resolve()))
    done = sft(recipe, arguments.out.resolve())
    print(f"{done.steps} steps, loss {done.loss:.4f}: vlmguard refine --rewriter local:{arguments.out}")
    return 3 if done.error_rows else 0
