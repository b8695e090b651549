"""Output for papers: scaling curves drawn with matplotlib, a LaTeX table, and a CSV file."""

from __future__ import annotations

import io
import re
from contextlib import suppress
from importlib import resources
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pandas as pd

from syncclip import storage
from syncclip.core.settings import UserError
from syncclip.core.text import did_you_mean, install_command
from syncclip.evaluation.metrics import METRIC_HEADINGS
from syncclip.reports.configurations import ReportConfiguration, describe_configurations
from syncclip.reports.page import MEASURES
from syncclip.storage.exports import exporting, read_manifest
from syncclip.studies.results import results

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FOLDER = "paper"
"""Subfolder of a study or training with the files for papers."""
COLUMNS = ("base", "novel", "hm", "all_classes_hm")
"""Metrics in the LaTeX table."""
MARKERS = {"circle": "o", "square": "s", "triangle": "^", "diamond": "D"}
STYLE = {"pdf.fonttype": 42, "svg.fonttype": "path", "svg.hashsalt": "syncclip"}
"""Settings of matplotlib that embed fonts and make files reproducible."""
NO_DATE = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}


def plot_curve(source: str | pd.DataFrame, ax: Axes | None = None, metric: str = "all_classes_hm") -> Axes:
    """Plot accuracy against the number of synthetic images per class.

    Points are means over seeds with standard errors; dashed lines are configurations without synthetic images.

    Args:
        source: path or URL of a study, or rows of `results`.
        ax: matplotlib axes; default: new axes.
        metric: key of the metric.

    Raises:
        UserError: matplotlib is not installed, or there are no results of the metric.

    Examples:
        >>> from syncclip import plot_curve
        >>> plot_curve("runs/study", metric="novel").get_ylabel()
        'novel classes, %'
    """
    frame = results(source) if isinstance(source, str) else source
    rows = frame[frame["metric"] == metric]
    if rows.empty:
        raise UserError(f"no results of metric {metric!r}; {did_you_mean(metric, frame['metric'].unique())}")
    ax = ax or _pyplot().subplots(figsize=(7, 4), layout="constrained")[1]
    palette = resources.files(__package__).joinpath("assets/palette.css").read_text(encoding="utf-8")
    for each in _configurations(rows):
        points = rows[rows["configuration"] == each.id]
        colour = re.findall(rf"--tone-{each.tone}: (#\w+)", palette)[0]  # of the light scheme
        if points["images_per_class"].notna().all():
            numbers, means, errors = (points[key] for key in ("images_per_class", "mean", "standard_error"))
            style = {"color": colour, "marker": MARKERS[each.shape], "capsize": 3}
            ax.errorbar(numbers.astype(int), means, errors, label=each.short, **style)
        else:
            dashes = (0, (1 + each.tone, 2))  # differ between configurations, like their colours
            ax.axhline(points["mean"].iloc[0], label=each.short, linestyle=dashes, color=colour)
    if ticks := sorted(rows["images_per_class"].dropna().unique()):
        ax.set_xscale("log")
        ax.set_xticks(ticks, [str(n) for n in ticks])
        ax.minorticks_off()
    ax.set(xlabel="synthetic images per class", ylabel=f"{MEASURES[metric]}, %")
    title = "mean ± standard error" if rows["standard_error"].notna().any() else None
    ax.legend(title=title, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return ax


def _pyplot() -> ModuleType:
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise UserError(f"figures require matplotlib; run `{install_command('figures')}`") from error
    return pyplot


def _configurations(rows: pd.DataFrame) -> list[ReportConfiguration]:
    return describe_configurations(rows[["configuration", "method", "data"]].itertuples(index=False, name=None))


def latex_table(frame: pd.DataFrame) -> str:
    """Format rows of `results` as a LaTeX table for the package booktabs: mean ± standard error over seeds."""
    labels = {each.id: re.sub(r"([&%$#_{}])", r"\\\1", each.short) for each in _configurations(frame)}
    errors = frame["standard_error"].map(lambda error: "" if pd.isna(error) else rf" \pm {error:.1f}")
    frame = frame.assign(cell="$" + frame["mean"].map("{:.1f}".format) + errors + "$")
    synthetic = frame["images_per_class"].notna().any()
    lines = [["Method", *(["$n$"] if synthetic else ()), *(METRIC_HEADINGS[metric] for metric in COLUMNS)]]
    groups: Any = frame.groupby(["configuration", "images_per_class"], sort=False, dropna=False)
    for (configuration, n), rows in groups:
        cells = rows.set_index("metric")["cell"][list(COLUMNS)]
        lines.append([labels[configuration], *([("" if pd.isna(n) else str(n))] if synthetic else ()), *cells])
    head, *body = [" & ".join(line) + r" \\" for line in lines]
    n_text = ", n synthetic images per class" if synthetic else ""
    if seeds := sorted({*frame["seeds"][frame["standard_error"].notna()]}):
        n_text += rf"; mean $\pm$ standard error over {' or '.join(map(str, seeds))} seeds"
    caption = f"% booktabs; accuracy on {frame['split'].iloc[0]} images in per cent{n_text}"
    begin, end = rf"\begin{{tabular}}{{@{{}}l{'r' * (len(lines[0]) - 1)}@{{}}}}", r"\end{tabular}"
    return "\n".join([caption, begin, r"\toprule", head, r"\midrule", *body, r"\bottomrule", end, ""])


def write_paper(folder: str, figures: str | None, latex: bool) -> list[str]:
    """Write files for papers to the subfolder `paper` of a study or training, and return their paths or URLs.

    The subfolder is an export: its manifest contains the checksums of these and of previously written files.

    The files are `results.csv`, `results.tex` if `latex` is set, and a scaling curve per metric in the format
    `figures` (`pdf` or `svg`) unless it is None.
    """
    frame = results(folder)
    files = {"results.csv": frame.to_csv(index=False).encode()}
    if latex:
        files["results.tex"] = latex_table(frame).encode()
    for metric in frame.dropna(subset="mean")["metric"].unique() if figures else ():
        with (pyplot := _pyplot()).rc_context(STYLE):
            plot_curve(frame, metric=metric)
            pyplot.savefig(buffer := io.BytesIO(), format=figures, metadata=NO_DATE.get(str(figures)))
            pyplot.close()
        files[f"curve_{metric}.{figures}"] = buffer.getvalue()
    url = storage.join(folder, FOLDER)
    with exporting(url, FOLDER, {}, "report") as export:
        with suppress(UserError):  # an interrupted call left an unfinished manifest
            for name, file in getattr(read_manifest(url), "files", {}).items():
                export.record(name, *file)
        export.begin()
        for name, data in files.items():
            export.write(name, data)
    return [storage.join(url, name) for name in files]
