"""Gain map: accuracy gains of synthetic images against name knowledge, and predictions for a new dataset.

The map is a table with one row per CLIP model (`level`), dataset, configuration and number of synthetic images per
class. Gains are differences of `METRIC` in points. `python -m scripts.gain_map` derives the table from the published
studies; without the file, the package has no map and makes no predictions.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from syncclip.core.text import signed
from syncclip.studies.statistics.bootstrap import Interval
from syncclip.studies.statistics.mixed_model import MixedModel, fit_mixed_model

MAP = Path(__file__).with_name("gain_map.csv")
METRIC = "all_classes_hm"
"""Metric of the gains: harmonic mean of base and novel accuracy, with all classes as candidates."""

TARGETS = {"over_real": "real images only", "over_zero_shot": "zero-shot CLIP"}
"""Columns with gains, and their baselines; each has a column with standard errors, `TARGET_se`."""
KEYS = ("level", "dataset", "configuration", "images_per_class")
COLUMNS = (
    *KEYS,
    "real_only",
    "shots",
    "name_knowledge",
    "zero_shot",
    *(f"{name}{end}" for name in TARGETS for end in ("", "_se")),
)
"""Columns of the map. `real_only` is the baseline of `over_real`; `shots` is the number of real images per base class,
the same in all rows, with which name knowledge was measured; `zero_shot` is the accuracy on shots in per cent."""

HELD_OUT_COLUMNS = (
    *("left_out", "target", *KEYS, "observed", "observed_se"),
    *("predicted", "low", "high", "covered", "constant"),
)
ALL_CONFIGURATIONS = "all configurations"
"""Value of the column `configuration` in the rows of `errors` that summarise all configurations."""

SMALL = 1.0
"""Gain in points that is too small to generate more images for."""


@dataclass(frozen=True)
class ExpectedGain:
    """Predicted gains in points on a new dataset, with prediction intervals.

    Attributes:
        real_only: baseline for `over_real`, the map's configuration that was trained on real images only.
    """

    configuration: str
    images_per_class: int
    real_only: str
    over_real: Interval
    over_zero_shot: Interval

    @property
    def outperforms(self) -> bool:
        """Whether the predicted gains over both baselines are positive."""
        return self.over_real.estimate > 0 and self.over_zero_shot.estimate > 0


def installed_map() -> pd.DataFrame | None:
    """Read the map in the package; return None if the package contains no map."""
    return pd.read_csv(MAP) if MAP.exists() else None


def shots_of(table: pd.DataFrame) -> int:
    """Return the number of real images per base class used to measure the map."""
    return int(table["shots"].iloc[0])


def range_of(table: pd.DataFrame) -> tuple[float, float]:
    """Return the smallest and the largest name knowledge in the map, which must not be empty."""
    return float(table["name_knowledge"].min()), float(table["name_knowledge"].max())


def without_dataset(table: pd.DataFrame, dataset: str) -> pd.DataFrame:
    """Return the map without a dataset's rows (see `assess.name_in_map`), to predict its gains from other datasets."""
    return table[table["dataset"] != dataset]


def reason_without(table: pd.DataFrame | None, name_knowledge: float) -> str:
    """Return the reason why `predict` returns no gain at this name knowledge."""
    if table is None:
        return "no gain map is installed"
    if table.empty:
        return "the gain map contains no other dataset"
    if _covers(table, name_knowledge):
        return "the gain map contains too few datasets"
    low, high = range_of(table)
    return (
        f"name knowledge {name_knowledge:.2f} is outside the gain map, which was measured from {low:.2f} to {high:.2f}"
    )


def _covers(rows: pd.DataFrame, name_knowledge: float) -> bool:
    return bool(rows["name_knowledge"].min() <= name_knowledge <= rows["name_knowledge"].max())


def predict(table: pd.DataFrame, name_knowledge: float, level: float = 0.95) -> tuple[ExpectedGain, ...]:
    """Predict the gains of each configuration and number of images on a new dataset.

    Combinations are omitted if they were measured on too few datasets (see `fit_mixed_model`), or if the name knowledge
    is outside their measured range.
    """
    gains = []
    for _, rows in table.groupby(["configuration", "images_per_class"], sort=False):
        models = [_fit(rows, target) for target in TARGETS] if _covers(rows, name_knowledge) else [None]
        if None not in models:
            intervals = [model.predict(name_knowledge, level) for model in models if model is not None]
            first = rows.iloc[0]
            n = int(first["images_per_class"])
            gains.append(ExpectedGain(str(first["configuration"]), n, str(first["real_only"]), *intervals))
    return tuple(gains)


def _fit(rows: pd.DataFrame, target: str) -> MixedModel | None:
    return fit_mixed_model(rows["name_knowledge"], rows[target], rows["dataset"])


def enough_images(gains: Sequence[ExpectedGain]) -> list[ExpectedGain]:
    """For each configuration, select the smallest number of images whose gain is within `SMALL` of the maximum."""
    selected = []
    for configuration in dict.fromkeys(gain.configuration for gain in gains):
        points = sorted(
            (gain for gain in gains if gain.configuration == configuration), key=lambda gain: gain.images_per_class
        )
        best = max(gain.over_real.estimate for gain in points)
        selected.append(next(gain for gain in points if gain.over_real.estimate >= best - SMALL))
    return selected


def recommend(gains: Sequence[ExpectedGain]) -> ExpectedGain | None:
    """Select the configuration with the largest predicted gain over zero-shot CLIP from those of `enough_images`.

    A method can gain much over its own baseline on real images only, but remain below other methods on real images
    only. The predicted gain of such a baseline over zero-shot CLIP is the difference of the two gains.

    Returns:
        The selected configuration, or None if no configuration is predicted to outperform zero-shot CLIP and all
        configurations on real images only.
    """
    best_real_only = max((gain.over_zero_shot.estimate - gain.over_real.estimate for gain in gains), default=0.0)
    best = max(enough_images(gains), key=lambda gain: gain.over_zero_shot.estimate, default=None)
    if best is None or not best.outperforms or best.over_zero_shot.estimate <= best_real_only:
        return None
    return best


def described(interval: Interval) -> str:
    """Format a gain with its interval: `+4.1 points (−2.0 to +10.2)`."""
    return f"{signed(interval.estimate)} points ({signed(interval.low, interval.high)})"


def held_out(table: pd.DataFrame, level: float = 0.95) -> pd.DataFrame:
    """Predict each row of the map with models fitted without the row's dataset or without its level.

    Returns:
        One row per target, row of the map and kind of fold ("dataset" or "level"), with the observed and the predicted
        gain, the prediction interval, whether the interval contains the observed gain, and a constant prediction for
        comparison: the mean gain of the datasets in the fit.
    """
    return pd.DataFrame(_held_out(table, level), columns=list(HELD_OUT_COLUMNS))


def _held_out(table: pd.DataFrame, level: float) -> Iterator[tuple[object, ...]]:
    for _, rows in table.groupby(["configuration", "images_per_class"], sort=False):
        for fold, target in itertools.product(("dataset", "level"), TARGETS):
            for left_out in dict.fromkeys(rows[fold]):
                training = rows[rows[fold] != left_out]
                if (model := _fit(training, target)) is None:
                    continue
                constant = float(training.groupby("dataset")[target].mean().mean())
                for row in rows[rows[fold] == left_out].to_dict("records"):
                    predicted, observed = model.predict(row["name_knowledge"], level), row[target]
                    keys = fold, target, *(row[key] for key in KEYS), observed, row[f"{target}_se"]
                    covered = predicted.low <= observed <= predicted.high
                    yield *keys, predicted.estimate, predicted.low, predicted.high, covered, constant


def errors(predictions: pd.DataFrame) -> pd.DataFrame:
    """Summarise `held_out` by kind of fold and target, over all configurations and for each configuration.

    Ranks are compared within each configuration and number of images, since predicting the differences between the
    mean gains of configurations does not require name knowledge.

    Returns:
        Columns: number of predictions, mean absolute error of the model and of the constant prediction in points,
        coverage in per cent, mean and minimum of the Spearman rank correlations of observed and predicted gains, and
        percentage of predictions with the correct sign.
    """
    rows = []
    for (fold, target), group in predictions.groupby(["left_out", "target"], sort=False):
        parts = {ALL_CONFIGURATIONS: group, **dict(iter(group.groupby("configuration", sort=False)))}
        rows += [
            {"left_out": fold, "target": target, "configuration": name, **_summary(part)}
            for name, part in parts.items()
        ]
    return pd.DataFrame(rows)


def _summary(group: pd.DataFrame) -> dict[str, float]:
    """Summarise the predictions of one kind of fold and target; see `errors`."""
    observed, predicted = group["observed"], group["predicted"]
    correlations = [
        rows["observed"].rank().corr(rows["predicted"].rank())
        for _, rows in group.groupby(["configuration", "images_per_class"], sort=False)
    ]
    ranks = pd.Series(correlations, dtype=float)  # NaN if all gains are equal
    return {
        "predictions": len(group),
        "absolute_error": (observed - predicted).abs().mean(),
        "constant_error": (observed - group["constant"]).abs().mean(),
        "coverage": 100 * group["covered"].mean(),
        "rank_correlation": ranks.mean(),
        "least_rank_correlation": ranks.min(),
        "same_sign": 100 * (np.sign(observed) == np.sign(predicted)).mean(),
    }
