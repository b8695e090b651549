"""Users' own methods outside the package, named by `package.module:Class`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from syncclip.core.settings import UserError, explain
from syncclip.methods.base import Method, MethodSettings


def own_method(name: str) -> type[Method]:
    """The class named by `package.module:Class`; modules are also found in the working folder.

    Raises:
        UserError: there is no such module or class, or it is not a `Method`.
    """
    module, _, attribute = name.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise UserError(
            f"no method {name!r} ({error}); give package.module:Class as it is imported from {here}"
        ) from error
    if not (isinstance(found, type) and issubclass(found, Method)):
        raise UserError(f"{name} is not a method; derive it from syncclip.methods.Method")
    return found


def own_settings(method: type[Method], values: Mapping[str, Any]) -> MethodSettings:
    """The settings of a user's own method from plain values.

    Raises:
        UserError: an unknown key or a wrong value.
    """
    try:
        return method.Settings.model_validate(dict(values))
    except ValidationError as error:
        key, reason = explain(error, method.Settings)
        raise UserError(f"{'.'.join(filter(None, ('methods.own', key)))}: {reason} ({method.__name__})") from error
