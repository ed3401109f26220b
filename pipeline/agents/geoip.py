"""Countries of addresses, by a local database in MaxMind's format."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import maxminddb

from pipeline.events.facts import CountryOf

__all__ = ["open_countries"]

#: Addresses that are remembered; a look-up costs 10 us, a remembered one 0.1.
_REMEMBERED = 50_000


def open_countries(path: Path | None) -> CountryOf | None:
    """A look-up in the database at ``path`` (a country or a city database); None where there is none.

    Raises ValueError where the file can't be read, or is none.
    """
    if path is None:
        return None
    try:
        database = maxminddb.open_database(path)
    except (OSError, maxminddb.InvalidDatabaseError) as error:
        raise ValueError(f"HEADRACE_GEOIP {path}: {error}; name a database in MaxMind's format, or unset it") from None
    return _remembered(database)


def _remembered(database: maxminddb.Reader) -> Callable[[str], str | None]:
    known: dict[str, str | None] = {}

    def country_of(address: str) -> str | None:
        if address in known:
            return known[address]
        found: str | None = None
        try:
            record = database.get(address)
            code = record["country"]["iso_code"]  # type: ignore[index, call-overload]
            found = code if type(code) is str and len(code) == 2 else None
        except (ValueError, KeyError, TypeError, maxminddb.InvalidDatabaseError):
            pass  # no address, one that the database does not have, or one without a country
        if len(address) <= 45:
            if len(known) >= _REMEMBERED:
                known.clear()
            known[address] = found
        return found

    return country_of
