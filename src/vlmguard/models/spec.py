"""Model specs: one line that names a model, the same in the command line, in configuration and in the library.

endpoint:http://127.0.0.1:8000/v1#MODEL     anything OpenAI-compatible
local:FOLDER_OR_HUB_ID[#ADAPTER]            transformers in this process, with a LoRA adapter (extra: local)
scripted:FILE                               answers from a file, for tests and demonstrations
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from vlmguard.errors import InputError
from vlmguard.models.breaker import Breaker
from vlmguard.models.cache import Cache
from vlmguard.models.deadline import Deadline
from vlmguard.models.limit import Limit
from vlmguard.models.record import Record
from vlmguard.models.retry import Retry
from vlmguard.models.whole import Reader, Until
from vlmguard.protocols import Model

KINDS = ("endpoint", "local", "scripted")


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """How a model is asked. The defaults are meant for a server of one's own."""

    key_env: str = "VLMGUARD_API_KEY"
    """The environment variable that holds the key; it need not be set."""
    deadline: float = 30.0
    """Seconds for one question, retries and waiting in the queue among them."""
    retries: int = 2
    concurrency: int = 256
    """Questions at a time; a local model answers one at a time whatever this says."""
    breaker_failures: int = 5
    breaker_rest: float = 15.0
    cache: Path | None = None
    """Folder of kept answers."""
    record: Path | None = None
    """File of questions and answers."""
    tenant: str = ""
    """Whose questions these are, in the keys of the cache."""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A spec, read."""

    kind: str
    where: str
    """Address, folder, hub id or file."""
    what: str = ""
    """The model at an address, or the adapter of a local one."""

    @property
    def name(self) -> str:
        """For receipts and panels, without an address."""
        if self.kind == "endpoint":
            return self.what
        return f"{Path(self.where).name}+{Path(self.what).name}" if self.what else Path(self.where).name


def parse_spec(spec: str) -> ModelSpec:
    """Raises ``InputError`` that shows how a spec is written."""
    kind, colon, rest = spec.partition(":")
    if not colon or kind not in KINDS or not rest:
        raise InputError(
            f"{spec!r} names no model: write endpoint:http://HOST:PORT/v1#MODEL, local:FOLDER or scripted:FILE"
        )
    where, _, what = rest.partition("#")
    if kind == "endpoint":
        _check_address(where)
        if not what:
            raise InputError("the endpoint lacks the model: write #MODEL behind the address")
    elif kind == "scripted" and what:
        raise InputError(f"{spec!r}: a script has no #PART")
    return ModelSpec(kind, where, what)


def _check_address(address: str) -> None:
    try:
        parts = urlsplit(address)
        ok = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        ok = False
    if not ok:
        raise InputError(
            f"the address of an endpoint is http://HOST:PORT/v1 or https://…, not {address.rsplit('@', maxsplit=1)[-1]!r}"
        )
    if parts.username is not None or parts.password is not None:
        raise InputError("an address holds no user and password: put the key into an environment variable")


@dataclass(frozen=True, slots=True)
class Named:
    """A model and what identifies it."""

    model: Model
    name: str
    """For people."""
    identity: str
    """For caches and recordings: the model, where it is, its weights and its adapter."""
    weights: str
    """For receipts: the hash of the weights where they are here, else the model's name."""


def make_model(
    spec: str, settings: ModelSettings = ModelSettings(), environment: Mapping[str, str] | None = None
) -> Named:
    """The bare model of a spec. Raises ``InputError``, ``MissingExtraError``, ``ModelError``."""
    parsed = parse_spec(spec)
    environment = os.environ if environment is None else environment
    match parsed.kind:
        case "endpoint":
            from vlmguard.models.endpoint import EndpointModel

            key = environment.get(settings.key_env, "").strip() or None
            endpoint = EndpointModel(
                parsed.where, parsed.what, key=key, key_name=settings.key_env, connections=settings.concurrency
            )
            # Some services take their key in the query: it stands in no receipt and no recording.
            return Named(endpoint, parsed.name, f"endpoint:{parsed.where.partition('?')[0]}#{parsed.what}", parsed.what)
        case "local":
            from vlmguard.models.local import LocalModel

            local = LocalModel(parsed.where, adapter=parsed.what or None)
            return Named(local, parsed.name, f"local:{local.fingerprint}", local.fingerprint)
        case _:
            from vlmguard.models.scripted import ScriptedModel, read_script

            script = read_script(Path(parsed.where))
            return Named(
                ScriptedModel(script.answer), parsed.name, f"scripted:{script.fingerprint}", script.fingerprint
            )


def wrap(named: Named, settings: ModelSettings = ModelSettings(), reader: Callable[[], Reader] | None = None) -> Model:
    """The model as a program asks it: from the inside, reading no more than is needed, a limit, retries, a deadline, a
    breaker, and around all of these the recording and the cache, whose hits cost nothing of them.
    """
    model = named.model if reader is None else Until(named.model, reader)
    model = Retry(Limit(model, settings.concurrency), settings.retries)
    model = Breaker(Deadline(model, settings.deadline), settings.breaker_failures, settings.breaker_rest)
    if settings.record is not None:
        model = Record(model, settings.record, named.identity, tenant=settings.tenant)
    if settings.cache is not None:
        model = Cache(model, settings.cache, named.identity, tenant=settings.tenant)
    return model
