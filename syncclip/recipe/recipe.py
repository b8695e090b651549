"""Recipe: typed configuration of an experiment, composed of the settings of all components."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError, model_validator

from syncclip import storage
from syncclip.clip.backbone import BackboneSettings
from syncclip.core.secrets import remember_options, remember_urls, shareable
from syncclip.core.settings import Settings, UserError
from syncclip.core.trust import require_trust
from syncclip.core.validation_errors import KeyedError, explain, keys_of
from syncclip.datasets import DatasetSettings
from syncclip.methods.settings import MethodSettings, MethodsSettings
from syncclip.recipe.files import read, shipped
from syncclip.recipe.overrides import COMMAND_LINE, set_value, split_overrides
from syncclip.recipe.study import StudySettings
from syncclip.recipe.suggestions import suggestions
from syncclip.storage import StorageSettings
from syncclip.synthesis.settings import SynthesisSettings
from syncclip.training.settings import EvaluationSettings, TrainingSettings, warmup_warning

NO_TRACE = (
    "synthetic",
    "teacher",
    "prefetch_threads",
    "cache_images",
    "cache_bytes",
    "cache_folder",
    "verify_shards",
    "loader_processes",
    "max_corrupt_images",
    "trackers",
    "tracking_project",
    "mlflow_uri",
    "checkpoint_every",
    "checkpoint_minutes",
    "keep_checkpoints",
    "keep_best",
    "label_selector",
    "max_failures",
)
"""Keys of `training` that do not affect a run's prompts or metrics. The synthetic dataset and the teacher's files are
identified by the dataset's plan and the teacher's checksum, not by location."""

ROUNDING = ("workers", "min_workers", "accumulation_steps")
"""Keys of `training` that change only the order of summation, so a run can resume with different values. These keys
are part of the hash for methods that draw random numbers in each step, such as CLIP-LoRA."""


class Recipe(Settings):
    """Configuration of an experiment; each section is documented in its class.

    `methods` contains the settings of all methods because a study may compare several.
    """

    name: str = Field("recipe", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the experiment and its folders; default: the file name without `.yaml`."""
    dataset: DatasetSettings = DatasetSettings()
    """Real images: dataset, few-shot sample, and base classes."""
    backbone: BackboneSettings = BackboneSettings()
    """Frozen CLIP model: name, weights and precision."""
    synthesis: SynthesisSettings = SynthesisSettings()
    """Synthetic images: number, prompts, generator, filters and machines."""
    methods: MethodsSettings = MethodsSettings()
    """Hyperparameters of all methods; a run uses only the section of its `training.method`."""
    training: TrainingSettings = TrainingSettings()
    """Training: method, data, schedule and checkpoints."""
    evaluation: EvaluationSettings = EvaluationSettings()
    """Evaluation: split, calibration and transfer datasets."""
    study: StudySettings = StudySettings()
    """Study: grid of runs, statistics and machines."""
    storage: StorageSettings = StorageSettings()
    """Storage: root folder for results, and object store options."""

    @model_validator(mode="after")
    def _check_method(self) -> Recipe:
        method, data = self.training.method, self.training.data
        try:
            settings = self.methods.of(method)
        except UserError as error:
            key = "methods.custom" if isinstance(error.__cause__, ValidationError) else "training.method"
            raise KeyedError(key, str(error)) from error
        uses = settings.data
        if uses and ("real" if data == "all_real" else data) not in uses:
            choice = " or ".join(map(repr, uses))
            raise KeyedError("training.data", f"{method!r} cannot train on {data!r}; use {choice}")
        available = settings.test_domains(data)
        requested = [("evaluation.test_domains", domain) for domain in self.evaluation.test_domains]
        if domain := getattr(settings, "test_domain", None):
            requested.append((f"methods.{method}.test_domain", domain))
        for key, domain in requested:
            if domain not in available:
                if not available:
                    raise KeyedError(key, f"{method!r} has no domain-specific prompts; remove this setting")
                choice = " or ".join(map(repr, available))
                raise KeyedError(key, f"{method!r} trained on {data!r} has no {domain!r} prompts; use {choice}")
        if self.uses_teacher and self.training.teacher is None:
            reason = "requires a teacher; create one with `syncclip teacher RUN SET`, and set this key to its folder"
            raise KeyedError("training.teacher", f"{method!r} {reason}")
        return self

    @classmethod
    def load(cls, source: str, overrides: Sequence[str] = (), base: str | None = None, own: bool = True) -> Recipe:
        """Read a recipe and apply overrides, which take precedence.

        Args:
            source: name of a shipped recipe ("icons", "studies/table5_losses"), or path or URL of a YAML file. The file
                may use OmegaConf interpolation, such as `${training.seed}`, and inherit from one or more recipes with
                `extends`; later recipes take precedence.
            overrides: "section.key=value"; values of text keys are literal, others are YAML (see `split_overrides`).
            base: recipe to extend, as if it were the first item in the file's `extends`.
            own: whether the user specified this file; if so, code named in the file is trusted (see `core.trust`).
                Files in results folders or on other machines are never trusted.

        Raises:
            UserError: the recipe is missing or malformed, a key is unknown, or a value or combination of values is
                invalid. The message contains the file, key, reason and fix.
        """
        parsed = split_overrides(overrides, Recipe)
        values, label, is_own = read(source, base, own)
        recipe = _checked(values, parsed, label)
        for key, name in recipe.code.items() if own and not is_own else ():
            require_trust(name, f"{label}: {key}: ")
        return recipe

    @classmethod
    def of_dataset(
        cls,
        source: str,
        root: str | None = None,
        values: Mapping[str, Any] | None = None,
        overrides: Sequence[str] = (),
    ) -> Recipe:
        """Load a recipe file, or create the default recipe for a dataset given by name or path.

        Args:
            root: folder that contains the dataset.
            values: additional values by key; None leaves a key unchanged.
            overrides: overrides of the form "section.key=value", which take precedence.
        """
        changes = {"dataset.root": root, **(values or {}), **split_overrides(overrides, Recipe)}
        changes = {key: value for key, value in changes.items() if value is not None}
        if source.endswith((".yaml", ".yml")):
            return cls.load(source).with_values(changes)
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(source).resolve().stem).strip("-._") or "dataset"
        return cls(name=name).with_values({"dataset.name": source, **changes})

    @classmethod
    def of_defaults(cls, overrides: Sequence[str] = ()) -> Recipe:
        """Return the default recipe with overrides ("section.key=value")."""
        return cls().with_values(split_overrides(overrides, Recipe))

    def with_values(self, values: Mapping[str, Any], origin: str = COMMAND_LINE) -> Recipe:
        """Return a validated copy with new values by key ("section.key"); code named in these values is not trusted."""
        sections = {key.partition(".")[0] for key in values}
        plain = {name: getattr(self, name) for name in Recipe.model_fields}  # not validated again
        derived = {"synthesis": {"generator": self.synthesis.generator.derived}}  # may depend on a changed value
        return _checked(plain | self.model_dump(mode="json", include=sections, exclude=derived), values, origin, origin)

    @property
    def hash(self) -> str:
        """Hash (16 hex digits) of all settings that affect a run's prompts and metrics, excluding the synthetic images.

        The hash excludes storage, study, evaluation (which can be repeated) and the settings of other methods.
        """
        method = self.methods.of(self.training.method)
        neutral = {} if method.is_stochastic else {key: TrainingSettings.model_fields[key].default for key in ROUNDING}
        training = self.training.model_copy(update=neutral).model_dump(mode="json", exclude=set(NO_TRACE))
        dataset = self.dataset.model_dump(mode="json", exclude={"resize"})
        if dataset["seed"] is None:
            dataset["seed"] = self.training.seed
        parts = {
            "dataset": dataset,
            "backbone": self.backbone.model_dump(mode="json"),
            "method": method.model_dump(mode="json"),
            "training": training,
        }
        return digest(parts)

    @property
    def code(self) -> dict[str, str]:
        """Mapping from key to `module:Class` for all custom code in the recipe."""
        named = {"training.method": self.training.method}
        named["synthesis.generator.pipeline_class"] = self.synthesis.generator.pipeline_class or ""
        named |= {
            f"study.configurations[{i}].method": configuration.method
            for i, configuration in enumerate(self.study.configurations)
        }
        return {key: name for key, name in named.items() if ":" in name}

    @property
    def warmup_warning(self) -> str | None:
        """Warning if the run ends before the learning rate reaches its peak; None otherwise."""
        method = self.methods.of(self.training.method)
        if not method.trains:
            return None
        return warmup_warning(self.training, method.learning_rate, method.optimisation)

    def warmup_warnings_of_configurations(self) -> list[str]:
        """Return the study's warm-up warnings, each prefixed with the names of the affected configurations."""
        configurations: dict[str, list[str]] = {}
        for configuration in self.study.configurations:
            values = {"training.method": configuration.method, "training.data": configuration.data}
            values |= configuration.overrides
            with suppress(UserError):  # reported by the study itself
                if warning := self.with_values(values).warmup_warning:
                    configurations.setdefault(warning, []).append(configuration.name)
        return [f"{', '.join(names)}: {warning}" for warning, names in configurations.items()]

    @property
    def folder(self) -> str:
        """Default results folder: `<storage.root>/<name>`."""
        return storage.join(self.storage.root, self.name)

    @property
    def argument(self) -> str:
        """Command-line argument for this recipe: the name of a shipped recipe, or a file name."""
        return next((name for name in shipped() if name.rpartition("/")[2] == self.name), f"{self.name}.yaml")

    @property
    def uses_synthetic(self) -> bool:
        """Whether a run of this recipe uses the synthetic dataset."""
        return bool(self.methods.of(self.training.method).data) and self.training.data in ("synthetic", "both")

    @property
    def uses_teacher(self) -> bool:
        """Whether a run of this recipe uses teacher predictions for synthetic images."""
        return self.uses_synthetic and self.methods.of(self.training.method).uses_teacher

    @property
    def shots(self) -> tuple[int, int]:
        """Few-shot sample for training runs: (real images per class, sampling seed)."""
        seed = self.training.seed if self.dataset.seed is None else self.dataset.seed
        return self.dataset.shots, seed

    def to_yaml(self) -> str:
        """Return the recipe as YAML for `load`, with all defaults but no potential secrets (see `core.secrets`)."""
        values = shareable(self.model_dump(mode="json"))
        text: str = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=120)
        return text


def digest(value: object) -> str:
    """Return a hash (16 hex digits) of a JSON value, independent of key order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def suggest(key: str, section: Sequence[str] = (), method: str = "syncclip") -> str:
    """Suggest keys for an unknown key, e.g. `did you mean 'training.epochs'?`; "" if no key is similar.

    Args:
        section: keys of the same section, if it is a list item.
        method: `training.method`.
    """
    own = "custom" if ":" in method else method
    keys = [*section, "extends", *keys_of(Recipe), *(f"methods.custom.{name}" for name in MethodSettings.model_fields)]
    near = suggestions(key, keys, own)
    return f"did you mean {' or '.join(map(repr, near))}?" if near else ""


def _checked(values: dict[str, Any], overrides: Mapping[str, Any], label: str, origin: str = COMMAND_LINE) -> Recipe:
    """Apply overrides to values, and validate the result; error messages start with `origin` (overrides) or `label`."""
    for key, value in overrides.items():
        set_value(values, key, value, origin)
    remember_urls(values)
    section = values.get("storage")
    if not isinstance(section, StorageSettings):
        remember_options(section.get("options") if isinstance(section, dict) else section)
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        training = values.get("training")
        method = training.get("method") if isinstance(training, dict) else getattr(training, "method", None)
        key, reason = explain(error, Recipe, partial(suggest, method=str(method or TrainingSettings().method)))
        dotted = re.sub(r"\[(\d+)\]", r".\1", key)
        section = f"{dotted}." if dotted else ""
        of_override = any(f"{dotted}.".startswith(f"{name}.") or f"{name}.".startswith(section) for name in overrides)
        prefix = f"{key}: " if key and not reason.startswith(key) else ""
        raise UserError(f"{origin if of_override else label}: {prefix}{reason}") from error
