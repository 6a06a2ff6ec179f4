"""Who looks: a signed cookie that names the key with which somebody logged in, and a token for every form."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from vlmguard.gateway.config import Key
from vlmguard.gateway.keys import KeyRing

COOKIE = "vlmguard_console"
_HOURS = 12
_DOMAIN = b"vlmguard console session 1"
_FORM_DOMAIN = b"vlmguard console form 1"


@dataclass(frozen=True, slots=True)
class Session:
    """Somebody's visit. ``key`` is ``None`` for who has not logged in, and where no keys are asked for."""

    key: Key | None
    nonce: str
    sees_all: bool
    is_in: bool
    """Whether they may look."""
    token: str = field(repr=False)
    """Stands in every form; a page of somebody else's cannot know it."""

    @property
    def name(self) -> str:
        return "" if self.key is None else self.key.id

    @property
    def owner(self) -> str | None:
        """Whose decisions they see; ``None``: everybody's."""
        return None if self.sees_all else self.name


class Sessions:
    """Makes and reads the cookies. The workers share the secret, so any of them reads what another made.

    Args:
        keys: the gateway's. Without any, everybody who reaches the gateway may look, as everybody may call.
        secret: of which the keys of the signatures are derived.
        clock: seconds since 1970.
    """

    def __init__(self, keys: Sequence[Key], secret: bytes, clock: Callable[[], float] = time.time) -> None:
        self._ring = KeyRing(keys)
        self._keys = {key.id: key for key in keys}
        self._secret = hmac.digest(secret, _DOMAIN, "sha256")
        self._clock = clock

    def read(self, cookie: str | None) -> tuple[Session, bool]:
        """The session that a cookie names, or a new one; and whether it is new and the cookie is to be set."""
        if cookie is not None and (found := self._known(cookie)) is not None:
            return found, False
        return self._session(None, secrets.token_hex(16)), True

    def log_in(self, given: str) -> Session | None:
        """A new session for the key that somebody typed. ``None``: nobody has it."""
        found = self._ring.identify([(b"x-vlmguard-key", given.strip().encode())])
        return None if found is None else self._session(found[0], secrets.token_hex(16))

    def cookie(self, session: Session) -> str:
        """What the browser is to keep."""
        word = base64.urlsafe_b64encode(session.name.encode()).decode()
        body = f"{word}.{session.nonce}.{int(self._clock()) + _HOURS * 3600}"
        return f"{body}.{self._sign(body, session.key)}"

    def _known(self, cookie: str) -> Session | None:
        body, _, signature = cookie.rpartition(".")
        try:
            word, nonce, until = body.split(".")
            name = base64.urlsafe_b64decode(word.encode()).decode()
            fresh = int(until) > self._clock()
        except ValueError:
            return None
        key = self._keys.get(name)
        if not hmac.compare_digest(self._sign(body, key).encode(), signature.encode(errors="replace")):
            return None
        return self._session(key, nonce) if fresh and (key is not None or not name) else None

    def _session(self, key: Key | None, nonce: str) -> Session:
        token = hmac.new(self._secret, _FORM_DOMAIN + nonce.encode(), hashlib.sha256).hexdigest()
        open_to_all = not self._ring
        return Session(
            key, nonce, open_to_all or (key is not None and key.sees_all), open_to_all or key is not None, token
        )

    def _sign(self, body: str, key: Key | None) -> str:
        """A key's hash goes in: who takes a key out of the configuration, or changes it, ends its sessions."""
        whole = f"{body}.{'' if key is None else key.hash}"
        return hmac.new(self._secret, whole.encode(), hashlib.sha256).hexdigest()
