"""Plan of a recipe's synthetic dataset, and the assets that the plan requires."""

from __future__ import annotations

from syncclip import storage
from syncclip.datasets import load_dataset
from syncclip.recipe.recipe import Recipe
from syncclip.synthesis.filters import AnyFilterSettings
from syncclip.synthesis.filters.clip_head import ClipHeadSettings, with_head_checksum
from syncclip.synthesis.filters.leakage import LeakageSettings, with_leakage_checksum
from syncclip.synthesis.filters.safety import SafetySettings, check_safety, with_safety_checksum
from syncclip.synthesis.generators.loading import find_scheduler
from syncclip.synthesis.plan import Plan, draft
from syncclip.synthesis.prompts.files import with_sentences
from syncclip.synthesis.references import digests, real_images, store


def plan(recipe: Recipe) -> Plan:
    """Plan a synthetic dataset, i.e. the class, prompt and seed of every image, without generating or writing anything.

    Raises:
        UserError: the real dataset is missing, or the settings are invalid for that dataset.

    Examples:
        >>> from syncclip import Recipe, plan
        >>> planned = plan(Recipe.load("travel", ["synthesis.images_per_class=2"]))
        >>> planned.total, planned.classnames[0]
        (28, 'airplane')
    """
    synthesis = recipe.synthesis
    if synthesis.generator.scheduler is not None:
        find_scheduler(synthesis.generator.scheduler)
    for settings in synthesis.filters:
        if isinstance(settings, SafetySettings):
            check_safety(settings, synthesis.generator)
    storage.configure(recipe.storage.options)
    dataset = load_dataset(recipe.dataset)
    guides = digests(real_images(dataset, *recipe.shots)) if synthesis.generator.guide else ()
    if synthesis.prompts.strategies:
        synthesis = synthesis.model_copy(update={"prompts": with_sentences(synthesis.prompts)})
    return draft(
        synthesis,
        dataset=dataset.name,
        classnames=dataset.classnames,
        template=dataset.template,
        backbone=recipe.backbone,
        guides=guides,
    )


def with_assets(recipe: Recipe, plan: Plan, url: str) -> Plan:
    """Store a plan's assets (reference images, filter heads, test features); return the plan with their checksums.

    Raises:
        UserError: an asset is missing, or differs from the asset in the existing dataset.
    """
    if plan.guides:
        dataset = load_dataset(recipe.dataset)
        store(real_images(dataset, *recipe.shots), dataset, url)
    filters: list[AnyFilterSettings] = []
    for settings in plan.filters:
        match settings:
            case ClipHeadSettings():
                filters.append(with_head_checksum(settings, url))
            case LeakageSettings():
                filters.append(with_leakage_checksum(settings, url, lambda: load_dataset(recipe.dataset).split("test")))
            case SafetySettings():
                filters.append(with_safety_checksum(settings))
            case _:
                filters.append(settings)
    return plan.model_copy(update={"filters": tuple(filters)})
