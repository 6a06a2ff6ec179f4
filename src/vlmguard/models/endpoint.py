"""A model behind an OpenAI-compatible endpoint: vLLM, SGLang, Ollama, llama.cpp, ``transformers serve``, hosted services.

Foreign failures are told here, in words that say what to do. Keys are sent and never shown.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass
from weakref import WeakKeyDictionary

from vlmguard.errors import ChatError, ModelError
from vlmguard.models.wrapper import cut_off
from vlmguard.types import Chat, Completion, Image, Message, Opaque, Part, Sampling, Text, Usage
from vlmguard.wire.pictures import data_url_parts

if TYPE_CHECKING:
    from aiohttp import ClientResponse, ClientSession

_MOST_BYTES = 8_000_000
"""Of one answer. No answer that anybody wants is longer, and a server gone mad must not fill the memory."""
_CHAT = "/chat/completions"
_CHUNK = 262_144
_CONNECT = 10.0
_SILENT = 300.0
"""Seconds without a byte after which a connection counts as dead. Deadlines are the wrapper's."""
_SHOWN = 300
_REMEMBERED_BYTES = 64_000_000
"""Of encoded pictures that are kept, since a conversation sends the same ones at every turn."""
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_TRANSIENT = frozenset({408, 425, 429})
_TOO_LONG = re.compile(
    r"context.{0,20}(?:length|window|size)|maximum.{0,20}(?:tokens|length)|too (?:long|many tokens)|n_ctx|max_model_len"
    r"|exceeds? the (?:available|model)",
    re.IGNORECASE,
)
_NO_PICTURE = re.compile(r"image|picture|vision|multi-?modal|pixel", re.IGNORECASE)
_NO_STREAM, _NO_TEMPERATURE, _NEW_MOST = "no stream", "no temperature", "max_completion_tokens"
_QUIRKS = {
    _NEW_MOST: re.compile(_NEW_MOST),
    _NO_TEMPERATURE: re.compile(r"temperature.{0,80}support|support.{0,80}temperature", re.IGNORECASE),
    _NO_STREAM: re.compile(r"\bstream", re.IGNORECASE),
}
"""What servers say that want a request written otherwise: some take the newer name of max_tokens only, some one temperature."""


class EndpointModel:
    """A model at ``{url}/chat/completions``. Connections are kept per event loop until ``close``.

    Args:
        url: the base address, which usually ends in ``/v1``; a query is sent along.
        model: the name that the server knows the model by.
        key: sent as a bearer token.
        key_name: where the key comes from, for messages.
        connections: at a time.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        key: str | None = None,
        key_name: str = "VLMGUARD_API_KEY",
        connections: int = 256,
    ) -> None:
        base, _, query = url.partition("?")
        self._base = base.rstrip("/")
        self._query = f"?{query}" if query else ""
        self.model = model
        self._key = key
        self._key_name = key_name
        self._connections = connections
        self._quirks: set[str] = set()
        """What this server was found to want otherwise."""
        self._proxy = _proxy(self._base)
        self._sessions: WeakKeyDictionary[asyncio.AbstractEventLoop, ClientSession] = WeakKeyDictionary()
        self._encoder = _Encoder()

    async def generate(self, chat: Chat, sampling: Sampling, /) -> Completion:
        """The whole answer."""
        started = time.perf_counter()
        while True:
            try:
                async with self._request("POST", _CHAT, self._body(chat, sampling, stream=False)) as response:
                    answer = self._parse(response, await self._read(response))
            except _Quirk as quirk:
                self._quirks.add(str(quirk))
                continue
            text, reason, usage = self._completion(answer)
            return Completion(text, reason, usage, time.perf_counter() - started)

    async def stream(self, chat: Chat, sampling: Sampling, /) -> AsyncIterator[str]:
        """Pieces of the answer; closing the iterator closes the connection, which stops the server.

        The answer of a server that cannot stream comes as one piece.
        """
        while _NO_STREAM not in self._quirks:
            try:
                async with self._request("POST", _CHAT, self._body(chat, sampling, stream=True)) as response:
                    if "event-stream" in response.content_type:
                        async for piece in self._pieces(response, sampling):
                            yield piece
                        return
                    text, reason, _ = self._completion(self._parse(response, await self._read(response)))
                    self._quirks.add(_NO_STREAM)
                    break
            except _Quirk as quirk:
                self._quirks.add(str(quirk))
        else:
            completion = await self.generate(chat, sampling)
            text, reason = completion.text, completion.finish_reason
        yield text
        if reason == "length":
            raise cut_off(sampling)

    async def models(self) -> list[str]:
        """The names that the server lists; for messages that say what there is."""
        async with self._request("GET", "/models", None) as response:
            answer = self._parse(response, await self._read(response))
        rows = answer.get("data") if isinstance(answer, dict) else None
        return (
            [str(row["id"]) for row in rows if isinstance(row, dict) and "id" in row] if isinstance(rows, list) else []
        )

    async def close(self) -> None:
        """Closes the connections of the running event loop."""
        session = self._sessions.pop(asyncio.get_running_loop(), None)
        if session is not None:
            await session.close()

    # -----------------------------------------------------------------------------------------------------------------
    # Asking

    def _body(self, chat: Chat, sampling: Sampling, *, stream: bool) -> list[bytes]:
        """The request in pieces, so that the megabytes of a picture are copied nowhere."""
        most = _NEW_MOST if _NEW_MOST in self._quirks else "max_tokens"
        options: dict[str, Any] = {most: sampling.max_tokens}
        if _NO_TEMPERATURE not in self._quirks:
            options["temperature"] = sampling.temperature
        if sampling.seed is not None:
            options["seed"] = sampling.seed
        if sampling.stop:
            options["stop"] = list(sampling.stop)
        if stream:
            options["stream"] = True
        pieces = [b'{"model":%b,"messages":[' % json.dumps(self.model).encode()]
        for number, message in enumerate(chat.messages):
            if number:
                pieces.append(b",")
            pieces.extend(self._encoder.message(message))
        pieces.append(b"],%b" % json.dumps(options).encode()[1:])
        return pieces

    def _session(self) -> ClientSession:
        from aiohttp import ClientSession, ClientTimeout, TCPConnector

        loop = asyncio.get_running_loop()
        session = self._sessions.get(loop)
        if session is None or session.closed:
            session = ClientSession(
                connector=TCPConnector(limit=self._connections),
                timeout=ClientTimeout(total=None, sock_connect=_CONNECT, sock_read=_SILENT),
                headers={"User-Agent": "vlmguard"},
                proxy=self._proxy,
            )
            self._sessions[loop] = session
        return session

    @asynccontextmanager
    async def _request(self, method: str, path: str, body: list[bytes] | None) -> AsyncIterator[ClientResponse]:
        """One exchange with an answer of status 200. The connection is closed when the answer was not read to its end."""
        import aiohttp

        headers = {} if body is None else {"Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        try:
            response = await self._session().request(
                method,
                f"{self._base}{path}{self._query}",
                data=None if body is None else _in_chunks(body, headers),
                headers=headers,
                allow_redirects=False,  # a key goes to the address that was configured and to no other
            )
            try:
                if response.status != 200:
                    self._refuse(response, (await self._read(response)).decode(errors="replace"))
                yield response
            finally:
                if response.content.at_eof():
                    response.release()
                else:
                    response.close()
        except aiohttp.ClientConnectionError as error:
            raise ModelError(self._lost(error), transient=True) from error
        except aiohttp.ClientPayloadError as error:
            raise ModelError(
                f"the connection to {self._base} broke in the middle of an answer: look at the server's log",
                transient=True,
            ) from error
        except TimeoutError as error:
            if isinstance(error, aiohttp.ServerTimeoutError):
                raise ModelError(self._lost(error), transient=True) from error
            raise
        except aiohttp.ClientError as error:
            raise ModelError(f"{self._base} does not speak HTTP as expected ({error}): look at the address") from error

    def _lost(self, error: Exception) -> str:
        import aiohttp

        if isinstance(error, aiohttp.ServerTimeoutError):
            return f"{self._base} keeps silent: look whether the server is overloaded, or the address right"
        if isinstance(error, aiohttp.ClientConnectorError):
            return f"{self._base} cannot be reached ({error.os_error}): start the server, or correct the address"
        return f"the connection to {self._base} broke ({error or type(error).__name__}): look at the server's log"

    # -----------------------------------------------------------------------------------------------------------------
    # Reading

    async def _read(self, response: ClientResponse) -> bytes:
        pieces: list[bytes] = []
        size = 0
        async for piece in response.content.iter_any():
            size += len(piece)
            if size > _MOST_BYTES:
                raise ModelError(f"the answer of {self._base} has more than {_MOST_BYTES:,} bytes: lower max_tokens")
            pieces.append(piece)
        return b"".join(pieces)

    def _parse(self, response: ClientResponse, body: bytes) -> Any:
        try:
            return json.loads(body.decode())
        except UnicodeDecodeError as error:
            raise ModelError(f"the answer of {self._base} is not UTF-8: update or restart the server") from error
        except (ValueError, RecursionError) as error:
            kind = response.content_type
            what = (
                "a web page"
                if "html" in kind or body.lstrip()[:1] == b"<"
                else f"{kind or 'something'} that is no JSON"
            )
            raise ModelError(
                f"{self._base} answers with {what}: the base address of an OpenAI-compatible server usually ends in /v1"
            ) from error

    def _completion(self, answer: Any) -> tuple[str, str, Usage]:
        choice = self._choice(answer)
        message = choice.get("message")
        if not isinstance(message, dict):
            raise ModelError(f"the answer of {self._base} holds no message: is it an OpenAI-compatible server?")
        text = _text(message)
        reason = str(choice.get("finish_reason") or "stop")
        if not text.strip():
            raise ModelError(self._empty(reason), transient=reason not in ("length", "content_filter"))
        return text, reason, _usage(answer.get("usage"))

    def _choice(self, answer: Any) -> dict[str, Any]:
        if isinstance(answer, dict) and answer.get("error"):
            raise ModelError(f"{self._base} answers with an error: {self._shown(_message(answer))}", transient=True)
        choices = answer.get("choices") if isinstance(answer, dict) else None
        if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
            raise ModelError(f"{self._base} answered without any choice: look at the server's log", transient=True)
        return choices[0]

    def _empty(self, reason: str) -> str:
        if reason == "length":
            return "the model reached the most tokens before it said anything: raise max_tokens, or switch its thinking off"
        if reason == "content_filter":
            return f"a content filter of {self._base} took the answer: use a model without one to judge"
        return f"the model said nothing (finish_reason {reason!r}): look at its chat template and the server's log"

    async def _pieces(self, response: ClientResponse, sampling: Sampling) -> AsyncIterator[str]:
        """The texts of a stream of server-sent events, as many at a time as come at a time.

        Raises ``CutOffError`` at the end of a cut answer.
        """
        reason, said = "", False
        async for events in self._events(response):
            texts: list[str] = []
            for event in events:
                if isinstance(event, dict) and not event.get("error") and event.get("choices") == []:
                    continue  # some servers send usage, or a first event, without a choice
                choice = self._choice(event)
                delta = choice.get("delta")
                if isinstance(delta, dict):
                    texts.append(_text(delta))
                reason = str(choice.get("finish_reason") or reason)
            if piece := "".join(texts):
                said = True
                yield piece
        if reason == "length" and said:
            raise cut_off(sampling)
        if not said:
            raise ModelError(self._empty(reason), transient=reason not in ("length", "content_filter"))
        if not reason:
            raise ModelError(f"the answer of {self._base} ends in the middle: look at the server's log", transient=True)

    async def _events(self, response: ClientResponse) -> AsyncIterator[list[Any]]:
        """The events of a stream, those together that come together."""
        buffer, size = b"", 0
        async for piece in response.content.iter_any():
            size += len(piece)
            if size > _MOST_BYTES:
                raise ModelError(f"the answer of {self._base} has more than {_MOST_BYTES:,} bytes: lower max_tokens")
            *lines, buffer = (buffer + piece).split(b"\n")
            data = [line[5:].strip() for line in lines if line.startswith(b"data:")]
            done = data.index(b"[DONE]") if b"[DONE]" in data else len(data)
            # One call for all that came together; where one of them is broken, it is told by itself.
            try:
                yield json.loads(b"[%b]" % b",".join(data[:done]))
            except (ValueError, RecursionError):
                yield [self._parse(response, event) for event in data[:done]]
            if done < len(data):
                return

    # -----------------------------------------------------------------------------------------------------------------
    # Refusals

    def _refuse(self, response: ClientResponse, body: str) -> NoReturn:
        status, said = response.status, self._shown(_message(body))
        if status in (401, 403):
            have = "refuses the key" if self._key else "wants a key, and there is none"
            raise ModelError(f"{self._base} {have} ({status}): put a valid one into {self._key_name}")
        if status == 404:
            raise ModelError(
                f"{self._base} knows no model {self.model!r}, or nothing at this address (404: {said}): the base address"
                " usually ends in /v1, and `vlmguard doctor --model SPEC` lists the models there"
            )
        if status in _TRANSIENT or status >= 500:
            what = "is asked too often" if status == 429 else "fails"
            raise ModelError(
                f"{self._base} {what} ({status}: {said}): try later, or look at its load and log",
                transient=True,
                retry_after=_retry_after(response.headers.get("Retry-After")),
            )
        if status in (400, 422) and not _TOO_LONG.search(said):
            for quirk in _QUIRKS.keys() - self._quirks:
                if _QUIRKS[quirk].search(said):
                    raise _Quirk(quirk)
        if status == 413 or _TOO_LONG.search(said):
            raise ModelError(
                f"the conversation is too long for {self.model!r} ({status}: {said}): serve it with a longer context, or"
                " lower the rewriter's budget"
            )
        if status in (400, 415, 422) and _NO_PICTURE.search(said):
            raise ModelError(
                f"{self.model!r} does not take these pictures ({status}: {said}): use a vision-language model, fewer or"
                " smaller pictures, or another format"
            )
        if 300 <= status < 400:
            raise ModelError(f"{self._base} sends the request elsewhere ({status}): configure the final address")
        raise ModelError(f"{self._base} rejects the request ({status}: {said})")

    def _shown(self, text: str) -> str:
        """What a server says, short, and without the key that some of them repeat."""
        if self._key:
            text = text.replace(self._key, "•••")
        flat = " ".join(text.split())
        return flat if len(flat) <= _SHOWN else f"{flat[:_SHOWN]}…"


def _proxy(address: str) -> str | None:
    """The proxy that the environment names for an address. Looked up once: aiohttp would ask anew, in threads, at each call."""
    parts = urlsplit(address)
    return None if proxy_bypass(parts.hostname or "") else getproxies().get(parts.scheme)


def _in_chunks(body: list[bytes], headers: dict[str, str]) -> bytes | AsyncIterator[bytes]:
    """A large body a piece at a time, so that sending it holds nobody else up; its length is told all the same."""
    length = sum(map(len, body))
    if length <= _CHUNK:
        return b"".join(body)
    headers["Content-Length"] = str(length)
    return _chunks(body)


async def _chunks(body: list[bytes]) -> AsyncIterator[bytes]:
    for piece in body:
        for at in range(0, len(piece), _CHUNK):
            yield piece[at : at + _CHUNK]


class _Quirk(Exception):
    """The server said how it wants to be asked: the request is written anew, as often as something new is found."""


def _text(message: dict[str, Any]) -> str:
    """What is said, without thoughts that a server keeps apart. A refusal is something said."""
    content = message.get("content")
    if isinstance(content, list):
        content = "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    said = content if isinstance(content, str) else ""
    return said or (message["refusal"] if isinstance(message.get("refusal"), str) else "")


def _usage(value: Any) -> Usage:
    counts = value if isinstance(value, dict) else {}
    prompt, completion = counts.get("prompt_tokens"), counts.get("completion_tokens")
    return Usage(prompt if isinstance(prompt, int) else 0, completion if isinstance(completion, int) else 0)


def _message(answer: Any) -> str:
    """The words of an error answer, in the shapes that servers use."""
    if isinstance(answer, str):
        try:
            answer = json.loads(answer)
        except (ValueError, RecursionError):
            return re.sub(r"<[^>]{0,500}>", " ", answer)
    while isinstance(answer, dict):
        inner = next((answer[key] for key in ("error", "message", "detail", "msg") if answer.get(key)), None)
        if inner is None:
            return json.dumps(answer)
        answer = inner
    return answer if isinstance(answer, str) else json.dumps(answer)


def _retry_after(value: str | None) -> float | None:
    """Seconds, from either of the two forms that the header has; ``None`` for anything else."""
    if value is None:
        return None
    if value.isascii() and value.strip().isdecimal():
        return float(value)
    try:
        when = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    return max(0.0, (when.replace(tzinfo=when.tzinfo or UTC) - datetime.now(UTC)).total_seconds())


# ---------------------------------------------------------------------------------------------------------------------
# Chats → JSON


@dataclass(slots=True)
class _Encoder:
    """Messages as the bytes of their JSON. Pictures are encoded once and their text is reused."""

    pictures: OrderedDict[tuple[str, str], tuple[bytes, bytes]]
    held: int

    def __init__(self) -> None:
        self.pictures = OrderedDict()
        self.held = 0

    def message(self, message: Message) -> Iterator[bytes]:
        """One message, in pieces. Raises ``ChatError`` for what the dialect cannot say."""
        role = _ROLES.get(message.role)
        if role is None:
            raise ChatError(
                "a tool's result cannot be sent to a model as a chat of our own: send it through the gateway"
            )
        if all(isinstance(part, Text) for part in message.parts):
            yield b'{"role":"%b","content":%b}' % (role.encode(), _string(message.text, role))
            return
        yield b'{"role":"%b","content":[' % role.encode()
        for number, part in enumerate(message.parts):
            if number:
                yield b","
            yield from self._part(part, role)
        yield b"]}"

    def _part(self, part: Part, role: str) -> Iterator[bytes]:
        match part:
            case Text():
                yield b'{"type":"text","text":%b}' % _string(part.text, role)
            case Image():
                yield b'{"type":"image_url","image_url":{"url":"'
                yield from self._picture(part)
                yield b'"}}'
            case Opaque():
                raise ChatError(f"{part.path or 'a part'} ({part.kind}) cannot be sent to a model: leave it out")

    def _picture(self, image: Image) -> tuple[bytes, bytes]:
        """Its ``data:`` URL. Letters of base64 need no escaping in JSON."""
        key = (image.sha256, image.media_type)
        if (known := self.pictures.get(key)) is not None:
            self.pictures.move_to_end(key)
            return known
        url = data_url_parts(image)
        self.pictures[key] = url
        self.held += len(url[1])
        while self.held > _REMEMBERED_BYTES:
            self.held -= len(self.pictures.popitem(last=False)[1][1])
        return url


def _string(text: str, role: str) -> bytes:
    return _kept_string(text) if role == "system" else json.dumps(text, ensure_ascii=False).encode()


@lru_cache(maxsize=16)
def _kept_string(text: str) -> bytes:
    """System turns are the same from question to question."""
    return json.dumps(text, ensure_ascii=False).encode()
