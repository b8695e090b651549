"""Headline, figure and tables of the map of gains."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from syncclip.core.settings import UserError
from syncclip.reports import report, write_report
from syncclip.reports.gain_map import (
    figure_values,
    gains_table,
    headline_of,
    judge,
    read_map,
    terminal_table,
    trends_table,
)
from syncclip.studies import outputs
from syncclip.studies.gain_map import Trend
from syncclip.studies.statistics.bootstrap import Interval
from tests.studies.fabricated_map import KNOWLEDGE, make_map

ZERO = Interval(0, 0, 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_map(tmp_path_factory.mktemp("map") / "study")


@pytest.fixture(scope="module")
def page(folder: Path) -> str:
    return Path(report(str(folder.parent))).read_text(encoding="utf-8").replace("\u00a0", " ")


def payload_of(page: str) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(
        re.search(r'<script type="application/json" id="payload">(.*?)</script>', page, re.DOTALL)[1]
    )
    return values


@pytest.mark.parametrize(
    ("gain", "loss", "crossing", "headline", "interval"),
    [
        (
            (0.3, 0.5),
            (0.7, 0.9),
            0.6,
            "Synthetic images help SYNC-CLIP while name knowledge is below 0.50; above 0.70, they reduce its accuracy.",
            "sign change at 0.60, 95 % CI 0.50 to 0.70",
        ),
        (
            (0.7, 0.9),
            (0.3, 0.5),
            0.6,
            "Synthetic images reduce the accuracy of SYNC-CLIP while name knowledge is below 0.50; above 0.70, they "
            "help.",
            "sign change at 0.60, 95 % CI 0.50 to 0.70",
        ),
        (
            (0.3, 0.9),
            (),
            None,
            "Synthetic images help SYNC-CLIP at every measured level of name knowledge, 0.30 to 0.90.",
            "",
        ),
        (
            (),
            (0.3, 0.9),
            None,
            "Synthetic images reduce the accuracy of SYNC-CLIP at every measured level of name knowledge, 0.30 to "
            "0.90.",
            "",
        ),
        (
            (0.3, 0.55),
            (),
            0.8,
            "Synthetic images help SYNC-CLIP while name knowledge is below 0.55; elsewhere, the effect is "
            "inconclusive.",
            "measured range 0.30 to 0.90",
        ),
        (
            (),
            (0.8, 0.9),
            0.5,
            "Synthetic images reduce the accuracy of SYNC-CLIP while name knowledge is above 0.80; elsewhere, the "
            "effect is inconclusive.",
            "measured range 0.30 to 0.90",
        ),
        (
            (0.5, 0.6),
            (),
            None,
            "Synthetic images help SYNC-CLIP while name knowledge is between 0.50 and 0.60; elsewhere, the effect is "
            "inconclusive.",
            "measured range 0.30 to 0.90",
        ),
        (
            (),
            (),
            0.6,
            "No significant effect of synthetic images on SYNC-CLIP at any name knowledge between 0.30 and 0.90.",
            "",
        ),
    ],
)
def test_headline_follows_the_intervals(
    gain: tuple[float, ...], loss: tuple[float, ...], crossing: float | None, headline: str, interval: str
) -> None:
    measured: list[tuple[str, float, str]] = [
        (
            str(x),
            x,
            "significant gain" if within(gain, x) else "significant loss" if within(loss, x) else "inconclusive",
        )
        for x in (0.3, 0.5, 0.6, 0.9)
    ]
    assert headline_of("SYNC-CLIP", trend_with(gain, loss, crossing), measured, "95 %") == (headline, interval)


def within(bounds: tuple[float, ...], x: float) -> bool:
    return bool(bounds) and bounds[0] <= x <= bounds[1]


def trend_with(gain: tuple[float, ...], loss: tuple[float, ...], crossing: float | None) -> Trend:
    keys = "syncclip-both", None, "real", "ivlp-real", "hm", ("a", "b", "c")
    return Trend(*keys, ZERO, (ZERO, ZERO), crossing, gain, loss, 5, (1, 4))


@pytest.mark.parametrize(
    ("gain", "loss", "crossing", "verdicts", "headline"),
    [
        (
            (0.3, 0.9),
            (),
            None,
            ("gain", "", "loss"),
            "The fitted line of SYNC-CLIP's gain is above zero over the measured range of name knowledge, 0.30 to "
            "0.90; the measured effect is inconclusive at b and a significant loss at c.",
        ),
        (
            (),
            (0.3, 0.9),
            None,
            ("", "loss", ""),
            "The fitted line of SYNC-CLIP's gain is below zero over the measured range of name knowledge, 0.30 to "
            "0.90; the measured effect is inconclusive at a and c.",
        ),
        (
            (0.3, 0.5),
            (0.7, 0.9),
            0.6,
            ("", "gain", "loss"),
            "The fitted line of SYNC-CLIP's gain is above zero while name knowledge is below 0.50, and below zero "
            "while it is above 0.70; the measured effect is inconclusive at a.",
        ),
        (
            (0.7, 0.9),
            (0.3, 0.5),
            0.6,
            ("loss", "gain", "loss"),
            "The fitted line of SYNC-CLIP's gain is below zero while name knowledge is below 0.50, and above zero "
            "while it is above 0.70; the measured effect is a significant loss at c.",
        ),
        (
            (0.3, 0.5),
            (),
            None,
            ("gain", "gain", ""),
            "The fitted line of SYNC-CLIP's gain is above zero while name knowledge is below 0.50; elsewhere, its "
            "interval contains zero; the measured effect is a significant gain at b.",
        ),
        (
            (),
            (),
            None,
            ("gain", "", ""),
            "The fitted line of SYNC-CLIP's gain does not differ significantly from zero at any name knowledge "
            "between 0.30 and 0.90; the measured effect is a significant gain at a.",
        ),
    ],
)
def test_headline_lists_the_levels_whose_verdict_differs_from_the_line(
    gain: tuple[float, ...],
    loss: tuple[float, ...],
    crossing: float | None,
    verdicts: tuple[str, ...],
    headline: str,
) -> None:
    """The level b, at 0.6, is near the sign change, where any verdict agrees with the line."""
    names = [f"significant {each}" if each else "inconclusive" for each in verdicts]
    measured = [*zip("abc", (0.3, 0.6, 0.9), names, strict=True)]
    assert headline_of("SYNC-CLIP", trend_with(gain, loss, crossing), measured, "95 %")[0] == headline


def test_a_level_without_a_difference_is_equivalent() -> None:
    measured = [("a", 0.3, "equivalent"), ("b", 0.9, "equivalent")]
    agrees = headline_of("SYNC-CLIP", trend_with((), (), None), measured, "95 %")[0]
    assert agrees.startswith("No significant effect of synthetic images on SYNC-CLIP at any name knowledge")
    differs = headline_of("SYNC-CLIP", trend_with((0.3, 0.9), (), None), measured, "95 %")[0]
    assert differs.endswith("the measured effect is equivalent within ±2 at a and b.")


def test_headline_compares_the_line_with_the_cells_of_its_mean(folder: Path) -> None:
    study = read_map(str(folder))
    cells = [
        replace(cell, verdict="inconclusive", low=-1.0) if cell.pretrained == "names-0" and cell.averaged else cell
        for cell in study.cells
    ]
    verdict = judge(replace(study, cells=cells))[0]
    headline = verdict.headline
    assert "names-0 is inconclusive: with 12 classes only differences above" in " ".join(verdict.sentences)
    assert headline.startswith("The fitted line of SYNC-CLIP's gain is above zero while name knowledge is below")
    assert headline.endswith("; the measured effect is inconclusive at names-0.")


def test_headline_judges_the_average_gain_over_real_images_only(folder: Path) -> None:
    study = read_map(str(folder))
    verdict, metric = judge(study)
    (trend,) = (
        trend
        for trend in study.summary.trends
        if (trend.configuration, trend.over, trend.averaged, trend.metric)
        == ("syncclip-both", "real", True, "all_classes_hm")
    )
    assert metric == "all_classes_hm"
    assert (
        f"is below {trend.gain_range[1]:.2f}; above {trend.loss_range[0]:.2f}, they reduce its accuracy"
        in verdict.headline
    )
    first, measured, slope, *_ = verdict.sentences
    assert "SYNC-CLIP over IVLP on real images, averaged over 1 and 4 synthetic images per class: harmonic" in first
    assert re.match(r"Significant gain: names-0 \(\+.* points, .*significant loss: .*names-all \(−", measured)
    assert f"Trend: −{abs(trend.slope.estimate) / 10:.1f} points per 0.1" in slope


def test_sentences_list_the_methods_with_gains_over_zero_shot_at_each_level(folder: Path) -> None:
    study = read_map(str(folder))
    listed = judge(study)[0].sentences[-1]
    assert listed.startswith("Significant gains over zero-shot CLIP, averaged over numbers of images: names-0: ")
    first, *_, last = listed.removesuffix(".").split("; ")
    gains = [float(gain) for gain in re.findall(r"\(\+([\d.]+)\)", first)]
    assert len(gains) == 3 and gains == sorted(gains, reverse=True) and "SYNC-CLIP (+" in first
    assert last == "names-all: none"


def test_headline_without_a_trend_counts_the_levels(tmp_path: Path) -> None:
    verdict, _ = judge(read_map(str(make_map(tmp_path / "study", tags=1))))
    assert verdict.headline == "Effect of synthetic images on SYNC-CLIP: significant loss at 1 of 1 level."
    assert "requires at least two levels" in verdict.sentences[-2]


def test_headline_falls_back_to_zero_shot_and_to_no_baseline(folder: Path) -> None:
    study = read_map(str(folder))
    without = replace(study, cells=[cell for cell in study.cells if cell.over != "real"])
    assert "over Zero-shot CLIP" in judge(without)[0].sentences[0]
    assert judge(replace(study, cells=[]))[0].headline == "The effect of synthetic images was not measured."


def test_page_has_the_headline_the_figure_and_all_tables(page: str, folder: Path) -> None:
    verdict, _ = judge(read_map(str(folder)))
    assert verdict.headline in page and 'data-figure="gains"' in page
    for heading in ("Name knowledge", "Gains, HM (all)", "Trends over name knowledge, HM (all)"):
        assert f"<h2>{heading}</h2>" in page
    assert page.index("names-0</th>") < page.index("names-3</th>") < page.index("names-all</th>"), "by name knowledge"


def test_figure_shows_every_gain(page: str, folder: Path) -> None:
    values, cells = payload_of(page), read_map(str(folder)).cells
    assert values["metric"] == "all_classes_hm" and values["numbers"] == [1, 4]
    points = values["gains"]["real"][""]["4"]["syncclip-both"]["hm"]
    assert {point["tag"]: point["x"] for point in points} == KNOWLEDGE
    cell = next(
        cell
        for cell in cells
        if (cell.pretrained, cell.dataset, cell.configuration, cell.images_per_class, cell.over, cell.metric)
        == ("names-3", "", "syncclip-both", 4, "real", "hm")
    )
    point = next(point for point in points if point["tag"] == "names-3")
    assert (point["gain"], point["low"], point["high"]) == pytest.approx((cell.gain, cell.low, cell.high), abs=1e-4)
    of_dataset = values["gains"]["zero-shot"]["second"]
    assert set(of_dataset) == {"0", "mean"}
    assert {point["x"] for point in of_dataset["mean"]["tip-both"]["hm"]} == {
        round(ratio - 0.01, 4) for ratio in KNOWLEDGE.values()
    }
    assert set(values["gains"]["zero-shot"][""]) == {"0", "1", "4", "mean"}, "0: configurations on real images only"


def test_tables_list_gains_and_trends_of_each_configuration(folder: Path) -> None:
    study = read_map(str(folder))
    gains = gains_table(study, "hm")
    assert gains.columns.tolist() == [
        "method",
        "images per class",
        "over",
        "names-0",
        "names-3",
        "names-25",
        "names-all",
    ]
    assert len(gains) == 1 + 2 * 3 * 2 + 3, "IVLP on real images; two methods with both baselines; Tip-Adapter"
    trends = trends_table(study, "hm")
    assert len(trends) == len(gains)
    row = trends[(trends["method"] == "SYNC-CLIP") & (trends["images per class"] == "mean of 1, 4")].iloc[0]
    assert 0.55 < float(row["sign change"]) < 0.84


def test_configuration_with_a_single_number_of_images_is_shown_under_that_number(tmp_path: Path) -> None:
    folder = make_map(tmp_path / "study", numbers={"syncclip-both": [4], "ivlp-both": [1, 4], "tip-both": [1]})
    study = read_map(str(folder))
    for rows in (gains_table(study, "hm"), trends_table(study, "hm")):
        numbers = rows.groupby("method")["images per class"].unique().map(set).to_dict()
        assert numbers[study.label["syncclip-both"]] == {"4"} and numbers[study.label["tip-both"]] == {"1"}
        assert numbers[study.label["ivlp-both"]] == {"1", "4", "mean of 1, 4"}
    verdict, metric = judge(study)
    assert "SYNC-CLIP over IVLP on real images with 4 synthetic images per class: harmonic" in verdict.sentences[0]
    assert "while name knowledge is below" in verdict.headline
    gains = figure_values(study, metric)["gains"]["real"]
    assert set(gains[""]["mean"]) == set(gains["first"]["mean"]) == {"ivlp-both"}
    assert set(gains["first"]["4"]) == {"syncclip-both"}
    assert {point["number"] for point in gains[""]["mean"]["ivlp-both"]["hm"]} == {"mean of 1, 4"}
    console = Console(width=200)
    with console.capture() as capture:
        console.print(terminal_table(study, verdict, metric))
    lines = [line for line in capture.get().splitlines() if line.strip(" │").startswith("SYNC-CLIP")]
    assert "mean of 1, 4" in capture.get() and len(lines) == 2
    assert not any("mean" in line for line in lines)


def test_terminal_shows_the_headline_and_average_gains(folder: Path) -> None:
    console = Console(width=200)
    with console.capture() as capture:
        console.print(*write_report(str(folder)).tables)
    assert "Synthetic images help SYNC-CLIP while" in capture.get() and "names-25" in capture.get()


def test_study_without_results_is_an_error(tmp_path: Path) -> None:
    folder = make_map(tmp_path / "study", tags=2)
    (folder / outputs.MAP).unlink()
    with pytest.raises(UserError, match="no level has results yet"):
        report(str(folder))
