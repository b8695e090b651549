"""The commands `compare` and `recommend`: width, CSV file and one-line errors."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pandas as pd
import pytest

from syncclip.core.manifest import MANIFEST
from syncclip.core.text import table
from syncclip.reports.page import StudyReport
from syncclip.studies.recommendation import Recommendation
from syncclip.studies.statistics.bootstrap import Interval
from tests.cli.test_app import Outcome
from tests.studies.predicted import write_study, write_training


def accuracy(configuration: str, n: int) -> float:
    return 60 - 20 * (1 + n) ** -0.5 if configuration == "syncclip-both" else 40


def longest(text: str) -> int:
    return max(map(len, text.splitlines()))


def test_compare_prints_differences_within_80_columns(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    first, second = (write_study(tmp_path / ("long name" * 20) / str(n), accuracy, spread=8) for n in (1, 2))
    outcome = Outcome(capsys, "compare", first, second)
    assert outcome.status == 0, outcome.err
    assert longest(outcome.out) <= 80
    assert re.findall(r"^([^:\n]*), %", outcome.out, re.MULTILINE) == ["novel", "novel (all)", "HM", "HM (all)"]
    (row,) = re.findall(r".*2 .* syncclip-both .* 16 .*", outcome.out.partition("novel (all), %")[0])
    assert re.findall(r"-?[\d.]+", row.partition("16")[2]) == ["55.0", "0.3", "0.0", "0.0", "0.0"]


def test_compare_reports_that_no_interval_is_possible(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folders = write_training(tmp_path / "a", 50), write_training(tmp_path / "b", 52.5, "evaluation.split=val")
    outcome = Outcome(capsys, "compare", *folders, "--metric", "novel")
    assert "no interval: different test images (split: test and val)" in outcome.out
    assert re.search(r"2 .* ivlp-real .* 52.5 .* 2.5 [^\d]*\n", outcome.out)


def test_compare_labels_trainings_by_the_settings_in_which_they_differ(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folders = [
        write_training(tmp_path / name, 50, f"training.epochs={epochs}", f"methods.coop.learning_rate={rate}")
        for name, epochs, rate in (("a", 8, 0.1), ("b", 4, 0.2))
    ]
    outcome = Outcome(capsys, "compare", *folders, "--metric", "hm")
    assert re.findall(r"(\w+\.\S+=\S+)", outcome.out) == ["training.epochs=8", "training.epochs=4"]
    assert longest(outcome.out) <= 80
    headings = outcome.out.split("HM, %")[1].split("┡")[0]
    assert re.findall(r"[a-z.]+|SE", headings) == ["method", "mean", "diff.", "low", "high"]
    *_, diff, interval, over, terms = outcome.out.replace("\u00a0", " ").splitlines()
    assert (diff, interval) == ("diff.: difference to 1", "low, high: 95 % confidence interval of the difference")
    assert over == "intervals: over classes, without the variation between seeds"
    assert terms == "HM: harmonic mean of base and novel accuracy"


def test_long_settings_are_shortened(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    data = "training.method=ivlp", "training.data=both", "training.images_per_class=4"
    folders = [
        write_training(tmp_path / name, 50, *data, f"training.synthetic=/{'a' * 80}/dataset/{name}") for name in "ab"
    ]
    outcome = Outcome(capsys, "compare", *folders, "--metric", "novel")
    shown = re.findall(r"   (training\.synthetic=\S+…\S+)", outcome.out)
    assert [line[-10:] for line in shown] == ["/dataset/a", "/dataset/b"]
    assert longest(outcome.out) <= 80


def test_compare_writes_the_metrics_as_csv(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folders = [write_training(tmp_path / name, 50, spread=8) for name in "ab"]
    out = tmp_path / "differences.csv"
    assert str(out) in Outcome(capsys, "compare", *folders, "--metric", "hm", "--out", str(out)).out
    assert set(pd.read_csv(out)["metric"]) == {"hm"}
    Outcome(capsys, "compare", *folders, "--out", str(out))
    read = pd.read_csv(out)
    assert read["metric"].nunique() == 8 and read["folder"].tolist()[:2] == folders
    assert all(read[name].dtype == float for name in ("mean", "difference", "difference_low", "difference_high"))


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("{a}",), "at least two folders"),
        (("{a}", "{a}", "--metric", "hmm"), "unknown metric 'hmm'; did you mean 'hm'?"),
    ],
)
def test_compare_errors_are_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: tuple[str, ...], error: str
) -> None:
    run = write_training(tmp_path, 50)
    assert error in Outcome(capsys, "compare", *(argument.format(a=run) for argument in arguments)).error


def test_recommend_prints_answer_cost_and_measured_accuracies(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    study = write_study(tmp_path, accuracy, "synthesis.cost.throughput=2.0")
    outcome = Outcome(capsys, "recommend", study, "--accuracy", "55", "--metric", "novel")
    assert outcome.status == 0, outcome.err
    assert longest(outcome.out) <= 80
    assert outcome.out.startswith("novel of 55 % with syncclip-both: 1") and "images per class (95" in outcome.out
    assert "on one generator." in outcome.out and "57.5" in outcome.out
    assert "evaluation.split=val" in outcome.out and "To decide" not in outcome.out


def test_recommend_prints_the_pilot_that_decides(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    study = write_study(tmp_path, accuracy, "evaluation.split=val")
    outcome = Outcome(capsys, "recommend", study, "--accuracy", "59", "--metric", "novel")
    words = " ".join(outcome.out.split())
    assert "not determined, because the target exceeds the fitted accuracy at 64 images per class" in words
    assert "`study.images_per_class=[1,4,16,64,256]`" in words and "test images" not in words


def test_report_also_writes_figures_and_a_table(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = write_study(tmp_path, accuracy, spread=8)
    page = StudyReport(f"{study}/report.html", [table("table", ["column"], [])])
    monkeypatch.setattr("syncclip.reports.write_report", lambda _: page)
    outcome = Outcome(capsys, "report", study, "--figures", "svg", "--latex")
    assert outcome.status == 0, outcome.err
    written = {path.name for path in (tmp_path / "paper").iterdir()}
    assert {"results.csv", "results.tex", "curve_novel.svg"} <= written
    assert all(name in outcome.out for name in written - {MANIFEST})


def test_figures_in_other_formats_are_a_user_error(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    outcome = Outcome(capsys, "report", str(tmp_path), "--figures", "doc")
    assert outcome.status == 2 and "'doc' is not one of 'pdf', 'svg'" in outcome.err


def test_missing_format_of_figures_is_an_error_with_the_formats(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    error = Outcome(capsys, "report", str(tmp_path), "--figures").error
    assert "option '--figures' requires an argument: --figures pdf|svg; see" in error


@pytest.mark.parametrize(
    ("seeds", "advice", "other"), [(3, "study.seeds=[1,2,3,4,5]", "more classes"), (4, "more classes", "study.seeds")]
)
def test_more_seeds_are_recommended_before_more_classes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, seeds: int, advice: str, other: str
) -> None:
    measured = {1: Interval(50, 40, 60), 64: Interval(60, 50, 70)}
    unreachable = Interval(16, 4, math.inf)
    recommendation = Recommendation(
        "syncclip-both", "novel", "val", measured, unreachable, "", (), seeds, 128, "", 0.95
    )
    monkeypatch.setattr("syncclip.recommend", lambda *_: recommendation)
    words = " ".join(Outcome(capsys, "recommend", "study", "--accuracy", "55").out.split())
    assert advice in words and other not in words
