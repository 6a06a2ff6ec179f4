from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from vlmguard.errors import InputError
from vlmguard.train.settings import OWNED, settings_of, trainer_settings


@dataclass
class Settings:
    rate: float = 0.1
    steps: int = 1
    every: float | None = None
    half: bool | None = None
    report_to: str | list[str] | None = None


def test_numbers_that_yaml_reads_as_text_are_numbers() -> None:
    read = settings_of(Settings, "trl", {"rate": "1e-4", "steps": "1e3", "every": None, "report_to": "1e3"}, {})
    assert read == Settings(1e-4, 1000, None, None, "1e3")
    assert isinstance(read.steps, int)


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"rate": "fast"}, "trl.rate is a number, not 'fast'"),
        ({"steps": [1]}, "trl.steps is a number"),
        ({"every": {"a": 1}}, "trl.every is a number"),
        ({"half": "maybe"}, "trl.half is true or false, not 'maybe'"),
    ],
)
def test_what_is_no_number_is_said_at_once(given: dict[str, Any], error: str) -> None:
    with pytest.raises(InputError, match=error):
        settings_of(Settings, "trl", given, {})


def test_what_is_owned_may_be_said_and_not_said_otherwise() -> None:
    fixed = {"steps": (1, "because")}
    assert settings_of(Settings, "trl", {"steps": 1}, fixed | {"unheard_of": (0, "")}).steps == 1
    with pytest.raises(InputError, match=r"trl\.steps is not for a recipe to set: because"):
        settings_of(Settings, "trl", {"steps": 2}, fixed)


CPU = {"use_cpu": True, "bf16": False}


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"resume_from_checkpoint": "x"}, "resume_from_checkpoint is not for a recipe to set: the same command goes on"),
        ({"save_only_model": True}, "save_only_model .*would not go on as if"),
        ({"push_to_hub": True}, "push_to_hub .*nothing is sent to a hub"),
        ({"hub_token": "hf_secret"}, "hub_token .*does not belong into a recipe"),
        ({"trust_remote_code": True}, "trust_remote_code .*model_init_kwargs"),
        ({"auto_find_batch_size": True}, "auto_find_batch_size .*per_device_train_batch_size"),
        ({"enable_jit_checkpoint": True}, "enable_jit_checkpoint .*save_steps"),
        ({"max_steps": 0}, "trl.max_steps is 0, and has to be above 0"),
        ({"max_steps": -5}, "trl.max_steps is -5"),
        ({"num_train_epochs": -1}, "trl.num_train_epochs is -1"),
        ({"num_train_epochs": float("nan")}, "trl.num_train_epochs is nan"),
        ({"max_steps": 2.5}, "trl.max_steps is a whole number, not 2.5"),
        ({"max_steps": True}, "trl.max_steps is a number, not True"),
        ({"per_device_train_batch_size": 0}, "trl.per_device_train_batch_size is 0, and has to be above 0"),
        ({"per_device_eval_batch_size": -1}, "trl.per_device_eval_batch_size"),
        ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps"),  # accelerate's own error
        ({"learning_rate": 0}, "trl.learning_rate"),
        ({"save_steps": 0}, "save_steps"),
        ({"save_total_limit": 0}, "trl.save_total_limit is 0"),
        ({"eval_strategy": "steps", "eval_steps": -2}, "trl.eval_steps is -2"),
        ({"dataloader_num_workers": -1}, "trl.dataloader_num_workers is -1, and has to be not below 0"),
        ({"dataloader_persistent_workers": True}, "set trl.dataloader_num_workers"),
        ({"logging_strategy": False}, "trl.logging_strategy cannot be no"),
        ({"train_sampling_strategy": "group_by_length"}, "trl.train_sampling_strategy cannot be group_by_length"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["SFTConfig", "DPOConfig"])
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")
def test_settings_that_would_break_what_a_run_promises(kind: str, given: dict[str, Any], error: str) -> None:
    trl = pytest.importorskip("trl")
    with pytest.raises(InputError, match=error):
        trainer_settings(getattr(trl, kind), CPU | given, {})


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")
def test_what_is_owned_trl_knows_and_holds() -> None:
    trl = pytest.importorskip("trl")
    given = {
        "eval_strategy": False,
        "save_strategy": False,
        "max_steps": -1,
        "num_train_epochs": 2,
        "push_to_hub": False,
    }
    config = trainer_settings(trl.SFTConfig, CPU | given, {})  # YAML reads no as false
    assert (config.eval_strategy, config.save_strategy) == ("no", "no")
    assert {name: getattr(config, name) for name in OWNED} == {name: value for name, (value, _) in OWNED.items()}
