"""``vlmguard refine``: judge one prompt with its pictures, or a file of them."""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from vlmguard.cli import models
from vlmguard.errors import ImageError, InputError
from vlmguard.images import DEFAULT_LIMITS, read_image, verify
from vlmguard.types import Chat, Guarded, Image, Level, Message, Modality, Text

if TYPE_CHECKING:
    from vlmguard.cli.batch import Asked

HELP = "judge a prompt and its pictures together, and refine the prompt where that is needed"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``refine``."""
    parser.add_argument("prompt", nargs="?", help="what the user asks ('-' reads it from standard input)")
    parser.add_argument(
        "--image",
        "-i",
        action="append",
        default=[],
        metavar="FILE",
        type=Path,
        help="a picture; may be given several times",
    )
    parser.add_argument("--json", action="store_true", help="print JSON for programs (docs/json.md)")
    parser.add_argument(
        "--explain", action="store_true", help="show which words moved the score (takes a little longer)"
    )
    parser.add_argument("--policy", type=Path, metavar="FILE", help="a TOML file laid over the default policy")
    parser.add_argument("--monitor", action="store_true", help="judge and record, change nothing")
    models.add_rewriter_arguments(parser)
    parser.add_argument("--batch", type=Path, metavar="IN.jsonl", help="refine every row of a file instead")
    parser.add_argument(
        "--out", type=Path, metavar="OUT.jsonl", help="where --batch writes; a run that was stopped resumes"
    )
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="processes of --batch (default: all cores); with a model, rows at a time (32)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Exit code: 0 judged, 3 a batch with error rows. Raises ``InputError``, ``GuardError``."""
    if arguments.explain and (arguments.json or arguments.batch is not None):
        raise InputError("--explain is for the panel: leave --json and --batch out")
    if arguments.explain and arguments.rewriter != "embedded" and not arguments.rewriter.startswith("tiered:"):
        raise InputError("--explain tells of the embedded scorer, and that rewriter has none")
    if arguments.batch is not None:
        return _run_batch(arguments)
    if arguments.out is not None or arguments.workers is not None:
        raise InputError("--out and --workers go with --batch")
    if arguments.prompt is None and not arguments.image:
        raise InputError(
            "give a prompt, or --image FILE, or --batch IN.jsonl --out OUT.jsonl (see vlmguard refine --help)"
        )
    return asyncio.run(_refine_one(arguments))


def _run_batch(arguments: argparse.Namespace) -> int:
    from vlmguard.cli.batch import refine_file

    if arguments.out is None:
        raise InputError("--batch needs --out OUT.jsonl")
    if arguments.prompt is not None or arguments.image:
        raise InputError("--batch takes its prompts and pictures from the file; leave PROMPT and --image out")
    if arguments.workers is not None and arguments.workers < 1:
        raise InputError("--workers starts at 1")
    errors = refine_file(
        arguments.batch,
        arguments.out,
        policy=arguments.policy,
        monitor=arguments.monitor,
        workers=arguments.workers,
        asked=_asked(arguments),
    )
    return 3 if errors else 0


def _asked(arguments: argparse.Namespace) -> Asked | None:
    from vlmguard.cli.batch import EMBEDDED, Asked

    if arguments.rewriter == EMBEDDED:
        return None
    # A query may hold a key, and rows are for others to read.
    name = re.sub(r"\?[^#]*", "", arguments.rewriter)
    return Asked(name, lambda policy: models.rewriter(arguments, policy))


async def _refine_one(arguments: argparse.Namespace) -> int:
    from vlmguard.guard import Guard
    from vlmguard.json_form import guarded_form
    from vlmguard.policy import load_policy
    from vlmguard.types import Mode

    started = time.perf_counter()
    chat = _chat(arguments.prompt or "", arguments.image)
    policy = load_policy(arguments.policy)
    mode = Mode.MONITOR if arguments.monitor else Mode.ENFORCE
    guard = Guard(models.rewriter(arguments, policy), policy, mode=mode)
    try:
        guarded = await guard.refine(chat)
    finally:
        await guard.close()
    ms = (time.perf_counter() - started) * 1000
    if arguments.json:
        print(json.dumps(guarded_form(chat, guarded, ms), ensure_ascii=False, indent=2))
    else:
        from vlmguard.cli.panel import show

        show(chat, guarded, policy, ms, words=_words(chat, guarded) if arguments.explain else ())
    return 0


def _words(chat: Chat, guarded: Guarded) -> list[tuple[str, float]]:
    """The words that moved the gravest finding: the prompt's, or those that the evidence quotes from a picture."""
    from vlmguard.rewriters.scorer import EmbeddedScorer

    worst = guarded.refinement.report.worst
    if worst.level is Level.NONE:
        return []
    modality = next(modality for modality, finding in guarded.refinement.report if finding is worst)
    if modality is Modality.TEXT:
        return EmbeddedScorer().explain(chat.prompt)
    quoted = (item.observation.split('"', 1) for item in guarded.refinement.evidence if item.modality is modality)
    said = [parts[1].rpartition('"')[0] for parts in quoted if len(parts) > 1]
    return EmbeddedScorer().explain(said[-1]) if said else []


def _chat(prompt: str, files: list[Path]) -> Chat:
    if prompt == "-":
        prompt = _standard_input()
    pictures = tuple(load_picture(file) for file in files)
    return Chat((Message("user", (Text(prompt, "/prompt"), *pictures)),))


def _standard_input() -> str:
    try:
        return sys.stdin.buffer.read().decode().rstrip("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"standard input is not UTF-8: {error}") from error


def load_picture(file: Path) -> Image:
    """A picture from disk, decoded once to be sure that it is whole. Raises ``ImageError``."""
    try:
        if file.exists() and not file.is_file() and not file.is_dir():
            raise ImageError(f"{file} is no regular file")
        with file.open("rb") as opened:
            data = opened.read(DEFAULT_LIMITS.max_bytes + 1)
    except IsADirectoryError as error:
        raise ImageError(f"{file} is a directory; name a picture in it") from error
    except FileNotFoundError as error:
        raise ImageError(f"{file} does not exist") from error
    except (OSError, ValueError) as error:
        raise ImageError(f"{file} cannot be read: {error}") from error
    image = read_image(data, str(file))
    verify(image)
    return image
