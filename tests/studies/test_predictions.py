"""A study's numbers, computed again from one table of predictions."""

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
    """What is published of a study: its own files, none of its cells'."""
    for file in (Path(suite_study.url) / request.param).iterdir():
        if file.is_file():
            shutil.copy(file, tmp_path)
    return tmp_path


def test_every_number_is_computed_again_without_the_cells(copy: Path) -> None:
    found = recompute(str(copy))
    assert found.differ == [] and found.numbers > 500
    table = storage.read_parquet(storage.read_bytes(str(copy / outputs.TABLE))).to_pandas()
    means = table.groupby(["configuration", "images_per_class"], dropna=False)["all_classes_hm"].mean()
    ours = found.means.set_index(["configuration", "images_per_class"])["all_classes_hm"]
    assert ours["syncclip-both", 4] == pytest.approx(means["syncclip-both", 4])
    assert len(ours) == len(means)


def test_changed_numbers_are_reported_with_their_positions(copy: Path) -> None:
    pairs = outputs.read_list(str(copy / outputs.COMPARISONS))
    pairs[3]["low"] += 0.1
    rewrite_json(copy / outputs.COMPARISONS, pairs)
    efficiency = outputs.read_json(str(copy / outputs.DATA_EFFICIENCY))
    efficiency["marginal"]["novel"][0]["points_per_hour"]["low"] -= 1
    rewrite_json(copy / outputs.DATA_EFFICIENCY, efficiency)
    first, second = recompute(str(copy)).differ
    assert first.startswith("comparisons.json[3]: low is ")
    assert second.startswith("data_efficiency.json: marginal: novel[0]: points_per_hour: low is ")


def test_what_the_files_hold_beyond_the_answers_is_reported(copy: Path) -> None:
    place = copy / outputs.FIT
    fit = outputs.read_json(str(place))
    fit["curves"]["another"] = fit["curves"]["syncclip-both"]
    rewrite_json(place, fit)
    assert any("curves: another is " in sentence for sentence in recompute(str(copy)).differ)


def test_a_study_without_a_finished_cell_has_nothing_to_recompute(copy: Path) -> None:
    table = storage.read_parquet(storage.read_bytes(str(copy / outputs.PREDICTIONS))).to_pandas()
    rewrite_table(copy / outputs.PREDICTIONS, table[:0])
    rewrite_table(copy / outputs.TABLE, pd.read_parquet(copy / outputs.TABLE)[:0])
    found = recompute(str(copy))
    assert found.comparisons == [] and len(found.means) == 0


def test_an_answer_that_was_changed_is_reported(copy: Path) -> None:
    place = str(copy / outputs.PREDICTIONS)
    table = storage.read_parquet(storage.read_bytes(place)).to_pandas()
    row = table.index[(table["configuration"] == "zeroshot") & table["novel"]][0]
    table.loc[row, "within_split"] = not table.loc[row, "within_split"]
    rewrite_table(place, table)
    found = recompute(str(copy)).differ
    assert any(sentence.startswith("study.parquet") for sentence in found)


@pytest.mark.parametrize("content", [{}, {"seen": 5}, {"seen": {"a": "b"}}])
def test_a_fit_without_what_it_stands_on_is_refused(copy: Path, content: dict[str, object]) -> None:
    rewrite_json(copy / outputs.FIT, content)
    with pytest.raises(UserError, match="no valid 'seen'"):
        recompute(str(copy))


def test_a_table_without_a_metric_is_refused(copy: Path) -> None:
    place = str(copy / outputs.TABLE)
    rewrite_table(place, storage.read_parquet(storage.read_bytes(place)).to_pandas().drop(columns="novel"))
    with pytest.raises(UserError, match=r"study\.parquet.*there is no column 'novel'"):
        recompute(str(copy))


def test_a_study_without_answers_is_an_error(copy: Path) -> None:
    (copy / outputs.PREDICTIONS).unlink()
    with pytest.raises(UserError, match=r"predictions\.parquet is missing"):
        recompute(str(copy))
