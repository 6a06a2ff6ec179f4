"""A training run in a process of its own, to be killed or to be given too little disk: ``python -m tests.train.worker BASE DATA OUT``.

``KILL_AT`` in the environment kills it (-9) at the end of that step, of several processes only ``KILL_RANK``; ``FILE_LIMIT`` is the most bytes of a file.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

from vlmguard.errors import VlmguardError
from vlmguard.train.recipe import Recipe

LORA = {
    "r": 8,
    "lora_alpha": 16,
    "lora_dropout": 0.1,
    "target_modules": r".*language_model.*\.(q_proj|v_proj|up_proj|down_proj)",
}
TRL = {
    "max_steps": 6, "per_device_train_batch_size": 2, "learning_rate": 3e-3, "use_cpu": True, "bf16": False,
    "gradient_checkpointing": False, "logging_steps": 1, "save_steps": 2, "eval_strategy": "steps", "eval_steps": 3,
    "lr_scheduler_type": "cosine", "save_total_limit": 2,
}  # fmt: skip


def recipe(base: str, data: str, **changes: Any) -> Recipe:
    """Dropout and shuffling, so that going on exactly needs the state of every generator."""
    return Recipe(base, data, lora=LORA, trl=TRL | changes, held_out=2)


def main() -> int:
    """Exit code 1 with the error on standard error."""
    import torch
    from transformers import TrainerCallback

    from vlmguard.train.sft import sft

    torch.set_num_threads(1)
    kill_at = int(os.environ.get("KILL_AT", "0"))
    limit = int(os.environ.get("FILE_LIMIT", "0"))

    class Killer(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if (
                kill_at
                and state.global_step == kill_at
                and os.environ.get("RANK") in (None, os.environ.get("KILL_RANK"))
            ):
                os.kill(os.getpid(), signal.SIGKILL)
            if limit:
                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    base, data, out = sys.argv[1:]
    try:
        sft(recipe(base, data), Path(out), callbacks=[Killer()])
    except VlmguardError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
