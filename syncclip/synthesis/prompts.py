"""From a class name to the sentence that is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import field_validator

from syncclip.settings import Settings


class PromptSettings(Settings):
    """Class templates, taken in turn: image k of a class uses template k modulo their number.

    So every run of as many images as there are templates shows each of them once, whatever the class.
    """

    name: Literal["template"] = "template"
    templates: tuple[str, ...] = ()
    """Sentences with one `{}` for the class name; none: the benchmark's own template."""

    @field_validator("templates")
    @classmethod
    def _one_place_for_the_name(cls, templates: tuple[str, ...]) -> tuple[str, ...]:
        for template in templates:
            if template.count("{}") != 1:
                raise ValueError(
                    f"the template {template!r} must hold {{}} exactly once, where the class name goes, "
                    "as in 'a photo of a {}.'"
                )
        return templates


def prompt_of(settings: PromptSettings, template: str, classname: str, image: int) -> str:
    """The prompt of image number `image` (0, 1, …) of a class; `template` is the benchmark's own."""
    choice: Sequence[str] = settings.templates or (template,)
    return choice[image % len(choice)].replace("{}", classname)
