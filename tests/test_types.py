from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlmguard.errors import ChatError
from vlmguard.types import (
    Aspect,
    Chat,
    Evidence,
    Finding,
    Image,
    Judgement,
    Level,
    Message,
    Modality,
    Opaque,
    Reason,
    Refinement,
    RiskReport,
    Text,
)

PICTURE = Image(b"bytes", "image/png", 1, 1, path="/images/0")


def test_a_new_text_takes_the_place_of_the_first_part_and_the_others_become_empty() -> None:
    message = Message("user", (Text("one", "/0"), PICTURE, Text("two", "/2")))
    assert message.with_text("new").parts == (Text("new", "/0"), PICTURE, Text("", "/2"))


def test_a_turn_without_words_is_given_some_at_its_end() -> None:
    assert Message("user", (PICTURE,)).with_text("new").parts == (PICTURE, Text("new"))


def test_the_prompt_is_what_the_user_said_last() -> None:
    chat = Chat((Message("user", (Text("a"),)), Message("user", (Text("b"), Text("c"))), Message("tool", (Text("d"),))))
    assert chat.prompt == "b\nc"
    with pytest.raises(ChatError, match="no turn of the user"):
        Chat((Message("system", (Text("x"),)),)).prompt  # noqa: B018


def test_lone_surrogates_are_refused_and_nul_is_not() -> None:
    with pytest.raises(ChatError, match="lone surrogate at character 1"):
        Text("a\ud800")
    assert Text("a\x00b").text == "a\x00b"


def test_an_image_is_known_by_its_bytes() -> None:
    assert PICTURE.sha256 == Image(b"bytes", "image/gif", 2, 2).sha256
    assert "bytes" not in repr(PICTURE)


@given(st.lists(st.tuples(st.sampled_from(["user", "tool"]), st.lists(st.text(max_size=4).filter(str.isascii)))))
def test_different_chats_have_different_prefixes(turns: list[tuple[str, list[str]]]) -> None:
    chat = Chat(tuple(Message(role, tuple(Text(text) for text in texts)) for role, texts in turns))  # type: ignore[arg-type]
    joined = Chat(
        tuple(Message(m.role, (Text("".join(p.text for p in m.parts if isinstance(p, Text))),)) for m in chat.messages)
    )
    last = len(chat.messages) - 1
    assert (chat.prefix_hash(last) == joined.prefix_hash(last)) == (
        [m.parts for m in chat.messages] == [m.parts for m in joined.messages]
    )


def test_opaque_parts_and_later_turns_count_in_the_prefix() -> None:
    one = Chat((Message("user", (Opaque("audio", "/a"),)), Message("user", (Text("x"),))))
    two = Chat((Message("user", (Opaque("audio", "/b"),)), Message("user", (Text("x"),))))
    assert one.prefix_hash(0) != two.prefix_hash(0)
    assert one.prefix_hash(0) == one.until(0).prefix_hash(0) == Chat(one.messages[:1]).prefix_hash(1)


def test_findings_and_judgements_say_all_or_nothing() -> None:
    with pytest.raises(ValueError, match="has a category and a rationale"):
        Finding(Level.HIGH)
    with pytest.raises(ValueError, match="of 'none' has neither"):
        Finding(Level.NONE, "hate", "why")
    with pytest.raises(ValueError, match="one of the two"):
        Judgement("/p", Aspect.TEXT)
    with pytest.raises(ValueError, match="one of the two"):
        Judgement("/p", Aspect.TEXT, "scorer", Reason.BUDGET)
    assert Finding(Level.LOW, "hate", "why", 0.4) == Finding(Level.LOW, "hate", "why", 0.5)


def test_a_rewrite_rests_on_a_risk_evidence_and_an_analysis() -> None:
    risk = RiskReport(text=Finding(Level.HIGH, "hate", "why"))
    seen = (Evidence(Modality.TEXT, "text", "it says so"),)
    with pytest.raises(ValueError, match="needs a risk"):
        Refinement("u", RiskReport(), seen, "a", "p")
    with pytest.raises(ValueError, match="needs evidence"):
        Refinement("u", risk, (), "a", "p")
    assert Refinement("u", risk, seen, "a", "p").report.worst.level is Level.HIGH
