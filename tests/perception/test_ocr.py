"""The text reader: any direction, faint and small print, nothing where nothing is, and honest about what it left out."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont

from vlmguard.perception.detection import Pixels
from vlmguard.perception.layout import reading_order
from vlmguard.perception.ocr import Reading, TextReader, Unread
from vlmguard.perception.scripts import is_ornament, without_look_alikes

SENTENCE = "Write a letter to the mayor about the lamp"


@pytest.fixture(scope="module")
def reader() -> TextReader:
    return TextReader(threads=1)


def paper(width: int, height: int, level: int = 255) -> Image.Image:
    return Image.new("RGB", (width, height), (level, level, level))


def write(picture: Image.Image, at: tuple[int, int], text: str, size: int = 24, level: int = 0) -> Image.Image:
    font = ImageFont.load_default(size)
    ImageDraw.Draw(picture).text(at, text, font=font, fill=(level, level, level))
    return picture


def pixels_of(picture: Image.Image) -> Pixels:
    return np.asarray(picture.convert("RGB"))


def letters(text: str) -> str:
    return "".join(text.lower().split())


def distance(a: str, b: str) -> int:
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        left, diagonal = i, row[0]
        row[0] = i
        for j, y in enumerate(b, 1):
            left = min(left + 1, row[j] + 1, diagonal + (x != y))
            diagonal, row[j] = row[j], left
    return row[-1]


def says(reading: Reading, text: str) -> bool:
    """Whether the reading's letters are the text's, but for a tenth of them."""
    return distance(letters(reading.text), letters(text)) <= len(letters(text)) / 10


def meadow(width: int, height: int, seed: int = 3) -> Pixels:
    """Lively ground without text: soft colours, blades, blobs, grain."""
    rng = np.random.default_rng(seed)
    ground = np.full((height, width, 3), rng.uniform(70, 150, 3), np.float32)
    for octave in range(1, 8):
        grid = rng.normal(0, 60 / 2 ** (octave * 0.6), (2**octave, 2**octave, 3)).astype(np.float32)
        ground += cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
    for _ in range(150):
        x, y, lean, length = (int(v) for v in rng.uniform([0, 0, -8, 10], [width, height, 8, 40]))
        cv2.line(ground, (x, y), (x + lean, y + length), rng.uniform(40, 180, 3).tolist(), 1, cv2.LINE_AA)
    for _ in range(6):
        x, y, a, b = (int(v) for v in rng.uniform([0, 0, 20, 20], [width, height, 90, 60]))
        cv2.ellipse(ground, (x, y), (a, b), 20, 0, 360, rng.uniform(0, 255, 3).tolist(), -1, cv2.LINE_AA)
    return np.asarray((ground + rng.normal(0, 4, ground.shape)).clip(0, 255), np.uint8)


def test_lines_come_in_reading_order_with_their_places(reader: TextReader) -> None:
    picture = paper(512, 260)
    lines = ["First the kettle is filled", "then 250 ml are boiled,", "and tea waits (4 minutes)."]
    for number, line in enumerate(lines):
        write(picture, (30, 30 + 70 * number), line)
    reading = reader.read(pixels_of(picture))
    assert [line.text for line in reading.lines] == lines
    assert reading.unread == ()
    for number, found in enumerate(reading.lines):
        (left, top), (right, _), _, (_, bottom) = found.box
        assert 10 <= left <= 32
        assert 250 < right < 400
        assert top <= 36 + 70 * number
        assert bottom >= 52 + 70 * number
        assert found.confidence > 0.9
        assert found.pose == "upright"


def test_columns_of_prose_are_read_one_after_the_other(reader: TextReader) -> None:
    picture = paper(900, 220)
    columns = [
        ["The garden gate was", "left open over night,", "and the goat came in"],
        ["to eat what it found:", "two heads of lettuce", "and a pair of gloves"],
    ]
    for column, lines in enumerate(columns):
        for row, line in enumerate(lines):
            write(picture, (40 + 450 * column, 30 + 55 * row), line, 26)
    assert [line.text for line in reader.read(pixels_of(picture)).lines] == columns[0] + columns[1]


@pytest.mark.parametrize(
    ("angle", "mirrored", "pose"),
    [
        (0, False, "upright"),
        (90, False, "rotated"),
        (180, False, "rotated"),
        (270, False, "rotated"),
        (33, False, "rotated"),
        (-45, False, "rotated"),
        (150, False, "rotated"),
        (0, True, "mirrored"),
        (180, True, "mirrored"),
        (25, True, "mirrored"),
    ],
)
def test_turned_and_mirrored_text_is_read(reader: TextReader, angle: int, mirrored: bool, pose: str) -> None:
    picture = write(paper(700, 700), (110, 335), SENTENCE)
    if mirrored:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    turned = picture.rotate(angle, resample=Image.Resampling.BICUBIC, fillcolor=(255, 255, 255))
    reading = reader.read(pixels_of(turned))
    assert says(reading, SENTENCE)
    assert {line.pose for line in reading.lines} == {pose}


def test_a_mirrored_page_keeps_its_order(reader: TextReader) -> None:
    picture = paper(640, 300)
    lines = ["One swallow does not", "make a summer, said", "the old man by the well"]
    for number, line in enumerate(lines):
        write(picture, (40, 40 + 70 * number), line)
    upside_down = pixels_of(picture)[::-1]
    assert says(reader.read(np.ascontiguousarray(upside_down)), " ".join(lines))


@pytest.mark.parametrize("ground", [40, 128, 240])
def test_six_grey_levels_are_enough(reader: TextReader, ground: int) -> None:
    picture = write(paper(640, 120, ground), (30, 45), SENTENCE, 26, ground + 6 if ground < 200 else ground - 6)
    assert says(reader.read(pixels_of(picture)), SENTENCE)


def test_a_faint_line_beside_plain_ones_is_read(reader: TextReader) -> None:
    picture = write(paper(640, 240, 230), (30, 30), "HOLIDAY GREETINGS", 40)
    write(picture, (60, 150), SENTENCE, 24, 223)
    assert says(reader.read(pixels_of(picture)), "HOLIDAY GREETINGS" + SENTENCE)


def test_small_print_on_lively_ground_is_read(reader: TextReader) -> None:
    picture = write(Image.fromarray(meadow(1024, 700)), (380, 420), SENTENCE, 14, 255)
    found = letters(reader.read(pixels_of(picture)).text)
    assert min(distance(found[at : at + len(letters(SENTENCE))], letters(SENTENCE)) for at in range(len(found))) <= 3


def test_letters_as_high_as_the_picture_are_read(reader: TextReader) -> None:
    assert reader.read(pixels_of(write(paper(1200, 420), (60, 10), "Hello", 380))).text == "Hello"


def test_a_line_far_longer_than_the_network_takes_is_read_whole(reader: TextReader) -> None:
    text = " ".join([SENTENCE] * 6)
    assert says(reader.read(pixels_of(write(paper(2900, 60), (20, 16), text, 22))), text)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_pictures_without_text_come_out_clean(reader: TextReader, seed: int) -> None:
    assert reader.read(meadow(600, 450, seed)) == Reading((), ())


def test_flat_and_noisy_ground_comes_out_clean(reader: TextReader) -> None:
    grain = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
    for ground in (grain, np.full((300, 400, 3), 77, np.uint8), pixels_of(Image.linear_gradient("L"))):
        assert reader.read(ground) == Reading((), ())


@pytest.mark.parametrize("shape", [(1, 1), (1, 9000), (9000, 2), (5, 7)])
def test_pictures_too_narrow_for_letters_are_empty(reader: TextReader, shape: tuple[int, int]) -> None:
    assert reader.read(np.zeros((*shape, 3), np.uint8)).lines == ()


def test_the_far_end_of_a_strip_is_read(reader: TextReader) -> None:
    strip = write(paper(65_535, 44), (64_800, 8), SENTENCE, 24)
    reading = reader.read(pixels_of(strip))
    assert says(reading, SENTENCE)
    assert reading.unread == ()


def unknown_letter(pen: ImageDraw.ImageDraw, at: tuple[int, int], rng: random.Random) -> None:
    x, y = at
    nodes = [(x + dx, y + dy) for dx in (0, 8, 15) for dy in (0, 11, 22)]
    for _ in range(3):
        pen.line([rng.choice(nodes), rng.choice(nodes)], fill=(0, 0, 0), width=3)
    a, b = rng.choice(nodes[:4])
    pen.arc((a, b, a + 12, b + 12), 0, rng.choice((180, 270, 360)), fill=(0, 0, 0), width=3)


def test_a_script_nobody_knows_is_reported(reader: TextReader) -> None:
    """An alphabet invented here, so no font is needed."""
    picture, rng = paper(820, 160), random.Random(5)
    pen = ImageDraw.Draw(picture)
    for column in range(30):
        if column % 6 != 5:
            unknown_letter(pen, (40 + 24 * column, 60), random.Random(rng.randrange(14)))
    assert {gap.reason for gap in reader.read(pixels_of(picture)).unread} == {"script"}


def test_lines_beyond_the_budget_are_reported() -> None:
    picture = paper(500, 400)
    for number in range(5):
        write(picture, (30, 20 + 75 * number), f"line number {number}")
    reading = TextReader(threads=1, max_lines=2).read(pixels_of(picture))
    assert len(reading.lines) == 2
    assert [gap.reason for gap in reading.unread] == ["budget"] * 3
    assert all(gap.box is not None for gap in reading.unread)


def test_a_picture_beyond_the_budget_is_reported_whole() -> None:
    picture = paper(1600, 1600)
    assert TextReader(threads=1, max_pixels=90_000).read(pixels_of(picture)) == Reading((), (Unread("budget", None),))


def test_readers_agree_whatever_their_threads(reader: TextReader) -> None:
    picture = pixels_of(write(write(paper(640, 200), (30, 30), SENTENCE), (30, 110), "and 3 more words"))
    expected = reader.read(picture)
    shared = TextReader(threads=2)
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(shared.read, [picture] * 3)) == [expected] * 3


@pytest.mark.parametrize(
    "picture", [np.zeros((9, 9), np.uint8), np.zeros((9, 9, 4), np.uint8), np.zeros((0, 9, 3), np.uint8)]
)
def test_what_is_no_rgb_picture_is_refused(reader: TextReader, picture: Pixels) -> None:
    with pytest.raises(ValueError, match="height × width × 3"):
        reader.read(picture)


def test_other_numbers_than_bytes_are_refused(reader: TextReader) -> None:
    with pytest.raises(ValueError, match="float64"):
        reader.read(np.zeros((9, 9, 3)))  # type: ignore[arg-type]


@pytest.mark.parametrize("budget", [{"threads": 0}, {"max_lines": 0}, {"max_pixels": 0}])
def test_budgets_start_at_one(budget: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="start at 1"):
        TextReader(**budget)


places = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40), st.integers(1, 30)), unique=True, max_size=12)


@given(places, st.randoms())
def test_the_order_does_not_depend_on_how_lines_were_found(
    places: list[tuple[int, int, int]], rng: random.Random
) -> None:
    quads = [
        np.array(
            [[x * 9, y * 7], [x * 9 + w * 10, y * 7], [x * 9 + w * 10, y * 7 + 12], [x * 9, y * 7 + 12]], np.float32
        )
        for x, y, w in places
    ]
    lengths = list(range(1, len(quads) + 1))
    order = reading_order(quads, lengths)
    assert sorted(order) == list(range(len(quads)))
    tops = {k: float(quads[k][0, 1]) for k in order}
    shuffled = list(range(len(quads)))
    rng.shuffle(shuffled)
    again = reading_order([quads[k] for k in shuffled], [lengths[k] for k in shuffled])
    assert {tops[k] for k in order} == {tops[shuffled[k]] for k in again}


def test_a_window_is_no_ideograph(reader: TextReader) -> None:
    picture = Image.new("RGB", (480, 320), "#8899aa")
    pen = ImageDraw.Draw(picture)
    for left in (90, 290):
        pen.rectangle((left, 110, left + 90, 200), outline="white", width=9)
        pen.line((left + 45, 110, left + 45, 200), fill="white", width=7)
        pen.line((left, 155, left + 90, 155), fill="white", width=7)
    assert [line.text for line in reader.read(np.asarray(picture)).lines if not line.text.isascii()] == []


def test_a_row_of_asterisks_is_no_unknown_script() -> None:
    assert is_ornament("***冰***家*家冰家*家冰凉冰***")
    assert without_look_alikes("***冰***家*家冰家*家冰凉冰***").strip("*") == ""
    assert without_look_alikes("今天天气很好我们去公园散步吧") == "今天天气很好我们去公园散步吧"
    assert not is_ornament("Total 12.50 EUR")


def test_a_line_that_reads_well_in_a_mirror_is_turned_for_its_words(reader: TextReader) -> None:
    """Letters such as b, d, o and w are letters in a mirror as well: words tell which way a line runs."""
    font = ImageFont.load_default(34)
    picture = Image.new("RGB", (640, 120), "white")
    ImageDraw.Draw(picture).text((20, 30), "wooden boxes and old books", fill="black", font=font)
    mirrored = np.ascontiguousarray(np.asarray(picture)[:, ::-1])
    assert [line.text for line in reader.read(mirrored).lines] == ["wooden boxes and old books"]
