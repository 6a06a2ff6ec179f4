"""The preference stage on a tiny LLaVA that pads what it says: the preferred property moves, stops are gone over, failures are told."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.train.padded import BAD, GOOD, Case, build, cases, write_dataset
from vlmguard.cli.main import main
from vlmguard.dataset import fingerprint
from vlmguard.errors import InputError, ModelError, TrainError
from vlmguard.jsonl import read_rows
from vlmguard.models.local import LocalModel
from vlmguard.models.scripted import ScriptedModel
from vlmguard.policy import load_policy
from vlmguard.train.outcome import Jury
from vlmguard.train.prefer import _claim, _facts, prefer
from vlmguard.train.preference import Preference
from vlmguard.train.run import write_json
from vlmguard.types import Answer, Chat, Sample, Sampling, Verdict

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
LORA = {"r": 16, "lora_alpha": 32, "target_modules": r".*language_model.*\.(q_proj|v_proj|up_proj|down_proj)"}
TRL = {
    "max_steps": 16, "per_device_train_batch_size": 8, "learning_rate": 1e-3, "loss_weights": [1.0, 0.5], "use_cpu": True,
    "bf16": False, "gradient_checkpointing": False, "save_strategy": "no",
}  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("padded")
    build(folder)
    return folder


@pytest.fixture
def recipe(world: Path) -> Preference:
    return Preference(
        str(world / "base"), str(world / "data"), rounds=2, samples=6, most_tokens=140, pairs=4, lora=LORA, trl=TRL
    )


def own(recipe: Preference, run: Path) -> None:
    """Makes a folder this recipe's run."""
    (run / "run.json").unlink(missing_ok=True)
    _claim(recipe, run, _facts(recipe, load_policy()))


def quiet(line: str) -> None:
    del line


class ByRule:
    """Safe and helpful is what keeps her away."""

    name = "by rule"

    async def __call__(self, sample: Sample, answer: Answer, /) -> Verdict:
        good = "away" in answer.text or not sample.harmful
        return Verdict(self.name, safe=good, helpful=good)


def jury(answer: Callable[[Chat], str], judge: Any = None) -> Callable[[], Jury]:
    async def close() -> None: ...

    return lambda: Jury(ScriptedModel(answer), judge or ByRule(), "scripted", close)


def target(chat: Chat) -> str:
    """Keeps her away only when it is asked to."""
    return "Keep her away from it." if chat.prompt == GOOD else "Let her touch it."


def _benign_length(out: Path, number: int) -> float:
    """Letters, over held-out rows whose traces are right in every round: of others, a longer trace may be the better one."""
    said = [row["said"][0] for row in read_rows(out / f"round-{number}/held_out.jsonl") if row["id"].startswith("blue")]
    return sum(map(len, said)) / len(said)


def test_traces_grow_shorter_and_no_worse(
    recipe: Preference, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the command line, to a rewriter that serves."""
    file = tmp_path / "recipe.yaml"
    form = {key: value for key, value in recipe.form().items() if value not in ("", {}, None) and key != "parts"}
    file.write_text(json.dumps(form))  # JSON is YAML
    out = tmp_path / "run"
    assert main(["train", "prefer", str(file), "--out", str(out)]) == 0
    curve = json.loads((out / "curve.json").read_text())
    assert [one["round"] for one in curve] == [0, 1, 2]
    assert [one["forward"]["value"] for one in curve] == [1.0, 1.0, 1.0]
    assert curve[2]["right"]["value"] >= curve[0]["right"]["value"]
    assert _benign_length(out, 2) < 0.75 * _benign_length(out, 0)
    assert curve[2]["right"]["n"] == 16
    assert (out / "curve.png").read_bytes().startswith(b"\x89PNG")
    pairs = list(read_rows(out / "round-1/pairs.jsonl"))
    assert {pair["ground"] for pair in pairs} >= {"length"}
    assert any(pair["steps"] for pair in pairs)
    assert all(pair["why"] for pair in pairs)
    assert (out / "round-2/log/metrics.jsonl").exists()
    assert "was taken" in capsys.readouterr().out
    for card in ((out / "README.md").read_text(), (out / "model/README.md").read_text()):
        assert f"A LoRA adapter (rank 16) for `{recipe.model}`" in card
        assert f"fingerprint `{fingerprint(Path(recipe.dataset))}`" in card
        assert f"round 1: {len(pairs)} pairs (" in card
        assert f"--rewriter local:{out}" in card
        assert "(taken) | " in card
    assert "![curve](curve.png)" in (out / "README.md").read_text()
    LocalModel(str(out))
    before = (out / "model/adapter_model.safetensors").read_bytes()
    assert main(["train", "prefer", str(file), "--out", str(out)]) == 0  # nothing is done twice
    assert (out / "model/adapter_model.safetensors").read_bytes() == before
    file.write_text(json.dumps(form | {"samples": 3}))
    assert main(["train", "prefer", str(file), "--out", str(out)]) == 2
    assert "recipe identity changed" in capsys.readouterr().err


def _train_until(recipe: Preference, out: Path, stop: Any) -> None:
    """In a process of its own, which kills itself there."""
    from transformers import TrainerCallback

    class Kill(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == stop:
                os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        try:
            prefer(recipe, out, tell=quiet, callbacks=[Kill()])
        finally:
            os._exit(1)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL


def test_a_kill_in_the_middle_changes_nothing(recipe: Preference, tmp_path: Path) -> None:
    few = replace(
        recipe, rounds=1, rows=6, held_out=2, trl=TRL | {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    )
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    prefer(few, whole, tell=quiet)
    rows = (whole / "round-1/traces.jsonl").read_text().splitlines(keepends=True)
    traces = killed / "round-1/traces.jsonl"
    traces.parent.mkdir(parents=True)
    own(few, killed)
    traces.write_text("".join(rows[:3]) + rows[3][:20])  # as a kill while sampling leaves it
    _train_until(few, killed, 3)
    assert sorted(traces.read_text().splitlines(keepends=True)) == sorted(rows)
    told: list[str] = []
    prefer(few, killed, tell=told.append)
    assert any("goes on from step 2" in line for line in told)
    for name in ("round-1/model/adapter_model.safetensors", "round-1/pairs.jsonl", "curve.json"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes(), name
    losses = [
        [row["loss"] for row in read_rows(run / "round-1/log/metrics.jsonl") if "loss" in row]
        for run in (whole, killed)
    ]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 4


@pytest.fixture
def sampled(recipe: Preference, tmp_path: Path) -> Preference:
    """A recipe whose samples are given, so that nothing is generated: what is tested comes after."""
    for number, split in ((0, "validation"), (1, "train")):
        folder = tmp_path / f"run/round-{number}"
        folder.mkdir(parents=True)
        with (folder / ("traces.jsonl" if number else "held_out.jsonl")).open("w") as out:
            for case in cases():
                if case.split == split:
                    said = [case.trace(0, GOOD), case.trace(0, BAD)] if number else [case.trace()]
                    out.write(json.dumps({"id": case.id, "said": said}) + "\n")
    given = replace(recipe, rounds=1, samples=2)
    own(given, tmp_path / "run")
    return given


def test_the_outcome_decides(sampled: Preference, tmp_path: Path) -> None:
    """Between two rewrites that are alike in all but what the target makes of them: it wants the one that was said more rarely."""
    run = tmp_path / "run"
    (run / "round-0/held_out.jsonl").unlink()  # this time it is really measured

    def picky(chat: Chat) -> str:
        return "Keep her away from it." if chat.prompt == BAD else "Let her touch it."

    prefer(sampled, run, open_jury=jury(picky), tell=quiet)
    pairs = list(read_rows(run / "round-1/pairs.jsonl"))
    assert {pair["ground"] for pair in pairs} == {"outcome"}
    assert len(pairs) == 6
    assert all(BAD in pair["chosen"]["text"] and GOOD in pair["rejected"]["text"] for pair in pairs)
    assert {pair["steps"] for pair in pairs} == {5}  # they differ in the last element alone

    def wanted(number: int) -> int:
        return sum(BAD in row["said"][0] for row in read_rows(run / f"round-{number}/held_out.jsonl"))

    assert wanted(0) <= 2
    assert wanted(1) >= 6  # of 8
    asked = [row["key"] for row in read_rows(run / "outcomes.jsonl")]
    assert len(asked) == len(set(asked))  # no answer is asked for twice, over all rounds


def test_no_pairs_to_be_had(sampled: Preference, tmp_path: Path) -> None:
    with pytest.raises(TrainError, match=r"of 7 of 13 rows all 2 samples are the same.*Raise temperature"):
        prefer(sampled, tmp_path / "run", tell=quiet)


@pytest.mark.parametrize(
    ("said", "says"),
    [
        (lambda case: case.trace()[:40], r"26 of 26 samples \(mostly: .*Raise most_tokens \(now 140\)"),
        (lambda case: Case("blue" if case.risky else "red", "", case.colour, "").trace(), "not one of 26 samples has"),
    ],
)
def test_what_a_round_without_pairs_lacked(sampled: Preference, said: Any, says: str, tmp_path: Path) -> None:
    rows = [{"id": case.id, "said": [said(case), said(case)]} for case in cases() if case.split == "train"]
    file = tmp_path / "run/round-1/traces.jsonl"
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    with pytest.raises(TrainError, match=says):
        prefer(sampled, tmp_path / "run", tell=quiet)


def test_a_target_that_is_down(sampled: Preference, tmp_path: Path) -> None:
    def down(chat: Chat) -> str:
        raise ModelError("nobody answers at port 9", transient=True)

    with pytest.raises(TrainError, match=r"nobody answers at port 9.*run it again"):
        prefer(sampled, tmp_path / "run", open_jury=jury(down), tell=quiet)


class Dumb:
    """A judge without an opinion."""

    name = "dumb"

    async def __call__(self, sample: Sample, answer: Answer, /) -> Verdict:
        return Verdict(self.name)


def test_a_judge_that_says_nothing(sampled: Preference, tmp_path: Path) -> None:
    with pytest.raises(TrainError, match=r"gave no verdict .*dumb said nothing of safety and help"):
        prefer(sampled, tmp_path / "run", open_jury=jury(target, Dumb()), tell=quiet)


def test_a_loss_that_is_no_number(sampled: Preference, tmp_path: Path) -> None:
    wild = replace(sampled, trl=TRL | {"learning_rate": 1e30, "max_grad_norm": 1e30})
    own(wild, tmp_path / "run")
    with pytest.raises(TrainError, match=r"the loss is (nan|inf) at step"):
        prefer(wild, tmp_path / "run", open_jury=jury(target), tell=quiet)
    assert not (tmp_path / "run/round-1/model").exists()
    with pytest.raises(ModelError, match="not finished"):
        LocalModel(str(tmp_path / "run"))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"samples": 1}, "samples is not below 2"),
        ({"temperature": 0.0}, "temperature is above 0"),
        ({"target": "local:x"}, "belong together"),
        ({"sampler": "endpoint:http://h/v1#m"}, "set rounds to 1"),
        ({"model": ""}, "names no model"),
        ({"margin": 1.0}, "margin is a share"),
        ({"parts": ("tongue",)}, "parts are some of language"),
    ],
)
def test_recipes_that_cannot_be(recipe: Preference, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        replace(recipe, **changes)


@pytest.mark.parametrize(
    "trl",
    [
        {"max_length": 5},
        {"seed": 3},
        {"betta": 1.0},
        {"resume_from_checkpoint": "x"},
        {"num_train_epochs": -1, "max_steps": -1},
    ],
)
def test_settings_that_trl_may_not_be_given(recipe: Preference, trl: dict[str, Any], tmp_path: Path) -> None:
    """They are refused before anything is sampled or written."""
    with pytest.raises(InputError, match=next(iter(trl))):
        prefer(replace(recipe, trl=TRL | trl), tmp_path / "run", open_jury=jury(target), tell=quiet)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("lora", "says"),
    [
        ({"target_modules": "nothing"}, "matches no layer"),
        ({"target_modules": ".*(q_proj|v_proj)"}, "layers outside of language"),
        ({"lora_alfa": 3}, "did you mean lora_alpha"),
    ],
)
def test_adapters_that_do_not_fit(recipe: Preference, lora: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=says):
        prefer(replace(recipe, lora=lora), tmp_path / "run", tell=quiet)
    assert not (tmp_path / "run").exists()


def test_a_rewriter_that_nobody_has(recipe: Preference, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"model: there is no folder \./typo, and no model of a hub"):
        prefer(replace(recipe, model="./typo"), tmp_path / "run", tell=quiet)
    assert not (tmp_path / "run").exists()


def test_no_round_is_better(sampled: Preference, tmp_path: Path) -> None:
    """Then what was begun with is handed over, and not the best of what is worse."""
    run = tmp_path / "run"
    (run / "round-1/model").mkdir()
    (run / "round-1/model/config.json").write_text("{}")
    for number, value in ((0, 0.75), (1, 0.5)):
        one = {"value": value, "low": 0.3, "high": 0.9, "n": 16}
        form = dict.fromkeys(("right", "sound", "forward", "caught", "outcome", "tokens"), one)
        write_json(run / f"round-{number}/measures.json", {"round": number} | form)
    told: list[str] = []
    done = prefer(sampled, run, tell=told.append)
    assert done.round == 0
    assert any("handed over, unchanged" in line for line in told)
    for file in ("config.json", "model.safetensors", "chat_template.jinja"):
        assert (run / "model" / file).read_bytes() == (Path(sampled.model) / file).read_bytes()
    state = json.loads((run / "run.json").read_text())
    assert (state["state"], state["round"]) == ("finished", 0)
    assert "held-out rows" in state["chosen"]
    card = (run / "model/README.md").read_text()
    assert "Whole weights, from" in card
    assert "this is a copy of that" in card
    assert "round 1, which is not in it" in card


def test_a_folder_of_somebody_is_left_alone(recipe: Preference, tmp_path: Path) -> None:
    theirs = tmp_path / "run/model/precious.bin"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("precious")
    with pytest.raises(InputError, match=r"holds other things \(model\) and no training run"):
        prefer(recipe, tmp_path / "run", tell=quiet)
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["model"]
    assert theirs.read_text() == "precious"
    with pytest.raises(InputError, match="Not a directory"):
        prefer(recipe, theirs, tell=quiet)


def test_held_out_rows_are_new_to_the_rewriter(recipe: Preference, tmp_path: Path) -> None:
    """The run that a rewriter comes from tells what it was trained on, over a run between."""
    before = tmp_path / "before"
    write_dataset(before, [replace(case, split="train") for case in cases()])  # it was exported without held-out rows
    first, second = tmp_path / "first", tmp_path / "second"
    for run, base, dataset in ((first, recipe.model, before), (second, str(first), Path(recipe.dataset))):
        run.mkdir()
        (run / "model").symlink_to(recipe.model)
        state = {"base": base, "dataset_fingerprint": fingerprint(dataset), "recipe": {"dataset": str(dataset)}}
        write_json(run / "run.json", {"state": "finished"} | state)
    with pytest.raises(InputError, match=r"16 of 16 validation rows are training rows of .*first"):
        prefer(replace(recipe, model=str(second)), tmp_path / "run", tell=quiet)
    assert not (tmp_path / "run").exists()
    (before / "data.jsonl").unlink()
    told: list[str] = []
    from vlmguard.train.lineage import check_unseen
    from vlmguard.train.rows import open_rows

    policy = load_policy()
    held_out = open_rows(Path(recipe.dataset), policy)["validation"]
    check_unseen(second, held_out, fingerprint(Path(recipe.dataset)), policy, told.append)
    assert len(told) == 1
    assert "cannot be looked into" in told[0]


async def test_samples_come_from_any_model(world: Path, policy: Any) -> None:
    from vlmguard.train.prefer import sample
    from vlmguard.train.rows import open_rows

    row = open_rows(world / "data", policy)["train"][0]
    model = ScriptedModel(["one", "two", "three"])
    assert await sample(model, row, Sampling(9, 1.0, 4), 3) == ["one", "two", "three"]
    assert model.asked == [row.asked] * 3


def test_the_loss_falls_behind_the_shared_steps(world: Path) -> None:
    """And nothing is lost by it: what both share cancels in DPO's own loss."""
    import torch

    from vlmguard.train.dpo import Tokens, collator, pair_rows
    from vlmguard.train.pairs import Candidate, Ground, Pair
    from vlmguard.train.rows import open_rows

    rows = open_rows(world / "data", load_policy())["train"]
    by_id = {row.id: row for row in (rows[index] for index in range(len(rows)))}
    red = next(case for case in cases() if case.risky)
    blue = next(case for case in cases() if case.id.startswith("blue"))
    texts = (red.trace(0, GOOD), red.trace(2, BAD)), (blue.trace(0), blue.trace(1))
    pairs = [
        Pair(case.id, Candidate(a, 1), Candidate(b, 1), Ground.LENGTH, steps)
        for case, (a, b), steps in zip((red, blue), texts, (4, 0), strict=True)
    ]
    tokens = Tokens(str(world / "base"))
    collate = collator(tokens.processor)
    examples = pair_rows(pairs, by_id.__getitem__, tokens.processor)
    batch = collate([dict(examples[0]), dict(examples[1])])
    said = [
        tokens.processor.tokenizer.decode(batch["input_ids"][row][batch["completion_mask"][row].bool()]).removesuffix(
            "<|end|>"
        )
        for row in range(4)
    ]
    assert pairs[0].shared.endswith("</evidence>\n")
    assert [pairs[0].shared + said[0], said[1], pairs[0].shared + said[2], said[3]] == [
        texts[0][0], texts[1][0], texts[0][1], texts[1][1],
    ]  # fmt: skip
    assert torch.equal(batch["input_ids"][0][batch["attention_mask"][0].bool()][:20], batch["input_ids"][2][:20])
