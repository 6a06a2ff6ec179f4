from __future__ import annotations

import asyncio
import importlib.util
import sys
from contextlib import aclosing
from pathlib import Path

import pytest

from tests.tiny_llava import BABBLE, COLOUR, HARMLESS, PAIR, PAIR_PROMPT, WHOSE, picture
from vlmguard import Guard, chat, load_policy
from vlmguard.errors import ChatError, CutOffError, MissingExtraError, ModelError
from vlmguard.models.local import LocalModel, fingerprint
from vlmguard.models.spec import ModelSettings
from vlmguard.models.wrapper import open_stream
from vlmguard.rewriters.quoting import rewriter_chat
from vlmguard.rewriters.select import make_rewriter
from vlmguard.types import Chat, Message, Opaque, Outcome, Sampling, Text

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning:transformers.*"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
SHORT = Sampling(max_tokens=24)


@pytest.fixture(scope="module")
def base(tiny_llava: Path) -> LocalModel:
    return LocalModel(str(tiny_llava / "base"), device="cpu")


async def test_it_answers_and_sees(base: LocalModel) -> None:
    for colour, name in (("red", "Red."), ("blue", "Blue.")):
        completion = await base.generate(chat(COLOUR, [picture(colour)]), SHORT)
        assert (completion.text, completion.finish_reason) == (name, "stop")
    assert completion.usage.completion_tokens == 3
    assert completion.usage.prompt_tokens > 16


async def test_its_weights_stay_as_they_are_and_an_adapter_is_seen_in_them(base: LocalModel, tiny_llava: Path) -> None:
    before = base.weights_hash()
    await base.generate(chat(WHOSE), SHORT)
    assert base.weights_hash() == before
    adapted = LocalModel(str(tiny_llava / "base"), adapter=str(tiny_llava / "adapter"), device="cpu")
    assert adapted.weights_hash() != before


async def test_it_streams_and_stops_where_the_reader_does(base: LocalModel) -> None:
    asked = rewriter_chat(chat(HARMLESS), load_policy(), b"")
    whole = await base.generate(asked, Sampling(max_tokens=400))
    assert whole.text.endswith(BABBLE)
    read = ""
    async with aclosing(open_stream(base, asked, Sampling(max_tokens=400))) as pieces:
        async for piece in pieces:
            read += piece
            if "<forward/>" in read:
                break
    assert len(read) < len(whole.text) / 2
    assert whole.text.startswith(read)
    assert (await base.generate(chat(WHOSE), SHORT)).text == "The base model's."  # it is free again


async def test_a_cut_off_answer_says_so(base: LocalModel) -> None:
    assert (await base.generate(chat(WHOSE), Sampling(max_tokens=2))).finish_reason == "length"
    with pytest.raises(CutOffError, match="2 tokens"):
        async for _ in open_stream(base, chat(WHOSE), Sampling(max_tokens=2)):
            pass


async def test_a_question_that_was_cancelled_stops_generating(base: LocalModel) -> None:
    asked = rewriter_chat(chat(HARMLESS), load_policy(), b"")
    task = asyncio.create_task(base.generate(asked, Sampling(max_tokens=2000)))
    await asyncio.sleep(0.02)  # a tenth of what the whole answer takes on a fast machine
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await base.generate(chat(WHOSE), SHORT)).text == "The base model's."


async def test_an_adapter_changes_what_is_said_and_who_said_it(base: LocalModel, tiny_llava: Path) -> None:
    adapted = LocalModel(str(tiny_llava / "base"), adapter=str(tiny_llava / "adapter"), device="cpu")
    assert (await adapted.generate(chat(WHOSE), SHORT)).text == "The adapter's."
    assert adapted.fingerprint != base.fingerprint
    assert base.fingerprint == fingerprint(str(tiny_llava / "base"), None)


async def test_a_local_model_judges_as_a_rewriter(tiny_llava: Path) -> None:
    spec = f"local:{tiny_llava / 'base'}#{tiny_llava / 'adapter'}"
    guard = Guard(make_rewriter(spec, load_policy(), settings=ModelSettings(deadline=120)))
    guarded = await guard.refine(chat(PAIR, [picture("red")]))
    assert guarded.outcome is Outcome.REWRITE
    assert guarded.chat is not None
    assert guarded.chat.prompt == PAIR_PROMPT
    assert {row.judged_by for row in guarded.receipt.judgements} == {"model base+adapter"}
    assert guarded.receipt.weights == fingerprint(str(tiny_llava / "base"), str(tiny_llava / "adapter"))


@pytest.mark.parametrize("message", [Message("tool", (Text("x"),)), Message("user", (Opaque("audio"),))])
async def test_what_it_cannot_be_shown_is_not_left_out_in_silence(base: LocalModel, message: Message) -> None:
    with pytest.raises(ChatError):
        await base.generate(Chat((message,)), SHORT)


def test_a_folder_that_is_no_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be loaded as a vision-language model"):
        LocalModel(str(tmp_path))


def test_without_torch_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    assert importlib.util.find_spec("torch")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'vlmguard\[local\]'"):
        LocalModel("anything")


async def test_several_answers_in_a_batch(base: LocalModel) -> None:
    short = await base.several(chat(WHOSE), SHORT, 3)
    assert [one.text for one in short] == ["The base model's."] * 3
    assert {(one.finish_reason, one.usage) for one in short} == {
        ("stop", (await base.generate(chat(WHOSE), SHORT)).usage)
    }
    asked = rewriter_chat(chat(HARMLESS), load_policy(), b"")
    stopped = await base.several(asked, Sampling(max_tokens=400, stop=("<forward/>",)), 2)
    assert all(one.text.endswith("<forward/>") and one.finish_reason == "stop" for one in stopped)
    wild = Sampling(max_tokens=12, temperature=2.0, seed=3)
    first, second = await base.several(chat("?"), wild, 6), await base.several(chat("?"), wild, 6)
    assert [one.text for one in first] == [one.text for one in second]
    assert len({one.text for one in first}) > 1
    assert {one.finish_reason for one in first if one.usage.completion_tokens == 12} <= {"length", "stop"}
    assert [one.finish_reason for one in await base.several(chat(WHOSE), Sampling(max_tokens=2), 2)] == ["length"] * 2


async def test_a_temperature_samples_from_all_words_whatever_the_model_comes_with(
    base: LocalModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Qwen2-VL comes with a top_k of 1, with which every temperature would be greedy."""
    monkeypatch.setattr(base._model.generation_config, "top_k", 1)
    monkeypatch.setattr(base._model.generation_config, "top_p", 0.01)
    said = [await base.generate(chat("?"), Sampling(12, temperature=2.0, seed=seed)) for seed in range(4)]
    assert len({one.text for one in said}) > 1
    again = await base.generate(chat("?"), Sampling(12, temperature=2.0, seed=3))
    assert again.text == said[3].text
