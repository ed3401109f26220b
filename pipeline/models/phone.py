"""Phone numbers in one spelling, so that one number is one identifier: E.164, `+` and digits."""

from __future__ import annotations

from functools import lru_cache

__all__ = ["e164", "is_region"]

#: Numbers longer than this, extensions and all, are none.
_LONGEST = 100


@lru_cache(maxsize=16_384)
def e164(text: str, region: str | None = None) -> str | None:
    """``text`` as E.164, or None where it is no number that can be dialled from everywhere.

    ``region``: the country (ISO 3166, two letters) whose numbers are written without their country code; without it
    only numbers that begin with ``+`` are understood, since nothing is guessed. The length is checked, not whether
    the number is in use: new ranges open every month. An extension is dropped. Source: ITU-T E.164, libphonenumber.
    """
    import phonenumbers  # here: it takes 0.1 s, and most processes never see a number

    if len(text) > _LONGEST:
        return None
    try:
        number = phonenumbers.parse(text, region)
    except phonenumbers.NumberParseException:
        return None
    if not phonenumbers.is_possible_number(number):
        return None
    number.extension = None
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)


def is_region(text: str) -> bool:
    """Whether ``text`` is a country that `e164` knows, as two capital letters."""
    from phonenumbers import SUPPORTED_REGIONS

    return text in SUPPORTED_REGIONS
