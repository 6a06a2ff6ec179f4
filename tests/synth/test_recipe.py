"""Recipes: what is refused, and what changes a run's fingerprint."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from vlmguard.errors import InputError
from vlmguard.synth.recipe import Recipe, load_recipe

GOOD = "sources: [jsonl:rows.jsonl]\nteacher: scripted:teacher.jsonl\n"


def _load(folder: Path, text: str) -> Recipe:
    file = folder / "recipe.yaml"
    file.write_text(text)
    return load_recipe(file)


def test_a_recipe(tmp_path: Path) -> None:
    recipe = _load(tmp_path, GOOD + "mix: paper\nbest_of: 3\ntemperature: 1\ntarget: null\n")
    assert recipe.sources == ("jsonl:rows.jsonl",)
    assert recipe.ratio == {"benign": 977, "risky": 8904}
    assert recipe.temperature == 1.0
    assert recipe.folder == tmp_path
    assert _load(tmp_path, GOOD + "mix: {benign: 1, risky: 3}\n").ratio == {"benign": 1, "risky": 3}
    assert _load(tmp_path, GOOD).ratio is None
    assert _load(tmp_path, GOOD + "mix: twins\n").writes_twins


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("teacher: x\n", "'sources' is missing"),
        ("sources: []\nteacher: x\n", "no source"),
        (GOOD + "techer: x\n", "unknown setting 'techer'"),
        (GOOD + "best_of: many\n", "best_of is of the kind int"),
        (GOOD + "best_of: 0\n", "start at 1"),
        (GOOD + "best_of: true\n", "best_of is of the kind int"),
        (GOOD + "mix: half\n", "no mix"),
        (GOOD + "mix: {benign: 1}\n", "ratio"),
        (GOOD + "mix: {benign: 0, risky: 0}\n", "ratio"),
        (GOOD + "mix: {benign: a, risky: 1}\n", "ratio"),
        (GOOD + "mix: {benign: .nan, risky: 1}\n", "ratio"),
        (GOOD + "temperature: -3\n", "temperature"),
        (GOOD + "ablations: [no-thought]\n", "no ablation"),
        (GOOD + "judge: x\n", "no target"),
        (GOOD + "validation: 1\n", "validation"),
        ("teacher: scripted:teacher.jsonl\nsources: {a: b}\n", "list of strings"),
        ("- a list\n", "no table"),
        ("a: [\n", "no YAML"),
    ],
)
def test_a_recipe_that_cannot_be_used_says_why(tmp_path: Path, text: str, fault: str) -> None:
    with pytest.raises(InputError, match=fault):
        _load(tmp_path, text)


def test_a_missing_recipe(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        load_recipe(tmp_path / "gone.yaml")


def test_the_fingerprint_holds_what_decides_and_nothing_else() -> None:
    recipe = Recipe(sources=("jsonl:x",), teacher="t")
    assert (
        dataclasses.replace(recipe, concurrency=3, folder=Path("/x"), validation=0.3).fingerprint()
        == recipe.fingerprint()
    )
    for changes in ({"seed": 1}, {"teacher": "u"}, {"ablations": ("no-causal",)}, {"best_of": 2}, {"mix": "twins"}):
        assert dataclasses.replace(recipe, **changes).fingerprint() != recipe.fingerprint()
