"""Import checkpoints of published code as runs and validate them against the recipe."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from syncclip import storage
from syncclip.clip.backbone import load_backbone
from syncclip.clip.prompted import PromptedClip
from syncclip.core.settings import UserError
from syncclip.datasets import load_dataset
from syncclip.interop.dassl import DasslCheckpoint, find_checkpoint, read_checkpoint
from syncclip.interop.layouts import LAYOUTS, FixedWords, Layout, Tensors, find_layout
from syncclip.methods import MethodSettings, build_method
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
        source: path or URL of the checkpoint.
        settings: method settings inferred from the checkpoint's tensor shapes.
        notes: warnings about possibly mismatched weights, classes or initial words, also stored in the run's record.
    """

    url: str
    name: str
    source: str
    settings: Mapping[str, int | bool]
    notes: list[str]


def import_prompts(
    source: str, recipe: Recipe, out: str | None = None, epoch: int | None = None, transfer: bool = False
) -> ImportedRun:
    """Import prompts from a checkpoint of a method's published code as a finished run that can be evaluated.

    The numbers of vectors and prompted blocks are read from the checkpoint, whereas `training.method`, `backbone`,
    `dataset` and the method's other settings are read from the recipe. The record is written last and commits the run.

    Args:
        source: checkpoint or folder; see `find_checkpoint`.
        out: folder or URL of the run; by default, a folder in `<storage.root>/<name>/runs`.
        epoch: epoch of the checkpoint; see `find_checkpoint`.
        transfer: whether to allow classes that the prompts were not trained on, for cross-dataset evaluation.

    Raises:
        UserError: the checkpoint is missing, unsafe or inconsistent with the recipe's method, backbone, depth or number
            of classes, or `out` contains a different run.
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
        learned[layout.given] = _class_vectors(recipe, shape["teacher_dim"], checkpoint.url)
    recipe, classes, notes = _fitted(recipe, layout, checkpoint, learned, shape, transfer)

    data = safetensors.torch.save(learned)
    name = f"{recipe.training.method}-imported"
    run_hash = digest([recipe.hash, "imported", hashlib.sha256(data).hexdigest()])
    url = absolute(out or storage.join(recipe.folder, "runs", f"{name}-{run_hash[:8]}"))
    run = RunFolder(url, name, run_hash, recipe.to_yaml())
    with storage.lock(url, "prompts import"):
        run.open()
        run.write_recipe()
        storage.write_with_checksum(run.path(PROMPTS), data, owner=run.owner)
        storage.write_document(run.path(CLASSES), classes, run.owner)
        origin = f"{checkpoint.url}, epoch {checkpoint.epoch or 'unknown'}"
        run.write(
            RunRecord(
                name=name, recipe_hash=run_hash, status="finished", versions=versions(), origin=origin, notes=notes
            )
        )
        storage.require(url, (RECIPE, PROMPTS, CLASSES, RECORD))
        storage.write_contents(url, run.owner)
    return ImportedRun(url, name, checkpoint.url, shape, notes)


def _learned(method: str, layout: Layout, checkpoint: DasslCheckpoint) -> dict[str, Tensor]:
    """Copy the method's learned tensors from a checkpoint in single precision, keyed by their syncclip names."""
    counts = {name: len(other.learned(checkpoint.state)) for name, other in LAYOUTS.items()}
    likely = [name for name, count in counts.items() if count == max(counts.values()) > 0]
    if method not in likely:
        hint = f"probably {' or '.join(map(repr, likely))}" if likely else "its method is not supported"
        raise UserError(f"{checkpoint.url} is not a checkpoint of {method!r} ({hint}); change training.method")
    learned = layout.learned(checkpoint.state)
    _check_values(learned, checkpoint.url)
    return {
        name: layout.as_ours(name, tensor).float().clone(memory_format=torch.contiguous_format)
        for name, tensor in learned.items()
    }


def _class_vectors(recipe: Recipe, dim: int, checkpoint: str) -> Tensor:
    """Read the class vectors (C, dim) of the recipe's teacher; raise a UserError if its classes or dimension do not
    match."""
    teacher = Teacher(str(recipe.training.teacher), shard_cache(recipe.training))
    teacher.files.require_classes(load_dataset(recipe.dataset).classnames, teacher.url, repr(recipe.dataset.name))
    if teacher.files.dim != dim:
        raise UserError(
            f"{teacher.url}: the teacher's class vectors have {teacher.files.dim} dimensions, but the student in "
            f"{checkpoint} has {dim}; set training.teacher to the teacher that this student was distilled from"
        )
    vectors = torch.from_numpy(teacher.class_vectors())
    _check_values({"class_vectors": vectors}, teacher.url)
    return vectors


def _fitted(
    recipe: Recipe,
    layout: Layout,
    checkpoint: DasslCheckpoint,
    learned: Mapping[str, Tensor],
    shape: Mapping[str, int | bool],
    transfer: bool,
) -> tuple[Recipe, RunClasses, list[str]]:
    """Return the recipe with the checkpoint's settings, the run's classes, and notes on possible mismatches."""
    method, url = recipe.training.method, checkpoint.url
    _check_settings(recipe.methods.of(method), shape, url, f"methods.{method}")
    dataset, clip = load_dataset(recipe.dataset), PromptedClip(load_backbone(recipe.backbone))
    words, notes = layout.fixed_words(checkpoint.state), []
    recipe, *alternatives = _candidates(recipe, shape)
    built = build_method(method, clip, dataset, recipe.methods.of(method), recipe.training.seed)
    _check_shapes(learned, built.state_dict(), url)
    if words is not None and not transfer:
        classes, base = len(dataset.classnames), len(dataset.base)
        if len(words.suffix) not in (classes, base):
            raise UserError(
                f"{url} was trained on {len(words.suffix)} classes, but dataset {dataset.name!r} has {classes} ({base} "
                "base classes); set dataset.name, or add --transfer to use the prompts for other classes"
            )
        mismatch = _words_mismatch(words, clip, dataset.classnames, recipe.methods.of(method))
        for other in alternatives if mismatch else ():
            if not _words_mismatch(words, clip, dataset.classnames, other.methods.of(method)):
                recipe, mismatch = other, ""
        notes += [mismatch] if mismatch else []
    notes += _weight_mismatches(layout.qualified(checkpoint.state), words, clip)
    return recipe, describe(recipe, dataset, clip.backbone), notes


def _candidates(recipe: Recipe, shape: Mapping[str, int | bool]) -> list[Recipe]:
    """Return the recipe with the checkpoint's settings, plus a variant without initial words if the recipe uses
    the default words."""
    section, settings = f"methods.{recipe.training.method}", recipe.methods.of(recipe.training.method)
    values = {f"{section}.{key}": value for key, value in shape.items()}
    words = getattr(settings, "initial_words", None)
    if not words or words != getattr(type(settings)(), "initial_words", None):
        return [recipe.with_values(values)]
    without = recipe.with_values({**values, f"{section}.initial_words": ""})
    try:
        return [recipe.with_values(values), without]
    except UserError:  # the default has a different number of words
        return [without]


def _check_values(learned: Tensors, url: str) -> None:
    """Check that vectors are finite and fully stored in the file, since a tiny file can declare a huge tensor."""
    for name, tensor in learned.items():
        plain = (
            tensor.layout is torch.strided and not (tensor.is_meta or tensor.is_nested) and tensor.is_floating_point()
        )
        stored = plain and tensor.nbytes <= tensor.untyped_storage().nbytes()
        vectors = tensor.dim() >= (2 if "_prompts." in name else 1)
        if not (stored and vectors and tensor.isfinite().all()):
            raise UserError(f"{url}: {name} must contain vectors of finite numbers; use a different checkpoint")
        if name == "running_var" and (tensor < 0).any():
            raise UserError(f"{url}: {name} contains negative variances; use a different checkpoint")


def _check_settings(settings: MethodSettings, shape: Mapping[str, int | bool], url: str, section: str) -> None:
    """Check that each setting in the recipe either is the default or matches the tensor shapes."""
    defaults = type(settings)()
    for key, value in shape.items():
        setting = getattr(settings, key)
        if setting not in (value, getattr(defaults, key)):
            raise UserError(
                f"{url}: {key} is {value}, but the recipe has {section}.{key}={setting}; remove the setting, since its "
                "value is read from the checkpoint"
            )


def _check_shapes(learned: Tensors, expected: Tensors, url: str) -> None:
    """Check that the tensors have the names and shapes expected by the method."""
    for name in [*expected, *(learned.keys() - expected.keys())]:
        ours, theirs = (tuple(tensors[name].shape) if name in tensors else None for tensors in (expected, learned))
        if ours != theirs:
            raise UserError(
                f"{url}: shape mismatch for {name}: {theirs or 'missing'}, expected {ours or 'none'}; set backbone.name"
                " and dataset.name to the values used to train the checkpoint"
            )


def _weight_mismatches(state: Tensors, words: FixedWords | None, clip: PromptedClip) -> list[str]:
    """Return warnings if the prompts appear to have been trained with different CLIP weights of the same shapes."""
    tokens: list[tuple[str, Tensor, Tensor | None]] = []
    if words is not None:
        tokens.append(("start token", words.prefix[:1, 0], clip.text.token_embedding.weight))
    if "image_encoder.class_embedding" in state:
        ours = getattr(clip.model.visual, "class_embedding", None)
        tokens.append(("class token", state["image_encoder.class_embedding"], ours))
    return [
        f"the checkpoint and backbone {clip.backbone.name!r} differ in the {token}: the prompts were trained with "
        "different weights and may not work with this backbone"
        for token, theirs, ours in tokens
        if ours is None or theirs.shape[-1] != ours.shape[-1] or not _close(ours.cpu(), theirs).any()
    ]


def _words_mismatch(words: FixedWords, clip: PromptedClip, classnames: Sequence[str], settings: Any) -> str:
    """Return a note on the first class whose token embeddings do not match these settings, or "" if all match."""
    theirs, names = words.suffix, classnames[: len(words.suffix)]
    ours = FixedWords.of(clip, names, settings).suffix
    length = min(ours.shape[1], theirs.shape[1])
    same = _close(ours[:, :length], theirs[:, :length]).all(dim=-1).tolist()
    if all(same):
        return ""
    label = same.index(False)
    return (
        f"the checkpoint's fixed token embeddings for class {label} ({names[label]!r}) do not match: the prompts were "
        "trained with different initial words, class names or class order"
    )


def _close(ours: Tensor, theirs: Tensor) -> Tensor:
    """Return a mask of the vectors (…, width) that are equal within half-precision tolerance."""
    ours, theirs = ours.float(), theirs.float()
    close: Tensor = (ours - theirs).norm(dim=-1) <= 0.01 * ours.norm(dim=-1)
    return close
