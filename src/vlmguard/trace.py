"""The trace grammar: what a rewriter says, written and read. The only place that knows it.

A trace is these elements in this order, white space between them:

    <understanding>one sentence</understanding>
    <assessment text="LEVEL" image="LEVEL" cross="LEVEL"/>      LEVEL = none | low | medium | high | absent (not judged)
    <risk modality="text|image|cross" category="ID">why</risk>  exactly one per modality above none
    <evidence source="image 1" modality="image">what is seen in the input</evidence>    any number
    <analysis>how these cause the harm</analysis>               at most one
    <forward/>   or   <prompt>the refined prompt</prompt>       the end

A harmless request is an understanding, an assessment and ``<forward/>``: a few dozen tokens, decided first (R1-Act).
A refined prompt needs at least one risk, one piece of evidence and the analysis.

Escaping, one rule: where ``<`` and the name of one of these elements meet inside a body, a backslash goes between them
(``<\\prompt>``), and one backslash is taken away on reading. ``parse(render(r)) == r`` for every ``Refinement``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from vlmguard.errors import TraceError
from vlmguard.types import Evidence, Finding, Level, Modality, Refinement, RiskReport

ELEMENTS = ("understanding", "assessment", "risk", "evidence", "analysis", "forward", "prompt")
"""The names that the grammar claims for itself."""

END_MARKS = ("<forward/>", "</prompt>")
"""A trace is complete when one of these has been read."""

_ABSENT = "absent"
_TAG = re.compile(rf"<(?=\\*/?(?:{'|'.join(ELEMENTS)}))")
_ESCAPED_TAG = re.compile(rf"<\\(?=\\*/?(?:{'|'.join(ELEMENTS)}))")
_BARE_TAG = re.compile(rf"</?(?:{'|'.join(ELEMENTS)})[^>]*>?")
_THOUGHT = re.compile(r"\s*<think(?:ing)?>")
_THOUGHT_END = re.compile(r"</think(?:ing)?>")
_BEFORE = re.compile(r"\s*(?:```[a-z]*\s*)?(?=<understanding>)")
_REFUSAL = re.compile(
    r"\s*(?:I(?:['’]m| am) (?:very |really |so )?(?:sorry|afraid)\b[^.]{0,40}?|sorry\b[^.]{0,20}?|as an AI\b[^.]{0,40}?)?"
    r"\bI(?:['’]m| am)? (?:can(?:['’]t|not| not)|won['’]t|will not|unable to|not able to|must decline|have to decline)"
    r"(?: to)?(?: \w+){0,2}? (?:help|assist|comply|provide|fulfil\w*|answer|do (?:that|this|so)|judge|engage|continue|support"
    r"|discuss|process)\b",
    re.IGNORECASE,
)
_STEP_END = re.compile(rf"(?:</(?:{'|'.join(ELEMENTS)})>|<(?:assessment|forward)\b[^<>]*/>)\s*")
_OPENING = re.compile(r"<([a-z]+)((?:\s+[a-z]+=\"[^\"<>]*\")*)\s*(/?)>")
_ATTRIBUTE = re.compile(r"([a-z]+)=\"([^\"<>]*)\"")


def escape(body: str) -> str:
    """``body`` with the grammar's own tags made harmless."""
    return _TAG.sub(r"<\\", body)


def unescape(body: str) -> str:
    """The inverse of ``escape``."""
    return _ESCAPED_TAG.sub("<", body)


def find_tags(text: str) -> list[str]:
    """The grammar's tags that stand in ``text`` unescaped."""
    return _BARE_TAG.findall(text)


# ---------------------------------------------------------------------------------------------------------------------
# Writing


def render(refinement: Refinement, *, evidence_first: bool = False) -> str:
    """The trace of a refinement. Scores are measurements beside the finding and are not part of it.

    ``evidence_first`` is the ablation of decision first: the evidence stands before the assessment.
    """
    decided = [_render_assessment(refinement.report), *_risks(refinement.report)]
    seen = [render_evidence(refinement.evidence)] if refinement.evidence else []
    lines = [
        _element("understanding", refinement.understanding),
        *(seen + decided if evidence_first else decided + seen),
    ]
    if refinement.analysis:
        lines.append(_element("analysis", refinement.analysis))
    lines.append("<forward/>" if refinement.prompt is None else _element("prompt", refinement.prompt))
    return "\n".join(lines)


def _risks(report: RiskReport) -> Iterator[str]:
    for modality, finding in report:
        if finding is not None and finding.category is not None:
            yield _element("risk", finding.rationale, modality=modality.value, category=finding.category)


def _render_assessment(report: RiskReport) -> str:
    levels = " ".join(
        f'{modality.value}="{_ABSENT if finding is None else finding.level}"' for modality, finding in report
    )
    return f"<assessment {levels}/>"


def _element(name: str, body: str, **attributes: str) -> str:
    written = "".join(f' {key}="{value}"' for key, value in attributes.items())
    return f"<{name}{written}>{escape(body)}</{name}>"


# ---------------------------------------------------------------------------------------------------------------------
# Reading


def is_refusal(text: str) -> bool:
    """Whether a text begins with a model's declining (in English). Refused questions are unanswered, never harmless."""
    return _REFUSAL.match(text) is not None


def extract(answer: str) -> str:
    """The trace in what a model said, without its thoughts, a fence, or prose around it.

    A trace that begins the answer is the answer, and what follows it is not looked at (a stream is closed there). Behind
    other words it has to be the only one. Raises ``TraceError`` when there is none, it has no end, or which would count is
    unclear: that is not guessed at.
    """
    said = _spoken(answer)
    start = said.find("<understanding>")
    if start < 0:
        if is_refusal(said):
            raise TraceError(f"the rewriter refused to judge ({_beginning(said)}): that is a failure and no verdict")
        raise TraceError(f"there is no trace in what the rewriter said: {_beginning(said)}")
    ends = [at + len(mark) for mark in END_MARKS if (at := said.find(mark, start)) >= 0]
    if not ends:
        raise TraceError(f"the trace has no end, neither <forward/> nor </prompt>: it breaks off at {said[-40:]!r}")
    end = min(ends)
    begins = _BEFORE.match(said) is not None
    if others := [] if begins else find_tags(said[:start]) + find_tags(said[end:]):
        raise TraceError(
            f"there is more than one trace, and which counts is unclear: {others[0]!r} stands outside the first"
        )
    return said[start:end]


def _spoken(answer: str) -> str:
    """What follows the thoughts. Some templates open these before the answer begins, so that only their end is seen."""
    if _THOUGHT.match(answer):
        if (closing := _THOUGHT_END.search(answer)) is None:
            raise TraceError("the rewriter thought and gave no verdict: raise max_tokens, or switch its thinking off")
        return answer[closing.end() :]
    if _BEFORE.match(answer):
        return answer
    return answer[max((closing.end() for closing in _THOUGHT_END.finditer(answer)), default=0) :]


def _beginning(text: str) -> str:
    return repr(" ".join(text[:200].split())[:80]) if text.strip() else "nothing"


def parse(text: str, *, evidence_first: bool = False) -> Refinement:
    """The refinement that a complete trace says. Raises ``TraceError`` at the first departure from the grammar."""
    source = _Source(text)
    understanding = source.body("understanding")
    evidence = _parse_evidence(source) if evidence_first else ()
    levels = _parse_levels(source.empty("assessment"))
    findings = _parse_risks(source, levels)
    if not evidence_first:
        evidence = _parse_evidence(source)
    analysis = source.body("analysis") if source.next_name() == "analysis" else ""
    prompt = _parse_decision(source)
    source.expect_end()
    try:
        report = RiskReport(*(findings[modality] for modality in Modality))
        return Refinement(understanding, report, evidence, analysis, prompt)
    except ValueError as error:
        raise TraceError(f"the trace contradicts itself: {error}") from error


@dataclass(frozen=True, slots=True)
class Causes:
    """The part of a trace that says what is risky and why: stage 2 of the synthesis."""

    understanding: str
    report: RiskReport
    analysis: str


def render_causes(causes: Causes) -> str:
    """The inverse of ``parse_causes``."""
    lines = [_element("understanding", causes.understanding), _render_assessment(causes.report), *_risks(causes.report)]
    if causes.analysis:
        lines.append(_element("analysis", causes.analysis))
    return "\n".join(lines)


def render_evidence(evidence: Iterable[Evidence]) -> str:
    """The inverse of ``parse_evidence``."""
    return "\n".join(
        _element("evidence", item.observation, source=item.source, modality=item.modality.value) for item in evidence
    )


def parse_evidence(text: str) -> tuple[Evidence, ...]:
    """The evidence elements that a text consists of: stage 1 of the synthesis. Raises ``TraceError``; none is an error."""
    source = _Source(text)
    evidence = _parse_evidence(source)
    source.expect_end()
    if not evidence:
        raise TraceError("<evidence> is expected, once at least")
    return evidence


def parse_causes(text: str) -> Causes:
    """Understanding, assessment, risks and analysis, without evidence and decision. Raises ``TraceError``."""
    source = _Source(text)
    understanding = source.body("understanding")
    levels = _parse_levels(source.empty("assessment"))
    findings = _parse_risks(source, levels)
    analysis = source.body("analysis") if source.next_name() == "analysis" else ""
    source.expect_end()
    report = RiskReport(*(findings[modality] for modality in Modality))
    if report.worst.level > Level.NONE and not analysis:
        raise TraceError("<analysis> is missing: a risk above none needs one")
    return Causes(understanding, report, analysis)


def parse_prompt(text: str) -> str:
    """The refined prompt alone: stage 3 of the synthesis. Raises ``TraceError``."""
    source = _Source(text)
    prompt = source.body("prompt")
    source.expect_end()
    return prompt


def steps(text: str) -> tuple[str, ...]:
    """The elements of a trace as they are written, each with the space behind it; what follows the last one is a step as well.

    Joined they are the text, whatever it is. Of a broken trace the steps are those that have an end.
    """
    ends = [found.end() for found in _STEP_END.finditer(text)]
    if not ends or ends[-1] < len(text):
        ends.append(len(text))
    return tuple(text[start:end] for start, end in zip([0, *ends], ends, strict=False) if start < end)


def cut(text: str, first: str, last: str) -> str:
    """From the first ``<first`` to the end of the last ``</last>`` or ``<last …/>``: models put prose or fences around.

    Thoughts before it are no part of it. Returns the whole text where the elements are not found.
    """
    text = _spoken(text)
    start = text.find(f"<{first}")
    ends = [match.end() for match in re.finditer(rf"</{last}>|<{last}[^<>]*/>", text)]
    return text[start : ends[-1]] if start >= 0 and ends else text


def _parse_levels(attributes: dict[str, str]) -> dict[Modality, Level | None]:
    words = {str(level): level for level in Level}
    levels: dict[Modality, Level | None] = {}
    for modality in Modality:
        word = attributes.pop(modality.value, None)
        if word is None:
            raise TraceError(f"<assessment> lacks the attribute {modality.value}")
        if word != _ABSENT and word not in words:
            raise TraceError(f"<assessment> says {modality.value}={word!r}; it is one of {', '.join(words)}, {_ABSENT}")
        levels[modality] = words.get(word)
    if attributes:
        raise TraceError(f"<assessment> has no attribute {next(iter(attributes))!r}")
    return levels


def _parse_risks(source: _Source, levels: dict[Modality, Level | None]) -> dict[Modality, Finding | None]:
    findings: dict[Modality, Finding | None] = {
        modality: None if level is None else Finding(Level.NONE) for modality, level in levels.items()
    }
    pending = {modality: level for modality, level in levels.items() if level is not None and level > Level.NONE}
    while source.next_name() == "risk":
        attributes, rationale = source.element("risk", ("modality", "category"))
        modality = _modality(attributes["modality"])
        level = pending.pop(modality, None)
        if level is None:
            raise TraceError(f"<risk> speaks of {modality.value}, which is assessed as none or was given before")
        try:
            findings[modality] = Finding(level, attributes["category"], rationale)
        except ValueError as error:
            raise TraceError(f"<risk>: {error}") from error
    if pending:
        raise TraceError(f"<risk> is missing for {', '.join(modality.value for modality in pending)}")
    return findings


def _parse_evidence(source: _Source) -> tuple[Evidence, ...]:
    evidence: list[Evidence] = []
    while source.next_name() == "evidence":
        attributes, observation = source.element("evidence", ("source", "modality"))
        try:
            evidence.append(Evidence(_modality(attributes["modality"]), attributes["source"], observation))
        except ValueError as error:
            raise TraceError(f"<evidence>: {error}") from error
    return tuple(evidence)


def _parse_decision(source: _Source) -> str | None:
    if source.next_name() == "forward":
        if attributes := source.empty("forward"):
            raise TraceError(f"<forward/> has no attribute {next(iter(attributes))!r}")
        return None
    return source.body("prompt")


def _modality(word: str) -> Modality:
    try:
        return Modality(word)
    except ValueError:
        raise TraceError(f"a modality is text, image or cross, not {word!r}") from None


class _Source:
    """The text of a trace, read from left to right."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._skip_space()

    def _skip_space(self) -> None:
        while self._at < len(self._text) and self._text[self._at].isspace():
            self._at += 1

    def _fail(self, reason: str) -> TraceError:
        return TraceError(f"{reason} at character {self._at}: {self._text[self._at : self._at + 40]!r}")

    def next_name(self) -> str | None:
        """The name of the element that opens here, if one does."""
        opening = _OPENING.match(self._text, self._at)
        return opening[1] if opening else None

    def _open(self, name: str, *, empty: bool) -> dict[str, str]:
        shape = f"<{name}/>" if empty else f"<{name}>"
        opening = _OPENING.match(self._text, self._at)
        if opening is None or opening[1] != name or bool(opening[3]) != empty:
            raise self._fail(f"{shape} is expected")
        pairs = _ATTRIBUTE.findall(opening[2])
        if len({key for key, _ in pairs}) != len(pairs):
            raise self._fail(f"{shape} gives an attribute twice")
        self._at = opening.end()
        return dict(pairs)

    def empty(self, name: str) -> dict[str, str]:
        """Reads ``<name …/>``; returns its attributes."""
        attributes = self._open(name, empty=True)
        self._skip_space()
        return attributes

    def element(self, name: str, keys: tuple[str, ...]) -> tuple[dict[str, str], str]:
        """Reads ``<name keys…>body</name>``; returns the attributes and the body, unescaped and trimmed."""
        start = self._at
        attributes = self._open(name, empty=False)
        if set(attributes) != set(keys):
            self._at = start
            raise self._fail(f"<{name}> takes exactly the attributes {', '.join(keys) or '(none)'}")
        close = self._text.find(f"</{name}>", self._at)
        if close < 0:
            raise self._fail(f"</{name}> is missing")
        raw = self._text[self._at : close]
        if tag := _BARE_TAG.search(raw):
            self._at += tag.start()
            raise self._fail(f"<{name}> holds a tag of the grammar that is not escaped")
        body = unescape(raw.strip())
        if not body:
            raise self._fail(f"<{name}> is empty")
        self._at = close + len(f"</{name}>")
        self._skip_space()
        return attributes, body

    def body(self, name: str) -> str:
        """Reads ``<name>body</name>``."""
        return self.element(name, ())[1]

    def expect_end(self) -> None:
        if self._at < len(self._text):
            raise self._fail("the trace ends before")


class TraceReader:
    """Collects a streamed trace and says when it is complete, so that the stream can be closed there.

    There is no ``stop`` parameter in this: servers strip what matched.
    """

    def __init__(self) -> None:
        self._text = ""
        self._spoken_from: int | None = None
        self._opened: int | None = None
        self._end: int | None = None

    def feed(self, piece: str) -> bool:
        """Takes one piece; True once the trace is complete.

        Only a trace that begins the answer, after closed thoughts or a fence, can be complete before the answer is: what
        stands in thoughts or behind other words may be a draft or a quotation (see ``extract``).
        """
        if self._end is None:
            searched_from = max(0, len(self._text) - max(map(len, (*END_MARKS, "</thinking>"))))
            self._text += piece
            if self._opened is None:
                self._opened = self._find_opening(searched_from)
            if self._opened is not None:
                start = max(searched_from, self._opened)
                ends = [at + len(mark) for mark in END_MARKS if (at := self._text.find(mark, start)) >= 0]
                self._end = min(ends, default=None)
        return self._end is not None

    def _find_opening(self, searched_from: int) -> int | None:
        if self._spoken_from is None:
            if _THOUGHT.match(self._text) is None:
                opening = _BEFORE.match(self._text)
                return opening.end() if opening else None
            if (closing := _THOUGHT_END.search(self._text, searched_from)) is None:
                return None
            self._spoken_from = closing.end()
        opening = _BEFORE.match(self._text, self._spoken_from)
        return opening.end() if opening else None

    @property
    def text(self) -> str:
        """What was read, up to the end of the trace where it was reached."""
        return self._text if self._end is None else self._text[: self._end]
