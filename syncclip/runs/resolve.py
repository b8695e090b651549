"""Resolve a recipe to a run: find the synthetic datasets, and determine the run's hash and folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from syncclip import storage
from syncclip.clip.backbone import EMBEDDED
from syncclip.core.settings import UserError
from syncclip.core.trust import remember
from syncclip.datasets import load_dataset
from syncclip.datasets.loading import is_dataset_name
from syncclip.recipe.recipe import Recipe, digest
from syncclip.runs.data import SetCache, run_inputs, synthetic_part, teacher_part
from syncclip.storage.hub import NAME, PREFIX, download, pinned
from syncclip.storage.urls import absolute, home_path
from syncclip.training.run_folder import PROMPTS, RECIPE, RECORD, RunFolder


def finished_run(run: str, overrides: Sequence[str] = ()) -> tuple[Recipe, RunFolder]:
    """Return the recipe and folder of the finished run at a path or URL; raise a `UserError` if it does not exist."""
    if run.startswith(PREFIX):
        raise UserError(f"{run}: this command requires a local run; download it with `hf download`")
    hint = f"; for a run on the Hugging Face Hub, use {PREFIX}{run}" if NAME.fullmatch(run) else ""
    given, run = run, absolute(run)
    recipe = storage.join(run, RECIPE)
    if not storage.exists(recipe) or not storage.exists(storage.join(run, PROMPTS)):
        if storage.exists(storage.join(run, RECORD)):
            raise UserError(f"{given}: the run is not finished; resume it with `syncclip train RECIPE --out {given}`")
        raise storage.wrong_folder(
            given, "a run", f"no run found; train one with `syncclip train RECIPE --out {given}`{hint}"
        )
    record = RunFolder(run, "", "").record()
    if record is None:
        raise UserError(f"{run}: run.json is missing; copy the run again, or train it again in a different folder")
    folder = RunFolder(run, record.name, record.recipe_hash, inputs=record.inputs)
    storage.read_verified(recipe, folder.owner)  # raises if the recipe belongs to a different run
    return Recipe.load(recipe, overrides, own=False), folder


def readable_run(run: str) -> tuple[Recipe, RunFolder, str]:
    """Return the recipe and folder of a finished run, and a run URL that is valid on any machine.

    Args:
        run: folder, URL, or `hf://owner/name[@revision]` on the Hugging Face Hub. Files from the Hub are cached, and
            storage options in their recipe are ignored.
    """
    from syncclip.runs.classes import FILES  # imports torch

    copy = download(run, FILES[:3], FILES[3:])
    recipe, folder = finished_run(copy or run)
    if copy is None:
        return recipe, folder, folder.url
    # Storage options of a third party could send the user's credentials to its server.
    return recipe.with_values({"storage.options": {}}), folder, pinned(run, copy)


def find_synthetic(recipe: Recipe, out: str | None = None, sets: SetCache | None = None) -> str:
    """Find a recipe's synthetic dataset in `training.synthetic`, or else in `out` or the default folder of `synth`.

    Raises:
        UserError: there is no synthetic dataset, or the recipe lists several.
    """
    specified = recipe.training.synthetic
    if isinstance(specified, tuple):
        raise UserError(
            "training.synthetic must be a single dataset, not a list; combine the list with `syncclip shards merge`"
        )
    if specified is not None:
        candidates = [specified, storage.join(specified, "synthetic")]
    else:
        default = storage.join(recipe.folder, "synthetic")
        candidates = [*([out, storage.join(out, "synthetic")] if out else []), default]
    sets = sets or SetCache()
    for url in map(absolute, candidates):
        if sets.holds_set(url):
            return url
    raise UserError(
        f"there is no synthetic dataset in {' or '.join(candidates)}; first run `syncclip synth {recipe.argument}"
        f"{f' --out {specified}' if specified else ''}`, or set training.synthetic=DIR"
    )


def resolve_run(recipe: Recipe, out: str | None = None, sets: SetCache | None = None) -> tuple[Recipe, RunFolder]:
    """Fill in a recipe's synthetic dataset and number of images, and determine the run folder.

    The run's hash covers everything that determines the run: the recipe and the synthetic images.

    Args:
        out: folder or URL of the run; by default, a folder in `<storage.root>/<name>/runs`.
        sets: cache for runs that are resolved together.
    """
    storage.configure(recipe.storage.options)
    recipe = with_absolute_paths(recipe)
    identity, sets = "", sets or SetCache()
    if recipe.uses_synthetic:
        try:
            recipe, identity = _with_sets(recipe, out, sets)
        except UserError:
            load_dataset(recipe.dataset)  # if this raises, report it instead
            raise
    else:
        recipe = recipe.with_values({"training.synthetic": None, "training.images_per_class": None})
    if recipe.uses_teacher:
        recipe, identity = _with_teacher(recipe, identity, sets)
    else:
        recipe = recipe.with_values({"training.teacher": None})
    training = recipe.training
    remember(training.method)
    method = training.method.rpartition(":")[2]  # without the module, because ':' is special in paths and URLs
    parts = [method, training.data, training.images_per_class, f"seed{training.seed}"]
    name = "-".join(str(part) for part in parts if part is not None)
    run_hash = digest([recipe.hash, identity])
    url = absolute(out or storage.join(recipe.folder, "runs", f"{name}-{run_hash[:8]}"))
    return recipe, RunFolder(url, name, run_hash, recipe.to_yaml(), run_inputs(recipe, sets))


def _with_sets(recipe: Recipe, out: str | None, sets: SetCache) -> tuple[Recipe, str]:
    """Return a recipe with its synthetic datasets filled in, and the hash of the images used."""
    mixed = recipe.training.synthetic
    if not isinstance(mixed, tuple):
        url = find_synthetic(recipe, out, sets)
        count, identity = synthetic_part(recipe, url, sets)
        return recipe.with_values({"training.synthetic": url, "training.images_per_class": count}), identity
    resolved = [_with_sets(recipe.with_values({"training.synthetic": item.url}), out, sets) for item in mixed]
    mixture = [
        {"url": part.training.synthetic, "weight": item.weight} for (part, _), item in zip(resolved, mixed, strict=True)
    ]
    identity = digest([[identity, item.weight] for (_, identity), item in zip(resolved, mixed, strict=True)])
    return recipe.with_values({"training.synthetic": mixture}), identity


def _with_teacher(recipe: Recipe, identity: str, sets: SetCache) -> tuple[Recipe, str]:
    """Fill in the teacher's URL, and the dimension of its class vectors if the method uses them."""
    name, settings = recipe.training.method, recipe.methods.of(recipe.training.method)
    url = absolute(str(recipe.training.teacher))
    recipe = recipe.with_values({"training.teacher": url})
    dim, teacher_digest = teacher_part(recipe, sets)
    if "teacher_dim" in type(settings).model_fields:
        key = f"methods.{name if name in type(recipe.methods).model_fields else 'custom'}.teacher_dim"
        if (teacher_dim := settings.model_dump()["teacher_dim"]) not in (None, dim):
            raise UserError(
                f"{key} is {teacher_dim}, but the teacher's class vectors in {url} have {dim} dimensions; set it to "
                f"{dim}, or omit it"
            )
        recipe = recipe.with_values({key: dim})
    return recipe, digest([identity, teacher_digest])


def to_spec(recipe: Recipe, folder: RunFolder) -> dict[str, Any]:
    """Convert a resolved run to serialisable data for another process (see `from_spec`)."""
    location = {"url": folder.url, "name": folder.name, "hash": folder.recipe_hash, "inputs": folder.inputs}
    return {"recipe": recipe.model_dump(mode="json"), **location}


def from_spec(spec: Mapping[str, Any]) -> tuple[Recipe, RunFolder]:
    """Restore a resolved run from the result of `to_spec`, and apply its storage options.

    Raises:
        UserError: the recipe refers to code or files that are missing on this machine, such as a custom method.
    """
    recipe = Recipe().with_values(spec["recipe"], "the recipe on a worker")
    storage.configure(recipe.storage.options)
    return recipe, RunFolder(spec["url"], spec["name"], spec["hash"], recipe.to_yaml(), spec["inputs"])


def with_absolute_paths(recipe: Recipe) -> Recipe:
    """Make the local paths of a recipe absolute, because Ray Train workers have a different working directory."""
    dataset, backbone = recipe.dataset, recipe.backbone
    custom = dataset.root is None and not is_dataset_name(dataset.name)
    weights = backbone.pretrained
    paths = {
        "dataset.root": dataset.root,
        "dataset.name": dataset.name if custom else None,
        "backbone.name": backbone.name.removeprefix("local-dir:") if backbone.name != EMBEDDED else None,
        # A folder with the name of a tag, such as a study's level in the current folder, is not a file of weights.
        "backbone.pretrained": weights if weights is not None and home_path(weights).is_file() else None,
    }
    paths |= {f"training.real.{i}.url": mixed.url for i, mixed in enumerate(recipe.training.real)}
    local = {key: path for key, path in paths.items() if path and storage.is_local(path) and home_path(path).exists()}
    return recipe.with_values({key: absolute(str(home_path(path))) for key, path in local.items()})
