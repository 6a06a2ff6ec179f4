"""The embedded rewriter: offline, no GPU, no download. Reads the words in pictures, undoes disguises, resolves what the
prompt points at, scores what comes of it, and composes the rewrite from the policy's guidance.

It cannot see scenes and says so in every account (``unjudged: scene``).
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, wraps
from hashlib import sha256

from vlmguard.language import count_foreign_letters, detect
from vlmguard.perception.obfuscation import View, decode, substitutions
from vlmguard.perception.sight import Eyes, Sight
from vlmguard.perception.wordlike import sense
from vlmguard.policy import Action, Policy
from vlmguard.protocols import RiskScorer
from vlmguard.rewriters.asking import hands_over, is_mere_carrier, requests, statements
from vlmguard.rewriters.compose import Situation, compose
from vlmguard.rewriters.orders import orders_in_definition, orders_to_assistant
from vlmguard.rewriters.resolution import NO_SENSE, PROMPT_CHARACTERS, READ_CHARACTERS, resolve
from vlmguard.rewriters.scorer import LANGUAGES, EmbeddedScorer, sentences
from vlmguard.types import (
    NOTHING,
    Aspect,
    Chat,
    Evidence,
    Finding,
    Image,
    Judgement,
    Level,
    Message,
    Modality,
    Opaque,
    Reason,
    Refinement,
    Review,
    RiskReport,
    Text,
)

MOST_CHARACTERS = 50_000
"""Of one text that are scored. What lies beyond is ``unjudged: budget``: padding is no way through."""
MOST_DERIVED = 12_000
"""Of a decoded view or a composed intent: there are many of them, so each may cost less. The same rule applies."""
_TURNS_TOGETHER = 4
"""How many of the user's last turns are also read as one, so that a request split over turns is seen."""
_SNIPPET = 160
_MOST_SENTENCES = 400
"""Beyond, the riskiest sentence of a text is not looked for."""
_REMEMBERED = 4096
"""Characters up to which a text is remembered with what was found in it: longer ones would fill the memory."""
_FOLLOWED = "prompt_injection"
_INSTRUCTIONS = "instructions"
"""The source of what a system's or a developer's turn says, which instructs the assistant by its nature."""
_FOREIGN_IN_PICTURE = 4
_FOREIGN_IN_TEXT = 8
"""Letters of another script from which on a text holds words that nobody scored: pictures misread single ones."""
_PARAGRAPH = 12
_SHORT = 40
"""Words up to which a reading that asks for something is scored whole; of a longer one its requests are."""
_TELLING_WORDS = 6
_WORD = re.compile(r"[^\W\d_]{2,}")


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A text worth scoring, and what it would prove."""

    text: str
    modality: Modality
    source: str
    observation: str
    """What the evidence says, with ``{}`` for a snippet of the text."""
    hidden: bool = False
    orders: bool = False
    """An order to the assistant where nobody may give one: a finding whatever its score."""
    together: tuple[int, ...] = ()
    """The pictures that it takes to make it, when it takes several."""
    derived: bool = False
    """Not the words themselves, but what they decode to or mean with a picture."""
    stated: bool = False
    """Said and not asked, where nobody hands it control: a finding only at the highest level."""
    deeper: bool = False
    """Disguised once more, beyond the depth to which disguises are undone."""

    @property
    def judged(self) -> str:
        """As much of the text as is scored."""
        return self.text[: MOST_DERIVED if self.derived else MOST_CHARACTERS]

    @property
    def is_cut(self) -> bool:
        return len(self.judged) < len(self.text) or self.deeper


@dataclass(frozen=True, slots=True)
class _Scored:
    candidate: _Candidate
    finding: Finding

    @property
    def weight(self) -> tuple[int, float]:
        return int(self.finding.level), self.finding.score or 0.0


class EmbeddedRewriter:
    """The default rewriter.

    Args:
        policy: categories, thresholds and guidance.
        scorer: texts in, risk per category out.
        eyes: reads pictures.
        threads: cores that one refinement may use.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        scorer: RiskScorer | None = None,
        eyes: Eyes | None = None,
        threads: int = 2,
    ) -> None:
        self._policy = policy
        self._scorer = _Remembering(scorer or EmbeddedScorer())
        self._eyes = eyes or Eyes(threads=threads)

    @property
    def fingerprint(self) -> str:
        """Hash of the scorer's weights."""
        return self._scorer.fingerprint

    @property
    def eyes(self) -> Eyes:
        """What reads its pictures, and remembers them."""
        return self._eyes

    async def refine(self, chat: Chat, /) -> Review:
        """Judges the last turn of ``chat`` in the light of the whole."""
        return await asyncio.to_thread(self.review, chat)

    def review(self, chat: Chat) -> Review:
        """``refine`` for callers that have a thread of their own."""
        message = chat.messages[-1]
        sights = {image.sha256: self._eyes.look(image) for image in chat.images}
        scored = self._score([*_candidates(chat, sights), *self._split(chat)])
        report = _report(message, scored, sights)
        refinement = self._refinement(chat, scored, report, sights)
        cut = {item.candidate.modality for item in scored if item.candidate.is_cut} | _beyond(chat, sights)
        return Review(refinement, _account(message, sights, cut), "embedded", self._scorer.fingerprint)

    def _score(self, candidates: Sequence[_Candidate]) -> list[_Scored]:
        risks = self._scorer.score([candidate.judged for candidate in candidates])
        return [
            _Scored(candidate, self._finding(candidate, risk))
            for candidate, risk in zip(candidates, risks, strict=True)
        ]

    def _split(self, chat: Chat) -> Iterable[_Candidate]:
        """The user's last turns read as one, back to the last that was risky alone and was answered when it came."""
        turns = [message.text for message in chat.messages if message.role == "user"][-_TURNS_TOGETHER:]
        if len(turns) < 2 or chat.messages[-1].role != "user":
            return
        joined = turns[-1]
        for number, (turn, risk) in enumerate(
            zip(turns[-2::-1], self._scorer.score([_judged(turn) for turn in turns[-2::-1]]), strict=True), start=2
        ):
            if any(self._policy.level(category, score) >= Level.MEDIUM for category, score in risk.items()):
                return
            glued, joined = f"{turn}{joined}", f"{turn} {joined}"
            for text in (joined, glued):  # a request may be split inside a word
                yield _Candidate(text, Modality.TEXT, f"last {number} turns", 'read as one they ask "{}"')

    def _finding(self, candidate: _Candidate, risk: dict[str, float]) -> Finding:
        """The gravest category. Only orders count in what nobody wished for (a tool's result); in what instructs the assistant by
        its nature the scorer's word on orders does not count.
        """
        if candidate.source == "tool result":
            risk = {_FOLLOWED: risk.get(_FOLLOWED, 0.0)}
        if candidate.source == _INSTRUCTIONS and not candidate.hidden:
            risk = {category: score for category, score in risk.items() if category != _FOLLOWED}
        if candidate.orders:
            risk = {_FOLLOWED: max(0.9, risk.get(_FOLLOWED, 0.0))}
        graded = [(self._policy.level(category, score), score, category) for category, score in risk.items()]
        level, score, category = max(graded, default=(Level.NONE, 0.0, ""))
        if candidate.stated and level < Level.HIGH:
            return Finding(Level.NONE, score=score)
        if level is Level.NONE and candidate.hidden:
            return Finding(
                Level.LOW,
                _FOLLOWED,
                "The words were disguised, which honest requests have little need of.",
                score,
            )
        if level is Level.NONE:
            return Finding(Level.NONE, score=score)
        return Finding(level, category, self._rationale(candidate, category), score)

    def _rationale(self, candidate: _Candidate, category: str) -> str:
        title = self._policy.category(category).title.lower()
        match candidate.modality:
            case Modality.TEXT:
                return f"The words ask for something that falls under {title}."
            case Modality.IMAGE if candidate.orders:
                return "Words in the picture give orders to the assistant that the user did not write."
            case Modality.IMAGE:
                says = "say" if candidate.stated else "ask for"
                return f"Words in the picture {says} something that falls under {title}."
            case Modality.CROSS:
                return f"Prompt and picture together ask for something that falls under {title}."

    def _refinement(
        self, chat: Chat, scored: list[_Scored], report: RiskReport, sights: dict[str, Sight]
    ) -> Refinement:
        evidence = tuple(_evidence(chat, scored, sights))
        understanding = _understanding(chat, sights)
        acting = [
            item
            for item in scored
            if item.finding.level > Level.NONE and self._policy.action(item.finding) is not Action.FORWARD
        ]
        if not acting:
            return Refinement(understanding, report, evidence)
        # Of equally grave ones what several pictures make together says most: the others hold a part of it.
        worst = max(acting, key=lambda item: (item.finding.level, len(item.candidate.together) > 1, item.weight))
        composition = compose(self._situation(chat, worst, scored, sights), self._policy, detect(_users_words(chat)))
        return Refinement(understanding, report, evidence, composition.analysis, composition.prompt)

    def _situation(self, chat: Chat, worst: _Scored, scored: list[_Scored], sights: dict[str, Sight]) -> Situation:
        candidate = worst.candidate
        seen = tuple(
            (f"image {number}", " ".join(sights[image.sha256].text.split()))
            for number, image in enumerate(chat.images, start=1)
            if sights[image.sha256].lines
        )
        resolved = next(
            (
                item.candidate.text
                for item in scored
                if item.candidate.modality is Modality.CROSS and item.finding.level is worst.finding.level
            ),
            "",
        )
        return Situation(
            prompt=candidate.text if candidate.source.startswith("last") else chat.messages[-1].text,
            finding=worst.finding,
            modality=candidate.modality,
            seen=seen,
            resolved=candidate.text if candidate.modality is Modality.CROSS else resolved,
            orders=candidate.text if candidate.orders else "",
            source=candidate.source if candidate.source.startswith("image") else "",
            together=tuple(f"image {number}" for number in candidate.together) if len(candidate.together) > 1 else (),
            hidden=candidate.text if candidate.hidden else "",
            risky=self._riskiest_part(candidate.text),
            alone=any(
                item.finding.level > Level.NONE for item in scored if item.candidate.modality is not Modality.CROSS
            ),
        )

    def _riskiest_part(self, text: str) -> str:
        """The sentence of a text that carries its risk: what a rewrite quotes of a long one."""
        parts = sentences(_judged(text))
        if len(parts) < 2 or len(parts) > _MOST_SENTENCES:
            return text if len(parts) < 2 else ""
        risks = self._scorer.score(parts)
        best = max(range(len(parts)), key=lambda index: max(risks[index].values(), default=0.0))
        return parts[best]


class _Remembering:
    """A scorer that knows what it scored before: a conversation brings the same texts at every turn."""

    def __init__(self, scorer: RiskScorer, remembered: int = 8192) -> None:
        self._scorer: RiskScorer = scorer
        self._known: OrderedDict[str, dict[str, float]] = OrderedDict()
        self._remembered = remembered

    @property
    def fingerprint(self) -> str:
        return self._scorer.fingerprint

    def score(self, texts: Sequence[str], /) -> list[dict[str, float]]:
        known = {text: risk for text in texts if (risk := self._known.get(text)) is not None}
        new = list(dict.fromkeys(text for text in texts if text not in known))
        if new:
            known.update(zip(new, self._scorer.score(new), strict=True))
        for text in new:
            if len(text) <= _REMEMBERED:
                self._known[text] = known[text]
        while len(self._known) > self._remembered:
            self._known.popitem(last=False)
        return [known[text] for text in texts]


# ---------------------------------------------------------------------------------------------------------------------
# What to score


def _candidates(chat: Chat, sights: dict[str, Sight]) -> list[_Candidate]:
    message = chat.messages[-1]
    if message.role == "tool":
        return [*_of_words(message.text, "tool result"), *_of_images(chat, message, sights, {}, led=False)]
    source = _INSTRUCTIONS if message.role in ("system", "developer") else "text"
    table = dict(substitutions(message.text))
    # A prompt that only hands control to a picture has no content to be risky: what it means is the picture's request.
    carries = bool(sights) and is_mere_carrier(message.text)
    candidates = [
        *(() if carries else _of_words(message.text, source, table)),
        *_of_images(chat, message, sights, table, led=bool(sights) and hands_over(message.text)),
        *_of_pairs(chat, message, sights),
    ]
    return [candidate for candidate in candidates if candidate.text.strip()]


def _of_words(text: str, source: str, table: dict[str, str] | None = None) -> Iterable[_Candidate]:
    if not text.strip():
        return
    views = decode(text, table) if table else _disguises(text)
    if not _is_mere_code(text, views):
        yield _Candidate(text, Modality.TEXT, source, 'asks "{}"' if source == "text" else 'holds "{}"')
    # Whoever instructs the assistant may well tell it how to answer, as a tool's definition may.
    find_order = orders_in_definition if source == _INSTRUCTIONS else orders_to_assistant
    if source != "text" and (order := find_order(text)):
        yield _Candidate(order, Modality.TEXT, source, 'gives the assistant an order: "{}"', orders=True)
    for view in views:
        observation = f'{view.method} undone, it says "{{}}"'
        yield _Candidate(view.text, Modality.TEXT, source, observation, view.hidden, derived=True, deeper=view.deeper)


def _is_mere_code(text: str, views: Sequence[View]) -> bool:
    """Whether a text is no words but what hides others: the letters of a code say nothing to a scorer."""
    return any(view.hidden for view in views) and sense(text) < NO_SENSE


def _of_images(
    chat: Chat, message: Message, sights: dict[str, Sight], table: dict[str, str], *, led: bool
) -> Iterable[_Candidate]:
    """``led``: whether the prompt makes a request of whatever stands in the picture."""
    numbers = {image.sha256: number for number, image in enumerate(chat.images, start=1)}
    for image in message.images:
        sight, source = sights[image.sha256], f"image {numbers[image.sha256]}"
        if sight.lines:
            yield from _of_written(sight.text, source, "written words", table, led)
        for code in sight.codes:
            yield from _of_written(code.text, source, code.format, table, led)


def _of_written(text: str, source: str, where: str, table: dict[str, str], led: bool) -> Iterable[_Candidate]:
    if order := orders_to_assistant(text):
        yield _Candidate(order, Modality.IMAGE, source, f'{where} give the assistant an order: "{{}}"', orders=True)
    views = decode(text, table)  # with its lines: wrapped codes and columns need them
    if not _is_mere_code(text, views):
        yield from _asked(text, source, where, led)
    for view in views:
        undone = f"{where}, {view.method} undone,"
        if view.hidden or view.deeper:
            observation = f'{undone} say "{{}}"'
            yield _Candidate(
                view.text, Modality.IMAGE, source, observation, view.hidden, derived=True, deeper=view.deeper
            )
        else:
            yield from (replace(one, derived=True) for one in _asked(view.text, source, undone, led))


def _asked(text: str, source: str, where: str, led: bool) -> Iterable[_Candidate]:
    """What written words ask for. A label asks for nothing: alone it is context, and ``_of_pairs`` scores what the prompt makes
    of it. Where the prompt hands control to the picture, anything that stands there is asked for.
    """
    whole = " ".join(text.split())
    if led:
        yield _Candidate(whole, Modality.IMAGE, source, f'{where} say "{{}}"')
        return
    asked = requests(text)
    if asked and len(whole.split()) <= _SHORT:
        yield _Candidate(whole, Modality.IMAGE, source, f'{where} say "{{}}"')
    elif asked:
        yield _Candidate(" ".join(asked), Modality.IMAGE, source, f'{where} ask "{{}}"')
    if said := statements(text):
        yield _Candidate(" ".join(said), Modality.IMAGE, source, f'{where} state "{{}}"', stated=True)


def _of_pairs(chat: Chat, message: Message, sights: dict[str, Sight]) -> Iterable[_Candidate]:
    """The intents that prompt and pictures make together. A prompt may point at a picture of an earlier turn."""
    if not message.text.strip():
        return
    readings = [
        "\n".join((sights[image.sha256].text, *(code.text for code in sights[image.sha256].codes))).strip()
        for image in chat.images
    ]
    for composed in resolve(message.text, readings):
        yield _Candidate(
            composed.text,
            Modality.CROSS,
            f"image {composed.image}",
            f'with the prompt ({composed.how}) it means "{{}}"',
            derived=True,
            together=composed.together,
        )


# ---------------------------------------------------------------------------------------------------------------------
# What came of it


def _report(message: Message, scored: list[_Scored], sights: dict[str, Sight]) -> RiskReport:
    def worst(modality: Modality) -> Finding:
        findings = [item for item in scored if item.candidate.modality is modality]
        return max(findings, key=lambda item: item.weight).finding if findings else NOTHING

    text = worst(Modality.TEXT)
    judged_text = None if text.level is Level.NONE and not _language_known(message.text) else text
    if not message.images and not sights:
        return RiskReport(judged_text, None, None)
    image = worst(Modality.IMAGE) if message.images else None
    return RiskReport(judged_text, image, worst(Modality.CROSS))


def _evidence(chat: Chat, scored: list[_Scored], sights: dict[str, Sight]) -> Iterable[Evidence]:
    """What was seen in the pictures, then every text that carries a risk or a disguise."""
    told: set[str] = set()
    for number, image in enumerate(chat.images, start=1):
        if image not in chat.messages[-1].images:
            continue
        sight = sights[image.sha256]
        if sight.lines:
            yield Evidence(Modality.IMAGE, f"image {number}", f'written words say "{_snippet(sight.text)}"')
        for code in sight.codes[:4]:
            yield Evidence(Modality.IMAGE, f"image {number}", f'a {code.format} says "{_snippet(code.text)}"')
    for item in scored:
        if item.finding.level is Level.NONE:
            continue
        observation = item.candidate.observation.format(_snippet(item.candidate.text))
        if observation not in told and not observation.startswith("written words say"):
            told.add(observation)
            yield Evidence(item.candidate.modality, item.candidate.source, observation)


def _understanding(chat: Chat, sights: dict[str, Sight]) -> str:
    message = chat.messages[-1]
    says = f'The {"user asks" if message.role == "user" else "tool returned"} "{_snippet(message.text)}"'
    if not message.text.strip():
        says = "The user sends no words"
    shown = [
        f'image {number} holds the words "{_snippet(sights[image.sha256].text, 80)}"'
        if sights[image.sha256].lines
        else f"image {number} holds no readable words"
        for number, image in enumerate(chat.images, start=1)
    ]
    return "; ".join([says, *shown]) + "."


def _snippet(text: str, most: int = _SNIPPET) -> str:
    flat = " ".join(text.replace('"', "'").split())
    return flat if len(flat) <= most else flat[: most - 1].rstrip() + "…"


# ---------------------------------------------------------------------------------------------------------------------
# The account


def _account(message: Message, sights: dict[str, Sight], cut: set[Modality]) -> tuple[Judgement, ...]:
    """``cut``: the modalities of which some text was too long to be scored whole."""
    over = Reason.BUDGET if cut & {Modality.TEXT, Modality.CROSS} else None
    over_images = Reason.BUDGET if Modality.IMAGE in cut else None
    rows: list[Judgement] = []
    for part in message.parts:
        match part:
            case Text():
                rows.append(_row(part.path, Aspect.TEXT, "risk scorer", over or _text_gap(message.text, part.text)))
            case Image():
                sight = sights[part.sha256]
                unread = sight.unread or over_images or _picture_gap(sight.text)
                uncoded = sight.uncoded or over_images or _codes_gap(sight)
                rows.append(_row(part.path, Aspect.TEXT, "text reader", unread))
                rows.append(_row(part.path, Aspect.CODES, "code reader", uncoded))
                rows.append(Judgement(part.path, Aspect.SCENE, unjudged=Reason.SCENE))
            case Opaque():
                rows.append(Judgement(part.path, Aspect.CONTENT, unjudged=part.reason or Reason.OPAQUE))
    return tuple(rows)


def _beyond(chat: Chat, sights: dict[str, Sight]) -> set[Modality]:
    """Where what prompt and pictures mean together was looked for in a part of them only."""
    beyond: set[Modality] = set()
    read = [len(sights[image.sha256].text) for image in chat.images]
    if any(length > READ_CHARACTERS for length in read):
        beyond.add(Modality.IMAGE)
    if any(read) and len(chat.messages[-1].text) > PROMPT_CHARACTERS:
        beyond.add(Modality.CROSS)
    return beyond


def _row(path: str, aspect: Aspect, judge: str, gap: Reason | None) -> Judgement:
    return Judgement(path, aspect, unjudged=gap) if gap else Judgement(path, aspect, judged_by=judge)


def _text_gap(turn: str, text: str) -> Reason | None:
    """A turn is scored as one text, so its parts share one budget: many short ones are no way through."""
    if len(turn) > MOST_CHARACTERS:
        return Reason.BUDGET
    return None if _language_known(text) else Reason.LANGUAGE


def _codes_gap(sight: Sight) -> Reason | None:
    known = all(_language_known(code.text) and _picture_gap(code.text) is None for code in sight.codes)
    return None if known else Reason.LANGUAGE


def _picture_gap(text: str) -> Reason | None:
    """Labels and scattered words say little of a language; a paragraph does, and so do a few foreign letters."""
    if count_foreign_letters(text) >= _FOREIGN_IN_PICTURE:
        return Reason.LANGUAGE
    if len(text.split()) < _PARAGRAPH or detect(text) in LANGUAGES | {"und"}:
        return None
    return Reason.LANGUAGE


def _remembered(judge: Callable[[str], bool], most: int = 4096) -> Callable[[str], bool]:
    """``judge``, its last words known by the text's digest: a text of any length costs the memory nothing."""
    known: OrderedDict[bytes, bool] = OrderedDict()
    lock = threading.Lock()

    @wraps(judge)
    def remembering(text: str) -> bool:
        digest = sha256(text.encode(errors="surrogatepass")).digest()
        with lock:
            said = known.get(digest)
        if said is None:
            said = judge(text)
        with lock:
            known[digest] = said
            known.move_to_end(digest)
            if len(known) > most:
                known.popitem(last=False)
        return said

    return remembering


@_remembered
def _language_known(text: str) -> bool:
    """Whether a text is in a language that the scorer knows, and no sentence of it plainly in another: a preamble in one does
    not speak for the rest. A text in which no language shows is known when it is short, or when a disguise undone shows one.
    """
    if count_foreign_letters(text) >= _FOREIGN_IN_TEXT or any(map(_is_foreign, sentences(text))):
        return False
    language = detect(text)
    if language != "und":
        return language in LANGUAGES
    few = len(_WORD.findall(text)) < _TELLING_WORDS
    return few or any(view.hidden and detect(view.text) in LANGUAGES for view in _disguises(text))


def _is_foreign(sentence: str) -> bool:
    telling = len(_WORD.findall(sentence)) >= _TELLING_WORDS
    return telling and detect(sentence) not in LANGUAGES | {"und"}


def _disguises(text: str) -> tuple[View, ...]:
    """``decode`` without a word table. Of a short text it is remembered, since scoring and the account both ask for it."""
    return _short_disguises(text) if len(text) <= _REMEMBERED else decode(text)


@lru_cache(maxsize=256)
def _short_disguises(text: str) -> tuple[View, ...]:
    return decode(text)


def _judged(text: str) -> str:
    return text[:MOST_CHARACTERS]


def _users_words(chat: Chat) -> str:
    """Of the last turn of the user's; "" where a tool spoke before any."""
    return next((message.text for message in reversed(chat.messages) if message.role == "user"), "")
