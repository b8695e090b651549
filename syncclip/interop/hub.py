"""Upload runs to the Hugging Face Hub."""

from __future__ import annotations

import re
from typing import Any

from syncclip.core.settings import UserError
from syncclip.interop.exports import CARD, write_run
from syncclip.recipe.recipe import Recipe
from syncclip.runs.classes import FILES, build_trained, clip_of
from syncclip.runs.resolve import finished_run
from syncclip.runtime.tempdirs import private_tempdir
from syncclip.storage.documents import CONTENTS
from syncclip.storage.hub import NAME, PREFIX, hub_access

_PATH = re.compile(r"^((?:local-dir:)?)(?:(?!https?:)\w+://|[/~]).*/")
_PATHS = re.compile(r"(?<![^\s'\"(=:,])(?:(?!https?:)\w+:/|~)?/(?:[^/\s'\"]+/)+")
"""Patterns for the folder part of a path or URL, and for paths within text."""


def push(run: str, repo: str, private: bool = False, revision: str | None = None) -> str:
    """Upload a finished run to a model repository in one commit, replacing any earlier run; return the URL.

    The commit contains the recipe, prompts, record, results, classes and a model card, but no checkpoints or
    predictions. Folder paths, storage options and tracker settings are removed from the uploaded files.

    Args:
        repo: repository name, `owner/name`; the repository is created if missing.
        private: whether to require a private repository.
        revision: branch, created if missing; defaults to the main branch.

    Raises:
        UserError: the run is not finished, its CLIP model is missing, the Hub is unreachable or rejects the upload, or
            the repository is public although `private` is set.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    name = repo if revision is None else f"{repo}@{revision}"
    if NAME.fullmatch(name) is None:
        raise UserError(f"{name!r} is not a repository name; use owner/name, and --revision for a branch")
    recipe, folder = finished_run(run)
    method, classes = build_trained(recipe, folder)
    recipe, record, api = _public(recipe), folder.record(), HfApi()
    if record is not None:
        notes, origin = [_PATHS.sub("", note) for note in record.notes], _PATH.sub("", record.origin or "") or None
        record = record.model_copy(update={"notes": notes, "origin": origin, "logs": {}})
    classes = classes.model_copy(update={"clip": clip_of(recipe)})
    with private_tempdir() as scratch:
        write_run(str(scratch), folder, recipe, record, classes, method.state_dict(), name=PREFIX + name)
        files = {path.name: path for path in scratch.iterdir()}
        with hub_access(f"{repo}:"):
            url = api.create_repo(repo, private=private or None, exist_ok=True)
            if private and not api.model_info(repo).private:
                raise UserError(
                    f"{repo}: the repository is public, but must be private; change this on the Hub, or use a "
                    "different repository"
                )
            if revision is not None:
                api.create_branch(repo, branch=revision, exist_ok=True)
            remote = api.list_repo_files(repo, revision=revision)
            obsolete = {CARD, CONTENTS, *FILES}.intersection(remote) - files.keys()
            changes: list[Any] = [CommitOperationAdd(name, path) for name, path in sorted(files.items())]
            changes += map(CommitOperationDelete, sorted(obsolete))
            api.create_commit(repo, changes, commit_message=f"Run {folder.name}", revision=revision)
    return str(url) if revision is None else f"{url}/tree/{revision}"


def _public(recipe: Recipe) -> Recipe:
    """Return the recipe without storage settings, tracker settings or the folders in paths."""
    values = recipe.model_dump(mode="json", exclude={"storage"})
    for key in ("trackers", "tracking_project", "mlflow_uri"):
        values["training"].pop(key, None)
    return Recipe().with_values(_without_folders(values), "the public recipe")


def _without_folders(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_folders(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_folders(inner) for inner in value]
    return _PATH.sub(r"\1", value) if isinstance(value, str) else value
