"""Import of synthetic images: folders with split files, and WebDatasets with class ids."""

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
Entries = list[list[object]]


@pytest.fixture(scope="module")
def shapes(tiny: TinyWorld) -> Dataset:
    return load_dataset(DatasetSettings(name=tiny.dataset))


def authors_folder(folder: Path, images: str = "101_ObjectCategories") -> Path:
    """`dalle_shapes/` with `dalle_shapes.json` and a subfolder of images, the layout of the authors' datasets."""
    entries: Entries = []
    for label, count in enumerate(COUNTS):
        name = CLASSES[label].replace(" ", "_")
        (folder / images / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            (folder / images / name / f"{i}.jpg").write_bytes(encoded(make_image(label, 100 + i)))
            entries.append([f"{name}/{i}.jpg", label, name])
    (folder / "dalle_shapes.json").write_text(json.dumps({"train": entries, "val": entries[:2], "test": entries[:3]}))
    return folder


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return authors_folder(tmp_path / "dalle_shapes")


@given(st.lists(st.integers(0, 4), max_size=60))
def test_indices_count_each_class_from_zero(labels: list[int]) -> None:
    counts = [0] * 5
    for index, label in zip(index_major(np.array(labels, np.int64), 5).tolist(), labels, strict=True):
        assert index == counts[label] * 5 + label
        counts[label] += 1


def test_a_folder_with_a_split_file_is_imported_in_index_major_order(
    shapes: Dataset, source: Path, tmp_path: Path
) -> None:
    url = str(tmp_path / "set")
    imported = import_set(str(source), shapes, url)
    assert (imported.counts, imported.images_per_class, imported.source) == (tuple(COUNTS), 5, "dalle_shapes")
    assert verify(url) == []
    images = ShardSet(url)
    expected = [(i * 6 + label, label, i) for i in range(5) for label in range(6) if i < COUNTS[label]]
    assert images.samples.index.tolist() == [index for index, _, _ in expected]
    for row, (_, label, i) in enumerate(expected):
        assert images.labels[row] == label
        assert images.read(row) == encoded(make_image(label, 100 + i))
    assert images.provenance(0) == {"source": "red_circle/0.jpg"}


@pytest.mark.parametrize("subfolder", ["", "train"])
def test_a_webdataset_with_class_ids_is_imported(shapes: Dataset, tmp_path: Path, subfolder: str) -> None:
    tar(tmp_path / "wds" / subfolder / "0.tar", samples(0, 3))
    tar(tmp_path / "wds" / subfolder / "1.tar", samples(3, 1))
    imported = import_set(str(tmp_path / "wds"), shapes, str(tmp_path / "set"))
    assert imported.counts == (4,) * 6
    images = ShardSet(str(tmp_path / "set"))
    assert images.labels.tolist() == [*range(6)] * 4
    assert images.image(13).tobytes() == make_image(1, 2).tobytes() and images.text(13) == "a shape"


def test_a_run_is_trained_on_an_imported_dataset(
    tiny: TinyWorld, shapes: Dataset, source: Path, tmp_path: Path
) -> None:
    url = str(tmp_path / "set")
    import_set(str(source), shapes, url)

    def run(name: str, *overrides: str) -> jobs.Run:
        values = [f"training.synthetic={url}", "training.method=syncclip", *overrides]
        return jobs.run_here(Recipe.load(tiny.recipe, values), str(tmp_path / name))

    runs = run("all"), run("few", "training.images_per_class=2")
    assert runs[0].results["counts"]["all"] == 24
    assert len({Path(run.url, "prompts.safetensors").read_bytes() for run in runs}) == 2
    with pytest.raises(UserError, match="has 5 images per class"):
        run("more", "training.images_per_class=6")


def test_a_runs_identity_depends_on_the_imported_images(
    tiny: TinyWorld, shapes: Dataset, source: Path, tmp_path: Path
) -> None:
    hashes = []
    for name in ("a", "b", "c"):
        if name == "c":
            (source / "101_ObjectCategories" / "red_circle" / "0.jpg").write_bytes(encoded(make_image(0, 999)))
        import_set(str(source), shapes, str(tmp_path / name))
        recipe = Recipe.load(tiny.recipe, [f"training.synthetic={tmp_path / name}"])
        hashes.append(resolve.resolve_run(recipe)[1].recipe_hash)
    assert hashes[0] == hashes[1] != hashes[2]


def test_unreadable_images_leave_a_gap_and_are_counted(shapes: Dataset, source: Path, tmp_path: Path) -> None:
    (source / "101_ObjectCategories" / "green_circle" / "1.jpg").write_bytes(b"broken")
    import_set(str(source), shapes, str(tmp_path / "set"))
    images = ShardSet(str(tmp_path / "set"))
    assert 7 not in images.samples.index and 13 in images.samples.index
    assert committed(images.url)[0].rejects == {"unreadable": 1}


def test_an_interrupted_import_is_reported_and_resumed(
    shapes: Dataset, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = str(tmp_path / "set")

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("syncclip.synthetic_sets.imported.write_shard", interrupt)
        import_set(str(source), shapes, url)
    with pytest.raises(UserError, match="the import was interrupted"):
        read_set(url)
    assert import_set(str(source), shapes, url) == read_set(url) == import_set(str(source), shapes, url)


def test_a_folder_with_other_content_is_not_changed(shapes: Dataset, source: Path, tiny_set: str) -> None:
    before = sorted(Path(tiny_set).iterdir())
    with pytest.raises(UserError, match="not empty"):
        import_set(str(source), shapes, tiny_set)
    assert sorted(Path(tiny_set).iterdir()) == before


def shift_labels(entries: Entries) -> Entries:
    return [[path, (int(str(label)) + 1) % 6, name] for path, label, name in entries]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda entries: [*entries, ["red_circle/0.jpg", 6, "puce circle"]], "class 6 is not a class id of 'shapes'"),
        (lambda entries: [*entries, ["red_circle/9.jpg", 0, "red_circle"]], "1 of 25 listed images are missing"),
        (shift_labels, "6 of 6 class names differ"),
    ],
)
def test_a_split_file_of_another_dataset_is_an_error(
    shapes: Dataset, source: Path, tmp_path: Path, change: Callable[[Entries], Entries], message: str
) -> None:
    file = source / "dalle_shapes.json"
    file.write_text(json.dumps({"train": change(json.loads(file.read_text())["train"])}))
    with pytest.raises(UserError, match=message):
        import_set(str(source), shapes, str(tmp_path / "set"))
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize(
    ("files", "message"), [([], "no split file or tars"), (["a", "b"], "2 split files"), (None, "does not exist")]
)
def test_a_folder_without_images_is_an_error(
    shapes: Dataset, tmp_path: Path, files: list[str] | None, message: str
) -> None:
    folder = tmp_path / "source"
    if files is not None:
        folder.mkdir()
        for name in files:
            (folder / f"{name}.json").write_text("{}")
    with pytest.raises(UserError, match=message):
        import_set(str(folder), shapes, str(tmp_path / "set"))


def test_the_command_reports_unreadable_images_and_skipped_members(
    capsys: pytest.CaptureFixture[str], tiny: TinyWorld, tmp_path: Path
) -> None:
    members = samples(count=2)
    members[3] |= {"png": b"no image", "heic": b"?"}
    tar(tmp_path / "tars" / "0.tar", members)
    outcome = Outcome(capsys, "shards", "import", str(tmp_path / "tars"), tiny.dataset, "--out", str(tmp_path / "set"))
    assert outcome.status == 0
    assert "shards import: skipped 1 file: 1 .heic (" in outcome.err
    assert f"image could not be read: {tmp_path}/tars/0.tar:s0000003\n" in outcome.err
