"""A model in this process: transformers' ``AutoModelForImageTextToText``, with a LoRA adapter where one is given.

Needs the extra ``local``. One question at a time; closing a stream stops the generation at the next token.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from vlmguard.errors import ChatError, MissingExtraError, ModelError
from vlmguard.images import shown
from vlmguard.models.hub import at_home, check_known
from vlmguard.models.special_tokens import without_special_tokens
from vlmguard.models.wrapper import cut_off
from vlmguard.types import Chat, Completion, Image, Message, Opaque, Part, Sampling, Text, Usage

_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_FILES = ("*.safetensors", "*.bin", "*.json", "*.jinja")
"""What makes a model what it is: weights, configuration, tokenizer, chat template."""
_ENDS = 1_000_000
"""Bytes at both ends of a file of weights that its fingerprint is made of."""


class LocalModel:
    """A model from a folder or from a hub.

    Args:
        where: folder or hub id; also the folder of a finished ``vlmguard train`` run, or of an adapter that names its base.
        adapter: folder of a LoRA adapter for it.
        device: ``cuda``, ``cpu``, … or ``auto``: CUDA where there is one.

    Raises:
        MissingExtraError: torch or transformers are not installed.
        ModelError: there are no such weights, or they cannot be loaded.
    """

    def __init__(self, where: str, *, adapter: str | None = None, device: str = "auto") -> None:
        try:
            import torch
            from transformers import AutoModelForImageTextToText, AutoProcessor
        except ImportError as error:
            raise MissingExtraError("a local model", "local") from error
        where, adapter = resolve(where, adapter)
        check_known(where)
        self._device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        try:
            self._processor: Any = AutoProcessor.from_pretrained(_with_processor(where, adapter))
            model: Any = AutoModelForImageTextToText.from_pretrained(where, dtype="auto")
            if adapter is not None:
                model = _with_adapter(model, adapter)
        except MissingExtraError:
            raise
        except Exception as error:  # loaders raise nearly anything
            raise ModelError(
                f"{where}{f' with {adapter}' if adapter else ''} cannot be loaded as a vision-language model"
                f" ({type(error).__name__}: {error}): give a folder or hub id that transformers'"
                " AutoModelForImageTextToText takes"
            ) from error
        self._model: Any = model.to(self._device).eval()
        self.fingerprint = fingerprint(where, adapter)
        # A thread of its own: questions that wait must not hold those that others wait for.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="local model")

    def weights_hash(self) -> str:
        """SHA-256 of all weights as they are in memory: whether a model is the same before and after."""
        import torch

        digest = hashlib.sha256()
        for name, value in sorted(self._model.state_dict().items()):
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    async def generate(self, chat: Chat, sampling: Sampling, /) -> Completion:
        """The whole answer."""
        started = time.perf_counter()
        run = _Run(asyncio.get_running_loop())
        worker = self._start(chat, sampling, run)
        try:
            prompt, said, text, cut = await asyncio.shield(worker)
        except asyncio.CancelledError:
            run.stop.set()
            raise
        reason = "length" if cut else "stop"
        return Completion(text, reason, Usage(prompt, said), time.perf_counter() - started)

    async def several(self, chat: Chat, sampling: Sampling, count: int, /) -> list[Completion]:
        """``count`` answers to one question, generated side by side in one batch."""
        started = time.perf_counter()
        run = _Run(asyncio.get_running_loop())
        worker = asyncio.get_running_loop().run_in_executor(self._thread, self._batch, chat, sampling, count, run)
        try:
            answers = await asyncio.shield(worker)
        except asyncio.CancelledError:
            run.stop.set()
            raise
        seconds = time.perf_counter() - started
        return [
            Completion(text, "length" if cut else "stop", Usage(prompt, said), seconds)
            for prompt, said, text, cut in answers
        ]

    async def stream(self, chat: Chat, sampling: Sampling, /) -> AsyncIterator[str]:
        """Pieces of the answer as they come."""
        run = _Run(asyncio.get_running_loop())
        worker = self._start(chat, sampling, run)
        worker.add_done_callback(lambda _: run.pieces.put_nowait(None))
        try:
            while (piece := await run.pieces.get()) is not None:
                if piece:
                    yield piece
            *_, cut = await worker
            if cut:
                raise cut_off(sampling)
        finally:
            run.stop.set()

    def _start(self, chat: Chat, sampling: Sampling, run: _Run) -> asyncio.Future[tuple[int, int, str, bool]]:
        return asyncio.get_running_loop().run_in_executor(self._thread, self._generate, chat, sampling, run)

    # -----------------------------------------------------------------------------------------------------------------
    # In the worker's thread

    def _generate(self, chat: Chat, sampling: Sampling, run: _Run) -> tuple[int, int, str, bool]:
        """Tokens of the prompt and of the answer, the answer, and whether it reached the most tokens."""
        if run.stop.is_set():
            return 0, 0, "", False
        return self._first(chat, sampling, self._options(sampling, run) | {"streamer": self._streamer(run)})

    def _batch(self, chat: Chat, sampling: Sampling, count: int, run: _Run) -> list[tuple[int, int, str, bool]]:
        """The same for each of several answers."""
        if run.stop.is_set():
            return []
        if sampling.temperature == 0:
            return [self._first(chat, sampling, self._options(sampling, run))] * count
        options = self._options(sampling, run) | {"num_return_sequences": count}
        length, rows = self._tokens(chat, sampling, options)
        return [self._said(length, row, sampling) for row in rows]

    def _first(self, chat: Chat, sampling: Sampling, options: dict[str, Any]) -> tuple[int, int, str, bool]:
        length, rows = self._tokens(chat, sampling, options)
        return self._said(length, rows[0], sampling)

    def _tokens(self, chat: Chat, sampling: Sampling, options: dict[str, Any]) -> tuple[int, Any]:
        import torch

        inputs = self._inputs(chat)
        if sampling.seed is not None:
            torch.manual_seed(sampling.seed)
        try:
            with torch.inference_mode():
                return inputs["input_ids"].shape[1], self._model.generate(**inputs, **options)
        except Exception as error:  # out of memory, a context too long, pictures of a size it does not take
            raise ModelError(f"the local model broke ({type(error).__name__}: {error})") from error

    def _said(self, length: int, output: Any, sampling: Sampling) -> tuple[int, int, str, bool]:
        """The same of one row of output. In a batch those that ended early are filled up behind their end."""
        tokens = output[length:].tolist()
        ends = self._ends()
        if (end := next((at for at, token in enumerate(tokens) if token in ends), None)) is not None:
            tokens = tokens[: end + 1]
        while tokens and tokens[-1] == self._model.generation_config.pad_token_id and tokens[-1] not in ends:
            tokens.pop()
        text = self._processor.decode(tokens, skip_special_tokens=True)
        stopped = end is not None or any(word in text for word in sampling.stop)
        return length, len(tokens), text, len(tokens) >= sampling.max_tokens and not stopped

    def _inputs(self, chat: Chat) -> Any:
        try:
            return model_inputs(self._processor, [chat]).to(self._device)
        except ChatError:
            raise
        except Exception as error:
            raise ModelError(
                f"the model's processor does not take this chat ({type(error).__name__}: {error}): it may want another"
                " number or order of pictures"
            ) from error

    def _options(self, sampling: Sampling, run: _Run) -> dict[str, Any]:
        from transformers import StoppingCriteriaList

        tokenizer = self._processor.tokenizer
        options: dict[str, Any] = {
            "max_new_tokens": sampling.max_tokens,
            "do_sample": sampling.temperature > 0,
            "stopping_criteria": StoppingCriteriaList([run.stopped]),
        }
        if sampling.temperature > 0:
            # From all tokens: some models come with a top_k of 1, and then no temperature would change anything.
            options |= {"temperature": sampling.temperature, "top_k": 0, "top_p": 1.0}
        if sampling.stop:
            options |= {"stop_strings": list(sampling.stop), "tokenizer": tokenizer}
        return options

    def _streamer(self, run: _Run) -> Any:
        from transformers import TextStreamer

        class Pieces(TextStreamer):  # type: ignore[misc]
            def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
                run.send(text)

        return Pieces(self._processor.tokenizer, skip_prompt=True, skip_special_tokens=True)

    def _ends(self) -> set[int]:
        ends = self._model.generation_config.eos_token_id
        return set(ends) if isinstance(ends, list) else {ends}


class _Run:
    """One generation: where its pieces go, and the way to stop it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.pieces: asyncio.Queue[str | None] = asyncio.Queue()
        self.stop = threading.Event()
        self._loop = loop

    def send(self, piece: str) -> None:
        """From the worker's thread."""
        if not self.stop.is_set():
            self._loop.call_soon_threadsafe(self.pieces.put_nowait, piece)

    def stopped(self, ids: Any, scores: Any, **_: Any) -> Any:
        """A stopping criterion of transformers: one truth value per row."""
        import torch

        return torch.full((ids.shape[0],), self.stop.is_set(), dtype=torch.bool, device=ids.device)


def model_inputs(processor: Any, chats: Sequence[Chat]) -> Any:
    """What a model is fed to answer each of some chats: tensors of (chats, tokens), padded at the left. Raises ``ChatError``."""
    several = {"processor_kwargs": {"padding": True, "padding_side": "left"}} if len(chats) > 1 else {}
    return processor.apply_chat_template(
        [[_message(message) for message in without_special_tokens(processor, chat).messages] for chat in chats],
        tokenize=True,
        add_generation_prompt=True,
        return_dict=True,
        return_tensors="pt",
        **several,
    )


def resolve(where: str, adapter: str | None) -> tuple[str, str | None]:
    """The base and the adapter behind a folder that is neither weights nor a hub id: a training run's, or an adapter's own.

    A ``~`` at the beginning is the user's home. Raises ``ModelError`` for a run that has no model yet.
    """
    where = at_home(where)
    folder = Path(where)
    if adapter is not None or not folder.is_dir() or (folder / "config.json").exists():
        return where, adapter
    if (folder / "run.json").exists():
        folder = folder / "model"
        if not folder.is_dir():
            raise ModelError(f"the training run {where} is not finished: run vlmguard train with --out {where} again")
    named = folder / "adapter_config.json"
    if not named.exists():
        return str(folder), None
    base = json.loads(named.read_text(encoding="utf-8")).get("base_model_name_or_path")
    if not base:
        raise ModelError(f"the adapter in {folder} does not say what it adapts: write local:BASE#{folder}")
    if Path(base).is_absolute() and not Path(base).is_dir():
        raise ModelError(f"the base model {base} of the adapter in {folder} is gone: write local:BASE#{folder}")
    return str(base), str(folder)


def _with_processor(where: str, adapter: str | None) -> str:
    """Who brings the processor: the adapter where it was trained with one, else the base."""
    return adapter if adapter is not None and (Path(adapter) / "tokenizer_config.json").exists() else where


def _with_adapter(model: Any, adapter: str) -> Any:
    try:
        from peft import PeftModel
    except ImportError as error:
        raise MissingExtraError("an adapter", "local") from error
    return PeftModel.from_pretrained(model, adapter)


def _message(message: Message) -> dict[str, Any]:
    role = _ROLES.get(message.role)
    if role is None:
        raise ChatError("a tool's result cannot be sent to a model as a chat of our own: send it through the gateway")
    return {"role": role, "content": [_part(part) for part in message.parts]}


def _part(part: Part) -> dict[str, Any]:
    match part:
        case Text():
            return {"type": "text", "text": part.text}
        case Image():
            return {"type": "image", "image": shown(part)}
        case Opaque():
            raise ChatError(f"{part.path or 'a part'} ({part.kind}) cannot be shown to a model: leave it out")


def fingerprint(where: str, adapter: str | None) -> str:
    """What weights these are: SHA-256 over configuration and size, beginning and end of every file of weights.

    Whole files of many gigabytes would take longer to hash than to load. A hub id stands for itself.
    """
    digest = hashlib.sha256()
    for name in (where, adapter or ""):
        folder = Path(name)
        if not name or not folder.is_dir():
            digest.update(name.encode())
            continue
        for file in sorted(file for kind in _FILES for file in folder.glob(kind)):
            size = file.stat().st_size
            digest.update(f"{file.name}:{size}:".encode())
            with file.open("rb") as opened:
                digest.update(opened.read(_ENDS))
                opened.seek(max(0, size - _ENDS))
                digest.update(opened.read(_ENDS))
    return digest.hexdigest()
