"""Commands that use a trained run: classify, teacher, push."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from syncclip.inference import soft_labels
from syncclip.inference.passes import Passed
from syncclip.workers.settings import Pool
from tests.cli.test_app import Outcome
from tests.conftest import TinyWorld
from tests.inference.conftest import Train, images, train
from tests.shards.sets import write_set
from tests.worlds.dataset import CLASSES
from tests.worlds.hub import Hub, Repository

__all__ = ["images", "train"]  # fixtures


@pytest.fixture
def run(train: Train) -> str:
    return train("training.method=zeroshot").url


def test_json_lines_are_written_to_a_pipe(capsys: pytest.CaptureFixture[str], run: str, images: Path) -> None:
    outcome = Outcome(capsys, "classify", run, str(images), "--top", "2", "--batch", "5")
    rows = [json.loads(line) for line in outcome.out.splitlines()]
    assert outcome.status == 0 and len(rows) == 12
    assert all(row["class"] in CLASSES and len(row["classes"]) == 2 and row["error"] is None for row in rows)


def test_an_unreadable_image_is_a_row_and_status_1(
    capsys: pytest.CaptureFixture[str], run: str, images: Path, tmp_path: Path
) -> None:
    out = tmp_path / "predictions.jsonl"
    outcome = Outcome(capsys, "classify", run, str(images / "00.png"), "missing.png", "--out", str(out))
    assert (outcome.status, outcome.out) == (1, f"{out}\n")
    assert "1 image could not be read: missing.png" in outcome.err
    assert [json.loads(line)["error"] is None for line in out.read_text().splitlines()] == [True, False]


def test_the_classes_can_be_replaced(capsys: pytest.CaptureFixture[str], train: Train, images: Path) -> None:
    run = train("training.method=syncclip").url
    names = ["--class", "red circle", "--class", "a bird"]
    outcome = Outcome(capsys, "classify", run, str(images / "00.png"), *names)
    assert set(json.loads(outcome.out)["classes"]) == {"red circle", "a bird"}


def test_a_table_is_shown_on_a_terminal(
    capsys: pytest.CaptureFixture[str], run: str, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.chdir(images)
    shown = Outcome(capsys, "classify", run, "00.png", "missing.png").out
    assert "class" in shown and any(name in shown for name in CLASSES) and "missing.png" in shown


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["a.png"], "no run found"),
        (["a.png", "--out", "a.txt"], "use one of .jsonl"),
        (["a", "b", "--actors", "2"], "not 2 paths"),
        (["a", "--num-gpus", "1"], "--num-gpus and --label require --actors"),
    ],
)
def test_user_errors_are_reported_first(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: list[str], error: str
) -> None:
    assert error in Outcome(capsys, "classify", str(tmp_path), *arguments).error
    assert not list(tmp_path.iterdir())


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_shards_are_classified_into_tables(
    capsys: pytest.CaptureFixture[str], run: str, tiny_set: str, tmp_path: Path
) -> None:
    outcome = Outcome(capsys, "classify", run, tiny_set, "--actors", "1", "--out", str(tmp_path / "out"))
    assert outcome.status == 0 and outcome.out.endswith(f"{tmp_path}/out/*_predictions.parquet\n")
    shards = sorted(path.stem for path in Path(tiny_set).glob("*.tar"))
    tables = sorted(path.name for path in (tmp_path / "out").glob("*.parquet"))
    assert tables == [f"{shard}_predictions.parquet" for shard in shards]


def test_a_run_is_pushed_to_the_hub_and_used_from_there(
    capsys: pytest.CaptureFixture[str], run: str, images: Path, tiny: TinyWorld, hub: Hub
) -> None:
    assert Outcome(capsys, "push", run, "alice/shapes", "--private").out == f"{hub.url}/alice/shapes\n"
    arguments = (str(images / "00.png"), "--backbone", tiny.backbone)
    outcome = Outcome(capsys, "classify", "hf://alice/shapes", *arguments)
    assert outcome.status == 0 and all(line.startswith("classify: ") for line in outcome.err.splitlines())
    assert outcome.out == Outcome(capsys, "classify", run, *arguments).out
    assert "the repository does not exist" in Outcome(capsys, "classify", "hf://alice/missing", *arguments).error
    assert "'shapes' is not a repository name" in Outcome(capsys, "push", run, "shapes").error


@pytest.mark.parametrize(
    "command",
    [
        ("classify", "alice/shapes", "a.png"),
        ("classify", "alice/shapes", "folder", "--actors", "1"),
        ("export", "alice/shapes", "--to", "onnx", "--out", "out"),
        ("evaluate", "alice/shapes"),
        ("push", "alice/shapes", "alice/other"),
    ],
    ids=lambda command: " ".join(command[:1] + command[3:4]),
)
def test_a_path_is_not_looked_up_on_the_hub(
    command: tuple[str, ...],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    hub: Hub,
) -> None:
    hub.repositories["alice/shapes"] = repository = Repository()
    repository.commit("main", {"recipe.yaml": b"{}", "prompts.safetensors": b"untrusted"})
    monkeypatch.chdir(tmp_path)
    write_set("folder", classes=2, rounds=1)
    error = Outcome(capsys, *command).error
    assert "alice/shapes: no run found" in error and "use hf://alice/shapes" in error
    assert hub.fetched == []


def test_commands_that_write_into_a_run_require_a_local_one(capsys: pytest.CaptureFixture[str], hub: Hub) -> None:
    for command in (("evaluate", "hf://alice/shapes"), ("push", "hf://alice/shapes", "alice/other")):
        assert "hf://alice/shapes: this command requires" in Outcome(capsys, *command).error
    assert hub.fetched == []


def test_teacher_is_one_call_and_a_summary(
    capsys: pytest.CaptureFixture[str], tiny_set: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = Outcome(capsys, "teacher", str(tmp_path / "missing"), tiny_set, "--out", str(tmp_path / "out"))
    assert "missing: no run found" in missing.error and not (tmp_path / "out").exists()

    calls: list[object] = []

    def write_soft_labels(*arguments: object, **options: object) -> Passed:
        calls.append((arguments, options))
        return Passed("files", 2, 12, 1)

    monkeypatch.setattr(soft_labels, "write_soft_labels", write_soft_labels)
    outcome = Outcome(capsys, "teacher", "runs/teacher", "set", "--actors", "3", "--num-gpus", "0.5", "--batch", "8")
    assert (outcome.status, outcome.out) == (0, "12 images of 2 shards: training.teacher=files\n")
    assert "1 image could not be read" in outcome.err
    backbone_arguments = {"backbone": None, "pretrained": None}
    assert calls == [
        (
            ("runs/teacher", "set", None),
            {"batch": 8, "pool": Pool(3, num_gpus=0.5), "backbone_arguments": backbone_arguments},
        )
    ]
