"""The base of all settings classes, and the error that stands for a user's mistake."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, ValidationError, model_serializer


class Settings(BaseModel):
    """Typed settings that live beside the part they configure.

    Unknown keys are refused, values are checked once and never change afterwards.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, protected_namespaces=())

    added: ClassVar[tuple[str, ...]] = ()
    """Fields that a later version brought. They aren't written while they have their default: so plans stay as they
    were, and with them the digests that name sets and runs."""

    @model_serializer(mode="wrap")
    def _as_before(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = write(self)
        fields = type(self).model_fields
        for name in self.added:
            if name in values and getattr(self, name) == fields[name].get_default(call_default_factory=True):
                del values[name]
        return values


class UserError(ValueError):
    """A user's mistake, told in one sentence: what is wrong, where, and what to do."""


def first_complaint(error: ValidationError) -> str:
    """The first complaint of pydantic, with its place."""
    first = error.errors()[0]
    place = ".".join(map(str, first["loc"]))
    text = first["msg"].removeprefix("Value error, ")
    return f"{place}: {text}" if place else text
