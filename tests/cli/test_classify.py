"""The command `classify`: JSON lines in a pipe, a table on a terminal, a file; its exit status."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.test_app import Outcome
from tests.conftest import TinyWorld
from tests.inference.conftest import Train, images, train
from tests.shards.sets import write_set
from tests.worlds.dataset import CLASSES
from tests.worlds.hub import Hub, Repository

__all__ = ["images", "train"]  # fixtures


def test_a_pipe_gets_json_lines(capsys: pytest.CaptureFixture[str], train: Train, images: Path) -> None:
    run = train("training.method=zeroshot").url
    found = Outcome(capsys, "classify", run, str(images), "--top", "2", "--batch", "5")
    rows = [json.loads(line) for line in found.out.splitlines()]
    assert found.status == 0 and len(rows) == 12
    assert all(row["class"] in CLASSES and len(row["classes"]) == 2 and row["error"] is None for row in rows)


def test_an_unreadable_image_is_a_row_and_status_1(
    capsys: pytest.CaptureFixture[str], train: Train, images: Path, tmp_path: Path
) -> None:
    run = train("training.method=zeroshot").url
    out = tmp_path / "found.jsonl"
    found = Outcome(capsys, "classify", run, str(images / "00.png"), "gone.png", "--out", str(out))
    assert (found.status, found.out) == (1, f"{out}\n")
    assert "1 image could not be read: gone.png" in found.err
    assert [json.loads(line)["error"] is None for line in out.read_text().splitlines()] == [True, False]


def test_other_classes_are_named(capsys: pytest.CaptureFixture[str], train: Train, images: Path) -> None:
    run = train("training.method=syncclip").url
    names = ["--class", "red circle", "--class", "a bird"]
    found = Outcome(capsys, "classify", run, str(images / "00.png"), *names)
    assert set(json.loads(found.out)["classes"]) == {"red circle", "a bird"}


def test_a_terminal_gets_a_table(
    capsys: pytest.CaptureFixture[str], train: Train, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train("training.method=zeroshot").url
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.chdir(images)
    shown = Outcome(capsys, "classify", run, "00.png", "gone.png").out
    assert "class" in shown and any(name in shown for name in CLASSES) and "gone.png" in shown


def test_mistakes_are_one_sentence_before_anything_is_computed(
    capsys: pytest.CaptureFixture[str], tiny: TinyWorld, tmp_path: Path
) -> None:
    assert "no run found" in Outcome(capsys, "classify", str(tmp_path), "a.png").refusal
    assert "use one of .jsonl" in Outcome(capsys, "classify", str(tmp_path), "a.png", "--out", "a.txt").refusal
    assert "but 2 names were given" in Outcome(capsys, "classify", "run", "a", "b", "--actors", "2").refusal
    assert "give --actors as well" in Outcome(capsys, "classify", "run", "a", "--num-gpus", "1").refusal
    assert not list(tmp_path.iterdir())


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_shards_get_tables(capsys: pytest.CaptureFixture[str], train: Train, tiny_set: str, tmp_path: Path) -> None:
    run = train("training.method=zeroshot").url
    found = Outcome(capsys, "classify", run, tiny_set, "--actors", "1", "--out", str(tmp_path / "answers"))
    shards = sorted(path.stem for path in Path(tiny_set).glob("*.tar"))
    assert found.status == 0 and found.out.endswith(f"{tmp_path}/answers/*_predictions.parquet\n")
    assert sorted(path.name for path in (tmp_path / "answers").glob("*.parquet")) == [
        f"{shard}_predictions.parquet" for shard in shards
    ]


def test_a_run_is_shared_and_used_by_its_name_on_the_hub(
    capsys: pytest.CaptureFixture[str], train: Train, images: Path, tiny: TinyWorld, hub: Hub
) -> None:
    run = train("training.method=zeroshot").url
    assert Outcome(capsys, "push", run, "alice/shapes", "--private").out == f"{hub.url}/alice/shapes\n"
    arguments = (str(images / "00.png"), "--backbone", tiny.backbone)
    found = Outcome(capsys, "classify", "hf://alice/shapes", *arguments)
    assert found.status == 0 and all(line.startswith("classify: ") for line in found.err.splitlines())
    assert found.out == Outcome(capsys, "classify", run, *arguments).out
    assert "no such repository on the Hub" in Outcome(capsys, "classify", "hf://alice/gone", *arguments).refusal
    assert "'shapes' is not a repository name" in Outcome(capsys, "push", run, "shapes").refusal


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
def test_a_missing_folder_is_not_looked_for_on_the_hub(
    command: tuple[str, ...],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    hub: Hub,
) -> None:
    hub.repositories["alice/shapes"] = one = Repository()
    one.commit("main", {"recipe.yaml": b"{}", "prompts.safetensors": b"of a stranger"})
    monkeypatch.chdir(tmp_path)
    write_set("folder", classes=2, rounds=1)
    refusal = Outcome(capsys, *command).refusal
    assert "alice/shapes: no run found" in refusal and "on the Hugging Face Hub, use hf://alice/shapes" in refusal
    assert hub.fetched == []


def test_a_command_that_writes_into_a_run_takes_none_of_the_hub(capsys: pytest.CaptureFixture[str], hub: Hub) -> None:
    for command in (("evaluate", "hf://alice/shapes"), ("push", "hf://alice/shapes", "alice/other")):
        assert "hf://alice/shapes: this command requires" in Outcome(capsys, *command).refusal
    assert hub.fetched == []
