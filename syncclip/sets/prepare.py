"""syncclip.sets.prepare"""

from __future__ import annotations

from syncclip import storage
from syncclip.datasets import load_dataset
from syncclip.recipe.recipe import Recipe
from syncclip.shards.reader import ImageSet
from syncclip.synthesis.filters import check_safety, pinned
from syncclip.synthesis.generators import check_scheduler
from syncclip.synthesis.plan import Plan, draft, settled
from syncclip.synthesis.prompts.files import with_sentences
from syncclip.synthesis.references import digests, lay, real_images


def plan(recipe: Recipe) -> Plan:
    """What `synthesise` would draw: class, prompt and seed of every image. Nothing is drawn or written.

    Raises:
        UserError: the dataset isn't there, or can't be drawn like this.
    """
    generator = recipe.synthesis.generator
    check_scheduler(generator)
    check_safety(recipe.synthesis.filters, generator)
    storage.configure(recipe.storage.options)
    dataset = load_dataset(recipe.dataset)
    guides = digests(real_images(dataset, *recipe.shots)) if generator.guide else ()
    return draft(
        recipe.synthesis.model_copy(update={"prompts": with_sentences(recipe.synthesis.prompts)}),
        dataset=dataset.name,
        classnames=dataset.classnames,
        template=dataset.template,
        backbone=recipe.backbone,
        guides=guides,
    )


def with_material(recipe: Recipe, drawn: Plan, url: str) -> Plan:
    """The plan with all that it needs laid into the set's folder: real images to start from, filters' heads, features
    of test images.

    Raises:
        UserError: the folder holds another plan's set, or something is missing or isn't what the set was begun with.
    """
    agreed = settled(drawn, url)
    if agreed.guides:
        dataset = load_dataset(recipe.dataset)
        lay(real_images(dataset, *recipe.shots), dataset, url)

    def test_images() -> ImageSet:
        return load_dataset(recipe.dataset).split("test")

    return drawn.model_copy(update={"filters": pinned(agreed.filters, url, test_images)})
