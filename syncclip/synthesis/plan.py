"""Plan of a synthetic dataset; the class, prompt and seed of every image are pure functions of its index.

With C classes, sample n is image `n // C` of class `n % C`, which makes every prefix class-balanced. No shard spans an
extension boundary, so extending a dataset only adds shards.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from syncclip import storage
from syncclip.clip.backbone import BackboneSettings
from syncclip.core.secrets import json_without_secrets, without_secrets
from syncclip.core.settings import MANY, Settings, ShortText, UserError, added
from syncclip.core.text import counted, cut
from syncclip.core.validation_errors import first_error
from syncclip.shards.markers import GROUP
from syncclip.synthesis.filters import ClipFilterSettings, FilterSettings, check_scope
from syncclip.synthesis.generators.settings import MACHINE, UNKNOWN, GeneratorSettings
from syncclip.synthesis.prompts.settings import PromptSettings, check_classes, distinct, prompt_of
from syncclip.synthesis.seeds import MAX_IMAGES, seed_of
from syncclip.synthesis.settings import MAX_ATTEMPTS, SynthesisSettings

PLAN_NAME = "plan.json"
FORMAT = 1
SHARD_IMAGES = 64
"""Default minimum number of images per shard, kept small to limit the cost of a lost shard."""
DEFAULT_SHARDS = 50_000
"""Maximum number of shards of the default size, since a shard consists of three objects."""
MAX_SHARDS = 2**22
"""Maximum number of shards in a dataset, since lists of them must fit in memory."""
BATCH_GUESS = 8
"""Batch size assumed in forecasts if `generator.batch_size` is `auto`."""


def check_size(images_per_class: int, classes: int, shards: int) -> None:
    """Raise a ValueError if a synthetic dataset has too many images or shards."""
    if images_per_class * classes > MAX_IMAGES:
        raise ValueError(
            f"{images_per_class} images for each of {classes} classes exceed the maximum of {MAX_IMAGES:,} "
            "per synthetic dataset; generate several datasets with different seeds"
        )
    if shards > MAX_SHARDS:
        raise ValueError(f"{shards:,} shards exceed the maximum of {MAX_SHARDS:,}; increase shard_size")


@dataclass(frozen=True)
class Entry:
    """A generation attempt for an image."""

    index: int
    label: int
    image: int
    """Index of the image within its class."""
    attempt: int
    prompt: str
    seed: int


class Plan(Settings):
    """Settings that determine a dataset's bytes, stored as plan.json in the dataset's folder."""

    format: int = FORMAT
    dataset: str
    classnames: Annotated[tuple[ShortText, ...], MANY]
    template: ShortText
    prompts: PromptSettings
    generator: GeneratorSettings
    weights: str = ""
    """Fingerprint of the generator's weights, or their commit on the hub; empty before the first shard."""
    filters: tuple[FilterSettings, ...]
    attempts: int = Field(ge=1, le=MAX_ATTEMPTS)
    select: Literal["first", "best"]
    keep: Literal["best", "drop"]
    seed: int
    jpeg_quality: int
    threads: int
    shard_size: int = Field(ge=1)
    amounts: Annotated[tuple[int, ...], MANY]
    """Number of images per class at creation and after each extension, in ascending order."""
    guides: Annotated[tuple[tuple[str, ...], ...], MANY] = added(())
    """Checksums of each class's real images for real guidance; see `references.digests`."""
    mark: Literal["iptc", "none"] = added("none")
    """Provenance mark in each image; see `mark.mark_of`."""
    licence: ShortText = added(UNKNOWN)
    """Licences of the generator's weights; see `generators.licences`."""

    @model_validator(mode="after")
    def _check_consistency(self) -> Plan:
        if not self.classnames:
            raise ValueError(f"dataset {self.dataset!r} has no classes; add at least one")
        if not self.amounts or any(a >= b for a, b in pairwise((0, *self.amounts))):
            raise ValueError(f"numbers of images per class must be positive and ascending, not {list(self.amounts)}")
        check_size(self.images_per_class, self.classes, len(self.shards()))
        if self.generator.guide is not None and not any(self.guides):
            raise ValueError(
                f"generator.guide requires real images, but dataset {self.dataset!r} has none; remove guide"
            )
        check_classes(self.prompts, self.classnames, self.dataset)
        return self

    @property
    def classes(self) -> int:
        """Number of classes, C."""
        return len(self.classnames)

    @property
    def images_per_class(self) -> int:
        """Number of images per class."""
        return self.amounts[-1]

    @property
    def total(self) -> int:
        """Number of images in the dataset."""
        return self.amounts[-1] * self.classes

    @property
    def batch(self) -> int:
        """Number of images per batch; `BATCH_GUESS` for `auto`."""
        size = self.generator.batch_size
        return BATCH_GUESS if size == "auto" else size

    def guide_of(self, label: int, image: int) -> str | None:
        """Return the checksum of the real image that guides image number `image` of a class, if any."""
        real = self.guides[label] if self.guides else ()
        return real[image % len(real)] if real else None

    def entry(self, index: int, attempt: int = 0) -> Entry:
        """Return the class, prompt and seed of a generation attempt for sample `index`."""
        image, label = divmod(index, self.classes)
        prompt = prompt_of(self.prompts, self.template, self.classnames[label], image)
        return Entry(index, label, image, attempt, prompt, seed_of(self.seed, index, attempt))

    def texts(self, limit: int) -> list[str]:
        """Return the distinct prompts of the dataset, or an empty list if there are more than `limit`."""
        per_class = (distinct(self.prompts, self.template, name, self.images_per_class) for name in self.classnames)
        prompts: dict[str, None] = {}
        for prompt in chain.from_iterable(per_class):
            prompts[prompt] = None
            if len(prompts) > limit:
                return []
        return list(prompts)

    def shards(self, images_per_class: int | None = None) -> range:
        """Return the shards with the first `images_per_class` images of each class; by default, all shards."""
        limit = self.images_per_class if images_per_class is None else images_per_class
        assert 0 <= limit <= self.images_per_class
        parts = (max(0, min(high, limit) - low) * self.classes for low, high in pairwise((0, *self.amounts)))
        return range(sum(-(-images // self.shard_size) for images in parts))

    def shard_range(self, shard: int) -> range:
        """Return the sample indices of a shard."""
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
        """Owner ID of the dataset's files (see `storage.checksums`), independent of the number of images."""
        # The settings in `MACHINE` are left out, as they are from a stored plan; the licence doesn't affect the files.
        values = self.model_dump(mode="json", exclude={"amounts": True, "licence": True, "generator": set(MACHINE)})
        return storage.identity(json_without_secrets(json.dumps(values, sort_keys=True)))

    def to_store(self) -> Plan:
        """Return the plan without machine-specific settings."""
        return self.model_copy(update={"generator": self.generator.model_copy(update=MACHINE)})

    def limited(self, images_per_class: int) -> Plan:
        """Return the plan of the first `images_per_class` images of each class."""
        amounts = [*(amount for amount in self.amounts if amount < images_per_class), images_per_class]
        return self.model_copy(update={"amounts": tuple(amounts)})

    def extended(self, images_per_class: int) -> Plan:
        """Return the plan, extended to at least `images_per_class` images per class; existing shards don't change."""
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
    """Return the plan of a new dataset; `backbone` is the filters' default CLIP model. For `guides`, see `Plan`."""
    scorer = backbone or BackboneSettings()
    size = settings.generator.batch_size
    minimum = SHARD_IMAGES if size == "auto" else max(SHARD_IMAGES, size)
    rounds = max(-(-minimum // max(1, len(classnames))), -(-settings.images_per_class // DEFAULT_SHARDS))
    shard_size = settings.shard_size or rounds * len(classnames) or 1
    if settings.images_per_class > 1:
        check_scope([entry.name for entry in settings.filters], shard_size, len(classnames))
    values = {key: value for key, value in settings if key in Plan.model_fields}
    values |= {"dataset": dataset, "classnames": tuple(classnames), "template": template, "shard_size": shard_size}
    values |= {"amounts": (settings.images_per_class,), "guides": tuple(map(tuple, guides))}
    values["filters"] = tuple(
        entry.model_copy(update={"backbone": scorer})
        if isinstance(entry, ClipFilterSettings) and entry.backbone is None
        else entry
        for entry in settings.filters
    )
    try:
        return Plan.model_validate(values)
    except ValidationError as error:
        raise UserError(first_error(error)) from error


def parse_shards(text: str, shards: int) -> range:
    """Parse a range of shards, `FIRST:END` or `PART/PARTS`, such as `0:50000` or `3/8`.

    Parts are contiguous and begin at multiples of `GROUP`, the number of markers that are stored together, if possible.

    Args:
        shards: number of shards in the plan.

    Raises:
        UserError: the text is invalid, or the range is not contained in the plan.
    """
    if match := re.fullmatch(r"(\d+):(\d+)", text):
        first, end = int(match[1]), int(match[2])
        if first < end <= shards:
            return range(first, end)
    elif match := re.fullmatch(r"(\d+)/(\d+)", text):
        part, parts = int(match[1]), int(match[2])
        unit = GROUP if shards >= GROUP * parts else 1
        if 1 <= part <= parts <= shards:
            first, end = (shards * number // parts // unit * unit for number in (part - 1, part))
            return range(first, shards if part == parts else end)
    raise UserError(
        f"--shards {text}: not a range of the plan's {counted(shards, 'shard')}; use FIRST:END, such as 0:{shards}, or "
        "PART/PARTS, such as 1/2"
    )


def read_plan(url: str) -> Plan | None:
    """Return the plan of the dataset at `url`, if any; raise a UserError if this version can't read it."""
    remedy = "use the version that wrote the plan, or a different folder"
    return storage.read_document(storage.join(url, PLAN_NAME), Plan, remedy)


def agreed_plan(requested: Plan, stored: Plan, url: str) -> Plan:
    """Return the `stored` plan, extended to the requested number of images; `auto` keeps the stored batch size.

    Raise a UserError if the plans are incompatible.
    """
    if changes := differences(stored, requested):
        more = f", and {len(changes) - 1} more" if len(changes) > 1 else ""
        raise UserError(
            f"{url} contains a dataset generated with different settings ({changes[0]}{more}); use a different folder, "
            "or restore the old settings"
        )
    generator = stored.generator.model_copy(update={key: getattr(requested.generator, key) for key in MACHINE})
    agreed = {"generator": generator, "weights": stored.weights or requested.weights}
    return stored.model_copy(update=agreed).extended(requested.images_per_class)


def write_plan(plan: Plan, url: str) -> Plan:
    """Atomically store a plan from `draft` or `agreed_plan`, without machine-specific settings, and return the plan."""
    assert plan.generator.batch_size != "auto", "the batch size is measured before the plan is written"
    storage.write_document(storage.join(url, PLAN_NAME), plan.to_store(), plan.owner)
    return plan


def differences(stored: Plan, requested: Plan) -> list[str]:
    """Return the incompatible values of two plans as `key: stored -> requested`."""
    before, after = _flat(stored.model_dump()), _flat(requested.model_dump())
    ignored = {"amounts", "licence", *(f"generator.{key}" for key in MACHINE)}
    ignored |= {"generator.batch_size"} if requested.generator.batch_size == "auto" else set()
    ignored |= {"mark"} if stored.mark == "none" else set()  # the dataset may be older than the setting
    changes = []
    for key in sorted({*before, *after} - ignored):
        old, new = before.get(key), after.get(key)
        late = key == "weights" or key.endswith(".checksum")  # empty before the first shard
        if old == new or (late and not (old and new)):
            continue
        if isinstance(old, str) and isinstance(new, str) and without_secrets(old, True) == without_secrets(new, True):
            continue
        if key == "classnames":
            pairs = [(a, b) for a, b in zip(stored.classnames, requested.classnames, strict=False) if a != b]
            old, new = pairs[0] if pairs else (f"{stored.classes} names", f"{requested.classes} names")
        if key == "guides":
            kept = len({*chain(*(old or ()))} & {*chain(*(new or ()))})
            old, new = f"{sum(map(len, old or ()))} images", f"{sum(map(len, new or ()))} images, {kept} identical"
        changes.append(f"{key}: {cut(repr(old), 120)} -> {cut(repr(new), 120)}")
    return changes


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat.update(_flat(value, f"{prefix}{key}."))
        elif key == "filters":
            flat["filters"] = [entry["name"] for entry in value]
            for entry in value:
                flat.update(_flat(entry, f"filters.{entry.get('reason', entry['name'])}."))
        elif key == "strategies":
            flat[prefix + key] = [entry["name"] for entry in value]
            for number, entry in enumerate(value):
                flat.update(_flat(entry, f"{prefix}{key}[{number}]."))
        else:
            flat[prefix + key] = value
    return flat
