"""The desk: where a request becomes a command, and its verdict an answer."""

from __future__ import annotations

import logging
import re
import unicodedata
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Any

from aiokafka.errors import KafkaError
from fastapi import Depends, Header, Request
from pydantic import ValidationError

from pipeline.api.errors import ApiError, refused
from pipeline.control.faults import fault
from pipeline.control.log import ControlLog
from pipeline.control.reducer import ControlState
from pipeline.control.secrets import SecretError, Secrets
from pipeline.models.control import SYSTEM_SOURCE_ID, Command, Integration, Source

__all__ = ["AtDesk", "Desk", "EnsureTopics", "Expected", "free_id"]

_log = logging.getLogger(__name__)

#: Makes the topics of a source or an integration; no harm where they are there.
EnsureTopics = Callable[[Source | Integration], Awaitable[None]]


@dataclass
class Desk:
    """For one request. ``actor``: who says so, for the audit trail; ``command_id``: the Idempotency-Key."""

    control: ControlLog
    secrets: Secrets
    ensure_topics: EnsureTopics | None
    actor: str
    command_id: str

    @property
    def state(self) -> ControlState:
        """What the control log says."""
        return self.control.state

    async def change(
        self, command: str, partner: str, data: dict[str, Any], *, entity: str | None = None, expect: int | None = None
    ) -> dict[str, Any]:
        """Submit the command; the entity after it. Raises ApiError.

        ``data["secret"]`` is a value here: it is stored apart, and only its id goes into the log.
        """
        noun, _, verb = command.partition(".")
        name = entity or data.get("id", "")
        before = self._secret_of(noun, partner, name)
        fresh = None
        if data.get("secret") is not None:
            fresh = await self._keep(data["secret"])
            data = data | {"secret": fresh}
        try:
            after = await self._judged(command, partner, data, entity, expect)
        except ApiError as error:
            # When the outcome is unknown, the command may still be accepted: its secret must stay.
            if fresh is not None and error.status != 504:
                await self._forget(fresh)
            raise
        name = after["id"]
        # What is in use stands in the state, not in the verdict: a repeat gets an old one.
        for old in {fresh, before} - {self._secret_of(noun, partner, name), None}:
            await self._forget(str(old))
        if verb == "create" and noun in ("partner", "source", "integration"):
            await self._make_topics(noun, partner, name)
        return after

    async def _judged(
        self, command: str, partner: str, data: dict[str, Any], entity: str | None, expect: int | None
    ) -> dict[str, Any]:
        document = {
            "id": self.command_id,
            "command": command,
            "partner": partner,
            "entity": entity,
            "expect": expect,
            "by": self.actor,
            "data": data,
        }
        try:
            written = Command.model_validate(document)
        except ValidationError as error:
            path, message = fault(error, document)
            if path in ("$.partner", "$.entity"):
                raise ApiError(404, "not_found", f"no such {path[2:]}: {message}") from None
            raise ApiError(400, "invalid", f"{path[2:]}: {message}") from None
        try:
            verdict = await self.control.submit(written)
        except ValueError as error:
            raise ApiError(413, "too_large", str(error)) from None
        except (KafkaError, TimeoutError) as error:
            _log.error("no verdict on command %s: %r", self.command_id, error)
            message = f"no verdict in time; repeat it with Idempotency-Key: {self.command_id}"
            raise ApiError(504, "unknown_outcome", message) from error
        if verdict.entity is None:
            raise refused(verdict)
        return verdict.entity

    def _secret_of(self, noun: str, partner: str, name: str) -> str | None:
        there: Source | Integration | None = None
        if noun == "source":
            there = self.state.sources.get((partner, name))
        elif noun == "integration":
            there = self.state.integrations.get((partner, name))
        return None if there is None or there.removed else there.secret

    async def _keep(self, value: str) -> str:
        try:
            return await self.secrets.put(value)
        except SecretError as error:
            raise ApiError(400, "invalid", str(error), "$.secret") from None
        except (KafkaError, TimeoutError) as error:
            _log.error("Kafka does not take a secret: %r", error)
            raise ApiError(503, "unavailable", "Kafka does not answer; nothing was changed, try again") from error

    async def _forget(self, name: str) -> None:
        try:
            await self.secrets.erase(name)
        except (KafkaError, TimeoutError):
            _log.exception("secret %s is in use no more and could not be erased", name)

    async def _make_topics(self, noun: str, partner: str, name: str) -> None:
        if self.ensure_topics is None:
            return
        owner: Source | Integration
        if noun == "integration":
            owner = self.state.integrations[partner, name]
        else:
            owner = self.state.sources[partner, SYSTEM_SOURCE_ID if noun == "partner" else name]
        try:
            await self.ensure_topics(owner)
        except Exception as error:
            _log.exception("topics of %s/%s", partner, owner.id)
            message = f"{owner.id!r} was created, its topics were not ({error}); run: headrace topics apply"
            raise ApiError(503, "topics_missing", message) from error


def desk(
    request: Request,
    idempotency_key: Annotated[
        str | None,
        Header(min_length=8, max_length=64, description="8 to 64 characters; a repeat gets the first answer"),
    ] = None,
    x_actor: Annotated[str, Header(max_length=200, description="who says so, for the audit trail")] = "api",
) -> Desk:
    """Dependency: a desk for this request."""
    state = request.app.state
    return Desk(state.control, state.secrets, state.ensure_topics, x_actor, idempotency_key or uuid.uuid4().hex)


def expected(
    if_match: Annotated[
        str | None,
        Header(
            description="the version that the change was made on, as the `ETag` gave it; without it: 428",
            examples=['"3"'],
        ),
    ] = None,
) -> int:
    """Dependency: the version that a change was made on."""
    if if_match is None:
        raise ApiError(428, "expect_missing", 'say which version you changed: If-Match: "<version>"')
    match = re.fullmatch(r'(?:W/)?("?)(\d{1,9})\1', if_match.strip())
    if match is None:
        raise ApiError(400, "invalid", 'If-Match holds one version, e.g. If-Match: "3"')
    return int(match[2])


AtDesk = Annotated[Desk, Depends(desk)]
Expected = Annotated[int, Depends(expected)]


def free_id(name: str, fallback: str, taken: Callable[[str], bool]) -> str:
    """An id made from a name for people: `Mobile application` -> `mobile-application`, `-2` where it is taken."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    base = re.sub(r"[^a-z0-9]+", "-", plain)[:40].strip("-") or fallback
    number, found = 1, base
    while taken(found):
        number += 1
        found = f"{base}-{number}"
    return found
