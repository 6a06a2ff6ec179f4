"""One request body judged: read, its pictures fetched, guarded, written back. What happens when one of these fails is here."""

from __future__ import annotations

import asyncio
import io
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, TypeVar

from vlmguard.errors import ChatError, FetchError, GuardError, InputError, WireError
from vlmguard.gateway import tracing
from vlmguard.gateway.asgi import Refused
from vlmguard.gateway.config import Config, Key, OnFailure, Route
from vlmguard.gateway.fetch import Fetcher
from vlmguard.guard import Guard
from vlmguard.images import read_image
from vlmguard.policy import Policy, load_policy
from vlmguard.protocols import Closing, Rewriter
from vlmguard.receipts import VERSION, content_hash, unjudged
from vlmguard.rewriters.select import make_rewriter
from vlmguard.types import (
    Chat,
    Guarded,
    Judgement,
    Level,
    Message,
    Mode,
    Opaque,
    Outcome,
    Part,
    Reason,
    Receipt,
    Text,
)
from vlmguard.wire import Request
from vlmguard.wire.request import MOST_TURNS

MakeRewriter = Callable[..., Rewriter]
_T = TypeVar("_T")
_KINDS: dict[type[Exception], str] = {FetchError: "picture_not_fetched", ChatError: "nothing_to_judge"}
_MORE_TURNS = 1024
"""Judged turns that each caller's guard remembers beyond those of the longest request: who comes back after a deadline goes on
where the time ran out, also when others of theirs came in between."""
_FIRST_SECONDS = 60.0
"""For the first judgement of all, which loads weights."""
_LARGE = 64 * 1024
"""Bytes from which on a body is read on a thread, so that other requests have their turn."""
_log = logging.getLogger("vlmguard.gateway")


@dataclass(frozen=True, slots=True)
class Terms:
    """What holds for one request: the key's word outweighs the route's, and that the configuration's."""

    policy: str
    mode: Mode
    on_failure: OnFailure

    @classmethod
    def of(cls, config: Config, route: Route | None, key: Key | None) -> Terms:
        def said(name: str) -> object:
            for holder in (key, route):
                if holder is not None and (value := getattr(holder, name)) is not None:
                    return value
            return getattr(config, name)

        return cls(said("policy"), said("mode"), said("on_failure"))  # type: ignore[arg-type]


def every_terms(config: Config) -> set[Terms]:
    """All terms that a request can come under."""
    return {Terms.of(config, route, key) for route in (None, *config.routes) for key in (None, *config.keys)}


@dataclass(frozen=True, slots=True)
class Case:
    """One request and what was decided about it."""

    receipt: Receipt
    body: bytes | None = field(repr=False)
    """What to send on; ``None``: nothing."""
    request: Request | None = field(repr=False)
    chat: Chat | None = field(repr=False)
    """What the request says after the guard; ``None`` when nothing is sent or nothing could be read."""
    notice: str | None
    """What to tell a client whose request is blocked."""
    refused: Refused | None
    """The error that a client gets instead, where the guard failed."""
    categories: tuple[str, ...]
    level: Level
    stages: dict[str, float]
    """Stage → milliseconds."""


class Reader(Protocol):
    """What reads a body and writes a changed chat back into it: a dialect, or what asks in another way."""

    def read(self, body: bytes) -> Request: ...
    def splice(self, request: Request, after: Chat) -> bytes: ...


class Judge:
    """Judges request bodies.

    Args:
        config: the gateway's.
        fetcher: of remote pictures; without one they stay unjudged.
        hash_key: for the content hashes in receipts.
        make: spec and policy → rewriter.
        on_turn: told of every turn whether it was judged before.
    """

    def __init__(
        self,
        config: Config,
        fetcher: Fetcher | None,
        hash_key: bytes,
        make: MakeRewriter = make_rewriter,
        on_turn: Callable[[bool], None] | None = None,
    ) -> None:
        self._on_turn = on_turn
        self._make = make
        self._config = config
        self._fetcher = fetcher
        self._hash_key = hash_key
        self._policies: dict[str, Policy] = {}
        self._rewriters: dict[str, Rewriter] = {}
        self._guards: dict[tuple[str, Mode, str], Guard] = {}
        for terms in every_terms(config):
            if terms.policy not in self._policies:
                policy = load_policy(Path(terms.policy) if terms.policy else None)
                self._policies[terms.policy] = policy
                self._rewriters[terms.policy] = make(config.rewriter, policy, threads=config.threads, key=hash_key)

    def of(self, terms: Terms) -> tuple[Rewriter, Policy]:
        """Who judges under these terms, and by which policy."""
        return self._rewriters[terms.policy], self._policies[terms.policy]

    def judging_by(self, policy: Policy) -> Rewriter:
        """The configured rewriter with a policy that is not in force. Raises ``VlmguardError``."""
        return self._make(self._config.rewriter, policy, threads=self._config.threads)

    @property
    def categories(self) -> set[str]:
        """Of all policies that are in use."""
        return {category for policy in self._policies.values() for category in policy.categories}

    async def try_out(self, *, with_picture: bool = False) -> None:
        """Has every rewriter judge a prompt of its own, and perhaps a picture. Raises ``GuardError``."""
        # A new prompt each time: one that is remembered would be answered by the memory.
        parts: list[Part] = [Text(f"What is the capital of France? ({time.time_ns()})", "/prompt")]
        if with_picture:
            parts.append(_picture())
        for rewriter in self._rewriters.values():
            try:
                async with asyncio.timeout(_FIRST_SECONDS if with_picture else self._config.deadline):
                    await rewriter.refine(Chat((Message("user", tuple(parts)),)))
            except TimeoutError as error:
                raise GuardError("the rewriter did not judge a short prompt in time") from error
            except Exception as error:
                raise GuardError(f"the rewriter cannot judge: {type(error).__name__}: {error}") from error

    async def close(self) -> None:
        """Gives back what the rewriters hold: connections, files."""
        for rewriter in self._rewriters.values():
            if isinstance(rewriter, Closing):
                await rewriter.close()

    async def judge(
        self,
        dialect: Reader,
        body: bytes,
        terms: Terms,
        owner: str,
        id: str,
        hold: Callable[[int], None] = lambda size: None,
    ) -> Case:
        """Never raises on purpose: every request gets its case. But ``hold``, which is told of the bytes of remote pictures
        that are held for the request, may raise ``Refused``."""
        stages = Stages()
        try:
            return await self._judge(dialect, body, terms, owner, id, stages, hold)
        except (WireError, FetchError, ChatError) as error:
            return self._unread(body, terms.mode, error, id, stages)

    async def _judge(
        self,
        dialect: Reader,
        body: bytes,
        terms: Terms,
        owner: str,
        id: str,
        stages: Stages,
        hold: Callable[[int], None],
    ) -> Case:
        large = is_large(body)
        with stages.clock("read"):
            request = await run(large, dialect.read, body)
        guard = self._guard(terms, owner)
        end = asyncio.get_running_loop().time() + self._config.deadline
        if request.remote and self._fetcher is not None:
            with stages.clock("fetch"):
                request = await _fetched(self._fetcher, request, owner, end, hold)
        large = large or bool(request.inlined)  # fetched pictures are written into the body
        try:
            with stages.clock("guard"):
                async with asyncio.timeout_at(end):
                    guarded = await guard.refine(request.chat)
        except ChatError:
            raise
        except Exception as error:  # whatever it is, nobody has judged the request
            return await self._failed(dialect, request, guard, terms, error, id, stages)
        with stages.clock("write"):
            sent: bytes | None = None
            if terms.mode is Mode.MONITOR:
                sent = body
            elif guarded.chat is not None:
                sent = await run(large, dialect.splice, request, guarded.chat)
            receipt = await run(large, self._receipt, guarded.receipt, id, sent)
        return _case(request, guarded, receipt, sent, stages)

    def _guard(self, terms: Terms, owner: str) -> Guard:
        """Each caller's own, so that no caller is answered from another's turns.

        What lies below is shared by all callers: what was read in a picture, what the scorer said of a text. So who knows a
        text to the letter may tell from the time whether somebody sent it lately (SECURITY.md).
        """
        key = (terms.policy, terms.mode, owner)
        if (guard := self._guards.get(key)) is None:
            guard = self._guards[key] = Guard(
                self._rewriters[terms.policy],
                self._policies[terms.policy],
                mode=terms.mode,
                key=self._hash_key,
                remembered=MOST_TURNS + _MORE_TURNS,
                on_turn=self._on_turn,
            )
        return guard

    def _receipt(self, receipt: Receipt, id: str, sent: bytes | None) -> Receipt:
        return replace(receipt, id=id, sent=None if sent is None else content_hash(sent, self._hash_key))

    async def _failed(
        self,
        dialect: Reader,
        request: Request,
        guard: Guard,
        terms: Terms,
        error: Exception,
        id: str,
        stages: Stages,
    ) -> Case:
        """What the configuration says for a guard that failed."""
        if isinstance(error, TimeoutError):
            failure = f"deadline: not judged within {self._config.deadline:g} seconds"
        else:
            failure = f"guard: {type(error.__cause__ or error).__name__}"
            _log.error("the guard failed: %s", type(error.__cause__ or error).__name__, exc_info=error)
        large = is_large(request.body) or bool(request.inlined)
        chat: Chat | None = None
        sent: bytes | None = None
        intended = {"closed": Outcome.BLOCK, "degraded": Outcome.DEGRADED, "open": Outcome.UNGUARDED}[terms.on_failure]
        outcome = intended if terms.mode is Mode.ENFORCE else Outcome.UNGUARDED
        if outcome is Outcome.DEGRADED:
            chat = guard.with_safety_prompt(request.chat)
            sent = await run(large, dialect.splice, request, chat)
        elif outcome is Outcome.UNGUARDED:
            chat = request.chat
            # What was fetched is sent: else the upstream would fetch it again, and perhaps something else.
            monitored = terms.mode is Mode.MONITOR
            sent = request.body if monitored else await run(large, dialect.splice, request, chat)
        parts = (*request.chat.tools, *(part for message in request.chat.messages for part in message.parts))
        rows = tuple(row for part in parts for row in unjudged(part, Reason.FAILURE))
        receipt = self._bare_receipt(id, terms.mode, outcome, intended, failure, guard.policy.hash, rows, sent)
        refused = None
        if outcome is Outcome.BLOCK:
            message = "the request could not be judged, and nothing was sent on: try again later"
            kind = "guard_deadline" if isinstance(error, TimeoutError) else "guard_failed"
            # Clients that retry by themselves would only add to the load that made the guard fail.
            refused = Refused(503, message, kind, [(b"x-should-retry", b"false")])
        return Case(receipt, sent, request, chat, None, refused, (), Level.NONE, stages.found)

    def _unread(self, body: bytes, mode: Mode, error: InputError, id: str, stages: Stages) -> Case:
        """A request that cannot be judged through its own fault."""
        rows = unjudged(Opaque("request", "", Reason.UNREADABLE), Reason.UNREADABLE)
        failure = f"refused: {type(error).__name__}"
        if mode is Mode.MONITOR:  # a trial run changes nothing, not even what would be refused
            outcome, sent, refused = Outcome.UNGUARDED, body, None
        else:
            kind = _KINDS.get(type(error), "bad_request")
            outcome, sent, refused = Outcome.BLOCK, None, Refused(400, str(error), kind)
        receipt = self._bare_receipt(id, mode, outcome, Outcome.BLOCK, failure, "", rows, sent)
        return Case(receipt, sent, None, None, None, refused, (), Level.NONE, stages.found)

    def refused(self, id: str, mode: Mode, refused: Refused) -> Case:
        """The case of a request that was refused before it was read: for its size, its time, its headers."""
        rows = unjudged(Opaque("request", "", Reason.UNREADABLE), Reason.UNREADABLE)
        outcome = Outcome.BLOCK
        receipt = self._bare_receipt(id, mode, outcome, outcome, f"refused: {refused.kind}", "", rows, None)
        return Case(receipt, None, None, None, None, refused, (), Level.NONE, {})

    def passed(self, id: str, body: bytes | None) -> Case:
        """The case of a request that goes on and that nobody judges. ``None``: nothing goes on from here."""
        rows = unjudged(Opaque("request", "", Reason.OPAQUE), Reason.OPAQUE)
        outcome = Outcome.UNGUARDED
        receipt = self._bare_receipt(id, self._config.mode, outcome, outcome, None, "", rows, body)
        return Case(receipt, body, None, None, None, None, (), Level.NONE, {})

    def _bare_receipt(
        self,
        id: str,
        mode: Mode,
        outcome: Outcome,
        intended: Outcome,
        failure: str | None,
        policy: str,
        rows: Sequence[Judgement],
        sent: bytes | None,
    ) -> Receipt:
        """A receipt for a request on which no rewriter has given its word."""
        return Receipt(
            version=VERSION,
            id=id,
            time=datetime.now(UTC).isoformat(timespec="milliseconds"),
            mode=mode,
            outcome=outcome,
            intended_outcome=intended,
            failure=failure,
            policy=policy,
            prompts="",
            weights="",
            tier="",
            judgements=tuple(rows),
            sent=None if sent is None else content_hash(sent, self._hash_key),
        )


class Stages:
    """How long each stage of a request took."""

    def __init__(self) -> None:
        self.found: dict[str, float] = {}

    def clock(self, stage: str) -> _Clock:
        return _Clock(self.found, stage)


class _Clock:
    """Around one stage. A class, since a generator costs more than some stages do."""

    __slots__ = ("_found", "_span", "_stage", "_started")

    def __init__(self, found: dict[str, float], stage: str) -> None:
        self._found = found
        self._stage = stage
        self._span = tracing.span(stage)

    def __enter__(self) -> None:
        self._span.__enter__()
        self._started = time.perf_counter()

    def __exit__(self, *error: Any) -> None:
        self._found[self._stage] = (time.perf_counter() - self._started) * 1000
        self._span.__exit__(*error)


async def _fetched(fetcher: Fetcher, request: Request, owner: str, end: float, hold: Callable[[int], None]) -> Request:
    """A deadline that passes here is the sender's doing, and no failure of the guard that might let the address pass."""
    try:
        async with asyncio.timeout_at(end):
            return await fetcher.fill(request, owner, hold)
    except TimeoutError as error:
        raise FetchError("the remote pictures did not come in time") from error


def _picture() -> Part:
    """An empty one, large enough for models that cut pictures into patches."""
    import PIL.Image

    file = io.BytesIO()
    PIL.Image.new("RGB", (64, 64), "white").save(file, "PNG")
    return read_image(file.getvalue(), "/picture")


def is_large(body: bytes) -> bool:
    """Whether reading ``body`` would keep other requests waiting."""
    return len(body) > _LARGE


async def run(on_thread: bool, do: Callable[..., _T], *arguments: object) -> _T:
    """``do(*arguments)``, on a thread where it takes long."""
    return await asyncio.to_thread(do, *arguments) if on_thread else do(*arguments)


def _case(request: Request, guarded: Guarded, receipt: Receipt, sent: bytes | None, stages: Stages) -> Case:
    report = guarded.refinement.report
    categories = dict.fromkeys(
        finding.category for _, finding in report if finding is not None and finding.category is not None
    )
    level = report.worst.level
    return Case(receipt, sent, request, guarded.chat, guarded.notice, None, tuple(categories), level, stages.found)
