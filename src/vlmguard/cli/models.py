"""The options that say which rewriter judges and how a model is asked: the same for every command that has them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from vlmguard.errors import InputError

if TYPE_CHECKING:
    from vlmguard.models.spec import ModelSettings
    from vlmguard.policy import Policy
    from vlmguard.protocols import Rewriter

SPECS = "endpoint:http://HOST:PORT/v1#MODEL, local:FOLDER[#ADAPTER] or scripted:FILE"


def add_rewriter_arguments(parser: argparse.ArgumentParser) -> None:
    """``--rewriter`` and how its model is asked."""
    parser.add_argument(
        "--rewriter",
        metavar="SPEC",
        default="embedded",
        help=f"who judges: embedded (default), {SPECS}, or tiered:SPEC (embedded first, the model behind it)",
    )
    add_asking_arguments(parser)


def add_asking_arguments(parser: argparse.ArgumentParser) -> None:
    """How a model is asked."""
    parser.add_argument(
        "--key-env", metavar="NAME", help="environment variable with the model's key (default: VLMGUARD_API_KEY)"
    )
    parser.add_argument("--deadline", metavar="SECONDS", type=float, help="for one judgement (default: 30)")
    parser.add_argument(
        "--cache", metavar="FOLDER", type=Path, help="keep the model's answers there, and use them again"
    )
    parser.add_argument(
        "--record", metavar="FILE.jsonl", type=Path, help="write the model's questions and answers there"
    )


def settings(arguments: argparse.Namespace) -> ModelSettings:
    """How a model is asked, of what was given. Raises ``InputError``."""
    from vlmguard.models.spec import ModelSettings

    standard = ModelSettings()
    deadline = standard.deadline if arguments.deadline is None else arguments.deadline
    if not 0 < deadline < 86_400:
        raise InputError(f"--deadline is a number of seconds above 0, not {deadline:g}")
    return ModelSettings(
        key_env=arguments.key_env or standard.key_env, deadline=deadline, cache=arguments.cache, record=arguments.record
    )


def rewriter(arguments: argparse.Namespace, policy: Policy) -> Rewriter:
    """The rewriter that was asked for. Raises ``InputError``, ``MissingExtraError``, ``ModelError``."""
    from vlmguard.rewriters.select import make_rewriter
    from vlmguard.rewriters.tiered import OperatingPoints

    asking = settings(arguments)
    points = OperatingPoints() if arguments.deadline is None else OperatingPoints(deadline=asking.deadline)
    return make_rewriter(arguments.rewriter, policy, settings=asking, points=points)
