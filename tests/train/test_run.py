from __future__ import annotations

from pathlib import Path

import pytest

from vlmguard.errors import InputError
from vlmguard.train.run import alone, begin, claim, read_state


def test_a_folder_of_other_things_is_left_as_it_is(tmp_path: Path) -> None:
    precious = tmp_path / "model/precious.bin"
    precious.parent.mkdir()
    precious.write_text("mine")
    with pytest.raises(InputError, match=r"holds other things \(model\) and no training run"):
        claim(tmp_path)
    assert [place.name for place in tmp_path.iterdir()] == ["model"]


def test_new_and_empty_folders_and_those_of_runs_are_claimed(tmp_path: Path) -> None:
    out = tmp_path / "a/b"
    claim(out)
    with alone(out):
        pass
    claim(out)  # the lock of a run that was stopped at once
    with alone(out):
        begin(out, {"stage": "sft"})
    (out / "model").mkdir()
    claim(out)
    assert read_state(out)["state"] == "running"


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(InputError, match="cannot be the folder of a run"):
        claim(tmp_path / "run")
    with pytest.raises(InputError, match="cannot be the folder of a run"):
        claim(tmp_path / "run/deeper")
    with pytest.raises(InputError, match="cannot be written"), alone(tmp_path / "run"):
        pass


@pytest.mark.parametrize("text", ['{"state": "run', "[]", "{}", "\udcff"])
def test_a_damaged_state(text: str, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(InputError, match=r"run\.json .*give another --out"):
        begin(tmp_path, {})
