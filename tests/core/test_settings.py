"""Fields with late defaults, and tokens."""

from __future__ import annotations

from typing import Any

import pytest

from syncclip.core.settings import Settings, UserError, added, check_token


class New(Settings):
    steps: int = 20
    sizes: tuple[int, ...] = added(())
    speed: float = added(1.0, gt=0)


class Nested(Settings):
    parts: tuple[New, ...] = ()


@pytest.mark.parametrize("change", [{}, {"sizes": (1, 2)}, {"speed": 2.0}])
def test_added_fields_are_serialised_unless_they_have_their_default(change: dict[str, Any]) -> None:
    nested = Nested(parts=(New(**change),))
    assert nested.model_dump() == {"parts": ({"steps": 20, **change},)}
    assert Nested.model_validate_json(nested.model_dump_json()) == nested


@pytest.mark.parametrize("token", ["clé", "日本", "a\nb", "tab\t", "\udcff"])
def test_a_token_that_is_invalid_in_a_header_is_an_error_without_the_token(token: str) -> None:
    with pytest.raises(UserError, match="SOME_TOKEN: the token contains characters") as caught:
        check_token("SOME_TOKEN", token)
    assert token not in str(caught.value)


def test_a_token_of_printable_ascii_is_valid() -> None:
    for token in ("", "abc-._~+/=", "a b"):
        check_token("SOME_TOKEN", token)
