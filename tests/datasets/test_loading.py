"""Finding and reading a packed dataset, and what a dataset promises."""

from __future__ import annotations

import json
from pathlib import Path

import open_clip
import pytest
import torch

from syncclip.clip.prompt_text import readable_name
from syncclip.core.settings import UserError
from syncclip.datasets import DatasetSettings, load_dataset
from syncclip.shards.writer import Sample, write_shard
from tests.worlds.dataset import CLASSES, tiny_dataset


def load(folder: Path, **settings: object):  # type: ignore[no-untyped-def]
    return load_dataset(DatasetSettings(name=str(folder), **settings))


def test_a_packed_folder_gives_names_halves_and_splits(tmp_path: Path) -> None:
    dataset = load(tiny_dataset(tmp_path / "shapes", train=3, val=1, test=2))
    assert dataset.name == "shapes"
    assert dataset.classnames == CLASSES
    assert (dataset.base, dataset.novel) == ([0, 1, 2], [3, 4, 5])
    assert [len(dataset.split(split)) for split in ("train", "val", "test")] == [18, 6, 12]
    assert dataset.prompt(0) == "a photo of a red circle."
    assert dataset.split("test").image(0).mode == "RGB"


def test_the_name_may_be_looked_up_in_a_root_folder(tmp_path: Path) -> None:
    tiny_dataset(tmp_path / "mine")
    settings = DatasetSettings(name="mine", root=str(tmp_path))
    assert load_dataset(settings).classnames == CLASSES


def test_a_template_of_the_recipe_replaces_the_datasets_own(tmp_path: Path) -> None:
    assert load(tiny_dataset(tmp_path / "b"), template="a {} drawn.").prompt(3) == "a red square drawn."


def test_a_template_without_a_place_for_the_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no '\{\}'"):
        load(tiny_dataset(tmp_path / "b"), template="a photo.")


def test_few_shots_are_of_base_classes_only(tmp_path: Path) -> None:
    dataset = load(tiny_dataset(tmp_path / "b", train=4))
    rows = dataset.few_shot(2, seed=1)
    assert sorted(dataset.split("train").labels[rows].tolist()) == [0, 0, 1, 1, 2, 2]


def test_zero_shots_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="at least 1"):
        load(tiny_dataset(tmp_path / "b")).few_shot(0, seed=1)


def test_a_shipped_dataset_that_is_gone_is_to_be_installed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("syncclip.embedded.FOLDER", tmp_path)
    with pytest.raises(UserError, match=r"unknown shipped dataset 'icons'; .*/icons/dataset is missing"):
        load_dataset(DatasetSettings(name="icons"))


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match="unknown dataset 'icon'; did you mean 'icons'"):
        load_dataset(DatasetSettings(name="icon"))


def test_labels_outside_the_class_list_are_refused(tmp_path: Path) -> None:
    folder = tiny_dataset(tmp_path / "b")
    (folder / "dataset.json").write_text(json.dumps({"classnames": CLASSES[:4]}))
    with pytest.raises(UserError, match="labels range from 0 to 5, but the 4 classes"):
        load(folder)


def test_a_base_class_without_a_packed_training_image_is_named(tmp_path: Path) -> None:
    folder = tiny_dataset(tmp_path / "b")
    (folder / "dataset.json").write_text(json.dumps({"classnames": CLASSES}))
    write_shard(str(folder / "train"), 0, [Sample(0, 0, b"", CLASSES[0])])
    with pytest.raises(UserError, match=f"no training image of base class '{CLASSES[1]}' and 1 more"):
        load(folder)
    assert load(folder, base=[0]).base == [0]


@pytest.mark.fault
def test_a_split_without_shards_is_named(tmp_path: Path) -> None:
    folder = tiny_dataset(tmp_path / "b")
    (folder / "dataset.json").write_text(json.dumps({"classnames": CLASSES}))
    (folder / "val" / "00000_stats.json").unlink()
    with pytest.raises(UserError, match="val: no images; find"):
        load(folder)


def test_a_broken_description_is_named(tmp_path: Path) -> None:
    folder = tiny_dataset(tmp_path / "b")
    (folder / "dataset.json").write_text(json.dumps({"classnames": []}))
    with pytest.raises(UserError, match=r"dataset.json .*\(classnames: "):
        load(folder)


def test_given_class_names_that_stand_twice_are_refused_with_both_places(tmp_path: Path) -> None:
    folder = tiny_dataset(tmp_path / "b")
    for names in ([*CLASSES[:5], CLASSES[1]], []):
        with pytest.raises(UserError) as refusal:
            load_dataset(DatasetSettings(name=str(folder), classnames=names))
        told = f"classes 1 and 5 share the name {CLASSES[1]!r}" if names else "classnames has 0 names"
        assert told in str(refusal.value)


ALIKE = [
    ("red circle", "Red Circle"),
    ("caf\u00e9", "cafe\u0301"),
    ("hot dog", "hot_dog"),
    ("hot dog", " hot   dog"),
    ("rock & roll", "rock &amp; roll"),
    ("rock & roll", "rock &amp;amp; roll"),
    ("ﬁsh", "fish"),
    ("ｃat", "CAT"),
    ("child’s toy", "child's toy"),
]


@pytest.mark.parametrize(("one", "other"), ALIKE)
def test_two_names_that_clip_reads_alike_are_refused_with_both(one: str, other: str, tmp_path: Path) -> None:
    tokenizer = open_clip.get_tokenizer("ViT-B-32")
    assert torch.equal(*(tokenizer(f"a photo of a {readable_name(name)}.") for name in (one, other)))
    folder = tiny_dataset(tmp_path / "b")
    with pytest.raises(UserError, match=r"classes 0 and 5 read alike, ") as refusal:
        load_dataset(DatasetSettings(name=str(folder), classnames=[one, *CLASSES[1:5], other]))
    assert f"{one!a} and {other!a}, so CLIP gets the same prompt" in str(refusal.value)


def test_names_that_clip_tells_apart_are_two_classes(tmp_path: Path) -> None:
    folder = tiny_dataset(tmp_path / "b")
    names = ["cafe", "café", "hotdog", "hot dog", "dog", "dogs"]
    assert load_dataset(DatasetSettings(name=str(folder), classnames=names)).classnames == names
