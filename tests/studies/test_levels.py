"""Studies that are repeated with several pretrained tags, run in this process."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from syncclip import jobs
from syncclip.cli import jobs as commands
from syncclip.cli.status import progress, study_status
from syncclip.cli.verify import recompute
from syncclip.core.settings import UserError
from syncclip.recipe.recipe import Recipe
from syncclip.studies import levels, predictions
from syncclip.studies import run as running
from syncclip.studies.levels import study
from syncclip.studies.run import Study
from syncclip.studies.tune import tune
from syncclip.verify import verify
from tests.worlds.clip import register_clip
from tests.worlds.rewritten import rewrite_json
from tests.worlds.study import MEMBERS, make_set, run_cells_here, study_recipe, study_world, suite_recipe

CONFIGURATIONS = "study.configurations=[{method: zeroshot}, {method: probe, data: real}, {method: probe}]"
GRID = (
    CONFIGURATIONS,
    "study.images_per_class=[1,2]",
    "study.seeds=[1,2]",
    "training.epochs=1",
    "training.warmup_epochs=0",
    "study.reference=probe-both",
)


@pytest.fixture(scope="module")
def patch() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "run_cells", run_cells_here)
        yield patch


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, patch: pytest.MonkeyPatch) -> Path:
    """A dataset with a synthetic dataset in `set`, and a CLIP with the pretrained tags a and b."""
    root = study_world(tmp_path_factory.mktemp("levels"))
    register_clip(patch, root / "tags", ["a", "b"])
    make_set(study_recipe(root, "synthesis.images_per_class=2"), str(root / "set"))
    return root


def recipe_of(world: Path, *overrides: str, tags: str = "[a,b]") -> Recipe:
    values = "backbone.name=tiny-clip", f"training.synthetic={world}/set", f"study.pretrained={tags}"
    return study_recipe(world, *GRID, *values, *overrides)


@pytest.fixture(scope="module")
def finished(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A study with both tags, which were added in two calls."""
    url = str(tmp_path_factory.mktemp("study"))
    study(recipe_of(world, tags="[a]"), url)
    before = stamps(Path(url))
    assert {name.partition("/")[0] for name in before} == {"a"}
    done = study(recipe_of(world), url)
    assert {name: stamps(Path(url))[name] for name in before} == before
    return done


@pytest.fixture
def copy(finished: Study, tmp_path: Path) -> Path:
    return shutil.copytree(finished.url, tmp_path / "copy")


def stamps(folder: Path) -> dict[str, int]:
    """Modification time of each training's prompts."""
    return {
        str(path.parent.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("prompts.safetensors")
    }


def read(folder: str | Path, name: str) -> Any:
    return json.loads((Path(folder) / name).read_text())


def problems(folder: str | Path) -> list[str]:
    return verify(str(folder), lambda _: None).problems


def test_each_level_is_a_study_with_its_own_weights(finished: Study, world: Path) -> None:
    assert finished.cells == 2 * 7 and finished.failed == {}
    assert finished.table.groupby("pretrained").size().to_dict() == {"a": 7, "b": 7}
    for tag in ("a", "b"):
        assert {cell["status"] for cell in read(finished.url, f"{tag}/study.json")["cells"]} == {"done"}
        assert f"pretrained: {tag}\n" in (Path(finished.url) / tag / "cells" / "zeroshot" / "recipe.yaml").read_text()
    first, second = (
        pd.read_parquet(Path(finished.url) / tag / "cells" / "zeroshot" / "predictions.parquet") for tag in ("a", "b")
    )
    assert not np.allclose(first["all_classes_confidence"], second["all_classes_confidence"])
    alone = study(levels.level_recipe(recipe_of(world), "b"), f"{finished.url}/b")
    assert alone.table["cell"].tolist() == finished.table[finished.table["pretrained"] == "b"]["cell"].tolist()
    assert problems(f"{finished.url}/b") == [] and predictions.recompute(f"{finished.url}/b").differ == []


def test_parent_contains_the_map_of_all_levels(finished: Study) -> None:
    summary, cells = read(finished.url, "map.json"), pd.read_parquet(Path(finished.url) / "map.parquet")
    assert set(summary["levels"]) == set(cells["pretrained"]) == {"a", "b"}
    rows = cells[(cells["metric"] == "hm") & (cells["over"] == "real") & (cells["images_per_class"] == 2)]
    scores = finished.table.groupby(["pretrained", "configuration", "images_per_class"], dropna=False)["hm"].mean()
    for row in rows.to_dict("records"):
        real = scores[row["pretrained"], "probe-real"].item()
        assert row["gain"] == pytest.approx(scores[row["pretrained"], "probe-both", 2] - real)
    assert "name knowledge" in (Path(finished.url) / "tables.md").read_text()


def test_name_knowledge_is_measured_on_training_images_of_base_classes(finished: Study) -> None:
    knowledge = read(finished.url, "name_knowledge.json")
    for tag in ("a", "b"):
        entry = knowledge[tag][""]
        assert entry["images"] <= 2 * 2 * 3 and entry["images"] >= 2 * 3, "two seeds, two shots, three base classes"
        assert entry["ratio"] == pytest.approx(entry["zero_shot"] / entry["class_means"])
        assert read(finished.url, "map.json")["levels"][tag] == pytest.approx(entry["ratio"])


def test_repeated_call_keeps_all_numbers(finished: Study, world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("map.json", "map.parquet", "name_knowledge.json", "levels.json", "recipe.yaml", "tables.md")
    before = {name: (Path(finished.url) / name).read_bytes() for name in names}
    monkeypatch.setattr(levels, "measure", None)  # is not repeated
    study(recipe_of(world, tags="[b]"), finished.url)
    assert {name: (Path(finished.url) / name).read_bytes() for name in names} == before


def test_levels_may_be_extended_by_seeds(copy: Path, world: Path) -> None:
    before = stamps(copy)
    study(recipe_of(world, "study.seeds=[1,2,3]"), str(copy))
    after = stamps(copy)
    assert len(after) == len(before) + 2 * 3 and {name: after[name] for name in before} == before
    cells = pd.read_parquet(copy / "map.parquet")
    assert set(cells[cells["configuration"] == "probe-both"]["seeds"]) == {3}
    assert problems(copy) == []


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("methods.probe.learning_rate=0.5", "configuration 'probe-real'"),
        ("dataset.shots=1", "configuration 'zeroshot'"),
        ("evaluation.split=val", "split"),
    ],
)
def test_levels_with_other_settings_are_rejected(finished: Study, world: Path, override: str, named: str) -> None:
    with pytest.raises(UserError, match=rf"contains levels with different settings \(.*{named}"):
        study(recipe_of(world, override), finished.url)


def contents(folder: str | Path) -> dict[str, bytes]:
    """Content of each file in the parent folder."""
    return {path.name: path.read_bytes() for path in Path(folder).iterdir() if path.is_file()}


def test_levels_with_other_synthetic_images_are_rejected(finished: Study, world: Path, tmp_path: Path) -> None:
    make_set(study_recipe(world, "synthesis.images_per_class=2", "synthesis.seed=5"), str(tmp_path / "other"))
    before = contents(finished.url)
    with pytest.raises(UserError, match="differs from the synthetic images of the other levels"):
        study(recipe_of(world, f"training.synthetic={tmp_path}/other", "study.seeds=[1]"), finished.url)
    assert contents(finished.url) == before


def test_generated_images_that_differ_from_the_other_levels_are_rejected(
    copy: Path, world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "synth", lambda recipe, out: make_set(recipe.with_values({"synthesis.seed": 5}), out))
    before = contents(copy)
    with pytest.raises(UserError, match="differs from the synthetic images of the other levels"):
        study(recipe_of(world, "training.synthetic=null", "study.seeds=[1]"), str(copy))
    assert contents(copy) == before


def test_rejected_tag_changes_no_file(copy: Path, world: Path) -> None:
    before = contents(copy)
    with pytest.raises(UserError, match="'typo' is neither a tag of tiny-clip nor a file"):
        study(recipe_of(world, tags="[a,b,typo]"), str(copy))
    assert contents(copy) == before


def test_folder_contains_either_levels_or_a_single_study(finished: Study, world: Path) -> None:
    with pytest.raises(UserError, match="contains a study with several pretrained tags; set study.pretrained"):
        study(recipe_of(world, tags="[]"), finished.url)
    with pytest.raises(UserError, match="contains a study without study.pretrained"):
        study(recipe_of(world), f"{finished.url}/a")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["study.pretrained=[a,a]"], "contains duplicates"),
        (["study.pretrained=[../a]"], "study.pretrained"),
        (["study.pretrained=[synthetic]"], "is a reserved subfolder name"),
        (["study.pretrained=[a,c]"], "'c' is neither a tag of tiny-clip nor a file"),
        (["backbone.name=hf-hub:owner/name"], "has no pretrained tags"),
        (["study.configurations=[{method: probe, overrides: {backbone.pretrained: b}}]"], "study.pretrained varies"),
    ],
)
def test_invalid_levels_are_rejected_before_any_training(
    world: Path, tmp_path: Path, overrides: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        study(recipe_of(world, *overrides), str(tmp_path))
    assert stamps(tmp_path) == {} and not (tmp_path / "levels.json").exists()


def test_other_commands_require_a_single_model(world: Path) -> None:
    space = "study.configurations=[{method: probe, search_space: {training.epochs: [1, 2]}}]"
    with pytest.raises(UserError, match="only supported by `syncclip study`"):
        tune(recipe_of(world, space))


def test_missing_images_are_generated_once_with_the_filters_of_the_first_level(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generated: list[tuple[str | None, int, str]] = []

    def synth(recipe: Recipe, out: str) -> None:
        generated.append((recipe.backbone.pretrained, recipe.synthesis.images_per_class, out))
        if len(generated) == 1:
            make_set(recipe, out)

    monkeypatch.setattr(jobs, "synth", synth)
    values = "training.synthetic=null", "study.configurations=[{method: zeroshot}, {method: probe}]", "study.seeds=[1]"
    for tags in ("[b]", "[a]"):
        study(recipe_of(world, *values, tags=tags), str(tmp_path))
    assert generated == [("b", 2, f"{tmp_path}/synthetic")] * 2
    assert read(tmp_path, "a/study.json")["synthetic"] == f"{tmp_path}/synthetic"
    assert list(read(tmp_path, "map.json")["levels"]) == ["b", "a"]
    assert problems(tmp_path / "b") == []


def test_levels_of_a_suite_share_the_images_of_each_dataset(
    suite_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "run_cells", run_cells_here)
    monkeypatch.setattr(jobs, "synth", make_set)
    name = register_clip(monkeypatch, tmp_path / "tags", ["a"])
    grid = "study.configurations=[{method: zeroshot}, {method: probe}]", "study.seeds=[1]", "study.images_per_class=[1]"
    values = f"backbone.name={name}", "study.pretrained=[a]", "training.synthetic=null", "training.epochs=1"
    done = study(suite_recipe(suite_world, *grid, *values), str(tmp_path / "study"))
    for member in MEMBERS:
        assert read(done.url, f"a/{member}/study.json")["synthetic"] == f"{done.url}/synthetic/{member}"
    knowledge = read(done.url, "map.json")
    assert set(knowledge["datasets"]["a"]) == {*MEMBERS}
    assert knowledge["levels"]["a"] == pytest.approx(np.mean([*knowledge["datasets"]["a"].values()]))
    assert set(pd.read_parquet(f"{done.url}/map.parquet")["dataset"]) == {"", *MEMBERS}
    assert levels.recompute(done.url).differ == []


def test_all_numbers_of_all_levels_are_recomputed(finished: Study, copy: Path) -> None:
    result = levels.recompute(finished.url)
    assert result.differ == [] and result.numbers > 1000
    assert {"a: probe-both", "b: zeroshot"} <= set(result.means["configuration"])
    content = read(copy, "map.json")
    content["trends"][0]["slope"]["low"] -= 1
    content.pop("checksum")
    rewrite_json(copy / "map.json", content)
    (message,) = levels.recompute(str(copy)).differ
    assert message.startswith("map.json: trends[0]: slope: low: stored value ")
    with pytest.raises(UserError, match=r"levels\.json is missing"):
        levels.recompute(f"{finished.url}/a")


def test_every_file_is_verified(finished: Study, copy: Path) -> None:
    assert problems(finished.url) == []
    path = copy / "name_knowledge.json"
    path.write_bytes(path.read_bytes().replace(b'"images": ', b'"images": 1', 1))
    assert any("name_knowledge.json is corrupt" in problem for problem in problems(copy))


@pytest.mark.parametrize("name", ["map.json", "map.parquet", "levels.json", "contents.json", "b"])
def test_missing_file_or_level_is_reported(copy: Path, name: str) -> None:
    shutil.rmtree(copy / name) if name == "b" else (copy / name).unlink()
    assert any(f"{name} is missing" in problem for problem in problems(copy))


def test_status_of_all_levels(finished: Study, copy: Path) -> None:
    shutil.rmtree(copy / "b")
    (copy / "a" / "progress.json").unlink(missing_ok=True)
    assert study_status(str(copy)) == [f"{copy}: a has not started", f"{copy}: b has not started"]
    assert progress(str(copy)) == study_status(str(copy))


def test_commands_accept_the_parent_folder(finished: Study, world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = "backbone.name=tiny-clip", f"training.synthetic={world}/set", "study.pretrained=[a,b]"
    commands.study(f"{world}/tiny.yaml", [*GRID, *values], finished.url)
    printed = capsys.readouterr().out
    assert "Linear probe on real and synthetic images" in printed and f"report: {finished.url}/report.html" in printed
    recompute(finished.url)
    assert "all equal" in capsys.readouterr().out
    assert problems(finished.url) == []
