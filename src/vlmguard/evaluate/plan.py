"""What is to be evaluated: a plan, from a TOML file or from the command line, refused at once where it cannot run."""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from vlmguard.errors import InputError
from vlmguard.types import Sampling

Defence = str | Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Plan:
    """Benchmarks × targets × defences × seeds, and who judges."""

    benchmarks: tuple[str, ...]
    """``NAME:FOLDER`` (``benchmarks.select``)."""
    targets: tuple[str, ...]
    """Specs of models, or ``LABEL=SPEC``."""
    defences: tuple[Defence, ...] = ("none", "vlmguard:embedded", "safety-prompt")
    """``defences.select``; a plain safety prompt is always worth its row."""
    judges: tuple[str, ...] = ("refusal",)
    """``judges.select``; the first one is the report's main judge."""
    seeds: tuple[int, ...] = (0,)
    max_tokens: int = 1024
    temperature: float = 0.0
    concurrency: int = 64
    """Answers under way at a time, and as many verdicts."""
    limit: int | None = None
    """Samples of each benchmark, drawn by their hash; ``None`` = all."""
    deadline: float = 600.0
    """Seconds for one call."""
    patience: float = 7200.0
    """Seconds that a model may be away before its rows become error rows."""
    policy: str = ""
    key_env: str = "VLMGUARD_API_KEY"
    prices: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Model's name → price of a million prompt tokens and of a million completion tokens, in any currency."""
    folder: Path = Path()
    """What relative paths in the plan start from."""

    def __post_init__(self) -> None:
        for name in ("benchmarks", "targets", "defences", "judges", "seeds"):
            if not getattr(self, name):
                raise InputError(f"the plan names no {name}")
            if len({json.dumps(item, sort_keys=True) for item in getattr(self, name)}) < len(getattr(self, name)):
                raise InputError(f"the plan names one of its {name} twice")
        for name, least in (("max_tokens", 1), ("concurrency", 1), ("deadline", 0.001), ("patience", 0)):
            if getattr(self, name) < least:
                raise InputError(f"{name} is at least {least}, not {getattr(self, name)}")
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise InputError(f"temperature is 0 or more, not {self.temperature}")
        for name in ("deadline", "patience"):
            if math.isnan(getattr(self, name)):
                raise InputError(f"{name} is a number of seconds, not {getattr(self, name)}")
        if self.limit is not None and self.limit < 1:
            raise InputError(f"limit is at least 1, not {self.limit}")
        if self.temperature == 0 and len(self.seeds) > 1:
            raise InputError("several seeds with temperature 0 ask the same thing again: raise the temperature")

    def sampling(self, seed: int) -> Sampling:
        """How targets generate."""
        return Sampling(self.max_tokens, self.temperature, seed)

    def form(self) -> dict[str, Any]:
        """For the record beside the results."""
        form = asdict(self)
        form["folder"] = str(self.folder)
        return form


_LISTS = ("benchmarks", "targets", "defences", "judges", "seeds")
_KINDS: dict[str, type | tuple[type, ...]] = {
    "max_tokens": int,
    "temperature": (int, float),
    "concurrency": int,
    "limit": int,
    "deadline": (int, float),
    "patience": (int, float),
    "policy": str,
    "key_env": str,
}


def load_plan(file: Path) -> Plan:
    """The plan of a TOML file. Raises ``InputError`` with what is wrong."""
    try:
        told = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"the plan {file} cannot be read: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"the plan {file} is no TOML: {error}") from error
    return replace(make_plan(told, str(file)), folder=file.parent)


def make_plan(told: Mapping[str, Any], where: str) -> Plan:
    """The plan of named values. Raises ``InputError``."""
    values: dict[str, Any] = {}
    for name, value in told.items():
        if name in _LISTS:
            if not isinstance(value, list):
                raise InputError(f"{where}: {name} is a list")
            if name == "seeds" and not all(type(seed) is int for seed in value):
                raise InputError(f"{where}: seeds are whole numbers")
            if name not in ("seeds", "defences") and not all(isinstance(item, str) for item in value):
                raise InputError(f"{where}: {name} are texts")
            values[name] = tuple(value)
        elif name == "prices":
            values[name] = _prices(value, where)
        elif name in _KINDS and isinstance(value, _KINDS[name]) and not isinstance(value, bool):
            values[name] = value
        else:
            known = ", ".join((*_LISTS, *_KINDS, "prices"))
            raise InputError(f"{where}: {name} is unknown or of the wrong type; a plan has {known}")
    for name in ("benchmarks", "targets"):
        if name not in values:
            raise InputError(f"{where}: the plan names no {name}")
    return Plan(**values)


def _prices(value: Any, where: str) -> dict[str, tuple[float, float]]:
    if not isinstance(value, dict):
        raise InputError(f'{where}: prices are written "MODEL" = [prompt, completion], for a million tokens each')
    prices: dict[str, tuple[float, float]] = {}
    for model, pair in value.items():
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(price, int | float) for price in pair):
            raise InputError(f"{where}: the price of {model} is [prompt, completion], for a million tokens each")
        prices[model] = (float(pair[0]), float(pair[1]))
    return prices


PAPER_TARGETS: dict[str, str | None] = {
    "LLaVA-1.5-7B": "llava-hf/llava-1.5-7b-hf",
    "Qwen2-VL-7B": "Qwen/Qwen2-VL-7B-Instruct",
    "Qwen2.5-VL-72B": "Qwen/Qwen2.5-VL-72B-Instruct",
    "two or three more (version 1 has five VLMs, version 2 six)": None,
}
"""VLMGuard-R1's targets as far as we could learn them; ``None``: the paper has them and we do not know which."""


def paper_targets(address: str) -> tuple[str, ...]:
    """The known targets of the paper at one OpenAI-compatible address."""
    return tuple(f"{name}=endpoint:{address}#{model}" for name, model in PAPER_TARGETS.items() if model)
