"""Which rewriter judges, by one word or spec: the table that the command line, the gateway and the configuration share."""

from __future__ import annotations

from vlmguard.errors import InputError
from vlmguard.policy import Policy
from vlmguard.protocols import Rewriter


def make_rewriter(spec: str, policy: Policy, *, threads: int = 2) -> Rewriter:
    """The rewriter that ``spec`` names: ``embedded``, the default. Raises ``InputError`` for a spec that names none."""
    if spec == "embedded":
        from vlmguard.rewriters.embedded import EmbeddedRewriter

        return EmbeddedRewriter(policy, threads=threads)
    raise InputError(f"{spec!r} names no rewriter; 'embedded' is one")
