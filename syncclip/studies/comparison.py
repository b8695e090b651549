"""Paired comparison of several trainings or several studies."""

from __future__ import annotations

import math

import pandas as pd

from syncclip.core.settings import UserError
from syncclip.evaluation.metrics import METRICS
from syncclip.studies.results import Source, accuracies, read_source
from syncclip.studies.statistics.bootstrap import Interval, differences


def compare(*folders: str) -> pd.DataFrame:
    """Compare the accuracies of trainings or studies with those of the first folder.

    Trainings may differ in method and data. Studies are compared at each configuration and number of images that all of
    them contain, over the seeds that they share.

    Args:
        folders: paths or URLs of at least two trainings, or of at least two studies.

    Returns:
        One row per metric, configuration, number of images and folder, with the columns of `results` and these:

        - `folder`: path or URL, as passed.
        - `difference`: difference to the first folder in percentage points.
        - `difference_low`, `difference_high`: paired confidence interval over seeds and classes.
        - `reason`: reason why an interval is impossible, such as different test images; empty if there is one.

    Raises:
        UserError: fewer than two folders, a study and a training, unfinished runs, or no common configuration.

    Examples:
        >>> from syncclip import compare
        >>> compare("runs/first", "runs/first").query("metric == 'novel'")["difference"].tolist()
        [0.0, 0.0]
    """
    if len(folders) < 2:
        raise UserError("compare requires at least two folders: several trainings, or several studies")
    sources = [read_source(folder, finished=True) for folder in folders]
    kinds = {source.kind: source.url for source in sources}
    if len(kinds) > 1:
        raise UserError(
            f"{kinds['study']} is a study, but {kinds['training']} is a training; pass several folders of one kind"
        )
    aligned = [
        {(each.name, n) if "study" in kinds else None: (each, n) for each, n in source.points} for source in sources
    ]
    shared = [key for key in aligned[0] if all(key in points for points in aligned)]
    if not shared:
        raise UserError("the studies share no configuration at the same number of images; set the same `name` in both")
    different = [_different_images(sources[0], source) for source in sources]
    resamples, level, rows = sources[0].recipe.study.resamples, sources[0].recipe.study.confidence_level, []
    for key in shared:
        pairs = [(source.evidence, points[key]) for source, points in zip(sources, aligned, strict=True)]
        seeds = [evidence.seeds([point]) for evidence, point in pairs]
        common = [seed for seed in seeds[0] if all(seed in own for own in seeds)]
        metrics = [
            evidence.resampled(point, common or own, "classes", resamples)
            for (evidence, point), own in zip(pairs, seeds, strict=True)
        ]
        for number, source in enumerate(sources):
            reason = different[number] or ("" if common else "no common seed")
            paired = {} if reason else differences([(metrics[number], metrics[0])])
            for row in accuracies(source, aligned[number][key], metrics[number]):
                bounds = Interval(row["mean"] - metrics[0][row["metric"]][0].mean(), math.nan, math.nan)
                bounds = paired[row["metric"]].average(level) if paired else bounds
                row |= {"folder": folders[number], "difference": bounds.estimate, "difference_low": bounds.low}
                rows.append(row | {"difference_high": bounds.high, "reason": reason})
    frame = pd.DataFrame(rows).astype({"images_per_class": "Int64"})
    return frame.sort_values("metric", key=lambda names: names.map(METRICS.index), kind="stable", ignore_index=True)


def _different_images(first: Source, other: Source) -> str:
    """Describe the first property in which the test images of two sources differ; "" if they are the same."""
    for name, value in first.test_images.items():
        if value != (theirs := other.test_images[name]):
            return f"different test images ({name}{'' if isinstance(value, list) else f': {value} and {theirs}'})"
    return ""
