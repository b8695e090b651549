"""Classes and CLIP model of a run, stored in the run folder to allow inference without the dataset."""

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
from syncclip.runs.data import require_inputs
from syncclip.training.loop import load_prompts, read_prompts
from syncclip.training.run_folder import PROMPTS, RECIPE, RECORD, RunFolder

CLASSES = "classes.json"
FILES = (RECIPE, PROMPTS, RECORD, CLASSES, RESULTS)
"""Files of a run that are used for inference; the first three are required."""


class RunClasses(Settings):
    """Content of `classes.json`. Labels are indices into `classnames`, which lists the base classes first."""

    format: Literal[1] = 1
    dataset: str
    """Name of the dataset."""
    classnames: Annotated[list[ShortText], MANY] = Field(min_length=1)
    template: Template
    base_count: int = Field(ge=1)
    """Number of base classes."""
    only: Annotated[list[int], MANY] | None = None
    """Labels of the candidate classes; None: all classes."""
    clip: str
    """Name and pretrained tag of the CLIP model."""
    clip_sha256: str | None = None
    """Checksum of the CLIP weights (see `Backbone.sha256`); None: unknown."""
    temperature: float = Field(1.0, gt=0)
    """Calibration temperature, by which logits are divided before the softmax."""
    preprocess: dict[str, Any] = Field(default={})
    """Preprocessing settings in open_clip's format: size, mean, std, interpolation and resize_mode."""

    @model_validator(mode="after")
    def _check_labels(self) -> RunClasses:
        count, only = len(self.classnames), self.only
        if self.base_count > count or (only is not None and not (only and {*only} <= {*range(count)})):
            raise ValueError(f"base_count and `only` must refer to the {count} classes in classnames")
        return self

    @property
    def base(self) -> list[int]:
        """Labels of the base classes."""
        return list(range(self.base_count))


def describe(
    recipe: Recipe, dataset: Dataset, backbone: Backbone | None = None, temperature: float = 1.0
) -> RunClasses:
    """Describe a run's dataset and CLIP model; without `backbone`, omit the model's checksum and preprocessing."""
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
    """Return the name and pretrained tag of the CLIP model in a recipe."""
    return ", ".join(filter(None, (recipe.backbone.name, recipe.backbone.pretrained)))


def read_classes(folder: RunFolder) -> RunClasses:
    """Read the `classes.json` of an evaluated run; raise a `UserError` if the file is missing or corrupt."""
    classes = storage.read_document(folder.path(CLASSES), RunClasses, "evaluate the run again", folder.owner)
    if classes is None:
        raise UserError(f"{folder.path(CLASSES)} is missing; create it with `syncclip evaluate {folder.url}`")
    return classes


def build_trained(recipe: Recipe, folder: RunFolder) -> tuple[Method, RunClasses]:
    """Load the trained method of a finished run onto the CPU, and read its classes.

    Raises:
        UserError: `classes.json` is missing or corrupt, or the CLIP model is missing or differs from the one
            used for training.
    """
    storage.configure(recipe.storage.options)
    classes, backbone = read_classes(folder), load_backbone(recipe.backbone)
    current = backbone.preprocess_settings
    changed = [key for key, value in classes.preprocess.items() if key in current and current[key] != value]
    if changed or classes.clip_sha256 not in (None, backbone.sha256):
        difference = f"different preprocessing: {changed[0]}" if changed else "different weights or activations"
        raise UserError(
            f"{folder.url}: CLIP model {recipe.backbone.name!r} does not match the model used for training "
            f"({difference}); restore the original model, or set its path with `backbone` (--backbone)"
        )
    method = build_for(recipe, PromptedClip(backbone), classes)
    require_inputs(recipe, folder)
    load_prompts(folder, method)
    return method, classes


def build_for(recipe: Recipe, clip: PromptedClip, classes: RunClasses) -> Method:
    """Build a run's untrained method for the given classes."""
    if recipe.training.data == "all_real":  # all classes are base classes
        classes = classes.model_copy(update={"base_count": len(classes.classnames)})
    name = recipe.training.method
    return build_method(name, clip, classes, recipe.methods.of(name), recipe.training.seed)


def carry_over(recipe: Recipe, run: RunFolder, method: Method, whose: str) -> None:
    """Load a run's learned prompts into a method that was built for different classes.

    Args:
        whose: description of the target classes for error messages.

    Raises:
        UserError: the learned parameters are class-specific or have different shapes.
    """
    if _is_class_specific(recipe, method):
        raise UserError(
            f"{run.url}: {recipe.training.method!r} learned class-specific parameters for {recipe.dataset.name!r}, "
            f"which do not transfer to {whose}; use a run with shared prompts"
        )
    prompts = read_prompts(run)
    expected, actual = (
        {key: tuple(value.shape) for key, value in state.items()} for state in (method.state_dict(), prompts)
    )
    if differing := sorted(key for key in expected.keys() | actual.keys() if expected.get(key) != actual.get(key)):
        raise UserError(
            f"{run.path(PROMPTS)}: {differing[0]} has a different shape for {whose}, because long class names limit "
            "the number of learned tokens; train again with initial_words or fewer text_tokens"
        )
    method.load_state_dict(prompts)
    method.known = 0


def _is_class_specific(recipe: Recipe, method: Method) -> bool:
    """Return whether the number of learned parameters depends on the number of classes."""
    settings, name = recipe.methods.of(recipe.training.method), method.classnames[0]

    def shapes(classes: int) -> list[tuple[int, ...]]:
        dataset = Dataset("small", [name] * classes, method.template, {})
        built: Method = build_method(recipe.training.method, method.clip, dataset, settings, seed=0)
        return [tuple(parameter.shape) for parameter in built.parameters()]

    return shapes(2) != shapes(3)
