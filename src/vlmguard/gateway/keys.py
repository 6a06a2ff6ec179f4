"""Who may call, and how often: keys that are kept as hashes only, and a token bucket for each."""

from __future__ import annotations

import base64
import hashlib
import hmac
import math
import mmap
import os
import re
import secrets
import struct
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from urllib.parse import unquote_to_bytes

from vlmguard.gateway.config import Key

Headers = Iterable[tuple[bytes, bytes]]

OWN_HEADER = b"x-vlmguard-key"
CREDENTIALS = (OWN_HEADER, b"authorization", b"x-api-key")
"""Where a key may stand, in the order in which they are looked at."""


_ENDS = tuple(map(re.compile, (rb"[^A-Za-z0-9_.~-]+", rb"[^A-Za-z0-9_-]+", rb"[\s&;=,:\"'?#]+")))
"""What may end a key. A key of the operator's own making may hold signs that end others, so there are several cuts."""
_MADE = re.compile(rb"(?=(vg-[A-Za-z0-9_-]{43}))")
"""A key that ``new_key`` made, within whatever word."""
_BASIC = re.compile(rb"basic[\s+]+", re.IGNORECASE)
_CODED = re.compile(rb"[A-Za-z0-9+/_-]{4,}")
_MOST_ESCAPES = 3
_REMEMBERED = 1024


def new_key() -> tuple[str, str]:
    """A key and its hash. 256 random bits: nobody guesses them, so a plain hash keeps them well."""
    key = f"vg-{secrets.token_urlsafe(32)}"
    return key, hash_key(key)


def hash_key(key: str) -> str:
    """SHA-256, hex."""
    return hashlib.sha256(key.encode()).hexdigest()


class KeyRing:
    """The keys that are known."""

    def __init__(self, keys: Sequence[Key]) -> None:
        self._keys = {key.hash: key for key in keys}
        self._looked_at: dict[bytes, bool] = {}

    def __bool__(self) -> bool:
        return bool(self._keys)

    def identify(self, headers: Headers) -> tuple[Key, bytes] | None:
        """Whose key stands in ``headers``, and in which of them. ``None``: nobody's."""
        given = {name: value for name, value in headers if name in CREDENTIALS}
        for name in CREDENTIALS:
            if (value := given.get(name)) is None:
                continue
            if name == b"authorization":
                scheme, _, value = value.partition(b" ")
                if scheme.lower() != b"bearer":
                    continue
            if (key := self._find(value.strip())) is not None:
                return key, name
        return None

    def holds_key(self, value: bytes) -> bool:
        """Whether a known key stands anywhere in a header's value or a query string: as it is, escaped (three times at most),
        or in base64. Clients send the same headers with every request, so the answer is remembered, by a digest."""
        if not self._keys:
            return False
        digest = hashlib.sha256(value).digest()
        if (known := self._looked_at.get(digest)) is None:
            if len(self._looked_at) >= _REMEMBERED:
                self._looked_at.clear()
            known = self._looked_at[digest] = self._search(value)
        return known

    def _search(self, value: bytes) -> bool:
        words = {word for spelling in _spellings(value) for word in _words(spelling)}
        return any(hashlib.sha256(word).hexdigest() in self._keys for word in words)

    def _find(self, value: bytes) -> Key | None:
        digest = hashlib.sha256(value).hexdigest()
        found = None
        for hash, key in self._keys.items():  # all of them, so that the time says nothing
            if hmac.compare_digest(hash, digest):
                found = key
        return found


def _words(value: bytes) -> set[bytes]:
    """What a key could be in ``value``."""
    pieces = {piece for end in _ENDS for piece in end.split(value) if piece}
    return {value.strip(), *pieces, *_MADE.findall(value)}


def _spellings(value: bytes) -> set[bytes]:
    """``value``, and what it says to those who undo escapes, base64, or both."""
    found = _unescaped(_BASIC.sub(b" ", value)) | {value}
    coded = {run for spelling in found for run in _CODED.findall(spelling)}
    return found.union(*map(_unescaped, map(_plain, coded)))


def _unescaped(value: bytes) -> set[bytes]:
    found = {value}
    while b"%" in value and len(found) <= _MOST_ESCAPES:
        value = unquote_to_bytes(value)
        if value in found:
            break
        value = _BASIC.sub(b" ", value)
        found.add(value)
    return found


def _plain(coded: bytes) -> bytes:
    """What stands in base64 of either alphabet, or nothing."""
    try:
        return base64.urlsafe_b64decode(coded.replace(b"+", b"-").replace(b"/", b"_") + b"=" * (-len(coded) % 4))
    except ValueError:
        return b""


class RateLimiter:
    """A token bucket for each key: a minute's worth at once, refilled evenly. Shared by workers through a file.

    Args:
        limits: requests per minute of each key; 0 is no limit.
        file: where the buckets are, for several workers; without one they are this process's own.
        clock: seconds, the same in all processes.
    """

    _BUCKET = struct.Struct("dd")  # tokens, when they were counted

    def __init__(
        self, limits: dict[str, int], file: str | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limits = limits
        self._slots = {id: number * self._BUCKET.size for number, id in enumerate(limits)}
        self._clock = clock
        self._descriptor: int | None = None
        self._buckets: bytearray | mmap.mmap
        if file is None:
            self._buckets = bytearray(self.size(len(limits)))
        else:
            self._descriptor = os.open(file, os.O_RDWR)
            self._buckets = mmap.mmap(self._descriptor, self.size(len(limits)))

    @classmethod
    def size(cls, keys: int) -> int:
        return max(1, keys) * cls._BUCKET.size

    @classmethod
    def make_file(cls, keys: int) -> str:
        """An empty file for the buckets of several workers; the caller removes it."""
        descriptor, name = tempfile.mkstemp(prefix="vlmguard-rates-")
        os.truncate(descriptor, cls.size(keys))
        os.close(descriptor)
        return name

    def seconds_to_wait(self, id: str) -> int:
        """0, and one request is counted; or the whole seconds until there is room for one."""
        limit = self._limits.get(id, 0)
        if not limit:
            return 0
        with self._locked():
            now = self._clock()
            tokens, counted = self._BUCKET.unpack_from(self._buckets, self._slots[id])
            tokens = min(limit, tokens + (now - counted) * limit / 60) if counted else limit
            waits = 0 if tokens >= 1 else math.ceil((1 - tokens) * 60 / limit)
            self._BUCKET.pack_into(self._buckets, self._slots[id], tokens - (not waits), now)
        return waits

    @contextmanager
    def _locked(self) -> Iterator[None]:
        if self._descriptor is None:
            yield
            return
        import fcntl  # not everywhere, and only several workers need it

        fcntl.lockf(self._descriptor, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN)
