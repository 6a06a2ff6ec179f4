"""The OCR networks on disk and the onnxruntime sessions over them: the only place that knows where weights lie."""

import importlib.util
import platform
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnxruntime

DETECTOR = "PP-OCRv6_det_small.onnx"
RECOGNISER = "PP-OCRv6_rec_small.onnx"
_AVX512_VNNI = 22  # CV_CPU_AVX_512VNNI, which cv2 does not name in Python
FAST_RECOGNISER = Path(__file__).parent / "weights" / "PP-OCRv6_rec_small_int8.onnx"
"""The recogniser of rapidocr in 8-bit integers, made by training/ocr/quantise.py; its output is logits."""


def weights_path(name: str) -> Path:
    """Return the path of a network in the installed rapidocr wheel (Apache-2.0), without importing rapidocr."""
    spec = importlib.util.find_spec("rapidocr")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / "models" / name
        if path.is_file():
            return path
    raise FileNotFoundError(f"the text reader needs {name}: run `pip install 'rapidocr>=3.10,<4'`")


def multiplies_bytes_exactly() -> bool:
    """Tell whether this processor's 8-bit products do not saturate: older x86 ones without VNNI read wrong letters."""
    import cv2

    return platform.machine().lower() not in {"x86_64", "amd64"} or cv2.checkHardwareSupport(_AVX512_VNNI)


def open_session(path: Path) -> "onnxruntime.InferenceSession":
    """Open a network for runs of one thread each, any number of them at a time; its inputs must be of bounded size.

    Runs side by side scale better than threads inside one. The arena keeps the memory of the largest run, hence the bound.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
