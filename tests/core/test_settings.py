from __future__ import annotations

from typing import Any

import pytest

from syncclip.core.settings import Settings, UserError, added, check_token


class Old(Settings):
    steps: int = 20


class New(Old):
    sizes: tuple[int, ...] = added(())
    speed: float = added(1.0, gt=0)


class Whole(Settings):
    parts: tuple[New, ...] = ()


def test_added_fields_are_not_written_while_they_have_their_default() -> None:
    assert New().model_dump_json() == Old().model_dump_json()
    assert Whole(parts=(New(steps=3),)).model_dump() == {"parts": ({"steps": 3},)}


@pytest.mark.parametrize("change", [{"sizes": (1, 2)}, {"speed": 2.0}])
def test_added_fields_with_another_value_are_written(change: dict[str, Any]) -> None:
    whole = Whole(parts=(New(**change),))
    assert whole.model_dump() == {"parts": ({"steps": 20, **change},)}
    assert Whole.model_validate_json(whole.model_dump_json()) == whole


@pytest.mark.parametrize("token", ["clé", "日本", "a\nb", "tab\t", "\udcff"])
def test_a_token_that_no_header_can_hold_is_refused_without_showing_it(token: str) -> None:
    with pytest.raises(UserError, match="SOME_TOKEN: the token contains characters other") as caught:
        check_token("SOME_TOKEN", token)
    assert token not in str(caught.value)


@pytest.mark.parametrize("token", ["", "abc-._~+/=", "a b"])
def test_a_token_of_printable_ascii_is_accepted(token: str) -> None:
    check_token("SOME_TOKEN", token)
