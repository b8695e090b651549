"""What `datasets ls` and `datasets check` tell."""

from __future__ import annotations

from pathlib import Path

import pytest

from syncclip.core.settings import UserError
from syncclip.datasets import DatasetSettings, load_dataset
from syncclip.datasets.catalog import DATASETS
from syncclip.datasets.check import check, listing
from syncclip.datasets.packed import pack
from tests.worlds.dataset import folder_of_folders
from tests.worlds.literature import ADVERSARIAL, Miniatures, miniature


@pytest.mark.parametrize("name", sorted(DATASETS))
def test_counts_are_found_and_held_against_the_table(miniatures: Miniatures, name: str) -> None:
    found, made = check(name, str(miniatures.root)), miniatures.of[name]
    assert found.found == {
        "classes": len(made.candidates),
        **{split: len(made.items[split]) if split in made.items else None for split in ("train", "val", "test")},
    }
    dataset = DATASETS[name]
    wrong = [what for what in ("classes", "train", "val", "test") if getattr(dataset, what) is not None]
    assert [problem.partition(":")[0] for problem in found.problems] == wrong


def test_counts_that_agree_are_no_problem(miniatures: Miniatures, monkeypatch: pytest.MonkeyPatch) -> None:
    import dataclasses

    counts = {"classes": len(ADVERSARIAL), "test": 2 * len(ADVERSARIAL)}
    monkeypatch.setitem(DATASETS, "imagenet_a", dataclasses.replace(DATASETS["imagenet_a"], **counts))  # type: ignore[arg-type]
    assert check("imagenet_a", str(miniatures.root)).problems == []


def test_what_is_missing_is_a_problem(tmp_path: Path) -> None:
    (problem,) = check("dtd", str(tmp_path)).problems
    assert "folder of dtd not found" in problem


def test_broken_images_are_counted_where_all_are_decoded(tmp_path: Path) -> None:
    made = miniature(tmp_path, "dtd")
    for path, _ in made.items["test"][3:5]:
        (tmp_path / path).write_bytes(b"broken")
    *_, last = check("dtd", str(tmp_path), images=True).problems
    assert last.startswith("test: 2 of 12 decoded images cannot be read: ") and made.items["test"][3][0] in last


@pytest.mark.parametrize("damage", [b"broken", b"", None], ids=["other bytes", "empty", "cut off"])
def test_a_sample_of_the_images_is_decoded(tmp_path: Path, damage: bytes | None) -> None:
    folder = folder_of_folders(tmp_path, per_class=40)
    sound = check(str(folder), None)
    assert (sound.problems, sound.decoded, sound.state) == ([], 96, "OK; decoded 96 of 240 images")
    assert check(str(folder), None, images=True).state == "OK"
    for file in folder.rglob("*.png"):
        file.write_bytes(file.read_bytes()[:-40] if damage is None else damage)
    corrupt = check(str(folder), None)
    assert corrupt.state == "3 problems"
    assert [problem.partition(" cannot")[0] for problem in corrupt.problems] == [
        f"{split}: 32 of 32 decoded images" for split in ("train", "val", "test")
    ]


def test_a_packed_one_counts_the_whole_training_split(miniatures: Miniatures, tmp_path: Path) -> None:
    whole = load_dataset(DatasetSettings(name="dtd", root=str(miniatures.root)))
    assert pack(whole, str(tmp_path / "dtd"), shots=[1], seeds=[1])["train"] == 3
    assert check("dtd", str(tmp_path)).found == check("dtd", str(miniatures.root)).found


@pytest.mark.parametrize("root", [None, "nowhere"])
def test_the_folder_of_all_data_sets_must_be_named_and_there(root: str | None) -> None:
    with pytest.raises(UserError, match=r"--root DIR|nowhere: dataset folder not found; see CoOp's"):
        check("dtd", root)


def test_the_listing_tells_which_folders_are_there(tmp_path: Path) -> None:
    miniature(tmp_path, "eurosat")
    headings, rows = listing(str(tmp_path))
    there = {row[0]: row[headings.index("available")] for row in rows}
    assert [name for name, found in there.items() if found == "yes"] == ["eurosat"] and len(there) == 15
    assert "available" not in listing(None)[0]
    with pytest.raises(UserError, match="nowhere: dataset folder not found"):
        listing("nowhere")


def test_the_listing_knows_packed_ones(miniatures: Miniatures, tmp_path: Path) -> None:
    pack(load_dataset(DatasetSettings(name="imagenet_a", root=str(miniatures.root))), str(tmp_path / "imagenet_a"))
    headings, rows = listing(str(tmp_path))
    assert [row[0] for row in rows if row[headings.index("available")] == "yes"] == ["imagenet_a"]
