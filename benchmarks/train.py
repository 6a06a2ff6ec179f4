"""What our part of training costs: ``python -m benchmarks.train``, beside a minimal script of TRL's own.

The same base, rows, settings and steps: `vlmguard train sft` (rows built from data.jsonl when they are asked for, diary, atomic
checkpoints, held-out rewriting off in both) and a plain ``SFTTrainer`` on Parquet rows of ``synth trl`` with ``datasets.Image``. Runs are
interleaved, each in a process of its own; the time is the trainer's loop alone, without its first step. Tokens per second of wall time and
of processor time (which other work on the machine hardly moves; workers' is not in it), ratios with their ranges, peak memory, and the
share of the loop in which the trainer waited for rows.

    --base FOLDER   another base than the tiny LLaVA of the tests     --rows N   --steps N   --batch N   --rounds N
    --workers N     processes that build rows (dataloader_num_workers), in both
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.train.world import ROWS, write_dataset
from vlmguard.policy import load_policy
from vlmguard.rewriters.quoting import rewriter_chat

_LORA = {
    "r": 8,
    "lora_alpha": 16,
    "target_modules": r".*(language_model|text_model)\.layers.*\.(q_proj|v_proj|up_proj|down_proj)",
}


def settings(steps: int, batch: int, workers: int) -> dict[str, Any]:
    """Of both."""
    import torch

    gpu = torch.cuda.is_available()
    return {
        "max_steps": steps, "per_device_train_batch_size": batch, "learning_rate": 1e-4, "use_cpu": not gpu, "bf16": gpu,
        "gradient_checkpointing": gpu, "logging_steps": 10, "save_strategy": "no", "seed": 0,
        "dataloader_num_workers": workers,
    }  # fmt: skip


def one(kind: str, base: str, data: Path, steps: int, batch: int, workers: int) -> None:
    """One run, in this process; prints its figures as JSON."""
    import resource

    import torch
    from transformers import TrainerCallback

    if not torch.cuda.is_available():
        torch.set_num_threads(1)
    seen: dict[str, float] = {}

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            seen["begin"] = time.perf_counter()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == 1:  # the first step pays for what is made once
                seen["first"], seen["cpu"], _wait[0] = time.perf_counter(), time.process_time(), 0.0

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            seen["tokens"] = float((logs or {}).get("num_tokens", seen.get("tokens", 0)))

        def on_train_end(self, *_: Any, **__: Any) -> None:
            seen["end"], seen["cpu"] = time.perf_counter(), time.process_time() - seen["cpu"]

    with tempfile.TemporaryDirectory() as folder:
        (_ours if kind == "ours" else _plain)(base, data, Path(folder), settings(steps, batch, workers), Clock())
    most = (steps - 1) / steps  # of the steps are in the time
    peak = (
        torch.cuda.max_memory_allocated()
        if torch.cuda.is_available()
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    )
    figures = {"tokens": seen["tokens"] * most, "seconds": seen["end"] - seen["first"], "cpu": seen["cpu"]}
    print(json.dumps({**figures, "peak": peak, "wait": _wait[0]}))


_wait = [0.0]


def _ours(base: str, data: Path, out: Path, given: dict[str, Any], clock: Any) -> None:
    from vlmguard.train.recipe import Recipe
    from vlmguard.train.sft import sft
    from vlmguard.train.trainer import RewriterTrainer

    _watch(RewriterTrainer)
    sft(
        Recipe(base, str(data), lora=_LORA, trl=given, held_out=0),
        out / "run",
        callbacks=[clock],
        tell=lambda line: None,
    )


def _plain(base: str, data: Path, out: Path, given: dict[str, Any], clock: Any) -> None:
    import datasets
    from peft import LoraConfig
    from transformers import AutoModelForImageTextToText, AutoProcessor
    from trl import SFTConfig, SFTTrainer

    rows = datasets.load_dataset(
        "parquet", data_files=str(data / "trl/train.parquet"), split="train", cache_dir=str(out / "cache")
    )
    rows = rows.cast_column("images", datasets.List(datasets.Image())).remove_columns("id")
    _watch(SFTTrainer)
    SFTTrainer(
        AutoModelForImageTextToText.from_pretrained(base),
        SFTConfig(output_dir=str(out / "run"), max_length=None, report_to="none", disable_tqdm=True, **given),
        train_dataset=rows,
        processing_class=AutoProcessor.from_pretrained(base),
        peft_config=LoraConfig(**_LORA),
        callbacks=[clock],
    ).train()


def _watch(trainer: Any) -> None:
    """Sums up how long the loop waits for its batches."""
    whole = trainer.get_batch_samples

    def timed(self: Any, *arguments: Any) -> Any:
        started = time.perf_counter()
        try:
            return whole(self, *arguments)
        finally:
            _wait[0] += time.perf_counter() - started

    trainer.get_batch_samples = timed


def main() -> None:
    """All rounds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base")
    for name, value in (("rows", 200), ("steps", 40), ("batch", 8), ("rounds", 5), ("workers", 0)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--one", choices=("ours", "plain"), help=argparse.SUPPRESS)
    parser.add_argument("--data", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        one(arguments.one, arguments.base, arguments.data, arguments.steps, arguments.batch, arguments.workers)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if arguments.base is None:
            subprocess.run(
                [sys.executable, "-m", "tests.tiny_llava", str(folder / "tiny")], check=True, capture_output=True
            )
        base = arguments.base or str(folder / "tiny/base")
        data = write_dataset(folder / "data", rows=[ROWS[number % len(ROWS)] for number in range(arguments.rows)])
        _export(data)
        found: list[dict[str, dict[str, float]]] = []
        for _ in range(arguments.rounds):
            kinds = ("ours", "plain") if len(found) % 2 else ("plain", "ours")
            found.append({kind: _run(kind, base, data, arguments) for kind in kinds})
    _tell(found, base)


def _export(data: Path) -> None:
    from vlmguard.synth.export import export_trl

    policy = load_policy()
    export_trl(data, lambda chat: rewriter_chat(chat, policy, b""))


def _run(kind: str, base: str, data: Path, arguments: argparse.Namespace) -> dict[str, float]:
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "benchmarks.train",
        "--one",
        kind,
        "--base",
        base,
        "--data",
        str(data),
    ]
    command += ["--steps", str(arguments.steps), "--batch", str(arguments.batch), "--workers", str(arguments.workers)]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def _tell(found: list[dict[str, dict[str, float]]], base: str) -> None:
    print(f"{Path(base).name}, {len(found)} interleaved rounds, load average {os.getloadavg()[1]:.1f}")
    for kind in ("plain", "ours"):
        runs = [one[kind] for one in found]
        wall, cpu = (statistics.median(run["tokens"] / run[clock] for run in runs) for clock in ("seconds", "cpu"))
        wait = statistics.median(run["wait"] / run["seconds"] for run in runs)
        peak = max(run["peak"] for run in runs) / 1e6
        print(
            f"{kind:6} {wall:9,.0f} tokens/s   {cpu:9,.0f} tokens per CPU second   peak {peak:,.0f} MB   waits for rows"
            f" {wait:.1%} of the loop"
        )
    for clock, name in (("seconds", "wall time"), ("cpu", "processor time")):
        ratios = [
            one["ours"]["tokens"] / one["ours"][clock] / (one["plain"]["tokens"] / one["plain"][clock]) for one in found
        ]
        print(
            f"ratio  {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f}) by {name}, n = {len(ratios)};"
            " bar 0.97"
        )


if __name__ == "__main__":
    main()
