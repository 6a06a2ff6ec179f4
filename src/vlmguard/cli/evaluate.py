"""``vlmguard eval``: benchmarks × targets × defences × judges, resumable; ``list``, ``run``, ``rescore``, ``merge``."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Awaitable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmguard.cli.models import SPECS
from vlmguard.errors import InputError, VlmguardError

if TYPE_CHECKING:
    from vlmguard.evaluate.crew import Crew, Opener, Spend
    from vlmguard.evaluate.plan import Plan
    from vlmguard.evaluate.run import Progress

HELP = "evaluate defences: benchmarks × targets × defences × judges"

_EVERY = 2.0
"""Seconds between two lines of progress where they do not overwrite each other in a terminal: ten times that."""
_PICTURE_TOKENS = 1_000
_ANSWER_TOKENS = 300
_VERDICT_TOKENS = 150
"""What an estimate takes a picture, an answer and a verdict for."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """``eval list | run | rescore | merge``."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    actions.add_parser("list", help="benchmarks with links and counts, defences, judges, the paper's targets")
    run_parser = actions.add_parser("run", help="ask, judge, report; a run that was stopped goes on where it was")
    run_parser.add_argument("plan", type=Path, nargs="?", metavar="PLAN.toml", help="or the options below")
    run_parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="of the run and its report")
    run_parser.add_argument("--benchmark", action="append", metavar="NAME:FOLDER", help="may be given several times")
    run_parser.add_argument("--target", action="append", metavar="[LABEL=]SPEC", help=f"a model: {SPECS}")
    run_parser.add_argument("--paper-targets", metavar="URL", help="the paper's VLMs, as far as known, at this address")
    run_parser.add_argument(
        "--defence", action="append", metavar="SPEC", help="default: none, vlmguard:embedded, safety-prompt"
    )
    run_parser.add_argument("--judge", action="append", metavar="SPEC", help="the first one is the report's main judge")
    run_parser.add_argument("--concurrency", type=int, metavar="N", help="answers under way at a time (default 64)")
    run_parser.add_argument("--limit", type=int, metavar="N", help="samples of each benchmark, drawn by their hash")
    run_parser.add_argument("--max-tokens", type=int, metavar="N", help="of an answer (default 1024)")
    run_parser.add_argument("--seeds", type=int, metavar="N", help="answers to each sample; needs --temperature")
    run_parser.add_argument("--temperature", type=float, metavar="T")
    run_parser.add_argument(
        "--shard", default="1/1", metavar="i/n", help="only this part; `eval merge` puts parts together"
    )
    run_parser.add_argument("--estimate", action="store_true", help="say what it would cost, and stop")
    run_parser.add_argument("--key-env", metavar="NAME", help="environment variable with the models' key")
    rescore = actions.add_parser("rescore", help="have stored answers judged, without asking any target")
    rescore.add_argument("out", type=Path, metavar="DIR")
    rescore.add_argument("--judge", action="append", required=True, metavar="SPEC")
    rescore.add_argument("--concurrency", type=int, default=64, metavar="N")
    rescore.add_argument(
        "--key-env", default="VLMGUARD_API_KEY", metavar="NAME", help="environment variable with the key"
    )
    merge = actions.add_parser("merge", help="put shards together")
    merge.add_argument("out", type=Path, metavar="DIR")
    merge.add_argument("parts", type=Path, nargs="+", metavar="PART")


def run(arguments: argparse.Namespace) -> int:
    """Exit code: 0 done, 3 done with error rows or unreadable samples. Raises ``VlmguardError``."""
    actions = {"list": _list, "run": _run, "rescore": _rescore, "merge": _merge}
    return actions[arguments.action](arguments)


def _list(arguments: argparse.Namespace) -> int:
    del arguments
    from vlmguard.benchmarks.select import BENCHMARKS, SHAPE_SEEN
    from vlmguard.defences.select import DEFENCES
    from vlmguard.evaluate.plan import PAPER_TARGETS
    from vlmguard.judges.select import JUDGES

    print("Benchmarks (NAME:FOLDER, NAME/PART:FOLDER; add @SHA256 to pin)\n")
    for name, card in BENCHMARKS.items():
        counts = ", ".join(
            f"{part} {count if count is not None else '?'}".strip()
            if part
            else str(count if count is not None else "?")
            for part, count in card.rows.items()
        )
        print(f"  {name:15} {card.title} · {' + '.join(card.measures)} · rows: {counts}")
        print(f"  {'':15} {card.link}")
        print(f"  {'':15} {card.files} · licence: {card.licence} · gate: {card.gate}")
        notes = [
            card.note,
            "" if name in SHAPE_SEEN else "Read as its documentation describes it: we saw no file of it.",
        ]
        for note in filter(None, notes):
            print(f"  {'':15} {note}")
    for title, rows in (
        (
            "Defences (a * behind a row's name: some part is not its paper's own)",
            {n: d[0] for n, d in DEFENCES.items()},
        ),
        ("Judges", JUDGES),
        (
            "Targets of VLMGuard-R1's paper (--paper-targets URL)",
            {n: m or "not known" for n, m in PAPER_TARGETS.items()},
        ),
    ):
        print(f"\n{title}\n")
        for name, text in rows.items():
            print(f"  {name:15} {text}")
    return 0


# ---------------------------------------------------------------------------------------------------------------------
# run


def _run(arguments: argparse.Namespace) -> int:
    from vlmguard.evaluate import run as runner
    from vlmguard.evaluate.crew import open_benchmarks, open_crew, preflight
    from vlmguard.evaluate.store import Store

    plan = _plan(arguments)
    shard = runner.read_shard(arguments.shard)
    benchmarks = open_benchmarks(plan)
    problems = preflight(benchmarks)
    for problem in problems[:20]:
        print(f"missing: {problem}", file=sys.stderr)
    if problems:
        raise InputError(f"{len(problems)} thing(s) are missing; nothing was asked")
    for each in benchmarks:
        for note in each.notes():
            print(f"note: {note}", file=sys.stderr)
    with Store(arguments.out) as store, store.alone():
        try:
            crew = open_crew(plan, store)
            runner.check(plan, crew, store)
            print(_estimate(plan, crew, shard), file=sys.stderr)
        except VlmguardError:
            store.discard()
            raise
        if arguments.estimate:
            asyncio.run(crew.close())
            store.discard()
            return 0
        store.set_meta("plan", json.dumps(plan.form(), default=str))
        store.set_meta("judges", json.dumps([judge.name for judge in crew.judges]))
        progress = runner.Progress()
        asyncio.run(_watched(runner.run(plan, crew, store, progress, shard), progress, crew.spend, crew))
    if shard[1] == 1:
        _write(arguments.out)
    return 3 if progress.errors or progress.broken else 0


def _plan(arguments: argparse.Namespace) -> Plan:
    from vlmguard.evaluate.plan import load_plan, make_plan, paper_targets

    told: dict[str, Any] = {}
    for option, name in (
        ("benchmark", "benchmarks"),
        ("target", "targets"),
        ("defence", "defences"),
        ("judge", "judges"),
    ):
        if (given := getattr(arguments, option)) is not None:
            told[name] = list(given)
    for name in ("concurrency", "limit", "max_tokens", "temperature", "key_env"):
        if getattr(arguments, name) is not None:
            told[name] = getattr(arguments, name)
    if arguments.paper_targets:
        told["targets"] = [*told.get("targets", ()), *paper_targets(arguments.paper_targets)]
    if arguments.seeds is not None:
        told["seeds"] = list(range(arguments.seeds))
    if arguments.plan is None:
        return make_plan(told, "the command line")
    plan = load_plan(arguments.plan)
    changes: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in told.items()}
    return replace(plan, **changes)


def _estimate(plan: Plan, crew: Crew, shard: tuple[int, int]) -> str:
    """What a run from its start would take; kept answers make it less."""
    from vlmguard.evaluate.run import chosen

    samples = {each.name: len(chosen(each, plan, shard)) for each in crew.benchmarks}
    rows = sum(samples.values()) * len(crew.targets) * len(plan.seeds)
    fewest, most = (rows * sum(defence.calls[end] for defence in crew.defences) for end in (0, 1))
    asked = sum(judge.split(":")[0] not in ("refusal", "choice", "match", "rules") for judge in plan.judges)
    verdicts = rows * len(crew.defences) * asked
    prompt = (most + verdicts) * _PICTURE_TOKENS
    length = min(_ANSWER_TOKENS, plan.max_tokens)
    said = most * length + verdicts * _VERDICT_TOKENS
    answers = rows * len(crew.defences)
    return (
        f"{sum(samples.values()):,} samples × {len(crew.targets)} target(s) × {len(crew.defences)} defence(s) ×"
        f" {len(plan.seeds)} seed(s) = {answers:,} answers: {fewest:,} to {most:,} calls of targets and defences,"
        f" {verdicts:,} of judges; about {prompt / 1e6:.1f} M prompt and {said / 1e6:.1f} M answer tokens at"
        f" {_PICTURE_TOKENS} a question, {length} an answer and {_VERDICT_TOKENS} a verdict{_cost(plan, prompt, said)}"
    )


def _cost(plan: Plan, prompt: float, said: float) -> str:
    """By the dearest price of the plan, since who says how much is not known yet."""
    if not plan.prices:
        return ""
    dearest = max(prompt * a + said * b for a, b in plan.prices.values()) / 1e6
    return f"; about {dearest:,.2f} if all of it had the dearest price of the plan"


async def _watched(work: Awaitable[None], progress: Progress, spend: Spend, opened: Crew | Opener) -> None:
    """The work, with lines of progress; everybody is closed at the end."""
    watch = asyncio.create_task(_told(progress, spend))
    try:
        await work
    finally:
        watch.cancel()
        print(_line(progress, spend), file=sys.stderr)
        if progress.last_error:
            print(f"last error: {progress.last_error}", file=sys.stderr)
        await opened.close()


async def _told(progress: Progress, spend: Spend) -> None:
    terminal = sys.stderr.isatty()
    while True:
        await asyncio.sleep(_EVERY if terminal else 10 * _EVERY)
        print(_line(progress, spend), file=sys.stderr, end="\r\033[K" if terminal else "\n", flush=True)


def _line(progress: Progress, spend: Spend) -> str:
    parts = [
        f"{progress.answers:,}/{progress.total:,} answers",
        f"{progress.verdicts:,} verdicts",
        f"{progress.rate:.1f}/s",
    ]
    if progress.errors:
        parts.append(f"{progress.errors:,} errors")
    if progress.waiting:
        why = " ".join(progress.last_error.split())[:120]
        parts.append(f"{progress.waiting} waiting for a model ({why})")
    money = f", {spend.money:,.2f} spent" if spend.prices else ""
    parts.append(f"{spend.calls:,} calls, {spend.prompt_tokens + spend.completion_tokens:,} tokens{money}")
    if 0 < progress.left < float("inf"):
        parts.append(f"{time.strftime('%H:%M:%S', time.gmtime(progress.left))} left")
    return " · ".join(parts)


def _write(folder: Path) -> None:
    from vlmguard.evaluate.report import write_report

    for file in write_report([folder], folder):
        print(file)


# ---------------------------------------------------------------------------------------------------------------------
# rescore, merge


def _rescore(arguments: argparse.Namespace) -> int:
    from vlmguard.evaluate import run as runner
    from vlmguard.evaluate.crew import Opener
    from vlmguard.evaluate.plan import Plan
    from vlmguard.evaluate.store import Store
    from vlmguard.judges.select import make_judge

    with Store(arguments.out, make=False) as store, store.alone():
        plan = Plan(
            ("stored",),
            ("stored",),
            judges=tuple(arguments.judge),
            concurrency=arguments.concurrency,
            key_env=arguments.key_env,
        )
        opener = Opener(plan, store)
        judges = [make_judge(spec, opener.judge, key=store.judge_key) for spec in plan.judges]
        progress = runner.Progress()
        asyncio.run(_watched(runner.judge_again(plan, judges, store, progress), progress, opener.spend, opener))
        known = json.loads(store.meta("judges") or "[]")
        store.set_meta("judges", json.dumps(list(dict.fromkeys([*(judge.name for judge in judges), *known]))))
    _write(arguments.out)
    return 3 if progress.errors else 0


def _merge(arguments: argparse.Namespace) -> int:
    from vlmguard.evaluate.store import Store

    with Store(arguments.out) as store, store.alone():
        for part in arguments.parts:
            store.merge(part)
    _write(arguments.out)
    return 0
