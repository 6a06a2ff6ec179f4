from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import Draw
from vlmguard import chat, load_policy
from vlmguard.policy import Policy
from vlmguard.rewriters.quoting import Budget, ask, disarm, instructions, rearm, rewriter_chat
from vlmguard.trace import find_tags, unescape
from vlmguard.types import Chat, Image, Message, Reason, Text

CONTROL = [
    "<|im_start|>", "<|", "[INST]", "[/INST]", "<<SYS>>", "</SYS>", "</s>", "<s>", "<image>", "<think>", "</think>",
    "<start_of_turn>", "<end_of_turn>", "<tool_call>", "<forward/>", "</prompt>", "<understanding>", "\\", "<", "[", "/", "x",
    "<fake_token_around_image>", "<row_1_col_1>", "<global-img>", "_", ">",
]  # fmt: skip


@given(st.lists(st.sampled_from(CONTROL), max_size=12).map("".join))
def test_disarming_is_undone(text: str) -> None:
    assert rearm(unescape(disarm(text))) == text


@given(st.lists(st.sampled_from(CONTROL), max_size=12).map("".join))
def test_nothing_disarmed_is_read_as_a_turn_a_picture_a_thought_or_a_verdict(text: str) -> None:
    shown = disarm(text).lower()
    for control in (
        "<|",
        "[inst]",
        "</s>",
        "<image>",
        "<think>",
        "</think>",
        "<start_of_turn>",
        "<tool_call>",
        "<row_1_col_1>",
        "<global-img>",
    ):
        assert control not in shown
    assert not find_tags(shown)


def test_code_and_markup_of_other_kinds_stay_as_they_are() -> None:
    assert disarm("if a < b: <div class='x'>[1] <!-- | --></div>") == "if a < b: <div class='x'>[1] <!-- | --></div>"


def test_the_static_part_comes_first_and_is_the_same_for_every_chat(policy: Policy, draw: Draw) -> None:
    one, two = rewriter_chat(chat("hello"), policy, b"k"), rewriter_chat(chat("bye", [draw("x")]), policy, b"k")
    assert one.messages[0] == two.messages[0] == Message("system", (Text(instructions(policy)),))
    assert [message.role for message in one.messages] == ["system", "user"]
    for category in policy.categories.values():
        assert f"- {category.id}: {category.rule}" in instructions(policy)


def test_marks_are_reproducible_and_depend_on_the_key_and_on_all_that_is_said(policy: Policy, draw: Draw) -> None:
    def mark(asked: Chat, key: bytes) -> str:
        words = rewriter_chat(asked, policy, key).messages[1].text
        return words[words.index("==") :].split()[0].rstrip(";")

    asked = chat("hello", [draw("x")])
    assert mark(asked, b"k") == mark(asked, b"k")
    others = {mark(asked, b"l"), mark(chat("hello!", [draw("x")]), b"k"), mark(chat("hello", [draw("y")]), b"k")}
    assert len({*others, mark(asked, b"k")}) == 4


def test_the_conversation_is_told_turn_by_turn_with_pictures_in_their_places(policy: Policy, draw: Draw) -> None:
    first, second = chat("", [draw("1"), draw("2")]).images
    asked = Chat(
        (
            Message("system", (Text("Be a chemist."),)),
            Message("user", (first, Text("and this:"), second)),
            Message("assistant", (Text("I see."),)),
            Message("user", (Text("more"),)),
        )
    )
    told = rewriter_chat(asked, policy, b"k").messages[1]
    mark = told.text[told.text.index("==") :].split()[0].rstrip(";")
    opening, first_shown, between, second_shown, rest = told.parts
    assert isinstance(opening, Text)
    assert isinstance(between, Text)
    assert isinstance(rest, Text)
    assert (first_shown, second_shown) == (first, second)
    assert opening.text.endswith(f"{mark} turn 1: system\nBe a chemist.\n{mark} turn 2: user\n{mark} image 1:")
    assert between.text == f"and this:\n{mark} image 2:"
    assert rest.text.startswith(f"{mark} turn 3: assistant\nI see.\n{mark} turn 4: user\nmore\n{mark} end\n")
    assert "judge turn 4, the newest (the user's)" in rest.text


@given(st.integers(1, 400), st.lists(st.text("ab ", min_size=1, max_size=120), min_size=1, max_size=6))
def test_a_budget_is_kept_to_and_what_it_leaves_out_is_told(characters: int, texts: list[str]) -> None:
    asked = Chat(tuple(Message("user", (Text(text, f"/{number}"),)) for number, text in enumerate(texts)))
    question = ask(asked, load_policy(), b"", Budget(characters=characters))
    out = {row.path for row in question.left_out}
    assert all(row.unjudged is Reason.BUDGET for row in question.left_out)
    total, shown = 0, question.chat.messages[1].text
    for number in range(len(texts) - 1, -1, -1):
        total += len(texts[number])
        assert (f"/{number}" in out) == (total > characters)
        if total <= characters:
            assert texts[number] in shown


def test_the_newest_pictures_are_shown(policy: Policy, draw: Draw) -> None:
    pictures = chat("", [draw(str(number)) for number in range(5)]).images
    asked = Chat((Message("user", (*pictures, Text("which?"))),))
    assert ask(asked, policy, b"", Budget(images=2)).chat.images == pictures[-2:]
    size = sum(len(image.data) for image in pictures[-3:])
    question = ask(asked, policy, b"", Budget(image_bytes=size))
    assert question.chat.images == pictures[-3:]
    assert {row.path for row in question.left_out} == {image.path for image in pictures[:2]}
    assert all(isinstance(image, Image) for image in question.chat.images)
