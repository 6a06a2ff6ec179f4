"""One round of direct preference optimisation (DPO, arXiv 2305.18290) on pairs of traces, by TRL's ``DPOTrainer``.

Of a pair whose traces begin with the same steps, these belong to what is asked: the loss falls on what follows them. (For DPO's own
loss that changes nothing, since what both share cancels; for the losses that it is mixed with, or that divide by a length, it does.)
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from vlmguard.dataset import conversation
from vlmguard.errors import InputError, MissingExtraError, TrainError
from vlmguard.images import shown
from vlmguard.models.local import resolve
from vlmguard.models.special_tokens import without_special_tokens
from vlmguard.train.base import check_base, check_lora, freeze_others, load_model, load_processor
from vlmguard.train.pairs import Pair
from vlmguard.train.preference import Preference
from vlmguard.train.recipe import Recipe
from vlmguard.train.rows import Row
from vlmguard.train.run import CHECKPOINTS, MODEL, publish, staged
from vlmguard.train.settings import model_init, settings_of, trainer_settings, without_foreign_warnings
from vlmguard.train.stage import Tell, explained

_MEASURED = "the rewriter is measured between rounds"
FIXED: dict[str, tuple[Any, str]] = {
    "report_to": ("none", "metrics go into the folder of the round"),
    "eval_strategy": ("no", _MEASURED),
    "eval_on_start": (False, _MEASURED),
}
"""What no recipe may set otherwise, beside ``settings.OWNED``. The folder of the checkpoints and the seed, which each round has of
its own, are added to it."""
LOG = "log"
"""Folder in a round: metrics of its training, as JSON Lines and for TensorBoard."""
DEFAULTS: dict[str, Any] = {
    "loss_type": ["sigmoid", "sft"],
    "loss_weights": [1.0, 0.1],
    "beta": 0.1,
    "learning_rate": 5e-6,
    "num_train_epochs": 1,
    "logging_steps": 1,
    "save_steps": 50,
    "save_total_limit": 2,
}
"""Ours, since the papers give none. The small share of plain likelihood keeps that of the chosen trace from falling with the other's."""


def check_settings(recipe: Preference, out: Path) -> None:
    """What can be told of the training before anything is sampled for it: TRL's settings, PEFT's, and what LoRA matches.

    Raises:
        InputError: settings that TRL or PEFT does not take, or that do not fit the model.
        MissingExtraError: the extra ``train`` is not installed.
    """
    try:
        import trl  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("training", "train") from error
    with without_foreign_warnings():
        _, init = _settings(recipe, out, recipe.seed)
        base, adapter = resolve(recipe.model_place, None)
        begun = Recipe(base, recipe.dataset, parts=recipe.parts)
        check_base(begun, "model")
        lora = _lora(recipe, adapter)
        if lora is not None:
            check_lora(_outline(base, init), lora, begun)


def _outline(base: str, init: dict[str, Any]) -> Any:
    """The model without its weights. Raises ``InputError``."""
    from accelerate import init_empty_weights
    from transformers import AutoConfig, AutoModelForImageTextToText

    known = {key: init[key] for key in ("trust_remote_code", "revision") if key in init}
    trusted = {key: init[key] for key in ("trust_remote_code",) if key in init}
    try:
        config = AutoConfig.from_pretrained(base, **known)
        with init_empty_weights():
            return AutoModelForImageTextToText.from_config(config, **trusted)
    except Exception as error:  # loaders raise nearly anything
        raise InputError(
            f"{base} cannot be loaded as a vision-language model ({type(error).__name__}: {error}): give a rewriter's folder or a hub id"
        ) from error


def train_dpo(
    recipe: Preference,
    start: str,
    pairs: Sequence[Pair],
    row: Callable[[str], Row],
    folder: Path,
    seed: int,
    tell: Tell,
    callbacks: Sequence[Any] = (),
) -> None:
    """Trains a round, or goes on at its last whole checkpoint; ``folder/model`` is there when all went well.

    Args:
        recipe: the settings.
        start: the model that the round begins with, which is the reference as well.
        pairs: what is preferred to what.
        row: the row of an id.
        folder: of the round.
        seed: of the order of the pairs, and of a new adapter.
        tell: takes lines for people.
        callbacks: further ``transformers.TrainerCallback``.

    Raises:
        InputError: settings that TRL or PEFT does not take.
        TrainError: the loss is no number, memory or disk do not suffice.
    """
    try:
        import torch
        import trl  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("training", "train") from error
    with without_foreign_warnings():
        trainer = _trainer(recipe, start, partial(pair_rows, pairs, row), folder, seed, callbacks)
        try:
            _train(trainer, folder, tell)
            _save(trainer, folder / MODEL)
        finally:
            del trainer
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


def _train(trainer: Any, folder: Path, tell: Tell) -> None:
    from transformers import PrinterCallback

    from vlmguard.train.diary import Bar, Diary
    from vlmguard.train.trainer import last_checkpoint

    checkpoint = last_checkpoint(folder / CHECKPOINTS, sweep=True)
    step = int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0
    if checkpoint:
        tell(f"goes on from step {step}")
    watchers: list[Any] = [Diary(folder / LOG, step, tell), Bar(tell)]
    trainer.remove_callback(PrinterCallback)  # it prints what the diary keeps
    for callback in watchers:
        trainer.add_callback(callback)
    try:
        with explained(trainer.args):
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    finally:
        for callback in watchers:
            callback.close()


class Tokens:
    """The tokens of a model.

    Args:
        place: folder or hub id of it.
    """

    def __init__(self, place: str) -> None:
        self.processor = _processor(*resolve(place, None))
        self._tokenizer = self.processor.tokenizer
        self._controls = set(self._tokenizer.all_special_ids)

    def count(self, text: str) -> int:
        """How many a text has."""
        return len(self._ids(text))

    def controls(self, text: str) -> bool:
        """Whether a text holds a token that stands for a picture, a turn or an end: nothing can be learned from it."""
        return not self._controls.isdisjoint(self._ids(text))

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids


def _processor(base: str, adapter: str | None) -> Any:
    """Of the adapter where it was trained with one, else of the base."""
    own = adapter is not None and (Path(adapter) / "tokenizer_config.json").exists()
    return load_processor(Recipe(str(adapter) if own else base, "-"), None)


def _trainer(
    recipe: Preference, start: str, dataset: Callable[[Any], Any], folder: Path, seed: int, callbacks: Sequence[Any]
) -> Any:
    import trl
    from peft import PeftModel
    from transformers import set_seed

    from vlmguard.train.trainer import Careful

    class PairTrainer(Careful, trl.DPOTrainer):  # type: ignore[misc]
        """Training on pairs."""

    config, init = _settings(recipe, folder, seed)
    base, adapter = resolve(start, None)
    trained = Recipe(base, recipe.dataset, parts=recipe.parts)
    processor = _processor(base, adapter)
    set_seed(seed)
    model = load_model(trained, init)
    lora = _lora(recipe, adapter)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter, is_trainable=True)
    elif lora is not None:
        check_lora(model, lora, trained)
    else:
        freeze_others(model, trained)
    try:
        return PairTrainer(
            model,
            args=config,
            train_dataset=dataset(processor),
            processing_class=processor,
            data_collator=collator(processor),
            peft_config=lora,
            callbacks=list(callbacks),
        )
    except ValueError as error:
        raise InputError(f"TRL cannot train {start} with these settings: {error}") from error


def _settings(recipe: Preference, folder: Path, seed: int) -> tuple[Any, dict[str, Any]]:
    """TRL's configuration of a round, and the keywords of ``from_pretrained``. Raises ``InputError``."""
    import trl

    given = DEFAULTS | dict(recipe.trl)
    init = model_init(given)
    fixed = FIXED | {
        "output_dir": (str(folder / CHECKPOINTS), "it lies in the folder of the round"),
        "seed": (seed, "the recipe has a seed for the whole run"),
    }
    return trainer_settings(trl.DPOConfig, given, fixed), init


def _lora(recipe: Preference, adapter: str | None) -> Any:
    """PEFT's configuration of a new adapter; ``None`` where there is one already, or whole weights are trained."""
    from peft import LoraConfig

    return settings_of(LoraConfig, "lora", recipe.lora, {}) if recipe.lora and adapter is None else None


def pair_rows(pairs: Sequence[Pair], row: Callable[[str], Row], processor: Any) -> Any:
    """The pairs as TRL takes them, built when they are asked for, with what the processor would read as its own disarmed."""
    from datasets import Dataset

    def example(pair: Pair) -> dict[str, Any]:
        of = row(pair.row)
        asked = without_special_tokens(processor, of.asked)
        sides = {
            name: conversation(asked, text)
            for name, text in (("chosen", pair.chosen.text), ("rejected", pair.rejected.text))
        }
        return {
            "prompt": sides["chosen"]["prompt"],
            **{name: side["completion"] for name, side in sides.items()},
            "images": [shown(image) for image in of.asked.images],
            "shared": pair.shared,
        }

    def build(batch: dict[str, list[int]]) -> dict[str, list[Any]]:
        examples = [example(pairs[index]) for index in batch["pair"]]
        return {key: [one[key] for one in examples] for key in examples[0]}

    return Dataset.from_dict({"pair": range(len(pairs))}).with_transform(build)


def collator(processor: Any) -> Any:
    """TRL's, with the steps that a pair shares taken out of what the loss falls on."""
    from trl.trainer.dpo_trainer import DataCollatorForVisionPreference

    class Steps(DataCollatorForVisionPreference):  # type: ignore[misc]
        def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
            shared = [example["shared"] for example in examples]
            plain = [{key: value for key, value in example.items() if key != "shared"} for example in examples]
            batch: dict[str, Any] = super().torch_call(plain)
            for place, text in enumerate(shared):
                if text:
                    most = len(processor.tokenizer(text, add_special_tokens=False)["input_ids"])
                    _take_out(batch, (place, place + len(shared)), most)
            return batch

    return Steps(processor)


def _take_out(batch: dict[str, Any], rows: tuple[int, int], most: int) -> None:
    """Takes the first ``most`` tokens, as far as they are the same in both rows, out of what the loss falls on."""
    starts = [int(batch["completion_mask"][row].argmax()) for row in rows]
    sides = [batch["input_ids"][row, start : start + most].tolist() for row, start in zip(rows, starts, strict=True)]
    same = next((at for at, (a, b) in enumerate(zip(*sides, strict=False)) if a != b), min(map(len, sides)))
    for row, start in zip(rows, starts, strict=True):
        batch["completion_mask"][row, start : start + same] = 0


def _save(trainer: Any, place: Path) -> None:
    """The adapter without the copy of it that was the reference, or the whole weights. Raises ``TrainError``."""
    from peft import PeftModel

    fresh = staged(place)
    try:
        only = {"selected_adapters": ["default"]} if isinstance(trainer.model, PeftModel) else {}
        trainer.model.save_pretrained(fresh, **only)
        trainer.processing_class.save_pretrained(fresh)
        publish(fresh, place)
    except Exception as error:  # the disk's errors come in a dress of each library's own
        raise TrainError(
            f"the rewriter could not be written to {place} ({error}): free space, and run the same command again; it goes on from"
            " the last checkpoint"
        ) from error
