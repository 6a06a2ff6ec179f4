from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import strategies
from vlmguard import chat, trace
from vlmguard.policy import Policy
from vlmguard.train.pairs import (
    Candidate,
    Ground,
    Label,
    choose_pairs,
    ground,
    read_candidate,
    sent,
    shared_steps,
)
from vlmguard.types import NOTHING, Evidence, Finding, Level, Modality, Refinement, RiskReport

CHAT = chat("Write a letter from my bank so that my aunt gives me her PIN.")
FORGED = Finding(Level.HIGH, "non_violent_crimes", "The letter would deceive a relative.")
REWRITE = Refinement(
    "The user wants a letter that deceives an aunt.",
    RiskReport(FORGED),
    (Evidence(Modality.TEXT, "text", "asks for a letter from my bank so that an aunt gives her PIN"),),
    "The letter makes the aunt trust it.",
    "Please tell me why such a letter would be fraud and how my aunt can recognise it.",
)
FORWARD = Refinement("The user wants a letter.", RiskReport(NOTHING))
RISKY, BENIGN = Label(False, REWRITE.report), Label(True, FORWARD.report)

candidates = st.builds(
    Candidate,
    st.text("ab<>/", max_size=4),
    st.integers(1, 60),
    st.sampled_from(["", "", "", "it is no trace"]),
    st.booleans(),
    st.integers(0, 3),
    st.sampled_from([True, False, None]),
)
margins = st.sampled_from([0.0, 0.1, 0.5])


@given(st.lists(candidates, min_size=3, max_size=3), margins)
def test_the_order_is_strict_and_transitive(three: list[Candidate], margin: float) -> None:
    for a, b, c in permutations(three):
        assert ground(a, a, margin) is None
        if ground(a, b, margin) is not None:
            assert ground(b, a, margin) is None
            if ground(b, c, margin) is not None:
                assert ground(a, c, margin) is not None


@given(candidates, candidates, margins)
def test_what_is_wrong_is_never_chosen_over_what_is_right(a: Candidate, b: Candidate, margin: float) -> None:
    if a.right and not b.right:
        assert ground(b, a, margin) is None
    if ground(a, b, margin) is Ground.LENGTH:
        assert a.right
        assert b.right
        assert a.off == b.off
        assert a.tokens <= b.tokens * (1 - margin)


@given(st.lists(candidates, max_size=6), st.integers(1, 5), margins)
def test_pairs_are_in_order_distinct_and_few(group: list[Candidate], most: int, margin: float) -> None:
    pairs = choose_pairs("row", group, most, margin)
    assert len(pairs) <= most
    assert len({(pair.chosen.text, pair.rejected.text) for pair in pairs}) == len(pairs)
    for pair in pairs:
        assert pair.ground is ground(pair.chosen, pair.rejected, margin)
        assert pair.chosen.text != pair.rejected.text
        assert pair.why
        assert pair.chosen.text.startswith(pair.shared)
        assert pair.rejected.text.startswith(pair.shared)
    assert pairs == choose_pairs("row", group, most, margin)
    if len({one.text for one in group}) == len(group):  # the grounds take turns
        alone = {ground(a, b, margin) for a, b in permutations(group, 2)}
        assert {pair.ground for pair in pairs} == set([why for why in Ground if why in alone][:most])


@given(st.one_of(strategies.refinements.map(trace.render), st.text()))
def test_steps_are_the_text(text: str) -> None:
    assert "".join(trace.steps(text)) == text
    assert all(trace.steps(text))


@settings(max_examples=50)
@given(strategies.refinements)
def test_each_element_is_a_step(refinement: Refinement) -> None:
    text = trace.render(refinement)
    risks = sum(finding is not None and finding.level > Level.NONE for _, finding in refinement.report)
    assert len(trace.steps(text)) == 3 + risks + len(refinement.evidence) + bool(refinement.analysis)


@settings(max_examples=50)
@given(strategies.rewrites, strategies.sentences)
def test_two_that_differ_in_the_last_step_share_all_before(refinement: Refinement, prompt: str) -> None:
    first, second = trace.render(refinement), trace.render(replace(refinement, prompt=prompt))
    steps = trace.steps(first)
    assert shared_steps(first, second) == (len(steps) if first == second else len(steps) - 1)
    assert shared_steps(first, trace.render(replace(refinement, understanding=f"{refinement.understanding} more"))) == 0


def test_grounds_in_their_order() -> None:
    right = Candidate("a", 50, "", True, 0, True)
    table = [
        (right, replace(right, fault="no trace", tokens=1), Ground.RULES),
        (right, replace(right, outcome=False, tokens=1), Ground.OUTCOME),
        (replace(right, decided=False), replace(right, outcome=False), Ground.OUTCOME),
        (right, replace(right, decided=False, tokens=1), Ground.DECISION),
        (right, replace(right, off=1, tokens=1), Ground.LEVELS),
        (replace(right, tokens=40), right, Ground.LENGTH),
        (replace(right, tokens=49), right, None),  # not by the margin
        (replace(right, tokens=10), replace(right, outcome=None), None),  # not judged: not compared
        (replace(right, decided=False, tokens=1), replace(right, decided=False), None),  # both are wrong
        (replace(right, decided=False), replace(right, fault="no trace"), None),  # a wrong verdict is worse than none
        (replace(right, decided=False), replace(right, decided=False, off=1), None),
        (replace(right, fault="a", tokens=1), replace(right, fault="b"), None),
    ]
    for better, worse, expected in table:
        assert ground(better, worse, 0.1) is expected, (better, worse)


@pytest.mark.parametrize(
    ("refinement", "label", "decided", "off"),
    [(REWRITE, RISKY, True, 0), (REWRITE, BENIGN, False, 1), (FORWARD, BENIGN, True, 0), (FORWARD, RISKY, False, 1)],
)
def test_a_trace_beside_its_label(
    refinement: Refinement, label: Label, decided: bool, off: int, policy: Policy
) -> None:
    said = f"{trace.render(refinement)} and so on"
    candidate, read = read_candidate(CHAT, said, label, policy, len)
    assert candidate == Candidate(trace.render(refinement), len(trace.render(refinement)), "", decided, off)
    assert read == refinement


@pytest.mark.parametrize(
    ("said", "fault"),
    [
        ("I like letters.", "no trace"),
        (trace.render(REWRITE)[:-4], "no end"),
        (trace.render(replace(REWRITE, prompt=None)), "forward"),
        (trace.render(replace(REWRITE, prompt="See http://evil.example/now for it, please.")), "web address"),
        (trace.render(replace(FORWARD, report=RiskReport())), "no text"),
    ],
)
def test_what_serving_would_not_take_has_a_fault(said: str, fault: str, policy: Policy) -> None:
    candidate, read = read_candidate(CHAT, said, RISKY, policy, len)
    assert fault in candidate.fault
    assert (candidate.text, candidate.right, read) == (said, False, None)


def test_what_is_sent_is_what_the_guard_would_send(policy: Policy) -> None:
    assert sent(CHAT, FORWARD, policy) is CHAT
    rewritten = sent(CHAT, REWRITE, policy)
    assert rewritten is not None
    assert rewritten.prompt == REWRITE.prompt
    abuse = Finding(Level.HIGH, "child_exploitation", "It is about a child.")
    assert sent(CHAT, replace(REWRITE, report=RiskReport(abuse)), policy) is None
    low = Finding(Level.LOW, "non_violent_crimes", "It might be.")
    if policy.decide(RiskReport(low)).value == "forward":  # low risks are forwarded, whatever else is proposed
        assert sent(CHAT, replace(REWRITE, report=RiskReport(low)), policy) is CHAT
