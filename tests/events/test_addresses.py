"""What of an address may be written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.events.addresses import kept_address


@pytest.mark.parametrize(
    ("address", "cut"),
    [
        ("192.0.2.17", "192.0.2.0"),
        (" 192.0.2.17 ", "192.0.2.0"),
        ("::ffff:192.0.2.17", "192.0.2.0"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1::"),
        ("no address", None),
        ("192.0.2.17:8080", None),
        (None, None),
    ],
)
def test_an_address_is_cut_to_its_network(address: str | None, cut: str | None) -> None:
    assert kept_address(address, "cut") == cut
    assert kept_address(address, "keep") == address
    assert kept_address(address, "remove") is None


@given(st.ip_addresses(v=4))
def test_of_a_cut_address_the_last_octet_is_gone(address: object) -> None:
    assert kept_address(str(address), "cut") == str(address).rpartition(".")[0] + ".0"


@given(st.ip_addresses(v=6) | st.text())
def test_cutting_again_changes_nothing(address: object) -> None:
    cut = kept_address(str(address), "cut")
    assert kept_address(cut, "cut") == cut
