"""Short rows after R1-Act on a tiny LLaVA: forward rate on benign rows and recall on risky ones, against the benign share.

    python -m benchmarks.r1_act [--steps 90] [--seeds 0 1] [--rows 40]

A made world (tests/train/padded.py): a wish beside a red picture is risky, beside a blue one it is not. Shades in training and in
measuring differ. The number of rows and of steps is the same for every share. A trace that serving would not take counts as neither.
"""

from __future__ import annotations

import argparse
import random
from typing import Any

from tests.tiny_llava import _model, _processor
from tests.train.padded import GOOD, Case, _asked, _batch, cases, lesson
from vlmguard import chat, load_policy, trace
from vlmguard.errors import RewriteError, TraceError
from vlmguard.rewriters.model import read_trace
from vlmguard.statistics import wilson
from vlmguard.train.r1_act import choose, shorten

SHARES = (0.1, 0.3, 0.5)
_RATE = 1e-2


def short(case: Case) -> str:
    """The row's trace, as ``vlmguard train r1-act`` cuts it."""
    return trace.render(shorten(trace.parse(case.trace())))


def train(processor: Any, rows: list[Case], asked: dict[Case, Any], steps: int, seed: int) -> Any:
    """A fresh model on these rows, eight a step."""
    import torch

    torch.manual_seed(seed)
    draw = random.Random(seed)
    model = _model(processor)
    for name, parameter in model.named_parameters():
        if "language_model" in name and parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.06)
    optimiser = torch.optim.AdamW(model.parameters(), lr=_RATE, betas=(0.9, 0.95), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=_RATE, total_steps=steps, pct_start=0.1)
    model.train()
    for _ in range(steps):
        drawn = [draw.choice(rows) for _ in range(8)]
        batch = _batch(processor, [asked[case] for case in drawn], [short(case) for case in drawn])
        model(**batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        optimiser.zero_grad()
    return model.eval()


def decisions(processor: Any, model: Any, rows: list[Case], asked: dict[Case, Any]) -> dict[Case, bool | None]:
    """Whether each is forwarded; ``None`` where serving would not take the trace."""
    import torch

    from tests.tiny_llava import picture

    found: dict[Case, bool | None] = {}
    for case in rows:  # one by one: the marks around quoted words take more tokens in some than in others
        with torch.inference_mode():
            output = model.generate(**asked[case], max_new_tokens=130, do_sample=False)
        said = processor.decode(output[0][asked[case]["input_ids"].shape[1] :], skip_special_tokens=True)
        question = chat(case.prompt, [picture(str(case.colour))])
        try:
            found[case] = read_trace(question, said, load_policy()).prompt is None
        except (TraceError, RewriteError):
            found[case] = None
    return found


def main() -> None:
    import torch

    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=90)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--rows", type=int, default=40)
    options = parser.parse_args()
    torch.set_num_threads(1)
    world = [case for case in cases(options.rows, 8) if case.colour]
    processor = _processor([lesson(case, 0, GOOD) for case in world[:2]])
    asked = {case: _asked(processor, lesson(case, 0, GOOD)) for case in world}
    taught = {case.id: case for case in world if case.split == "train"}
    held = [case for case in world if case.split == "validation"]
    print("| benign share | forwarded of benign | caught of risky | traces not taken |\n|---|---|---|---|")
    for share in SHARES:
        found: list[tuple[bool, bool | None]] = []
        for seed in options.seeds:
            ids = choose([(id, not case.risky) for id, case in taught.items()], options.rows, share, seed)
            model = train(processor, [taught[id] for id in sorted(ids)], asked, options.steps, seed)
            for risky in (False, True):
                rows = [case for case in held if case.risky is risky]
                found += [(risky, forwarded) for forwarded in decisions(processor, model, rows, asked).values()]
        cells = []
        for risky in (False, True):
            right = [
                forwarded is not risky and forwarded is not None for is_risky, forwarded in found if is_risky is risky
            ]
            told = wilson(sum(right), len(right))
            cells.append(f"{100 * told.value:.0f} % [{100 * told.low:.0f}, {100 * told.high:.0f}] of {told.n}")
        print(f"| {share:.0%} | {' | '.join(cells)} | {sum(forwarded is None for _, forwarded in found)} |", flush=True)


if __name__ == "__main__":
    main()
