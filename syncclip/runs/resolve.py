"""Which run a recipe stands for: the sets that it learns from, its identity, and where it is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from syncclip import storage
from syncclip.clip.backbone import EMBEDDED
from syncclip.core.settings import UserError
from syncclip.datasets import load_dataset
from syncclip.datasets.loading import known
from syncclip.recipe.recipe import Recipe, digest
from syncclip.runs.data import KnownSets, synthetic_part, teacher_part
from syncclip.storage.hub import NAME, PREFIX, fetched, pinned
from syncclip.storage.urls import absolute, home_path
from syncclip.training.run_folder import PROMPTS, RECIPE, RunFolder


def finished_run(run: str, overrides: Sequence[str] = ()) -> tuple[Recipe, RunFolder]:
    """The recipe of the finished run in a folder or URL, and the folder.

    Raises:
        UserError: no run is there, or it isn't finished; or it is named on the Hugging Face hub, where nothing can be
            written.
    """
    if run.startswith(PREFIX):
        raise UserError(
            f"{run}: this command needs the run's own folder; `hf download` the repository, and name its copy"
        )
    hint = f"; of a run on the Hugging Face hub, write {PREFIX}{run}" if NAME.fullmatch(run) else ""
    run = absolute(run)
    place = storage.join(run, RECIPE)
    if not storage.exists(place) or not storage.exists(storage.join(run, PROMPTS)):
        begun = "the run there is not finished" if storage.exists(place) else "no run there"
        raise UserError(f"{run}: {begun}; train one with `syncclip train RECIPE --out {run}`{hint}")
    record = RunFolder(run, "", "").record()
    if record is None:
        raise UserError(f"{run}: run.json is missing; copy the run again, or train it again in another folder")
    folder = RunFolder(run, record.name, record.recipe_hash)
    storage.read_sealed(place, folder.owner)  # another run's recipe would build another method
    return Recipe.load(place, overrides, own=False), folder


def readable_run(run: str) -> tuple[Recipe, RunFolder, str]:
    """The recipe and folder of a finished run that is only read, and the name by which any machine finds the same run.

    Args:
        run: folder or URL; or `hf://owner/name` on the Hugging Face hub, with `@revision` where it isn't the main
            branch. The latter's files are kept in the hub's cache, and its storage options are not used.

    Raises:
        UserError: there is no finished run.
    """
    from syncclip.runs.classes import FILES  # needs torch, which other commands start without

    copy = fetched(run, FILES[:3], FILES[3:])
    recipe, folder = finished_run(copy or run)
    if copy is None:
        return recipe, folder, folder.url
    # A stranger's server would be asked with the user's keys.
    return recipe.with_values({"storage.options": {}}), folder, pinned(run, copy)


def find_synthetic(recipe: Recipe, out: str | None = None, known: KnownSets | None = None) -> str:
    """Where the recipe's synthetic set is: `training.synthetic`, else `out`, `out/synthetic`, or where `synth`
    puts it without `out`: the first that holds a plan.

    Raises:
        UserError: it is in none of these places (the sentence names the command that makes it), or several are named.
    """
    named = recipe.training.synthetic
    if isinstance(named, tuple):
        raise UserError(
            "training.synthetic lists several sets where only one can stand; make one of them: `syncclip shards merge`"
        )
    if named is not None:
        places = [named, storage.join(named, "synthetic")]
    else:
        places = [*([out, storage.join(out, "synthetic")] if out else []), storage.join(recipe.folder, "synthetic")]
    known = known or KnownSets()
    for place in map(absolute, places):
        if known.holds_set(place):
            return place
    raise UserError(
        f"there is no synthetic set in {' or '.join(places)}; first run `syncclip synth {recipe.argument} --out "
        f"{places[0]}`, or name a set with training.synthetic=DIR"
    )


def resolve_run(recipe: Recipe, out: str | None = None, known: KnownSets | None = None) -> tuple[Recipe, RunFolder]:
    """The recipe with the set and amount that it will learn from written into it, and the run's folder.

    The folder's hash stands for all that decides the run: the recipe's own, and what the set's part shows.

    Args:
        known: what was read for other runs that are resolved together with this one.

    Raises:
        UserError: see `train`.
    """
    storage.configure(recipe.storage.options)
    recipe = with_absolute_paths(recipe)
    identity, known = "", known or KnownSets()
    if recipe.uses_synthetic:
        try:
            recipe, identity = _with_sets(recipe, out, known)
        except UserError:
            load_dataset(recipe.dataset)  # if it is missing too, that is the mistake to report first
            raise
    else:
        recipe = recipe.with_values({"training.synthetic": None, "training.images_per_class": None})
    if recipe.uses_teacher:
        recipe, identity = _with_teacher(recipe, identity, known)
    else:
        recipe = recipe.with_values({"training.teacher": None})
    training = recipe.training
    method = training.method.rpartition(":")[2]  # of one's own, the class alone: ':' has a meaning in paths and URLs
    parts = [method, training.data, training.images_per_class, f"seed{training.seed}"]
    name = "-".join(str(part) for part in parts if part is not None)
    run_hash = digest([recipe.hash, identity])
    url = absolute(out or storage.join(recipe.folder, "runs", f"{name}-{run_hash[:8]}"))
    return recipe, RunFolder(url, name, run_hash, recipe.to_yaml())


def _with_sets(recipe: Recipe, out: str | None, known: KnownSets) -> tuple[Recipe, str]:
    """The recipe with the synthetic sets written into it that it learns from, and the identity of what it learns."""
    named = recipe.training.synthetic
    if not isinstance(named, tuple):
        url = find_synthetic(recipe, out, known)
        amount, identity = synthetic_part(recipe, url, known)
        return recipe.with_values({"training.synthetic": url, "training.images_per_class": amount}), identity
    alone = [_with_sets(recipe.with_values({"training.synthetic": one.url}), out, known) for one in named]
    sets = [
        {"url": resolved.training.synthetic, "weight": one.weight}
        for (resolved, _), one in zip(alone, named, strict=True)
    ]
    identity = digest([[identity, one.weight] for (_, identity), one in zip(alone, named, strict=True)])
    return recipe.with_values({"training.synthetic": sets}), identity


def _with_teacher(recipe: Recipe, identity: str, known: KnownSets) -> tuple[Recipe, str]:
    """The recipe with its teacher's place, and the length of its vectors where the method has room for them."""
    name, settings = recipe.training.method, recipe.methods.of(recipe.training.method)
    url = absolute(str(recipe.training.teacher))
    recipe = recipe.with_values({"training.teacher": url})
    dim, digest_of_teacher = teacher_part(recipe, known)
    if "teacher_dim" in type(settings).model_fields:
        key = f"methods.{name if name in type(recipe.methods).model_fields else 'custom'}.teacher_dim"
        if settings.model_dump()["teacher_dim"] not in (None, dim):
            raise UserError(f"{key}: the class vectors in {url} have {dim} numbers each; leave the key out")
        recipe = recipe.with_values({key: dim})
    return recipe, digest([identity, digest_of_teacher])


def to_spec(recipe: Recipe, folder: RunFolder) -> dict[str, Any]:
    """A resolved run as plain data, for another process: see `from_spec`."""
    values = recipe.model_dump(mode="json")
    known = {"url": folder.url, "name": folder.name, "hash": folder.recipe_hash}
    return {"recipe": values, **known}


def from_spec(spec: Mapping[str, Any]) -> tuple[Recipe, RunFolder]:
    """The resolved run that `to_spec` wrote down; its storage options are in force from here on.

    Raises:
        UserError: something that the recipe names is not there, for instance a method of one's own on this machine.
    """
    recipe = Recipe().with_values(spec["recipe"], "the recipe on a worker")
    storage.configure(recipe.storage.options)
    return recipe, RunFolder(spec["url"], spec["name"], spec["hash"], recipe.to_yaml())


def with_absolute_paths(recipe: Recipe) -> Recipe:
    """The recipe with absolute paths for the local folders that it names: Ray Train's workers run in another folder."""
    dataset, backbone = recipe.dataset, recipe.backbone
    own = dataset.root is None and not known(dataset.name)
    names = {
        "dataset.root": dataset.root,
        "dataset.name": dataset.name if own else None,
        "backbone.name": backbone.name.removeprefix("local-dir:") if backbone.name != EMBEDDED else None,
        "backbone.pretrained": backbone.pretrained,
    }
    names |= {f"training.real.{place}.url": one.url for place, one in enumerate(recipe.training.real)}
    there = {key: name for key, name in names.items() if name and storage.is_local(name) and home_path(name).exists()}
    return recipe.with_values({key: absolute(str(home_path(name))) for key, name in there.items()})
