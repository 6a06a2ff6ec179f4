"""Near-duplicates: pictures that were resized, recompressed or recoloured slightly, texts that were reworded slightly."""

from __future__ import annotations

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Pillow

from tests.conftest import Draw
from tests.synth.oracle import picture
from vlmguard.errors import InputError
from vlmguard.images import read_image
from vlmguard.synth.duplicates import Index, bound, dhash, index_folder, minhash


def _drawn(file: Path, **changes: object) -> bytes:
    with Pillow.open(file) as opened:
        image = opened.convert("RGB")
    if size := changes.get("size"):
        image = image.resize((int(str(size)), int(str(size))))
    written = io.BytesIO()
    image.save(written, str(changes.get("format", "PNG")), quality=40)
    return dhash(read_image(written.getvalue()))


def test_a_resized_or_recompressed_picture_is_found_and_another_is_not(tmp_path: Path) -> None:
    files = [picture(tmp_path / f"{seed}.png", seed) for seed in range(20)]
    with Index() as index:
        for file in files:
            index.add_image(_drawn(file), file.name)
        for file in files:
            for changed in (_drawn(file, size=200), _drawn(file, format="JPEG"), _drawn(file, size=48)):
                match = index.find_image(changed)
                assert match is not None
                assert match.known == file.name
        strangers = [_drawn(picture(tmp_path / "s" / f"{seed}.png", seed)) for seed in range(100, 140)]
        assert sum(index.find_image(bits) is not None for bits in strangers) <= 1


@given(st.binary(min_size=32, max_size=32), st.sets(st.integers(0, 255), max_size=40))
def test_a_picture_is_found_within_the_bound_and_not_beyond(bits: bytes, flipped: set[int]) -> None:
    number = int.from_bytes(bits, "big")
    for place in flipped:
        number ^= 1 << place
    other = number.to_bytes(32, "big")
    with Index() as index:
        index.add_image(bits, "known")
        match = index.find_image(other)
    assert (match is not None) == (len(flipped) <= bound(bits, other))
    assert match is None or match.distance == len(flipped)


def test_pages_with_different_words_are_different(draw: Draw) -> None:
    pages = [
        dhash(read_image(draw(words, size=24))) for words in ("Invoice 4711, due in May", "Happy birthday, Anna!", "")
    ]
    with Index() as index:
        for number, bits in enumerate(pages):
            assert index.find_image(bits) is None
            index.add_image(bits, str(number))


def test_the_index_grows(tmp_path: Path) -> None:
    hashes = [dhash(read_image(picture(tmp_path / "x.png", seed).read_bytes())) for seed in range(200)]
    with Index(tmp_path / "index.sqlite") as index:
        for number, bits in enumerate(hashes):
            index.add_image(bits, str(number))
        assert all(index.find_image(bits) is not None for bits in hashes)
    with Index(tmp_path / "index.sqlite") as index:
        assert all(index.find_image(bits) is not None for bits in hashes)


def test_texts_are_found_by_their_words() -> None:
    base = "Could you please explain to me step by step how the pump in this old picture was taken apart and cleaned last spring"
    with Index() as index:
        index.add_text(minhash(base), "base")
        reworded = base.replace("last spring", "last autumn").upper()
        match = index.find_text(minhash(reworded))
        assert match is not None
        assert match.known == "base"
        assert match.distance < 0.3
        assert index.find_text(minhash("Could you please explain to me why the sea is salt")) is None
        assert index.find_text(minhash(base, "another picture")) is None


def test_the_index_is_the_same_in_another_process(tmp_path: Path) -> None:
    with Index(tmp_path / "index.sqlite") as index:
        index.add_text(minhash("one two three four five six"), "first")
    import subprocess
    import sys

    program = (
        "import sys; from pathlib import Path; from vlmguard.synth.duplicates import Index, minhash\n"
        "with Index(Path(sys.argv[1])) as index: print(index.find_text(minhash('one two three four five six')).known)"
    )
    told = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "index.sqlite")], capture_output=True, text=True, check=True
    )
    assert told.stdout.strip() == "first"


def test_an_evaluation_set_is_indexed_whatever_its_files(tmp_path: Path) -> None:
    picture(tmp_path / "imgs" / "a.png")
    (tmp_path / "a.csv").write_text("id,prompt\n1,How do I stop a kettle from boiling over\n")
    (tmp_path / "b.json").write_text('[{"question": {"text": "Which of these two mushrooms is the larger one"}}]')
    (tmp_path / "c.jsonl").write_text('{"q": "Tell me about the weather in the mountains"}\n')
    with Index() as index:
        assert index_folder(index, tmp_path) == (1, 3)
        match = index.find_text(minhash("which of these two mushrooms is the larger one"))
        assert match is not None
        assert match.known == "b.json:1"


def test_pictures_inside_parquet_are_indexed(tmp_path: Path) -> None:
    data = picture(tmp_path / "p" / "a.png", 5).read_bytes()
    rows = [{"question": "What is this strange thing?", "image": {"bytes": data, "path": "a very long name.png"}}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "set.parquet")
    with Index() as index:
        assert index_folder(index, tmp_path / "set.parquet") == (1, 1)
        assert index.find_image(dhash(read_image(data))) is not None


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "set.json").write_text("{")
    with Index() as index, pytest.raises(InputError, match=r"set\.json of an evaluation set"):
        index_folder(index, tmp_path)


def test_an_empty_evaluation_set_is_an_error(tmp_path: Path) -> None:
    with Index() as index:
        with pytest.raises(InputError, match="neither pictures nor texts"):
            index_folder(index, tmp_path)
        with pytest.raises(InputError, match="does not exist"):
            index_folder(index, tmp_path / "gone")
