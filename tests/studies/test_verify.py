"""`verify` reads what a folder holds and names what is damaged or missing."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from syncclip import jobs, storage
from syncclip.core.settings import UserError
from syncclip.inference.answers import SCHEMA
from syncclip.inference.passes import ShardMarker
from syncclip.inference.shards import MARKER, TABLE
from syncclip.recipe.recipe import Recipe
from syncclip.studies.verify import Verification, verify
from tests.conftest import TinyWorld
from tests.worlds.webdataset import samples, tar


@pytest.fixture(scope="module")
def trained(tiny: TinyWorld, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with checkpoints and TensorBoard's events."""
    place = tmp_path_factory.mktemp("verify") / "run"
    values = ["training.data=real", "training.checkpoint_every=1", "training.trackers=[tensorboard]"]
    jobs.run_here(Recipe.load(tiny.recipe, values), str(place))
    return place


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def problems(folder: Path) -> list[str]:
    told: list[str] = []
    found = verify(str(folder), told.append)
    assert found.problems == told
    return told


def flip(file: Path, place: int) -> None:
    data = bytearray(file.read_bytes())
    data[place] ^= 1
    file.write_bytes(data)


def test_a_sound_run_has_no_problem_and_each_file_a_digest(run: Path) -> None:
    files = [path for path in run.rglob("*") if path.is_file() and not path.name.startswith(".")]
    assert verify(str(run), print) == Verification(files=len(files))


@pytest.mark.fault
@pytest.mark.parametrize(
    "pattern", ["recipe.yaml", "run.json", "metrics.jsonl", "checkpoints/*.safetensors", "events.*"]
)
def test_a_flip_is_told_by_the_name_of_its_file(run: Path, pattern: str) -> None:
    file = sorted(run.glob(pattern))[-1]
    flip(file, file.stat().st_size // 2)
    assert [sentence for sentence in problems(run) if str(file) in sentence]


def test_without_tensorboard_its_events_are_among_the_files_without_digest(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (events,) = run.glob("events.*")
    assert str(events) not in verify(str(run), print).without
    monkeypatch.setitem(sys.modules, "tensorboard.compat.tensorflow_stub.pywrap_tensorflow", None)
    found = verify(str(run), print)
    assert found.problems == [] and str(events) in found.without


@pytest.mark.fault
def test_the_events_of_a_killed_run_end_anywhere(run: Path) -> None:
    (events,) = run.glob("events.*")
    events.write_bytes(events.read_bytes()[:-3])
    assert problems(run) == []


@pytest.mark.fault
def test_what_a_record_says_is_there_is_missed(run: Path, tmp_path: Path) -> None:
    (run / "classes.json").rename(tmp_path / "kept.json")
    (sentence,) = problems(run)
    assert sentence.startswith(f"{run}/classes.json is missing, though a run has it")
    (tmp_path / "kept.json").rename(run / "classes.json")
    (run / "prompts.safetensors").unlink()
    assert problems(run) == [f"{run}/prompts.safetensors is missing, though the run is finished"]
    state: dict[str, object] = {"cells": [{"cell": "a", "status": "done"}, {"cell": "b", "status": "failed"}]}
    storage.write_sealed(str(tmp_path / "study.json"), json.dumps(state).encode())
    (run / "prompts.safetensors").write_bytes(b"")
    sentences = problems(tmp_path)
    assert f"{tmp_path}/study.parquet is missing, though the study has ended" in sentences
    assert f"{tmp_path}/cells/a is missing or has no results.json, though the study says that it is done" in sentences


def test_a_file_without_a_digest_is_counted_and_no_problem(run: Path) -> None:
    (run / "recipe.yaml").write_bytes(storage.read_bytes(str(run / "recipe.yaml")))
    (run / "notes.txt").write_text("mine")
    found = verify(str(run), print)
    assert (found.problems, found.without) == ([], [f"{run}/notes.txt", f"{run}/recipe.yaml"])


def test_a_folder_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no file; give the folder of a set, a run"):
        verify(str(tmp_path / "nowhere"), print)


@pytest.mark.parametrize(("tars", "predicted"), [(True, True), (False, True), (True, False)])
def test_tars_of_others_and_predictions_are_no_shards_of_a_set(tmp_path: Path, tars: bool, predicted: bool) -> None:
    """Predictions beside their tars, predictions in a folder of their own, and a WebDataset alone."""
    for number in range(2):
        if tars:
            tar(tmp_path / f"{number:05d}.tar", samples(count=1))
        if predicted:
            marker = ShardMarker(asked="0" * 16, shard_bytes=1, images=0, unread=0)
            storage.write_table(str(tmp_path / f"{number:05d}{TABLE}"), pa.Table.from_pylist([], SCHEMA))
            storage.write_document(str(tmp_path / f"{number:05d}{MARKER}"), marker)
    found = verify(str(tmp_path), print)
    assert found.problems == [] and found.shards == []
    assert found.files == 2 * tars + 4 * predicted
    if predicted:
        flip(tmp_path / f"00001{TABLE}", 100)
        assert [str(tmp_path / f"00001{TABLE}") in sentence for sentence in problems(tmp_path)] == [True]


@pytest.mark.parametrize("left", ["plan.json", "synthesis.yaml", "00001_stats.json"])
def test_a_tar_beside_a_file_of_a_set_is_a_shard(tmp_path: Path, left: str) -> None:
    tar(tmp_path / "00000.tar", samples(count=1))
    (tmp_path / left).write_text("{}")
    assert any("00000.tar: no valid marker" in sentence for sentence in problems(tmp_path))
