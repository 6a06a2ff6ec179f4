"""Defences: what each asks of whom, what it does with the answers, and what it says it cost."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from tests.conftest import Draw, WordScorer
from vlmguard import ScriptedModel, chat
from vlmguard.defences import prompted
from vlmguard.defences.cost import Metered, Queued
from vlmguard.defences.ecso import Ecso, Prompts
from vlmguard.defences.eta import Eta, ModelRater
from vlmguard.defences.guarded import Guarded
from vlmguard.defences.protector import MllmProtector, Part
from vlmguard.defences.select import DEFENCES, Workshop, make_defence
from vlmguard.defences.shield import ShieldStyle
from vlmguard.errors import InputError, ModelError
from vlmguard.guard import Guard
from vlmguard.models.spec import Named
from vlmguard.policy import Policy
from vlmguard.protocols import Model
from vlmguard.rewriters.embedded import EmbeddedRewriter
from vlmguard.rewriters.model import ModelRewriter
from vlmguard.types import Chat, Completion, Outcome, Review, Sampling, Usage

SAMPLING = Sampling(max_tokens=100)
TRACE = (
    '<understanding>The user asks to forge.</understanding>\n<assessment text="high" image="absent" cross="absent"/>\n'
    '<risk modality="text" category="non_violent_crimes">It is forgery.</risk>\n'
    '<evidence source="text" modality="text">asks to forge a letter</evidence>\n<analysis>It deceives.</analysis>\n'
    "<prompt>Please tell me how to recognise a letter that somebody made up.</prompt>"
)


class Timed:
    """A model that says how long it took: five seconds."""

    def __init__(self, *answers: str) -> None:
        self._inner = ScriptedModel(list(answers))

    @property
    def asked(self) -> list[Chat]:
        return self._inner.asked

    async def generate(self, asked: Chat, sampling: Sampling, /) -> Completion:
        completion = await self._inner.generate(asked, sampling)
        return Completion(completion.text, usage=Usage(10, 2), seconds=5.0)


async def test_no_defence_is_the_target_alone() -> None:
    target = Timed("Hello.")
    asked = chat("Hi")
    answer = await prompted.NoDefence()(asked, target, SAMPLING)
    assert target.asked == [asked]
    assert (answer.text, answer.outcome, answer.calls, answer.usage, answer.seconds, answer.overhead) == (
        "Hello.", None, 1, Usage(10, 2), 5.0, 0.0,
    )  # fmt: skip


async def test_prompts_stand_where_they_belong(draw: Draw) -> None:
    target = ScriptedModel(["a", "b", "c"])
    asked = chat("Hi", [draw("x")])
    await prompted.safety_prompt("Take care.")(asked, target, SAMPLING)
    await prompted.figstep()(asked, target, SAMPLING)
    await prompted.adashield_s("Look first.")(asked, target, SAMPLING)
    assert [message.role for message in target.asked[0].messages] == ["system", "user"]
    assert target.asked[0].messages[0].text == "Take care."
    assert target.asked[2].prompt == "Look first.\n\nHi"
    assert len(target.asked[2].images) == 1


def test_a_defence_with_a_substitute_part_never_has_the_plain_name() -> None:
    part = Part(ScriptedModel([]), "m")
    own = Part(ScriptedModel([]), "m", original=True)
    assert prompted.figstep().name == "figstep-defence*"
    assert prompted.figstep("theirs").name == "figstep-defence"
    assert prompted.adashield_s().name == "adashield-s*"
    assert prompted.adashield_s("theirs").name == "adashield-s"
    assert Ecso().name == "ecso*"
    assert Ecso(Prompts("{query}{answer}", "{query}", "{caption}{query}")).name == "ecso"
    assert MllmProtector(part, own).name == "mllm-protector*"
    assert MllmProtector(own, own).name == "mllm-protector"
    assert Eta(ModelRater(ScriptedModel([]), "m")).name == "eta*"


async def test_vlmguard_rewrites_blocks_and_leaves_alone(embedded: EmbeddedRewriter, policy: Policy) -> None:
    defence = Guarded(Guard(embedded, policy), "vlmguard (embedded)", "words")
    target = Timed("one", "two")
    asked = chat("What is the capital of France?")
    plain = await defence(asked, target, SAMPLING)
    assert target.asked[0] is asked
    assert (plain.outcome, plain.prompt, plain.calls) == (Outcome.FORWARD, None, 1)
    risky = await defence(chat("Help me forge a letter"), target, SAMPLING)
    assert risky.outcome is Outcome.REWRITE
    assert risky.prompt == target.asked[1].prompt != "Help me forge a letter"
    assert risky.refinement is not None
    assert 0 < risky.overhead < 5.0


async def test_a_blocked_chat_asks_no_target(policy: Policy) -> None:
    scorer = WordScorer({"bad": "child_exploitation"})
    defence = Guarded(Guard(EmbeddedRewriter(policy, scorer=scorer, threads=1), policy), "vlmguard", "words")
    target = ScriptedModel([])
    answer = await defence(chat("something bad"), target, SAMPLING)
    assert (answer.outcome, answer.calls, target.asked) == (Outcome.BLOCK, 0, [])
    assert answer.text


async def test_the_rewriters_calls_are_on_the_bill(policy: Policy) -> None:
    rewriter = ModelRewriter(Metered(Timed(TRACE)), policy)
    answer = await Guarded(Guard(rewriter, policy), "vlmguard", "m")(chat("Forge a letter"), Timed("Done."), SAMPLING)
    assert (answer.calls, answer.usage, answer.outcome) == (2, Usage(20, 4), Outcome.REWRITE)
    assert answer.seconds == pytest.approx(10.0, abs=0.5)
    assert answer.overhead == pytest.approx(5.0, abs=0.5)


async def test_a_chat_that_waits_for_its_turn_is_not_billed_for_it(policy: Policy) -> None:
    """Four chats at once, judged one after the other: each bill holds its own quarter of the time, and not the whole."""

    class Slow:
        async def refine(self, asked: Chat, /) -> Review:
            await asyncio.sleep(0.2)
            return await EmbeddedRewriter(policy, scorer=WordScorer({}), threads=1).refine(asked)

    defence = Guarded(Guard(Queued(Slow()), policy), "vlmguard", "slow")
    started = time.perf_counter()
    answers = await asyncio.gather(*(defence(chat(f"Question {n}?"), ScriptedModel(["a"]), SAMPLING) for n in range(4)))
    whole = time.perf_counter() - started
    assert sum(answer.overhead for answer in answers) <= whole
    assert all(answer.overhead >= 0.2 for answer in answers)


def test_tiers_do_not_stand_in_for_each_other_in_an_evaluation(policy: Policy) -> None:
    defence = make_defence("vlmguard:tiered:endpoint:http://127.0.0.1:9/v1#judge", shop(policy))
    assert defence.name == "vlmguard (tiered judge)"
    assert defence.calls == (0, 3)
    assert defence.fingerprint != make_defence("vlmguard:embedded", shop(policy)).fingerprint


async def test_ecso_answers_without_the_picture_when_it_finds_harm(draw: Draw) -> None:
    asked = chat("How do I use {caption} this?", [draw("acid")])
    target = Timed("Like so.", " Yes.", "A bottle.", "Carefully.")
    answer = await Ecso()(asked, target, SAMPLING)
    assert (answer.text, answer.outcome, answer.calls, answer.overhead) == ("Carefully.", Outcome.REWRITE, 4, 15.0)
    assert [len(each.images) for each in target.asked] == [1, 1, 1, 0]
    assert "A bottle." in target.asked[3].prompt
    assert "How do I use {caption} this?" in target.asked[3].prompt  # a user's braces are no holes


async def test_ecso_keeps_a_harmless_answer(draw: Draw) -> None:
    target = ScriptedModel(["Like so.", "No."])
    answer = await Ecso()(chat("How?", [draw("soap")]), target, SAMPLING)
    assert (answer.text, answer.calls) == ("Like so.", 2)
    assert (await Ecso()(chat("How?"), ScriptedModel(["x"]), SAMPLING)).calls == 1


async def test_mllm_protector_rewrites_what_is_harmful() -> None:
    detector, detoxifier = ScriptedModel(["harmful", "harmless"]), ScriptedModel(["Better not."])
    defence = MllmProtector(Part(detector, "d"), Part(detoxifier, "x"))
    first = await defence(chat("How?"), ScriptedModel(["Like so."]), SAMPLING)
    second = await defence(chat("How?"), ScriptedModel(["Like so."]), SAMPLING)
    assert (first.text, first.outcome, first.calls) == ("Better not.", Outcome.REWRITE, 3)
    assert (second.text, second.outcome, second.calls) == ("Like so.", Outcome.FORWARD, 2)
    assert "[answer " in detector.asked[0].messages[-1].text


async def test_eta_realigns_sentence_by_sentence(draw: Draw) -> None:
    rates = {"Like so": "2", "Take care": "90", "Go on": "10"}

    def rate(asked: Chat) -> str:
        if asked.images:
            return "80"
        text = asked.messages[-1].text
        return next(number for words, number in rates.items() if words in text.split("[answer")[1])

    rater = ModelRater(ScriptedModel(rate), "r")
    target = ScriptedModel(["Like so.", "Go on. And more.", "Take care! Then this.", "(end)", "(end)"])
    answer = await Eta(rater, best_of=2, sentences=3)(chat("How?", [draw("knife")]), target, SAMPLING)
    assert answer.text == "As an AI assistant, Take care!"
    assert answer.outcome is Outcome.REWRITE


async def test_eta_leaves_an_answer_with_which_either_evaluator_is_content() -> None:
    rater = ModelRater(ScriptedModel(["50"]), "r")
    answer = await Eta(rater)(chat("How?"), ScriptedModel(["Like so."]), SAMPLING)
    assert (answer.text, answer.outcome) == ("Like so.", Outcome.FORWARD)
    with pytest.raises(ModelError, match="no number"):
        await ModelRater(ScriptedModel(["much"]), "r").answer(chat("How?"), "So.")


@pytest.mark.parametrize(
    ("said", "outcome", "calls"),
    [
        ("forward", Outcome.FORWARD, 2),
        ("Reframe: privacy", Outcome.REWRITE, 2),
        ("block hate", Outcome.BLOCK, 1),
        ("no idea", Outcome.REWRITE, 2),
        ("I would not block it: forward", Outcome.REWRITE, 2),
        ("**forward**", Outcome.FORWARD, 2),
        ("`forward`.", Outcome.FORWARD, 2),
    ],
)
async def test_shield_style(policy: Policy, said: str, outcome: Outcome, calls: int) -> None:
    target = ScriptedModel(["An answer."])
    answer = await ShieldStyle(policy, ScriptedModel([said]))(chat("Where does she live?"), target, SAMPLING)
    assert (answer.outcome, answer.calls) == (outcome, calls)
    if said.startswith("Reframe"):
        assert target.asked[0].prompt == f"{policy.categories['privacy'].guidance['en']}\n\nWhere does she live?"


def shop(policy: Policy) -> Workshop:
    def opened(spec: str) -> tuple[Model, str]:
        return ScriptedModel([]), spec

    def wrap(named: Named) -> Model:
        return named.model

    return Workshop(policy, opened, wrap)


def test_defences_by_name(policy: Policy, tmp_path: Path) -> None:
    needs_a_model = {"eta", "mllm-protector"}
    names = {make_defence(f"{kind}:m" if kind in needs_a_model else kind, shop(policy)).name for kind in DEFENCES}
    assert len(names) == len(DEFENCES)
    file = tmp_path / "prompt.txt"
    file.write_text("Theirs.", encoding="utf-8")
    assert make_defence({"kind": "adashield-s", "prompt": str(file)}, shop(policy)).name == "adashield-s"
    for wrong in ("nobody", "eta", "mllm-protector", "vlmguard:nobody"):
        with pytest.raises(InputError):
            make_defence(wrong, shop(policy))
    limits = [{"kind": "eta", "rater": "m", "answer_threshold": limit} for limit in (0.1, 0.2)]
    assert len({make_defence(each, shop(policy)).fingerprint for each in limits}) == 2
    for parts in (
        {"kind": "ecso", "check": str(file)},
        {"kind": "none", "colour": "red"},
        {"kind": "eta", "rater": "m", "answer_threshold": 2},
        {"kind": "figstep", "prompt": "/no/file"},
    ):
        with pytest.raises(InputError):
            make_defence(parts, shop(policy))


def test_fingerprints_tell_prompts_apart() -> None:
    assert prompted.figstep("a").fingerprint != prompted.figstep("b").fingerprint
    assert prompted.figstep("a").fingerprint != prompted.adashield_s("a").fingerprint
