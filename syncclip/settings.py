"""The base of all settings classes, and the error that stands for a user's mistake."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """Typed settings that live beside the part they configure.

    Unknown keys are refused, values are checked once and never change afterwards.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, protected_namespaces=())


class UserError(ValueError):
    """A user's mistake, told in one sentence: what is wrong, where, and what to do."""
