"""The `study` section of a recipe: configurations, numbers of images, seeds and statistics."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ModelWrapValidatorHandler, model_validator

from syncclip.core.settings import Settings, added
from syncclip.core.text import did_you_mean
from syncclip.methods.settings import TestDomain

UNTRAINED = "zeroshot"
"""Untrained baseline; a single run covers all numbers of images and all seeds."""

Amount = Annotated[int, Field(ge=1)]
"""Number of synthetic images per class."""


class Configuration(Settings):
    """A configuration of the study: a method and its training data."""

    method: str
    """Method: a name in `methods`, or `module:Class`."""
    data: Literal["real", "synthetic", "both", "all_real"] = "both"
    """Training data; see `training.data`."""
    name: str = ""
    """Name of the configuration in tables and folders; default: `METHOD-DATA`."""
    images_per_class: list[int] | None = Field(default=None, min_length=1)
    """Subset of `study.images_per_class` for this configuration; default: all of `study.images_per_class`."""
    overrides: dict[str, Any] = Field(default={})
    """Recipe values to override for this configuration, e.g. `{methods.syncclip.learning_rate: 0.02}`."""
    test_domains: list[TestDomain] = added([])
    """Additional domains whose prompts are used to encode the test images (see `methods.syncclip.test_domain`); each
    domain adds a configuration `NAME@DOMAIN` to tables and comparisons, without another training run."""
    search_space: dict[str, Annotated[list[Any], Field(min_length=1)]] = Field(default={})
    """Hyperparameter search space for `syncclip tune`: a list of values per key, with keys as in `overrides`. All
    combinations, or `study.tune_trials` of them, are evaluated on the validation split."""

    @model_validator(mode="wrap")
    @classmethod
    def _named(cls, values: Any, validated: ModelWrapValidatorHandler[Configuration]) -> Configuration:
        if isinstance(values, dict) and not values.get("name"):
            method = str(values.get("method")).rpartition(":")[2]
            values = {**values, "name": method if method == UNTRAINED else f"{method}-{values.get('data', 'both')}"}
        configuration = validated(values)
        if set(configuration.name) & set("/\\ ") or configuration.name.startswith("."):
            raise ValueError(
                f"configuration name {configuration.name!r} is not a valid folder name; use letters, digits, '-' and "
                "'_'"
            )
        return configuration

    @property
    def evaluated(self) -> dict[TestDomain | None, Configuration]:
        """Configurations in the results: this configuration (key None) and a copy for each test domain."""
        none: dict[TestDomain | None, Configuration] = {None: self}
        return none | {
            domain: self.model_copy(update={"name": f"{self.name}@{domain}", "test_domains": []})
            for domain in self.test_domains
        }

    @property
    def trained(self) -> bool:
        """Whether the configuration is trained."""
        return self.method != UNTRAINED

    @property
    def real(self) -> bool:
        """Whether the configuration uses real images."""
        return self.trained and self.data != "synthetic"

    @property
    def synthetic(self) -> bool:
        """Whether the configuration uses synthetic images."""
        return self.trained and self.data in ("synthetic", "both")

    def at(self, amounts: list[int]) -> list[int]:
        """Return the numbers of images per class for this configuration's runs, clipped to the study's maximum."""
        if self.images_per_class is None:
            return amounts
        selected = {min(n, max(amounts)) for n in self.images_per_class}
        return [n for n in amounts if n in selected]


DEFAULT_CONFIGURATIONS = [
    Configuration(method=UNTRAINED),
    Configuration(method="ivlp", data="real"),
    Configuration(method="ivlp", data="synthetic"),
    Configuration(method="ivlp", data="both"),
    Configuration(method="syncclip", data="both"),
]


class StudySettings(Settings):
    """The `study` section of a recipe: grid (configuration x images per class x seed), resources and statistics."""

    configurations: list[Configuration] = Field(default=DEFAULT_CONFIGURATIONS, min_length=1)
    """Configurations to compare; each configuration is run with all seeds and, for synthetic data, all numbers of
    images."""
    images_per_class: list[Amount] = Field(default=[1, 4, 16, 64], min_length=1)
    """Numbers of synthetic images per class to compare; smaller subsets are prefixes of larger ones."""
    seeds: list[int] = Field(default=[1, 2, 3, 4, 5], min_length=1)
    """Seeds for the few-shot sample, the initial prompts and the data order."""
    reference: str = "syncclip-both"
    """Name of the reference configuration for comparisons and the 2-D feature projection; if no configuration has this
    name, the last configuration is the reference."""
    pretrained: list[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]] = added([])
    """Pretrained tags of the CLIP model; the study is repeated with each tag, on the same synthetic images and in a
    separate subfolder. Replaces `backbone.pretrained`. Default: a single study with `backbone.pretrained`."""
    compare: list[tuple[str, str]] = added([])
    """Additional comparisons at the same number of images, as pairs of configuration names `[CONFIGURATION, BASELINE]`;
    the reference is always compared with all other configurations."""

    cpus: float = Field(default=1, gt=0)
    """CPUs that Ray reserves for each run."""
    gpus: float = Field(default=0, ge=0)
    """GPUs that Ray reserves for each run; a fraction lets several runs share a GPU."""
    retries: int = Field(default=2, ge=0)
    """Maximum number of retries for a run whose process or machine is lost."""
    keep_images: int = added(256 << 20, ge=0)
    """Maximum size in bytes of each process's cache of decoded test images, which is reused across runs."""

    resamples: int = Field(default=2000, ge=100)
    """Number of bootstrap resamples."""
    confidence_level: float = Field(default=0.95, gt=0.5, lt=1)
    """Confidence level of the bootstrap confidence intervals."""
    forecast: list[Amount] = Field(default=[])
    """Numbers of images per class to extrapolate to; default: 4 and 16 times the maximum of `images_per_class`."""
    map_images: int = Field(default=1000, ge=1)
    """Number of images per domain (real and synthetic) in the 2-D feature projection."""
    tune_seeds: list[int] = Field(default=[1], min_length=1)
    """Seeds with which `syncclip tune` evaluates each combination in the search space."""
    tune_trials: int | None = added(None, ge=1)
    """Maximum number of combinations per configuration that `syncclip tune` evaluates (random search). They are drawn
    with the first of `tune_seeds`; a larger number keeps earlier ones. Default: all combinations (grid search)."""
    tune_images_per_class: int | None = Field(default=None, ge=1)
    """Number of synthetic images per class for `syncclip tune`; default: the maximum of `images_per_class`."""

    @model_validator(mode="after")
    def _check_consistency(self) -> StudySettings:
        for key in ("images_per_class", "seeds", "pretrained"):
            values = getattr(self, key)
            if len(set(values)) < len(values):
                raise ValueError(f"{key} contains duplicates: {values}")
        names = [configuration.name for configuration in self.evaluated]
        if duplicates := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two configurations are named {duplicates[0]!r}; set a unique `name`")
        for first, second in self.compare:
            for name in (first, second):
                if name not in names:
                    raise ValueError(f"compare: no configuration is named {name!r}; {did_you_mean(name, names)}")
            if first == second:
                raise ValueError(f"compare: {first!r} is compared with itself; name two different configurations")
        return self

    @property
    def evaluated(self) -> list[Configuration]:
        """Configurations in tables and comparisons, including one for each additional test domain."""
        return [each for configuration in self.configurations for each in configuration.evaluated.values()]

    @property
    def amounts(self) -> list[int]:
        """Numbers of synthetic images per class, in ascending order."""
        return sorted(self.images_per_class)

    @property
    def reference_configuration(self) -> Configuration:
        """Reference configuration for comparisons."""
        return next(
            (configuration for configuration in self.configurations if configuration.name == self.reference),
            self.configurations[-1],
        )
