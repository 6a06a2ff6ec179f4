"""The bundled sample: it is what make.py makes of examples.yaml, and it goes through the whole of ``vlmguard synth``."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from recipes.sample import make

from vlmguard import trace
from vlmguard.checks import check_kept
from vlmguard.cli.main import main
from vlmguard.guard import Guard
from vlmguard.images import read_image
from vlmguard.language import detect
from vlmguard.policy import Policy
from vlmguard.rewriters.select import make_rewriter
from vlmguard.synth.duplicates import HAMMING, dhash
from vlmguard.synth.recipe import MIXES, load_recipe
from vlmguard.synth.rows import Row
from vlmguard.synth.sources import open_source
from vlmguard.types import Level, Modality, Outcome

DRAWINGS, PICTURES, EXAMPLES = make.load()
RISKY = [example for example in EXAMPLES if not example.get("benign")]
BENIGN = [example for example in EXAMPLES if example.get("benign")]
RECIPES = make.HERE.parent
pytest.importorskip("pyarrow", reason="the dataset is written as Parquet: pip install 'vlmguard[synth]'")


@dataclass(frozen=True)
class _Ran:
    code: int
    folder: Path

    @property
    def rows(self) -> list[dict[str, Any]]:
        return _read(self.folder / "data.jsonl")

    @property
    def rejected(self) -> list[dict[str, Any]]:
        return _read(self.folder / "rejected.jsonl")


def _read(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def _run(recipe: str, folder: Path) -> _Ran:
    return _Ran(main(["synth", "run", str(make.HERE / recipe), "--out", str(folder)]), folder)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> _Ran:
    return _run("recipe.yaml", tmp_path_factory.mktemp("sample"))


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> _Ran:
    return _run("twins.yaml", tmp_path_factory.mktemp("twins"))


@cache
def _sources() -> dict[str, Row]:
    rows = list(open_source("jsonl:rows.jsonl", make.HERE).rows())
    return {row.id: row for row in rows if isinstance(row, Row)}


# -- The files


def test_the_written_files_are_what_make_makes_of_the_examples() -> None:
    for name, content in make.files(EXAMPLES).items():
        assert (make.HERE / name).read_text(encoding="utf-8") == content, f"run: python -m recipes.sample.make ({name})"


def test_every_picture_is_there_is_used_and_none_looks_like_another() -> None:
    files = {file.stem: read_image(file.read_bytes(), file.name) for file in (make.HERE / "pictures").iterdir()}
    used = {name for example in EXAMPLES for name in make.pictures_of(example)}
    assert files.keys() == PICTURES.keys() == used
    hashes = {name: int.from_bytes(dhash(image), "big") for name, image in files.items()}
    for name, bits in hashes.items():
        nearest = min((bits ^ other).bit_count() for known, other in hashes.items() if known != name)
        assert nearest > HAMMING, name


@pytest.mark.parametrize("name", sorted(PICTURES))
def test_every_picture_can_be_drawn(name: str) -> None:
    drawn = make.Painter(DRAWINGS).draw(PICTURES[name])
    assert drawn.size == (make.WIDTH, make.HEIGHT)
    assert len(drawn.getcolors() or ()) > 8


def test_it_is_small() -> None:
    assert sum(file.stat().st_size for file in make.HERE.rglob("*") if file.suffix != ".pyc") < 1_000_000


# -- What is in it


def test_it_covers_every_category_and_both_kinds_of_risk(policy: Policy) -> None:
    found = {finding.category for example in RISKY for _, finding in make.refinement(example).report if finding}
    assert found - {None} == policy.categories.keys()
    reports = [make.refinement(example).report for example in RISKY]
    only_together = [r for r in reports if r.cross and r.cross.level > Level.LOW and _low(r.text) and _low(r.image)]
    words_alone = [r for r in reports if r.image is None and r.text and r.text.level > Level.LOW]
    in_the_picture = [r for r in reports if r.image and r.image.level is Level.HIGH]
    assert len(only_together) >= 15
    assert len(words_alone) >= 5
    assert len(in_the_picture) >= 5


def _low(finding: Any) -> bool:
    return finding is not None and finding.level <= Level.LOW


def test_it_speaks_the_policys_languages_and_has_turns_and_pictures() -> None:
    rows = _sources()
    assert {"en", "es", "de", "fr", "zh", "hi", "ar"} <= {detect(row.chat.prompt) for row in rows.values()}
    assert sum(len(row.chat.messages) > 1 for row in rows.values()) == 2
    assert {len(row.chat.images) for row in rows.values()} == {0, 1, 2}


def test_half_of_the_harmless_share_the_picture_or_the_words_of_a_risky_one() -> None:
    risky = {example["id"]: example for example in RISKY}
    kinds: Counter[str] = Counter()
    for example in BENIGN:
        if (other := risky.get(example.get("twin_of", ""))) is None:
            assert "twin_of" not in example
            continue
        same_words, same_picture = (example[key] == other[key] for key in ("prompt", "picture"))
        assert same_words != same_picture, example["id"]
        kinds["words" if same_words else "picture"] += 1
    assert min(kinds["words"], kinds["picture"]) >= 5
    assert kinds.total() >= len(BENIGN) / 2


@pytest.mark.parametrize("example", RISKY, ids=lambda example: example["id"])
def test_a_trace_is_one_that_the_guard_would_send(example: dict[str, Any], policy: Policy) -> None:
    refinement = make.refinement(example)
    assert trace.parse(trace.render(refinement)) == refinement
    check_kept(_sources()[example["id"]].chat, refinement)
    assert len(refinement.prompt or "") > len(example["prompt"])


def test_unsafe_answers_name_a_harm_and_stop() -> None:
    longest = max(RISKY, key=lambda example: len(example["unsafe"]))
    assert len(longest["unsafe"]) <= 90, longest["id"]


# -- What vlmguard synth makes of it


def test_check_and_run_keep_every_example_as_it_was_written(ran: _Ran, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["synth", "check", str(make.HERE / "recipe.yaml")]) == 0
    assert ran.code == 0
    assert ran.rejected == []
    told = {row["id"]: trace.parse(row["trace"]) for row in ran.rows}
    assert told == {example["id"]: make.refinement(example) for example in EXAMPLES}
    assert main(["synth", "status", str(make.HERE / "recipe.yaml"), "--out", str(ran.folder)]) == 0
    funnel = capsys.readouterr().out.splitlines()[-2:]
    assert [line.split() for line in funnel] == [["rows", str(len(EXAMPLES))], ["kept", str(len(EXAMPLES))]]


def test_the_outcome_turns_from_unsafe_to_safe_and_helpful(ran: _Ran) -> None:
    risky = {example["id"] for example in RISKY}
    for row in ran.rows:
        if row["id"] in risky:
            before, after = (row["provenance"]["verdicts"][when] for when in ("before", "after"))
            assert (before["safe"], after["safe"], after["helpful"]) == (False, True, True), row["id"]


def test_a_run_without_hindsight_or_with_other_ablations_works_on_the_same_scripts(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    for ablation in ("no-hindsight", "no-causal", "evidence-first"):
        lines = [f"ablations: [{ablation}]", f"sources: ['jsonl:{make.HERE}/rows.jsonl']"]
        lines += [f"{who}: 'scripted:{make.HERE}/{who}.jsonl'" for who in ("teacher", "target", "judge")]
        recipe.write_text("\n".join(lines))
        assert main(["synth", "run", str(recipe), "--out", str(tmp_path / ablation)]) == 0


def test_a_harmless_twin_of_each_risky_example_is_forwarded(twins: _Ran, capsys: pytest.CaptureFixture[str]) -> None:
    assert twins.code == 0
    assert twins.rejected == []
    assert main(["synth", "status", str(make.HERE / "twins.yaml"), "--out", str(twins.folder)]) == 0
    assert f"kept {len(EXAMPLES) + len(RISKY)}" in " ".join(capsys.readouterr().out.split())
    told = {row["id"]: trace.parse(row["trace"]) for row in twins.rows}
    written = {f"{example['id']}-twin": example for example in RISKY}
    exported = written.keys() & told.keys()  # the mix leaves some of the harmless rows out
    assert len(exported) > len(RISKY) / 2
    for id in exported:
        assert told[id].prompt is None
        assert told[id].understanding == written[id]["twin"][1]
        assert told[id].report.worst.level is Level.NONE


def test_preview_shows_ten_rows_and_an_estimate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["synth", "preview", str(make.HERE / "recipe.yaml"), "--out", str(tmp_path)]) == 0
    assert f"Still to do: {len(EXAMPLES) - 10} rows" in capsys.readouterr().out
    assert main(["synth", "status", str(make.HERE / "recipe.yaml"), "--out", str(tmp_path)]) == 0
    assert f"kept 10 still to do {len(EXAMPLES) - 10}" in " ".join(capsys.readouterr().out.split())
    assert "data:image/png;base64" in (tmp_path / "preview.html").read_text(encoding="utf-8")


def test_export_and_training_rows(ran: _Ran) -> None:
    recipe = str(make.HERE / "recipe.yaml")
    assert main(["synth", "export", recipe, "--out", str(ran.folder)]) == 0
    assert main(["synth", "trl", recipe, "--out", str(ran.folder)]) == 0
    assert any((ran.folder / "trl").iterdir())


def test_the_papers_recipe_says_what_it_needs(capsys: pytest.CaptureFixture[str]) -> None:
    assert load_recipe(RECIPES / "paper.yaml").ratio == MIXES["paper"]
    assert main(["synth", "check", str(RECIPES / "paper.yaml")]) == 2
    out = capsys.readouterr().out
    assert "VLSBench is a test set" in out
    assert "download sqrti/SPA-VL" in out


async def test_the_guard_sends_what_the_scripted_rewriter_writes(policy: Policy) -> None:
    guard = Guard(make_rewriter(f"scripted:{make.HERE / 'rewriter.jsonl'}", policy), policy)
    rows = _sources()
    risky_words = {example["prompt"] for example in RISKY}
    for example in EXAMPLES:
        if example.get("benign") and example["prompt"] in risky_words:
            continue  # the script cannot tell the pictures apart
        guarded = await guard.refine(rows[example["id"]].chat)
        if example.get("benign"):
            assert guarded.outcome is Outcome.FORWARD, example["id"]
        elif example["category"] == "child_exploitation":
            assert guarded.outcome is Outcome.BLOCK
        else:
            assert guarded.chat is not None
            assert (guarded.outcome, guarded.chat.prompt) == (Outcome.REWRITE, example["refined"]), example["id"]


def test_every_modality_has_evidence() -> None:
    seen = Counter(item.modality for example in RISKY for item in make.refinement(example).evidence)
    assert min(seen[modality] for modality in Modality) >= 5
