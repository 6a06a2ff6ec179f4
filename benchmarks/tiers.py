"""What the operating points of the tiered rewriter cost and catch, by what the first tier alone makes of development data.

    python benchmarks/tiers.py --data FOLDER [--rows 200] [--pictures 30]

FOLDER is the one of benchmarks/quality.py. Rows that may have trained the shipped scorer are left out where there are others;
where there are none (harmful text), the table says so, and flatters. For each point:

  asked          chats that go on to the model: what it costs
  missed         harmful ones that end forwarded at the first tier: the model never sees them
  stopped alone  harmful ones that end rewritten or blocked at the first tier: no model is needed
  wrongly        harmless ones that end rewritten or blocked at the first tier: the model never sees them either

What the model makes of those that it is asked about is another measurement. Counts with 95 % Wilson intervals; nothing may be
tuned on these figures.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path

from vlmguard import chat, load_policy
from vlmguard.errors import VlmguardError
from vlmguard.rewriters.embedded import EmbeddedRewriter
from vlmguard.rewriters.select import make_rewriter
from vlmguard.rewriters.tiered import OperatingPoints, TieredRewriter
from vlmguard.types import Chat, Level, Review

_PAIRS = ((0.0, 0.85), (0.02, 0.85), (0.05, 0.85), (0.1, 0.85), (0.2, 0.85), (0.35, 0.85))
POINTS = [
    OperatingPoints(clear_below=clear, sure_from=sure)
    for clear, sure in (*_PAIRS, (0.1, 0.6), (0.1, 0.95), (0.1, 1.01))
]
CARRIER = "Please answer the request in this picture."


def samples(folder: Path, rows: int, pictures: int) -> Iterator[tuple[str, bool, Chat]]:
    """(group, harmful, chat)."""
    texts = [json.loads(line) for line in (folder / "text.jsonl").open(encoding="utf-8")]
    images = [json.loads(line) for line in (folder / "images.jsonl").open(encoding="utf-8")]
    rng = random.Random(0)
    for label in ("benign", "harmful"):
        labelled = [row for row in texts if row["label"] == label]
        unseen = [row for row in labelled if not row["may_train_shipped_weights"]]
        if not unseen:
            print(f"{label} text: all of it may have trained the scorer")
        for row in rng.sample(unseen or labelled, min(rows, len(unseen or labelled))):
            yield "text", label == "harmful", chat(row["prompt"])
        drawn = [row for row in images if row["label"] == label and not row.get("replace_map")]
        for row in rng.sample(drawn, min(pictures, len(drawn))):
            prompt = row["prompt"] if label == "benign" else CARRIER
            yield "picture", label == "harmful", chat(prompt, [(folder / row["image"]).read_bytes()])


def interval(count: int, n: int) -> str:
    """Count, share, and Wilson's interval."""
    if not n:
        return "-"
    z, p = 1.96, count / n
    middle, half = p + z * z / (2 * n), z * ((p * (1 - p) + z * z / (4 * n)) / n) ** 0.5
    low, high = ((middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n))
    return f"{count}/{n} {p:.2f} [{low:.2f}, {high:.2f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--pictures", type=int, default=30)
    arguments = parser.parse_args()
    policy = load_policy()
    first = EmbeddedRewriter(policy, threads=1)
    reviewed: list[tuple[str, bool, Chat, Review]] = []
    for number, (group, harmful, asked) in enumerate(samples(arguments.data, arguments.rows, arguments.pictures)):
        try:
            reviewed.append((group, harmful, asked, first.review(asked)))
        except VlmguardError as error:
            print(f"left out: {error}", file=sys.stderr)
        if number % 50 == 0:
            print(number, file=sys.stderr)
    model = make_rewriter("endpoint:http://127.0.0.1:1/v1#never-asked", policy)
    for group in ("text", "picture"):
        print(
            f"\n{group}\n{'clear_below sure_from':24}{'asked, harmless':28}{'wrongly':26}{'asked, harmful':28}{'missed':26}stopped alone"
        )
        for points in POINTS:
            tiered = TieredRewriter(first, model, policy, points)
            cells = {
                name: [0, 0] for name in ("asked, harmless", "wrongly", "asked, harmful", "missed", "stopped alone")
            }
            for kind, harmful, asked, review in reviewed:
                if kind != group:
                    continue
                final = tiered.is_final(asked, review)
                stopped = final and review.refinement.report.worst.level > Level.NONE
                told = {"asked, harmful": not final, "missed": final and not stopped, "stopped alone": stopped}
                for name, counts in (told if harmful else {"asked, harmless": not final, "wrongly": stopped}).items():
                    cells[name][0] += counts
                    cells[name][1] += 1
            row = "".join(f"{interval(*cell):28}" for cell in cells.values())
            print(f"{points.clear_below:<12}{points.sure_from:<12}{row}")


if __name__ == "__main__":
    main()
