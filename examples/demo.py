"""`make demo`: refines the bundled examples before your eyes, with the command that you would type yourself."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def main() -> None:
    for line in (HERE / "examples.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        images = [part for name in row["images"] for part in ("--image", f"examples/{name}")]
        print(f'\n$ vlmguard refine "{row["prompt"]}" {" ".join(images)}', flush=True)
        command = [sys.executable, "-m", "vlmguard.cli.main", "refine", row["prompt"], *images]
        subprocess.run(command, check=True, cwd=HERE.parent)


if __name__ == "__main__":
    main()
