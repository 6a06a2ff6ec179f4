"""Request bodies for hypothesis: every dialect's shapes, with unknown fields, spelled in every way that JSON allows."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

TINY = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"
"""A picture of one pixel."""
REMOTE = "https://pictures.example/a.png"


@dataclass(frozen=True)
class Number:
    """A number in its own spelling."""

    spelling: str


class Doubled(dict[str, Any]):
    """An object whose first key is written twice."""


def spell(value: Any, dice: random.Random) -> str:
    """``value`` as JSON with random spaces, escapes and order of keys."""
    gap = dice.choice(["", "", " ", "\n\t", "  "])
    match value:
        case Number(spelling):
            return spelling
        case str():
            return _spell_string(value, dice)
        case dict():
            pairs = list(value.items()) + (list(value.items())[:1] if isinstance(value, Doubled) else [])
            dice.shuffle(pairs)
            inner = f"{gap},{gap}".join(f"{_spell_string(k, dice)}{gap}:{gap}{spell(v, dice)}" for k, v in pairs)
            return f"{{{gap}{inner}{gap}}}"
        case list():
            return f"[{gap}{f'{gap},'.join(spell(item, dice) for item in value)}{gap}]"
        case _:
            return json.dumps(value)


def _spell_string(text: str, dice: random.Random) -> str:
    if dice.random() < 0.6:
        return json.dumps(text, ensure_ascii=dice.random() < 0.5)
    return '"' + "".join(_spell_letter(letter, dice) for letter in text) + '"'


def _spell_letter(letter: str, dice: random.Random) -> str:
    if letter == "/" and dice.random() < 0.5:
        return "\\/"
    if dice.random() < 0.2:
        units = letter.encode("utf-16-be")
        form = dice.choice(["\\u%04x", "\\u%04X"])
        return "".join(form % int.from_bytes(units[at : at + 2]) for at in range(0, len(units), 2))
    return json.dumps(letter, ensure_ascii=False)[1:-1]


numbers = st.sampled_from(["0", "-0", "1.50", "1e-07", "1E5", "123456789012345678901234567890", "0.1e1"]).map(Number)
texts = st.one_of(st.text(max_size=20), st.sampled_from(['say "hi" \\', "a/b~c", "日本語 😀", "\\ud800", "\x00\x1f"]))
unknown = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, texts),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=3)),
    max_leaves=5,
)
addresses = st.sampled_from([TINY, REMOTE, "data:image/png;base64,AAAA", "data:,x"])


def objects(required: dict[str, Any], **optional: Any) -> st.SearchStrategy[dict[str, Any]]:
    """Objects with those members, and perhaps one that nobody knows."""
    return st.fixed_dictionaries(required, optional={**optional, "x_unknown": unknown})


def _kind(name: str, /, **members: Any) -> st.SearchStrategy[dict[str, Any]]:
    return objects({"type": st.just(name), **members})


# OpenAI

_url = st.one_of(addresses, objects({"url": addresses}, detail=st.just("low")))
openai_parts = st.one_of(
    _kind("text", text=texts),
    _kind("input_text", text=texts),
    _kind("output_text", text=texts),
    _kind("refusal", refusal=texts),
    _kind("image_url", image_url=_url),
    _kind("input_image", image_url=addresses, detail=st.just("auto")),
    _kind("input_image", file_id=st.just("file-1"), image_url=st.none()),
    _kind("input_audio", input_audio=unknown),
    _kind("file", file=objects({"file_id": st.just("file-1")})),
    _kind("input_file", file_data=texts),
    _kind("novel", data=unknown),
)
openai_content = st.one_of(texts, st.lists(openai_parts, max_size=4))
_call = objects({"id": texts, "function": objects({"name": texts, "arguments": texts})})
chat_messages = st.one_of(
    objects(
        {
            "role": st.sampled_from(["system", "developer", "user", "tool", "function"]),
            "content": st.one_of(st.none(), openai_content),
        }
    ),
    objects({"role": st.just("user")}),
    objects(
        {"role": st.just("assistant")},
        content=st.one_of(st.none(), openai_content),
        refusal=st.one_of(st.none(), texts),
        tool_calls=st.lists(_call, max_size=2),
    ),
)
_envelope = {"model": texts, "stream": st.booleans(), "temperature": numbers, "tools": unknown}
openai_chat = objects({"messages": st.lists(chat_messages, min_size=1, max_size=4)}, **_envelope)

_items = st.one_of(
    objects(
        {"role": st.sampled_from(["user", "system", "developer", "assistant"]), "content": openai_content},
        type=st.just("message"),
    ),
    _kind("function_call", name=texts, arguments=texts),
    _kind("function_call_output", call_id=texts, output=openai_content),
    _kind("custom_tool_call_output", output=openai_content),
    _kind("computer_call_output", output=_kind("computer_screenshot", image_url=addresses)),
    _kind("shell_call_output", output=st.lists(objects({"stdout": texts, "stderr": texts}), max_size=2)),
    _kind("mcp_call", arguments=texts, output=st.one_of(st.none(), texts)),
    _kind("file_search_call", results=st.lists(objects({"text": texts}), max_size=2)),
    _kind("reasoning", summary=unknown, encrypted_content=texts),
    _kind("item_reference", id=texts),
    objects({"id": texts}),
    _kind("novel", content=unknown),
)
openai_responses = objects(
    {"input": st.one_of(texts, st.lists(_items, min_size=1, max_size=4))},
    instructions=st.one_of(st.none(), texts),
    previous_response_id=texts,
    prompt=objects(
        {"id": texts}, variables=st.dictionaries(st.sampled_from("abc"), st.one_of(texts, openai_parts), max_size=2)
    ),
    **_envelope,
)
_tokens = st.lists(st.integers(0, 200_000), min_size=1, max_size=4)
openai_completions = objects(
    {"prompt": st.one_of(texts, _tokens, st.lists(st.one_of(texts, _tokens), min_size=1, max_size=3))},
    suffix=st.one_of(st.none(), texts),
    **_envelope,
)

# Anthropic

_pixels = TINY.partition(",")[2]
_sources = st.one_of(
    _kind("base64", media_type=st.just("image/gif"), data=st.sampled_from([_pixels, "AAAA", "%"])),
    _kind("url", url=addresses),
    _kind("file", file_id=texts),
)
_plain_blocks = st.one_of(_kind("text", text=texts), _kind("image", source=_sources))
_documents = objects(
    {
        "type": st.just("document"),
        "source": st.one_of(
            _kind("text", media_type=st.just("text/plain"), data=texts),
            _kind("content", content=st.one_of(texts, st.lists(_plain_blocks, max_size=2))),
            _kind("base64", media_type=st.just("application/pdf"), data=texts),
            _kind("url", url=texts),
        ),
    },
    title=st.one_of(st.none(), texts),
    context=st.one_of(st.none(), texts),
)
_search_results = _kind(
    "search_result", source=texts, title=texts, content=st.lists(_kind("text", text=texts), max_size=2)
)
_inner_blocks = st.one_of(_plain_blocks, _documents, _search_results, _kind("novel", data=unknown))
_tool_results = objects(
    {"type": st.just("tool_result"), "tool_use_id": texts},
    content=st.one_of(texts, st.lists(_inner_blocks, max_size=3)),
    is_error=st.booleans(),
)
_assistant_blocks = st.one_of(
    _kind("text", text=texts),
    _kind("thinking", thinking=texts, signature=texts),
    _kind("tool_use", id=texts, name=texts, input=objects({})),
)
anthropic_messages = objects(
    {
        "messages": st.lists(
            st.one_of(
                objects(
                    {
                        "role": st.just("user"),
                        "content": st.one_of(texts, st.lists(st.one_of(_inner_blocks, _tool_results), max_size=4)),
                    }
                ),
                objects(
                    {
                        "role": st.just("assistant"),
                        "content": st.one_of(texts, st.lists(_assistant_blocks, max_size=3)),
                    }
                ),
            ),
            min_size=1,
            max_size=4,
        )
    },
    system=st.one_of(texts, st.lists(_kind("text", text=texts), max_size=2)),
    max_tokens=numbers,
    **_envelope,
)

VALUES: dict[str, st.SearchStrategy[dict[str, Any]]] = {
    "openai-chat": openai_chat,
    "openai-responses": openai_responses,
    "anthropic-messages": anthropic_messages,
    "openai-completions": openai_completions,
}
dice = st.randoms(use_true_random=False)


def bodies(dialect: str) -> st.SearchStrategy[bytes]:
    """Valid bodies of a dialect."""
    return st.builds(lambda value, chance: spell(value, chance).encode(), VALUES[dialect], dice)


# Shapes that are nearly right

_words = st.sampled_from(
    [
        *("role", "content", "type", "text", "source", "data", "url", "image_url", "title", "refusal", "file_id"),
        *("output", "input", "arguments", "tool_calls", "function", "result", "variables", "context", "media_type"),
    ]
)
_kinds = st.sampled_from(
    [
        *("text", "image", "image_url", "input_text", "input_image", "document", "search_result", "tool_result"),
        *("tool_use", "base64", "url", "content", "message", "function_call_output", "shell_call_output", "mcp_call"),
        *("image_generation_call", "item_reference", "reasoning", "computer_screenshot"),
    ]
)
_elements = st.recursive(
    st.one_of(_kinds, addresses, st.none(), st.integers(), st.just("data:;base64,é"), texts),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.fixed_dictionaries({"type": _kinds}, optional={"text": inner, "source": inner, "content": inner}),
        st.dictionaries(_words, inner, max_size=4),
    ),
    max_leaves=10,
)
_nearly_messages = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system", "tool"]), "content": st.lists(_elements, max_size=3)}
)
_several = st.one_of(st.lists(st.one_of(_nearly_messages, _elements), min_size=1, max_size=3), _elements)
nearly = st.fixed_dictionaries(
    {"messages": _several, "input": _several, "prompt": _several},
    optional={"system": _elements, "instructions": _elements, "stream": _elements, "suffix": _elements},
)
