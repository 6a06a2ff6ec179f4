"""Starts the gateway: checks everything that can be checked first, then serves with one process or several.

vlmguard serve --upstream http://127.0.0.1:8000/v1
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import secrets
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import uvicorn
from uvicorn.supervisors import Multiprocess

from vlmguard.errors import AuditError, InputError, VlmguardError
from vlmguard.gateway import logs, metrics
from vlmguard.gateway.app import Gateway, Secrets
from vlmguard.gateway.asgi import Receive, Scope, Send
from vlmguard.gateway.config import Config, about_unknown
from vlmguard.gateway.fetch import Resolve
from vlmguard.gateway.judge import MakeRewriter
from vlmguard.gateway.keys import RateLimiter
from vlmguard.gateway.protocol import TimedProtocol
from vlmguard.receipts import read_key
from vlmguard.rewriters.select import make_rewriter

App = Callable[[Scope, Receive, Send], Awaitable[None]]

_log = logging.getLogger(__name__)
_GRACE_SECONDS = 30
_HUNG_SECONDS = 60
"""How long a worker may not answer its parent before it is replaced. A start on a busy machine takes some of that."""
_BACKLOG = 2048
_SWITCH_SECONDS = 0.001
"""How long a judging thread may keep the interpreter while requests wait; Python's own 5 ms is longer than a judgement."""


@dataclass
class Launcher:
    """The application as it travels to a worker process: made there, when the server starts."""

    config: Config
    secrets: Secrets
    make: MakeRewriter = make_rewriter
    resolve: Resolve | None = None
    failure: VlmguardError | None = field(default=None, init=False)
    """Why the gateway could not start, or not stop as it should."""
    _gateway: Gateway | None = field(default=None, init=False, repr=False)
    _app: App | None = field(default=None, init=False, repr=False)
    """The gateway, or the console before it."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._gateway is None:
            if scope["type"] != "lifespan":
                raise RuntimeError("the server sent a request before it started the application")
            self._prepare()
            try:
                self._gateway = Gateway(self.config, self.secrets, make=self.make, resolve=self.resolve)
            except VlmguardError as error:
                self.failure = error
                await receive()
                await send({"type": "lifespan.startup.failed", "message": str(error)})
                return
            self._app = self._gateway if not self.config.console else _with_console(self._gateway)
        assert self._app is not None
        await self._app(scope, receive, send)
        if scope["type"] == "lifespan":
            self.failure = self._gateway.failure
            self._tell_parent()

    def _tell_parent(self) -> None:
        if self.failure is not None and self.secrets.failures is not None:
            with Path(self.secrets.failures).open("a", encoding="utf-8") as file:
                file.write(f"worker {os.getpid()}: {self.failure}\n")

    def _prepare(self) -> None:
        """What holds for the whole process: Python's defaults are not made for a server that judges on threads."""
        logs.configure(self.config.log_level, self.config.log_json)
        sys.setswitchinterval(_SWITCH_SECONDS)
        pool = ThreadPoolExecutor(max(2, self.config.threads), "judge")
        asyncio.get_running_loop().set_default_executor(pool)


def _with_console(gateway: Gateway) -> App:
    from vlmguard.gateway.console.app import Console  # who does not ask for it does not load it

    return Console(gateway)


def make_secrets(config: Config) -> Secrets:
    """What the workers share. Without a receipt key, the hashes are keyed with one that nobody ever learns.

    Raises ``InputError`` for a receipt key that is too short.
    """
    signing = read_key(config.receipt_key) if config.receipt_key else None
    rates = RateLimiter.make_file(len(config.keys)) if config.workers > 1 and config.keys else None
    return Secrets(signing or secrets.token_bytes(32), signing, rates, _failures_file() if config.workers > 1 else None)


def _failures_file() -> str:
    descriptor, name = tempfile.mkstemp(prefix="vlmguard-failures-")
    os.close(descriptor)
    return name


def check(config: Config, shared: Secrets) -> None:
    """Starts and stops a gateway, which has every guard judge once. Raises ``VlmguardError``: then nothing is to be started."""

    async def start_and_stop() -> None:
        gateway = Gateway(config, shared)
        await gateway.open()
        await gateway.close()

    asyncio.run(start_and_stop())


def listen(config: Config) -> socket.socket:
    """The socket that all workers share. Raises ``InputError``."""
    host = config.host.strip("[]")
    try:
        family, kind, number, _, address = socket.getaddrinfo(host, config.port, type=socket.SOCK_STREAM)[0]
        with ExitStack() as unless_it_listens:
            found = unless_it_listens.enter_context(socket.socket(family, kind, number))
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found.bind(address)
            found.listen(_BACKLOG)  # now: of two gateways that are started together, both may bind
            unless_it_listens.pop_all()
    except OSError as error:
        raise InputError(f"cannot listen on {config.host}:{config.port}: {error.strerror or error}") from error
    found.set_inheritable(True)
    return found


def server_config(config: Config, app: object) -> uvicorn.Config:
    """How uvicorn is to serve ``app``."""
    return uvicorn.Config(
        app,  # type: ignore[arg-type]
        http=TimedProtocol,
        ws="none",
        loop="auto",
        lifespan="on",
        workers=config.workers,
        backlog=_BACKLOG,
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=_GRACE_SECONDS,
        timeout_worker_healthcheck=_HUNG_SECONDS,
    )


def serve(config: Config) -> int:
    """Serves until it is told to stop; returns the exit code. Raises ``VlmguardError`` when it cannot start."""
    logs.configure(config.log_level, config.log_json)
    for name in config.unknown:
        _log.warning("%s", about_unknown(name))
    shared = make_secrets(config)
    launcher = Launcher(config, shared)
    try:
        if config.workers > 1:
            check(config, shared)  # workers that cannot start would be started again and again
        bound = listen(config)
        _log.info("listening on http://%s:%d, upstream %s", config.host, bound.getsockname()[1], config.upstream)
        found = server_config(config, launcher)
        if config.workers > 1:
            with metrics.shared():
                Multiprocess(found, sockets=[bound]).run()
            if shared.failures is not None and (failures := Path(shared.failures).read_text(encoding="utf-8")):
                raise AuditError(failures.strip())
            return 0
        with suppress(SystemExit), _outliving_signals():  # it exits when the application did not start
            uvicorn.Server(found).run(sockets=[bound])
        if launcher.failure is not None:
            raise launcher.failure
        return 0
    finally:
        for file in (shared.rates, shared.failures):
            if file is not None:
                Path(file).unlink(missing_ok=True)


@contextmanager
def _outliving_signals() -> Iterator[None]:
    """When it has stopped, the server sends itself the signal that stopped it, and what was lost would be told by no exit code."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def show_new_key(name: str) -> str:
    """A fresh key, and the lines of configuration that let it in."""
    from vlmguard.gateway.keys import new_key

    key, digest = new_key()
    name = name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name)  # as TOML writes other keys
    return f'{key}\n\n# The key is shown once, above. What follows goes into the configuration:\n[keys.{name}]\nhash = "sha256:{digest}"'


def default_file() -> Path | None:
    """``vlmguard.toml`` of the working directory, where there is one."""
    file = Path("vlmguard.toml")
    return file if file.is_file() else None
