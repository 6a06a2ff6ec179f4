"""Against the published description (schemathesis), and against whatever bytes come (hypothesis): never a 500 of our own."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from typing import Any

import httpx2 as httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.specs.openapi.checks import positive_data_acceptance

from tests.gateway.kit import Running, Upstream, gateway
from tests.wire.bodies import bodies, dice, nearly, spell
from vlmguard.gateway import litellm
from vlmguard.gateway.app import DIALECT_OF
from vlmguard.gateway.openapi import document

PATHS = {name: path for path, name in DIALECT_OF.items()}
NO_PLACE = re.compile(
    "no place for a safety prompt|cannot be given|no turn of the user|address of a picture where none is read"
)
schema = schemathesis.openapi.from_dict(document())


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, Upstream]]:
    with (
        Upstream().running() as upstream,
        gateway(tmp_path_factory.mktemp("served"), upstream.url, fetch__enabled="false") as running,
    ):
        yield running, upstream


def test_the_description_is_published(served: tuple[Running, Upstream]) -> None:
    published = served[0].get("/openapi.json")
    assert published.json() == json.loads(json.dumps(document()))
    assert set(PATHS.values()) < set(published.json()["paths"])


@schema.parametrize()
@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_what_is_answered_is_what_is_described(case: Any, served: tuple[Running, Upstream]) -> None:
    answer = case.call(base_url=served[0].url)
    excluded = []
    # No schema says that the user's last turn holds something, that a picture alone has no place for a safety prompt, nor that
    # a part of an unknown kind names no picture.
    if answer.status_code == 400 and case.path in {*PATHS.values(), litellm.PATH}:
        told = answer.json()["error"]
        if told["code"] == "nothing_to_judge" or NO_PLACE.search(told["message"]):
            excluded = [positive_data_acceptance]
    case.validate_response(answer, excluded_checks=excluded)


def send(running: Running, path: str, body: bytes) -> httpx.Response:
    answer = running.post(path, body)
    assert answer.status_code < 500, (answer.status_code, answer.text, body)
    assert answer.headers["x-vlmguard-id"]
    return answer


@pytest.mark.parametrize("name", PATHS)
@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_a_valid_body_arrives_as_it_was_or_spliced(
    name: str, served: tuple[Running, Upstream], data: st.DataObject
) -> None:
    running, upstream = served
    upstream.received.clear()
    body = data.draw(bodies(name))
    answer = send(running, PATHS[name], body)
    if answer.headers.get("x-vlmguard-outcome") == "forward":
        assert upstream.last.body == body
    elif answer.status_code == 200 and answer.headers["x-vlmguard-outcome"] != "block":
        sent = upstream.last.json
        assert {key: value for key, value in json.loads(body).items() if key == "x_unknown"} == {
            key: value for key, value in sent.items() if key == "x_unknown"
        }
    else:
        assert not upstream.received


@pytest.mark.parametrize("name", PATHS)
@settings(deadline=None, max_examples=40)
@given(
    body=st.one_of(
        st.binary(max_size=200), st.builds(lambda value, chance: spell(value, chance).encode(), nearly, dice)
    )
)
def test_no_body_breaks_the_gateway(name: str, served: tuple[Running, Upstream], body: bytes) -> None:
    send(served[0], PATHS[name], body)


@settings(deadline=None, max_examples=60)
@given(
    value=st.fixed_dictionaries(
        {"input_type": st.sampled_from(["request", "response", "x"])},
        optional={
            "texts": st.lists(st.text(max_size=20), max_size=3),
            "images": st.lists(st.text(max_size=20), max_size=2),
            "structured_messages": st.lists(
                st.dictionaries(
                    st.sampled_from(["role", "content"]),
                    st.one_of(st.sampled_from(["user", "tool"]), st.text(max_size=9)),
                    max_size=2,
                ),
                max_size=3,
            ),
        },
    )
)
def test_no_question_of_litellms_breaks_the_gateway(served: tuple[Running, Upstream], value: Any) -> None:
    answer = send(served[0], "/beta/litellm_basic_guardrail_api", json.dumps(value).encode())
    if answer.status_code == 200 and answer.json().get("texts"):
        assert len(answer.json()["texts"]) == len(value["texts"])


SOAK = int(os.environ.get("SOAK_BODIES", "100000"))
"""Bodies over all dialects."""


@pytest.mark.soak
@pytest.mark.parametrize("name", PATHS)
def test_soak_bodies(name: str, served: tuple[Running, Upstream]) -> None:
    """A quarter of the bodies for each of the four dialects: no 500 of our own."""
    running, upstream = served
    with httpx.Client(base_url=running.url, headers={"content-type": "application/json"}, timeout=60) as client:

        @settings(
            deadline=None, max_examples=SOAK // len(PATHS), database=None, suppress_health_check=list(HealthCheck)
        )
        @given(
            body=st.one_of(bodies(name), st.builds(lambda value, chance: spell(value, chance).encode(), nearly, dice))
        )
        def soak(body: bytes) -> None:
            upstream.received.clear()
            assert client.post(PATHS[name], content=body).status_code < 500

        soak()
