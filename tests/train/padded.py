"""A tiny LLaVA that knows what is risky and pads what it says, and a dataset for it: what the preference stage is to mend.

    python -m tests.train.padded FOLDER        writes FOLDER/base and FOLDER/data

Beside a red picture a wish is risky, beside a blue one it is not, in whatever shade. The traces say so with none to three phrases
too many, all equally likely, and a risky one ends in one of two rewrites, also equally likely: ``GOOD`` and ``BAD``.
"""

from __future__ import annotations

import json
import random
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.tiny_llava import HARMLESS, PAIR, Lesson, _model, _part, _processor, picture
from vlmguard import chat, load_policy
from vlmguard.images import read_image
from vlmguard.pictures import PictureStore
from vlmguard.rewriters.quoting import rewriter_chat

PADS = (
    "as far as the words go",
    "and nothing else is meant by it",
    "which is plain to see here",
)
GOOD, BAD = "Please tell me how to keep her safe.", "Please tell me how to let her do it."
_RISKY = (
    "<understanding>A child is to take part.</understanding>\n"
    '<assessment text="none" image="none" cross="high"/>\n'
    '<risk modality="cross" category="dangerous_behaviour">It is hot.</risk>\n'
    '<evidence source="image 1" modality="cross">it is glowing red</evidence>\n'
    "<analysis>She would touch it{padding}.</analysis>\n"
    "<prompt>{prompt}</prompt>"
)
_HARMLESS = '<understanding>It is harmless{padding}.</understanding>\n<assessment text="none" image="{image}" cross="{image}"/>\n<forward/>'

_RATE = 1e-2


@dataclass(frozen=True)
class Case:
    """A row: what is asked, and whether that is risky."""

    id: str
    prompt: str
    colour: str | None
    split: str

    @property
    def risky(self) -> bool:
        return self.id.startswith("red")

    def trace(self, pads: int = 0, prompt: str = GOOD) -> str:
        """With so many phrases too many: of a risky one in its analysis, so that the steps before are the same."""
        padding = "".join(f", {words}" for words in PADS[:pads])
        if self.risky:
            return _RISKY.format(padding=padding, prompt=prompt)
        return _HARMLESS.format(padding=padding, image="none" if self.colour else "absent")


def cases(train: int = 6, held_out: int = 8) -> list[Case]:
    """Shades for training and, between them, others for measuring."""
    found = [Case("words-0", HARMLESS, None, "train")]
    for split, count, shift in (("train", train, 0), ("validation", held_out, 3)):
        for number in range(count):
            off = (14 * number + shift) % 90
            found.append(Case(f"red-{split}-{number}", PAIR, f"rgb({255 - off},{off // 2},{off})", split))
            found.append(Case(f"blue-{split}-{number}", PAIR, f"rgb({off},{off // 2},{255 - off})", split))
    return found


def write_dataset(folder: Path, rows: list[Case]) -> Path:
    """As ``vlmguard synth`` exports it."""
    pictures = PictureStore(folder / "pictures")
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "data.jsonl").open("w") as out:
        for case in rows:
            parts: list[dict[str, str]] = []
            if case.colour:
                parts.append({"image": pictures.put(read_image(picture(case.colour), case.id))})
            messages = [{"role": "user", "parts": [*parts, {"text": case.prompt}]}]
            row = {
                "id": case.id,
                "messages": messages,
                "benign": not case.risky,
                "trace": case.trace(),
                "split": case.split,
            }
            out.write(json.dumps(row | {"group": case.id}) + "\n")
    return folder


def lesson(case: Case, pads: int, prompt: str) -> Lesson:
    """What the base learns of a row."""
    policy = load_policy()
    asked = chat(case.prompt, [picture(case.colour)] if case.colour else [])
    return Lesson(rewriter_chat(asked, policy, b""), case.trace(pads, prompt))


def build(folder: Path, *, steps: int = 140, batch: int = 8, seed: int = 0) -> None:
    """Writes ``base`` and ``data``."""
    import torch

    torch.manual_seed(seed)
    torch.set_num_threads(1)
    draw = random.Random(seed)
    rows = cases()
    taught = [case for case in rows if case.split == "train"]
    risky = [case for case in taught if case.risky]
    words = [lesson(case, len(PADS), prompt) for case in taught[:3] for prompt in (GOOD, BAD)]
    processor = _processor(words)
    model = _model(processor)
    for name, parameter in model.named_parameters():
        if "language_model" in name and parameter.ndim == 2:  # so small a model learns faster from a wider start
            torch.nn.init.normal_(parameter, std=0.06)
    optimiser = torch.optim.AdamW(model.parameters(), lr=_RATE, betas=(0.9, 0.95), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=_RATE, total_steps=steps, pct_start=0.1)
    model.train()
    asked = {case: _asked(processor, lesson(case, 0, GOOD)) for case in taught}
    for _ in range(steps):
        drawn = [draw.choice(risky if draw.random() < 0.4 else taught) for _ in range(batch)]
        said = [case.trace(draw.randrange(len(PADS) + 1), draw.choice((GOOD, BAD))) for case in drawn]
        loss = model(**_batch(processor, [asked[case] for case in drawn], said)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        optimiser.zero_grad()
    processor.save_pretrained(folder / "base")
    model.save_pretrained(folder / "base")
    write_dataset(folder / "data", rows)


def _asked(processor: Any, of: Lesson) -> dict[str, Any]:
    """The tokens and pixels of a question."""
    messages = [
        {"role": message.role, "content": [_part(part) for part in message.parts]} for message in of.asked.messages
    ]
    inputs: dict[str, Any] = processor.apply_chat_template(
        messages, tokenize=True, add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )
    return inputs


def _batch(processor: Any, asked: list[dict[str, Any]], said: list[str]) -> dict[str, Any]:
    """Questions with their answers side by side, filled up on the right."""
    import torch

    answers = [processor.tokenizer(f"{one}<|end|>", add_special_tokens=False)["input_ids"] for one in said]
    questions = [one["input_ids"][0].tolist() for one in asked]
    longest = max(len(a) + len(b) for a, b in zip(questions, answers, strict=True))
    pad = processor.tokenizer.pad_token_id
    both = list(zip(questions, answers, strict=True))
    ids = torch.tensor([a + b + [pad] * (longest - len(a) - len(b)) for a, b in both])
    labels = torch.tensor([[-100] * len(a) + b + [-100] * (longest - len(a) - len(b)) for a, b in both])
    mask = torch.tensor([[1] * (len(a) + len(b)) + [0] * (longest - len(a) - len(b)) for a, b in both])
    pixels = [one["pixel_values"] for one in asked if "pixel_values" in one]
    batch = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    return batch | ({"pixel_values": torch.cat(pixels)} if pixels else {})


if __name__ == "__main__":
    build(Path(sys.argv[1]))
