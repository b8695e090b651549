"""Published studies: copies of their files, and files rewritten from the published predictions."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.results import publish, rewrite
from syncclip import report
from syncclip.core.settings import UserError
from syncclip.studies import levels, outputs, run
from syncclip.verify import verify
from tests.worlds.clip import register_clip
from tests.worlds.rewritten import rewrite_json
from tests.worlds.study import make_set, run_cells_here, study_recipe, study_world, suite_recipe, suite_world_in

CONFIGURATIONS = "study.configurations=[{method: zeroshot}, {method: probe, data: real}, {method: probe}]"
GRID = (
    CONFIGURATIONS,
    "study.images_per_class=[1,2]",
    "study.seeds=[1]",
    "training.epochs=1",
    "training.warmup_epochs=0",
    "study.reference=probe-both",
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study with the pretrained tags a and b on a single dataset, with reports."""
    root = study_world(tmp_path_factory.mktemp("levels"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "run_cells", run_cells_here)
        name = register_clip(patch, root / "tags", ["a", "b"])
        make_set(study_recipe(root, "synthesis.images_per_class=2"), str(root / "set"))
        values = f"backbone.name={name}", f"training.synthetic={root}/set", "study.pretrained=[a,b]"
        done = levels.study(study_recipe(root, *GRID, *values), str(root / "study"))
    for folder in (done.url, f"{done.url}/a"):
        report(folder)
    return Path(done.url)


@pytest.fixture
def published(finished: Path, tmp_path: Path) -> Path:
    publish(finished, tmp_path / "published")
    return tmp_path / "published"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def problems(folder: Path) -> list[str]:
    return verify(str(folder), lambda _: None).problems


def test_levels_are_published_with_the_study_of_each_tag(finished: Path, published: Path) -> None:
    assert {*levels.FILES, "report.html", "contents.json"} <= {*contents(published)}
    for tag in ("a", "b"):
        assert {*outputs.ALWAYS, outputs.PREDICTIONS} <= {*contents(published / tag)}
        assert not (published / tag / outputs.CELLS).exists()
    result = levels.recompute(str(published))
    assert problems(published) == []
    assert result.differ == [] and result.numbers == levels.recompute(str(finished)).numbers


def test_levels_replace_a_published_study(finished: Path, tmp_path: Path) -> None:
    for study in (finished / "a", finished):
        publish(study, tmp_path)
    assert not (tmp_path / outputs.STATE).exists()
    assert levels.recompute(str(tmp_path)).differ == []
    publish(finished / "a", tmp_path)
    assert not (tmp_path / outputs.LEVELS).exists()


def test_study_of_a_single_dataset_is_rewritten(published: Path) -> None:
    study = published / "a"
    before = contents(study)
    assert outputs.DATASETS not in before
    for name in ("contents.json", outputs.TABLES):
        (study / name).unlink()
    rewrite_json(study / outputs.COMPARISONS, [])
    rewrite(study)
    after = contents(study)
    assert set(after) == set(before)
    assert {name for name in before if after[name] != before[name]} <= {"report.html"}, "without runs: no classes"
    assert problems(study) == []


def test_map_of_levels_is_rewritten(published: Path) -> None:
    before = contents(published)
    for name in ("contents.json", outputs.TABLES, outputs.MAP_CELLS):
        (published / name).unlink()
    rewrite_json(published / outputs.MAP, {})
    rewrite(published)
    assert contents(published) == before
    assert levels.recompute(str(published)).differ == []


def test_study_of_a_suite_is_rewritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "run_cells", run_cells_here)
    done = run.study(suite_recipe(suite_world_in(tmp_path), *GRID), str(tmp_path / "study"))
    publish(Path(done.url), tmp_path / "published")
    before = contents(tmp_path / "published")
    rewrite(tmp_path / "published")
    assert contents(tmp_path / "published") == before
    assert "first. Accuracy" in before[outputs.TABLES].decode()


@pytest.mark.parametrize("name", [outputs.FIT, outputs.TABLE])
def test_missing_input_changes_no_file(published: Path, name: str) -> None:
    study = published / "a"
    rewrite_json(study / outputs.COMPARISONS, [])
    (study / name).unlink()
    before = contents(study)
    with pytest.raises((UserError, OSError)):
        rewrite(study)
    assert contents(study) == before
