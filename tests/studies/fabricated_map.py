"""A fabricated study with several pretrained tags: its map, computed from constructed outcomes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from syncclip import storage
from syncclip.recipe.study import Configuration, StudySettings
from syncclip.studies import gain_map, outputs
from syncclip.studies.analysis import Evidence
from syncclip.studies.levels_state import LevelsState
from syncclip.studies.statistics.metrics import Outcomes
from syncclip.training.settings import TrainingSettings

CONFIGURATIONS = [
    Configuration(method="zeroshot"),
    Configuration(method="ivlp", data="real"),
    Configuration(method="ivlp"),
    Configuration(method="syncclip"),
    Configuration(method="tip"),
]
SETTINGS = StudySettings(configurations=CONFIGURATIONS, images_per_class=[1, 4], seeds=[1, 2, 3, 4, 5], resamples=200)
DATASETS = ("first", "second")
KNOWLEDGE = {"names-all": 0.97, "names-0": 0.31, "names-3": 0.55, "names-25": 0.84}
LABEL = np.arange(12).repeat(40)


def make_map(
    folder: Path, crossing: float = 0.7, tags: int = 4, numbers: Mapping[str, Sequence[int]] | None = None
) -> Path:
    """Write the files of a study in which synthetic images help below `crossing`, at the first `tags` levels.

    Args:
        numbers: configuration -> its numbers of images; by default, all of the settings.
    """
    generator = np.random.default_rng(5)
    effects = generator.normal(0, 0.08, (len(DATASETS), 12))

    def outcomes(accuracy: float) -> tuple[Outcomes, ...]:
        parts = []
        for effect in effects:
            within_split, among_all = (
                generator.random(480) < np.clip(accuracy - less + effect, 0.02, 0.98).repeat(40) for less in (0, 0.08)
            )
            scores = generator.random((1, 480))
            parts.append(Outcomes(within_split[None], among_all[None], scores, LABEL, 6))
        return tuple(parts)

    knowledge = dict([*KNOWLEDGE.items()][:tags])
    levels = {}
    for tag, ratio in knowledge.items():
        real = 0.2 + 0.5 * ratio
        cells = {("zeroshot", None, None): outcomes(real - 0.05)}
        for seed in SETTINGS.seeds:
            cells["ivlp-real", None, seed] = outcomes(real)
            for configuration in CONFIGURATIONS[2:]:
                for n in (numbers or {}).get(configuration.name, SETTINGS.amounts):
                    cells[configuration.name, n, seed] = outcomes(real + 0.5 * (crossing - ratio))
        levels[tag] = Evidence(CONFIGURATIONS, cells)
    state = LevelsState(
        name="shapes",
        dataset="shapes",
        split="test",
        datasets=DATASETS,
        pretrained=tuple(knowledge),
        configurations={},
    )
    summary = gain_map.MapSummary(
        confidence_level=SETTINGS.confidence_level,
        resamples=SETTINGS.resamples,
        split="test",
        reference="syncclip-both",
        levels=knowledge,
        datasets={tag: {"first": ratio + 0.01, "second": ratio - 0.01} for tag, ratio in knowledge.items()},
        names={configuration.name: (configuration.method, configuration.data) for configuration in CONFIGURATIONS},
        novel_classes=12,
        epochs_over=TrainingSettings().epochs_over,
        trends=gain_map.trends(levels, knowledge, SETTINGS),
    )
    folder.mkdir(parents=True)
    storage.write_document(str(folder / outputs.LEVELS), state, state.owner)
    cells_of_map = gain_map.map_cells(levels, SETTINGS, DATASETS)
    storage.write_table(str(folder / outputs.MAP_CELLS), gain_map.table(cells_of_map), state.owner)
    outputs.write_json(str(folder / outputs.MAP), summary, state.owner)
    return folder
