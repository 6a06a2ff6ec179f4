"""``vlmguard train``: a rewriter from a base VLM and a dataset."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path

from vlmguard.cli import prefer, r1_act

HELP = "train a rewriter on a dataset of vlmguard synth: supervised, then by preferences"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """``train r1-act | sft | prefer | merge``."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    help = "a base VLM and a dataset become a rewriter; a run that was stopped goes on where it was"
    action = actions.add_parser("sft", help=help, description=help)
    action.add_argument("recipe", type=Path, metavar="RECIPE.yaml")
    action.add_argument("--out", type=Path, required=True, metavar="RUN", help="folder of the run")
    action.add_argument("--base", metavar="MODEL", help="folder or hub id, in place of the recipe's")
    action.add_argument("--dataset", type=Path, metavar="FOLDER", help="in place of the recipe's")
    r1_act.add_arguments(actions.add_parser("r1-act", help=r1_act.HELP, description=r1_act.HELP))
    prefer.add_arguments(actions.add_parser("prefer", help=prefer.HELP, description=prefer.HELP))
    help = "an adapter and its base become whole weights, for any server"
    action = actions.add_parser("merge", help=help, description=help)
    action.add_argument(
        "run", type=Path, metavar="RUN", help="folder of a finished run, or of an adapter that names its base"
    )
    action.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="of the merged model")


def run(arguments: argparse.Namespace) -> int:
    """Exit code: 0 done, 3 done with rows left out (0 under a launcher of several processes).

    Raises ``InputError``, ``MissingExtraError``, ``TrainError``.
    """
    return {"sft": _sft, "r1-act": r1_act.run, "prefer": _prefer, "merge": _merge}[arguments.action](arguments)


def _sft(arguments: argparse.Namespace) -> int:
    from vlmguard.train.recipe import load_recipe
    from vlmguard.train.run import read_state
    from vlmguard.train.sft import sft

    recipe = load_recipe(arguments.recipe)
    if arguments.base:
        place = Path(arguments.base)
        recipe = replace(recipe, base=str(place.resolve()) if place.is_dir() else arguments.base)
    if arguments.dataset:
        recipe = replace(recipe, dataset=str(arguments.dataset.resolve()))
    done = sft(recipe, arguments.out.resolve(), tell=_tell)
    if os.environ.get("RANK", "0") != "0":  # one of several processes of a launcher; the first one speaks
        return 0
    measured = read_state(done.folder)["held_out"]
    held_out = "".join(f", {name} {found['value']:.1%} of {found['n']}" for name, found in measured.items())
    print(f"{done.steps} steps, loss {done.loss:.4f}{held_out}")
    print(f"The card: {arguments.out / 'README.md'}\nTo use it: vlmguard refine … --rewriter local:{arguments.out}")
    launched = os.environ.get("WORLD_SIZE", "1") != "1"  # launchers take any code but 0 for a crash
    return 3 if done.error_rows and not launched else 0


def _prefer(arguments: argparse.Namespace) -> int:
    return prefer.run(arguments, _tell)


def _merge(arguments: argparse.Namespace) -> int:
    from vlmguard.train.card import vllm_command
    from vlmguard.train.merge import merge

    place = merge(arguments.run.resolve(), arguments.out.resolve())
    print(place)
    print("\n".join(vllm_command(str(place))))
    return 0


def _tell(line: str) -> None:
    from vlmguard.cli.panel import printable

    print(printable(line), file=sys.stderr)
