"""What happens when the guard fails, in monitor mode, and under policies per route and key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.gateway.kit import (
    FORBIDDEN,
    HARMFUL,
    HARMLESS,
    ODD,
    SAID,
    Received,
    Running,
    Upstream,
    gateway,
)
from vlmguard.policy import load_policy


@pytest.mark.parametrize(
    ("on_failure", "outcome", "status"),
    [("closed", "block", 503), ("degraded", "degraded", 200), ("open", "unguarded", 200)],
)
@pytest.mark.parametrize("fault", ["error", "deadline"])
def test_a_guard_that_fails_is_never_silent(
    tmp_path: Path, upstream: Upstream, fault: str, on_failure: str, outcome: str, status: int
) -> None:
    with gateway(tmp_path, upstream.url, on_failure=on_failure, deadline="0.5") as running:
        if fault == "error":
            running.scripted.error = RuntimeError("the weights are gone")
        else:
            running.scripted.seconds = 5
        answer = running.chat(HARMLESS)
        assert (answer.status_code, answer.headers["x-vlmguard-outcome"]) == (status, outcome)
        receipt = running.receipt(answer)
    assert receipt["outcome"] == receipt["intended_outcome"] == outcome
    assert receipt["failure"].startswith("guard: RuntimeError" if fault == "error" else "deadline")
    assert [row["unjudged"] for row in receipt["judgements"]] == ["failure"]
    assert len(upstream.received) == (on_failure != "closed")
    if on_failure == "closed":
        assert answer.headers["x-should-retry"] == "false"
        assert answer.json()["error"]["code"] == ("guard_failed" if fault == "error" else "guard_deadline")
    if on_failure == "degraded":
        system, user = upstream.last.json["messages"]
        assert (system["role"], system["content"]) == ("system", load_policy().safety_prompt["en"])
        assert user["content"] == HARMLESS


def test_monitor_mode_judges_and_changes_nothing(tmp_path: Path, upstream: Upstream) -> None:
    with gateway(tmp_path, upstream.url, mode="monitor") as running:
        for prompt, intended in ((HARMFUL, "rewrite"), (FORBIDDEN, "block")):
            body = ODD % prompt.encode()
            answer = running.post("/v1/chat/completions", body)
            assert (answer.status_code, answer.headers["x-vlmguard-outcome"]) == (200, "forward")
            assert answer.headers["x-vlmguard-intended-outcome"] == intended
            assert upstream.last.body == body
            assert running.receipt(answer)["intended_outcome"] == intended
        running.scripted.error = RuntimeError("broken")
        answer = running.chat("Something new.")
        assert (answer.status_code, answer.headers["x-vlmguard-outcome"]) == (200, "unguarded")
        assert answer.headers["x-vlmguard-intended-outcome"] == "block"


def test_monitor_mode_passes_even_what_would_be_refused(tmp_path: Path, upstream: Upstream) -> None:
    async def accept(request: web.Request, received: Received) -> web.StreamResponse:
        return web.json_response({})

    upstream.handler = accept
    with gateway(tmp_path, upstream.url, mode="monitor") as running:
        body = b'{"messages":[{"role":"user","content":"a","content":"b"}]}'
        answer = running.post("/v1/chat/completions", body)
        assert (answer.status_code, answer.headers["x-vlmguard-outcome"]) == (200, "unguarded")
        assert upstream.last.body == body
        assert running.receipt(answer)["failure"] == "refused: WireError"


def test_policies_per_route_and_per_key(tmp_path: Path, upstream: Upstream) -> None:
    from vlmguard.gateway.keys import hash_key

    strict = tmp_path / "strict.toml"
    strict.write_text('[categories.indiscriminate_weapons]\naction = "block"\n')
    toml = f"""
        [keys.lenient]
        hash = "{hash_key("one")}"
        mode = "monitor"
        [keys.plain]
        hash = "{hash_key("two")}"
        [routes."/v1/completions"]
        policy = "{strict}"
    """
    with gateway(tmp_path, upstream.url, toml=toml) as running:
        ask = {"model": "tiny", "prompt": HARMFUL}
        assert running.chat(HARMFUL, authorization="Bearer two").headers["x-vlmguard-outcome"] == "rewrite"
        assert running.post("/v1/completions", ask, authorization="Bearer two").headers["x-vlmguard-outcome"] == "block"
        answer = running.post("/v1/completions", ask, authorization="Bearer one")
        assert answer.headers["x-vlmguard-outcome"] == "forward"
        assert answer.headers["x-vlmguard-intended-outcome"] == "block"


def test_a_turn_that_was_rewritten_is_rewritten_again_when_the_client_sends_it_again(
    guarded: Running, upstream: Upstream
) -> None:
    first: list[Any] = [{"role": "user", "content": HARMFUL}]
    guarded.post("/v1/chat/completions", {"messages": first})
    rewritten = upstream.last.json["messages"][0]["content"]
    more = [*first, {"role": "assistant", "content": SAID}, {"role": "user", "content": HARMLESS}]
    answer = guarded.post("/v1/chat/completions", {"messages": more})
    assert answer.headers["x-vlmguard-outcome"] == "rewrite"
    assert [message["content"] for message in upstream.last.json["messages"]] == [rewritten, SAID, HARMLESS]
    assert len(guarded.scripted.judged) == 2  # each turn once
