"""What is compared: the datasets that rewriters are trained on, and the defences of the evaluation."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from recipes.micro import oracle
from recipes.micro.world import Question, blank, training_questions
from recipes.micro.world import seen as seen_pairs
from vlmguard import trace
from vlmguard.dataset import PICTURES, ROWS
from vlmguard.defences.prompted import NoDefence, PrependedPrompt, SystemPrompt
from vlmguard.jsonl import read_rows
from vlmguard.judges.programmatic import RulesJudge
from vlmguard.models.local import LocalModel
from vlmguard.pictures import PictureStore
from vlmguard.policy import Policy
from vlmguard.prompts import load_prompt
from vlmguard.protocols import Defence, Rewriter
from vlmguard.synth.crew import Crew
from vlmguard.synth.engine_local import run_local
from vlmguard.synth.export import export
from vlmguard.synth.prepare import prepare
from vlmguard.synth.recipe import Recipe
from vlmguard.synth.store import Store
from vlmguard.types import Chat, Image, Message, Review

LICENCE = "Apache-2.0 (vlmguard's own)"


# ---------------------------------------------------------------------------------------------------------------------
# Datasets


def synthesise(split: int, each: int, target: Path, folder: Path, policy: Policy, *, hindsight: bool) -> None:
    """The dataset of a split, by ``vlmguard.synth`` with the oracle as teacher and one target taking the outcome test."""
    questions = list(training_questions(seen_pairs(split), each, split))
    source = _write_source(questions, folder / "source")
    recipe = Recipe(
        sources=(f"jsonl:{source}",),
        teacher="oracle",
        target=f"local:{target}",
        judge="rules",
        best_of=len(oracle.REWRITES),
        ablations=() if hindsight else ("no-hindsight",),
        validation=0.0,
        concurrency=4,
    )
    model = LocalModel(str(target))
    judge = RulesJudge(oracle.write_rules(folder / "rules.jsonl"))
    crew = Crew(
        oracle.Oracle(oracle.registry(questions)),
        model,
        oracle.OutcomeJudge(judge, {question.id: question for question in questions}),
        identities={"teacher": oracle.fingerprint(questions), "target": model.fingerprint, "judge": judge.name},
    )
    with Store(folder) as store:
        prepare(recipe, folder, store)
        store.reopen(recipe.fingerprint())
        asyncio.run(run_local(store, crew, recipe, policy, PictureStore(folder / PICTURES)))
        export(store, recipe, folder)


def _write_source(questions: list[Question], folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "rows.jsonl").open("w", encoding="utf-8") as file:
        for question in questions:
            (folder / f"{question.id}.png").write_bytes(question.picture.data)
            row = {
                "id": question.id,
                "prompt": question.words,
                "images": [f"{question.id}.png"],
                "benign": not question.pair.risky,
                "safe": question.pair.good,
                "licence": LICENCE,
            }
            file.write(json.dumps(row) + "\n")
    return folder / "rows.jsonl"


Change = Callable[[dict[str, Any], Path], dict[str, Any]]
"""A row of a dataset and the dataset's folder → the row of a variant."""


def _blind(row: dict[str, Any], folder: Path) -> dict[str, Any]:
    name = PictureStore(folder / PICTURES).put(blank())
    messages = [
        turn | {"parts": [{"image": name} if "image" in part else part for part in turn["parts"]]}
        for turn in row["messages"]
    ]
    return row | {"messages": messages}


def _without_understanding(row: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The grammar wants a sentence there: the same one in every row tells nothing."""
    del folder
    return row | {"trace": trace.render(replace(trace.parse(row["trace"]), understanding="The user asks something."))}


def _evidence_first(row: dict[str, Any], folder: Path) -> dict[str, Any]:
    del folder
    return row | {"trace": trace.render(trace.parse(row["trace"]), evidence_first=True)}


@dataclass(frozen=True, slots=True)
class Trained:
    """An arm with a rewriter of its own."""

    change: Change | None = None
    """What is different about its dataset."""
    hindsight: bool = True


TRAINED: dict[str, Trained] = {
    "vlmguard": Trained(),
    "text_only": Trained(_blind),
    "no_understanding": Trained(_without_understanding),
    "evidence_first": Trained(_evidence_first),
    "no_hindsight": Trained(hindsight=False),
}
BLINDED = "picture_blanked"
"""vlmguard's rewriter, shown a blank picture."""
BLIND = (BLINDED, "text_only")
"""Arms that are shown a blank when they serve: one was trained on pictures, the other was not."""


def variant(dataset: Path, folder: Path, change: Change) -> None:
    """A dataset whose rows are changed, with the pictures of the other, which lies beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures = folder / PICTURES
    if not pictures.exists():
        pictures.symlink_to(Path("..") / dataset.name / PICTURES)
    rows = [change(row, folder) for row in read_rows(dataset / ROWS)]
    (folder / ROWS).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


# ---------------------------------------------------------------------------------------------------------------------
# Defences


def plain_defences() -> list[Defence]:
    """Those that need no rewriter."""
    return [
        NoDefence(),
        SystemPrompt("plain_prompt", load_prompt("defence_safety")),
        PrependedPrompt("static_prompt", load_prompt("defence_adashield")),
    ]


class Blinded:
    """A rewriter that is shown a blank in place of every picture. What it says of a picture is said of none."""

    def __init__(self, rewriter: Rewriter) -> None:
        self._rewriter = rewriter

    async def refine(self, chat: Chat, /) -> Review:
        """The review of the words beside a blank."""
        nothing = blank()

        def hidden(message: Message) -> Message:
            parts = (replace(nothing, path=part.path) if isinstance(part, Image) else part for part in message.parts)
            return Message(message.role, tuple(parts))

        return await self._rewriter.refine(Chat(tuple(hidden(message) for message in chat.messages)))
