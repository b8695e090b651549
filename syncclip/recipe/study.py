"""Section `study` of a recipe: which methods learn from which data, over which amounts and seeds."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from syncclip.core.settings import Settings, added

UNTRAINED = "zeroshot"
"""The method that learns nothing: one cell of it serves all amounts and seeds."""

Amount = Annotated[int, Field(ge=1)]
"""Synthetic images per class."""


class Configuration(Settings):
    """One line of the study: a method and the data that it learns from."""

    method: str
    """A method, by its name in `methods` or as `module:Class`."""
    data: Literal["real", "synthetic", "both", "all_real"] = "both"
    """What is learned from; see `training.data`."""
    name: str = ""
    """Its name in tables and folders; `method-data` where it is not given."""
    images_per_class: list[int] | None = Field(default=None, min_length=1)
    """The study's amounts that this configuration learns from; all where none are given."""
    overrides: dict[str, Any] = Field(default={})
    """Recipe values of this configuration alone, e.g. `{methods.syncclip.learning_rate: 0.02}`."""
    search_space: dict[str, Annotated[list[Any], Field(min_length=1)]] = Field(default={})
    """Values among which `choose` picks on the validation split, key by key as in `overrides`; every combination is
    tried."""

    @model_validator(mode="before")
    @classmethod
    def _named(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("name"):
            return values
        method = str(values.get("method")).rpartition(":")[2]
        return {**values, "name": method if method == UNTRAINED else f"{method}-{values.get('data', 'both')}"}

    @model_validator(mode="after")
    def _check_name(self) -> Configuration:
        if set(self.name) & set("/\\ ") or self.name.startswith("."):
            raise ValueError(
                f"configuration name {self.name!r} becomes a folder's name; use letters, digits, '-' and '_'"
            )
        return self

    @property
    def trained(self) -> bool:
        """Whether the configuration learns at all."""
        return self.method != UNTRAINED

    @property
    def real(self) -> bool:
        """Whether the configuration learns from real images."""
        return self.trained and self.data != "synthetic"

    @property
    def synthetic(self) -> bool:
        """Whether the configuration learns from synthetic images, so that their amount matters."""
        return self.trained and self.data in ("synthetic", "both")

    def at(self, amounts: list[int]) -> list[int]:
        """The configuration's own among a study's amounts; the study's largest replaces larger ones."""
        if self.images_per_class is None:
            return amounts
        wanted = {min(n, max(amounts)) for n in self.images_per_class}
        return [n for n in amounts if n in wanted]


DEFAULT_CONFIGURATIONS = [
    Configuration(method=UNTRAINED),
    Configuration(method="ivlp", data="real"),
    Configuration(method="ivlp", data="synthetic"),
    Configuration(method="ivlp", data="both"),
    Configuration(method="syncclip", data="both"),
]


class StudySettings(Settings):
    """Section `study` of a recipe: the grid configuration x images per class x seed, and how it is run and analysed."""

    configurations: list[Configuration] = Field(default=DEFAULT_CONFIGURATIONS, min_length=1)
    """What is compared: each with every seed, and where it learns from synthetic images with every amount."""
    images_per_class: list[Amount] = Field(default=[1, 4, 16, 64], min_length=1)
    """Amounts of synthetic images. They are generated once, for the largest; a smaller amount is a prefix."""
    seeds: list[int] = Field(default=[1, 2, 3, 4, 5], min_length=1)
    """A seed decides the shots, the initial prompts and the order."""
    reference: str = "syncclip-both"
    """The configuration that is compared with all others and whose features are mapped; without it, the last
    configuration is."""

    cpus: float = Field(default=1, gt=0)
    """CPUs that Ray sets aside for each cell."""
    gpus: float = Field(default=0, ge=0)
    """GPUs that Ray sets aside for each cell; a fraction lets several share one."""
    retries: int = Field(default=2, ge=0)
    """How often a cell starts again after its process died or its machine was lost."""
    keep_images: int = added(256 << 20, ge=0)
    """Bytes of tested images that a process keeps from cell to cell, decoded and cut to the CLIP's size."""

    resamples: int = Field(default=2000, ge=100)
    """Bootstrap resamples."""
    confidence_level: float = Field(default=0.95, gt=0.5, lt=1)
    """Coverage of the intervals."""
    forecast: list[Amount] = Field(default=[])
    """Amounts to forecast; 4 and 16 times the largest where none are given."""
    map_images: int = Field(default=1000, ge=1)
    """Images of each domain in the feature map."""
    tune_seeds: list[int] = Field(default=[1], min_length=1)
    """Seeds with which `choose` tries the configurations' candidates."""
    tune_images_per_class: int | None = Field(default=None, ge=1)
    """Synthetic images with which `choose` tries them; the largest amount where it is not given."""

    @model_validator(mode="after")
    def _check_consistency(self) -> StudySettings:
        for key, values in (("images_per_class", self.images_per_class), ("seeds", self.seeds)):
            if len(set(values)) < len(values):
                raise ValueError(f"{key} holds a value twice: {values}")
        names = [configuration.name for configuration in self.configurations]
        if double := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two configurations are called {double[0]!r}; give one of them a `name` of its own")
        return self

    @property
    def amounts(self) -> list[int]:
        """The amounts of synthetic images, ascending."""
        return sorted(self.images_per_class)

    @property
    def reference_configuration(self) -> Configuration:
        """The configuration that comparisons are about."""
        return next(
            (configuration for configuration in self.configurations if configuration.name == self.reference),
            self.configurations[-1],
        )
