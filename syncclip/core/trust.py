"""Which code outside the package may run: what the user names as `module:Class`, and nothing that is merely read.

A name is trusted once the user's own recipe, an override or `--trust NAME` has given it. What a set, a run, a study or
another folder that may be a stranger's names is refused, whichever part of the package is asked to import it.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType

from syncclip.core.session import current
from syncclip.core.settings import UserError

NAME = re.compile(r"[\w.]*:[\w.]*")
"""How code is named."""

MARKS = (
    *("run.json", "prompts.safetensors", "plan.json", "imported.json", "synthesis.yaml", "00000_stats.json"),
    *("study.json", "study.parquet", "tuned.json", "export.json", "dataset.json", "model_index.json"),
    *("base-to-novel.parquet", "open-vocabulary.parquet", "few-shot.parquet", "cross-dataset.parquet"),
    *("domain-generalisation.parquet", "losses.parquet", "data-use.parquet", "growing.parquet"),
)
"""Files of which each shows that a folder holds results, a data set or a model, and so may be a stranger's."""


def trust(*names: str, anywhere: bool = False) -> None:
    """Allow code to be imported and run, by its very name.

    Args:
        names: each a `module:Class`.
        anywhere: whether its module is looked for in the working folder even where that holds results, as after
            `--trust`.
    """
    allowed = current().trusted
    for name in names:
        allowed[name] = anywhere or allowed.get(name, False)


def trusted() -> tuple[str, ...]:
    """Return the trusted names."""
    return tuple(current().trusted)


def suspect(names: Iterable[str], mark: Path) -> None:
    """Remember, for a refusal, which file makes the recipe that gives these names a stranger's."""
    current().untrusted_sources.update(dict.fromkeys(names, mark))


COMPILED = "compile_cache:"
"""Before a place of compiled code, which is run as it is read: a name like others."""


def texts_in(value: object) -> Iterator[str]:
    """Every text among nested values, places of compiled code by their names."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for key, inner in value.items() if isinstance(value, Mapping) else enumerate(value):
            place = isinstance(inner, str) and f".{key}:".endswith(f".{COMPILED}")
            yield from texts_in(f"{COMPILED}{inner}" if place else inner)


def names_in(value: object) -> list[str]:
    """Every name of code among nested values."""
    return [text for text in texts_in(value) if NAME.fullmatch(text) or text.startswith(COMPILED)]


def require_trust(name: str | None, place: str = "") -> None:
    """Refuse a name that the user has not given; what holds no colon names no code.

    Args:
        place: what the sentence begins with, such as "FILE: key: ".

    Raises:
        UserError: the name is not trusted.
    """
    if name is not None and ":" in name and name not in current().trusted:
        mark = current().untrusted_sources.get(name)
        of_results = f", as {mark} shows its folder to be" if mark is not None else ""
        raise UserError(
            f"{place}{name!r} names code to be run, which only the command line or a recipe of your own may do, one "
            f"that lies in no folder of results or downloads{of_results}; if you know that code and trust it, run "
            f"syncclip --trust {name} ..."
        )


def module_of(name: str, place: str = "") -> ModuleType:
    """The module of `module:Class`, imported; it is looked for in the working folder after all other places.

    Args:
        place: see `require_trust`.

    Raises:
        UserError: the name is not trusted.
        ImportError, TypeError, ValueError: there is no such module.
    """
    require_trust(name, place)
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
            f"{error}; in {mark.parent}, a folder of results by its {mark.name}, none is looked for without --trust"
        ) from error


def mark_around(folder: Path) -> Path | None:
    """The first mark of results, a data set or a model in a local folder or those that it lies in; None: none."""
    marks = (one / mark for one in (folder, *folder.parents) for mark in MARKS)
    return next((mark for mark in marks if mark.exists()), None)
