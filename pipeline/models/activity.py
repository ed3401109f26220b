"""What intake did for one source in one transaction: a delta, to be summed by who shows it."""

from __future__ import annotations

from pydantic import Field

from pipeline.models.base import Millis, Model, Slug

__all__ = ["Activity"]


class Activity(Model):
    """One record of `sources.activity`. Key: ``<partner>.<source>``.

    It is written in the transaction that writes the events and moves the offsets, so the sum over a topic is exact:
    a record is in it once, whatever crashes. Times are the broker's append times of the raw records.
    """

    partner: Slug
    source: Slug = Field(description="the source's immutable id")
    accepted: int = Field(description="events written to `events`; a mapping may make several of a record")
    rejected: dict[str, int] = Field(default_factory=dict, description="reason -> records written to `rejected`")
    dropped: dict[str, int] = Field(
        default_factory=dict,
        description="why -> records of which nothing is kept, as the source's policy has it: `consent`, `ignored`",
    )
    last: Millis = Field(description="of the newest record, whatever became of it")
    accepted_last: Millis | None = Field(None, description="of the newest record that was accepted")
    keys: dict[str, Millis] = Field(
        default_factory=dict, description="id of a secret key -> of the newest record that came with it"
    )
