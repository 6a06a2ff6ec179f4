from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from vlmguard.errors import InputError
from vlmguard.train.settings import settings_of


@dataclass
class Settings:
    rate: float = 0.1
    steps: int = 1
    every: float | None = None
    half: bool | None = None
    report_to: str | list[str] | None = None


def test_numbers_that_yaml_reads_as_text_are_numbers() -> None:
    read = settings_of(Settings, "trl", {"rate": "1e-4", "steps": "1e3", "every": None, "report_to": "1e3"}, {})
    assert read == Settings(1e-4, 1000, None, None, "1e3")
    assert isinstance(read.steps, int)


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"rate": "fast"}, "trl.rate is a number, not 'fast'"),
        ({"steps": [1]}, "trl.steps is a number"),
        ({"every": {"a": 1}}, "trl.every is a number"),
        ({"half": "maybe"}, "trl.half is true or false, not 'maybe'"),
    ],
)
def test_what_is_no_number_is_said_at_once(given: dict[str, Any], error: str) -> None:
    with pytest.raises(InputError, match=error):
        settings_of(Settings, "trl", given, {})
