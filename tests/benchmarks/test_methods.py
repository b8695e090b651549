"""The race: who runs, in which order, and what the table says of it."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from benchmarks import methods as benchmark
from benchmarks.course import Course, Entrants
from benchmarks.methods import Pairs, Race, alternate, app, race
from syncclip.clip.prompted import PromptedClip
from syncclip.core.settings import UserError
from syncclip.methods import METHODS
from tests.benchmarks.test_plain import LEARNING, build, clip

__all__ = ["clip"]


def entrants(name: str, clip: PromptedClip) -> Entrants:
    ours, plain, batch = build(name, clip)
    return Entrants(name, ours, plain, batch, batch.images[:3])


def test_sides_take_turns_in_going_first(capsys: pytest.CaptureFixture[str]) -> None:
    order: list[str] = []
    pairs = alternate("it", lambda: order.append("ours"), lambda: order.append("plain"), 3, torch.device("cpu"))
    assert order == ["ours", "plain", "plain", "ours", "ours", "plain"]
    assert len(pairs.seconds) == 3
    assert [line.split(":")[0] for line in capsys.readouterr().err.splitlines()] == ["it 1/3", "it 2/3", "it 3/3"]


def test_each_repetition_gives_a_ratio_and_the_table_their_median_and_range() -> None:
    assert str(Pairs([(1.0, 2.0), (1.0, 6.0), (2.0, 6.0)])) == "1 s | 6 s | **3.00×** (2.00–6.00)"


def test_a_whole_evaluation_encodes_our_texts_once_and_counts_the_passes_of_the_plain_one() -> None:
    result = Race("syncclip", passes=2, evaluation=Pairs([(1.0, 3.0)]), first=2.0)
    assert result.gain(batches=8) == 2 * 8 * 3.0 / (2.0 + 8 * 1.0)


def test_a_row_tells_peaks_in_gigabytes_and_marks_a_step_in_parts() -> None:
    times = Pairs([(1.0, 2.0)])
    result = Race("ivlp", 1, False, times, times, 1.0, bytes=(1_500_000_000, 6_000_000_000))
    assert result.row(1).startswith("| ivlp¹ | 1 s | 2 s |")
    assert "| 1.50 | 6.00 | **0.25** |" in result.row(1)


@pytest.mark.parametrize("room", [math.inf, 0])
@pytest.mark.parametrize("name", ["syncclip", "cocoop"])
def test_a_race_runs_whole_steps_where_they_fit_and_leaves_no_gradient(
    clip: PromptedClip, name: str, room: float
) -> None:
    run = entrants(name, clip)
    result = race(run, repetitions=2, room=room)
    assert result.whole == (room > 0)
    assert len(result.step.seconds) == len(result.evaluation.seconds) == 2
    assert result.bytes is not None and 0 < result.bytes[0] < result.bytes[1]
    assert all(parameter.grad is None for parameter in run.ours.parameters())


def test_zero_shot_has_no_step(clip: PromptedClip) -> None:
    result = race(entrants("zeroshot", clip), repetitions=1)
    assert result.bytes is None and not result.step.seconds and result.evaluation.seconds
    assert "| – | – | – | – | – | – |" in result.row(1)


@pytest.mark.parametrize("name", LEARNING)
def test_the_course_gives_a_batch_as_the_authors_train_on(
    clip: PromptedClip, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Course, "clip", clip)
    run = Course(classes=6, batch=2, tests=3).entrants(name)
    paired = name == "syncclip"
    assert run.batch.sizes == ((2, 2, 2) if paired else (2, 0, 0))
    assert run.ours.base == (3 if paired else 6) and len(run.ours.classnames) == 6
    assert run.batch.labels[:4].max() < run.ours.base and run.batch.labels[4:].tolist() == [
        label for label in run.batch.labels[4:].tolist() if label >= run.ours.base
    ]
    assert run.batch.images.shape == (sum(run.batch.sizes), 3, 32, 32) and run.tests.shape == (3, 3, 32, 32)
    run.ours.loss(run.batch)


def test_the_classes_of_a_course_are_spread_over_imagenet() -> None:
    names = Course(classes=4).classnames
    assert len(set(names)) == 4 and names[0] == "tench" and names != Course(classes=1000).classnames[:4]


@pytest.mark.parametrize("classes", [1, 1001])
def test_more_classes_than_there_are_names_are_refused(classes: int) -> None:
    with pytest.raises(UserError, match=f"--classes: {classes}"):
        Course(classes=classes)


def test_the_command_adds_its_table_to_the_results(
    clip: PromptedClip, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(Course, "clip", clip)
    out = tmp_path / "results.md"
    out.write_text("# Before\n")
    arguments = ["coop", "vpt", "--classes", "4", "--batch", "2", "--tests", "2", "--repetitions", "1"]
    done = CliRunner().invoke(app, [*arguments, "--out", str(out)], catch_exceptions=False)
    assert done.exit_code == 0
    text = out.read_text()
    assert text.startswith("# Before\n\n## ") and "4 classes, batch 2, fp32, cpu" in text
    assert f"torch {torch.__version__}" in text and "1 thread(s)" in text
    assert [line.split()[1] for line in text.splitlines() if line.startswith("| ")] == ["method", "coop", "vpt"]


def test_an_unknown_method_is_refused_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "race", lambda *a: pytest.fail("it ran"))
    with pytest.raises(UserError, match="no method is called 'copo'"):
        CliRunner().invoke(app, ["copo"], catch_exceptions=False)


def test_all_methods_are_raced_by_default() -> None:
    assert {"zeroshot", *LEARNING} == set(METHODS)
