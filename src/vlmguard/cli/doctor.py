"""``vlmguard doctor``: what is installed, which extras work, the weights and their hashes, and a self-test.

With ``--model SPEC`` it tries that model instead: words, a tiny picture, streaming, and whether it can judge."""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import importlib.util
import io
import json
import platform
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from vlmguard import __version__, chat
from vlmguard.cli import models
from vlmguard.errors import VlmguardError
from vlmguard.types import Sampling

if TYPE_CHECKING:
    from vlmguard.models.spec import Named

HELP = "show what is installed, which extras work, the weights and their hashes; run a self-test"

CORE = ("aiohttp", "numpy", "pillow", "onnxruntime", "rapidocr", "zxing-cpp", "tokenizers", "rich")
EXTRAS: dict[str, tuple[str, ...]] = {
    "eval": ("jinja2", "scipy"),
    "gateway": ("aiohttp", "aiosqlite", "httptools", "jinja2", "prometheus_client", "sqlalchemy", "uvicorn"),
    "local": ("torch", "transformers", "peft", "accelerate"),
    "otel": ("opentelemetry.sdk", "opentelemetry.exporter.otlp"),
    "parquet": ("pyarrow",),
    "postgres": ("asyncpg",),
    "ray": ("ray",),
    "synth": ("datasketch", "matplotlib", "pyarrow", "yaml"),
    "train": ("accelerate", "datasets", "peft", "torch", "transformers", "trl"),
}
"""Extra → the modules that it needs."""
_LONGEST_IMPORT = 120.0
"""Seconds: torch on a cold, slow disk."""


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the doctor's report."""

    name: str
    ok: bool
    detail: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``doctor``."""
    parser.add_argument("--json", action="store_true", help="print JSON for programs")
    parser.add_argument("--model", metavar="SPEC", help=f"try a model instead: {models.SPECS}")
    models.add_asking_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Exit code: 0 when all is well, 1 when something does not work; what is not installed is no fault."""
    checks = asyncio.run(_try_model(arguments)) if arguments.model else [*_packages(), *_extras(), *_self_test()]
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
    """An extra that is not installed is no fault; one that is there and does not load is."""
    with ThreadPoolExecutor(2) as two:
        return list(two.map(_extra, EXTRAS, EXTRAS.values()))


def _extra(extra: str, modules: tuple[str, ...]) -> Check:
    """In a process of its own: what a broken library does there, it does to itself."""
    name = f"extra {extra}"
    missing = [module for module in modules if importlib.util.find_spec(module.partition(".")[0]) is None]
    if missing:
        return Check(name, True, f"not installed ({', '.join(missing)}): pip install 'vlmguard[{extra}]'")
    command = [sys.executable, "-c", f"import {', '.join(modules)}"]
    try:
        tried = subprocess.run(command, capture_output=True, text=True, timeout=_LONGEST_IMPORT, check=False)
    except subprocess.TimeoutExpired:
        return Check(name, False, f"does not load within {_LONGEST_IMPORT:g} s")
    if tried.returncode:
        said = tried.stderr.strip().splitlines() or [f"exit code {tried.returncode}"]
        return Check(name, False, f"does not load: {said[-1]}; pip install --force-reinstall 'vlmguard[{extra}]'")
    return Check(name, True, "works")


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
    from vlmguard.guard import Guard
    from vlmguard.types import Outcome

    guarded = asyncio.run(Guard().refine(chat("What is the capital of France?")))
    if guarded.outcome is not Outcome.FORWARD:
        raise ValueError(f"a harmless question was not forwarded ({guarded.outcome}): reinstall vlmguard")
    return "a harmless question is forwarded"


# ---------------------------------------------------------------------------------------------------------------------
# A model


async def _try_model(arguments: argparse.Namespace) -> list[Check]:
    """Each line stands on the ones before: the first that fails is the one to mend, and ends the list."""
    from vlmguard.models.spec import make_model
    from vlmguard.models.wrapper import close

    settings = models.settings(arguments)
    checks: list[Check] = []
    named = make_model(arguments.model, settings)
    try:
        for name, probe in _PROBES.items():
            started = time.perf_counter()
            try:
                async with asyncio.timeout(settings.deadline):
                    detail = await probe(named)
            except TimeoutError:
                checks.append(Check(name, False, f"no answer within {settings.deadline:g} s: raise --deadline"))
            except (VlmguardError, ValueError) as error:
                checks.append(Check(name, False, f"{error}{await _models_there(named)}"))
            else:
                checks.append(Check(name, True, f"{detail} ({time.perf_counter() - started:.1f} s)"))
            if not checks[-1].ok:
                break
    finally:
        await close(named.model)
    return checks


async def _models_there(named: Named) -> str:
    """The models that an endpoint lists, where it does: the name in the spec may be another."""
    from vlmguard.models.endpoint import EndpointModel

    if not isinstance(named.model, EndpointModel):
        return ""
    try:
        async with asyncio.timeout(10):
            names = await named.model.models()
    except (VlmguardError, TimeoutError):
        return ""
    return f"; models there: {', '.join(names[:20])}" if names else ""


async def _answers(named: Named) -> str:
    said = await named.model.generate(chat("Say hello."), Sampling(max_tokens=32))
    return f"{named.name} says {_short(said.text)}"


async def _sees(named: Named) -> str:
    from PIL import Image

    picture = Image.new("RGB", (56, 56), "red")
    file = io.BytesIO()
    picture.save(file, "PNG")
    question = "What is the main colour of this picture? Answer with one word."
    said = await named.model.generate(chat(question, [file.getvalue()]), Sampling(max_tokens=32))
    if "red" not in said.text.lower():
        raise ValueError(f"it says {_short(said.text)} of a plain red picture: is it a vision-language model?")
    return f"says {_short(said.text)} of a red picture"


async def _streams(named: Named) -> str:
    from vlmguard.models.wrapper import open_stream

    pieces = [piece async for piece in open_stream(named.model, chat("Say hello."), Sampling(max_tokens=32))]
    return f"{len(pieces)} pieces" if len(pieces) > 1 else "one piece: a harmless chat costs as much as any"


async def _judges(named: Named) -> str:
    from vlmguard.policy import load_policy
    from vlmguard.rewriters.model import ModelRewriter

    rewriter = ModelRewriter(named.model, load_policy(), name=named.name)
    review = await rewriter.refine(chat("What is the capital of France?"))
    if review.refinement.prompt is not None:
        raise ValueError("it rewrites a harmless question: it is of little use as a rewriter")
    return "a harmless question is forwarded, in the trace grammar"


def _short(text: str) -> str:
    from vlmguard.cli.panel import printable

    flat = " ".join(printable(text).split())
    return repr(flat if len(flat) <= 60 else f"{flat[:60]}…")


_PROBES: dict[str, Callable[[Named], Awaitable[str]]] = {
    "answers": _answers,
    "sees": _sees,
    "streams": _streams,
    "judges": _judges,
}


def _show(checks: list[Check]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from vlmguard.cli.panel import printable

    table = Table(title=f"vlmguard {__version__}", title_justify="left", box=None, show_header=False)
    for check in checks:
        mark = Text("✓", style="green") if check.ok else Text("✗", style="red")
        table.add_row(mark, Text(printable(check.name)), Text(printable(check.detail)))
    Console(highlight=False).print(table)
