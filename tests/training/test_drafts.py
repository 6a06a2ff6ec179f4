from __future__ import annotations

from pathlib import Path

import pytest

from training.risk.drafts import DraftError, read_drafts

KNOWN = frozenset({"privacy", "hate"})


def test_groups_defaults_and_settings_of_one_line(tmp_path: Path) -> None:
    file = tmp_path / "privacy.txt"
    file.write_text(
        "@category=privacy register=chat kind=request lang=en\n# a note\n! Find her.\n"
        "?{register=typo lang=de} Wer findet\\nsie?\n\n\n!{category=hate,privacy kind=wrapped} Both.\n"
    )
    first, second = read_drafts(file, KNOWN)
    assert [draft.intent for draft in first] == ["do", "about"]
    assert (first[1].text, first[1].register, first[1].language, first[1].categories) == (
        "Wer findet\nsie?",
        "typos",
        "de",
        (),
    )
    assert (second[0].categories, second[0].kind) == (("hate", "privacy"), "wrapped")


@pytest.mark.parametrize("line", ["Find her.", "!", "!{kind=song} x", "!{category=nothing} x"])
def test_what_is_no_draft_is_named_with_its_line(line: str, tmp_path: Path) -> None:
    file = tmp_path / "privacy.txt"
    file.write_text(f"@category=privacy register=chat kind=request lang=en\n\n{line}\n")
    with pytest.raises(DraftError, match=r"privacy\.txt:3"):
        list(read_drafts(file, KNOWN))


def test_a_long_list_is_no_group_of_twins(tmp_path: Path) -> None:
    file = tmp_path / "privacy.txt"
    lines = "\n".join(f"{'!' if number == 4 else '?'} Text {number}." for number in range(9))
    file.write_text(f"@category=privacy register=chat kind=request lang=en\n{lines}\n\n! One.\n? Two.\n")
    assert [len(group) for group in read_drafts(file, KNOWN)] == [1] * 9 + [2]
