"""Synthetic sets of others: folders with split files, and WebDatasets with class ids."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncclip import jobs
from syncclip.core.settings import UserError
from syncclip.datasets import Dataset, DatasetSettings, load_dataset
from syncclip.recipe.recipe import Recipe
from syncclip.runs import resolve
from syncclip.shards.markers import committed
from syncclip.shards.reader import ShardSet
from syncclip.synthetic_sets.imported import import_set, index_major, read_set
from tests.cli.test_app import Outcome
from tests.conftest import TinyWorld
from tests.shards.sets import verify
from tests.worlds.dataset import CLASSES, encoded, make_image
from tests.worlds.webdataset import samples, tar

COUNTS = [5, 4, 4, 4, 4, 3]


@pytest.fixture(scope="module")
def shapes(tiny: TinyWorld) -> Dataset:
    return load_dataset(DatasetSettings(name=tiny.dataset))


def authors_folder(folder: Path, images: str = "101_ObjectCategories") -> Path:
    """`dalle_shapes/` with `dalle_shapes.json` beside the folder of the images, as the authors' sets lie."""
    listed = []
    for label, count in enumerate(COUNTS):
        for i in range(count):
            path = f"{CLASSES[label].replace(' ', '_')}/{i}.jpg"
            (folder / images / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / images / path).write_bytes(encoded(make_image(label, 100 + i)))
            listed.append([path, label, CLASSES[label].replace(" ", "_")])
    (folder / "dalle_shapes.json").write_text(json.dumps({"train": listed, "val": listed[:2], "test": listed[:3]}))
    return folder


@given(st.lists(st.integers(0, 4), max_size=60))
def test_indices_count_each_class_from_zero(labels: list[int]) -> None:
    index = index_major(np.array(labels, np.int64), 5)
    seen: dict[int, int] = {}
    for found, label in zip(index.tolist(), labels, strict=True):
        assert found == seen.get(label, 0) * 5 + label
        seen[label] = seen.get(label, 0) + 1


def test_a_folder_with_a_split_file_becomes_a_set_in_index_major_order(shapes: Dataset, tmp_path: Path) -> None:
    source, url = authors_folder(tmp_path / "dalle_shapes"), str(tmp_path / "set")
    found = import_set(str(source), shapes, url)
    assert (found.counts, found.images_per_class, found.source) == (tuple(COUNTS), 5, "dalle_shapes")
    assert verify(url) == []
    images = ShardSet(url)
    expected = [(i * 6 + label, label, i) for i in range(5) for label in range(6) if i < COUNTS[label]]
    assert images.samples.index.tolist() == [index for index, _, _ in expected]
    for row, (_, label, i) in enumerate(expected):
        assert images.labels[row] == label
        assert images.read(row) == encoded(make_image(label, 100 + i))
    assert images.provenance(0) == {"source": "red_circle/0.jpg"}


def test_images_may_lie_elsewhere(shapes: Dataset, tmp_path: Path) -> None:
    source = authors_folder(tmp_path / "dalle_shapes", images="../StableDiffusion/shapes")
    with pytest.raises(UserError, match="red_circle/0.jpg is neither beside it nor .* --images"):
        import_set(str(source), shapes, str(tmp_path / "set"))
    found = import_set(str(source), shapes, str(tmp_path / "set"), str(tmp_path / "StableDiffusion" / "shapes"))
    assert sum(found.counts) == sum(COUNTS)


@pytest.mark.parametrize("below", ["", "train"])
def test_a_webdataset_with_class_ids_becomes_a_set(shapes: Dataset, tmp_path: Path, below: str) -> None:
    tar(tmp_path / "wds" / below / "0.tar", samples(0, 3))
    tar(tmp_path / "wds" / below / "1.tar", samples(3, 1))
    found = import_set(str(tmp_path / "wds"), shapes, str(tmp_path / "set"))
    assert found.counts == (4,) * 6
    images = ShardSet(str(tmp_path / "set"))
    assert images.labels.tolist() == [*range(6)] * 4
    assert images.image(13).tobytes() == make_image(1, 2).tobytes() and images.text(13) == "a shape"


def test_a_run_learns_from_an_imported_set(tiny: TinyWorld, shapes: Dataset, tmp_path: Path) -> None:
    url = str(tmp_path / "set")
    import_set(str(authors_folder(tmp_path / "dalle_shapes")), shapes, url)
    values = [f"training.synthetic={url}", "training.method=syncclip"]
    run = jobs.run_here(Recipe.load(tiny.recipe, values), str(tmp_path / "all"))
    assert run.results["counts"]["all"] == 24
    few = jobs.run_here(Recipe.load(tiny.recipe, [*values, "training.images_per_class=2"]), str(tmp_path / "few"))
    prompts = [Path(one.url, "prompts.safetensors").read_bytes() for one in (run, few)]
    assert prompts[0] != prompts[1]
    with pytest.raises(UserError, match="holds 5 images per class"):
        jobs.run_here(Recipe.load(tiny.recipe, [*values, "training.images_per_class=6"]), str(tmp_path / "more"))


def test_what_an_imported_set_shows_decides_the_run(tiny: TinyWorld, shapes: Dataset, tmp_path: Path) -> None:
    source = authors_folder(tmp_path / "dalle_shapes")
    hashes = []
    for name in ("a", "b", "c"):
        if name == "c":
            (source / "101_ObjectCategories" / "red_circle" / "0.jpg").write_bytes(encoded(make_image(0, 999)))
        import_set(str(source), shapes, str(tmp_path / name))
        recipe = Recipe.load(tiny.recipe, [f"training.synthetic={tmp_path / name}"])
        hashes.append(resolve.resolve_run(recipe)[1].recipe_hash)
    assert hashes[0] == hashes[1] != hashes[2]


def test_unreadable_images_leave_a_gap_and_are_counted(shapes: Dataset, tmp_path: Path) -> None:
    source = authors_folder(tmp_path / "dalle_shapes")
    (source / "101_ObjectCategories" / "green_circle" / "1.jpg").write_bytes(b"broken")
    import_set(str(source), shapes, str(tmp_path / "set"))
    images = ShardSet(str(tmp_path / "set"))
    assert 7 not in images.samples.index and 13 in images.samples.index
    assert committed(images.url)[0].rejects == {"unreadable": 1}


def test_an_interrupted_import_is_no_set_and_goes_on(
    shapes: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, url = str(authors_folder(tmp_path / "dalle_shapes")), str(tmp_path / "set")

    def dying(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("syncclip.synthetic_sets.imported.write_shard", dying)
        import_set(source, shapes, url)
    with pytest.raises(UserError, match="this import was interrupted; run the same"):
        read_set(url)
    assert import_set(source, shapes, url) == read_set(url) == import_set(source, shapes, url)


def test_a_folder_that_holds_something_else_is_refused(shapes: Dataset, tiny_set: str, tmp_path: Path) -> None:
    source = str(authors_folder(tmp_path / "dalle_shapes"))
    before = sorted(Path(tiny_set).iterdir())
    with pytest.raises(UserError, match="holds something else already"):
        import_set(source, shapes, tiny_set)
    assert sorted(Path(tiny_set).iterdir()) == before


def shifted(listed: list[list[object]]) -> list[list[object]]:
    return [[path, (int(str(label)) + 1) % 6, name] for path, label, name in listed]


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda listed: [*listed, ["red_circle/0.jpg", 6, "puce circle"]], "label 6 is out of range; 'shapes' has 6"),
        (lambda listed: [*listed, ["red_circle/9.jpg", 0, "red_circle"]], "1 of the 25 images that it lists"),
        (shifted, "6 of 6 names differ"),
    ],
)
def test_a_split_file_that_does_not_fit_is_refused(
    shapes: Dataset, tmp_path: Path, change: Callable[[list[list[object]]], list[list[object]]], part: str
) -> None:
    source = authors_folder(tmp_path / "dalle_shapes")
    file = source / "dalle_shapes.json"
    file.write_text(json.dumps({"train": change(json.loads(file.read_text())["train"])}))
    with pytest.raises(UserError, match=part):
        import_set(str(source), shapes, str(tmp_path / "set"))
    assert not (tmp_path / "set").exists()


def test_a_webdataset_of_names_is_refused(shapes: Dataset, tmp_path: Path) -> None:
    tar(tmp_path / "wds" / "0.tar", [{"jpg": b"?", "cls": b"red circle"}])
    with pytest.raises(UserError, match="the class is given as 'red circle'; class ids are numbers"):
        import_set(str(tmp_path / "wds"), shapes, str(tmp_path / "set"))


@pytest.mark.parametrize(
    ("files", "part"), [([], "neither tars nor a split file"), (["a", "b"], "several split files")]
)
def test_a_folder_without_a_set_is_refused(shapes: Dataset, tmp_path: Path, files: list[str], part: str) -> None:
    (tmp_path / "source").mkdir()
    for name in files:
        (tmp_path / "source" / f"{name}.json").write_text("{}")
    with pytest.raises(UserError, match=part):
        import_set(str(tmp_path / "source"), shapes, str(tmp_path / "set"))
    with pytest.raises(UserError, match="no such folder"):
        import_set(str(tmp_path / "nowhere"), shapes, str(tmp_path / "set"))


def test_the_command_tells_how_to_use_the_set(
    capsys: pytest.CaptureFixture[str], tiny: TinyWorld, tmp_path: Path
) -> None:
    source = str(authors_folder(tmp_path / "dalle_shapes"))
    outcome = Outcome(capsys, "shards", "import", source, tiny.dataset, "--out", str(tmp_path / "set"))
    assert outcome.status == 0
    assert f"24 images, 6 classes, 3 to 5 per class; use them with training.synthetic={tmp_path / 'set'}" in outcome.out


def test_the_command_names_unreadable_images_and_counts_members_that_it_skips(
    capsys: pytest.CaptureFixture[str], tiny: TinyWorld, tmp_path: Path
) -> None:
    made = samples(count=2)
    made[3] |= {"png": b"no image", "heic": b"?"}
    tar(tmp_path / "tars" / "0.tar", made)
    outcome = Outcome(capsys, "shards", "import", str(tmp_path / "tars"), tiny.dataset, "--out", str(tmp_path / "set"))
    assert outcome.status == 0
    assert "shards import: skipped 1 file: 1 .heic\n" in outcome.err
    name = f"{tmp_path}/tars/0.tar:s0000003"
    assert f"shards import: 1 image could not be read: {name}\n" in outcome.err
