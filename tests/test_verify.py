"""`verify` reads what a folder holds and names what is damaged or missing."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from syncclip import jobs, storage
from syncclip.core.settings import UserError
from syncclip.recipe.recipe import Recipe
from syncclip.training.run_folder import RunRecord
from syncclip.training.status import TrainingStatus
from syncclip.verify import Verification, verify
from tests.conftest import TinyWorld
from tests.worlds.rewritten import rewrite


@pytest.fixture(scope="module")
def trained(tiny: TinyWorld, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with checkpoints and TensorBoard's events."""
    place = tmp_path_factory.mktemp("verify") / "run"
    values = ["training.data=real", "training.checkpoint_every=1", "training.trackers=[tensorboard]"]
    jobs.run_here(Recipe.load(tiny.recipe, values), str(place))
    return place


@pytest.fixture(scope="module")
def other(tiny: TinyWorld, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run of another seed."""
    place = tmp_path_factory.mktemp("verify") / "other"
    values = ["training.data=real", "training.checkpoint_every=1", "training.seed=7"]
    jobs.run_here(Recipe.load(tiny.recipe, values), str(place))
    return place


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def files_of(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]


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
    assert verify(str(run), print) == Verification(files=len(files_of(run)))


@pytest.mark.fault
@pytest.mark.parametrize(
    "pattern", ["recipe.yaml", "run.json", "metrics.jsonl", "checkpoints/*.safetensors", "events.*"]
)
def test_a_flip_is_told_by_the_name_of_its_file(run: Path, pattern: str) -> None:
    file = sorted(run.glob(pattern))[-1]
    flip(file, file.stat().st_size // 2)
    assert [sentence for sentence in problems(run) if str(file) in sentence]


@pytest.mark.fault
@pytest.mark.parametrize("pattern", ["events.*", "metrics.jsonl", "results.json", "checkpoints/*.json"])
@pytest.mark.parametrize("length", [0, -1, -100])
def test_a_file_that_was_cut_short_is_reported_by_name(run: Path, pattern: str, length: int) -> None:
    file = sorted(run.glob(pattern))[-1]
    file.write_bytes(file.read_bytes()[:length])
    assert [sentence for sentence in problems(run) if str(file) in sentence]


@pytest.mark.fault
def test_the_events_of_a_run_that_is_not_finished_end_anywhere(run: Path) -> None:
    record = RunRecord.model_validate_json(storage.read_verified(str(run / "run.json")))
    rewrite(run / "run.json", record.model_copy(update={"status": "running", "logs": {}}).model_dump_json().encode())
    (events,) = run.glob("events.*")
    events.write_bytes(events.read_bytes()[:-3])
    assert problems(run) == []


@pytest.mark.fault
@pytest.mark.parametrize("name", ["contents.json", "training.json", "classes.json", "metrics.jsonl", "results.json"])
def test_a_file_that_was_removed_is_missed(run: Path, name: str) -> None:
    (run / "training.json").write_bytes(b"")
    storage.write_document(
        str(run / "training.json"), TrainingStatus.begin(), storage.read_owner(str(run / "run.json"))
    )
    storage.write_contents(str(run), storage.read_owner(str(run / "run.json")))
    assert problems(run) == []
    (run / name).unlink()
    assert any(f"{run}/{name} is missing, although" in sentence for sentence in problems(run))


@pytest.mark.fault
@pytest.mark.parametrize("name", ["prompts.safetensors", "recipe.yaml", "predictions.parquet", "run.json"])
def test_a_file_of_another_run_is_reported_by_name(run: Path, other: Path, name: str) -> None:
    shutil.copy(other / name, run / name)
    assert any("it belongs to another run, study or set" in sentence for sentence in problems(run))


@pytest.mark.fault
def test_what_a_record_says_is_there_is_missed(run: Path, tmp_path: Path) -> None:
    (run / "prompts.safetensors").unlink()
    assert f"{run}/prompts.safetensors is missing, although the run is finished" in problems(run)
    assert problems(run)[0].startswith(f"{run}/prompts.safetensors is missing")


def test_a_file_of_ours_without_a_checksum_is_a_problem_and_one_of_others_is_counted(run: Path) -> None:
    (run / "notes.txt").write_text("mine")
    assert verify(str(run), print) == Verification(files=len(files_of(run)), foreign=[f"{run}/notes.txt"])
    (run / "recipe.yaml").write_bytes(storage.read_bytes(str(run / "recipe.yaml")))
    (problem,) = problems(run)
    assert problem.startswith(f"{run}/recipe.yaml is corrupt: its checksum is missing")


def test_a_folder_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no files; specify the folder of a set"):
        verify(str(tmp_path / "nowhere"), print)
