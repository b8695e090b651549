"""What keeps two plans from being the same set."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from syncclip.synthesis.plan import Plan


def differences(stored: Plan, asked: Plan) -> list[str]:
    """What keeps two plans from being the same set, one phrase each (`seed is 0 there and 1 here`)."""
    there, here = _flat(stored.model_dump()), _flat(asked.model_dump())
    measured = {f"generator.{name}" for name in ("batch_size", "attention") if getattr(asked.generator, name) == "auto"}
    found = []
    for key in sorted({*there, *here}):
        old, new = there.get(key), here.get(key)
        if old == new or key in ("amounts", *measured) or (_found_late(key) and not (old and new)):
            continue
        if key == "classnames":
            changed = [(a, b) for a, b in zip(stored.classnames, asked.classnames, strict=False) if a != b]
            old, new = changed[0] if changed else (f"{stored.classes} names", f"{asked.classes} names")
        if key == "guides":
            kept = len({*chain(*(old or ()))} & {*chain(*(new or ()))})
            old, new = f"{sum(map(len, old or ()))} pictures", f"{sum(map(len, new or ()))}, {kept} of them the same"
        found.append(f"{key} is {_short(old)} there and {_short(new)} here")
    return found


def _found_late(key: str) -> bool:
    """Whether a value is empty until the first shard is drawn."""
    return key == "weights" or key.endswith(".digest")


def _short(value: object, limit: int = 120) -> str:
    text = repr(value)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat.update(_flat(value, f"{prefix}{key}."))
        elif key == "filters":
            flat["filters"] = [one["name"] for one in value]
            for one in value:
                flat.update(_flat(one, f"filters.{one.get('called', one['name'])}."))
        elif key == "strategies":
            flat[prefix + key] = [one["name"] for one in value]
            for place, one in enumerate(value):
                flat.update(_flat(one, f"{prefix}{key}[{place}]."))
        else:
            flat[prefix + key] = value
    return flat
