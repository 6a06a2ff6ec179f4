"""``vlmguard train sft`` on a tiny LLaVA: from a recipe to a rewriter that serves, and everything that can be wrong on the way."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.tiny_llava import FORWARD, PAIR, PAIR_PROMPT, picture
from tests.train.conftest import python, work
from tests.train.worker import LORA, TRL, recipe
from tests.train.world import ROWS, write_dataset
from vlmguard import Guard, chat, load_policy
from vlmguard.cli.main import main
from vlmguard.errors import InputError, ModelError, TrainError
from vlmguard.jsonl import read_rows
from vlmguard.models.local import LocalModel
from vlmguard.models.spec import ModelSettings
from vlmguard.rewriters.select import make_rewriter
from vlmguard.train.recipe import Recipe
from vlmguard.train.sft import sft
from vlmguard.types import Outcome

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning:transformers.*"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
SHORT = TRL | {"max_steps": 1, "eval_strategy": "no", "save_strategy": "no"}


def curve(run: Path) -> list[tuple[int, Any, Any]]:
    return [
        (row["step"], row.get("loss"), row.get("eval_loss"))
        for row in read_rows(run / "metrics.jsonl")
        if "train_loss" not in row
    ]


async def test_a_run_serves_at_once(whole: Path) -> None:
    rewriter = make_rewriter(f"local:{whole}", load_policy(), settings=ModelSettings(deadline=120))
    guarded = await Guard(rewriter).refine(chat(PAIR, [picture("red")]))
    assert guarded.outcome is Outcome.REWRITE
    assert guarded.chat is not None
    assert guarded.chat.prompt == PAIR_PROMPT


def test_what_a_run_leaves_behind(whole: Path) -> None:
    state = json.loads((whole / "run.json").read_text())
    assert (state["state"], state["steps"], state["error_rows"]) == ("finished", 6, 0)
    assert state["held_out"]["valid"]["n"] == 2
    assert set(state["versions"]) >= {"torch", "transformers", "trl", "peft", "accelerate", "datasets"}
    card = (whole / "README.md").read_text()
    for part in (state["dataset_fingerprint"], "vllm serve", "--chat-template", f"local:{whole}", "95 % interval"):
        assert part in card
    assert all((whole / name).stat().st_size > 1000 for name in ("loss.png", "held_out.png", "lengths.png"))
    assert any((whole / "tensorboard").iterdir())
    assert {row["step"] for row in read_rows(whole / "samples.jsonl")} == {3, 6}
    assert sorted(folder.name for folder in (whole / "checkpoints").iterdir()) == ["checkpoint-4", "checkpoint-6"]
    assert (whole / "model/chat_template.jinja").exists()
    assert not list((whole / "model").glob("*.bin"))


def test_a_killed_run_goes_on_with_the_same_curve(whole: Path, base: str, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    killed = work(base, data, out, KILL_AT="5")
    assert killed.returncode == -signal.SIGKILL
    assert [row[0] for row in curve(out)][-1] >= 4
    half = out / "checkpoints/.staged/checkpoint-9"  # as a kill within a checkpoint leaves it
    half.mkdir(parents=True)
    (half / "trainer_state.json").write_text("{")
    with pytest.raises(ModelError, match="not finished"):
        LocalModel(str(out))
    again = work(base, data, out)
    assert again.returncode == 0, again.stderr
    assert "goes on from step 4" in again.stderr
    assert curve(out) == curve(whole)
    assert not half.exists()
    assert (out / "model/adapter_model.safetensors").read_bytes() == (
        whole / "model/adapter_model.safetensors"
    ).read_bytes()


def test_two_processes_learn_what_one_does_with_twice_the_batch(base: str, tmp_path: Path) -> None:
    """Each row is seen by one of them, and the run is one: a folder, a checkpoint, an evaluation with every row in it once."""
    unfit = ("Hm?", None, FORWARD.format("absent").replace("something", "<image>"), True)
    data = write_dataset(tmp_path / "data", rows=(*ROWS, unfit), validation=3)
    settings = TRL | {"max_steps": 2, "eval_steps": 2, "save_steps": 2}
    given: dict[str, Any] = {"lora": LORA | {"lora_dropout": 0.0}, "held_out": 3}
    one = sft(Recipe(base, str(data), trl=settings, **given), tmp_path / "one", tell=lambda line: None)
    each = {"base": base, "dataset": str(data), "trl": settings | {"per_device_train_batch_size": 1}}
    (tmp_path / "recipe.yaml").write_text(json.dumps(each | given))
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "vlmguard.cli.main")
    two = tmp_path / "two"
    command = ("train", "sft", str(tmp_path / "recipe.yaml"), "--out", str(two))
    done = python(*launcher, *command, OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("2 steps, loss") == 1
    assert re.search(r", valid [\d.]+% of 3, ", done.stdout)
    assert done.stderr.count("step 2 of 2: loss") == done.stderr.count("1 error rows are left out") == 1
    losses = [[loss for _, loss, held_out in curve(run) if held_out is None] for run in (one.folder, two)]
    assert len(losses[0]) == 2
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    state = json.loads((two / "run.json").read_text())
    assert (state["processes"], state["steps"], state["held_out"]["valid"]["n"]) == (2, 2, 3)
    assert [folder.name for folder in (two / "checkpoints").iterdir()] == ["checkpoint-2"]
    samples = [row["id"] for row in read_rows(two / "samples.jsonl")]
    assert sorted(samples) == ["validation-0", "validation-1", "validation-2"]
    assert LocalModel(str(two), device="cpu").fingerprint


def test_a_full_disk_leaves_no_half_checkpoint(base: str, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = work(base, data, out, FILE_LIMIT="30000")
    assert done.returncode == 1
    assert "TrainError: the checkpoint at step 2 could not be written" in done.stderr
    assert "Free space" in done.stderr
    assert list((out / "checkpoints").iterdir()) == []
    assert not (out / "model").exists()


def test_finished_runs_and_other_recipes_are_not_mixed(whole: Path, base: str, data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="finished run"):
        sft(recipe(base, str(data)), whole)
    other = tmp_path / "run"
    shutil.copytree(whole, other)
    state = json.loads((other / "run.json").read_text())
    (other / "run.json").write_text(json.dumps(state | {"state": "running"}))
    with pytest.raises(InputError, match=r"\(the recipe changed\)"):
        sft(recipe(base, str(data), learning_rate=1e-4), other)


def test_the_command_trains_whole_weights_and_counts_error_rows(
    base: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = FORWARD.format("absent")
    rows = (*ROWS[1:3], ("Hm?", None, trace.replace("something", "<image>"), True), ("Long " * 300, None, trace, True))
    write_dataset(tmp_path / "data", rows=rows)
    text = {
        "base": base,
        "dataset": "data",
        "longest_row": 400,
        "held_out": 0,
        "needs": {"memory": "1 GB"},
        "trl": SHORT,
    }
    (tmp_path / "recipe.yaml").write_text(json.dumps(text))
    assert main(["train", "sft", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "run")]) == 3
    told = capsys.readouterr()
    assert "memory, an estimate: 1 GB" in told.err
    assert "2 rows, " in told.err
    assert "2 error rows are left out" in told.err
    reasons = {row["id"]: row["reason"] for row in read_rows(tmp_path / "run/error_rows.jsonl")}
    assert "its trace holds <image>" in reasons["train-2"]
    assert "tokens, and 400 fit" in reasons["train-3"]
    assert LocalModel(str(tmp_path / "run"), device="cpu").fingerprint
    assert main(["train", "merge", str(tmp_path / "run"), "--out", str(tmp_path / "merged")]) == 2
    assert "whole weights, which need no merging" in capsys.readouterr().err


def test_rows_without_a_trace_are_error_rows_of_both_splits(base: str, tmp_path: Path) -> None:
    broken = (("Hm?", None, "no trace at all", True), *ROWS[1:3])
    data = write_dataset(tmp_path / "data", rows=broken, validation=2)
    settings = SHORT | {"eval_strategy": "steps", "eval_steps": 1}
    run = sft(Recipe(base, str(data), lora=LORA, trl=settings, held_out=2), tmp_path / "run", tell=lambda line: None)
    assert run.error_rows == 2
    found = [(row["split"], row["id"]) for row in read_rows(tmp_path / "run/error_rows.jsonl")]
    assert found == [("train", "train-0"), ("validation", "validation-0")]
    assert {row["id"] for row in read_rows(tmp_path / "run/samples.jsonl")} == {"validation-1"}


def test_validation_rows_that_do_not_fit_are_left_out(base: str, tmp_path: Path) -> None:
    long = ("Long " * 300, None, FORWARD.format("absent"), True)
    data = write_dataset(tmp_path / "data", rows=(long, *ROWS[1:3]), validation=2)
    settings = SHORT | {"eval_strategy": "steps", "eval_steps": 1}
    given: dict[str, Any] = {"lora": LORA, "trl": settings, "held_out": 2, "longest_row": 400}
    run = sft(Recipe(base, str(data), **given), tmp_path / "run", tell=lambda line: None)
    assert run.error_rows == 2
    found = {row["id"]: row for row in read_rows(tmp_path / "run/error_rows.jsonl")}
    assert {row["split"] for row in found.values()} == {"train", "validation"}
    assert "tokens, and 400 fit" in found["validation-0"]["reason"]
    assert {row["id"] for row in read_rows(tmp_path / "run/samples.jsonl")} == {"validation-1"}
    data = write_dataset(tmp_path / "other", rows=(long, *ROWS[1:3]), validation=1)
    with pytest.raises(InputError, match=r"no validation row of .* can be used, validation-0 since it has"):
        sft(Recipe(base, str(data), **given), tmp_path / "other run", tell=lambda line: None)


def test_missing_pictures_of_validation_rows_end_it_as_well(base: str, tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data", rows=ROWS[1:3], validation=1)
    rows = (data / "data.jsonl").read_text().splitlines(keepends=True)
    (data / "data.jsonl").write_text("".join(rows[1:]))  # the picture is of the validation row alone
    next((data / "pictures").rglob("*.png")).unlink()
    with pytest.raises(InputError, match=r"broken in 1 of 1 rows: validation-0.*is gone"):
        sft(Recipe(base, str(data), lora=LORA, trl=SHORT), tmp_path / "run", tell=lambda line: None)


def test_a_template_beside_the_recipe(base: str, data: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(base, bare)
    (bare / "chat_template.jinja").rename(tmp_path / "turns.jinja")
    settings = SHORT | {"chat_template_path": "turns.jinja"}
    recipe = Recipe(str(bare), str(data), lora=LORA, trl=settings, folder=tmp_path)
    sft(recipe, tmp_path / "run", tell=lambda line: None)
    written = (tmp_path / "run/model/chat_template.jinja").read_text()
    assert written == (tmp_path / "turns.jinja").read_text()


class _Stopped(Exception):
    """What ends a run from outside."""


def test_a_run_that_was_stopped_stops_early_where_it_would_have(base: str, data: Path, tmp_path: Path) -> None:
    from transformers import TrainerCallback

    class Stop(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == 2:
                raise _Stopped

    settings = TRL | {
        "max_steps": 30, "eval_steps": 1, "save_steps": 1, "metric_for_best_model": "eval_decisions", "eval_on_start": True,
    }  # fmt: skip
    given = Recipe(base, str(data), lora=LORA, trl=settings, held_out=2, early_stop=3)
    whole = sft(given, tmp_path / "whole", tell=lambda line: None)
    with pytest.raises(_Stopped):
        sft(given, tmp_path / "run", callbacks=[Stop()], tell=lambda line: None)
    again = sft(given, tmp_path / "run", tell=lambda line: None)
    assert again.steps == whole.steps < 30
    assert curve(again.folder) == curve(whole.folder)


def test_two_processes_of_which_one_is_killed_go_on_with_the_same_curve(base: str, data: Path, tmp_path: Path) -> None:
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "tests.train.worker")

    def launch(out: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return python(*launcher, base, str(data), str(tmp_path / out), OMP_NUM_THREADS="1", **environment)

    whole = launch("whole")
    assert whole.returncode == 0, whole.stderr
    killed = launch("killed", KILL_AT="5", KILL_RANK="1")
    assert killed.returncode != 0
    assert "Signal 9 (SIGKILL)" in killed.stderr
    again = launch("killed")
    assert again.returncode == 0, again.stderr
    assert again.stderr.count("goes on from step 4") == 1
    assert curve(tmp_path / "killed") == curve(tmp_path / "whole")
    first, second = (tmp_path / run / "model/adapter_model.safetensors" for run in ("whole", "killed"))
    assert first.read_bytes() == second.read_bytes()


def test_an_early_stop_keeps_the_best(base: str, data: Path, tmp_path: Path) -> None:
    settings = TRL | {
        "max_steps": 30, "eval_steps": 1, "save_steps": 1, "metric_for_best_model": "eval_decisions",
        "load_best_model_at_end": True, "save_total_limit": 1,
    }  # fmt: skip
    run = sft(
        Recipe(base, str(data), lora=LORA, trl=settings, held_out=2, early_stop=1),
        tmp_path / "run",
        tell=lambda line: None,
    )
    assert run.steps == 2  # the first evaluation is perfect, and the next is not better
    assert run.held_out["decisions"] == 1.0


# ---------------------------------------------------------------------------------------------------------------------
# Bad input


def test_a_loss_that_is_no_number_ends_the_run(base: str, data: Path, tmp_path: Path) -> None:
    import torch
    from transformers import TrainerCallback

    class Spoils(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            if state.global_step == 1:
                with torch.no_grad():
                    next(parameter for parameter in model.parameters() if parameter.requires_grad).fill_(float("nan"))

    settings = SHORT | {"max_steps": 4, "save_strategy": "steps", "save_steps": 1}
    with pytest.raises(TrainError, match=r"the loss is nan at step 2.*learning_rate"):
        sft(
            Recipe(base, str(data), lora=LORA, trl=settings),
            tmp_path / "run",
            callbacks=[Spoils()],
            tell=lambda line: None,
        )
    assert [folder.name for folder in (tmp_path / "run/checkpoints").iterdir()] == ["checkpoint-1"]


def test_no_memory_says_which_knobs(base: str, data: Path, tmp_path: Path) -> None:
    import torch
    from transformers import TrainerCallback

    class Greedy(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            torch.empty(2**55)

    with pytest.raises(TrainError, match=r"no memory is left.*per_device_train_batch_size \(now 2"):
        sft(
            Recipe(base, str(data), lora=LORA, trl=SHORT),
            tmp_path / "run",
            callbacks=[Greedy()],
            tell=lambda line: None,
        )


def test_missing_pictures_end_it_before_anything_is_trained(base: str, tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data")
    next((data / "pictures").rglob("*.png")).unlink()
    with pytest.raises(InputError, match=r"broken in 1 of 5 rows: train-.*is gone"):
        sft(Recipe(base, str(data), lora=LORA, trl=SHORT), tmp_path / "run", tell=lambda line: None)


def test_a_base_without_a_chat_template(base: str, data: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(base, bare)
    (bare / "chat_template.jinja").unlink()
    with pytest.raises(InputError, match="has no chat template"):
        sft(Recipe(str(bare), str(data), trl=SHORT), tmp_path / "run", tell=lambda line: None)
    shutil.copy(Path(base) / "chat_template.jinja", tmp_path / "ours.jinja")
    (tmp_path / "ours.jinja").write_text((tmp_path / "ours.jinja").read_text().replace("<|end|>", "<pad>"))
    settings = SHORT | {"chat_template_path": str(tmp_path / "ours.jinja")}
    with pytest.raises(InputError, match="would never stop"):
        sft(Recipe(str(bare), str(data), trl=settings), tmp_path / "run", tell=lambda line: None)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"lora": {"target_modules": ["nothing_like_it"]}}, "matches no layer.*language_model"),
        ({"lora": {"target_modules": ["q_proj"]}}, "outside of language: model.vision_tower"),
        ({"lora": {"target_modules": "all-linear"}}, "takes the vision tower"),
        ({"lora": {"r": 8}}, "target_modules is missing"),
        ({"lora": {"rang": 8}}, "knows no 'rang'"),
        ({"trl": SHORT | {"max_length": 512}}, "set longest_row"),
        ({"trl": SHORT | {"learning_rat": 1}}, "did you mean learning_rate"),
        ({"trl": SHORT | {"eval_strategy": "often"}}, "refuses these settings"),
        ({"trl": SHORT | {"learning_rate": "fast"}}, "trl.learning_rate is a number"),
        ({"trl": SHORT | {"eval_strategy": "steps", "metric_for_best_model": "eval_nonsense"}}, "there are eval_decisions"),
        ({"lora": {"target_modules": "("}}, "is no regular expression"),
        ({"trl": SHORT | {"report_to": "wandb"}}, "cannot train .*wandb"),
        ({"early_stop": 2}, "early_stop needs"),
        ({"fingerprint": "0" * 64}, "another dataset than the recipe names"),
        ({"dataset": "/nowhere"}, "holds no dataset"),
        ({"base": "/nowhere"}, "base: there is no folder /nowhere, and no model of a hub is called so"),
        ({"base": "~/nowhere"}, "base: there is no folder /.*/nowhere"),
        ({"longest_row": 20}, r"none of 5 rows can be trained on, the first \(train-0\) since it has"),
        ({"trl": SHORT | {"resume_from_checkpoint": "x"}}, "trl.resume_from_checkpoint is not for a recipe to set"),
        ({"trl": SHORT | {"assistant_only_loss": True}}, "trl.assistant_only_loss is not for a recipe to set"),
        ({"trl": SHORT | {"dataset_kwargs": {}}}, "trl.dataset_kwargs is not for a recipe to set"),
        ({"trl": SHORT | {"pad_to_multiple_of": 64}}, "trl.pad_to_multiple_of is not for a recipe to set"),
        ({"trl": SHORT | {"output_dir": "x"}}, "trl.output_dir is not for a recipe to set"),
        ({"trl": SHORT | {"model_init_kwargs": "fast"}}, "trl.model_init_kwargs is a table"),
        ({"trl": SHORT | {"chat_template_path": "./turns.jinja"}}, "trl.chat_template_path: there is no file turns.jinja"),
        ({"trl": SHORT | {"optim": "adamw_8bit"}}, "trl: optimizer and schedule cannot be made .*bitsandbytes"),
        ({"trl": SHORT | {"adam_beta1": 2.0}}, "trl: optimizer and schedule cannot be made .*beta"),
        ({"trl": SHORT | {"lr_scheduler_kwargs": {"nonsense": 1}}}, "trl: optimizer and schedule cannot be made .*nonsense"),
        ({"trl": SHORT | {"padding_free": True}}, "TRL cannot train .*padding_free"),
    ],
)  # fmt: skip
def test_settings_that_cannot_work(changes: dict[str, Any], error: str, base: str, data: Path, tmp_path: Path) -> None:
    settings = {"base": base, "dataset": str(data), "trl": SHORT, "lora": LORA} | changes
    with pytest.raises(InputError, match=error):
        sft(Recipe(**settings), tmp_path / "run", tell=lambda line: None)
    assert not (tmp_path / "run/model").exists()
