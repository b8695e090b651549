from __future__ import annotations

import pandas as pd

from syncclip.evaluation.metrics import METRICS
from syncclip.studies.summary import SHOWN, by_data


def table(*configurations: tuple[str, str, str, int | None]) -> pd.DataFrame:
    """Two seeds of each (configuration, method, data, amount); all scores of the n-th configuration are 10 n and 10
    n + 2."""
    rows = [
        {"configuration": configuration, "method": method, "data": data, "images_per_class": amount, "seed": seed}
        | dict.fromkeys(METRICS, 10.0 * n + 2 * seed)
        for n, (configuration, method, data, amount) in enumerate(configurations, start=1)
        for seed in (0, 1)
    ]
    return pd.DataFrame(rows).astype({"images_per_class": "Int64"})


WHOLE = [
    (f"{method}-{data}", method, data, None if data == "real" else 16)
    for method in ("coop", "vpt")
    for data in ("real", "synthetic", "both")
]


def test_methods_stand_side_by_side_by_what_they_learn_from() -> None:
    found = by_data(table(("zeroshot", "zeroshot", "none", None), *WHOLE))
    assert [row[:2] for row in found] == [["coop", "16"], ["vpt", "16"]]
    assert found[0][2:] == [" / ".join([f"{mean:.1f} ± 1.0"] * len(SHOWN)) for mean in (21, 31, 41)]


def test_each_amount_has_a_row_and_real_images_know_no_amount() -> None:
    more = [(configuration, method, data, 64) for configuration, method, data, amount in WHOLE if amount]
    found = by_data(table(*WHOLE, *more))
    assert [row[:2] for row in found] == [["coop", "16"], ["coop", "64"], ["vpt", "16"], ["vpt", "64"]]
    assert found[0][2] == found[1][2] and found[0][3] != found[1][3]


def test_a_configuration_that_keeps_to_other_amounts_leaves_its_cell_empty() -> None:
    more = [(configuration, method, data, 64) for configuration, method, data, amount in WHOLE if data == "both"]
    found = by_data(table(*WHOLE, *more))
    assert [row[1] for row in found] == ["16", "64", "16", "64"]
    assert found[1][3] == "" and found[1][2] and found[1][4]


def test_without_several_methods_on_all_data_there_is_nothing_to_compare() -> None:
    assert by_data(table(*WHOLE[:3])) == []
    assert by_data(table(*WHOLE[:3], *WHOLE[3:5])) == []
    assert by_data(table(*WHOLE, ("vpt-shallow", "vpt", "both", 16))) == []
