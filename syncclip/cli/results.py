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
from syncclip.core.text import counted, coverage, cut, did_you_mean

if TYPE_CHECKING:
    from syncclip.studies.recommendation import Recommendation

WIDTH = 80
"""Maximum line length in characters."""
Metric = Annotated[str | None, typer.Option("--metric", metavar="KEY", help="Metric, such as novel or all_classes_hm.")]


def compare(
    folders: Annotated[list[str], typer.Argument(metavar="DIR", help="At least two trainings, or two studies.")],
    metric: Metric = None,
    out: OutFile = None,
) -> None:
    """Compare trainings or studies with the first, with paired intervals if the test images match; --out writes CSV."""
    from syncclip import storage
    from syncclip.studies.summary import HEADINGS, SHOWN

    if metric and metric not in HEADINGS:
        raise UserError(f"--metric: unknown metric {metric!r}; {did_you_mean(metric, HEADINGS)}")
    frame = syncclip.compare(*folders)
    for number, folder in enumerate(folders):
        (reason,) = {*frame["reason"][number :: len(folders)]} - {""} or {""}
        note = f"\n   no interval: {reason}" if number and reason else ""
        text.show(f"{number + 1}: {cut(folder, WIDTH - 3)}{note}")
    columns = ["images_per_class", "mean", "standard_error", "difference", "difference_low", "difference_high"]
    measured = frame[frame["mean"].notna()]
    for key in [key for key in ([metric] if metric else SHOWN) if key in measured["metric"].unique()]:
        part = measured[measured["metric"] == key]
        part = part.assign(number=part.index % len(folders) + 1)
        part[columns[1:]] = part[columns[1:]].round(1) + 0.0  # no "-0.0"
        part = part[["number", "configuration", *columns]].astype(object).where(part.notna(), None)
        headings = ["", "method", "n", "mean", "SE", "diff.", "low", "high"]
        text.show(text.table(f"{HEADINGS[key]}, %", headings, part.to_numpy().tolist()), keys=2)
    text.show("n: images per class; SE: over seeds; diff.: to 1, with its confidence interval")
    if out is not None:
        storage.write_bytes(out, frame.to_csv(index=False).encode())
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
    from syncclip.studies.recommendation import recommend

    answer = recommend(folder, accuracy, metric or METRIC, configuration)
    for paragraph in _lines(answer, accuracy):
        text.show(textwrap.fill(paragraph, WIDTH, subsequent_indent="  ", break_on_hyphens=False))


def _lines(answer: Recommendation, accuracy: float) -> Iterator[str]:
    from syncclip.studies.summary import HEADINGS

    level, largest = coverage(answer.confidence_level), max(answer.measured)
    target = f"{HEADINGS[answer.metric]} of {accuracy:g} % with {answer.configuration}"
    cost = f"{counted(answer.images, 'image')}, {answer.cost or 'unknown time'}"
    if answer.needed is None:
        yield f"{target}: not determined, because {answer.reason}."
    else:
        bounds = answer.needed.low, answer.needed.high
        low, high = (f"{math.ceil(n)}" if n <= largest else f"over {largest}" for n in bounds)
        images = counted(math.ceil(answer.needed.estimate), "image")
        yield f"{target}: {images} per class ({level} interval {low} to {high}); {cost}."
    yield f"  images  accuracy  {level} interval"
    for n, each in answer.measured.items():
        yield f"  {n:>6}  {each.estimate:>8.1f}  {each.low:.1f} to {each.high:.1f}"
    if answer.pilot:
        numbers, size = ",".join(map(str, answer.pilot)), "" if answer.needed else f" ({cost})"
        yield f"To decide, repeat the study with `study.images_per_class=[{numbers}]`{size}; finished runs are kept."
    elif answer.needed and answer.needed.high > largest:
        yield "Some classes may never reach the target: more classes, not more images, would narrow the interval."
    if answer.split == "test":
        yield (
            "The study was evaluated on test images, on which the accuracy at a number chosen here is optimistic; "
            "choose it from a study with `evaluation.split=val`."
        )
