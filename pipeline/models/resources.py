"""Where the files that ship with the package are: `schemas/` and `topics.yaml`."""

from __future__ import annotations

from pathlib import Path

__all__ = ["resource"]

_PACKAGE = Path(__file__).resolve().parent.parent


def resource(name: str) -> Path:
    """The path of a shipped file or folder, in a checkout or in an installed wheel.

    Raises FileNotFoundError, naming both places looked in.
    """
    places = (_PACKAGE / "_data" / name, _PACKAGE.parent / name)
    for place in places:
        if place.exists():
            return place
    raise FileNotFoundError(f"{name}: neither {places[0]} nor {places[1]} exists; reinstall headrace")
