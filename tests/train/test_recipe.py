"""The shipped recipes can be read, and what they say TRL and PEFT know and their models have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from vlmguard.errors import InputError
from vlmguard.train.recipe import Recipe, load_recipe

RECIPES = sorted((Path(__file__).parents[2] / "recipes/train").glob("*.yaml"))
BASES = {
    "qwen2-vl": ("Qwen2VLConfig", "Qwen2VLForConditionalGeneration"),
    "qwen2.5-vl": ("Qwen2_5_VLConfig", "Qwen2_5_VLForConditionalGeneration"),
    "qwen3-vl": ("Qwen3VLConfig", "Qwen3VLForConditionalGeneration"),
    "llava": ("LlavaConfig", "LlavaForConditionalGeneration"),
    "idefics3": ("Idefics3Config", "Idefics3ForConditionalGeneration"),
    "gemma3": ("Gemma3Config", "Gemma3ForConditionalGeneration"),
}
"""Family → its configuration and model."""


@pytest.fixture(params=RECIPES, ids=lambda path: path.stem)
def shipped(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


def test_there_is_one_for_each_family() -> None:
    for family in BASES:
        assert any(path.stem.startswith(family) for path in RECIPES)


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")
def test_trl_takes_its_settings(shipped: Path) -> None:
    from trl import SFTConfig

    from vlmguard.train.settings import trainer_settings
    from vlmguard.train.sft import FIXED

    recipe = load_recipe(shipped)
    assert set(recipe.needs) == {"GPUs", "memory", "time"}
    assert "estimates" in shipped.read_text()
    assert "ours" in shipped.read_text()
    settings = {key: value for key, value in recipe.trl.items() if key not in ("model_init_kwargs", "bf16")}
    config = trainer_settings(SFTConfig, settings | {"use_cpu": True, "bf16": False}, FIXED)
    assert config.learning_rate == recipe.trl["learning_rate"]
    assert config.max_length is None


def test_its_adapter_matches_the_language_model_and_nothing_else(shipped: Path) -> None:
    import torch
    import transformers
    from peft import LoraConfig

    from vlmguard.train.base import check_lora, parts_of

    recipe = load_recipe(shipped)
    named = f"{shipped.stem} {recipe.base}".lower()
    configuration, kind = next(names for family, names in BASES.items() if family in named)
    config = getattr(transformers, configuration)()
    config.get_text_config().num_hidden_layers = 2
    with torch.device("meta"):
        model: Any = getattr(transformers, kind)(config)
    assert {parts_of(model)(name) for name, _ in model.named_parameters()} == {"language", "projector", "vision"}
    if not recipe.lora:
        return
    check_lora(model, LoraConfig(**recipe.lora), recipe)
    import re

    matched = [name for name, _ in model.named_modules() if re.fullmatch(recipe.lora["target_modules"], name)]
    assert len(matched) == 2 * 7  # two layers, all seven matrices of each


def test_the_configuration_of_accelerate_is_one() -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    for file in (RECIPES[0].parent / "fsdp").glob("*.yaml"):
        config = load_config_from_file(str(file))
        assert config.distributed_type == "FSDP"
        assert yaml.safe_load(file.read_text())["fsdp_config"]["fsdp_version"] == 2


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("dataset: d", "'base' is missing"),
        ("base: b", "'dataset' is missing"),
        ("base: b\ndataset: d\nbatch: 3", "unknown setting 'batch'"),
        ("base: b\ndataset: d\nheld_out: many", "held_out is of the kind int"),
        ("base: b\ndataset: d\nheld_out: -1", "held_out is not below 0"),
        ("base: b\ndataset: d\nparts: [eyes]", "parts are some of language, projector, vision"),
        ("base: b\ndataset: d\nlora: 8", "lora is of the kind table"),
        ("base: ''\ndataset: d", "names no base"),
        ("base: b\ndataset: d\nbase: c", "sets base twice"),
        ("base: b\ndataset: d\ntrl: {seed: 1, max_steps: 3, seed: 2}", "sets seed twice"),
        ("- base", "no table of settings"),
        ("base: [", "is no YAML"),
    ],
)
def test_what_is_no_recipe(text: str, error: str, tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(text)
    with pytest.raises(InputError, match=error):
        load_recipe(file)


def test_a_template_is_part_of_the_identity_by_what_it_says(tmp_path: Path) -> None:
    recipe = Recipe("b", "d", trl={"chat_template_path": "turns.jinja"}, folder=tmp_path)
    (tmp_path / "turns.jinja").write_text("{{ messages }}")
    before = recipe.identity()
    (tmp_path / "turns.jinja").write_text("{{ messages }}!")
    assert recipe.identity() != before


def test_its_identity_is_what_it_teaches_and_not_where_it_lies(tmp_path: Path) -> None:
    one = Recipe("b", "d", trl={"seed": 1})
    assert one.identity() == Recipe("b", "elsewhere", trl={"seed": 1}, needs={"time": "1 h"}).identity()
    assert one.identity() != Recipe("b", "d", trl={"seed": 2}).identity()
    with pytest.raises(InputError, match="cannot be read"):
        load_recipe(tmp_path / "none.yaml")
