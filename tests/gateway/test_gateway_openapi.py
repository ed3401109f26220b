"""The gateway's OpenAPI document: valid, and of addresses that the gateway has."""

from __future__ import annotations

import re
from typing import Any

from openapi_spec_validator import validate
from starlette.routing import Match, Route

from pipeline.gateway.app import create_app
from pipeline.gateway.openapi import document
from pipeline.settings import Settings


def test_it_is_valid_openapi_and_every_operation_says_what_it_is_for() -> None:
    made = document()
    validate(made)
    for path, operations in made["paths"].items():
        for operation in operations.values():
            assert operation["description"].endswith("."), path


#: Said in words (see the document's description), and what is no door: the tracker's files, what a wrong call is told.
_IN_WORDS = re.compile(r"/v1/([tpsigab]|\{kind\})|/api/s/.*|/beacon/v1/.*|/sourceConfig/|/tracker.*")


def test_every_address_that_is_served_is_in_it() -> None:
    nothing: Any = None
    paths = document()["paths"]
    for route in create_app(nothing, nothing, nothing, Settings()).routes:
        assert isinstance(route, Route)
        if not _IN_WORDS.fullmatch(route.path):
            verbs = {verb.lower() for verb in route.methods or ()} - {"head", "options"}
            assert verbs <= paths.get(route.path, {}).keys(), route.path


def test_every_address_of_it_is_served() -> None:
    nothing: Any = None
    routes = create_app(nothing, nothing, nothing, Settings()).routes
    for path, operations in document()["paths"].items():
        for verb in operations:
            scope = {"type": "http", "method": verb.upper(), "path": re.sub(r"\{\w+\}", "x", path), "headers": []}
            assert any(route.matches(scope)[0] is Match.FULL for route in routes), f"{verb} {path}"
