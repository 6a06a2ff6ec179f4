"""The tables of a report in other forms: Markdown, CSV, LaTeX."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator

from vlmguard.evaluate import words
from vlmguard.evaluate.published import HEADLINE, PUBLISHED
from vlmguard.evaluate.tables import Tables, errors


def to_csv(tables: Tables) -> str:
    """Every figure, a row each; then every published one, which has no interval and says so."""
    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    out.writerow(
        ("benchmark", "target", "defence", "judge", "measure", "unit", "value", "low", "high", "n", "groups", "interval",
         "not judged", "errors", "source")
    )  # fmt: skip
    for figure in tables.figures:
        found = figure.interval
        out.writerow(
            (figure.benchmark or "all", figure.target, figure.defence, figure.judge, figure.measure.name, figure.measure.unit,
             f"{found.value:.6g}", f"{found.low:.6g}", f"{found.high:.6g}", found.n, found.groups, found.method, figure.unjudged,
             figure.errors, "measured")
        )  # fmt: skip
    for row in PUBLISHED:
        out.writerow(
            (row.benchmark, row.target, row.defence, "the paper's (GPT-4o)", row.measure, "", f"{row.value:g}", "", "", "", "", "",
             "", "", "published, not measured")
        )  # fmt: skip
    return text.getvalue()


def to_markdown(tables: Tables) -> str:
    """Overview, tests, costs and what was published."""
    return "\n".join(_markdown(tables)) + "\n"


def _markdown(tables: Tables) -> Iterator[str]:
    yield "# Evaluation"
    yield ""
    yield f"Main judge: `{_plain(tables.main_judge)}`. Brackets are 95 % intervals."
    for defence, increase in tables.headlines.items():
        yield ""
        yield (
            f"**{_plain(defence)}**: relative increase of the {tables.headline_measure} over {len(increase.per_target)} target(s):"
            f" ratio of means {words.per_cent(increase.ratio_of_means)}, mean of ratios {words.per_cent(increase.mean_of_ratios)};"
            f" {words.rests_on(increase, len(tables.benchmarks))}."
        )
    for benchmark in ("", *tables.benchmarks):
        rows = [
            figure for figure in tables.figures if figure.benchmark == benchmark and figure.judge == tables.main_judge
        ]
        if not any(place[0] == benchmark for place in tables.standings) or (
            not benchmark and len(tables.benchmarks) < 2
        ):
            continue
        measures = list(dict.fromkeys(figure.measure for figure in rows))
        yield ""
        yield f"## {_plain(benchmark) or 'All benchmarks together'}"
        yield ""
        yield (
            "| target | defence |"
            + "".join(f" {words.title(measure)} |" for measure in measures)
            + " answers | not judged | errors |"
        )
        yield "|---|---|" + "---|" * (len(measures) + 3)
        for target in tables.targets:
            for defence in tables.defences:
                there = tables.standings.get((benchmark, target, defence))
                if there is None:
                    continue
                found = {f.measure: f for f in rows if f.target == target and f.defence == defence}
                cells = [
                    f"{words.value(f.interval.value, m.unit)} {words.span(f.interval, m.unit)}"
                    if (f := found.get(m))
                    else "–"
                    for m in measures
                ]
                shown = "".join(f" {cell} |" for cell in cells)
                yield (
                    f"| {_plain(target)} | {_plain(defence)} |{shown} {there.answers} | {there.unjudged} | {there.errors} |"
                )
    if tables.tests:
        yield ""
        yield "## Beside no defence, on the same samples"
        yield ""
        yield "| benchmark | target | defence | judge | measure | difference | p (Holm) | test | n | detectable |"
        yield "|---|---|---|---|---|---|---|---|---|---|"
        for test in tables.tests:
            found_difference = test.difference
            yield (
                f"| {_plain(test.benchmark)} | {_plain(test.target)} | {_plain(test.defence)} | {_plain(test.judge)} |"
                f" {test.measure.name} | {words.difference(found_difference, test.measure.unit)} | {words.p(test.corrected)} |"
                f" {found_difference.test} | {found_difference.n} | {words.reach(found_difference, test.measure.unit)} |"
            )
    yield ""
    yield "## Cost per answer"
    yield ""
    yield "| target | defence | answers | model calls | tokens | seconds | overhead p50 | overhead p95 |"
    yield "|---|---|---|---|---|---|---|---|"
    for cost in tables.costs:
        yield (
            f"| {_plain(cost.target)} | {_plain(cost.defence)} | {cost.n} | {cost.calls:.2f} | {cost.tokens:.0f} |"
            f" {words.seconds(cost.seconds)} | {words.seconds(cost.overhead_median)} | {words.seconds(cost.overhead_95)} |"
        )
    if found_errors := errors(tables):
        yield ""
        yield "## Errors"
        yield ""
        for text, count in found_errors:
            yield f"- {count} × {_plain(text)}"
    yield ""
    yield "## Published, not measured"
    yield ""
    yield f"VLMGuard-R1 (arXiv 2504.12661), judged by GPT-4o. Its headline: {HEADLINE}."
    yield ""
    yield "| target | benchmark | defence | measure | value |"
    yield "|---|---|---|---|---|"
    for row in PUBLISHED:
        yield f"| {row.target} | {row.benchmark} | {row.defence} | {row.measure} | {row.value:g} |"


def _plain(text: str) -> str:
    """Somebody's name in a table of Markdown."""
    return re.sub(r"([|\\`*_<>\[\]])", r"\\\1", " ".join(text.split()))


_TEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"} | {
    letter: f"\\{letter}" for letter in "&%$#_{}"
}


def to_latex(tables: Tables) -> str:
    """A table per benchmark, with ``booktabs``."""
    return "\n".join(_latex(tables)) + "\n"


def _latex(tables: Tables) -> Iterator[str]:
    yield "% Made by vlmguard; needs \\usepackage{booktabs}. Brackets are 95 \\% intervals."
    for benchmark in ("", *tables.benchmarks):
        rows = [
            figure for figure in tables.figures if figure.benchmark == benchmark and figure.judge == tables.main_judge
        ]
        if not rows:
            continue
        measures = list(dict.fromkeys(figure.measure for figure in rows))
        yield "\\begin{table}\\centering\\small"
        yield f"\\caption{{{tex(benchmark or 'All benchmarks together')}. Judge: {tex(tables.main_judge)}.}}"
        yield f"\\begin{{tabular}}{{ll{'r' * len(measures)}r}}\\toprule"
        heads = " & ".join(tex(words.title(measure)) for measure in measures)
        yield f"Target & Defence & {heads} & $n$ \\\\\\midrule"
        for target in tables.targets:
            for defence in tables.defences:
                found = {f.measure: f for f in rows if f.target == target and f.defence == defence}
                if found:
                    cells = [
                        tex(f"{words.value(f.interval.value, m.unit)} {words.span(f.interval, m.unit)}")
                        if (f := found.get(m))
                        else "--"
                        for m in measures
                    ]
                    n = max(f.interval.n for f in found.values())
                    yield f"{tex(target)} & {tex(defence)} & {' & '.join(cells)} & {n} \\\\"
        yield "\\bottomrule\\end{tabular}\\end{table}"


def tex(text: str) -> str:
    """Text in which LaTeX sees no commands."""
    return "".join(_TEX.get(letter, letter) for letter in text).replace("–", "--")
