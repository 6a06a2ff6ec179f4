from __future__ import annotations

from pathlib import Path

import pytest

from vlmguard import ScriptedModel, chat
from vlmguard.errors import InputError, ModelError
from vlmguard.models.scripted import read_script
from vlmguard.protocols import Model, Streaming
from vlmguard.types import Sampling


async def test_it_answers_in_turn_and_says_when_the_script_ends() -> None:
    model = ScriptedModel(["one", "two words"])
    assert isinstance(model, Model)
    assert isinstance(model, Streaming)
    asked = chat("?")
    assert (await model.generate(asked, Sampling())).text == "one"
    assert "".join([piece async for piece in model.stream(asked, Sampling())]).strip() == "two words"
    with pytest.raises(ModelError, match="asked 3 times"):
        await model.generate(asked, Sampling())
    assert model.asked == [asked] * 3


async def test_it_answers_by_a_function_of_the_chat() -> None:
    model = ScriptedModel(lambda asked: asked.prompt.upper())
    assert (await model.generate(chat("hi"), Sampling())).text == "HI"


async def test_a_script_answers_by_what_the_question_holds(tmp_path: Path) -> None:
    file = tmp_path / "script.jsonl"
    file.write_text('{"when": "sky", "answer": "blue"}\n\n{"answer": "no idea"}\n')
    script = read_script(file)
    assert [script.answer(chat(asked)) for asked in ("the sky?", "the sea?")] == ["blue", "no idea"]
    assert script.fingerprint == read_script(file).fingerprint


async def test_a_script_without_an_answer_that_fits_says_so(tmp_path: Path) -> None:
    file = tmp_path / "script.jsonl"
    file.write_text('{"when": "sky", "answer": "blue"}\n')
    with pytest.raises(ModelError, match="add a row without 'when'"):
        read_script(file).answer(chat("the sea?"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is empty"),
        ("{\n", ":1: not JSON"),
        ('{"answer": "x"}\n[]\n', ":2: a line is"),
        ('{"answer": 3}\n', "a line is"),
        ('{"answer": "x", "then": "y"}\n', "a line is"),
        ('{"answer": "x", "when": 3}\n', "'when' is a text"),
    ],
)
def test_a_script_that_cannot_be_used_is_refused_with_its_line(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "script.jsonl"
    file.write_text(text)
    with pytest.raises(InputError, match=says):
        read_script(file)
    with pytest.raises(InputError, match="cannot be read"):
        read_script(tmp_path / "none")


async def test_a_stream_says_what_the_whole_answer_says() -> None:
    answer = " one\n\ntwo  three\n"
    model = ScriptedModel([answer])
    assert "".join([piece async for piece in model.stream(chat("?"), Sampling())]) == answer
    assert model.said == 4
