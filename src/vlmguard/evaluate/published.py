"""What VLMGuard-R1's paper prints of itself and its baselines, as far as we have it: shown beside ours, marked, never mixed in.

Taken from reading notes of its tables (arXiv 2504.12661), not from a run of ours, and by the paper's own judge (GPT-4o).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Published:
    """One figure that somebody else measured."""

    target: str
    benchmark: str
    defence: str
    measure: str
    value: float


UNKNOWN_TARGET = "not known which"
MEASURED = {"safety": "safety", "helpfulness": "helpfulness on risky prompts", "DSR %": "refused"}
"""The paper's measure → ours that counts the same."""
_NAMES = {
    "none": "none",
    "vlmguard": "VLMGuard-R1",
    "ecso": "ECSO",
    "eta": "ETA",
    "mllm-protector": "MLLM-Protector",
    "figstep": "FigStep defence",
}


def paper_name(defence: str) -> str:
    """What the paper calls one of our rows; "" where it has none of the kind."""
    return _NAMES.get(defence.partition(" ")[0].rstrip("*"), "")


def _scores(target: str, benchmark: str, before: tuple[float, float], after: tuple[float, float]) -> list[Published]:
    rows: list[Published] = []
    for defence, (safety, helpfulness) in (("none", before), ("VLMGuard-R1", after)):
        rows.append(Published(target, benchmark, defence, "safety", safety))
        rows.append(Published(target, benchmark, defence, "helpfulness", helpfulness))
    return rows


_DSR_SETS = ("mm-safetybench/SD", "mm-safetybench/SD_TYPO", "mm-safetybench/TYPO", "siuo-gen", "vlguard/unsafe", "mean")
_DSR = {
    "VLMGuard-R1": (53.1, 50.8, 65.4, 56.0, 55.3, 56.1),
    "ETA": (22.3, 46.9, 51.5, 15.0, 57.0, 38.5),
    "MLLM-Protector": (30.8, 28.5, 27.7, 26.3, 48.0, 32.3),
    "FigStep defence": (23.1, 15.4, 16.2, 22.2, 43.0, 24.0),
    "ECSO": (3.8, 3.8, 7.7, 9.0, 11.0, 7.1),
}
PUBLISHED: tuple[Published, ...] = (
    *_scores("LLaVA-1.5-7B", "vlguard/unsafe", (3.71, 20.92), (6.70, 59.30)),
    *_scores("LLaVA-1.5-7B", "siuo-gen", (3.80, 44.85), (6.77, 58.43)),
    *_scores("Qwen2-VL-7B", "vlguard/unsafe", (6.10, 49.50), (7.65, 64.82)),
    *_scores("Qwen2-VL-7B", "siuo-gen", (4.26, 60.24), (6.11, 53.61)),
    *_scores("Qwen2-VL-7B", "mm-safetybench/TYPO", (6.08, 83.08), (8.98, 86.05)),
    *_scores("Qwen2.5-VL-72B", "figstep/safebench", (8.36, 99), (8.68, 99)),
    *(
        Published(UNKNOWN_TARGET, benchmark, defence, "DSR %", value)
        for defence, values in _DSR.items()
        for benchmark, value in zip(_DSR_SETS, values, strict=True)
    ),
)
HEADLINE = "+43.59 % average safety over five VLMs on SIUO (its abstract does not say which mean)"
