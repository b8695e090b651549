"""Tables of methods by training data, and of comparisons."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd

from syncclip.evaluation.metrics import METRICS
from syncclip.studies.outputs import Comparison
from syncclip.studies.statistics.bootstrap import Unit
from syncclip.studies.summary import SHOWN, by_data, low_scores, recomputed


def table(*configurations: tuple[str, str, str, int | None]) -> pd.DataFrame:
    """Two seeds of each (configuration, method, data, images); scores of the n-th one are 10 n and 10 n + 2."""
    rows = [
        {"configuration": configuration, "method": method, "data": data, "images_per_class": amount, "seed": seed}
        | dict.fromkeys(METRICS, 10.0 * n + 2 * seed)
        for n, (configuration, method, data, amount) in enumerate(configurations, start=1)
        for seed in (0, 1)
    ]
    return pd.DataFrame(rows).astype({"images_per_class": "Int64"})


COMPLETE = [
    (f"{method}-{data}", method, data, None if data == "real" else 16)
    for method in ("coop", "vpt")
    for data in ("real", "synthetic", "both")
]


def test_each_method_has_a_row_with_its_scores_by_data() -> None:
    rows = by_data(table(("zeroshot", "zeroshot", "none", None), *COMPLETE))
    assert [row[:2] for row in rows] == [["coop", "16"], ["vpt", "16"]]
    assert rows[0][2:] == [" / ".join([f"{mean:.1f} ± 1.0"] * len(SHOWN)) for mean in (21, 31, 41)]


def test_each_number_of_images_has_a_row_with_the_same_scores_on_real_images() -> None:
    larger = [(configuration, method, data, 64) for configuration, method, data, amount in COMPLETE if amount]
    rows = by_data(table(*COMPLETE, *larger))
    assert [row[:2] for row in rows] == [["coop", "16"], ["coop", "64"], ["vpt", "16"], ["vpt", "64"]]
    assert rows[0][2] == rows[1][2] and rows[0][3] != rows[1][3]


def test_missing_number_of_images_leaves_an_empty_cell() -> None:
    larger = [(configuration, method, data, 64) for configuration, method, data, _ in COMPLETE if data == "both"]
    rows = by_data(table(*COMPLETE, *larger))
    assert [row[1] for row in rows] == ["16", "64", "16", "64"]
    assert rows[1][3] == "" and rows[1][2] and rows[1][4]


def test_table_requires_several_methods_on_all_data() -> None:
    assert by_data(table(*COMPLETE[:3])) == []
    assert by_data(table(*COMPLETE[:5])) == []
    assert by_data(table(*COMPLETE, ("vpt-shallow", "vpt", "both", 16))) == []


def test_comparisons_have_averages_and_a_table_of_simultaneous_intervals() -> None:
    def row(n: int | None, low: float, high: float, *averaged: int, unit: Unit = "classes") -> Comparison:
        pair = Comparison("syncclip-both", n, "ivlp-real", None, "hm", 4.0, low, high, 0.95, 5, 900, unit, 200)
        return replace(pair, simultaneous_low=low - 1, simultaneous_high=high + 1, averaged_over=averaged)

    rows = [row(None, 2, 6, 1, 16), row(16, 1, 7), row(16, 3, 5, unit="images")]
    _, classes, simultaneous, images = recomputed(pd.DataFrame(), rows)
    assert "95 % intervals over seeds and classes" in classes.title and "simultaneous" in simultaneous.title
    assert [[*cells[:2], cells[4]] for cells in classes.rows] == [
        ["mean of 1 to 16", "ivlp-real", "+4.0 [+2.0, +6.0]"],
        ["16", "ivlp-real", "+4.0 [+1.0, +7.0]"],
    ]
    assert [cells[4] for cells in simultaneous.rows] == ["+4.0 [+0.0, +8.0]"]
    assert [cells[4] for cells in images.rows] == ["+4.0 [+3.0, +5.0]"]
    few = recomputed(pd.DataFrame(), [replace(pair, seeds=2) for pair in rows])
    assert not any("simultaneous" in each.title for each in few)


def test_low_scores_are_reported_in_a_single_line_for_all_configurations() -> None:
    rows = table(("ivlp-real", "ivlp", "real", None), ("zeroshot", "zeroshot", "none", None), *COMPLETE[:1])
    (warning,) = low_scores(rows, dict.fromkeys(METRICS, 5.0))
    assert "not above zero-shot CLIP (21.0 %) for ivlp-real (11.0 %);" in warning
    (warning,) = low_scores(rows[rows["method"] != "zeroshot"], dict.fromkeys(METRICS, 12.0))
    assert "not above chance (12.0 %) for ivlp-real (11.0 %);" in warning
