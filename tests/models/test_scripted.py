from __future__ import annotations

import pytest

from vlmguard import ScriptedModel, chat
from vlmguard.errors import ModelError
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
