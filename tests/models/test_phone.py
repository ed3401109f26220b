"""Phone numbers in one spelling."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.models.phone import e164, is_region
from pipeline.models.policy import Policy


@pytest.mark.parametrize(
    ("text", "region"),
    [
        ("+46 70 123 45 67", None),
        ("+46(0)70-1234567", None),
        ("070-123 45 67", "SE"),
        ("0046701234567", "SE"),
        ("tel:+46-70-123-45-67", None),
        ("+46701234567", "US"),
        ("+46701234567 ext. 12", "US"),
    ],
)
def test_one_number_however_it_is_written(text, region):
    assert e164(text, region) == "+46701234567"


@pytest.mark.parametrize(
    "text", ["", "+", "070-123 45 67", "0046701234567", "+1", "+999123456", "anonymous", "+4" * 200]
)
def test_without_a_country_code_or_a_region_nothing_is_guessed(text):
    assert e164(text) is None


@given(st.text(max_size=40), st.sampled_from([None, "SE", "US", "XX"]))
def test_no_text_makes_it_raise_and_what_it_makes_it_takes_again(text, region):
    number = e164(text, region)
    if number is not None:
        assert number[0] == "+"
        assert number[1:].isascii()
        assert number[1:].isdecimal()
        assert e164(number) == number


def test_a_policy_names_a_country_that_there_is():
    assert is_region("SE")
    assert Policy(region="SE").region == "SE"
    for wrong in ("se", "XX", "Sweden", ""):
        with pytest.raises(ValueError, match="no country"):
            Policy(region=wrong)
