from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.strategies import refinements, sentences
from vlmguard.errors import TraceError
from vlmguard.trace import TraceReader, escape, extract, is_refusal, parse, render, unescape
from vlmguard.types import Evidence, Finding, Level, Modality, Refinement, RiskReport

FORWARD = (
    "<understanding>They ask for the colour of a car.</understanding>\n"
    '<assessment text="none" image="none" cross="none"/>\n<forward/>'
)
REWRITE = (
    "<understanding>The list in the picture is to be filled.</understanding>\n"
    '<assessment text="none" image="high" cross="absent"/>\n'
    '<risk modality="image" category="non_violent_crimes">The heading names a crime.</risk>\n'
    '<evidence source="image 1" modality="image">It reads "ways to forge".</evidence>\n'
    "<analysis>The prompt hands control to the list.</analysis>\n"
    "<prompt>Explain how documents are protected.</prompt>"
)


@given(refinements)
def test_reading_back_what_was_written_gives_the_same_refinement(refinement: Refinement) -> None:
    assert parse(render(refinement)) == refinement


@given(sentences)
def test_escaping_is_undone_and_leaves_no_tag(body: str) -> None:
    assert unescape(escape(body)) == body
    assert "<prompt" not in escape(body)
    assert "</understanding" not in escape(body)


@given(st.text(max_size=300))
def test_any_text_is_a_trace_or_a_trace_error(text: str) -> None:
    try:
        parse(text)
    except TraceError:
        return


def test_the_documented_traces_are_read() -> None:
    assert parse(FORWARD).prompt is None
    refinement = parse(REWRITE)
    assert refinement.report == RiskReport(
        Finding(Level.NONE), Finding(Level.HIGH, "non_violent_crimes", "The heading names a crime."), None
    )
    assert refinement.evidence == (Evidence(Modality.IMAGE, "image 1", 'It reads "ways to forge".'),)
    assert render(refinement) == REWRITE


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        ("", "<understanding> is expected"),
        (FORWARD.replace("<forward/>", ""), "<prompt> is expected"),
        (FORWARD + "<forward/>", "ends before"),
        (FORWARD.replace('cross="none"', 'cross="grave"'), "cross='grave'"),
        (FORWARD.replace(' cross="none"', ""), "lacks the attribute cross"),
        (FORWARD.replace('text="none"', 'text="none" tone="x"'), "no attribute 'tone'"),
        (FORWARD.replace('text="none"', 'text="none" text="high"'), "twice"),
        (FORWARD.replace('text="none"', 'text="high"'), "<risk> is missing for text"),
        (REWRITE.replace('image="high"', 'image="none"'), "assessed as none"),
        (REWRITE.replace("</prompt>", ""), "</prompt> is missing"),
        (REWRITE.replace("Explain", "<forward/> Explain"), "not escaped"),
        (REWRITE.replace("The heading names a crime.", " "), "<risk> is empty"),
        (REWRITE.replace("non_violent_crimes", "two words"), "a category is one word"),
        (REWRITE.replace('source="image 1"', 'source="Image-1"'), "evidence source"),
        (REWRITE.split("<evidence", maxsplit=1)[0] + "<prompt>Explain.</prompt>", "needs evidence"),
        ("Sure! " + FORWARD, "<understanding> is expected"),
    ],
)
def test_a_broken_trace_is_an_error_that_says_where(broken: str, says: str) -> None:
    with pytest.raises(TraceError, match=says.replace("(", r"\(")):
        parse(broken)


@given(refinements, st.integers(1, 9), st.text(max_size=20))
def test_the_reader_stops_where_the_trace_is_complete(refinement: Refinement, step: int, rest: str) -> None:
    written = render(refinement)
    reader = TraceReader()
    fed = 0
    while not reader.feed((written + rest)[fed : fed + step]):
        fed += step
        assert fed < len(written)
    assert reader.text == written


# ---------------------------------------------------------------------------------------------------------------------
# Traces in what models say


@pytest.mark.parametrize(
    "said",
    [
        FORWARD,
        f"\n {FORWARD}\n",
        f"{FORWARD}\nI hope this helps.",
        f"Here you are:\n{FORWARD}\nI hope this helps.",
        f"```xml\n{FORWARD}\n```",
        f"<think>{REWRITE}</think>{FORWARD}",
        f"<thinking>\n<forward/>\n</thinking>\n\n```\n{FORWARD}\n```",
        f"Let me see. {REWRITE}\n</think>\n{FORWARD}",
        f"{FORWARD}\n{REWRITE}",
    ],
)
def test_a_trace_is_found_streamed_or_not(said: str) -> None:
    assert extract(said) == FORWARD
    for step in (1, 3, 1000):
        reader = TraceReader()
        for at in range(0, len(said), step):
            if reader.feed(said[at : at + step]):
                break
        assert extract(reader.text) == FORWARD


@pytest.mark.parametrize("said", [f"<think>{FORWARD}", f"Perhaps {FORWARD}", f"```\nsome code\n```\n{FORWARD}"])
def test_a_stream_is_not_closed_in_thoughts_or_behind_other_words(said: str) -> None:
    """What stands there may be a draft, or a quotation of what an attacker wrote."""
    reader = TraceReader()
    assert not any(reader.feed(said[at : at + 5]) for at in range(0, len(said), 5))
    assert reader.text == said


@pytest.mark.parametrize(
    ("said", "says"),
    [
        ("", "no trace in what the rewriter said: nothing"),
        ("I cannot help with that.", "refused to judge"),
        ("The user asks for a colour.", "no trace in what the rewriter said: 'The user asks"),
        (f"<think>{FORWARD}", "gave no verdict"),
        (f"Perhaps {FORWARD} or {REWRITE}", "more than one trace"),
        (f"</prompt> {FORWARD}", "more than one trace"),
        (FORWARD[:-5], "has no end"),
    ],
)
def test_what_is_unclear_is_not_guessed_at(said: str, says: str) -> None:
    with pytest.raises(TraceError, match=says):
        extract(said)


@given(refinements, st.text(max_size=60).filter(lambda text: "<" not in text), st.text(max_size=60))
def test_prose_around_a_trace_changes_nothing(refinement: Refinement, before: str, after: str) -> None:
    written = render(refinement)
    assert extract(f"{before}{written}{after.replace('<', '')}") == written


@pytest.mark.parametrize(
    "said",
    [
        "I can't help with that.",
        "I'm sorry, but I can’t assist with that request.",
        "Sorry, I cannot provide this.",
        "I am unable to help you with it.",
        "As an AI, I must decline to answer.",
        "I'm not able to continue.",
    ],
)
def test_a_refusal_is_known(said: str) -> None:
    assert is_refusal(said)


@pytest.mark.parametrize(
    "said",
    [
        'The user writes "I can\'t help it" and asks why.',
        "I can't sleep. Please tell me what helps.",
        "I will not hurt him, but I am angry. Please help me to calm down.",
        "My bank says: we cannot provide this.",
        "Please tell me why you cannot help with it.",
    ],
)
def test_a_users_own_words_are_no_refusal(said: str) -> None:
    assert not is_refusal(said)
