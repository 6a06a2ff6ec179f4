"""What a run makes, piece by piece, each in a folder named by all that it depends on: made once, found again."""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipes.micro import arms, bases, evaluation, lessons, oracle, world
from recipes.micro.sizes import REWRITER, Size
from vlmguard import trace
from vlmguard.policy import Policy, load_policy
from vlmguard.rewriters.quoting import rewriter_chat


@dataclass(frozen=True, slots=True)
class Workplace:
    """Where everything of a run lies."""

    size: Size
    out: Path
    cache: Path
    """For this code and these lengths of training."""
    asked: str
    """Tells the answers of this size from others in the cache."""

    def base(self, family: str) -> Path:
        return self.cache / f"base-{family}"

    def target(self, family: str, seed: int) -> Path:
        return self.cache / f"target-{family}-{seed}"

    def dataset(self, split: int, hindsight: bool) -> Path:
        return self.cache / f"dataset-{split}{'' if hindsight else '-no-hindsight'}"

    def answers(self, kind: str, part: int, parts: int) -> Path:
        return self.cache / f"answers-{self.asked}-{kind}-{part + 1}-of-{parts}"

    def rewriter(self, arm: str, split: int, seed: int) -> Path:
        return self.cache / f"rewriter-{arm}-{split}-{seed}"


def workplace(size: Size, out: Path) -> Workplace:
    """Folders for a size; with other code or other lengths of training, others."""
    lengths = [dataclasses.asdict(size.steps), size.rewriter_steps, size.each]
    made = _digest(lengths, "world", "bases", "lessons", "oracle", "arms", "making")
    return Workplace(size, out.resolve(), out.resolve() / "cache" / made, _digest(repr(size), "evaluation"))


def _digest(settings: object, *modules: str) -> str:
    """Of settings and code; comments and layout change nothing."""
    digest = hashlib.sha256(json.dumps(settings).encode())
    for name in modules:
        source = Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8")
        digest.update(ast.dump(ast.parse(source)).encode())
    return digest.hexdigest()[:12]


def one_thread() -> None:
    """Of every worker: two threads that wait for each other are slower than one."""
    import torch

    torch.set_num_threads(1)


def do(work: Workplace, what: str, *of: Any) -> None:
    """Makes one thing. In a worker's process."""
    _MAKERS[what](work, *of)


def _once(folder: Path, make: Callable[[Path], None]) -> None:
    """Makes a folder, whole or not at all, where it is not there yet."""
    if folder.exists():
        return
    fresh = folder.with_name(f"{folder.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    make(fresh)
    fresh.replace(folder)


def _base(work: Workplace, family: str) -> None:
    def make(folder: Path) -> None:
        policy = load_policy()
        processor, model = bases.make_base(family, _tokenizer(policy), 0)
        sight = lessons.teach_sight(model, processor, work.size.steps.sight * bases.SIGHT.get(family, 1), 0)
        lessons.teach(model, processor, list(lessons.captions(20, 0)), work.size.steps.captions, 0)
        print(f"base {family}: {sight:.1%} of scenes recognised while learning", flush=True)
        bases.save(processor, model, folder)

    _once(work.base(family), make)


def _tokenizer(policy: Policy) -> Any:
    """Of all that is said in the world, whatever is held out later: a vocabulary, no knowledge."""
    questions = list(world.training_questions(world.pairs(world.STATES), len(world.FRAMES), 0))
    taught = [*lessons.answers(world.pairs(world.STATES), 1, 0), *lessons.captions(1, 0)]
    said = [text for lesson in taught for text in (lesson.asked.messages[-1].text, lesson.said)]
    said += [oracle.rewritten(question, seed) for question in questions for seed in range(len(oracle.REWRITES))]
    said += [rewriter_chat(lesson.asked, policy, b"").messages[-1].text for lesson in taught[:50]]
    traces = [trace.render(oracle.refinement(question)) for question in questions]
    return bases.make_tokenizer(said, traces, policy)


def _target(work: Workplace, family: str, seed: int) -> None:
    def make(folder: Path) -> None:
        processor, model = bases.load(work.base(family))
        taught = list(lessons.answers(world.seen_by_targets(), work.size.each, seed))
        taught += list(lessons.captions(10, seed))
        lessons.teach(model, processor, taught, round(work.size.steps.answers * bases.ANSWERS.get(family, 1)), seed)
        bases.save(processor, model, folder)

    _once(work.target(family, seed), make)


def _dataset(work: Workplace, split: int, hindsight: bool) -> None:
    judge = work.target(work.size.families[0], 0)
    _once(
        work.dataset(split, hindsight),
        lambda folder: arms.synthesise(split, work.size.each, judge, folder, load_policy(), hindsight=hindsight),
    )


def _rewriter(work: Workplace, arm: str, split: int, seed: int) -> None:
    from vlmguard.train.recipe import Recipe
    from vlmguard.train.sft import sft

    trained = arms.TRAINED[arm]
    dataset = work.dataset(split, trained.hindsight)
    if trained.change is not None:
        changed = work.cache / f"dataset-{split}-{arm}"
        change, whole = trained.change, dataset
        _once(changed, lambda folder: arms.variant(whole, folder, change))
        dataset = changed
    recipe = Recipe(
        base=str(work.base(REWRITER)),
        dataset=str(dataset),
        parts=("language", "projector"),
        trl={
            "max_steps": work.size.rewriter_steps,
            "per_device_train_batch_size": 32,
            "learning_rate": 2e-3,
            "adam_beta2": 0.98,
            "weight_decay": 0.01,
            "warmup_steps": 60,
            "lr_scheduler_type": "cosine",
            "seed": seed,
            "save_strategy": "no",
            "logging_steps": 50,
            "use_cpu": True,
            "bf16": False,
            "activation_checkpointing": False,
            "dataloader_pin_memory": False,
        },
    )

    def make(folder: Path) -> None:
        sft(recipe, folder)

    _once(work.rewriter(arm, split, seed), make)


def _answers(work: Workplace, part: int, parts: int) -> None:
    evaluation.answer(work, part, parts)


_MAKERS: dict[str, Callable[..., None]] = {
    "base": _base,
    "target": _target,
    "dataset": _dataset,
    "rewriter": _rewriter,
    "answers": _answers,
}
