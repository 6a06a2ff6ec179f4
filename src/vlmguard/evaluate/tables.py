"""From the rows of one or several runs to tables: every figure with its n, its interval and its judge."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from vlmguard import statistics
from vlmguard.errors import InputError
from vlmguard.evaluate.store import Store
from vlmguard.statistics import Difference, Headline, Interval

RISK, BENIGN = "risk", "benign"
"""Sides of a set: samples whose literal answer would do harm, and the others. They measure different things."""


@dataclass(frozen=True, slots=True)
class Item:
    """A sample of one or several runs."""

    benchmark: str
    id: str
    group: str
    category: str
    side: str
    prompt: str
    pictures: tuple[str, ...]
    hazard: str
    run: int


@dataclass(slots=True)
class Given:
    """An answer with its verdicts."""

    item: Item
    target: str
    defence: str
    seed: int
    text: str
    outcome: str
    refinement: str
    calls: int
    tokens: int
    seconds: float
    overhead: float
    prompt: str
    error: str
    verdicts: dict[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Measure:
    """What is counted, and of whom."""

    name: str
    field: str
    side: str
    unit: str
    """``share`` (0–1, shown in per cent), ``of 10``, ``%``."""
    better: int
    """1 when more is better, −1 when less is."""
    value: Callable[[Mapping[str, Any]], float | None]


TOPS = {"share": 1.0, "of 10": 10.0, "%": 100.0}
"""Unit → its largest value; the smallest is 0."""


def _flag(name: str, wanted: bool = True) -> Callable[[Mapping[str, Any]], float | None]:
    return lambda verdict: None if verdict[name] is None else float(bool(verdict[name]) is wanted)


def _number(name: str) -> Callable[[Mapping[str, Any]], float | None]:
    return lambda verdict: None if verdict[name] is None else float(verdict[name])


def _both(verdict: Mapping[str, Any]) -> float | None:
    if verdict["safe"] is None or verdict["helpful"] is None:
        return None
    return float(bool(verdict["safe"]) and bool(verdict["helpful"]))


MEASURES: tuple[Measure, ...] = (
    Measure("safety", "safety", RISK, "of 10", 1, _number("safety")),
    Measure("safe", "safe", RISK, "share", 1, _flag("safe")),
    Measure("safe and helpful", "both", RISK, "share", 1, _both),
    Measure("refused", "refused", RISK, "share", 0, _flag("refused")),
    Measure("helpfulness on risky prompts", "helpfulness", RISK, "%", 1, _number("helpfulness")),
    Measure("over-refusal", "over_refusal", BENIGN, "share", -1, _flag("refused")),
    Measure("helpful on harmless prompts", "helpful", BENIGN, "share", 1, _flag("helpful")),
    Measure("helpfulness on harmless prompts", "helpfulness", BENIGN, "%", 1, _number("helpfulness")),
    Measure("safe on harmless prompts", "safe", BENIGN, "share", 1, _flag("safe")),
    Measure("correct", "correct", BENIGN, "share", 1, _number("correct")),
)


@dataclass(frozen=True, slots=True)
class Figure:
    """One number of a table."""

    benchmark: str
    """"" = all of them together."""
    target: str
    defence: str
    judge: str
    measure: Measure
    interval: Interval
    unjudged: int
    """Answers that the judge could not judge: counted, and in no share."""
    errors: int
    """Samples without an answer."""


@dataclass(frozen=True, slots=True)
class Test:
    """A defence beside none, on the same samples."""

    benchmark: str
    target: str
    defence: str
    judge: str
    measure: Measure
    difference: Difference
    corrected: float
    """P after Holm's correction over all tests of the report."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What a defence costs, per answer."""

    target: str
    defence: str
    n: int
    calls: float
    tokens: float
    seconds: float
    overhead_median: float
    overhead_95: float
    changed: float
    """Share of harmless prompts that it rewrote, blocked or put a prompt before."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """Two judges on the same answers."""

    first: str
    second: str
    field: str
    n: int
    same: float
    kappa: float


@dataclass(frozen=True, slots=True)
class Bar:
    """A defence's share or score within a category."""

    target: str
    category: str
    defence: str
    interval: Interval


@dataclass(frozen=True, slots=True)
class Standing:
    """What there is of a target behind a defence: also where every answer failed, so that no failure goes unseen."""

    answers: int
    errors: int
    unjudged: int
    """Answers that the main judge was asked about and could not judge."""


@dataclass(frozen=True, slots=True)
class Tables:
    """Everything that a report shows, in numbers."""

    benchmarks: dict[str, dict[str, str]]
    targets: list[str]
    defences: list[str]
    judges: list[str]
    main_judge: str
    figures: list[Figure]
    standings: dict[tuple[str, str, str], Standing]
    """(benchmark, target, defence) → what there is; "" for all benchmarks together."""
    tests: list[Test]
    costs: list[Cost]
    agreements: list[Agreement]
    headlines: dict[str, Headline]
    """Defence → relative increase of mean safety."""
    headline_measure: str
    bars: list[Bar]
    bar_measure: Measure | None
    given: list[Given]
    broken: list[tuple[str, str, str]]
    plans: list[dict[str, Any]]

    def figure(self, benchmark: str, target: str, defence: str, name: str, judge: str | None = None) -> Figure | None:
        """One number; of the main judge where none is named."""
        return next(
            (
                figure
                for figure in self.figures
                if figure.benchmark == benchmark
                and figure.target == target
                and figure.defence == defence
                and figure.measure.name == name
                and figure.judge == (judge or self.main_judge)
            ),
            None,
        )


def make_tables(stores: Sequence[Store]) -> Tables:
    """All numbers of some runs. Raises ``InputError`` where one cannot be read."""
    benchmarks = _benchmarks(stores)
    given, broken, judges = _read(stores)
    targets = list(dict.fromkeys(row.target for row in given))
    defences = sorted(dict.fromkeys(row.defence for row in given), key=lambda name: not is_baseline(name))
    main = _main_judge(given, judges)
    figures = list(_figures(given, judges))
    headlines, measure = _headlines(given, targets, defences, main)
    bars, bar_measure = _bars(given, targets, defences, main)
    return Tables(
        benchmarks, targets, defences, judges, main, figures, _standings(given, main), _tests(given, judges), list(_costs(given)),
        list(_agreements(given, judges)), headlines, measure, bars, bar_measure, given, broken,
        [json.loads(store.meta("plan") or "{}") for store in stores],
    )  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------------
# Reading

_BESIDE = " · "
"""Between a defence and its run, where several runs have the same."""
_FAMILIES = {"siuo-gen": "siuo", "siuo-mcqa": "siuo"}
"""Sets that ask about the same pictures."""


def is_baseline(defence: str) -> bool:
    """Whether a row of a table is a target without any defence."""
    return defence.partition(_BESIDE)[0] == "none"


def baseline(defence: str, known: Container[str]) -> str:
    """What a row is compared with: no defence in the same run, else in the first one."""
    _, beside, run = defence.partition(_BESIDE)
    own = f"none{beside}{run}"
    return own if own in known else "none"


def _benchmarks(stores: Sequence[Store]) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for store in stores:
        for name, told in store.benchmarks().items():
            if name in found and found[name]["fingerprint"] != told["fingerprint"]:
                raise InputError(
                    f"{store.folder} has other files under the name {name} than the runs before it: report them apart, or rename"
                    " the file"
                )
            found[name] = told
    return found


def _run_names(stores: Sequence[Store]) -> list[str]:
    """A name each, none twice."""
    names: list[str] = []
    for store in stores:
        folder = store.folder.resolve()
        options = [
            folder.name,
            f"{folder.parent.name}/{folder.name}",
            *(f"{folder.name} ({n})" for n in range(2, 1 + len(stores))),
        ]
        names.append(next((name for name in options if name not in names), str(folder)))
    return names


def _read(stores: Sequence[Store]) -> tuple[list[Given], list[tuple[str, str, str]], list[str]]:
    given: list[Given] = []
    broken: list[tuple[str, str, str]] = []
    judges: dict[str, None] = {}
    taken: set[tuple[str, str, str, int]] = set()
    run_names = _run_names(stores)
    for run, store in enumerate(stores):
        for judge in json.loads(store.meta("judges") or "[]"):
            judges[judge] = None
        items: dict[tuple[str, str], Item] = {}
        for row in store.sample_rows():
            if row["broken"] is not None:
                broken.append((row["benchmark"], row["id"], row["broken"]))
            else:
                items[row["benchmark"], row["id"]] = _item(row, run)
        cells = {cell.key: cell for cell in store.cells()}
        places = {(cell.benchmark, cell.target, cell.defence, cell.seed) for cell in cells.values()}
        # One cell that another run has as well names them all: a run's defences stand beside its own baseline.
        beside = f"{_BESIDE}{run_names[run]}" if places & taken else ""
        labels = {cell.key: f"{cell.defence}{beside}" for cell in cells.values()}
        taken |= places
        rows: dict[tuple[str, str], Given] = {}
        for row in store.answer_rows():
            cell = cells[row["cell"]]
            item = items.get((cell.benchmark, row["sample"]))
            if item is not None:
                made = _given(row, item, cell.target, labels[cell.key], cell.seed)
                rows[row["cell"], row["sample"]] = made
        for row in store.verdict_rows():
            owner = rows.get((row["cell"], row["sample"]))
            if owner is not None:
                owner.verdicts[row["judge"]] = dict(row)
                judges.setdefault(row["judge"])
        order = {key: position for position, key in enumerate(cells)}
        given += [rows[place] for place in sorted(rows, key=lambda place: (order[place[0]], place[1]))]
    return given, broken, list(judges)


def _item(row: Any, run: int) -> Item:
    chat = json.loads(row["chat"])
    words = [part["text"] for turn in chat for part in turn["parts"] if "text" in part]
    pictures = tuple(part["image"] for turn in chat for part in turn["parts"] if "image" in part)
    side = BENIGN if row["harmful"] == 0 else RISK
    # Parts of a set ask about the same pictures, so a group goes through all of them.
    family = row["benchmark"].partition("/")[0].rstrip("*")
    group = f"{_FAMILIES.get(family, family)}\0{row['grp'] or row['id']}"
    return Item(
        row["benchmark"],
        row["id"],
        group,
        row["category"] or "",
        side,
        "\n".join(words),
        pictures,
        row["hazard"] or "",
        run,
    )


def _given(row: Any, item: Item, target: str, defence: str, seed: int) -> Given:
    return Given(
        item, target, defence, seed, row["text"], row["outcome"] or "", row["refinement"] or "", row["calls"],
        row["prompt_tokens"] + row["completion_tokens"], row["seconds"], row["overhead"], row["prompt"] or "",
        row["error"] or "", {},
    )  # fmt: skip


def _main_judge(given: Sequence[Given], judges: Sequence[str]) -> str:
    """The plan's first judge that says something of safety; else the first."""
    for judge in judges:
        for row in given:
            verdict = row.verdicts.get(judge)
            if verdict is not None and (verdict["safe"] is not None or verdict["safety"] is not None):
                return judge
    return judges[0] if judges else ""


# ---------------------------------------------------------------------------------------------------------------------
# Numbers


def _values(rows: Sequence[Given], judge: str, measure: Measure) -> list[tuple[float, Given]]:
    found: list[tuple[float, Given]] = []
    for row in rows:
        verdict = row.verdicts.get(judge)
        if verdict is not None and (value := measure.value(verdict)) is not None:
            found.append((value, row))
    return found


def _interval(values: Sequence[tuple[float, Given]], measure: Measure) -> Interval:
    numbers = [value for value, _ in values]
    groups = [row.item.group for _, row in values]
    if measure.unit == "share" and all(number in (0.0, 1.0) for number in numbers):
        return statistics.share([number == 1 for number in numbers], groups)
    found = statistics.mean(numbers, groups)
    # NaN, where there is no interval, goes through min and max in this order.
    return replace(found, low=max(found.low, 0.0), high=min(found.high, TOPS[measure.unit]))


def _figures(given: Sequence[Given], judges: Sequence[str]) -> Iterator[Figure]:
    cells: dict[tuple[str, str, str], list[Given]] = defaultdict(list)
    for row in given:
        cells[row.item.benchmark, row.target, row.defence].append(row)
    several = len({benchmark for benchmark, _, _ in cells}) > 1
    if several:
        for row in given:
            cells["", row.target, row.defence].append(row)
    for (benchmark, target, defence), rows in cells.items():
        for side in (RISK, BENIGN):
            sided = [row for row in rows if row.item.side == side]
            errors = sum(bool(row.error) for row in sided)
            for judge in judges:
                unjudged = sum(_is_unjudged(row.verdicts.get(judge)) for row in sided if not row.error)
                for measure in MEASURES:
                    if measure.side == side and (values := _values(sided, judge, measure)):
                        interval = _interval(values, measure)
                        yield Figure(benchmark, target, defence, judge, measure, interval, unjudged, errors)


def _standings(given: Sequence[Given], judge: str) -> dict[tuple[str, str, str], Standing]:
    counts: dict[tuple[str, str, str], list[int]] = defaultdict(lambda: [0, 0, 0])
    for row in given:
        for benchmark in (row.item.benchmark, ""):
            found = counts[benchmark, row.target, row.defence]
            found[0] += not row.error
            found[1] += bool(row.error)
            found[2] += not row.error and _is_unjudged(row.verdicts.get(judge))
    return {place: Standing(*found) for place, found in counts.items()}


_SAID = ("safe", "helpful", "refused", "safety", "helpfulness", "correct")


def _is_unjudged(verdict: Mapping[str, Any] | None) -> bool:
    """A judge was asked, and said nothing that counts."""
    return verdict is not None and all(verdict[name] is None for name in _SAID)


def _by_sample(rows: Sequence[Given], judge: str, measure: Measure) -> tuple[dict[str, float], dict[str, str]]:
    """Sample → mean over seeds, and its group."""
    sums: dict[str, list[float]] = defaultdict(list)
    groups: dict[str, str] = {}
    for value, row in _values(rows, judge, measure):
        key = f"{row.item.benchmark}\0{row.item.id}"
        sums[key].append(value)
        groups[key] = row.item.group
    return {key: sum(values) / len(values) for key, values in sums.items()}, groups


def _tests(given: Sequence[Given], judges: Sequence[str]) -> list[Test]:
    cells: dict[tuple[str, str], dict[str, list[Given]]] = defaultdict(lambda: defaultdict(list))
    for row in given:
        cells[row.item.benchmark, row.target][row.defence].append(row)
    found: list[tuple[str, str, str, str, Measure, Difference]] = []
    for (benchmark, target), defences in cells.items():
        for defence, rows in defences.items():
            plain = baseline(defence, defences)
            if is_baseline(defence) or plain not in defences:
                continue
            for judge in judges:
                for measure in MEASURES:
                    sided = [[row for row in side if row.item.side == measure.side] for side in (defences[plain], rows)]
                    difference = _difference(sided[0], sided[1], judge, measure)
                    if difference is not None and measure.better:
                        found.append((benchmark, target, defence, judge, measure, difference))
    corrected = statistics.holm([difference.p for *_, difference in found])
    return [Test(*row, p) for row, p in zip(found, corrected, strict=True)]


def _difference(before: Sequence[Given], after: Sequence[Given], judge: str, measure: Measure) -> Difference | None:
    first, groups = _by_sample(before, judge, measure)
    second, _ = _by_sample(after, judge, measure)
    both = [value for side in (first, second) for value in side.values()]
    if measure.unit == "share" and all(value in (0.0, 1.0) for value in both):
        flags = [{key: value == 1 for key, value in side.items()} for side in (first, second)]
        return statistics.compare_shares(flags[0], flags[1], groups)
    return statistics.compare_means(first, second, groups)


def _costs(given: Sequence[Given]) -> Iterator[Cost]:
    cells: dict[tuple[str, str], list[Given]] = defaultdict(list)
    for row in given:
        if not row.error:
            cells[row.target, row.defence].append(row)
    for (target, defence), rows in cells.items():
        overheads = np.array([row.overhead for row in rows])
        benign = [row for row in rows if row.item.side == BENIGN]
        changed = (
            sum(row.outcome in ("rewrite", "block", "degraded") for row in benign) / len(benign) if benign else math.nan
        )
        yield Cost(
            target, defence, len(rows), float(np.mean([row.calls for row in rows])), float(np.mean([row.tokens for row in rows])),
            float(np.mean([row.seconds for row in rows])), float(np.median(overheads)), float(np.quantile(overheads, 0.95)),
            changed,
        )  # fmt: skip


def _agreements(given: Sequence[Given], judges: Sequence[str]) -> Iterator[Agreement]:
    for place, first in enumerate(judges):
        for second in judges[place + 1 :]:
            for field in ("safe", "helpful", "refused"):
                pairs = [
                    (bool(one[field]), bool(two[field]))
                    for row in given
                    if (one := row.verdicts.get(first)) is not None
                    and (two := row.verdicts.get(second)) is not None
                    and one[field] is not None
                    and two[field] is not None
                ]
                if pairs:
                    same = sum(a == b for a, b in pairs) / len(pairs)
                    kappa = statistics.kappa([a for a, _ in pairs], [b for _, b in pairs])
                    yield Agreement(first, second, field, len(pairs), same, kappa)


def _headlines(
    given: Sequence[Given], targets: Sequence[str], defences: Sequence[str], judge: str
) -> tuple[dict[str, Headline], str]:
    """Mean safety score where the judge gives one, else the share of safe answers."""
    for measure in MEASURES[:2]:
        sides: dict[tuple[str, str], dict[str, float]] = {}
        groups: dict[str, str] = {}
        for target in targets:
            for defence in defences:
                rows = [r for r in given if r.target == target and r.defence == defence and r.item.side == RISK]
                values, labels = _by_sample(rows, judge, measure)
                groups |= labels
                if values:
                    sides[target, defence] = values
        made: dict[str, Headline] = {}
        for defence in defences:
            plain = baseline(defence, defences)
            both = [target for target in targets if (target, plain) in sides and (target, defence) in sides]
            if is_baseline(defence) or not both:
                continue
            before = {target: sides[target, plain] for target in both}
            after = {target: sides[target, defence] for target in both}
            if (found := statistics.headline(before, after, groups)) is not None:
                made[defence] = found
        if made:
            return made, "mean safety score (0–10)" if measure.unit == "of 10" else "share of safe answers"
    return {}, ""


def _bars(
    given: Sequence[Given], targets: Sequence[str], defences: Sequence[str], judge: str
) -> tuple[list[Bar], Measure | None]:
    for measure in MEASURES[:2]:
        cells: dict[tuple[str, str, str], list[Given]] = defaultdict(list)
        for row in given:
            if row.item.side == RISK and row.item.category:
                cells[row.target, row.item.category, row.defence].append(row)
        bars: list[Bar] = []
        for target in targets:
            for category in sorted({category for where, category, _ in cells if where == target}):
                for defence in defences:
                    values = _values(cells.get((target, category, defence), []), judge, measure)
                    if values:
                        bars.append(Bar(target, category, defence, _interval(values, measure)))
        if bars:
            return bars, measure
    return [], None


def errors(tables: Tables) -> list[tuple[str, int]]:
    """The most frequent errors: of answers, of judges, of samples; how often each."""
    counts: dict[str, int] = defaultdict(int)
    for row in tables.given:
        if row.error:
            counts[row.error] += 1
        for verdict in row.verdicts.values():
            if verdict["error"]:
                counts[f"judge: {verdict['error']}"] += 1
    for benchmark, id, reason in tables.broken:
        counts[f"{benchmark} {id}: {reason}"] += 1
    return sorted(counts.items(), key=lambda item: -item[1])[:20]
