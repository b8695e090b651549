"""Tables of the accuracies of studies and trainings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from syncclip import results, storage
from syncclip.core.settings import UserError
from syncclip.studies import outputs
from syncclip.studies.levels_state import LevelsState
from tests.studies.predicted import write_study, write_training


def growing(configuration: str, n: int) -> float:
    """50 % without synthetic images, and one point more for each doubling of n, starting at 60 %."""
    return 60 + np.log2(n) if n else 50


def row(frame: pd.DataFrame, **values: object) -> pd.Series:
    for key, value in values.items():
        frame = frame[frame[key] == value]
    (only,) = frame.index
    return frame.loc[only]


def test_each_configuration_has_a_row_for_each_number_of_images_and_metric(tmp_path: Path) -> None:
    frame = results(write_study(tmp_path, growing))
    novel = frame[frame["metric"] == "novel"]
    assert novel["configuration"].tolist() == ["zeroshot", "ivlp-real", *["syncclip-both"] * 4]
    assert novel["images_per_class"].fillna(0).tolist() == [0, 0, 1, 4, 16, 64]
    assert novel["mean"].tolist() == [50, 50, 60, 62, 64, 66]
    assert set(frame["dataset"]) == {"shapes"} and set(frame["split"]) == {"test"}


def test_standard_error_and_interval_are_over_seeds(tmp_path: Path) -> None:
    scores = row(results(write_study(tmp_path, growing)), metric="hm", images_per_class=16)
    # Accuracies of the seeds are 63.5, 64 and 64.5; 4.30 is the 97.5 % quantile of t with two degrees of freedom.
    assert scores["seeds"] == 3 and scores["standard_error"] == pytest.approx(0.5 / 3**0.5)
    assert scores["high"] - scores["low"] == pytest.approx(2 * 4.30 * 0.5 / 3**0.5, rel=0.5)


def test_interval_is_also_over_classes(tmp_path: Path) -> None:
    narrow, wide = (
        row(results(write_study(tmp_path / str(spread), growing, spread=spread)), metric="novel", images_per_class=16)
        for spread in (0, 20)
    )
    assert narrow["mean"] == wide["mean"] and wide["high"] - wide["low"] > 2 * (narrow["high"] - narrow["low"])


def test_study_of_a_recipes_folder_is_read(tmp_path: Path) -> None:
    write_study(tmp_path / "study", growing)
    pd.testing.assert_frame_equal(results(str(tmp_path)), results(str(tmp_path / "study")))


def test_training_has_a_row_for_each_metric_without_standard_error(tmp_path: Path) -> None:
    frame = results(write_training(tmp_path, 60, "evaluation.split=val", spread=8))
    scores = row(frame, metric="novel")
    assert (scores["configuration"], scores["split"], scores["seeds"]) == ("ivlp-real", "val", 1)
    assert scores["mean"] == 60 and scores["low"] < 60 < scores["high"] and np.isnan(scores["standard_error"])


def test_csv_is_read_without_cleaning(tmp_path: Path) -> None:
    frame = results(write_study(tmp_path, growing))
    frame.to_csv(tmp_path / "results.csv", index=False)
    read = pd.read_csv(tmp_path / "results.csv")
    assert all(read[column].dtype == float for column in ("mean", "standard_error", "low", "high"))
    np.testing.assert_allclose(read["mean"], frame["mean"])


def test_unfinished_study_is_an_error(tmp_path: Path) -> None:
    url = write_study(tmp_path, growing)
    storage.write_table(str(tmp_path / outputs.PREDICTIONS), storage.read_table(str(tmp_path / outputs.PREDICTIONS), ["dataset", "configuration", "images_per_class", "seed", "label", "novel", "within_split", "all_classes", "order"], "")[:0], storage.read_owner(str(tmp_path / outputs.STATE)))
    with pytest.raises(UserError, match="no training run is finished"):
        results(url)


def test_unevaluated_training_is_an_error(tmp_path: Path) -> None:
    url = write_training(tmp_path, 60)
    (tmp_path / "classes.json").unlink()
    with pytest.raises(UserError, match="syncclip evaluate"):
        results(url)


def test_other_folders_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no study or training"):
        results(str(tmp_path))
    state = LevelsState(name="a", dataset="b", split="test", datasets=(), pretrained=("openai",), configurations={})
    storage.write_document(str(tmp_path / outputs.LEVELS), state)
    with pytest.raises(UserError, match=r"several pretrained tags; pass a subfolder: .*/openai"):
        results(str(tmp_path))
