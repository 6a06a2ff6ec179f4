"""The gateway's own description of itself (OpenAPI 3.1), published at /openapi.json.

It says what the gateway asks of a request and adds to an answer. What else a request may hold, and what a model's answer looks
like, is the upstream's to say: both pass untouched.
"""

from __future__ import annotations

from typing import Any

from vlmguard import __version__
from vlmguard.types import Outcome

_OUTCOMES = [outcome.value for outcome in Outcome]
_ID = {"type": "string", "pattern": "^[0-9a-f]{32}$"}
_KEYS: list[dict[str, list[str]]] = [{"bearer": []}, {"vlmguardKey": []}, {"apiKey": []}, {}]


def document() -> dict[str, Any]:
    """The document."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "vlmguard gateway",
            "version": __version__,
            "description": "Judges every request to a model's server, text and pictures together, and rewrites it where needed.",
        },
        "paths": {
            "/v1/chat/completions": _guarded("OpenAI chat completions", "ChatCompletion", "OpenAIError"),
            "/v1/responses": _guarded("OpenAI responses", "Response", "OpenAIError"),
            "/v1/messages": _guarded("Anthropic messages", "Messages", "AnthropicError"),
            "/v1/completions": _guarded("OpenAI completions", "Completion", "OpenAIError"),
            "/v1/models": {
                "get": _operation("The upstream's models", _json("What the upstream says", {}), closed=True)
            },
            "/beta/litellm_basic_guardrail_api": {"post": _litellm()},
            "/receipts/{id}": {"get": _receipt()},
            "/healthz": {"get": _operation("Whether the process lives", _json("It does", _fields(alive="boolean")))},
            "/readyz": {"get": _ready()},
            "/metrics": {
                "get": _operation(
                    "Prometheus's text format", {"description": "Samples", "content": {"text/plain": {}}}, closed=True
                )
            },
            "/openapi.json": {"get": _operation("This document", _json("It", {"type": "object"}))},
        },
        "components": {
            "schemas": _schemas(),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "vlmguardKey": {"type": "apiKey", "in": "header", "name": "x-vlmguard-key"},
                "apiKey": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
    }


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _json(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _fields(**kinds: str) -> dict[str, Any]:
    return {
        "type": "object",
        "required": list(kinds),
        "properties": {key: {"type": kind} for key, kind in kinds.items()},
    }


def _operation(
    summary: str, found: dict[str, Any], *, closed: bool = False, error: str = "OpenAIError", **more: Any
) -> dict[str, Any]:
    responses = {"200": _marked(found)}
    if closed:
        responses |= {
            "400": _json("A header stands twice", _ref(error)),
            "401": _json("The key is missing or unknown", _ref(error)),
            "421": _json("Called by a name that is not allowed", _ref(error)),
            "429": _json("The key has used up its requests", _ref(error)),
            "502": _json("The upstream cannot be reached", _ref(error)),
            "504": _json("The upstream did not answer in time", _ref(error)),
        }
    responses["503"] = _json("Too many requests are under way", _ref(error))
    operation = {"summary": summary, "responses": responses, **more}
    return {**operation, "security": _KEYS} if closed else operation


def _marked(response: dict[str, Any]) -> dict[str, Any]:
    return {
        **response,
        "headers": {
            "x-vlmguard-id": {"schema": _ID, "description": "Of the receipt, and of the log's lines"},
            "x-vlmguard-outcome": {
                "required": True,
                "schema": {"enum": [*_OUTCOMES, "refused", "none"]},
                "description": "What became of the request",
            },
        },
    }


def _guarded(summary: str, body: str, error: str) -> dict[str, Any]:
    found = {
        "description": "The model's answer, or one in its shape that says why there is none",
        "content": {"application/json": {}, "text/event-stream": {}},
    }
    operation = _operation(
        summary,
        found,
        closed=True,
        error=error,
        requestBody={"required": True, "content": {"application/json": {"schema": _ref(body)}}},
    )
    marks = {
        "x-vlmguard-intended-outcome": {
            "schema": {"enum": _OUTCOMES},
            "description": "What would have, where it differs",
        },
    }
    responses = operation["responses"]
    responses["200"]["headers"] |= marks
    responses |= {
        "400": _json("The body cannot be judged: the message says where and why", _ref(error)),
        "403": _json("Blocked, where the configuration answers with errors", _ref(error)),
        "408": _json("The body did not arrive in time", _ref(error)),
        "413": _json("The body is too large", _ref(error)),
        "415": _json("The body is not application/json", _ref(error)),
        "503": _json("The guard failed, or the decision could not be kept: nothing was sent on", _ref(error)),
        "default": {"description": "What the upstream answers"},
    }
    return {"post": operation}


def _litellm() -> dict[str, Any]:
    answer = {
        "type": "object",
        "required": ["action"],
        "properties": {
            "action": {"enum": ["BLOCKED", "NONE", "GUARDRAIL_INTERVENED"]},
            "blocked_reason": {"type": ["string", "null"]},
            "texts": {"type": "array", "items": {"type": "string"}},
            "images": {"type": "array", "items": {"type": "string"}},
            "structured_messages": {"type": "array", "items": {"type": "object"}},
        },
    }
    operation = _operation(
        "LiteLLM's generic guardrail",
        _json("What LiteLLM is to do", answer),
        closed=True,
        requestBody={"required": True, "content": {"application/json": {"schema": _ref("LiteLLM")}}},
    )
    for status in ("400", "408", "413", "415"):
        operation["responses"][status] = _json("The body cannot be judged", _ref("OpenAIError"))
    return operation


def _receipt() -> dict[str, Any]:
    operation = _operation(
        "What was decided about a request, and who judged which part of it",
        _json("The receipt, signed where a key is set", _ref("Receipt")),
        closed=True,
        parameters=[{"name": "id", "in": "path", "required": True, "schema": _ID}],
    )
    operation["responses"]["404"] = _json("There is none of yours with this id", _ref("OpenAIError"))
    return operation


def _ready() -> dict[str, Any]:
    schema = {
        "type": "object",
        "required": ["ready", "failed"],
        "properties": {
            "ready": {"type": "boolean"},
            "failed": {"type": "object", "additionalProperties": {"type": "string"}},
        },
    }
    operation = _operation(
        "Whether the rewriter judges and the upstream answers: both are tried", _json("They do", schema)
    )
    operation["responses"]["503"] = _json("One of them does not", {"anyOf": [schema, _ref("OpenAIError")]})
    return operation


_TEXT: dict[str, Any] = {"type": "string"}
_PICTURE_ADDRESS: dict[str, Any] = {"type": "string", "pattern": "^(https?://|data:)"}
_MAYBE_TEXT: dict[str, Any] = {"type": ["string", "null"]}
_LIST_OF_OBJECTS: dict[str, Any] = {"type": ["array", "null"], "items": {"type": "object"}}


def _kind(name: str, **needed: Any) -> dict[str, Any]:
    """A part of a known type: what must stand in it."""
    return {"type": "object", "required": ["type", *needed], "properties": {"type": {"const": name}, **needed}}


def _other(*known: str) -> dict[str, Any]:
    """A part of a type that is not read, or of none: it passes, and is unjudged."""
    return {"type": "object", "properties": {"type": {"not": {"enum": [*known]}}}}


def _content(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [_TEXT, {"type": "null"}, {"type": "array", "items": {"anyOf": [*parts]}}]}


def _messages(roles: list[str], content: dict[str, Any], **more: Any) -> dict[str, Any]:
    properties = {"role": {"enum": roles}, "content": content, **more}
    return {
        "type": "array",
        "minItems": 1,
        "items": {"type": "object", "required": ["role"], "properties": properties},
    }


def _openai_content() -> dict[str, Any]:
    url = {
        "anyOf": [_PICTURE_ADDRESS, {"type": "object", "required": ["url"], "properties": {"url": _PICTURE_ADDRESS}}]
    }
    texts = [_kind(name, text=_TEXT) for name in ("text", "input_text", "output_text")]
    pictures = [_kind(name, image_url=url) for name in ("image_url", "input_image")]
    names = ("text", "input_text", "output_text", "refusal", "image_url", "input_image", "computer_screenshot")
    return _content(_TEXT, *texts, _kind("refusal", refusal=_TEXT), *pictures, _other(*names))


def _anthropic_content() -> dict[str, Any]:
    picture = {"anyOf": [_kind("base64", data=_TEXT), _kind("url", url=_PICTURE_ADDRESS), _other("base64", "url")]}
    names = ("text", "image", "document", "tool_result")
    said = _content(_kind("text", text=_TEXT), _other("text", "image", "document"))
    result = {
        "type": "object",
        "required": ["type"],
        "properties": {"type": {"const": "tool_result"}, "content": said},
    }
    return _content(_kind("text", text=_TEXT), _kind("image", source=picture), result, _other(*names))


def _schemas() -> dict[str, Any]:
    text = _TEXT
    envelope = {"model": _MAYBE_TEXT, "stream": {"type": ["boolean", "null"]}}

    def body(required: list[str], properties: dict[str, Any], **more: Any) -> dict[str, Any]:
        return {"type": "object", "required": required, "properties": {**envelope, **properties}, **more}

    roles = ["system", "developer", "user", "assistant", "tool"]
    content = _openai_content()
    said = _messages([*roles, "function"], content, refusal=_MAYBE_TEXT, tool_calls=_LIST_OF_OBJECTS)
    item = {
        "anyOf": [
            {
                "type": "object",
                "required": ["role"],
                "properties": {"type": {"const": "message"}, "role": {"enum": roles}, "content": content},
            },
            _kind("item_reference", id=text),
            _kind("function_call", arguments=text),
            _kind("function_call_output", output=text),
            {
                "type": "object",
                "required": ["type"],
                "properties": {"type": {"type": "string", "not": {"enum": ["message", "function_call_output"]}}},
            },
            {"type": "object", "required": ["id"], "properties": {"type": {"type": "null"}, "role": False}},
        ]
    }
    tokens = {"type": "array", "minItems": 1, "items": {"type": "integer"}}
    prompts = {"type": "array", "minItems": 1, "items": {"anyOf": [text, tokens]}}
    detail = {"message": text, "type": text, "code": {"type": ["string", "null"]}}
    error = {"type": "object", "required": ["message", "type"], "properties": detail}
    return {
        "ChatCompletion": body(["messages"], {"messages": said}),
        "Response": body(["input"], {"input": {"anyOf": [text, {"type": "array", "minItems": 1, "items": item}]}}),
        "Messages": body(
            ["messages"],
            {
                "messages": _messages(["user", "assistant", "system"], _anthropic_content()),
                "system": _anthropic_content(),
            },
        ),
        "Completion": body(["prompt"], {"prompt": {"anyOf": [text, tokens, prompts]}, "suffix": _MAYBE_TEXT}),
        "LiteLLM": {
            "type": "object",
            "required": ["input_type"],
            "properties": {
                "input_type": {"enum": ["request", "response"]},
                "texts": {"type": ["array", "null"], "items": text},
                "images": {"type": ["array", "null"], "items": text},
                "structured_messages": {"type": ["array", "null"]},
                "tools": {"description": "Definitions, read for orders"},
                "model": {"type": ["string", "null"]},
            },
        },
        "Receipt": {
            "type": "object",
            "required": ["version", "id", "time", "mode", "outcome", "intended_outcome", "judgements", "sent"],
            "properties": {
                "version": {"type": "integer"},
                "id": _ID,
                "time": {"type": "string", "format": "date-time"},
                "mode": {"enum": ["enforce", "monitor"]},
                "outcome": {"enum": _OUTCOMES},
                "intended_outcome": {"enum": _OUTCOMES},
                "failure": {"type": ["string", "null"]},
                "judgements": {"type": "array", "items": {"type": "object"}},
                "sent": {"type": ["string", "null"]},
                "signature": {"type": "object"},
            },
        },
        "OpenAIError": {"type": "object", "required": ["error"], "properties": {"error": error}},
        "AnthropicError": {
            "type": "object",
            "required": ["type", "error"],
            "properties": {"type": {"const": "error"}, "error": error},
        },
    }
