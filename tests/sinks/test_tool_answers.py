"""What tools' answers mean, by what each says in its own way."""

from __future__ import annotations

import orjson
import pytest

from pipeline.sinks.base import BatchSink
from pipeline.sinks.registry import sink


@pytest.mark.parametrize(
    ("kind", "status", "body", "outcome"),
    [
        ("customerio", 200, b"{}", "ok"),
        ("customerio", 400, b'{"errors":[]}', "invalid"),
        ("customerio", 401, b"", "setup"),
        ("braze", 201, b'{"message":"success","events_processed":1}', "ok"),
        ("braze", 400, b'{"message":"Provided external_id is blacklisted"}', "invalid"),
        ("braze", 500, b"", "transient"),
        ("hubspot", 204, b"", "ok"),
        ("hubspot", 429, b'{"policyName":"DAILY"}', "throttle"),
        ("ga4", 204, b"", "ok"),
        ("meta", 200, b'{"events_received":1}', "ok"),
        ("meta", 400, b'{"error":{"code":190,"message":"token expired"}}', "setup"),
        ("meta", 400, b'{"error":{"code":4,"message":"limit"}}', "throttle"),
        ("meta", 500, b'{"error":{"code":2,"message":"temporary"}}', "transient"),
        ("meta", 400, b'{"error":{"code":100,"message":"Invalid parameter"}}', "invalid"),
        ("meta", 400, b'{"error":{"code":100,"error_subcode":33,"message":"no such pixel"}}', "setup"),
        ("mailchimp", 204, b"", "ok"),
        ("mailchimp", 404, b'{"detail":"The requested resource could not be found."}', "invalid"),
        ("omnisend", 202, b"", "ok"),
        ("clevertap", 200, b'{"status":"success","processed":1,"unprocessed":[]}', "ok"),
        ("clevertap", 200, b'{"status":"fail","processed":0,"unprocessed":[{"error":"bad","record":{}}]}', "invalid"),
        ("moengage", 200, b'{"status":"success"}', "ok"),
        ("moengage", 200, b'{"status":"fail","error":{"message":"bad"}}', "invalid"),
        ("webengage", 201, b'{"response":{"status":"queued"}}', "ok"),
        ("interakt", 200, b'{"result":true}', "ok"),
        ("interakt", 200, b'{"result":false,"message":"no template"}', "invalid"),
        ("gupshup", 202, b'{"status":"submitted","messageId":"1"}', "ok"),
        ("gupshup", 200, b'{"status":"error","message":"bad"}', "invalid"),
        ("slack", 200, b"ok", "ok"),
        ("slack", 404, b"no_service", "setup"),
        ("slack", 410, b"channel_is_archived", "setup"),
        ("slack", 400, b"invalid_payload", "invalid"),
        ("slack", 429, b"rate_limited", "throttle"),
        ("twilio", 201, b"{}", "ok"),
        ("twilio", 400, b'{"code":21211,"message":"Invalid To"}', "invalid"),
        ("twilio", 400, b'{"code":21610,"message":"unsubscribed"}', "invalid"),
        ("twilio", 429, b'{"code":20429,"message":"slow down"}', "throttle"),
        ("twilio", 401, b'{"code":20003,"message":"Authenticate"}', "setup"),
        ("twilio", 400, b'{"code":21606,"message":"From is not yours"}', "setup"),
        ("twilio", 503, b"<html>", "transient"),
    ],
)
def test_an_answer_means(kind: str, status: int, body: bytes, outcome: str) -> None:
    assert sink(kind).classify(status, {}, body).outcome == outcome


@pytest.mark.parametrize(
    "kind",
    [
        "braze",
        "customerio",
        "clevertap",
        "klaviyo",
        "mailchimp",
        "meta",
        "twilio",
        "omnisend",
        "slack",
        "moengage",
        "gupshup",
    ],
)
@pytest.mark.parametrize(
    "body", [b"", b"\xff\xfe", b"[]", b"null", b'"x"', b'{"error":[1],"errors":{"a":1}}', b"[" * 9000]
)
@pytest.mark.parametrize("status", [200, 400, 500])
def test_no_answer_makes_a_tools_code_fail(kind: str, body: bytes, status: int) -> None:
    assert sink(kind).classify(status, {}, body).outcome


def test_braze_says_how_long_to_wait_in_a_header_of_its_own() -> None:
    assert sink("braze").classify(429, {"x-ratelimit-retry-after": "12"}, b"").retry_after == 12


def test_what_is_wrong_with_one_of_a_batch_is_told_of_that_one() -> None:
    parts = [orjson.dumps({"evtName": name}) for name in "abc"]
    answers = {
        "braze": (201, {"message": "success", "errors": [{"type": "bad", "input_array": "events", "index": 1}]}),
        "customerio": (207, {"errors": [{"batch_index": 1, "reason": "invalid", "field": "name"}]}),
        "clevertap": (200, {"status": "partial", "unprocessed": [{"error": "bad", "record": {"evtName": "b"}}]}),
    }
    for kind, (status, answer) in answers.items():
        tool = sink(kind)
        assert isinstance(tool, BatchSink)
        found = tool.classify_each(status, {}, orjson.dumps(answer), parts)
        assert isinstance(found, list), kind
        assert [each.outcome for each in found] == ["ok", "invalid", "ok"], kind
