"""The tables and the page, of numbers that are known."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from syncclip.protocols import report
from syncclip.protocols.protocols import PROTOCOLS
from syncclip.protocols.scores import summarise
from tests.protocols.fabricated import fabricated

HALVES, OPEN, ACROSS, GROWING = (
    PROTOCOLS[name] for name in ("base-to-novel", "open-vocabulary", "cross-dataset", "growing")
)


def halves(test: str, method: str, seed: int) -> dict[str, float] | None:
    """PromptSRC a little below its authors' figures; SYNC-CLIP's third seed was not run."""
    if (method, seed) == ("syncclip", 3):
        return None
    return {"base": 84.0, "novel": 76.5, "hm": 80.0}


def test_ours_stand_beside_published_figures_with_the_difference() -> None:
    average, *each, others = report.grids(summarise(HALVES, fabricated(HALVES, halves)))
    row = next(row for row in average.rows if row[0] == "promptsrc, real")
    assert list(average.headings[:5]) == ["method", "runs", "base", "published", "difference"]
    assert list(row[1:5]) == ["33 of 33", "84.00", "84.26", "-0.26"]
    assert list(row[5:8]) == ["76.50", "76.10", "+0.40"]
    assert len(each) == 11
    assert list(each[0].headings) == ["method", "runs", "base", "novel", "HM"]
    assert list(others.headings) == ["method", "base", "novel", "HM", "further data"]
    reported = {row[0]: row[1:] for row in others.rows}
    assert reported["DePT"] == ["83.80", "72.89", "77.97", ""]
    assert reported["PromptKD"][:3] == ["86.96", "80.73", "83.73"] and "unlabelled images" in reported["PromptKD"][3]


def test_missing_runs_are_reported() -> None:
    scores = summarise(HALVES, fabricated(HALVES, halves))
    assert "66 of 77 tests are finished; 11 are missing (–)." in report.sentences(scores)
    row = next(row for row in report.grids(scores)[0].rows if row[0].startswith("syncclip"))
    assert row[:3] == ["syncclip, both", "22 of 33", "84.00"]


def test_a_run_that_was_never_made_shows_a_dash() -> None:
    scores = summarise(HALVES, fabricated(HALVES, lambda *_: None))
    assert {cell for row in report.grids(scores)[0].rows for cell in row[2::3]} == {"–"}
    assert "0 of 77 tests are finished; 77 are missing (–)." in report.sentences(scores)


def test_some_data_sets_have_no_published_average_beside_them() -> None:
    scores = summarise(HALVES, fabricated(HALVES, halves, datasets=["dtd", "eurosat"]))
    assert any("2 of 11 datasets" in sentence for sentence in report.sentences(scores))
    assert "published" not in report.grids(scores)[0].headings
    assert not any(sentence.startswith("Published:") for sentence in report.sentences(scores))
    assert not any(grid.title.startswith("Published") for grid in report.grids(scores))


def test_a_published_gain_is_set_beside_ours() -> None:
    def opened(test: str, method: str, seed: int) -> dict[str, float]:
        novel = {"syncclip": 66.5}.get(method, 65.0)
        return {"all_classes_base": 70.0, "all_classes_novel": novel, "all_classes_hm": 0.0, "openworld_auc": 40.0}

    reported = report.sentences(summarise(OPEN, fabricated(OPEN, opened)))
    assert "syncclip over promptsrc, novel (all): +1.50 points here, +3.00 published." in reported


def test_of_one_metric_all_data_sets_stand_side_by_side() -> None:
    table = fabricated(ACROSS, lambda *_: {"all_classes_accuracy": 50.0}, tests=["dtd", "eurosat"])
    (grid,) = report.grids(summarise(ACROSS, table))
    assert list(grid.headings) == ["method", "imagenet", "dtd", "eurosat", "average"]


def test_the_files_are_written_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = fabricated(HALVES, halves)
    page = report.write(HALVES, table, str(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "base-to-novel.html",
        "base-to-novel.md",
        "base-to-novel.parquet",
    ]
    assert "http" not in Path(page).read_text().replace("http://www.w3.org", "")
    assert len(pd.read_parquet(tmp_path / "base-to-novel.parquet")) == len(table)
    assert "| promptsrc, real | 33 of 33 | 84.00 | 84.26 | -0.26 |" in (tmp_path / "base-to-novel.md").read_text()
    assert "11 are missing" in capsys.readouterr().out


def growing(amount: int, *methods: str) -> pd.DataFrame:
    """Runs with so many synthetic images, which raise every metric by as many points."""
    return fabricated(GROWING, lambda *_: dict.fromkeys(GROWING.metrics, 50.0 + amount), methods=methods, amount=amount)


def test_growing_numbers_become_curves_and_the_others_levels() -> None:
    table = pd.concat([growing(0, "zeroshot", "promptsrc"), *(growing(amount, "syncclip") for amount in (4, 1, 16))])
    scores = summarise(GROWING, table)
    found = report.growth(scores)
    assert found is not None
    assert (found["heading"], found["numbers"]) == ("synthetic images per class", [1, 4, 16])
    assert [(curve["name"], [point["base"] for point in curve["points"]]) for curve in found["curves"]] == [
        ("syncclip, both", [51.0, 54.0, 66.0])
    ]
    levels = {level["name"]: level["scores"]["novel"] for level in found["levels"]}
    assert levels == {"zeroshot": 50.0, "promptsrc, real": 50.0}
    lines = [row[0] for row in report.grids(scores)[0].rows]
    assert lines[2:] == [f"syncclip, both, {amount} synthetic" for amount in (1, 4, 16)]


def test_where_nothing_grows_there_is_no_curve() -> None:
    scores = summarise(HALVES, fabricated(HALVES, halves))
    assert report.growth(scores) is None
    assert 'data-figure="growth"' not in report.render(scores)
