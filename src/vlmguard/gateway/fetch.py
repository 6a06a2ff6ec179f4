"""Remote pictures: fetched once, from a checked address, under caps; the bytes that are judged are the bytes sent on.

HTTPS only. Every address that a name stands for must be public, and the connection goes to an address that was checked
(the name is not looked up again, so it cannot change in between). Redirects are followed by hand and checked like the first.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
import ssl
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from vlmguard.errors import FetchError, ImageError, InputError
from vlmguard.gateway.asgi import Refused
from vlmguard.gateway.config import FetchSettings
from vlmguard.images import Limits, read_image
from vlmguard.types import Image
from vlmguard.wire import Request

MOST_REDIRECTS = 3
MOST_AT_ONCE = 32
MOST_OF_ONE = 8
"""Pictures that one caller may have fetched at once, so that slow addresses of theirs leave room for others'."""
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""Name and port → addresses. Raises ``OSError``."""

_REDIRECTS = (301, 302, 303, 307, 308)
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_COMPATIBLE = ipaddress.ip_network("::/96")
_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")
_ISATAP = (0x00005EFE, 0x02005EFE)
"""What stands before the IPv4 address of a tunnel within a site (RFC 5214)."""
_NOT_PUBLIC = tuple(
    map(
        ipaddress.ip_network,
        (
            "0.0.0.0/8",
            "10.0.0.0/8",
            "100.64.0.0/10",
            "127.0.0.0/8",
            "168.63.129.16/32",  # machines' metadata behind a public address (Azure); the others' are private or link-local
            "169.254.0.0/16",
            "172.16.0.0/12",
            "192.0.0.0/24",
            "192.0.2.0/24",
            "192.88.99.0/24",
            "192.168.0.0/16",
            "198.18.0.0/15",
            "198.51.100.0/24",
            "203.0.113.0/24",
            "224.0.0.0/3",
            "2001:2::/48",
            "2001:10::/28",
            "2001:db8::/32",
            "3fff::/20",
        ),
    )
)
"""The registries of special addresses (RFC 6890), as far as they name what nobody on the internet has: Python's own tables
differ from one release to the next. Of IPv6 nothing outside 2000::/3 is public, but for what stands for an IPv4 address."""


def is_public(address: Address) -> bool:
    """Whether anybody on the internet has that address, also within an IPv6 address that stands for an IPv4 one."""
    if not address.is_global or address.is_multicast or address.is_reserved:
        return False
    if any(address in network for network in _NOT_PUBLIC):
        return False
    inner = _embedded(address)
    if isinstance(address, ipaddress.IPv6Address) and address not in _GLOBAL_UNICAST and not inner:
        return False
    return all(map(is_public, inner))


def _embedded(address: Address) -> list[ipaddress.IPv4Address]:
    if isinstance(address, ipaddress.IPv4Address):
        return []
    number = int(address)
    found = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    if address in _NAT64 or address in _COMPATIBLE or (number >> 32) & 0xFFFFFFFF in _ISATAP:
        found.append(ipaddress.IPv4Address(number & 0xFFFFFFFF))
    return [inner for inner in found if inner is not None]


class SystemResolver(AbstractResolver):
    """The system's look-up on threads of its own, so that it never queues behind judging."""

    def __init__(self, threads: int = 4) -> None:
        self._pool = ThreadPoolExecutor(threads, "resolve")

    async def addresses(self, host: str, port: int) -> list[str]:
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self._pool, lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        return [str(address[4][0]) for address in found]

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        return [_result(host, port, address) for address in await self.addresses(host, port)]

    async def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)


class _Pinned(AbstractResolver):
    """Knows the addresses that were checked, and looks nothing up."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self._addresses = addresses

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        return [_result(host, port, address) for address in self._addresses]

    async def close(self) -> None:
        return


def _result(host: str, port: int, address: str) -> ResolveResult:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=socket.AI_NUMERICHOST)


_NAMED = re.compile(r"(?P<host>[\w-]+(?:\.[\w-]+)*)\.?(?::(?P<port>[0-9]{1,5}))?")


@dataclass(frozen=True, slots=True)
class AllowList:
    """What is allowed beside public HTTPS."""

    names: frozenset[str]
    """``host`` (any port) or ``host:port``."""
    networks: tuple[Network, ...]

    @classmethod
    def parse(cls, entries: Sequence[str]) -> AllowList:
        """Raises ``InputError``."""
        names, networks = set(), []
        for entry in entries:
            try:
                networks.append(ipaddress.ip_network(entry))
            except ValueError:
                if (found := _NAMED.fullmatch(entry)) is None or not 0 < int(found["port"] or 443) < 65536:
                    raise InputError(
                        f"fetch.allow holds {entry!r}, which no host is called: name one (without wildcards), host:port, "
                        "or a network such as 10.0.0.0/8 or fd00::1/128"
                    ) from None
                names.add(found["host"].lower() + (f":{int(found['port'])}" if found["port"] else ""))
        return cls(frozenset(names), tuple(networks))

    def names_host(self, host: str, port: int) -> bool:
        return host in self.names or f"{host}:{port}" in self.names

    def holds(self, address: Address) -> bool:
        return any(address in network for network in self.networks)


@dataclass(slots=True)
class _Budget:
    """Bytes that the pictures of one request may still have."""

    left: int
    hold: Callable[[int], None]
    """Told of what is held, and may refuse it."""

    def take(self, size: int) -> None:
        self.spend(size)
        self.hold(size)

    def spend(self, size: int) -> None:
        self.left -= size
        if self.left < 0:
            raise FetchError("the pictures of the request are too large together: send fewer or smaller ones")


class Fetcher:
    """Fetches pictures.

    Args:
        settings: what is allowed.
        most_together: bytes that the pictures of one request may have.
        resolve: name → addresses; the system's look-up by default.
    """

    def __init__(self, settings: FetchSettings, most_together: int, resolve: Resolve | None = None) -> None:
        self._settings = settings
        self._most_together = most_together
        self._allow = AllowList.parse(settings.allow)
        self._resolver = SystemResolver()
        self._resolve: Resolve = resolve or self._resolver.addresses
        self._at_once = asyncio.Semaphore(MOST_AT_ONCE)
        self._of_one: dict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(MOST_OF_ONE))
        self._tls = ssl.create_default_context()
        if settings.ca_file:
            try:
                self._tls.load_verify_locations(settings.ca_file)
            except OSError as error:
                raise InputError(f"fetch.ca_file {settings.ca_file} cannot be used: {error}") from error

    async def close(self) -> None:
        await self._resolver.close()

    async def fill(self, request: Request, owner: str, hold: Callable[[int], None] = lambda size: None) -> Request:
        """The request, which is ``owner``'s, with the bytes of its remote pictures in it.

        ``hold`` is told of the bytes that this takes: of every piece that comes, and of the body in which they will stand.

        Raises ``FetchError``, and what ``hold`` raises.
        """
        urls = list(dict.fromkeys(remote.url for remote in request.remote))
        if len(urls) > self._settings.max_pictures:
            raise FetchError(
                f"the request names {len(urls)} remote pictures; {self._settings.max_pictures} are the most"
            )
        budget = _Budget(self._most_together, hold)
        tasks: list[asyncio.Task[Image]] = []
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._fetch(url, budget, owner)) for url in urls]
        except* (FetchError, Refused) as errors:
            raise _first(errors) from None
        images = dict(zip(urls, (task.result() for task in tasks), strict=True))
        placed = {remote.path: images[remote.url] for remote in request.remote}
        # A picture that is named a hundred times is written a hundred times.
        budget.spend(
            sum(len(image.data) for image in placed.values()) - sum(len(image.data) for image in images.values())
        )
        hold(len(request.body) + sum(_in_base64(image) for image in placed.values()))
        return request.with_images(placed)

    async def _fetch(self, url: str, budget: _Budget, owner: str) -> Image:
        try:
            async with self._of_one[owner], self._at_once, asyncio.timeout(self._settings.seconds):
                data = await self._follow(url, budget)
        except TimeoutError as error:
            raise FetchError(f"{_shown(url)} did not come within {self._settings.seconds:g} seconds") from error
        try:
            return read_image(data, _shown(url), Limits(max_bytes=self._settings.max_bytes))
        except ImageError as error:
            raise FetchError(str(error)) from error

    async def _follow(self, address: str, budget: _Budget) -> bytes:
        url = _parse(address)
        for _ in range(MOST_REDIRECTS + 1):
            answer = await self._get(url, budget)
            if isinstance(answer, bytes):
                return answer
            url = answer
        raise FetchError(f"{_shown(address)} redirects more than {MOST_REDIRECTS} times")

    async def _get(self, url: URL, budget: _Budget) -> bytes | URL:
        """The bytes at ``url``, or where it redirects to."""
        pinned = await self._checked_addresses(url)
        connector = aiohttp.TCPConnector(resolver=_Pinned(pinned), use_dns_cache=False, force_close=True, ssl=self._tls)
        async with aiohttp.ClientSession(
            connector=connector, cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False, trust_env=False
        ) as session:
            try:
                headers = {"Accept": "image/*", "Accept-Encoding": "identity", "User-Agent": "vlmguard"}
                async with session.get(url, headers=headers, allow_redirects=False) as response:
                    if response.status in _REDIRECTS:
                        return _redirected(url, response)
                    return await self._read(url, response, budget)
            except aiohttp.ClientError as error:
                raise FetchError(f"{_shown(url)} cannot be fetched: {type(error).__name__}") from error

    async def _read(self, url: URL, response: aiohttp.ClientResponse, budget: _Budget) -> bytes:
        if response.status != 200:
            raise FetchError(f"{_shown(url)} cannot be fetched: it answers with status {response.status}")
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise FetchError(f"{_shown(url)} cannot be fetched: it answers compressed, though asked not to")
        data = bytearray()
        async for piece in response.content.iter_any():
            budget.take(len(piece))
            data += piece
            if len(data) > self._settings.max_bytes:
                raise FetchError(f"{_shown(url)} is larger than {self._settings.max_bytes:,} bytes")
        return bytes(data)

    async def _checked_addresses(self, url: URL) -> list[str]:
        """The addresses that ``url`` may be fetched from: all of its host's, each checked."""
        host = (url.host or "").lower().rstrip(".")
        port = url.port or 443
        if self._allow.names_host(host, port):
            return [str(address) for address in await self._addresses(url, host, port)]
        addresses = await self._addresses(url, host, port)
        if all(self._allow.holds(address) for address in addresses):
            return [str(address) for address in addresses]
        if url.scheme != "https" or port != 443:
            raise FetchError(f"{_shown(url)} is not fetched: only HTTPS on its own port is")
        if not all(is_public(address) for address in addresses):
            # One message for every kind of inner address: it must not tell what there is inside.
            raise FetchError(f"{_shown(url)} is not fetched: its address is not public")
        return [str(address) for address in addresses]

    async def _addresses(self, url: URL, host: str, port: int) -> list[Address]:
        try:
            return [ipaddress.ip_address(host)]
        except ValueError:
            pass
        try:
            found = [ipaddress.ip_address(text.partition("%")[0]) for text in await self._resolve(host, port)]
        except (OSError, UnicodeError, ValueError) as error:
            raise FetchError(f"{_shown(url)} is not fetched: its host is not known") from error
        if not found:
            raise FetchError(f"{_shown(url)} is not fetched: its host is not known")
        return found


def _in_base64(image: Image) -> int:
    return 4 * -(-len(image.data) // 3)


def _parse(address: str) -> URL:
    """One reading of an address, for the check and for the connection alike."""
    try:
        url = URL(address)
        has_port = url.port is not None
    except (ValueError, UnicodeError) as error:
        raise FetchError(f"{_shown(address)} is no URL") from error
    if url.scheme not in ("http", "https") or not url.host or not has_port:
        raise FetchError(f"{_shown(address)} is not fetched: it is no HTTPS URL")
    if url.user is not None or url.password is not None:
        raise FetchError("a remote picture is not fetched: its URL holds a credential")
    return url


def _redirected(url: URL, response: aiohttp.ClientResponse) -> URL:
    location = response.headers.get("Location")
    if not location:
        raise FetchError(f"{_shown(url)} redirects to nowhere")
    try:
        return _parse(str(url.join(URL(location))))
    except (ValueError, UnicodeError) as error:
        raise FetchError(f"{_shown(url)} redirects to what is no URL") from error


def _shown(url: object) -> str:
    """A URL for a message: without its query, which may hold a signature, and not too long."""
    return str(url).partition("?")[0][:200]


def _first(errors: BaseExceptionGroup[Any]) -> BaseException:
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
