"""`syncclip compare` and `syncclip recommend`: questions about finished trainings and studies."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

import syncclip
from syncclip.cli.arguments import Folder, OutFile
from syncclip.core import text
from syncclip.core.settings import UserError
from syncclip.core.text import MISSING, counted, coverage, cut, did_you_mean

if TYPE_CHECKING:
    from syncclip.studies.recommendation import Recommendation

WIDTH = 80
"""Maximum line length in characters."""
COLUMNS = {
    "number": ("", ""),
    "configuration": ("method", ""),
    "images_per_class": ("n", "n: images per class"),
    "mean": ("mean", ""),
    "standard_error": ("SE", "SE: standard error over seeds"),
    "difference": ("diff.", "diff.: difference to 1"),
    "difference_low": ("low", "low, high: {} confidence interval of the difference"),
    "difference_high": ("high", ""),
}
"""Columns of a comparison, which are omitted if they are empty: heading and meaning."""
Metric = Annotated[str | None, typer.Option("--metric", metavar="KEY", help="Metric, such as novel or all_classes_hm.")]


def compare(
    folders: Annotated[list[str], typer.Argument(metavar="DIR", help="At least two trainings, or two studies.")],
    metric: Metric = None,
    out: OutFile = None,
) -> None:
    """Compare trainings or studies with the first, with paired intervals if the test images match; --out writes CSV."""
    from syncclip import storage
    from syncclip.evaluation.metrics import legend
    from syncclip.studies.summary import HEADINGS, SHOWN

    if metric and metric not in HEADINGS:
        raise UserError(f"--metric: unknown metric {metric!r}; {did_you_mean(metric, HEADINGS)}")
    frame = syncclip.compare(*folders)
    for number, folder in enumerate(folders):
        (reason,) = {*frame["reason"][number :: len(folders)]} - {""} or {""}
        notes = frame["settings"][number].splitlines()
        notes += [f"no interval: {reason}"] if number and reason else []
        text.show(
            "\n".join([f"{number + 1}: {cut(folder, WIDTH - 3)}", *(f"   {cut(note, WIDTH - 3)}" for note in notes)])
        )
    measured = frame[frame["mean"].notna()].copy()
    measured["number"] = measured.index % len(folders) + 1
    columns = [key for key in COLUMNS if measured[key].notna().any()]
    numeric = [key for key in columns if measured[key].dtype == float]
    measured[numeric] = measured[numeric].round(1) + 0.0  # no "-0.0"
    keys = [key for key in ([metric] if metric else SHOWN) if key in measured["metric"].unique()]
    for key in keys:
        part = measured.loc[measured["metric"] == key, columns].astype(object)
        rows = part.where(part.notna(), None).to_numpy().tolist()
        text.show(text.table(f"{HEADINGS[key]}, %", [COLUMNS[key][0] for key in columns], rows), keys=2)
    level = coverage(frame["confidence_level"].iloc[0])
    lines = [COLUMNS[key][1].format(level) for key in columns if COLUMNS[key][1]]
    missing = [MISSING] if measured[columns].isna().any(axis=None) else []
    if measured["difference_low"].notna().any():
        over = "classes and seeds" if measured["seeds"].max() > 1 else "classes, without the variation between seeds"
        lines.append(f"intervals: over {over}")
    text.show("\n".join([*lines, legend([*(HEADINGS[key] for key in keys), *missing])]).strip())
    if out is not None:
        written = frame[frame["metric"] == metric] if metric else frame
        written = written.assign(settings=written["settings"].str.replace("\n", " "))
        storage.write_bytes(out, written.to_csv(index=False).encode())
        text.show(out)


def recommend(
    folder: Folder,
    accuracy: Annotated[float, typer.Option("--accuracy", min=0, max=100, help="Target accuracy in per cent.")],
    metric: Metric = None,
    configuration: Annotated[
        str | None, typer.Option("--configuration", metavar="NAME", help="Default: the study's reference.")
    ] = None,
) -> None:
    """Estimate how many synthetic images per class a target accuracy requires, from a finished study."""
    from syncclip.studies.gain_prediction import METRIC

    recommendation = syncclip.recommend(folder, accuracy, metric or METRIC, configuration)
    for paragraph in _lines(recommendation, accuracy):
        text.show(textwrap.fill(paragraph, WIDTH, subsequent_indent="  ", break_on_hyphens=False))


def _lines(recommendation: Recommendation, accuracy: float) -> Iterator[str]:
    from syncclip.studies.outputs import FEW_SEEDS
    from syncclip.studies.summary import HEADINGS

    level, largest = coverage(recommendation.confidence_level), max(recommendation.measured)
    target = f"{HEADINGS[recommendation.metric]} of {accuracy:g} % with {recommendation.configuration}"
    cost = f"{counted(recommendation.images, 'image')}, {recommendation.cost or 'unknown time'}"
    if recommendation.needed is None:
        yield f"{target}: not determined, because {recommendation.reason}."
    else:
        bounds = recommendation.needed.low, recommendation.needed.high
        low, high = (f"{math.ceil(n)}" if n <= largest else f"over {largest}" for n in bounds)
        images = counted(math.ceil(recommendation.needed.estimate), "image")
        yield f"{target}: {images} per class ({level} interval {low} to {high}); {cost}."
    yield f"  images  accuracy  {level} interval"
    for n, each in recommendation.measured.items():
        yield f"  {n:>6}  {each.estimate:>8.1f}  {each.low:.1f} to {each.high:.1f}"
    if recommendation.pilot:
        numbers, size = ",".join(map(str, recommendation.pilot)), "" if recommendation.needed else f" ({cost})"
        yield f"To decide, repeat the study with `study.images_per_class=[{numbers}]`{size}; finished runs are kept."
    uncertain = recommendation.needed is None or recommendation.needed.high > largest
    if recommendation.seeds < FEW_SEEDS and (recommendation.pilot or uncertain):
        seeds = ",".join(map(str, range(1, FEW_SEEDS + 2)))
        yield (
            f"The study has {counted(recommendation.seeds, 'seed')}, so its intervals are wide: first repeat it with "
            f"`study.seeds=[{seeds}]`."
        )
    elif not recommendation.pilot and recommendation.needed and uncertain:
        yield "Some classes may never reach the target: more classes, not more images, would narrow the interval."
    if recommendation.split == "test":
        yield (
            "The study was evaluated on test images, on which the accuracy at a number chosen here is optimistic; "
            "choose it from a study with `evaluation.split=val`."
        )
