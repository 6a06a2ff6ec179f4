from __future__ import annotations

import tomllib
from importlib.resources import files
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlmguard.errors import PolicyError
from vlmguard.policy import LANGUAGES, MOST_WRITTEN, Action, Policy, Rule, ToolAction, load_policy
from vlmguard.types import Finding, Level, Reason


def written(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "mine.toml"
    file.write_text(text, encoding="utf-8")
    return file


def test_the_packaged_policy_speaks_all_languages_in_every_category(policy: Policy) -> None:
    assert len(policy.categories) == 22
    for category in policy.categories.values():
        assert set(category.risk) == set(category.guidance) == set(LANGUAGES), category.id
        assert category.rule.endswith("."), category.id
    assert [name for name, category in policy.categories.items() if category.action is Action.BLOCK] == [
        "child_exploitation"
    ]
    assert set(policy.safety_prompt) == set(policy.notice) == set(LANGUAGES)


def test_no_two_guidance_texts_are_the_same(policy: Policy) -> None:
    texts = [text for category in policy.categories.values() for text in category.guidance.values()]
    assert len(set(texts)) == len(texts)


def test_a_single_line_lies_over_the_default(tmp_path: Path, policy: Policy) -> None:
    mine = load_policy(written(tmp_path, '[categories.hate]\naction = "block"\n[unjudged]\nscene = "degrade"\n'))
    assert mine.categories["hate"].action is Action.BLOCK
    assert mine.categories["hate"].guidance == policy.categories["hate"].guidance
    assert mine.unjudged[Reason.SCENE] is Rule.DEGRADE
    assert mine.hash != policy.hash


def test_a_category_of_ones_own(tmp_path: Path) -> None:
    mine = load_policy(
        written(
            tmp_path,
            (
                '[categories.spoilers]\ntitle = "Spoilers"\nrule = "Endings."\nthresholds = {low = 0.1, medium = 0.2}\n'
                'risk = {en = "spoil it"}\nguidance = {en = "Keep the end secret."}\naliases = ["plot leaks"]\n'
            ),
        )
    )
    assert mine.category("Plot-Leaks").id == "spoilers"
    assert mine.level("spoilers", 0.25) is Level.MEDIUM
    assert mine.say(mine.categories["spoilers"].guidance, "de") == "Keep the end secret."


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("x = [", 1, "not valid TOML"),
        ("\n[categories.hate]\nacton = 'block'", 3, "did you mean 'action'"),
        ("[categories.hate]\n\naction = 'blok'", 3, "did you mean 'block'"),
        ("[categories.hate]\nacts_from = 'grave'", 2, "one of low, medium, high"),
        ("[categories.new]\ntitle = 'New'", 1, "rule is missing"),
        ("[categories.hate.guidance]\nde = ''", 2, "a text is expected"),
        ("[categories.hate.thresholds]\nlow = 2", 2, "from 0 to 1"),
        ("[categories.hate]\nthresholds = {low = 0.9}", 2, "increase"),
        ("[unjudgd]\nscene = 'block'", 1, "did you mean 'unjudged'"),
        ("[unjudged]\nscene = 'degraded'", 2, "did you mean 'degrade'"),
        ("version = 2", 1, "version 1"),
        ("categories = 3", 1, "a table is expected"),
        ("allowed = 'x'", 1, "list of texts"),
        ("[categories.'Bad Name']\ntitle = 'x'", 1, "lower-case"),
        ("[categories.hat]\naction = 'block'", 1, "did you mean the category 'hate'"),
        ("[categories.hate]\nacts_from = ['low']", 2, "one of low, medium, high"),
        ("[categories.hate]\naction = 3", 2, "one of forward, rewrite, block"),
        ("[categories.hate]\nguidance.pt = 'Ajude.'", 2, "known here: en, es"),
        ("[categories.hate]\nguidance.en = '" + "x" * (MOST_WRITTEN + 1) + "'", 2, "1,000 are the most"),
        ("[categories.new]\ntitle = 'New'\nrule = 'R'\nrisk.en = 'r'\nguidance.es = 'g'", 5, "English text"),
        ("[thresholds]\nhigh = nan", 2, "from 0 to 1"),
        ("[thresholds]\nhigh = true", 2, "from 0 to 1"),
        # The line is right whatever way TOML is written.
        ('notice.en = """\n[unjudged]\nscene = \'x\'\n"""\nunjudged.scene = "x"', 5, "forward, degrade, block"),
        ("categories.hate = {action = 'block', thresholds = {low = 0.9}}", 1, "increase"),
        ("allowed = ['112',\n  '988',\n]\n[ categories . 'hate' ]\n'action' = 'blok'", 5, "did you mean 'block'"),
        ("# [tool_result]\n[safety_prompt] # as told\nxx = 'x'", 3, "known here"),
    ],
)
def test_a_wrong_policy_is_refused_with_line_and_reason(tmp_path: Path, text: str, line: int, says: str) -> None:
    with pytest.raises(PolicyError, match=rf"mine\.toml:{line}: .*{says}"):
        load_policy(written(tmp_path, text))


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="cannot be read"):
        load_policy(tmp_path / "missing.toml")
    with pytest.raises(PolicyError, match="cannot be read"):
        load_policy(tmp_path)
    (tmp_path / "latin.toml").write_bytes(b"# \xe9")
    with pytest.raises(PolicyError, match=r"latin\.toml:1: the file is not UTF-8"):
        load_policy(tmp_path / "latin.toml")


def test_a_file_that_changed_is_read_again(tmp_path: Path) -> None:
    file = written(tmp_path, '\ufefftool_results = "block"')
    assert load_policy(file).tool_results is ToolAction.BLOCK
    assert load_policy(file) is load_policy(file)
    assert load_policy(written(tmp_path, 'tool_results = "forward"')).tool_results is ToolAction.FORWARD


def test_the_hash_is_of_what_the_policy_says_and_not_of_how_it_is_written(tmp_path: Path, policy: Policy) -> None:
    same = ("# nothing", '[categories.hate]\naction = "rewrite"\n', "[categories.hate.thresholds]\nlow = 0.35\n")
    assert {load_policy(written(tmp_path, text)).hash for text in same} == {policy.hash}
    assert load_policy(written(tmp_path, '[categories.hate]\naliases = ["x"]')).hash != policy.hash
    assert len(policy.hash) == 64


@given(st.floats(0, 1))
def test_levels_rise_with_the_score(score: float) -> None:
    policy = load_policy()
    assert policy.level("hate", score) <= policy.level("hate", min(1.0, score + 0.1))


@pytest.mark.parametrize("score", [float("nan"), -0.1, 1.1])
def test_what_is_no_probability_has_no_level(score: float, policy: Policy) -> None:
    with pytest.raises(ValueError, match="from 0 to 1"):
        policy.level("hate", score)


@pytest.mark.parametrize(
    ("word", "category"),
    [
        ("Hate Speech", "hate"),
        ("self-harm", "suicide_self_harm"),
        ("malware", "code_interpreter_abuse"),
        ("violent_crime", "violent_crimes"),
        ("missinformation", "misinformation"),
        ("illegal_activity", "non_violent_crimes"),
        ("S4", "child_exploitation"),
        ("S10", "hate"),
        ("dangerous_behavior", "dangerous_behaviour"),
        ("physical_harm", "dangerous_behaviour"),
        ("financial_advice", "specialized_advice"),
        ("weather", "other"),
        ("x", "other"),
    ],
)
def test_the_words_of_models_find_their_category(word: str, category: str, policy: Policy) -> None:
    assert policy.category(word).id == category


def test_no_word_stands_for_two_categories(policy: Policy) -> None:
    words = [word for category in policy.categories.values() for word in (category.id, *category.aliases)]
    assert len(words) == len(set(words))


def test_actions_start_at_their_level(policy: Policy) -> None:
    assert policy.action(Finding(Level.LOW, "hate", "why")) is Action.FORWARD
    assert policy.action(Finding(Level.MEDIUM, "hate", "why")) is Action.REWRITE
    assert policy.action(Finding(Level.HIGH, "a word nobody knows".replace(" ", "_"), "why")) is Action.REWRITE
    assert policy.category("CSAE").id == "child_exploitation"


@given(st.dictionaries(st.text(max_size=8), st.one_of(st.integers(), st.text(max_size=5), st.booleans()), max_size=3))
def test_any_entry_in_a_category_is_taken_or_refused(entries: dict[str, object]) -> None:
    from vlmguard.policy import _laid_over, _policy, _Source

    text = (files("vlmguard") / "policies" / "default.toml").read_text(encoding="utf-8")
    tables = _laid_over(tomllib.loads(text), {"categories": {"hate": entries}})
    try:
        assert _policy(tables, _Source("x", text)).categories["hate"]
    except PolicyError:
        return


def test_whose_turns_are_judged(tmp_path: Path) -> None:
    assert load_policy().judged == ("user", "tool")
    assert "assistant" in load_policy(written(tmp_path, 'judged = ["user", "tool", "assistant"]')).judged
    for bad, says in (('["user"]', "'tool' is missing"), ('["user", "tool", "x"]', "'x'"), ('"user"', "list")):
        with pytest.raises(PolicyError, match=says):
            load_policy(written(tmp_path, f"judged = {bad}"))
