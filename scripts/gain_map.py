"""Derive the gain map of `syncclip assess` from published studies, and evaluate its predictions.

`python -m scripts.gain_map MAPDIR` reads every study in MAPDIR, such as the folder of a study with `study.pretrained`:
one study per CLIP model (level), each on the same datasets and with the same number of shots, with zero-shot CLIP, a
configuration on real images only, and configurations with synthetic images. Name knowledge is measured with the study's
dataset and CLIP model, as `assess` does. The map is written to the package, and `held_out.csv` to MAPDIR: predictions
for each dataset and each level from the rest of the map.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from syncclip import storage
from syncclip.core.settings import UserError
from syncclip.core.text import few, markdown_grid
from syncclip.recipe.recipe import Recipe
from syncclip.studies import outputs, predictions
from syncclip.studies.analysis import SHOTS, Evidence, Point, origin
from syncclip.studies.assess import measure, name_in_map
from syncclip.studies.gain_prediction import COLUMNS, MAP, METRIC, errors, held_out
from syncclip.studies.run import by_dataset

HELD_OUT = "held_out.csv"
NUMBERS = "%.4f"


def studies(folder: Path) -> dict[str, Path]:
    """Return the outermost study folders below a folder, by their relative path."""
    folders = sorted(path.parent for path in folder.rglob(outputs.STATE))
    outer = [path for path in folders if not any(other in path.parents for other in folders)]
    if not outer:
        raise UserError(f"{folder}: no study found; specify the folder that contains the studies of the map")
    return {path.relative_to(folder).as_posix(): path for path in outer}


def rows(level: str, study: Path) -> Iterator[dict[str, object]]:
    """Yield the rows of the map for one level.

    Configurations whose overrides change the number of shots are omitted, because name knowledge depends on it, and so
    are configurations without a counterpart on real images only (see `origin`).
    """
    owner = storage.read_owner(str(study / outputs.STATE))
    recipe = Recipe.load(str(study / outputs.RECIPE), own=False)
    settings = recipe.study
    evidence = predictions.read(str(study), settings.evaluated, owner)
    zero_shot = next((configuration for configuration in settings.configurations if not configuration.trained), None)
    if zero_shot is None:
        raise UserError(f"{study}: the study has no zero-shot configuration; run a study with {{method: zeroshot}}")
    for number, part in enumerate(by_dataset(recipe).values()):
        measured, shots = measure(part), part.dataset.shots
        cells = {key: (outcomes[number],) for key, outcomes in evidence.cells.items()}
        configurations = [each for each in settings.evaluated if int(each.overrides.get(SHOTS, shots)) == shots]
        own = Evidence(configurations, cells)
        for configuration in configurations:
            real_only = origin(own, configuration) if configuration.synthetic else None
            if real_only is None or not real_only.trained:
                continue
            for point in own.points(configuration):
                yield {
                    "level": level,
                    "dataset": name_in_map(part.dataset),
                    "configuration": configuration.name,
                    "images_per_class": point[1],
                    "real_only": real_only.name,
                    "shots": shots,
                    "name_knowledge": measured.name_knowledge,
                    "zero_shot": measured.zero_shot,
                    **_gain(own, point, (real_only, None), "over_real", settings.resamples),
                    **_gain(own, point, (zero_shot, None), "over_zero_shot", settings.resamples),
                }


def _gain(evidence: Evidence, point: Point, baseline: Point, target: str, resamples: int) -> dict[str, float]:
    """Return a gain in points, averaged over seeds, and its standard error over seeds and classes."""
    seeds = evidence.seeds([point, baseline] if baseline[0].trained else [point])
    ours, theirs = (evidence.resampled(each, seeds, "classes", resamples)[METRIC] for each in (point, baseline))
    return {target: float((ours[0] - theirs[0]).mean()), f"{target}_se": float((ours[1] - theirs[1]).std(ddof=1))}


def derive(folder: Path, target: Path = MAP) -> pd.DataFrame:
    """Write the map to `target` and the held-out predictions to `folder`, and return their errors."""
    table = pd.DataFrame([row for level, study in studies(folder).items() for row in rows(level, study)])
    if table.empty:
        raise UserError(f"{folder}: no study compares synthetic images with a configuration on real images only")
    if len(numbers := sorted(table["shots"].unique())) > 1:
        raise UserError(
            f"{folder}: the studies have different dataset.shots ({few(map(str, numbers))}), but the gain map requires "
            "one; remove studies from the folder"
        )
    table[list(COLUMNS)].to_csv(target, index=False, float_format=NUMBERS)
    predicted = held_out(pd.read_csv(target))
    predicted.to_csv(folder / HELD_OUT, index=False, float_format=NUMBERS)
    return errors(predicted)


if __name__ == "__main__":
    summary = derive(Path(sys.argv[1])).round(2)
    print(markdown_grid(list(summary.columns), [list(map(str, row)) for row in summary.to_numpy()]))
