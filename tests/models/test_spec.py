from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.models.upstream import Upstream, said
from vlmguard import chat, load_policy
from vlmguard.errors import InputError
from vlmguard.models.spec import ModelSettings, ModelSpec, make_model, parse_spec, wrap
from vlmguard.models.wrapper import close
from vlmguard.rewriters.embedded import EmbeddedRewriter
from vlmguard.rewriters.model import ModelRewriter
from vlmguard.rewriters.select import make_rewriter
from vlmguard.rewriters.tiered import TieredRewriter
from vlmguard.types import Sampling


@pytest.mark.parametrize(
    ("spec", "read", "name"),
    [
        ("endpoint:http://127.0.0.1:8000/v1#Qwen/Qwen2.5-VL-7B", ("endpoint", "http://127.0.0.1:8000/v1", "Qwen/Qwen2.5-VL-7B"), "Qwen/Qwen2.5-VL-7B"),
        ("endpoint:http://localhost:11434/v1#qwen2.5vl:7b", ("endpoint", "http://localhost:11434/v1", "qwen2.5vl:7b"), "qwen2.5vl:7b"),
        ("endpoint:https://[::1]:8/v1?x=1#/a/path#b", ("endpoint", "https://[::1]:8/v1?x=1", "/a/path#b"), "/a/path#b"),
        ("local:models/tiny", ("local", "models/tiny", ""), "tiny"),
        ("local:models/tiny#out/adapter", ("local", "models/tiny", "out/adapter"), "tiny+adapter"),
        ("scripted:answers.jsonl", ("scripted", "answers.jsonl", ""), "answers.jsonl"),
    ],
)  # fmt: skip
def test_a_spec_names_a_model(spec: str, read: tuple[str, str, str], name: str) -> None:
    assert parse_spec(spec) == ModelSpec(*read)
    assert parse_spec(spec).name == name


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("", "names no model: write endpoint:"),
        ("gpt-5", "names no model"),
        ("local:", "names no model"),
        ("Endpoint:http://x/v1#m", "names no model"),
        ("endpoint:http://x/v1", "write #MODEL"),
        ("endpoint:http://x/v1#", "write #MODEL"),
        ("endpoint:x/v1#m", "is http://HOST:PORT/v1"),
        ("endpoint:ftp://x/v1#m", "is http://HOST:PORT/v1"),
        ("endpoint:http://x:port/v1#m", "is http://HOST:PORT/v1"),
        ("endpoint:http://me:secret@x/v1#m", "no user and password"),
        ("scripted:a#b", "has no #PART"),
    ],
)
def test_what_is_no_spec_gets_an_error_that_shows_one(spec: str, says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        parse_spec(spec)
    assert "secret" not in str(caught.value)


@given(st.text(max_size=60))
def test_any_text_is_a_spec_or_an_input_error(text: str) -> None:
    for spec in (text, f"endpoint:{text}", f"endpoint:http://{text}", f"local:{text}"):
        try:
            parse_spec(spec)
        except InputError:
            continue


async def test_the_key_comes_from_the_environment_and_shows_nowhere() -> None:
    async with Upstream(said("fine")) as upstream:
        spec = f"endpoint:{upstream.url}?code=also-secret#m"
        named = make_model(
            spec, ModelSettings(key_env="MY_KEY"), {"MY_KEY": " sk-secret\n", "VLMGUARD_API_KEY": "other"}
        )
        await wrap(named).generate(chat("hello"), Sampling())
        await close(named.model)
    assert "Authorization: Bearer sk-secret\r\n" in upstream.heads[0]
    assert "secret" not in f"{named}{named.name}{named.identity}{named.weights}"


async def test_settings_reach_the_model(tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    file.write_text('{"answer": "fine"}\n')
    settings = ModelSettings(cache=tmp_path / "kept", record=tmp_path / "rows.jsonl", tenant="t")
    model = wrap(make_model(f"scripted:{file}", settings), settings)
    for _ in range(2):
        assert (await model.generate(chat("hello"), Sampling())).text == "fine"
    await close(model)
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 1
    assert len(list((tmp_path / "kept").glob("*/*.json"))) == 1


def test_a_rewriter_is_chosen_by_its_spec(tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    file.write_text('{"answer": "fine"}\n')
    policy = load_policy()
    assert isinstance(make_rewriter("embedded", policy, threads=1), EmbeddedRewriter)
    assert isinstance(make_rewriter(f"scripted:{file}", policy), ModelRewriter)
    assert isinstance(make_rewriter("endpoint:http://127.0.0.1:1/v1#m", policy), ModelRewriter)
    assert isinstance(make_rewriter(f"tiered:scripted:{file}", policy, threads=1), TieredRewriter)


@pytest.mark.parametrize(
    "spec", ["", "embedde", "tiered", "tiered:", "tiered:embedded", "tiered:tiered:local:x", "gpt"]
)
def test_what_names_no_rewriter_gets_an_error_that_shows_one(spec: str) -> None:
    with pytest.raises(InputError, match="names no rewriter: write embedded"):
        make_rewriter(spec, load_policy())
