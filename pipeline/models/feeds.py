"""What the bridge role tells of the sources that it fetches for, on `bridges.status`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipeline.models.base import Millis, Model, Slug

__all__ = ["FeedState", "FeedStatus"]

#: ``running``: connected; ``waiting``: it is tried again by itself; ``fault``: somebody must mend its settings.
FeedState = Literal["running", "waiting", "fault"]


class FeedStatus(Model):
    """One consumer of a source. Key: ``<partner>.<source>.<number>``; told when it changes, and every ten seconds."""

    partner: Slug
    source: Slug
    number: int = Field(description="which of the source's consumers, from 0")
    version: int = Field(description="of the source that it runs with")
    state: FeedState
    reason: str = Field("", description="why it does not run, and what to do")
    since: Millis = Field(description="since when it is in this state")
    as_of: Millis = Field(description="when this was told")
    lane: int
    process: str = Field(description="host and process id")
    taken: int = Field(0, description="messages recorded since this process took it over")
    refused: int = Field(0, description="messages that went to `rejected`, since then")
    last: Millis | None = Field(None, description="when the last message was recorded")
    lag: int | None = Field(None, description="messages that wait at the origin, where it tells")
