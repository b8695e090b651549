"""Kinds of folders that commands write, recognised by a marker file, for errors about a folder of the wrong kind."""

from __future__ import annotations

from contextlib import suppress

from syncclip.core.settings import UserError
from syncclip.storage.files import listdir, sizes
from syncclip.storage.urls import is_local, local_path

KINDS = {
    "study.json": ("a study", "report"),
    "levels.json": ("a study with several pretrained tags", "report"),
    "tuned.json": ("a hyperparameter search", "report"),
    "run.json": ("a run", "evaluate"),
    "plan.json": ("a synthetic dataset", "report"),
    "imported.json": ("a synthetic dataset", "shards ls"),
    "dataset.json": ("a packed dataset", "datasets check"),
    "export.json": ("an export", "verify"),
}
"""Marker file -> kind of folder, and a command that reads it."""

MAX_SEARCHED = 100
"""Maximum number of subfolders to search for a suitable folder."""


def kind_of(url: str) -> tuple[str, str] | None:
    """Return the kind of a folder and a command that reads it, such as ("a run", "evaluate"); None if it has none."""
    return next(iter(_kinds_of(url)), None)


def require_kind(url: str, expected: str) -> None:
    """Raise a `UserError` if a folder already contains files of another kind than `expected`, such as "a run"."""
    kinds = dict(_kinds_of(url))
    if kinds and expected not in kinds:
        raise UserError(f"{url} is {next(iter(kinds))}, not {expected}; use another folder with --out")


def _kinds_of(url: str) -> list[tuple[str, str]]:
    with suppress(UserError):  # a file, or an unreachable folder
        names = sizes(url, [*KINDS])
        return [kind for marker, kind in KINDS.items() if marker in names]
    return []


def wrong_folder(url: str, expected: str, missing: str) -> UserError:
    """Return the error for a folder that is not `expected`, such as "a run", with the folder's kind and its command.

    Args:
        missing: "problem; fix" for a folder that no command wrote; a suitable subfolder is appended.
    """
    if kind := kind_of(url):
        return UserError(f"{url} is {kind[0]}, not {expected}; use `syncclip {kind[1]} {url}`, or another folder")
    if is_local(url) and not local_path(url).exists():
        problem, _, fix = missing.partition("; ")
        return UserError(f"{url}: {problem}, because the folder does not exist; {fix}")
    for name in sorted(listdir(url))[:MAX_SEARCHED] if is_local(url) and local_path(url).is_dir() else ():
        for inner in (f"{url.rstrip('/')}/{name}", f"{url.rstrip('/')}/{name}/study"):
            if (kind := kind_of(inner)) and kind[0].removeprefix("a ") in expected:
                return UserError(f"{url}: {missing}; {inner} is {kind[0]}")
    return UserError(f"{url}: {missing}")
