from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from syncclip.core.settings import UserError
from syncclip.training import checkpoints
from syncclip.training.checkpoints import Checkpoint


def state(step: int, score: float | None = None) -> Checkpoint:
    prompt, momentum = torch.full((2, 3), float(step)), torch.full((2, 3), 0.5)
    return Checkpoint(step, {"prompt": prompt}, {"prompt": momentum}, {"average": torch.ones(4)}, score=score)


def write(folder: Path, *steps: int, keep: int = 9) -> None:
    for step in steps:
        checkpoints.write(str(folder), state(step), "recipe", keep)


def newest_step(folder: Path, messages: list[str] | None = None) -> int | None:
    checkpoint = checkpoints.newest(str(folder), "recipe", (messages if messages is not None else []).append)
    return None if checkpoint is None else checkpoint.step


def test_checkpoint_round_trip(tmp_path: Path) -> None:
    write(tmp_path, 7)
    checkpoint = checkpoints.newest(str(tmp_path), "recipe", print)
    assert checkpoint is not None and checkpoint.step == 7
    assert torch.equal(checkpoint.parameters["prompt"], torch.full((2, 3), 7.0))
    assert torch.equal(checkpoint.momentum["prompt"], torch.full((2, 3), 0.5))
    assert torch.equal(checkpoint.memory["average"], torch.ones(4))


def test_equal_states_have_equal_bytes(tmp_path: Path) -> None:
    for name in "ab":
        write(tmp_path / name, 3)
    a, b = ((tmp_path / name / "step-00000003.safetensors").read_bytes() for name in "ab")
    assert a == b
    assert json.loads((tmp_path / "a" / "step-00000003.json").read_text())["bytes"] == len(a)


def test_newest_checkpoint_is_the_largest_step(tmp_path: Path) -> None:
    write(tmp_path, 9, 1000, 200)
    assert newest_step(tmp_path) == 1000


def test_folder_without_checkpoints(tmp_path: Path) -> None:
    assert newest_step(tmp_path) is newest_step(tmp_path / "missing") is None
    assert checkpoints.best(str(tmp_path)) is None


def test_old_checkpoints_are_removed(tmp_path: Path) -> None:
    write(tmp_path, 1, 2, 3, 4, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "step-00000003.json", "step-00000003.safetensors", "step-00000004.json", "step-00000004.safetensors",
    ]  # fmt: skip


def test_the_best_checkpoint_is_kept(tmp_path: Path) -> None:
    for step, score in ((1, 0.5), (2, 0.9), (3, 0.9), (4, 0.1), (5, 0.2), (6, 0.3)):
        checkpoints.write(str(tmp_path), state(step, score), "recipe", keep=2)
    assert checkpoints.steps(str(tmp_path)) == [2, 5, 6]
    assert checkpoints.best(str(tmp_path)) == (2, 0.9)  # the earliest of equal scores
    checkpoints.write(str(tmp_path), state(7, 1.5), "recipe", keep=2)
    assert checkpoints.steps(str(tmp_path)) == [6, 7]


def test_discarding_removes_newer_and_unmarked_checkpoints(tmp_path: Path) -> None:
    write(tmp_path, 1, 2, 3, 4)
    (tmp_path / "step-00000001.json").unlink()  # an interrupted removal
    checkpoints.discard_after(str(tmp_path), 3)
    assert [path.name[:13] for path in sorted(tmp_path.iterdir())] == ["step-00000002"] * 2 + ["step-00000003"] * 2


def test_checkpoint_without_marker_is_ignored(tmp_path: Path) -> None:
    write(tmp_path, 1, 2)
    (tmp_path / "step-00000002.json").unlink()
    messages: list[str] = []
    assert newest_step(tmp_path, messages) == 1
    assert messages == []


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: path.with_suffix(".safetensors").write_bytes(b""), "have 0 instead of"),
        (lambda path: path.with_suffix(".safetensors").unlink(), "tensors are missing"),
        (lambda path: path.with_suffix(".json").write_text('{"step": 2'), "marker can't be read"),
        (lambda path: flip(path.with_suffix(".safetensors")), "checksum is wrong"),
    ],
)
def test_damaged_checkpoint_is_reported_and_skipped(
    tmp_path: Path, damage: Callable[[Path], object], reason: str
) -> None:
    write(tmp_path, 1, 2)
    damage(tmp_path / "step-00000002.json")
    messages: list[str] = []
    assert newest_step(tmp_path, messages) == 1
    assert len(messages) == 1 and "step-00000002" in messages[0] and reason in messages[0]


def test_training_starts_over_if_all_checkpoints_are_damaged(tmp_path: Path) -> None:
    write(tmp_path, 1, 2)
    for step in (1, 2):
        flip(tmp_path / f"step-0000000{step}.safetensors")
    messages: list[str] = []
    assert newest_step(tmp_path, messages) is None
    assert "previous checkpoint" in messages[0] and "starts over" in messages[1]


def test_checkpoint_of_another_recipe_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, 1)
    for read in (lambda: checkpoints.newest(str(tmp_path), "other", print), lambda: check(tmp_path, "other")):
        with pytest.raises(UserError, match="belongs to recipe recipe, not to other"):
            read()
    check(tmp_path, "recipe")


def check(folder: Path, recipe_hash: str) -> None:
    checkpoints.check_recipe(str(folder), recipe_hash)


def flip(path: Path) -> None:
    """Flip a bit of the last byte."""
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
