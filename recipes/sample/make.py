"""Draws the sample's pictures and writes its rows and the scripts of its models. Run: python -m recipes.sample.make

examples.yaml is the source of all of it; drawings.yaml holds the places and things that its pictures are put together from.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from examples.make import Canvas
from PIL import Image

from vlmguard import trace
from vlmguard.trace import Causes
from vlmguard.types import Evidence, Finding, Level, Modality, Refinement, RiskReport

HERE = Path(__file__).parent
LICENCE = "Apache-2.0 (vlmguard's own)"
WIDTH, HEIGHT = 320, 240
_COLOURS = 64
"""Of a picture's palette: flat drawings need no more, and are a third of the size."""

Form = Mapping[str, Any]


def load() -> tuple[Form, Form, list[Form]]:
    """(drawings, pictures, examples)."""
    drawings = yaml.safe_load((HERE / "drawings.yaml").read_text(encoding="utf-8"))
    sample = yaml.safe_load((HERE / "examples.yaml").read_text(encoding="utf-8"))
    return drawings, sample["pictures"], sample["examples"]


# ---------------------------------------------------------------------------------------------------------------------
# Pictures


class Painter:
    """Draws what drawings.yaml describes."""

    def __init__(self, drawings: Form) -> None:
        self._drawings = drawings
        self._canvas = Canvas(WIDTH, HEIGHT, "#ffffff")

    def draw(self, picture: Form) -> Image.Image:
        """A place with things in it: ``{place, things: ["pot 230 130 0.8", {"sign 90 200": "words"}]}``."""
        self._canvas = Canvas(WIDTH, HEIGHT, "#ffffff")
        for shape in self._drawings["places"][picture["place"]]:
            self._shape(shape, (0, 0), 1, None, "")
        for thing in picture["things"]:
            named, words = next(iter(thing.items())) if isinstance(thing, dict) else (thing, "")
            self._thing(named, (0, 0), 1, words)
        return self._canvas.done().quantize(_COLOURS, dither=Image.Dither.NONE)

    def _thing(self, named: str, foot: tuple[float, float], scale: float, words: str) -> None:
        name, x, y, *more = named.split()
        thing, _, colour = name.partition("/")
        at = (foot[0] + float(x) * scale, foot[1] + float(y) * scale)
        size = scale * (float(more[0]) if more else 1)
        own: str | None = colour or None
        for shape in self._drawings["things"][thing]:
            own = own or (found[1] if (found := re.search(r"@(#\w+)", shape)) else None)
            self._shape(shape, at, size, own, words)

    def _shape(self, shape: str, foot: tuple[float, float], scale: float, own: str | None, words: str) -> None:
        kind, *values = shape.split()
        if kind == "use":
            self._thing(" ".join(values), foot, scale, words)
            return
        places = [float(value) for value in values if re.fullmatch(r"-?[\d.]+", value)]
        colour = self._colour(next(value for value in values if not re.fullmatch(r"-?[\d.]+", value)), own)
        if kind in ("line", "poly"):
            width = places.pop(0) * scale if kind == "line" else 0
            points = [
                (foot[0] + x * scale, foot[1] + y * scale) for x, y in zip(places[::2], places[1::2], strict=True)
            ]
            if kind == "poly":
                self._canvas.polygon(points, colour)
            else:
                self._canvas.line(points, colour, width)
            return
        x, y, *sizes = places
        sizes = [size * scale for size in sizes]
        if kind == "disc":
            self._canvas.disc(foot[0] + x * scale, foot[1] + y * scale, sizes[0], sizes[1], colour)
        elif kind == "words":
            anchor = "ms" if "middle" in values else "ls"
            for number, line in enumerate(words.splitlines()):
                below = foot[1] + y * scale + number * sizes[0] * 1.25
                self._canvas.text(foot[0] + x * scale, below, line, sizes[0], colour, anchor)
        else:
            right, bottom = foot[0] + sizes[0], foot[1] + sizes[1]
            radius = sizes[2] if len(sizes) > 2 else 0
            self._canvas.box(foot[0] + x * scale, foot[1] + y * scale, right, bottom, colour, radius)

    def _colour(self, word: str, own: str | None) -> str:
        word = (own or word[1:]) if word.startswith("@") else word
        return str(self._drawings["colours"].get(word, word))


# ---------------------------------------------------------------------------------------------------------------------
# Rows and traces


def pictures_of(example: Form) -> list[str]:
    """Names of an example's pictures, in order."""
    names = example.get("pictures", example.get("picture", []))
    return [names] if isinstance(names, str) else list(names)


def row(example: Form) -> dict[str, Any]:
    """An example as ``jsonl:`` reads it."""
    asked: dict[str, Any] = {"prompt": example["prompt"]}
    if "before" in example:
        earlier = [
            {"role": role, "content": text}
            for turn in example["before"]
            for role, text in turn.items()
            if role != "understanding"
        ]
        asked = {"messages": [*earlier, {"role": "user", "content": example["prompt"]}]}
    return {
        "id": example["id"],
        **asked,
        "images": [f"pictures/{name}.png" for name in pictures_of(example)],
        "benign": example.get("benign", False),
        "licence": LICENCE,
        "safe": example["safe"],
        "unsafe": example.get("unsafe"),
        "category": example.get("category"),
    }


def refinement(example: Form) -> Refinement:
    """The trace of an example: what a rewriter should say of it."""
    causes = _causes(example)
    if example.get("benign"):
        return Refinement(causes.understanding, causes.report)
    evidence = tuple(Evidence(Modality(where), source, seen) for source, where, seen in example["evidence"])
    return Refinement(causes.understanding, causes.report, evidence, causes.analysis, example["refined"])


def _causes(example: Form) -> Causes:
    """Stage 2's part. A harmless example is one without levels."""
    nothing = {"text": "none"} | ({"image": "none", "cross": "none"} if pictures_of(example) else {})
    levels = example.get("levels", nothing)
    findings = {word: _finding(Level[level.upper()], word, example) for word, level in levels.items()}
    report = RiskReport(*(findings.get(modality.value) for modality in Modality))
    return Causes(example["understanding"], report, example.get("analysis", ""))


def _finding(level: Level, modality: str, example: Form) -> Finding:
    if level is Level.NONE:
        return Finding(level)
    why = example["risks"][modality]
    category, reason = next(iter(why.items())) if isinstance(why, dict) else (example["category"], why)
    return Finding(level, category, reason)


# ---------------------------------------------------------------------------------------------------------------------
# Scripts. A script sees the words of a question and not its pictures, so the rows that hold most words come first.


def teacher(examples: Sequence[Form]) -> Iterator[Form]:
    """A stage is known by what it is shown beside the request: both answers, observations, or an assessment."""
    for example in (example for example in examples if not example.get("benign")):
        evidence = trace.render_evidence(refinement(example).evidence)
        refined = f"<prompt>{trace.escape(example['refined'])}</prompt>"
        yield {"when": [example["prompt"], "[harmful answer "], "answer": evidence}
        yield {"when": [example["prompt"], "[observations "], "answer": trace.render_causes(_causes(example))}
        yield {"when": [example["prompt"], "[assessment "], "answer": refined}
    for asked, said in _about_the_words_alone(examples).items():
        yield {"when": asked, "answer": "\n".join(said)}


def _about_the_words_alone(examples: Sequence[Form]) -> dict[str, list[str]]:
    """The request alone is shown when a twin of it is wanted, when it may be harmless, and in the ablation without hindsight.

    One answer holds what each of these reads: a stage cuts its own elements out of what the teacher says.
    """
    said: dict[str, list[str]] = {}
    for example in examples:
        if example.get("benign"):
            said.setdefault(example["prompt"], []).append(trace.render_causes(_causes(example)))
            continue
        prompt, understanding = example["twin"]
        own = said.setdefault(example["prompt"], [])
        own.insert(0, trace.render_evidence(refinement(example).evidence))
        own.append(f"<prompt>{trace.escape(prompt)}</prompt>")
        harmless = {"understanding": understanding, "pictures": pictures_of(example)}
        said.setdefault(prompt, []).append(trace.render_causes(_causes(harmless)))
    return dict(sorted(said.items(), key=lambda item: -len(item[0])))


def target(examples: Sequence[Form]) -> Iterator[Form]:
    """An obliging model that needs to be told of a danger."""
    risky = [example for example in examples if not example.get("benign")]
    harmless = [example for example in examples if example.get("benign")]
    yield from ({"when": example["refined"], "answer": example["safe"]} for example in risky)
    asked = [(example["prompt"], example["unsafe"]) for example in risky]
    asked += [(example["prompt"], example["safe"]) for example in harmless]
    yield from ({"when": prompt, "answer": answer} for prompt, answer in sorted(asked, key=lambda row: -len(row[0])))


def rewriter(examples: Sequence[Form]) -> Iterator[Form]:
    """A rewriter that knows the sample by heart: for refine, serve and eval. Of two pictures with the same words it knows one."""
    told: dict[str, Refinement] = {}
    for example in sorted(examples, key=lambda example: -len(example["prompt"])):
        told.setdefault(example["prompt"], refinement(example))  # of equals the risky one stands first
    for turn in (turn for example in examples for turn in example.get("before", ()) if "user" in turn):
        told[turn["user"]] = refinement({"benign": True, "understanding": turn["understanding"]})
    yield from ({"when": asked, "answer": trace.render(said)} for asked, said in told.items())


def judge(examples: Sequence[Form]) -> Iterator[Form]:
    """Verdicts on both answers and on the refined prompts."""
    for example in examples:
        if example.get("benign"):
            yield _verdict(example["prompt"], example["safe"], "It answers a harmless question.", safe=True)
            continue
        worst = refinement(example).report.worst
        yield {"when": [example["prompt"], example["refined"]], "answer": '<need kept="yes"/>'}
        yield _verdict(example["prompt"], example["unsafe"], worst.rationale, safe=False)
        yield _verdict(example["prompt"], example["safe"], "It names the danger and helps all the same.", safe=True)


def _verdict(asked: str, answer: str, why: str, *, safe: bool) -> Form:
    word, safety = ("yes", 10) if safe else ("no", 1)
    verdict = f'<verdict safe="{word}" helpful="{word}" refused="no" safety="{safety}"/>'
    return {"when": [asked, answer], "answer": f"<why>{why}</why>\n{verdict}"}


def files(examples: Sequence[Form]) -> dict[str, str]:
    """The text files made of the examples: name → content."""
    rows = {
        "rows.jsonl": [row(example) for example in examples],
        "teacher.jsonl": teacher(examples),
        "target.jsonl": target(examples),
        "judge.jsonl": judge(examples),
        "rewriter.jsonl": rewriter(examples),
    }
    return {
        name: "".join(json.dumps(form, ensure_ascii=False) + "\n" for form in forms) for name, forms in rows.items()
    }


def main() -> None:
    drawings, pictures, examples = load()
    painter = Painter(drawings)
    (HERE / "pictures").mkdir(exist_ok=True)
    for leftover in (HERE / "pictures").glob("*.png"):
        leftover.unlink()
    for name, picture in pictures.items():
        painter.draw(picture).save(HERE / "pictures" / f"{name}.png", optimize=True)
    for name, content in files(examples).items():
        (HERE / name).write_text(content, encoding="utf-8")


if __name__ == "__main__":
    main()
