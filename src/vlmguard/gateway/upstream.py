"""The model's server: which headers go there and come back, under whose credentials, and how the connection is kept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from vlmguard.errors import VlmguardError
from vlmguard.gateway.fetch import SystemResolver
from vlmguard.gateway.keys import OWN_HEADER

Headers = Iterable[tuple[bytes, bytes]]

_OF_THE_CONNECTION = frozenset(
    [
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    ]
)
_OURS_TO_SAY = _OF_THE_CONNECTION | {b"host", b"content-length", b"expect", b"forwarded", b"via", b"x-real-ip"}
_CREDENTIALS = frozenset([b"authorization", b"x-api-key", b"api-key", b"x-goog-api-key", b"cookie"])
_TO_THE_END = _CREDENTIALS | {b"content-type", b"content-encoding", b"content-length"}
"""What no Connection header makes one of the connection: without it the body would be read in another way, or for nobody."""
_OVERRIDING = (
    b"x-vlmguard-",
    b"x-forwarded-",
    b"x-original-",
    b"x-rewrite-",
    b"x-override-",
    b"x-http-method",
    b"x-method-override",
)
"""How headers begin that say the request is another one than it is: another path, method, or sender."""
_KEPT_ALIVE = 4.0
"""Seconds: less than the servers of this field keep an idle connection (uvicorn: 5), which they would close under us."""
_PIECE = 256 * 1024
_RAW = 1 << 20
"""Bytes that are written at once; more go piece by piece, so that other requests have their turn."""
_REDIRECTS = (301, 302, 303, 307, 308)
"""Statuses with which a client goes elsewhere by itself: past the guard, with the request as it was before."""
_AWAY = (502, 503, 504)
"""What proxies and servers say that cannot answer just now. 500 is none: ``transformers serve`` fails to list its models so."""
CONNECT_SECONDS = 10.0


class UpstreamError(VlmguardError):
    """The model's server could not be reached, or broke off before it answered."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Target:
    """A server and under whose name it is asked."""

    base: URL
    """Ends in the API's version, such as ``/v1``."""
    key: str = field(default="", repr=False)
    """The gateway's credential; "" = the client's own is passed on."""
    takes_api_key: bool = False
    """Whether the credential also goes into ``x-api-key``, the only place where some servers of Anthropic's dialect look."""

    def url(self, path: str, query: bytes) -> URL:
        """Where ``path`` (below ``/v1``) is there."""
        text = str(self.base).rstrip("/") + path.removeprefix("/v1")
        return URL(f"{text}?{query.decode('ascii')}" if query else text, encoded=True)


def request_headers(
    headers: Headers,
    target: Target,
    used_key: bytes | None,
    holds_key: Callable[[bytes], bool] = lambda value: False,
) -> CIMultiDict[str]:
    """What of the client's headers goes to the upstream, with the gateway's credential where it has one.

    ``used_key`` is the header in which the client's key for this gateway stood. Such a key never goes on; where it stood in
    one of the headers that upstreams take credentials from, none of these is the client's own for the upstream. Nor does
    any other header go on whose value ``holds_key`` finds to be a key of this gateway.
    Raises ``UnicodeDecodeError`` for bytes that would not go on as they are.
    """
    headers = list(headers)
    dropped = _OURS_TO_SAY | _named_by_connection(headers)
    if target.key or used_key in _CREDENTIALS:
        dropped |= _CREDENTIALS
    kept: CIMultiDict[str] = CIMultiDict()
    for name, value in headers:
        # Servers behind CGI or WSGI read "_" as "-".
        plain = name.replace(b"_", b"-")
        if plain in dropped or plain.startswith(_OVERRIDING) or (b"_" in name and plain.startswith(b"content-")):
            continue
        if not holds_key(value):
            kept.add(name.decode(), value.decode())
    if target.key:
        kept["authorization"] = f"Bearer {target.key}"
        if target.takes_api_key:
            kept["x-api-key"] = target.key
    return kept


def response_headers(headers: Headers) -> list[tuple[bytes, bytes]]:
    """What of the upstream's headers goes to the client."""
    headers = [(name.lower(), value) for name, value in headers]
    dropped = _OF_THE_CONNECTION | _named_by_connection(headers)
    return [pair for pair in headers if pair[0] not in dropped and not pair[0].startswith(b"x-vlmguard-")]


def _named_by_connection(headers: Headers) -> frozenset[bytes]:
    named = [value for name, value in headers if name == b"connection"]
    return frozenset(word.strip().lower() for value in named for word in value.split(b",")) - _TO_THE_END


class Upstream:
    """The client of the model's server.

    Args:
        silence: seconds that an answer may pause.
    """

    def __init__(self, silence: float) -> None:
        self._resolver = SystemResolver()
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEPT_ALIVE, resolver=self._resolver),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=silence),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        )

    async def close(self) -> None:
        await self._session.close()
        await self._resolver.close()

    async def send(self, method: str, url: URL, headers: CIMultiDict[str], body: bytes) -> aiohttp.ClientResponse:
        """The answer, as soon as its headers are here; the caller closes it. Raises ``UpstreamError``."""
        data: Any = body or None
        if len(body) > _RAW:
            headers["Content-Length"] = str(len(body))
            data = _pieces(body)
        try:
            response = await self._session.request(method, url, headers=headers, data=data, allow_redirects=False)
        except TimeoutError as error:  # aiohttp's timeouts are of both kinds
            raise UpstreamError("the upstream did not answer in time", 504) from error
        except (aiohttp.ClientError, OSError) as error:
            raise UpstreamError(f"the upstream cannot be reached: {type(error).__name__}", 502) from error
        if response.status in _REDIRECTS:
            response.close()
            raise UpstreamError("the upstream redirects: set upstream to where it points", 502)
        if not 200 <= response.status < 600:  # another protocol that nobody asked for, or what HTTP does not know
            response.close()
            raise UpstreamError(f"the upstream answers with status {response.status}, which no client can take", 502)
        return response

    async def is_there(self, target: Target, seconds: float) -> str | None:
        """``None`` when the server answers, whatever it thinks of the question; else what is wrong."""
        headers = request_headers((), target, OWN_HEADER)
        try:
            async with asyncio.timeout(seconds):
                response = await self.send("GET", target.url("/v1/models", b""), headers, b"")
        except UpstreamError as error:
            return str(error)
        except TimeoutError:
            return f"the upstream did not answer within {seconds:g} s"
        response.close()
        return f"the upstream answers with status {response.status}" if response.status in _AWAY else None


async def _pieces(body: bytes) -> AsyncIterator[memoryview]:
    view = memoryview(body)
    for at in range(0, len(view), _PIECE):
        yield view[at : at + _PIECE]
