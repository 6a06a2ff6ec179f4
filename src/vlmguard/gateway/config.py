"""What the gateway is told: a file, over it the environment, over it the flags; checked whole before anything starts.

Every setting stands once, as a field below: its name in the file, its ``VLMGUARD_…`` variable and its flag follow from it.
"""

from __future__ import annotations

import dataclasses
import difflib
import ipaddress
import math
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints
from urllib.parse import urlsplit

from vlmguard.errors import InputError
from vlmguard.types import Mode

PREFIX = "VLMGUARD_"
HIDDEN = "(hidden)"

OnFailure = Literal["closed", "degraded", "open"]
Blocked = Literal["answer", "error"]
WhenFull = Literal["wait", "fail"]
Level = Literal["debug", "info", "warning", "error"]

GUARDED = ("/v1/chat/completions", "/v1/responses", "/v1/messages", "/v1/completions")
"""The paths whose requests are read and judged."""


def _setting(default: Any, help: str, *, secret: bool = False, holds_secret: bool = False) -> Any:
    """A field. ``secret``: shown to nobody; ``holds_secret``: a part of it is."""
    return field(default=default, metadata={"help": help, "secret": secret}, repr=not (secret or holds_secret))


@dataclass(frozen=True, slots=True)
class FetchSettings:
    """Pictures that a request names by their address."""

    enabled: bool = _setting(True, "fetch remote pictures, judge them, and send the very bytes on")
    allow: tuple[str, ...] = _setting(
        (), "hosts and networks allowed beside public HTTPS: names, host:port, 10.0.0.0/8"
    )
    seconds: float = _setting(10.0, "longest time for one picture, redirects included")
    max_bytes: int = _setting(20_000_000, "largest picture")
    max_pictures: int = _setting(16, "most remote pictures in one request")
    ca_file: str = _setting("", "a PEM file of authorities to trust beside the system's, for internal hosts")


@dataclass(frozen=True, slots=True)
class LimitSettings:
    """What a client may ask of the gateway."""

    body_bytes: int = _setting(50_000_000, "largest request body")
    body_seconds: float = _setting(60.0, "longest time for a request body to arrive")
    header_seconds: float = _setting(20.0, "longest time for a request's headers to arrive")
    write_seconds: float = _setting(120.0, "longest time a client may take nothing of an answer")
    held_bytes: int = _setting(1_000_000_000, "most bytes of request bodies held at one time in each worker")
    in_flight: int = _setting(4096, "most requests at one time in each worker")


@dataclass(frozen=True, slots=True)
class AuditSettings:
    """Where decisions are kept."""

    url: str = _setting(
        "sqlite:vlmguard-audit.db", "database of the audit: sqlite:FILE, postgresql://…, or 'none'", holds_secret=True
    )
    flush_seconds: float = _setting(0.2, "longest time a decision waits to be written")
    queue: int = _setting(10_000, "most decisions that wait to be written")
    when_full: WhenFull = _setting("wait", "what a request does when the queue is full: wait or fail")
    keep_days: int = _setting(0, "remove decisions that are older than so many days; 0 keeps them")
    raw: bool = _setting(False, "keep the request bodies as well; they hold what users wrote")


@dataclass(frozen=True, slots=True)
class Key:
    """Somebody who may call."""

    id: str
    hash: str = field(repr=False)
    """SHA-256 of the key, hex."""
    policy: str | None = None
    mode: Mode | None = None
    on_failure: OnFailure | None = None
    requests_per_minute: int = 0
    """0: no limit."""
    sees_all: bool = False
    """Whether the console shows this key the decisions about everybody's requests, and not only its own."""


@dataclass(frozen=True, slots=True)
class Route:
    """What is different on one guarded path."""

    path: str
    upstream: str | None = None
    upstream_key: str | None = field(default=None, repr=False)
    policy: str | None = None
    mode: Mode | None = None
    on_failure: OnFailure | None = None


@dataclass(frozen=True, slots=True)
class Config:
    """The whole configuration. ``load`` makes it."""

    upstream: str = _setting(dataclasses.MISSING, "base URL of the model's server, such as http://127.0.0.1:8000/v1")
    upstream_key: str = _setting(
        "", "credential for the upstream; without one the client's own is passed on", secret=True
    )
    upstream_seconds: float = _setting(600.0, "longest silence of the upstream within one answer")
    host: str = _setting("127.0.0.1", "address to listen on; other than loopback needs keys")
    port: int = _setting(8080, "port to listen on")
    workers: int = _setting(1, "processes that serve")
    allowed_hosts: tuple[str, ...] = _setting((), "names of this server beside localhost while it asks for no keys")
    rewriter: str = _setting("embedded", "who judges")
    threads: int = _setting(2, "cores that each worker judges on")
    policy: str = _setting("", "a TOML file laid over the default policy")
    mode: Mode = _setting(Mode.ENFORCE, "enforce; monitor judges and records, and forwards everything unchanged")
    on_failure: OnFailure = _setting("closed", "when the guard fails: closed, degraded (safety prompt), open")
    deadline: float = _setting(15.0, "seconds that fetching and judging one request may take")
    blocked: Blocked = _setting("answer", "a blocked request gets an answer that says so, or an error")
    receipt_key: str = _setting("", "secret that signs receipts and keys their hashes", secret=True)
    public_metrics: bool = _setting(False, "let /metrics be read without a key")
    console: bool = _setting(False, "serve the console at /console")
    pass_through: tuple[str, ...] = _setting((), 'paths to pass on unguarded, such as "POST /v1/embeddings"')
    log_level: Level = _setting("info", "least grave message to log")
    log_json: bool = _setting(False, "log JSON lines")
    tracing: bool = _setting(False, "send OpenTelemetry spans to where the OTEL_… variables say")
    fetch: FetchSettings = field(default_factory=FetchSettings)
    limits: LimitSettings = field(default_factory=LimitSettings)
    audit: AuditSettings = field(default_factory=AuditSettings)
    keys: tuple[Key, ...] = ()
    routes: tuple[Route, ...] = ()
    origin: Mapping[str, str] = field(default_factory=dict, compare=False)
    """Setting → where it was said: ``flag``, a variable's name, a file's. Left out: the default."""
    unknown: tuple[str, ...] = field(default=(), compare=False)
    """Variables that are called like settings, and are none."""

    @property
    def is_loopback(self) -> bool:
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host.strip("[]")).is_loopback
        except ValueError:
            return False


_SECTIONS: dict[str, type] = {"fetch": FetchSettings, "limits": LimitSettings, "audit": AuditSettings}
_HINTS: dict[type, dict[str, Any]] = {kind: get_type_hints(kind) for kind in (Config, Key, Route, *_SECTIONS.values())}


def settings() -> dict[str, dataclasses.Field[Any]]:
    """Every scalar setting by its dotted name."""
    found = {item.name: item for item in dataclasses.fields(Config) if "help" in item.metadata}
    for section, kind in _SECTIONS.items():
        found |= {f"{section}.{item.name}": item for item in dataclasses.fields(kind)}
    return found


def hint(name: str) -> Any:
    """The type of a setting."""
    section, _, last = name.rpartition(".")
    return _HINTS[_SECTIONS[section] if section else Config][last]


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return PREFIX + name.replace(".", "_").upper()


# ---------------------------------------------------------------------------------------------------------------------
# Reading


def load(
    file: Path | None = None, environment: Mapping[str, str] | None = None, flags: Mapping[str, Any] | None = None
) -> Config:
    """The checked configuration. Raises ``InputError``, which names the entry, where it stands and what it may be."""
    environment = os.environ if environment is None else environment
    values: dict[str, Any] = {}
    origin: dict[str, str] = {}
    tables = _read(file) if file is not None else {}
    keys = _tables(tables.pop("keys", {}), "keys", Key, "id", environment)
    routes = _tables(tables.pop("routes", {}), "routes", Route, "path", environment)
    for name, value in _flat(tables).items():
        _known(name, settings(), str(file))
        values[name], origin[name] = _from_file(name, value, str(file), environment), str(file)
    for name in settings():
        if (text := environment.get(variable(name))) is not None and not _is_link(variable(name), text):
            values[name], origin[name] = _from_text(name, text, variable(name), environment), variable(name)
    for name, value in (flags or {}).items():
        values[name] = _from_text(name, value, _flag(name), environment) if isinstance(value, str) else value
        origin[name] = "flag"
    unknown = _unknown_variables(environment, _named_in(file))  # before what a slip there would leave missing
    if not values.get("upstream"):
        raise InputError("the upstream is missing: vlmguard serve --upstream http://127.0.0.1:8000/v1")
    config = dataclasses.replace(_build(values, keys, routes, origin), unknown=unknown)
    _check(config)
    return config


_OTHERS = ("VLMGUARD_API_KEY",)
"""Variables of ours that are no settings of the gateway's: the key of a model rewriter's endpoint."""
_LINK = re.compile(r"VLMGUARD_(?:\w+_)?(?:SERVICE_(?:HOST|PORT(?:_\w+)?)|PORT_\d+_(?:TCP|UDP|SCTP)(?:_\w+)?)")
_ADDRESS = re.compile(r"VLMGUARD_(?:\w+_)?PORT")
"""Of a service's first port, with its protocol before it."""


def _is_link(name: str, text: str) -> bool:
    """Whether Kubernetes set a variable, as it does for a service whose name begins with vlmguard."""
    return _LINK.fullmatch(name) is not None or (_ADDRESS.fullmatch(name) is not None and "://" in text)


def _named_in(file: Path | None) -> frozenset[str]:
    """Variables that a file takes secrets from."""
    return frozenset() if file is None else frozenset(re.findall(r"env:(\w+)", file.read_text(encoding="utf-8-sig")))


def _unknown_variables(environment: Mapping[str, str], named: frozenset[str]) -> tuple[str, ...]:
    """Raises ``InputError`` for one that is nearly a setting's: a slip there would be a setting that does not hold."""
    known = {variable(name) for name in settings()}
    strange = [
        name
        for name, text in environment.items()
        if name.upper().startswith(_LIKE_OURS) and name not in known | named | {*_OTHERS} and not _is_link(name, text)
    ]
    for name in strange:
        if near := difflib.get_close_matches(name.upper(), sorted(known), n=1, cutoff=_NEARLY):
            raise InputError(f"unknown variable {name}; did you mean {near[0]!r}?")
    return tuple(name for name in strange if name.startswith(PREFIX))


_LIKE_OURS = "VLM"
"""What a name begins with that may be one of ours with a slip in its first word: VLM_GUARD_…, vlmguard_…"""
_NEARLY = 0.9


def about_unknown(name: str) -> str:
    """What to say of a variable that is called like a setting, and is none."""
    ends = [variable(setting).removeprefix(PREFIX) for setting in settings()]
    near = difflib.get_close_matches(name.removeprefix(PREFIX), ends, n=1)
    hint = f"; the nearest that is one: {PREFIX}{near[0]}" if near else ""
    return f"the variable {name} is set, and is no setting: nothing reads it{hint}"


def _flag(name: str) -> str:
    return "--" + name.replace(".", "-").replace("_", "-")


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{file}: not valid TOML: {error}") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _flat(tables: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tables.items():
        if name in _SECTIONS and isinstance(value, dict):
            flat |= {f"{name}.{key}": inner for key, inner in value.items()}
        else:
            flat[name] = value
    return flat


def _known(name: str, known: Mapping[str, object], where: str) -> None:
    if name not in known:
        near = difflib.get_close_matches(name, [*known, "keys", "routes"], n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise InputError(f"{where}: unknown entry {name!r}{hint}")


def _from_file(name: str, value: object, where: str, environment: Mapping[str, str]) -> Any:
    kind = hint(name)
    if _may_be_elsewhere(name) and isinstance(value, str):
        return _secret(value, f"{where}: {name}", environment)
    if get_origin(kind) is tuple:
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise InputError(f"{where}: {name} is a list of texts, not {value!r}")
        return tuple(value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value) if abs(value) < _MOST else math.inf
    return _word(kind, value, f"{where}: {name}")


def _may_be_elsewhere(name: str) -> bool:
    """Whether a setting holds a secret, and may name a variable (``env:NAME``) in its place."""
    return settings()[name].metadata["secret"] or name == "audit.url"


def _from_text(name: str, text: str, where: str, environment: Mapping[str, str]) -> Any:
    kind = hint(name)
    if _may_be_elsewhere(name):
        return _secret(text, where, environment).strip()  # what is read from a file ends in a line end
    if get_origin(kind) is tuple:
        return tuple(item.strip() for item in text.split(",") if item.strip())
    if kind is bool:
        if text.lower() not in ("true", "false", "1", "0"):
            raise InputError(f"{where} is true or false, not {text!r}")
        return text.lower() in ("true", "1")
    if kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            raise InputError(f"{where} is a number, not {text!r}") from None
    return _word(kind, text, where)


def _word(kind: Any, value: Any, where: str) -> Any:
    """``value`` as a value of ``kind``: a word of a closed list, or a plain one."""
    if type(None) in get_args(kind):
        kind = next(option for option in get_args(kind) if option is not type(None))
    words = get_args(kind) if get_origin(kind) is Literal else tuple(Mode) if kind is Mode else ()
    if words:
        if value not in words:
            raise InputError(f"{where} is one of {', '.join(map(str, words))}, not {value!r}")
        return Mode(value) if kind is Mode else value
    if type(value) is not kind:
        names = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
        raise InputError(f"{where} is {names.get(kind, kind)}, not {value!r}")
    return value


def _secret(value: str, where: str, environment: Mapping[str, str]) -> str:
    """A secret, or what the variable that it names (``env:NAME``) holds."""
    if not value.startswith("env:"):
        return value
    if not (found := environment.get(value[4:], "").strip()):  # what is read from a file ends in a line end
        raise InputError(f"{where} names the variable {value[4:]}, which is not set")
    return found


def _tables(tables: object, name: str, kind: type[Any], title: str, environment: Mapping[str, str]) -> tuple[Any, ...]:
    if not isinstance(tables, dict) or not all(isinstance(table, dict) for table in tables.values()):
        raise InputError(
            f"[{name}] holds tables, such as [{name}.{'alice' if kind is Key else chr(34) + GUARDED[0] + chr(34)}]"
        )
    return tuple(_table(kind, name, title, label, table, environment) for label, table in tables.items())


def _table(
    kind: type[Any], name: str, title: str, label: str, table: dict[str, Any], environment: Mapping[str, str]
) -> Any:
    where = f"[{name}.{label}]"
    known = {item.name: item for item in dataclasses.fields(kind) if item.name != title}
    values: dict[str, Any] = {title: label}
    for key, value in table.items():
        _known(key, known, where)
        said = _word(_HINTS[kind][key], value, f"{where} {key}")
        values[key] = _secret(said, f"{where} {key}", environment) if key == "upstream_key" else said
    try:
        return kind(**values)
    except TypeError:
        raise InputError(f"{where} lacks its hash: vlmguard serve --new-key {label} makes one") from None


def _build(
    values: Mapping[str, Any], keys: tuple[Key, ...], routes: tuple[Route, ...], origin: Mapping[str, str]
) -> Config:
    top = {name: value for name, value in values.items() if "." not in name}
    sections = {
        section: kind(
            **{name.partition(".")[2]: value for name, value in values.items() if name.startswith(f"{section}.")}
        )
        for section, kind in _SECTIONS.items()
    }
    if "allowed_hosts" in top:
        top["allowed_hosts"] = tuple(host.lower().rstrip(".") for host in top["allowed_hosts"])
    return Config(**top, **sections, keys=tuple(map(_normal_key, keys)), routes=routes, origin=dict(origin))


def _normal_key(key: Key) -> Key:
    digest = key.hash.removeprefix("sha256:").lower()
    if not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise InputError(
            f"[keys.{key.id}] hash is the SHA-256 of the key in hex: vlmguard serve --new-key {key.id} makes one"
        )
    return dataclasses.replace(key, hash=digest)


# ---------------------------------------------------------------------------------------------------------------------
# Checking


_MAY_BE_ZERO = ("port", "audit.keep_days")
_MOST = 1 << 63


def _check(config: Config) -> None:
    _check_address(config.upstream, "upstream")
    for route in config.routes:
        if route.path not in GUARDED:
            raise InputError(f"[routes.{route.path!r}] is none of the guarded paths: {', '.join(GUARDED)}")
        if route.upstream is not None:
            _check_address(route.upstream, f"[routes.{route.path!r}] upstream")
            if config.upstream_key and route.upstream_key is None and not _same_server(route.upstream, config.upstream):
                # The default credential belongs to another server, which must not see it.
                raise InputError(
                    f'[routes.{route.path!r}] has an upstream of its own: give it an upstream_key of its own, or ""'
                )
    for name in settings():
        value = _value(config, name)
        if hint(name) in (int, float) and not (0 < value < _MOST or (value == 0 and name in _MAY_BE_ZERO)):
            raise InputError(f"{name} is a number above 0 and below 2**63, not {value}")
    if not 0 <= config.port <= 65535:
        raise InputError(f"port is a number up to 65535, not {config.port}")
    if config.limits.held_bytes < config.limits.body_bytes:
        raise InputError("limits.held_bytes is less than limits.body_bytes: the largest body would never be taken")
    _check_credentials(config)
    hashes = [key.hash for key in config.keys]
    if len(set(hashes)) != len(hashes):
        raise InputError("two [keys] have the same hash: every caller needs a key of their own")
    if any(key.requests_per_minute < 0 for key in config.keys):
        raise InputError("requests_per_minute is 0 (no limit) or more")
    _check_names(config)
    if not config.is_loopback and not config.keys:
        raise InputError(
            f"listening on {config.host} without keys would let anybody call: "
            "make one with vlmguard serve --new-key NAME and put it into the configuration, or listen on 127.0.0.1"
        )


def _check_names(config: Config) -> None:
    for entry in config.pass_through:
        split_pass_through(entry)
    for host in config.allowed_hosts:
        if not re.fullmatch(r"[\w-]+(\.[\w-]+)*", host) and not _is_address(host):
            raise InputError(f"allowed_hosts holds {host!r}: name a host, without scheme, port or wildcard")


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _check_credentials(config: Config) -> None:
    for what, key in (
        ("upstream_key", config.upstream_key),
        *((f"[routes.{route.path!r}] upstream_key", route.upstream_key or "") for route in config.routes),
    ):
        if not all("\x21" <= letter <= "\x7e" for letter in key):
            raise InputError(f"{what} holds a space, a line end or another sign that no header takes")


def _check_address(url: str, what: str) -> None:
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises for what is none
    except ValueError as error:
        raise InputError(f"{what} is no URL ({error}): {url!r}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InputError(f"{what} is a URL such as http://127.0.0.1:8000/v1, not {url!r}")
    if parts.username is not None or parts.password is not None:
        raise InputError(f"{what} holds a credential: put it into upstream_key (or {variable('upstream_key')})")
    if parts.query or parts.fragment:
        raise InputError(f"{what} is a base URL: leave out what follows the path")


def _same_server(one: str, other: str) -> bool:
    return urlsplit(one)[:2] == urlsplit(other)[:2]


def split_pass_through(entry: str) -> tuple[str, str]:
    """``"POST /v1/embeddings"`` as method and path. Raises ``InputError``."""
    method, _, path = entry.strip().partition(" ")
    path = path.strip()
    if not re.fullmatch(r"[A-Z]+", method) or not re.fullmatch(r"/v1(/[A-Za-z0-9_.~-]+)+", path) or "/." in path:
        raise InputError(
            f'pass_through names a method and a plain path below /v1, such as "POST /v1/embeddings", not {entry!r}'
        )
    if path in GUARDED:
        raise InputError(f"pass_through names {path}, which is guarded: use monitor mode to try the guard out")
    return method, path


# ---------------------------------------------------------------------------------------------------------------------
# Showing


def _value(config: Config, name: str) -> Any:
    section, _, last = name.rpartition(".")
    return getattr(getattr(config, section) if section else config, last)


def show(config: Config) -> str:
    """The whole configuration as TOML, each line with where it comes from; secrets hidden."""
    lines: list[str] = []
    section = ""
    for name, item in settings().items():
        if (above := name.rpartition(".")[0]) != section:
            section = above
            lines += ["", f"[{section}]"]
        value = _value(config, name)
        if item.metadata["secret"]:
            value = HIDDEN if value else ""
        elif name in ("audit.url", "rewriter"):
            value = without_password(value)
        lines.append(f"{item.name} = {_toml(value)}  # {config.origin.get(name, 'default')}")
    for key in config.keys:
        lines += ["", f"[keys.{_toml(key.id)}]", *_shown(key, "id")]
    for route in config.routes:
        lines += ["", f"[routes.{_toml(route.path)}]", *_shown(route, "path")]
    lines += [f"# {about_unknown(name)}" for name in config.unknown]
    return "\n".join(lines)


def _shown(value: Any, title: str) -> list[str]:
    lines = []
    for item in dataclasses.fields(value):
        found = getattr(value, item.name)
        if item.name != title and found is not None:
            secret = item.name in ("hash", "upstream_key") and found
            lines.append(f"{item.name} = {_toml(HIDDEN if secret else found)}")
    return lines


def without_password(url: str) -> str:
    """``url`` for people's eyes. A password may hold what should have been escaped, even "@" and "/"."""
    url = re.sub(r"(://[^:@\s]*:)\S*@", rf"\1{HIDDEN}@", url)
    return re.sub(r"(?i)([?&](?:password|passfile|sslpassword|api_?key|key|token)=)[^&\s]*", rf"\1{HIDDEN}", url)


def _toml(value: object) -> str:
    match value:
        case bool():
            return str(value).lower()
        case tuple():
            return f"[{', '.join(map(_toml, value))}]"
        case int() | float():
            return str(value)
        case _:
            text = str(value).replace("\\", "\\\\").replace('"', '\\"')
            return f'"{text}"'
