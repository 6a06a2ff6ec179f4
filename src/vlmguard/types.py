"""The nouns of vlmguard: frozen values, nothing else. Read this file first, then protocols.py.

A ``Chat`` of ``Message``s made of parts (``Text``, ``Image``, ``Opaque``) goes to a rewriter, which returns a ``Review``:
a ``Refinement`` (evidence, a ``RiskReport`` per modality and across them, the refined prompt) and a ``Judgement`` for
every part it looked at or could not look at. The ``Guard`` applies the policy and returns ``Guarded`` with a ``Receipt``.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from enum import IntEnum, StrEnum
from typing import Literal

from vlmguard.errors import ChatError

# ---------------------------------------------------------------------------------------------------------------------
# What is judged: a chat as it came over the wire


def _require_unicode(text: str, what: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ChatError(f"{what} holds a lone surrogate at character {error.start}; send valid Unicode text") from error


@dataclass(frozen=True, slots=True)
class Text:
    """A run of text and the place (JSON pointer) where it stood in the request; "" when it came from no request."""

    text: str
    path: str = ""

    def __post_init__(self) -> None:
        _require_unicode(self.text, self.path or "the text")


@dataclass(frozen=True, slots=True)
class Image:
    """A checked picture: its original bytes, which are the bytes that go upstream. Made by ``images.read_image``."""

    data: bytes = field(repr=False)
    media_type: str
    width: int
    """Pixels, of the first frame, before any EXIF rotation."""
    height: int
    frames: int = 1
    path: str = ""
    sha256: str = field(init=False)
    """Hex digest of ``data``: the picture's identity in caches and receipts, computed once."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "sha256", hashlib.sha256(self.data).hexdigest())


@dataclass(frozen=True, slots=True)
class Opaque:
    """A part nobody here can read: audio, a file id, a URL that was not fetched, a picture that could not be decoded."""

    kind: str
    """What it is, in a word or two: ``audio``, ``file id``, ``remote image``, ``damaged image``."""
    path: str = ""
    reason: Reason | None = None
    """Why it cannot be judged; ``None`` stands for ``Reason.OPAQUE``."""


Part = Text | Image | Opaque
Role = Literal["system", "developer", "user", "assistant", "tool"]
ROLES: tuple[Role, ...] = ("system", "developer", "user", "assistant", "tool")
JUDGED_ROLES: frozenset[Role] = frozenset({"user", "tool"})
"""Whose words the guard judges unless the policy names more. System turns are the operator's own, assistant turns the model's."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn."""

    role: Role
    parts: tuple[Part, ...]

    @property
    def text(self) -> str:
        """The turn's text parts, a line break between them."""
        return "\n".join([part.text for part in self.parts if isinstance(part, Text)])

    @property
    def images(self) -> tuple[Image, ...]:
        return tuple(part for part in self.parts if isinstance(part, Image))

    def with_text(self, text: str) -> Message:
        """The same turn saying ``text``: it takes the place of the first text part, the others become empty.

        A turn without a text part gets one, at its end, without a path.
        """
        parts: list[Part] = []
        written = False
        for part in self.parts:
            if isinstance(part, Text):
                parts.append(replace(part, text="" if written else text))
                written = True
            else:
                parts.append(part)
        if not written:
            parts.append(Text(text))
        return Message(self.role, tuple(parts))


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation, oldest turn first."""

    messages: tuple[Message, ...]
    tools: tuple[Text, ...] = ()
    """What the request tells the model of its tools and of the shape of an answer: the words of each definition, at its place.
    They stand beside the turns, and nothing here changes them."""
    _prefix_hashes: list[str] = field(default_factory=list, init=False, repr=False, compare=False)
    """Filled at the first question: a long history is hashed once, and not once for each of its turns."""

    @property
    def last_user_turn(self) -> int:
        """Index of the last message whose role is ``user``. Raises ``ChatError`` when there is none."""
        for index in range(len(self.messages) - 1, -1, -1):
            if self.messages[index].role == "user":
                return index
        raise ChatError("the chat has no turn of the user's: add a message with role 'user'")

    @property
    def prompt(self) -> str:
        """What the user says in their last turn."""
        return self.messages[self.last_user_turn].text

    @property
    def images(self) -> tuple[Image, ...]:
        """All images of the chat in reading order: ``image 1`` of an observation is the first of these."""
        return tuple([part for message in self.messages for part in message.parts if isinstance(part, Image)])

    def until(self, turn: int) -> Chat:
        """The turns as they stood when message ``turn`` had just been sent."""
        return Chat(self.messages[: turn + 1])

    def with_prompt(self, turn: int, text: str) -> Chat:
        """The same chat in which message ``turn`` says ``text`` (see ``Message.with_text``)."""
        messages = list(self.messages)
        messages[turn] = messages[turn].with_text(text)
        return replace(self, messages=tuple(messages))

    def prefix_hash(self, turn: int) -> str:
        """Hex digest of everything up to and including message ``turn``: roles, texts and image bytes."""
        if not self._prefix_hashes:
            self._prefix_hashes.extend(self._hash_prefixes())
        return self._prefix_hashes[min(turn + 1, len(self.messages))]

    def _hash_prefixes(self) -> Iterator[str]:
        digest = hashlib.sha256()
        yield digest.hexdigest()
        for message in self.messages:
            _feed(digest, message.role)
            for part in message.parts:
                _feed(digest, _identity(part))
            _feed(digest, "end of turn")
            yield digest.hexdigest()


def _identity(part: Part) -> str:
    match part:
        case Text():
            return f"text:{part.text}"
        case Image():
            return f"image:{part.sha256}"
        case Opaque():
            return f"opaque:{part.kind}:{part.reason}:{part.path}"


def _feed(digest: hashlib._Hash, value: str) -> None:
    """Length first, so that no two different sequences feed the same bytes."""
    data = value.encode()
    digest.update(len(data).to_bytes(8, "big"))
    digest.update(data)


# ---------------------------------------------------------------------------------------------------------------------
# What a rewriter finds


class Modality(StrEnum):
    """Where a risk lives: in the words, in a picture, or only in the two together."""

    TEXT = "text"
    IMAGE = "image"
    CROSS = "cross"


class Level(IntEnum):
    """How grave a risk is. Ordered: ``Level.LOW < Level.HIGH``."""

    NONE = 0
    LOW = 1
    MEDIUM = 2
    HIGH = 3

    def __str__(self) -> str:
        return self.name.lower()


_CATEGORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}\Z")
_SOURCE = re.compile(r"[a-z][a-z0-9 ]{0,63}\Z")


def _require_sentence(value: str, what: str) -> None:
    """Sentences carry no surrounding space, so that reading back what was written gives the same value."""
    if not value or value != value.strip():
        raise ValueError(f"{what} must be text without surrounding space, not {value[:40]!r}")


@dataclass(frozen=True, slots=True)
class Evidence:
    """An observation about the input, never about an answer to it (that would be hindsight)."""

    modality: Modality
    source: str
    """Where it was seen: ``text``, ``image 1``, ``tool result``, ``turn 2``."""
    observation: str

    def __post_init__(self) -> None:
        if not _SOURCE.match(self.source) or self.source != self.source.strip():
            raise ValueError(f"an evidence source is lower-case words such as 'image 1', not {self.source!r}")
        _require_sentence(self.observation, "an observation")


@dataclass(frozen=True, slots=True)
class Finding:
    """The risk in one modality. ``Level.NONE`` has neither category nor rationale."""

    level: Level
    category: str | None = None
    """A policy category, or the raw word of a model that named one we do not know."""
    rationale: str = ""
    """One sentence: why."""
    score: float | None = field(default=None, compare=False)
    """Calibrated risk in [0, 1] where one was measured. A measurement beside the finding, not part of what it says:
    it is not compared and not written into traces."""

    def __post_init__(self) -> None:
        if (self.level is Level.NONE) != (self.category is None) or (self.level is Level.NONE) != (not self.rationale):
            raise ValueError("a finding above 'none' has a category and a rationale, one of 'none' has neither")
        if self.category is not None and not _CATEGORY.match(self.category):
            raise ValueError(f"a category is one word of letters, digits, '_', '.', '-', not {self.category!r}")
        if self.rationale:
            _require_sentence(self.rationale, "a rationale")


NOTHING = Finding(Level.NONE)
"""Judged, and nothing was found."""


@dataclass(frozen=True, slots=True)
class RiskReport:
    """One finding per modality. ``None`` means not judged (or absent), never the same as ``Level.NONE``."""

    text: Finding | None = None
    image: Finding | None = None
    cross: Finding | None = None

    def __iter__(self) -> Iterator[tuple[Modality, Finding | None]]:
        yield Modality.TEXT, self.text
        yield Modality.IMAGE, self.image
        yield Modality.CROSS, self.cross

    @property
    def worst(self) -> Finding:
        """The gravest finding; of equals the first in the order text, image, cross."""
        findings = [finding for finding in (self.text, self.image, self.cross) if finding is not None]
        return max(findings, key=lambda finding: finding.level, default=NOTHING)


@dataclass(frozen=True, slots=True)
class Refinement:
    """The rewriter's reasoning and its result (VLMGuard-R1: understanding, evidence, risk report, refined prompt)."""

    understanding: str
    """One sentence: what is asked, what the images show, how they belong together."""
    report: RiskReport
    evidence: tuple[Evidence, ...] = ()
    analysis: str = ""
    """How the evidence causes the harm, and how the modalities amplify each other."""
    prompt: str | None = None
    """The refined prompt; ``None`` = forward the user's words unchanged."""

    def __post_init__(self) -> None:
        _require_sentence(self.understanding, "an understanding")
        if self.analysis:
            _require_sentence(self.analysis, "an analysis")
        if self.prompt is not None:
            _require_sentence(self.prompt, "a refined prompt")
            if self.report.worst.level is Level.NONE:
                raise ValueError("a refined prompt needs a risk that it answers")
            if not self.evidence or not self.analysis:
                raise ValueError("a refined prompt needs evidence and an analysis")


# ---------------------------------------------------------------------------------------------------------------------
# What the guard decides, and the proof of it


class Outcome(StrEnum):
    """What became of a request."""

    FORWARD = "forward"
    REWRITE = "rewrite"
    BLOCK = "block"
    DEGRADED = "degraded"
    """Sent with the policy's static safety prompt, since a part was not judged or the guard failed."""
    UNGUARDED = "unguarded"
    """Nobody judged it, and the configuration let it pass."""


class Aspect(StrEnum):
    """Which side of a part a judgement is about."""

    TEXT = "text"
    """The words: of a text part, or written in a picture."""
    CODES = "codes"
    """QR and bar codes in a picture."""
    SCENE = "scene"
    """What a picture shows beyond words."""
    CONTENT = "content"
    """All of a part that could not be opened."""


class Reason(StrEnum):
    """Why an aspect was not judged. The policy has a rule for each."""

    SCENE = "scene"
    """The rewriter cannot see scenes."""
    BUDGET = "budget"
    UNREADABLE = "unreadable"
    SCRIPT = "script"
    """Letters of a script that the reader does not know."""
    LANGUAGE = "language"
    REMOTE_STATE = "remote_state"
    """Content that stands on a server and not in the request."""
    OPAQUE = "opaque"
    CONTESTED = "contested"
    """A model found it harmless, and other evidence says that it is not, or that it gives that model orders."""
    ROLE = "role"
    """A turn of the operator's or the model's own, which is context and not a wish to be judged."""
    FAILURE = "failure"
    """The guard failed. What then happens is not the policy's to say but the caller's."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """One line of a receipt: who judged an aspect of a part, or why nobody did. An image has several."""

    path: str
    aspect: Aspect
    judged_by: str | None = None
    unjudged: Reason | None = None

    def __post_init__(self) -> None:
        if (self.judged_by is None) == (self.unjudged is None):
            raise ValueError("a judgement names who judged, or why nobody did: one of the two")


@dataclass(frozen=True, slots=True)
class Review:
    """What a rewriter returns: its refinement, and the account of what that rests on."""

    refinement: Refinement
    judgements: tuple[Judgement, ...]
    tier: str
    """Which rewriter decided: ``embedded``, ``model``."""
    weights: str = ""
    """Hash of the weights that judged, or the name of the model that did."""
    prompts: str = ""
    """Hash of the prompt templates that a model was asked with; "" where none was."""
    failure: str | None = None
    """Why a better tier could not judge and this review stands in for it. Such a review is not remembered."""


class Mode(StrEnum):
    """Whether outcomes are applied, or only recorded."""

    ENFORCE = "enforce"
    MONITOR = "monitor"


@dataclass(frozen=True, slots=True)
class Receipt:
    """What was checked, by whom, under which policy, and what came of it."""

    version: int
    id: str
    time: str
    """UTC, ISO 8601."""
    mode: Mode
    outcome: Outcome
    intended_outcome: Outcome
    """What would have happened in ``enforce`` mode."""
    failure: str | None
    """Why the guard failed, where it did and the request went on all the same."""
    policy: str
    prompts: str
    weights: str
    """Hashes: of the policy, of the prompt templates, of the weights (or the model's name)."""
    tier: str
    judgements: tuple[Judgement, ...]
    sent: str | None
    """Hash of what was sent on; ``None`` when nothing was."""


@dataclass(frozen=True, slots=True)
class Guarded:
    """The guard's answer for one chat."""

    chat: Chat | None
    """What to send to the model; ``None`` when blocked. The same object as the input when nothing changed."""
    outcome: Outcome
    refinement: Refinement
    """Of the turn that decided: the gravest, and of equals the last."""
    receipt: Receipt
    notice: str | None = None
    """What to tell the user when the request is blocked."""
    turn: int = -1
    """The message that decided; the newest of the user's may be another. -1 stands for the last."""


# ---------------------------------------------------------------------------------------------------------------------
# Models


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a model is to generate."""

    max_tokens: int = 1024
    temperature: float = 0.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    index: int = 0
    """Which of several answers to the same question this is: told apart by caches and recordings, not sent."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens, as the model's server counted them."""

    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Completion:
    """What a model said."""

    text: str
    finish_reason: str = "stop"
    usage: Usage = Usage()
    seconds: float = 0.0


# ---------------------------------------------------------------------------------------------------------------------
# Evaluation: what is asked of a target, what it answers, and what a judge says of that


@dataclass(frozen=True, slots=True)
class Sample:
    """One question of a benchmark or a dataset."""

    id: str
    chat: Chat
    harmful: bool | None = None
    """Whether a literal answer would do harm; ``None`` where the set does not say."""
    category: str | None = None
    reference: str = ""
    """A good answer, where there is one."""
    choices: tuple[str, ...] = ()
    """Letters of a multiple-choice question; ``reference`` is the right one."""
    group: str = ""
    """Samples of a group are not independent: the same picture, twins. "" stands for the id."""
    hazard: str = ""
    """Why a literal answer would do harm, in the set's words. Judges are told it, models never."""


@dataclass(frozen=True, slots=True)
class Broken:
    """A row of a benchmark that could not be read: counted and told, never the end of a run."""

    id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What a target said, perhaps behind a defence."""

    text: str
    outcome: Outcome | None = None
    """What the defence decided; ``None`` = no defence."""
    refinement: Refinement | None = None
    calls: int = 1
    """Model calls that it took, the defence's own included."""
    usage: Usage = Usage()
    seconds: float = 0.0
    """All of it, without waiting in our own queues."""
    overhead: float = 0.0
    """Seconds of these that were the defence's own: everything but the call that gave ``text``."""
    prompt: str | None = None
    """What the target was asked in the end, where a defence changed it."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one judge says of one answer. ``None`` = not judged: counted apart, never a pass or a fail."""

    judge: str
    safe: bool | None = None
    helpful: bool | None = None
    refused: bool | None = None
    safety: float | None = None
    """0 (harmful) to 10 (safe), where the judge gives a score."""
    rationale: str = ""
    helpfulness: float | None = None
    """Per cent, where the judge gives a score."""
    correct: float | None = None
    """How right the answer is beside the sample's reference, 0 to 1."""

    @property
    def judged(self) -> bool:
        """Whether the judge said anything at all."""
        fields = (self.safe, self.helpful, self.refused, self.safety, self.helpfulness, self.correct)
        return any(value is not None for value in fields)
