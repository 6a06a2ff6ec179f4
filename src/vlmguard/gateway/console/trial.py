"""Try it: a prompt and a picture judged before your eyes, and answered with and without the guard.

The answer is a stream of JSON lines, each a piece of the page: ``{"into": element id, "html": …}`` takes its place,
``{"into": …, "text": …}`` is added to it.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
import os
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field

import aiohttp

from vlmguard.errors import ChatError, InputError, VlmguardError
from vlmguard.gateway.app import Gateway
from vlmguard.gateway.asgi import to_json
from vlmguard.gateway.audit import AuditEntry
from vlmguard.gateway.console.look import Looker, compare
from vlmguard.gateway.judge import Case, Terms
from vlmguard.images import read_image
from vlmguard.wire import openai_chat

_log = logging.getLogger("vlmguard.gateway")

PATH = "/v1/chat/completions"
_ROUTE = "/console/try"
_MOST_ANSWER = 20_000
_EVENT = b"data:"

Render = Callable[..., str]
"""Name of a template and its values → HTML."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What somebody wants to try."""

    prompt: str
    picture: bytes = field(repr=False)
    model: str
    ask: bool
    """Whether the model is to answer what the guard lets through."""
    ask_unguarded: bool

    def body(self) -> bytes:
        """The request that a client would send. Raises ``InputError`` for what is no picture."""
        content: list[object] = []
        if self.picture:
            image = read_image(self.picture, "/picture")
            url = f"data:{image.media_type};base64,{base64.b64encode(image.data).decode()}"
            content.append({"type": "image_url", "image_url": {"url": url}})
        if self.prompt:
            content.append({"type": "text", "text": self.prompt})
        messages = [{"role": "user", "content": content}]
        return to_json({"model": self.model, "stream": True, "messages": messages})


async def run(
    trial: Trial, gateway: Gateway, looker: Looker, terms: Terms, owner: str, render: Render
) -> AsyncGenerator[bytes, None]:
    """The pieces of the page, as they are made."""
    try:
        body = await asyncio.to_thread(trial.body)
        request = await asyncio.to_thread(openai_chat.read, body)
        guard = looker.guard(terms)
        if request.chat.images:
            pictures = await looker.pictures(request.chat, guard.rewriter)
            thumbnails = [base64.b64encode(await looker.thumbnail(image)).decode() for image in request.chat.images]
            yield _piece("try-pictures", html=render("_pictures.html", pictures=pictures, thumbnails=thumbnails, id=""))
        guarded = await looker.judge(request.chat, guard)
        yield _piece("try-evidence", html=render("_evidence.html", refinement=guarded.refinement))
        yield _piece("try-report", html=render("_report.html", refinement=guarded.refinement))
        turns = compare(request.chat, guarded.chat)
        yield _piece(
            "try-rewrite", html=render("_rewrite.html", guarded=guarded, turns=turns, outcome=guarded.outcome.value)
        )
    except ChatError:
        yield _failed(render, "Type a prompt or choose a picture first: there is nothing to judge.")
        return
    except InputError as error:
        yield _failed(render, f"This could not be used: {error}.")
        return
    except (VlmguardError, TimeoutError) as error:
        yield _failed(render, f"The guard could not judge this: {error or 'it took too long'}.")
        return
    if trial.ask:
        async with contextlib.aclosing(_answers(trial, body, gateway, terms, owner, render)) as pieces:
            async for piece in pieces:
                yield piece
    yield _piece("try-status", html=render("_status.html", text="Done."))


async def _answers(
    trial: Trial, body: bytes, gateway: Gateway, terms: Terms, owner: str, render: Render
) -> AsyncGenerator[bytes, None]:
    """Both answers, each piece as it comes from either."""
    queue: asyncio.Queue[bytes | None] = asyncio.Queue()

    async def answer(into: str, unguarded: bool) -> None:
        try:
            id = os.urandom(16).hex()
            judge = gateway.judge
            if unguarded:
                _log.info("the console asks the model without the guard", extra={"key": owner})
            case = judge.passed(id, body) if unguarded else await judge.judge(openai_chat, body, terms, owner, id)
            await _record(gateway, case, owner, trial.model, body)
            if case.body is None:
                queue.put_nowait(_piece(into, text=case.notice or "The request could not be judged: nothing was sent."))
                return
            response = await gateway.ask(PATH, case.body)
            try:
                async with contextlib.aclosing(_words(response)) as words:
                    async for word in words:
                        queue.put_nowait(_piece(into, text=word))
            finally:
                response.close()
        except (VlmguardError, aiohttp.ClientError, OSError, TimeoutError) as error:
            note = f"No answer: {error or type(error).__name__}."
            queue.put_nowait(_piece(into, html=render("_error.html", text=note)))
        finally:
            queue.put_nowait(None)

    wanted = [("try-guarded", False)] + ([("try-unguarded", True)] if trial.ask_unguarded else [])
    tasks = [asyncio.create_task(answer(into, unguarded)) for into, unguarded in wanted]
    left = len(tasks)
    try:
        while left:
            piece = await queue.get()
            if piece is None:
                left -= 1
            else:
                yield piece
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _record(gateway: Gateway, case: Case, owner: str, model: str, body: bytes) -> None:
    """What goes to the model from here stands in the audit as everything else does. Raises ``AuditError``."""
    if gateway.audit is None:
        return
    await gateway.audit.record(
        AuditEntry(
            receipt=case.receipt,
            owner=owner,
            route=_ROUTE,
            dialect="openai-chat",
            model=model,
            categories=case.categories,
            level=str(case.level),
            status=0,
            stages_ms=case.stages,
            raw=body.decode() if gateway.config.audit.raw else None,
        )
    )


async def _words(response: aiohttp.ClientResponse) -> AsyncGenerator[str, None]:
    """The text of a streamed chat completion. Raises ``OSError`` for what is none."""
    if response.status != 200:
        said = (await response.content.read(500)).decode(errors="replace")
        raise OSError(f"the upstream says {response.status}: {said}")
    length = 0
    async for line in response.content:
        data = line.strip().removeprefix(_EVENT).strip()
        if not line.startswith(_EVENT) or data == b"[DONE]":
            continue
        try:
            choices = json.loads(data).get("choices") or [{}]
            word = (choices[0].get("delta") or {}).get("content")
        except (ValueError, AttributeError, LookupError, TypeError):
            continue
        if isinstance(word, str) and word:
            length += len(word)
            yield word
            if length > _MOST_ANSWER:
                yield " … (cut here)"
                return


def _failed(render: Render, text: str) -> bytes:
    return _piece("try-status", html=render("_error.html", text=text))


def _piece(into: str, **content: str) -> bytes:
    return json.dumps({"into": into, **content}).encode() + b"\n"
