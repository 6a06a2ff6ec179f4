"""A real OpenAI-compatible server that nobody here wrote, with a real (tiny) vision-language model in it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.tiny_llava import BABBLE, COLOUR, GREETING, HARMFUL, HARMLESS, PAIR, PAIR_PROMPT, TEXT_PROMPT, picture
from vlmguard import Guard, chat, load_policy
from vlmguard.cli.main import main
from vlmguard.errors import GuardError, ModelError
from vlmguard.models.endpoint import EndpointModel
from vlmguard.models.spec import ModelSettings
from vlmguard.models.wrapper import open_stream
from vlmguard.rewriters.quoting import rewriter_chat
from vlmguard.rewriters.select import make_rewriter
from vlmguard.types import Aspect, Outcome, Sampling

ENOUGH = Sampling(max_tokens=400)


@pytest.fixture(scope="session")
def served(tiny_llava: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """The address of a running ``transformers serve`` and the name of its model."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = tmp_path_factory.mktemp("serve")
    environment = {**os.environ, "HF_HUB_CACHE": str(folder / "hub"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(tiny_llava / "base")]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [*command, "--device", "cpu", "--host", "127.0.0.1", "--port", str(port)],
            env=environment,
            stdout=log,
            stderr=log,
        )
        try:
            _wait_until_up(f"http://127.0.0.1:{port}/health", server, folder / "log")
            yield f"http://127.0.0.1:{port}/v1", str(tiny_llava / "base")
        finally:
            server.terminate()
            server.wait(20)


def _wait_until_up(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + 180
    while time.monotonic() < until and server.poll() is None:
        with suppress(OSError), urllib.request.urlopen(url, timeout=5):
            return
        time.sleep(0.2)
    pytest.fail(f"transformers serve did not come up:\n{log.read_text()[-3000:]}")


@pytest.fixture
def spec(served: tuple[str, str]) -> str:
    return f"endpoint:{served[0]}#{served[1]}"


def guard(spec: str) -> Guard:
    return Guard(make_rewriter(spec, load_policy(), settings=ModelSettings(deadline=120, retries=0)))


async def test_it_answers_whole_and_in_pieces_and_sees_pictures(served: tuple[str, str]) -> None:
    model = EndpointModel(*served)
    for colour, name in (("red", "Red."), ("blue", "Blue.")):
        asked = chat(COLOUR, [picture(colour)])
        completion = await model.generate(asked, Sampling(max_tokens=16))
        assert (completion.text, completion.finish_reason) == (name, "stop")
        assert completion.usage.prompt_tokens > 16
        assert "".join([piece async for piece in open_stream(model, asked, Sampling(max_tokens=16))]) == name
    await model.close()


async def test_a_danger_that_lies_only_in_the_pair_is_rewritten_over_http(spec: str) -> None:
    guarding = guard(spec)
    risky = await guarding.refine(chat(PAIR, [picture("red")]))
    harmless_chat = chat(PAIR, [picture("blue")])
    harmless = await guarding.refine(harmless_chat)
    await guarding.close()
    assert risky.outcome is Outcome.REWRITE
    assert risky.chat is not None
    assert risky.chat.prompt == PAIR_PROMPT
    assert risky.chat.images == chat(PAIR, [picture("red")]).images
    assert harmless.chat is harmless_chat
    assert all(row.judged_by is not None for row in risky.receipt.judgements)
    assert {row.aspect for row in risky.receipt.judgements} == {Aspect.TEXT, Aspect.CODES, Aspect.SCENE}
    assert (risky.receipt.tier, risky.receipt.weights) == ("model", spec.partition("#")[2])
    assert risky.receipt.prompts


async def test_the_connection_is_closed_after_forward_and_the_rest_is_never_said(served: tuple[str, str]) -> None:
    """Counted on the wire, by a relay between us and the server."""
    url, name = served
    model = EndpointModel(url, name)
    asked = rewriter_chat(chat(HARMLESS), load_policy(), b"")
    everything = await model.generate(asked, ENOUGH)
    await model.close()
    assert everything.text.endswith(BABBLE)  # what it says when nobody stops it

    async with _Relay(url) as relay:
        guarding = guard(f"endpoint:{relay.url}#{name}")
        guarded = await guarding.refine(chat(HARMLESS))
        await asyncio.wait_for(relay.client_left.wait(), 30)
        await guarding.close()
    assert guarded.outcome is Outcome.FORWARD
    assert 0 < relay.events < everything.usage.completion_tokens
    assert not relay.finished


class _Relay:
    """Passes bytes on, counts the events of the answer, and sees who hangs up first."""

    def __init__(self, url: str) -> None:
        self._port = int(url.split(":")[2].split("/", maxsplit=1)[0])
        self.client_left = asyncio.Event()
        self.events = 0
        self.finished = False
        self.url = ""

    async def __aenter__(self) -> _Relay:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        server, to_server = await asyncio.open_connection("127.0.0.1", self._port)

        async def asking() -> None:
            while data := await client.read(65_536):
                to_server.write(data)
            self.client_left.set()

        async def answering() -> None:
            while data := await server.read(65_536):
                self.events += data.count(b"data: {")
                self.finished = self.finished or b"[DONE]" in data
                to_client.write(data)

        tasks = [asyncio.create_task(asking()), asyncio.create_task(answering())]
        with suppress(ConnectionError):
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        to_server.close()
        to_client.close()


async def test_the_tiers_share_the_work(served: tuple[str, str]) -> None:
    guarding = guard(f"tiered:endpoint:{served[0]}#{served[1]}")
    clear = await guarding.refine(chat(HARMLESS))
    pair = await guarding.refine(chat(PAIR, [picture("red")]))
    await guarding.close()
    assert clear.receipt.tier == "embedded"
    assert pair.receipt.tier == "model"
    assert pair.outcome is Outcome.REWRITE
    judges = {row.aspect: row.judged_by for row in pair.receipt.judgements if row.path == "/images/0"}
    assert judges[Aspect.SCENE] == f"model {served[1]}"
    assert judges[Aspect.TEXT] == f"text reader, model {served[1]}"


async def test_a_model_that_is_cut_off_and_one_that_is_not_there(served: tuple[str, str]) -> None:
    model, other = EndpointModel(*served), EndpointModel(served[0], "/no/such/model")
    completion = await model.generate(chat(GREETING), Sampling(max_tokens=2))
    await model.close()
    assert completion.finish_reason == "length"
    with pytest.raises(ModelError, match="no/such/model"):
        await other.generate(chat(GREETING), ENOUGH)
    await other.close()


async def test_a_chat_that_it_never_learned_is_a_failure_and_nothing_goes_out(spec: str) -> None:
    guarding = guard(spec)
    with pytest.raises(GuardError, match="could not be judged"):
        await guarding.refine(chat("Wie spät ist es auf dem Mond, und warum?", [picture("green")]))
    await guarding.close()


# ---------------------------------------------------------------------------------------------------------------------
# The command line


def test_refine_asks_the_model(spec: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "red.png"
    file.write_bytes(picture("red"))
    kept = ["--cache", str(tmp_path / "kept"), "--record", str(tmp_path / "rows.jsonl")]
    for _ in range(2):
        assert main(["refine", PAIR, "--image", str(file), "--rewriter", spec, "--json", *kept]) == 0
        assert json.loads(capsys.readouterr().out)["prompt"] == PAIR_PROMPT
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 1  # the second answer came from the cache


def test_a_batch_asks_the_model_for_every_row(spec: str, tmp_path: Path) -> None:
    (tmp_path / "red.png").write_bytes(picture("red"))
    rows = [
        {"id": 1, "prompt": HARMLESS},
        {"id": 2, "prompt": PAIR, "images": ["red.png"]},
        {"id": 3, "prompt": ["no"]},
        {"id": 4, "prompt": HARMFUL},
    ]
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["refine", "--batch", str(source), "--out", str(out), "--rewriter", spec, "--deadline", "120"]
    assert main(command) == 3
    made = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["id"] for row in made] == [1, 2, 3, 4]
    assert [row.get("outcome") for row in made] == ["forward", "rewrite", None, "rewrite"]
    assert made[0]["rewriter"] == spec
    assert main(["refine", "--batch", str(source), "--out", str(out)]) == 2  # not mixed with another rewriter's


def test_doctor_tries_a_model(spec: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["doctor", "--model", spec, "--json", "--deadline", "120"])
    checks = {check["name"]: check for check in json.loads(capsys.readouterr().out)["checks"]}
    assert checks["sees"]["ok"]
    assert "Red." in checks["sees"]["detail"]
    assert "pieces" in checks["streams"]["detail"]
    assert "forwarded" in checks["judges"]["detail"]


def test_chat_shows_the_guarded_answer_beside_the_other(
    spec: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import io

    monkeypatch.setattr("sys.stdin", io.StringIO(f"{HARMFUL}\n/reset\n{GREETING}\n/quit\n"))
    monkeypatch.setenv("COLUMNS", "160")
    assert main(["chat", "--target", spec, "--rewriter", spec, "--compare"]) == 0
    shown = capsys.readouterr().out
    assert "rewritten" in shown
    # Without what the difference takes out and its marks, the refined prompt is left.
    left = " ".join(re.sub(r"\[-.*?-\]|\{\+|\+\}|│", "", shown, flags=re.DOTALL).split())
    assert TEXT_PROMPT[:30] in left
    assert "Such a letter is fraud" in shown
    assert "Dear aunt, your bank needs" in shown
    assert "Hello, what can I do for you?" in shown
