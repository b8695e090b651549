"""Trust in custom code: only code that the user names as `module:Class` is imported.

A name is trusted if it is specified in the user's own recipe, in an override or with `--trust NAME`, or if the user has
trained with the same unchanged files (see `consent`). Any other code named in a dataset, run, study or other folder
that may have been downloaded is not imported; it raises an error.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType

from syncclip.core.consent import changed_file, has_consent, record_consent
from syncclip.core.session import current
from syncclip.core.settings import UserError

NAME = re.compile(r"[\w.]*:[\w.]*")
"""Name of custom code: `module:Class`."""

MARKS = (
    *("run.json", "prompts.safetensors", "plan.json", "imported.json", "synthesis.yaml", "00000_stats.json"),
    *("study.json", "study.parquet", "tuned.json", "export.json", "dataset.json", "model_index.json"),
    *("base-to-novel.parquet", "open-vocabulary.parquet", "few-shot.parquet", "cross-dataset.parquet"),
    *("domain-generalisation.parquet", "losses.parquet", "data-use.parquet", "growing.parquet"),
)
"""Files that mark a folder of results, a dataset or a model, which may have been downloaded."""


def trust(*names: str, anywhere: bool = False) -> None:
    """Trust custom code.

    Args:
        names: custom code, as `module:Class`.
        anywhere: whether the module may be imported from a results folder, as with `--trust`.
    """
    allowed = current().trusted
    for name in names:
        allowed[name] = anywhere or allowed.get(name, False)


def trusted() -> tuple[str, ...]:
    """Return the names of trusted custom code."""
    return tuple(current().trusted)


def remember(name: str) -> None:
    """Record a method that the user has trained with, unless it is built in or was trusted only with `--trust`."""
    if current().trusted.get(name) is False:
        record_consent(name, _import_folders())


def mark_untrusted(names: Iterable[str], mark: Path) -> None:
    """Record that custom code with these names comes from a results folder with the marker file `mark`."""
    current().untrusted_sources.update(dict.fromkeys(names, mark))


COMPILED = "compile_cache:"
"""Prefix for the location of compiled code, which requires trust because loading the code executes it."""


def texts_in(value: object) -> Iterator[str]:
    """Yield all strings in nested values; locations of compiled code are prefixed with `COMPILED`."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for key, inner in value.items() if isinstance(value, Mapping) else enumerate(value):
            compiled = isinstance(inner, str) and f".{key}:".endswith(f".{COMPILED}")
            yield from texts_in(f"{COMPILED}{inner}" if compiled else inner)


def names_in(value: object) -> list[str]:
    """Return the names of custom code in nested values."""
    return [text for text in texts_in(value) if NAME.fullmatch(text) or text.startswith(COMPILED)]


def require_trust(name: str | None, prefix: str = "") -> None:
    """Raise a UserError if `name` is custom code (contains a colon) that is not trusted and has no recorded consent.

    Args:
        prefix: start of the message, such as "FILE: key: ".
    """
    if name is not None and ":" in name and name not in current().trusted:
        if has_consent(name, _import_folders()):
            trust(name)
            return
        if file := changed_file(name, _import_folders()):
            raise UserError(
                f"{prefix}{name!r} has changed since you ran it ({file}); train with it again, or if you trust the "
                f"change, run syncclip --trust {name} ..."
            )
        mark = current().untrusted_sources.get(name)
        source = f" ({mark} marks its folder as a results folder)" if mark is not None else ""
        raise UserError(
            f"{prefix}{name!r} is custom code, which must be named on the command line or in a recipe outside "
            f"results folders{source}; if you trust it, run syncclip --trust {name} ..."
        )


def module_of(name: str, prefix: str = "") -> ModuleType:
    """Import and return the module of `module:Class`; the working directory is searched last.

    Raises:
        UserError: the name is not trusted; the error message begins with `prefix`.
        ImportError, TypeError, ValueError: the module cannot be imported.
    """
    require_trust(name, prefix)
    module, here = name.partition(":")[0], Path.cwd()
    mark = None if current().trusted[name] else mark_around(here)
    if mark is None and str(here) not in sys.path:
        sys.path.append(str(here))
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if mark is None:
            raise
        raise ImportError(
            f"{error}; {mark.parent} is a results folder (it contains {mark.name}), from which modules are only "
            "imported with --trust"
        ) from error


def _import_folders() -> list[str]:
    """Return the folders that `module_of` searches for code that was not trusted with `--trust`."""
    here = Path.cwd()
    folders = [os.path.normpath(here / folder) for folder in sys.path]
    return folders if mark_around(here) is not None else [*folders, str(here)]


def mark_around(folder: Path) -> Path | None:
    """Return the path of the first of `MARKS` in a local folder or its parents; None if no such file exists."""
    marks = (parent / mark for parent in (folder, *folder.parents) for mark in MARKS)
    return next((mark for mark in marks if mark.exists()), None)
