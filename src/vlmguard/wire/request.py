"""A request as it came, what it says, and how a changed chat is written back into its bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from vlmguard.errors import WireError
from vlmguard.types import Chat, Image, Message, Opaque, Text
from vlmguard.wire.content import read_envelope
from vlmguard.wire.json_text import Edit, Place, edit, unescape
from vlmguard.wire.pictures import REMOTE, refuse_unread_addresses

MOST_TURNS = 2_000
MOST_PARTS = 10_000
_NO_NAME = "name"
"""What one request may hold: each turn is judged, and each part has a line in the receipt."""


@dataclass(frozen=True, slots=True)
class RemoteImage:
    """A picture that the request names by its address."""

    path: str
    """JSON pointer of its part in the chat."""
    url: str


@dataclass(frozen=True, slots=True)
class Turn:
    """A message, and where the body takes words for it when it has none."""

    message: Message
    words: Place | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """A request body and its reading."""

    body: bytes = field(repr=False)
    chat: Chat
    """Every part carries the JSON pointer at which it stands in ``body``."""
    model: str
    stream: bool
    remote: tuple[RemoteImage, ...] = ()
    """Pictures to fetch; each stands in ``chat`` as an ``Opaque`` until ``with_image`` puts its bytes there."""
    words: tuple[Place | None, ...] = ()
    """For each message: where words can be added to it."""
    opening: tuple[Place, ...] = ()
    """Where a safety prompt goes. Empty: nowhere."""
    inlined: frozenset[str] = frozenset()
    """Paths of fetched pictures, whose bytes take the place of the address."""

    def with_image(self, path: str, image: Image) -> Request:
        """The same request with the bytes of the remote picture at ``path``: judged, and sent in place of the address."""
        return self.with_images({path: image})

    def with_images(self, images: Mapping[str, Image]) -> Request:
        """``with_image`` for many at once (path → picture): a conversation may name one picture in each of its turns."""
        if strange := images.keys() - {remote.path for remote in self.remote}:
            raise ValueError(f"no remote image of this request stands at {', '.join(sorted(strange))}")
        placed = {path: image if image.path == path else replace(image, path=path) for path, image in images.items()}
        messages = tuple(
            Message(message.role, tuple(placed.get(part.path, part) for part in message.parts))
            for message in self.chat.messages
        )
        remote = tuple(remote for remote in self.remote if remote.path not in images)
        inlined = self.inlined | images.keys()
        return replace(self, chat=replace(self.chat, messages=messages), remote=remote, inlined=inlined)


def make_request(
    body: bytes,
    value: dict[str, Any],
    turns: Iterable[Turn],
    opening: tuple[Place, ...],
    tools: tuple[Text, ...] = (),
) -> Request:
    """The request that ``body``, read as ``value``, is. Raises ``WireError``."""
    turns = tuple(turns)
    if len(turns) > MOST_TURNS:
        raise WireError(f"the request has {len(turns):,} turns; {MOST_TURNS:,} are the most")
    if (count := sum(len(turn.message.parts) for turn in turns) + len(tools)) > MOST_PARTS:
        raise WireError(f"the request has {count:,} parts; {MOST_PARTS:,} are the most")
    model, stream = read_envelope(value)
    remote = tuple(
        RemoteImage(part.path, _address(value, part.path))
        for turn in turns
        for part in turn.message.parts
        if isinstance(part, Opaque) and part.kind == REMOTE
    )
    refuse_unread_addresses(value, (part for turn in turns for part in turn.message.parts), tools)
    chat = Chat(tuple(turn.message for turn in turns), tools)
    return Request(body, chat, model, stream, remote, tuple(turn.words for turn in turns), opening)


def _address(value: Any, pointer: str) -> str:
    """The URL at ``pointer``, or in the object there."""
    for step in pointer.split("/")[1:]:
        value = value[int(step)] if isinstance(value, list) else value[unescape(step)]
    return str(value["url"] if isinstance(value, dict) else value)


# ---------------------------------------------------------------------------------------------------------------------
# Back


@dataclass(frozen=True, slots=True)
class Shapes:
    """How a dialect spells what is added to a request."""

    part: Callable[[str], Any]
    """Words, as an element of a list of parts."""
    image: Callable[[Image], Any]
    """A fetched picture, in the place of its address."""
    system: Callable[[str, str], Any]
    """A safety prompt (its text, pointer of the array), as the first element of an array."""
    nothing: str = ""
    """What an emptied text becomes."""


def splice(request: Request, after: Chat, shapes: Shapes) -> bytes:
    """The request that says what ``after`` says. Unchanged: the client's very bytes.

    ``after`` may have system turns before all others and a text part at the end of a turn that had none; apart from
    these only texts may differ. Raises ``WireError`` when the body has no place for what was added.
    """
    if after.messages == request.chat.messages and not request.inlined:
        return request.body
    added = len(after.messages) - len(request.chat.messages)
    head, rest = after.messages[: max(added, 0)], after.messages[max(added, 0) :]
    if added < 0 or any(message.role != "system" for message in head):
        raise ValueError("a changed chat has the turns of the request, and none but system turns before them")
    edits = [*_changes(request, rest, shapes)]
    if head:
        edits += _opening(request, "\n\n".join(message.text for message in head), shapes)
    return edit(request.body, edits)


def _changes(request: Request, after: tuple[Message, ...], shapes: Shapes) -> Iterator[Edit]:
    for old, new, words in zip(request.chat.messages, after, request.words, strict=True):
        if old.role != new.role or len(new.parts) < len(old.parts):
            raise ValueError("a changed turn keeps its role and its parts")
        for before, part in zip(old.parts, new.parts, strict=False):
            if isinstance(part, Image) and part.path in request.inlined:
                yield Place("replace", part.path), shapes.image(part)
            elif part != before:
                if not isinstance(part, Text) or not isinstance(before, Text) or part.path != before.path:
                    raise ValueError("of a turn's parts only texts may change")
                yield Place("replace", part.path), part.text or _emptied(part.path, shapes)
        for extra in new.parts[len(old.parts) :]:
            if not isinstance(extra, Text):
                raise ValueError("only text can be added to a turn")
            if words is None:
                raise WireError(f"{old.parts[0].path if old.parts else 'a turn'} cannot be given words")
            listed = words.action in ("first", "after")
            yield words, shapes.part(extra.text) if listed else extra.text


def _emptied(path: str, shapes: Shapes) -> str:
    """An emptied string: upstreams take no empty name."""
    return _NO_NAME if path.endswith("/name") else shapes.nothing


def _opening(request: Request, text: str, shapes: Shapes) -> Iterator[Edit]:
    if not request.opening:
        raise WireError("the request has no place for a safety prompt: send the prompt as text")
    for place in request.opening:
        match place.action:
            case "first":
                yield place, shapes.system(text, place.pointer)
            case "prefix":
                yield place, f"{text}\n\n"
            case _:
                yield place, text


def string_opening(body: dict[str, Any], key: str) -> Place:
    """Where a safety prompt goes in a dialect with a top-level member for it: before what stands there."""
    pointer = f"/{key}"
    match body.get(key):
        case str():
            return Place("prefix", pointer)
        case list():
            return Place("first", pointer)
        case _:
            return Place("replace" if key in body else "member", pointer)
