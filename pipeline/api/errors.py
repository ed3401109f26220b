"""Errors of the API: one shape, whatever went wrong."""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import Field
from starlette.exceptions import HTTPException

from pipeline.control.faults import explain
from pipeline.models.base import Model
from pipeline.models.control import Verdict

__all__ = ["ApiError", "Problem", "install", "problems", "refused"]

_log = logging.getLogger(__name__)

_MEANING = {
    400: "The request breaks its contract; `path` says where.",
    401: "The bearer token is missing or wrong.",
    403: "Asked by a name that is not this machine's.",
    404: "There is no such thing, or it was removed.",
    408: "Not answered in the time that was given.",
    409: "It would break a rule: a duplicate id or code, a stale version, a thing in use, a system source.",
    413: "The body is larger than 1,000,000 bytes.",
    428: "A change needs `If-Match` with the version it was made on.",
    503: "Kafka does not answer.",
    504: "No verdict in time, so the outcome is unknown; repeat with the same `Idempotency-Key`.",
}


class Problem(Model):
    """What went wrong, and where. ``code`` is for programs and stays; ``message`` is for people."""

    code: str = Field(examples=["duplicate_code"])
    message: str = Field(examples=["source 'mobile' has code 'app'; choose another"])
    path: str | None = Field(None, description="into the request's body", examples=["$.code"])


class ApiError(HTTPException):
    """Ends a request with ``status`` and a Problem."""

    def __init__(self, status: int, code: str, message: str, path: str | None = None) -> None:
        super().__init__(status, message)
        self.status, self.problem = status, Problem(code=code, message=message, path=path)


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For ``responses=`` of a route."""
    return {status: {"model": Problem, "description": _MEANING[status]} for status in statuses}


def refused(verdict: Verdict) -> ApiError:
    """The reducer's refusal as an answer: paths into the command become paths into the body."""
    inside = verdict.path is not None and verdict.path.startswith("$.data")
    path = f"${verdict.path.removeprefix('$.data')}" if inside and verdict.path else None
    return ApiError(verdict.status, verdict.code, verdict.detail, path)


def install(app: FastAPI) -> None:
    """Give every error of ``app`` the one shape."""

    @app.exception_handler(ApiError)
    async def _ours(_: Request, error: ApiError) -> JSONResponse:
        headers = {"WWW-Authenticate": "Bearer"} if error.status == 401 else None
        return _answer(error.status, error.problem, headers)

    @app.exception_handler(HTTPException)
    async def _framework(_: Request, error: HTTPException) -> JSONResponse:
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "malformed")
        return _answer(error.status_code, Problem(code=code, message=str(error.detail)), error.headers)

    @app.exception_handler(RequestValidationError)
    async def _contract(_: Request, error: RequestValidationError) -> JSONResponse:
        first = dict(error.errors()[0])
        place, *loc = first["loc"]
        if place != "body":
            name = ".".join(map(str, loc))
            return _answer(400, Problem(code="invalid", message=f"{place} {name}: {first['msg']}"))
        if first["type"] == "json_invalid":
            return _answer(400, Problem(code="malformed", message="the body is no JSON", path="$"))
        path, message = explain(first | {"loc": tuple(loc)}, error.body)
        return _answer(400, Problem(code="invalid", message=message, path=path))

    @app.exception_handler(Exception)
    async def _bug(request: Request, error: Exception) -> JSONResponse:
        _log.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return _answer(500, Problem(code="bug", message="Headrace failed on this request; see its log"))


def _answer(status: int, problem: Problem, headers: Any = None) -> JSONResponse:
    return JSONResponse(problem.model_dump(exclude_none=True), status, headers)
