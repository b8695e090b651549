"""Figures, LaTeX tables and CSV files for papers."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure

from syncclip import plot_curve, results
from syncclip.core.settings import UserError
from syncclip.reports.paper import latex_table, write_paper
from syncclip.verify import verify
from tests.studies.predicted import write_study, write_training


def accuracy(configuration: str, n: int) -> float:
    return 60 - 20 * (1 + n) ** -0.5 if configuration.startswith("syncclip") else 40


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_study(tmp_path_factory.mktemp("study"), accuracy)


def test_curve_shows_means_and_lines_without_synthetic_images(study: str) -> None:
    axes = Figure().subplots()
    assert plot_curve(study, axes, "novel") is axes
    handles, labels = axes.get_legend_handles_labels()
    assert sorted(labels) == ["IVLP real only", "SYNC-CLIP", "Zero-shot"]
    points = handles[labels.index("SYNC-CLIP")].lines[0]
    assert points.get_xdata().tolist() == [1, 4, 16, 64] and points.get_ydata()[-1] == 57.5
    assert list(handles[labels.index("Zero-shot")].get_ydata()) == [40, 40]
    assert axes.get_ylabel() == "novel classes, %" and axes.get_xlabel() == "synthetic images per class"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "4", "16", "64"]


def test_folder_and_its_results_have_the_same_curve(study: str) -> None:
    figures = [Figure() for _ in range(2)]
    for figure, source in zip(figures, (study, results(study)), strict=True):
        plot_curve(source, figure.subplots(), "hm")
    ours, theirs = (axes.get_legend_handles_labels()[0][0].get_children() for figure in figures for axes in figure.axes)
    assert len(ours) == len(theirs)


def test_new_axes_are_created_by_default(study: str) -> None:
    from matplotlib import pyplot

    axes = plot_curve(study)
    assert axes.get_ylabel() == "harmonic mean, all classes as candidates, %"
    pyplot.close(axes.figure)


def test_unknown_metric_is_an_error(study: str) -> None:
    with pytest.raises(UserError, match="no results of metric 'novle'; did you mean 'novel'"):
        plot_curve(study, Figure().subplots(), "novle")


def test_missing_matplotlib_is_an_error(study: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match=r"figures require matplotlib; run `pip install .*\[figures\]"):
        write_paper(study, "pdf", False)


def test_pdf_figures_embed_their_fonts_and_are_reproducible(study: str) -> None:
    paths = write_paper(study, "pdf", False)
    assert [Path(path).name for path in paths if path.endswith(".csv")] == ["results.csv"]
    names = {Path(path).name for path in paths}
    assert {"curve_novel.pdf", "curve_all_classes_hm.pdf"} <= names
    pages = {path: Path(path).read_bytes() for path in paths if path.endswith(".pdf")}
    for page in pages.values():
        assert page.startswith(b"%PDF") and b"/FontFile2" in page and b"/Type3" not in page
    write_paper(study, "pdf", False)
    assert all(Path(path).read_bytes() == page for path, page in pages.items())


def test_svg_figures_have_no_text_that_depends_on_fonts(study: str) -> None:
    (path,) = (path for path in write_paper(study, "svg", False) if path.endswith("curve_novel.svg"))
    page = Path(path).read_text(encoding="utf-8")
    assert "<text" not in page and "<!-- novel classes, % -->" in page


def test_csv_has_numbers_in_columns_of_their_own(study: str) -> None:
    (path,) = (path for path in write_paper(study, None, False) if path.endswith(".csv"))
    read = pd.read_csv(path).query("metric == 'novel' and images_per_class == 64").iloc[0]
    assert read["mean"] == 57.5 and read["low"] < 57.5 < read["high"]
    assert read["standard_error"] == pytest.approx(0.5 / 3**0.5)


def test_latex_table_is_well_formed(study: str) -> None:
    lines = latex_table(results(study)).splitlines()
    assert lines[1:5] == [
        r"\begin{tabular}{@{}lrrrrr@{}}",
        r"\toprule",
        r"Method & $n$ & base & novel & HM & HM (all) \\",
        r"\midrule",
    ]
    assert lines[-2:] == [r"\bottomrule", r"\end{tabular}"]
    assert {line.count(" & ") for line in lines[5:-2]} == {5}
    assert r"SYNC-CLIP & 64 & $57.5 \pm 0.3$ & $57.5 \pm 0.3$ & $57.5 \pm 0.3$ & $57.5 \pm 0.3$ \\" in lines
    assert r"Zero-shot &  & $40.0$ & $40.0$ & $40.0$ & $40.0$ \\" in lines


def test_latex_table_explains_its_numbers(study: str) -> None:
    caption, *_ = latex_table(results(study)).splitlines()
    assert caption == (
        "% booktabs; accuracy on test images in per cent, n synthetic images per class; "
        r"mean $\pm$ standard error over 3 seeds"
    )


def test_methods_have_the_same_colours_in_plots_of_a_subset(tmp_path: Path) -> None:
    """Probe and coop have no colour of their own; zero-shot CLIP, ivlp and SYNC-CLIP do."""
    methods = "{method: zeroshot}, {method: ivlp, data: real}, {method: probe}, {method: coop}, {method: syncclip}"
    frame = results(write_study(tmp_path, accuracy, f"study.configurations=[{methods}]"))
    colours = []
    for omitted in ((), ("zeroshot",), ("zeroshot", "ivlp-real")):
        axes = plot_curve(frame[~frame["configuration"].isin(omitted)], Figure().subplots(), "novel")
        lines = zip(*axes.get_legend_handles_labels(), strict=True)
        colours.append({label: handle[0].get_color() for handle, label in lines if not hasattr(handle, "get_color")})
    assert colours[0] == colours[1] == colours[2] and len({*colours[0].values()}) == 3


def test_latex_table_escapes_names(tmp_path: Path) -> None:
    special = "study.configurations=[{method: syncclip, name: 'syncclip_50%&#'}]"
    table = latex_table(results(write_study(tmp_path, accuracy, special)))
    assert r"50\%\&\#" in table and not re.search(r"(?<!\\)[#_]", table.split("\\midrule")[1])


def test_training_without_synthetic_images_has_a_table_without_their_number(tmp_path: Path) -> None:
    paths = write_paper(write_training(tmp_path, 60), None, True)
    assert [Path(path).name for path in paths] == ["results.csv", "results.tex"]
    table = Path(paths[1]).read_text(encoding="utf-8")
    assert r"IVLP real only & $60.0$" in table and r"{@{}lrrrr@{}}" in table and "$n$" not in table


def test_files_of_several_calls_are_verified_by_their_checksums(tmp_path: Path) -> None:
    study = write_study(tmp_path, accuracy)
    first, _ = write_paper(study, None, True), write_paper(study, "svg", False)
    paper = verify(f"{study}/paper", print)
    assert (paper.foreign, paper.problems) == ([], []) and paper.files > 4
    Path(first[1]).write_text("changed")
    assert verify(f"{study}/paper", print).problems == [
        f"{first[1]} does not match its checksum: the file is corrupt or was replaced"
    ]
