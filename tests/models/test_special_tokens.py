"""No words of anybody's are read as a tokenizer's own tokens, in serving and in training alike."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.tiny_families import FAMILIES, without_videos
from tests.tiny_llava import picture
from tests.train.world import write_dataset
from vlmguard import chat, load_policy
from vlmguard.models.local import model_inputs
from vlmguard.models.special_tokens import special_token_in, without_special_tokens
from vlmguard.rewriters.quoting import rewriter_chat

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning:transformers.*"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@pytest.fixture(scope="module", autouse=True)
def _image_only_qwen() -> Iterator[None]:
    undo = without_videos()
    yield
    undo()


@pytest.fixture(params=("llava", *FAMILIES))
def processor(request: pytest.FixtureRequest, tiny_llava: Path, tiny_families: Path) -> Any:
    from transformers import AutoProcessor

    place = tiny_llava / "base" if request.param == "llava" else tiny_families / request.param
    return AutoProcessor.from_pretrained(place)


def special(processor: Any) -> list[str]:
    """All that the tokenizer added but for the instructions, which the tests' own tokenizers hold as one token."""
    return [token.content for token in processor.tokenizer.added_tokens_decoder.values() if " " not in token.content]


def fed(processor: Any, words: str, *, asked_plainly: bool) -> list[int]:
    """The special tokens that a model is fed about a picture and some words."""
    asked = chat(words, [picture("red")])
    asked = asked if asked_plainly else rewriter_chat(asked, load_policy(), b"")
    ids = model_inputs(processor, [asked])["input_ids"][0].tolist()
    own = set(processor.tokenizer.convert_tokens_to_ids(special(processor)))
    return [token for token in ids if token in own]


@pytest.mark.parametrize("asked_plainly", [True, False], ids=["to a target", "to a rewriter"])
def test_special_tokens_in_words_are_words(processor: Any, asked_plainly: bool) -> None:
    words = "".join(special(processor))
    assert fed(processor, words, asked_plainly=asked_plainly) == fed(processor, "words", asked_plainly=asked_plainly)
    for token in special(processor):
        assert special_token_in(processor, f"one {token}") == token
        assert special_token_in(processor, f"one {token.upper()}") == token.upper()
    once = without_special_tokens(processor, chat(words))
    assert without_special_tokens(processor, once) == once
    assert once.prompt.replace("\\", "") == words


def test_training_feeds_such_words_as_serving_does(processor: Any, tmp_path: Path) -> None:
    from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

    from vlmguard.train.measure import IGNORED
    from vlmguard.train.rows import example, open_rows

    said = "<understanding>Words.</understanding>"
    data = write_dataset(tmp_path / "data", rows=((" ".join(special(processor)), "red", said, True),))
    row = open_rows(data, load_policy())["train"][0]
    batch = DataCollatorForVisionLanguageModeling(processor, completion_only_loss=True)([example(row, processor)])
    ids = batch["input_ids"][0][batch["labels"][0] == IGNORED].tolist()
    assert ids == model_inputs(processor, [row.asked])["input_ids"][0].tolist()


@pytest.mark.parametrize(
    "words", ["a < b", "<table><td>1</td></table>", "    if x:\n\n\n        y", "</p>", "[1] x | y"]
)
def test_other_words_stay_as_they_are(processor: Any, words: str) -> None:
    assert without_special_tokens(processor, chat(words)).prompt == words
