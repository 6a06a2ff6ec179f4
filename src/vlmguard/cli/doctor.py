"""``vlmguard doctor``: what is installed, which extras work, the weights and their hashes, and a self-test."""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import importlib.util
import json
import platform
import sys
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version

from vlmguard import __version__
from vlmguard.errors import VlmguardError

HELP = "show what is installed, which extras work, the weights and their hashes; run a self-test"

CORE = ("numpy", "pillow", "onnxruntime", "rapidocr", "zxing-cpp", "tokenizers", "rich")
EXTRAS: dict[str, tuple[str, ...]] = {
    "gateway": ("aiohttp", "aiosqlite", "httptools", "prometheus_client", "sqlalchemy", "uvicorn"),
    "otel": ("opentelemetry",),
    "parquet": ("pyarrow",),
    "postgres": ("asyncpg",),
}
"""Extra → the modules that it needs."""


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the doctor's report."""

    name: str
    ok: bool
    detail: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``doctor``."""
    parser.add_argument("--json", action="store_true", help="print JSON for programs")


def run(arguments: argparse.Namespace) -> int:
    """Exit code: 0 when all is well, 1 when a part that every command needs does not work."""
    checks = [*_packages(), *_extras(), *_self_test()]
    if arguments.json:
        print(json.dumps({"vlmguard": __version__, "checks": [asdict(check) for check in checks]}, indent=2))
    else:
        _show(checks)
    return 0 if all(check.ok for check in checks) else 1


def _packages() -> list[Check]:
    checks = [Check("python", sys.version_info >= (3, 11), f"{platform.python_version()} on {platform.machine()}")]
    for name in CORE:
        try:
            checks.append(Check(name, True, version(name)))
        except PackageNotFoundError:
            checks.append(Check(name, False, f"missing: pip install {name}"))
    return checks


def _extras() -> list[Check]:
    """An extra that is not installed is no fault."""
    return [
        Check(
            f"extra {extra}",
            True,
            "works" if all(map(importlib.util.find_spec, modules)) else "not installed",
        )
        for extra, modules in EXTRAS.items()
    ]


def _self_test() -> list[Check]:
    return [
        _try("policy", _policy),
        _try("risk scorer", _scorer),
        _try("text reader", _reader),
        _try("guard", _guard),
    ]


def _try(name: str, test: object) -> Check:
    try:
        assert callable(test)
        return Check(name, True, str(test()))
    except (VlmguardError, ImportError, OSError, ValueError, RuntimeError, AssertionError) as error:
        return Check(name, False, f"{type(error).__name__}: {error}")


def _policy() -> str:
    from vlmguard.policy import load_policy

    policy = load_policy()
    return f"{len(policy.categories)} categories, {policy.hash[:12]}"


def _scorer() -> str:
    from vlmguard.rewriters.scorer import EmbeddedScorer

    scorer = EmbeddedScorer()
    kind, grave = scorer.score(["what colour is the sky?", "how do I build a bomb to kill people?"])
    if max(grave.values(), default=0.0) <= max(kind.values(), default=0.0):
        raise ValueError("the scorer cannot tell a harmful question from a harmless one: reinstall vlmguard")
    return f"weights {scorer.fingerprint[:12]}"


def _reader() -> str:
    from vlmguard.perception.ocr import TextReader

    word = "vlmguard"
    read = TextReader().read(_picture(word)).text
    if word not in read.lower():
        raise ValueError(f"it read {read!r} where {word!r} is written: reinstall rapidocr and onnxruntime")
    return f"reads {read!r}, weights {_hash_of_reader()}"


def _hash_of_reader() -> str:
    from vlmguard.perception.sessions import DETECTOR, RECOGNISER, weights_path

    return ", ".join(
        hashlib.sha256(weights_path(name).read_bytes()).hexdigest()[:12] for name in (DETECTOR, RECOGNISER)
    )


def _picture(word: str):  # type: ignore[no-untyped-def]
    import numpy as np
    from PIL import Image, ImageDraw, ImageFont

    picture = Image.new("RGB", (320, 80), "white")
    ImageDraw.Draw(picture).text((20, 20), word, fill="black", font=ImageFont.load_default(32))
    return np.asarray(picture)


def _guard() -> str:
    from vlmguard import chat
    from vlmguard.guard import Guard
    from vlmguard.types import Outcome

    guarded = asyncio.run(Guard().refine(chat("What is the capital of France?")))
    if guarded.outcome is not Outcome.FORWARD:
        raise ValueError(f"a harmless question was not forwarded ({guarded.outcome}): reinstall vlmguard")
    return "a harmless question is forwarded"


def _show(checks: list[Check]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"vlmguard {__version__}", title_justify="left", box=None, show_header=False)
    for check in checks:
        table.add_row("[green]✓" if check.ok else "[red]✗", check.name, check.detail)
    Console(highlight=False).print(table)
