"""Runs the paper in miniature: ``python -m recipes.micro quick|full [--out runs/out/micro]`` (docs/micro.md).

Bases, targets, datasets and rewriters are kept in OUT/cache by everything that they depend on, so a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from recipes.micro import evaluation, making, workers
from recipes.micro.sizes import SIZES, Size


def main() -> int:
    """Exit code: 0 when every gate is passed, else 1."""
    parser = argparse.ArgumentParser(prog="python -m recipes.micro", description=__doc__)
    parser.add_argument("size", choices=SIZES)
    parser.add_argument("--out", type=Path, default=Path("runs/out/micro"))
    parser.add_argument("--workers", type=int, default=min(2, os.cpu_count() or 1), help="processes, one thread each")
    arguments = parser.parse_args()
    metrics = run(SIZES[arguments.size], arguments.out, arguments.workers)
    for gate, passed in metrics["gates"].items():
        print(f"{'passed' if passed else 'MISSED'}  {gate}")
    return 0 if all(metrics["gates"].values()) else 1


def run(size: Size, out: Path, many: int) -> dict[str, Any]:
    """Everything of a size; returns what OUT/metrics.json holds."""
    started = time.perf_counter()
    work = making.workplace(size, out)
    with ProcessPoolExecutor(many, get_context("spawn"), initializer=workers.start) as pool:

        def stage(name: str, jobs: Iterable[tuple[Any, ...]]) -> None:
            since = time.perf_counter()
            for done in [pool.submit(making.do, work, *job) for job in jobs]:
                done.result()
            print(f"{name}: {time.perf_counter() - since:.0f} s", file=sys.stderr)

        stage("bases", [("base", family) for family in size.families])
        stage("targets", [("target", family, seed) for seed in range(size.seeds) for family in size.families])
        stage("datasets", [("dataset", split, hindsight) for split in size.splits for hindsight in size.hindsights])
        stage("rewriters", [("rewriter", *cell) for cell in size.trained])
        stage("answers", [("answers", part, many) for part in range(many)])
    metrics = evaluation.report(work, many)
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    own = resource.getrusage(resource.RUSAGE_SELF)
    metrics["seconds"] = {
        "wall": round(time.perf_counter() - started),
        "cpu": round(sum(used.ru_utime + used.ru_stime for used in (children, own))),
    }
    (work.out / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")
    print(f"{work.out / 'metrics.json'} · {work.out / 'report.html'} · {metrics['seconds']}", file=sys.stderr)
    return metrics


if __name__ == "__main__":
    sys.exit(main())
