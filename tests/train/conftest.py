"""What the tests of training share: a dataset, and one run for all that look at a run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.train.world import write_dataset


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Threads of models as small as these only wait for each other."""
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"), validation=2)


@pytest.fixture
def base(tiny_llava: Path) -> str:
    return str(tiny_llava / "base")


@pytest.fixture(scope="session")
def whole(tiny_llava: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody stopped."""
    out = tmp_path_factory.mktemp("whole") / "run"
    done = work(str(tiny_llava / "base"), data, out)
    assert done.returncode == 0, done.stderr
    return out


def work(base: str, data: Path, out: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """``tests.train.worker``."""
    return python("-m", "tests.train.worker", base, str(data), str(out), **environment)


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own."""
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, **environment}, capture_output=True, text=True, timeout=400, check=False,
    )  # fmt: skip
