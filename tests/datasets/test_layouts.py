"""The literature's datasets, read from miniatures in the real file formats."""

from __future__ import annotations

import json
import os
import pickle
import random
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from syncclip.core.settings import UserError
from syncclip.datasets import Dataset, DatasetSettings, load_dataset
from syncclip.datasets.catalog import DATASETS
from tests.worlds.dataset import paths_of
from tests.worlds.literature import ADVERSARIAL, RENDITION, WORDNET, Miniatures, miniature

ALL = sorted(DATASETS)


def load(root: Path, name: str) -> Dataset:
    return load_dataset(DatasetSettings(name=name, root=str(root)))


def test_the_table_lists_the_fifteen_with_what_is_known_of_them() -> None:
    assert len(DATASETS) == 15
    assert sum(dataset.train is not None for dataset in DATASETS.values()) == 11
    assert all(dataset.page and dataset.cite and "{}" in dataset.template for dataset in DATASETS.values())


def test_the_documentation_has_the_pages_and_licences_of_the_table() -> None:
    text = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\w+) \| (https://\S+) \| [^|]+ \| ([^|]+) \| [^|]+ \|$", text, re.MULTILINE)
    assert rows == [(one.name, one.page, one.licence or "see its page") for one in DATASETS.values()]


@pytest.mark.parametrize("name", ALL)
def test_names_template_and_halves_are_those_of_the_files(miniatures: Miniatures, name: str) -> None:
    dataset, made = load(miniatures.root, name), miniatures.of[name]
    assert dataset.name == name
    assert dataset.classnames == made.classnames
    assert dataset.template == made.template == DATASETS[name].template
    half = -(-len(made.classnames) // 2)
    assert (dataset.base, dataset.novel) == ([*range(half)], [*range(half, len(made.classnames))])
    assert dataset.candidates == made.candidates


@pytest.mark.parametrize("name", ALL)
def test_files_and_ids_of_every_split_are_in_the_published_order(miniatures: Miniatures, name: str) -> None:
    dataset, made = load(miniatures.root, name), miniatures.of[name]
    assert set(dataset.splits) == set(made.items)
    for split, listed in made.items.items():
        images = dataset.split(split)  # type: ignore[arg-type]
        paths = [path.relative_to(miniatures.root).as_posix() for path in paths_of(images)]
        assert list(zip(paths, images.labels.tolist(), strict=True)) == listed


def test_classes_that_share_a_name_stay_two(miniatures: Miniatures) -> None:
    dataset = load(miniatures.root, "imagenet")
    assert dataset.classnames[2] == dataset.classnames[3] == "crane"
    assert len(dataset.split("train").rows_of(2)) == len(dataset.split("train").rows_of(3)) == 6


def test_folders_called_by_numbers_are_classes_by_number_and_not_by_their_order(miniatures: Miniatures) -> None:
    test = load(miniatures.root, "imagenet_v2").split("test")
    found = {int(Path(test.name(row)).parent.name): int(label) for row, label in enumerate(test.labels)}
    assert found == {number: number for number in range(12)}
    assert sorted(map(str, found)) != [str(number) for number in sorted(found)], "the orders must differ to tell"


def test_ids_of_variants_are_those_of_imagenet(miniatures: Miniatures) -> None:
    for name in ("imagenet_sketch", "imagenet_a", "imagenet_r"):
        test = load(miniatures.root, name).split("test")
        assert {Path(test.name(row)).parent.name: int(label) for row, label in enumerate(test.labels)}.items() <= dict(
            zip(WORDNET, range(12), strict=True)
        ).items()


def test_only_classes_with_images_are_candidates_of_a_and_r(miniatures: Miniatures) -> None:
    assert load(miniatures.root, "imagenet_a").candidates == ADVERSARIAL
    assert load(miniatures.root, "imagenet_r").candidates == RENDITION
    assert load(miniatures.root, "imagenet_v2").candidates == list(range(12))


def test_a_list_of_class_names_in_another_order_changes_no_id(tmp_path: Path) -> None:
    for name in ("imagenet", "imagenet_a"):
        made = miniature(tmp_path, name)
        file = tmp_path / DATASETS[name].folder / "classnames.txt"
        lines = file.read_text().splitlines(keepends=True)
        file.write_text("".join(reversed(lines)))
        assert load(tmp_path, name).classnames == made.classnames
        assert load(tmp_path, name).candidates == made.candidates


def test_no_pickle_is_ever_opened(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
            return os.mkdir, (str(tmp_path / "sprung"),)

    miniature(tmp_path, "dtd")
    file = tmp_path / "dtd" / "split_fewshot" / "shot_16-seed_1.pkl"
    file.parent.mkdir()
    file.write_bytes(pickle.dumps(Trap()))
    load(tmp_path, "dtd").few_shot(16, seed=1)
    assert not (tmp_path / "sprung").exists()


def published_choice(items: list[tuple[str, int]], shots: int) -> list[tuple[str, int]]:
    """One split's draw as it is documented, on the global generator, for items in their split's order."""
    chosen = []
    for label in dict.fromkeys(label for _, label in items):
        of_label = [item for item in items if item[1] == label]
        chosen += random.sample(of_label, shots) if len(of_label) >= shots else of_label
    return chosen


@pytest.mark.nightly
@pytest.mark.parametrize("name", [name for name in ALL if DATASETS[name].train])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_shots_are_the_very_images_of_published_runs(miniatures: Miniatures, name: str, seed: int) -> None:
    dataset, items = load(miniatures.root, name), miniatures.of[name].items["train"]
    for shots in (1, 2, 4, 8, 16):
        random.seed(seed)
        every = published_choice(items, shots)
        base = [item for item in every if item[1] in dataset.base]
        for classes, expected in (("all", every), ("base", base)):
            rows = dataset.few_shot(shots, seed, classes)  # type: ignore[arg-type]
            assert [items[row] for row in rows] == expected


def refusal(root: Path, name: str = "dtd") -> str:
    with pytest.raises(UserError) as caught:
        load(root, name)
    text = str(caught.value)
    assert text.count("\n") == 0
    return text


def rewrite(root: Path, change: Callable[[dict[str, list[list[object]]]], None]) -> Path:
    """Change the split file of the miniature dtd."""
    file = root / "dtd" / "split_zhou_DescribableTextures.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
    return file


@pytest.mark.parametrize("name", ["dtd", "fgvc_aircraft", "imagenet"])
def test_a_missing_split_file_is_named_with_where_to_get_it(tmp_path: Path, name: str) -> None:
    miniature(tmp_path, name)
    file = tmp_path / DATASETS[name].folder / DATASETS[name].names
    file.unlink()
    said = refusal(tmp_path, name)
    assert (
        said.startswith(f"{file}: missing; see CoOp's instructions") and "https://github.com/KaiyangZhou/CoOp" in said
    )


def test_a_missing_list_of_a_split_is_named(tmp_path: Path) -> None:
    miniature(tmp_path, "fgvc_aircraft")
    (tmp_path / "fgvc_aircraft" / "images_variant_val.txt").unlink()
    assert "images_variant_val.txt: missing; see CoOp's instructions" in refusal(tmp_path, "fgvc_aircraft")


def test_a_folder_that_no_class_is_called_by_is_named(tmp_path: Path) -> None:
    miniature(tmp_path, "imagenet_a")
    (tmp_path / "imagenet-adversarial" / "imagenet-a" / "n99999999").mkdir()
    assert "n99999999: unknown class, not in classnames.txt" in refusal(tmp_path, "imagenet_a")


@pytest.mark.parametrize(
    ("item", "part"),
    [
        (["banded/x.jpg", -1, "banded"], "label -1 is out of range"),
        (["banded/x.jpg", "first", "banded"], "is not [path, class id, class name]"),
        (["banded/x.jpg", 0], "is not [path, class id, class name]"),
        (["../x.jpg", 0, "banded"], "is outside the image folder"),
        (["/etc/passwd", 0, "banded"], "is outside the image folder"),
    ],
)
def test_a_wrong_entry_is_named_with_its_place(tmp_path: Path, item: list[object], part: str) -> None:
    miniature(tmp_path, "dtd")
    file = rewrite(tmp_path, lambda content: content["val"].append(item))
    said = refusal(tmp_path)
    assert said.startswith(f"{file}: val[9]: ") and part in said


@pytest.mark.parametrize(
    ("text", "part"), [("{", "not readable as JSON"), ("[]", "not a split file"), ('{"train": []}', "no images listed")]
)
def test_another_file_in_place_of_the_split_file_is_refused(tmp_path: Path, text: str, part: str) -> None:
    miniature(tmp_path, "dtd")
    (tmp_path / "dtd" / "split_zhou_DescribableTextures.json").write_text(text)
    assert part in refusal(tmp_path)
