"""Trying an integration outside of the engine: the request that it would send, and whether its set-up is right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import Field

from pipeline.models.base import Millis, Model
from pipeline.models.delivery import Dispatch
from pipeline.sinks.base import Asked, SetupError
from pipeline.sinks.http import NoAnswer
from pipeline.sinks.registry import configure, sink
from pipeline.sinks.transports import Transports

__all__ = ["Checked", "check", "request_of"]

_ANSWER_CHARACTERS = 2_000


class Checked(Model):
    """Whether a tool takes the set-up. ``ok``: null where the tool can't be asked without telling it something."""

    ok: bool | None
    detail: str
    status: int | None = Field(None, description="of the tool's answer")
    answer: str = ""


def request_of(
    kind: str, settings: dict[str, Any], secret: Callable[[], str | None], dispatch: Dispatch, now: Millis
) -> Asked:
    """The request that would deliver ``dispatch``. Raises SetupError, ValueError, TypeError as `Sink.request`, and what
    ``secret`` raises."""
    return sink(kind).request(dispatch, configure(kind, settings), secret(), now)


async def check(
    transports: Transports, kind: str, settings: dict[str, Any], secret: str | None, now: Millis
) -> Checked:
    """Ask the tool, with a request that tells it of nobody."""
    try:
        config = configure(kind, settings)
        asked = sink(kind).probe(config, secret, now)
        if asked is None:
            return Checked(
                ok=None, detail=f"a {kind} can't be asked without telling it something; send a test event of a rule"
            )
        answer = await transports.send(asked, config.timeout_s)
        result = sink(kind).classify(answer.status, answer.headers, answer.body)
    except (SetupError, NoAnswer) as error:
        return Checked(ok=False, detail=str(error))
    except (ValueError, TypeError) as error:
        return Checked(ok=False, detail=f"no request can be made of these settings: {error}")
    text = answer.body.decode(errors="replace")[:_ANSWER_CHARACTERS]
    good = result.outcome == "ok"
    detail = result.detail or ("the tool takes these credentials" if good else f"the tool answered {answer.status}")
    return Checked(ok=good, detail=detail, status=answer.status, answer=text)
