"""Make the fast recogniser that ships: rapidocr's recognition network in 8-bit integers, about twice as fast on VNNI.

    pip install onnx sympy onnxruntime rapidocr pillow
    python training/ocr/quantise.py --fonts FOLDER... --out src/vlmguard/perception/weights/PP-OCRv6_rec_small_int8.onnx

What changes against the original (Apache-2.0): it ends in logits instead of a softmax over 18,710 classes, erf chains
become Gelu nodes, and all convolutions but the first five, and the last matrix product, are quantised (weights per
channel, activations calibrated on lines that this script draws in the fonts given; fonts that hold Chinese draw
Chinese). Nothing is trained. On 300 drawn lines of its author, character error rates went from 1.5 to 1.7 % (English)
and from 0.7 to 0.9 % (Chinese).
"""

import argparse
import importlib.util
import io
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, version_converter
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from PIL import Image, ImageDraw, ImageFilter, ImageFont

SOURCE = "PP-OCRv6_rec_small.onnx"
HEIGHT = 48
STEM = 5  # convolutions kept in full precision: they see the pixels
ENGLISH = [
    "the",
    "quick",
    "brown",
    "fox",
    "jumps",
    "over",
    "a",
    "lazy",
    "dog",
    "While",
    "SEVEN",
    "animals",
    "wrote",
    "1,024",
    "letters",
    "(before",
    "noon)",
    "&",
    "paid",
    "$4.50",
    "for",
    "bread/cheese",
    "#7",
    "x+y=2",
    "https://a.b/c?d=e",
    "Müller",
    "niño",
    "leçon",
    "straße",
    "don't",
    "50%",
    "[list]",
    "{item}",
    "l33t",
    '"yes"',
    "C++",
]
CHINESE = "的一是不了在人有我他这中大来上个国到说们为子和你地出道也时年得就那要下以生会自着去之过家学对可她里后小么心多天而能好都然"


def main() -> None:
    """Quantise and write the network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fonts", type=Path, nargs="+", required=True, help="folders with .ttf, .otf or .ttc files")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--lines", type=int, default=140, help="lines drawn for calibration")
    asked = parser.parse_args()
    fonts = sorted(p for f in asked.fonts for p in f.rglob("*") if p.suffix.lower() in {".ttf", ".otf", ".ttc"})
    if not fonts:
        parser.error("no fonts in the folders given")
    model = original()
    alphabet = [entry for entry in model.metadata_props if entry.key == "character"]
    end_in_logits(model)
    model = version_converter.convert_version(model, 20)
    fuse_gelu(model.graph)
    with tempfile.TemporaryDirectory() as folder:
        plain, prepared = Path(folder) / "plain.onnx", Path(folder) / "prepared.onnx"
        onnx.save(model, plain)
        quant_pre_process(plain, prepared, skip_symbolic_shape=True)
        nodes = onnx.load(prepared).graph.node
        convolutions = [node.name for node in nodes if node.op_type == "Conv"][STEM:]
        head = [node.name for node in nodes if node.op_type == "MatMul"][-1:]
        quantize_static(
            prepared,
            asked.out,
            Lines(fonts, asked.lines),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_quantize=convolutions + head,
            extra_options={"OpTypesToExcludeOutputQuantization": ["MatMul"]},
        )
    made = onnx.load(asked.out)
    made.metadata_props.extend(alphabet)
    made.doc_string = (
        "Quantised from PP-OCRv6_rec_small of PaddleOCR / RapidOCR, Apache-2.0; see training/ocr/quantise.py"
    )
    onnx.save(made, asked.out)
    print(f"{asked.out}: {asked.out.stat().st_size / 1e6:.1f} MB")


def original() -> onnx.ModelProto:
    """Load the network from the installed rapidocr wheel."""
    spec = importlib.util.find_spec("rapidocr")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("install rapidocr first: its wheel holds the network")
    return onnx.load(Path(spec.submodule_search_locations[0]) / "models" / SOURCE)


def end_in_logits(model: onnx.ModelProto) -> None:
    """Drop the softmax at the end: the reader needs it for a handful of steps only."""
    graph = model.graph
    softmax = next(node for node in graph.node if graph.output[0].name in node.output)
    if softmax.op_type != "Softmax":
        raise SystemExit(f"expected a softmax at the end of the network, found {softmax.op_type}")
    graph.node.remove(softmax)
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info(softmax.input[0], onnx.TensorProto.FLOAT, None))


def fuse_gelu(graph: onnx.GraphProto) -> None:
    """Replace x · (1 + erf(x / √2)) · ½ by one Gelu node, after folding the Identity nodes in between."""
    alias = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Identity"}
    nodes = [node for node in graph.node if node.op_type != "Identity"]

    def resolved(name: str) -> str:
        while name in alias:
            name = alias[name]
        return name

    for node in nodes:
        for index, name in enumerate(node.input):
            node.input[index] = resolved(name)
    graph.output[0].name = resolved(graph.output[0].name)
    maker = {name: node for node in nodes for name in node.output}
    users = {name: [node for node in nodes if name in node.input] for name in maker}
    for erf in [node for node in nodes if node.op_type == "Erf"]:
        scaled = maker[erf.input[0]]
        plus_one = users[erf.output[0]][0]
        product = users[plus_one.output[0]][0]
        half = users[product.output[0]][0]
        kinds = [scaled.op_type, plus_one.op_type, product.op_type, half.op_type]
        if kinds != ["Div", "Add", "Mul", "Mul"]:
            raise SystemExit(f"an erf of this network is no Gelu: {kinds}")
        nodes[nodes.index(half)] = helper.make_node(
            "Gelu", [scaled.input[0]], [half.output[0]], name=f"Gelu {erf.name}"
        )
        for node in (scaled, erf, plus_one, product):
            nodes.remove(node)
    del graph.node[:]
    graph.node.extend(nodes)


class Lines(CalibrationDataReader):  # type: ignore[misc]
    """Drawn lines of text as the network sees them."""

    def __init__(self, fonts: list[Path], count: int) -> None:
        self._lines = drawn_lines(fonts, count)

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        """Return the next input, None after the last."""
        line = next(self._lines, None)
        return None if line is None else {"x": line}


def drawn_lines(fonts: list[Path], count: int) -> Iterator[NDArray[np.float32]]:
    """Draw lines in changing fonts, sizes, contrast, blur, noise and JPEG quality: 1 × 3 × 48 × width, in -1..1."""
    rng = random.Random(1)
    noise = np.random.default_rng(1)
    for _ in range(count):
        size = rng.choice([12, 14, 16, 18, 22, 28, 36, 48])
        font = ImageFont.truetype(rng.choice(fonts), size)
        text = " ".join(rng.choice(ENGLISH) for _ in range(rng.randint(1, 12)))
        if bytes(font.getmask("的")) != bytes(font.getmask("\uffff")) and rng.random() < 0.4:
            text = "".join(rng.choice(CHINESE) for _ in range(rng.randint(4, 24)))
        ground, contrast = rng.randint(0, 255), rng.choice([200, 200, 120, 60, 25])
        ink = max(0, ground - contrast) if ground > 127 else min(255, ground + contrast)
        shape = (int(font.getlength(text)) + size, int(size * rng.uniform(1.25, 1.7)))
        picture = Image.new("RGB", shape, (ground, ground, ground))
        colour = tuple(max(0, min(255, ink + rng.randint(-20, 20))) for _ in range(3))
        ImageDraw.Draw(picture).text((size * 0.4, shape[1] / 2), text, font=font, fill=colour, anchor="lm")
        if rng.random() < 0.3:
            rough = np.asarray(picture, np.float32) + noise.normal(0, contrast * 0.1, (shape[1], shape[0], 3))
            picture = Image.fromarray(rough.clip(0, 255).astype(np.uint8))
        if rng.random() < 0.25:
            picture = picture.filter(ImageFilter.GaussianBlur(size * rng.uniform(0.01, 0.05)))
        if rng.random() < 0.25:
            encoded = io.BytesIO()
            picture.save(encoded, "JPEG", quality=rng.choice([10, 20, 40]))
            picture = Image.open(encoded).convert("RGB")
        width = min(960, max(16, round(HEIGHT * shape[0] / shape[1])))
        pixels = np.asarray(picture.resize((width, HEIGHT), Image.Resampling.BILINEAR), np.float32)
        yield np.ascontiguousarray((pixels / 127.5 - 1).transpose(2, 0, 1)[None])


if __name__ == "__main__":
    main()
