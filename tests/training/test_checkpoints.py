from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from syncclip.core.settings import UserError
from syncclip.training import checkpoints
from syncclip.training.checkpoints import Checkpoint


def state(step: int, score: float | None = None) -> Checkpoint:
    prompt, speed = torch.full((2, 3), float(step)), torch.full((2, 3), 0.5)
    return Checkpoint(step, {"prompt": prompt}, {"prompt": speed}, {"average": torch.ones(4)}, score=score)


def write(folder: Path, *steps: int, keep: int = 9) -> None:
    for step in steps:
        checkpoints.write(str(folder), state(step), "recipe", keep)


def newest_step(folder: Path, told: list[str] | None = None) -> int | None:
    found = checkpoints.newest(str(folder), "recipe", (told if told is not None else []).append)
    return None if found is None else found.step


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    write(tmp_path, 7)
    found = checkpoints.newest(str(tmp_path), "recipe", print)
    assert found is not None and found.step == 7
    assert torch.equal(found.parameters["prompt"], torch.full((2, 3), 7.0))
    assert torch.equal(found.momentum["prompt"], torch.full((2, 3), 0.5))
    assert torch.equal(found.memory["average"], torch.ones(4))


def test_tensors_of_an_unknown_kind_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "KINDS", ("parameter", "momentum", "curvature"))
        write(tmp_path, 7)
    found = checkpoints.newest(str(tmp_path), "recipe", print)
    assert found is not None and set(found.parameters) == set(found.momentum) == {"prompt"}
    assert found.memory == {}


def test_the_newest_wins_also_where_digits_differ(tmp_path: Path) -> None:
    write(tmp_path, 9, 1000, 200)
    assert newest_step(tmp_path) == 1000


def test_only_the_newest_few_are_kept(tmp_path: Path) -> None:
    write(tmp_path, 1, 2, 3, 4, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "step-00000003.json", "step-00000003.safetensors", "step-00000004.json", "step-00000004.safetensors",
    ]  # fmt: skip


def test_the_best_is_kept_beside_the_newest(tmp_path: Path) -> None:
    for step, score in ((1, 0.5), (2, 0.9), (3, 0.9), (4, 0.1), (5, 0.2), (6, 0.3)):
        checkpoints.write(str(tmp_path), state(step, score), "recipe", keep=2)
    assert checkpoints.steps(str(tmp_path)) == [2, 5, 6]
    assert checkpoints.best(str(tmp_path)) == (2, 0.9)  # of equals the first
    checkpoints.write(str(tmp_path), state(7, 1.5), "recipe", keep=2)
    assert checkpoints.steps(str(tmp_path)) == [6, 7]
    assert newest_step(tmp_path) == 7


def test_a_removal_that_a_kill_cut_off_is_completed_when_the_training_goes_on(tmp_path: Path) -> None:
    write(tmp_path, 1, 2, 3)
    (tmp_path / "step-00000001.json").unlink()
    checkpoints.discard_after(str(tmp_path), 3)
    assert [path.name[:13] for path in sorted(tmp_path.iterdir())] == ["step-00000002"] * 2 + ["step-00000003"] * 2


def test_without_scores_there_is_no_best(tmp_path: Path) -> None:
    write(tmp_path, 1, 2)
    assert checkpoints.best(str(tmp_path)) is None


def test_without_a_marker_there_is_no_checkpoint(tmp_path: Path) -> None:
    write(tmp_path, 1, 2)
    (tmp_path / "step-00000002.json").unlink()
    told: list[str] = []
    assert newest_step(tmp_path, told) == 1
    assert told == []


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda f: f.with_suffix(".safetensors").write_bytes(b""), "0 of"),
        (lambda f: f.with_suffix(".safetensors").unlink(), "its tensors are missing"),
        (lambda f: f.with_suffix(".json").write_text('{"step": 2'), "its marker can't be read"),
        (lambda f: _flip(f.with_suffix(".safetensors")), "its checksum is wrong"),
    ],
)
def test_a_damaged_checkpoint_is_passed_over_with_a_sentence(tmp_path: Path, damage, reason: str) -> None:  # type: ignore[no-untyped-def]
    write(tmp_path, 1, 2)
    damage(tmp_path / "step-00000002.json")
    told: list[str] = []
    assert newest_step(tmp_path, told) == 1
    assert len(told) == 1 and "step-00000002" in told[0] and reason in told[0]


def test_where_all_are_damaged_there_is_none(tmp_path: Path) -> None:
    write(tmp_path, 1, 2)
    for step in (1, 2):
        _flip(tmp_path / f"step-0000000{step}.safetensors")
    told: list[str] = []
    assert newest_step(tmp_path, told) is None
    assert [one.partition("; ")[2] for one in told] == [
        "using the previous one",
        "none is left, so training starts over",
    ]


def test_a_checkpoint_of_another_recipe_is_refused(tmp_path: Path) -> None:
    write(tmp_path, 1)
    with pytest.raises(UserError, match="belongs to recipe recipe, not to other"):
        checkpoints.newest(str(tmp_path), "other", print)
    with pytest.raises(UserError, match="belongs to recipe recipe, not to other"):
        checkpoints.check_recipe(str(tmp_path), "other")
    checkpoints.check_recipe(str(tmp_path), "recipe")


def test_an_empty_or_missing_folder_holds_none(tmp_path: Path) -> None:
    assert newest_step(tmp_path) is None
    assert newest_step(tmp_path / "nowhere") is None


def test_newer_ones_are_discarded(tmp_path: Path) -> None:
    write(tmp_path, 1, 2, 3)
    checkpoints.discard_after(str(tmp_path), 1)
    assert checkpoints.steps(str(tmp_path)) == [1]


def test_the_bytes_are_a_function_of_the_state(tmp_path: Path) -> None:
    for name in "ab":
        write(tmp_path / name, 3)
    a, b = ((tmp_path / name / "step-00000003.safetensors").read_bytes() for name in "ab")
    assert a == b
    assert json.loads((tmp_path / "a" / "step-00000003.json").read_text())["bytes"] == len(a)


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
