"""What a run tells apart, and by which CLIP: kept in its folder, so that whoever has the run needs no dataset."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from syncclip import storage
from syncclip.clip.backbone import Backbone, load_backbone
from syncclip.clip.prompted import PromptedClip
from syncclip.core.settings import MANY, Settings, ShortText, Template, UserError
from syncclip.datasets import Dataset
from syncclip.evaluation.predict import RESULTS
from syncclip.methods import Method, build_method
from syncclip.recipe.recipe import Recipe
from syncclip.training.loop import load_prompts, read_prompts
from syncclip.training.run_folder import PROMPTS, RECIPE, RECORD, RunFolder

CLASSES = "classes.json"
FILES = (RECIPE, PROMPTS, RECORD, CLASSES, RESULTS)
"""The files of a run that others need; the first three are required."""


class RunClasses(Settings):
    """Content of `classes.json`. Labels are positions in `classnames`, of which the base classes come first."""

    format: Literal[1] = 1
    dataset: str
    """Its name; the dataset itself is not needed."""
    classnames: Annotated[list[ShortText], MANY] = Field(min_length=1)
    template: Template
    base_count: int = Field(ge=1)
    """How many of the classes, the first ones, are base classes."""
    only: Annotated[list[int], MANY] | None = None
    """Labels that a prediction may have, the others being those of a larger dataset; None: all."""
    clip: str
    """Name and tag of the CLIP."""
    clip_sha256: str | None = None
    """`Backbone.sha256`; None: unknown, as of runs of earlier versions."""
    temperature: float = Field(1.0, gt=0)
    """By which logits are divided before the softmax."""
    preprocess: dict[str, Any] = Field(default={})
    """How images become its input, as open_clip writes it: size, mean, std, interpolation and resize_mode."""

    @model_validator(mode="after")
    def _check_labels(self) -> RunClasses:
        count, only = len(self.classnames), self.only
        if self.base_count > count or (only is not None and not (only and {*only} <= {*range(count)})):
            raise ValueError(f"base_count or only names labels that {count} classes don't have")
        return self

    @property
    def base(self) -> list[int]:
        """Labels of the base classes."""
        return list(range(self.base_count))


def describe(
    recipe: Recipe, dataset: Dataset, backbone: Backbone | None = None, temperature: float = 1.0
) -> RunClasses:
    """What is kept of a run's dataset and CLIP; without a backbone, its weights are not known."""
    return RunClasses(
        dataset=dataset.name,
        classnames=dataset.classnames,
        template=dataset.template,
        base_count=len(dataset.base),
        only=None if dataset.only is None else sorted(dataset.only),
        clip=clip_of(recipe),
        clip_sha256=None if backbone is None else backbone.sha256,
        temperature=temperature,
        preprocess={} if backbone is None else backbone.preprocess_settings,
    )


def clip_of(recipe: Recipe) -> str:
    """Name and tag of a recipe's CLIP."""
    return ", ".join(filter(None, (recipe.backbone.name, recipe.backbone.pretrained)))


def read_classes(folder: RunFolder) -> RunClasses:
    """What a run tells apart, as its folder says.

    Raises:
        UserError: the file is damaged, or missing because the run was never evaluated.
    """
    found = storage.read_document(folder.path(CLASSES), RunClasses, "evaluate the run again", folder.owner)
    if found is None:
        raise UserError(f"{folder.path(CLASSES)} is missing; evaluate the run once: `syncclip evaluate {folder.url}`")
    return found


def build_trained(recipe: Recipe, folder: RunFolder) -> tuple[Method, RunClasses]:
    """The method of a finished run with what it learned, on the CPU, and what it tells apart.

    Raises:
        UserError: see `read_classes`; or the CLIP is not there, or another than in the training, with which the prompts
            mean nothing.
    """
    storage.configure(recipe.storage.options)
    classes, backbone = read_classes(folder), load_backbone(recipe.backbone)
    now = backbone.preprocess_settings
    others = [key for key, value in classes.preprocess.items() if key in now and now[key] != value]
    if others or classes.clip_sha256 not in (None, backbone.sha256):
        what = f"its {others[0]} of images differs" if others else "its weights or activations differ"
        raise UserError(
            f"{folder.url}: the CLIP {recipe.backbone.name!r} here is not that of the run's training, {what}; "
            "bring that back, or name its place with `backbone` (on the command line, --backbone)"
        )
    method = build_for(recipe, PromptedClip(backbone), classes)
    load_prompts(folder, method)
    return method, classes


def build_for(recipe: Recipe, clip: PromptedClip, classes: RunClasses) -> Method:
    """A run's method as it was before the training, for its own classes or for others."""
    if recipe.training.data == "all_real":  # to which all classes are base classes
        classes = classes.model_copy(update={"base_count": len(classes.classnames)})
    name = recipe.training.method
    return build_method(name, clip, classes, recipe.methods.of(name), recipe.training.seed)


def carry_over(recipe: Recipe, run: RunFolder, method: Method, whose: str) -> None:
    """Put the prompts of a run into its method built for other classes.

    Args:
        whose: the other classes, for a message.

    Raises:
        UserError: what was learned belongs to the run's own classes, or has other shapes for these.
    """
    if _learns_for_each_class(recipe, method):
        raise UserError(
            f"{run.url}: {recipe.training.method!r} learned something for each class of {recipe.dataset.name!r}, "
            f"which does not carry over to {whose}; use a run whose prompts all classes share"
        )
    prompts = read_prompts(run)
    ours, theirs = ({key: tuple(value.shape) for key, value in one.items()} for one in (method.state_dict(), prompts))
    if other_shapes := sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key)):
        raise UserError(
            f"{run.path(PROMPTS)}: {other_shapes[0]} doesn't fit {whose}, whose names leave other room for "
            "learned words; train the run with a phrase or fewer text_tokens"
        )
    method.load_state_dict(prompts)
    method.known = 0


def _learns_for_each_class(recipe: Recipe, method: Method) -> bool:
    """Whether what a method learns grows with the number of classes, so that it belongs to just these."""
    settings, name = recipe.methods.of(recipe.training.method), method.classnames[0]

    def shapes(classes: int) -> list[tuple[int, ...]]:
        few = Dataset("few", [name] * classes, method.template, {})
        built: Method = build_method(recipe.training.method, method.clip, few, settings, seed=0)
        return [tuple(parameter.shape) for parameter in built.parameters()]

    return shapes(2) != shapes(3)
