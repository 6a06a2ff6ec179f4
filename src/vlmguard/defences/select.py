"""The table of defences, and how one is named: a spec, or a table with the parts that it needs.

none · vlmguard:REWRITER · safety-prompt · figstep · adashield-s · shield · ecso · eta · mllm-protector
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmguard import __version__
from vlmguard.defences import prompted
from vlmguard.defences.cost import Metered, Queued
from vlmguard.defences.ecso import Ecso, Prompts
from vlmguard.defences.eta import Eta, ModelRater
from vlmguard.defences.guarded import Guarded
from vlmguard.defences.protector import MllmProtector, Part
from vlmguard.defences.shield import ShieldStyle
from vlmguard.errors import InputError
from vlmguard.guard import Guard
from vlmguard.models.spec import Named
from vlmguard.policy import Policy
from vlmguard.protocols import Defence, Model, Rewriter
from vlmguard.rewriters.embedded import EmbeddedRewriter
from vlmguard.rewriters.quoting import PROMPTS
from vlmguard.rewriters.select import make_rewriter
from vlmguard.rewriters.tiered import OperatingPoints, TieredRewriter


@dataclass(frozen=True, slots=True)
class Workshop:
    """What defences are built with."""

    policy: Policy
    open: Callable[[str], tuple[Model, str]]
    """A model's spec → the model as it is to be asked, and its identity."""
    wrap: Callable[[Named], Model]
    """A bare model → as it is to be asked."""


Parts = Mapping[str, Any]
Build = Callable[[Workshop, str, Parts], Defence]


def _words(parts: Parts, name: str = "prompt") -> str | None:
    """The authors' prompt from a file. Raises ``InputError``."""
    if name not in parts:
        return None
    try:
        return Path(parts[name]).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the prompt {parts[name]} cannot be read: {error}") from error


def _vlmguard(shop: Workshop, rest: str, parts: Parts) -> Defence:
    spec = rest or "embedded"
    kind, _, model = spec.partition(":")
    identities: list[str] = []

    def opened(named: Named) -> Model:
        identities.append(named.identity)
        return Metered(shop.wrap(named))

    rewriter: Rewriter
    if kind in ("embedded", "tiered"):
        embedded = EmbeddedRewriter(shop.policy)
        identities.append(embedded.fingerprint)
        rewriter = Queued(embedded)
        if kind == "tiered":
            rewriter = TieredRewriter(rewriter, make_rewriter(model, shop.policy, opened=opened), shop.policy, _TIERS)
    else:
        rewriter = make_rewriter(spec, shop.policy, opened=opened)
    shown = {"embedded": "embedded", "tiered": f"tiered {_short(model)}"}.get(kind, _short(model))
    return Guarded(
        Guard(rewriter, shop.policy),
        f"vlmguard ({parts.get('name', shown)})",
        f"{__version__}:{kind}:{identities}:{PROMPTS}",
        rewriter_calls=0 if kind == "embedded" else 2,
    )


_TIERS = OperatingPoints(deadline=86_400.0, fallback=False)
"""The runner waits for a model that is away: an outage must be no measurement of the defence."""


def _short(spec: str) -> str:
    """Of a model's spec what a table has room for."""
    return (spec.rpartition("#")[2] or spec).rstrip("/").rpartition("/")[2] if spec else "model"


def _shield(shop: Workshop, rest: str, parts: Parts) -> Defence:
    spec = rest or parts.get("classifier")
    return ShieldStyle(shop.policy, *shop.open(spec)) if spec else ShieldStyle(shop.policy)


def _ecso(shop: Workshop, rest: str, parts: Parts) -> Defence:
    del shop, rest
    words = [_words(parts, name) for name in ("check", "caption", "answer")]
    if not any(words):
        return Ecso()
    check, caption, answer = words
    if check is None or caption is None or answer is None:
        raise InputError("ecso takes all three prompts (check, caption, answer) or none of them")
    return Ecso(Prompts(check, caption, answer))


def _eta(shop: Workshop, rest: str, parts: Parts) -> Defence:
    spec = rest or parts.get("rater")
    if not spec:
        raise InputError("eta needs a rater of pictures and answers: write eta:SPEC, or rater = SPEC in the plan")
    limits: dict[str, float] = {}
    for name in ("picture_threshold", "answer_threshold"):
        limit = parts.get(name, 0.5)
        if isinstance(limit, bool) or not isinstance(limit, int | float) or not 0 <= limit <= 1:
            raise InputError(f"{name} of eta is a number from 0 to 1, not {limit!r}")
        limits[name] = float(limit)
    picture, answer = limits["picture_threshold"], limits["answer_threshold"]
    return Eta(ModelRater(*shop.open(spec)), picture_threshold=picture, answer_threshold=answer)


def _protector(shop: Workshop, rest: str, parts: Parts) -> Defence:
    detector, detoxifier = parts.get("detector", rest), parts.get("detoxifier", rest)
    if not detector or not detoxifier:
        raise InputError(
            "mllm-protector needs a detector and a detoxifier: write both in the plan, or one SPEC for both"
        )
    own = bool(parts.get("original", False))
    return MllmProtector(Part(*shop.open(detector), own), Part(*shop.open(detoxifier), own))


DEFENCES: dict[str, tuple[str, Build]] = {
    "none": ("the target as it is", lambda shop, rest, parts: prompted.NoDefence()),
    "vlmguard": ("vlmguard:embedded, vlmguard:SPEC of a model, vlmguard:tiered:SPEC", _vlmguard),
    "safety-prompt": (
        "a plain system prompt; prompt = FILE for another",
        lambda shop, rest, parts: prompted.safety_prompt(_words(parts)),
    ),
    "figstep": (
        "FigStep's defence (arXiv 2311.05608); prompt = FILE with the authors' words",
        lambda shop, rest, parts: prompted.figstep(_words(parts)),
    ),
    "adashield-s": (
        "AdaShield-S (arXiv 2403.09513); prompt = FILE with the authors' words",
        lambda shop, rest, parts: prompted.adashield_s(_words(parts)),
    ),
    "shield": ("SHIELD-style reframing (arXiv 2510.13190); shield:SPEC of a classifier, else the target", _shield),
    "ecso": ("ECSO (arXiv 2403.09572); check, caption, answer = FILES with the authors' words", _ecso),
    "eta": ("ETA (arXiv 2410.06625) with eta:SPEC as the rater; picture_threshold, answer_threshold = 0 to 1", _eta),
    "mllm-protector": (
        "MLLM-Protector (arXiv 2401.02906): detector and detoxifier = SPEC; original = true",
        _protector,
    ),
}
"""Name → (what it is, how it is made). A ``*`` behind the name of a row: some part is not the paper's own."""

_PARTS = frozenset(
    {
        "kind",
        "name",
        "prompt",
        "classifier",
        "check",
        "caption",
        "answer",
        "rater",
        "detector",
        "detoxifier",
        "original",
        "picture_threshold",
        "answer_threshold",
    }
)


def make_defence(spec: str | Mapping[str, Any], shop: Workshop) -> Defence:
    """The defence of a spec. Raises ``InputError``, ``MissingExtraError``, ``ModelError``."""
    parts: Parts = {} if isinstance(spec, str) else spec
    named = spec if isinstance(spec, str) else str(spec.get("kind", ""))
    kind, _, rest = named.partition(":")
    if kind not in DEFENCES:
        raise InputError(f"{named!r} names no defence: there are {', '.join(DEFENCES)}")
    if unknown := parts.keys() - _PARTS:
        raise InputError(f"the defence {kind} has unknown settings: {', '.join(sorted(unknown))}")
    return DEFENCES[kind][1](shop, rest, parts)
