"""From a checkpoint of a method's published code to a run that can be evaluated."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import safetensors.torch
import torch
from torch import Tensor

from syncclip import storage
from syncclip.clip.backbone import load_backbone
from syncclip.clip.prompted import PromptedClip
from syncclip.core.settings import UserError
from syncclip.datasets import load_dataset
from syncclip.interop import checks
from syncclip.interop.dassl import DasslCheckpoint, find_checkpoint, read_checkpoint
from syncclip.interop.layouts import LAYOUTS, Layout, find_layout
from syncclip.methods import build_method
from syncclip.recipe.recipe import Recipe, digest
from syncclip.runs.classes import CLASSES, RunClasses, describe
from syncclip.runs.data import shard_cache
from syncclip.runs.resolve import with_absolute_paths
from syncclip.storage.urls import absolute
from syncclip.stream.teacher import Teacher
from syncclip.training.run_folder import PROMPTS, RECIPE, RECORD, RunFolder, RunRecord, versions


@dataclass(frozen=True)
class ImportedRun:
    """A run with imported prompts.

    Attributes:
        source: the file.
        settings: of the method, as the shapes in the file imply.
        notes: signs that the file belongs to other weights, classes or phrases; also in the run's record.
    """

    url: str
    name: str
    source: str
    settings: Mapping[str, int | bool]
    notes: list[str]


def import_prompts(
    source: str, recipe: Recipe, out: str | None = None, epoch: int | None = None, transfer: bool = False
) -> ImportedRun:
    """Write prompts trained by a method's published code as a finished run, which can be evaluated.

    The number of vectors and of prompted blocks follows from the file. Of the recipe, `training.method`, `backbone`,
    `dataset` and those settings of the method that no shape implies are used. The record is written last; before that
    there is no run.

    Args:
        source: a file, or a folder in which `find_checkpoint` chooses one, by `epoch` if given.
        out: the run's folder or URL; by default one below `<storage.root>/<name>/runs`.
        transfer: use the prompts for other classes than they were trained on, as in cross-dataset tests.

    Raises:
        UserError: no checkpoint, an unsafe one, or one of another method, backbone, depth or number of classes; `out`
            has another run.
    """
    storage.configure(recipe.storage.options)
    recipe = with_absolute_paths(recipe)
    layout = find_layout(recipe.training.method)
    folders = list(dict.fromkeys([layout.folder, *(other.folder for other in LAYOUTS.values())]))
    checkpoint = read_checkpoint(find_checkpoint(source, folders, epoch))
    learned = _learned(recipe.training.method, layout, checkpoint)
    shape = {key: read(learned) for key, read in layout.shape.items()}
    if layout.given is not None:
        recipe = recipe.with_values({"training.teacher": absolute(str(recipe.training.teacher))})
        learned[layout.given] = _class_vectors(recipe, shape["teacher_dim"], checkpoint.place)
    recipe, classes, notes = _fitted(recipe, layout, checkpoint, learned, shape, transfer)

    data = safetensors.torch.save(learned)
    name = f"{recipe.training.method}-imported"
    run_hash = digest([recipe.hash, "imported", hashlib.sha256(data).hexdigest()])
    url = absolute(out or storage.join(recipe.folder, "runs", f"{name}-{run_hash[:8]}"))
    run = RunFolder(url, name, run_hash, recipe.to_yaml())
    with storage.lease(url, "prompts import"):
        run.open()
        run.write_recipe()
        storage.write_sealed(run.path(PROMPTS), data, owner=run.owner)
        storage.write_document(run.path(CLASSES), classes, run.owner)
        origin = f"{checkpoint.place}, epoch {checkpoint.epoch or 'unknown'}"
        run.write(
            RunRecord(
                name=name, recipe_hash=run_hash, status="finished", versions=versions(), origin=origin, notes=notes
            )
        )
        storage.require(url, (RECIPE, PROMPTS, CLASSES, RECORD))
        storage.write_contents(url, run.owner)
    return ImportedRun(url, name, checkpoint.place, shape, notes)


def _learned(method: str, layout: Layout, checkpoint: DasslCheckpoint) -> dict[str, Tensor]:
    """What the method learns, by our names, in single precision, copied out of the file."""
    counts = {one: len(other.learned(checkpoint.state)) for one, other in LAYOUTS.items()}
    likely = [one for one, count in counts.items() if count == max(counts.values()) > 0]  # several, if files are alike
    if method not in likely:
        hint = f"it looks like {' or '.join(map(repr, likely))}" if likely else "it has those of no method known here"
        raise UserError(f"{checkpoint.place}: not the parameters of {method!r}; {hint}; set training.method")
    learned = layout.learned(checkpoint.state)
    checks.check_numbers(learned, checkpoint.place)
    return {
        name: layout.as_ours(name, tensor).float().clone(memory_format=torch.contiguous_format)
        for name, tensor in learned.items()
    }


def _class_vectors(recipe: Recipe, dim: int, place: str) -> Tensor:
    """(C, D_t) of the teacher whose files the recipe names.

    Args:
        dim: D_t as the checkpoint at `place` has it.

    Raises:
        UserError: they aren't there, tell other classes apart, or are of another length.
    """
    teacher = Teacher(str(recipe.training.teacher), shard_cache(recipe.training))
    teacher.told.require_classes(load_dataset(recipe.dataset).classnames, teacher.url, repr(recipe.dataset.name))
    if teacher.told.dim != dim:
        raise UserError(
            f"{teacher.url}: this teacher's class vectors have {teacher.told.dim} numbers each, but the student in "
            f"{place} makes {dim} of an image; name the files of the teacher that it learned from in training.teacher"
        )
    vectors = torch.from_numpy(teacher.class_vectors())
    checks.check_numbers({"class_vectors": vectors}, teacher.url)
    return vectors


def _fitted(
    recipe: Recipe,
    layout: Layout,
    checkpoint: DasslCheckpoint,
    learned: Mapping[str, Tensor],
    shape: Mapping[str, int | bool],
    transfer: bool,
) -> tuple[Recipe, RunClasses, list[str]]:
    """The recipe with the method's settings as the checkpoint implies them, what it tells apart, and notes on what
    looks wrong."""
    method, place = recipe.training.method, checkpoint.place
    checks.check_asked(recipe.methods.of(method), shape, place, f"methods.{method}")
    dataset, clip = load_dataset(recipe.dataset), PromptedClip(load_backbone(recipe.backbone))
    checks.check_towers(learned, clip, place)
    words = layout.fixed_words(checkpoint.state)
    candidates = _candidates(recipe, shape)
    recipe, note = candidates[0], None
    if words is not None and not transfer:
        checks.check_classes(len(words.behind), dataset, place)
        noted = [
            (one, checks.note_on_words(words, clip, dataset.classnames, one.methods.of(method))) for one in candidates
        ]
        recipe, note = next(
            (pair for pair in noted if pair[1] is None), noted[0]
        )  # the first that fits, else the first
    notes = [] if note is None else [note]
    built = build_method(method, clip, dataset, recipe.methods.of(method), recipe.training.seed)
    checks.check_shapes(learned, built.state_dict(), place)
    return (
        recipe,
        describe(recipe, dataset, clip.backbone),
        notes + checks.notes_on_weights(layout.whole(checkpoint.state), words, clip),
    )


def _candidates(recipe: Recipe, shape: Mapping[str, int | bool]) -> list[Recipe]:
    """The recipe with the settings that shapes imply; if it sets no phrase, with the method's default and with none."""
    section, asked = f"methods.{recipe.training.method}", recipe.methods.of(recipe.training.method)
    values = {f"{section}.{key}": value for key, value in shape.items()}
    phrase = getattr(asked, "initial_words", None)
    if not phrase or phrase != getattr(type(asked)(), "initial_words", None):
        return [recipe.with_values(values)]
    without = recipe.with_values({**values, f"{section}.initial_words": ""})
    try:
        return [recipe.with_values(values), without]
    except UserError:  # the phrase has another number of words
        return [without]
