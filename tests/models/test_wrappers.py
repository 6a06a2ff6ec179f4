"""The wrappers: each is a model, and what it adds holds for whole answers and for streams."""

from __future__ import annotations

import asyncio
import json
import random
import stat
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest

from tests.conftest import Draw
from vlmguard import ScriptedModel, chat
from vlmguard.errors import CutOffError, InputError, ModelError
from vlmguard.models.breaker import Breaker
from vlmguard.models.cache import Cache, question_key
from vlmguard.models.deadline import Deadline, remaining, within
from vlmguard.models.limit import Limit
from vlmguard.models.record import Record
from vlmguard.models.retry import Retry
from vlmguard.models.whole import Until
from vlmguard.models.wrapper import forget, open_stream
from vlmguard.protocols import Closing, Model, Streaming
from vlmguard.trace import TraceReader
from vlmguard.types import Chat, Completion, Sampling

ASKED, SHORT = chat("hello"), Sampling(max_tokens=16)
LATE = ModelError("too busy", transient=True)
WRONG = ModelError("no such picture")


class Fails:
    """Raises its errors in turn, and then answers."""

    def __init__(self, *errors: Exception) -> None:
        self._errors = list(errors)
        self.asked = 0
        self.closed = False

    async def generate(self, chat: Chat, sampling: Sampling, /) -> Completion:
        self.asked += 1
        if self._errors:
            raise self._errors.pop(0)
        return Completion("fine")

    async def close(self) -> None:
        self.closed = True


class Hangs:
    """Never answers; knows whether it was cancelled, and how many wait."""

    def __init__(self) -> None:
        self.waiting = 0
        self.most = 0
        self.cancelled = 0
        self.go = asyncio.Event()

    async def generate(self, chat: Chat, sampling: Sampling, /) -> Completion:
        self.waiting += 1
        self.most = max(self.most, self.waiting)
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.waiting -= 1
        return Completion("fine")

    async def stream(self, chat: Chat, sampling: Sampling, /) -> AsyncIterator[str]:
        yield "one "
        yield (await self.generate(chat, sampling)).text


async def whole(model: Model) -> str:
    return (await model.generate(ASKED, SHORT)).text


async def pieces(model: Model) -> list[str]:
    async with aclosing(open_stream(model, ASKED, SHORT)) as stream:
        return [piece async for piece in stream]


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits between attempts, which then take no time."""
    waited: list[float] = []
    sleep = asyncio.sleep

    async def note(seconds: float) -> None:
        waited.append(seconds)
        await sleep(0)

    monkeypatch.setattr("vlmguard.models.retry.asyncio.sleep", note)
    return waited


@pytest.mark.parametrize(
    "wrap",
    [lambda model: Retry(model), lambda model: Limit(model, 1), lambda model: Deadline(model, 9), lambda model: Breaker(model)],
    ids=["retry", "limit", "deadline", "breaker"],
)  # fmt: skip
async def test_a_wrapped_model_is_a_model_that_streams_and_closes(wrap: type) -> None:
    inner = Fails()
    model = wrap(inner)
    assert isinstance(model, Model)
    assert isinstance(model, Streaming)
    assert isinstance(model, Closing)
    assert await whole(model) == "fine"
    assert await pieces(model) == ["fine"]
    assert await pieces(wrap(ScriptedModel(["one two"]))) == ["one ", "two"]
    await model.close()
    assert inner.closed


async def test_a_whole_answer_that_was_cut_off_is_a_cut_off_stream() -> None:
    class Cut:
        async def generate(self, chat: Chat, sampling: Sampling, /) -> Completion:
            return Completion("one", "length")

    with pytest.raises(CutOffError):
        await pieces(Limit(Cut(), 1))


# ---------------------------------------------------------------------------------------------------------------------
# Retry


async def test_what_may_pass_is_tried_again_with_growing_jittered_waits(waits: list[float]) -> None:
    model = Fails(LATE, LATE, LATE)
    assert await whole(Retry(model, 3, first_wait=1.0, rng=random.Random(1))) == "fine"
    assert model.asked == 4
    assert [0.5 <= wait / 2**number <= 1.0 for number, wait in enumerate(waits)] == [True] * 3
    assert waits[0] not in (0.5, 1.0)


async def test_what_cannot_pass_is_not_tried_again(waits: list[float]) -> None:
    model = Fails(WRONG)
    with pytest.raises(ModelError, match="no such picture"):
        await whole(Retry(model))
    assert (model.asked, waits) == (1, [])


async def test_the_last_error_is_told(waits: list[float]) -> None:
    model = Fails(LATE, LATE, ModelError("third", transient=True))
    with pytest.raises(ModelError, match="third"):
        await whole(Retry(model, 2))
    assert model.asked == 3


async def test_the_server_says_how_long_to_wait(waits: list[float]) -> None:
    await whole(Retry(Fails(ModelError("x", transient=True, retry_after=12.0)), first_wait=0.1))
    assert waits == [12.0]


async def test_a_wait_beyond_the_deadline_is_not_begun(waits: list[float]) -> None:
    model = Fails(ModelError("come back later", transient=True, retry_after=12.0))
    with pytest.raises(ModelError, match="come back later"):
        await whole(Deadline(Retry(model), 5.0))
    assert (model.asked, waits) == (1, [])


async def test_a_stream_is_tried_again_only_before_its_first_piece(waits: list[float]) -> None:
    class Breaks:
        def __init__(self, before: int) -> None:
            self.asked, self._before = 0, before

        async def generate(self, chat: Chat, sampling: Sampling, /) -> Completion:
            raise AssertionError

        async def stream(self, chat: Chat, sampling: Sampling, /) -> AsyncIterator[str]:
            self.asked += 1
            if self.asked <= self._before:
                raise LATE
            yield "one"
            if self._before == 0:
                raise LATE

    early, late = Breaks(before=1), Breaks(before=0)
    assert await pieces(Retry(early)) == ["one"]
    assert early.asked == 2
    with pytest.raises(ModelError):
        await pieces(Retry(late))
    assert late.asked == 1


# ---------------------------------------------------------------------------------------------------------------------
# Limit, deadline


async def test_no_more_than_the_limit_are_asked_at_a_time() -> None:
    inner = Hangs()
    model = Limit(inner, 3)
    tasks = [asyncio.create_task(whole(model)) for _ in range(10)]
    await asyncio.sleep(0.01)
    assert inner.waiting == 3
    tasks[0].cancel()
    await asyncio.sleep(0.01)
    assert inner.waiting == 3
    inner.go.set()
    await asyncio.gather(*tasks[1:])
    assert inner.most == 3


def test_a_limit_holds_in_every_event_loop_by_itself() -> None:
    async def crowd(model: Model) -> list[str]:
        return await asyncio.gather(*(whole(model) for _ in range(5)))

    class Takes:
        async def generate(self, chat: Chat, sampling: Sampling, /) -> Completion:
            await asyncio.sleep(0.001)
            return Completion("fine")

    model = Limit(Takes(), 2)
    assert [asyncio.run(crowd(model)) for _ in range(2)] == [["fine"] * 5] * 2


@pytest.mark.parametrize("read", [whole, pieces], ids=["whole", "stream"])
async def test_what_is_late_is_cancelled(read: object) -> None:
    inner = Hangs()
    assert callable(read)
    with pytest.raises(ModelError, match=r"within its deadline \(0.05 s at most\): raise the deadline") as caught:
        await read(Deadline(inner, 0.05))
    assert caught.value.transient
    assert inner.cancelled == 1


async def test_a_deadline_does_not_cut_its_readers_time_short() -> None:
    model = Deadline(Hangs(), 0.05)
    async with aclosing(open_stream(model, ASKED, SHORT)) as stream:
        await anext(stream)
        await asyncio.sleep(0.1)  # ours, not the model's
        with pytest.raises(ModelError, match="deadline"):
            await anext(stream)


async def test_deadlines_nest_and_the_inner_one_is_named() -> None:
    assert remaining() == float("inf")

    async def ask() -> None:
        async with within(0.1, "both"):
            assert remaining() <= 0.1
            await whole(Deadline(Hangs(), 60))

    with pytest.raises(ModelError, match="the model did not"):
        await ask()
    assert remaining() == float("inf")


# ---------------------------------------------------------------------------------------------------------------------
# Breaker


async def test_after_repeated_failures_nobody_queues() -> None:
    now = [0.0]
    inner = Fails(*[LATE] * 3)
    model = Breaker(inner, failures=2, rest=10, clock=lambda: now[0])
    for _ in range(2):
        with pytest.raises(ModelError, match="too busy"):
            await whole(model)
    with pytest.raises(ModelError, match=r"2 times in a row .* tried again in 10 s: look whether it runs"):
        await whole(model)
    assert inner.asked == 2
    now[0] = 11.0
    with pytest.raises(ModelError, match="too busy"):  # the one that tries it
        await whole(model)
    with pytest.raises(ModelError, match="left alone"):
        await pieces(model)
    assert inner.asked == 3
    now[0] = 22.0
    assert await whole(model) == "fine"
    assert await pieces(model) == ["fine"]


async def test_only_one_question_tries_a_model_that_rests() -> None:
    now = [0.0]
    inner = Hangs()
    model = Breaker(inner, failures=1, rest=1, clock=lambda: now[0])
    with pytest.raises(ModelError), model._watched():
        raise LATE
    now[0] = 2.0
    first = asyncio.create_task(whole(model))
    await asyncio.sleep(0)
    with pytest.raises(ModelError, match="tried again now"):
        await whole(model)
    first.cancel()  # whoever tried it went away: the next one tries
    await asyncio.gather(first, return_exceptions=True)
    inner.go.set()
    assert await whole(model) == "fine"


async def test_a_users_own_mistakes_shut_nothing_off_for_others() -> None:
    inner = Fails(LATE, WRONG, LATE, WRONG)
    model = Breaker(inner, failures=2)
    for _ in range(4):
        with pytest.raises(ModelError):
            await whole(model)
    assert await whole(model) == "fine"


# ---------------------------------------------------------------------------------------------------------------------
# Until


FORWARD = '<understanding>They ask.</understanding> <assessment text="none" image="absent" cross="absent"/> <forward/> '


async def test_a_stream_is_closed_where_the_trace_is_complete() -> None:
    model = ScriptedModel([FORWARD + "and on " * 1000])
    completion = await Until(model, TraceReader).generate(ASKED, SHORT)
    assert completion.text == FORWARD.strip()
    assert model.said < 10


async def test_what_never_completes_is_read_whole() -> None:
    completion = await Until(ScriptedModel(["no trace at all"]), TraceReader).generate(ASKED, SHORT)
    assert (completion.text, completion.finish_reason) == ("no trace at all", "stop")


# ---------------------------------------------------------------------------------------------------------------------
# Cache, record


async def test_a_question_is_asked_once_also_by_another_process(tmp_path: Path) -> None:
    first, second = ScriptedModel(["grüße\n"]), ScriptedModel([])
    assert await whole(Cache(first, tmp_path / "kept", "m")) == "grüße\n"
    assert await whole(Cache(second, tmp_path / "kept", "m")) == "grüße\n"
    assert stat.S_IMODE((tmp_path / "kept").stat().st_mode) == 0o700


def test_everything_that_an_answer_depends_on_is_in_its_key(draw: Draw) -> None:
    picture, other = draw("x"), draw("y")
    keys = [
        question_key("m", ASKED, SHORT),
        question_key("n", ASKED, SHORT),
        question_key("m", chat("hello!"), SHORT),
        question_key("m", chat("hello", [picture]), SHORT),
        question_key("m", chat("hello", [other]), SHORT),
        question_key("m", ASKED, Sampling(max_tokens=17)),
        question_key("m", ASKED, Sampling(max_tokens=16, temperature=0.5)),
        question_key("m", ASKED, Sampling(max_tokens=16, seed=1)),
        question_key("m", ASKED, Sampling(max_tokens=16, index=1)),
        question_key("m", ASKED, Sampling(max_tokens=16, stop=("x",))),
        question_key("m", ASKED, SHORT, "tenant"),
    ]
    assert len(set(keys)) == len(keys)


async def test_what_is_damaged_or_was_cut_off_is_asked_anew(tmp_path: Path) -> None:
    class Cut:
        asked = 0

        async def generate(self, chat: Chat, sampling: Sampling, /) -> Completion:
            self.asked += 1
            return Completion("half", "length" if self.asked == 1 else "stop")

    inner = Cut()
    model = Cache(inner, tmp_path, "m")
    await whole(model)
    await whole(model)
    assert inner.asked == 2
    (kept,) = _kept(tmp_path)
    kept.write_text('{"text": "ha')
    await whole(model)
    assert inner.asked == 3
    assert json.loads(kept.read_text())["text"] == "half"


async def test_what_is_forgotten_is_asked_anew_through_every_wrapper(tmp_path: Path) -> None:
    model = Until(Limit(Cache(ScriptedModel(["broken", "whole"]), tmp_path, "m"), 1), TraceReader)
    assert await whole(model) == await whole(model) == "broken"
    await forget(model, ASKED, SHORT)
    await forget(ScriptedModel([]), ASKED, SHORT)
    assert await whole(model) == "whole"


async def test_a_cache_keeps_no_more_than_it_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vlmguard.models.cache._PRUNED_EVERY", 1)
    model = Cache(ScriptedModel(lambda chat: chat.prompt), tmp_path, "m", most=3)
    for number in range(6):
        await model.generate(chat(f"question {number}"), SHORT)
    assert len(_kept(tmp_path)) == 3


def _kept(folder: Path) -> list[Path]:
    return list(folder.glob("??/*.json"))


async def test_a_recording_holds_what_is_needed_to_score_again_and_no_pictures(tmp_path: Path, draw: Draw) -> None:
    asked = chat("what is this?", [draw("x")])
    file = tmp_path / "rows" / "record.jsonl"
    model = Record(Fails(WRONG), file, "m", tenant="t")
    with pytest.raises(ModelError):
        await model.generate(asked, SHORT)
    await model.generate(asked, SHORT)
    await model.close()
    await model.generate(asked, SHORT)  # a closed one opens its file again
    await model.close()
    failed, said, again = [json.loads(line) for line in file.read_text().splitlines()]
    assert failed["error"] == "no such picture"
    assert (said["answer"], said["finish_reason"], said["key"]) == (
        "fine",
        "stop",
        question_key("m", asked, SHORT, "t"),
    )
    assert said["messages"][0]["parts"][1]["image"] == asked.images[0].sha256
    assert again["answer"] == "fine"
    assert file.stat().st_size < 4_000
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


async def test_a_file_that_is_no_recording_is_not_touched(tmp_path: Path) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("precious notes without a line's end")
    with pytest.raises(InputError, match="is no recording"):
        Record(ScriptedModel(["x"]), notes, "m")
    assert notes.read_text() == "precious notes without a line's end"
    with pytest.raises(InputError, match="cannot be written"):
        Record(ScriptedModel(["x"]), tmp_path, "m")
    with pytest.raises(InputError, match="name a folder"):
        Cache(ScriptedModel(["x"]), notes, "m")


async def test_an_answer_that_cannot_be_kept_is_an_answer_all_the_same(tmp_path: Path) -> None:
    model = Cache(ScriptedModel(["one", "two"]), tmp_path / "cache", "m")
    (tmp_path / "cache").rmdir()
    (tmp_path / "cache").write_text("in the way")
    assert (await model.generate(chat("a"), Sampling())).text == "one"
