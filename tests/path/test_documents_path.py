"""The OpenAPI documents against the running doors: whatever schemathesis makes of them is answered as they say."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Any

import pytest
import schemathesis

# Else it is imported by threads that parse at the same time, which CPython 3.11 may fail at (gh-106905).
import schemathesis.specs.openapi.coverage._schema
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from stack import Stack

from pipeline.api.app import openapi
from pipeline.api.routers import ROUTERS
from pipeline.gateway.openapi import document

CHECKS: list[Any] = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
#: Streams that end when the client goes.
ENDLESS = {"GET /v1/partners/{partner}/sources/{source}/live"}
DOCUMENTS: dict[str, Callable[[], dict[str, Any]]] = {"api": lambda: openapi(ROUTERS), "gateway": document}


@cache
def operations(name: str) -> dict[str, Any]:
    """Operations of a document by their label: ``GET /healthz``."""
    schema = schemathesis.openapi.from_dict(DOCUMENTS[name]())
    return {found.label: found for found in (each.ok() for each in schema.get_all_operations())}


def labels(name: str) -> list[str]:
    verbs = ("get", "post", "put", "patch", "delete")
    return [
        label
        for path, methods in DOCUMENTS[name]()["paths"].items()
        for verb in verbs
        if verb in methods and (label := f"{verb.upper()} {path}") not in ENDLESS
    ]


def ask(
    operation: Any, address: str, examples: int, headers: dict[str, str], places: dict[str, str], check: list[Any]
) -> None:
    """As many requests that keep to the document, to ``places`` that are there; and as many that break it."""
    bounded = settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )

    def call(case: Any) -> None:
        case.call_and_validate(base_url=address, headers=headers, checks=check, timeout=30)

    @bounded
    @given(case=operation.as_strategy(generation_mode=GenerationMode.POSITIVE))
    def good(case: Any) -> None:
        case.path_parameters |= {name: value for name, value in places.items() if name in case.path_parameters}
        call(case)

    @bounded
    @given(data=st.data())
    def bad(data: st.DataObject) -> None:
        call(data.draw(operation.as_strategy(generation_mode=GenerationMode.NEGATIVE)))

    good()
    # Of some operations nothing can be broken.
    with suppress(Unsatisfiable):
        bad()


@pytest.mark.parametrize("label", labels("api"))
def test_the_api_answers_as_its_document_says(stack: Stack, tenant: Any, label: str) -> None:
    places = {"partner": tenant.id, "source": "app"}
    ask(operations("api")[label], stack.api, 2, {}, places, CHECKS)


@pytest.mark.parametrize("label", labels("gateway"))
def test_the_gateway_answers_as_its_document_says(stack: Stack, tenant: Any, label: str) -> None:
    bridge = "crm" if "/crm/" in label else "call-center" if "/calls/" in label else "rest"
    tenant.create("sources", id="server", name="Server", code="server", bridge=bridge)
    key = f"{tenant.id}.server"
    if bridge != "rest":
        key = tenant.create("sources/server/keys", name="The test's")["key"]
    places = {"partner": tenant.id, "code": "server"}
    ask(operations("gateway")[label], stack.gateway, 3, {"X-Write-Key": key}, places, CHECKS)
