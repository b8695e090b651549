"""Base class of all settings, and user errors."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from syncclip.core.text import ARTICLE, LONGEST, cut


class UserError(ValueError):
    """An error that the user can fix, with a one-line message: location, cause and fix.

    Secrets in the message are masked, and a long message is shortened.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(cut(message, LONGEST))  # `cut` masks secrets


def check_token(name: str, token: str) -> None:
    """Raise a `UserError` if `token`, the value of the setting `name`, is not a valid HTTP header value."""
    if not (token.isascii() and token.isprintable()):
        raise UserError(f"{name}: the token contains characters other than printable ASCII; correct it")


class Settings(BaseModel):
    """Base class of typed settings; each subclass is defined next to the component that it configures.

    Unknown keys raise an error. Values are validated once and are immutable.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False, protected_namespaces=()
    )


def added(default: Any, **constraints: Any) -> Any:
    """Declare a field that is serialised only if it differs from `default`.

    Adding such a field does not invalidate existing plans and checksums.
    """
    declared = {} if "default_factory" in constraints else {"default": default}
    return Field(exclude_if=lambda value: value == default, **declared, **constraints)


def with_one_placeholder(template: str) -> str:
    """Return the template; raise a ValueError unless it contains exactly one placeholder for the class name."""
    if template.count("{}") + template.count(ARTICLE) != 1:
        raise ValueError(
            f"the template {template!r} must contain {{}} exactly once, where the class name goes, "
            "as in 'a photo of a {}.', or {a} for the class name with its article"
        )
    return template


MOST_CLASSES = 50_000
"""Maximum number of classes in a dataset; ImageNet-21k has 21,841. A prompt learner needs about 100 kB per class."""

LONGEST_TEXT = 1_000
"""Maximum length, in characters, of a class name or template; no text encoder has a context that long."""

MANY = Field(max_length=MOST_CLASSES, fail_fast=True)
"""Constraint for lists with one value per class; validation stops at the first error."""

ShortText = Annotated[str, Field(max_length=LONGEST_TEXT)]
Template = Annotated[ShortText, AfterValidator(with_one_placeholder)]

Position = Literal["end", "middle", "front"]
"""Position of the class name relative to the learned context vectors."""
