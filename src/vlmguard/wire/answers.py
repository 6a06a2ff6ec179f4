"""What the dialects' own answers share: JSON, event streams, the words for an HTTP status."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vlmguard.wire.json_text import quote

_ERRORS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def error_type(status: int) -> str:
    """The word that both vendors' clients know for an HTTP status."""
    return _ERRORS.get(status, "api_error" if status >= 500 else "invalid_request_error")


def to_bytes(value: Mapping[str, Any]) -> bytes:
    return quote(value).encode()


def event(value: Mapping[str, Any], name: str = "") -> bytes:
    """One server-sent event."""
    return (f"event: {name}\n" if name else "").encode() + b"data: " + to_bytes(value) + b"\n\n"


DONE = b"data: [DONE]\n\n"
"""How OpenAI's completion streams end."""
