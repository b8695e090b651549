"""What a synthetic set holds: class, prompt and seed of every image, as pure functions of integers.

Index-major order: sample n is image `n // C` of class `n % C`, so every prefix is class-balanced and the first k images
of each class are a prefix. Shards are cut at the amounts that were asked for, so a set that grows only gains shards.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, ValidationError, model_validator

from syncclip import storage
from syncclip.clip.backbone import BackboneSettings
from syncclip.core.secrets import json_without_secrets, value_without_secrets
from syncclip.core.settings import DATASET, MANY, Settings, ShortText, UserError, added, first_complaint
from syncclip.synthesis.filters import ClipFilterSettings, FilterSettings, check_scope
from syncclip.synthesis.generators.settings import MACHINE, GeneratorSettings
from syncclip.synthesis.prompts.settings import PromptSettings, check_classes, distinct, prompt_of, prompts_of
from syncclip.synthesis.seeds import MAX_IMAGES, seed_of, seeds_of
from syncclip.synthesis.settings import MAX_ATTEMPTS, SynthesisSettings

PLAN_NAME = "plan.json"
FORMAT = 1
SHARD_IMAGES = 64
"""Where no shard size is given, a shard holds at least so many: small enough that a lost one costs little."""
BATCH_GUESS = 8
"""What a batch that is still to be measured counts as in forecasts."""


@dataclass(frozen=True)
class Entry:
    """One attempt at one image."""

    index: int
    label: int
    image: int
    """Number of the image within its class."""
    attempt: int
    prompt: str
    seed: int


class Plan(Settings):
    """Everything that decides a set's bytes; stored in its folder as plan.json."""

    format: int = FORMAT
    dataset: Annotated[str, DATASET]
    classnames: Annotated[tuple[ShortText, ...], MANY]
    template: ShortText
    prompts: PromptSettings
    generator: GeneratorSettings
    weights: str = ""
    """Fingerprint of the generator's weights, or its commit on the hub; empty until the first shard is generated."""
    filters: tuple[FilterSettings, ...]
    attempts: int = Field(ge=1, le=MAX_ATTEMPTS)
    select: Literal["first", "best"]
    keep: Literal["best", "drop"]
    seed: int
    jpeg_quality: int
    threads: int
    shard_size: int = Field(ge=1)
    amounts: Annotated[tuple[int, ...], MANY]
    """Images per class, each time that more were asked for; ascending."""
    guides: Annotated[tuple[tuple[str, ...], ...], MANY] = added(())
    """For each class the digests of the real images that its images start from; see `guides.digests`."""

    @model_validator(mode="after")
    def _check_consistency(self) -> Plan:
        if not self.classnames:
            raise ValueError(f"dataset {self.dataset!r} has no classes, so there is nothing to generate")
        if not self.amounts or any(a >= b for a, b in pairwise((0, *self.amounts))):
            raise ValueError(f"amounts {list(self.amounts)} must be positive and ascending")
        if self.total > MAX_IMAGES:
            raise ValueError(
                f"{self.amounts[-1]} images of {self.classes} classes are more than the {MAX_IMAGES:,} images "
                "that a set can hold; make several sets with different seeds"
            )
        if self.generator.guide is not None and not any(self.guides):
            raise ValueError(f"generator.guide: there are no real images of {self.dataset!r} to start from; remove it")
        check_classes(self.prompts, self.classnames, self.dataset)
        return self

    @property
    def classes(self) -> int:
        """Number of classes, C."""
        return len(self.classnames)

    @property
    def images_per_class(self) -> int:
        """The largest amount that was asked for."""
        return self.amounts[-1]

    @property
    def total(self) -> int:
        """Images of the whole set."""
        return self.amounts[-1] * self.classes

    @property
    def batch(self) -> int:
        """Images generated at once; a guess, where it is still to be measured."""
        size = self.generator.batch_size
        return BATCH_GUESS if size == "auto" else size

    def guide_of(self, label: int, image: int) -> str | None:
        """Digest of the real image from which image `image` of a class starts at every attempt; None: noise."""
        real = self.guides[label] if self.guides else ()
        return real[image % len(real)] if real else None

    def entry(self, index: int, attempt: int = 0) -> Entry:
        """Class, prompt and seed of an attempt at sample `index`."""
        image, label = divmod(index, self.classes)
        prompt = prompt_of(self.prompts, self.template, self.classnames[label], image)
        return Entry(index, label, image, attempt, prompt, seed_of(self.seed, index, attempt))

    def prompts_of(self, indices: range) -> list[str]:
        """The prompts of consecutive samples; as `entry` has them, but for millions."""
        found: list[str] = []
        for image in range(indices.start // self.classes, -(-indices.stop // self.classes)):
            first = image * self.classes
            labels = slice(max(indices.start - first, 0), indices.stop - first)
            found += prompts_of(self.prompts, self.template, self.classnames[labels], image)
        return found

    def texts(self, most: int) -> list[str]:
        """The distinct prompts of the set; none, if they are more than `most`."""
        every = (distinct(self.prompts, self.template, name, self.images_per_class) for name in self.classnames)
        found: dict[str, None] = {}
        for prompt in chain.from_iterable(every):
            found[prompt] = None
            if len(found) > most:
                return []
        return list(found)

    def seeds_of(self, indices: range, attempt: int = 0) -> npt.NDArray[np.uint32]:
        """The seeds of samples, (n,); as `entry` has them, but for millions."""
        return seeds_of(self.seed, indices, attempt)

    def shards(self, images_per_class: int | None = None) -> range:
        """Numbers of the shards that hold the first `images_per_class` images of each class; all by default."""
        wanted = self.images_per_class if images_per_class is None else images_per_class
        assert 0 <= wanted <= self.images_per_class
        parts = (max(0, min(high, wanted) - low) * self.classes for low, high in pairwise((0, *self.amounts)))
        return range(sum(-(-images // self.shard_size) for images in parts))

    def shard_range(self, shard: int) -> range:
        """The sample indices of a shard."""
        first = 0
        for low, high in pairwise((0, *self.amounts)):
            count = -(-(high - low) * self.classes // self.shard_size)
            if first <= shard < first + count:
                start = low * self.classes + (shard - first) * self.shard_size
                return range(start, min(start + self.shard_size, high * self.classes))
            first += count
        raise IndexError(f"shard {shard} of {first}")

    @property
    def owner(self) -> str:
        """Identity of the set's files, see `storage.seals`: all that decides its images, but not how many there are."""
        values = self.normalized().model_dump(mode="json", exclude={"amounts"})
        return storage.identity(json_without_secrets(json.dumps(values, sort_keys=True)))

    def normalized(self) -> Plan:
        """The plan as it is stored: without what is particular to a machine."""
        return self.model_copy(update={"generator": self.generator.model_copy(update=MACHINE)})

    def extended(self, images_per_class: int) -> Plan:
        """The plan for at least so many images per class; the shards that it has already stay as they are."""
        if images_per_class <= self.images_per_class:
            return self
        return Plan.model_validate({**dict(self), "amounts": (*self.amounts, images_per_class)})


def draft(
    settings: SynthesisSettings,
    *,
    dataset: str,
    classnames: Sequence[str],
    template: str,
    backbone: BackboneSettings | None = None,
    guides: Sequence[Sequence[str]] = (),
) -> Plan:
    """The plan of a new set; pure. `backbone` scores where a CLIP filter names none; `guides` as the plan holds them.

    Raises:
        UserError: the classes or amounts can't make a set.
    """
    scorer = backbone or BackboneSettings()
    size = settings.generator.batch_size
    least = SHARD_IMAGES if size == "auto" else max(SHARD_IMAGES, size)
    rounds = -(-least // max(1, len(classnames)))
    shard_size = settings.shard_size or rounds * len(classnames) or 1
    if settings.images_per_class > 1:
        check_scope([one.name for one in settings.filters], shard_size, len(classnames))
    try:
        return Plan(
            dataset=dataset,
            classnames=tuple(classnames),
            template=template,
            prompts=settings.prompts,
            generator=settings.generator,
            filters=tuple(
                one.model_copy(update={"backbone": scorer})
                if isinstance(one, ClipFilterSettings) and one.backbone is None
                else one
                for one in settings.filters
            ),
            attempts=settings.attempts,
            select=settings.select,
            keep=settings.keep,
            seed=settings.seed,
            jpeg_quality=settings.jpeg_quality,
            threads=settings.threads,
            shard_size=shard_size,
            amounts=(settings.images_per_class,),
            guides=tuple(map(tuple, guides)),
        )
    except ValidationError as error:
        raise UserError(first_complaint(error)) from error


def read_plan(url: str) -> Plan | None:
    """The plan of the set at `url`; None where there is none.

    Raises:
        UserError: it can't be read, or a newer syncclip wrote it.
    """
    remedy = "use the version that wrote it, or another folder"
    return storage.read_document(storage.join(url, PLAN_NAME), Plan, remedy)


def agreed_plan(asked: Plan, stored: Plan, url: str) -> Plan:
    """The plan of the folder `url`, which holds the plan `stored`, once it has the images that are asked for.

    A stored plan with fewer images grows by another amount, one with more stays as it is. Unknown weights (empty)
    agree with any, and what is still to be measured takes what was measured there.

    Raises:
        UserError: the folder holds another plan's set.
    """
    if found := differences(stored, asked):
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise UserError(
            f"{url} holds a set generated by another plan: {found[0]}{more}; use another folder, or the old settings"
        )
    generator = stored.generator.model_copy(update={key: getattr(asked.generator, key) for key in MACHINE})
    agreed = {"generator": generator, "weights": stored.weights or asked.weights}
    return stored.model_copy(update=agreed).extended(asked.images_per_class)


def write_plan(plan: Plan, url: str) -> Plan:
    """Make an agreed plan the one of the folder, and return it.

    After a crash the folder holds the old plan or the new one; both fit its shards.
    """
    assert plan.generator.batch_size != "auto", "it is measured before the plan is written"
    storage.write_document(storage.join(url, PLAN_NAME), plan.normalized(), plan.owner)
    return plan


def differences(stored: Plan, asked: Plan) -> list[str]:
    """What keeps two plans from being the same set, one phrase each (`seed is 0 there and 1 here`)."""
    there, here = _flat(stored.model_dump()), _flat(asked.model_dump())
    free = {"amounts", *(f"generator.{key}" for key in MACHINE)}
    free |= {f"generator.{name}" for name in ("batch_size", "attention") if getattr(asked.generator, name) == "auto"}
    found = []
    for key in sorted({*there, *here}):
        old, new = there.get(key), here.get(key)
        late = key == "weights" or key.endswith(".digest")  # empty until the first shard is generated
        if old == new or key in free or (late and not (old and new)):
            continue
        if isinstance(old, str) and isinstance(new, str) and value_without_secrets(old) == value_without_secrets(new):
            continue  # the stored one was written without
        if key == "classnames":
            changed = [(a, b) for a, b in zip(stored.classnames, asked.classnames, strict=False) if a != b]
            old, new = changed[0] if changed else (f"{stored.classes} names", f"{asked.classes} names")
        if key == "guides":
            kept = len({*chain(*(old or ()))} & {*chain(*(new or ()))})
            old, new = f"{sum(map(len, old or ()))} images", f"{sum(map(len, new or ()))}, {kept} of them the same"
        found.append(f"{key} is {_short(old)} there and {_short(new)} here")
    return found


def _short(value: object, limit: int = 120) -> str:
    text = repr(value)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat.update(_flat(value, f"{prefix}{key}."))
        elif key == "filters":
            flat["filters"] = [one["name"] for one in value]
            for one in value:
                flat.update(_flat(one, f"filters.{one.get('called', one['name'])}."))
        elif key == "strategies":
            flat[prefix + key] = [one["name"] for one in value]
            for place, one in enumerate(value):
                flat.update(_flat(one, f"{prefix}{key}[{place}]."))
        else:
            flat[prefix + key] = value
    return flat
