"""`syncclip assess`: predict whether synthetic images will help, before generating any."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

import syncclip
from syncclip.cli.arguments import Overrides
from syncclip.core import text
from syncclip.core.settings import UserError
from syncclip.core.text import counted, cut

if TYPE_CHECKING:
    from syncclip.recipe.recipe import Recipe
    from syncclip.studies.assess import Assessment, ClassPair
    from syncclip.studies.gain_prediction import ExpectedGain
    from syncclip.studies.pilot import Pilot

WIDTH = 80
"""Maximum line length in characters."""
CONFIGURATIONS = "https://syncclip.github.io/syncclip/docs/choosing-a-method.html"
"""Page that describes the configurations of the gain map."""
LONGEST_NAME = 20
"""Maximum length of a class name in a pair, in characters."""


def assess(
    source: Annotated[
        str,
        typer.Argument(
            default_factory=str,
            show_default=False,
            metavar="RECIPE_OR_DATASET",
            help="Recipe, dataset name or folder of images; default: the pilot's recipe.",
        ),
    ],
    overrides: Overrides,
    pilot: Annotated[
        str | None,
        typer.Option(
            "--pilot",
            metavar="DIR",
            help="Finished study with 1 to 4 images per class, evaluated on validation images.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Predict from a dataset and a CLIP model whether synthetic images will help, without generating any."""
    loaded = _recipe(source, overrides, pilot)
    assessment = syncclip.assess(loaded, pilot)
    if as_json:
        from syncclip.studies.outputs import plain

        text.show(json.dumps(plain(assessment), indent=1, ensure_ascii=False))
    else:
        text.show("\n".join(lines(assessment, source)))


def _is_recipe(source: str) -> bool:
    from syncclip.recipe.files import shipped

    return source.endswith((".yaml", ".yml")) or source in shipped()


def _recipe(source: str, overrides: list[str], pilot: str | None) -> Recipe:
    if _is_recipe(source):
        return syncclip.Recipe.load(source, overrides)
    if source:
        return syncclip.Recipe.of_dataset(source, overrides=overrides)
    if pilot is None:
        raise UserError("missing argument: specify a recipe, a dataset, or --pilot DIR")
    from syncclip.studies.pilot import recipe_of_pilot

    return recipe_of_pilot(pilot)


def lines(assessment: Assessment, source: str) -> list[str]:
    """Return an assessment as lines of text, starting with the conclusion."""
    paragraphs = [*_conclusion(assessment, source), "", *_measured(assessment)]
    if assessment.expected:
        paragraphs += ["", *_by_configuration(assessment.expected), "", *assessment.limits]
    return [
        line
        for paragraph in paragraphs
        for line in (
            [paragraph]  # a command, which would not run if it contained line breaks
            if paragraph.startswith("  syncclip ")
            else textwrap.wrap(paragraph, WIDTH, subsequent_indent="  ", break_on_hyphens=False) or [""]
        )
    ]


def first_lines(recipe: Recipe, source: str) -> list[str]:
    """Assess a recipe in three lines, or return the reason for a failure; a hint if the CLIP weights are not local."""
    from syncclip.clip.backbone import is_local

    if not is_local(recipe.backbone):
        return [f"to predict whether synthetic images will help: `syncclip assess {source}` (downloads the CLIP model)"]
    try:
        return short(syncclip.assess(recipe), source)
    except UserError as error:
        return [f"not assessed: {error}"]


def short(assessment: Assessment, source: str) -> list[str]:
    """Summarise an assessment in three lines of text."""
    a = assessment
    return [
        f"name knowledge of CLIP {a.clip!r}: {a.name_knowledge:.2f} (zero-shot {a.zero_shot:.1f} %, class means "
        f"{a.class_means:.1f} %, chance {a.chance:.1f} %)",
        _headline(a),
        f"details: `syncclip assess {source}`",
    ]


def _headline(assessment: Assessment) -> str:
    from syncclip.studies.gain_prediction import described

    if assessment.reason is not None:
        return f"No prediction: {assessment.reason}; measured values only."
    gain = assessment.recommended
    if gain is None:
        return (
            "Recommended method: none; no method with synthetic images is predicted to outperform zero-shot CLIP and "
            "all methods on real images only."
        )
    images = counted(gain.images_per_class, "synthetic image")
    return (
        f"Recommended: {gain.configuration} with {images} per class; {described(gain.over_real)} over real images only "
        f"({gain.real_only})."
    )


def _conclusion(assessment: Assessment, source: str) -> Iterator[str]:
    from syncclip.studies.gain_prediction import described

    if assessment.pilot is not None:
        yield from _of_pilot(assessment.pilot)
    yield _headline(assessment)
    gain = assessment.recommended
    if gain is not None:
        yield (
            f"Over zero-shot CLIP: {described(gain.over_zero_shot)}. Gains are in harmonic mean over all classes, with "
            f"95 % prediction intervals for a new dataset; more images are predicted to add less than a point."
        )
    if gain is not None and min(gain.over_real.low, gain.over_zero_shot.low) <= 0:
        yield "An interval includes zero: confirm the gain with a pilot before a large study."
    if assessment.pilot is None and (gain is not None or not assessment.expected):
        yield from _next_step(source, assessment)


def _next_step(source: str, assessment: Assessment) -> Iterator[str]:
    from syncclip.studies.pilot import OUT, pilot_command

    if not _is_recipe(source):
        yield f"Next: `syncclip init {source}`, then a pilot study with the recipe."
        return
    command = pilot_command(source, assessment.validation, assessment.recommended)
    without = "" if assessment.validation else " (on test images, because the dataset has no validation split)"
    yield f"Next, a pilot{without}:"
    yield f"  {command}"
    yield f"  syncclip assess {source} --pilot {OUT}"


def _of_pilot(pilot: Pilot) -> Iterator[str]:
    from syncclip.studies.gain_prediction import described

    images = counted(pilot.images_per_class, "image")
    gained = f"{pilot.configuration} with {images} per class gained {described(pilot.measured)} over {pilot.real_only}"
    if pilot.additional is None:
        yield f"Pilot: {pilot.verdict}. {gained}. No extrapolation to more images: {pilot.reason}."
    else:
        more = f"{pilot.limit} images per class are expected to add {described(pilot.additional)}"
        yield f"Pilot: {pilot.verdict}. {gained}; {more}."
    if len(pilot.measured_at) == 1:
        yield (
            "A single number of images cannot show whether more images help; run a pilot with at least two, such as "
            "study.images_per_class=[1,4]."
        )
    if pilot.split != "val":
        yield (
            f"The pilot read {pilot.split} images, because the dataset has no validation split: after a decision based "
            f"on it, accuracies on the {pilot.split} split are optimistic."
        )
    seeds = (
        " The interval does not include the variation between seeds, because the pilot has one."
        if pilot.seeds == 1
        else ""
    )
    limit = pilot.images_per_class if pilot.additional is None else pilot.limit
    yield f"The pilot does not support conclusions beyond {limit} images per class.{seeds}"


def _measured(assessment: Assessment) -> Iterator[str]:
    a = assessment
    yield f"{a.dataset}: {a.base + a.novel:,} classes, {a.base:,} of them base classes; CLIP {a.clip!r}"
    yield f"measured on {counted(a.images, 'training image')} of base classes, no test image:"
    yield f"  {'chance level':<36}{a.chance:6.1f} %"
    yield f"  {'zero-shot (class names)':<36}{a.zero_shot:6.1f} %"
    yield f"  {'class means (images), leave-one-out':<36}{a.class_means:6.1f} %"
    yield f"  {'name knowledge (ratio)':<36}{a.name_knowledge:6.2f}"
    if a.map_knowledge is not None and a.map_knowledge != a.name_knowledge:
        yield f"  {f'with {a.map_shots} shots, as in the gain map':<36}{a.map_knowledge:6.2f}"
    if a.map_range is not None:
        yield f"  {'range of the gain map':<36}{a.map_range[0]:6.2f} to {a.map_range[1]:.2f}"
    yield f"most similar class names (cosine): {_pairs(a.similar, '.2f', '')}"
    if a.confused:
        yield f"most confused by zero-shot CLIP: {_pairs(a.confused, '.0f', ' %')}"


def _pairs(pairs: tuple[ClassPair, ...], form: str, unit: str) -> str:
    return ", ".join(
        f"{cut(pair.names[0], LONGEST_NAME)} and {cut(pair.names[1], LONGEST_NAME)} ({pair.value:{form}}{unit})"
        for pair in pairs
    )


def _by_configuration(expected: tuple[ExpectedGain, ...]) -> Iterator[str]:
    """Yield each configuration's expected gain at the smallest number of images close to its maximum gain."""
    from syncclip.core.text import signed
    from syncclip.studies.gain_prediction import enough_images

    yield f"{'expected gain, points':<26}{'images':>6}  {'over real images only':<23}{'over zero-shot CLIP':<23}"
    for gain in sorted(enough_images(expected), key=lambda gain: -gain.over_zero_shot.estimate):
        intervals = (
            f"{signed(each.estimate)} ({signed(each.low, each.high)})" for each in (gain.over_real, gain.over_zero_shot)
        )
        over_real, over_zero_shot = intervals
        yield f"{cut(gain.configuration, 25):<26}{gain.images_per_class:>6}  {over_real:<23}{over_zero_shot:<23}"
    by_baseline: dict[str, list[str]] = {}
    for gain in enough_images(expected):
        by_baseline.setdefault(gain.real_only, []).append(gain.configuration)
    pairs = (f"{name} for {', '.join(configurations)}" for name, configurations in by_baseline.items())
    yield f"real images only: {'; '.join(pairs)}"
    yield (
        "names: METHOD-DATA, trained on real images (real) or real and synthetic images (both); @both, -shared and "
        f"-vectors are variants of SYNC-CLIP, see {CONFIGURATIONS}"
    )
