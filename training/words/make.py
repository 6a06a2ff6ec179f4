"""Makes the English vocabulary of perception/wordlike.py: python training/words/make.py

From the whole words of all-MiniLM-L6-v2's tokenizer (Apache-2.0; rewriters/weights/tokenizer.json), whose order is roughly that
of frequency, and the words of this project's own English rows (data/risk), most frequent first.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]


def main() -> None:
    counts: Counter[str] = Counter()
    for file in sorted((ROOT / "data" / "risk").glob("*.jsonl")):
        for line in file.read_text(encoding="utf-8").rstrip("\n").split("\n"):
            row = json.loads(line)
            if row["language"] == "en" and row["register"] not in ("typos", "slang"):
                counts.update(re.findall(r"[a-z]+(?:'[a-z]+)?", row["text"].lower()))
    own = [word for word, count in counts.most_common() if count >= 2]
    tokenizer = json.loads((ROOT / "src/vlmguard/rewriters/weights/tokenizer.json").read_text(encoding="utf-8"))
    known = sorted(tokenizer["model"]["vocab"].items(), key=lambda item: item[1])
    whole = [word for word, _ in known if re.fullmatch(r"[a-z]{3,}|a|i|[a-z]{2}", word)]
    short = {word for word in own if len(word) <= 2}
    words = list(dict.fromkeys([*own, *(word for word in whole if len(word) > 2 or word in short)]))
    out = ROOT / "src/vlmguard/perception/words_en.txt"
    out.write_text("\n".join(words) + "\n", encoding="utf-8")
    print(len(words), "words")


if __name__ == "__main__":
    main()
