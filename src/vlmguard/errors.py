"""Every error that vlmguard raises on purpose, drawn as a tree.

    VlmguardError
    ├── InputError            what the caller gave cannot be used (exit code 2 on the command line)
    │   ├── ImageError        bytes that are no picture we accept: kind, size, damage
    │   ├── ChatError         a chat without a turn to judge, text that is no Unicode
    │   ├── WireError         a request body that is not the dialect, or that two readers might read differently
    │   └── FetchError        a remote picture that may not or could not be fetched
    ├── PolicyError           a policy file that cannot be used, with line and reason
    ├── TraceError            a rewriter's output that is not the trace grammar
    ├── ModelError            a model could not be asked, or answered uselessly
    │   └── CutOffError       an answer that reached the most tokens before its end
    ├── RewriteError          a refined prompt that breaks a check and is therefore not sent
    ├── GuardError            the guard could not judge; the caller decides what a failure means
    ├── TrainError            a training run that could not go on; what was saved before is kept
    ├── SignatureError        a receipt that its signature does not prove
    ├── AuditError            a decision that could not be kept, or an audit database that cannot be used
    └── MissingExtraError     a part that is not installed, and the command that installs it

Foreign errors are translated where they enter (``raise ... from``). A message says what is wrong and what to do.
"""

from __future__ import annotations


class VlmguardError(Exception):
    """The root: catch this to catch everything that vlmguard raises on purpose."""


class InputError(VlmguardError):
    """What the caller gave cannot be used."""


class ImageError(InputError):
    """Bytes that are no picture, a damaged one, or one beyond the limits."""


class ChatError(InputError):
    """A chat that cannot be judged: no turn of the user, text that is not Unicode."""


class WireError(InputError):
    """A request body that is not the dialect's, or that two readers might read differently."""


class FetchError(InputError):
    """A remote picture that may not be fetched, could not be, or is none."""


class PolicyError(VlmguardError):
    """A policy that cannot be used; the message carries file, line and reason."""


class TraceError(VlmguardError):
    """A rewriter's output that is not the trace grammar: never guessed at."""


class ModelError(VlmguardError):
    """A model that could not be asked, or answered uselessly.

    Args:
        message: what is wrong and what to do.
        transient: asking again may help: the server is down, slow, overloaded or broken, and the request is not to blame.
        retry_after: seconds after which the server asks to be asked again, where it said so.
    """

    def __init__(self, message: str, *, transient: bool = False, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.transient = transient
        self.retry_after = retry_after


class CutOffError(ModelError):
    """An answer that reached the most tokens before its end; comes after the last piece of a stream."""


class RewriteError(VlmguardError):
    """A refined prompt that breaks one of the checks on rewrites and is therefore not sent."""


class GuardError(VlmguardError):
    """The guard could not judge a chat. Nothing was let through: the caller decides what happens now."""


class TrainError(VlmguardError):
    """A training run that could not go on. Whole checkpoints from before are kept, and nothing half-written."""


class SignatureError(VlmguardError):
    """A receipt that its signature does not prove: altered, unsigned, or signed with another key."""


class AuditError(VlmguardError):
    """A decision that could not be kept, or an audit database that cannot be used."""


class MissingExtraError(VlmguardError):
    """A part of vlmguard whose dependencies are not installed."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs more packages: pip install 'vlmguard[{extra}]'")
