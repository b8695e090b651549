"""The recipe: one experiment as one typed value, composed of the settings that live beside their parts."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, ValidationError, model_validator

from syncclip import storage
from syncclip.clip.backbone import BackboneSettings
from syncclip.core.secrets import remember_options, remember_urls, shareable
from syncclip.core.settings import DATASET, RENAMED, RefusalError, Settings, UserError, explain, with_first_names
from syncclip.core.trust import names_in, require_trust, trust
from syncclip.datasets import DatasetSettings
from syncclip.methods.settings import MethodsSettings
from syncclip.recipe.files import read, shipped, with_present_keys
from syncclip.recipe.overrides import COMMAND_LINE, set_value, split_overrides
from syncclip.recipe.study import StudySettings
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
"""Keys of `training` that leave no trace in a run's prompts or metrics. The places of the synthetic set and of a
teacher's files are among them; their content is identified by the set's plan and the teacher's digest."""

ROUNDING = ("workers", "min_workers", "accumulation_steps")
"""Keys of `training` that change a run by the order of sums alone, so that it may go on with others; not where a method
draws random numbers in a step, as CLIP-LoRA does."""

PIPELINE_CLASS = "synthesis.generator.pipeline_class"


class Recipe(Settings):
    """Everything that decides an experiment. Each section is documented at its class.

    `methods` holds the settings of every method, so that a study can give each its own learning rate; a run reads
    only those of `training.method`.
    """

    name: str = Field("recipe", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """The name of folders; the file's name where it is not given."""
    dataset: Annotated[DatasetSettings, DATASET] = DatasetSettings()
    """The real images: which, how many of each class, and which classes are base."""
    backbone: BackboneSettings = BackboneSettings()
    """The frozen CLIP."""
    synthesis: SynthesisSettings = SynthesisSettings()
    """The synthetic images: how many, of which prompts, by which generator, on how many machines."""
    methods: MethodsSettings = MethodsSettings()
    """What is particular to each method; a run reads the keys of its own method alone."""
    training: TrainingSettings = TrainingSettings()
    """What learns from what, how long, and what is kept on the way."""
    evaluation: EvaluationSettings = EvaluationSettings()
    """On which images a run is tested."""
    study: StudySettings = StudySettings()
    """The grid of a study, its statistics and its machines."""
    storage: StorageSettings = StorageSettings()
    """Where results go, and what an object store needs to know."""

    @model_validator(mode="after")
    def _check_method(self) -> Recipe:
        method, data = self.training.method, self.training.data
        try:
            uses = self.methods.of(method).data
        except UserError as error:
            raise RefusalError("training.method", str(error)) from error
        if uses and ("real" if data == "all_real" else data) not in uses:
            choice = " or ".join(map(repr, uses))
            raise RefusalError("training.data", f"{method!r} can't learn from {data!r}; give it {choice}")
        if self.uses_teacher and self.training.teacher is None:
            reason = (
                "learns from a teacher; write its files with `syncclip teacher RUN SET`, and name their folder here"
            )
            raise RefusalError("training.teacher", f"{method!r} {reason}")
        return self

    @classmethod
    def load(cls, source: str, overrides: Sequence[str] = (), base: str | None = None, own: bool = True) -> Recipe:
        """Read a recipe and apply overrides; the overrides win. What a study's configurations override is checked by
        the study.

        Args:
            source: a shipped recipe's name ("icons", "studies/table5_losses"), or the path or URL of a YAML file. The
                file may use OmegaConf's interpolation, such as `${training.seed}`, omit whatever has a default, and
                begin with `extends: RECIPE`, another recipe whose values apply where it has none of its own; in a
                list of such, later ones win.
            overrides: "section.key=value"; a text is taken as it is, other values are YAML (see `split_overrides`).
            base: a recipe that is extended as if it came first in the file's list.
            own: whether the user has named this very file, so that it may name code to be run (see `core.trust`). What
                lies in a folder of results, or is not on this machine, may not in any case.

        Raises:
            UserError: no such recipe, no YAML, an unknown key, a wrong value or an impossible combination; the sentence
                holds file, key, reason and remedy.
        """
        given = split_overrides(overrides, cls)
        trust(*names_in(given))
        values, label, is_own = read(source, base, own)
        recipe = _checked(values, given, label)
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
        """A recipe file, or for a dataset's name or path a recipe of defaults.

        Args:
            root: the folder in which the dataset is looked up.
            values: further values to set; None leaves a value as it is.
            overrides: "section.key=value", which win over all others.

        Raises:
            UserError: see `load`.
        """
        own = split_overrides(overrides, cls)
        trust(*names_in(own))
        given = {"dataset.root": root, **(values or {}), **own}
        given = {key: value for key, value in given.items() if value is not None}
        if source.endswith((".yaml", ".yml")):
            return cls.load(source).with_values(given)
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(source).resolve().stem).strip("-._") or "dataset"
        return cls(name=name).with_values({"dataset.name": source, **given})

    @classmethod
    def of_defaults(cls, overrides: Sequence[str] = ()) -> Recipe:
        """The recipe of an empty file, with overrides ("section.key=value").

        Raises:
            UserError: see `load`.
        """
        given = split_overrides(overrides, cls)
        trust(*names_in(given))
        return cls().with_values(given)

    def with_values(self, values: Mapping[str, Any], origin: str = COMMAND_LINE) -> Recipe:
        """A copy with `{"section.key": value}` set, checked like any recipe. Code that they name isn't trusted by that.

        Raises:
            UserError: an unknown key, a wrong value or an impossible combination.
        """
        sections = {RENAMED.get(section, section) for section in (key.partition(".")[0] for key in values)}
        plain = {name: getattr(self, name) for name in Recipe.model_fields}  # of settings, none is checked again
        derived = {"synthesis": {"generator": self.synthesis.generator.derived}}  # they may follow from another value
        return _checked(plain | self.model_dump(mode="json", include=sections, exclude=derived), values, origin, origin)

    @property
    def hash(self) -> str:
        """Hex digest (16 digits) of all that decides a run's prompts and metrics, but for the synthetic set's content.

        Neither storage nor study, neither evaluation (it can be repeated) nor other methods' settings belong to it.
        """
        method = self.methods.of(self.training.method)
        alone = {} if method.resamples else {key: TrainingSettings.model_fields[key].default for key in ROUNDING}
        training = self.training.model_copy(update=alone).model_dump(mode="json", exclude=set(NO_TRACE))
        dataset = self.dataset.model_dump(mode="json", exclude={"resize"})
        if dataset["seed"] is None:
            dataset["seed"] = self.training.seed
        parts = {
            "dataset": dataset,
            "backbone": self.backbone.model_dump(mode="json"),
            "method": method.model_dump(mode="json"),
            "training": training,
        }
        return digest(with_first_names(parts))

    @property
    def code(self) -> dict[str, str]:
        """Key -> `module:Class` of all code outside the package that the recipe names."""
        named = {"training.method": self.training.method, PIPELINE_CLASS: self.synthesis.generator.pipeline_class or ""}
        named |= {
            f"study.configurations[{place}].method": configuration.method
            for place, configuration in enumerate(self.study.configurations)
        }
        return {key: name for key, name in named.items() if ":" in name}

    @property
    def warmup_warning(self) -> str | None:
        """A warning that a run of this recipe never reaches its learning rate; None if it does, or learns nothing."""
        method = self.methods.of(self.training.method)
        return warmup_warning(self.training, method.learning_rate, method.optimisation) if method.data else None

    def warmup_warnings_of_configurations(self) -> list[str]:
        """The same of the study's configurations: each warning once, with the names of its configurations."""
        configurations: dict[str, list[str]] = {}
        for configuration in self.study.configurations:
            values = {
                "training.method": configuration.method,
                "training.data": configuration.data,
                **configuration.overrides,
            }
            with suppress(UserError):  # the study itself reports it
                if warning := self.with_values(values).warmup_warning:
                    configurations.setdefault(warning, []).append(configuration.name)
        return [f"{', '.join(names)}: {warning}" for warning, names in configurations.items()]

    @property
    def folder(self) -> str:
        """Where the results of this recipe go unless `--out` names another place: `<storage.root>/<name>`."""
        return storage.join(self.storage.root, self.name)

    @property
    def argument(self) -> str:
        """What names this recipe on the command line: a shipped recipe's name, else its file's."""
        return next((one for one in shipped() if one.rpartition("/")[2] == self.name), f"{self.name}.yaml")

    @property
    def uses_synthetic(self) -> bool:
        """Whether a run of this recipe reads the synthetic set."""
        return bool(self.methods.of(self.training.method).data) and self.training.data in ("synthetic", "both")

    @property
    def uses_teacher(self) -> bool:
        """Whether a run of this recipe reads a teacher's files, which tell of synthetic images."""
        return self.uses_synthetic and self.methods.of(self.training.method).taught

    @property
    def shots(self) -> tuple[int, int]:
        """(real images per class, the seed that they are chosen by), as trainings of the recipe see them."""
        seed = self.training.seed if self.dataset.seed is None else self.dataset.seed
        return self.dataset.shots, seed

    def to_yaml(self) -> str:
        """The whole recipe with every default filled in; `load` reads it back as an equal recipe.

        What may be secret is left out, for the text is stored beside results: see `core.secrets`.
        """
        values = shareable(self.model_dump(mode="json"))
        text: str = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=120)
        return text


def digest(value: object) -> str:
    """Hex digest (16 digits) of a value made of JSON's types, independent of the order of keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _checked(values: dict[str, Any], overrides: Mapping[str, Any], label: str, origin: str = COMMAND_LINE) -> Recipe:
    """A recipe of these values; a mistake is reported with `origin` if an override made it, else with `label`."""
    overrides = with_present_keys(overrides, origin)
    for key, value in overrides.items():
        set_value(values, key, value, origin)
    remember_urls(values)
    section = values.get("storage")
    if not isinstance(section, StorageSettings):
        remember_options(section.get("options") if isinstance(section, dict) else section)
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        key, reason = explain(error, Recipe)
        dotted = re.sub(r"\[(\d+)\]", r".\1", key)
        section = f"{dotted}." if dotted else ""
        of_override = any(f"{dotted}.".startswith(f"{one}.") or f"{one}.".startswith(section) for one in overrides)
        place = f"{key}: " if key and not reason.startswith(key) else ""
        raise UserError(f"{origin if of_override else label}: {place}{reason}") from error
