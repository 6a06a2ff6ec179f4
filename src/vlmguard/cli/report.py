"""``vlmguard report DIR [DIR…]``: the report of a run, or of several beside each other."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "write the report of one evaluation, or of several beside each other"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Folders of runs, and where the report goes."""
    parser.add_argument("runs", type=Path, nargs="+", metavar="DIR")
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: the first run's folder")


def run(arguments: argparse.Namespace) -> int:
    """Exit code 0. Raises ``InputError``, ``MissingExtraError``."""
    from vlmguard.evaluate.report import write_report

    for file in write_report(arguments.runs, arguments.out or arguments.runs[0]):
        print(file)
    return 0
