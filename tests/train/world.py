"""A dataset folder as ``vlmguard synth`` exports it, of the lessons that the tiny LLaVA's tokenizer knows the words of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.tiny_llava import FORWARD, GREETING, HARMFUL, HARMLESS, PAIR, PAIR_TRACE, TEXT_TRACE, picture
from vlmguard import chat
from vlmguard.pictures import PictureStore
from vlmguard.types import Chat, Image, Text

ROWS = (
    (PAIR, "red", PAIR_TRACE, False),
    (PAIR, "blue", FORWARD.format("none"), True),
    (HARMLESS, None, FORWARD.format("absent"), True),
    (HARMFUL, None, TEXT_TRACE, False),
    (GREETING, None, FORWARD.format("absent"), True),
)
"""Prompt, colour of the picture, trace, whether it is benign."""


def write_dataset(folder: Path, *, validation: int = 0, rows: Any = ROWS) -> Path:
    """The rows as training rows, and the first ``validation`` of them once more as validation rows."""
    pictures = PictureStore(folder / "pictures")
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "data.jsonl").open("w") as out:
        for split, chosen in (("train", rows), ("validation", rows[:validation])):
            for number, (prompt, colour, trace, benign) in enumerate(chosen):
                parts = [
                    {"text": part.text} if isinstance(part, Text) else {"image": pictures.put(part)}
                    for part in asked(prompt, colour).messages[0].parts
                    if isinstance(part, Text | Image)
                ]
                messages = [{"role": "user", "parts": parts}]
                row = {
                    "id": f"{split}-{number}",
                    "messages": messages,
                    "benign": benign,
                    "trace": trace,
                    "split": split,
                }
                out.write(json.dumps(row | {"group": f"{split}-{number}"}) + "\n")
    return folder


def asked(prompt: str, colour: str | None) -> Chat:
    """The chat of a row."""
    return chat(prompt, [picture(colour)] if colour else [])
