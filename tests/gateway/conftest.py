from __future__ import annotations

from tests.gateway.postgres import postgres

__all__ = ["postgres"]
