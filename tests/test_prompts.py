from __future__ import annotations

import re

import pytest

from vlmguard import chat
from vlmguard.checks import check_rewrite, without_foreign
from vlmguard.errors import RewriteError
from vlmguard.policy import Policy
from vlmguard.prompts import fill, load_prompt, prompts_hash
from vlmguard.trace import parse
from vlmguard.types import Level

EXAMPLES = re.findall(r"^<understanding>.*?(?:^<forward/>|</prompt>)$", load_prompt("rewriter").split("# Examples")[1], re.DOTALL | re.MULTILINE)  # fmt: skip


def test_the_examples_are_a_harmless_chat_and_one_of_each_modality() -> None:
    reports = [parse(example).report for example in EXAMPLES]
    assert [report.worst.level for report in reports] == [Level.NONE, Level.HIGH, Level.HIGH, Level.HIGH]
    graves = [
        {modality.value for modality, finding in report if finding and finding.level > Level.LOW} for report in reports
    ]
    assert graves == [set(), {"text"}, {"image", "cross"}, {"cross"}]


@pytest.mark.parametrize("example", EXAMPLES[1:])
def test_what_the_examples_write_passes_the_checks(example: str, policy: Policy) -> None:
    """Held against a prompt of its own language and length: an example that broke a check would teach to break it."""
    refinement = parse(example)
    assert refinement.prompt is not None
    assert {finding.category for _, finding in refinement.report if finding and finding.category} <= set(
        policy.categories
    )
    assert without_foreign(refinement.prompt) == refinement.prompt
    with pytest.raises(RewriteError, match="words of others"):  # the instructions hold it: this one it cannot pass
        check_rewrite(chat("What can I do about this?"), refinement.prompt, policy)


def test_holes_are_filled_once_and_values_are_no_templates() -> None:
    assert "{{rules}}" in load_prompt("rewriter")
    filled = fill("repair", error="{{rules}} {{error}}")
    assert "{{rules}} {{error}}" in filled
    with pytest.raises(KeyError):
        fill("repair")


def test_the_hash_tells_templates_apart() -> None:
    assert len({prompts_hash("rewriter"), prompts_hash("repair"), prompts_hash("rewriter", "repair")}) == 3
