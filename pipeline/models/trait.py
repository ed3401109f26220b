"""Traits that are computed of a customer's events, by the engine that counts segments: total spend, RFM, last visit."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline.models.base import Model
from pipeline.models.segment import Did
from pipeline.models.window import Duration, Window, duration_ms

__all__ = ["COMPUTED", "MAX_SCORES", "Computation", "computed_in"]

#: The trait that holds all that is computed: ``computed.<id>``. Nobody else can set it.
COMPUTED = "computed"
MAX_SCORES = 9
_OF_NUMBER = ("sum", "min", "max", "average")
_Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]


class Computation(Model):
    """A value of the events of ``of`` in a window, over the newest `MAX_KEPT` such events of a source and channel.

    ``sum``, ``min``, ``max``, ``average``: of a numeric property; events where it is no number are left out. ``count``:
    of events; ``days``: on how many days of a calendar window. ``first`` (of all time), ``last``: when, as RFC 3339
    text in UTC. Without such an event in the window there is no value.

    ``scores``: bounds in ascending order; the trait is then 1 to n + 1 in place of the value. Of a number: 1 and one
    more for every bound that it reaches. Of a moment: bounds are durations, and 1 and one more for every bound that
    it is not older than, so that the newest have the highest score, as in RFM.
    """

    compute: Literal["sum", "min", "max", "average", "count", "days", "first", "last"]
    of: Did
    property: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    cast: Literal["number"] | None = Field(None, description="take text that is a number, too")
    window: Window = Field(default_factory=Window)
    scores: list[_Number | Duration] | None = Field(None, min_length=1, max_length=MAX_SCORES)

    @model_validator(mode="after")
    def _fits(self) -> Computation:
        if (self.compute in _OF_NUMBER) != (self.property is not None):
            raise ValueError(f"`property` goes with {', '.join(_OF_NUMBER)}, and only with them")
        if self.cast is not None and self.property is None:
            raise ValueError("`cast` goes with `property`")
        if self.compute == "days" and self.window.calendar is None:
            raise ValueError("days are counted in a `calendar` window")
        if self.compute == "first" and self.window != Window():
            raise ValueError("what came first is of all time: leave `window` out")
        bounds: list[float] = []
        for bound in self.scores or ():
            if isinstance(bound, str) != (self.compute in ("first", "last")):
                raise ValueError("the scores of a moment are durations, as `30d`; all others are numbers")
            bounds.append(duration_ms(bound) if isinstance(bound, str) else bound)
        if any(after <= before for before, after in pairwise(bounds)):
            raise ValueError("write the bounds of the scores in ascending order")
        return self


def computed_in(path: str) -> str | None:
    """The id of the computed trait that the path of a trait looks at; None: at none, or at all (``computed``)."""
    first, dot, name = path.partition(".")
    return name if dot and first == COMPUTED else None
