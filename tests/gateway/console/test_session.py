from __future__ import annotations

from tests.gateway.console.kit import APP, OPS, hash_of
from vlmguard.gateway.config import Key
from vlmguard.gateway.console.session import Sessions

SECRET = b"s" * 32
KEYS = (Key("ops", hash_of(OPS), sees_all=True), Key("app", hash_of(APP)))


def test_a_session_lasts_twelve_hours() -> None:
    now = [1_000_000.0]
    sessions = Sessions(KEYS, SECRET, lambda: now[0])
    session = sessions.log_in(f" {OPS}\n")
    assert session is not None
    cookie = sessions.cookie(session)
    now[0] += 12 * 3600 - 1
    assert sessions.read(cookie) == (session, False)
    now[0] += 2
    assert not sessions.read(cookie)[0].is_in


def test_a_session_ends_with_its_key() -> None:
    session = Sessions(KEYS, SECRET).log_in(APP)
    assert session is not None
    assert session.owner == "app"
    cookie = Sessions(KEYS, SECRET).cookie(session)
    assert Sessions(KEYS, SECRET).read(cookie)[0].is_in  # of another worker
    for keys in ((KEYS[0],), (KEYS[0], Key("app", hash_of("another"))), ()):
        assert Sessions(keys, SECRET).read(cookie)[1]
    assert Sessions(KEYS, b"t" * 32).read(cookie)[1]


def test_who_opens_the_console_before_keys_were_asked_for_is_not_in_afterwards() -> None:
    session, _ = Sessions((), SECRET).read(None)
    assert session.is_in
    cookie = Sessions((), SECRET).cookie(session)
    assert not Sessions(KEYS, SECRET).read(cookie)[0].is_in


def test_every_login_has_a_token_of_its_own() -> None:
    sessions = Sessions(KEYS, SECRET)
    found = {session.token for session in (sessions.log_in(OPS), sessions.log_in(OPS)) if session is not None}
    assert len(found) == 2
    assert sessions.log_in("vg-nobodys") is None
