from __future__ import annotations

from tests.gateway.postgres import postgres as postgres  # noqa: PLC0414 - a fixture
