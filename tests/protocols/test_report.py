"""Tables and page of a protocol from fabricated results."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from syncclip.protocols import report
from syncclip.protocols.protocols import PROTOCOLS
from syncclip.protocols.scores import summarise
from tests.protocols.fabricated import fabricated

WITHIN_SPLIT, OPEN_VOCABULARY, CROSS_DATASET, GROWING = (
    PROTOCOLS[name] for name in ("base-to-novel", "open-vocabulary", "cross-dataset", "growing")
)


def within_split(test: str, method: str, seed: int) -> dict[str, float] | None:
    """Scores near those published for PromptSRC; the third seed of SYNC-CLIP is missing."""
    if (method, seed) == ("syncclip", 3):
        return None
    return {"base": 84.0, "novel": 76.5, "hm": 80.0}


def test_table_contains_published_results_and_differences() -> None:
    average, *each, others = report.grids(summarise(WITHIN_SPLIT, fabricated(WITHIN_SPLIT, within_split)))
    row = next(row for row in average.rows if row[0] == "promptsrc, real")
    assert list(average.headings[:5]) == ["method", "runs", "base", "published", "difference"]
    assert list(row[1:5]) == ["33 of 33", "84.00", "84.26", "-0.26"]
    assert list(row[5:8]) == ["76.50", "76.10", "+0.40"]
    assert len(each) == 11
    assert list(each[0].headings) == ["method", "runs", "base", "novel", "HM"]
    assert list(others.headings) == ["method", "base", "novel", "HM", "additional data"]
    reported = {row[0]: row[1:] for row in others.rows}
    assert reported["DePT"] == ["83.80", "72.89", "77.97", ""]
    assert reported["PromptKD"][:3] == ["86.96", "80.73", "83.73"] and "unlabelled images" in reported["PromptKD"][3]


def test_missing_runs_are_counted() -> None:
    scores = summarise(WITHIN_SPLIT, fabricated(WITHIN_SPLIT, within_split))
    assert "66 of 77 tests are finished; 11 are missing (–)." in report.sentences(scores)
    row = next(row for row in report.grids(scores)[0].rows if row[0].startswith("syncclip"))
    assert row[:3] == ["syncclip, both", "22 of 33", "84.00"]


def test_missing_result_is_a_dash() -> None:
    scores = summarise(WITHIN_SPLIT, fabricated(WITHIN_SPLIT, lambda *_: None))
    assert {cell for row in report.grids(scores)[0].rows for cell in row[2::3]} == {"–"}
    assert "0 of 77 tests are finished; 77 are missing (–)." in report.sentences(scores)


def test_average_of_some_datasets_is_not_compared() -> None:
    scores = summarise(WITHIN_SPLIT, fabricated(WITHIN_SPLIT, within_split, datasets=["dtd", "eurosat"]))
    assert any("2 of 11 datasets" in sentence for sentence in report.sentences(scores))
    assert "published" not in report.grids(scores)[0].headings
    assert not any(sentence.startswith("Published:") for sentence in report.sentences(scores))
    assert not any(grid.title.startswith("Published") for grid in report.grids(scores))


def test_published_gain_is_compared() -> None:
    def all_classes(test: str, method: str, seed: int) -> dict[str, float]:
        novel = {"syncclip": 66.5}.get(method, 65.0)
        return {"all_classes_base": 70.0, "all_classes_novel": novel, "all_classes_hm": 0.0, "openworld_auc": 40.0}

    reported = report.sentences(summarise(OPEN_VOCABULARY, fabricated(OPEN_VOCABULARY, all_classes)))
    assert "syncclip over promptsrc, novel (all): +1.50 points here, +3.00 published." in reported


def test_datasets_of_a_single_metric_share_a_table() -> None:
    table = fabricated(CROSS_DATASET, lambda *_: {"all_classes_accuracy": 50.0}, tests=["dtd", "eurosat"])
    (grid,) = report.grids(summarise(CROSS_DATASET, table))
    assert list(grid.headings) == ["method", "imagenet", "dtd", "eurosat", "average"]


def test_written_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = fabricated(WITHIN_SPLIT, within_split)
    page = report.write(WITHIN_SPLIT, table, str(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {f"base-to-novel.{end}" for end in ("html", "md", "parquet")}
    assert "http" not in Path(page).read_text().replace("http://www.w3.org", "")
    assert len(pd.read_parquet(tmp_path / "base-to-novel.parquet")) == len(table)
    assert "| promptsrc, real | 33 of 33 | 84.00 | 84.26 | -0.26 |" in (tmp_path / "base-to-novel.md").read_text()
    assert "11 are missing" in capsys.readouterr().out


def growing(amount: int, *methods: str) -> pd.DataFrame:
    """Runs with `amount` synthetic images, which raise all metrics by as many points."""
    return fabricated(GROWING, lambda *_: dict.fromkeys(GROWING.metrics, 50.0 + amount), methods=methods, amount=amount)


def test_methods_with_several_numbers_of_images_are_curves_and_others_levels() -> None:
    table = pd.concat([growing(0, "zeroshot", "promptsrc"), *(growing(amount, "syncclip") for amount in (4, 1, 16))])
    scores = summarise(GROWING, table)
    growth = report.growth(scores)
    assert growth is not None
    assert (growth["heading"], growth["numbers"]) == ("synthetic images per class", [1, 4, 16])
    (curve,) = growth["curves"]
    assert (curve["name"], [point["base"] for point in curve["points"]]) == ("syncclip, both", [51.0, 54.0, 66.0])
    levels = {level["name"]: level["scores"]["novel"] for level in growth["levels"]}
    assert levels == {"zeroshot": 50.0, "promptsrc, real": 50.0}
    lines = [row[0] for row in report.grids(scores)[0].rows]
    assert lines[2:] == [f"syncclip, both, {amount} synthetic" for amount in (1, 4, 16)]


def test_single_number_of_images_has_no_curve() -> None:
    scores = summarise(WITHIN_SPLIT, fabricated(WITHIN_SPLIT, within_split))
    assert report.growth(scores) is None
    assert 'data-figure="growth"' not in report.render(scores)
