"""``vlmguard train r1-act``: a dataset of short rows from one of ``vlmguard synth``."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "short rows after R1-Act from a dataset: understanding, assessment, and then to stop or to go on"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """``DATASET --out FOLDER [--rows N] [--benign SHARE] [--seed N]``."""
    parser.add_argument("dataset", type=Path, metavar="DATASET", help="folder that vlmguard synth wrote")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="of the short dataset")
    parser.add_argument("--rows", type=int, default=1000, metavar="N", help="training rows (default 1000)")
    parser.add_argument("--benign", type=float, default=0.3, metavar="SHARE", help="of benign rows (default 0.3)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="which rows are drawn")


def run(arguments: argparse.Namespace) -> int:
    """Exit code 0. Raises ``InputError``."""
    from vlmguard.train.r1_act import write_rows

    done = write_rows(
        arguments.dataset, arguments.out, count=arguments.rows, benign=arguments.benign, seed=arguments.seed
    )
    print(
        f"{done.benign} benign and {done.risky} risky training rows, {done.validation} validation rows: {arguments.out}"
    )
    return 0
