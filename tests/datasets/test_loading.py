"""Loading by name or path, and the properties of a `Dataset`."""

from __future__ import annotations

import json
from pathlib import Path

import open_clip
import pytest
import torch

from syncclip.core.settings import UserError
from syncclip.core.text import readable_name
from syncclip.shards.writer import Sample, write_shard
from tests.datasets.conftest import load, sizes
from tests.worlds.dataset import CLASSES, tiny_dataset


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A packed dataset."""
    return tiny_dataset(tmp_path / "mine")


def describe(folder: Path, classnames: list[str]) -> None:
    """Replace `dataset.json` by one without counts."""
    (folder / "dataset.json").write_text(json.dumps({"classnames": classnames}))


def test_a_packed_dataset_has_classes_splits_and_prompts(tmp_path: Path) -> None:
    dataset = load("shapes", tiny_dataset(tmp_path / "shapes", train=3, val=1, test=2).parent)
    assert (dataset.name, dataset.classnames) == ("shapes", CLASSES)
    assert (dataset.base, dataset.novel) == ([0, 1, 2], [3, 4, 5])
    assert sizes(dataset) == [18, 6, 12]
    assert dataset.prompt(0) == "a photo of a red circle."
    assert dataset.split("test").image(0).mode == "RGB"


def test_the_template_of_the_settings_takes_precedence(folder: Path) -> None:
    assert load(folder, template="a {} drawn.").prompt(3) == "a red square drawn."
    with pytest.raises(UserError, match=r"must contain '\{\}'"):
        load(folder, template="a photo.")


def test_few_shot_samples_contain_base_classes(tmp_path: Path) -> None:
    dataset = load(tiny_dataset(tmp_path / "b", train=4))
    rows = dataset.few_shot(2, seed=1)
    assert sorted(dataset.split("train").labels[rows].tolist()) == [0, 0, 1, 1, 2, 2]
    with pytest.raises(UserError, match="at least 1"):
        dataset.few_shot(0, seed=1)


def test_a_missing_shipped_dataset_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("syncclip.embedded.FOLDER", tmp_path)
    with pytest.raises(UserError, match=r"unknown bundled dataset 'icons'; .*/icons/dataset is missing"):
        load("icons")


def test_an_unknown_name_is_an_error_with_the_nearest_name() -> None:
    with pytest.raises(UserError, match="unknown dataset 'icon'; did you mean 'icons'"):
        load("icon")


def test_labels_beyond_the_class_names_are_an_error(folder: Path) -> None:
    describe(folder, CLASSES[:4])
    with pytest.raises(UserError, match="labels range from 0 to 5, but the 4 classes"):
        load(folder)


def test_packed_base_classes_need_training_images(folder: Path) -> None:
    describe(folder, CLASSES)
    write_shard(str(folder / "train"), 0, [Sample(0, 0, b"", CLASSES[0])])
    with pytest.raises(UserError, match=f"no training images for base class '{CLASSES[1]}' and 1 more"):
        load(folder)
    assert load(folder, base=[0]).base == [0]


@pytest.mark.fault
def test_a_split_without_shards_is_an_error(folder: Path) -> None:
    describe(folder, CLASSES)
    (folder / "val" / "00000_stats.json").unlink()
    with pytest.raises(UserError, match="val: no images; find"):
        load(folder)


def test_an_invalid_description_is_an_error(folder: Path) -> None:
    describe(folder, [])
    with pytest.raises(UserError, match=r"dataset.json .*\(classnames: "):
        load(folder)


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        ([*CLASSES[:5], CLASSES[1]], f"classes 1 and 5 share the name {CLASSES[1]!r}"),
        ([], "classnames has 0 names"),
    ],
)
def test_invalid_class_names_are_errors(folder: Path, names: list[str], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        load(folder, classnames=names)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("red circle", "Red Circle"),
        ("caf\u00e9", "cafe\u0301"),
        ("hot dog", "hot_dog"),
        ("hot dog", " hot   dog"),
        ("rock & roll", "rock &amp; roll"),
        ("rock & roll", "rock &amp;amp; roll"),
        ("ﬁsh", "fish"),
        ("ｃat", "CAT"),
        ("child’s toy", "child's toy"),
    ],
)
def test_names_with_equal_tokens_are_an_error(first: str, second: str, folder: Path) -> None:
    tokenizer = open_clip.get_tokenizer("ViT-B-32")
    assert torch.equal(*(tokenizer(f"a photo of a {readable_name(name)}.") for name in (first, second)))
    with pytest.raises(UserError, match="classes 0 and 5 have the equivalent names ") as error:
        load(folder, classnames=[first, *CLASSES[1:5], second])
    assert f"{first!a} and {second!a}, so CLIP gets the same prompt" in str(error.value)


def test_names_with_different_tokens_are_accepted(folder: Path) -> None:
    names = ["cafe", "café", "hotdog", "hot dog", "dog", "dogs"]
    assert load(folder, classnames=names).classnames == names
