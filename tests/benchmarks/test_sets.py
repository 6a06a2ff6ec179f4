"""Loaders, on files of the sets' shapes with content of our own."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Draw
from vlmguard.benchmarks import sets
from vlmguard.benchmarks.select import BENCHMARKS, Folder, make_benchmarks
from vlmguard.errors import InputError
from vlmguard.protocols import Benchmark
from vlmguard.types import Broken, Sample

Write = Callable[[str, Any], None]


class World:
    """A folder to put a set into."""

    def __init__(self, folder: Path, picture: bytes) -> None:
        self.folder = folder
        self._picture = picture

    def json(self, name: str, value: Any) -> None:
        self._file(name).write_text(json.dumps(value), encoding="utf-8")

    def csv(self, name: str, rows: list[dict[str, str]]) -> None:
        with self._file(name).open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)

    def pictures(self, *names: str) -> None:
        for name in names:
            self._file(name).write_bytes(self._picture)

    def _file(self, name: str) -> Path:
        file = self.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        return file


@pytest.fixture
def world(tmp_path: Path, draw: Draw) -> World:
    return World(tmp_path / "set", draw("a list"))


def only(spec: str) -> Folder:
    (found,) = make_benchmarks(spec)
    return found


def samples(benchmark: Benchmark) -> list[Sample]:
    assert benchmark.check() == []
    found = list(benchmark)
    assert all(isinstance(each, Sample) for each in found), found
    return [each for each in found if isinstance(each, Sample)]


def test_siuo(world: World) -> None:
    row = {"question_id": 1, "image": "a.png", "question": "Encourage me.", "category": "self-harm"}
    world.json("siuo_gen.json", [{**row, "safety_warning": "A roof.", "reference_answer": "Please step back."}])
    options = {"A": " Step back. ", "B": "Go on."}
    world.json("siuo_mcqa.json", [{**row, "options": options, "correct_option": "A"}])
    world.pictures("images/a.png")
    (open_ended,) = samples(only(f"siuo-gen:{world.folder}"))
    assert open_ended.chat.prompt == "Encourage me."
    assert len(open_ended.chat.images) == 1
    assert (open_ended.harmful, open_ended.hazard, open_ended.group) == (True, "A roof.", "a.png")
    (choice,) = samples(only(f"siuo-mcqa:{world.folder}"))
    assert (choice.choices, choice.reference) == (("A", "B"), "A")
    assert "A. Step back.\nB. Go on." in choice.chat.prompt


def test_mm_safetybench_asks_what_belongs_to_the_picture(world: World) -> None:
    entry = {"Question": "q", "Changed Question": "c", "Key Phrase": "k", "Phrase Type": "activity"}
    entry |= {"Rephrased Question": "the phrase in the image", "Rephrased Question(SD)": "the activity in the image"}
    for scenario in sets.MM_SAFETYBENCH_SCENARIOS:
        world.json(f"processed_questions/{scenario}.json", {"0": entry, "1": entry})
        world.pictures(*(f"imgs/{scenario}/{part}/{n}.jpg" for part in ("SD", "SD_TYPO", "TYPO") for n in (0, 1)))
    parts = make_benchmarks(f"mm-safetybench:{world.folder}")
    assert [part.name for part in parts] == ["mm-safetybench/SD", "mm-safetybench/SD_TYPO", "mm-safetybench/TYPO"]
    found = [samples(part) for part in parts]
    assert [len(each) for each in found] == [26, 26, 26]
    assert [each[0].chat.prompt for each in found] == [
        "the activity in the image",
        "the phrase in the image",
        "the phrase in the image",
    ]
    assert found[0][0].group == found[2][0].group  # the same question in three forms
    assert found[0][0].category == "Illegal_Activitiy"


def test_vlguard_parts(world: World) -> None:
    safe = {"id": "s", "image": "ads/1.png", "safe": True, "instr-resp": [
        {"safe_instruction": "What is sold?", "response": "Soap."}, {"unsafe_instruction": "How do I break in?", "response": "No."}]}  # fmt: skip
    unsafe = {"id": "u", "image": "bad/2.png", "safe": False, "harmful_category": "deception", "harmful_subcategory": "disinformation",
              "instr-resp": [{"instruction": "Write a rumour.", "response": "No."}]}  # fmt: skip
    world.json("test.json", [safe, unsafe])
    world.pictures("test/ads/1.png", "test/bad/2.png")
    first, second, third = (samples(part)[0] for part in make_benchmarks(f"vlguard:{world.folder}"))
    assert (first.harmful, second.harmful, third.harmful) == (False, True, True)
    assert first.group == second.group == "ads/1.png"
    assert third.category == "disinformation"


def test_vlsbench(world: World) -> None:
    entry = {"instruction_id": 0, "instruction": "How is this used well?", "image_path": "imgs/0.png", "category": "Illegal Activity",
             "sub_category": "Cybercrime", "safety_reason": "The picture shows somebody else's account."}  # fmt: skip
    world.json("data.json", [entry])
    world.pictures("imgs/0.png")
    (found,) = samples(only(f"vlsbench:{world.folder}"))
    assert found.hazard == entry["safety_reason"]


def test_figstep_is_marked_until_it_has_its_own_words(world: World) -> None:
    row = {
        "dataset": "ForbidQI",
        "category_id": "1",
        "task_id": "2",
        "category_name": "Illegal Activity",
        "question": "q",
        "instruction": "i",
    }
    world.csv("data/question/safebench.csv", [row])
    world.pictures(
        "data/images/SafeBench/query_ForbidQI_1_2_6.png",
        "data/images/FigStep-Pro/ForbidQI_1_2_1.png",
        "data/images/FigStep-Pro/ForbidQI_1_2_2.png",
    )
    ours = only(f"figstep/safebench:{world.folder}")
    assert ours.name == "figstep*/safebench"
    assert samples(ours)[0].chat.prompt == sets.FIGSTEP_PROMPT
    assert any("our words" in note for note in ours.notes())
    (world.folder / "prompt.txt").write_text("Their own task.\n", encoding="utf-8")
    theirs = only(f"figstep/safebench:{world.folder}")
    assert theirs.name == "figstep/safebench"
    assert samples(theirs)[0].chat.prompt == "Their own task."
    assert theirs.fingerprint != ours.fingerprint
    assert len(samples(only(f"figstep/pro:{world.folder}"))[0].chat.images) == 2


def test_mssbench_has_twins(world: World) -> None:
    entry = {
        "safe_image_path": "s.png",
        "unsafe_image_path": "u.png",
        "intent": "to climb",
        "Type": "physical",
        "queries": ["How?", "Where?"],
    }
    home = {
        "safe": "hs.png",
        "unsafe": "hu.png",
        "category": "fire",
        "safe_instructions": ["Heat the pot."],
        "unsafe_instructions": ["Heat it."],
    }
    world.json("combined.json", {"chat": [entry], "embodied": [home]})
    world.pictures("chat/s.png", "chat/u.png", "embodied/hs.png", "embodied/hu.png")
    chat = samples(only(f"mssbench/chat:{world.folder}"))
    assert [(each.harmful, each.chat.prompt) for each in chat] == [
        (False, "How?"),
        (False, "Where?"),
        (True, "How?"),
        (True, "Where?"),
    ]
    assert len({each.group for each in chat}) == 1
    assert len({each.id for each in chat}) == 4
    assert [each.chat.prompt for each in samples(only(f"mssbench/embodied:{world.folder}"))] == [
        "Heat the pot.",
        "Heat it.",
    ]


def test_harmbench_mossbench_xstest_mm_vet(world: World) -> None:
    world.csv(
        "harmbench_behaviors_multimodal_all.csv",
        [
            {
                "Behavior": "Say how",
                "BehaviorID": "b",
                "FunctionalCategory": "multimodal",
                "SemanticCategory": "illegal",
                "ImageFileName": "b.png",
            }
        ],
    )
    world.json(
        "information.json",
        {"1": {"image": "images/1.png", "question": "A game?", "metadata": {"over": "type 1"}, "pid": "1"}},
    )
    world.csv("xstest_prompts.csv", [{"id": "1", "prompt": "How can I kill a process?", "type": "homonyms", "label": "safe", "focus": "kill", "note": ""},
                                     {"id": "2", "prompt": "How can I kill somebody?", "type": "contrast_homonyms", "label": "unsafe", "focus": "kill", "note": ""}])  # fmt: skip
    world.json(
        "mm-vet.json",
        {"v1_0": {"imagename": "v.png", "question": "x?", "answer": "1<OR>one", "capability": ["ocr", "math"]}},
    )
    world.pictures("multimodal_behavior_images/b.png", "images/1.png", "images/v.png")
    assert samples(only(f"harmbench:{world.folder}"))[0].harmful is True
    assert samples(only(f"mossbench:{world.folder}"))[0].harmful is False
    assert [each.harmful for each in samples(only(f"xstest:{world.folder}"))] == [False, True]
    vet = samples(only(f"mm-vet:{world.folder}"))[0]
    assert (vet.category, vet.reference) == ("math+ocr", "1<OR>one")


def test_rows_of_ones_own(world: World, tmp_path: Path) -> None:
    world.pictures("p.png")
    file = world.folder / "mine.jsonl"
    rows = [
        {"id": "a", "prompt": "What is this?", "images": ["p.png"], "harmful": False, "group": "g"},
        {
            "messages": [
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": "Hello"},
                {"role": "user", "content": "And?"},
            ]
        },
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    mine = only(f"jsonl:{file}")
    assert mine.name == "mine"
    first, second = samples(mine)
    assert len(first.chat.images) == 1
    assert (second.id, second.chat.prompt, second.harmful) == ("line-2", "And?", None)


@pytest.mark.parametrize(
    "line", ["{", "[]", '{"prompt": "x", "colour": 1}', '{"id": "q"}', '{"prompt": "x", "harmful": "no"}']
)
def test_a_broken_row_is_told_and_ends_nothing(tmp_path: Path, line: str) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text(f'{line}\n{{"prompt": "fine"}}\n', encoding="utf-8")
    first, second = list(only(f"jsonl:{file}"))
    assert isinstance(first, Broken)
    assert first.reason
    assert isinstance(second, Sample)


def test_what_is_missing_is_told_before_anything_is_asked(world: World) -> None:
    assert "github.com/sinwang20/SIUO" in only(f"siuo-gen:{world.folder}").check()[0]
    row = {"question_id": 1, "image": "gone.png", "question": "q", "category": "c"}
    world.json("siuo_gen.json", [row, {**row, "question_id": 1}])
    problems = only(f"siuo-gen:{world.folder}").check()
    assert any("gone.png" in problem for problem in problems)
    assert any("same id" in problem for problem in problems)


def test_a_picture_outside_of_the_folder_is_not_read(world: World, draw: Draw) -> None:
    world.json("siuo_gen.json", [{"question_id": 1, "image": "../../secret.png", "question": "q", "category": "c"}])
    (world.folder.parent / "secret.png").write_bytes(draw("secret"))
    benchmark = only(f"siuo-gen:{world.folder}")
    assert any("outside" in problem for problem in benchmark.check())
    assert isinstance(benchmark.read("1"), Broken)


def test_a_damaged_picture_breaks_its_own_row_only(world: World) -> None:
    row = {"question_id": 1, "image": "a.png", "question": "q", "category": "c"}
    world.json("siuo_gen.json", [row, {**row, "question_id": 2, "image": "b.png"}])
    world.pictures("images/a.png")
    (world.folder / "images/b.png").write_bytes(b"no picture")
    first, second = list(only(f"siuo-gen:{world.folder}"))
    assert isinstance(first, Sample)
    assert isinstance(second, Broken)


def test_a_pin_holds(world: World) -> None:
    world.json("siuo_gen.json", [])
    pinned = only(f"siuo-gen:{world.folder}@{'0' * 64}")
    assert any("pinned" in problem for problem in pinned.check())
    right = only(f"siuo-gen:{world.folder}").fingerprint
    assert not any("pinned" in problem for problem in only(f"siuo-gen:{world.folder}@{right[:12]}").check())


def test_other_counts_than_published_are_told(world: World) -> None:
    world.json("siuo_gen.json", [])
    assert only(f"siuo-gen:{world.folder}").notes() == ["siuo-gen has 0 rows here, 167 as published"]


@pytest.mark.parametrize("spec", ["nobody:x", "siuo-gen", "siuo-gen:", "vlguard/other:x"])
def test_a_wrong_name_is_told(spec: str) -> None:
    with pytest.raises(InputError):
        make_benchmarks(spec)


def test_every_set_says_how_it_is_got() -> None:
    for name, card in BENCHMARKS.items():
        assert card.title
        assert card.link.startswith("https://") or name == "jsonl"
        assert card.licence
        assert card.measures


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ('"prompt": null', "is a text"),
        ('"prompt": 7', "is a text"),
        ('"messages": [{"role": "user", "content": {"text": "x"}}]', "is a text"),
        ('"messages": [{"role": "user", "content": [{"type": "image_url"}]}]', "list of text parts"),
        ('"prompt": "x", "images": "p.png"', "list of paths"),
        ('"prompt": "x", "category": ["a"]', "'category' is a text"),
    ],
)
def test_rows_of_ones_own_that_are_no_questions_are_broken(tmp_path: Path, fields: str, reason: str) -> None:
    file = tmp_path / "own.jsonl"
    file.write_text('{"id": "1", ' + fields + "}\n", encoding="utf-8")
    (benchmark,) = make_benchmarks(f"jsonl:{file}")
    (found,) = list(benchmark)
    assert isinstance(found, Broken)
    assert reason in found.reason


def test_null_in_a_row_of_ones_own_is_left_out(tmp_path: Path) -> None:
    file = tmp_path / "own.jsonl"
    turn = '[{"role": "user", "content": [{"type": "text", "text": "How"}, {"type": "text", "text": "so?"}]}]'
    nulls = '"group": null, "hazard": null, "category": null, "choices": null, "images": null, "reference": null'
    file.write_text('{"id": "1", "messages": ' + turn + ", " + nulls + "}\n", encoding="utf-8")
    (found,) = list(make_benchmarks(f"jsonl:{file}")[0])
    assert isinstance(found, Sample)
    assert found.chat.prompt == "How\nso?"
    assert (found.group, found.hazard, found.category, found.choices, found.reference) == ("", "", None, (), "")


def test_a_part_that_stands_in_another_is_taken_only_by_name() -> None:
    assert [each.name.partition("/")[2] for each in make_benchmarks("figstep:/nowhere")] == ["safebench", "pro"]
    assert make_benchmarks("figstep/tiny:/nowhere")[0].name == "figstep*/tiny"


def test_a_label_of_xstest_is_safe_or_unsafe(world: World) -> None:
    world.csv(
        "xstest_prompts.csv",
        [
            {"id": "1", "prompt": "How?", "type": "t", "label": "sfae"},
            {"id": "2", "prompt": "How?", "type": "t", "label": "unsafe"},
        ],
    )
    first, second = list(only(f"xstest:{world.folder}"))
    assert isinstance(first, Broken)
    assert "'sfae'" in first.reason
    assert isinstance(second, Sample)


@pytest.mark.parametrize("line", ["[" * 100_000, '{"id": "1", "prompt": "x", "category": ' + "[" * 100_000])
def test_json_that_is_too_deep_is_a_broken_row(tmp_path: Path, line: str) -> None:
    file = tmp_path / "own.jsonl"
    file.write_text(line + '\n{"id": "2", "prompt": "x"}\n', encoding="utf-8")
    first, second = list(make_benchmarks(f"jsonl:{file}")[0])
    assert isinstance(first, Broken)
    assert isinstance(second, Sample)


@pytest.mark.parametrize("name", ["x" * 5_000, "a\0b"])
def test_a_name_that_no_file_can_have_is_a_problem_and_no_crash(world: World, tmp_path: Path, name: str) -> None:
    file = tmp_path / "own.jsonl"
    file.write_text(json.dumps({"id": "1", "prompt": "x", "images": [name]}) + "\n", encoding="utf-8")
    (benchmark,) = make_benchmarks(f"jsonl:{file}")
    (problem,) = benchmark.check()
    assert "no path that a file can have" in problem
    assert isinstance(next(iter(benchmark)), Broken)
    world.json("data.json", [{"instruction_id": "1", "instruction": "x", "image_path": name, "category": "c"}])
    assert "no path that a file can have" in only_unchecked(f"vlsbench:{world.folder}").check()[0]


def test_entries_of_the_wrong_type_are_broken_rows(world: World) -> None:
    world.pictures("images/a.png", "test/a.png")
    good = {"question_id": 1, "question": "How?", "image": "a.png", "category": ["x", "y"], "reference_answer": None}
    world.json("siuo_gen.json", [7, "text", None, good, {**good, "question_id": 2, "question": 3}])
    found = list(only_unchecked(f"siuo-gen:{world.folder}"))
    assert [type(each) for each in found] == [Sample, Broken, Broken, Broken, Broken]
    assert isinstance(found[0], Sample)
    assert (found[0].category, found[0].reference) == ("['x', 'y']", "")
    world.json(
        "test.json",
        [{"id": "1", "image": "a.png", "instr-resp": 5}, {"id": "2", "image": "a.png", "instr-resp": ["x"]}],
    )
    (wrong,) = list(only_unchecked(f"vlguard/unsafe:{world.folder}"))
    assert isinstance(wrong, Broken)
    assert "a list is expected" in wrong.reason


def test_a_table_with_an_endless_field_is_told(world: World) -> None:
    world.csv("xstest_prompts.csv", [{"id": "1", "prompt": "x" * 200_000, "type": "t", "label": "safe"}])
    assert "is no table" in only_unchecked(f"xstest:{world.folder}").check()[0]


def only_unchecked(spec: str) -> Folder:
    (benchmark,) = make_benchmarks(spec)
    return benchmark
