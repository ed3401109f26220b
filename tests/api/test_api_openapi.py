"""The OpenAPI document: valid, whole, and the same without Kafka."""

from __future__ import annotations

from fastapi import APIRouter
from openapi_spec_validator import validate

from pipeline.api.app import openapi


def test_it_is_valid_openapi_and_every_error_has_our_shape() -> None:
    document = openapi()
    validate(document)
    assert "HTTPValidationError" not in document["components"]["schemas"]
    for path, operations in document["paths"].items():
        for verb, operation in operations.items():
            assert operation.get("description"), f"{verb} {path} says nothing"
            assert "422" not in operation["responses"]
            if path.startswith("/v1"):
                assert operation["security"] == [{"HTTPBearer": []}]
            for status, answer in operation["responses"].items():
                if path.startswith("/v1") and int(status) >= 400:
                    schema = answer["content"]["application/json"]["schema"]
                    assert schema == {"$ref": "#/components/schemas/Problem"}, f"{verb} {path} {status}"


def test_a_change_needs_a_version_and_a_secret_is_only_written() -> None:
    document = openapi()
    for path, operations in document["paths"].items():
        for verb in {"patch", "delete"} & operations.keys():
            names = {parameter["name"].lower() for parameter in operations[verb]["parameters"]}
            assert "if-match" in names, f"{verb} {path}"
    for name in ("NewSource", "SourceChange", "NewIntegration", "IntegrationChange"):
        assert document["components"]["schemas"][name]["properties"]["secret"]["writeOnly"] is True


def test_routers_of_others_are_in_it() -> None:
    more = APIRouter()

    @more.get("/v1/more")
    async def _more() -> None:
        """More."""

    assert "/v1/more" in openapi([more])["paths"]
    assert "/v1/more" not in openapi()["paths"]
