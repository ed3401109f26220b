"""How far a lane is with a mailing (`mailings`)."""

from __future__ import annotations

from pydantic import Field

from pipeline.models.base import Millis, Model, Slug

__all__ = ["MailingProgress"]


class MailingProgress(Model):
    """Value of `mailings` (key: JSON {partner, mailing, lane}); a tombstone when the mailing is removed."""

    partner: Slug
    mailing: Slug
    lane: int
    sent: int = Field(description="members that the tool is told of")
    looked_at: int = Field(description="customers whose turn has come, members or not")
    done: bool = Field(description="all of the lane's")
    at: Millis = Field(description="the lane's clock")
