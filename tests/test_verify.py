"""`verify` reports the damaged and missing files of a folder."""

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
    """A finished run with checkpoints and TensorBoard events."""
    folder = tmp_path_factory.mktemp("verify") / "run"
    values = ["training.data=real", "training.checkpoint_every=1", "training.trackers=[tensorboard]"]
    jobs.run_here(Recipe.load(tiny.recipe, values), str(folder))
    return folder


@pytest.fixture(scope="module")
def other(tiny: TinyWorld, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run with another seed."""
    folder = tmp_path_factory.mktemp("verify") / "other"
    values = ["training.data=real", "training.checkpoint_every=1", "training.seed=7"]
    jobs.run_here(Recipe.load(tiny.recipe, values), str(folder))
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def files_of(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]


def problems(folder: Path) -> list[str]:
    reported: list[str] = []
    assert verify(str(folder), reported.append).problems == reported
    return reported


@pytest.mark.fault
@pytest.mark.parametrize(
    "pattern",
    [
        "recipe.yaml",
        "run.json",
        "results.json",
        "metrics.jsonl",
        "events.*",
        "checkpoints/*.safetensors",
        "checkpoints/*.json",
    ],
)
def test_flipped_bits_and_truncation_are_reported_by_file_name(run: Path, pattern: str) -> None:
    file = sorted(run.glob(pattern))[-1]
    data = file.read_bytes()
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 1
    for damaged in (bytes(flipped), b"", data[:-1], data[:-100]):
        file.write_bytes(damaged)
        assert [sentence for sentence in problems(run) if str(file) in sentence]


@pytest.mark.fault
def test_events_of_an_unfinished_run_are_not_checked(run: Path) -> None:
    record = RunRecord.model_validate_json(storage.read_verified(str(run / "run.json")))
    rewrite(run / "run.json", record.model_copy(update={"status": "running", "logs": {}}).model_dump_json().encode())
    (events,) = run.glob("events.*")
    events.write_bytes(events.read_bytes()[:-3])
    assert problems(run) == []


@pytest.mark.fault
@pytest.mark.parametrize("name", ["contents.json", "training.json", "classes.json", "metrics.jsonl", "results.json"])
def test_a_removed_file_is_reported(run: Path, name: str) -> None:
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
def test_a_file_of_another_run_is_reported(run: Path, other: Path, name: str) -> None:
    shutil.copy(other / name, run / name)
    assert any("it belongs to a different run, study or dataset" in sentence for sentence in problems(run))


@pytest.mark.fault
def test_missing_prompts_of_a_finished_run_are_reported(run: Path) -> None:
    (run / "prompts.safetensors").unlink()
    assert problems(run)[0].startswith(f"{run}/prompts.safetensors is missing")


@pytest.mark.fault
@pytest.mark.parametrize(
    ("name", "removed"),
    [
        ("prompts.safetensors", ["results.json", "predictions.parquet"]),
        ("run.json", ["results.json", "predictions.parquet"]),
        ("metrics.jsonl", ["results.json", "predictions.parquet"]),
    ],
)
def test_a_file_removed_with_the_list_of_files_is_reported(run: Path, name: str, removed: list[str]) -> None:
    for file in (name, "contents.json", *removed):
        (run / file).unlink()
    assert any(f"{run}/{name} is missing, although" in sentence for sentence in problems(run))


def test_a_missing_checksum_is_a_problem_and_foreign_files_are_listed(run: Path) -> None:
    (run / "notes.txt").write_text("mine")
    assert verify(str(run), print) == Verification(files=len(files_of(run)), foreign=[f"{run}/notes.txt"])
    (run / "recipe.yaml").write_bytes(storage.read_bytes(str(run / "recipe.yaml")))
    (problem,) = problems(run)
    assert problem.startswith(f"{run}/recipe.yaml is corrupt: its checksum is missing")


def test_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no files"):
        verify(str(tmp_path / "missing"), print)
