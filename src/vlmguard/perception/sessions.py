"""The OCR networks on disk and the onnxruntime sessions over them: the only place that knows where weights lie."""

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnxruntime

DETECTOR = "PP-OCRv6_det_small.onnx"
RECOGNISER = "PP-OCRv6_rec_small.onnx"


def weights_path(name: str) -> Path:
    """Return the path of a network in the installed rapidocr wheel (Apache-2.0), without importing rapidocr."""
    spec = importlib.util.find_spec("rapidocr")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / "models" / name
        if path.is_file():
            return path
    raise FileNotFoundError(f"the text reader needs {name} from rapidocr 3.10: run `pip install rapidocr`")


def open_session(path: Path, threads: int) -> "onnxruntime.InferenceSession":
    """Open a network for `threads` threads. No arena: inputs differ in size, and an arena keeps the largest for ever."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = False
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
