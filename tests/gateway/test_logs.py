from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Iterator

import pytest

from vlmguard.gateway import logs


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Logging is the process's own; other tests want theirs back."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_is_json_with_the_request_and_the_fields_given(stream: io.StringIO) -> None:
    logs.configure("info", json=True, stream=stream)
    logger = logging.getLogger("vlmguard.gateway.app")
    logger.debug("not asked for")
    with logs.request_id("abc"):
        logger.info("answered %s", "so", extra={"outcome": "forward", "ms": 3.5, "status": 200})
    logger.warning("later")
    first, second = lines(stream)
    assert str(first.pop("time")).endswith("+00:00")
    assert first == {
        "level": "info",
        "logger": "vlmguard.gateway.app",
        "message": "answered so",
        "request_id": "abc",
        "outcome": "forward",
        "ms": 3.5,
        "status": 200,
    }
    assert "request_id" not in second


async def test_requests_at_the_same_time_keep_their_ids_apart(stream: io.StringIO) -> None:
    logs.configure("info", json=True, stream=stream)

    async def request(id: str) -> None:
        with logs.request_id(id):
            for _ in range(3):
                await asyncio.sleep(0)
                logging.getLogger("vlmguard").info(id)

    await asyncio.gather(*(request(str(number)) for number in range(20)))
    assert len(lines(stream)) == 60
    assert all(line["message"] == line["request_id"] for line in lines(stream))


@pytest.mark.parametrize("json", [True, False])
def test_of_an_exception_the_type_and_the_place_are_told_and_not_the_message(json: bool, stream: io.StringIO) -> None:
    logs.configure("info", json=json, stream=stream)
    try:
        try:
            raise KeyError("the user's first secret")
        except KeyError as error:
            raise ValueError("the user's second secret") from error
    except ValueError:
        logging.getLogger("vlmguard").exception("a request broke")
    said = stream.getvalue()
    assert "secret" not in said
    assert "ValueError" in said
    assert "test_logs.py" in said
    assert len(said.splitlines()) == 1


def test_of_other_libraries_only_what_they_wrote_themselves_is_told(stream: io.StringIO) -> None:
    logs.configure("info", json=True, stream=stream)
    logging.getLogger("aiohttp.client").warning("got %s from %s\nmore: %s", "secret", "secret", "secret")
    logging.getLogger("asyncio").error("Task exception was never retrieved\nfuture: ValueError('secret')")
    logging.getLogger("uvicorn.access").info('%s - "GET %s HTTP/%s" %d', "1.2.3.4", "/?q=secret", "1.1", 200)
    logging.getLogger("uvicorn.error").info("Uvicorn running on %s", "http://127.0.0.1:8080")
    assert "secret" not in stream.getvalue()
    assert [line["message"] for line in lines(stream)] == [
        "got %s from %s",
        "Task exception was never retrieved",
        "Uvicorn running on http://127.0.0.1:8080",
    ]


def test_a_broken_task_tells_nothing_of_what_broke_it(stream: io.StringIO) -> None:
    """The event loop's own report quotes the exception."""
    logs.configure("info", json=True, stream=stream)

    async def main() -> None:
        async def breaks() -> None:
            raise ValueError("secret")

        task = asyncio.get_running_loop().create_task(breaks())
        await asyncio.sleep(0.01)
        del task

    asyncio.run(main())
    (line,) = lines(stream)
    assert line["error"] == "ValueError"
    assert "secret" not in stream.getvalue()


def test_words_cannot_forge_lines_or_drive_the_terminal(stream: io.StringIO) -> None:
    logs.configure("info", json=False, stream=stream)
    logging.getLogger("vlmguard").info("route %s", "/x\n2026 ERROR forged \x1b[2J\u202e", extra={"model": "a\r\nb"})
    (line,) = stream.getvalue().splitlines()
    assert r"/x\n2026 ERROR forged \x1b[2J\u202e" in line
    assert r"model=a\r\nb" in line


def test_configuring_again_does_not_double_the_lines(stream: io.StringIO) -> None:
    logs.configure("info", json=True, stream=stream)
    logs.configure("warning", json=True, stream=stream)
    logging.getLogger("vlmguard").info("no")
    logging.getLogger("vlmguard").warning("yes")
    assert [line["message"] for line in lines(stream)] == ["yes"]
