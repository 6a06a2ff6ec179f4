"""What is trained on: the rows of a dataset as TRL takes them, each built when it is asked for.

A row's prompt comes from ``rewriter_chat``, the one input that serving uses, and its pictures from ``images.shown``, as in serving.
Only places in the file are held, so memory does not grow with the rows: reading, quoting and decoding happen per row, in the
workers of the data loader.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vlmguard import trace
from vlmguard.dataset import PICTURES, SPLITS, checked_rows, conversation, read_chat, rows_file
from vlmguard.errors import MissingExtraError, TraceError
from vlmguard.images import shown
from vlmguard.models.special_tokens import without_special_tokens
from vlmguard.pictures import PictureStore
from vlmguard.policy import Policy
from vlmguard.rewriters.quoting import rewriter_chat
from vlmguard.types import Chat, Refinement


@dataclass(frozen=True, slots=True)
class Row:
    """What a rewriter is asked, and what it is to say."""

    id: str
    chat: Chat
    """The conversation as the user had it."""
    asked: Chat
    """The rewriter's input about it."""
    said: str
    """The trace."""
    benign: bool
    group: str
    """Rows that share a picture (or, without any, their words) are of one group, and not independent."""


class Rows:
    """The rows of one split of a dataset.

    Args:
        folder: of the dataset.
        policy: what the rewriter is told.
        places: where the rows begin in the file, in bytes.
    """

    def __init__(self, folder: Path, policy: Policy, places: npt.NDArray[np.int64]) -> None:
        self._file = rows_file(folder)
        self._pictures = PictureStore(folder / PICTURES)
        self.policy = policy
        """What the rewriter is told."""
        self._places = places

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> Row:
        """Raises ``InputError`` when a picture is gone or is not the one that was stored."""
        form = self.form(index)
        chat = read_chat(form["messages"], self._pictures)
        return Row(
            id=form["id"],
            chat=chat,
            asked=rewriter_chat(chat, self.policy, b""),
            said=form["trace"],
            benign=form["benign"],
            group=str(form.get("group", form["id"])),
        )

    def form(self, index: int) -> dict[str, Any]:
        """The row as it stands in the file."""
        with self._file.open("rb") as file:
            file.seek(int(self._places[index]))
            form: dict[str, Any] = json.loads(file.readline())
        return form

    def only(self, kept: Sequence[int] | npt.NDArray[np.int64]) -> Rows:
        """Some of the rows."""
        return Rows(self._file.parent, self.policy, self._places[np.asarray(kept, dtype=np.int64)])

    def lazy(self, processor: Any) -> Any:
        """A ``datasets.Dataset`` that builds its rows when they are asked for. Raises ``MissingExtraError``."""
        try:
            from datasets import Dataset
        except ImportError as error:
            raise MissingExtraError("training", "train") from error

        def build(batch: dict[str, list[int]]) -> dict[str, list[Any]]:
            examples = [example(self[index], processor) for index in batch["row"]]
            return {key: [made[key] for made in examples] for key in ("prompt", "completion", "images")}

        return Dataset.from_dict({"row": range(len(self))}).with_transform(build)


def example(row: Row, processor: Any) -> dict[str, Any]:
    """A row as TRL takes it: ``prompt``, ``completion`` and ``images``, decoded. TRL writes into it, so it is made anew each time.

    What the processor would read as its own in somebody's words is disarmed, as in serving (``models.local.model_inputs``).
    """
    return conversation(without_special_tokens(processor, row.asked), row.said) | {
        "images": [shown(image) for image in row.asked.images]
    }


def open_rows(folder: Path, policy: Policy) -> dict[str, Rows]:
    """The rows of each of ``SPLITS``. Raises ``InputError`` when the folder holds no dataset or a damaged one."""
    places: dict[str, list[int]] = {split: [] for split in SPLITS}
    for at, form in checked_rows(folder):
        places[form["split"]].append(at)
    return {split: Rows(folder, policy, np.array(found, dtype=np.int64)) for split, found in places.items()}


def read_own_trace(said: str) -> tuple[Refinement, bool]:
    """A dataset's trace, and whether its evidence comes first (an ablation of ``vlmguard synth``). Raises ``TraceError``."""
    try:
        return trace.parse(said), False
    except TraceError as error:
        try:
            return trace.parse(said, evidence_first=True), True
        except TraceError:
            raise error from None
