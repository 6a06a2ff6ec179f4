"""Which members the objects of requests have, and what each is.

One table for each object of a dialect. What is read, what is refused for its odd spelling and what is passed over as a
setting all come from it, so that none of the three can forget a member that another knows. What is in no table passes when it
is a number, a switch or a short name; anything more is a row of the receipt, ``unjudged: opaque``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum

from vlmguard.errors import WireError
from vlmguard.types import Opaque, Part, Reason
from vlmguard.wire.json_text import escape

_LONGEST_KIND = 40
_NAME = re.compile(r"[A-Za-z0-9_.:/@+-]{0,64}\Z")
"""What may be said where a setting belongs: ``json_object``, ``openai/gpt-4o:free``, a time, an address."""
_ID = re.compile(r"[A-Za-z0-9_.:/@+=|~-]{0,128}\Z")
_PLAIN = (bool, int, float, type(None))


class Kind(Enum):
    """What a member is."""

    READ = "read by the code of its dialect"
    NAMES = "numbers, switches and names, in lists and objects too: more than that is content that nobody reads"
    SETTING = "words that no server writes into a prompt, such as where an answer stops"
    ID = "the name that a client or a server gave something"
    OPAQUE = "content that nobody here can read"
    PROMPT = "content that nobody here can read, and before which no safety prompt can be put"
    TEMPLATE = "options of a template: names, and nothing that takes the template's place"
    REMOTE = "what stands on a server and reaches the model from there"


class Members:
    """The members that an object may have."""

    __slots__ = ("_elsewhere", "_kinds", "_spelled")

    def __init__(self, kinds: Mapping[str, Kind]) -> None:
        self._kinds = dict(kinds)
        self._elsewhere = frozenset(key for key, kind in kinds.items() if kind in (Kind.READ, Kind.SETTING))
        self._spelled = frozenset(key for key, kind in kinds.items() if kind not in (Kind.NAMES, Kind.SETTING))

    def unread(self, holder: dict[str, object], path: str) -> Iterator[Part]:
        """A row for each member of ``holder``, the object at ``path``, that holds content and that no code here reads.

        Raises ``WireError`` for a key that is another spelling of a known one: some readers (Go's encoding/json among them)
        take ``Content`` for ``content``, and what we would pass over is then what the model reads.
        """
        odd = False
        for key, value in holder.items():
            if key in self._elsewhere:
                continue
            kind = self._kinds.get(key)
            if kind is None and key.casefold() in self._spelled:
                raise WireError(f"{path or 'the body'} has the key {key!r}: write {key.casefold()!r}")
            if type(value) in _PLAIN or _is_harmless(kind, value):
                continue
            if kind is None and not _NAME.match(key):
                odd = True  # the key may be words of the client's, and receipts hold none
                continue
            reason = Reason.REMOTE_STATE if kind is Kind.REMOTE else Reason.OPAQUE
            yield Opaque(_words(key), f"{path}/{escape(key)}", reason)
        if odd:
            yield Opaque("unknown member", path, Reason.OPAQUE)


def _is_harmless(kind: Kind | None, value: object) -> bool:
    if not value:
        return True
    match kind:
        case None:
            return isinstance(value, str) and _NAME.match(value) is not None
        case Kind.NAMES:
            return holds_only_names(value)
        case Kind.ID:
            return isinstance(value, str) and _ID.match(value) is not None
        case Kind.TEMPLATE:
            return isinstance(value, dict) and not value.keys() & BESIDE.keys() and holds_only_names(value)
        case _:
            return False


def holds_only_names(value: object) -> bool:
    """Whether ``value`` says nothing but names, numbers and switches, at any depth."""
    match value:
        case str():
            return _NAME.match(value) is not None
        case dict():
            return all(_NAME.match(key) and holds_only_names(child) for key, child in value.items())
        case list():
            return all(map(holds_only_names, value))
        case _:
            return True


def _words(key: str) -> str:
    return key[:_LONGEST_KIND].replace("_", " ") or "unknown member"


def each(kind: Kind, names: str) -> dict[str, Kind]:
    """The members ``names``, parted by spaces, all of one kind."""
    return dict.fromkeys(names.split(), kind)


# ---------------------------------------------------------------------------------------------------------------------
# What bodies of all dialects may hold. Servers that speak several dialects (vLLM, SGLang, llama.cpp, Ollama, LiteLLM) take the
# same members in all of them.

BESIDE = {
    **each(
        Kind.OPAQUE,
        "documents prediction kv_transfer_params images image_data video_data audio_data multi_modal_data multimodal_data"
        " input_extra input_prefix input_suffix previous_input_messages previous_response prompt_variables session_params"
        " system_prompt template context",
    ),
    **each(Kind.PROMPT, "chat_template prompt_embeds prompt_token_ids input_ids input_embeds"),
}
"""Ways to hand a model content beside its messages."""

REMOTE = each(
    Kind.REMOTE,
    "web_search_options search_parameters search_settings data_sources vector_store_ids plugins preset prompt_id",
)
"""What has a server fetch, search or look up something for the model."""

SHAPES = (
    *("response_format", "structured_outputs", "structural_tag", "json_schema", "grammar", "ebnf", "regex", "format"),
    *(
        "guided_json",
        "guided_choice",
        "guided_regex",
        "guided_grammar",
        "guided_whitespace_pattern",
        "grammar_triggers",
    ),
)
"""Members with which a client asks for an answer of a shape."""
DEFINITIONS = ("tools", "functions", *SHAPES)
"""What defines something for the model: read for orders, in every dialect."""
CHOICES = ("tool_choice", "function_call")
"""Where the name of a tool belongs: read for orders when it says more."""

SETTINGS = {
    # where an answer ends, which tokens it may hold
    **each(Kind.SETTING, "stop stop_sequences stop_token_ids logit_bias bad_words allowed_token_ids logits_processors"),
    **each(Kind.SETTING, "dry_sequence_breakers preserved_tokens samplers"),
    # whose request it is, how it is stored and found again
    **each(
        Kind.SETTING, "metadata user safety_identifier prompt_cache_key cache_salt extra_key session_id request_id rid"
    ),
    **each(Kind.SETTING, "litellm_metadata tags user_security_context trace guardrails"),
    # where it is sent
    **each(Kind.SETTING, "provider api_base base_url api_key api_version organization mock_response lora_path"),
    **each(Kind.SETTING, "bootstrap_host bootstrap_port bootstrap_room"),
    # the vendors' own
    **each(Kind.NAMES, "temperature top_p top_k top_a min_p typical_p n best_of seed max_tokens max_completion_tokens"),
    **each(
        Kind.NAMES, "frequency_penalty presence_penalty repetition_penalty length_penalty logprobs top_logprobs echo"
    ),
    **each(
        Kind.NAMES, "service_tier store parallel_tool_calls stream_options modalities audio reasoning reasoning_effort"
    ),
    **each(
        Kind.NAMES, "verbosity prompt_cache_retention include_reasoning reasoning_format usage image_config moderation"
    ),
    **each(
        Kind.NAMES, "thinking enable_thinking thinking_budget cache_control context_management betas anthropic_beta"
    ),
    **each(Kind.NAMES, "anthropic_version inference_geo speed safety_settings safe_prompt prompt_mode random_seed"),
    # the routers'
    **each(Kind.NAMES, "models route transforms debug cache caching ttl timeout num_retries drop_params"),
    **each(Kind.NAMES, "allowed_openai_params additional_drop_params extra_headers"),
    # the servers'
    **each(
        Kind.NAMES, "mm_processor_kwargs vllm_xargs custom_params repetition_detection response_fields lora options"
    ),
    **each(Kind.NAMES, "keep_alive think guided_decoding_backend separate_reasoning priority chat_format"),
    "chat_template_kwargs": Kind.TEMPLATE,
    "fallbacks": Kind.NAMES,
}
"""What changes how a model answers, and puts no words before it."""

_ENVELOPE = dict.fromkeys(("model", "stream", *DEFINITIONS, *CHOICES), Kind.READ)


def body(members: Mapping[str, Kind]) -> Members:
    """The members of a dialect's body: its own, and those that all have."""
    return Members({**SETTINGS, **REMOTE, **BESIDE, **_ENVELOPE, **members})


def has_own_prompt(rows: Iterable[Part], value: Mapping[str, object]) -> bool:
    """Whether a body brings a prompt of its own beside what is read, so that no safety prompt stands before all of it.

    Args:
        rows: what of the body nobody reads.
        value: the body.
    """
    for row in rows:
        key = row.path[1:]
        inner = value.get(key)
        if BESIDE.get(key) is Kind.PROMPT or key == "fallbacks":
            return True
        if key == "chat_template_kwargs" and isinstance(inner, dict) and any(inner.get(name) for name in _PROMPTS):
            return True
    return False


_PROMPTS = tuple(key for key, kind in BESIDE.items() if kind is Kind.PROMPT)
