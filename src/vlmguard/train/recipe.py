"""A training recipe, read from YAML: a base model, a dataset, and the settings of TRL and PEFT, passed on as they are."""

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

PARTS = ("language", "projector", "vision")
"""What a VLM is made of: the language model, what carries the tower's output into it, and the vision tower."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """The settings of a run. Paths are relative to the recipe's folder."""

    base: str
    """Folder or hub id of the base VLM."""
    dataset: str
    """Folder of a dataset that ``vlmguard synth`` wrote."""
    fingerprint: str = ""
    """Of the dataset (its card and every run tell it); where it is given, another dataset is refused."""
    policy: str = ""
    """The policy that the rewriter is told; its default is the packaged one."""
    lora: Mapping[str, Any] = field(default_factory=dict)
    """PEFT's ``LoraConfig``, as it is; empty trains whole weights."""
    parts: tuple[str, ...] = ("language",)
    """Which of ``PARTS`` are trained. LoRA may match no other, and of whole weights all others are frozen."""
    trl: Mapping[str, Any] = field(default_factory=dict)
    """TRL's trainer configuration (``SFTConfig``), as it is."""
    longest_row: int = 0
    """Tokens. A longer row is an error row, and never a shorter row; 0 = what the base model can take."""
    held_out: int = 64
    """Validation rows that are really rewritten at each evaluation (``trl.eval_strategy``)."""
    early_stop: int = 0
    """Evaluations without a better ``trl.metric_for_best_model`` after which a run ends; 0 = never."""
    needs: Mapping[str, str] = field(default_factory=dict)
    """Estimates for people: memory, GPUs, time."""
    folder: Path = field(default=Path(), compare=False)
    """Where the recipe lies."""

    def __post_init__(self) -> None:
        for name in ("base", "dataset"):
            if not getattr(self, name):
                raise InputError(f"the recipe names no {name}")
        if not self.parts or not set(self.parts) <= set(PARTS):
            raise InputError(f"parts are some of {', '.join(PARTS)}, not {', '.join(self.parts) or 'none'}")
        for name in ("longest_row", "held_out", "early_stop"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} is not below 0")

    @property
    def base_place(self) -> str:
        """The base model's folder, absolute, where there is one; else its hub id."""
        base = at_home(self.base)
        place = self.folder / base
        return str(place.resolve()) if place.is_dir() else base

    @property
    def dataset_folder(self) -> Path:
        return (self.folder / self.dataset).resolve()

    def form(self) -> dict[str, Any]:
        """As it is written beside a run."""
        form = {key: value for key, value in dataclasses.asdict(self).items() if key != "folder"}
        return form | {"parts": list(self.parts), "base": self.base_place, "dataset": str(self.dataset_folder)}

    def identity(self) -> str:
        """Digest of everything that decides what is learned from the dataset, wherever it lies."""
        form = {key: value for key, value in self.form().items() if key not in ("dataset", "needs", "fingerprint")}
        template = self.folder / str(self.trl.get("chat_template_path") or "")
        if template.is_file():  # what it says, since its name stays when it is edited
            form["chat_template"] = hashlib.sha256(template.read_bytes()).hexdigest()
        return hashlib.sha256(json.dumps(form, sort_keys=True, default=str).encode()).hexdigest()


def load_recipe(path: Path) -> Recipe:
    """The recipe in a YAML file. Raises ``InputError`` with the key and the reason."""
    return read_recipe(path, Recipe, "train")
