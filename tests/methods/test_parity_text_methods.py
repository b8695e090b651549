"""The numbers of the methods that learn only words are those of their published code."""

from __future__ import annotations

import pytest

from tests.methods import parity, text_methods

COOP = text_methods.coop_variants()
ALL = [*COOP, *(parity.load(name) for name in parity.names("cocoop", "kgcoop"))]


@pytest.mark.parametrize("fixture", COOP, ids=lambda fixture: fixture.name)
def test_coop_parity(fixture: parity.Fixture) -> None:
    text_methods.check_coop(fixture)


@pytest.mark.parametrize("name", parity.names("cocoop"))
def test_cocoop_parity(name: str) -> None:
    text_methods.check_cocoop(parity.load(name))


@pytest.mark.parametrize("name", parity.names("kgcoop"))
def test_kgcoop_parity(name: str) -> None:
    text_methods.check_kgcoop(parity.load(name))
    text_methods.check_template(parity.load(name))


@pytest.mark.parametrize("fixture", ALL, ids=lambda fixture: fixture.name)
def test_texts_and_first_words_of_a_context_parity(fixture: parity.Fixture) -> None:
    text_methods.check_start(fixture)


@pytest.mark.parametrize("fixture", ALL, ids=lambda fixture: fixture.name)
def test_five_steps_on_a_context_parity(fixture: parity.Fixture) -> None:
    parity.check_steps(fixture)
