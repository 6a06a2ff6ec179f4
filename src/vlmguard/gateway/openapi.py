"""The gateway's own description of itself (OpenAPI 3.1), published at /openapi.json."""

from __future__ import annotations

from typing import Any


def document() -> dict[str, Any]:
    return {"openapi": "3.1.0"}
