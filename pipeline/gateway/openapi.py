"""The gateway's OpenAPI 3.1 document. Written, not derived: its routes hand bytes to bridges, and have no models of
their own. tests/gateway holds it against the running routes.
"""

from __future__ import annotations

from typing import Any

from pipeline.gateway.uploads import Head, Part
from pipeline.models.raw import MAX_ID, RawEvent
from pipeline.models.upload import Upload

__all__ = ["document"]

_DESCRIPTION = """
Where events come in over HTTP: Segment's tracking API, webhooks of providers, tracked links, health.

* The key is `<partner-id>.<source code>`, or `<partner-id>.<source code>.<secret>` for a source that wants a secret
  key: as the Basic user name, in `X-Write-Key`, in `?writeKey=` or as `writeKey` in the body.
* The body is JSON whatever its content type says, gzip or not; 32 KB an event, 500 KB and 2,500 events a batch.
* 200 means that Kafka has acknowledged every good event. Of a batch, the good events go in and the bad ones are named.
* Short forms of the browser library: `/v1/t`, `p`, `s`, `i`, `g`, `a`, `b`. Jitsu's `/api/s/<call>` and
  `/api/s/s2s/<call>`, and RudderStack's `/beacon/v1/batch`, take the same.
"""

#: Status -> what it means. Codes are for programs and stay.
_REFUSALS = {
    400: "The event breaks its contract; a repeat does not help.",
    401: "No key, or one that names no source, an old code, or a wrong secret or signature.",
    403: "The source does not take this: switched off, another domain, another bridge.",
    404: "No such address.",
    408: "The body took too long.",
    413: "Larger than the limits; send less at a time.",
    429: "The source's rate or daily quota is used up; come again after `Retry-After` seconds.",
    503: "Kafka does not take it now; send it again, with the same `messageId`, after `Retry-After` seconds.",
}
_CALLS = {
    "track": "What a customer did.",
    "page": "A page that was viewed.",
    "screen": "A screen that was viewed.",
    "identify": "Who the customer is: user id and traits.",
    "group": "The group, such as a company, that the customer belongs to.",
    "alias": "Another id of the customer.",
}
_SOURCE = [
    {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}, "description": what}
    for name, what in (("partner", "id of the partner"), ("code", "code of the source"))
]
_KEYS: list[dict[str, list[str]]] = [{"basic": []}, {"header": []}, {"query": []}, {}]
_SERVER_KEYS: list[dict[str, list[str]]] = [{"bearer": []}, {"basic": []}, {"header": []}]


def document() -> dict[str, Any]:
    """The document as JSON; the same for the same code."""
    paths: dict[str, Any] = {f"/v1/{call}": {"post": _call(call, text)} for call, text in _CALLS.items()}
    for name in ("batch", "import"):
        paths[f"/v1/{name}"] = {"post": _batch(name)}
    key = {"name": "key", "in": "path", "required": True, "description": "the key", "schema": {"type": "string"}}
    told = "What Segment's browser library asks before it sends: events come here, and go nowhere else."
    paths["/v1/projects/{key}/settings"] = {"get": _loader("settings", told, [key])}
    told = "What RudderStack's browser library asks before it sends; the key as `writeKey` or as the Basic user name."
    paths["/sourceConfig"] = {"get": _loader("sourceConfig", told, []) | {"security": _KEYS}}
    paths["/v1/webhooks/{partner}/{code}"] = {"post": _webhook()}
    paths["/v1/crm/{partner}/{code}/customers"] = {
        "post": _server("customers", "Customers of a CRM: one, or an array; a repeat is harmless.", "customer")
    }
    paths["/v1/calls/{partner}/{code}"] = {
        "post": _server("calls", "Moments of calls: one, or an array; each status of a call counts once.", "call")
    }
    paths |= _uploads()
    paths["/v1/calls/{partner}/{code}/twilio"] = {"post": _twilio()}
    paths |= _links()
    paths["/healthz"] = {"get": _health("healthz", "The process runs.", {200: "It does."})}
    paths["/readyz"] = {
        "get": _health("readyz", "Whether Kafka answers.", {200: "It does.", 503: "It does not; events are refused."})
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Headrace gateway",
            "version": "1",
            "description": _DESCRIPTION.strip(),
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "tags": [{"name": name} for name in ("tracking", "webhooks", "links", "servers", "health")],
        "paths": paths,
        "components": {"schemas": _schemas(), "securitySchemes": _security()},
    }


def _call(call: str, text: str) -> dict[str, Any]:
    body = {"$ref": "#/components/schemas/RawEvent"}
    return _operation("tracking", call, text, body, {"$ref": "#/components/schemas/Taken"}) | {"security": _KEYS}


def _batch(name: str) -> dict[str, Any]:
    text = "Several events at once; good ones are taken though others are bad."
    body = {"$ref": "#/components/schemas/Batch"}
    return _operation("tracking", name, text, body, {"$ref": "#/components/schemas/BatchTaken"}) | {"security": _KEYS}


def _loader(name: str, text: str, parameters: list[dict[str, Any]]) -> dict[str, Any]:
    operation = _operation("tracking", name, text, {}, {"type": "object"})
    del operation["requestBody"]
    return operation | ({"parameters": parameters} if parameters else {})


def _server(name: str, text: str, noun: str) -> dict[str, Any]:
    """A door that wants a secret key, as a bearer token."""
    one = {"type": "object", "description": f"a {noun}; docs/bridges"}
    body = {"oneOf": [one, {"type": "array", "items": one}]}
    operation = _operation("servers", name, text, body, {"$ref": "#/components/schemas/BatchTaken"})
    return operation | {"parameters": _SOURCE, "security": _SERVER_KEYS}


def _uploads() -> dict[str, Any]:
    """A file of customers in parts, which may come in any order and again (docs/bridges/crm.md)."""
    digest = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
    upload = {"name": "upload", "in": "path", "required": True, "schema": digest, "description": "SHA-256 of the file"}
    told = {"$ref": "#/components/schemas/Upload"}
    taken = {
        "type": "object",
        "properties": {name: {"type": "integer", "minimum": 0} for name in ("taken", "refused")},
        "required": ["taken", "refused"],
    }

    def operation(name: str, text: str, body: str | None, answer: dict[str, Any]) -> dict[str, Any]:
        made = _operation("servers", name, text, {"$ref": f"#/components/schemas/{body}"}, answer)
        if body is None:
            del made["requestBody"]
        return made | {"parameters": [*_SOURCE, upload], "security": _SERVER_KEYS}

    refused = operation("uploadRefused", "Every row that was refused and why, a line of JSON each.", None, {})
    refused["responses"]["200"]["content"] = {"application/x-ndjson": {"schema": {"type": "string"}}}
    path = "/v1/crm/{partner}/{code}/uploads/{upload}"
    return {
        path: {
            "put": operation(
                "uploadHead", "The file's name; and how many rows it has, once all were sent.", "Head", told
            ),
            "get": operation("upload", "How far an upload is.", None, told),
        },
        f"{path}/rows": {"post": operation("uploadRows", "Rows; those that were done are passed over.", "Part", taken)},
        f"{path}/refused": {"get": refused},
    }


def _twilio() -> dict[str, Any]:
    """Twilio signs with a token that is the source's secret; it has no key."""
    made = _operation("servers", "twilioCall", "A call's callback, signed by Twilio.", {}, {})
    made["requestBody"]["content"] = {"application/x-www-form-urlencoded": {}}
    made["responses"]["200"]["content"] = {"*/*": {}}
    signature = {"name": "X-Twilio-Signature", "in": "header", "required": False, "schema": {"type": "string"}}
    return made | {"parameters": [*_SOURCE, signature]}


def _webhook() -> dict[str, Any]:
    text = "What a provider posts; its signature is checked over the bytes as they came."
    operation = _operation("webhooks", "webhook", text, {}, {})
    operation["parameters"] = _SOURCE
    # Providers want answers of their own: a challenge, TwiML.
    operation["requestBody"]["content"] = {"*/*": {}}
    operation["responses"]["200"]["content"] = {"*/*": {}}
    return operation


def _links() -> dict[str, Any]:
    token = [{"name": "token", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}]
    words = {"text/plain": {"schema": {"type": "string"}}}
    where = {"Location": {"description": "the destination, as it was signed", "schema": {"type": "string"}}}
    click = {
        "tags": ["links"],
        "operationId": "click",
        "description": "A tracked link: it leads on whatever becomes of the record of it.",
        "parameters": token,
        "responses": {
            "302": {"description": "To the destination.", "headers": where},
            "404": {"description": "Nobody signed this, or it is not whole.", "content": words},
            "410": {"description": "Its source was removed.", "content": words},
            "503": {"description": "The source's secret can't be read now.", "content": words},
        },
    }
    opened = {
        "tags": ["links"],
        "operationId": "open",
        "description": "The pixel of an e-mail: the same GIF for every token.",
        "parameters": token,
        "responses": {"200": {"description": "One pixel.", "content": {"image/gif": {}}}},
    }
    metrics = {
        "tags": ["health"],
        "operationId": "metrics",
        "description": "What became of clicks and opens, as Prometheus reads it.",
        "responses": {"200": {"description": "Counters.", "content": words}},
    }
    return {"/l/{token}": {"get": click}, "/o/{token}.gif": {"get": opened}, "/metrics": {"get": metrics}}


def _operation(tag: str, name: str, text: str, body: dict[str, Any], taken: dict[str, Any]) -> dict[str, Any]:
    responses: dict[str, Any] = {
        "200": {"description": "Kafka has it.", "content": {"application/json": {"schema": taken}}}
    }
    for status, meaning in _REFUSALS.items():
        refusal: dict[str, Any] = {
            "description": meaning,
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Refusal"}}},
        }
        if status in (429, 503):
            seconds = {"type": "integer", "minimum": 0}
            refusal["headers"] = {"Retry-After": {"description": "whole seconds", "schema": seconds}}
        responses[str(status)] = refusal
    return {
        "tags": [tag],
        "operationId": name,
        "description": text,
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
        "responses": responses,
    }


def _health(name: str, text: str, meanings: dict[int, str]) -> dict[str, Any]:
    schema = {"type": "object", "properties": {"status": {"type": "string"}}, "required": ["status"]}
    return {
        "tags": ["health"],
        "operationId": name,
        "description": text,
        "responses": {
            str(status): {"description": meaning, "content": {"application/json": {"schema": schema}}}
            for status, meaning in meanings.items()
        },
    }


def _schemas() -> dict[str, Any]:
    event = RawEvent.model_json_schema(ref_template="#/components/schemas/{model}")
    uploads: dict[str, Any] = {}
    for kind in (Head, Part, Upload):
        uploads[kind.__name__] = kind.model_json_schema(ref_template="#/components/schemas/{model}")
        uploads |= uploads[kind.__name__].pop("$defs", {})
    text = {"type": "string"}
    fault = {
        "type": "object",
        "properties": {
            "index": {"type": "integer", "minimum": 0},
            "code": text,
            "message": text,
            "path": {"type": ["string", "null"]},
        },
        "required": ["index", "code", "message"],
    }
    faults = {"type": "array", "items": {"$ref": "#/components/schemas/EventFault"}}
    time = {"type": ["string", "number", "null"]}
    return {
        "RawEvent": event,
        **uploads,
        "Batch": {
            "type": "object",
            "properties": {
                "batch": {
                    "type": "array",
                    "maxItems": 2500,
                    "items": {"$ref": "#/components/schemas/RawEvent"},
                    "description": "an event may leave out what the batch has",
                },
                "sentAt": time,
                "context": {"type": ["object", "null"], "description": "of every event that has none of its own"},
                "writeKey": {"type": "string", "maxLength": MAX_ID},
            },
            "required": ["batch"],
        },
        "Taken": {
            "type": "object",
            "properties": {"success": {"const": True}},
            "required": ["success"],
        },
        "BatchTaken": {
            "type": "object",
            "properties": {"success": {"type": "boolean"}, "errors": faults},
            "required": ["success"],
        },
        "EventFault": fault,
        "Refusal": {
            "type": "object",
            "properties": {
                "code": {"type": "string", "examples": ["wrong_code"]},
                "message": {"type": "string", "description": "what is wrong and what to do, for people"},
                "path": {"type": ["string", "null"], "description": "into the body"},
                "success": {"const": False},
                "errors": faults,
            },
            "required": ["code", "message"],
        },
    }


def _security() -> dict[str, Any]:
    return {
        "basic": {"type": "http", "scheme": "basic", "description": "the key as user name, no password"},
        "bearer": {"type": "http", "scheme": "bearer", "description": "`<partner>.<code>.<secret>`"},
        "header": {"type": "apiKey", "in": "header", "name": "X-Write-Key"},
        "query": {"type": "apiKey", "in": "query", "name": "writeKey"},
    }
