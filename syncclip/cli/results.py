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
from syncclip.core.text import counted, coverage, cut, did_you_mean, signed

if TYPE_CHECKING:
    from syncclip.studies.recommendation import Recommendation

WIDTH = 80
"""Maximum line length in characters."""
Metric = Annotated[str | None, typer.Option("--metric", metavar="KEY", help="Metric, such as novel or all_classes_hm.")]


def compare(
    folders: Annotated[list[str], typer.Argument(metavar="DIR...", help="At least two trainings, or two studies.")],
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
        text.show(f"{number + 1}: {cut(folder, WIDTH - 3)}" + (f"\n   no interval: {reason}" if reason else ""))
    for key in [metric] if metric else SHOWN:
        rows = []
        for row in frame[(frame["metric"] == key) & frame["mean"].notna()].itertuples():
            number = row.Index % len(folders) + 1
            error = "" if math.isnan(row.standard_error) else f" ± {row.standard_error:.1f}"
            bounds = row.difference_low, row.difference_high
            interval = "" if number == 1 or math.isnan(bounds[0]) else signed(*bounds)
            n = "" if row.images_per_class is None else row.images_per_class
            cells = row.configuration, n, f"{row.mean:.1f}{error}", "" if number == 1 else signed(row.difference)
            rows.append([str(number), *map(str, cells), interval])
        level = coverage(frame["confidence_level"][0])
        title = f"{HEADINGS[key]}, %; n images per class; {level} interval of the difference"
        text.show(text.table(title, ["", "method", "n", "accuracy", "minus 1", "interval"], rows), keys=2)
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
    if answer.needed is None:
        yield f"{target}: not determined, because {answer.reason}."
    else:
        low, high = (f"{math.ceil(n)}" if n <= largest else f"more than {largest}" for n in (answer.needed.low, answer.needed.high))
        images = counted(math.ceil(answer.needed.estimate), "image")
        yield f"{target}: {images} per class ({level} interval {low} to {high})."
    yield f"{'Pilot' if answer.needed is None else 'Cost'}: {counted(answer.images, 'image')}, {answer.cost or 'unknown time'}."
    yield f"  images  accuracy  {level} interval"
    for n, each in answer.measured.items():
        yield f"  {n:>6}  {each.estimate:>8.1f}  {each.low:.1f} to {each.high:.1f}"
    if answer.pilot:
        numbers = ",".join(map(str, answer.pilot))
        yield f"To decide, repeat the study with `study.images_per_class=[{numbers}]`; finished runs are kept."
    if answer.split == "test":
        yield (
            "The study was evaluated on test images, on which the accuracy at a number chosen here is optimistic; "
            "choose it from a study with `evaluation.split=val`."
        )
