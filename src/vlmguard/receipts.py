"""Receipts: the proof of what was checked. Makes them, names their parts, signs their JSON form and checks signatures.

docs/receipts.md says how to check one without this code. Storing is the gateway's (``gateway/audit.py``).
"""

from __future__ import annotations

import hashlib
import hmac
import json
import uuid
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from vlmguard.errors import InputError, SignatureError
from vlmguard.types import Aspect, Chat, Image, Judgement, Mode, Outcome, Part, Reason, Receipt, Review, Text

VERSION = 1
"""Of the receipt's shape. Grows when a field is added; a field never changes its meaning."""


SIGNATURE_VERSION = 1
"""Of the signature: which bytes are signed, and how. Any change raises it."""

_DOMAIN = b"vlmguard receipt signature 1"
_KEY_ID_DOMAIN = b"vlmguard key id 1"
_LEAST_KEY = 32
_SAFE_INTEGER = 2**53
"""Beyond it, readers that hold numbers as doubles would write another one."""


def content_hash(data: str | bytes, key: bytes) -> str:
    """Keyed digest (HMAC-SHA-256, hex): without the key a short prompt cannot be guessed from its hash."""
    return hmac.digest(key, data.encode() if isinstance(data, str) else data, "sha256").hex()


def aspects(part: Part) -> tuple[Aspect, ...]:
    """The sides of a part that a receipt accounts for, each in a row of its own."""
    match part:
        case Text():
            return (Aspect.TEXT,)
        case Image():
            return (Aspect.TEXT, Aspect.CODES, Aspect.SCENE)
        case _:
            return (Aspect.CONTENT,)


def unjudged(part: Part, reason: Reason) -> tuple[Judgement, ...]:
    """The rows for a part that nobody looked at."""
    return tuple(Judgement(part.path, aspect, unjudged=reason) for aspect in aspects(part))


def make_receipt(
    *,
    review: Review,
    judgements: tuple[Judgement, ...],
    mode: Mode,
    outcome: Outcome,
    intended: Outcome,
    policy: str,
    prompts: str = "",
    sent: Chat | None,
    key: bytes,
    failure: str | None = None,
) -> Receipt:
    """A receipt for one request, stamped with the time and an id of its own."""
    return Receipt(
        version=VERSION,
        id=uuid.uuid4().hex,
        time=datetime.now(UTC).isoformat(timespec="milliseconds"),
        mode=mode,
        outcome=outcome,
        intended_outcome=intended,
        failure=failure,
        policy=policy,
        prompts=prompts,
        weights=review.weights,
        tier=review.tier,
        judgements=judgements,
        sent=None if sent is None else content_hash(sent.prefix_hash(len(sent.messages) - 1), key),
    )


# ---------------------------------------------------------------------------------------------------------------------
# Signatures


def read_key(text: str) -> bytes:
    """The secret that ``text`` (an environment variable, or a file's content) holds, without the space around it.

    Raises ``InputError`` when it is shorter than 32 characters: ``openssl rand -hex 32`` makes a good one.
    """
    secret = text.strip().encode()
    if len(secret) < _LEAST_KEY:
        raise InputError(f"a signing key has at least {_LEAST_KEY} characters; make one with: openssl rand -hex 32")
    return secret


def key_id(secret: bytes) -> str:
    """The public name of a secret, 16 hex digits: tells which key signed and gives nothing of it away."""
    return hmac.new(secret, _KEY_ID_DOMAIN, hashlib.sha256).hexdigest()[:16]


def canonical(form: Mapping[str, Any]) -> bytes:
    """The one spelling of a JSON object that is signed: RFC 8785, for what receipts are made of.

    Keys sorted, no white space, UTF-8. Fractions, integers beyond 2**53, keys that are not ASCII and lone surrogates,
    which two writers might spell differently, raise ``ValueError``.
    """
    _require_plain(form)
    return json.dumps(form, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _require_plain(value: object) -> None:
    """Exact types: they are what a JSON reader makes, and quick to tell, which counts at thousands of receipts a second."""
    kind = type(value)
    if kind is str or value is None or kind is bool:
        return
    if kind is dict:
        assert isinstance(value, dict)
        for key, child in value.items():
            if type(key) is not str or not key.isascii():
                raise ValueError(f"the key {key!r} has no canonical form")
            if type(child) is not str:
                _require_plain(child)
    elif kind is list:
        assert isinstance(value, list)
        for child in value:
            _require_plain(child)
    elif not (isinstance(value, int) and abs(value) <= _SAFE_INTEGER):
        raise ValueError(f"{str(value)[:40]} has no canonical form")


def sign(form: Mapping[str, Any], secret: bytes) -> dict[str, Any]:
    """The receipt's JSON form with a ``signature`` that names its version, its key and the digest."""
    head = {"version": SIGNATURE_VERSION, "key": key_id(secret)}
    return {**form, "signature": {**head, "hmac_sha256": _digest({**form, "signature": head}, secret)}}


def verify(form: Mapping[str, Any], secrets: Iterable[bytes]) -> str:
    """Returns the id of the key that signed ``form``. Raises ``SignatureError`` saying what does not hold.

    ``secrets``: the keys to believe, so that receipts from before a change of keys can still be checked.
    """
    signature = form.get("signature")
    if not isinstance(signature, Mapping):
        raise SignatureError("the receipt is not signed: nothing proves it")
    if signature.get("version") != SIGNATURE_VERSION or set(signature) != {"version", "key", "hmac_sha256"}:
        raise SignatureError(
            f"the signature is not of version {SIGNATURE_VERSION}, the one known here: use the vlmguard that signed it"
        )
    secret = next((secret for secret in secrets if key_id(secret) == signature["key"]), None)
    if secret is None:
        raise SignatureError(
            f"the receipt names the key {str(signature['key'])[:40]!r}, which is not among those given"
        )
    head = {"version": SIGNATURE_VERSION, "key": signature["key"]}
    try:
        expected = _digest({**form, "signature": head}, secret)
    except ValueError as error:
        raise SignatureError(f"the receipt holds what no signed receipt holds: {error}") from error
    if not hmac.compare_digest(expected.encode(), str(signature["hmac_sha256"]).encode(errors="replace")):
        raise SignatureError("the receipt was altered after it was signed, or signed with another key of that id")
    return str(signature["key"])


def _digest(form: Mapping[str, Any], secret: bytes) -> str:
    """A key of its own is derived: else whoever may have content hashed under the same secret could sign receipts."""
    derived = hmac.new(secret, _DOMAIN, hashlib.sha256).digest()
    return hmac.new(derived, canonical(form), hashlib.sha256).hexdigest()
