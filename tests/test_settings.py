from __future__ import annotations

from typing import Any

import pytest
from pydantic import Field

from syncclip.settings import Settings, added


class Old(Settings):
    steps: int = 20


class New(Old):
    sizes: tuple[int, ...] = added(())
    speed: float = added(1.0, gt=0)


class Whole(Settings):
    parts: tuple[Old | New, ...] = ()
    named: dict[str, New] = Field(default_factory=dict)


def test_added_fields_at_their_default_leave_an_identity_as_it_was() -> None:
    assert New().identity() == Old().identity() == {"steps": 20}
    assert Whole(parts=(New(steps=3),), named={"a": New()}).identity() == {
        "parts": [{"steps": 3}],
        "named": {"a": {"steps": 20}},
    }


@pytest.mark.parametrize(("change", "shown"), [({"sizes": (1, 2)}, [1, 2]), ({"speed": 2.0}, 2.0)])
def test_added_fields_with_another_value_belong_to_the_identity(change: dict[str, Any], shown: object) -> None:
    assert New(**change).identity() == {"steps": 20, **dict.fromkeys(change, shown)}
    assert Whole(named={"a": New(**change)}).identity()["named"]["a"] != {"steps": 20}


def test_an_added_field_keeps_its_limits() -> None:
    with pytest.raises(ValueError, match="greater than 0"):
        New(speed=0.0)
