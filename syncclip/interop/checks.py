"""What a checkpoint and a recipe must agree on, and what is only noted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from syncclip.clip.prompted import PromptedClip
from syncclip.core.settings import UserError
from syncclip.datasets import Dataset
from syncclip.interop.layouts import FixedWords, Tensors
from syncclip.methods import MethodSettings


def check_numbers(learned: Tensors, place: str) -> None:
    """Require finite vectors whose values are all in the file: a few bytes can claim to be a tensor of any size.

    Raises:
        UserError: there are other tensors.
    """
    for name, tensor in learned.items():
        plain = (
            tensor.layout is torch.strided and not (tensor.is_meta or tensor.is_nested) and tensor.is_floating_point()
        )
        held = plain and tensor.nbytes <= tensor.untyped_storage().nbytes()
        vectors = tensor.dim() >= (2 if "_prompts." in name else 1)
        if not (held and vectors and tensor.isfinite().all()):
            raise UserError(f"{place}: {name} must be vectors of finite numbers; use another checkpoint")
        if name == "running_var" and (tensor < 0).any():
            raise UserError(f"{place}: {name} must be variances, which are not negative; use another checkpoint")


def check_asked(settings: MethodSettings, shape: Mapping[str, int | bool], place: str, section: str) -> None:
    """Require that settings given in the recipe agree with those that the tensors' shapes imply.

    Raises:
        UserError: they differ.
    """
    defaults = type(settings)()
    for key, value in shape.items():
        asked = getattr(settings, key)
        if asked not in (value, getattr(defaults, key)):
            raise UserError(
                f"{place}: has {key} {value}, but the recipe has {section}.{key}={asked}; leave it out, as it is read "
                "from the checkpoint, or use another checkpoint"
            )


def check_towers(learned: Tensors, clip: PromptedClip, place: str) -> None:
    """Require that prompts are as wide as the tower that they enter, and that it has all their blocks.

    Raises:
        UserError: they are for another backbone.
    """
    for tower in ("text", "vision"):
        prompts = [tensor for name, tensor in learned.items() if name.startswith(f"{tower}_prompts.")]
        if not prompts:
            continue
        entered = clip.text if tower == "text" else clip.vision
        width, layers = entered.width, entered.layers
        named = f"the {tower} tower of {clip.backbone.name!r}"
        if prompts[0].shape[-1] != width:
            raise UserError(
                f"{place}: trained with another backbone, as its {tower} prompts are {prompts[0].shape[-1]} wide and "
                f"{named} is {width}; set backbone.name"
            )
        if len(prompts) > layers:
            raise UserError(
                f"{place}: trained with a deeper backbone, as {len(prompts)} blocks have {tower} prompts and {named} "
                f"has {layers} blocks; set backbone.name"
            )
        if tower == "text" and prompts[0].shape[-2] > clip.context - 3:  # start, a word and end also need room
            raise UserError(
                f"{place}: has {prompts[0].shape[-2]} text vectors, more than the context of {clip.backbone.name!r} "
                f"with {clip.context} tokens has room for; set backbone.name"
            )


def check_classes(count: int, dataset: Dataset, place: str) -> None:
    """Require as many classes as published code trains on: all, or the base classes.

    Raises:
        UserError: `count` is another number.
    """
    classes, base = len(dataset.classnames), len(dataset.base)
    if count not in (classes, base):
        raise UserError(
            f"{place}: trained on {count} classes, but dataset {dataset.name!r} has {classes}, {base} of them base "
            "classes; set dataset.name, or use the prompts for other classes with --transfer"
        )


def check_shapes(learned: Tensors, wanted: Tensors, place: str) -> None:
    """Require that the checkpoint has exactly the tensors that the method learns.

    Raises:
        UserError: one is missing, or of another shape; the message names it.
    """
    for name in [*wanted, *(learned.keys() - wanted.keys())]:
        here, there = (tuple(tensors[name].shape) if name in tensors else None for tensors in (wanted, learned))
        if here != there:
            raise UserError(
                f"{place}: {name} is {there or 'missing'} there and {here or 'unknown'} here; it was trained with "
                "another backbone or on other classes"
            )


def notes_on_weights(state: Tensors, words: FixedWords | None, clip: PromptedClip) -> list[str]:
    """Notes on signs that the prompts were learned on other weights of the same shapes."""
    there: list[tuple[str, Tensor, Tensor | None]] = []
    if words is not None:
        there.append(("start token", words.before[:1, 0], clip.text.token_embedding.weight))
    if "image_encoder.class_embedding" in state:
        ours = getattr(clip.model.visual, "class_embedding", None)
        there.append(("class token", state["image_encoder.class_embedding"], ours))
    return [
        f"the {token} of the checkpoint differs from that of backbone {clip.backbone.name!r}: the prompts were learned "
        "on other weights, and may be meaningless here"
        for token, theirs, ours in there
        if ours is None or theirs.shape[-1] != ours.shape[-1] or not _alike(ours.cpu(), theirs).any()
    ]


def note_on_words(words: FixedWords, clip: PromptedClip, classnames: Sequence[str], settings: Any) -> str | None:
    """A note on the first class whose words differ from those of a method with these settings; None if none does."""
    theirs, names = words.behind, classnames[: len(words.behind)]
    ours = FixedWords.of(clip, names, settings).behind
    length = min(ours.shape[1], theirs.shape[1])
    same = _alike(ours[:, :length], theirs[:, :length]).all(dim=-1).tolist()
    if all(same):
        return None
    label = same.index(False)
    return (
        f"after the learned vectors the checkpoint has other words for class {label}, {names[label]!r}: "
        "it was trained with another phrase, other class names or another order of the classes"
    )


def _alike(ours: Tensor, theirs: Tensor) -> Tensor:
    """Which vectors (…, width) are equal up to the rounding of half precision, or of a mean computed in it."""
    ours, theirs = ours.float(), theirs.float()
    near: Tensor = (ours - theirs).norm(dim=-1) <= 0.01 * ours.norm(dim=-1)
    return near
