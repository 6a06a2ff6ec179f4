"""What a run writes while it goes: metrics as JSON Lines and for TensorBoard, samples, a progress bar."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import TrainerCallback

from vlmguard.errors import MissingExtraError
from vlmguard.jsonl import Appender, read_rows
from vlmguard.statistics import Interval
from vlmguard.train.held_out import Rewritten
from vlmguard.train.run import BOARD, METRICS, SAMPLES

_SHOWN = 2
_LETTERS = 600


class Diary(TrainerCallback):  # type: ignore[misc]
    """Writes what the trainer logs, in the main process.

    Args:
        folder: of the run.
        step: from which it goes on: what stands there of later steps, which will come again, is taken out.
        tell: takes lines for people.
    """

    def __init__(self, folder: Path, step: int, tell: Callable[[str], None]) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingExtraError("TensorBoard metrics", "train") from error
        for name in (METRICS, SAMPLES):
            _forget_after(folder / name, step)
        self._metrics, self._samples = Appender(folder / METRICS), Appender(folder / SAMPLES)
        self._board = SummaryWriter(str(folder / BOARD), purge_step=step + 1 if step else None)
        self._tell = tell

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **_: Any) -> None:
        """A line of metrics; what is no finite number is written as ``null``."""
        if not state.is_world_process_zero or not logs:
            return
        numbers = {key: value for key, value in logs.items() if isinstance(value, int | float)}
        self._metrics.append(
            {"step": state.global_step}
            | {key: value if math.isfinite(value) else None for key, value in numbers.items()}
        )
        for key, value in numbers.items():
            self._board.add_scalar(_board_name(key), value, state.global_step)

    def close(self) -> None:
        """Closes the files."""
        for appender in (self._metrics, self._samples):
            appender.__exit__()
        self._board.close()

    def heard(self, step: int, rewritten: Sequence[Rewritten], found: Mapping[str, Interval]) -> None:
        """Held-out rows and what was said to them: all into the file, the figures and two samples to people."""
        for one in rewritten:
            self._samples.append(
                {
                    "step": step, "id": one.id, "benign": one.benign, "valid": one.valid, "decided": one.decided,
                    "prompt": one.prompt, "expected": one.expected, "said": one.said,
                }
            )  # fmt: skip
        told = ", ".join(
            f"{name} {interval.value:.0%} [{interval.low:.0%}, {interval.high:.0%}] of {interval.n}"
            for name, interval in found.items()
        )
        self._tell(f"step {step}, held out: {told}")
        for one in _worth_showing(rewritten):
            self._tell(
                f"  {one.id} ({'right' if one.decided else 'wrong' if one.valid else 'no trace'}): {_short(one.prompt)}"
            )
            self._tell(f"    {_short(one.said)}")


def _worth_showing(rewritten: Sequence[Rewritten]) -> list[Rewritten]:
    """One that went wrong, if any did, and then ones that went right."""
    wrong = [one for one in rewritten if not one.decided]
    return (wrong[:1] + [one for one in rewritten if one.decided])[:_SHOWN]


def _short(text: str) -> str:
    plain = " ".join(text.split())
    return plain if len(plain) <= _LETTERS else f"{plain[:_LETTERS]} …"


def _board_name(key: str) -> str:
    return f"held_out/{key.removeprefix('eval_')}" if key.startswith("eval_") else f"train/{key}"


def _forget_after(file: Path, step: int) -> None:
    if not file.exists():
        return
    fresh = file.with_name(f".{file.name}.new")
    fresh.unlink(missing_ok=True)
    Appender(file).__exit__()  # cuts off a half-written line
    with Appender(fresh) as out:
        for row in read_rows(file):
            if row["step"] <= step:
                out.append(row)
    fresh.replace(file)


class Bar(TrainerCallback):  # type: ignore[misc]
    """A progress bar on standard error where that is a terminal, else a line at each log.

    Args:
        tell: takes lines for people.
    """

    def __init__(self, tell: Callable[[str], None]) -> None:
        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, console=console, disable=not console.is_terminal)
        self._tell = tell
        self._task: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Shows it."""
        if not self._bar.disable:
            self._task = self._bar.add_task("training", total=state.max_steps, completed=state.global_step)
            self._bar.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Moves it."""
        if self._task is not None:
            self._bar.update(self._task, completed=state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **_: Any) -> None:
        """Says the loss."""
        if not logs or "loss" not in logs:
            return
        if self._task is not None:
            self._bar.update(self._task, description=f"training, loss {float(logs['loss']):.4f}")
        else:
            self._tell(f"step {state.global_step} of {state.max_steps}: loss {float(logs['loss']):.4f}")

    def close(self) -> None:
        """Leaves it as it is."""
        self._bar.stop()
