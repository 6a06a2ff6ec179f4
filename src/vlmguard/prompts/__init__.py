"""Prompt templates: ``NAME.md`` beside this file, loaded by name. ``{{word}}`` stands for a value."""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache
from pathlib import Path

_FOLDER = Path(__file__).parent
_HOLE = re.compile(r"\{\{([a-z]+)\}\}")


@lru_cache(maxsize=32)
def load_prompt(name: str) -> str:
    """The template called ``name``, without the line break at its end."""
    return (_FOLDER / f"{name}.md").read_text(encoding="utf-8").rstrip("\n")


def fill(name: str, **values: str) -> str:
    """The template called ``name`` with its holes filled, each once: braces in a value stay what they are."""
    return _HOLE.sub(lambda hole: values[hole[1]], load_prompt(name))


@lru_cache(maxsize=8)
def prompts_hash(*names: str) -> str:
    """SHA-256 over templates, for receipts: which words a model was asked with."""
    digest = hashlib.sha256()
    for name in names:
        digest.update(f"{name}\0{load_prompt(name)}\0".encode())
    return digest.hexdigest()
