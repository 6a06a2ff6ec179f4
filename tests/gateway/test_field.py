"""The table of complaints in docs/gateway.md names a test for each of them, and every one of these is there."""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).parent
PAGE = (HERE.parents[1] / "docs" / "gateway.md").read_text(encoding="utf-8")


def test_every_complaint_has_its_test() -> None:
    table = PAGE.partition("## What users of other gateways suffer from")[2].partition("\n## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("|") and "`test_" in line]
    assert len(rows) >= 15
    known = {
        (file.stem, name)
        for file in HERE.glob("test_*.py")
        for name in re.findall(r"^(?:async )?def (test_\w+)", file.read_text(encoding="utf-8"), re.MULTILINE)
    }
    for row in rows:
        named = re.findall(r"`(test_\w+)\.py::(test_\w+)`", row)
        assert named, row
        assert set(named) <= known, row
