"""The preference stage (ERPO, now SAFER, arXiv 2504.02725): ``vlmguard train prefer RECIPE --out RUN``.

A round samples several traces of each row from the rewriter, has them verified and their outcome tested, orders them into pairs
(``pairs.py``) and trains on these (``dpo.py``); the next round samples from what came of it. After each round the rewriter is
measured on held-out rows (``curve.py``).

RUN/run.json and the model card README.md as of any run · outcomes.jsonl what the target answered and the judge said · curve.json,
curve.png · round-N/traces.jsonl, pairs.jsonl with the reason of each order, log/ of the training, held_out.jsonl, checkpoints/, model/ ·
model/ the best round's rewriter, which ``local:RUN`` serves; where no round is better than what was begun with, a copy of that (round
0). Each of these is whole or not there, and none is made twice.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from vlmguard import trace
from vlmguard.dataset import fingerprint
from vlmguard.errors import InputError, TrainError
from vlmguard.jsonl import Appender, mend, read_rows
from vlmguard.models.local import LocalModel, resolve
from vlmguard.models.local import fingerprint as model_fingerprint
from vlmguard.models.wrapper import close
from vlmguard.policy import Policy, load_policy
from vlmguard.protocols import Model, Several
from vlmguard.rewriters.quoting import PROMPTS
from vlmguard.train.card import write_preferred_card
from vlmguard.train.curve import CHOSEN, Held, best, measure, write_curve
from vlmguard.train.dpo import Tokens, check_settings, train_dpo
from vlmguard.train.lineage import check_unseen
from vlmguard.train.outcome import Jury, Outcomes
from vlmguard.train.pairs import Candidate, Ground, Label, Pair, choose_pairs, read_candidate, sent
from vlmguard.train.preference import Preference
from vlmguard.train.rows import Row, Rows, open_rows
from vlmguard.train.run import (
    MODEL,
    STATE,
    alone,
    finish,
    publish,
    read_state,
    refuse_others,
    staged,
    versions,
    write_json,
)
from vlmguard.train.stage import device_name
from vlmguard.types import Sample, Sampling

T = TypeVar("T")
_AT_ONCE = 16
"""Rows under way at a time, where a model waits for somebody else."""


@dataclass(frozen=True, slots=True)
class Preferred:
    """A finished preference run."""

    folder: Path
    round: int
    """The one whose rewriter was taken; 0 = none was better than what was begun with, and that is handed over."""
    curve: list[dict[str, Any]]
    """The measures of each round, the first of what was begun with (``Measures.form``)."""


@dataclass(frozen=True)
class _Job:
    """What every step of a run needs."""

    recipe: Preference
    out: Path
    policy: Policy
    rows: dict[str, Rows]
    open_jury: Callable[[], Jury] | None
    open_sampler: Callable[[], Model] | None
    tell: Callable[[str], None]
    callbacks: Sequence[Any] = ()

    def round(self, number: int) -> Path:
        """The folder of a round."""
        return self.out / f"round-{number}"

    def place(self, number: int) -> str:
        """The rewriter as it is after a round; 0 = the one that was begun with."""
        return str(self.round(number) / MODEL) if number else self.recipe.model_place

    @cached_property
    def ids(self) -> dict[str, int]:
        """Training rows by their ids."""
        return {
            row["id"]: index for index, row in enumerate(map(self.rows["train"].form, range(len(self.rows["train"]))))
        }

    def row(self, id: str) -> Row:
        """A training row."""
        return self.rows["train"][self.ids[id]]


def prefer(
    recipe: Preference,
    out: Path,
    *,
    open_jury: Callable[[], Jury] | None = None,
    open_sampler: Callable[[], Model] | None = None,
    tell: Callable[[str], None] = lambda line: print(line, file=sys.stderr),
    callbacks: Sequence[Any] = (),
) -> Preferred:
    """Runs all rounds, or goes on where a run in ``out`` was stopped.

    Args:
        recipe: the settings.
        out: folder of the run.
        open_jury: opens target and judge for a phase of a round, which closes them: they may need the memory that training needs.
        open_sampler: opens what is sampled from; the default is the round's own model in this process.
        tell: takes lines for people.
        callbacks: further ``transformers.TrainerCallback``.

    Raises:
        InputError: recipe or dataset cannot be used, or ``out`` holds another run.
        ModelError: a model cannot be loaded or asked.
        TrainError: there are no pairs, target or judge do not answer, training cannot go on.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError("the preference stage runs in one process: start it without accelerate launch or torchrun")
    policy = load_policy(recipe.folder / recipe.policy if recipe.policy else None)
    rows = open_rows(recipe.dataset_folder, policy)
    for split in ("train", "validation"):
        if not len(rows[split]):
            raise InputError(
                f"the dataset has no {split} rows: set 'validation' in its vlmguard synth recipe, export anew, and train the rewriter"
                " on that export as well: one that was trained on all rows has none that it can be measured on"
            )
    check_settings(recipe, out)
    facts = _facts(recipe, policy)
    _refuse(out, facts)
    check_unseen(Path(recipe.model_place), rows["validation"], facts["dataset_fingerprint"], policy, tell)
    with alone(out):
        _refuse(out, facts)
        _claim(recipe, out, facts)
        return _rounds(_Job(recipe, out, policy, rows, open_jury, open_sampler, tell, callbacks))


def _rounds(job: _Job) -> Preferred:
    curve = [_measured(job, 0)]
    for number in range(1, job.recipe.rounds + 1):
        if not (job.round(number) / MODEL).is_dir():
            pairs = _pairs(job, number)
            if not pairs:
                if number == 1:
                    raise TrainError(_why_none(job))
                job.tell(f"round {number}: no pairs are left, so that the rounds end here")
                break
            _train(job, number, pairs)
        curve.append(_measured(job, number))
        write_curve(curve, job.out)
    taken = best(curve)
    if not taken["round"]:
        job.tell("no round is better on held-out rows than what was begun with: that is handed over, unchanged")
    _hand_over(job, taken["round"], curve)
    return Preferred(job.out, taken["round"], curve)


def _train(job: _Job, number: int, pairs: Sequence[Pair]) -> None:
    start, seed = job.place(number - 1), job.recipe.seed + number
    train_dpo(job.recipe, start, pairs, job.row, job.round(number), seed, job.tell, job.callbacks)


# ---------------------------------------------------------------------------------------------------------------------
# A round's pairs


def _pairs(job: _Job, number: int) -> list[Pair]:
    """Those of a round: sampled, verified, tested, ordered; kept in ``pairs.jsonl``."""
    file = job.round(number) / "pairs.jsonl"
    if file.exists():
        return [_pair(form) for form in read_rows(file)]
    chosen = _drawn(job, number)
    said = _samples(job, number, chosen)
    tokens = Tokens(job.recipe.model_place)
    judged = _judged(job, [(job.row(id), said[id]) for id in chosen], tokens)
    pairs: list[Pair] = []
    for id, candidates in zip(chosen, judged, strict=True):
        plain = [candidate for candidate in candidates if not tokens.controls(candidate.text)]
        pairs += choose_pairs(id, plain, job.recipe.pairs, job.recipe.margin)
    _write_rows(file, map(_pair_form, pairs))
    grounds = Counter(pair.ground for pair in pairs)
    told = ", ".join(f"{grounds[ground]} {ground}" for ground in Ground if grounds[ground])
    job.tell(
        f"round {number}: {len(pairs)} pairs of {len({pair.row for pair in pairs})} of {len(chosen)} rows ({told or 'none'})"
    )
    return pairs


def _drawn(job: _Job, number: int) -> list[str]:
    """The ids of the rows of a round: as many as the recipe says, drawn by their hash; in the order of the dataset."""
    ids = list(job.ids)
    most = job.recipe.rows or len(ids)
    drawn = set(sorted(ids, key=lambda id: _seed(job.recipe.seed, number, "row", id))[:most])
    return [id for id in ids if id in drawn]


def _samples(job: _Job, number: int, ids: Sequence[str]) -> dict[str, list[str]]:
    """Sampled answers to each of the rows."""
    recipe = job.recipe

    def sampling(id: str) -> Sampling:
        return Sampling(recipe.most_tokens, recipe.temperature, _seed(recipe.seed, number, "sample", id))

    return _asked(
        job.round(number) / "traces.jsonl", ids, job.row, sampling, recipe.samples, f"round {number}: sampling",
        job.open_sampler or (lambda: LocalModel(job.place(number - 1))), job.tell,
    )  # fmt: skip


def _asked(
    file: Path,
    ids: Sequence[str],
    row: Callable[[str], Row],
    sampling: Callable[[str], Sampling],
    count: int,
    doing: str,
    open_model: Callable[[], Model],
    tell: Callable[[str], None],
) -> dict[str, list[str]]:
    """``count`` answers to each row, kept in a file: a row is asked for once, whatever happens between."""
    mend(file)
    known = {kept["id"]: kept["said"] for kept in read_rows(file)} if file.exists() else {}
    left = [id for id in ids if id not in known]
    if not left:
        return known
    tell(f"{doing} {count} × {len(left)} rows")
    with Appender(file) as out:

        async def one(model: Model, id: str) -> None:
            known[id] = await sample(model, row(id), sampling(id), count)
            out.append({"id": id, "said": known[id]})

        _with_model(open_model, left, one)
    return known


async def sample(model: Model, row: Row, sampling: Sampling, count: int) -> list[str]:
    """What a rewriter says of a row, several times: in one batch where the model can do that. Raises ``ModelError``."""
    if isinstance(
        model, Several
    ):  # in this process: it may stop behind the trace itself; servers strip what they stop at
        whole = Sampling(sampling.max_tokens, sampling.temperature, sampling.seed, trace.END_MARKS)
        return [one.text for one in await model.several(row.asked, whole, count)]
    asked = (
        model.generate(
            row.asked,
            Sampling(sampling.max_tokens, sampling.temperature, (sampling.seed or 0) + index, index=index),
        )
        for index in range(count)
    )
    return [one.text for one in await asyncio.gather(*asked)]


def _with_model(
    open_model: Callable[[], Model], ids: Sequence[str], work: Callable[[Model, str], Awaitable[None]]
) -> None:
    """Does the work for all, some at a time, with a model that is opened for it and closed after it."""

    async def all_of_it() -> None:
        model = open_model()
        try:
            await _together(1 if isinstance(model, Several) else _AT_ONCE, ids, lambda id: work(model, id))
        finally:
            await close(model)

    asyncio.run(all_of_it())


async def _together(most: int, items: Iterable[T], work: Callable[[T], Awaitable[None]]) -> None:
    """The work for all items, ``most`` at a time; the first failure ends the others and is raised as it is."""
    slots = asyncio.Semaphore(most)

    async def one(item: T) -> None:
        async with slots:
            await work(item)

    try:
        async with asyncio.TaskGroup() as group:
            for item in items:
                group.create_task(one(item))
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None


def _judged(job: _Job, said: Sequence[tuple[Row, Sequence[str]]], tokens: Tokens) -> list[list[Candidate]]:
    """The candidates of each row, verified and tested. Raises ``TrainError`` when too many could not be judged."""
    read = [
        [read_candidate(row.chat, one, _label(row), job.policy, tokens.count) for one in answers]
        for row, answers in said
    ]
    if job.open_jury is None:
        return [[candidate for candidate, _ in of] for of in read]
    found: list[list[Candidate]] = [[] for _ in said]
    with Outcomes(job.out / "outcomes.jsonl") as outcomes:

        async def one(jury: Jury, place: int) -> None:
            row = said[place][0]
            question = Sample(row.id, row.chat, harmful=not row.benign, group=row.group)
            for candidate, refinement in read[place]:
                passed = None
                if refinement is not None:
                    goes = sent(row.chat, refinement, job.policy)
                    passed = (not row.benign) if goes is None else await outcomes.test(jury, question, goes)
                found[place].append(replace(candidate, outcome=passed))

        asyncio.run(_tested(job.open_jury, len(said), one))
        outcomes.require(job.recipe.most_unjudged)
    return found


async def _tested(open_jury: Callable[[], Jury], count: int, work: Callable[[Jury, int], Awaitable[None]]) -> None:
    jury = open_jury()
    try:
        await _together(_AT_ONCE, range(count), lambda place: work(jury, place))
    finally:
        await jury.close()


def _label(row: Row) -> Label:
    return Label(row.benign, trace.parse(row.said).report)


def _why_none(job: _Job) -> str:
    """What a first round without pairs lacked."""
    said = {row["id"]: row["said"] for row in read_rows(job.round(1) / "traces.jsonl")}
    alike = sum(len(set(answers)) == 1 for answers in said.values())
    read = [
        read_candidate(row.chat, one, _label(row), job.policy, len)[0]
        for row, answers in ((job.row(id), answers) for id, answers in said.items())
        for one in answers
    ]
    broken = Counter(one.fault for one in read if one.fault)
    none = "there is not one pair to learn from:"
    if 2 * broken.total() > len(read):
        return (
            f"{none} serving would not take {broken.total()} of {len(read)} samples (mostly: {broken.most_common(1)[0][0][:200]})."
            f" Raise most_tokens (now {job.recipe.most_tokens}) where they are cut off, lower temperature, or train the rewriter"
            " longer with vlmguard train sft; use a fresh folder"
        )
    if not any(one.right for one in read):
        return (
            f"{none} not one of {len(read)} samples has the label's decision, and of wrong ones none is preferred. Train the"
            " rewriter longer with vlmguard train sft, or raise samples; use a fresh folder"
        )
    if 2 * alike > len(said):
        advice = "Raise temperature or samples"
    elif job.open_jury is None:
        advice = "Lower margin, or give it a target and a judge"
    else:
        advice = "Lower margin or raise samples, and look into outcomes.jsonl for what the target answered"
    return (
        f"{none} of {alike} of {len(said)} rows all {job.recipe.samples} samples are the same, and of the others none is better than"
        f" another. {advice}, and use a fresh folder"
    )


# ---------------------------------------------------------------------------------------------------------------------
# Measuring, and handing over


def _measured(job: _Job, number: int) -> dict[str, Any]:
    """How long and how good greedy traces of held-out rows are after a round."""
    folder = job.round(number)
    if (folder / "measures.json").exists():
        known: dict[str, Any] = json.loads((folder / "measures.json").read_text(encoding="utf-8"))
        return known
    held = job.rows["validation"]
    ids = {held.form(index)["id"]: index for index in range(len(held))}
    drawn = sorted(ids, key=lambda id: _seed(job.recipe.seed, "held out", id))[: job.recipe.held_out or len(ids)]
    greedy = Sampling(job.recipe.most_tokens)
    said = _asked(
        folder / "held_out.jsonl", drawn, lambda id: held[ids[id]], lambda id: greedy, 1,
        f"after round {number}: measuring", lambda: LocalModel(job.place(number)), job.tell,
    )  # fmt: skip
    rows = [(held[ids[id]], said[id]) for id in drawn]
    judged = _judged(job, rows, Tokens(job.recipe.model_place))
    found = measure(number, [Held(of[0], row.benign, row.group) for (row, _), of in zip(rows, judged, strict=True)])
    write_json(folder / "measures.json", found.form())
    job.tell(
        f"after round {number}: {100 * found.right.value:.1f} % right of {found.right.n} held-out rows, {found.tokens.value:.1f} tokens"
    )
    return found.form()


def _hand_over(job: _Job, number: int, curve: Sequence[dict[str, Any]]) -> None:
    """The best round's rewriter as the run's own, or what was begun with. Raises ``TrainError``."""
    fresh = staged(job.out / MODEL)
    try:
        shutil.copytree(job.round(number) / MODEL if number else _begun_with(job), fresh, dirs_exist_ok=True)
        publish(fresh, job.out / MODEL)
    except OSError as error:
        raise TrainError(
            f"{job.out / MODEL} could not be written ({error}): free space, and run the same command again"
        ) from error
    figures = {"round": number, "chosen": CHOSEN, "curve": list(curve), "device": device_name()}
    write_preferred_card(job.out, finish(job.out, read_state(job.out), figures))


def _begun_with(job: _Job) -> Path:
    """The folder of the adapter or the weights that were begun with; of a hub's, where they lie since they were loaded."""
    base, adapter = resolve(job.recipe.model_place, None)
    place = Path(adapter or base)
    if place.is_dir():
        return place
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(base, local_files_only=True))


# ---------------------------------------------------------------------------------------------------------------------
# The folder


def _facts(recipe: Preference, policy: Policy) -> dict[str, Any]:
    """What a run that goes on must have in common with how it began. Raises ``InputError`` for another dataset than is named."""
    dataset = fingerprint(recipe.dataset_folder)
    if recipe.fingerprint not in ("", dataset):
        raise InputError(
            f"{recipe.dataset_folder} is another dataset than the recipe names: its fingerprint is {dataset}, not"
            f" {recipe.fingerprint}"
        )
    return {
        "stage": "prefer",
        "recipe_identity": recipe.identity(),
        "dataset_fingerprint": dataset,
        "policy_hash": policy.hash,
        "prompts_hash": PROMPTS,
        "base_fingerprint": model_fingerprint(*resolve(recipe.model_place, None)),
    }


def _refuse(out: Path, facts: dict[str, Any]) -> None:
    """Raises ``InputError`` when the folder is another run's or somebody's own. Writes nothing."""
    refuse_others(out)
    if not (out / STATE).exists():
        return
    state = read_state(out)
    if changed := [name for name, value in facts.items() if state.get(name) != value]:
        raise InputError(
            f"{out} holds a run that began otherwise ({', '.join(changed).replace('_', ' ')} changed): give another --out"
        )


def _claim(recipe: Preference, out: Path, facts: dict[str, Any]) -> None:
    """Makes the folder this run's, where it is not yet."""
    if not (out / STATE).exists():
        out.mkdir(parents=True, exist_ok=True)
        state = {"state": "running", "recipe": recipe.form(), "base": recipe.model_place}
        write_json(out / STATE, state | facts | {"versions": versions()})


def _pair_form(pair: Pair) -> dict[str, Any]:
    return {
        "row": pair.row,
        "ground": pair.ground.value,
        "why": pair.why,
        "steps": pair.steps,
        "chosen": asdict(pair.chosen),
        "rejected": asdict(pair.rejected),
    }


def _pair(form: dict[str, Any]) -> Pair:
    chosen, rejected = Candidate(**form["chosen"]), Candidate(**form["rejected"])
    return Pair(form["row"], chosen, rejected, Ground(form["ground"]), form["steps"])


def _write_rows(file: Path, rows: Iterable[Any]) -> None:
    """Whole or not at all."""
    fresh = file.with_name(f".{file.name}.new")
    fresh.unlink(missing_ok=True)
    with Appender(fresh) as out:
        for row in rows:
            out.append(row)
    fresh.replace(file)


def _seed(*parts: object) -> int:
    """A number that the parts alone decide, so that a run that was stopped goes on as it would have."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4], "big")
