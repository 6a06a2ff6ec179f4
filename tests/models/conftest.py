"""A tiny LLaVA, built once for all workers of a test run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock


@pytest.fixture(scope="session")
def tiny_llava(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A folder with ``base`` and ``adapter`` (tests/tiny_llava.py)."""
    shared = tmp_path_factory.getbasetemp() if worker_id == "master" else tmp_path_factory.getbasetemp().parent
    folder = shared / "tiny_llava"
    with FileLock(shared / "tiny_llava.lock"):
        if not (folder / "adapter").exists():
            subprocess.run([sys.executable, "-m", "tests.tiny_llava", str(folder)], check=True, capture_output=True)
    return folder
