"""The gateway as an ASGI application: who may call, what is judged, what goes on to the model's server and comes back."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from functools import lru_cache, partial
from ipaddress import ip_address
from typing import Any

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from vlmguard.errors import AuditError, VlmguardError, WireError
from vlmguard.gateway import litellm, logs, openapi, tracing
from vlmguard.gateway.asgi import (
    EVENTS,
    JSON,
    ClientGone,
    Headers,
    Receive,
    Refused,
    Room,
    Scope,
    Send,
    header,
    read_body,
)
from vlmguard.gateway.audit import AuditEntry, AuditLog
from vlmguard.gateway.call import GONE, BrokenOff, Call, Connected, relay
from vlmguard.gateway.config import GUARDED, Config, Route, split_pass_through
from vlmguard.gateway.fetch import Fetcher, Resolve
from vlmguard.gateway.judge import Case, Judge, MakeRewriter, Terms, is_large, run
from vlmguard.gateway.keys import CREDENTIALS, OWN_HEADER, KeyRing, RateLimiter
from vlmguard.gateway.metrics import CONTENT_TYPE, Metrics
from vlmguard.gateway.upstream import Target, Upstream, UpstreamError, request_headers
from vlmguard.rewriters.select import make_rewriter
from vlmguard.wire import DIALECTS, Dialect

_log = logging.getLogger("vlmguard.gateway")

DIALECT_OF: Mapping[str, str] = dict(
    zip(GUARDED, ("openai-chat", "openai-responses", "anthropic-messages", "openai-completions"), strict=True)
)
_READY_SECONDS = 2.0
"""How long an answer of /readyz holds: trying costs a judgement and a request to the upstream."""
_ASKED_SECONDS = 5.0
"""How long an upstream may take to say that it is there."""
_ASK_WITH_KEY = "ask with a key to be told what is wrong"
_PROMETHEUS = (b"content-type", CONTENT_TYPE.encode())
_RECEIPTS = "/receipts/"
_OWN_PATHS = (litellm.PATH, "/v1/models", "/healthz", "/readyz", "/metrics", "/openapi.json")
_LONGEST_HOST = 300
"""Bytes of a host header that is read, and remembered: a name has 253 at most."""
_FORBIDDING = [(b"cache-control", b"no-store")]


@dataclass(frozen=True, slots=True)
class Secrets:
    """What the workers share and no file holds."""

    hash_key: bytes = field(repr=False)
    """Keys the content hashes in receipts."""
    signing_key: bytes | None = field(default=None, repr=False)
    rates: str | None = None
    """The file of the rate limits' buckets, where there are several workers."""
    failures: str | None = None
    """The file in which workers say how their end failed, a line each: their parent has no other ear."""


class Gateway:
    """The application. ``open`` before the first request, ``close`` after the last; a server's lifespan does both.

    Args:
        config: checked by ``config.load``.
        secrets: made once for all workers.
        make: spec and policy → rewriter.
        resolve: name → addresses, for remote pictures; the system's look-up by default.

    Raises:
        VlmguardError: a guard in the configuration cannot be made.
    """

    def __init__(
        self,
        config: Config,
        secrets: Secrets,
        *,
        make: MakeRewriter = make_rewriter,
        resolve: Resolve | None = None,
    ) -> None:
        self.config = config
        self._secrets = secrets
        self._resolve = resolve
        self._keys = KeyRing(config.keys)
        self._rates = RateLimiter({key.id: key.requests_per_minute for key in config.keys}, secrets.rates)
        self._routes = {route.path: route for route in config.routes}
        self._targets = {path: _target(config, self._routes.get(path), path) for path in GUARDED}
        self._default = _target(config, None, "")
        self._passed = {split_pass_through(entry) for entry in config.pass_through}
        self._known_paths = {*_OWN_PATHS, *DIALECT_OF, *(path for _, path in self._passed)}
        self._fetcher = Fetcher(config.fetch, config.limits.body_bytes, resolve) if config.fetch.enabled else None
        self._judge = Judge(config, self._fetcher, secrets.hash_key, make, self._count_turn)
        self._metrics = Metrics(self._judge.categories)
        self._in_flight = 0
        self.room = _room(config)
        self._ready_at = 0.0
        self._ready: tuple[int, dict[str, Any]] = (503, {})
        self._trying = asyncio.Lock()
        self._upstream: Upstream
        self._audit: AuditLog | None = None
        self.failure: VlmguardError | None = None
        """Why it could not be opened, or not be closed as it should."""

    # What the console shares with the gateway.

    @property
    def judge(self) -> Judge:
        return self._judge

    @property
    def secrets(self) -> Secrets:
        return self._secrets

    @property
    def audit(self) -> AuditLog | None:
        """Open between ``open`` and ``close``, unless the configuration keeps none."""
        return self._audit

    async def ask(self, path: str, body: bytes) -> aiohttp.ClientResponse:
        """The upstream's answer on a guarded path to a body that was judged, under the gateway's own credential; the caller
        closes it. Raises ``UpstreamError``."""
        target = self._targets[path]
        headers = request_headers([JSON], target, OWN_HEADER)
        return await self._upstream.send("POST", target.url(path, b""), headers, body)

    def _count_turn(self, known: bool) -> None:
        self._metrics.cache(known)

    async def open(self) -> None:
        """Connects what needs a running loop, and has every rewriter judge once. Raises ``VlmguardError``."""
        await self._judge.try_out(with_picture=True)
        if self.config.tracing:
            tracing.configure()
        audit = self.config.audit
        if audit.url == "none":
            _log.warning("audit.url is 'none': no decision is kept, and there are no receipts to read")
        else:
            self._audit = await AuditLog.open(
                audit.url,
                queue=audit.queue,
                flush_seconds=audit.flush_seconds,
                when_full=audit.when_full,
                signing_key=self._secrets.signing_key,
                keep=timedelta(days=audit.keep_days) if audit.keep_days else None,
                on_depth=self._metrics.queue_depth,
            )
        self._upstream = Upstream(self.config.upstream_seconds)

    async def close(self) -> None:
        """Writes what waits and closes what is open."""
        await self._upstream.close()
        await self._judge.close()
        if self._fetcher is not None:
            await self._fetcher.close()
        if self.config.tracing:
            await asyncio.to_thread(tracing.close)
        if self._audit is not None:
            await self._audit.close()

    # -----------------------------------------------------------------------------------------------------------------
    # From the server

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await self.open()
        except VlmguardError as error:
            self.failure = error
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        # What is loaded stays, and a request leaves no cycles: the collector need not look so often, nor at everything.
        gc.collect()
        gc.freeze()
        gc.set_threshold(10_000, 20, 50)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        try:
            await self.close()
        except VlmguardError as error:
            _log.error("%s", error)
            self.failure = error
            await send({"type": "lifespan.shutdown.failed", "message": str(error)})
            return
        await send({"type": "lifespan.shutdown.complete"})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        call = Call(
            id=os.urandom(16).hex(),
            method=scope["method"],
            path=scope["path"],
            query=scope["query_string"],
            headers=scope["headers"],
            receive=receive,
            send=send,
        )
        self._in_flight += 1
        try:
            with self._metrics.in_flight(), logs.request_id(call.id), self._span(call):
                await self._answered(call, scope)
                self._tell(call)
        finally:
            self._in_flight -= 1
            self._let_go(call)

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Counts a request of the console's as under way."""
        self._in_flight += 1
        try:
            yield
        finally:
            self._in_flight -= 1

    def _span(self, call: Call) -> AbstractContextManager[Any]:
        if not self.config.tracing:
            return nullcontext()
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in call.headers}
        return tracing.request_span("request", headers, route=self._route_name(call), id=call.id)

    def _tell(self, call: Call) -> None:
        """Counts and logs an answered request."""
        stages = {**call.stages, "total": (time.perf_counter() - call.started) * 1000}
        self._metrics.observe_request(self._route_name(call), call.told, call.categories, call.status, stages)
        _log.info(
            "%s %s %d",
            call.method,
            self._route_name(call),
            call.status,
            extra={"outcome": call.told, "ms": round(stages["total"], 1)},
        )

    def _route_name(self, call: Call) -> str:
        """The path, for logs and metrics: of those that are known, so that nobody fills either with words of theirs."""
        if call.path.startswith(_RECEIPTS):
            return _RECEIPTS + "{id}"
        return call.path if call.path in self._known_paths else "other"

    async def _answered(self, call: Call, scope: Scope) -> None:
        """Answers, whatever happens."""
        try:
            await self._dispatch(call, scope)
        except ClientGone:
            call.status = GONE
        except Refused as refused:
            await _refuse(call, await self._recorded(call, refused))
        except UpstreamError as error:
            await _refuse(call, Refused(error.status, str(error), "upstream_failed"))
        except BrokenOff as error:
            # Nothing more is sent: the server closes the connection within the answer.
            _log.warning("the upstream broke off within its answer: %s", error)
        except Exception:
            _log.exception("a request broke the gateway")
            if not call.has_begun:
                message = "the gateway failed; nothing more is known here: look for the id in its log"
                await _refuse(call, Refused(500, message, "gateway_failed"))

    async def _dispatch(self, call: Call, scope: Scope) -> None:
        if call.path != "/healthz":  # who is busy is alive
            self.check_load()
        # One spelling for each path: what is escaped, doubled or walks upwards is none of ours.
        if scope.get("raw_path", b"") != call.path.encode():
            raise Refused(404, "there is nothing at this path: write it plainly", "unknown_path")
        if (handler := self._open_handler(call)) is not None:
            await handler(call)
            return
        self._admit(call)
        await self._closed_handler(call)(call)

    def _open_handler(self, call: Call) -> Callable[[Call], Awaitable[None]] | None:
        """What anybody may ask."""
        table = {"/healthz": self._healthz, "/readyz": self._readyz, "/openapi.json": self._openapi}
        if self.config.public_metrics:
            table["/metrics"] = self._read_metrics
        return self._chosen(call, "GET", table[call.path]) if call.path in table else None

    def _closed_handler(self, call: Call) -> Callable[[Call], Awaitable[None]]:
        if call.path in DIALECT_OF:
            return self._chosen(call, "POST", self._guarded)
        if call.path == litellm.PATH:
            return self._chosen(call, "POST", self._litellm)
        if (call.method, call.path) in self._passed:
            return self._unguarded
        match call.path:
            case "/v1/models":
                return self._chosen(call, "GET", self._models)
            case "/metrics":
                return self._chosen(call, "GET", self._read_metrics)
        if call.path.startswith(_RECEIPTS):
            return self._chosen(call, "GET", self._receipt)
        raise Refused(404, "this path is not guarded: name it under pass_through to let it pass", "unknown_path")

    @staticmethod
    def _chosen(
        call: Call, method: str, handler: Callable[[Call], Awaitable[None]]
    ) -> Callable[[Call], Awaitable[None]]:
        if call.method != method:
            raise Refused(405, f"this path takes {method}", "wrong_method", [(b"allow", method.encode())])
        return handler

    def _admit(self, call: Call) -> None:
        """Who calls, and whether they may just now. Raises ``Refused``."""
        for name in CREDENTIALS:
            header(call.headers, name)  # a second one might be read by the upstream in place of the first
        if not self._keys:
            self.check_host(call.headers)
            return
        if (found := self._keys.identify(call.headers)) is None:
            challenge = [(b"www-authenticate", b"Bearer")]
            raise Refused(401, "a key of this gateway is missing or unknown", "unknown_key", challenge)
        call.key, call.used_header = found
        if seconds := self._rates.seconds_to_wait(call.key.id):
            wait = [(b"retry-after", str(seconds).encode())]
            raise Refused(429, f"this key has used up its requests: try again in {seconds} s", "rate_limited", wait)

    def check_load(self) -> None:
        """Raises ``Refused`` when more requests are under way than may be."""
        if self._in_flight > self.config.limits.in_flight:
            message = "too many requests are under way: try again later"
            raise Refused(503, message, "overloaded", [(b"retry-after", b"1")])

    def check_host(self, headers: Headers) -> None:
        """A page of somebody else's that had its name changed to our address must not reach a gateway without keys."""
        value = header(headers, b"host")
        if value is None:
            return
        if not self._is_ours(value):
            raise Refused(421, "this gateway is not called by that name: see allowed_hosts", "wrong_host")

    def _is_ours(self, value: bytes) -> bool:
        """Whether a host header, or what is like one, names this server."""
        host = (_host_name(value) if len(value) <= _LONGEST_HOST else "").rstrip(".")
        return host == "localhost" or host in self.config.allowed_hosts or _is_loopback(host)

    def _check_page(self, headers: Headers) -> None:
        """A page of somebody else's may send a form to a gateway without keys, without asking first: what is judged must be
        JSON, which a page may not, and what passes unguarded can be of any type."""
        if self._keys:
            return
        origin, site = header(headers, b"origin"), header(headers, b"sec-fetch-site")
        is_from_ours = site in (None, b"same-origin", b"none")
        if origin is not None:  # it says more than the other
            is_from_ours = self._is_ours(origin.partition(b"://")[2])
        if not is_from_ours:
            raise Refused(403, "this was sent by a page of another site, and nothing was done", "foreign_page")

    # -----------------------------------------------------------------------------------------------------------------
    # The guarded paths

    async def _guarded(self, call: Call) -> None:
        dialect = DIALECTS[DIALECT_OF[call.path]]
        await self._read(call)
        target = self._targets[call.path]
        headers = self._headers_for(call, target)
        terms = Terms.of(self.config, self._routes.get(call.path), call.key)
        async with Connected(call.receive) as connected:
            hold = partial(self._hold, call)
            case = await self._judge.judge(dialect, call.body, terms, call.owner, call.id, hold)
            call.decided(case.receipt, case.categories, case.stages)
            await self._record(call, case, DIALECT_OF[call.path])
            if case.refused is not None:
                raise case.refused
            if case.body is None:
                connected.release()
                await self._blocked(call, dialect, case)
                return
            call.body = case.body
            del case
            await self._forward(call, target, headers, connected)

    async def _read(self, call: Call) -> None:
        """The body, of a kind that has one reading."""
        call.undecided = True
        coding = header(call.headers, b"content-encoding")
        if coding is not None and coding.strip().lower() not in (b"identity", b""):
            raise Refused(400, "the body is compressed, and is not read here so: send it plain", "unknown_encoding")
        _require_json(header(call.headers, b"content-type"))
        await self._read_body(call)

    async def _read_body(self, call: Call) -> None:
        limits, hold = self.config.limits, partial(self._hold, call)
        call.body = await read_body(call.receive, call.headers, limits.body_bytes, limits.body_seconds, hold)

    def _hold(self, call: Call, size: int) -> None:
        """Counts bytes that are held for a request. Raises ``Refused`` when there is no room."""
        self.room.take(call.owner, size)
        call.held += size

    def _let_go(self, call: Call) -> None:
        """Gives back the room of a body that is held no longer."""
        call.body = b""
        self.room.give_back(call.owner, call.held)
        call.held = 0

    async def _record(self, call: Call, case: Case, dialect: str) -> None:
        """Keeps the decision before anything comes of it. Raises ``Refused`` when it cannot be kept."""
        if self._audit is None:
            return
        entry = AuditEntry(
            receipt=case.receipt,
            owner=call.owner,
            route=call.path,
            dialect=dialect,
            model="" if case.request is None else case.request.model,
            categories=case.categories,
            level=str(case.level),
            status=_own_status(case, self.config),
            stages_ms=case.stages,
            raw=call.body.decode(errors="backslashreplace") if self.config.audit.raw and call.body else None,
        )
        try:
            if entry.raw is None and self._audit.depth < self.config.audit.queue:
                await self._audit.record(entry)  # at once, since there is room
            else:
                async with asyncio.timeout(self.config.deadline):
                    await self._audit.record(entry)
        except (AuditError, TimeoutError) as error:
            _log.error("a decision could not be kept: %s", error)
            call.outcome = call.intended = ""  # nothing of it holds
            message = "the decision could not be kept, and nothing was sent on: try again later"
            raise Refused(503, message, "audit_failed", [(b"retry-after", b"1")]) from error

    async def _recorded(self, call: Call, refused: Refused) -> Refused:
        """The refusal to answer with: of a request that was not even read there is a record as well."""
        if not call.undecided:
            return refused
        terms = Terms.of(self.config, self._routes.get(call.path), call.key)
        case = self._judge.refused(call.id, terms.mode, refused)
        call.decided(case.receipt, (), {})
        try:
            await self._record(call, case, DIALECT_OF.get(call.path, ""))
        except Refused as failed:
            return failed
        return refused

    async def _blocked(self, call: Call, dialect: Dialect, case: Case) -> None:
        notice = case.notice or ""
        if self.config.blocked == "error" or case.request is None:
            await call.answer(403, dialect.error(403, notice, "blocked"), JSON)
        elif case.request.stream:
            await call.answer(200, dialect.blocked_stream(case.request, notice, call.id), EVENTS)
        else:
            await call.answer(200, dialect.blocked(case.request, notice, call.id), JSON)

    def _headers_for(self, call: Call, target: Target) -> CIMultiDict[str]:
        if call.query and self._keys.holds_key(call.query):
            message = "a key of this gateway stands in the query string, which ends up in logs: send it in a header"
            raise Refused(400, message, "key_in_query")
        try:
            return request_headers(call.headers, target, call.used_header, self._keys.holds_key)
        except UnicodeDecodeError as error:
            raise Refused(400, "a header is not UTF-8: it could not be passed on as it is", "bad_header") from error

    async def _forward(self, call: Call, target: Target, headers: CIMultiDict[str], connected: Connected) -> None:
        """Sends the call's body on, and passes the answer back."""
        headers.update(tracing.outgoing_headers())
        response = await self._upstream.send(call.method, target.url(call.path, call.query), headers, call.body)
        self._let_go(call)  # an answer may take minutes: nothing holds the pictures meanwhile
        try:
            await relay(call, response, connected)
        finally:
            response.close() if connected.is_gone else response.release()

    # -----------------------------------------------------------------------------------------------------------------
    # The rest

    async def _models(self, call: Call) -> None:
        call.outcome = call.intended = "none"  # whatever the upstream answers: nothing of a client's went there
        async with Connected(call.receive) as connected:
            await self._forward(call, self._default, self._headers_for(call, self._default), connected)

    async def _unguarded(self, call: Call) -> None:
        """A path that the configuration lets pass: marked, and recorded, as judged by nobody."""
        self._check_page(call.headers)
        call.undecided = True
        target = self._target_below(call.path)
        headers = self._headers_for(call, target)
        await self._read_body(call)
        case = self._judge.passed(call.id, call.body)
        call.decided(case.receipt, (), {})
        await self._record(call, case, "")
        async with Connected(call.receive) as connected:
            await self._forward(call, target, headers, connected)

    def _target_below(self, path: str) -> Target:
        """Where what lies below a guarded path belongs, such as /v1/messages/count_tokens; else the default."""
        return next((target for above, target in self._targets.items() if path.startswith(f"{above}/")), self._default)

    async def _litellm(self, call: Call) -> None:
        await self._read(call)
        terms = Terms.of(self.config, None, call.key)
        async with Connected(call.receive) as connected:
            try:
                question = await run(is_large(call.body), litellm.read, call.body)
            except WireError as error:
                raise Refused(400, str(error), "bad_request") from error
            if question is None:
                connected.release()
                passed = self._judge.passed(call.id, None)
                call.decided(passed.receipt, (), {})
                await self._record(call, passed, "litellm")
                await call.answer_json(200, litellm.NOTHING)
                return
            hold = partial(self._hold, call)
            case = await self._judge.judge(question, question.body, terms, call.owner, call.id, hold)
            call.decided(case.receipt, case.categories, case.stages)
            await self._record(call, case, "litellm")
            if case.refused is not None:
                raise case.refused
            connected.release()
            await call.answer_json(200, await run(is_large(call.body), question.answer, case))

    async def _receipt(self, call: Call) -> None:
        if self._audit is None:
            raise Refused(404, "receipts are not kept: audit.url is 'none'", "no_receipt")
        found = await self._audit.receipt(call.path.removeprefix(_RECEIPTS), call.owner)
        if found is None:
            raise Refused(404, "there is no receipt of yours with this id", "no_receipt")
        await call.answer_json(200, found)

    async def _healthz(self, call: Call) -> None:
        await call.answer_json(200, {"alive": True})

    async def _readyz(self, call: Call) -> None:
        async with self._trying:
            if time.monotonic() - self._ready_at > _READY_SECONDS:
                self._ready = await self._try_all()
                self._ready_at = time.monotonic()
        call.outcome = call.intended = "none"  # whatever the answer is
        status, said = self._ready
        if not self._may_know(call.headers):
            said = {**said, "failed": dict.fromkeys(said["failed"], _ASK_WITH_KEY)}
        await call.answer_json(status, said)

    def _may_know(self, headers: Headers) -> bool:
        """Whether what is wrong is told to whom asks: messages name servers and databases."""
        if self._keys:
            return self._keys.identify(headers) is not None
        hosts = [value for name, value in headers if name == b"host"]
        return all(map(self._is_ours, hosts))

    async def _try_all(self) -> tuple[int, dict[str, Any]]:
        """Has the rewriter judge, asks every upstream, and writes nothing but asks the audit whether it could."""
        checks: dict[str, str] = {}
        try:
            await self._judge.try_out()
        except VlmguardError as error:
            checks["rewriter"] = str(error)
        targets = {target.base: target for target in (self._default, *self._targets.values())}
        for number, target in enumerate(targets.values()):
            wrong = await self._upstream.is_there(target, min(_ASKED_SECONDS, self.config.deadline))
            if wrong is not None:
                checks["upstream" if number == 0 else f"upstream {number + 1}"] = wrong
        if self._audit is not None:
            try:
                await self._audit.ready()
            except AuditError as error:
                checks["audit"] = str(error)
        return (503 if checks else 200), {"ready": not checks, "failed": checks}

    async def _read_metrics(self, call: Call) -> None:
        await call.answer(200, self._metrics.render(), _PROMETHEUS)

    async def _openapi(self, call: Call) -> None:
        await call.answer_json(200, openapi.document())


def _target(config: Config, route: Route | None, path: str) -> Target:
    own = route is not None and route.upstream is not None
    base = route.upstream if own and route is not None else config.upstream
    key = config.upstream_key if route is None or route.upstream_key is None else route.upstream_key
    return Target(URL(base or ""), key, takes_api_key=path == "/v1/messages")


def _room(config: Config) -> Room:
    """Where there are several keys, one may hold half of it, and in any case the largest body."""
    most = config.limits.held_bytes
    return Room(most, max(most // 2, config.limits.body_bytes) if len(config.keys) > 1 else most)


def _own_status(case: Case, config: Config) -> int:
    """The status of an answer that is the gateway's own; 0 where the upstream is asked."""
    if case.refused is not None:
        return case.refused.status
    if case.body is not None:
        return 0
    return 403 if config.blocked == "error" else 200


def _require_json(value: bytes | None) -> None:
    """A page of somebody else's can send any other type without asking; and what is no UTF-8 would be read as it."""
    kind, *parameters = (value or b"").lower().split(b";")
    if kind.strip() != b"application/json":
        raise Refused(415, "send the body as application/json", "wrong_type")
    for parameter in parameters:
        name, _, charset = parameter.strip().partition(b"=")
        if name.strip() == b"charset" and charset.strip(b'" ') not in (b"utf-8", b"utf8"):
            raise Refused(400, "send the body in UTF-8", "unknown_encoding")


@lru_cache(maxsize=1024)
def _host_name(value: bytes) -> str:
    """The name in a host header, without its port; "" for what is none."""
    if any(letter in value for letter in b"/@?#\\ \t%"):
        return ""
    try:
        return URL(f"http://{value.decode('latin-1')}").host or ""
    except ValueError:
        return ""


@lru_cache(maxsize=1024)
def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


async def _refuse(call: Call, refused: Refused) -> None:
    dialect = DIALECTS[DIALECT_OF.get(call.path, "openai-chat")]
    body = dialect.error(refused.status, refused.message, refused.kind)
    try:
        await call.answer(refused.status, body, JSON, [*refused.headers, *_FORBIDDING])
    except ClientGone:
        call.status = GONE
