"""From labels as users write them, numbers or names, to class ids and names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from syncclip.benchmarks.files import few, first_gaps
from syncclip.settings import UserError


@dataclass(frozen=True)
class Given:
    """The label of one picture as it stands in the data, where it stands, and the class's name if it is told there."""

    label: str | int
    place: str
    name: str | None = None


def settle_classes(
    given: Sequence[Given], source: str, classnames: Sequence[str] | None
) -> tuple[list[str], list[int]]:
    """Names by id, and the id of each picture.

    Labels that are all numbers are ids, and need names: told beside them, or given. Any others are names themselves,
    and ids follow their order.

    Args:
        given: of each picture.
        source: what to call the data in a message.
        classnames: names by id, where they are given; they win over those told.

    Raises:
        UserError: an id out of range, without a picture, without a name or with two.
    """
    if not all(isinstance(one.label, int) for one in given):
        labels = sorted({str(one.label) for one in given})
        ids = {label: number for number, label in enumerate(labels)}
        return labels, [ids[str(one.label)] for one in given]
    numbers = [int(one.label) for one in given]
    told: dict[int, str] = {}
    limit = len(classnames) if classnames is not None else None
    for one, number in zip(given, numbers, strict=True):
        if number < 0 or (limit is not None and number >= limit):
            counted = f"the {limit} class names run from 0 to {limit - 1}" if limit else "ids count from 0"
            raise UserError(f"{one.place}: label {number} is out of range; {counted}.")
        if one.name is not None and told.setdefault(number, one.name) != one.name:
            raise UserError(f"{one.place}: class {number} is called both {told[number]!r} and {one.name!r}.")
    if classnames is None and set(numbers) - set(told):
        raise UserError(f"{source}: labels are numbers and nothing tells their names; give benchmark.classnames.")
    count = max(numbers) + 1 if limit is None else limit
    if without := first_gaps(set(numbers), count):
        raise UserError(f"{source}: class(es) {few(without)} have no picture; ids must count from 0 without gaps.")
    return list(classnames) if classnames is not None else [told[label] for label in range(count)], numbers
