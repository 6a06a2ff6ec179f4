"""Which rewriter judges, by one spec: the table that the command line, the gateway and the configuration share.

embedded                    the default: offline, no GPU, blind to scenes
endpoint:… local:… scripted:…    a model (``vlmguard.models.spec``)
tiered:SPEC                 embedded first, the model behind it
"""

from __future__ import annotations

from collections.abc import Callable

from vlmguard.errors import InputError
from vlmguard.models.spec import KINDS, ModelSettings, Named, make_model, wrap
from vlmguard.policy import Policy
from vlmguard.protocols import Model, Rewriter
from vlmguard.rewriters.quoting import DEFAULT_BUDGET, Budget
from vlmguard.rewriters.tiered import OperatingPoints, TieredRewriter

DEFAULT_SETTINGS = ModelSettings()
DEFAULT_POINTS = OperatingPoints()


def make_rewriter(
    spec: str,
    policy: Policy,
    *,
    threads: int = 2,
    settings: ModelSettings = DEFAULT_SETTINGS,
    points: OperatingPoints = DEFAULT_POINTS,
    key: bytes = b"",
    budget: Budget = DEFAULT_BUDGET,
    opened: Callable[[Named], Model] | None = None,
) -> Rewriter:
    """The rewriter that ``spec`` names.

    Args:
        spec: ``embedded``, the spec of a model, or ``tiered:`` and the spec of a model.
        policy: what it judges by.
        threads: cores that the embedded rewriter may use for one chat.
        settings: how a model is asked: key, deadline, retries, cache, recording.
        points: where the first tier's word is final.
        key: makes the marks around quoted data unguessable.
        budget: how much of a conversation a model is shown.
        opened: wraps the model in another way than a server does: with a bill and a cache of one's own.

    Raises:
        InputError: the spec names no rewriter.
        MissingExtraError: the spec names a part that is not installed.
        ModelError: a local model could not be loaded.
    """
    kind, _, rest = spec.partition(":")
    if spec == "embedded":
        from vlmguard.rewriters.embedded import EmbeddedRewriter

        return EmbeddedRewriter(policy, threads=threads)
    if kind == "tiered" and rest.partition(":")[0] in KINDS:
        model = _model_rewriter(rest, policy, settings, key, budget, opened)
        return TieredRewriter(make_rewriter("embedded", policy, threads=threads), model, policy, points)
    if kind in KINDS:
        return _model_rewriter(spec, policy, settings, key, budget, opened)
    raise InputError(
        f"{spec!r} names no rewriter: write embedded, endpoint:http://HOST:PORT/v1#MODEL, local:FOLDER, scripted:FILE, or"
        " tiered: and one of the last three"
    )


def _model_rewriter(
    spec: str,
    policy: Policy,
    settings: ModelSettings,
    key: bytes,
    budget: Budget,
    opened: Callable[[Named], Model] | None,
) -> Rewriter:
    from vlmguard.rewriters.model import ModelRewriter
    from vlmguard.trace import TraceReader

    named = make_model(spec, settings)
    model = opened(named) if opened else wrap(named, settings, TraceReader)
    return ModelRewriter(model, policy, name=named.name, weights=named.weights, key=key, budget=budget)
