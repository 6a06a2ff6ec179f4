"""One greedy trace wherever the rewriter runs: in this process by its adapter, merged, and behind ``transformers serve``."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from vlmguard.cli.main import main
from vlmguard.errors import InputError
from vlmguard.models.endpoint import EndpointModel
from vlmguard.models.local import LocalModel
from vlmguard.policy import load_policy
from vlmguard.train.held_out import rewrite
from vlmguard.train.merge import merge
from vlmguard.train.rows import open_rows
from vlmguard.types import Sampling

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning:transformers.*"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
ENOUGH = Sampling(max_tokens=160)


@contextmanager
def serving(model: Path, folder: Path) -> Iterator[str]:
    """A real server with the model in it; its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "HF_HUB_CACHE": str(folder / "hub"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(model), "--device", "cpu"]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)], env=environment, stdout=log, stderr=log
        )
        try:
            until = time.monotonic() + 180
            while time.monotonic() < until and server.poll() is None:
                with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                    break
                time.sleep(0.2)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            server.terminate()
            server.wait(20)


async def test_it_says_the_same_everywhere(
    whole: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "merge", str(whole), "--out", str(tmp_path / "merged")]) == 0
    assert "vllm serve" in capsys.readouterr().out
    adapted, merged = (LocalModel(str(place), device="cpu") for place in (whole, tmp_path / "merged"))
    rows = [open_rows(data, load_policy())["train"][number] for number in (0, 3)]
    held_out = list(rewrite(adapted._model, adapted._processor, rows, 160))
    with serving(tmp_path / "merged", tmp_path) as address:
        endpoint = EndpointModel(address, str(tmp_path / "merged"))
        for row, expected in zip(rows, held_out, strict=True):
            said = [(await model.generate(row.asked, ENOUGH)).text for model in (adapted, merged, endpoint)]
            assert said == [expected] * 3
        await endpoint.close()
    assert held_out[0].startswith("<understanding>")
    with pytest.raises(InputError, match="holds something already"):
        merge(whole, tmp_path / "merged")
    with pytest.raises(InputError, match="no folder"):
        merge(tmp_path / "none", tmp_path / "new")


def test_an_adapter_without_a_base(tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter/adapter_config.json").write_text("{}")
    with pytest.raises(InputError, match="into base_model_name_or_path of"):
        merge(tmp_path / "adapter", tmp_path / "new")
