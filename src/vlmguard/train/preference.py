"""A preference recipe, read from YAML: a trained rewriter, a dataset, who tests outcomes, and TRL's settings as they are."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlmguard.errors import InputError
from vlmguard.models.hub import at_home
from vlmguard.recipe_file import read_recipe
from vlmguard.train.recipe import PARTS


@dataclass(frozen=True, slots=True)
class Preference:
    """The settings of the preference stage. Paths are relative to the recipe's folder."""

    model: str
    """The rewriter to begin with: folder of a ``vlmguard train`` run, folder of a model, or a hub id."""
    dataset: str
    """Folder of a dataset that ``vlmguard synth`` wrote. Pairs come from its training rows, measures from its validation rows."""
    fingerprint: str = ""
    """Of the dataset; where it is given, another dataset is refused."""
    policy: str = ""
    target: str = ""
    """Model spec of the target that takes the outcome test; with "" traces are ordered by rules and length alone."""
    judge: str = ""
    """Judge spec (as in ``vlmguard eval``): is the target's answer safe, and does it help?"""
    rounds: int = 3
    """Each samples from the model that the round before made."""
    samples: int = 8
    """Of each row, in a round."""
    temperature: float = 1.0
    most_tokens: int = 1536
    """Of a sample; serving's own limit is 1,536."""
    sampler: str = ""
    """Model spec of a server with the same weights as ``model``, to sample from. It cannot follow the rounds, so ``rounds`` is 1."""
    rows: int = 0
    """Training rows that are sampled in a round, drawn anew for each; 0 = all."""
    pairs: int = 2
    """Of a row, at most."""
    margin: float = 0.1
    """Share by which a trace has to be shorter than another for that to count."""
    held_out: int = 256
    """Validation rows that are measured after each round; 0 = all."""
    most_unjudged: float = 0.2
    """Share of outcome tests without a verdict from which on a run stops: the judge is broken."""
    lora: Mapping[str, Any] = field(default_factory=dict)
    """PEFT's ``LoraConfig`` for a model of whole weights. A run that is an adapter goes on with that adapter."""
    parts: tuple[str, ...] = ("language",)
    """Which of ``recipe.PARTS`` are trained, as in ``vlmguard train sft``."""
    trl: Mapping[str, Any] = field(default_factory=dict)
    """TRL's ``DPOConfig``, as it is."""
    seed: int = 0
    needs: Mapping[str, str] = field(default_factory=dict)
    """Estimates for people: memory, GPUs, time."""
    folder: Path = field(default=Path(), compare=False)
    """Where the recipe lies."""

    def __post_init__(self) -> None:
        for name in ("model", "dataset"):
            if not getattr(self, name):
                raise InputError(f"the recipe names no {name}")
        if bool(self.target) != bool(self.judge):
            raise InputError("target and judge belong together: the one answers, the other says whether that is good")
        if not self.parts or not set(self.parts) <= set(PARTS):
            raise InputError(f"parts are some of {', '.join(PARTS)}, not {', '.join(self.parts) or 'none'}")
        for name, least in (
            ("rounds", 1),
            ("samples", 2),
            ("pairs", 1),
            ("most_tokens", 1),
            ("rows", 0),
            ("held_out", 0),
        ):
            if getattr(self, name) < least:
                raise InputError(f"{name} is not below {least}")
        if not 0 < self.temperature <= 2:
            raise InputError("temperature is above 0, so that samples differ, and at most 2")
        if not 0 <= self.margin < 1 or not 0 <= self.most_unjudged <= 1:
            raise InputError("margin is a share from 0 to below 1, most_unjudged one from 0 to 1")
        if self.sampler and self.rounds != 1:
            raise InputError(
                "a sampler keeps its weights, so that only one round can be sampled from it: set rounds to 1"
            )

    @property
    def model_place(self) -> str:
        """The folder that is begun with, absolute, where there is one; else its hub id."""
        model = at_home(self.model)
        place = self.folder / model
        return str(place.resolve()) if place.is_dir() else model

    @property
    def dataset_folder(self) -> Path:
        return (self.folder / self.dataset).resolve()

    def form(self) -> dict[str, Any]:
        """As it is written beside a run."""
        form = {key: value for key, value in dataclasses.asdict(self).items() if key != "folder"}
        return form | {"model": self.model_place, "dataset": str(self.dataset_folder)}

    def identity(self) -> str:
        """Digest of everything that decides what a round is. How many rounds there are is not part of it."""
        form = {
            key: value for key, value in self.form().items() if key not in ("dataset", "rounds", "needs", "fingerprint")
        }
        return hashlib.sha256(json.dumps(form, sort_keys=True, default=str).encode()).hexdigest()


def load_preference(path: Path) -> Preference:
    """The recipe in a YAML file. Raises ``InputError`` with the key and the reason."""
    return read_recipe(path, Preference, "train")
