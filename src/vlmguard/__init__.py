"""vlmguard: a safety layer for vision-language models that reads text and images together and rewrites the prompt.

    from vlmguard import Guard, chat
    guarded = await Guard().refine(chat("What does this label say?", [open("label.png", "rb").read()]))
    print(guarded.outcome, guarded.chat.prompt)

Importing this module loads nothing heavy: names are looked up when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vlmguard.errors import VlmguardError as VlmguardError
    from vlmguard.guard import Guard as Guard
    from vlmguard.images import read_image as read_image
    from vlmguard.models.scripted import ScriptedModel as ScriptedModel
    from vlmguard.policy import Policy as Policy
    from vlmguard.policy import load_policy as load_policy
    from vlmguard.rewriters.select import make_rewriter as make_rewriter
    from vlmguard.types import Chat as Chat
    from vlmguard.types import Guarded as Guarded
    from vlmguard.types import Image as Image
    from vlmguard.types import Message as Message
    from vlmguard.types import Outcome as Outcome
    from vlmguard.types import Refinement as Refinement
    from vlmguard.types import Text as Text

__version__ = "0.1.0"

_HOMES = {
    "VlmguardError": "vlmguard.errors",
    "Guard": "vlmguard.guard",
    "read_image": "vlmguard.images",
    "ScriptedModel": "vlmguard.models.scripted",
    "Policy": "vlmguard.policy",
    "load_policy": "vlmguard.policy",
    "make_rewriter": "vlmguard.rewriters.select",
    "Chat": "vlmguard.types",
    "Guarded": "vlmguard.types",
    "Image": "vlmguard.types",
    "Message": "vlmguard.types",
    "Outcome": "vlmguard.types",
    "Refinement": "vlmguard.types",
    "Text": "vlmguard.types",
}
__all__ = [
    "Chat",
    "Guard",
    "Guarded",
    "Image",
    "Message",
    "Outcome",
    "Policy",
    "Refinement",
    "ScriptedModel",
    "Text",
    "VlmguardError",
    "chat",
    "load_policy",
    "make_rewriter",
    "read_image",
]


def chat(prompt: str, images: list[bytes] | tuple[bytes, ...] = ()) -> Chat:
    """One turn of the user's: a prompt and the bytes of its pictures. Raises ``ImageError``, ``ChatError``."""
    from vlmguard.images import read_image
    from vlmguard.types import Chat, Message, Text

    pictures = tuple(read_image(data, f"/images/{number}") for number, data in enumerate(images))
    return Chat((Message("user", (Text(prompt, "/prompt"), *pictures)),))


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'vlmguard' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
