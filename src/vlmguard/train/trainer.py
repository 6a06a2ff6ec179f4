"""TRL's trainers with what a rewriter's run needs around them: held-out rewriting, checkpoints that are whole or are not there,
losses that are numbers.

``Careful`` is a mixin, so that every stage of training has the same: ``class Trainer(Careful, SFTTrainer)``.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from transformers import get_scheduler
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import rotate_checkpoints
from trl import SFTTrainer
from trl.models.utils import unwrap_model_for_generation

from vlmguard.errors import InputError, TrainError
from vlmguard.statistics import Interval
from vlmguard.train.held_out import HeldOut, Rewritten, figures
from vlmguard.train.run import settle

_STAGED = ".staged"
Listener = Callable[[int, Sequence[Rewritten], Mapping[str, Interval]], None]
"""Takes the step, what was said to the held-out rows, and the figures."""


class Careful:
    """What comes before a trainer of TRL's in its bases.

    ``held_out`` and ``listener`` are set after the trainer is made, since they need what it has measured.
    """

    held_out: HeldOut | None = None
    listener: Listener | None = None
    args: Any
    state: Any
    accelerator: Any
    model: Any
    model_wrapped: Any
    is_fsdp_enabled: bool
    get_optimizer_cls_and_kwargs: Callable[..., tuple[Any, dict[str, Any]]]

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._try_optimizer()

    def _try_optimizer(self) -> None:
        """Makes optimizer and schedule once, for a weight of its own: TRL would only when training begins. Raises ``InputError``."""
        try:
            kind, keywords = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            weights = [torch.nn.Parameter(torch.zeros(1))]
            plain = str(getattr(kind, "__module__", "")).startswith("torch.optim")  # others may want the whole model
            optimizer = kind(weights, **keywords) if plain else torch.optim.SGD(weights, lr=self.args.learning_rate)
            get_scheduler(
                self.args.lr_scheduler_type, optimizer, num_warmup_steps=0, num_training_steps=1,
                scheduler_specific_kwargs=self.args.lr_scheduler_kwargs,
            )  # fmt: skip
        except (TypeError, ValueError, ImportError) as error:
            raise InputError(f"trl: optimizer and schedule cannot be made of these settings: {error}") from error

    # -----------------------------------------------------------------------------------------------------------------
    # Held-out rewriting

    def evaluation_loop(self, *arguments: Any, **keywords: Any) -> Any:
        """The loss on the validation rows and the figures of ``held_out.figures``, measured by generating.

        Here and not in ``evaluate``, since what ends a run early or picks its best model looks at this one's figures.
        """
        output = super().evaluation_loop(*arguments, **keywords)  # type: ignore[misc]
        if self.held_out is not None:
            rewritten = self._rewrite(self.held_out)
            found = figures(rewritten)
            prefix = keywords.get("metric_key_prefix", "eval")
            output.metrics.update({f"{prefix}_{name}": interval.value for name, interval in found.items()})
            if self.listener is not None and self.state.is_world_process_zero:
                self.listener(self.state.global_step, rewritten, found)
        return output

    def _rewrite(self, held_out: HeldOut) -> list[Rewritten]:
        """What the rewriter says to the held-out rows, of all processes."""
        process, processes = self.accelerator.process_index, self.accelerator.num_processes
        training = self.model.training
        self.model.eval()
        with unwrap_model_for_generation(self.model_wrapped, self.accelerator) as model:
            found = held_out.measure(model, process, processes, together=self.is_fsdp_enabled and processes > 1)
        self.model.train(training)
        gathered = gather_object(found) if processes > 1 else found
        return list({one.id: one for one in gathered}.values())

    # -----------------------------------------------------------------------------------------------------------------
    # Numbers

    def training_step(self, *arguments: Any, **keywords: Any) -> Any:
        """Raises ``TrainError`` when the loss is no number, before the weights are spoiled by it."""
        loss = super().training_step(*arguments, **keywords)  # type: ignore[misc]
        if not torch.isfinite(loss):
            raise TrainError(
                f"the loss is {loss.item()} at step {self.state.global_step + 1}: the last whole checkpoint is kept. Lower"
                " learning_rate or raise warmup_steps, and use bf16 rather than fp16"
            )
        return loss

    # -----------------------------------------------------------------------------------------------------------------
    # Checkpoints

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Writes aside, waits for the disk, and only then gives the checkpoint its name. Raises ``TrainError``."""
        self._check_weights()
        place = Path(self.args.output_dir)
        staged, name = place / _STAGED, f"checkpoint-{self.state.global_step}"
        main = self.accelerator.is_main_process
        if main:
            shutil.rmtree(staged, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        try:
            self._staging = True
            super()._save_checkpoint(model, trial)  # type: ignore[misc]
            self._staging = False
            self.accelerator.wait_for_everyone()
            if main:
                self._name_best(place, staged / name)
                settle(staged)
                shutil.rmtree(place / name, ignore_errors=True)
                (staged / name).replace(place / name)
                shutil.rmtree(staged)
        except Exception as error:  # the disk's errors come in a dress of each library's own
            self._staging = False
            shutil.rmtree(staged, ignore_errors=True)
            raise TrainError(
                f"the checkpoint at step {self.state.global_step} could not be written to {place} ({error}): nothing of it is kept,"
                " whole checkpoints from before are. Free space (or set trl.save_total_limit), run the same command again"
            ) from error
        if main:
            rotate_checkpoints(
                str(place), self.args.save_total_limit, best_model_checkpoint=self.state.best_model_checkpoint
            )
        self.accelerator.wait_for_everyone()

    _staging = False

    def _get_output_dir(self, trial: Any) -> str:
        place: str = super()._get_output_dir(trial)  # type: ignore[misc]
        return str(Path(place) / _STAGED) if self._staging else place

    def _name_best(self, place: Path, staged: Path) -> None:
        """The best checkpoint by the name that it will have: transformers looks for it where it writes."""
        if self.state.best_global_step:
            best = place / f"checkpoint-{self.state.best_global_step}"
            if best.is_dir() or best.name == staged.name:
                self.state.best_model_checkpoint = str(best)
                self.state.save_to_json(str(staged / TRAINER_STATE_NAME))

    def _check_weights(self) -> None:
        """Raises ``TrainError`` when trained weights are no numbers: a checkpoint of those is worth nothing."""
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad and not torch.isfinite(parameter.detach()).all():
                raise TrainError(
                    f"weights are no numbers any more at step {self.state.global_step} ({name}): no checkpoint of them is written,"
                    " the last whole one is kept. Lower learning_rate, set max_grad_norm, use bf16 rather than fp16"
                )

    def create_model_card(self, *arguments: Any, **keywords: Any) -> None:
        """The card of a run is ours (``card.py``)."""


class RewriterTrainer(Careful, SFTTrainer):  # type: ignore[misc]
    """Supervised training."""


def last_checkpoint(place: Path, *, sweep: bool) -> Path | None:
    """The newest whole checkpoint. ``sweep`` takes away what was being written when a run was killed."""
    if sweep:
        shutil.rmtree(place / _STAGED, ignore_errors=True)
    found = [folder for folder in place.glob("checkpoint-*") if folder.name.rpartition("-")[2].isdecimal()]
    return max(found, key=lambda folder: int(folder.name.rpartition("-")[2]), default=None)
