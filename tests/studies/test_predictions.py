"""Recomputation of a study's numbers from its table of predictions."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest

from syncclip import storage
from syncclip.core.settings import UserError
from syncclip.studies import outputs
from syncclip.studies.predictions import recompute
from syncclip.studies.run import Study
from tests.worlds.rewritten import rewrite_json, rewrite_table


@pytest.fixture(params=["", "second"], ids=["suite", "dataset"])
def copy(suite_study: Study, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A copy of a study's own files, without its runs."""
    for file in (Path(suite_study.url) / request.param).iterdir():
        if file.is_file():
            shutil.copy(file, tmp_path)
    return tmp_path


def table_of(copy: Path, name: str) -> pd.DataFrame:
    return storage.read_parquet(storage.read_bytes(str(copy / name))).to_pandas()


def test_all_numbers_are_recomputed_without_the_runs(copy: Path) -> None:
    recomputed = recompute(str(copy))
    assert recomputed.differ == [] and recomputed.numbers > 500
    keys = ["configuration", "images_per_class"]
    expected = table_of(copy, outputs.TABLE).groupby(keys, dropna=False)["all_classes_hm"].mean()
    means = recomputed.means.set_index(keys)["all_classes_hm"]
    assert means["syncclip-both", 4] == pytest.approx(expected["syncclip-both", 4])
    assert len(means) == len(expected)


def test_changed_numbers_are_reported_with_their_positions(copy: Path) -> None:
    pairs = outputs.read_list(str(copy / outputs.COMPARISONS))
    pairs[3]["low"] += 0.1
    rewrite_json(copy / outputs.COMPARISONS, pairs)
    efficiency = outputs.read_json(str(copy / outputs.DATA_EFFICIENCY))
    efficiency["marginal"]["novel"][0]["points_per_hour"]["low"] -= 1
    rewrite_json(copy / outputs.DATA_EFFICIENCY, efficiency)
    first, second = recompute(str(copy)).differ
    assert first.startswith("comparisons.json[3]: low: stored value ")
    assert second.startswith("data_efficiency.json: marginal: novel[0]: points_per_hour: low: stored value ")


def test_unexpected_entries_are_reported(copy: Path) -> None:
    fit = outputs.read_json(str(copy / outputs.FIT))
    fit["curves"]["another"] = fit["curves"]["syncclip-both"]
    rewrite_json(copy / outputs.FIT, fit)
    assert any("curves: another: " in message for message in recompute(str(copy)).differ)


def test_study_without_finished_trainings_is_empty(copy: Path) -> None:
    for name in (outputs.PREDICTIONS, outputs.TABLE):
        rewrite_table(copy / name, table_of(copy, name)[:0])
    recomputed = recompute(str(copy))
    assert recomputed.comparisons == [] and len(recomputed.means) == 0


def test_changed_prediction_is_reported(copy: Path) -> None:
    table = table_of(copy, outputs.PREDICTIONS)
    row = table.index[(table["configuration"] == "zeroshot") & table["novel"]][0]
    table.loc[row, "within_split"] = not table.loc[row, "within_split"]
    rewrite_table(str(copy / outputs.PREDICTIONS), table)
    assert any(message.startswith("study.parquet") for message in recompute(str(copy)).differ)


@pytest.mark.parametrize("content", [{}, {"seen": 5}, {"seen": {"a": "b"}}])
def test_fit_without_shares_of_used_images_is_an_error(copy: Path, content: dict[str, object]) -> None:
    rewrite_json(copy / outputs.FIT, content)
    with pytest.raises(UserError, match="no valid 'seen'"):
        recompute(str(copy))


def test_missing_column_or_table_is_an_error(copy: Path) -> None:
    rewrite_table(str(copy / outputs.TABLE), table_of(copy, outputs.TABLE).drop(columns="novel"))
    with pytest.raises(UserError, match=r"study\.parquet.*there is no column 'novel'"):
        recompute(str(copy))
    (copy / outputs.PREDICTIONS).unlink()
    with pytest.raises(UserError, match=r"predictions\.parquet is missing"):
        recompute(str(copy))
