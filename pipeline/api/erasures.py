"""/v1/partners/{partner}/erasures: who was erased in the last month, and what of it is still to go."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

import orjson
from fastapi import Request
from pydantic import Field

from pipeline.api import tenancy
from pipeline.api.errors import ApiError
from pipeline.control.erasure_keys import erasure_key
from pipeline.control.secrets import Secrets
from pipeline.lake.erasures import Told
from pipeline.models.base import Millis, Model
from pipeline.models.customer import Customer
from pipeline.models.erasure import gone_by
from pipeline.query.kept import Kept
from pipeline.stream.kafka import Kafka, disconnect
from pipeline.stream.transaction import partition_for

__all__ = ["ErasureView", "ask_erasure", "router"]

router = tenancy.router("erasures")


class ErasureView(Model):
    """An erasure, and how far it is."""

    id: str
    customer: str = Field(description="canonical id that it was under")
    identifiers: list[str] = Field(description="all that it was known by")
    requested: Millis
    at: Millis | None = Field(
        description="gone from counts, segments and profiles, with all that happened until then; null: not yet"
    )
    files: bool = Field(description="no file of the lake that is read has anything of it any more")
    logs_until: Millis = Field(description="by then Kafka has dropped the last record that says anything of it")

    @classmethod
    def of(cls, told: Told, kept: Kept) -> ErasureView:
        """One that is done."""
        known = told.erasure.model_dump(include={"id", "customer", "identifiers", "requested", "at"})
        return cls(**known, files=kept.erased() > told.offset, logs_until=gone_by(told.erasure.requested))

    @classmethod
    def asked(cls, name: str, customer: Customer, now_ms: int) -> ErasureView:
        """One that is not done yet."""
        who = {"customer": customer.id, "identifiers": customer.identifiers}
        return cls(id=name, requested=now_ms, at=None, files=False, logs_until=gone_by(now_ms), **who)


class ErasureList(Model):
    """The newest first."""

    items: Sequence[ErasureView]


@router.get("", response_model=ErasureList, responses=tenancy.READ)
async def list_erasures(partner: str, request: Request) -> ErasureList:
    """Customers that were erased in the last month, while anything of them may still be in a log."""
    tenancy.of_partner(request.app.state.control.state, partner)
    kept: Kept = request.app.state.kept
    return ErasureList(items=[ErasureView.of(told, kept) for told in reversed(kept.erasures.since(0, partner))])


@router.get("/{erasure}", response_model=ErasureView, responses=tenancy.READ)
async def show_erasure(partner: str, erasure: str, request: Request) -> ErasureView:
    """How far an erasure is."""
    tenancy.of_partner(request.app.state.control.state, partner)
    kept: Kept = request.app.state.kept
    told = kept.erasures.find(partner, erasure)
    if told is None:
        raise ApiError(
            404, "not_found", f"no erasure {erasure!r} of the last month; one that is asked for takes a moment"
        )
    return ErasureView.of(told, kept)


async def ask_erasure(kafka: Kafka, lanes: int, secrets: Secrets, customer: str, now_ms: int) -> str:
    """Have the lane of ``customer`` (its canonical id) erase it; the erasure's id. Raises SecretError, KafkaError."""
    name = uuid.uuid4().hex
    move = {"kind": "erase", "to": customer, "id": name, "at": now_ms, "key": await erasure_key(secrets)}
    key = customer.encode()
    producer = kafka.producer()
    await producer.start()
    try:
        await producer.send_and_wait("moves", orjson.dumps(move), key=key, partition=partition_for(key, lanes))
    finally:
        await disconnect(producer)
    return name
