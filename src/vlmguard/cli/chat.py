"""``vlmguard chat``: talk with a model through the guard, and see what the guard does.

    vlmguard chat --target endpoint:http://127.0.0.1:8000/v1#MODEL [--rewriter SPEC] [--compare]

Lines are prompts. ``/image FILE`` puts a picture into the next one, ``/reset`` begins anew, ``/quit`` or the end of input ends.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Callable
from contextlib import aclosing, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from vlmguard.cli import models
from vlmguard.errors import CutOffError, ImageError, VlmguardError
from vlmguard.protocols import Model
from vlmguard.types import Chat, Image, Message, Outcome, Sampling, Text

if TYPE_CHECKING:
    from rich.table import Table

    from vlmguard.guard import Guard

HELP = "talk with a model through the guard: report, refined prompt, streamed answer"

_COMMANDS = "/image FILE · /reset · /quit"
_SAMPLING = Sampling(max_tokens=1024)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``chat``."""
    parser.add_argument("--target", metavar="SPEC", required=True, help=f"the model that answers: {models.SPECS}")
    parser.add_argument("--target-key-env", metavar="NAME", help="environment variable with the target's key")
    parser.add_argument("--compare", action="store_true", help="put the unguarded answer beside the guarded one")
    parser.add_argument("--policy", type=Path, metavar="FILE", help="a TOML file laid over the default policy")
    models.add_rewriter_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Exit code 0 at the end of the session. Raises ``InputError`` and ``VlmguardError`` where it cannot begin."""
    from vlmguard.guard import Guard
    from vlmguard.models.deadline import Deadline
    from vlmguard.models.spec import make_model
    from vlmguard.policy import load_policy

    policy = load_policy(arguments.policy)
    asking = models.settings(arguments)
    target = make_model(arguments.target, replace(asking, key_env=arguments.target_key_env or asking.key_env))
    guard = Guard(models.rewriter(arguments, policy), policy)
    session = _Session(guard, Deadline(target.model, max(asking.deadline, 120.0)), compare=arguments.compare)
    # Input is read between runs of the loop: there it can be interrupted.
    with asyncio.Runner() as runner:
        try:
            while (line := _read_line()) is not None and line != "/quit":
                runner.run(session.take(line))
        finally:
            runner.run(session.close())
    return 0


def _read_line() -> str | None:
    """The next line without its end; ``None`` at the end of input."""
    if sys.stdin.isatty():
        print("\nyou> ", end="", flush=True)
    line = sys.stdin.readline()
    return line.strip() if line else None


class _Session:
    """One conversation: its turns in the user's own words, as a client would send them, and the pictures of the next one."""

    def __init__(self, guard: Guard, target: Model, *, compare: bool) -> None:
        from rich.console import Console

        self._guard = guard
        self._target = target
        self._compare = compare
        self._console = Console(highlight=False)
        self._pictures: list[Image] = []
        self._turns: tuple[Message, ...] = ()
        self._unguarded: tuple[Message, ...] = ()

    async def close(self) -> None:
        """Closes rewriter and target."""
        from vlmguard.models.wrapper import close

        await self._guard.close()
        await close(self._target)

    async def take(self, line: str) -> None:
        """One line of input. What goes wrong is told, and the conversation goes on without that turn."""
        command, _, rest = line.partition(" ")
        try:
            if command == "/image":
                self._add_picture(rest.strip())
            elif command == "/reset":
                self._turns, self._unguarded, self._pictures = (), (), []
            elif command.startswith("/") and "/" not in command[1:]:
                self._say(f"commands: {_COMMANDS}")
            elif line or self._pictures:
                await self._turn(line)
        except VlmguardError as error:
            again = "; its pictures still go with your next line" if self._pictures else ""
            self._say(f"nothing was sent or kept of this turn: {error}{again}")

    def _add_picture(self, name: str) -> None:
        from vlmguard.cli.refine import load_picture

        if not name:
            raise ImageError("/image needs the name of a file")
        self._pictures.append(load_picture(Path(name)))
        self._say(f"{len(self._pictures)} picture(s) go with your next line")

    async def _turn(self, line: str) -> None:
        from vlmguard.cli.panel import show

        number = len(self._turns)
        texts = (Text(line, f"/messages/{number}"),) if line else ()
        pictures = tuple(
            replace(picture, path=f"/messages/{number}/{place}")
            for place, picture in enumerate(self._pictures, start=1)
        )
        message = Message("user", (*texts, *pictures))
        chat = Chat((*self._turns, message))
        started = time.perf_counter()
        guarded = await self._guard.refine(chat)
        show(chat, guarded, self._guard.policy, (time.perf_counter() - started) * 1000, self._console)
        if guarded.chat is None or guarded.outcome is Outcome.BLOCK:
            if self._compare:
                self._say("what is blocked is not sent for comparison either")
        elif self._compare:
            raw = Chat((*self._unguarded, message))
            answer, other = await self._answer_both(guarded.chat, raw)
            self._unguarded = (*raw.messages, Message("assistant", (Text(other),)))
            self._keep(chat, answer)
        else:
            self._keep(chat, await self._answer(guarded.chat))
        self._pictures = []

    def _keep(self, chat: Chat, answer: str) -> None:
        """The turn and its answer are part of the conversation from now on."""
        path = f"/messages/{len(chat.messages)}"
        self._turns = (*chat.messages, Message("assistant", (Text(answer, path),)))

    async def _answer(self, chat: Chat) -> str:
        """The target's answer, shown as it comes."""
        said = await self._read(chat, lambda piece: self._console.out(_printable(piece), end="", highlight=False))
        self._console.out("")
        return said

    async def _answer_both(self, guarded: Chat, raw: Chat) -> tuple[str, str]:
        """Both answers, side by side as they come."""
        from rich.live import Live

        columns = ["", ""]
        with Live(console=self._console, auto_refresh=False) if self._console.is_terminal else nullcontext() as live:

            def grow(column: int, piece: str) -> None:
                columns[column] += piece
                if live is not None:
                    live.update(_beside(*columns), refresh=True)

            answers = await asyncio.gather(
                self._read(guarded, lambda piece: grow(0, piece)), self._read(raw, lambda piece: grow(1, piece))
            )
        if not self._console.is_terminal:
            self._console.print(_beside(*columns))
        return answers[0], answers[1]

    async def _read(self, chat: Chat, take: Callable[[str], None]) -> str:
        from vlmguard.models.wrapper import open_stream

        said: list[str] = []
        try:
            async with aclosing(open_stream(self._target, chat, _SAMPLING)) as pieces:
                async for piece in pieces:
                    said.append(piece)
                    take(piece)
        except CutOffError:
            take(f" … (cut off after {_SAMPLING.max_tokens} tokens)")
        return "".join(said)

    def _say(self, text: str) -> None:
        self._console.print(_printable(text), style="dim", markup=False)


def _beside(guarded: str, raw: str) -> Table:
    from rich.table import Table
    from rich.text import Text as Styled

    table = Table(expand=True)
    table.add_column("guarded", ratio=1)
    table.add_column("unguarded", ratio=1)
    table.add_row(Styled(_printable(guarded)), Styled(_printable(raw)))
    return table


def _printable(text: str) -> str:
    from vlmguard.cli.panel import printable

    return printable(text)
