"""The gain map derived from finished studies, and its held-out predictions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from scripts import gain_map
from syncclip import storage
from syncclip.core.settings import UserError
from syncclip.recipe.recipe import Recipe
from syncclip.studies import outputs, run
from syncclip.studies.analysis import Evidence
from syncclip.studies.assess import measure, name_in_map
from syncclip.studies.gain_prediction import ALL_CONFIGURATIONS, COLUMNS, KEYS
from tests.studies.synthetic_map import CONFIGURATIONS, DATASETS, LEVELS, synthetic_map
from tests.worlds.rewritten import rewrite_table
from tests.worlds.study import MEMBERS, run_cells_here, study_recipe, suite_recipe, suite_world_in


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return suite_world_in(tmp_path_factory.mktemp("suite"))


@pytest.fixture(scope="module")
def level(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of a suite in the folder `few`, with invented predictions."""
    folder = tmp_path_factory.mktemp("map")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "run_cells", run_cells_here)
        run.study(suite_recipe(world, "study.images_per_class=[1,2]", "study.seeds=[1]"), str(folder / "few"))
    path = folder / "few" / outputs.PREDICTIONS
    table = storage.read_parquet(storage.read_bytes(str(path))).to_pandas()
    share = np.where(table["configuration"] == "syncclip-both", 0.7, 0.4)
    table["all_classes"] = np.random.default_rng(1).random(len(table)) < share
    rewrite_table(path, table)
    return folder / "few"


def accuracies(level: Path) -> pd.DataFrame:
    """Mean over seeds of the harmonic mean by dataset, configuration and number of images."""
    table = storage.read_parquet(storage.read_bytes(str(level / outputs.PREDICTIONS))).to_pandas()
    table[["images_per_class", "seed"]] = table[["images_per_class", "seed"]].fillna(0)
    runs = table.groupby(["dataset", "configuration", "images_per_class", "seed", "novel"])["all_classes"].mean()
    base, novel = runs.xs(False, level="novel"), runs.xs(True, level="novel")
    return (200 * base * novel / (base + novel)).groupby(level=[0, 1, 2]).mean()


def test_gains_are_those_of_each_dataset(level: Path, world: Path) -> None:
    rows = list(gain_map.rows("few", level))
    means = accuracies(level)
    assert len(rows) == 2 * 2 * 2, "datasets, configurations with synthetic images, numbers of images"
    for row in rows:
        suite, _, member = str(row["dataset"]).partition("/")
        number, n = MEMBERS.index(member), row["images_per_class"]
        ours = means[number, row["configuration"], n]
        assert row["over_real"] == pytest.approx(ours - means[number, "ivlp-real", 0])
        assert row["over_zero_shot"] == pytest.approx(ours - means[number, "zeroshot", 0])
        assert row["real_only"] == "ivlp-real" and float(str(row["over_real_se"])) > 0
        own = study_recipe(world, f"dataset.name={world}/suite/{member}", "study.seeds=[1]")
        measured = measure(own)
        assert suite == "suite" and row["dataset"] == name_in_map(own.dataset)
        assert (row["name_knowledge"], row["zero_shot"]) == (measured.name_knowledge, measured.zero_shot)
        assert set(row) == set(COLUMNS) and row["shots"] == 2


def test_only_the_outermost_studies_are_levels(level: Path) -> None:
    assert (level / "first" / outputs.STATE).exists()
    assert gain_map.studies(level.parent) == {"few": level}


def test_a_folder_without_a_study_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no study found"):
        gain_map.derive(tmp_path, tmp_path / "map.csv")


def test_a_study_without_real_images_only_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gain_map, "studies", lambda folder: {"few": folder})
    monkeypatch.setattr(gain_map, "rows", lambda *_: iter(()))
    with pytest.raises(UserError, match="no study compares synthetic images with a configuration on real images only"):
        gain_map.derive(tmp_path, tmp_path / "map.csv")


def test_test_domains_are_in_the_map(level: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load, read = gain_map.Recipe.load, gain_map.predictions.read

    def with_domain(*args: object, **options: object) -> Recipe:
        recipe = load(*args, **options)  # type: ignore[arg-type]
        configurations = [each.model_dump(mode="json") for each in recipe.study.configurations]
        configurations[3]["test_domains"] = ["both"]
        return recipe.with_values({"study.configurations": configurations})

    def with_copies(*args: object) -> Evidence:
        evidence = read(*args)  # type: ignore[arg-type]
        copies = {("syncclip-both@both", *key[1:]): cell for key, cell in evidence.cells.items() if "sync" in key[0]}
        return replace(evidence, cells={**evidence.cells, **copies})

    monkeypatch.setattr(gain_map.Recipe, "load", with_domain)
    monkeypatch.setattr(gain_map.predictions, "read", with_copies)
    rows = pd.DataFrame(gain_map.rows("few", level)).set_index("configuration")
    gains = [rows.loc[name, "over_real"].tolist() for name in ("syncclip-both", "syncclip-both@both")]
    assert len(gains[1]) == 2 * 2 and gains[0] == gains[1]


def test_configurations_with_other_shots_are_omitted(level: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load = gain_map.Recipe.load

    def changed(*args: object, **options: object) -> Recipe:
        recipe = load(*args, **options)  # type: ignore[arg-type]
        configurations = [each.model_dump(mode="json") for each in recipe.study.configurations]
        configurations[2]["overrides"]["dataset.shots"] = 1
        return recipe.with_values({"study.configurations": configurations})

    monkeypatch.setattr(gain_map.Recipe, "load", changed)
    assert {row["configuration"] for row in gain_map.rows("few", level)} == {"syncclip-both"}


def test_studies_with_different_shots_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = synthetic_map(1, numbers=(4,))
    monkeypatch.setattr(gain_map, "studies", lambda folder: {"few": folder, "many": folder})
    shots = {"few": 2, "many": 16}
    monkeypatch.setattr(gain_map, "rows", lambda level, _: table.assign(shots=shots[level]).to_dict("records"))
    with pytest.raises(UserError, match=r"different dataset.shots \(2, 16\), but the gain map requires one"):
        gain_map.derive(tmp_path, tmp_path / "map.csv")


def test_the_map_and_its_held_out_predictions_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = synthetic_map(1, numbers=(4,))

    def rows(level: str, _: Path) -> Iterator[dict[str, object]]:
        yield from ({str(key): value for key, value in row.items()}
                    for row in table[table["level"] == level].to_dict("records"))  # fmt: skip

    monkeypatch.setattr(gain_map, "studies", lambda folder: {level: folder / level for level in LEVELS})
    monkeypatch.setattr(gain_map, "rows", rows)
    errors = gain_map.derive(tmp_path, tmp_path / "map.csv")
    written = pd.read_csv(tmp_path / "map.csv")
    assert list(written.columns) == list(COLUMNS) and len(written) == len(table)
    predicted = pd.read_csv(tmp_path / "held_out.csv")
    assert len(predicted) == 2 * 2 * len(DATASETS) * len(LEVELS) * len(CONFIGURATIONS)
    assert not predicted.duplicated(["left_out", "target", *KEYS]).any()
    inside = (predicted["low"] <= predicted["observed"]) & (predicted["observed"] <= predicted["high"])
    overall = errors[errors["configuration"] == ALL_CONFIGURATIONS]
    assert overall["coverage"].mean() == pytest.approx(100 * inside.mean(), abs=0.2)
