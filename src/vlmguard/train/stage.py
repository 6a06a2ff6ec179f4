"""One stage of training around any of TRL's trainers: begun or gone on with, watched, saved, told about.

``Stage.begin`` → a trainer is made (with ``trainer.Careful`` in its bases) → ``Stage.train`` → ``Stage.finish``.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmguard.dataset import fingerprint
from vlmguard.errors import TrainError
from vlmguard.jsonl import read_rows
from vlmguard.models.local import fingerprint as weights_fingerprint
from vlmguard.policy import Policy
from vlmguard.rewriters.quoting import PROMPTS
from vlmguard.statistics import Interval
from vlmguard.train.held_out import Rewritten
from vlmguard.train.recipe import Recipe
from vlmguard.train.run import CHECKPOINTS, METRICS, MODEL, Run, begin, finish, publish, staged

Tell = Callable[[str], None]


def to_stderr(line: str) -> None:
    """The default way to tell people."""
    print(line, file=sys.stderr)


@dataclass(frozen=True, slots=True)
class Trained:
    """What the trainer's loop came to."""

    steps: int
    seconds: float
    held_out: Mapping[str, Interval]


class Stage:
    """A run's folder and recipe, seen from one process of it.

    Args:
        recipe: what is trained on what.
        out: folder of the run.
        tell: takes lines for people, in the main process.
    """

    def __init__(self, recipe: Recipe, out: Path, tell: Tell) -> None:
        from accelerate import PartialState

        self.recipe, self.out = recipe, out
        self.main: bool = PartialState().is_main_process
        self._everyone = PartialState()
        self._tell = tell
        self._state: dict[str, Any] = {}

    def tell(self, line: str) -> None:
        """To people, once and not from every process."""
        if self.main:
            self._tell(line)

    def begin(self, name: str, policy: Policy, **facts: Any) -> None:
        """Opens the folder, for a new run or one that goes on. Raises ``InputError`` when it holds another run."""
        recipe = self.recipe
        if self.main:
            self._state = begin(
                self.out,
                {
                    "stage": name,
                    "recipe": recipe.form(),
                    "recipe_identity": recipe.identity(),
                    "dataset_fingerprint": fingerprint(recipe.dataset_folder),
                    "policy_hash": policy.hash,
                    "prompts_hash": PROMPTS,
                    "base": recipe.base_place,
                    "base_fingerprint": weights_fingerprint(recipe.base_place, None),
                    **facts,
                },
            )
        self._everyone.wait_for_everyone()
        for key, value in recipe.needs.items():
            self.tell(f"{key}, an estimate: {value}")

    def train(self, trainer: Any) -> Trained:
        """Runs the trainer's loop, from the last whole checkpoint where there is one. Raises ``TrainError``."""
        from transformers import PrinterCallback

        from vlmguard.train.diary import Bar, Diary
        from vlmguard.train.trainer import last_checkpoint

        found: dict[str, Interval] = {}
        checkpoint = last_checkpoint(self.out / CHECKPOINTS, sweep=self.main)
        step = int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0
        if checkpoint:
            self.tell(f"goes on from step {step}")
            trainer.args.eval_on_start = False  # that was then
        watchers: list[Any] = [Diary(self.out, step, self.tell), Bar(self.tell)] if self.main else []

        def heard(step: int, rewritten: list[Rewritten], figures: Mapping[str, Interval]) -> None:
            found.clear()
            found.update(figures)
            watchers[0].heard(step, rewritten, figures)

        trainer.listener = heard
        trainer.remove_callback(PrinterCallback)  # it prints what the diary keeps
        for callback in watchers:
            trainer.add_callback(callback)
        started = time.perf_counter()
        try:
            with explained(trainer.args):
                result = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
                self._evaluate_last(trainer)
        finally:
            for callback in watchers:
                callback.close()
        return Trained(int(result.global_step), time.perf_counter() - started, found)

    def _evaluate_last(self, trainer: Any) -> None:
        """Once more with the weights that are saved, unless the last evaluation saw those."""
        if trainer.held_out is None:
            return
        logged = [row for row in trainer.state.log_history if "eval_valid" in row]
        seen = bool(logged) and logged[-1]["step"] == trainer.state.global_step
        if not seen or trainer.args.load_best_model_at_end:
            trainer.evaluate()

    def finish(self, trainer: Any, trained: Trained, *, error_rows: int, tokens: int) -> Run:
        """Saves the rewriter, writes card and plots. Raises ``TrainError`` when the disk does not take it."""
        from vlmguard.train.card import write_card

        self._save(trainer)
        loss = last_loss(self.out / METRICS) if self.main else float("nan")
        figures = {
            "steps": trained.steps,
            "seconds": round(trained.seconds, 1),
            "loss": loss,
            "device": device_name(),
            "processes": self._everyone.num_processes,
            "error_rows": error_rows,
            "tokens_a_pass": tokens,
            "held_out": {
                name: {"value": found.value, "low": found.low, "high": found.high, "n": found.n}
                for name, found in trained.held_out.items()
            },
        }
        if self.main:
            write_card(self.out, finish(self.out, self._state, figures))
        self._everyone.wait_for_everyone()
        values = {name: found.value for name, found in trained.held_out.items()}
        return Run(self.out, self.out / MODEL, trained.steps, loss, error_rows, values)

    def _save(self, trainer: Any) -> None:
        place = self.out / MODEL
        fresh = place.with_name(f".{MODEL}.new")
        if self.main:
            staged(place)
        self._everyone.wait_for_everyone()
        if trainer.is_fsdp_enabled:
            trainer.accelerator.state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")
        try:
            trainer.save_model(str(fresh))
            self._everyone.wait_for_everyone()
            if self.main:
                (fresh / "training_args.bin").unlink(missing_ok=True)  # a pickle, and run.json says it all
                publish(fresh, place)
        except Exception as error:  # the disk's errors come in a dress of each library's own
            raise TrainError(
                f"the rewriter could not be written to {place} ({error}): free space, and run the same command again; it goes on"
                " from the last checkpoint"
            ) from error


def last_loss(file: Path) -> float:
    """The last training loss that was logged; NaN when none was."""
    losses = [float(row["loss"]) for row in read_rows(file) if row.get("loss") is not None]
    return losses[-1] if losses else float("nan")


def device_name() -> str:
    """What it was trained on."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"


@contextmanager
def explained(args: Any) -> Iterator[None]:
    """No memory left is an error with the knobs in it."""
    import torch

    try:
        yield
    except (torch.OutOfMemoryError, RuntimeError, MemoryError) as error:
        if not isinstance(error, torch.OutOfMemoryError | MemoryError) and "can't allocate memory" not in str(error):
            raise
        raise TrainError(
            f"no memory is left ({str(error).splitlines()[0] if str(error) else type(error).__name__}). Whole checkpoints are kept."
            f" Knobs, cheapest first: trl.per_device_train_batch_size (now {args.per_device_train_batch_size}; raise"
            " gradient_accumulation_steps as much, and nothing is learned otherwise), trl.gradient_checkpointing: true (now"
            f" {args.gradient_checkpointing}), longest_row, a most of pixels in the base model's processor, lora in place of whole"
            " weights, more GPUs with the FSDP configuration"
        ) from error
