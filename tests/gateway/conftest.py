from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gateway.kit import Running, Upstream, gateway
from tests.gateway.postgres import postgres

__all__ = ["guarded", "postgres", "upstream"]


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream().running() as running:
        yield running


@pytest.fixture
def guarded(tmp_path: Path, upstream: Upstream) -> Iterator[Running]:
    """A gateway with nothing said but its upstream; who judges can be foretold."""
    with gateway(tmp_path, upstream.url) as running:
        yield running
