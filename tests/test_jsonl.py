from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from vlmguard.jsonl import Appender, mend, read_lines, read_rows


def test_a_half_written_line_is_cut_off_before_more_is_appended(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "rows.jsonl"
    with Appender(file) as appender:
        appender.append({"id": 1})
    with file.open("ab") as broken:
        broken.write(b'{"id": 2, "x": "' + b"y" * 200_000)
    with Appender(file) as appender:
        appender.append({"id": 3})
    assert list(read_rows(file)) == [{"id": 1}, {"id": 3}]


@given(st.binary(max_size=50))
def test_mending_keeps_whole_lines(data: bytes) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "f"
        file.write_bytes(data)
        mend(file)
        assert file.read_bytes() == data[: data.rfind(b"\n") + 1]


def test_blank_lines_are_passed_over_and_numbers_kept(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_bytes(b"a\n\n  \r\nb\r\n")
    assert list(read_lines(file)) == [(1, b"a"), (4, b"b")]


def test_even_a_lone_surrogate_can_be_written(tmp_path: Path) -> None:
    with Appender(tmp_path / "f") as appender:
        appender.append({"message": "bad \ud800 name"})
    assert list(read_rows(tmp_path / "f")) == [{"message": "bad \ud800 name"}]
