"""One round of direct preference optimisation (DPO, arXiv 2305.18290) on pairs of traces, by TRL's ``DPOTrainer``.

Of a pair whose traces begin with the same steps, these belong to what is asked: the loss falls on what follows them. (For DPO's own
loss that changes nothing, since what both share cancels; for the losses that it is mixed with, or that divide by a length, it does.)
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vlmguard.dataset import conversation
from vlmguard.errors import InputError, MissingExtraError, TrainError
from vlmguard.images import shown
from vlmguard.models.local import resolve
from vlmguard.train.pairs import Pair
from vlmguard.train.preference import Preference
from vlmguard.train.rows import Row
from vlmguard.train.run import MODEL, whole_folder

OURS: dict[str, Any] = {
    "max_length": None,  # TRL would cut rows, image tokens among them
    "remove_unused_columns": False,  # rows are built when they are asked for: their columns are not known before
    "report_to": "none",
    "logging_nan_inf_filter": False,  # it would hide what we stop at
}
"""What no recipe may set otherwise; nor ``output_dir`` and ``seed``, which each round has of its own."""
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


def train_dpo(
    recipe: Preference,
    start: str,
    pairs: Sequence[Pair],
    row: Callable[[str], Row],
    folder: Path,
    seed: int,
    callbacks: Sequence[Any] = (),
) -> list[dict[str, Any]]:
    """Trains a round, or goes on at its last checkpoint; ``folder/model`` is there when all went well. Returns the metrics.

    Args:
        recipe: the settings.
        start: the model that the round begins with, which is the reference as well.
        pairs: what is preferred to what.
        row: the row of an id.
        folder: of the round.
        seed: of the order of the pairs, and of a new adapter.
        callbacks: further ``transformers.TrainerCallback``.

    Raises:
        InputError: settings that TRL or PEFT does not take.
        TrainError: the loss is no number, memory or disk do not suffice.
    """
    try:
        import torch
    except ImportError as error:
        raise MissingExtraError("training", "train") from error
    with _translated():
        trainer, processor = _trainer(recipe, start, _dataset(pairs, row), folder, seed, callbacks)
        try:
            trainer.train(resume_from_checkpoint=_last_checkpoint(folder / "checkpoints"))
            with whole_folder(folder / MODEL) as place:
                _save(trainer.model, place)
                processor.save_pretrained(place)
            metrics: list[dict[str, Any]] = trainer.state.log_history
            return metrics
        finally:
            del trainer
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


class Tokens:
    """The tokens of a model.

    Args:
        place: folder or hub id of it.
    """

    def __init__(self, place: str) -> None:
        self._tokenizer = _processor(*resolve(place, None)).tokenizer
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
    """Who brings it: the adapter where it was trained with one, else the base."""
    from transformers import AutoProcessor

    own = adapter is not None and (Path(adapter) / "tokenizer_config.json").exists()
    return AutoProcessor.from_pretrained(adapter if own else base)


def _trainer(
    recipe: Preference, start: str, dataset: Any, folder: Path, seed: int, callbacks: Sequence[Any]
) -> tuple[Any, Any]:
    import torch
    from peft import LoraConfig, PeftModel
    from transformers import AutoModelForImageTextToText, set_seed
    from trl import DPOConfig, DPOTrainer

    class Checked(DPOTrainer):  # type: ignore[misc]
        def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
            loss = super().compute_loss(*args, **kwargs)
            if not torch.isfinite(loss):
                raise TrainError(
                    f"the loss is {loss.item()} at step {self.state.global_step + 1}: lower trl.learning_rate, or train in"
                    " bf16 in place of fp16. The checkpoints before it are kept"
                )
            return loss

    settings = DEFAULTS | dict(recipe.trl)
    init = settings.pop("model_init_kwargs", None) or {}
    for key in (*OURS, "output_dir", "seed"):
        if key in recipe.trl:
            raise InputError(f"trl.{key} is not for a recipe to set")
    config = DPOConfig(output_dir=str(folder / "checkpoints"), seed=seed, **settings, **OURS)
    base, adapter = resolve(start, None)
    processor = _processor(base, adapter)
    set_seed(seed)
    model = AutoModelForImageTextToText.from_pretrained(base, **init)
    peft = LoraConfig(**recipe.lora) if recipe.lora and adapter is None else None
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter, is_trainable=True)
    trainer = Checked(
        model,
        args=config,
        train_dataset=dataset,
        processing_class=processor,
        data_collator=_collator(processor),
        peft_config=peft,
        callbacks=list(callbacks),
    )
    return trainer, processor


def _dataset(pairs: Sequence[Pair], row: Callable[[str], Row]) -> Any:
    """The pairs as TRL takes them, built when they are asked for."""
    from datasets import Dataset

    def example(pair: Pair) -> dict[str, Any]:
        of = row(pair.row)
        sides = {
            name: conversation(of.asked, text)
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


def _collator(processor: Any) -> Any:
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


def _save(model: Any, place: Path) -> None:
    """The adapter without the copy of it that was the reference, or the whole weights."""
    from peft import PeftModel

    if isinstance(model, PeftModel):
        model.save_pretrained(place, selected_adapters=["default"])
    else:
        model.save_pretrained(place)


def _last_checkpoint(folder: Path) -> str | None:
    """The newest that is whole: its state is written last."""
    whole = [file.parent for file in folder.glob("checkpoint-*/trainer_state.json")]
    return str(max(whole, key=lambda place: int(place.name.rpartition("-")[2]))) if whole else None


@contextmanager
def _translated() -> Iterator[None]:
    """Errors of torch, PEFT and TRL in our words."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        raise TrainError(
            f"memory does not suffice ({error}): lower trl.per_device_train_batch_size (and raise"
            " trl.gradient_accumulation_steps as much), or use lora"
        ) from error
    except OSError as error:
        raise TrainError(f"a file could not be read or written: {error}. Whole checkpoints are kept") from error
    except (TypeError, ValueError) as error:
        raise InputError(f"TRL or PEFT does not take these settings or this model: {error}") from error
